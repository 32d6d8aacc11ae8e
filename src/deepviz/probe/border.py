"""What models ordinarily do on the way from input to output, and gradients need undone for the length of a call."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from deepviz.errors import ModelError


class PastNoGrad(TorchFunctionMode):
    """Inside this scope, the model's own `torch.no_grad()` and `set_grad_enabled(False)` have no effect.

    An in-place update of a parameter, which they may be there for, still runs without a graph.

    Attributes:
        met: how many such statements were passed over.
    """

    def __init__(self) -> None:
        super().__init__()
        self.met = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch._C._set_grad_enabled and args and args[0] is False:
            self.met += 1
            return None
        if _updates_a_parameter(func, args):
            with torch.no_grad():
                return func(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _updates_a_parameter(func: Any, args: tuple[Any, ...]) -> bool:
    name = getattr(func, "__name__", "")
    in_place = (name.endswith("_") and not name.endswith("__")) or name in ("__setitem__", "__iadd__", "__imul__")
    return in_place and bool(args) and isinstance(args[0], Tensor) and args[0].is_leaf and args[0].requires_grad


_running: Counter[int] = Counter()
_saved: dict[str, Any] = {}
_lock = threading.Lock()


@contextmanager
def without_checkpointing() -> Iterator[None]:
    """Activation checkpointing runs its function like any other in this thread: nothing is computed twice.

    The reentrant kind allows no gradients for chosen tensors, and either kind runs layers again while gradients flow,
    where hooks and rules do not reach. What is computed is the same.
    """
    thread = threading.get_ident()
    with _lock:
        if not _running:
            _bypass()
        _running[thread] += 1
    try:
        yield
    finally:
        with _lock:
            _running[thread] -= 1
            if _running[thread] == 0:
                del _running[thread]
            if not _running:
                _restore()


def _bypass() -> None:
    checkpoint = sys.modules["torch.utils.checkpoint"]
    reentrant, other = checkpoint.CheckpointFunction, checkpoint._checkpoint_without_reentrant_generator

    class Directly:
        @staticmethod
        def apply(function: Any, preserve: Any, *args: Any) -> Any:
            if threading.get_ident() in _running:
                return function(*args)
            return reentrant.apply(function, preserve, *args)

    def directly(*args: Any, **kwargs: Any) -> Iterator[None]:
        if threading.get_ident() not in _running:
            yield from other(*args, **kwargs)
        else:
            yield

    _saved.update(CheckpointFunction=reentrant, _checkpoint_without_reentrant_generator=other)
    checkpoint.CheckpointFunction = Directly  # type: ignore[attr-defined]
    checkpoint._checkpoint_without_reentrant_generator = directly  # type: ignore[attr-defined]


def _restore() -> None:
    checkpoint = sys.modules["torch.utils.checkpoint"]
    for name, value in _saved.items():
        setattr(checkpoint, name, value)
    _saved.clear()


@contextmanager
def contiguous_at_batch_norm(modules: list[nn.Module]) -> Iterator[list[bool]]:
    """Inside, gradients arrive at batch normalisation in the plain layout.

    Of one row, torch (up to 2.13, on a CPU) computes a wrong gradient where an evaluated batch normalisation has an
    input in the plain layout and its gradient comes in another, as it does from tokens that were maps before.

    Yields:
        A list that grows by one for each gradient that came in another layout.
    """
    met: list[bool] = []

    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.requires_grad and inputs and inputs[0].is_contiguous():
            output.register_hook(plain)

    def plain(gradient: Tensor | None) -> Tensor | None:
        # an operator without a derivative sends none
        if gradient is None or gradient.is_contiguous():
            return None
        met.append(True)
        return gradient.contiguous()

    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield met
    finally:
        for handle in handles:
            handle.remove()


def refuse_inference_tensors(model: nn.Module) -> None:
    """Parameters that were made in inference mode can take no part in a gradient.

    Raises:
        ModelError: naming the first one, and the way out.
    """
    for kind, named in (("parameter", model.named_parameters()), ("buffer", model.named_buffers())):
        for name, tensor in named:
            if tensor.is_inference():
                raise ModelError(
                    f"{kind} {name} was made in torch.inference_mode(), so no gradient can pass it: build and load the "
                    "model outside of it, or give copy.deepcopy(model), made outside of it"
                )
