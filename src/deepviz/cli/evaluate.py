"""`deepviz evaluate`: methods by metrics over photographs, as a table."""

from __future__ import annotations

import csv
import sys
import warnings
from collections.abc import Iterator, Sequence
from json import dumps
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from deepviz import catalog
from deepviz.cli import INPUT, UsageError
from deepviz.cli.method_options import METRICS, MethodOptions, built, built_metric
from deepviz.cli.model_options import Device, Model, Weights, check_device, loaded_model
from deepviz.cli.photographs import Photographs, listed
from deepviz.cli.progress import progress_bar
from deepviz.engine import OneTarget
from deepviz.errors import DeepVizWarning, MissingExtra, TargetError
from deepviz.evaluation import DEFAULT_METRICS, Evaluation, Judged, judge_prepared, with_controls
from deepviz.explanation import probe_folder, write_bytes
from deepviz.methods import Method
from deepviz.metrics import Metric
from deepviz.models import LoadedModel, Prepared
from deepviz.probe.memory import keep_memory
from deepviz.render.figure import as_png

NOTHING_GIVEN = MethodOptions()


def evaluate(
    *photos: str,
    model: Model = None,
    weights: Weights = None,
    method: Annotated[
        list[str] | None,
        Parameter(alias="-m", negative="", help=f"Method to judge, repeat for several: {', '.join(catalog.METHODS)}."),
    ] = None,
    metric: Annotated[
        list[str] | None,
        Parameter(
            negative="",
            help=(
                f"Metric, repeat for several: {', '.join(METRICS)}; also with options: 'deletion(steps=20)'. "
                f"[default: {', '.join(catalog.stem(type(one)) for one in DEFAULT_METRICS)}]"
            ),
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        Parameter(
            help="A .csv with the columns file and class (an index or a label): the class to explain in each "
            "photograph, instead of the predicted one."
        ),
    ] = None,
    layer: Annotated[str | None, Parameter(help="Layer for the methods that take one; see deepviz layers.")] = None,
    controls: Annotated[
        bool, Parameter(help="Add the rows of a random map, a centred Gaussian and an edge detector.")
    ] = True,
    device: Device = None,
    output: Annotated[Path, Parameter(alias="-o", help="Folder for the results.")] = Path("deepviz-out"),
    json: Annotated[bool, Parameter(negative="", help="Print the results as JSON.")] = False,
    options: Annotated[MethodOptions, Parameter(name="*")] = NOTHING_GIVEN,  # type: ignore[valid-type]
) -> int:
    """Measure how far the methods' maps can be believed: a table of methods by metrics, with intervals.

    PHOTOS are files or folders. Writes evaluation.json, evaluation.csv and, for metrics that have one, curves.png.
    """
    if not photos:
        raise UsageError("give photographs or a folder of them: deepviz evaluate photos")
    methods = built(method or list(catalog.METHODS), options, layer)
    metrics = [built_metric(name) for name in metric] if metric else list(DEFAULT_METRICS)
    check_device(device)
    classes = read_classes(labels) if labels else None
    photographs = Photographs.found(photos)
    judged: list[Judged] = []
    if photographs.paths:
        probe_folder(output)
        keep_memory()
        loaded = loaded_model(model, weights, None, device)
        try:
            judge(loaded, photographs, methods, metrics, classes, controls, judged)
        except KeyboardInterrupt:
            told = f"interrupted after {len(judged)} of {photographs.total} photographs"
            if judged:
                found = Evaluation.of(loaded, methods, metrics, judged, controls)
                told += f": {listed(write(found, output))}"
            raise KeyboardInterrupt(told) from None
        if judged:
            found = Evaluation.of(loaded, methods, metrics, judged, controls)
            files = write(found, output)
            if json:
                print(dumps(found.as_json() | {"failed": photographs.failed}, indent=2))
            else:
                show(found)
                print(f"\n{listed(files)}")
    photographs.tell_failures()
    return photographs.exit_code(len(judged)) if judged else INPUT


def judge(
    loaded: LoadedModel,
    photographs: Photographs,
    methods: Sequence[Method],
    metrics: Sequence[Metric],
    classes: dict[str, OneTarget] | None,
    controls: bool,
    judged: list[Judged],
) -> None:
    """Judge photograph by photograph, adding to `judged` what is done."""
    rows = with_controls(methods, controls)
    each = len(rows) * len(metrics)
    said: set[str] = set()
    with warnings.catch_warnings(record=True) as caught, progress_bar() as progress:
        warnings.simplefilter("always", DeepVizWarning)
        work = progress.add_task("", total=photographs.total * each)

        def finished() -> int:
            return (len(judged) + len(photographs.failed)) * each

        def step(what: str, done: int) -> None:
            progress.update(work, description=what, completed=finished() + done)

        queue = _with_classes(photographs, photographs.prepared(loaded), classes)
        for one in judge_prepared(loaded, queue, rows, metrics, step=step, failed=photographs.fail):
            judged.append(one)
            progress.update(work, completed=finished())
            said |= {f"left out: {title}: {reason}" for title, reason in one.left_out.items()}
    for text in sorted(said):
        print("deepviz:", text, file=sys.stderr)
    remarks = {str(warning.message) for warning in caught if "left out" not in str(warning.message)}
    for text in sorted(remarks):
        print("deepviz: note:", text, file=sys.stderr)


def _with_classes(
    photographs: Photographs, queue: Iterator[Prepared], classes: dict[str, OneTarget] | None
) -> Iterator[tuple[Prepared, OneTarget | None]]:
    """Each photograph with the class to explain; one that is not in the list has failed."""
    for image in queue:
        name = photographs.opened[image].name
        if classes is not None and name not in classes:
            photographs.failed[str(photographs.close(image))] = "it has no line in the --labels file"
            continue
        yield image, None if classes is None else classes[name]


def read_classes(path: Path) -> dict[str, OneTarget]:
    """The class of each file in a .csv: two columns, the file's name and a class index or label.

    Raises:
        TargetError: if it cannot be read as such.
    """
    try:
        lines = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))
    except (OSError, UnicodeDecodeError) as error:
        raise TargetError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    found: dict[str, OneTarget] = {}
    for number, line in enumerate(lines, 1):
        if not line or (number == 1 and [head.strip().lower() for head in line][:1] == ["file"]):
            continue
        if len(line) < 2:
            raise TargetError(f"{path}, line {number}: expected file,class such as cat.jpg,281")
        word = line[1].strip()
        found[Path(line[0].strip()).name] = int(word) if word.isdigit() else word
    return found


def write(found: Evaluation, output: Path) -> list[Path]:
    """The table as JSON and CSV, and the curves as a picture; where they are."""
    files = [
        write_bytes(output / "evaluation.json", dumps(found.as_json(), indent=1).encode()),
        write_bytes(output / "evaluation.csv", found.to_csv().encode()),
    ]
    if any(one.curves for one in found.judged):
        try:
            files.append(write_bytes(output / "curves.png", as_png(found.plot())))
        except MissingExtra as error:
            print(f"deepviz: no curves.png: {error}", file=sys.stderr)
    return files


def show(found: Evaluation) -> None:
    """Print the table, best in bold, controls in grey."""
    console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for head in found.heads():
        table.add_column(head, justify="right")
    for row, cells in enumerate(found.cells()):
        control = row >= len(found.rows) - found.controls
        marked = [
            f"[bold]{cell}[/bold]" if found.best[column] == row else cell + found.mark(row, column)
            for column, cell in enumerate(cells)
        ]
        table.add_row(found.rows[row], *marked, style="dim" if control else None)
    console.print(table)
    console.print(found.footnote)
