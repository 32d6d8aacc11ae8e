"""Energy inside against a loop over pixels, and closed forms."""

import pytest
import torch

from deepviz import DeepVizWarning
from deepviz.metrics.controls import CentreGaussian, RandomMap
from deepviz.metrics.energy_inside import EnergyInside
from networks import plain

MODEL = plain(channels=1)
X = torch.rand(400, 1, 8, 8, generator=torch.Generator().manual_seed(0))
MASKS = torch.rand(20, 8, 8, generator=torch.Generator().manual_seed(1)) > 0.6


def by_hand(values, mask):
    inside = total = 0.0
    for row, row_mask in zip(values.tolist(), mask.tolist(), strict=True):
        for value, is_inside in zip(row, row_mask, strict=True):
            total += value if value > 0 else 0
            inside += value if value > 0 and is_inside else 0
    return inside / total


def test_against_a_loop_over_pixels():
    maps = torch.randn(20, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    found = EnergyInside(inside=MASKS)(MODEL, X[:20], maps)
    assert found.tolist() == pytest.approx([by_hand(maps[i].sum(0), MASKS[i]) for i in range(20)], abs=1e-6)
    found = EnergyInside(inside=MASKS, channels="magnitude")(MODEL, X[:20], maps)
    assert found.tolist() == pytest.approx([by_hand(maps[i].abs().amax(0), MASKS[i]) for i in range(20)], abs=1e-6)


def test_an_even_map_has_the_regions_share():
    found = EnergyInside(inside=MASKS)(MODEL, X[:20], torch.ones(20, 1, 8, 8))
    assert found.tolist() == MASKS.double().mean((1, 2)).tolist()


def test_a_random_map_has_it_on_average():
    box = torch.tensor([1, 2, 6, 5])  # 15 of 64 pixels
    found = EnergyInside(inside=box)(MODEL, X, RandomMap()(MODEL, X, 0))
    assert abs(found.mean() - 15 / 64) < 4 * found.std() / len(X) ** 0.5
    assert found.std() > 0.01


def test_a_spot_in_the_middle_has_more_of_it_and_a_ramp_by_formula():
    box = torch.tensor([2, 2, 6, 6])
    assert (EnergyInside(inside=box)(MODEL, X[:2], CentreGaussian()(MODEL, X[:2], 0)) > 0.4).all()
    ramp = torch.arange(1.0, 9).expand(1, 1, 8, 8)
    left = torch.tensor([0, 0, 4, 8])
    assert EnergyInside(inside=left)(MODEL, X[:1], ramp).item() == pytest.approx((1 + 2 + 3 + 4) / 36, abs=1e-12)


def test_negative_values_do_not_count():
    R = torch.zeros(1, 1, 8, 8)
    R[0, 0, 0, 0], R[0, 0, 0, 1], R[0, 0, 7, 7], R[0, 0, 7, 6] = 3, -100, 1, -100
    assert EnergyInside(inside=torch.tensor([0, 0, 4, 4]))(MODEL, X[:1], R).item() == 0.75


def test_only_the_rows_without_mass_are_by_chance():
    R = torch.zeros(3, 1, 8, 8)
    R[0, 0, 0, 0] = 1
    R[2] = -1
    box = torch.tensor([0, 0, 4, 4])
    with pytest.warns(DeepVizWarning, match="^the map has no positive value: Energy inside is what chance gives"):
        found = EnergyInside(inside=box)(MODEL, X[:3], R)
    assert found.tolist() == [1, 0.25, 0.25]
