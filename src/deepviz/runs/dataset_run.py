"""`run`: methods and metrics on all images of a data set, in shards that are written as they are done."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

from torch import nn

from deepviz import catalog
from deepviz.codec import Codec
from deepviz.diagnostics import warn
from deepviz.errors import DeepVizWarning, ImageError, NothingApplies, NotInImage, OutputError, StoredError
from deepviz.files import probe_folder, versions
from deepviz.methods import Method
from deepviz.metrics import Metric
from deepviz.models import LoadedModel, load_model
from deepviz.objectives import Boxes, Objective, Regions
from deepviz.objectives.record import HELD, from_plain, to_plain
from deepviz.options import Frozen, Ge
from deepviz.probe.borrow import original
from deepviz.probe.outputs import Kind
from deepviz.remote import AnyPath, path_of
from deepviz.results.outcomes import Skipped
from deepviz.results.run import Run
from deepviz.results.sanity import key_of
from deepviz.results.shards import (
    FORMAT,
    MAPS,
    VERSION,
    Shard,
    left_over,
    library,
    method_folder,
    read_manifest,
    row_file,
    shards_of,
    write_group,
    write_manifest,
)
from deepviz.results.storage import METHODS
from deepviz.runs.asked import Methods, Metrics, Model, Targets, choose_methods, choose_metrics, is_all, targets_of
from deepviz.runs.evaluate import needs_place
from deepviz.runs.explain import IMAGE_ALONE
from deepviz.runs.local_workers import LocalWorkers
from deepviz.runs.lock import locked
from deepviz.runs.places import Boxes as BoxesOf
from deepviz.runs.places import Places, places_of
from deepviz.runs.ray_workers import RayWorkers, import_ray, packed_for_ray
from deepviz.runs.shard_work import ShardWorker, Work, explained_alone
from deepviz.runs.sources import Source, source_of
from deepviz.runs.workers import Crew, Engine, packed

EngineName = Literal["local", "ray"]
METRICS = Codec(lambda: {**catalog.METRICS, **catalog.METHODS}, (Metric, Method))
"""Metrics with their options as plain values, and back."""
Advance = Callable[[int, int], None]
"""Takes how many images are done, and of how many."""
TRIED = 16
"""Images of which one has to open before the work begins."""
IN_WORDS = {
    "network": "the weights, the structure or the preprocessing of the model",
    "preprocess": "the preprocessing",
    "labels": "the names of the classes",
    "output": "what the model returns",
    "top_k": "top_k",
    "shard_size": "the size of a shard",
    "source": "the images, or their labels",
    "model": "the model",
    "places": "where the objects are (boxes or masks)",
}


@dataclass(frozen=True)
class Plan(Frozen):
    """Who does the work, and in what pieces.

    Raises:
        ValueError: for numbers out of bounds, or what is Ray's without it.
        MissingExtra: without ray, where that is asked for.
    """

    workers: Annotated[int, Ge(1), "Workers, each with the model."] = 1
    shard_size: Annotated[int, Ge(1), "Images of a shard."] = 256
    engine: Annotated[EngineName, "Where the workers are."] = "local"
    gpus: Annotated[float, Ge(0.0), "GPUs of each worker, or the part of one."] = 0.0
    ray_address: Annotated[str | None, "Address of a Ray cluster."] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.engine != "ray" and (self.gpus or self.ray_address):
            raise ValueError("gpus and ray_address (--gpus, --ray-address) are for engine='ray' (--engine ray)")
        if self.engine == "ray":
            import_ray()

    def check(self, work: Work) -> None:
        """See that the work can be sent to workers.

        Raises:
            ModelError: if not.
        """
        if self.engine == "ray":
            packed_for_ray(work)
        elif self.workers > 1:
            packed(work)

    def engine_of(self, work: Work, said: Callable[[str], None]) -> Engine | None:
        """Where the workers come from; None where this process does the work.

        Raises:
            ModelError: if a model cannot be sent to workers, or the cluster cannot be reached.
        """
        if self.engine == "ray":
            return RayWorkers(work, self.workers, self.gpus, self.ray_address, said)
        return LocalWorkers(work, self.workers) if self.workers > 1 else None


def run(
    model: Model,
    source: Any,
    methods: Methods = "grad-cam",
    *,
    out: str | os.PathLike[str],
    metrics: Metrics = (),
    target: Targets = None,
    top_k: int = 1,
    layer: str | nn.Module | None = None,
    preprocess: Any = None,
    output: Kind = "auto",
    boxes: BoxesOf | None = None,
    masks: str | os.PathLike[str] | None = None,
    workers: int = 1,
    shard_size: int = 256,
    engine: EngineName = "local",
    gpus: float = 0.0,
    ray_address: str | None = None,
    retry_failed: bool = False,
    progress: Advance | None = None,
) -> Run:
    """Explain a data set of any size, in shards that are written as they are done.

    The same call goes on where it stopped, however it was ended; with more methods or metrics it computes these alone.
    The results of another question, such as of other weights, are not mixed with those that are there: that is an
    error. Images that cannot be read are rows with a reason. Needs the extra `data`.

    The files of a run are equal byte by byte whatever the number of workers, if these use equally many threads
    (`torch.get_num_threads()` of this process are shared out among them), and the versions of the packages are equal.

    Args:
        model: as for `explain`.
        source: a folder, whose sub-folders are labels; a .csv or .parquet with the columns "file" and "label"; a
            WebDataset .tar; a folder of Hugging Face's `datasets`, or Parquet files with images; files; a list of
            these; each of them also behind a URL, such as "s3://bucket/photos"; or a torch `Dataset`, a
            `datasets.Dataset` or another sequence, of images or of pairs (image, label). A label is the name of a
            class of the model, or its index.
        methods: as for `explain`.
        out: the folder of the run; also a URL, such as "s3://bucket/run".
        metrics: names or values, as for `evaluate`: of each map, as it is stored.
        target: as for `explain`.
        top_k: as for `explain`.
        layer: as for `explain`.
        preprocess: as for `explain`.
        output: as for `explain`.
        boxes: where the object is, for metrics such as "energy-inside": a .csv with the columns file, left, top, right
            and bottom, in pixels of the image, one line for each object; boxes by the image's name or position; or a
            list of boxes for each image. Of an image without a box these metrics have no value.
        masks: the same as a folder of pictures, each of the size and the name of an image: what is not black.
        workers: worker processes, each with the model; 1 is this process alone. A script that asks for more needs
            `if __name__ == "__main__":` around the call. Of Ray, the number of actors.
        shard_size: images of a shard, the most that are computed again after a run was killed, for each worker.
        engine: "local", or "ray" for workers on the nodes of a cluster (extra `ray`); all of them must see `out` and
            the images by the same paths, or URLs.
        gpus: of each worker of Ray, or the part of one.
        ray_address: of a Ray cluster; by default `RAY_ADDRESS` of the environment, else one is begun on this machine,
            and ended with the run. A Ray that is initialised is used as it is.
        retry_failed: compute shards again in which an image or a map has failed, or an image has changed; for this,
            all images are read again.
        progress: is told how many images are done, and of how many.

    Returns:
        The run, to be asked; `deepviz.Run(out)` opens it again.

    Raises:
        OutputError: for a folder that holds another question, or in which a run is under way, or that is full.
        NothingApplies: for a method that does not apply to the model, if it was named.
        MissingExtra: without zarr, pyarrow, or ray if that is asked for.
        ImageError, ModelError, TargetError, LayerError: as `explain` raises them.
        KeyboardInterrupt: on Ctrl-C, once the shard under way is written; a second one does not wait.

    Example:
        >>> import deepviz, tempfile, torch
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 5))
        >>> images = [(torch.rand(3, 8, 8), label) for label in (0, 1, 2, 3)]
        >>> run = deepviz.run(net, images, ["gradient", "grad-times-image"], out=tempfile.mkdtemp())
        >>> len(run), run.rows.num_rows
        (4, 8)
    """
    library("zarr"), library("pyarrow")
    plan = Plan(workers, shard_size, engine, gpus, ray_address)
    chosen = choose_methods(methods, layer)
    measures = choose_metrics(metrics) if not isinstance(metrics, (list, tuple)) or metrics else []
    loaded = load_model(model, preprocess=preprocess, output=None if output == "auto" else output)
    images = source_of(source, loaded.reads)
    asked = Asked.of(
        loaded, images, chosen, measures, target, top_k, plan.shard_size,
        lenient=is_all(methods), places=places_of(boxes, masks, images),
    )  # fmt: skip
    return run_asked(asked, path_of(out), plan, retry_failed=retry_failed, progress=progress)


@dataclass(frozen=True, eq=False)
class Asked:
    """What is asked of which images.

    Args:
        loaded: the model.
        source: the images.
        methods: by name.
        metrics: by name.
        targets: what is explained; None: the predicted classes.
        top_k: of these, how many.
        shard_size: images of a shard.
        lenient: whether a method that does not apply is left out.
        places: where the objects are; None if that is not known.
    """

    loaded: LoadedModel
    source: Source
    methods: dict[str, Method]
    metrics: dict[str, Metric]
    targets: tuple[Objective, ...] | None
    top_k: int
    shard_size: int
    lenient: bool
    places: Places | None = None

    @classmethod
    def of(
        cls,
        loaded: LoadedModel,
        source: Source,
        methods: Sequence[Method],
        metrics: Sequence[Metric],
        target: Targets,
        top_k: int,
        shard_size: int,
        *,
        lenient: bool,
        places: Places | None = None,
    ) -> Asked:
        """What is asked, checked.

        Raises:
            ValueError: for two methods that are written alike, or a metric that needs to know where the object is.
        """
        unplaced = [one.name for one in metrics if needs_place(one)]
        if unplaced and places is None:
            raise ValueError(
                f"{unplaced[0]} needs to know where the object is: give boxes (--boxes) or masks (--masks)"
            )
        named = [method.layers_by_name(original(loaded.module)) for method in methods]
        targets = targets_of(target, len(source), loaded.labels)
        return cls(loaded, source, _by_name(named), _by_name(metrics), targets, top_k, shard_size, lenient, places)

    @property
    def each(self) -> int:
        """Maps of an image and method, at most."""
        if self.targets is None:
            return self.top_k
        return sum(one.most if isinstance(one, (Boxes, Regions)) else 1 for one in self.targets)

    def question(self) -> dict[str, Any]:
        """What has to be equal for two runs to be one."""
        loaded = self.loaded
        return {
            "model": f"{loaded.name} ({loaded.weights})",
            "network": key_of(loaded),
            "preprocess": re.sub(r" at 0x[0-9a-f]+", "", str(loaded.preprocess)),
            "labels": None if loaded.labels is None else sha256("\n".join(loaded.labels).encode()).hexdigest(),
            "output": loaded.output,
            "target": None if self.targets is None else [to_plain(one) for one in self.targets],
            "top_k": self.top_k,
            "shard_size": self.shard_size,
            "source": self.source.record,
            **({} if self.places is None else {"places": self.places.record}),
        }

    def work(self, folder: AnyPath) -> Work:
        """What is done with each shard."""
        keys = {name: catalog.key(method) for name, method in self.methods.items()}
        return Work(
            folder,
            self.loaded,
            self.source,
            self.methods,
            keys,
            self.metrics,
            self.targets,
            self.top_k,
            self.shard_size,
            self.each,
            places=self.places,
        )


def _by_name(values: Sequence[Any]) -> dict[str, Any]:
    """Methods or metrics by how they are written.

    Raises:
        ValueError: for two that differ in what cannot be written, such as a function.
    """
    found: dict[str, Any] = {}
    for value in values:
        known = found.setdefault(catalog.spell(value), value)
        if catalog.key(known) != catalog.key(value):
            raise ValueError(
                f"two methods or metrics are written {catalog.spell(value)!r}: give them runs of their own"
            )
    return found


def run_asked(
    asked: Asked,
    folder: AnyPath,
    plan: Plan,
    *,
    retry_failed: bool = False,
    progress: Advance | None = None,
    said: Callable[[str], None] = warn,
) -> Run:
    """`run`, of what is ready to be asked; `said` takes what is odd, one sentence each."""
    probe_folder(folder)
    with locked(folder) as check_held:

        def told(done: int, total: int) -> None:
            check_held()
            if progress is not None:
                progress(done, total)

        _clear(folder)
        known = read_manifest(folder)
        manifest, whole = _agreed(asked, known, folder, retry_failed, said)
        work = whole.work(folder)
        plan.check(work)  # before any work
        kept, left = _standing(work, retry_failed, said)
        if left:
            held = () if known is None else tuple(one["name"] for one in known["methods"])
            needed = () if asked.lenient else tuple(name for name in asked.methods if name not in held)
            work = replace(work, first=_try_one(work, needed, said))
        if manifest != known:  # nothing is written of what cannot work, so that it can be put right in this folder
            write_manifest(folder, manifest)
        if left:
            _write_groups(work)
            _Driver(work, left, kept, told).run(plan, said)
            _clear(folder)  # of a worker that was killed
    return Run(folder)


def _clear(folder: AnyPath) -> None:
    """Remove half-written files."""
    for path in left_over(folder):
        path.unlink(missing_ok=True)


def _agreed(
    asked: Asked, written: dict[str, Any] | None, folder: AnyPath, retry_failed: bool, said: Callable[[str], None]
) -> tuple[dict[str, Any], Asked]:
    """What is asked together with what was asked before: the manifest, and the work.

    Args:
        asked: what is asked now.
        written: the manifest that is there; None if there is none.
        folder: of the run.
        retry_failed: whether files may have been mended.
        said: takes what is odd.

    Raises:
        OutputError: if that is another question.
    """
    question = asked.question()
    if written is None:
        if shards_of(folder):
            raise OutputError(f"{folder} has files of rows, but no manifest: choose another folder")
        known: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "question": question,
            "methods": [],
            "metrics": [],
        }
        known["versions"] = versions() | {name: version(name) for name in ("zarr", "numcodecs", "pyarrow")}
    else:
        known = written
        differs = _differences(known["question"], question, retry_failed)
        if differs:
            raise OutputError(
                f"{folder} holds the results of another question: it differs in {' and '.join(differs)}; choose "
                "another folder"
            )
        if HELD in json.dumps(question["target"]):
            raise OutputError(
                f"{folder} holds a run whose target is a callable, and whether this is the same one cannot be known: "
                "choose another folder, or give an objective of deepviz.objectives, or your own class of these"
            )
        now = versions()
        if known["versions"].get("torch") != now["torch"]:
            said(f"this run was begun with torch {known['versions'].get('torch')}, and this is {now['torch']}")
    methods, metrics = _held_methods(known, asked), _held_metrics(known, asked)
    manifest = known | {
        "question": question,
        "methods": [_described(name, method) for name, method in methods.items()],
        "metrics": [
            {"name": name, "key": catalog.key(metric), "metric": METRICS.encode(metric)}
            for name, metric in metrics.items()
        ],
    }
    return manifest, replace(asked, methods=methods, metrics=metrics)


def _differences(known: dict[str, Any], question: dict[str, Any], retry_failed: bool) -> list[str]:
    """What differs between two questions, in words; where the images lie does not matter."""

    def plain(held: dict[str, Any]) -> dict[str, Any]:
        left_out = ("root", "sizes") if retry_failed else ("root",)
        source = {name: value for name, value in held["source"].items() if name not in left_out}
        return held | {"source": source}

    one, other = plain(known), plain(question)
    if "places" not in one:  # a metric that asks for them may be added
        other.pop("places", None)
    differs = [name for name in one.keys() | other.keys() if one.get(name) != other.get(name)]
    order = list(IN_WORDS)
    told = []
    for name in sorted(differs, key=lambda name: order.index(name) if name in order else len(order)):
        if name == "source" and one["source"]["count"] != other["source"]["count"]:
            told.append(f"the number of images ({one['source']['count']}, now {other['source']['count']})")
        elif name == "source" and one["source"] | {"sizes": None} == other["source"] | {"sizes": None}:
            told.append("the sizes of files (retry_failed=True, or --retry-failed, computes again what has changed)")
        elif name == "target":
            told.append(f"the target ({_targets_in_words(one[name])}, now {_targets_in_words(other[name])})")
        elif name in ("top_k", "shard_size", "output", "model"):
            told.append(f"{IN_WORDS[name]} ({one.get(name)}, now {other.get(name)})")
        else:
            told.append(IN_WORDS.get(name, name))
    return told


def _targets_in_words(held: Sequence[Any] | None) -> str:
    return "the predicted classes" if held is None else ", ".join(str(from_plain(one)) for one in held)


def _described(name: str, method: Method) -> dict[str, Any]:
    return {
        "name": name,
        "key": catalog.key(method),
        "title": str(method),
        "folder": method_folder(name, catalog.key(method)),
        "view": method.view,
        "coarse": method.coarse,
        "method": METHODS.encode(method),
    }


def _held_methods(known: dict[str, Any], asked: Asked) -> dict[str, Method]:
    """The methods of the run, with those that are new."""
    return _together(known["methods"], asked.methods, lambda one: METHODS.decode(one["method"]))


def _held_metrics(known: dict[str, Any], asked: Asked) -> dict[str, Metric]:
    return _together(known["metrics"], asked.metrics, lambda one: METRICS.decode(one["metric"]))


def _together(held: Sequence[dict[str, Any]], asked: dict[str, Any], decode: Callable[[Any], Any]) -> dict[str, Any]:
    """By name, what a run has and what is asked for beside it.

    Raises:
        OutputError: for what is asked for under the name of something else, or cannot be made here.
    """
    found: dict[str, Any] = {}
    for one in held:
        given = asked.get(one["name"])
        if given is not None and catalog.key(given) != one["key"]:
            raise OutputError(
                f"the run has another {one['name']}: it differs in what cannot be written; choose another folder"
            )
        try:
            found[one["name"]] = given if given is not None else decode(one)
        except ValueError as error:
            raise OutputError(f"the run has {one['name']}, which cannot be made here: {error}") from None
    return found | {name: value for name, value in asked.items() if name not in found}


def _write_groups(work: Work) -> None:
    """Make the maps a hierarchy that Zarr's readers can walk through."""
    write_group(work.folder, MAPS, {})
    for name, key in work.keys.items():
        write_group(work.folder, method_folder(name, key), {"method": name, "title": str(work.methods[name])})


