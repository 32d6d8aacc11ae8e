import sys

import numpy as np
import pytest
import torch
from torch import nn

from deepviz.errors import MethodError, MissingExtra
from deepviz.inputs import Leaves
from deepviz.methods import XRAI, GradCAM, Gradient, IntegratedGradients
from deepviz.methods.gradients.segments import ranked, segments
from networks import CASES, Case, assert_same

quiet = pytest.mark.filterwarnings("ignore:integrated gradients")


def ranked_by_hand(A, regions, smallest):
    """The algorithm of the paper: the region with the largest mean over what it adds, again and again."""
    R, taken = np.full(A.shape, np.nan), np.zeros(A.shape, dtype=bool)
    while True:
        added = [region & ~taken for region in regions]
        means = [A[new].mean() if new.sum() >= smallest else -np.inf for new in added]
        if max(means) == -np.inf:
            break
        new = added[int(np.argmax(means))]
        R[new], taken = A[new].mean(), taken | new
    if not taken.all():
        R[~taken] = A[~taken].mean()
    return R


@pytest.mark.parametrize("smallest", [1, 4, 30])
@pytest.mark.parametrize("seed", range(5))
def test_regions_are_taken_in_the_order_of_the_mean_of_what_they_add(smallest, seed):
    random = np.random.default_rng(seed)
    A = random.normal(size=(9, 11))
    regions = np.zeros((14, 9, 11), dtype=bool)
    for region in regions:
        top, left = random.integers(0, 7), random.integers(0, 9)
        region[top : top + random.integers(1, 6), left : left + random.integers(1, 7)] = True
    found = ranked(A, regions, smallest)
    assert np.abs(found - ranked_by_hand(A, regions, smallest)).max() < 1e-12
    assert found.sum() == pytest.approx(A.sum())


def two_halves():
    """An image of two even halves, left and right; smoothing leaves 109 even columns of each."""
    x = torch.zeros(1, 3, 224, 224, dtype=torch.float64)
    x[..., 112:] = 1
    return x + torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64).view(3, 1, 1)


def test_an_object_gets_one_value_and_the_rest_another():
    x = two_halves()
    model = nn.Sequential(nn.Flatten(), nn.Linear(x.numel(), 2)).double()
    R = XRAI(of=Gradient(), dilation=0)(model, x, 1)
    w = model[1].weight[1].view(3, 224, 224).sum(0).detach()
    for half in (slice(0, 109), slice(115, 224)):
        assert_same(R[0, 0, :, half], w[:, half].mean().expand(224, 109), 1e-12)


def test_dilation_enlarges_a_region_by_a_disk():
    left = segments(two_halves()[0], 3)[0]
    assert left[:, : 109 + 3].all()
    assert not left[:, 109 + 3 :].any()


@quiet
def test_the_values_sum_to_the_score_less_the_mean_of_those_of_the_lowest_and_the_highest_value():
    case = Case(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(400, 4)), (3, 12, 12))
    model, x = case.model(), case.images(2)
    method, target = XRAI(steps=2), torch.tensor([[0, 2], [3, 1]])
    starts = method.starts(Leaves((x,)))
    for (start,), value in zip(starts, (x.amin((1, 2, 3)), x.amax((1, 2, 3))), strict=True):
        assert_same(start, value.view(2, 1, 1, 1).expand_as(x), 0)
    change = model(x) - torch.stack([model(start) for (start,) in starts]).mean(0)
    assert_same(method(model, x, target).sum((2, 3, 4)), change.gather(1, target).detach(), 1e-10)


@quiet
def test_the_attribution_is_that_of_the_method_inside():
    model, x = CASES["plain"].model(), CASES["plain"].images(1)
    of = IntegratedGradients(steps=4, baseline="blur")
    A = of(model, x, 1).sum(1)[0].numpy()
    expected = ranked_by_hand(A, segments(x[0], 2), 3)
    found = XRAI(of=of, dilation=2, smallest=3 / A.size)(model, x, 1)
    assert_same(found[0, 0], torch.from_numpy(expected), 1e-12)


def test_a_layers_few_cells_are_refused():
    model, x = CASES["plain"].model(), CASES["plain"].images(1)
    with pytest.raises(MethodError, match=r"a value for each pixel, and Grad-CAM has .*IntegratedGradients\(\)"):
        XRAI(of=GradCAM(layer="3"))(model, x, 1)


def test_an_image_of_one_colour_is_one_region():
    assert segments(torch.full((3, 20, 20), 0.4), 5).all()


def test_without_scikit_image_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    with pytest.raises(MissingExtra, match=r"pip install 'deepviz\[regions\]'"):
        segments(torch.rand(3, 15, 16), 5)
