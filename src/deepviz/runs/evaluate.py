"""Metrics of methods on images: what `evaluate` runs on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeGuard, TypeVar

import numpy as np
import torch
from torch import Tensor

from deepviz import catalog
from deepviz.diagnostics import warn
from deepviz.errors import DeepVizError, ImageError, LayerError, ModelError, TargetError, in_one_line
from deepviz.inputs import is_image_like
from deepviz.methods import Method
from deepviz.methods.method import as_drawn
from deepviz.metrics import CurveMetric, Deletion, Insertion, Metric
from deepviz.metrics.metric import judging
from deepviz.metrics.region import RegionMetric, pixels_of
from deepviz.models import LoadedModel, Prepared
from deepviz.models.loaded import OWN_VIEW
from deepviz.probe.progress import to_the_end
from deepviz.probe.session import Session
from deepviz.results.evaluation import ImageScores
from deepviz.results.explanation import Explanation
from deepviz.results.identity import captions, titles_of
from deepviz.results.numbers import Values
from deepviz.results.outcomes import Missing, Outcome
from deepviz.runs.asked import Item
from deepviz.runs.explain import colour_of, explain_items
from deepviz.runs.look import asked_of, inputs_of
from deepviz.runs.runner import OnError, Progress, run

M = TypeVar("M", bound=Metric)
Box = Sequence[float]
"""Left, top, right and bottom, in pixels."""
DEFAULT_METRICS: tuple[Metric, ...] = (Deletion(), Insertion())


def evaluate_items(
    loaded: LoadedModel,
    items: Iterable[Item],
    methods: Sequence[Method],
    metrics: Sequence[Metric],
    *,
    progress: Progress | None = None,
    on_error: OnError[Item] | None = None,
    sinks: Sequence[Callable[[ImageScores], None]] = (),
) -> Iterator[ImageScores]:
    """`evaluate` for images that are already prepared: one result for each image and target, as soon as it is there.

    Args:
        loaded: the model.
        items: the images, with their targets and regions.
        methods: the methods; one that does not apply has no values.
        metrics: the metrics.
        progress: is called before each metric of each method, with the pairs that are done of the image under way.
        on_error: takes an item that the model has no finite scores for, and the others go on.
        sinks: take each result.
    """

    def work(batch: Sequence[tuple[int, Item]]) -> Iterator[ImageScores]:
        for position, item in batch:
            yield from _scores(loaded, position, item, methods, metrics, progress)

    def failed(numbered: tuple[int, Item], error: DeepVizError) -> None:
        assert on_error is not None
        on_error(numbered[1], error)

    yield from run(
        ([numbered] for numbered in enumerate(items)),
        work,
        on_error=None if on_error is None else failed,
        catch=(ModelError, TargetError),
        sinks=sinks,
    )


def _scores(
    loaded: LoadedModel,
    position: int,
    item: Item,
    methods: Sequence[Method],
    metrics: Sequence[Metric],
    progress: Progress | None,
) -> Iterator[ImageScores]:
    """One image's numbers, target by target."""
    image = _checked_image(item)
    for metric in metrics:
        metric.check_space(image.x[None])
    with to_the_end():
        (found,) = explain_items(loaded, [item], methods, lenient=True)
    rows, axes = slice(position, position + 1), image.x.ndim - 1
    asked = [
        placed(metric.of_rows(rows) if axes == 2 else metric.of_rows(rows, axes), item.inside) for metric in metrics
    ]
    targets = found.by_target
    for number, outcomes in enumerate(targets):
        step = _within(progress, number, len(targets), len(methods) * len(metrics))
        scores = _of_target(loaded, item, outcomes, methods, asked, step)
        yield replace(scores, position=position, output=found.output)


def _checked_image(item: Item) -> Prepared:
    """The image, volume or clip of an item; what metrics cannot judge is refused before any work.

    Raises:
        ImageError: for anything but one of these in each row, beside tables at most.
    """
    spaces = [part for part in item.parts if is_image_like(part.x[None])]
    if len(spaces) != 1 or spaces[0].x.ndim not in (3, 4):
        shapes = ", ".join(str(tuple(part.x.shape)) for part in item.parts)
        raise ImageError(
            "evaluate takes one image (C, H, W), or volume or clip (C, D, H, W), in each row, with tables beside it at "
            f"most, not signals: {item.image.name} is {shapes}"
        )
    return spaces[0]


