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
_may_end_early: ContextVar[bool] = ContextVar("may_end_early", default=True)


class Stopped(Exception):
    """The result of a computation is not wanted any more."""


@contextmanager
def to_the_end() -> Iterator[None]:
    """Inside, a computation that is interrupted gives no map so far, which what follows would take for a whole one: the
    KeyboardInterrupt goes on."""
    before = _may_end_early.set(False)
    try:
        yield
    finally:
        _may_end_early.reset(before)


def may_end_early() -> bool:
    """Whether a computation that is interrupted may give the map so far."""
    return _may_end_early.get()


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
