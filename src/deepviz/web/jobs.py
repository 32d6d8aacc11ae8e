"""Background jobs: queued, run one after another for each model, watched and cancelled."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from queue import Empty, Full, Queue
from threading import Lock, Thread
from time import monotonic
from typing import Any, Literal, Protocol

from deepviz.errors import DeepVizError
from deepviz.methods import Method
from deepviz.probe.progress import Stopped
from deepviz.runs.explain import SO_FAR
from deepviz.runs.runner import run
from deepviz.web.forms import Target
from deepviz.web.limits import Limits
from deepviz.web.model_service import Busy, ModelService, NotApplicable, Result
from deepviz.web.trust import Part

BETWEEN = 1.0
"""Seconds between two versions of a map under way."""
Watch = Callable[[Callable[[], list[dict[str, Any]]] | None], None]
"""Is called again and again in the middle of long work, with a function that gives what the page receives of it so far;
None where there is nothing yet. It raises `Stopped` if the work is not wanted any more."""
State = Literal["queued", "running", "done", "failed", "cancelled"]
LAST: tuple[State, ...] = ("done", "failed", "cancelled")


class Task(Protocol):
    """A part of a job: done at once or not at all."""

    @property
    def column(self) -> int:
        """Of the page's grid."""

    def ready(self, service: ModelService) -> bool:
        """Whether nothing has to be computed for it."""

    def do(self, service: ModelService, watch: Watch) -> list[dict[str, Any]]:
        """What the page receives once it is done; `watch` is told of it on the way.

        Raises:
            NotApplicable: if the column does not apply to the model.
            DeepVizError: if nothing comes of it.
        """

    def parts(self) -> Sequence[Task]:
        """What it is made of, if some of it may be done where the whole cannot."""

    @property
    def place(self) -> dict[str, Any]:
        """What the page receives if it fails, beside the reason."""


@dataclass(frozen=True)
class Cell:
    """One method for some classes of one image: computed together."""

    photograph: str
    targets: tuple[Target, ...] | None
    method: Method
    column: int

    def __str__(self) -> str:
        return str(self.method)

    def ready(self, service: ModelService) -> bool:
        """Whether all of its maps are there."""
        return self.targets is not None and service.cached(self.photograph, self.method, self.targets) is not None

    def do(self, service: ModelService, watch: Watch) -> list[dict[str, Any]]:
        """The ids of its maps, and where in the page's grid they are."""
        targets = service.chosen(self.photograph, self.targets)

        def so_far(maps: Callable[[], list[Result]] | None) -> None:
            watch(None if maps is None else lambda: [self._entry(one) | _told(one) for one in maps()])

        return [self._entry(one) for one in service.explained(self.photograph, self.method, targets, so_far)]

    def _entry(self, result: Result) -> dict[str, Any]:
        return {"photograph": self.photograph, "column": self.column, "target": result.target, "id": result.id}

    def parts(self) -> Sequence[Cell]:
        """Each class by itself."""
        targets = self.targets or ()
        return [replace(self, targets=(target,)) for target in targets] if len(targets) > 1 else ()

    @property
    def place(self) -> dict[str, Any]:
        """Where in the page's grid it is; the classes are one, or the predicted one."""
        return {
            "photograph": self.photograph,
            "column": self.column,
            "target": None if self.targets is None else self.targets[0],
        }


@dataclass(frozen=True)
class Check:
    """A part of the checks of one map."""

    result: Result
    part: Part
    column: int = 0

    def __str__(self) -> str:
        what = {"curves": "Curves", "strip": "Randomisation"}[self.part]
        return f"{what} of {self.result.explanation.title}"

    def ready(self, service: ModelService) -> bool:
        """Whether it is known."""
        return service.known_check(self.result, self.part) is not None

    def do(self, service: ModelService, watch: Watch) -> list[dict[str, Any]]:
        """Which part is known now."""
        service.checked(self.result, self.part)
        return [self.place]

    def parts(self) -> Sequence[Task]:
        """None: it is done whole."""
        return ()

    @property
    def place(self) -> dict[str, Any]:
        """Which part of which map's checks it is."""
        return {"id": self.result.id, "part": self.part}


def _told(result: Result) -> dict[str, str]:
    """How far a map under way is, in words."""
    return {"told": result.explanation.notes[SO_FAR]}


