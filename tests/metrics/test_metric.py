"""What maps become before they are judged, and how metrics are named and given their baselines."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from deepviz import catalog
from deepviz.errors import ModelError
from deepviz.methods import Gradient
from deepviz.metrics import (
    ROAD,
    Completeness,
    Deletion,
    EfficientRandomization,
    FaithfulnessCorrelation,
    Infidelity,
    Insertion,
    MaxSensitivity,
    Metric,
    ParameterRandomization,
    Sparseness,
)
from deepviz.metrics.metric import judging, per_pixel, per_value
from networks import CASES, assert_same
from small_models import network

CASE = CASES["plain"]
X = CASE.images(2)


def test_a_value_per_pixel_is_the_signed_sum_or_the_largest_magnitude():
    maps = torch.tensor([1.0, -3.0, 1.5]).view(1, 3, 1, 1).expand(2, 3, 12, 12)
    assert per_pixel(maps, X)[0, 0, 0] == -0.5
    assert per_pixel(maps, X, "magnitude")[0, 0, 0] == 3


def test_a_layers_map_is_enlarged_bilinearly():
    coarse = torch.randn(2, 1, 3, 4, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(coarse, (12, 12), mode="bilinear", align_corners=False)[:, 0]
    assert_same(per_pixel(coarse, X), expected, 1e-9)


def test_a_value_per_value_keeps_the_sum_of_each_pixel():
    drawn = torch.randn(2, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    shared = per_value(drawn, X)
    assert shared.shape == X.shape
    assert_same(shared.sum(1, keepdim=True), drawn, 1e-6)
    maps = torch.randn(X.shape)
    assert torch.equal(per_value(maps, X), maps)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_half_precision_maps_are_judged_in_float32(dtype):
    expected = torch.float64 if dtype == torch.float64 else torch.float32
    assert per_pixel(torch.ones(2, 3, 12, 12, dtype=dtype), X).dtype == expected
    assert per_value(torch.ones(2, 3, 12, 12, dtype=dtype), X).dtype == expected


def test_a_name_says_what_is_not_as_usual():
    assert str(Deletion()) == "Deletion"
    assert str(Deletion(steps=9, baseline="blur")) == "Deletion, steps 9, baseline blur"
    assert str(Insertion(baseline="blur")) == "Insertion"


def test_a_baseline_by_name_becomes_what_it_is_in_the_inputs_space():
    model, maps = CASE.model(), torch.rand(X.shape)
    colours = {"black": torch.tensor([-2.0, -1.0, 0.5]).double().view(3, 1, 1)}
    metric = Completeness(baseline="black")
    with pytest.raises(ValueError, match="black"):
        metric(model, X, maps, 1)  # a bare module does not know what is black
    change = (model(X) - model(colours["black"].expand(X.shape)))[:, 1].detach()
    expected = (maps.sum((1, 2, 3)) - change).abs() / change.abs()
    assert_same(metric.resolve_baseline(colours.__getitem__)(model, X, maps, 1), expected, 1e-6)
    for other in (Completeness(baseline=0.3), Completeness(baseline="blur")):
        assert other.resolve_baseline(colours.__getitem__) == other


def test_what_is_not_finite_is_said():
    @dataclass(frozen=True)
    class Broken(Metric):
        def measure(self, subject, attribution):
            return attribution.sum((1, 2, 3)) / 0

    with pytest.raises(ModelError, match="Broken came out as NaN"):
        Broken()(CASE.model(), X, torch.ones(X.shape), 1)


class CountingRows(nn.Module):
    """Counts the rows that go through it and its copies, so in a list that copies share."""

    rows: ClassVar[list[int]] = []

    def __init__(self):
        super().__init__()
        self.body = network()

    def forward(self, x):
        self.rows.append(len(x))
        return self.body(x)


@pytest.mark.parametrize(
    "metric",
    [
        Deletion(steps=7),
        Insertion(steps=7),
        ROAD(steps=5),
        FaithfulnessCorrelation(subsets=6),
        Infidelity(samples=6),
        Completeness(),
        Sparseness(),
        MaxSensitivity(samples=3),
        EfficientRandomization(),
        ParameterRandomization(),
        ParameterRandomization(mode="independent", stages=3, samples=2),
    ],
    ids=catalog.spell,
)
def test_the_passes_are_those_that_another_map_costs(metric):
    """Of a second map of the same image: what all maps share is found with the first. A gradient is two passes."""
    model, method = CountingRows().eval(), Gradient()
    x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    judged = method if metric.judges == "method" else method(model, x, 1)
    with judging(model, x, 1) as session:
        metric.measure(session, judged)
        CountingRows.rows.clear()
        metric.measure(session, judged)
    forwards = sum(CountingRows.rows)
    if isinstance(metric, (EfficientRandomization, ParameterRandomization)):
        forwards -= 1  # to see in which order the layers run
    assert metric.passes(method) == (2 * forwards if metric.judges == "method" else forwards)
