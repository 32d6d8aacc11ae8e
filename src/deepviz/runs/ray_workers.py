"""Workers that are actors of Ray, on this machine or on a cluster: maps go from them to the run's folder, which all
nodes must see; the process that leads gets a few words about each shard."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from time import monotonic, sleep
from typing import Any

from deepviz.errors import MissingExtra, ModelError, ModelFailed, in_one_line
from deepviz.runs.shard_work import Work
from deepviz.runs.workers import Engine, Message, Serving, Surroundings, Worker, packed

ADDRESS = "RAY_ADDRESS"
SECONDS_TO_REACH = 10.0
NOTED, PATIENCE = 30.0, 900.0
"""Seconds without any worker after which that is said, and after which the run ends."""


def import_ray() -> Any:
    """The module ray.

    Raises:
        MissingExtra: if it is not installed.
    """
    try:
        return import_module("ray")
    except ImportError:
        raise MissingExtra("the engine ray needs Ray: pip install 'deepviz[ray]'") from None


def packed_for_ray(work: Work) -> bytes:
    """What an actor is given: what the script that leads defines goes along, which its process does not have.

    Raises:
        ModelError: if the model, a method or the source cannot be pickled.
    """
    folder = work.folder.absolute() if isinstance(work.folder, Path) else work.folder
    return packed(replace(work, folder=folder), import_module("ray.cloudpickle").dumps)


class RayWorkers(Engine):
    """Actors, which ask the cluster for CPUs and GPUs; a Ray that is not running yet is ended by `close`.

    Args:
        work: what is done with each shard.
        count: of workers.
        gpus: of each worker, or a part of one.
        address: of a cluster; None: that of the environment, else a cluster on this machine alone.
        said: takes what is odd.

    Raises:
        MissingExtra: without ray.
        ModelError: if the cluster cannot be reached, or the model, a method or the source cannot be pickled.
    """

    kind = "Ray actor"

    def __init__(self, work: Work, count: int, gpus: float, address: str | None, said: Callable[[str], None]) -> None:
        self._ray = import_ray()
        self._said, self._gpus = said, gpus
        content = packed_for_ray(work)
        self._is_ours = not self._ray.is_initialized()
        if self._is_ours:
            self._connect(address or os.environ.get(ADDRESS), count)
        self._threads = self._threads_of(count)
        self._given = self._ray.put(content), Surroundings.here(self._threads, "cuda" if gpus else None)
        self._actor = self._ray.remote(_Actor)
        self._waiting_since = monotonic()
        self._noted = False

    def close(self) -> None:
        """Leave the cluster, and end it if it was begun here."""
        if self._is_ours:
            self._ray.shutdown()

    def start(self) -> Worker:
        """A new actor, where the cluster has room for it."""
        options = self._actor.options(
            num_cpus=self._threads,
            num_gpus=self._gpus or None,
            max_restarts=0,  # it is replaced here, so that its tries are counted
            max_task_retries=0,
            max_concurrency=2,  # a shard is written while the next one is computed
            scheduling_strategy="SPREAD",
        )
        return _ActorWorker(self._ray, options.remote(*self._given))

    def wait(self, workers: Sequence[Worker], seconds: float) -> None:
        """Return once one of them has said something or has ended, or after some time.

        Raises:
            ModelFailed: if the cluster has room for none of them for a long time.
        """
        calls = [call for worker in workers if isinstance(worker, _ActorWorker) for call in worker.calls]
        if calls:
            self._ray.wait(calls, num_returns=1, timeout=seconds, fetch_local=False)
        else:
            sleep(seconds)
        if any(worker.begun for worker in workers):
            self._waiting_since, self._noted = monotonic(), False
            return
        waited = monotonic() - self._waiting_since
        if waited > PATIENCE:
            raise ModelFailed(f"no worker has begun for {PATIENCE / 60:.0f} minutes: {self._wanted()}")
        if waited > NOTED and not self._noted:
            self._noted = True
            self._said(f"no worker has begun yet: {self._wanted()}")

    def _wanted(self) -> str:
        there = self._ray.cluster_resources()
        gpus = f" and {self._gpus:g} GPUs" if self._gpus else ""
        return (
            f"each asks for {self._threads} CPUs{gpus}, and the cluster has {there.get('CPU', 0):g} and "
            f"{there.get('GPU', 0):g}"
        )

    def _connect(self, address: str | None, count: int) -> None:
        # a cluster of this machine has room for all workers, whatever the number of cores
        options = {"address": address} if address else {"address": "local", "num_cpus": max(count, os.cpu_count() or 1)}
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            if address:
                _reach(address)
            self._ray.init(**options, include_dashboard=None if address else False, log_to_driver=False,
                           logging_level="ERROR")  # fmt: skip
        except Exception as error:  # what Ray raises depends on how far it came
            where = f"the Ray cluster at {address}" if address else "a Ray cluster on this machine"
            raise ModelError(f"{where} cannot be used: {in_one_line(error)}") from None

    def _threads_of(self, count: int) -> int:
        """The CPUs of each worker: those of the cluster are shared out, and no node gives more than it has."""
        each = [int(node["Resources"].get("CPU", 0)) for node in self._ray.nodes() if node["Alive"]]
        return max(1, min(sum(each) // count, max(each, default=1)))


class _Actor:
    """A worker, on some node."""

    def __init__(self, content: bytes, surroundings: Surroundings) -> None:
        self._serving = Serving(content, surroundings)

    def begin(self) -> Iterator[Message]:
        yield self._serving.begin()

    def do(self, number: int) -> Iterator[Message]:
        """What there is to say of a shard, until it is written."""
        messages: SimpleQueue[Message] = SimpleQueue()
        Thread(target=self._serving.do, args=(number, messages.put), daemon=True).start()
        while True:
            message = messages.get()
            yield message
            if message.what in ("done", "error"):
                return


class _ActorWorker(Worker):
    def __init__(self, ray: Any, actor: Any) -> None:
        super().__init__()
        self._ray, self._actor = ray, actor
        self._ended: str | None = None
        self.calls = [actor.begin.options(num_returns="streaming").remote()]

    def ask(self, number: int) -> None:
        self.calls.append(self._actor.do.options(num_returns="streaming").remote(number))

    def news(self) -> Iterator[Message]:
        for call in tuple(self.calls):
            while self._ended is None and self._ray.wait([call], timeout=0)[0]:
                try:
                    message = self._ray.get(next(call))
                except StopIteration:
                    self.calls.remove(call)
                    break
                except self._ray.exceptions.RayTaskError:
                    raise
                except self._ray.exceptions.RayError as error:
                    self._ended = _in_words(error)
                    return
                yield message

    def ending(self) -> str | None:
        return self._ended

    def end(self) -> None:
        with suppress(Exception):  # a cluster that has gone away needs nothing
            self._ray.kill(self._actor)


def _reach(address: str) -> None:
    """See that somebody listens at "host:port": Ray itself waits for minutes, or for ever.

    Raises:
        OSError: if not.
    """
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "/" not in address:
        socket.create_connection((host.strip("[]"), int(port)), timeout=SECONDS_TO_REACH).close()


def _in_words(error: Exception) -> str:
    """What Ray says of the end of an actor, without the lines that name its process."""
    told = " ".join(line.strip() for line in str(error).splitlines() if not line.startswith(("\t", " ")))
    return f"{type(error).__name__}: {told}".rstrip(".")
