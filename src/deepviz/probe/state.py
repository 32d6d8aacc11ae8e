"""What a finding about a model is remembered by: as long as the model is as it was."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn

T = TypeVar("T")
MOST = 64
"""Findings kept for one model; the oldest goes first."""


_PLAIN = {dict, OrderedDict, bool, type(None), set, int, tuple, str, float, list}


def state_of(model: nn.Module) -> tuple[Any, ...]:
    """The model's modules, the place and version of each parameter and buffer, and the shapes of tensors that are plain
    attributes (side information that a wrapper keeps).

    Whatever writes to a tensor in place, or puts another in its place, changes it; writing through `.data` does not.
    """
    found: list[Any] = []
    seen: set[nn.Module] = set()
    pending = [model]
    # a walk of our own, since this runs at every call: `modules()` and `isinstance` take three times as long
    while pending:
        module = pending.pop()
        if module is None or module in seen:
            continue
        seen.add(module)
        found.append(ref(module))
        attributes = module.__dict__
        scripted = isinstance(module, torch.jit.ScriptModule)
        if scripted:
            own = dict(module.named_parameters(recurse=False)), dict(module.named_buffers(recurse=False))
        else:
            own = attributes["_parameters"], attributes["_buffers"]
        for tensors in own:
            for tensor in tensors.values():
                if tensor is not None:
                    found.append(tensor.data_ptr())
                    found.append(-1 if tensor.is_inference() else tensor._version)
        found.extend(
            value.shape
            for value in attributes.values()
            if value.__class__ not in _PLAIN and issubclass(value.__class__, Tensor)
        )
        pending.extend(module.children() if scripted else attributes["_modules"].values())
    return tuple(found)


class Memory(Generic[T]):
    """Findings by model and circumstances; models are held weakly, and few findings of each."""

    def __init__(self) -> None:
        self._found: WeakKeyDictionary[nn.Module, OrderedDict[Hashable, T]] = WeakKeyDictionary()

    def get(self, model: nn.Module, key: Hashable) -> T | None:
        """What is known, if anything is."""
        return self._found.get(model, OrderedDict()).get(key)

    def once(self, model: nn.Module, key: Hashable, find: Callable[[], T]) -> T:
        """What `find` found for the model and `key`, which holds the model's state; found again if either changed."""
        known = self._found.setdefault(model, OrderedDict())
        if key in known:
            known.move_to_end(key)
            return known[key]
        found = find()
        known[key] = found
        while len(known) > MOST:
            known.popitem(last=False)
        return found
