"""Objectives as plain values for JSON, and back."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

import torch
from torch import Tensor

from deepviz.errors import TargetError
from deepviz.objectives.classes import Logit, Predicted, Probability
from deepviz.objectives.function import Function
from deepviz.objectives.image import L2, TotalVariation
from deepviz.objectives.layers import Channel, Direction, Diversity, Energy, Match, Neuron
from deepviz.objectives.objective import Objective, Sum
from deepviz.objectives.output import Output
from deepviz.objectives.similarity import Similarity

OBJECTIVES: dict[str, type[Objective]] = {
    cls.__name__: cls
    for cls in (
        Channel,
        Direction,
        Diversity,
        Energy,
        Function,
        L2,
        Logit,
        Match,
        Neuron,
        Output,
        Predicted,
        Probability,
        Similarity,
        Sum,
        TotalVariation,
    )
}
"""The objectives of this package, by name."""
RENAMED = {("Similarity", "embedding"): "to"}
"""Fields as they were called in 0.1."""
HELD = "held a callable"


def to_plain(objective: Objective) -> dict[str, Any]:
    """An objective as JSON can hold it, exactly; of a callable its name alone, marked "held a callable".

    Example:
        >>> to_plain(Logit(281) - Logit(282))["terms"]
        [[1.0, {'is': 'Logit', 'target': 281}], [-1.0, {'is': 'Logit', 'target': 282}]]
    """
    cls = type(objective)
    if isinstance(objective, Function):
        return {"is": "Function", "name": objective.name, HELD: True}
    own = OBJECTIVES.get(cls.__name__) is cls
    named = cls.__name__ if own else f"{cls.__module__}:{cls.__qualname__}"
    kept = {one.name: _plain(getattr(objective, one.name)) for one in fields(objective)}
    return {"is": named, **kept} | ({} if own else {"looks": str(objective)})


def from_plain(held: Any) -> Objective:
    """The objective that `to_plain` was given; a callable comes back as a `Function` that can be shown, not called.

    Nothing is imported: an objective from outside of this package comes back if its module is imported already, else
    as such a `Function`.

    Raises:
        TargetError: for something that `to_plain` does not write.
    """
    if not isinstance(held, Mapping) or not isinstance(held.get("is"), str):
        raise TargetError(f"{held!r} is no stored objective")
    name = held["is"]
    if name == "Function" or HELD in held:
        return Function(None, str(held.get("name", "function")))
    cls = OBJECTIVES.get(name) or _strangers(name)
    if cls is None:
        if ":" in name:
            return Function(None, str(held.get("looks", name)))
        raise TargetError(f"the stored objective {name!r} is not one of this version")
    given = {key: _value(value) for key, value in held.items() if key not in ("is", "looks")}
    return _made(cls, {RENAMED.get((name, str(key)), str(key)): value for key, value in given.items()})


def _made(cls: type[Objective], given: dict[str, Any]) -> Objective:
    """A value of these fields, checked as its constructor does, whatever that takes."""
    made = object.__new__(cls)
    for one in fields(cls):
        default = one.default if one.default_factory is MISSING else one.default_factory()
        value = given.pop(one.name, default)
        if value is MISSING:
            raise TargetError(f"the stored {cls.__name__} has no {one.name}")
        object.__setattr__(made, one.name, value)
    if given:
        raise TargetError(f"the stored {cls.__name__} has {', '.join(given)}, which this version does not know")
    check = getattr(made, "__post_init__", None)
    if check is not None:
        check()
    return made


def _strangers(name: str) -> type[Objective] | None:
    module, _, attribute = name.partition(":")
    found: Any = sys.modules.get(module) if attribute else None
    for part in attribute.split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, type) and issubclass(found, Objective) else None


def _plain(value: Any) -> Any:
    if isinstance(value, Objective):
        return to_plain(value)
    if isinstance(value, Tensor):
        return {"tensor": value.tolist(), "dtype": str(value.dtype).removeprefix("torch.")}
    if isinstance(value, (tuple, list)):
        return [_plain(inner) for inner in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return {HELD if callable(value) else "not stored": str(value)}


def _value(held: Any) -> Any:
    if isinstance(held, list):
        return tuple(map(_value, held))
    if not isinstance(held, Mapping):
        return held
    if "tensor" in held:
        dtype = getattr(torch, str(held.get("dtype")), None)
        if not isinstance(dtype, torch.dtype):
            raise TargetError(f"a stored tensor has the type {held.get('dtype')!r}, which torch does not know")
        return torch.tensor(held["tensor"], dtype=dtype)
    return from_plain(held)