@dataclass(eq=False)
class Job:
    """A job.

    Args:
        id: random; whoever has it may watch and cancel.
        service: the model.
        tasks: what there is to do, in this order.
    """

    id: str
    service: ModelService
    tasks: Sequence[Task]
    state: State = "queued"
    done: int = 0
    now: str = ""
    error: str = ""
    results: list[dict[str, Any]] = field(default_factory=list)
    so_far: list[dict[str, Any]] = field(default_factory=list)
    left_out: dict[int, str] = field(default_factory=dict)
    failures: list[dict[str, Any]] = field(default_factory=list)
    version: int = 0
    _lock: Lock = field(default_factory=Lock)

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        return self.state in LAST

    def status(self) -> dict[str, Any]:
        """The status."""
        with self._lock:
            return {
                "id": self.id,
                "version": self.version,
                "state": self.state,
                "done": self.done,
                "total": len(self.tasks),
                "now": self.now,
                "error": self.error,
                "results": list(self.results),
                "so_far": list(self.so_far),
                "left_out": [{"column": column, "reason": reason} for column, reason in self.left_out.items()],
                "failures": list(self.failures),
            }

    def cancel(self) -> None:
        """Stop before the next task, or in the middle of one that tells how far it is."""
        self._change(state="cancelled", so_far=[])

    def run(self) -> None:
        """Run it, task by task."""
        if not self._change(state="running"):
            return
        try:
            for task in self.tasks:
                if not self._change(now=str(task)):
                    return
                self.take(task)
            if self.failures and not self.results:
                self._change(state="failed", error=self.failures[0]["reason"])
            self._change(state="done", now="")
        except Stopped:
            pass
        except Exception as error:  # a bug must not end the thread that does the work
            self._change(state="failed", error=f"this is a bug, please report it: {type(error).__name__}: {error}")

    def take(self, task: Task) -> None:
        """Run one task. Its failure is recorded, and the others go on."""
        self.service.give_way()
        parts = task.parts() or [task]

        def work(batch: Sequence[Task]) -> list[dict[str, Any]]:
            try:
                return (task if len(batch) == len(parts) else batch[0]).do(self.service, self._watch())
            except NotApplicable as error:
                self._change(left_out={**self.left_out, task.column: str(error)})
                return []

        for found in run([parts], work, on_error=self._failed, catch=(DeepVizError,)):
            self._change(results=[*self.results, found])
        self._change(done=self.done + 1, so_far=[])

    def _watch(self) -> Watch:
        """Shows what there is of a task, now and then, and stops it once the job is cancelled."""
        shown = monotonic()

        def watch(so_far: Callable[[], list[dict[str, Any]]] | None) -> None:
            nonlocal shown
            if self.over:
                raise Stopped
            if so_far is not None and monotonic() - shown >= BETWEEN:
                self._change(so_far=so_far())
                shown = monotonic()

        return watch

    def _failed(self, task: Task, error: DeepVizError) -> None:
        self._change(failures=[*self.failures, {**task.place, "reason": " ".join(str(error).split())}])

    def _change(self, **values: Any) -> bool:
        """Set what has changed; not if it has ended."""
        with self._lock:
            if self.state in LAST:
                return False
            for name, value in values.items():
                setattr(self, name, value)
            self.version += 1
            return True


class Jobs:
    """A queue and a thread for each model, and the jobs that can still be asked for."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._queues: dict[str, Queue[Job | None]] = {}
        self._threads: list[Thread] = []
        self._lock = Lock()

    def submit(self, service: ModelService, tasks: Sequence[Task]) -> Job:
        """Take a job. One that needs no computing is done at once, whatever is waiting.

        Raises:
            Busy: if the queue is full.
        """
        job = Job(secrets.token_hex(16), service, tasks)
        if all(task.ready(service) for task in tasks):
            job.run()
        else:
            try:
                self._queue(service).put_nowait(job)
            except Full:
                raise Busy(
                    f"{self.limits.queued} jobs are queued for {service.loaded.name} already; try again soon"
                ) from None
        with self._lock:
            self._jobs[job.id] = job
            while len(self._jobs) > self.limits.jobs:
                self._jobs.popitem(last=False)
        return job

    def find(self, job_id: str) -> Job | None:
        """A job that was taken not too long ago."""
        with self._lock:
            return self._jobs.get(job_id)

    def _queue(self, service: ModelService) -> Queue[Job | None]:
        with self._lock:
            if service.id not in self._queues:
                queue = self._queues[service.id] = Queue(self.limits.queued)
                thread = Thread(target=_work, args=(queue,), name=f"deepviz {service.id}", daemon=True)
                self._threads.append(thread)
                thread.start()
            return self._queues[service.id]

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
