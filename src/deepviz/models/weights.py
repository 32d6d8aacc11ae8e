"""Weights from files: tensors only, and they must fit."""

from __future__ import annotations

import argparse
import hashlib
import re
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from deepviz.errors import ModelError

_AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")
_WRAPPERS = (*_AVERAGED, "state_dict", "model_state_dict", "model", "weights", "params")
"""Where checkpoints keep a state dict; of several the averaged one is taken, as timm does."""
_DEEPEST = 3
PREFIXES = ("model", "module", "net", "network", "_orig_mod", "backbone", "visual")
"""Names that wrappers give to the module that they hold, in the order in which they are preferred."""
FOR_CLASSES = "--num-classes {0} (num_classes={0})"
_LISTED = 3


@dataclass(frozen=True, eq=False)
class StoredWeights:
    """The tensors of a file of weights, by name.

    Args:
        file: its path, as it was given.
        tensors: by name.
        key: where in the checkpoint they were, "state_dict_ema"; "" if the file holds nothing else.
        other_keys: other state dicts in the same checkpoint.
        versions: of the modules that wrote them, by their names, as torch keeps them; None if the file does not say.
    """

    file: str
    tensors: Mapping[str, Tensor]
    key: str = ""
    other_keys: tuple[str, ...] = ()
    versions: Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        """The file's name."""
        return Path(self.file).name

    def outputs_for(self, module: nn.Module) -> tuple[int, str] | None:
        """How many outputs the stored network has, if nothing else tells it from `module`, and the name of a tensor
        that says so; None if they fit, or do not fit at all."""
        fitted = self._fitted(module)
        return None if fitted is None else _outputs(_tensors_of(module), fitted.tensors)

    def load_into(self, module: nn.Module, model: str, for_classes: str = FOR_CLASSES) -> tuple[str, ...]:
        """Copy the tensors into `module`: all that it has, none missing.

        Args:
            module: takes them.
            model: its name, for errors.
            for_classes: what to write to get the model with {} classes, for errors.

        Returns:
            What a reader should know of how they were found, one sentence each.

        Raises:
            ModelError: with the names that are missing, unexpected or of another shape, the likely causes, and what
                to write.
        """
        fitted = self._fitted(module)
        try:
            if fitted is not None:
                module.load_state_dict(self._as_state(fitted, module), strict=True)
        except (RuntimeError, ValueError):  # what a module raises that reads its tensors itself
            fitted = None
        if fitted is None:
            raise ModelError(self._misfit(module, model, for_classes))
        return tuple(self._told(fitted))

    def _as_state(self, fitted: _Fitted, module: nn.Module) -> dict[str, Tensor]:
        """The tensors with the versions of their modules, which some modules read them by."""
        state: Any = OrderedDict(fitted.tensors)
        if self.versions is not None:
            begin, end = fitted.removed.removesuffix("."), fitted.added.removesuffix(".")
            inside = {name: of for name, of in self.versions.items() if f"{name}.".startswith(fitted.removed)}
            shifted = {name.removeprefix(begin).removeprefix("."): of for name, of in inside.items()}
            state._metadata = {".".join(filter(None, (end, name))): of for name, of in shifted.items()}
        elif fitted.tensors.keys() == _tensors_of(module).keys():
            state._metadata = getattr(module.state_dict(), "_metadata", None)
        return state  # type: ignore[no-any-return]

    def _told(self, fitted: _Fitted) -> Iterator[str]:
        if self.key:
            beside = f", which also holds {_few(self.other_keys)}" if self.other_keys else ""
            yield f"weights are {self.key!r} of {self.name}{beside}"
        if fitted.removed:
            also = f", not {_few([repr(one) for one in fitted.alternatives])}" if fitted.alternatives else ""
            left = f"; {len(fitted.left)} others are not the model's: {_few(fitted.left)}" if fitted.left else ""
            yield f"weights are those that {self.name} holds under the prefix {fitted.removed!r}{also}{left}"
        if fitted.added:
            yield f"the weights of {self.name} went into the model's {fitted.added.removesuffix('.')!r}"

    def _fitted(self, module: nn.Module) -> _Fitted | None:
        """The tensors by the module's own names, if the file has all of these below some prefix, perhaps without that
        of the module; below none, if it has no others."""
        own = list(_tensors_of(module))
        for outer in dict.fromkeys(("", _shared_prefix(own))):
            inner = [name.removeprefix(outer) for name in own]
            # one layer of many, by chance of the same names, is not the model
            enough = 4 * len(inner) >= len(self.tensors)
            found = [one for one in _prefixes(inner, self.tensors) if enough or _is_usual(one)]
            if found:
                prefix = min(found, key=_preference)
                tensors = {outer + name: self.tensors[prefix + name] for name in inner if prefix + name in self.tensors}
                used = {prefix + name for name in inner}
                left = tuple(name for name in self.tensors if name not in used)
                others = tuple(sorted(set(found) - {prefix}))
                return None if left and not prefix else _Fitted(tensors, prefix, outer, left, others)
        return None

    def _misfit(self, module: nn.Module, model: str, for_classes: str) -> str:
        own = _tensors_of(module)
        prefix = _best_prefix(own.keys(), self.tensors)
        held = {name.removeprefix(prefix): t for name, t in self.tensors.items() if name.startswith(prefix)}
        below = f" (below its prefix {prefix!r})" if prefix else ""
        causes = "; ".join(f"({place}) {cause}" for place, cause in enumerate(_causes(own, held, for_classes), 1))
        return f"{self.file}{below} does not fit {model}: {_differences(own, held)}. Likely causes: {causes}"


