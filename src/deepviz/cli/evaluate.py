"""`deepviz evaluate`: methods by metrics over images, as a table."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from json import dumps
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from deepviz import catalog
from deepviz.cli import INPUT, UsageError
from deepviz.cli.method_options import LOCALISING, METRICS, MethodOptions, built, built_metric
from deepviz.cli.model_options import (
    NOTHING_SAID,
    Device,
    Labels,
    LoadingOptions,
    Model,
    OutputKind,
    Weights,
    check_device,
    loaded_model,
)
from deepviz.cli.photographs import Photographs, listed
from deepviz.cli.progress import progress_bar
from deepviz.cli.records import asked, own_folder
from deepviz.cli.targets import Target, parsed_targets
from deepviz.cli.truth import Truth, read_truth
from deepviz.errors import DeepVizWarning, MissingExtra, TargetError
from deepviz.files import probe_folder, write_bytes
from deepviz.methods import Method
from deepviz.metrics import Metric
from deepviz.metrics.region import RegionMetric
from deepviz.models import LoadedModel, Prepared
from deepviz.objectives import Objective
from deepviz.probe.memory import keep_memory
from deepviz.render.figure import as_png
from deepviz.results.evaluation import Evaluation, ImageScores, with_controls
from deepviz.runs.asked import Item
from deepviz.runs.evaluate import DEFAULT_METRICS, Box, evaluate_items, region
from deepviz.runs.truth import GroundTruth, lines_of

NOTHING_GIVEN = MethodOptions()
WIDE = 1000
"""Columns of what is not a terminal: nothing is folded there."""


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
    target: Target = None,
    labels: Labels = None,
    truth: Truth = None,
    boxes: Annotated[
        Path | None,
        Parameter(
            help="A .csv with the columns file, left, top, right, bottom, in pixels of the image, one line for each "
            f"object: where it is, for {', '.join(LOCALISING)}."
        ),
    ] = None,
    layer: Annotated[str | None, Parameter(help="Layer for the methods that take one; see deepviz layers.")] = None,
    controls: Annotated[
        bool, Parameter(help="Add the rows of a random map, a centred Gaussian and an edge detector.")
    ] = True,
    device: Device = None,
    output_kind: OutputKind = "auto",
    output: Annotated[Path, Parameter(alias="-o", help="Folder for the results.")] = Path("deepviz-out"),
    json: Annotated[bool, Parameter(negative="", help="Print the results as JSON.")] = False,
    options: Annotated[MethodOptions, Parameter(name="*")] = NOTHING_GIVEN,  # type: ignore[valid-type]
    loading: LoadingOptions = NOTHING_SAID,
) -> int:
    """Measure how faithful the methods' maps are: a table of methods by metrics, with intervals.

    PHOTOS are files or folders. Writes evaluation.json, evaluation.csv and, for metrics that have one, curves.png.
    """
    if not photos:
        raise UsageError("give images or a folder of images: deepviz evaluate photos")
    methods = built(method or catalog.default_set(), options, layer)
    metrics = [built_metric(name) for name in metric] if metric else list(DEFAULT_METRICS)
    check_device(device)
    unplaced = [one.name for one in metrics if isinstance(one, RegionMetric)] if boxes is None else []
    if unplaced:
        raise UsageError(f"{unplaced[0]} needs to know where the object is: give --boxes, a .csv")
    known_classes, names = read_truth(truth, labels, target)
    places = read_boxes(boxes) if boxes else None
    photographs = Photographs.found(photos)
    judged: list[ImageScores] = []
    if photographs.paths:
        probe_folder(output)
        keep_memory()
        loaded = loaded_model(model, weights, names, device, output_kind, loading)
        known = Known(known_classes, places, parsed_targets(target, loaded))
        output = own_folder(
            output,
            "evaluation",
            asked(loaded, methods, photographs, known.targets, known_classes)
            | {"metrics": [catalog.spell(one) for one in metrics], "boxes": places, "controls": controls},
        )
        try:
            judge(loaded, photographs, methods, metrics, known, controls, judged)
        except ValueError as error:  # an option that does not go with the model's input
            raise UsageError(str(error)) from None
        except KeyboardInterrupt:
            message = f"interrupted after {_images(judged)} of {photographs.total} images"
            if judged:
                found = Evaluation.of(loaded, methods, metrics, judged, controls)
                if json:
                    _print_json(found, photographs, interrupted=True)
                message += f": {listed(write(found, output))}"
            raise KeyboardInterrupt(message) from None
        if judged:
            found = Evaluation.of(loaded, methods, metrics, judged, controls)
            files = write(found, output)
            if json:
                _print_json(found, photographs)
            else:
                show(found)
                print(f"\n{listed(files)}")
    photographs.tell_failures()
    return photographs.exit_code(len(judged)) if judged else INPUT


def _print_json(found: Evaluation, photographs: Photographs, **more: Any) -> None:
    print(dumps(found.as_json() | {"failed": photographs.failed} | more, indent=2))


@dataclass(frozen=True)
class Known:
    """What is known of images by their names: the class to explain, and where the object is; or what to explain of
    all of them."""

    classes: GroundTruth | None
    boxes: dict[str, list[Box]] | None
    targets: tuple[Objective, ...] | None = None

    def case(self, path: Path, folder: Path, image: Prepared, labels: Sequence[str] | None) -> Item:
        """The image with what is known of it.

        Raises:
            TargetError: if it has no line in a file that was given, or the model saw nothing of the object.
        """
        targets = self.targets if self.classes is None else self.classes.targets(path, folder, labels)
        if self.boxes is not None and path.name not in self.boxes:
            raise TargetError(f"{image.name}: it has no line in the --boxes file")
        return Item(image, targets, inside=None if self.boxes is None else region(image, self.boxes[path.name]))


def judge(
    loaded: LoadedModel,
    photographs: Photographs,
    methods: Sequence[Method],
    metrics: Sequence[Metric],
    known: Known,
    controls: bool,
    judged: list[ImageScores],
) -> None:
    """Judge image by image, adding to `judged` what is done."""
    rows = with_controls(methods, controls)
    each = len(rows) * len(metrics)
    left_out: set[str] = set()
    with warnings.catch_warnings(record=True) as caught, progress_bar() as progress:
        warnings.simplefilter("always", DeepVizWarning)
        total = photographs.total * each

        def finished() -> int:
            return (_images(judged) + len(photographs.failed)) * each

        def step(what: str, done: int) -> None:
            progress.show(what, finished() + done, total)

        for one in evaluate_items(
            loaded,
            _cases(photographs, loaded, known),
            rows,
            metrics,
            progress=step,
            on_error=lambda item, error: photographs.fail(item.image, error),
        ):
            judged.append(one)
            left_out |= {f"left out: {title}: {reason}" for title, reason in one.left_out.items()}
    for text in sorted(left_out):
        print("deepviz:", text, file=sys.stderr)
    # of what is left out there is a line already
    reported = {f"{title} is left out: {reason}" for one in judged for title, reason in one.left_out.items()}
    reported |= {str(missing) for one in judged for missing in one.missing if missing is not None}
    for text in sorted({str(warning.message) for warning in caught} - reported):
        print("deepviz: note:", text, file=sys.stderr)


def _images(judged: Sequence[ImageScores]) -> int:
    """Of how many images the scores are: those of several targets of one image have its position."""
    return len({id(one) if one.position is None else one.position for one in judged})


def _cases(photographs: Photographs, loaded: LoadedModel, known: Known) -> Iterator[Item]:
    """Each image with what is known of it; one of which too little is has failed."""
    for image in photographs.prepared(loaded):
        try:
            path = photographs.opened[image]
            yield known.case(path, photographs.folders[path], image, loaded.labels)
        except TargetError as error:
            photographs.failed[str(photographs.close(image))] = str(error)
        photographs.opened.pop(image, None)  # by now its scores are found: its pixels need not be kept


def read_boxes(path: Path) -> dict[str, list[Box]]:
    """The boxes of each file in a .csv of five columns, the file's name and left, top, right, bottom.

    Raises:
        TargetError: if it cannot be read as such.
    """
    found: dict[str, list[Box]] = {}
    for where, line in lines_of(path):
        try:
            left, top, right, bottom = map(float, line[1:5])
        except ValueError:
            raise TargetError(f"{where}: expected file,left,top,right,bottom such as cat.jpg,20,35,180,200") from None
        found.setdefault(Path(line[0].strip()).name, []).append((left, top, right, bottom))
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
    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDE)
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
