"""Workers that are processes of this machine."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from threading import Lock, Thread
from typing import Any

import torch

from deepviz.runs.shard_work import Work
from deepviz.runs.workers import Engine, Message, Serving, Surroundings, Worker, packed


class LocalWorkers(Engine):
    """Worker processes, among which the threads of this one are shared out.

    Args:
        work: what is done with each shard.
        count: of workers.

    Raises:
        ModelError: if the model, a method or the source cannot be pickled.
    """

    kind = "worker process"

    def __init__(self, work: Work, count: int) -> None:
        self._given = packed(work), Surroundings.here(max(1, torch.get_num_threads() // count))

    def start(self) -> Worker:
        """A new process."""
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, *self._given), daemon=True)
        process.start()
        theirs.close()
        return _Process(process, ours)

    def close(self) -> None:
        """Nothing is left."""

    def wait(self, workers: Sequence[Worker], seconds: float) -> None:
        """Return once one of them has said something or has ended, or after some time."""
        processes = [worker for worker in workers if isinstance(worker, _Process)]
        wait([one for worker in processes for one in (worker.connection, worker.process.sentinel)], timeout=seconds)


class _Process(Worker):
    def __init__(self, process: Any, connection: Connection) -> None:
        super().__init__()
        self.process, self.connection = process, connection
        self._has_ended = False

    def ask(self, number: int) -> None:
        with suppress(OSError):  # that it has ended is met by `news`
            self.connection.send(number)

    def news(self) -> Iterator[Message]:
        self._has_ended = not self.process.is_alive()  # before what it said is read, so that all of that is
        with suppress(EOFError, OSError):
            while self.connection.poll():
                yield self.connection.recv()

    def ending(self) -> str | None:
        if not self._has_ended:
            return None
        self.process.join()
        code = self.process.exitcode
        return f"signal {-code} (9: often for lack of memory)" if code < 0 else f"exit code {code}"

    def end(self) -> None:
        self.process.terminate()
        self.process.join()
        self.connection.close()


def _serve(connection: Connection, content: bytes, surroundings: Surroundings) -> None:
    """A worker: do what is asked, until it is ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the first one decides
    Thread(target=_end_with, args=(parent_process(),), daemon=True).start()
    lock = Lock()

    def say(message: Message) -> None:
        with lock, suppress(OSError):
            connection.send(message)

    serving = Serving(content, surroundings)
    begun = serving.begin()
    say(begun)
    while begun.what == "ready":
        serving.do(connection.recv(), say)


def _end_with(parent: Any) -> None:
    """End this process as soon as the one that leads has."""
    wait([parent.sentinel])
    os._exit(1)
