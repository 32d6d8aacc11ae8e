"""Maps of images: prepared images go in, batch by batch, and what came of each target and method comes out."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from deepviz.errors import LayerError, ModelError, ModelFailed, NothingOverridden, TargetError
from deepviz.files import versions
from deepviz.inputs import Inputs
from deepviz.methods.method import Method
from deepviz.models import LoadedModel, Prepared, Preprocess
from deepviz.notes import Notes, warn
from deepviz.objectives.bound import bind
from deepviz.probe.gradient import fresh_leaf
from deepviz.probe.outputs import Reading
from deepviz.probe.session import Session, opened
from deepviz.results.explanation import ExplainedTarget, Explanation
from deepviz.results.outcomes import Failed, ImageOutcomes, Missing, Outcome, Skipped
from deepviz.runs.asked import Item, OneTarget
from deepviz.runs.runner import OnError, Progress, batches, run

ROWS = 8
UNSEEN = (128, 128, 128)
"""The picture under a map whose input has neither one nor three channels."""
Column = Tensor | Callable[[Any], Tensor]
"""One target for each row: classes (N,), or a callable for all of them."""


def explain_items(
    loaded: LoadedModel,
    items: Iterable[Item],
    methods: Sequence[Method],
    *,
    top_k: int = 1,
    lenient: bool = False,
    needed: bool = True,
    progress: Progress | None = None,
    on_error: OnError[Item] | None = None,
    sinks: Sequence[Callable[[ImageOutcomes], None]] = (),
) -> Iterator[ImageOutcomes]:
    """`explain` for images that are already prepared, one result at a time.

    Images of equal size go through the model together.

    Args:
        loaded: the model.
        items: the images, with their targets.
        methods: the methods.
        top_k: of an item without targets, the number of predicted classes.
        lenient: whether a method that does not apply is `Skipped`, and one that raises an error `Failed`; if not,
            the error is raised.
        needed: whether an image without any map is an error.
        progress: is called before each method, with the images times methods that are done of the images under way.
        on_error: takes an item that the model has no finite scores for, and the others go on.
        sinks: take each result.
    """
    work = _Explaining(loaded, tuple(methods), top_k, lenient, needed, progress)
    together = batches(items, _alike, ROWS)
    yield from run(together, work.outcomes, on_error=on_error, sinks=sinks)


def predicted(loaded: LoadedModel, image: Prepared, top_k: int) -> list[ExplainedTarget]:
    """The best classes of one image, best first: those that `explain` would take with this `top_k`.

    Raises:
        ModelError: if the model returns no class scores, or fails.
    """
    scores = _scores(loaded, image.x[None].to(*loaded.home), needed=True)
    return [_explained(loaded, scores, column, 0) for column in _best_columns(scores, top_k)]


def _alike(item: Item) -> Hashable:
    """Items of which this is equal go through the model together."""
    kinds = None if item.targets is None else tuple(one if _is_function(one) else None for one in item.targets)
    return tuple(item.image.x.shape), kinds


def _is_function(target: OneTarget | None) -> bool:
    return callable(target)


@dataclass(frozen=True)
class _Explaining:
    """What is asked for, whatever the images."""

    loaded: LoadedModel
    methods: tuple[Method, ...]
    top_k: int
    lenient: bool
    needed: bool
    progress: Progress | None
    warned: set[str] = field(default_factory=set)

    def outcomes(self, batch: Sequence[Item]) -> list[ImageOutcomes]:
        """What came of images of one size."""
        images = [item.image for item in batch]
        x = torch.stack([image.x for image in images]).to(*self.loaded.home)
        scores = _scores(self.loaded, x, needed=not _all_functions(batch[0]))
        columns = _columns(self.loaded, scores, batch, self.top_k)
        targets = [[_explained(self.loaded, scores, column, row) for column in columns] for row in range(len(x))]
        rows = _Rows(self.loaded, images, x, columns, targets, _remarks(self.loaded, scores))
        by_method = []
        for position, method in enumerate(self.methods):
            if self.progress is not None:
                self.progress(str(method), position * len(batch))
            by_method.append(self._of_method(method, rows))
        found = [
            ImageOutcomes(
                image,
                _best(self.loaded, scores, row),
                tuple(outcomes[row][k] for k in range(len(columns)) for outcomes in by_method),
                self.methods,
            )
            for row, image in enumerate(images)
        ]
        self._warn(rows, found)
        if self.needed:
            for one in found:
                one.check()
        return found

    def _of_method(self, method: Method, rows: _Rows) -> list[list[Outcome]]:
        """What came of one method, by row and column; of rows that fail together, each by itself."""
        try:
            return rows.explained(method)
        except TargetError:
            raise
        except Exception as error:  # a stranger's method may raise anything
            if not self.lenient:
                raise
            applies = not isinstance(error, (NothingOverridden, LayerError))
            if not applies or rows.is_one:
                return rows.missing(method, error, Failed if applies else Skipped)
        # outside the handler, so that the failed attempt's tensors are no longer held by its traceback
        return [
            [self._of_method(method, rows.one(row, k))[0][0] for k in range(len(rows.columns))]
            for row in range(len(rows.images))
        ]

    def _warn(self, rows: _Rows, found: Sequence[ImageOutcomes]) -> None:
        missing = [str(one) for image in found for one in image.missing]
        for text in (*rows.remarks, *missing):
            if text not in self.warned:
                self.warned.add(text)
                warn(text)


@dataclass(frozen=True, eq=False)
class _Rows:
    """Images of one size, with their targets."""

    loaded: LoadedModel
    images: Sequence[Prepared]
    x: Tensor
    columns: Sequence[Column]
    targets: Sequence[Sequence[ExplainedTarget]]
    remarks: tuple[str, ...]

    @property
    def is_one(self) -> bool:
        return len(self.images) == len(self.columns) == 1

    def one(self, row: int, k: int) -> _Rows:
        """One image with one target."""
        column = self.columns[k]
        alone = column[row : row + 1] if isinstance(column, Tensor) else column
        return _Rows(
            self.loaded,
            self.images[row : row + 1],
            self.x[row : row + 1],
            [alone],
            [[self.targets[row][k]]],
            self.remarks,
        )

    def explained(self, method: Method) -> list[list[Outcome]]:
        """The method's maps, by row and column."""
        maps = maps_of(self.loaded, self.loaded.module, method, self.x, self.columns)
        return [
            [
                _explanation(self.loaded, image, method, self.targets[row][k], row, of_column, self.remarks)
                for k, of_column in enumerate(maps)
            ]
            for row, image in enumerate(self.images)
        ]

    def missing(self, method: Method, error: Exception, kind: Callable[..., Missing]) -> list[list[Outcome]]:
        """Why there are no maps of the method."""
        reason, name = in_one_line(error), type(error).__name__
        return [
            [kind(image.name, target, method, reason, name) for target in of_row]
            for image, of_row in zip(self.images, self.targets, strict=True)
        ]


