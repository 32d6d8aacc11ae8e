"""Imputed pixels, against the dense linear system."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deepviz.metrics.curves import ranks
from deepviz.probe import imputation
from deepviz.probe.imputation import imputed
from networks import assert_same


def by_hand(x, removed):
    """The system written out, one equation for each removed pixel, solved densely; x (C, H, W)."""
    height, width = removed.shape
    number = {place: k for k, place in enumerate(map(tuple, removed.nonzero().tolist()))}
    A = torch.zeros(len(number), len(number), dtype=torch.float64)
    b = torch.zeros(len(number), len(x), dtype=torch.float64)
    for (i, j), k in number.items():
        for down in (-1, 0, 1):
            for right in (-1, 0, 1):
                there = (i + down, j + right)
                if (down, right) == (0, 0) or not (0 <= there[0] < height and 0 <= there[1] < width):
                    continue
                w = 1 / 12 if down and right else 1 / 6
                A[k, k] += w
                if there in number:
                    A[k, number[there]] -= w
                else:
                    b[k] += w * x[:, there[0], there[1]]
    filled = x.clone()
    for place, values in zip(number, torch.linalg.solve(A, b), strict=True):
        filled[:, place[0], place[1]] = values
    return filled


@given(st.integers(0, 10_000), st.floats(0.05, 0.95), st.sampled_from([(5, 5), (7, 4), (2, 9)]))
def test_every_removed_pixel_is_the_mean_of_its_neighbours(seed, share, size):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 3, *size, generator=generator, dtype=torch.float64)
    removed = torch.rand(2, *size, generator=generator) < share
    removed[:, 0, 0] = False  # one pixel at least is left
    found = imputed(x, removed, tolerance=1e-12)
    for row in range(2):
        if bool(removed[row].any()):
            assert_same(found[row], by_hand(x[row], removed[row]), 1e-8)


def test_pixels_that_are_left_are_as_they_were_and_what_was_removed_does_not_count():
    x = torch.rand(1, 3, 30, 20)
    removed = torch.rand(1, 30, 20) < 0.7
    found = imputed(x, removed)
    kept = ~removed.unsqueeze(1).expand_as(x)
    assert torch.equal(found[kept], x[kept])
    assert_same(imputed(torch.where(kept, x, 9.0), removed), found, 1e-5)


def test_a_plane_is_restored_inside():
    i, j = torch.arange(24.0, dtype=torch.float64), torch.arange(20.0, dtype=torch.float64)
    plane = (0.3 * i[:, None] - 0.2 * j[None, :] + 1)[None, None]
    removed = torch.zeros(1, 24, 20, dtype=torch.bool)
    removed[0, 5:18, 4:15] = True
    assert_same(imputed(plane, removed, tolerance=1e-12), plane, 1e-9)


def test_a_constant_is_restored_from_one_pixel():
    x = torch.full((1, 3, 33, 40), 0.7)
    removed = torch.ones(1, 33, 40, dtype=torch.bool)
    removed[0, 20, 30] = False
    assert_same(imputed(x, removed), x, 1e-4)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_default_tolerance_is_far_below_the_noise_that_is_added(share):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(1, 3, 96, 96, generator=generator)
    smooth = torch.nn.functional.interpolate(torch.rand(1, 1, 4, 4, generator=generator), (96, 96), mode="bilinear")[0]
    removed = ranks(smooth, 0) < share * 96 * 96
    assert float((imputed(x, removed) - imputed(x, removed, 1e-7)).abs().max()) < 0.005


@pytest.mark.parametrize("size", [(64, 64), (67, 50), (256, 256)])
def test_large_holes_take_hardly_more_iterations_than_small_ones(size, monkeypatch):
    cycles = []
    cycle = imputation._cycle

    def counting(levels, r):
        cycles.append(r.shape[2:] == size)
        return cycle(levels, r)

    monkeypatch.setattr(imputation, "_cycle", counting)
    x = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))
    i, j = torch.meshgrid(*(torch.linspace(-1, 1, of) for of in size), indexing="ij")
    imputed(x, (i.square() + j.square() < 0.8)[None])
    assert sum(cycles) <= 14


def test_the_cycle_is_symmetric_and_positive_as_conjugate_gradients_need_it():
    hole = (torch.rand(9, 11, generator=torch.Generator().manual_seed(2), dtype=torch.float64) < 0.8).double()
    hole[2:8, 3:9] = 1
    levels = imputation._levels(hole[None, None])
    assert len(levels) > 1
    units = torch.eye(99, dtype=torch.float64).view(99, 1, 9, 11) * hole
    M = torch.stack([imputation._cycle(levels, unit[None]).flatten() for unit in units])
    M = M[hole.flatten() > 0][:, hole.flatten() > 0]
    assert_same(M, M.T, 1e-12)
    assert float(torch.linalg.eigvalsh(M).min()) > 0


def test_what_is_added_to_and_multiplied_with_the_image_is_so_with_the_imputed_pixels():
    x = torch.randn(1, 3, 20, 16, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    removed = torch.rand(1, 20, 16, generator=torch.Generator().manual_seed(4)) < 0.7
    assert_same(imputed(3 * x + 100, removed), 3 * imputed(x, removed) + 100, 1e-12)


def test_nothing_to_impute():
    x = torch.rand(2, 3, 5, 6)
    assert torch.equal(imputed(x, torch.zeros(2, 5, 6, dtype=torch.bool)), x)


def test_rows_and_half_precision():
    x = torch.rand(3, 3, 12, 12)
    removed = torch.rand(3, 12, 12) < 0.6
    together = imputed(x, removed)
    assert torch.equal(torch.cat([imputed(x[k : k + 1], removed[k : k + 1]) for k in range(3)]), together)
    assert imputed(x.bfloat16(), removed).dtype == torch.bfloat16