def _within(progress: Progress | None, number: int, count: int, each: int) -> Progress | None:
    """Progress of one of several targets, as a share of the image's units of work."""
    if progress is None:
        return None
    return lambda what, done: progress(what, (number * each + done) // count)


def _of_target(
    loaded: LoadedModel,
    item: Item,
    outcomes: Sequence[Outcome],
    methods: Sequence[Method],
    metrics: Sequence[Metric],
    progress: Progress | None,
) -> ImageScores:
    values = np.full((len(methods), len(metrics)), np.nan)
    curves: dict[int, Values] = {}
    reasons: dict[tuple[int, int], str] = {}
    layers = tuple(one.layer if isinstance(one, Explanation) else None for one in outcomes)
    titles = titles_of(one for one in outcomes if isinstance(one, Explanation))
    names, keys = captions(methods, layers, titles), tuple(map(catalog.key, methods, layers))
    left_out = {key: one.reason for key, one in zip(keys, outcomes, strict=True) if isinstance(one, Missing)}
    target = outcomes[0].target
    with judging(loaded.module, inputs_of(loaded, [item]), asked_of(target), output=loaded.kind) as session:
        for row, explanation in enumerate(outcomes):
            if not isinstance(explanation, Explanation):
                reasons |= {(row, column): explanation.reason for column in range(len(metrics))}
                continue
            for column, metric in enumerate(metrics):
                what = f"{metric} of {names[row]}"
                if progress is not None:
                    progress(what, row * len(metrics) + column)
                try:
                    value, curve = measured(loaded, session, explanation, metric)
                except Exception as error:  # the others say something all the same
                    if metric.judges == "map" and _is_of_options(error):
                        raise  # an option that does not go with the input is one for all images
                    reason = left_out[f"{metric} of {keys[row]}"] = in_one_line(error)
                    reasons[row, column] = reason
                    warn(f"{what} is left out: {reason}")
                    continue
                values[row, column] = value
                if curve is not None:
                    curves.setdefault(column, np.full((len(methods), len(curve)), np.nan))[row] = curve
    missing = tuple(one if isinstance(one, Missing) else None for one in outcomes)
    return ImageScores(
        item.image.name,
        str(target),
        values,
        curves,
        left_out,
        layers,
        missing,
        reasons=reasons,
        label=target.label,
        titles=titles,
    )


def _is_of_options(error: Exception) -> bool:
    return isinstance(error, (TypeError, ValueError)) and not isinstance(error, (ModelError, LayerError))


def region(image: Prepared, boxes: Sequence[Box]) -> Tensor:
    """What boxes on an image are on the model's input: one bool mask (H, W), their union.

    Raises:
        TargetError: for what is no box, if the model saw nothing of them, or if it is not known what it saw.
    """
    check_view(image, "boxes")
    height, width = image.x.shape[1:]
    inside = torch.zeros(height, width, dtype=torch.bool)
    for box in boxes:
        if len(box) != 4 or not (box[0] < box[2] and box[1] < box[3]):
            raise TargetError(f"{image.name}: a box is left, top, right, bottom in pixels, got {tuple(box)}")
        left, top, right, bottom = box
        seen = image.geometry.on_input((left, top, right, bottom), (width, height))
        if seen[0] < seen[2] and seen[1] < seen[3]:
            inside |= pixels_of(torch.tensor([seen], dtype=torch.float64), height, width)[0]
    if not bool(inside.any()):
        raise TargetError(f"{image.name}: its boxes lie outside the model's input; leave it out")
    return inside


def check_view(image: Prepared, places: str) -> None:
    """See that boxes or masks of an image can be placed on the model's input.

    Raises:
        TargetError: if it is not known what the model saw, or it is no image.
    """
    if OWN_VIEW in image.notes:
        raise TargetError(
            f"{image.name}: its preprocessing does not say which part of the image the model sees, so {places} "
            "cannot be placed: give a deepviz.Preprocess"
        )
    if image.x.ndim != 3:
        raise TargetError(
            f"{image.name}: {places} are of images; of a volume or clip give a bool mask (D, H, W) of the model's "
            "input, such as PointingGame(inside=mask)"
        )


def needs_place(metric: Metric) -> TypeGuard[RegionMetric]:
    """Whether a metric asks where the object is, and does not know it."""
    return isinstance(metric, RegionMetric) and metric.inside is None


def placed(metric: Metric, inside: Tensor | None) -> Metric:
    """The metric with the place of the object, if it asks for one and has none of its own."""
    return replace(metric, inside=inside) if needs_place(metric) and inside is not None else metric


def measured(
    loaded: LoadedModel, session: Session, explanation: Explanation, metric: Metric
) -> tuple[float, Values | None]:
    """One metric of one explanation, with its curve if it has one."""
    as_picture = getattr(metric, "channels", "sum") is None
    metric = resolve_defaults(metric, explanation.method).resolve_baseline(lambda name: colour_of(loaded, name))
    method = explanation.method.resolve_baseline(lambda name: colour_of(loaded, name))
    if metric.judges == "method":
        metric.check_space(session.image())
        return float(metric.measured(metric.measure, session, method)[0]), None
    if getattr(metric, "baseline", 0.0) is None and getattr(metric, "baselines", None) is None:
        place = next(place for place, leaf in enumerate(session.x) if leaf is session.image())
        starts = tuple(start[place] for start in method.starts(session.x))
        metric = replace(metric, **{"baselines": starts} if starts else {"baseline": 0.0})
    maps = explanation.attribution[None]
    maps = as_drawn(method, maps) if as_picture else maps
    metric.check(maps, session.image())
    if isinstance(metric, CurveMetric):
        curve = metric.measured(metric.points, session, maps)
        return float(metric.of_curve(curve)[0]), curve[0].double().numpy()
    return float(metric.measured(metric.measure, session, maps)[0]), None


def resolve_defaults(metric: M, method: Method) -> M:
    """The metric with what it leaves to the method: the values that its picture shows."""
    changes: dict[str, Any] = {}
    if getattr(metric, "channels", "sum") is None:
        changes["channels"] = "magnitude" if method.view == "magnitude" else "sum"
    return replace(metric, **changes)
