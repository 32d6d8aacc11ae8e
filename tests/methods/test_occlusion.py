import itertools

import pytest
import torch
from torch import nn

from deepviz.errors import ImageError
from deepviz.methods import Occlusion
from deepviz.probe import chunks
from deepviz.probe.imputation import imputed
from deepviz.probe.reference import blurred, drawn
from deepviz.probe.seeds import generator_of
from networks import READABLE, Case, assert_same

LINEAR = Case(lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * 7 * 9, 2)), (3, 7, 9))


def by_hand(model, x, target, window, stride, covered):
    """Windows at every stride and at the far border, one after another; the mean fall over those of each pixel."""
    falls, times = torch.zeros(x.shape[2:], dtype=x.dtype), torch.zeros(x.shape[2:], dtype=x.dtype)
    along = []
    for side in x.shape[2:]:
        starts = [start for start in range(0, side, stride) if start + window <= side]
        along.append(starts if starts[-1] + window == side else [*starts, side - window])
    for starts in itertools.product(*along):
        inside = (slice(None), slice(None), *(slice(start, start + window) for start in starts))
        image = x.clone()
        image[inside] = covered(inside)[inside] if callable(covered) else covered
        with torch.no_grad():
            fall = (model(x) - model(image))[0, target]
        falls[inside[2:]] += fall
        times[inside[2:]] += 1
    return falls / times


@pytest.mark.parametrize(("window", "stride"), [(3, 1), (4, 2), (4, 3), (5, 5)])
def test_it_is_the_mean_fall_over_the_windows_of_a_pixel(window, stride):
    model, x = READABLE.model(), READABLE.images(2)
    found = Occlusion(window=window, stride=stride, baseline=0.5)(model, x, 1)
    for row in range(2):
        assert_same(found[row, 0], by_hand(model, x[row : row + 1], 1, window, stride, 0.5), 1e-12)


def test_of_a_linear_model_it_is_the_windows_share_of_the_score():
    model, x = LINEAR.model(), LINEAR.images(2)
    share = (model[1].weight[1].detach().view(3, 7, 9) * x).sum(1, keepdim=True)
    assert_same(Occlusion(window=1, stride=1)(model, x, 1), share, 1e-12)
    of_windows = nn.functional.avg_pool2d(share, 3, 3) * 9
    found = Occlusion(window=3, stride=3)(model, x, 1)
    assert_same(found[:, :, :6:3, ::3], of_windows[:, :, :2], 1e-12)


def test_by_default_windows_are_half_a_window_apart():
    model, x = READABLE.model(), READABLE.images(1)
    assert torch.equal(Occlusion(window=5)(model, x, 1), Occlusion(window=5, stride=3)(model, x, 1))


def test_what_covers_is_the_baseline():
    model, x = READABLE.model(), READABLE.images(1)
    blur = blurred(x, 0.1 * 10)
    found = Occlusion(window=4, stride=4, baseline="blur")(model, x, 1)
    assert_same(found[0, 0], by_hand(model, x, 1, 4, 4, lambda _: blur), 1e-12)
    noise = drawn(x, "gaussian-noise", generator_of(3))
    found = Occlusion(window=4, stride=4, baseline="gaussian-noise", seed=3)(model, x, 1)
    assert_same(found[0, 0], by_hand(model, x, 1, 4, 4, lambda _: noise), 1e-12)


def test_inpainting_fills_a_window_from_around_it():
    model, x = READABLE.model(), READABLE.images(1)

    def filled(inside):
        removed = torch.zeros(1, 10, 12, dtype=torch.bool)
        removed[(0, *inside[2:])] = True
        return imputed(x, removed)

    found = Occlusion(window=4, stride=4, baseline="inpainted")(model, x, 1)
    assert_same(found[0, 0], by_hand(model, x, 1, 4, 4, filled), 1e-9)
    even = torch.full_like(x, 0.7)  # what is filled in is what was there
    with pytest.warns(match="all zero"):
        assert float(Occlusion(window=4, baseline="inpainted")(model, even, 1).abs().max()) < 1e-9


def test_what_cannot_be_inpainted():
    model, x = READABLE.model(), READABLE.images(1)
    with pytest.raises(ImageError, match="from what is left, and nothing is left"):
        Occlusion(window=12, baseline="inpainted")(model, x, 1)
    signal = nn.Sequential(nn.Flatten(), nn.Linear(6, 2))
    with pytest.raises(ImageError, match=r"'inpainted' is for images \(N, C, H, W\)"):
        Occlusion(window=2, baseline="inpainted")(signal, torch.rand(1, 1, 6), 1)


def test_a_window_larger_than_the_image_covers_it():
    model, x = READABLE.model(), READABLE.images(1)
    fall = (model(x) - model(0 * x))[0, 1].detach()
    assert_same(Occlusion(window=50)(model, x, 1), fall.expand(1, 1, 10, 12), 1e-12)


def test_a_stride_beyond_the_window_is_refused():
    with pytest.raises(ValueError, match="stride must be at most the window"):
        Occlusion(window=4, stride=5)


def test_passes_are_counted():
    model, x = READABLE.model(), READABLE.images(2)
    found = Occlusion(window=4, stride=2).attribute(model, x, 1)
    assert found.notes.rows["forward passes"].tolist() == [1 + 4 * 5] * 2
    assert "standard error" not in found.notes.rows
    assert Occlusion(window=32).passes() == 1 + 13**2


@pytest.mark.parametrize("shape", [(2, 9), (2, 5, 4, 6)])
def test_signals_and_volumes(shape):
    case = Case(lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(2), nn.Tanh()), shape)
    x = case.images(1)
    model = case.build().double()
    model(x)
    found = Occlusion(window=3, stride=2)(model, x, 1)
    assert_same(found[0, 0], by_hand(model, x, 1, 3, 2, 0.0), 1e-12)


def test_several_classes_share_the_passes_and_chunks_do_not_matter():
    model, x = READABLE.model(), READABLE.images(2)
    together = Occlusion(window=4)(model, x, torch.tensor([[0, 2], [1, 0]]))
    assert_same(together[1, 1], Occlusion(window=4)(model, x[1:], 0)[0], 1e-12)
    with chunks.fixed(3):
        assert_same(Occlusion(window=4)(model, x, torch.tensor([[0, 2], [1, 0]])), together, 1e-12)


def test_the_probability_is_read_if_asked_for():
    model, x = READABLE.model(), READABLE.images(1)
    found = Occlusion(window=4, stride=4, value="probability")(model, x, 1)
    assert_same(found[0, 0], by_hand(nn.Sequential(model, nn.Softmax(1)), x, 1, 4, 4, 0.0), 1e-12)


def test_a_model_that_incremental_passes_do_not_suit_is_tried_once():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 12, 4)).double().eval()
    rows = []
    model.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    method, x = Occlusion(window=4, stride=4), torch.rand(1, 3, 12, 12, dtype=torch.float64)
    first = method(model, x, 1)
    rows.clear()
    second = method.attribute(model, x, 1)
    assert sum(rows) == 1 + 9  # the image, and each window
    assert "incremental" not in second.notes.facts
    assert_same(second.maps, first, 1e-12)
