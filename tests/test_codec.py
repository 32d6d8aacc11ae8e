"""Frozen values to JSON and back: exactly, or with a word on what could not be stored."""

import json
import math
import sys
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deepviz.codec import Codec, NotStored
from deepviz.options import Frozen, Ge, Infinite


@dataclass(frozen=True)
class Point(Frozen):
    x: Annotated[float, Infinite()] = 0.0
    of: Any = None
    weights: Tensor | None = None
    sizes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Strange(Frozen):
    depth: Annotated[int, Ge(1)] = 3


CODEC = Codec(lambda: {"point": Point}, Frozen)


def again(value):
    return CODEC.decode(json.loads(json.dumps(CODEC.encode(value), allow_nan=False)))


@pytest.mark.parametrize(
    "value",
    [
        Point(),
        Point(0.1 + 0.2),
        Point(math.inf),
        Point(sizes=(7, 9)),
        Point(of=Point(of=Strange(2))),
        Point(weights=torch.arange(6, dtype=torch.float64).view(2, 3) / 7),
        Point(weights=torch.arange(6).view(2, 3).half() / 7),
        Point(weights=torch.zeros(0, 4)),
        Point(weights=torch.tensor([True, False])),
        Point(of=(1, "two", None, True, 2.5)),
        (Point(1.0), Point(2.0)),
    ],
    ids=str,
)
def test_a_value_comes_back(value):
    assert again(value) == value


def test_numpys_numbers_come_back_as_pythons():
    assert CODEC.encode(np.float32(0.5)) == 0.5
    assert CODEC.encode(np.int64(3)) == 3


@pytest.mark.parametrize(
    ("value", "word"),
    [
        (nn.Conv2d(1, 1, 1), "Conv2d"),
        (torch.relu, "relu"),
        (lambda x: x, "lambda"),
        (torch.zeros(2) / 0, "tensor (2,)"),
    ],
    ids=["module", "function", "lambda", "nan"],
)
def test_what_cannot_be_stored_leaves_a_word(value, word):
    held = json.loads(json.dumps(CODEC.encode((value,))))
    assert word in held[0]["not stored"]
    with pytest.raises(NotStored, match="is not stored"):
        CODEC.decode(held)


def test_nothing_is_imported():
    held = CODEC.encode(Strange(2))
    assert held == {"is": f"{__name__}:Strange", "depth": 2, "looks": str(Strange(2))}
    with pytest.raises(NotStored, match="import antigravity first") as caught:
        CODEC.decode(held | {"is": "antigravity:Strange"})
    assert caught.value.looks == str(Strange(2))
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize(
    ("held", "said"),
    [
        ({"is": "circle"}, "'circle' is not one of this version"),
        ({"is": 3}, "no stored value"),
        ({}, "no stored value"),
        ({"is": "point", "colour": "red"}, "Point has colour, which this version does not know"),
        ({"is": "json:JSONDecoder"}, "json has no JSONDecoder"),
        ({"is": "os:system"}, "os has no system"),
        ({"is": f"{__name__}:Strange", "depth": 0}, "not those of Strange here .*at least 1"),
        ({"is": "point", "weights": {"tensor": [1.0], "dtype": "float33"}}, "float33"),
        ({"is": "point", "weights": {"tensor": [[1.0], []], "dtype": "float32"}}, "cannot be read"),
        ({"is": "point", "of": {"not stored": "Conv2d"}}, "its of, Conv2d is not stored"),
    ],
)
def test_what_is_no_value(held, said):
    with pytest.raises(NotStored, match=said):
        CODEC.decode(held)
