"""Quantus: localisation and complexity, the same numbers where definitions agree; where not, it is shown how."""

import numpy as np
import pytest
import torch

from deepviz.metrics.complexity import Complexity
from deepviz.metrics.energy_inside import EnergyInside
from deepviz.metrics.pointing_game import PointingGame
from deepviz.metrics.sparseness import Sparseness
from deepviz.metrics.top_k_intersection import TopKIntersection
from networks import CASES

quantus = pytest.importorskip("quantus")

CASE = CASES["plain"]
MODEL, X = CASE.model().eval(), CASE.images(8)
MAPS = torch.randn(8, 1, 12, 12, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
MASKS = torch.rand(8, 12, 12, generator=torch.Generator().manual_seed(3)) > 0.6


def theirs(metric, maps=MAPS):
    found = metric(
        model=MODEL,
        x_batch=X.numpy().copy(),
        y_batch=np.zeros(8, dtype=int),
        a_batch=maps.numpy().copy(),
        s_batch=MASKS.unsqueeze(1).numpy().copy(),
    )
    return [float(value) for value in found]


def of(name, **options):
    return getattr(quantus, name)(disable_warnings=True, **options)


def ours(metric, maps=MAPS):
    return metric(MODEL, X, maps, 0).tolist()


def same(one, other):
    return one == pytest.approx(other, abs=1e-4)


@pytest.mark.parametrize("maps", [MAPS, MAPS.abs()], ids=["signed", "positive"])
def test_the_pointing_game_without_a_margin(maps):
    assert ours(PointingGame(inside=MASKS), maps) == theirs(of("PointingGame"), maps)


@pytest.mark.parametrize("k", [1, 20, 143])
def test_top_k_intersection_where_no_values_are_equal(k):
    assert same(ours(TopKIntersection(inside=MASKS, k=k)), theirs(of("TopKIntersection", k=k)))


def test_energy_inside_of_positive_maps_is_relevance_mass_accuracy():
    assert same(ours(EnergyInside(inside=MASKS), MAPS.abs()), theirs(of("RelevanceMassAccuracy"), MAPS.abs()))
    assert same(ours(EnergyInside(inside=MASKS, channels="magnitude")), theirs(of("RelevanceMassAccuracy", abs=True)))


def test_sparseness_and_complexity():
    assert same(ours(Sparseness()), theirs(of("Sparseness")))
    assert same(ours(Complexity()), theirs(of("Complexity")))


def test_of_signed_maps_their_mass_is_no_share():
    """The papers make the map positive first."""
    assert all(0 <= value <= 1 for value in ours(EnergyInside(inside=MASKS)))
    assert not all(0 <= value <= 1 for value in theirs(of("RelevanceMassAccuracy")))


def test_of_equal_values_they_take_any():
    """Two largest pixels, one inside and one not: there always a hit, here one in two."""
    maps = torch.zeros_like(MAPS)
    for row in range(8):
        for mask in (MASKS[row], ~MASKS[row]):
            i, j = mask.nonzero()[0]
            maps[row, 0, i, j] = 1
    assert ours(PointingGame(inside=MASKS), maps) == [0.5] * 8
    assert theirs(of("PointingGame"), maps) == [1.0] * 8
