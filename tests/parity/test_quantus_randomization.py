"""Quantus 0.6: its rank correlation, and its complexity of a map; what it randomises with is not the same draw."""

import pytest
import torch

from deepviz.methods import Gradient
from deepviz.metrics.efficient_randomization import EfficientRandomization, histogram_entropy
from deepviz.metrics.parameter_randomization import ParameterRandomization
from deepviz.metrics.similarity import spearman
from networks import CASES

quantus = pytest.importorskip("quantus")
from quantus.functions.complexity_func import discrete_entropy  # noqa: E402
from quantus.functions.similarity_func import correlation_spearman  # noqa: E402

CASE = CASES["plain"]


@pytest.fixture
def maps():
    """Of the trained and of the random network, as they are drawn."""
    curve = ParameterRandomization(seed=3).curve(CASE.model(), CASE.images(), Gradient(), maps=True)
    return curve.maps[0], curve.maps[-1]


@pytest.mark.parametrize("decimals", [8, 1], ids=["no ties", "ties"])
def test_rank_correlation(maps, decimals):
    trained, random = (of.div(of.amax()).round(decimals=decimals) for of in maps)
    theirs = [
        correlation_spearman(a.flatten().numpy(), b.flatten().numpy()) for a, b in zip(trained, random, strict=True)
    ]
    assert spearman(trained, random).tolist() == pytest.approx(theirs, abs=1e-4)


def test_the_relative_rise_of_the_histograms_entropy(maps):
    H, H_r = ([float(discrete_entropy(a=one.numpy(), x=one.numpy(), n_bins=100)) for one in of] for of in maps)
    assert histogram_entropy(maps[0], 100).tolist() == pytest.approx(H, abs=1e-4)
    found = EfficientRandomization(seed=3)(CASE.model(), CASE.images(), Gradient())
    assert found.tolist() == pytest.approx([(b - a) / a for a, b in zip(H, H_r, strict=True)], abs=1e-4)


def test_a_rank_correlation_of_random_draws():
    a, b = torch.randn(2, 4, 200, generator=torch.Generator().manual_seed(0))
    theirs = correlation_spearman(a.numpy(), b.numpy(), batched=True)
    assert spearman(a.view(4, 10, 20), b.view(4, 10, 20)).tolist() == pytest.approx(list(theirs), abs=1e-4)