def in_one_line(error: Exception) -> str:
    """An error's message, with its class where that is not one of ours."""
    text = " ".join(str(error).split())
    if type(error).__module__.startswith("deepviz."):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _remarks(loaded: LoadedModel, scores: _Scores | None) -> tuple[str, ...]:
    """What is odd about the model as a whole, one sentence each."""
    if scores is None or loaded.labels is None or len(loaded.labels) == scores.classes:
        return ()
    return (f"{len(loaded.labels)} labels for the {scores.classes} classes of {loaded.name}: names may be wrong",)


@dataclass(frozen=True)
class Maps:
    """One method's maps for one column of targets: (N, C, H, W), with the notes and where to find a row's in them."""

    maps: Tensor
    notes: Notes
    column: int | None

    def notes_of(self, row: int) -> dict[str, Any]:
        """What was found out on the way to one row's map."""
        return self.notes.of(row if self.column is None else (row, self.column))


def maps_of(loaded: LoadedModel, module: nn.Module, method: Method, x: Tensor, columns: Sequence[Column]) -> list[Maps]:
    """The method's maps for each column of targets; all columns of classes share their forward passes.

    Args:
        loaded: the model that is explained.
        module: its module, or a copy with other weights.
        method: the method.
        x: (N, C, H, W).
        columns: the targets.
    """
    ready = method.resolve_baseline(lambda name: colour_of(loaded, name))
    classes = [k for k, column in enumerate(columns) if isinstance(column, Tensor)]
    found: dict[int, Maps] = {}
    if classes:
        indices = torch.stack([column for column in columns if isinstance(column, Tensor)], 1)
        # one class a row needs no axis of its own
        alone = len(classes) == 1
        result = ready.attribute(module, x, indices[:, 0] if alone else indices, output=loaded.kind)
        for position, k in enumerate(classes):
            maps = result.maps if alone else result.maps[:, position]
            found[k] = Maps(maps, result.notes, None if alone else position)
    for k, column in enumerate(columns):
        if not isinstance(column, Tensor):
            result = ready.attribute(module, x, column, output=loaded.kind)
            found[k] = Maps(result.maps, result.notes, None)
    return [found[k] for k in range(len(columns))]


def column_of(target: ExplainedTarget) -> Column:
    """What was explained of one image, as a column of targets."""
    if target.index is not None:
        return torch.tensor([target.index])
    assert target.function is not None
    return target.function


def colour_of(loaded: LoadedModel, name: str) -> Tensor:
    """A colour by name in the model's normalised space, (C, 1, 1)."""
    if not isinstance(loaded.preprocess, Preprocess):
        raise ModelError(
            f"the baseline {name!r} is a colour, and the preprocessing of {loaded.name} is unknown: "
            "give preprocess=deepviz.Preprocess(...), or the baseline as a number in normalised space"
        )
    return loaded.preprocess.pixel_value(name)


