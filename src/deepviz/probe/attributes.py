"""The attributes of modules that are copied: whether a copy may share them, and whether they are as before."""

from __future__ import annotations

import functools
import types
import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

MOST_LOOKED_AT = 5000
"""Objects that attributes may lead to; of a model with more, no copy is made."""
Plain = list[tuple[weakref.ref[nn.Module], int, dict[str, Any]]]
"""Modules, each with the number of its attributes and the values of those that say how it computes."""


class Unlike(Exception):
    """A copy cannot be made, or does not do what its model does."""


def holds_hooks(key: str, value: Any) -> bool:
    """Whether an attribute of a module is one of its tables of hooks."""
    return "hooks" in key and isinstance(value, dict)


_SCALARS = (bool, int, float, complex, str, bytes, type(None), type, types.ModuleType, Tensor)
_SCALARS_OF_TORCH = (torch.dtype, torch.device, torch.layout, torch.memory_format)


def copyable(module: nn.Module) -> tuple[weakref.ref[nn.Module], int, dict[str, Any]]:
    """A module's attributes, if a copy of it may share them.

    Raises:
        Unlike: for parametrisations, other kinds of parameters, and attributes that lead to modules: these would be
            the model's own, not the copy's.
    """
    if "parametrizations" in module._modules or module._compiled_call_impl is not None:
        raise Unlike
    if any(one is not None and type(one) is not nn.Parameter for one in module._parameters.values()):
        raise Unlike
    if any(one is not None and type(one) is not Tensor for one in module._buffers.values()):
        raise Unlike
    attributes = _attributes(module)
    if _leads_to_modules(list(attributes.values())):
        raise Unlike
    return weakref.ref(module), len(module.__dict__) - ("forward" in module.__dict__), attributes


OURS = ("deepviz.probe.", "deepviz.inside.")
"""Where functions come from that are hooks for the length of a call."""
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def is_hooked(module: nn.Module) -> bool:
    """Whether a module has hooks, or a forward of its own, that are none of ours: those last as long as a call of
    another thread."""
    attributes = module.__dict__
    held = [hook for key in _HOOKS if attributes[key] for hook in list(attributes[key].values())]
    if "forward" in attributes:
        held.append(attributes["forward"])
    return any(not str(getattr(hook, "__module__", "")).startswith(OURS) for hook in held)


_OF_MODULES = frozenset(("training", "forward", "_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"))


def _attributes(module: nn.Module) -> dict[str, Any]:
    """What besides parameters, buffers and modules says how a module computes; of lists and mappings, a copy."""
    found = {}
    for key, value in module.__dict__.items():
        if key not in _OF_MODULES and not holds_hooks(key, value):
            kind = value.__class__
            found[key] = list(value) if kind is list else dict(value) if kind is dict else value
    return found


def is_as_before(plain: Plain) -> bool:
    """Whether modules have the attributes that they had."""
    for known, count, before in plain:
        module = known()
        if module is None:
            return False
        now = module.__dict__
        if len(now) - ("forward" in now) != count:
            return False
        for key, value in before.items():
            if now.get(key) is not value and not _same(now.get(key), value):
                return False
    return True


def _same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if one.__class__ is not other.__class__:
        return False
    if isinstance(one, (bool, int, float, str)):
        return bool(one == other)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict):
        return bool(one.keys() == other.keys()) and all(_same(value, other[key]) for key, value in one.items())
    return False


def _leads_to_modules(values: list[Any]) -> bool:
    """Whether any of the values holds a module, however deep, or more than can be looked through."""
    pending, seen = list(values), set()
    while pending:
        value = pending.pop()
        if isinstance(value, nn.Module):
            return True
        if isinstance(value, (*_SCALARS, *_SCALARS_OF_TORCH)) or id(value) in seen:
            continue
        seen.add(id(value))
        if len(seen) > MOST_LOOKED_AT:
            return True
        if isinstance(value, Mapping):
            pending.extend(value.values())
        elif isinstance(value, (list, tuple, set, frozenset)):
            pending.extend(value)
        elif isinstance(value, weakref.ref):
            pending.append(value())
        elif isinstance(value, types.MethodType):
            pending.append(value.__self__)
        elif isinstance(value, types.FunctionType):
            pending.extend(cell.cell_contents for cell in value.__closure__ or () if cell != types.CellType())
            pending.extend(value.__defaults__ or ())
        elif isinstance(value, functools.partial):
            pending.extend((value.func, *value.args, *value.keywords.values()))
        elif hasattr(value, "__dict__"):
            pending.extend(vars(value).values())
    return False
