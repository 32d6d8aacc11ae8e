"""One spelling of a value everywhere: it is written and read, and equal for equal values alone."""

from dataclasses import MISSING
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from deepviz import catalog
from deepviz.catalog import key, parse, spell
from deepviz.errors import MethodError
from deepviz.methods import GradCAM, Gradient, GuidedBackprop, IntegratedGradients, Method, SmoothGrad
from deepviz.metrics import Deletion, Metric, PointingGame
from deepviz.options import Ge, Gt, Le, Lt
from deepviz.spelling import Call, Several, Word, written
from small_models import Strange

NAMES = st.one_of(
    st.text(min_size=1, max_size=12),
    st.sampled_from(
        ["layer4.1", "none", "None", "true", "1", "a b", "it's", 'say "so"', "x,y", "(", "<a>", "grad-cam"]
    ),
)
TENSORS = st.one_of(
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=4).map(torch.tensor),
    st.lists(st.lists(st.floats(-2, 2, width=32), min_size=2, max_size=2), min_size=1, max_size=3).map(torch.tensor),
    st.lists(st.booleans(), min_size=1, max_size=5).map(torch.tensor),
    st.lists(st.integers(-9, 9), min_size=4, max_size=4).map(torch.tensor),
)


def numbers(kind):
    """Numbers of a kind within its bounds."""
    low = max(
        (b.value + (kind.type is int and isinstance(b, Gt)) for b in kind.bounds if isinstance(b, (Ge, Gt))),
        default=-1000,
    )
    high = min(
        (b.value - (kind.type is int and isinstance(b, Lt)) for b in kind.bounds if isinstance(b, (Le, Lt))),
        default=1000,
    )
    if kind.type is int:
        return st.integers(int(low), int(high))
    open_low = any(isinstance(b, Gt) for b in kind.bounds)
    open_high = any(isinstance(b, Lt) for b in kind.bounds)
    return st.floats(low, high, exclude_min=open_low, exclude_max=open_high)


def values_of(kind, depth):
    """Values of a kind that can be written; None if there are none."""
    choices = get_args(kind.type)
    if kind.type in (int, float):
        return numbers(kind)
    known = {bool: st.booleans(), str: NAMES, Tensor: TENSORS, type(None): st.none()}
    if kind.type in known:
        return known[kind.type]
    if kind.type is Method and depth < 2:
        return st.sampled_from(list(catalog.METHODS.values())).flatmap(lambda cls: values(cls, depth + 1))
    if choices and all(isinstance(one, str) for one in choices):
        return st.sampled_from(choices)
    if getattr(kind.type, "__origin__", None) is tuple:
        (each, *_) = kind.items
        written = [found for one in each if (found := values_of(one, depth)) is not None]
        return st.lists(st.one_of(written), max_size=3).map(tuple)
    return None


def values(cls, depth=0):
    """Values of a method or metric with random options."""

    def made(given):
        try:
            return cls(**given)
        except ValueError:  # options that do not go together: low above high
            return cls()

    options = {}
    for option in catalog.options(cls):
        kinds = [found for kind in option.annotation.kinds if (found := values_of(kind, depth)) is not None]
        if kinds:
            options[option.name] = st.one_of(kinds)
    return st.fixed_dictionaries({}, optional=options).map(made)


EVERYTHING = [*catalog.METHODS.values(), *catalog.METRICS.values()]


