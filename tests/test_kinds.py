"""Fields hold what their annotations say, or it is said which one does not."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from deepviz.kinds import check_kinds


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
    check_kinds(Value(**given))


@pytest.mark.parametrize(
    ("given", "kind", "said"),
    [
        ({"whole": 2.5}, TypeError, "whole must be a whole number, got 2.5"),
        ({"whole": True}, TypeError, "whole must be a whole number, got True"),
        ({"whole": None}, TypeError, "whole must be a whole number, got None"),
        ({"number": "a"}, ValueError, "number must be a number, got 'a'"),
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
        check_kinds(Value(**given))
    assert str(caught.value) == said
