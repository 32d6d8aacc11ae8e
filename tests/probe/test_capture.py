"""A layer's answer and gradient against hand-written ones; every way in which a layer cannot be explained."""

from collections import namedtuple

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from deepviz.errors import LayerError, ModelFailed
from deepviz.methods import GradCAM, GuidedGradCAM
from deepviz.probe.capture import layer_and_input_gradient, layer_gradient, layer_name
from deepviz.probe.rules import Rule
from networks import CASES, Case, asked, assert_same


def captured(model, x, layer, target=1, passes=None):
    with asked(model, x, target) as session:
        assert session.habits.most is None
        if passes is not None:
            passes.clear()  # those that found it
        return session.in_layout(lambda laid: layer_gradient(laid, layer))


class Network(nn.Module):
    """S = head(mean(relu(second(...)))), in steps that a test can change."""

    def __init__(self, between=lambda h: h, after=lambda h: h):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.act, self.head = nn.ReLU(inplace=True), nn.Linear(6, 5)
        self.between, self.after = between, after

    def forward(self, x):
        h = self.between(self.first(x))
        return self.head(self.after(self.second(h)).mean((2, 3)))


case = Case(Network)


def overwritten(h):
    return F.relu(h, inplace=True)


def added(h):
    identity = h.clone()
    h += 1
    h *= 2
    return h + identity


AFTER = {
    "nothing": (lambda h: h, lambda A: torch.ones_like(A)),
    "an in-place ReLU": (overwritten, lambda A: (A > 0).double()),
    "in-place arithmetic": (added, lambda A: torch.full_like(A, 3)),
    "a view in place": (lambda h: (h.view(h.shape).mul_(2), h)[1], lambda A: torch.full_like(A, 2)),
}


@pytest.mark.parametrize("name", AFTER)
def test_a_is_what_the_layer_answered_whatever_happens_to_it_later(name):
    after, derivative = AFTER[name]
    model, x = Case(lambda: Network(after=after)).model(), case.images(2)
    A = model.second(model.first(x)).detach()
    found, gradient = captured(model, x, "second")
    assert_same(found, A, 1e-12)
    by_hand = model.head.weight[1].view(1, 6, 1, 1) * derivative(A) / 144
    assert_same(gradient, by_hand.detach(), 1e-12)


@pytest.mark.parametrize("returned", [True, False])
def test_an_in_place_layer_is_explained_at_its_output(returned):
    class InPlace(Network):
        def forward(self, x):
            h = self.second(self.first(x))
            answer = self.act(h)
            return self.head((answer if returned else h).mean((2, 3)))

    model, x = Case(InPlace).model(), case.images(2)
    A = model.second(model.first(x)).detach().relu()
    found, gradient = captured(model, x, "act")
    assert_same(found, A, 1e-12)
    assert_same(gradient, (model.head.weight[1].view(1, 6, 1, 1) / 144).expand_as(A).detach(), 1e-12)


def test_several_targets_share_one_forward_pass():
    passes = []
    model, x = Case(lambda: Network(between=lambda h: (passes.append(1), h)[1])).model(), case.images(2)
    _, gradient = captured(model, x, "second", torch.tensor([[0, 4], [3, 1]]), passes)
    assert len(passes) == 1
    assert gradient.shape == (2, 2, 6, 12, 12)
    for row, classes in enumerate([[0, 4], [3, 1]]):
        for k, target in enumerate(classes):
            assert_same(gradient[row, k, :, 0, 0], model.head.weight[target].detach() / 144, 1e-12)


def test_below_the_layer_there_is_no_graph_and_above_it_there_is():
    modes = []

    def note(h):
        modes.append((torch.is_grad_enabled(), h.requires_grad))
        return h

    model = Case(lambda: Network(between=note, after=note)).model()
    captured(model, case.images(), "second", passes=modes)
    assert modes == [(False, False), (True, True)]


def test_plain_and_guided_gradient_from_one_forward_pass():
    """At S = head(mean(relu(A))) guided and plain differ below the ReLU only by the sign of the head's weights."""
    passes = []
    after = lambda h: (passes.append(1), F.relu(h))[1]  # noqa: E731
    model, x = Case(lambda: Network(after=after)).model(), case.images(2)
    with asked(model, x, 1) as session:
        A, dA, (G,) = layer_and_input_gradient(session, "second", Rule(mask=True))
    assert len(passes) == 1
    w = model.head.weight[1].detach().view(1, 6, 1, 1)
    assert_same(dA, w * (A > 0) / 144, 1e-12)
    below = F.conv_transpose2d(w.clamp(min=0) * (A > 0) / 144, model.second.weight, padding=1)
    assert_same(G, F.conv_transpose2d(below, model.first.weight, padding=1).detach(), 1e-12)


