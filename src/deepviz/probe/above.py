"""The scores of a model whose layer returns something else: the part above the layer, asked many times."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from deepviz.errors import DeepVizError
from deepviz.probe.capture import answering, every_part_called, explained, layer_output, with_tensor
from deepviz.probe.chunks import RowBuffer, in_chunks
from deepviz.probe.grid import Grid
from deepviz.probe.layers import Layer
from deepviz.probe.state import Memory

if TYPE_CHECKING:
    from deepviz.probe.session import Session, Value

TOLERANCE = 1e-4
"""How far scores may differ, of their scale, between one row that becomes many at the layer and many rows."""
ROWS, MOST_ROWS, NUMBERS = 8, 64, 2**22
"""Rows that the layers above see together: the layers below run once for all of them, so the more, the less of those;
within as many numbers in the layer's output as this."""
Make = Callable[[slice], Tensor]

_together: Memory[bool] = Memory()


class Above:
    """The part of a model above a layer, for one row of a session.

    The model runs the layers below on a single row; at the layer, that row's output is replaced by many changed ones,
    so that the layers above see a batch. Where the model does not take that (a skip past the layer that is
    concatenated, a batch size that it wrote down), which two changed outputs tell, it runs all rows from the start.

    Args:
        session: the model and what is explained.
        layer: the layer.
        row: the row whose inputs the layers below see.
    """

    def __init__(self, session: Session, layer: Layer, row: int) -> None:
        session.decide()  # on the inputs as they are
        self.session, self.layer, self.row = session, layer, row
        self.A = session.take(torch.tensor([row])).in_layout(lambda part: layer_output(part, layer.name))
        """What the layer returns, one row."""

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
        together = self._together()
        found = RowBuffer(count)
        like = max(self.session.x, key=lambda leaf: leaf[0].numel())[:1]

        def work(chunk: slice) -> None:
            found.put(chunk, self._ask(make(chunk), value, together))

        rows = like.expand(count, *like.shape[1:])
        size = max(ROWS, min(MOST_ROWS, NUMBERS // self.A.numel())) if together else None
        in_chunks(self.session.model, rows, work, graph=False, most=self.session.habits.most, size=size)
        return found.whole

    def _together(self) -> bool:
        """Whether one row below the layer does for many above; found once for a model, layer and shape."""
        session = self.session
        if session.habits.most is not None:
            return False
        key = (session.state, session.inputs.signature(), session.score.question, self.layer.name)

        def found() -> bool:
            other = 0.5 * self.A.flip(tuple(range(2, self.A.ndim)) or (0,))
            pair = torch.stack([self.A, other])
            alone = torch.cat([self._ask(one[None], "score", False) for one in pair])
            try:
                beside = self._ask(pair, "score", True)
            except (DeepVizError, RuntimeError, ValueError, IndexError):
                return False
            scale = float(alone.abs().max())
            return beside.shape == alone.shape and float((beside - alone).abs().max()) <= TOLERANCE * scale

        return _together.once(session.model, key, found)

    def _ask(self, copies: Tensor, value: Value, together: bool) -> Tensor:
        count = len(copies)
        changed = copies.movedim(0, self.axis).flatten(self.axis, self.axis + 1)
        whole = self.session.take(torch.full((count,), self.row))
        below = self.session.take(torch.tensor([self.row])) if together else whole
        part = replace(whole, inputs=below.inputs)

        def put(inputs: Any, output: Any) -> Any:
            answer = explained(output, self.layer.name)
            new = changed.to(answer.dtype)
            if any(answer is one for one in inputs) and new.shape == answer.shape:
                answer.copy_(new)  # an in-place layer: whoever holds its input holds its output
                return None
            return with_tensor(output, new)

        def run(laid: Session) -> Tensor:
            model = laid.model
            with torch.no_grad(), every_part_called(model, self.layer.name), answering(model, self.layer.name, put):
                seen = laid.look()
            return replace(laid, inputs=whole.inputs).value(replace(seen, x=whole.x), value)

        return part.in_layout(run)
