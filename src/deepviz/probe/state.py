"""What a finding about a model is remembered by: as long as the model is as it was."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn

T = TypeVar("T")
MOST = 64
"""Findings kept for one model; the oldest goes first."""


class State:
    """What a model is like: its modules, the place and version of each parameter and buffer, and, for modules that are
    not torch's own, the attributes that are switches, strings and fractions, and the shapes of those that are tensors
    (side information that a wrapper keeps).

    Whatever writes to a tensor in place, or puts another in its place, changes it; writing through `.data` does not,
    nor does a hook or what a list or an object holds. Integers are left out: many models count their calls.
    """

    __slots__ = ("_hash", "_parts")

    def __init__(self, parts: tuple[Any, ...]) -> None:
        self._parts = parts
        self._hash = hash(parts)  # asked for several times a call, of hundreds of parts

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, State) and self._hash == other._hash and self._parts == other._parts


@dataclass(frozen=True, eq=False)
class Survey:
    """What one walk through a model finds; it holds the modules, so it lives no longer than a call.

    Args:
        state: what findings are remembered by.
        modules: all of them.
        batch_norms: those that normalise by batch statistics.
        graphs: whether there is any that runs outside Python: scripted, traced or exported.
        inference: whether a parameter or buffer was made in inference mode.
    """

    state: State
    modules: list[nn.Module]
    batch_norms: list[nn.Module]
    graphs: bool
    inference: bool


_SETTINGS = {bool, float, str}
_PASSED_OVER = {dict, OrderedDict, set, list, int, type(None)}


def survey(model: nn.Module) -> Survey:
    """Walk through a model."""
    parts: list[Any] = []
    modules: dict[nn.Module, None] = {}
    batch_norms: list[nn.Module] = []
    graphs = inference = False
    pending: list[nn.Module | None] = [model]
    # a walk of our own, since this runs at every call: `modules()` and `isinstance` take three times as long
    while pending:
        module = pending.pop()
        if module is None or module in modules:
            continue
        modules[module] = None
        parts.append(ref(module))
        cls: Any = type(module)
        scripted, graph, batch_norm, builtin = _kind(cls)
        graphs |= graph
        if batch_norm:
            batch_norms.append(module)
        attributes = module.__dict__
        if scripted:
            own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
            pending.extend(module.children())
        else:
            own = [*attributes["_parameters"].values(), *attributes["_buffers"].values()]
            pending.extend(attributes["_modules"].values())
        for tensor in own:
            if tensor is not None:
                parts.append(tensor.data_ptr())
                try:
                    parts.append(tensor._version)
                except RuntimeError:  # it has none if it was made in inference mode
                    inference = True
        if not builtin:
            parts.extend(_settings(attributes))
    return Survey(State(tuple(parts)), list(modules), batch_norms, graphs, inference)


def _settings(attributes: dict[str, Any]) -> list[Hashable]:
    """What a module's attributes say of how it computes; `training` is not among them, since a borrowed model is
    evaluated whatever it says."""
    found: list[Hashable] = []
    for name, value in attributes.items():
        kind = value.__class__
        if kind in _PASSED_OVER or name == "training":
            continue
        if kind in _SETTINGS:
            found.append(value)
        elif issubclass(kind, Tensor):
            found.append(value.shape)
    return found


@lru_cache(maxsize=1024)
def _kind(cls: Any) -> tuple[bool, bool, bool, bool]:
    """Whether modules of a class are scripted, run as a graph, normalise by the batch, and are torch's own layers,
    which keep no tensors but parameters and buffers."""
    scripted = issubclass(cls, torch.jit.ScriptModule)
    graph = scripted or issubclass(cls, torch.fx.GraphModule)
    batch_norm = issubclass(cls, nn.modules.batchnorm._BatchNorm) and not scripted
    return scripted, graph, batch_norm, cls.__module__.startswith("torch.nn.modules.")


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
        self.put(model, key, found)
        return found

    def put(self, model: nn.Module, key: Hashable, found: T) -> None:
        """Remember a finding; the oldest of this model goes if there are too many."""
        known = self._found.setdefault(model, OrderedDict())
        known[key] = found
        while len(known) > MOST:
            known.popitem(last=False)