@dataclass(frozen=True, eq=False)
class _Fitted:
    """Tensors by a module's own names.

    Args:
        tensors: by these names.
        removed: the prefix that their names have in the file.
        added: the prefix that the module's names have, and the file's have not.
        left: the names in the file that are not the module's.
        alternatives: other prefixes below which the file has all of the module's names.
    """

    tensors: Mapping[str, Tensor]
    removed: str = ""
    added: str = ""
    left: tuple[str, ...] = ()
    alternatives: tuple[str, ...] = ()


def read_weights(path: str | Path) -> StoredWeights:
    """The tensors by name in a .safetensors file, or in one that `torch.save` wrote.

    Of a training checkpoint (Lightning, timm and others) the state dict is taken; of several the averaged (EMA) one.

    Raises:
        ModelError: if the file does not exist or holds anything but tensors and plain values: a pickle that asks
            to run code is refused, and not run.
    """
    file, path = str(path), Path(path)
    if not path.is_file():
        raise ModelError(f"weights file {path} does not exist")
    held = _read_safetensors(path) if path.suffix.lower() == ".safetensors" else _read_pickle(path)
    keys: list[str] = []
    others: tuple[str, ...] = ()
    for _ in range(_DEEPEST):
        there = [key for key in _WRAPPERS if isinstance(held, Mapping) and isinstance(held.get(key), Mapping)]
        if not there:
            break
        others = others or tuple(there[1:])
        keys.append(there[0])
        held = held[there[0]]
    if not isinstance(held, Mapping) or not held or not all(isinstance(v, Tensor) for v in held.values()):
        raise ModelError(f"{path} holds no state dict; write one with torch.save(model.state_dict(), ...)")
    tensors = {str(name): tensor for name, tensor in held.items()}
    return StoredWeights(file, tensors, ".".join(keys), others, getattr(held, "_metadata", None))


def non_finite(module: nn.Module) -> str | None:
    """The name of the first parameter or buffer with a NaN or an infinity, or None."""
    for name, tensor in module.state_dict().items():
        if isinstance(tensor, Tensor) and tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            return name
    return None


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except Exception as error:
        raise ModelError(f"{path} is not a safetensors file: {str(error).splitlines()[0]}") from error


def _read_pickle(path: Path) -> Any:
    try:
        # timm keeps its command line in a checkpoint: a Namespace has no code of its own
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        detail = f"it asks for {asked[1]}" if asked else "it is not a file of plain tensors"
        raise ModelError(
            f"{path} was refused, since loading it could run code ({detail}); "
            "save tensors only: torch.save(model.state_dict(), ...) or safetensors; if you trust the file, load it "
            "with weights_only=False yourself, and save the state dict that is in it"
        ) from None


def _tensors_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in module.state_dict().items() if isinstance(tensor, Tensor)}


def _prefixes(own: Collection[str], held: Mapping[str, Tensor]) -> Iterator[str]:
    """The prefixes below which all names of a module are held: "", "model.", "module.net."."""
    # old files do not count batches, and torch fills that in
    needed = [name for name in own if not name.endswith("num_batches_tracked")]
    for name in held if needed else ():
        prefix = name.removesuffix(needed[0])
        at_dot = name.endswith(needed[0]) and (not prefix or prefix.endswith("."))
        if at_dot and all(prefix + each in held for each in needed):
            yield prefix


def _is_usual(prefix: str) -> bool:
    return all(part in PREFIXES for part in prefix.split(".")[:-1])


