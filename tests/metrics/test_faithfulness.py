"""Completeness, infidelity and the correlation: exact on linear models, about chance for random maps."""

import pytest
import torch
from torch import nn

from deepviz.errors import DeepVizWarning
from deepviz.methods import Gradient, GradTimesImage, IntegratedGradients
from deepviz.metrics import Completeness, Deletion, FaithfulnessCorrelation, Infidelity
from networks import CASES, assert_same

N, C, H, W = 2, 3, 6, 5


def linear(bias=True):
    model = nn.Sequential(nn.Flatten(), nn.Linear(C * H * W, 4, bias=bias)).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model


X = torch.rand(N, C, H, W, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.1
LINEAR = linear()


def test_gradient_times_image_is_complete_on_a_linear_model():
    assert float(Completeness()(LINEAR, X, GradTimesImage()(LINEAR, X, 1), 1).max()) < 1e-12


def test_the_gap_is_what_is_missing():
    maps = GradTimesImage()(LINEAR, X, 1)
    assert_same(Completeness()(LINEAR, X, 0.75 * maps, 1), torch.full((N,), 0.25), 1e-9)
    assert_same(Completeness()(LINEAR, X, 0 * maps, 1), torch.ones(N), 1e-9)


def test_it_is_the_gap_that_integrated_gradients_tell():
    case = CASES["plain"]
    model, x = case.model(), case.images(2)
    method = IntegratedGradients(steps=3)
    with pytest.warns(DeepVizWarning, match="misses"):
        found = method.attribute(model, x, 2)
    gap = Completeness()(model, x, found.maps, 2)
    assert_same(gap.double(), found.notes.rows["completeness gap"].double(), 1e-6)


@pytest.mark.parametrize("perturbation", ["noise", "square"])
@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("baseline", [0.0, 0.4, "blur"])
def test_a_linear_models_gradient_has_no_infidelity_under_any_change(perturbation, scaled, baseline):
    metric = Infidelity(samples=6, perturbation=perturbation, scaled=scaled, baseline=baseline)
    assert float(metric(LINEAR, X, Gradient()(LINEAR, X, 3), 3).max()) < 1e-20


@pytest.mark.parametrize("perturbation", ["noise", "square"])
def test_nor_has_gradient_times_image_where_the_change_is_divided_by_x(perturbation):
    maps = GradTimesImage()(LINEAR, X, 3)
    metric = Infidelity(samples=6, perturbation=perturbation, scaled=False, multiplied=True)
    assert float(metric(LINEAR, X, maps, 3).max()) < 1e-20
    plain = Infidelity(samples=6, perturbation=perturbation, scaled=False)
    assert float(plain(LINEAR, X, maps, 3).min()) > 1e-3


def test_infidelity_by_hand():
    case = CASES["plain"]
    model, x = case.model(), case.images(2)
    maps = torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    metric = Infidelity(samples=5, perturbation="square", amount=0.5, baseline=0.3, scaled=False, seed=4)
    for row in range(2):
        terms = []
        for k in range(5):
            generator = torch.Generator().manual_seed(4 * 1_000_003 + k)
            top, left = (int(torch.randint(12 - 6 + 1, (), generator=generator)) for _ in range(2))
            changed = x[row].clone()
            changed[:, top : top + 6, left : left + 6] = 0.3
            fall = (model(x[row][None]) - model(changed[None]))[0, 1].item()
            foretold = float(((x[row] - changed) * maps[row]).sum())
            terms.append((foretold - fall) ** 2)
        expected = sum(terms) / 5
        assert float(metric(model, x, maps, 1)[row]) == pytest.approx(expected, rel=1e-6)


def test_scaling_makes_the_unit_of_a_map_no_matter_and_is_never_worse():
    case = CASES["plain"]
    model, x = case.model(), case.images(2)
    maps = Gradient()(model, x, 1)
    scaled, plain = Infidelity(samples=8), Infidelity(samples=8, scaled=False)
    assert_same(scaled(model, x, maps, 1), scaled(model, x, 1000 * maps, 1), 1e-9)
    assert bool((scaled(model, x, maps, 1) <= plain(model, x, maps, 1) + 1e-12).all())


def test_the_correlation_is_one_for_what_a_linear_model_does():
    found = FaithfulnessCorrelation(subsets=12)(LINEAR, X, GradTimesImage()(LINEAR, X, 0), 0)
    assert_same(found, torch.ones(N), 1e-9)
    minus = FaithfulnessCorrelation(subsets=12)(LINEAR, X, -GradTimesImage()(LINEAR, X, 0), 0)
    assert_same(minus, -torch.ones(N), 1e-9)


def test_the_correlation_by_hand():
    case = CASES["plain"]
    model, x = case.model(), case.images(2)
    maps = Gradient()(model, x, 1)
    metric = FaithfulnessCorrelation(subsets=7, share=0.25, baseline=0.2, seed=3)
    for row in range(2):
        sums, falls = [], []
        for k in range(7):
            generator = torch.Generator().manual_seed(3 * 1_000_003 + k)
            chosen = torch.randperm(144, generator=generator)[:36]
            changed = x[row].clone().flatten(1)
            changed[:, chosen] = 0.2
            sums.append(float(maps[row].sum(0).flatten()[chosen].sum()))
            falls.append((model(x[row][None]) - model(changed.view(1, 3, 12, 12)))[0, 1].item())
        expected = torch.corrcoef(torch.tensor([sums, falls], dtype=torch.float64))[0, 1]
        assert float(metric(model, x, maps, 1)[row]) == pytest.approx(float(expected), abs=1e-6)


def test_random_maps_correlate_by_chance():
    metric = FaithfulnessCorrelation(subsets=60)
    found = torch.cat(
        [
            metric(LINEAR, X[:1], torch.randn(1, 1, H, W, generator=torch.Generator().manual_seed(seed)), 0)
            for seed in range(60)
        ]
    )
    assert abs(float(found.mean())) < 3 * float(found.std()) / 60**0.5 + 0.02


def test_a_flat_map_foretells_nothing():
    with pytest.warns(DeepVizWarning, match="counts as 0"):
        assert FaithfulnessCorrelation(subsets=5)(LINEAR, X, torch.ones(N, 1, H, W), 0).tolist() == [0, 0]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Infidelity(samples=1),
        lambda: Infidelity(amount=0.0),
        lambda: Infidelity(perturbation="salt"),
        lambda: FaithfulnessCorrelation(subsets=2),
        lambda: FaithfulnessCorrelation(share=1.0),
        lambda: Completeness(baseline="gray"),
    ],
)
def test_options_that_are_none(wrong):
    with pytest.raises(ValueError, match=r"must be|baseline"):
        wrong()


def test_a_gap_relative_to_no_change_is_said_to_mean_nothing():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
    x = torch.zeros(2, 3, 2, 2)
    x[1] = 1
    with pytest.warns(DeepVizWarning, match="a gap relative to that means nothing"):
        Completeness()(model, x, torch.rand(2, 3, 2, 2), 0)


def test_a_function_as_target_has_no_probability():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
    x = torch.rand(1, 3, 2, 2)
    with pytest.warns(DeepVizWarning, match="not a probability"):
        Deletion(steps=2)(model, x, x, lambda output: output[:, 0])


class Keeping(torch.nn.Module):
    """Keeps a tensor for each number of rows, as position tables are kept."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(12))
        self.kept = {}

    def forward(self, x):
        scale = self.kept.setdefault(len(x), torch.ones(len(x), 12))
        score = (x.flatten(1) * self.weight * scale).sum(1)
        return torch.stack([score, -score], 1)


def test_what_a_model_keeps_for_later_can_be_trained_with():
    model, x = Keeping(), torch.rand(3, 3, 2, 2)
    Deletion(steps=4)(model, x, x, 0)
    for rows, kept in model.kept.items():
        assert not kept.is_inference()
        model(torch.rand(rows, 3, 2, 2))[:, 0].sum().backward()
