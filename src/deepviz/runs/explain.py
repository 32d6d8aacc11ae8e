"""Maps of images: prepared images go in, batch by batch, and what came of each target and method comes out."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from threading import Event
from typing import Any

from PIL import Image
from torch import Tensor, nn

from deepviz.diagnostics import ERROR, Diagnostics, warn
from deepviz.errors import (
    DeepVizError,
    ImageError,
    LayerError,
    ModelError,
    NoGradient,
    NothingOverridden,
    in_one_line,
)
from deepviz.files import versions
from deepviz.inputs import Inputs
from deepviz.methods.method import Method
from deepviz.methods.perturbation.perturbation_map import INTERRUPTED, PerturbationMap
from deepviz.models import LoadedModel, Prepared, Preprocess
from deepviz.models.stored import FilePreprocess
from deepviz.objectives import Objective, Several
from deepviz.probe.borrow import original
from deepviz.probe.chunks import chunk_rows
from deepviz.probe.held import Held
from deepviz.probe.outputs import WITHOUT_SCORES
from deepviz.probe.progress import Stopped, Watcher, watched
from deepviz.results.explanation import ExplainedTarget, Explanation
from deepviz.results.outcomes import Failed, ImageOutcomes, Missing, Outcome, Skipped
from deepviz.runs.asked import Item
from deepviz.runs.look import Look, inputs_of, looked, objectives_of, placed
from deepviz.runs.runner import OnError, Progress, batches, run

ROWS, ROWS_ON_GPU = 8, 32
SO_FAR = "so far"
"""The note of a map under way: "320 of 4,000 passes"."""
UNSEEN = (128, 128, 128)
"""The picture under a map whose input has neither one nor three channels."""
NOT_BEGUN = "the work was interrupted before it began"
IMAGE_ALONE = "it explains the image-like input alone"


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
    so_far: SoFar | None = None,
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
        so_far: is called after each round of passes of a long method; see `SoFar`.
    """
    named = tuple(method.layers_by_name(original(loaded.module)) for method in methods)
    work = _Explaining(loaded, named, top_k, lenient, needed, progress, so_far)
    several = loaded.kind in WITHOUT_SCORES and top_k != 1  # of these an image may have fewer
    sharing = any(method.plain_gradient for method in methods)
    together = batches(items, _alike, 1 if several else lambda item: _rows_together(loaded, item, sharing))
    # Ctrl-C in a long method leaves the map so far, and ends the work after it
    going_on = takewhile(lambda _: not work.interrupted.is_set(), together)
    yield from run(going_on, work.outcomes, on_error=on_error, sinks=sinks)


def _rows_together(loaded: LoadedModel, item: Item, sharing: bool) -> int:
    """Items like this one that go through the model together; `sharing`: so that one pass can serve all of them."""
    most = ROWS if loaded.home[0].type == "cpu" else ROWS_ON_GPU
    if not sharing:
        return most
    return min(most, *(chunk_rows(loaded.module, part.x[None]) for part in item.parts))


def _alike(item: Item) -> Hashable:
    """Items of which this is equal go through the model together."""
    alone = any(isinstance(one, Several) for one in item.targets or ())  # images have unlike numbers of them
    shapes = tuple(tuple(part.x.shape) for part in item.parts)
    return shapes, id(item.targets), id(item.inputs), id(item) if alone else None


