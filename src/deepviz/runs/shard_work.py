"""One shard of a run: its images are explained, its maps written as one file for each array, and then its rows."""

from __future__ import annotations

import json
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from deepviz.errors import DeepVizError, DeepVizWarning, ImageError, ModelError, OutputError, in_one_line
from deepviz.methods import Method
from deepviz.metrics import Metric
from deepviz.metrics.metric import judging
from deepviz.models import LoadedModel, Prepared
from deepviz.models.images import shown
from deepviz.models.weights import tensors_hash
from deepviz.objectives import Objective
from deepviz.objectives.record import to_plain
from deepviz.probe.session import Session
from deepviz.remote import AnyPath
from deepviz.results.explanation import Explanation
from deepviz.results.outcomes import ImageOutcomes, Missing
from deepviz.results.run import target_of
from deepviz.results.shards import COLUMNS, MapArrays, MapReader, Shard, dequantised, method_folder, quantised
from deepviz.results.storage import plain_value
from deepviz.runs.asked import Item
from deepviz.runs.evaluate import measured, needs_place, placed
from deepviz.runs.explain import explain_items
from deepviz.runs.look import asked_of, inputs_of
from deepviz.runs.places import Places
from deepviz.runs.runner import OnError
from deepviz.runs.sources import Label, Source

AHEAD = 16
"""Images that are read before the model asks for them."""
READERS = 2
Row = dict[str, Any]
Tell = Callable[[int], None]
"""Takes how many images of the shard are done."""


class Given(NamedTuple):
    """An image of the source, with what is asked of it, its label, and the SHA-256 of its explained inputs."""

    item: Item
    label: Label | None
    content: str


