"""Workers that each hold the model and write their own shards: no map passes through the process that leads.

A worker that ends, whatever ended it, is replaced, and the shards that it had in hand are done again.
"""

from __future__ import annotations

import pickle
import sys
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import Any, ClassVar, NamedTuple

import torch

from deepviz import errors
from deepviz.errors import DeepVizError, ModelError, ModelFailed, in_one_line
from deepviz.models.torchvision_shim import import_torchvision
from deepviz.probe.memory import is_kept, keep_memory
from deepviz.runs.shard_work import ShardWorker, Work

TRIES = 3
"""How often a shard is begun, where the worker ends each time."""
TOLD_EVERY = 0.2
"""Seconds between two messages of how far a shard is."""
Told = Callable[[int, int], None]
"""Takes a shard, and how many of its images are done."""


class Message(NamedTuple):
    """What a worker says.

    Args:
        what: "ready", before any shard; "at", some images are done; "computed", so that it can take the next shard;
            "done", the shard exists; "error".
        number: of the shard.
        more: how many images are done; of an error its class's name and its text.
    """

    what: str
    number: int = -1
    more: Any = None


class Worker(ABC):
    """A worker, as the process that leads knows it.

    Attributes:
        in_hand: the shards that it was asked for and that do not exist yet.
        begun: whether it holds the model.
        idle: whether it can take a shard.
    """

    def __init__(self) -> None:
        self.in_hand: list[int] = []
        self.begun = self.idle = False

    @abstractmethod
    def ask(self, number: int) -> None:
        """Begin a shard; one that has ended does nothing."""

    @abstractmethod
    def news(self) -> Iterator[Message]:
        """What it has said since it was last asked, without waiting."""

    @abstractmethod
    def ending(self) -> str | None:
        """How it ended, in words, if `news` has met its end; None while it lives."""

    @abstractmethod
    def end(self) -> None:
        """End it, whatever it does."""


class Engine(ABC):
    """Where workers come from."""

    kind: ClassVar[str]
    """What one of them is, in words."""

    @abstractmethod
    def start(self) -> Worker:
        """A new worker, which says when it is ready."""

    @abstractmethod
    def close(self) -> None:
        """Give back what it took; the workers have ended."""

    @abstractmethod
    def wait(self, workers: Sequence[Worker], seconds: float) -> None:
        """Return once one of them has said something or has ended, or after some time."""


def packed(work: Work, dumps: Callable[[Any], bytes] = pickle.dumps) -> bytes:
    """What a worker is given.

    Raises:
        ModelError: if the model, a method or the source cannot be pickled.
    """
    try:
        return dumps(work)
    except Exception as error:  # a model's own code may raise anything
        raise ModelError(
            f"{work.loaded.name}, its preprocessing or the source cannot be sent to another process "
            f"({in_one_line(error)}): leave out workers and engine, or define what it is made of in a module"
        ) from None


