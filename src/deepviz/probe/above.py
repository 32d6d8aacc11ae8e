"""The scores of a model whose layer returns something else: the part above the layer, asked many times."""

from __future__ import annotations

import threading
import weakref
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from deepviz.errors import DeepVizError
from deepviz.probe.capture import answering, every_part_called, explained, spatial_tensor, with_tensor
from deepviz.probe.chunks import RowBuffer, in_chunks
from deepviz.probe.grid import Grid
from deepviz.probe.layer_names import path_of
from deepviz.probe.layers import Layer
from deepviz.probe.replay import Axes, Below
from deepviz.probe.state import Memory

if TYPE_CHECKING:
    from deepviz.probe.session import Session, Value

ROWS, MOST_ROWS, NUMBERS = 8, 64, 2**22
"""Rows that the layers above see together, and the most, within as many numbers in the layer's output as this."""
Make = Callable[[slice], Tensor]

_known: Memory[Axes | None] = Memory()
_makers: Memory[str] = Memory()


class Above:
    """The part of a model above a layer, for one row of a session.

    The modules below the layer run once; they hand out what they returned again, for as many rows as are asked, while
    those above see a batch of changed outputs of the layer. Where a model does not take that (a skip past the layer
    that is changed in place), which two changed outputs tell, it runs all rows from the start.

    Args:
        session: the model and what is explained.
        layer: the layer.
        row: the row whose inputs the layers below see.
    """

    def __init__(self, session: Session, layer: Layer, row: int) -> None:
        session.decide()  # on the inputs as they are
        self.session, self.layer, self.row = session, layer, row
        self._below = self._take(1).in_layout(lambda part: Below(part, layer.name))
        if not isinstance(self._below.output, Tensor):
            key = (session.state, session.inputs.signature(), layer.name)
            name = _makers.once(session.model, key, lambda: self._take(1).in_layout(lambda part: _maker(part, layer)))
            self.layer = replace(layer, name=name)
            self._below = self._take(1).in_layout(lambda part: Below(part, name))
        self.A = explained(self._below.output, layer.name)
        """What the layer returns, one row."""

    def _take(self, count: int) -> Session:
        return self.session.take(torch.full((count,), self.row))

    @property
    def axis(self) -> int:
        """Where rows are in what the layer returns."""
        grid = self.layer.grid
        return 1 if isinstance(grid, Grid) and grid.kind == "tokens, sequence first" else 0

    def copies(self, count: int) -> Tensor:
        """What the layer returns, `count` times, (count, *A.shape), to be changed."""
        return self.A.expand(count, *self.A.shape).clone(memory_format=torch.contiguous_format)

    def values(self, count: int, make: Make, value: Value = "score") -> Tensor:
        """The scores of `count` changed outputs of the layer, (count,) or (count, K), in float32 at least.

        Args:
            count: how many there are.
            make: from a slice of 0..count to those outputs, (m, *A.shape), in memory of their own; only one chunk is
                held at a time.
            value: what is read.
        """
        axes = self._axes()
        found = RowBuffer(count)
        like = max(self.session.x, key=lambda leaf: leaf[0].numel())[:1]

        def work(chunk: slice) -> None:
            found.put(chunk, self._ask(make(chunk), value, axes))

        rows = like.expand(count, *like.shape[1:])
        size = max(ROWS, min(MOST_ROWS, NUMBERS // self.A.numel())) if axes is not None else None
        in_chunks(self.session.model, rows, work, graph=False, most=self.session.habits.most, size=size)
        return found.whole

    def _axes(self) -> Axes | None:
        """Where the rows are in what the modules below return; None where the model does not take that again. Found
        once for a model, layer and shape."""
        session = self.session
        if session.habits.most is not None:
            return None
        key = (session.state, session.inputs.signature(), session.score.question, self.layer.name)

        def found() -> Axes | None:
            other = 0.5 * self.A.flip(tuple(range(2, self.A.ndim)) or (0,))
            pair = torch.stack([self.A, other])
            alone = torch.cat([self._ask(one[None], "score", None) for one in pair])
            try:
                axes = self._below.axes(self._take(2).in_layout(lambda part: Below(part, self.layer.name)))
                beside = self._ask(pair, "score", axes)
            except (DeepVizError, RuntimeError, ValueError, IndexError, TypeError):
                return None
            scale = float(alone.abs().max())
            same = beside.shape == alone.shape and float((beside - alone).abs().max()) <= session.rounding * scale
            return axes if same else None

        return _known.once(session.model, key, found)

    def _ask(self, copies: Tensor, value: Value, axes: Axes | None) -> Tensor:
        changed = copies.movedim(0, self.axis).flatten(self.axis, self.axis + 1)

        def put(inputs: Any, output: Any) -> Any:
            answer = explained(output, self.layer.name)
            new = changed.to(answer.dtype)
            if any(answer is one for one in inputs):
                answer.copy_(new)  # an in-place layer: whoever holds its input holds its output
                return None
            return with_tensor(output, new)

        def run(laid: Session) -> Tensor:
            model, name = laid.model, self.layer.name
            below = nullcontext() if axes is None else self._below.handed_out(axes, len(copies))
            with torch.no_grad(), every_part_called(model, name), below, answering(model, name, put):
                return laid.value(laid.look(), value)

        return self._take(len(copies)).in_layout(run)


def _maker(session: Session, layer: Layer) -> str:
    """The outermost module inside a layer that returns the layer's feature map and nothing else; or the innermost that
    returns it, which may be the layer itself.

    A layer that returns several tensors has often made the others of it, such as the pooled one that the classifier of
    a model of transformers takes: another feature map must be in its place before.
    """
    path, owner = path_of(layer.name), threading.get_ident()
    calls: Counter[str] = Counter()
    returned: list[tuple[str, bool, weakref.ref[Tensor]]] = []
    maker = layer.name

    def hear(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            answer = spatial_tensor(output)
            if threading.get_ident() == owner:
                calls[name] += 1
                if answer is not None:
                    returned.append((f"{name}#{calls[name]}", isinstance(output, Tensor), weakref.ref(answer)))

        return hook

    def look_back(inputs: Any, output: Any) -> None:
        nonlocal maker
        answer, outer = spatial_tensor(output), path
        for name, alone, tensor in reversed(returned):
            if tensor() is not answer:
                continue
            if not name.startswith(f"{outer}."):
                break  # what returned it earlier, before a module that works in place
            outer, maker = path_of(name), name
            if alone:
                break

    with ExitStack() as stack:
        for name, module in session.model.named_modules():
            if name.startswith(f"{path}."):
                stack.callback(module.register_forward_hook(hear(name)).remove)
        stack.enter_context(torch.no_grad())
        stack.enter_context(every_part_called(session.model, layer.name))
        stack.enter_context(answering(session.model, layer.name, look_back))
        session.look()
    return maker
