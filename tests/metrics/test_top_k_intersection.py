"""Top-k intersection against sorting by hand, averaged over every way to break ties."""

from itertools import combinations

import pytest
import torch

from deepviz.metrics.controls import RandomMap
from deepviz.metrics.top_k_intersection import TopKIntersection
from networks import plain

MODEL = plain(channels=1)
X = torch.rand(400, 1, 8, 8, generator=torch.Generator().manual_seed(0))
MASKS = torch.rand(20, 8, 8, generator=torch.Generator().manual_seed(1)) > 0.6


@pytest.mark.parametrize("k", [1, 7, 63, 64])
def test_against_sorting(k):
    maps = torch.randn(20, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    found = TopKIntersection(inside=MASKS, k=k)(MODEL, X[:20], maps)
    for row in range(20):
        top = sorted(range(64), key=lambda pixel: -maps[row].flatten()[pixel])[:k]
        assert found[row].item() == pytest.approx(sum(bool(MASKS[row].flatten()[p]) for p in top) / k, abs=1e-12)


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5, 6])
def test_ties_are_the_mean_over_all_ways_to_break_them(k):
    values, mask = torch.tensor([[3.0, 1, 1], [1, 1, 0]]), torch.tensor([[False, True, False], [True, True, False]])
    flat, inside = values.flatten().tolist(), mask.flatten().tolist()
    best = max(sum(flat[p] for p in chosen) for chosen in combinations(range(6), k))
    ways = [chosen for chosen in combinations(range(6), k) if sum(flat[p] for p in chosen) == best]
    expected = sum(sum(inside[p] for p in chosen) / k for chosen in ways) / len(ways)
    x = torch.rand(1, 1, 2, 3)
    assert TopKIntersection(inside=mask, k=k)(MODEL, x, values[None, None]).item() == pytest.approx(expected)


def test_a_random_map_scores_by_chance():
    box = torch.tensor([1, 2, 6, 5])  # 15 of 64 pixels
    found = TopKIntersection(inside=box, k=10)(MODEL, X, RandomMap()(MODEL, X, 0))
    chance = 15 / 64
    # hypergeometric: 10 draws without replacement out of 64
    spread = (chance * (1 - chance) / 10 * (64 - 10) / (64 - 1)) ** 0.5
    assert abs(found.mean() - chance) < 4 * spread / len(X) ** 0.5
    assert found.std().item() == pytest.approx(spread, rel=0.15)


def test_all_pixels_are_the_regions_share_and_one_is_the_pointing_game():
    maps = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    found = TopKIntersection(inside=MASKS, k=64)(MODEL, X[:20], maps)
    assert found.tolist() == pytest.approx(MASKS.double().mean((1, 2)).tolist())
    first = [float(MASKS[row].flatten()[maps[row].argmax()]) for row in range(20)]
    assert TopKIntersection(inside=MASKS, k=1)(MODEL, X[:20], maps).tolist() == first


def test_an_object_smaller_than_k_cannot_reach_one():
    perfect = MASKS[:1].float().unsqueeze(1) + torch.rand(1, 1, 8, 8) / 2
    size = int(MASKS[0].sum())
    found = [TopKIntersection(inside=MASKS[:1], k=k)(MODEL, X[:1], perfect).item() for k in (size, 2 * size)]
    assert found == [1, 0.5]


def test_a_k_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"^k must be at least 1 or None, got 0$"):
        TopKIntersection(k=0)
    with pytest.raises(ValueError, match=r"^k is 1000 pixels, but the input has 8 x 8: give a smaller k$"):
        TopKIntersection(inside=MASKS[0], k=1000)(MODEL, X[:1], X[:1])
    assert TopKIntersection(inside=MASKS[0])(MODEL, X[:1], X[:1]) == TopKIntersection(inside=MASKS[0], k=1)(
        MODEL, X[:1], X[:1]
    )
