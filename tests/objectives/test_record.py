"""Objectives to JSON and back."""

import json
import math
import sys
from dataclasses import dataclass

import pytest
import torch

from deepviz.errors import TargetError
from deepviz.objectives import (
    L2,
    Channel,
    Direction,
    Diversity,
    Energy,
    Finer,
    Function,
    Logit,
    Match,
    Neuron,
    Objective,
    Output,
    Predicted,
    Probability,
    ReST,
    Seen,
    Similarity,
    TotalVariation,
    from_plain,
    to_plain,
)

V = torch.randn(5, generator=torch.Generator().manual_seed(0))


@dataclass(frozen=True)
class Mine(Objective):
    power: float
    of: Objective

    def __call__(self, seen):
        return self.of(seen) ** self.power


VALUES = [
    Logit(3),
    Logit("red fox"),
    Logit(torch.tensor([1, 2])),
    Predicted(2),
    Probability(3),
    ReST(3),
    Finer("red fox", 2, 0.5),
    Output("head", 2),
    Channel("a", 1),
    Neuron("a", 1, (2, 3)),
    Neuron("a", 1),
    Direction("a", V),
    Energy("b"),
    Diversity("c"),
    Match("a", V.reshape(5, 1, 1)),
    Similarity(V),
    Similarity(torch.stack([V, -V]).double(), "a", "dot"),
    L2(),
    TotalVariation(1.5),
    Logit(3) - 0.1 * L2() + 3 * (Channel("a", 1) - TotalVariation(1.5)),
    Mine(0.5, Logit(1) - Direction("a", V)),
]


@pytest.mark.parametrize("value", VALUES, ids=str)
def test_a_value_comes_back(value):
    held = json.loads(json.dumps(to_plain(value), allow_nan=False))
    assert from_plain(held) == value


def test_a_callable_is_marked_and_comes_back_by_name():
    held = json.loads(json.dumps(to_plain(Function(math.sin) - 2 * Logit(1))))
    assert held["terms"][0][1] == {"is": "Function", "name": "sin", "held a callable": True}
    back = from_plain(held)
    assert str(back) == "sin - 2 * logit(1)"
    with pytest.raises(TargetError, match="sin held a callable, which is not stored"):
        back(Seen(torch.zeros(1, 3), (torch.zeros(1, 3, 4, 4),)))


def test_a_strangers_objective_is_found_but_never_imported():
    held = to_plain(Mine(2.0, Logit(1)))
    assert held["is"] == f"{__name__}:Mine"
    assert from_plain(held) == Mine(2.0, Logit(1))
    elsewhere = held | {"is": "antigravity:Mine"}
    assert str(from_plain(elsewhere)) == "mine(2, logit(1))"
    assert "antigravity" not in sys.modules


def test_the_first_versions_similarity():
    held = {"is": "Similarity", "embedding": {"tensor": V.tolist(), "dtype": "float32"}, "layer": None}
    assert from_plain(held) == Similarity(V)


@pytest.mark.parametrize(
    ("held", "words"),
    [
        (3, "no stored objective"),
        ({"is": "Nothing"}, "'Nothing' is not one of this version"),
        ({"is": "Logit"}, "has no target"),
        ({"is": "Logit", "target": 1, "more": 2}, "has more, which this version does not know"),
        ({"is": "Logit", "target": -1}, "from 0 up"),
        ({"is": "Direction", "layer": "a", "vector": {"tensor": [1.0], "dtype": "float33"}}, "float33"),
    ],
)
def test_what_is_no_record(held, words):
    with pytest.raises(TargetError, match=words):
        from_plain(held)
