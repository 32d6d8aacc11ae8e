"""Work that takes a while: queued, done one after another by each model, watched and cancelled."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from queue import Empty, Full, Queue
from threading import Lock, Thread
from typing import Any, Literal

from deepviz.errors import DeepVizError
from deepviz.methods import Method
from deepviz.web.limits import Limits
from deepviz.web.served import Busy, NotApplicable, Result, Served

State = Literal["queued", "running", "done", "failed", "cancelled"]
LAST: tuple[State, ...] = ("done", "failed", "cancelled")


@dataclass(frozen=True)
class Cell:
    """One method for some classes of one photograph: computed together, or not at all."""

    photograph: str
    targets: tuple[int, ...] | None
    method: Method
    column: int


@dataclass(eq=False)
class Job:
    """A comparison under way.

    Args:
        id: random; whoever knows it may watch and cancel.
        served: the model.
        cells: what there is to do, in this order.
    """

    id: str
    served: Served
    cells: Sequence[Cell]
    state: State = "queued"
    done: int = 0
    now: str = ""
    error: str = ""
    results: list[dict[str, Any]] = field(default_factory=list)
    left_out: dict[int, str] = field(default_factory=dict)
    version: int = 0
    _lock: Lock = field(default_factory=Lock)

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        return self.state in LAST

    def tell(self) -> dict[str, Any]:
        """How it stands."""
        with self._lock:
            return {
                "id": self.id,
                "version": self.version,
                "state": self.state,
                "done": self.done,
                "total": len(self.cells),
                "now": self.now,
                "error": self.error,
                "results": list(self.results),
                "left_out": [{"column": column, "reason": reason} for column, reason in self.left_out.items()],
            }

    def cancel(self) -> None:
        """Stop before the next map."""
        self._change(state="cancelled")

    def run(self) -> None:
        """Do it, cell by cell."""
        if not self._change(state="running"):
            return
        try:
            for cell in self.cells:
                if not self._change(now=str(cell.method)):
                    return
                self.take(cell)
            self._change(state="done", now="")
        except DeepVizError as error:
            self._change(state="failed", error=" ".join(str(error).split()))
        except Exception as error:  # a bug must not end the thread that does the work
            self._change(state="failed", error=f"this is a bug, please report it: {type(error).__name__}: {error}")

    def take(self, cell: Cell) -> None:
        """Do one cell."""
        self.served.give_way()
        try:
            targets = self.served.chosen(cell.photograph, cell.targets)
            found = self.served.explained(cell.photograph, cell.method, targets)
        except NotApplicable as error:
            self._change(left_out={**self.left_out, cell.column: str(error)}, done=self.done + 1)
        else:
            self._change(results=[*self.results, *(told(cell, one) for one in found)], done=self.done + 1)

    def _change(self, **values: Any) -> bool:
        """Set what has changed; not if it has ended."""
        with self._lock:
            if self.state in LAST:
                return False
            for name, value in values.items():
                setattr(self, name, value)
            self.version += 1
            return True


def told(cell: Cell, result: Result) -> dict[str, Any]:
    """A result, and which cell of the page's grid it is."""
    target = result.explanation.target
    return {"photograph": cell.photograph, "column": cell.column, "target": target.index, "id": result.id}


class Jobs:
    """A queue and a thread for each model, and the jobs that can still be asked for."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._queues: dict[str, Queue[Job | None]] = {}
        self._threads: list[Thread] = []
        self._lock = Lock()

    def submit(self, served: Served, cells: Sequence[Cell]) -> Job:
        """Take a job. One that needs no computing is done at once, whatever is waiting.

        Raises:
            Busy: if the queue is full.
        """
        job = Job(secrets.token_hex(16), served, cells)
        if all(
            cell.targets is not None and served.cached(cell.photograph, cell.method, cell.targets) for cell in cells
        ):
            job.run()
        else:
            try:
                self._queue(served).put_nowait(job)
            except Full:
                raise Busy(f"{self.limits.queued} jobs wait for {served.loaded.name} already; try again soon") from None
        with self._lock:
            self._jobs[job.id] = job
            while len(self._jobs) > self.limits.jobs:
                self._jobs.popitem(last=False)
        return job

    def find(self, job_id: str) -> Job | None:
        """A job that was taken not too long ago."""
        with self._lock:
            return self._jobs.get(job_id)

    def _queue(self, served: Served) -> Queue[Job | None]:
        with self._lock:
            if served.id not in self._queues:
                queue = self._queues[served.id] = Queue(self.limits.queued)
                thread = Thread(target=_work, args=(queue,), name=f"deepviz {served.id}", daemon=True)
                self._threads.append(thread)
                thread.start()
            return self._queues[served.id]

    def stop(self) -> None:
        """Cancel everything and let the threads end."""
        with self._lock:
            for job in self._jobs.values():
                job.cancel()
            for queue in self._queues.values():
                _emptied(queue).put_nowait(None)
            threads, self._threads, self._queues = self._threads, [], {}
        for thread in threads:
            thread.join(timeout=10)


def _emptied(queue: Queue[Job | None]) -> Queue[Job | None]:
    try:
        while True:
            queue.get_nowait()
    except Empty:
        return queue


def _work(queue: Queue[Job | None]) -> None:
    while (job := queue.get()) is not None:
        job.run()
