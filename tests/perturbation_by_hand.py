"""Methods of forward passes alone, re-derived slowly: all combinations of a few parts, one after another."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from deepviz.diagnostics import ERROR
from deepviz.methods.perturbation.perturbation_map import SampledMap
from deepviz.probe import chunks
from networks import Case

PARTS = 8
RUNS = 200


class Curved(nn.Module):
    """Two scores of a signal (1, 8), whose places act on each other; the second one has twice the size."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(PARTS, 16), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(torch.tanh(2 * self.inner(x.flatten(1)))) * x.new_tensor([1, 2])


CURVED = Case(Curved, (1, PARTS))


def curved() -> tuple[nn.Module, Tensor]:
    return CURVED.model(), CURVED.images(1)


def table(model: nn.Module, x: Tensor, target: int = 1) -> dict[tuple[int, ...], float]:
    """S_c of a signal (1, 1, d) with the parts where z is 0 set to 0, for each z of {0, 1}^d."""
    found = {}
    for z in itertools.product((0, 1), repeat=x.shape[2]):
        with torch.no_grad():
            found[z] = float(model(x * torch.tensor(z, dtype=x.dtype))[0, target])
    return found


def with_part(z: tuple[int, ...], k: int) -> tuple[int, ...]:
    return (*z[:k], 1, *z[k + 1 :])


def shapley_values(S: dict[tuple[int, ...], float]) -> Tensor:
    """phi_k = sum over z without k of |z|! (d - |z| - 1)! / d! (S(z and k) - S(z)) (Shapley 1953)."""
    d = len(next(iter(S)))
    phi = torch.zeros(d, dtype=torch.float64)
    for k in range(d):
        for z in S:
            if not z[k]:
                weight = math.factorial(sum(z)) * math.factorial(d - sum(z) - 1) / math.factorial(d)
                phi[k] += weight * (S[with_part(z, k)] - S[z])
    return phi


def ridge_regression(z: np.ndarray, y: np.ndarray, w: np.ndarray, penalty: np.ndarray) -> np.ndarray:
    """argmin_b sum_i w_i (y_i - z_i b)^2 + sum_k penalty_k b_k^2, as least squares of more rows."""
    rows = np.concatenate([z * np.sqrt(w)[:, None], np.diag(np.sqrt(penalty))])
    return np.linalg.lstsq(rows, np.concatenate([y * np.sqrt(w), np.zeros(len(penalty))]), rcond=None)[0]


def coverage(method: SampledMap, truth: Tensor, runs: int = RUNS) -> float:
    """How often a value is within 1.96 of its standard errors of the truth, over seeds and values."""
    model, x = curved()
    held = []
    with chunks.fixed(128):
        for seed in range(runs):
            found = replace(method, seed=seed).attribute(model, x, 1)
            off = (found.maps.flatten() - truth.flatten()).abs()
            held.append(off <= 1.96 * found.notes.maps[ERROR].flatten())
    return float(torch.stack(held).double().mean())


def repeats(method: SampledMap, of: Callable[[], tuple[nn.Module, Tensor]] = curved) -> None:
    """The same seed gives the same bits, whatever the chunks to rounding, and another seed other values."""
    model, x = of()
    maps = method(model, x, 1)
    assert torch.equal(method(model, x, 1), maps)
    for rows in (1, 3):
        with chunks.fixed(rows):
            assert torch.allclose(method(model, x, 1), maps, rtol=1e-9, atol=1e-12)
    assert not torch.allclose(replace(method, seed=method.seed + 1)(model, x, 1), maps, rtol=1e-6)
