"""What a request may ask for, and what that becomes."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepviz import catalog
from deepviz.errors import MethodError
from deepviz.methods import GradCAM, Gradient, GuidedBackprop, GuidedGradCAM, IntegratedGradients, SmoothGrad
from deepviz.web.forms import MOST, MethodForm, described, method_of, result_key


def made(name, layer=None, **options):
    return method_of(MethodForm(name=name, options=options), layer)


@pytest.mark.parametrize("name", catalog.METHODS)
def test_a_name_alone_is_the_method_as_it_is(name):
    assert made(name) == catalog.METHODS[name]()


@pytest.mark.parametrize("name", catalog.METHODS)
def test_the_defaults_that_a_page_is_told_are_those_that_it_may_send_back(name):
    told = {one["name"]: one["default"] for one in described(name)["options"]}
    options = {key: "none" if value is None else str(value).lower() for key, value in told.items()}
    assert method_of(MethodForm(name=name, options=options)) == made(name)


def test_options_are_read_as_on_the_command_line():
    form = {"steps": "20", "rule": "midpoint", "baseline": "black", "multiply_by_input": "false", "tolerance": "0.01"}
    assert made("integrated-gradients", **form) == IntegratedGradients(
        20, "midpoint", "black", 0.01, multiply_by_input=False
    )


def test_a_method_inside_another():
    inside = MethodForm(name="integrated-gradients", options={"steps": "8"})
    assert made("smooth-grad", of="guided-backprop") == SmoothGrad(of=GuidedBackprop())
    assert made("smooth-grad", of=inside, samples="4") == SmoothGrad(of=IntegratedGradients(steps=8), samples=4)


def test_the_layer_goes_to_methods_that_take_one():
    assert made("grad-cam", layer="2") == GradCAM(layer="2")
    assert made("gradient", layer="2") == Gradient()
    assert made("smooth-grad", layer="2", of="guided-grad-cam") == SmoothGrad(of=GuidedGradCAM(layer="2"))


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("nothing", {}, "no method 'nothing'"),
        ("os:system", {}, "no method"),
        ("small_models:Strange", {}, "no method"),
        ("SmoothGrad", {}, "no method"),
        ("gradient", {"steps": "3"}, "has no option 'steps'"),
        ("smooth-grad", {"samples": "many"}, "samples must be a whole number"),
        ("smooth-grad", {"samples": "1"}, "at least 2"),
        ("smooth-grad", {"samples": str(MOST + 1)}, f"at most {MOST}"),
        ("smooth-grad", {"samples": "-" + "9" * 50}, f"at most {MOST}"),
        ("smooth-grad", {"noise": "nan"}, "and finite"),
        ("smooth-grad", {"noise": "inf"}, "and finite"),
        ("smooth-grad", {"noise": "-1"}, "above 0"),
        ("smooth-grad", {"of": "os:system"}, "no method"),
        ("smooth-grad", {"of": "small_models:Strange"}, "no method"),
        (
            "smooth-grad",
            {"of": MethodForm(name="smooth-grad", options={"of": "gradient"})},
            "only one level of nesting",
        ),
        ("integrated-gradients", {"rule": "best"}, "rule must be"),
        ("integrated-gradients", {"steps": MethodForm(name="gradient")}, "not a method"),
        ("grad-cam", {"relu": "perhaps"}, "true or false"),
    ],
)
def test_what_there_is_not_is_said(name, options, said):
    with pytest.raises(MethodError, match=said):
        made(name, **options)


def test_no_text_in_a_request_is_imported(monkeypatch):
    """`package.module:Class` is for the command line, whose user owns the machine."""
    monkeypatch.setattr(catalog, "importlib", None)
    for text in ("os:system", "small_models:Strange", "deepviz.methods:Gradient"):
        with pytest.raises(MethodError):
            made(text)
        with pytest.raises(MethodError):
            made("smooth-grad", of=text)


@given(st.sampled_from(list(catalog.METHODS)), st.data())
def test_whatever_is_sent_is_a_method_or_an_error_of_ours(name, data):
    known = [option.name for option in catalog.options(catalog.METHODS[name])]
    names = st.sampled_from([*known, "other"])
    options = data.draw(st.dictionaries(names, st.one_of(st.text(max_size=60), st.integers().map(str)), max_size=4))
    with suppress(MethodError):
        assert isinstance(made(name, **{key: value[:60] for key, value in options.items()}), catalog.METHODS[name])


def test_a_result_is_named_by_all_that_determines_it():
    ids = {
        result_key("net", "photo", Gradient(), 3),
        result_key("net2", "photo", Gradient(), 3),
        result_key("net", "photo2", Gradient(), 3),
        result_key("net", "photo", GuidedBackprop(), 3),
        result_key("net", "photo", SmoothGrad(samples=3), 3),
        result_key("net", "photo", SmoothGrad(samples=4), 3),
        result_key("net", "photo", Gradient(), 4),
    }
    assert len(ids) == 7
    assert result_key("net", "photo", SmoothGrad(samples=3), 3) in ids
