"""The controls: known maps, nothing of the model, the same map alone and in a batch."""

from math import exp

import pytest
import torch
from torch import nn

from deepviz import DeepVizWarning, catalog
from deepviz.errors import ImageError
from deepviz.metrics.controls import CentreGaussian, EdgeDetector, InputTimesNoise, RandomMap
from networks import CASES, assert_same, plain

CONTROLS = (RandomMap(), InputTimesNoise(), CentreGaussian(), EdgeDetector())
X = torch.rand(3, 3, 10, 14, generator=torch.Generator().manual_seed(0))
every_control = pytest.mark.parametrize("control", CONTROLS, ids=str)


def test_input_times_noise_is_the_image_weighted_by_one_draw_of_the_normal_distribution():
    e = torch.randn(3, 10, 14, generator=torch.Generator().manual_seed(5 * 1_000_003))
    found = InputTimesNoise(seed=5)(plain(), X, 0)
    assert_same(found[:, 0], sum((X[:, c] * e[c]).abs() for c in range(3)), 1e-6)
    assert bool((InputTimesNoise()(plain(), 0 * X + (X > 0.5), 0) > 0).any(1).eq((X > 0.5).any(1)).all())


class Silent(nn.Module):
    """Is not to be asked."""

    def forward(self, x):
        raise AssertionError("asked")


@every_control
def test_they_know_nothing_of_the_model(control):
    expected = control(plain(), X, 0)
    assert expected.shape == (3, 1, 10, 14)
    for target in (3, torch.tensor([1, 2, 3]), lambda output: output.sum(1)):
        assert torch.equal(control(Silent(), X, target), expected)
    assert torch.equal(control(plain(classes=2), X), expected)


@every_control
def test_the_class_is_chosen_all_the_same(control):
    model = plain()
    assert torch.equal(control.attribute(model, X).classes, model(X).argmax(1))
    each = control(model, X, torch.tensor([[0, 1], [2, 3], [4, 0]]))
    assert each.shape == (3, 2, 1, 10, 14)
    assert torch.equal(each[:, 0], control(model, X, 0))
    assert torch.equal(each[:, 0], each[:, 1])


@every_control
def test_a_row_alone_equals_the_row_in_a_batch(control):
    whole = control(Silent(), X, 0)
    for layout in (torch.contiguous_format, torch.channels_last):
        laid = X.contiguous(memory_format=layout)
        assert torch.equal(whole, torch.cat([control(Silent(), laid[i : i + 1], 0) for i in range(3)]))
        assert torch.equal(whole, control(Silent(), laid, 0))


@every_control
def test_maps_are_drawn_as_they_are_and_take_the_inputs_type(control):
    assert control.view == "positive"
    assert not control.coarse
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        found = control(Silent(), X.to(dtype), 0)
        assert found.dtype == dtype
        assert (found >= 0).all()
    with torch.inference_mode():
        assert torch.equal(control(Silent(), X.clone(), 0), control(Silent(), X, 0))


@every_control
def test_the_model_is_given_back_as_it_was(control):
    case = CASES["train-mode"]
    model, x = case.model(), case.images(2)
    before = [module.training for module in model.modules()], {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.random.get_rng_state()
    control(model, x)
    assert [module.training for module in model.modules()] == before[0]
    assert all(torch.equal(value, before[1][name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_they_are_not_offered_as_methods():
    assert not {type(control) for control in CONTROLS} & set(catalog.METHODS.values())


def test_noise_is_uniform_and_by_seed_and_image():
    x = torch.rand(2, 3, 100, 100, generator=torch.Generator().manual_seed(1))
    one, other = RandomMap()(Silent(), x, 0).flatten(1)
    again = RandomMap(seed=1)(Silent(), x, 0).flatten(1)[0]
    for noise in (one, other, again):
        assert (noise >= 0).all()
        assert (noise < 1).all()
        # of n = 10^4 uniform values the mean spreads by 1/sqrt(12 n), a quantile by sqrt(p (1 - p) / n)
        assert abs(noise.mean() - 0.5) < 4 / (12 * 1e4) ** 0.5
        for p in (0.1, 0.5, 0.9):
            assert abs((noise < p).float().mean() - p) < 4 * (p * (1 - p) / 1e4) ** 0.5
    for pair in ((one, other), (one, again)):
        assert abs(torch.corrcoef(torch.stack(pair))[0, 1]) < 0.04
    assert torch.equal(RandomMap(seed=1)(Silent(), x, 0), RandomMap(seed=1)(plain(), x.clone(), 4))


def test_the_spot_is_the_formula_and_in_the_middle():
    found = CentreGaussian(width=0.3)(Silent(), X.double(), 0)[0, 0]
    for i in range(10):
        for j in range(14):
            r2 = (i - 4.5) ** 2 + (j - 6.5) ** 2
            assert found[i, j].item() == pytest.approx(exp(-r2 / (2 * 3.0**2)), abs=1e-12)
    assert torch.equal(found, found.flip(0))
    assert torch.equal(found, found.flip(1))
    with pytest.raises(ValueError, match=r"^width must be above 0, got 0$"):
        CentreGaussian(width=0)


def test_edges_against_a_loop():
    x = torch.randn(2, 3, 5, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = EdgeDetector()(Silent(), x, 0)
    expected = torch.zeros(2, 1, 5, 6, dtype=torch.float64)
    weight = {-1: 1, 0: 2, 1: 1}

    def at(n, c, i, j):
        return x[n, c, min(max(i, 0), 4), min(max(j, 0), 5)].item()

    for n, c, i, j in torch.cartesian_prod(*(torch.arange(size) for size in x.shape)).tolist():
        across = sum(weight[d] * (at(n, c, i + d, j - 1) - at(n, c, i + d, j + 1)) for d in weight)
        down = sum(weight[d] * (at(n, c, i - 1, j + d) - at(n, c, i + 1, j + d)) for d in weight)
        expected[n, 0, i, j] += (across**2 + down**2) ** 0.5
    assert_same(found, expected, 1e-12)


def test_edges_turn_with_the_image_and_do_not_mind_brightness():
    x, edges = X.double(), EdgeDetector()
    assert_same(edges(Silent(), x.rot90(1, (2, 3)), 0), edges(Silent(), x, 0).rot90(1, (2, 3)), 1e-12)
    assert_same(edges(Silent(), 3 - 2 * x, 0), 2 * edges(Silent(), x, 0), 1e-12)


@pytest.mark.parametrize("control", [RandomMap(), CentreGaussian(), EdgeDetector()], ids=str)
def test_they_are_no_maps_of_signals(control):
    with pytest.raises(ImageError, match=rf"{control} takes images .* or volumes .*, got an input \(2, 3, 50\)"):
        control(Silent(), torch.rand(2, 3, 50), 0)


def test_an_image_of_one_colour_has_no_edges_and_that_is_said():
    x = X.clone()
    x[1] = 0.5
    with pytest.warns(DeepVizWarning, match="^Edge detector is all zero: the image is of one colour$") as caught:
        found = EdgeDetector()(Silent(), x, 0)
    assert len(caught) == 1
    assert found.flatten(1).amax(1).gt(0).tolist() == [True, False, True]
