"""Methods by metrics over images: how far can these explanations be believed?"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from html import escape
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepviz import catalog
from deepviz.api import Images, Methods, Model, as_list, choose_methods
from deepviz.engine import OneTarget, Targets, colour_of, explain_prepared
from deepviz.errors import MissingExtra, ModelError, TargetError
from deepviz.files import versions
from deepviz.methods import Method
from deepviz.metrics import CentreGaussian, CurveMetric, Deletion, EdgeDetector, Insertion, Metric, RandomMap
from deepviz.metrics.bootstrap import FEWEST, FEWEST_TO_DIFFER, differs, interval
from deepviz.metrics.region import RegionMetric, pixels_of
from deepviz.metrics.subject import Subject, asking
from deepviz.models import LoadedModel, Prepared, load_model
from deepviz.models.loaded import OWN_VIEW
from deepviz.notes import warn
from deepviz.render.figure import figure
from deepviz.results.explanation import Explanation

M = TypeVar("M", bound=Metric)

Metrics = Metric | str | Sequence[Metric | str]
Step = Callable[[str, int], None]
"""Takes what is next, in words, and how many (method, metric) pairs of the image under way are done."""
Failed = Callable[[Prepared, ModelError | TargetError], None]
Values = NDArray[np.float64]
Box = Sequence[float]
"""Left, top, right and bottom, in pixels."""

CONTROLS: tuple[Method, ...] = (RandomMap(), CentreGaussian(), EdgeDetector())
"""Maps that know nothing of the model: a method that does not beat them says nothing."""
DEFAULT_METRICS: tuple[Metric, ...] = (Deletion(), Insertion())


def evaluate(
    model: Model,
    images: Images,
    methods: Methods = "all",
    metrics: Metrics = DEFAULT_METRICS,
    *,
    target: Targets = None,
    boxes: Sequence[Sequence[Box]] | None = None,
    controls: bool = True,
    preprocess: Any = None,
) -> Evaluation:
    """How well each method does by each metric, over some images.

    Every map is judged as it is drawn, unless a metric says otherwise: a method whose picture is the magnitude by its
    magnitudes, one whose picture has a sign by its signed sums; `Infidelity` and `Completeness` judge the values
    themselves. Three control rows are added: a random map, a centred Gaussian and an edge
    detector.

    Args:
        model: as for `explain`.
        images: as for `explain`; the interval of a mean needs at least three.
        methods: as for `explain`.
        metrics: metrics, or their names ("deletion"), one or several.
        target: None, the predicted class of each image; an index or label for all; or a list, one for each image.
        boxes: for the metrics of localisation, where the object is: for each image a list of boxes, each (left, top,
            right, bottom) in pixels of the photograph as it was given; what the model saw of them counts.
        controls: whether to add the control rows.
        preprocess: as for `explain`.

    Raises:
        MethodError: for a metric that does not exist.
        TargetError: if there are not as many targets, or lists of boxes, as images, or the model saw nothing of them.
        And as `explain` does.

    Example:
        >>> import deepviz, torch
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 5))
        >>> found = deepviz.evaluate(net, torch.rand(4, 3, 8, 8), ["gradient", "grad-times-image"], "deletion")
        >>> found.rows
        ('Gradient', 'Gradient × image', 'Random map', 'Centred Gaussian', 'Edge detector')
        >>> found.values.shape  # images, rows, metrics
        (4, 5, 1)
    """
    loaded = load_model(model, preprocess=preprocess)
    queue = [loaded.prepare(image) for image in as_list(images)]
    targets = _one_each(target, len(queue))
    if boxes is not None and len(boxes) != len(queue):
        raise TargetError(f"{len(boxes)} lists of boxes for {len(queue)} images: give one for each")
    regions = [None] * len(queue) if boxes is None else list(map(region, queue, boxes))
    chosen = choose_methods(methods)
    cases = map(Case, queue, targets, regions)
    judged = list(judge_prepared(loaded, cases, with_controls(chosen, controls), choose_metrics(metrics)))
    return Evaluation.of(loaded, chosen, choose_metrics(metrics), judged, controls)


def choose_metrics(metrics: Metrics) -> list[Metric]:
    """The metrics asked for, as values.

    Raises:
        MethodError: for a name that does not exist, with the nearest ones.
        TypeError: for a class instead of a value.
        ValueError: if there is none.
    """
    asked = [metrics] if isinstance(metrics, (str, Metric, type)) else list(metrics)
    if not asked:
        raise ValueError("metrics is an empty list; give at least one, such as 'deletion'")
    return [_value(one) for one in asked]


def _value(metric: Any) -> Metric:
    if isinstance(metric, str):
        return catalog.find_metric(metric)()
    if isinstance(metric, Metric):
        return metric
    if isinstance(metric, type) and issubclass(metric, Metric):
        raise TypeError(f"metrics takes values, got the class {metric.__name__}; did you mean {metric.__name__}()?")
    raise TypeError(f"metrics must be a Metric, a name or a list of these, got {metric!r}")


def with_controls(methods: Sequence[Method], controls: bool = True) -> list[Method]:
    """The methods, and the control rows after them."""
    return [*methods, *(CONTROLS if controls else ())]


def _one_each(target: Targets, n: int) -> list[OneTarget | None]:
    """The target of each of `n` images."""
    if isinstance(target, (list, tuple)) or getattr(target, "ndim", 0) == 1:
        if len(target) != n:  # type: ignore[arg-type]
            raise TargetError(f"{len(target)} targets for {n} images: give one for each, or one for all")  # type: ignore[arg-type]
        return [one if isinstance(one, str) or callable(one) else int(one) for one in target]  # type: ignore[union-attr]
    return [target] * n  # type: ignore[list-item]


@dataclass(frozen=True, eq=False)
class Case:
    """An image that methods are judged by.

    Args:
        image: the prepared image.
        target: the class to explain; None for the predicted one.
        inside: where the object is, a bool mask (H, W) of the model's input, for the metrics of localisation.
    """

    image: Prepared
    target: OneTarget | None = None
    inside: Tensor | None = None


def region(image: Prepared, boxes: Sequence[Box]) -> Tensor:
    """What boxes on a photograph are on the model's input: one bool mask (H, W), their union.

    Raises:
        TargetError: for what is no box, if the model saw nothing of them, or if it is not known what it saw.
    """
    if OWN_VIEW in image.notes:
        raise TargetError(
            f"{image.name}: its preprocessing does not say which part of the photograph the model sees, so boxes "
            "cannot be placed: give a deepviz.Preprocess"
        )
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
        raise TargetError(f"{image.name}: the model saw nothing of what is in its boxes; leave it out")
    return inside


@dataclass(frozen=True)
class Judged:
    """One image's numbers.

    Args:
        source: the image's name.
        target: the class that was explained, with its probability.
        values: (methods, metrics); NaN where a method does not apply.
        curves: for metrics that have one, by their number: (methods, steps + 1).
        left_out: methods that do not apply to the model, and metrics that have no value for a map, with the reason.
    """

    source: str
    target: str
    values: Values
    curves: dict[int, Values]
    left_out: dict[str, str]


def judge_prepared(
    loaded: LoadedModel,
    cases: Iterable[Case],
    methods: Sequence[Method],
    metrics: Sequence[Metric],
    *,
    step: Step | None = None,
    failed: Failed | None = None,
) -> Iterator[Judged]:
    """`evaluate` for images that are already prepared, one result at a time.

    `step` is called before each metric of each method, for progress. With `failed`, an image that the model has no
    finite answer for is handed to it, and the others are judged all the same.
    """
    for number, case in enumerate(cases):
        try:
            (answer,) = explain_prepared(loaded, [case.image], methods, target=case.target, lenient=True)
            asked = [_at(metric.of_rows(slice(number, number + 1)), case.inside) for metric in metrics]
            yield _judged(loaded, case.image, answer.explanations, methods, asked, answer.left_out, step)
        except (ModelError, TargetError) as error:
            if failed is None:
                raise
            failed(case.image, error)


def _at(metric: Metric, inside: Tensor | None) -> Metric:
    """The metric with the place of the object, if it asks for one and has none of its own."""
    if not isinstance(metric, RegionMetric) or metric.inside is not None or inside is None:
        return metric
    return replace(metric, inside=inside)


def _judged(
    loaded: LoadedModel,
    image: Prepared,
    explanations: Sequence[Explanation],
    methods: Sequence[Method],
    metrics: Sequence[Metric],
    left_out: dict[str, str],
    step: Step | None,
) -> Judged:
    applied = [row for row, method in enumerate(methods) if str(method) not in left_out]
    values = np.full((len(methods), len(metrics)), np.nan)
    curves: dict[int, Values] = {}
    target = explanations[0].target
    x = image.x[None].to(*loaded.home)
    with asking(loaded.module, x, target.function if target.index is None else target.index) as subject:
        for row, explanation in zip(applied, explanations, strict=True):
            for column, metric in enumerate(metrics):
                if step is not None:
                    step(f"{metric.name} of {explanation.title}", row * len(metrics) + column)
                try:
                    value, curve = measured(loaded, subject, explanation, metric)
                except ModelError as error:  # the others say something all the same
                    what = f"{metric.name} of {explanation.title}"
                    left_out = {**left_out, what: str(error)}
                    warn(f"{what} is left out: {error}")
                    continue
                values[row, column] = value
                if curve is not None:
                    curves.setdefault(column, np.full((len(methods), len(curve)), np.nan))[row] = curve
    return Judged(image.name, str(target), values, curves, left_out)


def measured(
    loaded: LoadedModel, subject: Subject, explanation: Explanation, metric: Metric
) -> tuple[float, Values | None]:
    """One metric of one explanation, with its curve if it has one."""
    metric = fitted(metric, explanation.method).resolve_baseline(lambda name: colour_of(loaded, name))
    if metric.judges == "method":
        method = explanation.method.resolve_baseline(lambda name: colour_of(loaded, name))
        return float(metric.measured(metric.measure, subject, method)[0]), None
    maps = explanation.attribution[None]
    metric.check(maps, subject.x)
    if isinstance(metric, CurveMetric):
        curve = metric.measured(metric.points, subject, maps)
        return float(metric.of_curve(curve)[0]), curve[0].double().numpy()
    return float(metric.measured(metric.measure, subject, maps)[0]), None


def fitted(metric: M, method: Method) -> M:
    """The metric with what it leaves to the method: the values that its picture shows, and its own baseline."""
    changes: dict[str, Any] = {}
    if getattr(metric, "channels", "sum") is None:
        changes["channels"] = "magnitude" if method.view == "magnitude" else "sum"
    if getattr(metric, "baseline", 0.0) is None:
        changes["baseline"] = getattr(method, "baseline", 0.0)
    return replace(metric, **changes)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Methods by metrics, over images: means with intervals, and what they are made of.

    Args:
        rows: the methods, then the controls.
        metrics: the columns.
        judged: one for each image.
        controls: how many of the rows are controls, at the end.
        model: its name, with where its weights come from.
        versions: of deepviz and torch.
    """

    rows: tuple[str, ...]
    metrics: tuple[Metric, ...]
    judged: tuple[Judged, ...]
    controls: int
    model: str
    versions: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        loaded: LoadedModel,
        methods: Sequence[Method],
        metrics: Sequence[Metric],
        judged: Sequence[Judged],
        controls: bool = True,
    ) -> Evaluation:
        """What was judged, as one result.

        Raises:
            ValueError: if nothing was.
        """
        if not judged:
            raise ValueError("no image was judged")
        return cls(
            rows=tuple(map(str, with_controls(methods, controls))),
            metrics=tuple(metrics),
            judged=tuple(judged),
            controls=len(CONTROLS) if controls else 0,
            model=f"{loaded.name} ({loaded.weights})",
            versions=versions(),
        )

    @cached_property
    def values(self) -> Values:
        """(images, rows, metrics), NaN where a method does not apply."""
        return np.stack([one.values for one in self.judged])

    @property
    def columns(self) -> tuple[str, ...]:
        """The metrics' names."""
        return tuple(map(str, self.metrics))

    @cached_property
    def means(self) -> Values:
        """(rows, metrics), over the images; NaN where a method does not apply."""
        return np.array(
            [
                [self._of(row, column).mean() if len(self._of(row, column)) else np.nan for column in self._columns]
                for row in self._rows
            ]
        )

    @cached_property
    def intervals(self) -> Values:
        """(rows, metrics, 2): the 95 % bootstrap interval of the mean over images; NaN for fewer than three."""
        return np.array(
            [[interval(self._of(row, column)) for column in self._columns] for row in self._rows], dtype=np.float64
        )

    @cached_property
    def best(self) -> tuple[int | None, ...]:
        """For each metric the best row, if its difference to the next is significant by a paired bootstrap."""
        return tuple(self._best(column) for column in self._columns)

    def beats(self, row: int, column: int, control: str = "Random map") -> bool | None:
        """Whether a row is better than a control's, by a paired bootstrap over the images; None if not compared."""
        if control not in self.rows or self.rows.index(control) == row:
            return None
        if len(self.judged) < FEWEST_TO_DIFFER:
            return None
        other = self.rows.index(control)
        if np.isnan([self.means[row, column], self.means[other, column]]).any() or len(self._of(row, column)) < 3:
            return None
        return self._better(row, other, column) and self._differs(row, other, column)

    def _of(self, row: int, column: int) -> Values:
        values: Values = self.values[:, row, column]
        return values[~np.isnan(values)]

    @property
    def _rows(self) -> range:
        return range(len(self.rows))

    @property
    def _columns(self) -> range:
        return range(len(self.metrics))

    def _better(self, row: int, other: int, column: int) -> bool:
        higher = bool(self.means[row, column] > self.means[other, column])
        return higher if self.metrics[column].better == "higher" else not higher

    def _differs(self, row: int, other: int, column: int) -> bool:
        pair = self.values[:, [row, other], column]
        pair = pair[~np.isnan(pair).any(1)]
        return differs(pair[:, 0], pair[:, 1])

    def _best(self, column: int) -> int | None:
        sign = -1 if self.metrics[column].better == "higher" else 1
        there = [row for row in self._rows if not np.isnan(self.means[row, column])]
        ranked = sorted(there, key=lambda row: sign * self.means[row, column])
        if len(ranked) < 2 or not self._differs(ranked[0], ranked[1], column):
            return None
        return ranked[0]

    def table(self) -> list[dict[str, Any]]:
        """One entry for each row and metric: mean, interval, images, and whether it beats a random map."""
        return [
            {
                "method": self.rows[row],
                "control": row >= len(self.rows) - self.controls,
                "metric": self.columns[column],
                "better": self.metrics[column].better,
                "mean": _plain(self.means[row, column]),
                "low": _plain(self.intervals[row, column, 0]),
                "high": _plain(self.intervals[row, column, 1]),
                "images": len(self._of(row, column)),
                "best": self.best[column] == row,
                "beats random": self.beats(row, column),
            }
            for row in self._rows
            for column in self._columns
        ]

    def as_json(self) -> dict[str, Any]:
        """Everything, as plain values for JSON."""
        return {
            "model": self.model,
            "versions": self.versions,
            "metrics": [repr(metric) for metric in self.metrics],
            "table": self.table(),
            "images": [
                {
                    "source": one.source,
                    "target": one.target,
                    "values": [[_plain(value) for value in row] for row in one.values],
                    "left_out": one.left_out,
                }
                for one in self.judged
            ],
            "rows": list(self.rows),
        }

    def to_csv(self) -> str:
        """The table as CSV, one line for each row and metric."""
        out = io.StringIO()
        writer = csv.DictWriter(out, list(self.table()[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.table())
        return out.getvalue()

    def to_pandas(self) -> Any:
        """The table as a pandas DataFrame: one line for each row and metric."""
        try:
            import pandas
        except ImportError:
            raise MissingExtra("to_pandas() needs pandas: pip install pandas") from None
        return pandas.DataFrame(self.table())

    def cells(self) -> list[list[str]]:
        """The table's cells in words, "0.123 ±0.010" or "–", rows by metrics."""
        return [[self._cell(row, column) for column in self._columns] for row in self._rows]

    def _cell(self, row: int, column: int) -> str:
        mean, (low, high) = self.means[row, column], self.intervals[row, column]
        if np.isnan(mean):
            return "–"
        return f"{mean:.3g}" if np.isnan(low) else f"{mean:.3g} [{low:.3g}, {high:.3g}]"

    def heads(self) -> list[str]:
        """The metrics' names with an arrow in the direction that is better."""
        return [
            f"{name} {'↑' if m.better == 'higher' else '↓'}" for name, m in zip(self.columns, self.metrics, strict=True)
        ]

    @property
    def footnote(self) -> str:
        """What the table's marks mean, and what it was made of."""
        n = len(self.judged)
        said = f"{n} image{'s' if n > 1 else ''}, {self.model}."
        if n < FEWEST:
            return said
        said += " Mean with 95 % bootstrap interval."
        if n >= FEWEST_TO_DIFFER:
            said += " Bold: better than the next, significantly. °: not significantly better than a random map."
        else:
            said += f" With fewer than {FEWEST_TO_DIFFER} images no difference is called significant."
        return said

    def __str__(self) -> str:
        marked = [
            [self.rows[row], *(cell + self.mark(row, column) for column, cell in enumerate(cells))]
            for row, cells in enumerate(self.cells())
        ]
        lines = [["", *self.heads()], *marked]
        widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
        text = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
        ]
        return "\n".join([*text, self.footnote])

    def mark(self, row: int, column: int) -> str:
        """The sign ° for a method that is not significantly better than a random map."""
        return "°" if self.beats(row, column) is False and row < len(self.rows) - self.controls else ""

    def __repr__(self) -> str:
        return f"Evaluation({len(self.rows)} rows, {', '.join(self.columns)}, {len(self.judged)} images, {self.model})"

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{escape(name)}</th>" for name in ["", *self.heads()])
        body = ""
        for row, cells in enumerate(self.cells()):
            marked = [
                f"<b>{escape(cell)}</b>" if self.best[column] == row else escape(cell + self.mark(row, column))
                for column, cell in enumerate(cells)
            ]
            name = escape(self.rows[row])
            name = f"<i>{name}</i>" if row >= len(self.rows) - self.controls else name
            body += f"<tr><th style='text-align:left'>{name}</th>" + "".join(f"<td>{c}</td>" for c in marked) + "</tr>"
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        return f"{table}<p><small>{escape(self.footnote)}</small></p>"

    def plot(self) -> Any:
        """Draw the mean curves of the metrics that have one, and return the matplotlib figure.

        Raises:
            MissingExtra: without matplotlib.
            ValueError: if no metric has a curve.
        """
        columns = sorted({column for one in self.judged for column in one.curves})
        if not columns:
            raise ValueError("none of these metrics has a curve; deletion, insertion and road have")
        chart = figure(5.2 * len(columns), 4.6)
        for place, column in enumerate(columns, 1):
            self._draw(chart.add_subplot(1, len(columns), place), column)
        return chart

    def _draw(self, axes: Any, column: int) -> None:
        curves = np.stack([one.curves[column] for one in self.judged if column in one.curves])
        metric = self.metrics[column]
        assert isinstance(metric, CurveMetric)
        fractions = metric.fractions
        methods = len(self.rows) - self.controls
        for row, name in enumerate(self.rows):
            mine = curves[:, row][~np.isnan(curves[:, row]).any(1)]
            if len(mine):
                control = {"color": ("0.25", "0.5", "0.7")[(row - methods) % 3], "linestyle": "--", "linewidth": 1.2}
                style: dict[str, Any] = control if row >= methods else {"color": f"C{row % 10}", "linewidth": 1.8}
                axes.plot(fractions, mine.mean(0), label=name, **style)
        axes.set_title(self.heads()[column])
        axes.set_xlabel("fraction of the pixels")
        axes.set_ylabel(getattr(metric, "value", "probability"))
        axes.set_xlim(0, 1)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=8, frameon=False)


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
