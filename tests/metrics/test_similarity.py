"""The similarity of maps, against direct loops and what is known of it."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from skimage.feature import hog as skimage_hog
from skimage.metrics import structural_similarity

from deepviz.metrics.similarity import SIMILARITIES, absolute_spearman, hog, ranked, spearman, ssim
from networks import assert_same

GENERATOR = torch.Generator().manual_seed(0)
A, B = torch.rand(2, 3, 40, 30, generator=GENERATOR, dtype=torch.float64) - 0.5


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=30))
def test_ranks_are_counted(values):
    expected = [
        sum(other < one for other in values) + (sum(other == one for other in values) - 1) / 2 for one in values
    ]
    assert ranked(torch.tensor([values], dtype=torch.float32))[0].tolist() == expected


def test_spearman_is_one_for_any_rising_function_and_minus_one_for_any_falling_one():
    assert_same(spearman(A, A**3), torch.ones(3), 1e-12)
    assert_same(spearman(A, -A.exp()), -torch.ones(3), 1e-12)
    assert_same(absolute_spearman(A, -A), torch.ones(3), 1e-12)


def test_spearman_without_ties_is_by_the_differences_of_ranks():
    n = A[0].numel()
    for one, other, found in zip(A, B, spearman(A, B), strict=True):
        differences = one.flatten().argsort().argsort() - other.flatten().argsort().argsort()
        expected = 1 - 6 * float((differences.double() ** 2).sum()) / (n * (n * n - 1))
        assert float(found) == pytest.approx(expected, abs=1e-12)


def window_by_hand(map_, i, j, weights):
    """The weighted values around a pixel, border pixels repeated outwards."""
    rows = np.clip(np.arange(i - 5, i + 6), 0, map_.shape[0] - 1)
    columns = np.clip(np.arange(j - 5, j + 6), 0, map_.shape[1] - 1)
    return map_[np.ix_(rows, columns)], weights


def ssim_by_hand(a, b):
    a, b = a / abs(a).max(), b / abs(b).max()
    L = 2 if min(a.min(), b.min()) < 0 else 1
    c1, c2 = (0.01 * L) ** 2, (0.03 * L) ** 2
    offsets = np.arange(-5, 6)
    weights = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    found = []
    for i in range(a.shape[0]):
        for j in range(a.shape[1]):
            (x, w), (y, _) = window_by_hand(a, i, j, weights), window_by_hand(b, i, j, weights)
            mx, my = (w * x).sum(), (w * y).sum()
            vx, vy, vxy = (w * (x - mx) ** 2).sum(), (w * (y - my) ** 2).sum(), (w * (x - mx) * (y - my)).sum()
            found.append((2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))
    return np.mean(found)


@pytest.mark.parametrize("shift", [0.0, 0.5], ids=["signed", "unsigned"])
@pytest.mark.parametrize("size", [(12, 9), (7, 7)])
def test_ssim_by_hand(shift, size):
    a, b = (of[:2, : size[0], : size[1]] + shift for of in (A, B))
    for row in range(2):
        assert float(ssim(a, b)[row]) == pytest.approx(ssim_by_hand(a[row].numpy(), b[row].numpy()), abs=1e-10)


def test_ssim_and_hog_are_those_of_scikit_image():
    a, noise = torch.rand(2, 224, 240, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    b = a + 0.3 * noise
    a, b = a / a.max(), b / b.max()
    theirs = structural_similarity(
        a.numpy(), b.numpy(), gaussian_weights=True, use_sample_covariance=False, data_range=1.0
    )
    assert float(ssim(a[None], b[None])) == pytest.approx(theirs, abs=2e-3)  # theirs leaves out the border
    of_a, of_b = (skimage_hog(one.numpy(), pixels_per_cell=(16, 16)) for one in (a, b))
    assert float(hog(a[None], b[None])) == pytest.approx(np.corrcoef(of_a, of_b)[0, 1], abs=1e-4)


@pytest.mark.parametrize("name", SIMILARITIES)
def test_what_every_likeness_has(name):
    likeness = SIMILARITIES[name]
    assert_same(likeness(A, A), torch.ones(3), 1e-9)
    assert_same(likeness(A, B), likeness(B, A), 1e-12)
    assert_same(likeness(A, B), likeness(3 * A, 0.01 * B), 1e-9)  # scale does not count
    assert_same(likeness(A, B)[1:2], likeness(A[1:2], B[1:2]), 1e-12)
    flat = torch.full_like(A, 0.4)
    assert_same(likeness(A, flat), torch.zeros(3), 0)
    assert_same(likeness(flat, 0 * flat), torch.ones(3), 0)


@pytest.mark.parametrize("name", SIMILARITIES)
def test_independent_maps_are_about_unlike(name):
    a, b = torch.randn(2, 4, 112, 112, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    assert float(SIMILARITIES[name](a, b).abs().max()) < 0.1
