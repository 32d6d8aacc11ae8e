import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from by_hand import array, backward
from deepviz import catalog
from deepviz.errors import DeepVizWarning
from deepviz.inputs import Leaves
from deepviz.methods import Gradient, IntegratedGradients, Method
from deepviz.probe.reference import blurred
from networks import CASES, READABLE, Case, assert_same

RULES = ("gauss-legendre", "midpoint", "trapezoid", "left")
quiet = pytest.mark.filterwarnings("ignore:integrated gradients")


def rule_by_hand(rule, n):
    """Points and weights, written out again; Gauss-Legendre from the roots of Legendre's polynomial by Newton."""
    if rule == "midpoint":
        return [((k + 0.5) / n, 1 / n) for k in range(n)]
    if rule == "left":
        return [(k / n, 1 / n) for k in range(n)]
    if rule == "trapezoid":
        return [(k / (n - 1), (0.5 if k in (0, n - 1) else 1) / (n - 1)) for k in range(n)]
    nodes = []
    for k in range(n):
        z = np.cos(np.pi * (k + 0.75) / (n + 0.5))
        for _ in range(50):
            p, before = 1.0, 0.0
            for j in range(n):
                p, before = ((2 * j + 1) * z * p - j * before) / (j + 1), p
            slope = n * (z * p - before) / (z * z - 1)
            z -= p / slope
        nodes.append(((z + 1) / 2, 1 / ((1 - z * z) * slope**2)))
    return nodes


@quiet
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("baseline", [0.0, -0.7])
def test_it_is_the_slow_sum_over_the_rule(rule, baseline):
    net, x = READABLE.model(), READABLE.images(2)
    found = IntegratedGradients(steps=7, rule=rule, baseline=baseline)(net, x, 1)
    mean = IntegratedGradients(steps=7, rule=rule, baseline=baseline, multiply_by_input=False)(net, x, 1)
    for row in range(2):
        image, start = array(x[row]), np.full(x.shape[1:], baseline)
        total = sum(w * backward(net, start + a * (image - start), 1)[0] for a, w in rule_by_hand(rule, 7))
        assert_same(mean[row], torch.from_numpy(total), 1e-11)
        assert_same(found[row], torch.from_numpy((image - start) * total), 1e-11)


def linear(seed=0):
    case = Case(lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(60, 4)), (2, 10, 12))
    return case.model(seed=seed), case.images(2, seed=seed)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("baseline", [0.0, 0.4, "blur"])
@given(seed=st.integers(0, 1000), steps=st.integers(2, 9))
def test_on_a_linear_network_every_rule_is_complete_exactly(rule, baseline, seed, steps):
    model, x = linear(seed)
    method = IntegratedGradients(steps=steps, rule=rule, baseline=baseline)
    result = method.attribute(model, x, 2)
    start = blurred(x, 1.0) if baseline == "blur" else torch.full_like(x, baseline)
    assert_same(result.maps.sum((1, 2, 3)), (model(x) - model(start))[:, 2].detach(), 1e-10)
    assert float(result.notes.rows["completeness gap"].max()) < 1e-10


@given(seed=st.integers(0, 1000), baseline=st.floats(-1, 1))
def test_on_a_softplus_network_gauss_legendre_is_complete_to_rounding(seed, baseline):
    case = Case(
        lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.Softplus(), nn.Flatten(), nn.Linear(96, 5), nn.Softplus()),
        (2, 6, 8),
    )
    model, x = case.model(seed=seed), case.images(2, seed=seed)
    R = IntegratedGradients(steps=60, baseline=baseline)(model, x, 3)
    change = (model(x) - model(torch.full_like(x, baseline)))[:, 3].detach()
    assert float((R.sum((1, 2, 3)) - change).abs().max()) < 1e-10


@quiet
@pytest.mark.parametrize("rule", RULES)
def test_on_a_relu_network_the_gap_shrinks_with_the_steps(rule):
    model, x = CASES["plain"].model(), CASES["plain"].images(4)
    gaps = [
        float(IntegratedGradients(steps=n, rule=rule).attribute(model, x, 1).notes.rows["completeness gap"].mean())
        for n in (8, 400)
    ]
    assert gaps[0] > 8 * gaps[1]


