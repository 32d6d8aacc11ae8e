"""Methods by metrics over images: the numbers, what they are summed up to, and the tables that show them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from deepviz import catalog
from deepviz.files import versions
from deepviz.methods.method import Method
from deepviz.metrics import CentreGaussian, CurveMetric, EdgeDetector, Metric, RandomMap
from deepviz.metrics.bootstrap import FEWEST, FEWEST_TO_DIFFER, differs, interval
from deepviz.models import LoadedModel
from deepviz.render.figure import figure
from deepviz.results.identity import (
    Layers,
    Titles,
    captions,
    joined_titles,
    layers_that_differ,
    of_other_layers,
    other_layer,
    row_layers,
)
from deepviz.results.numbers import Values, array, listed, mean_of_known, plain
from deepviz.results.outcomes import Missing
from deepviz.results.tables import INTERVALS, Table, Tabular, check_part, with_interval

RANDOM_MAP = RandomMap()
CONTROLS: tuple[Method, ...] = (RANDOM_MAP, CentreGaussian(), EdgeDetector())
"""Model-independent baselines: a method that does not beat them says nothing."""


def with_controls(methods: Sequence[Method], controls: bool = True) -> list[Method]:
    """The methods, and the control rows after them."""
    return [*methods, *(CONTROLS if controls else ())]


@dataclass(frozen=True)
class ImageScores:
    """One image's numbers, for one target.

    Args:
        source: the image's name.
        target: what was explained, with its probability.
        values: (methods, metrics); NaN where a method does not apply.
        curves: for metrics that have one, by their number: (methods, steps + 1).
        left_out: why a method gave no map, by its key (`catalog.key`, with the layer), and why a metric has no value
            for one, by "metric of key", the metric with its options.
        layers: for each method the layer that it explained, if any.
        missing: for each method why it gave no map; None if it did.
        position: which image of the run it is of, where several targets of one were explained; None if it is an image
            of its own.
        output: what the model's outputs were read as, and how it was known; None if they were not.
        reasons: by (method, metric), why there is no value.
        label: what was explained, without its probability.
        titles: of the layers.
    """

    source: str
    target: str
    values: Values
    curves: dict[int, Values]
    left_out: dict[str, str]
    layers: Layers = ()
    missing: tuple[Missing | None, ...] = ()
    position: int | None = None
    output: dict[str, str] | None = None
    reasons: dict[tuple[int, int], str] = field(default_factory=dict)
    label: str = ""
    titles: Titles = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """All but the position and what is missing, as plain values for JSON; `from_json` reads them back."""
        return {
            "source": self.source,
            "target": self.target,
            "label": self.label,
            "values": listed(self.values),
            "curves": {str(column): listed(curves) for column, curves in self.curves.items()},
            "left_out": self.left_out,
            "layers": list(self.layers),
            "titles": dict(self.titles),
            "output": self.output,
            "reasons": [[row, column, reason] for (row, column), reason in self.reasons.items()],
        }

    @classmethod
    def from_json(cls, held: dict[str, Any]) -> ImageScores:
        """What `as_json` gave."""
        return cls(
            source=held["source"],
            target=held["target"],
            label=held["label"],
            values=array(held["values"]),
            curves={int(column): array(curves) for column, curves in held["curves"].items()},
            left_out=held["left_out"],
            layers=tuple(held["layers"]),
            titles=held.get("titles", {}),
            output=held["output"],
            reasons={(row, column): reason for row, column, reason in held["reasons"]},
        )


@dataclass(frozen=True, eq=False)
class Evaluation(Tabular):
    """Results of `evaluate`: methods by metrics over images, as means with intervals, and the single values.

    Args:
        rows: the methods, then the controls.
        metrics: the columns.
        judged: one for each image, or for each image and target.
        controls: how many of the rows are controls, at the end.
        model: its name, with where its weights come from.
        versions: of deepviz and torch.
        layers: for each row the layer that it is about, if any; images in which the method found another are left out.
        keys: the identity of each row: the method with all of its options and the layer.
    """

    parts: ClassVar[Mapping[str, Sequence[str]]] = {
        "summary": ("method", "control", "metric", "better", "mean", "low", "high", "images", "best", "beats random"),
        "values": ("image", "target", "method", "control", "metric", "better", "value", "reason"),
        "curves": ("image", "target", "method", "control", "metric", "fraction", "score"),
    }

    rows: tuple[str, ...]
    metrics: tuple[Metric, ...]
    judged: tuple[ImageScores, ...]
    controls: int
    model: str
    versions: dict[str, str] = field(default_factory=dict)
    layers: Layers = ()
    keys: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        loaded: LoadedModel,
        methods: Sequence[Method],
        metrics: Sequence[Metric],
        judged: Sequence[ImageScores],
        controls: bool = True,
    ) -> Evaluation:
        """What was judged, as one result.

        Raises:
            ValueError: if nothing was.
        """
        if not judged:
            raise ValueError("no image was evaluated")
        all_rows = with_controls(methods, controls)
        layers = row_layers([one.layers for one in judged], len(all_rows))
        titles = joined_titles(one.titles for one in judged)
        return cls(
            rows=captions(all_rows, layers, titles),
            metrics=tuple(metrics),
            judged=tuple(judged),
            controls=len(CONTROLS) if controls else 0,
            model=f"{loaded.name} ({loaded.weights})",
            versions=versions(),
            layers=layers,
            keys=tuple(map(catalog.key, all_rows, layers)),
        )

    @property
    def output(self) -> dict[str, str] | None:
        """What the model's outputs were read as ("kind"), and how it was "known"; None if no image needed them."""
        return next((one.output for one in self.judged if one.output), None)

    @cached_property
    def values(self) -> Values:
        """(images, rows, metrics), NaN where a method does not apply, or explained another layer than its row is about;
        with several targets, a line for each."""
        values = np.stack([one.values for one in self.judged])
        values[self._left_out] = np.nan
        return values

    @cached_property
    def _left_out(self) -> NDArray[np.bool_]:
        """(images, rows): where a method explained another layer than its row is about."""
        layers = self.layers or (None,) * len(self.rows)
        return of_other_layers([one.layers for one in self.judged], layers)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What the reader of the table has to know of single rows, one sentence each."""
        found = [one.layers for one in self.judged]
        return layers_that_differ(self.rows, found, self.layers, self._titles) if self.layers else ()

    @cached_property
    def _titles(self) -> Titles:
        return joined_titles(one.titles for one in self.judged)

    @cached_property
    def _of_images(self) -> Values:
        """(images, rows, metrics): the mean over the targets of each image, which are not independent."""
        groups: dict[Any, list[int]] = {}
        for number, one in enumerate(self.judged):
            groups.setdefault(("own", number) if one.position is None else one.position, []).append(number)
        if len(groups) == len(self.judged):
            return self.values
        return np.stack([mean_of_known(self.values[numbers]) for numbers in groups.values()])

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
        """The 95 % bootstrap interval of the mean over images, (rows, metrics, 2); NaN for fewer than three."""
        return np.array(
            [[interval(self._of(row, column)) for column in self._columns] for row in self._rows], dtype=np.float64
        )

    @cached_property
    def best(self) -> tuple[int | None, ...]:
        """For each metric the best row, if its difference to the next is significant by a paired bootstrap."""
        return tuple(self._best(column) for column in self._columns)

    def beats(self, row: int, column: int, control: Method | str = RANDOM_MAP) -> bool | None:
        """Whether a row is better than a control's, by a paired bootstrap over the images; None if not compared.

        Args:
            row: of the table.
            column: of the table.
            control: one of `CONTROLS`, or its name; or the caption of any other row.
        """
        other = self._row_of(control)
        if other is None or other == row:
            return None
        if len(self._of_images) < FEWEST_TO_DIFFER:
            return None
        if np.isnan([self.means[row, column], self.means[other, column]]).any() or len(self._of(row, column)) < 3:
            return None
        return self._better(row, other, column) and self._differs(row, other, column)

    def _row_of(self, control: Method | str) -> int | None:
        """The row of a control, whatever else is called so."""
        first = len(self.rows) - self.controls
        for row, one in enumerate(CONTROLS[: self.controls], first):
            if control in (one, str(one)):
                return row
        return self.rows.index(control) if isinstance(control, str) and control in self.rows else None

    def _of(self, row: int, column: int) -> Values:
        values: Values = self._of_images[:, row, column]
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
        pair = self._of_images[:, [row, other], column]
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
                "mean": plain(self.means[row, column]),
                "low": plain(self.intervals[row, column, 0]),
                "high": plain(self.intervals[row, column, 1]),
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
            "output": self.output,
            "versions": self.versions,
            "metrics": [repr(metric) for metric in self.metrics],
            "table": self.table(),
            "images": [
                {
                    "source": one.source,
                    "target": one.target,
                    "values": [[plain(value) for value in row] for row in one.values],
                    "left_out": one.left_out,
                    "layers": list(one.layers),
                }
                for one in self.judged
            ],
            "rows": list(self.rows),
            "keys": list(self.keys),
            "layers": list(self.layers),
            "remarks": list(self.remarks),
        }

    def values_table(self) -> list[dict[str, Any]]:
        """One entry for each image, target, row and metric: the value, or the reason why there is none."""
        return [
            {
                **self._where(number, row, column),
                "better": self.metrics[column].better,
                "value": plain(self.values[number, row, column]),
                "reason": self._reason(number, row, column),
            }
            for number in range(len(self.judged))
            for row in self._rows
            for column in self._columns
        ]

    def curves_table(self) -> list[dict[str, Any]]:
        """One entry for each image, target, row, metric that has a curve, and point of it: the fraction of the pixels
        that were changed, and the model's output."""
        return [
            {**self._where(number, row, column), "fraction": fraction, "score": float(score)}
            for number, one in enumerate(self.judged)
            for row in self._rows
            for column, curves in sorted(one.curves.items())
            if not np.isnan(self.values[number, row, column])
            for fraction, score in zip(self._fractions(column), curves[row], strict=True)
        ]

    def _where(self, number: int, row: int, column: int) -> dict[str, Any]:
        return {
            "image": self._names[number],
            "target": self.judged[number].label or self.judged[number].target,
            "method": self.rows[row],
            "control": row >= len(self.rows) - self.controls,
            "metric": self.columns[column],
        }

    @cached_property
    def _names(self) -> list[str]:
        """The images' names; several images of one name are numbered."""
        images = [
            (one.source, number if one.position is None else one.position) for number, one in enumerate(self.judged)
        ]
        alike, count = Counter(source for source, _ in set(images)), Counter[str]()
        names: dict[tuple[str, int], str] = {}
        for source, position in dict.fromkeys(images):
            count[source] += 1
            names[source, position] = source if alike[source] == 1 else f"{source} ({count[source]})"
        return [names[image] for image in images]

    def _reason(self, number: int, row: int, column: int) -> str:
        reason = self.judged[number].reasons.get((row, column), "")
        if not reason and self._left_out[number, row]:
            reason = other_layer(self.judged[number].layers[row], self.layers[row], self._titles)
        return reason

    def _fractions(self, column: int) -> tuple[float, ...]:
        metric = self.metrics[column]
        assert isinstance(metric, CurveMetric)
        return metric.fractions

    def entries(self, part: str = "summary") -> list[dict[str, Any]]:
        """One of the tables as plain values: `table`, `values_table` or `curves_table`."""
        check_part(part, self.parts)
        return {"summary": self.table, "values": self.values_table, "curves": self.curves_table}[part]()

    @property
    def text_table(self) -> Table:
        """The methods by metrics, in words."""
        return Table(
            self.heads(),
            self.rows,
            self.cells(),
            self.footnote,
            frozenset((row, column) for column, row in enumerate(self.best) if row is not None),
            {(row, column): self.mark(row, column) for row in self._rows for column in self._columns},
            self.controls,
        )

    def cells(self) -> list[list[str]]:
        """The table's cells in words, "0.123 ± 0.010" or "–", rows by metrics."""
        return [
            [with_interval(self.means[row, column], *self.intervals[row, column]) for column in self._columns]
            for row in self._rows
        ]

    def heads(self) -> list[str]:
        """The metrics' names with an arrow in the direction that is better."""
        return [
            f"{name} {'↑' if m.better == 'higher' else '↓'}" for name, m in zip(self.columns, self.metrics, strict=True)
        ]

    @property
    def footnote(self) -> str:
        """What the table's marks mean, and what it was made of."""
        n = len(self._of_images)
        message = " ".join([f"{n} image{'s' if n > 1 else ''}, {self.model}.", *self.remarks])
        if n < FEWEST:
            return message
        message += INTERVALS
        if n >= FEWEST_TO_DIFFER:
            message += " Bold: significantly better than the next. °: not significantly better than a random map."
        else:
            message += f" With fewer than {FEWEST_TO_DIFFER} images no difference is called significant."
        return message

    def __str__(self) -> str:
        return str(self.text_table)

    def mark(self, row: int, column: int) -> str:
        """The sign ° for a method that is not significantly better than a random map."""
        return "°" if self.beats(row, column) is False and row < len(self.rows) - self.controls else ""

    def __repr__(self) -> str:
        return (
            f"Evaluation({len(self.rows)} rows, {', '.join(self.columns)}, {len(self._of_images)} images, {self.model})"
        )

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
        curves = np.stack(
            [
                np.where(left_out[:, None], np.nan, one.curves[column])
                for one, left_out in zip(self.judged, self._left_out, strict=True)
                if column in one.curves
            ]
        )
        fractions = self._fractions(column)
        metric = self.metrics[column]
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
        if axes.lines:
            axes.legend(fontsize=8, frameon=False)
