"""PAIR's saliency: the same numbers where definitions agree, and where they do not, a closed form says who is right."""

import numpy as np
import pytest
import torch
from torch import nn

from deepviz.inputs import Leaves
from deepviz.methods import XRAI, BlurIG, Gradient, GuidedIG
from deepviz.methods.gradients.segments import ranked, segments
from networks import CASES, Case, assert_same

pytest.importorskip("saliency")
import saliency.core as saliency

quiet = pytest.mark.filterwarnings(
    "ignore:guided IG.*:deepviz.errors.DeepVizWarning", "ignore:blur IG.*:deepviz.errors.DeepVizWarning"
)
TOLERANCE = 1e-5


def function_of(model, target):
    """What the package asks for: the gradients of images (n, H, W, C)."""

    def call(images, call_model_args=None, expected_keys=None):
        x = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
        G = Gradient()(model, x, target)
        return {saliency.INPUT_OUTPUT_GRADIENTS: G.permute(0, 2, 3, 1).numpy()}

    return call


def last(x):
    """(C, H, W) as (H, W, C)."""
    return x.permute(1, 2, 0).numpy()


def first(mask):
    """(H, W, C) as (C, H, W)."""
    return torch.from_numpy(mask).permute(2, 0, 1)


@pytest.fixture
def numpy_2(monkeypatch):
    """saliency 0.2.1 gives numpy's quantile an argument that numpy 2.4 no longer has."""
    quantile = np.quantile
    monkeypatch.setattr("numpy.quantile", lambda a, q, interpolation: quantile(a, q, method=interpolation))


@quiet
@pytest.mark.usefixtures("numpy_2")
@pytest.mark.parametrize("name", ["plain", "tanh"])
@pytest.mark.parametrize(("fraction", "most"), [(0.25, 0.02), (0.1, 0.2), (1.0, 1.0)])
def test_guided_ig(name, fraction, most):
    model, x = SMOOTH[name].model(), SMOOTH[name].images(2)
    start = torch.full_like(x, -0.3)
    ours = GuidedIG(steps=20, fraction=fraction, max_distance=most, baseline=-0.3)(model, x, 1)
    for row in range(2):
        theirs = saliency.GuidedIG().GetMask(
            last(x[row]), function_of(model, 1), None, last(start[row]), 20, fraction, most
        )
        assert_same(ours[row], first(theirs), TOLERANCE)


SMOOTH = {
    "plain": CASES["plain"],
    "tanh": Case(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(400, 5)), (3, 12, 12)),
}


def framed(side=14, empty=5):
    """Images that are zero near their border, where repeating the border and padding with zeros are the same."""
    x = torch.zeros(2, 3, side, side, dtype=torch.float64)
    inner = side - 2 * empty
    x[..., empty:-empty, empty:-empty] = Case(lambda: None, (3, inner, inner)).images(2)
    return x


@quiet
def test_blur_ig_has_the_same_limit():
    """The left rule with a forward difference is in error by a multiple of 1/steps, which two step numbers remove."""
    case = Case(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(576, 5)), (3, 14, 14))
    model, x = case.model(), framed()
    steps, sigma = 3000, 1.5
    ours = BlurIG(steps=steps, sigma=sigma / 14)(model, x, 1)
    for row in range(2):
        coarse, fine = (
            saliency.BlurIG().GetMask(
                last(x[row]), function_of(model, 1), max_sigma=sigma, steps=n, grad_step=sigma / n, batch_size=n
            )
            for n in (steps // 2, steps)
        )
        assert_same(ours[row], first(2 * fine - coarse), TOLERANCE)


@quiet
def test_blur_ig_of_the_package_is_not_complete_on_a_linear_network():
    """S(x) - S(L(s)) is w (x - L(s)) exactly, whatever the number of pieces. The package multiplies the slope at the
    beginning of each piece by its length; and since it pads with zeros, an even image has a map at its border."""
    case = Case(lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * 14 * 14, 5)), (3, 14, 14))
    model, x = case.model(), framed()
    sigma = 5.0
    method = BlurIG(steps=10, sigma=sigma / 14)
    ((start,),) = method.starts(Leaves((x,)))
    change = (model(x) - model(start))[:, 1].detach()
    assert_same(method(model, x, 1).sum((1, 2, 3)), change, 1e-10)
    for row in range(2):
        theirs = saliency.BlurIG().GetMask(last(x[row]), function_of(model, 1), max_sigma=sigma, steps=10)
        assert abs(theirs.sum() - float(change[row])) > 0.01 * abs(float(change[row]))
    even = torch.ones(1, 3, 14, 14, dtype=torch.float64)
    theirs = saliency.BlurIG().GetMask(last(even[0]), function_of(model, 1), max_sigma=sigma, steps=10)
    assert np.abs(theirs).max() > 1e-3


def pair_of_xrai(x, A):
    """The package's map for an attribution (H, W), which it takes per channel and joins by the maximum."""
    many = np.repeat(A[:, :, None], 3, 2)
    return saliency.XRAI().GetMask(last(x), None, base_attribution=many)


def test_xrai_for_the_same_attribution():
    coarse = Case(lambda: None, (3, 4, 4)).images(1)
    x = nn.functional.interpolate(coarse, (224, 224), mode="bilinear")[0]
    A = np.random.default_rng(0).normal(size=(224, 224))
    ours = ranked(A, segments(x, 5), 50)
    assert len(np.unique(ours)) > 5
    assert np.abs(ours - pair_of_xrai(x, A)).max() < TOLERANCE * np.abs(ours).max()


def test_the_packages_xrai_takes_the_largest_channel_so_its_values_do_not_sum_to_the_attribution():
    """An attribution of 1, 0 and -1/2 in the channels of every pixel sums to 1/2; the package makes 1 of each pixel."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 30 * 30, 2)).double()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([1.0, 0.0, -0.5]).repeat_interleave(900).expand(2, -1))
    x = Case(lambda: None, (3, 30, 30)).images(1)
    G = Gradient()(model, x, 1)
    theirs = saliency.XRAI().GetMask(last(x[0]), None, base_attribution=last(G[0]))
    assert np.abs(theirs - 1).max() < 1e-12
    assert_same(XRAI(of=Gradient())(model, x, 1), torch.full((1, 1, 30, 30), 0.5, dtype=x.dtype), 1e-12)


def test_the_package_finds_a_frame_in_an_image_that_has_none():
    """It resizes with zeros beyond the border. Of an image that is the same in every row, so are the regions."""
    x = torch.zeros(3, 40, 40, dtype=torch.float64)
    x[..., 20:] = 1
    theirs = saliency.xrai._get_segments_felzenszwalb(last(x), dilation_rad=0)
    for found, even in ((segments(x, 0), True), (theirs, False)):
        assert all((region == region[:1]).all() for region in found) == even
