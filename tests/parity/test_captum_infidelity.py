"""Captum's infidelity is ours for the same changes; its `normalize` is our `scaled`."""

import pytest
import torch

from deepviz.methods import Gradient
from deepviz.metrics import Infidelity
from networks import CASES

captum = pytest.importorskip("captum.metrics")

CASE = CASES["plain"]
MODEL, X = CASE.model(), CASE.images(3)
MAPS = Gradient()(MODEL, X, 1) + torch.randn(X.shape, generator=torch.Generator().manual_seed(3), dtype=X.dtype) / 10


@pytest.mark.parametrize("perturbation", ["noise", "square"])
@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("multiplied", [True, False])
def test_the_same_changes_the_same_number(perturbation, scaled, multiplied):
    metric = Infidelity(samples=6, perturbation=perturbation, scaled=scaled, multiplied=multiplied, seed=2)
    found = metric(MODEL, X, MAPS, 1)
    for row in range(3):
        x = X[row : row + 1]
        changes = torch.stack([drawn(metric, x[0], k) for k in range(6)])
        counted = changes / x if multiplied else changes
        expected = captum.infidelity(
            MODEL,
            lambda repeated, I=changes, told=counted: (told, repeated - I),  # noqa: E741
            x,
            MAPS[row : row + 1],
            target=1,
            n_perturb_samples=6,
            normalize=scaled,
        )
        assert float(found[row]) == pytest.approx(float(expected), rel=1e-4, abs=1e-9)


def drawn(metric, x, k):
    """I by the definition."""
    generator = torch.Generator().manual_seed(metric.seed * 1_000_003 + k)
    if metric.perturbation == "noise":
        return metric.amount * (x.amax() - x.amin()) * torch.randn(x.shape, generator=generator).to(x)
    side = round(metric.amount * 12)
    top, left = (int(torch.randint(12 - side + 1, (), generator=generator)) for _ in range(2))
    change = torch.zeros_like(x)
    change[:, top : top + side, left : left + side] = x[:, top : top + side, left : left + side]
    return change