@dataclass(eq=False)
class Crew:
    """The workers, and what is left to do.

    Args:
        work: what is done with each shard.
        left: the numbers of the shards.
        engine: where workers come from.
        at: is told how far a shard is.
        done: is told of a shard that exists.
        stopping: whether no shard is to be begun any more.
    """

    work: Work
    left: deque[int]
    engine: Engine
    at: Told
    done: Callable[[int], None]
    stopping: Callable[[], bool]
    workers: list[Worker] = field(default_factory=list)
    ended: Counter[int] = field(default_factory=Counter)
    never_begun: int = 0

    def run(self, count: int) -> None:
        """Do the shards with so many workers, until all exist or none is to be begun any more.

        Raises:
            ModelError: if a worker ends again and again on one shard, or before it begins.
            DeepVizError: as a worker raises it.
        """
        try:
            for _ in range(min(count, len(self.left))):
                self.workers.append(self.engine.start())
            while self.left or self._any_in_hand:
                for worker in self.workers:
                    self._hand_out(worker)
                if self.stopping() and not self._any_in_hand:
                    return
                self.engine.wait(self.workers, 0.5)
                self.workers = [after for worker in self.workers if (after := self._after_news(worker)) is not None]
        finally:
            for worker in self.workers:  # what they still do, if there was an error, is not waited for
                worker.end()

    @property
    def _any_in_hand(self) -> bool:
        return any(worker.in_hand for worker in self.workers)

    def _hand_out(self, worker: Worker) -> None:
        if worker.idle and self.left and not self.stopping():
            worker.idle = False
            worker.in_hand.append(self.left.popleft())
            worker.ask(worker.in_hand[-1])

    def _after_news(self, worker: Worker) -> Worker | None:
        """The worker, once it was heard; another if it has ended, or None if none is needed any more."""
        for message in worker.news():
            self._understand(worker, message)
        ending = worker.ending()
        if ending is None:
            return worker
        worker.end()
        if not worker.begun:
            self._count_never_begun(ending)
        for number in reversed(worker.in_hand):
            self.ended[number] += 1
            if self.ended[number] >= TRIES:
                raise ModelFailed(self._gave_up(number, ending))
            self.left.appendleft(number)
        return self.engine.start() if self.left and not self.stopping() else None

    def _understand(self, worker: Worker, message: Message) -> None:
        what, number, more = message
        if what == "ready":
            worker.begun = worker.idle = True
            self.never_begun = 0
        elif what == "at":
            self.at(number, more)
        elif what == "computed":
            worker.idle = True
        elif what == "done":
            worker.in_hand.remove(number)
            self.done(number)
        else:
            name, text = more
            kind = getattr(errors, name, ModelFailed)
            raise (kind if isinstance(kind, type) and issubclass(kind, DeepVizError) else ModelFailed)(text)

    def _count_never_begun(self, ending: str) -> None:
        self.never_begun += 1
        if self.never_begun >= max(TRIES, len(self.workers)):
            raise ModelFailed(
                f"each {self.engine.kind} ended before it held the model, the last one by {ending}: use fewer workers"
            )

    def _gave_up(self, number: int, ending: str) -> str:
        images = self.work.images(number)
        return (
            f"shard {number}, images {images.start} to {images.stop - 1}: its {self.engine.kind} ended {TRIES} times, "
            f"the last time by {ending}: use fewer workers, or a smaller shard_size"
        )


class Surroundings(NamedTuple):
    """What a worker has in common with the process that leads, so that its numbers are the same.

    Args:
        threads: of torch.
        torchvision: whether it is imported.
        kept: whether malloc keeps what it has, which decides how many rows go together.
        path: where modules are looked for.
        device: where the model goes; None: where it is.
    """

    threads: int
    torchvision: bool
    kept: bool
    path: tuple[str, ...]
    device: str | None = None

    @classmethod
    def here(cls, threads: int, device: str | None = None) -> Surroundings:
        """Those of this process."""
        return cls(threads, "torchvision" in sys.modules, is_kept(), tuple(sys.path), device)


class Serving:
    """The worker's side, in its own process.

    Args:
        content: what `packed` made.
        surroundings: those that it makes for itself.
    """

    def __init__(self, content: bytes, surroundings: Surroundings) -> None:
        self._content, self._surroundings = content, surroundings
        self._worker: ShardWorker | None = None

    def begin(self) -> Message:
        """Load the model: what is to be said of it."""
        here = self._surroundings
        try:
            sys.path.extend(folder for folder in here.path if folder not in sys.path)
            torch.set_num_threads(here.threads)
            if here.kept:
                keep_memory()
            if here.torchvision:
                import_torchvision()  # which may need more than an import
            work: Work = pickle.loads(self._content)  # the process that leads has packed it
            if here.device is not None:
                work.loaded.module.to(here.device)
            self._worker = ShardWorker(work)
            self._worker.begin()
        except Exception as error:
            return Message(
                "error", -1, (ModelError.__name__, f"a worker process could not begin: {in_one_line(error)}")
            )
        return Message("ready")

    def do(self, number: int, say: Callable[[Message], None]) -> None:
        """Compute a shard and say so; that it is written is said from another thread, while the next is computed."""
        assert self._worker is not None
        torch.set_num_threads(self._surroundings.threads)  # of this thread
        last = monotonic()

        def tell(images: int) -> None:
            nonlocal last
            if monotonic() - last >= TOLD_EVERY:
                last = monotonic()
                say(Message("at", number, images))

        try:
            future = self._worker.do(number, tell)
        except Exception as error:
            say(Message("error", number, _told(error)))
            return
        say(Message("computed", number))
        future.add_done_callback(partial(_say_written, number, say))


def _say_written(number: int, say: Callable[[Message], None], future: Future[None]) -> None:
    error = future.exception()
    say(Message("done", number) if error is None else Message("error", number, _told(error)))


def _told(error: BaseException) -> tuple[str, str]:
    return type(error).__name__, in_one_line(error)
