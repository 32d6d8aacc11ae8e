"""Worker processes that each hold the model and write their own shards: no map passes through the process that leads.

A worker that ends, whatever ended it, is replaced, and the shards that it had in hand are done again.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from threading import Lock, Thread
from typing import Any

import torch

from deepviz import errors
from deepviz.errors import DeepVizError, ModelError, ModelFailed, in_one_line
from deepviz.models.torchvision_shim import import_torchvision
from deepviz.probe.memory import is_kept, keep_memory
from deepviz.runs.shard_work import ShardWorker, Work

TRIES = 3
"""How often a shard is begun, where the worker ends each time."""
Told = Callable[[int, int], None]
"""Takes a shard, and how many of its images are done."""


def work_in_processes(
    work: Work,
    shards: Iterable[int],
    count: int,
    *,
    at: Told,
    done: Callable[[int], None],
    stopping: Callable[[], bool],
) -> None:
    """Do shards in worker processes.

    Args:
        work: what is done with each.
        shards: their numbers.
        count: of workers.
        at: is told how far a shard is.
        done: is told of a shard that exists.
        stopping: whether no shard is to be begun any more.

    Raises:
        ModelError: if the model cannot be sent to another process, or a worker ends again and again on one shard.
        DeepVizError: as a worker raises it.
    """
    _Crew(work, deque(shards), packed(work), at, done, stopping).run(count)


def packed(work: Work) -> bytes:
    """What a worker is given.

    Raises:
        ModelError: if the model, a method or the source cannot be pickled.
    """
    try:
        return pickle.dumps(work)
    except Exception as error:  # a model's own code may raise anything
        raise ModelError(
            f"{work.loaded.name}, its preprocessing or the source cannot be sent to another process "
            f"({in_one_line(error)}): leave out workers, or define what it is made of in a module"
        ) from None


@dataclass(eq=False)
class _Worker:
    process: Any
    connection: Connection
    in_hand: list[int] = field(default_factory=list)
    idle: bool = True


@dataclass(eq=False)
class _Crew:
    """The workers, and what is left to do."""

    work: Work
    left: deque[int]
    packed: bytes
    at: Told
    done: Callable[[int], None]
    stopping: Callable[[], bool]
    workers: list[_Worker] = field(default_factory=list)
    ended: Counter[int] = field(default_factory=Counter)

    def run(self, count: int) -> None:
        threads = max(1, torch.get_num_threads() // count)
        try:
            for _ in range(min(count, len(self.left))):
                self.workers.append(self._started(threads))
            while self.left or any(worker.in_hand for worker in self.workers):
                for worker in self.workers:
                    self._hand_out(worker)
                if self.stopping() and not any(worker.in_hand for worker in self.workers):
                    return
                self._listen(threads)
        finally:
            self._close()

    def _started(self, threads: int) -> _Worker:
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(
            target=_serve, args=(theirs, self.packed, threads, "torchvision" in sys.modules, is_kept()), daemon=True
        )
        process.start()
        theirs.close()
        return _Worker(process, ours)

    def _hand_out(self, worker: _Worker) -> None:
        if worker.idle and self.left and not self.stopping():
            with suppress(OSError):  # one that has ended is seen to by its sentinel
                worker.connection.send(self.left[0])
                worker.idle = False
                worker.in_hand.append(self.left.popleft())

    def _listen(self, threads: int) -> None:
        """Take what workers say, and replace those that have ended."""
        by_connection = {worker.connection: worker for worker in self.workers}
        sentinels = [worker.process.sentinel for worker in self.workers]
        for ready in wait([*by_connection, *sentinels], timeout=0.5):
            worker = by_connection.get(ready)  # type: ignore[call-overload]
            if worker is not None:
                self._take(worker)
        for place, worker in enumerate(self.workers):
            if worker.process.is_alive():
                continue
            self._take(worker)  # what it said before it ended
            self._give_back(worker)
            self.workers[place] = self._started(threads)

    def _take(self, worker: _Worker) -> None:
        with suppress(EOFError, OSError):
            while worker.connection.poll():
                self._understand(worker, *worker.connection.recv())

    def _understand(self, worker: _Worker, what: str, number: int, more: Any) -> None:
        if what == "at":
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

    def _give_back(self, worker: _Worker) -> None:
        """Do the shards of a worker that has ended again."""
        worker.process.join()
        worker.connection.close()
        code = worker.process.exitcode
        ending = f"signal {-code}" if code < 0 else f"exit code {code}"
        for number in reversed(worker.in_hand):
            self.ended[number] += 1
            if self.ended[number] >= TRIES:
                raise ModelFailed(self._gave_up(number, ending))
            self.left.appendleft(number)

    def _gave_up(self, number: int, ending: str) -> str:
        images = self.work.images(number)
        return (
            f"shard {number}, images {images.start} to {images.stop - 1}: its worker process ended {TRIES} times, the "
            f"last time by {ending} (9: often for lack of memory): use fewer workers, or a smaller shard_size"
        )

    def _close(self) -> None:
        for worker in self.workers:  # what they still do, if there was an error, is not waited for
            worker.process.terminate()
        for worker in self.workers:
            worker.process.join()
            worker.connection.close()


def _serve(connection: Connection, content: bytes, threads: int, torchvision: bool, kept: bool) -> None:
    """A worker: do what is asked, until it is ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the first one decides
    Thread(target=_end_with, args=(parent_process(),), daemon=True).start()
    torch.set_num_threads(threads)
    if kept:  # rows go together as they do in the process that leads
        keep_memory()
    lock = Lock()

    def say(*what: Any) -> None:
        with lock, suppress(OSError):
            connection.send(what)

    try:
        if torchvision:
            import_torchvision()  # which may need more than an import
        worker = ShardWorker(pickle.loads(content))  # our own process has packed it
        worker.begin()
    except Exception as error:
        say("error", -1, (ModelError.__name__, f"a worker process could not begin: {in_one_line(error)}"))
        return

    def written(number: int, future: Future[None]) -> None:
        error = future.exception()
        say("done", number, None) if error is None else say("error", number, _told(error))

    while True:
        number = connection.recv()
        try:
            future = worker.do(number, partial(say, "at", number))
        except Exception as error:
            say("error", number, _told(error))
            return
        say("computed", number, None)
        future.add_done_callback(partial(written, number))


def _told(error: BaseException) -> tuple[str, str]:
    return type(error).__name__, in_one_line(error)


def _end_with(parent: Any) -> None:
    """End this process as soon as the one that leads has."""
    wait([parent.sentinel])
    os._exit(1)