def _standing(work: Work, retry_failed: bool, said: Callable[[str], None]) -> tuple[int, list[int]]:
    """How many images are done, and the shards that are left; what is damaged is computed again."""
    total = range(work.shards)

    def standing(number: int) -> bool:
        try:
            shard = Shard.read(work.folder, number)
            if shard is None:
                return False
            shard.check_files(work.folder, whole=isinstance(work.folder, Path))  # not all maps over a network
        except StoredError as error:
            said(f"{error}; shard {number} is computed again")
            row_file(work.folder, number).unlink()
            return False
        failed = any(row["failure"] not in (None, Skipped.__name__) for row in shard.rows)
        if retry_failed and (failed or work.has_changed(shard)):
            row_file(work.folder, number).unlink()
            return False
        return work.is_done(shard)

    there = set(shards_of(work.folder))
    # hashes are computed without the interpreter's lock; a server is waited for
    with ThreadPoolExecutor(4 if isinstance(work.folder, Path) else 16) as readers:
        done = dict(zip(sorted(there), readers.map(standing, sorted(there)), strict=True))
    left = [number for number in total if not done.get(number)]
    kept = sum(len(work.images(number)) for number, whole in done.items() if whole)
    return kept, left


def _try_one(work: Work, needed: Sequence[str], said: Callable[[str], None]) -> int:
    """Explain one image, so that what cannot work is an error before hours of it; which one that was.

    Args:
        work: what is done.
        needed: the names of the methods that have to apply.
        said: takes what is odd.

    Raises:
        ImageError: if none of the first can be opened.
        NothingApplies: for a method that does not apply.
        OutputError: if the image is not the one that was explained.
    """
    reasons: list[Exception] = []
    without: list[int] = []
    for index in range(min(TRIED, len(work.source))):
        try:
            given = work.read(index)
        except Exception as error:  # a data set of somebody else's may raise anything
            reasons.append(error)
            continue
        known = Shard.read(work.folder, index // work.shard_size)
        if known is not None:  # another preprocessing may look the same in the manifest
            work.check_content(index, known.contents[index], given.content)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", DeepVizWarning)
            found = explained_alone(work, given.item, lambda item, error: reasons.append(error))
        if found is None:
            if isinstance(reasons[-1], NotInImage):
                without.append(index)
            continue
        for one in found.missing:
            if isinstance(one, Skipped) and one.reason != IMAGE_ALONE and catalog.spell(one.method) in needed:
                raise NothingApplies(f"{one.method} does not apply: {one.reason}")
        for text in dict.fromkeys(str(one.message) for one in caught):
            said(text)
        return index
    if without:  # later images may have what is asked for
        return without[0]
    if len(work.source) == 1:
        raise ImageError(str(reasons[0]))
    raise ImageError(
        f"none of the first {min(TRIED, len(work.source))} images can be explained, the first because {reasons[0]}"
    )


@dataclass(eq=False)
class _Driver:
    """The shards that are left, one after the other or in worker processes."""

    work: Work
    left: list[int]
    kept: int
    progress: Advance | None

    def __post_init__(self) -> None:
        self.under_way: Counter[int] = Counter()

    def run(self, plan: Plan, said: Callable[[str], None]) -> None:
        self._tell()
        engine = plan.engine_of(self.work, said)
        # afterwards, since Ray has handlers of its own
        with ExitStack() as stack:
            if engine is not None:
                stack.callback(engine.close)
            stopping = stack.enter_context(_interruptible())
            if engine is None:
                self._alone(stopping)
            else:
                crew = Crew(self.work, deque(self.left), engine, self._at, self._done, stopping.is_set)
                crew.run(plan.workers)
            if stopping.is_set() and self.kept < len(self.work.source):
                raise KeyboardInterrupt(
                    f"stopped after {self.kept} of {len(self.work.source)} images, all in {self.work.folder}: "
                    "the same command goes on"
                )

    def _alone(self, stopping: threading.Event) -> None:
        worker = ShardWorker(self.work)
        waiting: deque[tuple[int, Future[None]]] = deque()
        try:
            for number in self.left:
                if stopping.is_set():
                    break
                waiting.append((number, worker.do(number, lambda done, number=number: self._at(number, done))))  # type: ignore[misc]
                while len(waiting) > 1:
                    self._written(*waiting.popleft())
            while waiting:
                self._written(*waiting.popleft())
        finally:
            worker.close()

    def _written(self, number: int, future: Future[None]) -> None:
        future.result()
        self._done(number)

    def _at(self, number: int, done: int) -> None:
        self.under_way[number] = done
        self._tell()

    def _done(self, number: int) -> None:
        self.under_way.pop(number, None)
        self.kept += len(self.work.images(number))
        self._tell()

    def _tell(self) -> None:
        if self.progress is not None:
            self.progress(self.kept + self.under_way.total(), len(self.work.source))


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Set on the first Ctrl-C, or SIGTERM where that means the same; the second interrupts as ever."""
    stopping = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopping
        return
    numbers = [number for number in (signal.SIGINT, signal.SIGTERM) if callable(signal.getsignal(number))]
    before = {number: signal.getsignal(number) for number in numbers}

    def stop(*_: Any) -> None:
        stopping.set()
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in numbers:
        signal.signal(number, stop)
    try:
        yield stopping
    finally:
        with suppress(ValueError):
            for number, handler in before.items():
                signal.signal(number, handler)
