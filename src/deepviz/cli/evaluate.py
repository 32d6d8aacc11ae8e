"""`deepviz evaluate`: methods by metrics over images, as a table."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from json import dumps
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from deepviz import catalog
from deepviz.cli import INPUT, UsageError
from deepviz.cli.extra import Extra, ExtraTable, read_extra
from deepviz.cli.method_options import LOCALISING, METRICS, Budget, MethodOptions, built, built_metric
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
from deepviz.cli.progress import Cost, progress_bar
from deepviz.cli.records import ImageRecords, asked, own_folder
from deepviz.cli.run_evaluate import evaluate_run
from deepviz.cli.targets import Target, parsed_targets
from deepviz.cli.truth import Truth, read_truth
from deepviz.errors import DeepVizWarning, MissingExtra, TargetError
from deepviz.files import probe_folder, write_bytes
from deepviz.inputs import Inputs
from deepviz.methods import Method
from deepviz.metrics import Metric
from deepviz.metrics.region import RegionMetric
from deepviz.models import LoadedModel, Prepared
from deepviz.objectives import Objective
from deepviz.probe.memory import keep_memory
from deepviz.render.figure import as_png
from deepviz.results.evaluation import Evaluation, ImageScores, with_controls
from deepviz.results.shards import MANIFEST
from deepviz.results.tables import Format, aligned, in_format
from deepviz.runs.asked import Item
from deepviz.runs.evaluate import DEFAULT_METRICS, Box, evaluate_items, region
from deepviz.runs.places import BOXES, read_boxes
from deepviz.runs.truth import GroundTruth, check_names, line_of

NOTHING_GIVEN = MethodOptions()
WIDE = 1000
"""Columns of what is not a terminal: nothing is folded there."""


def evaluate(
    *photos: str,
    model: Model = None,
    weights: Weights = None,
    method: Annotated[
        list[str] | None,
        Parameter(
            alias="-m",
            negative="",
            help=f"Method to judge, repeat for several: {', '.join(catalog.METHODS)}; or a family: "
            f"{', '.join(catalog.families())}.",
        ),
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
            help="A .csv with the columns file (a path or name), left, top, right, bottom, in pixels, one line for "
            f"each object: where it is, for {', '.join(LOCALISING)}."
        ),
    ] = None,
    extra: Extra = None,
    layer: Annotated[str | None, Parameter(help="Layer for the methods that take one; see deepviz layers.")] = None,
    budget: Budget = None,
    controls: Annotated[
        bool, Parameter(help="Add the rows of a random map, a centred Gaussian and an edge detector.")
    ] = True,
    device: Device = None,
    output_kind: OutputKind = "auto",
    output: Annotated[Path, Parameter(alias="-o", help="Folder for the results.")] = Path("deepviz-out"),
    format: Annotated[
        Format, Parameter(help="How the table is printed: for people, as CSV, or for a text in Markdown or LaTeX.")
    ] = "table",
    resume: Annotated[
        bool, Parameter(negative="", help="Go on with an earlier run: images that it has judged are left out.")
    ] = False,
    json: Annotated[bool, Parameter(negative="", help="Print the results as JSON.")] = False,
    options: Annotated[MethodOptions, Parameter(name="*")] = NOTHING_GIVEN,  # type: ignore[valid-type]
    loading: LoadingOptions = NOTHING_SAID,
) -> int:
    """Measure how faithful the methods' maps are: a table of methods by metrics, with intervals.

    PHOTOS are files or folders. Writes evaluation.json, evaluation.csv (the table), evaluation_values.csv (a line for
    each image, method and metric) and, for metrics that have one, the curves: evaluation_curves.csv and curves.png.
    To a run (deepviz run), given by its folder, the metrics of its maps are added, and nothing else is written.
    """
    if not photos:
        raise UsageError("give images or a folder of images: deepviz evaluate photos")
    if len(photos) == 1 and (Path(photos[0]) / MANIFEST).is_file():
        given = {"-m": method, "--target": target, "--truth": truth, "--extra": extra, "--layer": layer}
        for flag, value in (given | {"--budget": budget, "--resume": resume}).items():
            if value:
                raise UsageError(f"{flag} is for images: a run has its own, and deepviz run adds methods to it")
        check_device(device)
        keep_memory()
        measures = [built_metric(name) for name in metric] if metric else list(DEFAULT_METRICS)
        loaded = loaded_model(model, weights, labels, device, output_kind, loading)
        return evaluate_run(photos[0], loaded, measures, boxes, json)
    methods = built(method or catalog.default_set(), options, layer, budget)
    metrics = [built_metric(name) for name in metric] if metric else list(DEFAULT_METRICS)
    check_device(device)
    unplaced = [one.name for one in metrics if isinstance(one, RegionMetric)] if boxes is None else []
    if unplaced:
        raise UsageError(f"{unplaced[0]} needs to know where the object is: give --boxes, a .csv")
    known_classes, names = read_truth(truth, labels, target)
    places = read_boxes(boxes) if boxes else None
    photographs = Photographs.found(photos)
    if known_classes is not None:
        known_classes.check_names(photographs.paths)
    if places is not None:
        check_names(photographs.paths, places, BOXES)
    run = Run(photographs, methods, metrics, controls)
    if photographs.paths:
        probe_folder(output)
        keep_memory()
        loaded = loaded_model(model, weights, names, device, output_kind, loading)
        if method is None and loaded.is_black_box:
            methods = run.methods = built(catalog.default_set(black_box=True), options, layer, budget)
        photographs.narrow(loaded.reads)
        table = read_extra(extra, photographs.paths)
        known = Known(known_classes, places, parsed_targets(target, loaded), table)
        output = own_folder(
            output,
            "evaluation",
            asked(loaded, methods, photographs, known.targets, known_classes)
            | {"metrics": [catalog.spell(one) for one in metrics], "boxes": places, "controls": controls}
            | ({} if table is None else {"extra": table.digest}),
            resume,
        )
        run.records = ImageRecords.opened(output, "evaluation", resume)
        try:
            run.judge(loaded, known)
        except ValueError as error:  # an option that does not go with the model's input
            raise UsageError(str(error)) from None
        except KeyboardInterrupt:
            message = f"interrupted after {run.images} of {photographs.total} images"
            if run.judged:
                found = run.evaluation(loaded)
                if json:
                    _print_json(found, photographs, interrupted=True)
                message += f": {listed(write(found, output))}"
            raise KeyboardInterrupt(message) from None
        if run.judged:
            found = run.evaluation(loaded)
            files = write(found, output)
            if json:
                _print_json(found, photographs)
            elif format == "table":
                show(found)
                print(f"\n{listed(files)}")
            else:
                print(in_format(found, format))
                print(f"deepviz: {listed(files)}", file=sys.stderr)
    photographs.tell_failures()
    return photographs.exit_code(len(run.judged)) if run.judged else INPUT


def _print_json(found: Evaluation, photographs: Photographs, **more: Any) -> None:
    print(dumps(found.as_json() | photographs.not_done() | more, indent=2))


@dataclass(frozen=True)
class Known:
    """What is known of images by their names: the class to explain, where the object is, and what the model takes
    beside the image; or what to explain of all of them."""

    classes: GroundTruth | None
    boxes: dict[str, list[Box]] | None
    targets: tuple[Objective, ...] | None = None
    extra: ExtraTable | None = None

    def of(self, path: Path, folder: Path, labels: Sequence[str] | None) -> Of:
        """What is asked of an image.

        Raises:
            TargetError: if it has no line in a file that was given.
        """
        targets = self.targets if self.classes is None else self.classes.targets(path, folder, labels)
        boxes = None if self.boxes is None else self.boxes[line_of(path, self.boxes, BOXES)]
        return Of(targets, boxes, None if self.extra is None else self.extra.of(path))


@dataclass(frozen=True)
class Of:
    """What is asked of one image.

    Args:
        targets: what is explained; None: the predicted class.
        boxes: where the object is; None if that is not asked for.
        along: what the model takes beside the image; None if that is nothing.
    """

    targets: tuple[Objective, ...] | None
    boxes: list[Box] | None
    along: Inputs | None = None

    @property
    def plain(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return {
            "targets": None if self.targets is None else [str(one) for one in self.targets],
            "boxes": None if self.boxes is None else [list(box) for box in self.boxes],
        }

    def case(self, image: Prepared) -> Item:
        """The image with what is asked of it.

        Raises:
            TargetError: if the model saw nothing of the object.
        """
        inside = None if self.boxes is None else region(image, self.boxes)
        return Item(image, self.targets, inside=inside, inputs=self.along)


@dataclass
class Run:
    """The images under way and what was found of them.

    Args:
        photographs: the images.
        methods, metrics, controls: what is judged by what.
        judged: one for each image and target, by the image's position.
        records: where what is found of each image is kept.
    """

    photographs: Photographs
    methods: list[Method]
    metrics: list[Metric]
    controls: bool
    judged: list[ImageScores] = field(default_factory=list)
    records: ImageRecords | None = None

    @property
    def images(self) -> int:
        """Of how many images the scores are."""
        return len({one.position for one in self.judged})

    def evaluation(self, loaded: LoadedModel) -> Evaluation:
        """What was judged, image by image in their order."""
        judged = sorted(self.judged, key=lambda one: one.position or 0)
        return Evaluation.of(loaded, self.methods, self.metrics, judged, self.controls)

    def judge(self, loaded: LoadedModel, known: Known) -> None:
        """Judge image by image, adding to `judged` what is done."""
        rows = with_controls(self.methods, self.controls)
        each = len(rows) * len(self.metrics)
        self._take_up(loaded, known)
        cost = sum(method.passes() + sum(metric.passes(method) for metric in self.metrics) for method in rows)
        progress = Cost(cost * max(1, len(known.targets or ())), self.photographs.total - self.images)
        left_out: set[str] = set()
        with warnings.catch_warnings(record=True) as caught, progress_bar() as bar:
            warnings.simplefilter("always", DeepVizWarning)
            total = self.photographs.total * each

            def step(what: str, done: float) -> None:
                bar.show(what, (self.images + len(self.photographs.failed)) * each + done, total)

            under_way: list[tuple[Path, Of]] = []
            for one in evaluate_items(
                loaded,
                self._cases(loaded, known, under_way),
                rows,
                self.metrics,
                progress=step,
                on_error=lambda item, error: self.photographs.fail(item.image, error),
            ):
                progress.image_done()
                assert one.position is not None
                self._keep(one, *under_way[one.position])
                left_out |= {f"left out: {title}: {reason}" for title, reason in one.left_out.items()}
        for text in sorted(left_out):
            print("deepviz:", text, file=sys.stderr)
        # of what is left out there is a line already
        reported = {f"{title} is left out: {reason}" for one in self.judged for title, reason in one.left_out.items()}
        reported |= {str(missing) for one in self.judged for missing in one.missing if missing is not None}
        for text in sorted({str(warning.message) for warning in caught} - reported):
            print("deepviz: note:", text, file=sys.stderr)

    def _take_up(self, loaded: LoadedModel, known: Known) -> None:
        """Take what an earlier run has recorded of images that the same is asked of."""
        assert self.records is not None
        for path in self.photographs.paths if self.records.known else ():
            try:
                of = known.of(path, self.photographs.folders[path], loaded.labels)
            except TargetError:
                continue  # told when its turn comes
            found = self.records.find(path, of.plain)
            if found is not None:
                self.judged += [self._placed(ImageScores.from_json(one), path) for one in found]
        if self.records.resumed:
            print(f"deepviz: {self.images} of {self.photographs.total} images are done already", file=sys.stderr)

    def _keep(self, scores: ImageScores, path: Path, of: Of) -> None:
        """Add one target's scores of an image, and record the image with its last target."""
        self.judged.append(self._placed(scores, path))
        mine = [one for one in self.judged if one.position == self.judged[-1].position]
        if self.records is not None and len(mine) == len(of.targets or (None,)):
            self.records.add(path, of.plain, [one.as_json() for one in mine])

    def _placed(self, scores: ImageScores, path: Path) -> ImageScores:
        position, name = self._places[path]
        return replace(scores, source=name, position=position)

    @cached_property
    def _places(self) -> dict[Path, tuple[int, str]]:
        """The position and the name of each image."""
        names = self.photographs.names
        return {path: (number, names[path]) for number, path in enumerate(self.photographs.paths)}

    def _cases(self, loaded: LoadedModel, known: Known, under_way: list[tuple[Path, Of]]) -> Iterator[Item]:
        """Each image that is not judged with what is asked of it, in `under_way` too; one of which too little is known
        has failed."""
        done = {one.position for one in self.judged}
        paths = [path for path in self.photographs.paths if self._places[path][0] not in done]
        for image in self.photographs.prepared(loaded, paths):
            path = self.photographs.opened[image]
            try:
                of = known.of(path, self.photographs.folders[path], loaded.labels)
                case = of.case(image)
                under_way.append((path, of))
                yield case
            except TargetError as error:
                self.photographs.failed[str(self.photographs.close(image))] = str(error)
            self.photographs.opened.pop(image, None)  # by now its scores are found: its pixels need not be kept


