"""Weights from files: tensors only, and they must fit."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from deepviz.errors import ModelError

_WRAPPERS = ("state_dict", "model")
_LISTED = 3


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors by name in a .safetensors file, or in one that `torch.save` wrote.

    A state dict may lie under "state_dict" or "model"; the prefix "module." of `DataParallel` is taken off.

    Raises:
        ModelError: if the file does not exist or holds anything but tensors and plain values: a pickle that asks
            to run code is refused, and not run.
    """
    if not path.is_file():
        raise ModelError(f"weights file {path} does not exist")
    held = _read_safetensors(path) if path.suffix.lower() == ".safetensors" else _read_pickle(path)
    for wrapper in _WRAPPERS:
        if isinstance(held, Mapping) and isinstance(held.get(wrapper), Mapping):
            held = held[wrapper]
    if not isinstance(held, Mapping) or not held or not all(isinstance(v, Tensor) for v in held.values()):
        raise ModelError(f"{path} holds no state dict; write one with torch.save(model.state_dict(), ...)")
    return _without_prefix({str(name): tensor for name, tensor in held.items()}, "module.")


def load_state(module: nn.Module, state: Mapping[str, Tensor], file: str, model: str) -> None:
    """Copy `state` into `module`, all of it and nothing missing.

    Raises:
        ModelError: with the keys that are missing, unexpected or of another shape.
    """
    try:
        module.load_state_dict(state, strict=True)
    except RuntimeError as error:
        reason = _misfit(module.state_dict(), state) or str(error).splitlines()[0]
        raise ModelError(f"{file} does not fit {model}: {reason}") from None


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
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        detail = f"it asks for {asked[1]}" if asked else "it is not a file of plain tensors"
        raise ModelError(
            f"{path} was refused, since loading it could run code ({detail}); "
            "save tensors only: torch.save(model.state_dict(), ...) or safetensors"
        ) from None


def _without_prefix(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    if not all(name.startswith(prefix) for name in state):
        return state
    return {name.removeprefix(prefix): tensor for name, tensor in state.items()}


def _misfit(own: Mapping[str, Any], state: Mapping[str, Tensor]) -> str:
    reshaped = [
        f"{name} {tuple(tensor.shape)} instead of {tuple(own[name].shape)}"
        for name, tensor in state.items()
        if isinstance(own.get(name), Tensor) and own[name].shape != tensor.shape
    ]
    found = {
        "missing": [name for name in own if name not in state],
        "unexpected": [name for name in state if name not in own],
        "of another shape": reshaped,
    }
    return "; ".join(f"{len(names)} {what}: {_few(names)}" for what, names in found.items() if names)


def _few(names: list[str]) -> str:
    return ", ".join(names[:_LISTED]) + (", ..." if len(names) > _LISTED else "")


def weights_hash(module: nn.Module) -> str:
    """SHA-256 of the names, shapes and values of all parameters and buffers: which network this is."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if isinstance(tensor, Tensor):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
