"""Complexity against a loop, and entropies that are known."""

from math import e, log

import pytest
import torch

from deepviz import DeepVizWarning
from deepviz.metrics.complexity import Complexity
from deepviz.metrics.controls import RandomMap
from networks import CASES, plain

MODEL = plain(channels=1)
X = torch.rand(4, 1, 6, 7, generator=torch.Generator().manual_seed(0))
MAPS = torch.randn(4, 2, 6, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def entropy(values):
    total = sum(abs(value) for value in values)
    return -sum(abs(value) / total * log(abs(value) / total) for value in values if value != 0)


def of(vector):
    R = torch.tensor(vector, dtype=torch.float64)
    return Complexity()(MODEL, torch.rand(1, 1, 1, len(vector)), R.view(1, 1, 1, -1)).item()


def test_against_a_loop():
    for channels, values in (("sum", MAPS.sum(1)), ("magnitude", MAPS.abs().amax(1))):
        found = Complexity(channels=channels)(MODEL, X, MAPS)
        assert found.tolist() == pytest.approx([entropy(row.flatten().tolist()) for row in values], abs=1e-12)


@pytest.mark.parametrize("n", [1, 2, 42, 1001])
def test_even_pixels_have_the_logarithm_of_their_number(n):
    assert of([0.3] * n) == pytest.approx(log(n), abs=1e-12)
    assert of([-0.3] * n + [0] * 5) == pytest.approx(log(n), abs=1e-12)


def test_known_shares():
    assert of([0, 0, 4, 0]) == 0
    assert of([1, 1, 2]) == pytest.approx(1.5 * log(2))  # shares 1/4, 1/4, 1/2
    assert of([8, 4, 2, 1, 1]) == pytest.approx(1.875 * log(2))


def test_entropy_adds_over_independent_parts():
    one, other = torch.rand(2, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64).tolist()
    assert of([a * b for a in one for b in other]) == pytest.approx(of(one) + of(other))


def test_a_random_maps_entropy():
    """The mean of -P ln P for uniform values u: ln n - E[u ln u] / E[u] + ln E[u] = ln n + 1/2 - ln 2."""
    x = torch.rand(5, 1, 200, 200, generator=torch.Generator().manual_seed(3))
    found = Complexity()(MODEL, x, RandomMap()(MODEL, x, 0))
    assert found.tolist() == pytest.approx([log(200 * 200) + log(e**0.5 / 2)] * 5, abs=0.005)


def test_neither_scale_nor_place_matters():
    expected = Complexity()(MODEL, X, MAPS).tolist()
    assert Complexity()(MODEL, X, -1e-20 * MAPS).tolist() == pytest.approx(expected, abs=1e-12)
    assert Complexity()(MODEL, X, MAPS.flip(2, 3)).tolist() == pytest.approx(expected, abs=1e-12)


def test_a_map_of_zeros_counts_as_even():
    R = MAPS.clone()
    R[1] = 0
    with pytest.warns(DeepVizWarning, match="^the map is zero everywhere: it is counted as uniform$"):
        found = Complexity()(MODEL, X, R)
    assert found[1].item() == pytest.approx(log(42))
    assert torch.equal(found[[0, 2, 3]], Complexity()(MODEL, X[[0, 2, 3]], R[[0, 2, 3]]))


def test_a_row_alone_equals_the_row_in_a_batch_and_the_model_stays_as_it_was():
    case = CASES["train-mode"]
    model, x = case.model(), case.images(3)
    before = [module.training for module in model.modules()]
    whole = Complexity()(model, x, x)
    assert torch.equal(whole, torch.cat([Complexity()(model, x[i : i + 1], x[i : i + 1]) for i in range(3)]))
    assert [module.training for module in model.modules()] == before