def _preference(prefix: str) -> tuple[int, ...]:
    """None before any, short before long, the usual ones before others."""
    parts = prefix.split(".")[:-1]
    return (len(parts), *(PREFIXES.index(part) if part in PREFIXES else len(PREFIXES) for part in parts))


def _shared_prefix(names: Collection[str]) -> str:
    """The first part of the names, "model.", if all of them have the same."""
    first = {name.partition(".")[0] if "." in name else "" for name in names}
    shared = first.pop() if len(first) == 1 else ""
    return f"{shared}." if shared else ""


def _best_prefix(own: Collection[str], held: Mapping[str, Tensor]) -> str:
    """The prefix, of at most two parts, below which most of a module's names are held."""
    shared: Counter[str] = Counter()
    for name in held:
        parts = name.split(".")
        for length in range(min(3, len(parts))):
            prefix = "".join(f"{part}." for part in parts[:length])
            shared[prefix] += name.removeprefix(prefix) in own
    return min(shared, key=lambda prefix: (-shared[prefix], _preference(prefix)))


def _outputs(own: Mapping[str, Tensor], held: Mapping[str, Tensor]) -> tuple[int, str] | None:
    """How many outputs the held tensors are for, and one that says so, if that is all in which their shapes differ:
    in their first axis, and all in the same way."""
    differing = [name for name in own if name in held and own[name].shape != held[name].shape]
    changes = {(own[name].shape[:1], held[name].shape[:1]) for name in differing}
    if len(changes) != 1 or any(own[name].shape[1:] != held[name].shape[1:] for name in differing):
        return None
    widest = max(differing, key=lambda name: own[name].ndim)
    return (held[widest].shape[0], widest) if own[widest].ndim == held[widest].ndim > 0 else None


def _differences(own: Mapping[str, Tensor], held: Mapping[str, Tensor]) -> str:
    found = {
        "missing": [name for name in own if name not in held],
        "unexpected": [name for name in held if name not in own],
        "of another shape": [
            f"{name} {tuple(tensor.shape)} instead of {tuple(own[name].shape)}"
            for name, tensor in held.items()
            if name in own and own[name].shape != tensor.shape
        ],
    }
    return "; ".join(f"{len(names)} {what}: {_few(names)}" for what, names in found.items() if names)


def _causes(own: Mapping[str, Tensor], held: Mapping[str, Tensor], for_classes: str) -> list[str]:
    """The three most likely reasons why tensors do not fit, the likeliest first, each with what to write."""
    shared = [name for name in own if name in held]
    absent, new = [name for name in own if name not in held], [name for name in held if name not in own]
    alike = 2 * len(shared) >= len(own)
    # a head has the last names of both
    at_end = [*own][-len(absent) :] == absent or not absent, [*held][-len(new) :] == new or not new
    head = alike and bool(absent or new) and all(at_end)
    names = list(dict.fromkeys(name.partition(".")[0] for name in (*new, *absent)))
    reshaped = any(own[name].shape != held[name].shape for name in shared)
    outputs = None if absent or new else _outputs(own, held)
    made = "--model my_file:make_model (load_model('my_file:make_model', ...)), a function that builds it so"
    like = f", whose names are like {next(iter(held))!r}" if not alike else ""
    # in the order in which they are to be expected where nothing points to one of them
    causes = {
        f"another model{like}: --model with the name of the one that was saved, such as timm:NAME": bool(
            not alike or ((absent or new) and not head)
        ),
        f"a head of your own{f', {_few(names)}' if head and new else ''}: {made}": head and bool(new),
        f"another number of classes: {for_classes.format('N' if outputs is None else outputs[0])}": outputs is not None,
        f"another input size or variant: {made}": not absent and not new and reshaped and outputs is None,
        "a part of a model, such as its backbone: save all of model.state_dict()": head and not new,
    }
    return sorted(causes, key=lambda cause: not causes[cause])[:3]


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:_LISTED]) + (", ..." if len(names) > _LISTED else "")


def weights_hash(module: nn.Module) -> str:
    """SHA-256 of the names, shapes and values of all parameters and buffers: which network this is."""
    # buffers that are not kept in files decide what is computed too
    held = dict(module.named_buffers(remove_duplicate=False)) | module.state_dict()
    return tensors_hash(sorted(held.items()))


def tensors_hash(named: Iterable[tuple[str, Any]]) -> str:
    """SHA-256 of the names, shapes and values of tensors; what is no tensor is passed over.

    Example:
        >>> tensors_hash([("x", torch.zeros(2))]) == tensors_hash([("x", torch.zeros(1, 2))])
        False
    """
    digest = hashlib.sha256()
    for name, tensor in named:
        if isinstance(tensor, Tensor):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
