"""Objectives as plain values for JSON, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deepviz.codec import Codec, NotStored
from deepviz.errors import TargetError
from deepviz.objectives.box import Box, Boxes, Detection
from deepviz.objectives.classes import Logit, Predicted, Probability
from deepviz.objectives.finer import Finer
from deepviz.objectives.function import Function
from deepviz.objectives.image import L2, TotalVariation
from deepviz.objectives.layers import Channel, Direction, Diversity, Energy, Match, Neuron
from deepviz.objectives.objective import Objective, Sum
from deepviz.objectives.output import Output
from deepviz.objectives.pixels import Pixels, Region, Regions
from deepviz.objectives.rest import ReST
from deepviz.objectives.similarity import Similarity
from deepviz.objectives.text import Text

OBJECTIVES: dict[str, type[Objective]] = {
    cls.__name__: cls
    for cls in (
        Box,
        Boxes,
        Channel,
        Detection,
        Direction,
        Diversity,
        Energy,
        Finer,
        Function,
        L2,
        Logit,
        Match,
        Neuron,
        Output,
        Pixels,
        Predicted,
        Probability,
        ReST,
        Region,
        Regions,
        Similarity,
        Sum,
        Text,
        TotalVariation,
    )
}
"""The objectives of this package, by name."""
RENAMED = {("Similarity", "embedding"): "to"}
"""Fields as they were called in 0.1."""
HELD = "held a callable"


def to_plain(objective: Objective) -> dict[str, Any]:
    """An objective as JSON, without loss; of a callable the name alone, marked "held a callable".

    Example:
        >>> to_plain(Logit(281) - Logit(282))["terms"]
        [[1.0, {'is': 'Logit', 'target': 281}], [-1.0, {'is': 'Logit', 'target': 282}]]
    """
    held: dict[str, Any] = CODEC.encode(objective)
    return held


def from_plain(held: Any) -> Objective:
    """The inverse of `to_plain`; a callable is restored as a `Function` that can be shown, not called.

    Nothing is imported: an objective from outside of this package comes back if its module is imported already, else
    as such a `Function`.

    Raises:
        TargetError: for something that `to_plain` does not write.
    """
    try:
        made = CODEC.decode(held)
    except NotStored as error:
        raise TargetError(f"the stored objective cannot be made: {error}") from None
    if not isinstance(made, Objective):
        raise TargetError(f"{held!r} is no stored objective")
    return made


def first_version(held: Mapping[str, Any]) -> Mapping[str, Any]:
    """What 0.1 wrote for an objective, as it is written now."""
    name = str(held.get("is"))
    return {RENAMED.get((name, key), key): value for key, value in held.items()}


def callable_out(value: Any) -> dict[str, Any] | None:
    """A callable by its name."""
    return {"is": "Function", "name": value.name, HELD: True} if isinstance(value, Function) else None


def callable_in(held: Mapping[str, Any]) -> Objective | None:
    """A callable that was stored by its name, or an objective whose module is not imported: it can be shown."""
    name = str(held.get("is"))
    if name == "Function" or HELD in held:
        return Function(None, str(held.get("name", "function")))
    if ":" not in name or "looks" not in held:
        return None
    try:
        CODEC.class_of(held)
    except NotStored as error:
        return Function(None, error.looks)
    return None


CODEC = Codec(lambda: OBJECTIVES, Objective, first_version, callable_out, callable_in)
