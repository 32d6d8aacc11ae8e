"""How many rows go through a model at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import pairwise
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from deepviz.errors import ModelFailed
from deepviz.probe.memory import is_kept, settle

ROWS_WITH_GRAPH = 4
ROWS_WITHOUT_GRAPH = 8
ROWS_IN_KEPT_MEMORY = 8
MOST_ROWS_ON_GPU = 128
LEAST_ROWS_ON_GPU = 16
ROWS_PER_GB = 4
PIXELS = 224 * 224
_reduced: WeakKeyDictionary[nn.Module, dict[tuple[torch.device, int], int]] = WeakKeyDictionary()


_fixed: ContextVar[int | None] = ContextVar("rows", default=None)


@contextmanager
def fixed(rows: int) -> Iterator[None]:
    """Inside, chunks have just so many rows: to see that their size does not matter."""
    before = _fixed.set(rows)
    try:
        yield
    finally:
        _fixed.reset(before)


def chunk_rows(model: nn.Module, x: Tensor, graph: bool = True) -> int:
    """Rows per chunk for inputs like `x` (N, ...): a fixed size at 224 x 224, fewer for larger pictures.

    On a CPU the tensors of a chunk should stay below what malloc hands back to the system (see `memory`): with a
    graph down to the input that is 4 rows on every network measured, without one, or where memory is kept, 8 are
    best (`benchmarks/RESULTS.md`). The size does not depend on how fast the machine happens to be, so that results
    repeat bit for bit. A GPU takes as many as its memory allows for, in powers of two: a large network with a graph
    needs 120 MB a row. One that ran out of memory is remembered, for inputs of that size.
    """
    fixed_rows = _fixed.get()
    if fixed_rows is not None:
        return fixed_rows
    if x.device.type == "cpu":
        settle()
        with_graph = ROWS_IN_KEPT_MEMORY if is_kept() else ROWS_WITH_GRAPH
        rows = with_graph if graph else ROWS_WITHOUT_GRAPH
    else:
        rows = rows_on_gpu(_memory(x.device))
    pixels = _pixels(x)
    if pixels > PIXELS:
        rows = max(1, rows * PIXELS // pixels)
    return min(rows, _reduced.get(model, {}).get((x.device, pixels), rows))


def rows_on_gpu(memory: int) -> int:
    """Rows of 224 x 224 per chunk on a GPU of so many bytes: 32 of 8 GB, 64 of 16 GB, 128 of 32 GB and more."""
    fitting = max(1, memory * ROWS_PER_GB >> 30)
    # what a card has is a little less than it is sold with
    rows: int = 2 ** round(math.log2(fitting))
    return max(LEAST_ROWS_ON_GPU, min(rows, MOST_ROWS_ON_GPU))


def _memory(device: torch.device) -> int:
    """The bytes of a GPU's memory; of one that does not say, 8 GB."""
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else 8 << 30


def _pixels(x: Tensor) -> int:
    return math.prod(x.shape[2:]) or 1


def spans(total: int, size: int) -> Iterator[slice]:
    """Slices that cut `total` rows into as few chunks of at most `size` as possible, evenly filled."""
    count = math.ceil(total / size)
    edges = [round(index * total / count) for index in range(count + 1)]
    for start, stop in pairwise(edges):
        yield slice(start, stop)


class RowBuffer:
    """Results collected chunk by chunk into one tensor; a retried chunk overwrites its rows."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._whole: Tensor | None = None

    def put(self, rows: slice, part: Tensor) -> None:
        """`part` (n, ...) as the rows `rows` of the whole."""
        if len(part) == self._total:
            self._whole = part
            return
        if self._whole is None:
            self._whole = part.new_empty((self._total, *part.shape[1:]))
        self._whole[rows] = part

    @property
    def whole(self) -> Tensor:
        """All rows."""
        assert self._whole is not None
        return self._whole


def no_room(x: Tensor) -> ModelFailed:
    """The error of a device that has no memory for one row of `x` (N, ...)."""
    return ModelFailed(
        f"even one row {tuple(x.shape[1:])} does not fit into the memory of {x.device}; use a smaller input or another "
        "device"
    )


def in_chunks(
    model: nn.Module,
    x: Tensor,
    work: Callable[[slice], Any],
    graph: bool = True,
    most: int | None = None,
    size: int | None = None,
) -> None:
    """Call `work(rows)` for all rows of `x`; on a GPU that runs out of memory, in smaller and smaller chunks.

    `most` is the largest chunk that the model allows, 1 for one that mixes its rows; `size` the one to begin with, by
    default that of `chunk_rows`.

    `work` must store its result only when it has succeeded, or by row (`RowBuffer`), since its rows may be tried again.

    Raises:
        ModelFailed: if not even one row fits.
    """
    total = len(x)
    size = chunk_rows(model, x, graph) if size is None or _fixed.get() is not None else size
    pending = list(spans(total, size if most is None else min(size, most)))
    while pending:
        rows = pending.pop(0)
        try:
            work(rows)
            continue
        except torch.OutOfMemoryError as error:
            size = rows.stop - rows.start
            if size == 1:
                raise no_room(x) from error
        # outside the handler, so that the failed attempt's tensors are no longer held by its traceback
        torch.cuda.empty_cache()
        _reduced.setdefault(model, {})[x.device, _pixels(x)] = size // 2
        pending = [slice(rows.start + s.start, rows.start + s.stop) for s in spans(total - rows.start, size // 2)]
