"""Borrow a model for one call and give it back as it was."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import Lock
from weakref import WeakKeyDictionary

import torch
from torch import nn

from deepviz.probe.border import without_checkpointing

_borrowers: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()
_counting = Lock()


def original(model: nn.Module) -> nn.Module:
    """The module itself, out of `torch.compile`, `DataParallel` and `DistributedDataParallel`."""
    while True:
        if _is_compiled(model):
            model = model._orig_mod  # type: ignore[assignment]
        elif isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        else:
            return model


@contextmanager
def borrowed(model: nn.Module, modules: list[nn.Module] | None = None) -> Iterator[None]:
    """Eval mode, sub-module by sub-module, and gradients on; everything as before afterwards, torch's random state too.

    The flags are set directly, because a module's own `train()` may do more than set a flag (LoRA layers merge
    their weights there). Compiled parts run eagerly: rules and hooks do not reach inside compiled code. `modules`: all
    of the model's, if they are known.
    """
    modules = list(model.modules()) if modules is None else modules
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        if any(_is_compiled(module) or _compiles_itself(module) for module in modules):
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(without_checkpointing())
        stack.enter_context(_evaluating(modules))
        stack.enter_context(_same_random_state(modules))
        yield


@contextmanager
def _same_random_state(modules: list[nn.Module]) -> Iterator[None]:
    """Torch's random state as it was, whatever a model that draws numbers in its forward pass took of it."""
    first = next((parameter for module in modules for parameter in module.parameters(recurse=False)), None)
    device = first.device if first is not None and first.is_cuda else None
    before = torch.get_rng_state()
    on_device = None if device is None else torch.cuda.get_rng_state(device)
    try:
        yield
    finally:
        if not torch.equal(before, torch.get_rng_state()):
            torch.set_rng_state(before)
        if device is not None and on_device is not None:
            torch.cuda.set_rng_state(on_device, device)


@contextmanager
def _evaluating(modules: list[nn.Module]) -> Iterator[None]:
    """Eval mode for all modules; those in train mode return to it when the last thread that borrows them is done."""
    held: list[nn.Module] = []
    try:
        with _counting:
            for module in modules:
                # a part of a frozen ScriptModule has no such flag
                if getattr(module, "training", False) or (_borrowers and module in _borrowers):
                    _borrowers[module] = _borrowers.get(module, 0) + 1
                    held.append(module)
                    module.training = False
        yield
    finally:
        with _counting:
            for module in held:
                _borrowers[module] -= 1
                if _borrowers[module] == 0:
                    del _borrowers[module]
                    module.training = True


def _is_compiled(module: nn.Module) -> bool:
    # without torch._dynamo, whose import takes seconds, nothing can have been compiled
    dynamo = sys.modules.get("torch._dynamo.eval_frame")
    return dynamo is not None and isinstance(module, dynamo.OptimizedModule)


def _compiles_itself(module: nn.Module) -> bool:
    return module._compiled_call_impl is not None
