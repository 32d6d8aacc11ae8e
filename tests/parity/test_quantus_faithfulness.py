"""Quantus 0.6: pixel flipping, faithfulness correlation and ROAD's imputation, the same numbers for the same draws."""

import numpy as np
import pytest
import torch

from deepviz.methods import Gradient
from deepviz.metrics import Deletion, FaithfulnessCorrelation
from deepviz.metrics.curves import ranks
from deepviz.probe.imputation import imputed
from networks import CASES, Case, plain

quantus = pytest.importorskip("quantus")
from quantus.functions.perturb_func import noisy_linear_imputation  # noqa: E402

# Quantus ranks and draws values, not pixels: with one channel they are the same
CASE = Case(lambda: plain(channels=1), (1, 12, 12))
MODEL, X = CASE.model(torch.float32).eval(), CASE.images(3, torch.float32)
CLASSES = torch.tensor([1, 4, 0])
MAPS = Gradient()(MODEL, X, CLASSES)


def theirs(metric, rows=slice(None), softmax=False):
    return metric(
        model=MODEL,
        x_batch=X[rows].numpy().copy(),
        y_batch=CLASSES[rows].numpy(),
        a_batch=MAPS[rows].numpy().copy(),
        softmax=softmax,
        device="cpu",
    )


@pytest.mark.parametrize("value", ["score", "probability"])
def test_pixel_flipping_is_the_curve_of_deletion_after_its_first_point(value):
    flipping = quantus.PixelFlipping(
        features_in_step=12,
        perturb_baseline=0.3,
        abs=False,
        normalise=False,
        return_auc_per_sample=False,
        disable_warnings=True,
    )
    found = Deletion(steps=12, baseline=0.3, value=value).curve(MODEL, X, MAPS, CLASSES)
    expected = np.asarray(theirs(flipping, softmax=value == "probability"))
    assert found[:, 1:].numpy() == pytest.approx(expected, abs=1e-4)


def test_faithfulness_correlation(monkeypatch):
    metric = FaithfulnessCorrelation(subsets=9, share=0.25, baseline=0.3, seed=5)
    found = metric(MODEL, X, MAPS, CLASSES)
    for row in range(3):
        sets = iter(
            torch.randperm(144, generator=torch.Generator().manual_seed(5 * 1_000_003 + k))[:36].numpy()
            for k in range(9)
        )
        monkeypatch.setattr(np.random, "choice", lambda *_, of=sets, **__: next(of))
        correlation = quantus.FaithfulnessCorrelation(
            nr_runs=9, subset_size=36, perturb_baseline=0.3, abs=False, normalise=False, disable_warnings=True
        )
        expected = theirs(correlation, slice(row, row + 1))
        assert float(found[row]) == pytest.approx(float(np.ravel(expected)[0]), abs=1e-4)


@pytest.mark.filterwarnings("default")  # of scipy, about the form of the sparse matrix
@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_roads_imputation(share):
    x = CASES["plain"].images(1)[0]
    values = torch.randn(1, 12, 12, generator=torch.Generator().manual_seed(2))
    removed = ranks(values, 0) < share * 144
    indices = removed.flatten().nonzero()[:, 0].numpy()
    expected = noisy_linear_imputation(arr=x.numpy(), indices=indices, noise=0.0)
    assert imputed(x[None], removed, tolerance=1e-10)[0].numpy() == pytest.approx(expected, abs=1e-6)
    assert imputed(x[None], removed)[0].numpy() == pytest.approx(expected, abs=2e-3)
