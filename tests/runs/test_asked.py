"""What callers may give, in all its forms."""

import numpy as np
import pytest
import torch
from PIL import Image

import deepviz
from deepviz.errors import TargetError
from deepviz.methods import GradCAM, Gradient
from deepviz.objectives import Logit, Predicted
from deepviz.runs.asked import as_list, choose_methods, choose_metrics, targets_of
from small_models import network

X = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))

ASKING = {
    "explain": lambda methods=("gradient",), **options: deepviz.explain(
        network(), options.pop("images", X), methods, **options
    ),
    "evaluate": lambda methods=("gradient",), **options: deepviz.evaluate(
        network(), options.pop("images", X), methods, "sparseness", controls=False, **options
    ),
    "sanity_check": lambda methods=("gradient",), **options: deepviz.sanity_check(
        network(), options.pop("images", X), methods, stages=1, **options
    ),
}


def explained(name, found):
    """The classes that were explained, in order."""
    if name == "explain":
        return [one.target.index for one in found]
    if name == "evaluate":
        return [int(one.target.split()[1]) for one in found.judged]
    return [one.target.index for one in found.examined]


@pytest.mark.parametrize("name", ASKING)
@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (3, [3, 3]),
        ([3], [3, 3]),
        ([0, 1], [0, 1, 0, 1]),
        ((0, 1), [0, 1, 0, 1]),
        (range(2), [0, 1, 0, 1]),
        (np.array([0, 1]), [0, 1]),
        (torch.tensor([0, 1]), [0, 1]),
        (np.int64(2), [2, 2]),
        ([torch.tensor([0, 1]), 4], [0, 4, 1, 4]),
    ],
    ids=repr,
)
def test_targets_mean_the_same_everywhere(name, target, expected):
    assert explained(name, ASKING[name](target=target)) == expected


@pytest.mark.parametrize("name", ASKING)
@pytest.mark.parametrize(
    ("target", "message"),
    [
        (True, r"not a bool \(True\)"),
        (np.True_, r"not a bool \(True\)"),
        ([0, False], r"not a bool \(False\)"),
        (torch.tensor([True, False]), "got torch.bool"),
        (np.array([0.0, 1.0]), "got torch.float64"),
        ({0, 1}, "a target is a class index"),
        ([], "empty list"),
        (torch.tensor([0, 1, 2]), r"with N = 2 rows, got \(3,\)"),
        (1.5, "a target is a class index"),
        (5, "class 5 is out of range"),
    ],
    ids=repr,
)
def test_what_is_no_target_is_refused_everywhere(name, target, message):
    with pytest.raises(TargetError, match=message):
        ASKING[name](target=target)


@pytest.mark.parametrize("name", ASKING)
def test_no_methods_and_no_order_are_refused_everywhere(name):
    for methods in ([], (), iter(())):
        with pytest.raises(ValueError, match="methods is empty"):
            ASKING[name](methods)
    with pytest.raises(TypeError, match="methods must have an order: give a list, not a set"):
        ASKING[name]({"gradient", "grad-cam"})
    with pytest.raises(TypeError, match="images must have an order"):
        ASKING[name](images={1, 2})
    with pytest.raises(ValueError, match="images is empty"):
        ASKING[name](images=[])


@pytest.mark.parametrize("name", ASKING)
def test_any_iterable_with_an_order_will_do(name):
    found = ASKING[name]((one for one in ["gradient"]), images=(one for one in X), target=1)
    assert explained(name, found) == [1, 1]


def test_images_in_every_form():
    picture = Image.new("RGB", (4, 4))
    assert as_list(picture) == [picture]
    assert as_list("a.png") == ["a.png"]
    assert as_list(iter(["a.png", picture])) == ["a.png", picture]
    assert len(as_list(X)) == 2
    assert len(as_list(X[0])) == 1
    assert len(as_list(np.zeros((2, 8, 8, 3), np.uint8))) == 2


def test_methods_and_metrics_from_iterables():
    assert choose_methods(iter(["gradient", GradCAM()])) == [Gradient(), GradCAM()]
    assert len(choose_metrics(iter(["deletion", "insertion"]))) == 2
    with pytest.raises(TypeError, match="metrics must have an order"):
        choose_metrics({"deletion"})


def test_targets_of_each_image():
    assert targets_of(None, 2) is None
    assert targets_of([None, "cat"], 2, ["dog", "cat"]) == (Predicted(), Logit(1))