@pytest.mark.parametrize("cls", EVERYTHING, ids=lambda cls: cls.__name__)
@given(st.data())
@settings(max_examples=25, deadline=None)
def test_what_is_written_is_read_as_the_same(cls, data):
    value = data.draw(values(cls))
    assert parse(spell(value)) == value
    assert parse(key(value)) == value
    assert parse(spell(value), Method if issubclass(cls, Method) else Metric) == value


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_keys_are_equal_for_equal_values_alone(data):
    one, other = (data.draw(st.sampled_from(EVERYTHING).flatmap(values)) for _ in range(2))
    assert (key(one) == key(other)) == (one == other)
    assert (spell(one) == spell(other)) == (one == other)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Gradient(), "gradient"),
        (SmoothGrad(samples=20, of=GuidedBackprop()), "smooth-grad(of=guided-backprop, samples=20)"),
        (
            SmoothGrad(of=SmoothGrad(of=GradCAM("layer4.1"), samples=3)),
            "smooth-grad(of=smooth-grad(of=grad-cam(layer=layer4.1), samples=3))",
        ),
        (GradCAM(relu=False), "grad-cam(relu=False)"),
        (GradCAM("7"), "grad-cam(layer=7)"),
        (GradCAM("none"), "grad-cam(layer='none')"),
        (GradCAM("a (b), c"), "grad-cam(layer='a (b), c')"),
        (IntegratedGradients(baseline="black", tolerance=0.01), "integrated-gradients(baseline=black, tolerance=0.01)"),
        (
            IntegratedGradients(baseline=torch.tensor([[[0.5]], [[1.0]]])),
            "integrated-gradients(baseline=[[[0.5]], [[1.0]]])",
        ),
        (PointingGame(inside=torch.tensor([1, 2, 5, 6])), "pointing-game(inside=[1, 2, 5, 6])"),
        (Deletion(steps=20), "deletion(steps=20)"),
        (Strange(depth=4), "small_models:Strange(depth=4)"),
    ],
)  # fmt: skip
def test_the_spelling(value, text):
    assert spell(value) == text
    assert parse(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("  smooth-grad ( samples = 20 , of = gradient )  ", SmoothGrad(samples=20)),
        ("SmoothGrad(samples=20,)", SmoothGrad(samples=20)),
        ("gradient()", Gradient()),
        ("grad-cam(relu=no)", GradCAM(relu=False)),
        ("grad-cam(layer=None)", GradCAM()),
        ('grad-cam(layer="None")', GradCAM("None")),
        ("integrated-gradients(max-steps=10)", IntegratedGradients(max_steps=10)),
        ("integrated-gradients(baseline='black')", IntegratedGradients(baseline="black")),
        ("small_models:Strange", Strange()),
    ],
)
def test_other_ways_to_write_it(text, value):
    assert parse(text) == value


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("", MethodError, "expected a value, got the end"),
        ("smooth-grad(samples=20", MethodError, "expected a comma or '\\)', got the end"),
        ("smooth-grad(samples=20))", MethodError, "expected nothing more, got '\\)'"),
        ("smooth-grad(20)", MethodError, "expected = after '20'"),
        ("smooth-grad(samples=)", MethodError, "expected a value"),
        ("smooth-grad(samples='20)", MethodError, "expected a closed quote"),
        ("smooth-grad(samples=2, samples=3)", MethodError, "gives samples twice"),
        ("smooth-grad(sample=2)", MethodError, "has no option 'sample'; did you mean 'samples'"),
        ("gradient(steps=2)", MethodError, "gradient has no option 'steps'; it has none"),
        ("smooth-gard", MethodError, "did you mean 'smooth-grad'"),
        ("smooth-grad(of=grad-cat)", MethodError, "did you mean 'grad-cam'"),
        ("(gradient)", MethodError, "write its name"),
        ("no.such.module:Class", MethodError, "No module"),
        (":Class", MethodError, "no method"),
        ("deepviz.errors:MethodError", MethodError, "is not a subclass of"),
        ("smooth-grad(samples=2.5)", ValueError, "samples must be a whole number, got 2.5"),
        ("smooth-grad(samples='3')", ValueError, "samples must be a whole number, got '3'"),
        ("smooth-grad(samples=1)", ValueError, "samples must be at least 2, got 1"),
        ("smooth-grad(samples=(3, 4))", ValueError, "samples must be a whole number, got \\(3, 4\\)"),
        ("smooth-grad(noise=nan)", ValueError, "noise must be above 0, and finite, got nan"),
        ("integrated-gradients(rule=trapez)", ValueError, "did you mean 'trapezoid'"),
        ("integrated-gradients(baseline=[[1], [2, 3]])", ValueError, "baseline must be"),
        ("grad-cam(layer=<Conv2d 3>)", MethodError, "cannot be written: make it in Python"),
        ("smooth-grad(of=" * 30, MethodError, "nested more than"),
        ("x" * 20_000, MethodError, "too long"),
    ],
)
def test_what_cannot_be_read(text, error, said):
    with pytest.raises(error, match=said):
        parse(text)


def test_one_kind_only():
    with pytest.raises(MethodError, match="no method 'deletion'"):
        parse("deletion", Method)
    with pytest.raises(MethodError, match="no metric 'gradient'"):
        parse("gradient", Metric)


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused_in_one_line(text):
    try:
        assert isinstance(written(text), (Word, Several, Call))
    except MethodError as refused:
        said = str(refused)
        assert len(said.splitlines()) == 1


def test_what_cannot_be_written():
    large = IntegratedGradients(baseline=torch.zeros(3, 8, 8))
    assert spell(large).startswith("integrated-gradients(baseline=<tensor 3x8x8 float32 ")
    assert key(large) == key(IntegratedGradients(baseline=torch.zeros(3, 8, 8)))
    assert key(large) != key(IntegratedGradients(baseline=torch.ones(3, 8, 8)))
    assert key(large) != key(IntegratedGradients(baseline=torch.zeros(3, 8, 8).double()))
    module, other = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1)
    assert spell(GradCAM(module)) == "grad-cam(layer=<Conv2d>)"
    assert key(GradCAM(module)) == key(GradCAM(module)) != key(GradCAM(other))


def test_a_layer_that_was_found_is_part_of_the_key():
    module = nn.Conv2d(1, 1, 1)
    assert key(GradCAM(), "3") == key(GradCAM("3"), "3") == key(GradCAM(module), "3") != key(GradCAM())
    assert key(SmoothGrad(of=GradCAM()), "3") == key(SmoothGrad(of=GradCAM("3")))
    assert key(GradCAM("1"), "3") == key(GradCAM("1"))
    assert key(Gradient(), "3") == key(Gradient())


def test_all_options_are_in_a_key():
    assert key(SmoothGrad()) == "smooth-grad(of=gradient, samples=50, noise=0.15, statistic=mean, seed=0)"


@pytest.mark.parametrize("cls", EVERYTHING, ids=lambda cls: cls.__name__)
def test_options_have_defaults_and_can_be_written(cls):
    for option in catalog.options(cls):
        assert option.default is not MISSING
        assert option.kinds or option.choices
        assert option.takes


def test_a_registered_stranger_is_offered_like_the_others(monkeypatch):
    monkeypatch.setattr(catalog, "METHODS", dict(catalog.METHODS))
    name = catalog.register(Strange)
    assert name == "small_models:Strange" == spell(Strange())
    assert catalog.METHODS[name] is Strange
    assert name in catalog.default_set()
    catalog.register(Strange)
    assert list(catalog.METHODS.values()).count(Strange) == 1


def test_the_cheapest_is_enough_to_see_whether_a_method_applies():
    assert catalog.cheapest(SmoothGrad) == SmoothGrad(samples=2)
    assert catalog.cheapest(IntegratedGradients) == IntegratedGradients(steps=1)
    assert catalog.cheapest(GradCAM) == GradCAM()
