"""Values -> JSON -> the same values."""

import json
from dataclasses import dataclass

import pytest
import torch

from deepviz.errors import ModelError
from deepviz.models import Preprocess
from deepviz.objectives import Function
from deepviz.synthesis import (
    L2,
    PRESETS,
    Blur,
    Channel,
    Direction,
    Diversity,
    Energy,
    Fourier,
    Jitter,
    Logit,
    Magnitude,
    Match,
    Neuron,
    Objective,
    Pad,
    Pixels,
    Scale,
    Similarity,
    TotalVariation,
    natural_images,
)
from deepviz.synthesis.record import plain, value_of

V = torch.randn(5, generator=torch.Generator().manual_seed(0))
VALUES = [
    *(preset.canvas for preset in PRESETS.values()),
    *(preset.transforms for preset in PRESETS.values()),
    Fourier(decay=1.25, limit=None),
    Pixels(0.1, 0.3),
    Preprocess((20, 30), crop=None, mean=(0.1,), std=(0.3,)),
    (Jitter(3), Scale(0.7, 1.2), Pad(), Blur()),
    Logit(3) - 0.1 * L2() + 3 * (Channel("a", 1) - TotalVariation(1.5)),
    (Neuron("a", 1, (2, 3)), Neuron("a", 1), Energy("b"), Diversity("c")),
    (1, 2.5, "text", None, True, ()),
    0.1 + 0.2,
]


def through_json(value):
    return value_of(json.loads(json.dumps(plain(value))))


@pytest.mark.parametrize("value", VALUES, ids=str)
def test_a_value_comes_back(value):
    assert through_json(value) == value


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.uint8], ids=str)
def test_tensors_come_back_bit_for_bit(dtype):
    values = (V.abs() * 50).to(dtype).view(5, 1)
    found = through_json(values)
    assert found.dtype == dtype
    assert torch.equal(found, values)


@pytest.mark.parametrize(
    ("objective", "name"),
    [(Direction("a", V), "vector"), (Similarity(V, "a"), "to"), (Match("a", V.view(5, 1, 1)), "activations")],
    ids=str,
)
def test_objectives_with_tensors_come_back(objective, name):
    found = through_json(2 * objective)
    ((weight, inner),) = found.terms
    assert weight == 2
    assert type(inner) is type(objective)
    assert inner.layer == "a"
    assert torch.equal(getattr(inner, name), getattr(objective, name))


def test_a_canvas_with_other_photographs_comes_back():
    found = through_json(Magnitude(spectrum=natural_images(), contrast=0.5))
    assert found.contrast == 0.5
    assert torch.equal(found.spectrum.magnitude, natural_images().magnitude)


@dataclass(frozen=True)
class Strange(Objective):
    """A stranger's."""

    by: float = 2.0

    def __call__(self, seen):
        return self.by * seen.scores()[:, 0]


def test_a_strangers_value_comes_back_where_its_module_is_imported():
    told = json.loads(json.dumps(plain(3 * Strange(2.5))))
    assert value_of(told) == 3 * Strange(2.5)
    elsewhere = json.loads(json.dumps(told).replace(__name__, "somewhere"))
    with pytest.raises(ModelError, match=r"holds strange\(2.5\), which is not one of DeepViz's own values: import"):
        value_of(elsewhere)


def test_a_stranger_with_a_known_name_is_a_stranger():
    @dataclass(frozen=True)
    class Logit(Objective):
        def __call__(self, seen):
            return seen.scores()[:, 0]

    with pytest.raises(ModelError, match=r"logit\(\), which is not"):
        through_json(Logit())


def test_a_callable_is_not_made_again():
    with pytest.raises(ModelError, match="holds sum, which is not"):
        through_json(Function(torch.sum))


@pytest.mark.parametrize(
    ("held", "words"),
    [
        ({"is": "os.system"}, "os.system"),
        ({"is": "Path"}, "Path"),
        ({"what": 1}, "what"),
        ({"is": "Logit", "colour": 3}, "Logit has colour, which this version does not know"),
    ],
    ids=str,
)
def test_records_of_something_else(held, words):
    with pytest.raises(ModelError, match=words):
        value_of(held)
