"""A method is a value: frozen, equal to its repr, strict about its fields, and documented."""

from dataclasses import fields, replace
from typing import get_args

import pytest
import torch

import deepviz.methods
from deepviz import catalog
from deepviz.methods import Gradient, Method
from deepviz.methods.method import View
from networks import VARIANTS

classes = pytest.mark.parametrize("cls", catalog.METHODS.values(), ids=catalog.METHODS.keys())
OTHER = {bool: lambda default: not default, int: lambda default: default + 3, float: lambda default: 0.25}


def with_other_values(cls):
    """The method, once for every option with a plain value that is not the default."""
    for option in catalog.options(cls):
        values = [choice for choice in option.choices if choice != option.default]
        for kind, other in OTHER.items():
            if kind in option.kinds:
                values.append(other(option.default if isinstance(option.default, (int, float)) else 0))
        if str in option.kinds:
            values.append("layer4.1")
        for value in values:
            if value == option.default and type(value) is type(option.default):
                continue
            try:
                yield option, value, cls(**{option.name: value})
            except ValueError:
                assert kind is int  # a number that is no int, such as 0.25 samples


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
def test_a_class_instead_of_a_value_is_asked_about(cls):
    for field in fields(cls):
        with pytest.raises(TypeError, match=r"did you mean Gradient\(\)\?"):
            cls(**{field.name: Gradient})


@classes
def test_every_method_says_how_it_is_drawn(cls):
    assert cls().view in get_args(View)
    assert str(cls()).startswith(cls.title)
    assert cls().resolve_baseline(lambda name: torch.zeros(3, 1, 1)) == cls()


def test_the_abstract_method_is_not_a_method():
    assert Method not in catalog.METHODS.values()
    with pytest.raises(TypeError):
        Method()
