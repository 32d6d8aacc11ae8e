"""Frozen values as plain ones that JSON can hold, and back: one way for methods, objectives, canvases and all others.

A value is `{"is": name, field: value, ...}`, a tensor `{"tensor": values, "dtype": name}`, a tuple a list. What cannot
be stored (a module, a function) leaves a word on what it was, `{"not stored": word}`. Nothing is ever imported: a class
from outside is found if its module is imported already.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepviz.errors import in_one_line

NOT_STORED = "not stored"


class NotStored(ValueError):
    """What stands in a file cannot be made here; the message says why, `looks` what it looked like."""

    def __init__(self, reason: str, looks: str = "") -> None:
        super().__init__(reason)
        self.looks = looks


@dataclass(frozen=True)
class Codec:
    """Frozen values as plain ones, and back.

    Args:
        known: the classes that are stored by a short name; others are stored as `package.module:Class`.
        kind: what classes from outside have to be.
        older: turns what earlier versions wrote for a value into what is written now.
        outgoing: a value that is written in its own way, as that; None for all others.
        incoming: what `outgoing` wrote, as the value; None for all others.

    Example:
        >>> from deepviz.options import Frozen
        >>> @dataclass(frozen=True)
        ... class Blur(Frozen):
        ...     sigma: float = 1.0
        >>> codec = Codec(lambda: {"blur": Blur}, Blur)
        >>> codec.encode(Blur(2.0))
        {'is': 'blur', 'sigma': 2.0}
        >>> codec.decode({'is': 'blur', 'sigma': 2.0})
        Blur(sigma=2.0)
    """

    known: Callable[[], Mapping[str, type[Any]]]
    kind: type[Any] | tuple[type[Any], ...]
    older: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda held: held
    outgoing: Callable[[Any], Mapping[str, Any] | None] = lambda value: None
    incoming: Callable[[Mapping[str, Any]], Any] = lambda held: None

    def encode(self, value: Any) -> Any:
        """A value as JSON can hold it: exactly, or with a word on what it was."""
        special = self.outgoing(value)
        if special is not None:
            return dict(special)
        if isinstance(value, Tensor):
            return _encoded_tensor(value)
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, float) and not math.isfinite(value):
            return {"number": str(value)}
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, (tuple, list)):
            return [self.encode(item) for item in value]
        if is_dataclass(value) and not isinstance(value, type):
            return self._encoded(value)
        return {NOT_STORED: str(getattr(value, "__name__", type(value).__name__))}

    def _encoded(self, value: Any) -> dict[str, Any]:
        cls = type(value)
        name = next((name for name, known in self.known().items() if known is cls), None)
        held = {field.name: self.encode(getattr(value, field.name)) for field in fields(value)}
        if name is not None:
            return {"is": name, **held}
        return {"is": f"{cls.__module__}:{cls.__qualname__}", **held, "looks": str(value)}

    def decode(self, held: Any) -> Any:
        """What `encode` was given; lists come back as tuples.

        Raises:
            NotStored: for what cannot be made here.
        """
        if isinstance(held, list):
            return tuple(map(self.decode, held))
        if not isinstance(held, Mapping):
            return held
        if "tensor" in held:
            return _decoded_tensor(held)
        if "number" in held:
            return float(held["number"])
        if NOT_STORED in held:
            raise NotStored(f"{held[NOT_STORED]} is not stored")
        held = self.older(held)
        special = self.incoming(held)
        return self._decoded(held) if special is None else special

    def _decoded(self, held: Mapping[str, Any]) -> Any:
        cls = self.class_of(held)
        given = {str(name): value for name, value in held.items() if name not in ("is", "looks")}
        unknown = given.keys() - {field.name for field in fields(cls)}
        if unknown:
            raise NotStored(
                f"{cls.__name__} has {', '.join(sorted(unknown))}, which this version does not know",
                str(held.get("looks", "")),
            )
        made = object.__new__(cls)  # as its constructor does, whatever that takes
        for field in fields(cls):
            object.__setattr__(made, field.name, self._field(cls, field, given))
        try:
            getattr(made, "__post_init__", lambda: None)()
        except Exception as error:  # a check of another package may raise anything
            raise NotStored(f"its options are not those of {cls.__name__} here ({in_one_line(error)})") from error
        return made

    def _field(self, cls: type[Any], field: Any, given: Mapping[str, Any]) -> Any:
        if field.name in given:
            try:
                return self.decode(given[field.name])
            except NotStored as error:
                raise NotStored(f"its {field.name}, {error}" if NOT_STORED in str(error) else str(error)) from None
        default = field.default if field.default_factory is MISSING else field.default_factory()
        if default is MISSING:
            raise NotStored(f"the stored {cls.__name__} has no {field.name}")
        return default

    def class_of(self, held: Mapping[str, Any]) -> type[Any]:
        """The class that a stored value is of.

        Raises:
            NotStored: if there is none; with what to import.
        """
        name = held.get("is")
        if not isinstance(name, str):
            raise NotStored(f"{str(held)[:80]} is no stored value")
        looks = str(held.get("looks", name))
        found: Any = self.known().get(name)
        if found is not None:
            return found  # type: ignore[no-any-return]
        module, _, attribute = name.partition(":")
        if not attribute:
            raise NotStored(f"{name!r} is not one of this version", looks)
        if module not in sys.modules:
            raise NotStored(f"import {module} first", looks)
        found = sys.modules[module]
        for part in attribute.split("."):
            found = getattr(found, part, None)
        if not (isinstance(found, type) and issubclass(found, self.kind) and is_dataclass(found)):
            raise NotStored(f"{module} has no {attribute}", looks)
        return found


def _encoded_tensor(value: Tensor) -> dict[str, Any]:
    plain = value.detach().cpu()
    if plain.is_complex() or (plain.is_floating_point() and not bool(plain.isfinite().all())):
        return {NOT_STORED: f"tensor {tuple(value.shape)}"}
    held = {"tensor": plain.tolist(), "dtype": str(value.dtype).removeprefix("torch.")}
    return held if value.numel() else held | {"shape": list(value.shape)}


def _decoded_tensor(held: Mapping[str, Any]) -> Tensor:
    dtype = getattr(torch, str(held.get("dtype")), None)
    if not isinstance(dtype, torch.dtype):
        raise NotStored(f"a stored tensor has the type {held.get('dtype')!r}, which torch does not know")
    try:
        made = torch.tensor(held["tensor"], dtype=dtype)
        return made.reshape(held["shape"]) if "shape" in held else made
    except (TypeError, ValueError, RuntimeError) as error:
        raise NotStored(f"a stored tensor cannot be read ({in_one_line(error)})") from None
