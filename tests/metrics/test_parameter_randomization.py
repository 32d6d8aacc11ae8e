"""Parameter randomisation: exact where one layer is all there is, 1 for what ignores the model, and nobody is hurt."""

from dataclasses import dataclass, field
from typing import Any, get_args

import pytest
import torch
from torch import nn

from deepviz.errors import DeepVizWarning, ModelError
from deepviz.methods import GradCAM, Gradient, GradTimesImage, GuidedGradCAM, SmoothGrad
from deepviz.methods.method import Method
from deepviz.metrics.efficient_randomization import EfficientRandomization
from deepviz.metrics.parameter_randomization import MapSimilarity, ParameterRandomization
from deepviz.metrics.similarity import SIMILARITIES, absolute_spearman
from deepviz.models.weights import weights_hash
from networks import CASES, assert_same, plain

X = torch.rand(3, 3, 16, 12, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def net():
    torch.manual_seed(1)
    return plain().eval()


def linear(height=16, width=12, classes=5):
    torch.manual_seed(2)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * height * width, classes))


@dataclass(frozen=True)
class InputEdges(Method):
    """Draws the image's edges, whatever the model."""

    def maps(self, session):
        x = session.image()
        return torch.nn.functional.pad(x.diff(dim=3), (0, 1)).abs()


@dataclass(frozen=True)
class Watched(Method):
    """The gradient, with a list of what it was called with; it may raise, or break, at one of the calls."""

    seen: list = field(default_factory=list)
    at: int = -1
    error: BaseException | None = None
    value: Any = None

    def maps(self, session):
        x = session.image()
        self.seen.append(
            (
                session.model,
                {name: value.clone() for name, value in session.model.state_dict().items()},
                session.score.indices.clone(),
            )
        )
        if len(self.seen) - 1 == self.at:
            if self.error is not None:
                raise self.error
            if self.value is not None:
                return torch.full_like(x, self.value)
        return Gradient().maps(session)


def test_of_one_layer_it_is_the_same_draw_by_hand():
    model = linear()
    generator = torch.Generator().manual_seed(7 * 1_000_003)
    bound = 576**-0.5
    drawn = torch.empty(5, 576, dtype=torch.float64).uniform_(-bound, bound, generator=generator).float()
    target = torch.tensor([0, 2, 4])
    old, new = (W[target].view(3, 3, 16, 12).abs().amax(1) for W in (model[1].weight.detach(), drawn))
    curve = ParameterRandomization(seed=7).curve(model, X, Gradient(), target, maps=True)
    assert curve.stages == ("trained", "1")
    assert curve.shares == (0.0, 1.0)
    assert torch.equal(curve.maps[0], old)
    assert torch.equal(curve.maps[1], new)
    assert torch.equal(curve.similarities, torch.stack([torch.ones(3), absolute_spearman(old, new)], 1))
    assert torch.equal(ParameterRandomization(seed=7)(model, X, Gradient(), target), absolute_spearman(old, new))


def test_a_linear_models_gradients_are_as_alike_as_independent_weights():
    # ranks of n independent values correlate with mean 0 and standard deviation 1 / sqrt(n - 1)
    model, x = linear(24, 24, classes=40), torch.zeros(40, 3, 24, 24)
    found = ParameterRandomization()(model, x, Gradient(), torch.arange(40)) * (24 * 24 - 1) ** 0.5
    assert float(found.mean()) == pytest.approx(0, abs=4 / 40**0.5)
    assert float(found.std()) == pytest.approx(1, abs=0.4)


@pytest.mark.parametrize("mode", ["cascading", "independent"])
@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_what_draws_the_inputs_edges_stays_the_same_at_every_stage(net, similarity, mode):
    metric = ParameterRandomization(mode, similarity, stages=None)
    found = metric.curve(net, X, InputEdges()).similarities
    assert_same(found, torch.ones(3, 4), 1e-9)
    assert_same(metric(net, X, InputEdges()), torch.ones(3), 1e-9)


def test_the_last_stage_has_no_parameter_of_the_original(net):
    method = Watched()
    ParameterRandomization(stages=None).curve(net, X, method)
    (model, before, _), *stages = method.seen
    assert model is net
    assert len(stages) == 3
    storages = {parameter.data_ptr() for parameter in net.parameters()}
    for copy, _, _ in stages:
        assert not storages & {parameter.data_ptr() for parameter in copy.parameters()}
    changed = [{name for name in before if not torch.equal(before[name], after[name])} for _, after, _ in stages]
    assert changed == [{"6.weight", "6.bias"}, {"2.weight", "2.bias", "6.weight", "6.bias"}, set(before)]
    shared = [set(before[name].flatten().tolist()) & set(stages[-1][1][name].flatten().tolist()) for name in before]
    assert shared == [set()] * len(before)