@dataclass(frozen=True, eq=False)
class Work:
    """What a run does with each shard.

    Args:
        folder: of the run.
        loaded: the model.
        source: the images.
        methods: by name.
        keys: the identity of each method, by name.
        metrics: by name.
        targets: what is explained; None: the predicted classes.
        top_k: of these, how many.
        shard_size: images of a shard.
        each: maps of an image and method, at most.
        first: the image that each process begins with: what is found out about a model on its first input, such as how
            many rows may go together, is then the same in all of them.
        places: where the objects are, for the metrics that ask for it; None if that is not known.
    """

    folder: AnyPath
    loaded: LoadedModel
    source: Source
    methods: dict[str, Method]
    keys: dict[str, str]
    metrics: dict[str, Metric]
    targets: tuple[Objective, ...] | None
    top_k: int
    shard_size: int
    each: int
    first: int = 0
    places: Places | None = None

    @property
    def arrays(self) -> MapArrays:
        """Where the maps go."""
        return MapArrays(self.folder, len(self.source), self.shard_size, self.each)

    @property
    def shards(self) -> int:
        """How many there are."""
        return -(-len(self.source) // self.shard_size)

    def images(self, shard: int) -> range:
        """The images of a shard."""
        return range(shard * self.shard_size, min((shard + 1) * self.shard_size, len(self.source)))

    def is_done(self, shard: Shard) -> bool:
        """Whether it has all methods and metrics."""
        return set(self.methods) <= set(shard.methods) and set(self.metrics) <= set(shard.metrics)

    def read(self, index: int) -> Given:
        """One image."""
        item, label = self.source.read(self.loaded, index)
        content = tensors_hash((part.input, part.x) for part in item.parts)
        return Given(replace(item, targets=self.targets, row=index), label, content)

    def check_content(self, index: int, known: str | None, content: str) -> None:
        """See that an image is the one that was explained before.

        Raises:
            OutputError: if not.
        """
        if known is not None and content != known:
            raise OutputError(
                f"{shown(self.source.names[index])} differs from what was explained in {self.folder}: the image or its "
                "preprocessing has changed; retry_failed=True (--retry-failed) computes again what has changed"
            )

    def has_changed(self, shard: Shard) -> bool:
        """Whether an image of a shard is no more what was explained, or can be read now; all of them are read."""
        return any(self._content(index) != known for index, known in shard.contents.items())

    def _content(self, index: int) -> str | None:
        """The SHA-256 of what is read; None if it cannot be read."""
        try:
            return self.read(index).content
        except Exception:  # a data set of somebody else's may raise anything
            return None


def explained_alone(work: Work, item: Item, on_error: OnError[Item]) -> ImageOutcomes | None:
    """What comes of one image; None if it fails."""
    methods = list(work.methods.values())
    found = explain_items(work.loaded, [item], methods, top_k=work.top_k, lenient=True, needed=False, on_error=on_error)
    return next(found, None)


class ShardWorker:
    """Works on one shard after the other, and writes each while the next is computed."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="deepviz-writer")
        self._written: Future[None] | None = None

    def begin(self) -> None:
        """Find out about the model what has to be found out once."""
        item = self.work.read(self.work.first).item
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeepVizWarning)  # told by the process that leads
            explained_alone(self.work, item, lambda item, error: None)

    def do(self, number: int, tell: Tell = lambda done: None) -> Future[None]:
        """Compute a shard; the future is done once it exists.

        Raises:
            OutputError: if the shard before it could not be written.
        """
        found = _Computing(self.work, number, tell).computed()
        if self._written is not None:
            self._written.result()  # one shard waits at most
        self._written = self._writer.submit(found.write)
        return self._written

    def close(self) -> None:
        """Wait for what is being written."""
        self._writer.shutdown()


@dataclass(frozen=True, eq=False)
class _Computed:
    """A shard that is to be written."""

    work: Work
    shard: Shard
    maps: dict[str, NDArray[np.float16]]
    new: bool

    def write(self) -> None:
        files = dict(self.shard.files)
        for name, values in sorted(self.maps.items()):
            files |= self.work.arrays.write(name, self.shard.number, values)
        replace(self.shard, files=files).write(self.work.folder, new=self.new)


@dataclass(eq=False)
class _Computing:
    """A shard that is being computed."""

    work: Work
    number: int
    tell: Tell
    maps: dict[str, NDArray[np.float16]] = field(default_factory=dict)
    rows: dict[int, list[Row]] = field(default_factory=dict)
    contents: dict[int, str | None] = field(default_factory=dict)
    done: int = 0
    _inside: tuple[int, Tensor] | None = None

    @cached_property
    def _stored(self) -> MapReader:
        return MapReader(self.work.folder)

    def computed(self) -> _Computed:
        work = self.work
        there = Shard.read(work.folder, self.number)
        known = there or Shard(self.number, [], (), ())
        for row in known.rows:
            self.rows.setdefault(row["index"], []).append(row)
        self.contents = known.contents
        methods = [name for name in work.methods if name not in known.methods]
        metrics = [name for name in work.metrics if name not in known.metrics]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeepVizWarning)  # each is in its rows
            if methods:
                self._explain(methods, metrics)
            elif metrics:
                self._measure(metrics)
        order = {name: place for place, name in enumerate((*known.methods, *methods))}
        rows = sorted(
            (row for of_image in self.rows.values() for row in of_image),
            key=lambda row: (row["index"], row["rank"] or 0, row["input"] or "", order.get(row["method"], -1)),
        )
        shard = Shard(self.number, rows, tuple(order), (*known.metrics, *metrics), known.files)
        return _Computed(work, shard, self.maps, new=there is None)

    def _explain(self, methods: Sequence[str], metrics: Sequence[str]) -> None:
        """Add the rows of methods, and what metrics say of those that were there."""
        work = self.work
        failed = {index for index, rows in self.rows.items() if rows[0]["method"] is None}
        under_way: dict[Prepared, Given] = {}

        def items() -> Iterator[Item]:
            for given in self._read(index for index in work.images(self.number) if index not in failed):
                under_way[given.item.image] = given
                yield given.item

        def on_error(item: Item, error: DeepVizError) -> None:
            if item.row in self.rows:  # what is there of other methods is not given up
                raise error
            given = under_way.pop(item.image)
            self.rows[item.row] = [self._failed(item.row, given.label, given.content, error)]
            self._advance()

        found = explain_items(
            work.loaded,
            items(),
            [work.methods[name] for name in methods],
            top_k=work.top_k,
            lenient=True,
            needed=False,
            on_error=on_error,
        )
        for outcomes in found:
            given = under_way.pop(outcomes.image)
            item = given.item
            old, new = self.rows.get(item.row, []), self._rows_of(given, outcomes, methods)
            self.rows[item.row] = [*old, *(row for row, _ in new)]
            explained = [(row, self._explanation(row, item)) for row in old] if metrics else []
            self._judge(item, explained, metrics)
            self._judge(item, new, list(work.metrics))
            self._advance()

    def _measure(self, metrics: Sequence[str]) -> None:
        """Add what metrics say of the rows that are there."""
        judged = [index for index, rows in self.rows.items() if any(row["map"] is not None for row in rows)]
        for given in self._read(judged):
            item = given.item
            self._judge(item, [(row, self._explanation(row, item)) for row in self.rows[item.row]], metrics)
            self._advance()

    def _advance(self) -> None:
        self.done += 1
        self.tell(self.done)

    def _read(self, indices: Iterable[int]) -> Iterator[Given]:
        """The images that can be read, some of them ahead.

        Raises:
            ImageError, OutputError: for one that was explained before, and cannot be read any more or has changed.
        """
        waiting: deque[tuple[int, Future[Given]]] = deque()
        left = iter(indices)
        with ThreadPoolExecutor(READERS, thread_name_prefix="deepviz-reader") as readers:
            while True:
                while len(waiting) < AHEAD and (index := next(left, None)) is not None:
                    waiting.append((index, readers.submit(self.work.read, index)))
                if not waiting:
                    return
                index, reading = waiting.popleft()
                try:
                    given = reading.result()
                except Exception as error:  # a data set of somebody else's may raise anything
                    if index in self.rows:
                        name = shown(self.work.source.names[index])
                        raise ImageError(
                            f"{name} was explained before, and cannot be read: {in_one_line(error)}"
                        ) from None
                    listed = self.work.source.label(self.work.loaded, index)
                    self.rows[index] = [self._failed(index, listed, None, error)]
                    self._advance()
                    continue
                self.work.check_content(index, self.contents.get(index), given.content)
                yield given

    def _about(self, index: int, label: Label | None, content: str | None) -> Row:
        """What every row of an image has."""
        about: Row = {name: None for name, _ in COLUMNS}
        named = None if label is None else label.text
        about |= {"index": index, "image": self.work.source.names[index], "label": named, "content": content}
        return about | {"warnings": []}

    def _failed(self, index: int, label: Label | None, content: str | None, error: BaseException) -> Row:
        """The row of an image that nothing came of."""
        return self._about(index, label, content) | {"failure": type(error).__name__, "reason": in_one_line(error)}

    def _rows_of(
        self, given: Given, outcomes: ImageOutcomes, methods: Sequence[str]
    ) -> list[tuple[Row, Explanation | None]]:
        """The rows of an image, each with its map as it is stored."""
        label = given.label
        prediction, probability = outcomes.predictions[0] if outcomes.predictions else (None, None)
        class_index = None if label is None else label.class_index
        correct = None if class_index is None or prediction is None else outcomes.predicted == class_index
        about = self._about(given.item.row, label, given.content) | {
            "prediction": prediction,
            "probability": probability,
            "correct": correct,
        }
        inputs, width = len(outcomes.inputs), len(methods)
        found: list[tuple[Row, Explanation | None]] = []
        for place, outcome in enumerate(outcomes.outcomes):
            rank, name = place // (inputs * width), methods[place % width]
            target = outcome.target
            row = about | {
                "rank": rank,
                "target": target.label,
                "target_index": target.index,
                "target_probability": target.probability,
                "score": target.score,
                "objective": None if target.objective is None else _json(to_plain(target.objective)),
                "box": None if target.box is None else [float(side) for side in target.box],
                "method": name,
                "title": str(outcome.method),
                "input": outcomes.inputs[place // width % inputs],
            }
            if isinstance(outcome, Missing):
                found.append((row | {"failure": type(outcome).__name__, "reason": outcome.reason}, None))
            else:
                found.append(self._with_map(row, outcome))
        return found

    def _with_map(self, row: Row, explanation: Explanation) -> tuple[Row, Explanation | None]:
        """The row with its map, which is put where it is written from."""
        values = explanation.attribution.numpy()
        if not np.isfinite(values).all():
            return row | {"failure": "Failed", "reason": "the map holds NaN or infinity"}, None
        stored, maximum = quantised(values)
        folder = method_folder(row["method"], self.work.keys[row["method"]])
        inner = f"{row['input']}-" if row["input"] else ""
        name = f"{folder}/{inner}{'x'.join(map(str, values.shape))}"
        position = self.work.arrays.position(row["index"], row["rank"])
        if row["rank"] >= self.work.each:
            raise ModelError(
                f"{row['image']} has more targets than the {self.work.each} of a row of maps: give another target"
            )
        if name not in self.maps:
            self.maps[name] = self.work.arrays.empty(values.shape, self.number)
        self.maps[name][position - self.work.images(self.number).start * self.work.each] = stored
        notes = dict(explanation.notes)
        said = [str(text) for text in notes.pop("warnings", ())]
        geometry = {"size": list(explanation.geometry.size), "box": [float(side) for side in explanation.geometry.box]}
        space = {} if explanation.space is None else {"space": list(explanation.space)}
        row |= {
            "layer": explanation.layer,
            "map": name,
            "position": position,
            "maximum": maximum,
            "geometry": _json(geometry | space),
            "notes": _json(plain_value(notes)),
            "warnings": said,
        }
        if not self.work.metrics:
            return row, None
        # what a metric judges is what is stored: one that is added later gives the same number
        return row, replace(explanation, attribution=torch.from_numpy(dequantised(stored, maximum)))

    def _explanation(self, row: Row, item: Item) -> Explanation | None:
        """The stored map of a row, for metrics."""
        if row["map"] is None:
            return None
        method = self.work.methods[row["method"]]
        maps = torch.from_numpy(self._stored.read(row))
        picture = item.image.photo or Image.new("RGB", item.image.geometry.size)
        return Explanation(maps, picture, item.image.geometry, method, target_of(row), "", row["image"])

    def _judge(self, item: Item, rows: Sequence[tuple[Row, Explanation | None]], metrics: Sequence[str]) -> None:
        """Put what metrics say of maps into their rows, target by target."""
        by_rank: dict[int, list[tuple[Row, Explanation]]] = {}
        for row, explanation in rows if metrics else ():
            if explanation is not None:
                by_rank.setdefault(row["rank"], []).append((row, explanation))
        for of_target in by_rank.values():
            target = asked_of(of_target[0][1].target)
            try:
                with judging(
                    self.work.loaded.module,
                    inputs_of(self.work.loaded, [item]),
                    target,
                    output=self.work.loaded.kind,
                ) as session:
                    for row, explanation in of_target:
                        self._measured(session, item, row, explanation, metrics)
            except Exception as error:  # what cannot be judged is a reason, the others go on
                for row, _ in of_target:
                    row["warnings"] = [*row["warnings"], *(f"{name}: {in_one_line(error)}" for name in metrics)]

    def _measured(
        self, session: Session, item: Item, row: Row, explanation: Explanation, metrics: Sequence[str]
    ) -> None:
        for name in metrics:
            try:
                row[name] = measured(self.work.loaded, session, explanation, self._placed(name, item))[0]
            except Exception as error:  # the others say something all the same
                row["warnings"] = [*row["warnings"], f"{name}: {in_one_line(error)}"]

    def _placed(self, name: str, item: Item) -> Metric:
        """A metric, with the place of the object if it asks for it.

        Raises:
            TargetError: if that is not known of this image.
        """
        metric = self.work.metrics[name]
        if not needs_place(metric):
            return metric
        if self._inside is None or self._inside[0] != item.row:
            assert self.work.places is not None
            self._inside = item.row, self.work.places.inside(item.row, item.image)
        return placed(metric, self._inside[1])


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
