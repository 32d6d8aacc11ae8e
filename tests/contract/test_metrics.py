"""What every metric of the catalog keeps to."""

import warnings

import pytest
import torch

from deepviz import catalog
from deepviz.errors import DeepVizWarning, TargetError
from deepviz.methods import Gradient
from deepviz.metrics.region import RegionMetric
from deepviz.models.weights import weights_hash
from networks import CASES, assert_same

CASE = CASES["plain"]
X = CASE.images(3).float()
TARGET = torch.tensor([1, 4, 0])
SMALL = {"steps": 4, "samples": 3, "stages": 2, "k": 10, "subsets": 6}
"""Options that make a metric quick, where it has them."""


def quick(cls):
    own = {option.name for option in catalog.options(cls)}
    given = {name: value for name, value in SMALL.items() if name in own}
    if issubclass(cls, RegionMetric):
        given["inside"] = torch.tensor([1, 1, 5, 6])
    return cls(**given)


METRICS = pytest.mark.parametrize("metric", [quick(cls) for cls in catalog.METRICS.values()], ids=list(catalog.METRICS))


def model():
    return CASE.model().float()


def judged(metric, module, x, target=TARGET):
    """What the metric says of Gradient."""
    given = Gradient() if metric.judges == "method" else Gradient()(module, x, target)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeepVizWarning)
        return metric(module, x, given, target)


@METRICS
def test_one_finite_value_a_row_within_its_range(metric):
    found = judged(metric, model(), X)
    assert found.shape == (3,)
    assert bool(torch.isfinite(found).all())
    low, high = metric.range
    assert bool(((found >= low - 1e-6) & (found <= high + 1e-6)).all())
    assert not found.requires_grad
    assert not found.is_inference()


@METRICS
def test_a_row_does_not_depend_on_the_others(metric):
    together = judged(metric, model(), X)
    alone = torch.cat([judged(metric, model(), X[row : row + 1], TARGET[row : row + 1]) for row in range(3)])
    assert_same(alone, together, 1e-4)


@METRICS
def test_twice_is_the_same(metric):
    assert torch.equal(judged(metric, model(), X), judged(metric, model(), X))


@METRICS
def test_the_model_and_the_image_are_given_back(metric):
    module = model().train()
    fingerprint, state, before = weights_hash(module), torch.get_rng_state(), X.clone()
    with torch.no_grad():
        judged(metric, module, X)
    assert weights_hash(module) == fingerprint
    assert module.training
    assert all(parameter.grad is None for parameter in module.parameters())
    assert not any(one._forward_hooks or one._forward_pre_hooks for one in module.modules())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(X, before)
    assert torch.is_grad_enabled()


@METRICS
def test_maps_and_methods_are_not_confused(metric):
    maps = Gradient()(model(), X, TARGET)
    with pytest.raises(TypeError, match="judges a"):
        metric(model(), X, maps if metric.judges == "method" else Gradient(), TARGET)
    with pytest.raises(TypeError, match="swapped"):
        metric(X, model(), maps, TARGET)


@METRICS
def test_several_targets_a_row_and_unknown_classes_are_refused(metric):
    given = Gradient() if metric.judges == "method" else Gradient()(model(), X, TARGET)
    with pytest.raises(ValueError, match="one target per row"):
        metric(model(), X, given, TARGET[:, None].expand(3, 2))
    if "forward" in metric.cost or metric.judges == "method":
        with pytest.raises(TargetError, match="out of range"):
            metric(model(), X, given, 99)


@pytest.mark.parametrize(
    ("maps", "said"),
    [
        (torch.ones(2, 3, 12, 12), "attribution must be"),
        (torch.ones(3, 3, 5, 5), "attribution must be"),
        (torch.ones(3, 1, 12, 12, dtype=torch.long), "floating"),
        (torch.full((3, 1, 12, 12), float("nan")), "NaN"),
    ],
)
@METRICS
def test_maps_that_do_not_fit_are_refused(metric, maps, said):
    if metric.judges == "map":
        with pytest.raises(ValueError, match=said):
            metric(model(), X, maps, TARGET)


@METRICS
def test_a_map_that_is_zero_everywhere_has_a_value(metric):
    if metric.judges == "map":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeepVizWarning)
            assert bool(torch.isfinite(metric(model(), X, torch.zeros(3, 1, 12, 12), TARGET)).all())


@METRICS
def test_what_tables_and_pages_need_is_there(metric):
    assert str(metric).startswith(metric.title)
    assert metric.paper
    assert metric.cost
    assert metric.better in ("higher", "lower")
    assert all(option.help for option in catalog.options(type(metric)))
