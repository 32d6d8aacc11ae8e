"""Fields hold what their annotations say, or it is said which one does not."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deepviz.methods import GradCAM, Gradient, GuidedBackprop, IntegratedGradients, SmoothGrad
from deepviz.metrics import Deletion, FaithfulnessCorrelation, PointingGame
from deepviz.objectives import Channel, Neuron, TotalVariation
from deepviz.options import (
    Baseline,
    Frozen,
    Ge,
    GridOption,
    Infinite,
    Layer,
    Lt,
    Seed,
    annotated,
    having,
    identity,
    validate_fields,
)
from deepviz.synthesis import Fourier, Magnitude

NAN = float("nan")


@dataclass
class Value:
    whole: Annotated[int, "a number of things"] = 1
    number: float = 0.5
    flag: bool = False
    name: Literal["one", "two"] = "one"
    maybe: int | None = None
    baseline: Annotated[float | Tensor | Literal["blur"], "what is not there"] = 0.0
    anything: Any = None
    several: tuple[int, ...] = field(default=())


@pytest.mark.parametrize(
    "given",
    [
        {"whole": 3},
        {"whole": np.int64(3)},
        {"number": 2},
        {"number": np.float32(2)},
        {"flag": True},
        {"name": "two"},
        {"maybe": 4},
        {"baseline": "blur"},
        {"baseline": torch.zeros(3)},
        {"baseline": 1},
        {"anything": object()},
        {"several": (1, 2)},
    ],
)
def test_what_fits(given):
    validate_fields(Value(**given))


@pytest.mark.parametrize(
    ("given", "kind", "said"),
    [
        ({"whole": 2.5}, TypeError, "whole must be a whole number, got 2.5"),
        ({"whole": True}, TypeError, "whole must be a whole number, got True"),
        ({"whole": None}, TypeError, "whole must be a whole number, got None"),
        ({"number": "a"}, TypeError, "number must be a number, got 'a'"),
        ({"number": True}, TypeError, "number must be a number, got True"),
        ({"flag": 1}, TypeError, "flag must be true or false, got 1"),
        ({"name": "three"}, ValueError, "name must be one or two, got 'three'"),
        ({"name": 1}, TypeError, "name must be one or two, got 1"),
        ({"maybe": 0.5}, TypeError, "maybe must be a whole number or None, got 0.5"),
        ({"baseline": "blurr"}, ValueError, "baseline must be a number, a tensor or blur, got 'blurr'"),
        ({"baseline": None}, TypeError, "baseline must be a number, a tensor or blur, got None"),
    ],
)
def test_what_does_not(given, kind, said):
    with pytest.raises(kind) as caught:
        validate_fields(Value(**given))
    assert str(caught.value) == said


@pytest.mark.parametrize(
    ("make", "kind", "said"),
    [
        (lambda: GradCAM(relu="no"), TypeError, "relu must be true or false, got 'no'"),
        (lambda: GradCAM(layer=3), TypeError, "layer must be a name, a module or None, got 3"),
        (lambda: SmoothGrad(samples=2.5), TypeError, "samples must be a whole number, got 2.5"),
        (lambda: SmoothGrad(samples=1), ValueError, "samples must be at least 2, got 1"),
        (lambda: SmoothGrad(noise="a"), TypeError, "noise must be a number, got 'a'"),
        (lambda: SmoothGrad(noise=float("inf")), ValueError, "noise must be above 0, and finite, got inf"),
        (lambda: SmoothGrad(seed=-1), ValueError, "seed must be from 0 to 2**32 - 1, got -1"),
        (lambda: IntegratedGradients(steps=0), ValueError, "steps must be at least 1 or None, got 0"),
        (lambda: IntegratedGradients(steps="5"), TypeError, "steps must be a whole number or None, got '5'"),
        (lambda: IntegratedGradients(steps=True), TypeError, "steps must be a whole number or None, got True"),
        (lambda: IntegratedGradients(steps=5.5), TypeError, "steps must be a whole number or None, got 5.5"),
        (
            lambda: IntegratedGradients(tolerance=NAN),
            ValueError,
            "tolerance must be above 0, and finite, or None, got nan",
        ),
        (lambda: IntegratedGradients(baseline=NAN), ValueError, "baseline must be finite, got nan"),
        (
            lambda: IntegratedGradients(baseline=torch.tensor([0.0, NAN])),
            ValueError,
            "baseline must be finite, got a tensor (2,)",
        ),
        (
            lambda: IntegratedGradients(baseline="gray"),
            ValueError,
            "baseline must be a number, a tensor, blur, black, grey, white, mean, uniform-noise or gaussian-noise, "
            "got 'gray'",
        ),
        (
            lambda: SmoothGrad(of=GuidedBackprop),
            TypeError,
            "SmoothGrad(of=...) takes an instance, got the class GuidedBackprop; did you mean GuidedBackprop()?",
        ),
        (lambda: Deletion(steps=0), ValueError, "steps must be at least 1, got 0"),
        (lambda: FaithfulnessCorrelation(share=1), ValueError, "share must be above 0 and below 1, got 1"),
        (lambda: Channel("a", -1), ValueError, "channel must be at least 0, got -1"),
        (lambda: Neuron("a", 0, (0, -1)), ValueError, "at must be at least 0 or None, got (0, -1)"),
        (lambda: TotalVariation(0), ValueError, "beta must be above 0, got 0"),
        (lambda: Magnitude(spectrum=3), TypeError, "spectrum must be a natural images or None, got 3"),
        (lambda: Fourier(decay=5), ValueError, "decay must be from -4 to 4, got 5"),
    ],
)
def test_every_value_is_checked_when_it_is_made(make, kind, said):
    with pytest.raises(kind) as caught:
        make()
    assert str(caught.value) == said


def test_numbers_become_pythons_own():
    method = SmoothGrad(samples=np.int64(3), noise=np.float32(0.5))
    assert repr(method) == "SmoothGrad(of=Gradient(), samples=3, noise=0.5, statistic='mean', seed=0)"
    assert SmoothGrad(noise=1) == SmoothGrad(noise=1.0)
    assert str(SmoothGrad(noise=1)) == str(SmoothGrad(noise=1.0))


@dataclass(frozen=True)
class Placed(Frozen):
    at: Layer = None
    rows: Annotated[tuple[Annotated[int, Ge(1)], ...], Lt(9), "of a grid"] = ()
    pair: tuple[int, float] = (1, 2.0)
    how: GridOption = None
    most: Annotated[float, Infinite()] = 1.0
    start: Annotated[Baseline | None, "where it starts"] = None
    draw: Annotated[Seed, "of the noise"] = 0


def test_roles_are_found_whatever_the_fields_are_called():
    assert {role: having(Placed, role) for role in ("layer", "grid", "baseline", "seed")} == {
        "layer": ("at",),
        "grid": ("how",),
        "baseline": ("start",),
        "seed": ("draw",),
    }
    assert annotated(Placed)["start"].help == "where it starts"
    assert annotated(Placed)["at"].help.startswith("Layer to explain")


def test_tuples_and_callables():
    assert Placed(rows=[1, np.int32(8)]).rows == (1, 8)
    assert Placed(how=(7, 7)).how == (7, 7)
    assert Placed(how=torch.relu).how is torch.relu
    assert Placed(most=float("inf")).most == float("inf")
    for given, kind in (
        ({"rows": (0,)}, ValueError),
        ({"rows": (9,)}, ValueError),
        ({"rows": (1.5,)}, TypeError),
        ({"rows": 3}, TypeError),
        ({"pair": (1, 2, 3)}, TypeError),
        ({"how": "7"}, TypeError),
        ({"most": NAN}, ValueError),
    ):
        with pytest.raises(kind, match=next(iter(given))):
            Placed(**given)


def test_values_compare_and_hash_by_content():
    one, other = (IntegratedGradients(baseline=torch.zeros(3, 1, 1)) for _ in range(2))
    assert one == other
    assert hash(one) == hash(other)
    assert {one: 1}[other] == 1
    assert SmoothGrad(of=one) == SmoothGrad(of=other)
    for differs in (torch.zeros(3), torch.zeros(3, 1, 1).double(), torch.ones(3, 1, 1), 0.0):
        assert IntegratedGradients(baseline=differs) != one
    assert IntegratedGradients(baseline=-torch.zeros(3, 1, 1)) == one  # -0.0 is 0.0
    wide = torch.zeros(3, 2, 2)
    assert IntegratedGradients(baseline=wide.transpose(1, 2)) == IntegratedGradients(baseline=wide)


def test_modules_and_functions_are_equal_if_they_are_the_same():
    relu = nn.ReLU()
    assert GradCAM(layer=relu) == GradCAM(layer=relu) != GradCAM(layer=nn.ReLU())
    assert Placed(how=torch.relu) == Placed(how=torch.relu) != Placed(how=torch.tanh)


def test_a_method_is_no_other_with_the_same_options():
    assert GuidedBackprop() != Gradient()
    assert Placed(rows=(1,)) != Placed(rows=(2,))
    assert PointingGame(inside=torch.tensor([0, 0, 4, 4])) == PointingGame(inside=torch.tensor([0, 0, 4, 4]))


def test_an_identity_is_given_once():
    seen = {identity(nn.ReLU()) for _ in range(50)}
    assert len(seen) == 50
    module = nn.ReLU()
    assert identity(module) == identity(module)
    assert identity(module.forward) == identity(module.forward)