@dataclass(frozen=True)
class _Explaining:
    """What is asked for, whatever the images."""

    loaded: LoadedModel
    methods: tuple[Method, ...]
    top_k: int
    lenient: bool
    needed: bool
    progress: Progress | None
    so_far: SoFar | None = None
    warned: set[str] = field(default_factory=set)
    interrupted: Event = field(default_factory=Event)

    def outcomes(self, batch: Sequence[Item]) -> list[ImageOutcomes]:
        """What came of images of one size."""
        inputs = inputs_of(self.loaded, batch)
        held = Held() if any(method.plain_gradient for method in self.methods) else None
        look = looked(self.loaded, inputs, objectives_of(batch), self.top_k, held)
        columns = range(len(look.objectives))
        targets = [[placed(look.target(row, k), item.image) for k in columns] for row, item in enumerate(batch)]
        rows = _Rows(self.loaded, batch, inputs, look.objectives, targets, look.remarks, look.assumed, held)
        by_method: dict[int, _Found] = {}
        # first those that share the pass of the look, whose graph is then given up
        order = sorted(range(len(self.methods)), key=lambda place: not self.methods[place].plain_gradient)
        for done, place in enumerate(order):
            method = self.methods[place]
            if held is not None and not method.plain_gradient:
                held.drop()
            if self.interrupted.is_set():
                by_method[place] = rows.missing(method, DeepVizError(NOT_BEGUN), Skipped)
                continue
            if self.progress is not None:
                self.progress(str(method), done * len(batch))
            with watched(self._watcher(method, done, rows)):
                by_method[place] = self._of_method(method, rows)
        in_order = [by_method[place] for place in range(len(self.methods))]
        found = [self._image(item, look, row, in_order) for row, item in enumerate(batch)]
        self._warn(rows, found)
        if self.needed:
            for one in found:
                one.check()
        return found

    def _watcher(self, method: Method, position: int, rows: _Rows) -> Watcher | None:
        """Tells the progress of one method, in the middle of it."""
        progress, so_far, images = self.progress, self.so_far, len(rows.items)
        if progress is None and so_far is None:
            return None

        def watch(done: int, total: int, maps: Callable[[], Tensor] | None) -> None:
            if progress is not None:
                progress(f"{method}, pass {done} of {total}", images * (position + done / total))
            if so_far is not None:
                # the maps of a method inside another are not those of the method
                own = isinstance(method, PerturbationMap) and isinstance(rows.inputs.x, Tensor)
                note = f"{done:,} of {total:,} passes"
                so_far(None if maps is None or not own else lambda: rows.under_way(method, maps(), note))

        return watch

    def _image(self, item: Item, look: Look, row: int, by_method: list[_Found]) -> ImageOutcomes:
        outcomes = (
            of_method[row][k][leaf]
            for k in range(len(look.objectives))
            for leaf in range(len(item.parts))
            for of_method in by_method
        )
        inputs = tuple(part.input for part in item.parts)
        main = item.parts.index(item.image)
        predictions = look.predictions(row)
        detections = look.detections(row, item.image)
        told = (
            replace(one, predictions=predictions, detections=detections) if isinstance(one, Explanation) else one
            for one in outcomes
        )
        predicted = next((index for index, _ in look.classes(row)), None)
        return ImageOutcomes(item.image, predictions, tuple(told), self.methods, inputs, main, look.output, predicted)

    def _of_method(self, method: Method, rows: _Rows) -> _Found:
        """What came of one method; of rows that fail together, each by itself.

        A target that the model does not have was refused before, by the look at the rows.
        """
        try:
            found = rows.explained(method)
            if any(isinstance(one, Explanation) and INTERRUPTED in one.notes for one in found[0][0]):
                self.interrupted.set()
            return found
        except Exception as error:  # a method of another package may raise anything
            if not self.lenient or isinstance(error, Stopped):
                raise
            applies = not isinstance(error, (NothingOverridden, LayerError, ImageError, NoGradient))
            if not applies or rows.is_one:
                return rows.missing(method, error, Failed if applies else Skipped)
        # outside the handler, so that the failed attempt's tensors are no longer held by its traceback
        return [
            [self._of_method(method, rows.one(row, k))[0][0] for k in range(len(rows.objectives))]
            for row in range(len(rows.items))
        ]

    def _warn(self, rows: _Rows, found: Sequence[ImageOutcomes]) -> None:
        missing = [str(one) for image in found for one in image.missing if one.reason != IMAGE_ALONE]
        for text in (*rows.remarks, *missing):
            if text not in self.warned:
                self.warned.add(text)
                warn(text)


SoFar = Callable[[Callable[[], list[Explanation]] | None], None]
"""Is called again and again while a long method is under way, with a function that gives the maps so far, by image,
then objective, each with the note "so far"; None where there are none. Raising `Stopped` ends the work."""
_Found = list[list[list[Outcome]]]
"""What came of one method: by row, objective and explained input."""


