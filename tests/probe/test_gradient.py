"""What a model raises is its own error, in one line; layouts that a model cannot take are remembered."""

import gc
import weakref

import pytest
import torch
from torch import nn

from deepviz.errors import LayerError, ModelFailed
from deepviz.methods import Gradient
from deepviz.probe import call
from networks import CASES, Case, ViewingLeNet, assert_same

METHOD, IMAGES = Gradient(), CASES["plain"].images()


class Raises(nn.Module):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def forward(self, x):
        raise self.error


class WantsContiguous(ViewingLeNet):
    """Refuses other layouts with an error of its own, and keeps a record."""

    def __init__(self, error):
        super().__init__()
        self.error, self.contiguous = error, []

    def forward(self, x):
        self.contiguous.append(x.is_contiguous())
        if not x.is_contiguous():
            raise self.error
        return super().forward(x)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (IndexError("list index out of range"), "IndexError: list index out of range"),
        (KeyError("features"), "KeyError: 'features'"),
        (AttributeError("no attribute 'head'"), "no attribute 'head'"),
        (ZeroDivisionError("division by zero"), "division by zero"),
        (OSError("no such file"), "no such file"),
        (RuntimeError("two\n  lines"), "two lines"),
        (NotImplementedError(), "NotImplementedError"),
        (AssertionError(), "AssertionError"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_whatever_a_model_raises_is_model_failed_with_its_cause(error, said):
    with pytest.raises(ModelFailed) as raised:
        METHOD(Raises(error), IMAGES, 1)
    assert str(raised.value) == f"the model failed on x (3, 3, 12, 12) float64 on cpu: {said}"
    assert raised.value.__cause__ is error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(), LayerError("no layer")], ids=repr)
def test_other_ends_stay_what_they_are(error):
    with pytest.raises(type(error)) as raised:
        METHOD(Raises(error), IMAGES, 1)
    assert raised.value is error


def test_a_backward_pass_too_may_raise_anything():
    class Refuses(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            raise KeyError("no rule")

    class Head(nn.Module):
        def forward(self, x):
            return Refuses.apply(x)

    with pytest.raises(ModelFailed, match="backward pass failed: KeyError: 'no rule'"):
        METHOD(CASES["plain"].model().append(Head()), IMAGES, 1)


def test_a_model_that_takes_views_is_run_in_plain_layout_and_that_is_remembered():
    layouts = []

    class Watched(ViewingLeNet):
        def forward(self, x):
            layouts.append(x.is_contiguous(memory_format=torch.channels_last))
            return super().forward(x)

    case = Case(Watched)
    model, x = case.model(), case.images(3)
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(model(leaf)[:, 1].sum(), leaf)
    layouts.clear()
    assert_same(METHOD(model, x, 1), expected, 1e-12)
    assert layouts[:2] == [True, False]
    assert not any(layouts[1:])

    assert model in call._contiguous_only
    alive = weakref.ref(model)
    del model
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize("error", [AssertionError(), ValueError("strides"), KeyError("nhwc")], ids=repr)
def test_whatever_is_raised_about_the_layout_the_plain_one_is_tried(error):
    model = Case(lambda: WantsContiguous(error)).model()
    expected = METHOD(Case(ViewingLeNet).model(), IMAGES, 1)
    assert_same(METHOD(model, IMAGES, 1), expected, 1e-12)
    METHOD(model, IMAGES, 1)
    assert model.contiguous == [False] + [True] * (len(model.contiguous) - 1)


def test_a_callable_target_that_takes_views_gets_the_plain_layout():
    model = CASES["plain"].model()[:4]
    maps = METHOD(model, IMAGES, lambda features: features.view(len(features), -1).sum(1))
    assert_same(maps, METHOD(model, IMAGES, lambda features: features.sum((1, 2, 3))), 1e-12)


def test_a_model_that_fails_in_both_layouts_says_why_it_fails_in_the_plain_one_and_nothing_is_remembered():
    contiguous = []

    class Failing(nn.Module):
        def forward(self, x):
            contiguous.append(x.is_contiguous())
            raise RuntimeError("plain layout" if x.is_contiguous() else "other layout")

    model = Failing()
    with pytest.raises(ModelFailed, match="plain layout"):
        METHOD(model, IMAGES, 1)
    assert contiguous == [False, True, True]  # one image alone, and all of them in the plain layout
    assert model not in call._contiguous_only


def test_models_that_mind_no_layout_get_channels_last_and_errors_of_ours_are_not_tried_again():
    layouts = []

    class Watched(nn.Module):
        def forward(self, x):
            layouts.append(x.is_contiguous(memory_format=torch.channels_last))
            if self.refuses:
                raise LayerError("no layer")
            return x.mean((2, 3))

    model = Watched()
    model.refuses = False
    METHOD(model, IMAGES, 1)
    assert all(layouts)
    layouts.clear()
    model.refuses = True
    with pytest.raises(LayerError):
        METHOD(model, IMAGES, 1)
    assert layouts == [True]
