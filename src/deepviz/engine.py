"""The engine behind `explain`: prepared images go in, batch by batch, and explanations come out."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from deepviz.errors import LayerError, ModelError, ModelFailed, NothingOverridden, TargetError
from deepviz.files import versions
from deepviz.methods.method import Method
from deepviz.models import LoadedModel, Prepared, Preprocess
from deepviz.notes import Notes, warn
from deepviz.probe.borrow import borrowed, original
from deepviz.probe.gradient import Call, fresh_leaf
from deepviz.results.explanation import ExplainedTarget, Explanation
from deepviz.target import class_scores, probabilities

OneTarget = int | str | Callable[[Any], Tensor]
Targets = OneTarget | Tensor | Sequence[OneTarget] | None
Step = Callable[[Method, int], None]
"""Takes the method that is next, and the images times methods that are done of the images under way."""
Failed = Callable[[Prepared, ModelError], None]
"""Takes an image that the model has no finite answer for, and what went wrong."""

ROWS = 8
UNSEEN = (128, 128, 128)
"""The picture under a map whose input has neither one nor three channels."""


@dataclass(frozen=True)
class Answer:
    """What the model said about one image, and its explanations.

    Args:
        image: the prepared image.
        predictions: (label, probability), the five best first; empty if the model returns no class scores.
        explanations: by class, then method.
        left_out: methods that do not apply to this model, with the reason.
    """

    image: Prepared
    predictions: tuple[tuple[str, float], ...]
    explanations: list[Explanation]
    left_out: dict[str, str]


def explain_prepared(
    loaded: LoadedModel,
    images: Iterable[Prepared],
    methods: Sequence[Method],
    *,
    target: Targets = None,
    top_k: int = 1,
    lenient: bool = False,
    step: Step | None = None,
    failed: Failed | None = None,
) -> Iterator[Answer]:
    """`explain` for images that are already prepared, one answer at a time.

    Images of equal size go through the model together. `step` is called before each method, for progress; `lenient`
    leaves out methods that do not apply; with `failed`, an image that the model has no finite answer for is handed
    to it, and the others are explained all the same.
    """
    run = _Run(loaded, methods, top_k, lenient, step)
    start = 0
    for batch in _batches(images):
        try:
            yield from run.answers(batch, _rows_of(target, start, len(batch)))
        except ModelError as error:
            if failed is None:
                raise
            yield from _one_by_one(run, batch, target, start, failed, error)
        start += len(batch)
    for one in target if isinstance(target, (list, tuple)) else [target]:
        if isinstance(one, Tensor) and one.ndim > 0 and len(one) != start:
            raise TargetError(f"a tensor target holds one class per image: {len(one)} classes for {start} images")


def predicted(loaded: LoadedModel, image: Prepared, top_k: int) -> list[ExplainedTarget]:
    """The best classes of one image, best first: those that `explain` would take with this `top_k`.

    Raises:
        ModelError: if the model returns no class scores, or fails.
    """
    scores = _scores(loaded.module, image.x[None].to(*loaded.home), needed=True)
    return [_explained(loaded, scores, column, 0) for column in _columns(loaded, scores, None, top_k, 1)]


def _one_by_one(
    run: _Run, batch: list[Prepared], target: Targets, start: int, failed: Failed, error: ModelError
) -> Iterator[Answer]:
    """The answers for those images of a batch that has failed that do not fail alone."""
    if len(batch) == 1:
        failed(batch[0], error)
        return
    for position, image in enumerate(batch, start):
        try:
            yield from run.answers([image], _rows_of(target, position, 1))
        except ModelError as alone:
            failed(image, alone)


def _batches(images: Iterable[Prepared]) -> Iterator[list[Prepared]]:
    batch: list[Prepared] = []
    for image in images:
        if batch and (image.x.shape != batch[0].x.shape or len(batch) == ROWS):
            yield batch
            batch = []
        batch.append(image)
    if batch:
        yield batch


def _rows_of(target: Targets, start: int, n: int) -> Targets:
    """The part of the targets that is of the `n` images from `start` on."""
    if isinstance(target, (list, tuple)):
        return [_rows_of(one, start, n) for one in target]  # type: ignore[misc]
    return target[start : start + n] if isinstance(target, Tensor) and target.ndim > 0 else target


@dataclass(frozen=True)
class _Run:
    """What is asked for, whatever the images."""

    loaded: LoadedModel
    methods: Sequence[Method]
    top_k: int
    lenient: bool
    step: Step | None
    warned: set[str] = field(default_factory=set)

    def answers(self, batch: list[Prepared], target: Targets) -> list[Answer]:
        """The answers for images of one size."""
        device, dtype = self.loaded.home
        x = torch.stack([image.x for image in batch]).to(device, dtype)
        scores = _scores(self.loaded.module, x, needed=not _all_callable(target))
        columns = _columns(self.loaded, scores, target, self.top_k, len(x))
        remarks = _remarks(self.loaded, scores)
        found: list[list[list[Explanation]]] = [[[] for _ in columns] for _ in batch]
        left_out: dict[str, str] = {}
        for position, method in enumerate(self.methods):
            if self.step is not None:
                self.step(method, position * len(batch))
            try:
                for k, maps in _attribute(self.loaded, method, x, columns):
                    for row, image in enumerate(batch):
                        target_of_row = _explained(self.loaded, scores, columns[k], row)
                        found[row][k].append(
                            _explanation(self.loaded, image, method, target_of_row, row, maps, remarks)
                        )
            except (NothingOverridden, LayerError) as error:
                if not self.lenient:
                    raise
                left_out[str(method)] = str(error)
        for text in (*remarks, *(f"{title} is left out: {reason}" for title, reason in left_out.items())):
            if text not in self.warned:
                self.warned.add(text)
                warn(text)
        return [
            Answer(image, _best(self.loaded, scores, row), [one for of_class in of_row for one in of_class], left_out)
            for row, (image, of_row) in enumerate(zip(batch, found, strict=True))
        ]


def _remarks(loaded: LoadedModel, scores: _Scores | None) -> tuple[str, ...]:
    """What is odd about the model as a whole, one sentence each."""
    if scores is None or loaded.labels is None or len(loaded.labels) == scores.classes:
        return ()
    return (f"{len(loaded.labels)} labels for the {scores.classes} classes of {loaded.name}: names may be wrong",)


@dataclass(frozen=True)
class _Maps:
    """One method's maps for one column of targets: (N, C, H, W), with the notes and where to find a row's in them."""

    maps: Tensor
    notes: Notes
    column: int | None

    def told(self, row: int) -> dict[str, Any]:
        return self.notes.of(row if self.column is None else (row, self.column))


def _attribute(
    loaded: LoadedModel, method: Method, x: Tensor, columns: list[Tensor | Callable[[Any], Tensor]]
) -> Iterator[tuple[int, _Maps]]:
    """The method's maps for each column of targets; all columns of classes share their forward passes."""
    ready = method.resolve_baseline(lambda name: colour_of(loaded, name))
    classes = [k for k, column in enumerate(columns) if isinstance(column, Tensor)]
    if classes:
        indices = torch.stack([column for column in columns if isinstance(column, Tensor)], 1)
        # one class a row needs no axis of its own
        result = ready.attribute(loaded.module, x, indices[:, 0] if len(classes) == 1 else indices)
        for position, k in enumerate(classes):
            alone = len(classes) == 1
            maps = result.maps if alone else result.maps[:, position]
            yield k, _Maps(maps, result.notes, None if alone else position)
    for k, column in enumerate(columns):
        if not isinstance(column, Tensor):
            result = ready.attribute(loaded.module, x, column)
            yield k, _Maps(result.maps, result.notes, None)