def kinked():
    """S_k = 1000 relu(mean(x) - c_k): the gradient begins at a = c_k / mean(x), and each map has a gap of its own."""
    net = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(1, 3), nn.ReLU()).double()
    with torch.no_grad():
        net[2].weight.fill_(1000.0)
        net[2].bias.copy_(-1000 * torch.tensor([0.0, 0.5, 0.93]))
    means = torch.tensor([0.94, 0.951, 0.97, 1.0, 1.1, 1.37], dtype=torch.float64)
    return net, means.view(-1, 1, 1, 1).expand(-1, 1, 4, 4).contiguous()


@quiet
@pytest.mark.parametrize("target", [2, torch.arange(3).expand(6, 3)], ids=["one class", "three"])
def test_by_default_each_map_has_50_points_and_100_or_200_only_while_its_gap_is_above_5_percent(target):
    net, x = kinked()
    found = IntegratedGradients().attribute(net, x, target)
    tries = {steps: IntegratedGradients(steps=steps).attribute(net, x, target) for steps in (50, 100, 200)}
    maps, steps, points = tries[50].maps.clone(), torch.full(found.notes.rows["steps"].shape, 50), 50
    gap, spent = tries[50].notes.rows["completeness gap"], torch.full_like(steps, points)
    for more in (100, 200):
        large = gap > 0.05
        maps[large], gap = tries[more].maps[large], torch.where(large, tries[more].notes.rows["completeness gap"], gap)
        steps[large], spent[large] = more, spent[large] + more
    assert set(steps.flatten().tolist()) == {50, 100, 200}
    assert_same(found.notes.rows["steps"], steps, 0)
    assert_same(found.notes.rows["points"], spent, 0)
    assert_same(found.maps, maps, 1e-12)
    assert_same(found.notes.rows["completeness gap"], gap, 1e-12)
    for row in range(len(x)):
        of = target if isinstance(target, int) else target[row : row + 1]
        assert_same(IntegratedGradients()(net, x[row : row + 1], of)[0], found.maps[row], 1e-12)


def test_what_200_points_do_not_close_is_warned_of_and_50_that_were_asked_for_stay_50():
    net, x = kinked()[0], torch.full((1, 1, 4, 4), 0.501, dtype=torch.float64)
    with pytest.warns(DeepVizWarning, match=r"by more than 5%; set tolerance=0.01$"):
        found = IntegratedGradients().attribute(net, x, 1)
    assert found.notes.of(0)["steps"] == 200
    with pytest.warns(DeepVizWarning, match=r"by more than 5%; raise steps, or set tolerance=0.01$"):
        found = IntegratedGradients(steps=50).attribute(net, x, 1)
    assert "steps" not in found.notes.rows
    assert IntegratedGradients() != IntegratedGradients(steps=50)


@pytest.mark.parametrize("tolerance", [0.03, 0.003])
def test_a_tolerance_is_reached_and_the_map_is_near_a_dense_reference(tolerance):
    model, x = CASES["plain"].model(), CASES["plain"].images(4)
    result = IntegratedGradients(tolerance=tolerance).attribute(model, x, 1)
    gap = (model(x) - model(0 * x))[:, 1].detach() - result.maps.sum((1, 2, 3))
    change = (model(x) - model(0 * x))[:, 1].detach()
    assert_same(result.notes.rows["completeness gap"], (gap / change).abs(), 1e-6)
    assert bool((gap.abs() <= tolerance * change.abs()).all())
    dense = IntegratedGradients(steps=1500, rule="midpoint")(model, x, 1)
    for row in range(4):
        assert float((result.maps[row] - dense[row]).norm()) <= 20 * tolerance * float(dense[row].norm())
    points = result.notes.rows["points"]
    assert points.shape == (4,)
    assert int(points.min()) >= 9