def write(found: Evaluation, output: Path) -> list[Path]:
    """The tables as JSON and CSV, and the curves as a picture; where they are."""
    files = [
        write_bytes(output / "evaluation.json", dumps(found.as_json(), indent=1).encode()),
        write_bytes(output / "evaluation.csv", found.to_csv().encode()),
        write_bytes(output / "evaluation_values.csv", found.to_csv("values").encode()),
    ]
    if any(one.curves for one in found.judged):
        files.append(write_bytes(output / "evaluation_curves.csv", found.to_csv("curves").encode()))
        try:
            files.append(write_bytes(output / "curves.png", as_png(found.plot())))
        except MissingExtra as error:
            print(f"deepviz: no curves.png: {error}", file=sys.stderr)
    return files


def show(found: Evaluation) -> None:
    """Print the table, best in bold, controls in grey."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDE)
    table = RichTable(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for head in found.heads():
        table.add_column(head, justify="right")
    columns = [aligned(column) for column in zip(*found.cells(), strict=True)]
    for row, cells in enumerate(zip(*columns, strict=True)):
        control = row >= len(found.rows) - found.controls
        marked = [
            f"[bold]{cell}[/bold] " if found.best[column] == row else cell + (found.mark(row, column) or " ")
            for column, cell in enumerate(cells)
        ]
        table.add_row(escape(found.rows[row]), *marked, style="dim" if control else None)
    console.print(table)
    console.print(found.footnote)
