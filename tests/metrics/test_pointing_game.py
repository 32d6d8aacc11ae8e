"""The pointing game against a loop over pixels, ties and margins."""

import pytest
import torch

from deepviz.metrics.controls import RandomMap
from deepviz.metrics.pointing_game import PointingGame
from networks import plain

MODEL = plain(channels=1)
X = torch.rand(2000, 1, 8, 8, generator=torch.Generator().manual_seed(0))
MASKS = torch.rand(40, 8, 8, generator=torch.Generator().manual_seed(1)) > 0.9
MASKS[:, 3, 4] = True


def by_hand(values, mask, tolerance):
    """The share of the largest pixels that have a pixel of the mask within `tolerance`."""
    largest = max(max(row) for row in values.tolist())
    places = [(i, j) for i, row in enumerate(values.tolist()) for j, value in enumerate(row) if value == largest]
    hits = [any((i - a) ** 2 + (j - b) ** 2 <= tolerance**2 for a, b in mask.nonzero().tolist()) for i, j in places]
    return sum(hits) / len(hits)


@pytest.mark.parametrize("tolerance", [0, 1, 2, 3, 5, 15])
@pytest.mark.parametrize("levels", [2, 5, 1000])
def test_against_a_loop_over_pixels(tolerance, levels):
    maps = torch.randint(-levels, levels, (40, 1, 8, 8), generator=torch.Generator().manual_seed(2)).float()
    found = PointingGame(inside=MASKS, tolerance=tolerance)(MODEL, X[:40], maps)
    expected = [by_hand(maps[row, 0], MASKS[row], tolerance) for row in range(40)]
    assert found.tolist() == pytest.approx(expected, abs=1e-12)


def test_the_margin_is_a_disc():
    """Around a single pixel: a point 3 across and 4 down is 5 away."""
    one = torch.zeros(8, 8, dtype=torch.bool)
    one[1, 1] = True
    R = torch.zeros(1, 1, 8, 8)
    R[0, 0, 5, 4] = 1
    assert [PointingGame(inside=one, tolerance=t)(MODEL, X[:1], R).item() for t in (4, 5, 6)] == [0, 1, 1]


def test_a_random_map_hits_by_chance():
    box = torch.tensor([1, 2, 6, 5])  # 15 of 64 pixels
    found = PointingGame(inside=box)(MODEL, X, RandomMap()(MODEL, X, 0))
    chance = 15 / 64
    assert set(found.tolist()) == {0, 1}
    assert abs(found.mean() - chance) < 4 * (chance * (1 - chance) / len(X)) ** 0.5


def test_the_sign_matters_unless_magnitudes_are_asked_for():
    R = torch.zeros(1, 1, 8, 8)
    R[0, 0, 0, 0], R[0, 0, 7, 7] = 1, -2
    corner = torch.tensor([0, 0, 2, 2])
    assert PointingGame(inside=corner)(MODEL, X[:1], R).item() == 1
    assert PointingGame(inside=corner, channels="magnitude")(MODEL, X[:1], R).item() == 0


def test_only_the_order_counts():
    maps = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    metric = PointingGame(inside=MASKS)
    assert torch.equal(metric(MODEL, X[:40], maps), metric(MODEL, X[:40], maps.exp() * 7 - 3))


def test_a_negative_margin_is_refused():
    with pytest.raises(ValueError, match=r"^tolerance must be at least 0, got -1$"):
        PointingGame(tolerance=-1)