@quiet
def test_where_the_gradient_jumps_a_tolerance_gives_a_better_map_than_as_many_uniform_points():
    """S = sum_k relu(|x_k| - c_k): each value's gradient begins where a |x_k| = c_k, and most of these lie in one tenth
    of the path."""

    class Jumps(nn.Module):
        def forward(self, x):
            return (x.flatten(1) - c).clamp(min=0).sum(1, keepdim=True).expand(-1, 2)

    x = 1 + torch.rand(3, 1, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for row in range(3):
        image = x[row : row + 1]
        at = 0.4 + 0.1 * torch.rand(36, generator=torch.Generator().manual_seed(row), dtype=torch.float64)
        c = at * image.flatten()
        exact = image * (1 - at).view(1, 1, 6, 6)  # x_k times the part of the path on which its gradient is 1
        found = IntegratedGradients(tolerance=0.01).attribute(Jumps(), image, 0)
        uniform = IntegratedGradients(steps=int(found.notes.rows["points"]))(Jumps(), image, 0)
        assert float((found.maps - exact).norm()) < 0.5 * float((uniform - exact).norm())


def test_a_smaller_tolerance_takes_more_points_and_rows_differ():
    model, x = CASES["plain"].model(), CASES["plain"].images(4)
    coarse = IntegratedGradients(tolerance=0.05).attribute(model, x, 1).notes.rows["points"]
    fine = IntegratedGradients(tolerance=0.005).attribute(model, x, 1).notes.rows["points"]
    assert bool((fine >= coarse).all())
    assert int(fine.sum()) > int(coarse.sum())
    target = torch.tensor([[0, 1]] * 4)
    assert IntegratedGradients(tolerance=0.05).attribute(model, x, target).notes.rows["points"].shape == (4, 2)


@pytest.mark.filterwarnings("ignore:.*misses the change in score")
def test_a_tolerance_that_is_not_reached_is_warned_of_and_never_hidden_by_rescaling():
    model, x = CASES["plain"].model(), CASES["plain"].images(2)
    with pytest.warns(DeepVizWarning, match="did not reach a completeness gap of 1e-09 within 12 points"):
        result = IntegratedGradients(tolerance=1e-9, max_steps=12).attribute(model, x, 1)
    assert int(result.notes.rows["points"].max()) <= 12
    change = (model(x) - model(0 * x))[:, 1].detach()
    gap = ((result.maps.sum((1, 2, 3)) - change) / change).abs()
    assert float(gap.min()) > 1e-9
    assert_same(result.notes.rows["completeness gap"], gap, 1e-6)


def test_a_large_gap_is_warned_of_for_the_rows_that_have_it():
    model, x = CASES["plain"].model(), CASES["plain"].images(4)
    x[0] = 0.001  # hardly a path: no kink on it
    with pytest.warns(DeepVizWarning, match=r"misses the change in score by more than 5%; raise steps"):
        result = IntegratedGradients(steps=1).attribute(model, x, 1)
    gap = result.notes.rows["completeness gap"]
    for row in range(4):
        assert ("warnings" in result.notes.of(row)) == (float(gap[row]) > 0.05)
    assert float(gap[0]) < 0.05 < float(gap.max())


def test_the_class_is_the_images_not_chosen_again_on_the_path():
    model, x = CASES["plain"].model(), CASES["plain"].images(1)
    with torch.no_grad():
        model[6].bias[4] += 0.5 * float(model(x).max() - model(x)[0, 4] + model(0 * x).max() - model(0 * x)[0, 4])
    along = [int(model(a * x).argmax()) for a in torch.linspace(0, 1, 20)]
    method = IntegratedGradients(steps=200)
    assert_same(method(model, x), method(model, x, along[-1]), 1e-12)


def test_the_baseline_is_a_number_or_whatever_broadcasts_against_one_image():
    model, x = linear()
    by_number = IntegratedGradients(baseline=0.25)(model, x, 1)
    for shape in [(), (2, 1, 1), (2, 10, 12), (1, 2, 10, 12)]:
        start = torch.full(shape, 0.25, dtype=x.dtype)
        assert_same(IntegratedGradients(baseline=start)(model, x, 1), by_number, 1e-12)
    each = torch.randn_like(x)
    R = IntegratedGradients(baseline=each)(model, x, 1)
    assert_same(R, (x - each) * Gradient()(model, x, 1), 1e-12)


@pytest.mark.parametrize("shape", [(3, 1, 1), (7,), (5, 2, 10, 12), (2, 10, 13)])
def test_a_baseline_that_does_not_fit_is_an_error_with_the_shapes(shape):
    model, x = linear()
    with pytest.raises(ValueError, match=r"baseline \(.*does not broadcast to the input \(2, 2, 10, 12\)"):
        IntegratedGradients(baseline=torch.zeros(shape))(model, x, 1)


def test_a_baseline_by_colour_needs_preprocessing():
    model, x = linear()
    for name in ("black", "white", "mean"):
        with pytest.raises(ValueError, match="bare module"):
            IntegratedGradients(baseline=name)(model, x, 1)
    known = IntegratedGradients(baseline="black").resolve_baseline(lambda name: torch.full((2, 1, 1), -2.0))
    assert_same(known(model, x, 1), IntegratedGradients(baseline=-2.0)(model, x, 1), 1e-12)
    assert IntegratedGradients(baseline="blur").resolve_baseline(lambda name: 1 / 0).baseline == "blur"


def noise_by_hand(noise, image, draw, seed):
    """One draw, channel by channel, from the generator of `draw`."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + draw)
    if noise == "uniform-noise":
        u = torch.rand(image.shape, generator=generator, dtype=image.dtype)
        return torch.stack([c.min() + (c.max() - c.min()) * v for c, v in zip(image, u, strict=True)])
    e = torch.randn(image.shape, generator=generator, dtype=image.dtype)
    return torch.stack([c.mean() + (c - c.mean()).square().mean().sqrt() * v for c, v in zip(image, e, strict=True)])


@quiet
@pytest.mark.parametrize("noise", ["uniform-noise", "gaussian-noise"])
@pytest.mark.parametrize("options", [{"steps": 5}, {}, {"tolerance": 0.1}], ids=str)
def test_a_noise_baseline_is_the_mean_over_its_draws_in_units_of_each_images_channels(noise, options):
    model, x = CASES["plain"].model(), CASES["plain"].images(2) * torch.tensor([1.0, 5.0]).view(2, 1, 1, 1)
    x[:, 1] += 3
    found = IntegratedGradients(baseline=noise, draws=3, seed=7, **options).attribute(model, x, 1)
    assert found.notes.rows["completeness gap"].shape == (2,)
    for row in range(2):
        starts = [noise_by_hand(noise, x[row], draw, 7) for draw in range(3)]
        one = x[row : row + 1]
        each = [IntegratedGradients(baseline=start, **options).attribute(model, one, 1) for start in starts]
        assert_same(found.maps[row], torch.stack([path.maps[0] for path in each]).mean(0), 1e-10)
        change = (model(one) - torch.stack([model(start[None]) for start in starts]).mean(0))[0, 1].detach()
        gap = ((change - found.maps[row].sum()) / change).abs()
        assert_same(found.notes.rows["completeness gap"][row], gap, 1e-8)
        if "points" in found.notes.rows:
            assert int(found.notes.rows["points"][row]) == sum(int(path.notes.rows["points"]) for path in each)


@quiet
def test_several_baselines_are_averaged_for_every_objective():
    model, x = CASES["plain"].model(), CASES["plain"].images(2)
    starts = (0.3, "blur", torch.full((3, 1, 1), -1.0, dtype=x.dtype), "uniform-noise")
    target = torch.tensor([[0, 1], [2, 3]])
    found = IntegratedGradients(baselines=starts, draws=1, steps=6)(model, x, target)
    each = [IntegratedGradients(baseline=start, draws=1, steps=6)(model, x, target) for start in starts]
    assert_same(found, torch.stack(each).mean(0), 1e-12)
    mean = IntegratedGradients(baselines=starts, draws=1, steps=6, multiply_by_input=False)(model, x, target)
    each = [
        IntegratedGradients(baseline=start, draws=1, steps=6, multiply_by_input=False)(model, x, target)
        for start in starts
    ]
    assert_same(mean, torch.stack(each).mean(0), 1e-12)


def test_from_several_baselines_of_a_linear_network_the_sum_is_the_score_less_their_mean_score():
    model, x = linear()
    method = IntegratedGradients(baselines=(0.4, "gaussian-noise", "blur"), draws=2, steps=1)
    result = method.attribute(model, x, 2)
    starts = method.starts(Leaves((x,)))
    mean = torch.stack([model(start) for (start,) in starts]).mean(0)
    assert len(starts) == 4
    assert_same(result.maps.sum((1, 2, 3)), (model(x) - mean)[:, 2].detach(), 1e-10)
    assert float(result.notes.rows["completeness gap"].max()) < 1e-10


def test_a_noise_baseline_does_not_depend_on_the_other_rows():
    model, x = CASES["plain"].model(), CASES["plain"].images(3)
    method = IntegratedGradients(baseline="gaussian-noise", draws=2, steps=4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeepVizWarning)
        assert_same(method(model, x, 1)[2:], method(model, x[2:], 1), 1e-12)


def test_colours_among_several_baselines_are_resolved_and_written():
    method = catalog.parse("integrated-gradients(baselines=(black, 0.5, uniform-noise))", Method)
    assert method.baselines == ("black", 0.5, "uniform-noise")
    assert catalog.parse(catalog.spell(method), Method) == method
    resolved = method.resolve_baseline(lambda name: torch.full((2, 1, 1), -2.0))
    assert resolved == IntegratedGradients(baselines=(torch.full((2, 1, 1), -2.0), 0.5, "uniform-noise"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"baselines": ()}, "baselines must be at least one"),
        ({"baselines": ("black",), "baseline": "white"}, "put all of them into baselines"),
        ({"baselines": ("green",)}, "baselines must be"),
        ({"baseline": "uniform-noise", "draws": 0}, "draws must be at least 1"),
    ],
    ids=str,
)
def test_baselines_that_make_no_sense_are_refused(options, words):
    with pytest.raises((TypeError, ValueError), match=words):
        IntegratedGradients(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"baseline": "green"},
        {"steps": 0},
        {"steps": -3},
        {"steps": 1, "rule": "trapezoid"},
        {"rule": "simpson"},
        {"tolerance": 0.0},
        {"tolerance": -0.1},
        {"tolerance": float("nan")},
    ],
    ids=str,
)
def test_a_bad_option_is_an_error_when_the_method_is_made(options):
    with pytest.raises(ValueError, match=r"must be|needs at least"):
        IntegratedGradients(**options)


@pytest.mark.parametrize("most", [0, 5, 8])
def test_max_steps_that_cannot_even_hold_the_first_points_is_an_error(most):
    with pytest.raises(ValueError, match="max_steps"):
        IntegratedGradients(tolerance=0.1, max_steps=most)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (2, 2)])
def test_tiny_images_can_be_blurred(size):
    model = Case(lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)), (3, *size)).model()
    x = Case(lambda: None, (3, *size)).images(2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeepVizWarning)  # nothing changes, so the map is zero
        R = IntegratedGradients(baseline="blur")(model, x, 1)
    assert bool(R.isfinite().all())


def test_memory_does_not_grow_with_the_steps():
    model, x = CASES["plain"].model(), CASES["plain"].images(2)
    Gradient()(model, x, 1)  # its rows are found to be independent, once
    rows = []
    model[0].register_forward_hook(lambda module, inputs, output: rows.append(len(output)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeepVizWarning)
        IntegratedGradients(steps=100)(model, x, 1)
    assert max(rows) <= 8
    assert sum(rows) == 2 * 100 + 2 * 2