def test_independent_randomises_one_layer_at_a_time(net):
    method = Watched()
    curve = ParameterRandomization("independent", stages=None).curve(net, X, method)
    (_, before, _), *stages = method.seen
    changed = [{name for name in before if not torch.equal(before[name], after[name])} for _, after, _ in stages]
    assert changed == [{f"{layer}.weight", f"{layer}.bias"} for layer in curve.stages[1:]]
    value = ParameterRandomization("independent", stages=None)(net, X, Gradient())
    assert torch.equal(value, curve.similarities[:, 1:].mean(1))


def test_the_class_stays_the_one_that_the_trained_network_predicted(net):
    method = Watched()
    predicted = net(X).argmax(1)
    ParameterRandomization(stages=None)(net, X, method)
    ParameterRandomization(stages=None).curve(net, X, method)
    assert len(method.seen) == 2 + 4
    assert all(torch.equal(indices, predicted) for *_, indices in method.seen)
    assert not all(torch.equal(model(X).argmax(1), predicted) for model, *_ in method.seen)


class Gated(nn.Module):
    """What it has learned lets a gradient through its last feature map; with new weights only its first has one."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, stride=2), nn.Conv2d(4, 4, 3, padding=1)
        self.norm, self.head = nn.GroupNorm(1, 4), nn.Linear(4, 5)
        nn.init.constant_(self.norm.bias, 60)

    def forward(self, x):
        first = self.first(x)
        last = self.norm(self.second(first))
        return self.head((first + (last - 50).relu()).mean((2, 3)))


@pytest.mark.filterwarnings("ignore:.*random network is constant")
@pytest.mark.parametrize("of", [GradCAM, GuidedGradCAM])
def test_the_layer_stays_the_one_that_was_found_in_the_trained_network(of):
    torch.manual_seed(4)
    net = Gated()
    metric = ParameterRandomization(stages=1, seed=1)
    assert of().attribute(net, X, 1).notes.facts["layer"] == "norm"
    found, named = (metric.curve(net, X, method, 1, maps=True).maps for method in (of(), of(layer="norm")))
    assert torch.equal(found[-1], named[-1])
    assert found[-1].abs().amax() == 0
    elsewhere = metric.curve(net, X, of(layer="first"), 1, maps=True).maps
    assert elsewhere[-1].abs().amax() > 0
    inside = metric.curve(net, X, SmoothGrad(of=of(), samples=2), 1, maps=True).maps
    assert inside[-1].abs().amax() == 0


@pytest.mark.parametrize("of", [GradCAM, lambda layer: SmoothGrad(of=GradCAM(layer), samples=2)])
@pytest.mark.parametrize("metric", [ParameterRandomization(stages=2), EfficientRandomization()])
def test_a_layer_given_as_a_module_is_that_of_its_name(net, metric, of):
    """The randomised copy has other modules than the model that the layer is of."""
    assert_same(metric(net, X, of(net[3])), metric(net, X, of("3")), 0)


def test_maps_are_compared_as_they_are_drawn(net):
    for method, drawn in ((Gradient(), lambda R: R.abs().amax(1)), (GradTimesImage(), lambda R: R.sum(1))):
        maps = ParameterRandomization().curve(net, X, method, target=2, maps=True).maps
        assert torch.equal(maps[0], drawn(method(net, X, 2)))


def test_however_many_stages_the_end_is_the_same(net):
    ends = [ParameterRandomization(stages=n).curve(net, X, Gradient()).similarities[:, -1] for n in (None, 1, 2, 16)]
    ends.append(ParameterRandomization()(net, X, Gradient()))
    assert all(torch.equal(end, ends[0]) for end in ends)
    assert not torch.equal(ParameterRandomization(seed=1)(net, X, Gradient()), ends[0])


@pytest.mark.parametrize("name", list(CASES))
def test_every_way_of_writing_a_network_can_be_tested(name):
    case = CASES[name]
    model, x = case.model(), case.images()
    fingerprint = weights_hash(model)
    metric = ParameterRandomization("independent", stages=3)
    found = metric(model, x, Gradient())
    assert bool((found.abs() < 0.999).all())
    assert_same(metric(model, x[1:2], Gradient()), found[1:2], 1e-9)
    assert weights_hash(model) == fingerprint


@pytest.mark.parametrize("options", [{}, {"samples": 3}, {"mode": "independent"}, {"similarity": "ssim"}], ids=str)
def test_a_row_alone_is_the_row_in_the_batch(net, options):
    metric = ParameterRandomization(**options)
    together = metric(net.double(), X.double(), Gradient())
    alone = torch.cat([metric(net, X[i : i + 1].double(), Gradient()) for i in range(3)])
    assert_same(alone, together, 1e-9)


def test_smooth_maps_are_means_over_the_same_noise(net):
    maps = ParameterRandomization(samples=4, noise=0.2, seed=5).curve(net, X, Gradient(), target=1, maps=True).maps
    s = 0.2 * (X.amax((1, 2, 3), keepdim=True) - X.amin((1, 2, 3), keepdim=True))
    e = [torch.randn(3, 16, 12, generator=torch.Generator().manual_seed(5 * 1_000_003 + i)) for i in range(4)]
    mean = torch.stack([Gradient()(net, X + s * noise, 1) for noise in e]).mean(0)
    assert_same(maps[0], mean.abs().amax(1), 1e-6)


def test_noise_on_the_image_does_not_move_a_linear_models_maps():
    model = linear().double()
    once, often = (ParameterRandomization(samples=n)(model, X.double(), Gradient(), 1) for n in (1, 5))
    assert_same(once, often, 1e-9)


def test_a_map_that_is_the_same_everywhere_is_unlike_and_said_so(net):
    with pytest.warns(DeepVizWarning, match="of a random network is constant"):
        found = ParameterRandomization()(net, X, Watched(at=1, value=0.0))
    assert found.tolist() == [0, 0, 0]
    with pytest.warns(DeepVizWarning, match="of the trained network is constant"):
        found = ParameterRandomization()(net, X, Watched(at=0, value=0.5))
    assert found.tolist() == [0, 0, 0]


@dataclass(frozen=True)
class Constant(Method):
    def maps(self, session):
        x = session.image()
        return torch.ones_like(x)


@pytest.mark.filterwarnings("ignore::deepviz.errors.DeepVizWarning")
def test_two_maps_that_are_the_same_everywhere_are_alike(net):
    assert ParameterRandomization()(net, X, Constant()).tolist() == [1, 1, 1]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("broken")], ids=repr)
@pytest.mark.parametrize("at", [0, 1, 2])
def test_the_model_is_given_back_bit_for_bit_whatever_happens(net, at, error):
    net.train()
    net[1].eval()
    fingerprint, modes = weights_hash(net), [module.training for module in net.modules()]
    state, image = torch.get_rng_state(), X.clone()
    with pytest.raises(type(error)):
        ParameterRandomization(stages=None).curve(net, X, Watched(at=at, error=error))
    assert weights_hash(net) == fingerprint
    assert [module.training for module in net.modules()] == modes
    assert not any(module._forward_hooks for module in net.modules())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(X, image)
    assert all(parameter.grad is None for parameter in net.parameters())


def test_a_random_network_without_finite_maps_is_an_error_that_names_the_stage(net):
    with pytest.raises(ModelError, match=r"with random weights from the output to '2': Watched gave NaN.*another seed"):
        ParameterRandomization(stages=None).curve(net, X, Watched(at=2, value=float("nan")))


def test_a_callable_target_is_asked_of_the_random_network_too(net):
    found = ParameterRandomization()(net, X, Gradient(), lambda output: output[:, 1])
    assert torch.equal(found, ParameterRandomization()(net, X, Gradient(), 1))


def test_every_similarity_can_be_asked_for():
    assert set(get_args(MapSimilarity)) == set(SIMILARITIES)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "both"}, "mode must be"),
        ({"similarity": "mse"}, "similarity must be"),
        ({"stages": 0}, "stages must be"),
        ({"samples": 0}, "samples must be"),
        ({"noise": 0.0}, "noise must be"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        ParameterRandomization(**options)


def test_a_map_is_not_a_method(net):
    with pytest.raises(TypeError, match="judges a method"):
        ParameterRandomization()(net, X, torch.rand_like(X))
    with pytest.raises(TypeError, match="judges a method"):
        ParameterRandomization().curve(net, X, torch.rand_like(X))