@dataclass(frozen=True, eq=False)
class _Scores:
    """The outputs (N, K) of some images, on the CPU, and how they are read."""

    outputs: Tensor
    reading: Reading

    @cached_property
    def values(self) -> Tensor:
        """What is explained of each class, (N, classes); of one logit z for two classes -z and z."""
        return self.reading.scores(self.outputs)

    @cached_property
    def probabilities(self) -> Tensor | None:
        """Of each class; None for numbers and embeddings."""
        return self.reading.probabilities(self.outputs)

    @cached_property
    def order(self) -> Tensor:
        """The classes of each row, best first.

        Raises:
            TargetError: if nothing is predicted.
        """
        return self.reading.order(self.outputs)

    @property
    def classes(self) -> int:
        return self.reading.classes


def _all_functions(item: Item) -> bool:
    return item.targets is not None and all(map(_is_function, item.targets))


def _scores(loaded: LoadedModel, x: Tensor, needed: bool) -> _Scores | None:
    """The outputs of all rows, in chunks; None if there are none and none are needed."""
    # of numbers and embeddings nothing is predicted, but any of them may be asked for
    target = 0 if loaded.kind in ("regression", "embedding") else None
    try:
        with opened(loaded.module, Inputs(x), bind(target, len(x)), loaded.kind) as session:
            readings: list[Reading] = []
            (outputs,) = session.by_rows(lambda part: (_outputs(part, readings),))
        return _Scores(outputs.cpu(), readings[0])
    except ModelFailed:
        raise
    except (ModelError, TargetError):
        if needed:
            raise
        return None


def _outputs(session: Session, readings: list[Reading]) -> Tensor:
    """The outputs (n, K), and how they are read: a graph tells whether they end in a sigmoid."""
    seen = replace(session, inputs=session.inputs.map(fresh_leaf)).look()
    outputs = session.call.check(seen.scores()).float()
    if len(outputs) != session.n:
        raise ModelError(f"the model returned class scores for {len(outputs)} rows, {session.n} went in")
    readings.append(seen.read())
    return outputs.detach()


def _columns(loaded: LoadedModel, scores: _Scores | None, batch: Sequence[Item], top_k: int) -> list[Column]:
    """The targets of all rows, by column."""
    if batch[0].targets is None:
        assert scores is not None
        return list(_best_columns(scores, top_k))
    columns: list[Column] = []
    for targets in zip(*(item.targets or () for item in batch), strict=True):
        first = targets[0]
        if callable(first):
            columns.append(first)
        else:
            columns.append(torch.tensor([_index(loaded, scores, one, row) for row, one in enumerate(targets)]))
    return columns


def _best_columns(scores: _Scores | None, top_k: int) -> tuple[Tensor, ...]:
    assert scores is not None
    if top_k < 1:
        raise TargetError(f"top_k must be at least 1, got {top_k}")
    return scores.order[:, :top_k].unbind(1)


def _index(loaded: LoadedModel, scores: _Scores | None, target: Any, row: int) -> int:
    """The class that is explained in one row."""
    assert scores is not None
    if target is None:
        return int(scores.order[row, 0])
    if isinstance(target, str):
        return loaded.index(target)
    if not 0 <= target < scores.classes:
        raise TargetError(
            f"class {target} is out of range: the model has {scores.classes} classes, 0 to {scores.classes - 1}"
        )
    return int(target)


def _explanation(
    loaded: LoadedModel,
    image: Prepared,
    method: Method,
    target: ExplainedTarget,
    row: int,
    found: Maps,
    remarks: tuple[str, ...],
) -> Explanation:
    notes = found.notes_of(row)
    if remarks:
        notes["warnings"] = (*notes.get("warnings", ()), *remarks)
    if loaded.is_random:
        notes["weights"] = "random"
    if image.notes:
        notes["photograph"] = image.notes
    return Explanation(
        attribution=found.maps[row].detach().float().cpu(),
        image=image.photo or Image.new("RGB", image.geometry.size, UNSEEN),
        geometry=image.geometry,
        method=method,
        target=target,
        model=f"{loaded.name} ({loaded.weights})",
        source=image.name,
        notes=notes,
        versions=versions(),
    )


def _explained(loaded: LoadedModel, scores: _Scores | None, column: Column, row: int) -> ExplainedTarget:
    if not isinstance(column, Tensor):
        return ExplainedTarget(None, getattr(column, "__name__", type(column).__name__), None, None, column)
    assert scores is not None
    index = int(column[row])
    chance = None if scores.probabilities is None else float(scores.probabilities[row, index])
    return ExplainedTarget(index, loaded.label(index), chance, float(scores.values[row, index]))


def _best(loaded: LoadedModel, scores: _Scores | None, row: int, most: int = 5) -> tuple[tuple[str, float], ...]:
    if scores is None or scores.probabilities is None:
        return ()
    values, indices = scores.probabilities[row].topk(min(most, scores.classes))
    return tuple((loaded.label(int(index)), float(value)) for value, index in zip(values, indices, strict=True))
