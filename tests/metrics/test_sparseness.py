"""Sparseness against the Gini index as mean absolute difference, and known vectors."""

import pytest
import torch

from deepviz import DeepVizWarning
from deepviz.metrics.sparseness import Sparseness
from networks import CASES, plain

MODEL = plain(channels=1)
X = torch.rand(4, 1, 6, 7, generator=torch.Generator().manual_seed(0))
MAPS = torch.randn(4, 2, 6, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def gini(values):
    """Half the mean difference between any two values, as a part of their mean (Gini 1912)."""
    n = len(values)
    return sum(abs(one - other) for one in values for other in values) / (2 * n * sum(values))


def of(vector):
    R = torch.tensor(vector, dtype=torch.float64)
    return Sparseness()(MODEL, torch.rand(1, 1, 1, len(vector)), R.view(1, 1, 1, -1)).item()


def test_against_the_mean_difference_of_all_pairs():
    for channels, values in (("sum", MAPS.sum(1).abs()), ("magnitude", MAPS.abs().amax(1))):
        found = Sparseness(channels=channels)(MODEL, X, MAPS)
        assert found.tolist() == pytest.approx([gini(row.flatten().tolist()) for row in values], abs=1e-12)


@pytest.mark.parametrize(
    ("vector", "value"),
    [([5.0, 5, 5, 5], 0), ([0, 0, 3, 0], 3 / 4), ([1, 2, 3, 4], 1 / 4), ([0, 0, 1, 1], 1 / 2), ([7], 0)],
)
def test_known_vectors(vector, value):
    assert of(vector) == pytest.approx(value, abs=1e-15)
    assert of([-number for number in vector]) == pytest.approx(value, abs=1e-15)


def test_the_range():
    for n in (2, 3, 1001):
        assert 0 <= of([0.1] * n) < 1e-12
        assert of([0.1] + [0] * (n - 1)) == pytest.approx(1 - 1 / n, abs=1e-12)


def test_neither_scale_nor_place_nor_sign_matters():
    metric = Sparseness()
    expected = metric(MODEL, X, MAPS).tolist()
    assert metric(MODEL, X, -1e-20 * MAPS).tolist() == pytest.approx(expected, abs=1e-12)
    assert metric(MODEL, X, MAPS.flip(2, 3)).tolist() == pytest.approx(expected, abs=1e-12)
    doubled = MAPS.repeat_interleave(2, dim=3)
    assert metric(MODEL, X.repeat_interleave(2, dim=3), doubled).tolist() == pytest.approx(expected, abs=1e-12)


def test_taking_from_the_weak_makes_it_sparser():
    assert of([1, 2, 3, 4]) < of([0.5, 2, 3, 4.5]) < of([0, 0, 4, 6])


def test_a_map_of_zeros_counts_as_even():
    R = MAPS.clone()
    R[1] = 0
    with pytest.warns(DeepVizWarning, match="^the map is zero everywhere: it is counted as uniform$"):
        found = Sparseness()(MODEL, X, R)
    assert found[1] == 0
    assert torch.equal(found[[0, 2, 3]], Sparseness()(MODEL, X[[0, 2, 3]], R[[0, 2, 3]]))


def test_a_row_alone_equals_the_row_in_a_batch_and_the_model_stays_as_it_was():
    case = CASES["train-mode"]
    model, x = case.model(), case.images(3)
    before = [module.training for module in model.modules()]
    whole = Sparseness()(model, x, x)
    assert torch.equal(whole, torch.cat([Sparseness()(model, x[i : i + 1], x[i : i + 1]) for i in range(3)]))
    assert [module.training for module in model.modules()] == before
