"""Frozen values of this package as plain ones for JSON, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepviz.errors import ModelError
from deepviz.models import Preprocess
from deepviz.objectives import Function, Objective, from_plain, to_plain
from deepviz.objectives.record import OBJECTIVES
from deepviz.synthesis import canvas, transforms
from deepviz.synthesis.natural_images import NaturalImages

_KINDS: dict[str, type] = {
    name: value
    for room in (canvas, transforms)
    for name, value in vars(room).items()
    if isinstance(value, type) and is_dataclass(value) and value.__module__ == room.__name__
} | {"Preprocess": Preprocess}


def plain(value: Any) -> Any:
    """A value as JSON can hold it, exactly: canvases, transforms, objectives, tensors, tuples and plain values.

    Of a stranger's canvas or transform only its name and looks are kept, which `value_of` refuses.
    """
    if isinstance(value, Tensor):
        return {"tensor": value.tolist(), "dtype": str(value.dtype).removeprefix("torch.")}
    if isinstance(value, Objective):
        return to_plain(value)
    if isinstance(value, NaturalImages):
        return {"natural images": value.to_json()}
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        if _KINDS.get(type(value).__name__) is not type(value):
            return _looks(value)
        return {
            "is": type(value).__name__,
            **{field.name: plain(getattr(value, field.name)) for field in fields(value)},
        }
    if isinstance(value, np.generic):
        return value.item()
    return value if value is None or isinstance(value, (bool, int, float, str)) else _looks(value)


def _looks(value: Any) -> dict[str, str]:
    return {"is": f"{type(value).__module__}.{type(value).__qualname__}", "looks": repr(value)}


def value_of(held: Any) -> Any:
    """What `plain` was given; lists come back as tuples.

    Raises:
        ModelError: for something that `plain` does not write.
    """
    if isinstance(held, list):
        return tuple(value_of(item) for item in held)
    if not isinstance(held, Mapping):
        return held
    if "tensor" in held:
        return torch.tensor(held["tensor"], dtype=getattr(torch, held["dtype"]))
    if "natural images" in held:
        return NaturalImages.from_json(held["natural images"])
    name = str(held.get("is", ""))
    if name in OBJECTIVES or ":" in name:
        return _objective(held)
    kind = _KINDS.get(name)
    if kind is None:
        raise ModelError(f"the record holds {held.get('is', held)!r}, which is not one of DeepViz's own values")
    try:
        return kind(**{name: value_of(item) for name, item in held.items() if name != "is"})
    except TypeError as error:
        raise ModelError(f"the record's {held['is']} is not as this version knows it: {error}") from error


def _objective(held: Mapping[str, Any]) -> Objective:
    try:
        found = from_plain(held)
    except (TypeError, ValueError) as error:
        raise ModelError(f"the record's {held['is']} is not as this version knows it: {error}") from error
    lost = [part for part in found.parts() if isinstance(part, Function) and part.function is None]
    if lost:
        raise ModelError(
            f"the record holds {lost[0]}, which is not one of DeepViz's own values: import its module first, or give "
            "the objective again"
        )
    return found