@dataclass(frozen=True, eq=False)
class _Rows:
    """Images of one size, with what is explained of them."""

    loaded: LoadedModel
    items: Sequence[Item]
    inputs: Inputs
    objectives: Sequence[Objective]
    targets: Sequence[Sequence[ExplainedTarget]]
    remarks: tuple[str, ...]
    assumed: str
    held: Held | None = None

    @property
    def is_one(self) -> bool:
        return len(self.items) == len(self.objectives) == 1

    def one(self, row: int, k: int) -> _Rows:
        """One image with one target."""
        rows = slice(row, row + 1)
        objective = self.objectives[k]
        return _Rows(
            self.loaded,
            self.items[rows],
            self.inputs.rows(rows),
            [objective if objective.rows is None else objective.take(rows)],
            [[self.targets[row][k]]],
            self.remarks,
            self.assumed,
        )

    def explained(self, method: Method) -> _Found:
        """The method's maps."""
        maps = maps_of(self.loaded, self.loaded.module, method, self.inputs, self.objectives, self.held)
        return [
            [
                [
                    self._outcome(item, part, method, self.targets[row][k], row, of_leaf)
                    for part, of_leaf in zip(item.parts, of_objective, strict=True)
                ]
                for k, of_objective in enumerate(maps)
            ]
            for row, item in enumerate(self.items)
        ]

    def under_way(self, method: Method, maps: Tensor, note: str) -> list[Explanation]:
        """The maps (N, [K,] ...) that a method has so far."""
        several = len(self.objectives) > 1
        if len(maps) != len(self.items) or (several and maps.shape[1] != len(self.objectives)):
            return []  # all together failed: these are of one of them, tried again
        by_objective = maps.unbind(1) if several else (maps,)
        told = Diagnostics()
        told.facts[SO_FAR] = note
        outcomes = (
            self._outcome(item, item.image, method, self.targets[row][k], row, Maps(of_objective, told, None))
            for row, item in enumerate(self.items)
            for k, of_objective in enumerate(by_objective)
        )
        return [one for one in outcomes if isinstance(one, Explanation)]

    def missing(self, method: Method, error: Exception, kind: Callable[..., Missing]) -> _Found:
        """Why there are no maps of the method."""
        reason, name = in_one_line(error), type(error).__name__
        return [
            [[kind(part.name, target, method, reason, name) for part in item.parts] for target in of_row]
            for item, of_row in zip(self.items, self.targets, strict=True)
        ]

    def _outcome(
        self, item: Item, part: Prepared, method: Method, target: ExplainedTarget, row: int, found: Maps | None
    ) -> Outcome:
        if found is None:
            return Skipped(part.name, target, method, IMAGE_ALONE, LayerError.__name__)
        notes = found.notes_of(row)
        if self.assumed:
            notes["output"] = self.assumed
        if self.remarks:
            notes["warnings"] = (*notes.get("warnings", ()), *self.remarks)
        if self.loaded.is_random:
            notes["weights"] = "random"
        if self.loaded.notes:
            notes["model"] = self.loaded.notes
        if part.notes:
            notes["photograph"] = part.notes
        return Explanation(
            attribution=found.maps[row].detach().float().cpu(),
            image=part.photo or Image.new("RGB", part.geometry.size, UNSEEN),
            geometry=part.geometry,
            method=method,
            target=target,
            model=f"{self.loaded.name} ({self.loaded.weights})",
            source=part.name,
            notes=notes,
            versions=versions(),
            space=part.space,
            input=part.input,
            columns=item.inputs.columns_of(part.input or "x") if item.leaves and item.inputs is not None else (),
            standard_error=found.error_of(row),
        )


@dataclass(frozen=True)
class Maps:
    """One method's maps for one objective and explained input, (N, ...), with the notes and where to find a row's."""

    maps: Tensor
    notes: Diagnostics
    column: int | None

    def notes_of(self, row: int) -> dict[str, Any]:
        """The notes of one row's map."""
        return self.notes.of(self._index(row))

    def error_of(self, row: int) -> Tensor | None:
        """The standard error of each value of one row's map; None for a method that draws nothing at random."""
        errors = self.notes.maps.get(ERROR)
        # of a method inside another, the errors are not those of the map
        if errors is None or errors.shape[-self.maps[row].ndim :] != self.maps[row].shape:
            return None
        return errors[self._index(row)].detach().float().cpu()

    def _index(self, row: int) -> int | tuple[int, int]:
        return row if self.column is None else (row, self.column)


def maps_of(
    loaded: LoadedModel,
    module: nn.Module,
    method: Method,
    inputs: Inputs,
    objectives: Sequence[Objective],
    held: Held | None = None,
) -> list[list[Maps | None]]:
    """The method's maps for each objective and explained input, from shared forward passes; None where it has none.

    Args:
        loaded: the model that is explained.
        module: its module, or a copy with other weights.
        method: the method.
        inputs: N rows.
        objectives: what is explained of each row.
        held: a forward pass of the rows, if one was made.
    """
    ready = method.resolve_baseline(lambda name: colour_of(loaded, name))
    # one objective needs no axis of its own
    alone = len(objectives) == 1
    result = ready.attribute(
        module, inputs, objectives[0] if alone else list(objectives), output=loaded.kind, held=held
    )
    leaves = _explained_leaves(inputs, result.maps)
    if alone:
        return [[None if maps is None else Maps(maps, result.notes, None) for maps in leaves]]
    return [
        [None if maps is None else Maps(maps[:, k], result.notes, k) for maps in leaves] for k in range(len(objectives))
    ]


def _explained_leaves(inputs: Inputs, maps: Any) -> list[Tensor | None]:
    """The maps of the explained inputs, in their order; those that are carried along have none."""
    if isinstance(inputs.x, Tensor):
        return [maps]
    parts, maps = (list(one.values()) if isinstance(one, Mapping) else list(one) for one in (inputs.x, maps))
    return [of for part, of in zip(parts, maps, strict=True) if part.is_floating_point()]


def colour_of(loaded: LoadedModel, name: str) -> Tensor:
    """A colour by name in the model's normalised space, (C, 1, 1), of volumes and clips (C, 1, 1, 1)."""
    if not isinstance(loaded.preprocess, (Preprocess, FilePreprocess)):
        raise ModelError(
            f"the baseline {name!r} is a colour, and the preprocessing of {loaded.name} is unknown: "
            "give preprocess=deepviz.Preprocess(...), or the baseline as a number in normalised space"
        )
    return loaded.preprocess.pixel_value(name)
