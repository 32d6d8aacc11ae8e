"""How far a long computation is, told to a watcher if there is one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

Watcher = Callable[[int, int, Callable[[], Tensor] | None], None]
"""Takes how many passes are done, of how many at most, and, where there is one, a function that gives the maps so far.
An error that it raises ends the computation; `Stopped` does so without being taken for a failure."""
_watcher: ContextVar[Watcher | None] = ContextVar("watcher", default=None)


class Stopped(Exception):
    """Nobody wants the result of a computation any more."""


@contextmanager
def watched(watcher: Watcher | None) -> Iterator[None]:
    """Inside, long computations of this thread tell `watcher` how far they are."""
    before = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(before)


def tell(done: int, total: int, maps: Callable[[], Tensor] | None = None) -> None:
    """Tell the watcher, if there is one."""
    watcher = _watcher.get()
    if watcher is not None:
        watcher(done, total, maps)
