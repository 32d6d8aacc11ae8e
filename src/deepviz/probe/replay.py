"""The part of a model below a layer, run once and then handed out again, as often as the part above is asked."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from deepviz.errors import LayerError
from deepviz.probe.capture import every_part_called
from deepviz.probe.layer_names import split_call

if TYPE_CHECKING:
    from deepviz.probe.session import Session

Axes = tuple[tuple[int | None, ...], ...]
"""Of each output that is handed out, where the rows are in each of its tensors; None for one without rows."""


class Below:
    """What the modules returned that had finished when a layer did: of modules inside others, the outermost.

    Args:
        session: rows that go through the model once.
        layer: the layer, which is the last of these.

    Raises:
        LayerError: if the layer is not called as often as its name says.
    """

    def __init__(self, session: Session, layer: str) -> None:
        path, wanted = split_call(layer)
        model = session.model
        target, left = model.get_submodule(path), wanted or 1
        owner = threading.get_ident()
        self.outputs: list[tuple[nn.Module, Any]] = []
        begun: list[int] = []

        def enter(module: nn.Module, inputs: Any) -> None:
            if left > 0 and threading.get_ident() == owner:
                begun.append(len(self.outputs))

        def leave(module: nn.Module, inputs: Any, output: Any) -> None:
            nonlocal left
            if left > 0 and threading.get_ident() == owner:
                del self.outputs[begun.pop() :]
                # copies: the model may go on to work in place
                self.outputs.append((module, _mapped(output, lambda tensor: tensor.detach().clone())))
                left -= module is target

        with ExitStack() as stack:
            for module in model.modules():
                if module is not model:
                    stack.callback(module.register_forward_pre_hook(enter).remove)
                    stack.callback(module.register_forward_hook(leave).remove)
            stack.enter_context(torch.no_grad())
            stack.enter_context(every_part_called(model, layer))
            session.read(session.look())  # refuses a class that the model does not have
        if left > 0:
            raise LayerError(f"layer {layer!r} is not called that often; choose another (see: deepviz layers)")

    @property
    def output(self) -> Any:
        """What the layer returned."""
        return self.outputs[-1][1]

    def axes(self, twice: Below) -> Axes | None:
        """Where the rows are, told by what the same modules returned for twice as many; None if they did otherwise."""
        if [module for module, _ in self.outputs] != [module for module, _ in twice.outputs]:
            return None
        found = []
        for (_, one), (_, two) in zip(self.outputs, twice.outputs, strict=True):
            tensors, others = _tensors(one), _tensors(two)
            if len(tensors) != len(others):
                return None
            found.append(tuple(map(_rows_of, tensors, others)))
        return tuple(found)

    @contextmanager
    def handed_out(self, axes: Axes, count: int) -> Iterator[None]:
        """Inside, these modules return again what they returned for one row, as that of `count` equal rows."""
        owner = threading.get_ident()
        waiting: dict[nn.Module, list[Any]] = {}
        for (module, output), of_each in zip(self.outputs, axes, strict=True):
            rows = iter(of_each)
            waiting.setdefault(module, []).append(_mapped(output, lambda one: _repeated(one, next(rows), count)))  # noqa: B023
        with ExitStack() as stack:
            for module, outputs in waiting.items():
                stack.callback(_answer_with(module, outputs, owner))
            yield


def _answer_with(module: nn.Module, outputs: list[Any], owner: int) -> Callable[[], None]:
    """Let a module return these, one a call, then compute again; returns what puts it back."""
    own = module.__dict__.get("forward")
    compute = module.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        return outputs.pop(0) if outputs and threading.get_ident() == owner else compute(*args, **kwargs)

    def put_back() -> None:
        if own is None:
            del module.__dict__["forward"]
        else:
            module.__dict__["forward"] = own

    module.__dict__["forward"] = forward
    return put_back


def _rows_of(one: Tensor, two: Tensor) -> int | None:
    unlike = [axis for axis, (a, b) in enumerate(zip(one.shape, two.shape, strict=False)) if b == 2 * a and a > 0]
    return unlike[0] if unlike and one.ndim == two.ndim else None


def _repeated(tensor: Tensor, axis: int | None, count: int) -> Tensor:
    """`count` times along the axis of its rows: without a copy for a single row, of which all are views."""
    if axis is None:
        return tensor
    if tensor.shape[axis] == 1:
        return tensor.expand(*tensor.shape[:axis], count, *tensor.shape[axis + 1 :])
    return torch.cat([tensor] * count, axis)  # windows or frames, folded into the rows


def _tensors(value: Any) -> list[Tensor]:
    found: list[Tensor] = []
    _mapped(value, lambda tensor: found.append(tensor) or tensor)  # type: ignore[func-returns-value]
    return found


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """What a module returned, each tensor of it changed; other objects stay as they are."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        made = copy.copy(value)  # transformers' outputs refuse update()
        for key, one in value.items():
            made[key] = _mapped(one, change)
        return made
    if isinstance(value, (tuple, list)):
        items = [_mapped(one, change) for one in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value
