"""Frozen values of this package as plain ones for JSON, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from deepviz.errors import ModelError
from deepviz.synthesis import canvas, objective, transforms
from deepviz.synthesis.natural_images import NaturalImages

_KINDS: dict[str, type] = {
    name: value
    for room in (canvas, objective, transforms)
    for name, value in vars(room).items()
    if isinstance(value, type) and is_dataclass(value) and value.__module__ == room.__name__
}


def plain(value: Any) -> Any:
    """A value as JSON can hold it, exactly: canvases, transforms, objectives, tensors, tuples and plain values."""
    if isinstance(value, Tensor):
        return {"tensor": value.tolist(), "dtype": str(value.dtype).removeprefix("torch.")}
    if isinstance(value, NaturalImages):
        return {"natural images": value.to_json()}
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        if _KINDS.get(type(value).__name__) is not type(value):
            raise ModelError(f"{type(value).__name__} is not one of DeepViz's own values, so it cannot be recorded")
        return {
            "is": type(value).__name__,
            **{field.name: plain(getattr(value, field.name)) for field in fields(value)},
        }
    return value


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
    kind = _KINDS.get(held.get("is", ""))
    if kind is None:
        raise ModelError(f"the record holds an unknown value {held.get('is', held)!r}")
    return kind(**{name: value_of(item) for name, item in held.items() if name != "is"})