def colour_of(loaded: LoadedModel, name: str) -> Tensor:
    """A colour by name in the model's normalised space, (C, 1, 1)."""
    if not isinstance(loaded.preprocess, Preprocess):
        raise ModelError(
            f"the baseline {name!r} is a colour, and the preprocessing of {loaded.name} is unknown: "
            "give preprocess=deepviz.Preprocess(...), or the baseline as a number in normalised space"
        )
    return loaded.preprocess.pixel_value(name)


@dataclass(frozen=True)
class _Scores:
    """The class scores and probabilities (N, K) of some images, and what ranks the classes; of a single logit z the
    scores are -z and z."""

    values: Tensor
    probabilities: Tensor
    order: Tensor

    @property
    def classes(self) -> int:
        return self.values.shape[1]


def _all_callable(target: Targets) -> bool:
    several = target if isinstance(target, (list, tuple)) and target else [target]
    return all(callable(one) for one in several)


def _scores(module: nn.Module, x: Tensor, needed: bool) -> _Scores | None:
    """The scores of all rows, in chunks; None if there are none and none are needed."""
    plain = original(module)
    call = Call(plain, Notes())

    def chunk(rows: slice) -> Tensor:
        return call.in_layout(x[rows], lambda laid: _both(call, laid)).detach()

    try:
        with borrowed(plain):
            values, chance = call.by_rows(x, chunk).cpu().unbind(1)
    except ModelFailed:
        raise
    except ModelError:
        if needed:
            raise
        return None
    # of one probability p the scores are -p and p, which do not rank its two classes
    return _Scores(values, chance, order=chance if values.shape[1] == 2 else values)


