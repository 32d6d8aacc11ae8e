"""How far maps move when images move: known for maps that are known."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from deepviz.errors import DeepVizWarning
from deepviz.methods import GradCAM, Gradient, GradTimesImage, Method
from deepviz.metrics import AvgSensitivity, EdgeDetector, MaxSensitivity
from networks import CASES, assert_same

CASE = CASES["plain"]
MODEL, X = CASE.model(), CASE.images(3)
BOTH = pytest.mark.parametrize("metric", [MaxSensitivity(samples=4), AvgSensitivity(samples=4)], ids=str)


@dataclass(frozen=True)
class TheImage(Method):
    """The image itself."""

    def maps(self, session):
        return session.image()


def moves(x, metric):
    """d_k by the definition: uniform within the radius, the same draws for every row."""
    r = metric.radius * (x.amax((1, 2, 3), keepdim=True) - x.amin((1, 2, 3), keepdim=True))
    for k in range(metric.samples):
        generator = torch.Generator().manual_seed(metric.seed * 1_000_003 + k)
        yield r * (2 * torch.rand(x.shape[1:], generator=generator) - 1).to(x)


@BOTH
def test_a_map_that_is_the_image_moves_as_the_image_does(metric):
    distances = torch.stack([d.flatten(1).norm(dim=1) / X.flatten(1).norm(dim=1) for d in moves(X, metric)])
    expected = distances.amax(0) if isinstance(metric, MaxSensitivity) else distances.mean(0)
    assert_same(metric(MODEL, X, TheImage(), 1), expected, 1e-12)


@BOTH
def test_it_is_relative(metric):
    @dataclass(frozen=True)
    class Larger(Method):
        def maps(self, session):
            x = session.image()
            return 50 * x

    assert_same(metric(MODEL, X, Larger(), 1), metric(MODEL, X, TheImage(), 1), 1e-9)


@BOTH
def test_what_the_picture_leaves_out_makes_no_map_steady(metric):
    """A map that is drawn from its lowest value up moves as it is drawn, whatever is added to all of its values."""

    @dataclass(frozen=True)
    class Raised(Method):
        by: float = 0.0

        def maps(self, session):
            return session.image().sum(1, keepdim=True) + self.by

        @property
        def view(self):
            return "range"

    assert_same(metric(MODEL, X, Raised(by=1000), 1), metric(MODEL, X, Raised(), 1), 1e-9)


@BOTH
def test_a_linear_models_gradient_does_not_move(metric):
    linear = nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 12, 4)).double()
    assert metric(linear, X, Gradient(), 1).tolist() == [0, 0, 0]
    assert float(metric(linear, X, GradTimesImage(), 1).min()) > 0.001


def test_by_hand_with_the_class_and_the_layer_of_the_image_itself():
    metric = AvgSensitivity(samples=3, radius=0.5)
    classes = MODEL(X).argmax(1)
    whole = GradCAM().attribute(MODEL, X, classes)
    layer = whole.notes.facts["layer"]
    distances = [
        (GradCAM(layer)(MODEL, X + d, classes) - whole.maps).flatten(1).norm(dim=1) / whole.maps.flatten(1).norm(dim=1)
        for d in moves(X, metric)
    ]
    assert_same(metric(MODEL, X, GradCAM()), torch.stack(distances).mean(0), 1e-9)


def test_the_largest_is_at_least_the_mean_and_grows_with_the_radius():
    most, mean = MaxSensitivity()(MODEL, X, Gradient(), 1), AvgSensitivity()(MODEL, X, Gradient(), 1)
    assert bool((most >= mean).all())
    wide = AvgSensitivity(radius=0.3)(MODEL, X, GradTimesImage(), 1)
    assert bool((wide > AvgSensitivity(radius=0.003)(MODEL, X, GradTimesImage(), 1)).all())


def test_captums_is_the_same_for_the_same_draws():
    captum = pytest.importorskip("captum.metrics")
    metric = MaxSensitivity(samples=4)
    draws = iter(list(moves(X, metric)))

    def perturb(x):
        return x + next(draws)

    def explain(x):
        return (Gradient()(MODEL, x[0] if isinstance(x, tuple) else x, 1),)

    theirs = captum.sensitivity_max(explain, X, perturb_func=perturb, n_perturb_samples=4, max_examples_per_batch=3)
    assert_same(metric(MODEL, X, Gradient(), 1), theirs, 1e-6)


def test_a_map_of_nothing_is_said_to_be_so():
    @dataclass(frozen=True)
    class Nothing(Method):
        def maps(self, session):
            x = session.image()
            return 0 * x

    with pytest.warns(DeepVizWarning, match="all zero"):
        assert MaxSensitivity(samples=2)(MODEL, X, Nothing(), 1).tolist() == [0, 0, 0]


def test_the_edge_detector_is_judged_too():
    assert float(MaxSensitivity(samples=2)(MODEL, X, EdgeDetector(), 1).max()) > 0


@pytest.mark.parametrize("options", [{"samples": 0}, {"radius": 0.0}])
def test_options_that_are_none(options):
    with pytest.raises(ValueError, match="must be"):
        MaxSensitivity(**options)


def test_of_a_model_of_half_precision_they_are_float32():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3)).bfloat16()
    x = torch.rand(2, 3, 2, 2).bfloat16()
    for metric in (MaxSensitivity(samples=2), AvgSensitivity(samples=2)):
        assert metric(model, x, GradTimesImage(), 0).dtype == torch.float32