Pair = namedtuple("Pair", ["maps", "extra"])
ANSWERS = {
    "tuple": (lambda h: (h, None), lambda answer: answer[0]),
    "list": (lambda h: [h, 1], lambda answer: answer[0]),
    "named tuple": (lambda h: Pair(h, 3), lambda answer: answer.maps),
    "dict": (lambda h: {"count": 3, "maps": h}, lambda answer: answer["maps"]),
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_a_layer_may_answer_with_a_structure(kind):
    wrap, unwrap = ANSWERS[kind]

    class Wrapping(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(6, 6, 3, padding=1)

        def forward(self, h):
            return wrap(self.conv(h))

    class Model(Network):
        def __init__(self):
            super().__init__(after=unwrap)
            self.second = Wrapping()

    model, x = Case(Model).model(), case.images(2)
    A, dA = captured(model, x, "second")
    assert_same(A, unwrap(model.second(model.first(x))).detach(), 1e-12)
    assert_same(dA, (model.head.weight[1].view(1, 6, 1, 1) / 144).expand_as(A).detach(), 1e-12)


# --------------------------------------------------------------------------------------------------- named errors


class Awkward(nn.Module):
    def __init__(self):
        super().__init__()
        self.never, self.twice, self.hidden = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.aside, self.flat, self.head = nn.Conv2d(3, 3, 1), nn.Linear(3, 4), nn.Linear(4, 5)
        self.indices, self.text = Answering(torch.long), Answering(None)

    def forward(self, x):
        h = self.twice(self.twice(x))
        with torch.no_grad():
            constant = self.hidden(x)
        h = h + constant
        self.aside(h)
        self.indices(h)
        self.text(h)
        return self.head(self.flat(h.mean((2, 3))))


class Answering(nn.Module):
    def __init__(self, dtype):
        super().__init__()
        self.dtype = dtype

    def forward(self, h):
        return h.to(self.dtype) if self.dtype else "text"


ERRORS = {
    "never": "never called",
    "twice": "more than once.*twice#2",
    "twice#3": "only 2 times",
    "hidden": "no_grad",
    "aside": "does not depend on layer.*choose another",
    "flat": "no spatial map.*earlier layer",
    "indices": "no spatial map: its output is",
    "text": "no spatial map: its output is",
    "hiden": "did you mean.*hidden",
    "": "no layer",
}


@pytest.mark.parametrize("method", [GradCAM, GuidedGradCAM])
@pytest.mark.parametrize("layer", ERRORS)
def test_each_way_to_fail_is_one_line_that_names_the_layer(method, layer):
    awkward = Case(Awkward)
    if method is GuidedGradCAM:
        awkward = Case(lambda: nn.Sequential(nn.ReLU(), Awkward()))
        layer = f"1.{layer}" if layer else layer
    model, x = awkward.model(), awkward.images()
    with pytest.raises(LayerError, match=ERRORS[layer.removeprefix("1.")]) as raised:
        method(layer=layer)(model, x, 1)
    assert layer in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.is_grad_enabled()


def test_one_call_of_a_reused_module_can_be_named():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(3, 5)

        def forward(self, x):
            return self.head(self.conv(self.conv(x)).mean((2, 3)))

    twice = Case(Twice)
    model, x = twice.model(), twice.images(2)
    first, _ = captured(model, x, "conv#1")
    second, dA = captured(model, x, "conv#2")
    assert_same(first, model.conv(x).detach(), 1e-12)
    assert_same(second, model.conv(model.conv(x)).detach(), 1e-12)
    assert_same(dA, (model.head.weight[1].view(1, 3, 1, 1) / 144).expand_as(second).detach(), 1e-12)


def test_the_grad_mode_is_restored_when_the_model_raises_above_the_layer():
    def fail(h):
        raise KeyError("half way")

    model = Case(lambda: Network(after=fail)).model()
    with torch.no_grad():
        with pytest.raises(ModelFailed, match="half way"):
            GradCAM(layer="second")(model, case.images(), 1)
        assert not torch.is_grad_enabled()
    with pytest.raises(ModelFailed, match="half way"):
        GradCAM(layer="second")(model, case.images(), 1)
    assert torch.is_grad_enabled()
    assert not model.second._forward_hooks


def test_names_of_layers():
    model = CASES["plain"].model()
    assert layer_name(model, "3") == "3"
    assert layer_name(model, "3#1") == "3#1"
    assert layer_name(model, model[2]) == "2"
    nested = nn.Sequential(model, nn.ReLU())
    assert layer_name(nested, model) == "0"
    assert layer_name(nested, model[2]) == "0.2"
    with pytest.raises(LayerError, match="not part of this model"):
        layer_name(model, nn.ReLU())


def test_a_module_with_two_names_answers_to_both():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Conv2d(3, 3, 1)
            self.two = self.one

    assert layer_name(Shared(), "two") == "two"


@pytest.mark.parametrize("method", [GradCAM, GuidedGradCAM])
def test_a_layer_under_inference_mode_is_refused_by_name(method):
    class Frozen(Network):
        def forward(self, x):
            with torch.inference_mode():
                h = self.second(self.first(x))
            return self.head(self.act(h.clone()).mean((2, 3)))

    model = Case(Frozen).model()
    with pytest.raises(LayerError, match=r"'second' is run under torch\.inference_mode"):
        method(layer="second")(model, case.images(), 1)
