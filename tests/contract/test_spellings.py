"""A ReLU is a ReLU, however it is written: every spelling gives the same map."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from deepviz.methods import Deconvolution, GuidedBackprop
from networks import METHODS, Case, assert_same

pytestmark = pytest.mark.filterwarnings("ignore::deepviz.errors.DeepVizWarning")
methods = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())


def thrown_away(operator):
    """The operator works in place, and its return value is not used."""

    def act(h):
        operator(h)
        return h

    return act


class Wrapped(nn.Module):
    """The spelling as a module of its own, which is called twice."""

    def __init__(self, act):
        super().__init__()
        self.act = act

    def forward(self, h):
        return self.act(h)


SPELLINGS = {
    "nn.ReLU": nn.ReLU(),
    "nn.ReLU(inplace=True)": nn.ReLU(inplace=True),
    "nn.ReLU(inplace=True), thrown away": thrown_away(nn.ReLU(inplace=True)),
    "F.relu": F.relu,
    "F.relu(input=)": lambda h: F.relu(input=h),
    "F.relu(inplace=True)": lambda h: F.relu(h, inplace=True),
    "F.relu(inplace=True), thrown away": thrown_away(lambda h: F.relu(h, inplace=True)),
    "F.relu_": F.relu_,
    "torch.relu": torch.relu,
    "torch.relu_": torch.relu_,
    "torch.relu_, thrown away": thrown_away(torch.relu_),
    "x.relu": lambda h: h.relu(),
    "x.relu_": lambda h: h.relu_(),
    "x.relu_, thrown away": thrown_away(lambda h: h.relu_()),
    "x.clamp(min=0)": lambda h: h.clamp(min=0),
    "x.clamp(0)": lambda h: h.clamp(0),
    "x.clamp_(min=0), thrown away": thrown_away(lambda h: h.clamp_(min=0)),
    "x.clamp_min(0)": lambda h: h.clamp_min(0),
    "x.clamp_min_(0)": lambda h: h.clamp_min_(0),
    "torch.clamp(min=0.0)": lambda h: torch.clamp(h, min=0.0),
    "torch.clamp(input=, min=0)": lambda h: torch.clamp(input=h, min=0),
    "torch.clip(min=0)": lambda h: torch.clip(h, min=0),
    "clamp(min=0, max=inf)": lambda h: h.clamp(0, float("inf")),
    "F.threshold": lambda h: F.threshold(h, 0, 0),
    "F.threshold(inplace=True)": lambda h: F.threshold(h, 0.0, 0.0, True),
    "nn.Threshold": nn.Threshold(0, 0),
    "F.hardtanh(0, inf)": lambda h: F.hardtanh(h, 0.0, float("inf")),
    "aten.relu": torch.ops.aten.relu,
    "aten.relu.default": torch.ops.aten.relu.default,
    "aten.relu_, thrown away": thrown_away(torch.ops.aten.relu_),
    "aten.clamp_min": lambda h: torch.ops.aten.clamp_min(h, 0),
    "aten.clamp.default": lambda h: torch.ops.aten.clamp.default(h, 0),
    "aten.threshold": lambda h: torch.ops.aten.threshold(h, 0, 0),
    "in place on a view": lambda h: F.relu(h.view(h.shape), inplace=True),
    "in place on a view, thrown away": thrown_away(lambda h: F.relu(h.view(h.shape), inplace=True)),
}
BOUNDED = {
    "nn.ReLU6": nn.ReLU6(),
    "nn.ReLU6(inplace=True)": nn.ReLU6(inplace=True),
    "F.relu6": F.relu6,
    "F.relu6(inplace=True), thrown away": thrown_away(lambda h: F.relu6(h, inplace=True)),
    "nn.Hardtanh": nn.Hardtanh(0, 6),
    "F.hardtanh_": lambda h: F.hardtanh_(h, 0, 6),
    "clamp(0, 6)": lambda h: h.clamp(0, 6),
    "clamp_(0, 6), thrown away": thrown_away(lambda h: h.clamp_(0, 6)),
    "aten.hardtanh": lambda h: torch.ops.aten.hardtanh(h, 0, 6),
}


class Network(nn.Module):
    def __init__(self, act):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 5, 3, stride=2)
        self.act = Wrapped(act)
        self.head = nn.Linear(5 * 5 * 5, 4)

    def forward(self, x):
        return self.head(self.act(self.second(self.act(self.first(x)))).flatten(1))


class Functional(Network):
    """The same without a module around the activation, and the ReLU's result also feeds a skip."""

    def forward(self, x):
        h = self.act.act(self.first(x))
        return self.head((self.act.act(self.second(h)) + h[..., 1:-1:2, 1:-1:2].sum(1, True)).flatten(1))


def network(act, kind=Network, scale=1.0, zeros=False):
    model = Case(lambda: kind(act)).model()
    with torch.no_grad():
        model.first.weight.mul_(scale)
        if zeros:  # one channel of exact zeros before the first activation
            model.first.weight[1] = 0
            model.first.bias[1] = 0
    return model


x = Case(lambda: None).images(2)


@methods
@pytest.mark.parametrize("kind", [Network, Functional])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_gives_the_same_map(method, kind, spelling):
    if hasattr(method, "layer"):
        method = replace(method, layer="second")  # the layer found would be the activation, where that is a module
    expected = method(network(nn.ReLU(), kind), x, 2)
    assert_same(method(network(SPELLINGS[spelling], kind), x, 2), expected, 1e-12)


@pytest.mark.parametrize("method", [GuidedBackprop(), Deconvolution()], ids=str)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_gives_the_same_map_where_inputs_are_exactly_zero(method, spelling):
    expected = method(network(nn.ReLU(), zeros=True), x, 2)
    assert_same(method(network(SPELLINGS[spelling], zeros=True), x, 2), expected, 1e-12)


@methods
@pytest.mark.parametrize("spelling", BOUNDED)
def test_every_spelling_of_relu6_gives_the_same_map(method, spelling):
    expected = method(network(nn.ReLU6(), scale=10), x, 2)
    assert_same(method(network(BOUNDED[spelling], scale=10), x, 2), expected, 1e-12)


@pytest.mark.parametrize("method", [GuidedBackprop(), Deconvolution()], ids=str)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_the_receipt_counts_every_rectifier(method, spelling):
    notes = method.attribute(network(SPELLINGS[spelling]), x, 2).notes
    assert sum(notes.facts["overridden"].values()) == 2
    assert "not overridden" not in notes.facts
