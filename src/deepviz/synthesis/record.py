"""Frozen values of this package as plain ones for JSON, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any

from torch import Tensor

from deepviz.codec import Codec, NotStored
from deepviz.errors import ModelError
from deepviz.inputs import Shared
from deepviz.models import Preprocess
from deepviz.objectives import Function, Objective
from deepviz.objectives.record import OBJECTIVES, callable_in, callable_out, first_version
from deepviz.probe.outputs import describe
from deepviz.synthesis import canvas, transforms
from deepviz.synthesis.canvas import Canvas
from deepviz.synthesis.natural_images import NaturalImages
from deepviz.synthesis.transforms import Transform

_OWN: dict[str, type] = {
    name: value
    for room in (canvas, transforms)
    for name, value in vars(room).items()
    if isinstance(value, type) and is_dataclass(value) and value.__module__ == room.__name__
} | {"Preprocess": Preprocess}
# a canvas and an objective are called Pixels
_KINDS = _OWN | {f"objective {name}" if name in _OWN else name: cls for name, cls in OBJECTIVES.items()}


def plain(value: Any) -> Any:
    """A value as JSON can hold it, exactly: canvases, transforms, objectives, tensors, tuples and plain values."""
    return _CODEC.encode(value)


def value_of(held: Any) -> Any:
    """What `plain` was given; lists come back as tuples.

    Raises:
        ModelError: for something that cannot be made here.
    """
    try:
        found = _CODEC.decode(held)
    except NotStored as error:
        raise ModelError(f"the record cannot be reproduced: {error}") from error
    for objective in found if isinstance(found, tuple) else [found]:
        if isinstance(objective, Objective):
            _check(objective)
    return found


def described(extra: Any) -> Any:
    """What goes along with an image, as plain values for JSON: of tensors only shape and type."""
    if isinstance(extra, Shared):
        return {"shared": described(extra.value)}
    if isinstance(extra, Mapping):
        return {str(name): described(value) for name, value in extra.items()}
    if isinstance(extra, (tuple, list)):
        return [described(value) for value in extra]
    if isinstance(extra, Tensor):
        return describe(extra)
    return plain(extra) if extra is None or isinstance(extra, (bool, int, float, str)) else type(extra).__name__


def _check(objective: Objective) -> None:
    lost = [part for part in objective.parts() if isinstance(part, Function) and part.function is None]
    if lost:
        raise ModelError(
            f"the record holds {lost[0]}, which is not one of DeepViz's own values: import its module first, or give "
            "the objective again"
        )


def _out(value: Any) -> Mapping[str, Any] | None:
    return {"natural images": value.to_json()} if isinstance(value, NaturalImages) else callable_out(value)


def _in(held: Mapping[str, Any]) -> Any:
    if "natural images" in held:
        return NaturalImages.from_json(held["natural images"])
    return callable_in(held)


_CODEC = Codec(lambda: _KINDS, (Objective, Canvas, Transform), first_version, _out, _in)
