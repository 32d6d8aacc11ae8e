"""The one loop over items: in batches, with what is told on the way, and what becomes of an item that fails."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import TypeVar

from deepviz.errors import DeepVizError, ModelError, NotInImage

T = TypeVar("T")
R = TypeVar("R")
Progress = Callable[[str, float], None]
"""Takes what is next, in words, and how many units of work of the items under way are done, a long one by parts."""
OnError = Callable[[T, DeepVizError], None]
"""Takes an item that nothing comes of, and the error."""


def run(
    batches: Iterable[Sequence[T]],
    work: Callable[[Sequence[T]], Iterable[R]],
    *,
    on_error: OnError[T] | None = None,
    catch: tuple[type[DeepVizError], ...] = (ModelError, NotInImage),
    sinks: Sequence[Callable[[R], None]] = (),
) -> Iterator[R]:
    """What `work` makes of the items, batch by batch.

    A batch that fails is tried again item by item, so that one bad item costs only itself.

    Args:
        batches: of items that can be worked on together.
        work: from a batch to its results.
        on_error: takes an item that fails alone; the others go on. Without it, the error is raised.
        catch: the errors that are an item's own; any other ends the run.
        sinks: each is called with each result, before it is yielded.

    Example:
        >>> failed = []
        >>> def halve(batch):
        ...     if any(number % 2 for number in batch):
        ...         raise ModelError("odd")
        ...     return [number // 2 for number in batch]
        >>> list(run([[2, 3], [4]], halve, on_error=lambda item, error: failed.append(item))), failed
        ([1, 2], [3])
    """
    for batch in batches:
        for result in _results(batch, work, on_error, catch):
            for sink in sinks:
                sink(result)
            yield result


def _results(
    batch: Sequence[T],
    work: Callable[[Sequence[T]], Iterable[R]],
    on_error: OnError[T] | None,
    catch: tuple[type[DeepVizError], ...],
) -> Iterator[R]:
    try:
        found = list(work(batch))
    except catch as error:
        if on_error is None:
            raise
        if len(batch) == 1:
            on_error(batch[0], error)
            return
        found = None
    # outside the handler, so that the failed attempt's tensors are no longer held by its traceback
    if found is None:
        for item in batch:
            yield from _results([item], work, on_error, catch)
    else:
        yield from found


def batches(items: Iterable[T], alike: Callable[[T], Hashable], most: int | Callable[[T], int]) -> Iterator[list[T]]:
    """The items in their order, neighbours that are alike together, at most so many, or so many as it says of them.

    Example:
        >>> list(batches("aabbb", alike=str, most=2))
        [['a', 'a'], ['b', 'b'], ['b']]
    """
    batch: list[T] = []
    allowed = 0
    for item in items:
        if batch and (len(batch) >= allowed or alike(item) != alike(batch[0])):
            yield batch
            batch = []
        if not batch:
            allowed = most if isinstance(most, int) else most(item)
        batch.append(item)
    if batch:
        yield batch