def _both(call: Call, x: Tensor) -> Tensor:
    """Scores and probabilities, (n, 2, K), with the graph that tells whether they end in a sigmoid."""
    found = call.check(class_scores(call.run(fresh_leaf(x)))).float()
    if len(found) != len(x):
        raise ModelError(f"the model returned class scores for {len(found)} rows, {len(x)} went in")
    values = torch.cat([-found, found], 1) if found.shape[1] == 1 else found
    return torch.stack([values, probabilities(found)], 1)


def _columns(
    loaded: LoadedModel, scores: _Scores | None, target: Targets, top_k: int, n: int
) -> list[Tensor | Callable[[Any], Tensor]]:
    """The targets of every row: for each a tensor (N,) of classes, or a callable."""
    if target is None:
        assert scores is not None
        if top_k < 1:
            raise TargetError(f"top_k must be at least 1, got {top_k}")
        return list(scores.order.topk(min(top_k, scores.classes), dim=1).indices.unbind(1))
    if isinstance(target, Tensor):
        if target.ndim > 1 or target.is_floating_point():
            kind = f"{tuple(target.shape)} of {str(target.dtype).removeprefix('torch.')}"
            raise TargetError(f"a tensor target holds one class index per image, (N,) whole numbers, got {kind}")
        return [target.expand(n).cpu() if target.ndim == 0 else target.cpu()]
    if isinstance(target, (list, tuple)):
        if not target:
            raise TargetError("target is an empty list; give at least one class, or None for the predicted one")
        return [column for one in target for column in _columns(loaded, scores, one, 1, n)]
    if isinstance(target, str):
        return [torch.full((n,), loaded.index(target))]
    if callable(target):
        return [target]
    assert scores is not None
    try:
        index = operator.index(target)  # type: ignore[arg-type]
    except TypeError:
        raise TargetError(
            f"a target is a class index, a label, a tensor (N,), a callable or a list of these, got {target!r}"
        ) from None
    if not 0 <= index < scores.classes:
        raise TargetError(
            f"class {index} is out of range: the model has {scores.classes} classes, 0 to {scores.classes - 1}"
        )
    return [torch.full((n,), index)]


def _explanation(
    loaded: LoadedModel,
    image: Prepared,
    method: Method,
    target: ExplainedTarget,
    row: int,
    found: _Maps,
    remarks: tuple[str, ...],
) -> Explanation:
    notes = found.told(row)
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


def _explained(
    loaded: LoadedModel, scores: _Scores | None, column: Tensor | Callable[[Any], Tensor], row: int
) -> ExplainedTarget:
    if not isinstance(column, Tensor):
        return ExplainedTarget(None, getattr(column, "__name__", type(column).__name__), None, None, column)
    assert scores is not None
    index = int(column[row])
    return ExplainedTarget(
        index, loaded.label(index), float(scores.probabilities[row, index]), float(scores.values[row, index])
    )


def _best(loaded: LoadedModel, scores: _Scores | None, row: int, most: int = 5) -> tuple[tuple[str, float], ...]:
    if scores is None:
        return ()
    values, indices = scores.probabilities[row].topk(min(most, scores.classes))
    return tuple((loaded.label(int(index)), float(value)) for value, index in zip(values, indices, strict=True))
