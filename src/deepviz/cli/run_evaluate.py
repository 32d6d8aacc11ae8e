"""`deepviz evaluate RUN`: metrics of the maps of a run, added to it shard by shard."""

from __future__ import annotations

from collections.abc import Sequence
from json import dumps
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deepviz.cli import OK, UsageError
from deepviz.cli.dataset_run import explained
from deepviz.errors import DeepVizError
from deepviz.metrics import Metric
from deepviz.models import LoadedModel
from deepviz.results.numbers import plain
from deepviz.results.run import Run
from deepviz.runs.dataset_run import Plan
from deepviz.runs.of_run import more_metrics


def evaluate_run(folder: str, loaded: LoadedModel, metrics: Sequence[Metric], boxes: Path | None, as_json: bool) -> int:
    """Add metrics to a run, and print the mean of each that it has; the exit code."""
    run = Run(folder)
    try:
        asked = more_metrics(run, loaded, metrics, boxes=boxes)
    except DeepVizError:
        raise
    except ValueError as error:
        raise UsageError(str(error)) from None
    found = explained(asked, run.folder, Plan(shard_size=asked.shard_size)).scores()
    if as_json:
        numbers = ("mean", "low", "high")
        print(dumps([one | {name: plain(one[name]) for name in numbers} for one in found], indent=2))
        return OK
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in ("method", "metric", "mean", "95 % interval", "maps"):
        table.add_column(head, justify="left" if head in ("method", "metric") else "right")
    for one in found:
        table.add_row(
            escape(one["method"]), escape(one["metric"]), _number(one["mean"]),
            f"{_number(one['low'])} to {_number(one['high'])}", str(one["maps"]),
        )  # fmt: skip
    Console(highlight=False, width=1000).print(table)
    print(f"{folder}: the value of each map is in its rows")
    return OK


def _number(value: Any) -> str:
    return "-" if plain(value) is None else f"{value:.3f}"
