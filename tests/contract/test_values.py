"""A method is a value: frozen, equal to its repr, strict about its fields, and documented."""

import doctest
import importlib
import inspect
from dataclasses import FrozenInstanceError, fields, replace

import pytest
import torch

import deepviz.methods
from deepviz import catalog
from deepviz.methods import Gradient, Method
from networks import CASES, METHODS, VARIANTS

classes = pytest.mark.parametrize("cls", catalog.METHODS.values(), ids=catalog.METHODS.keys())
OTHER = {bool: lambda default: not default, int: lambda default: default + 3, float: lambda default: 0.25}


def with_other_values(cls):
    """The method, once for every option with a plain value that is not the default."""
    for option in catalog.options(cls):
        values = [choice for choice in option.choices if choice != option.default]
        for kind, other in OTHER.items():
            if kind in option.kinds:
                values.append(other(0 if option.default is None else option.default))
        if str in option.kinds:
            values.append("layer4.1")
        for value in values:
            try:
                yield option, value, cls(**{option.name: value})
            except ValueError:
                assert kind is int  # a number that is no int, such as 0.25 samples


@classes
def test_every_option_has_a_sentence_a_default_and_a_kind(cls):
    cls()
    for option in catalog.options(cls):
        assert option.help.endswith(".")
        assert option.kinds or option.choices


@classes
def test_the_repr_evaluates_to_the_same_value(cls):
    namespace = {name: getattr(deepviz.methods, name) for name in deepviz.methods.__all__}
    assert eval(repr(cls()), namespace) == cls()
    for option, value, method in with_other_values(cls):
        again = eval(repr(method), namespace)
        assert again == method != cls()
        assert getattr(again, option.name) == value
        assert hash(again) == hash(method)
        assert replace(method) == method


@pytest.mark.parametrize("method", VARIANTS.values(), ids=VARIANTS.keys())
def test_compositions_too_evaluate_to_the_same_value(method):
    namespace = {name: getattr(deepviz.methods, name) for name in deepviz.methods.__all__}
    assert eval(repr(method), namespace) == method


@classes
def test_a_method_is_frozen(cls):
    with pytest.raises(FrozenInstanceError):
        cls().title = "another"
    for field in fields(cls):
        with pytest.raises(FrozenInstanceError):
            setattr(cls(), field.name, None)


@classes
def test_a_class_instead_of_a_value_is_asked_about(cls):
    for field in fields(cls):
        with pytest.raises(TypeError, match=r"did you mean Gradient\(\)\?"):
            cls(**{field.name: Gradient})


@classes
def test_an_unknown_option_is_an_error(cls):
    with pytest.raises(TypeError):
        cls(no_such_option=1)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
def test_bad_arguments_say_what_they_are(method):
    model, x = CASES["plain"].model(), CASES["plain"].images()
    with pytest.raises(TypeError, match="swapped"):
        method(x, model)
    with pytest.raises(TypeError, match=r"nn\.Module"):
        method("resnet50", x)
    with pytest.raises(TypeError, match=r"tensor \(N, C, H, W\)"):
        method(model, x.numpy())
    with pytest.raises(ValueError, match=r"\(3, 12, 12\)"):
        method(model, x[0])
    with pytest.raises(ValueError, match=r"\(0, 3, 12, 12\)"):
        method(model, x[:0])
    with pytest.raises(ValueError, match="uint8"):
        method(model, x.to(torch.uint8))
    with pytest.raises(ValueError, match="NaN or infinity"):
        method(model, x / 0)


@classes
def test_the_docstring_holds_formula_shapes_errors_pitfall_reference_and_example(cls):
    text = inspect.getdoc(cls)
    assert len(text.split("\n")[0]) <= 120
    assert text.split("\n")[1] == ""
    assert any(line.startswith("    R ") and "=" in line for line in text.split("\n"))
    for part in ("Shapes:", "Errors:", "Pitfall:", "Reference:", "Example:", "arXiv:"):
        assert part in text
    assert cls.title
    assert "arXiv" in cls.paper
    assert cls.cost


@classes
def test_the_example_runs(cls):
    found = doctest.DocTestFinder(recurse=False).find(cls, cls.__name__, importlib.import_module(cls.__module__))
    assert found[0].examples
    for example in found:
        assert doctest.DocTestRunner().run(example).failed == 0


@classes
def test_every_method_says_how_it_is_drawn(cls):
    assert cls().view in ("magnitude", "sum", "positive")
    assert str(cls()) == cls.title
    assert cls().resolve_baseline(lambda name: torch.zeros(3, 1, 1)) == cls()


def test_the_abstract_method_is_not_a_method():
    assert Method not in catalog.METHODS.values()
    with pytest.raises(TypeError):
        Method()
