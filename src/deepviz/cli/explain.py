"""`deepviz explain`: images in, sheets and maps out."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from json import dumps
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from deepviz import catalog
from deepviz.cli import UsageError
from deepviz.cli.explained import Report
from deepviz.cli.extra import Extra, ExtraTable, read_extra
from deepviz.cli.method_options import Budget, MethodOptions, built
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
from deepviz.cli.photographs import Photographs, bundled_example
from deepviz.cli.progress import progress_bar
from deepviz.cli.records import asked_of_each
from deepviz.cli.targets import Target, is_contrast, parsed_targets
from deepviz.errors import DeepVizWarning, ModelError, TargetError
from deepviz.files import probe_folder
from deepviz.methods import Method
from deepviz.methods.perturbation.perturbation_map import INTERRUPTED, SampledMap
from deepviz.models import LoadedModel, Prepared
from deepviz.models.weights import weights_hash
from deepviz.objectives import Objective, Similarity, Text
from deepviz.objectives.similarity import Measure
from deepviz.probe.memory import keep_memory
from deepviz.render.figure import FIGURES, check_matplotlib
from deepviz.results.outcomes import ImageOutcomes
from deepviz.results.storage import WEIGHTS
from deepviz.runs.asked import Item
from deepviz.runs.checks import checked
from deepviz.runs.explain import explain_items
from deepviz.runs.pairs import explain_both, merged
from deepviz.runs.runner import Progress
from deepviz.runs.words import with_words
from deepviz.viewer import report as write_report

NOTHING_GIVEN = MethodOptions()


def explain(
    *photos: str,
    model: Model = None,
    weights: Weights = None,
    labels: Labels = None,
    method: Annotated[
        list[str] | None,
        Parameter(
            alias="-m",
            negative="",
            help=(
                f"Method to run, repeat for several: {', '.join(catalog.METHODS)}; a family: "
                f"{', '.join(catalog.families())}; or package.module:Class. Also with options: "
                "'layer-cam(layer=layer3)'."
            ),
        ),
    ] = None,
    target: Target = None,
    top_k: Annotated[int, Parameter(help="Explain this many of the best predictions.")] = 1,
    layer: Annotated[str | None, Parameter(help="Layer for the methods that take one; see deepviz layers.")] = None,
    budget: Budget = None,
    device: Device = None,
    output_kind: OutputKind = "auto",
    output: Annotated[Path, Parameter(alias="-o", help="Folder for the results.")] = Path("deepviz-out"),
    format: Annotated[
        Literal["png", "gif", "pdf", "svg", "npz", "safetensors", "deepviz"],
        Parameter(
            help="Format of the single maps; gif: plays the slices of a volume or the frames of a clip; "
            "pdf, svg: figures with captions, and the sheet likewise; "
            "deepviz: everything for an image in one file, for deepviz report."
        ),
    ] = "png",
    scale: Annotated[
        Literal["own", "shared"],
        Parameter(help="On the sheet, the colours of each map by itself, or one scale for all maps of a method."),
    ] = "own",
    extra: Extra = None,
    explain_extra: Annotated[bool, Parameter(negative="", help="Explain the numbers of --extra too.")] = False,
    pair: Annotated[
        bool,
        Parameter(
            negative="",
            help="With --target 'similarity(file(\"other.jpg\"))', explain the other image too, side by side.",
        ),
    ] = False,
    words: Annotated[
        bool,
        Parameter(negative="", help="With --target 'text(\"a red car\")', explain the words of the text too."),
    ] = False,
    html: Annotated[Path | None, Parameter(help="Also write a standalone HTML report.")] = None,
    title: Annotated[str | None, Parameter(help="Heading of the HTML report.")] = None,
    check: Annotated[
        bool,
        Parameter(negative="", help="Check each map against a random map and against a network with random weights."),
    ] = False,
    error: Annotated[
        bool,
        Parameter(
            negative="",
            help="Also draw the standard errors of estimated maps, on the scale of each map: METHOD_error.png.",
        ),
    ] = False,
    resume: Annotated[
        bool, Parameter(negative="", help="Leave out images whose results of the same question are there already.")
    ] = False,
    json: Annotated[bool, Parameter(negative="", help="Print the results as JSON.")] = False,
    loading: LoadingOptions = NOTHING_SAID,
    options: Annotated[MethodOptions, Parameter(name="*")] = NOTHING_GIVEN,  # type: ignore[valid-type]
) -> int:
    """Explain a model's predictions for images: a sheet for each, and the single maps.

    PHOTOS are files or folders; without any, the bundled example image is explained. The model is the
    bundled EfficientNet-Lite0 unless --model names another. All methods are run unless -m names some.
    """
    if top_k < 1:
        raise UsageError(f"--top-k must be at least 1, got {top_k}")
    if target and top_k != 1:
        raise UsageError("--top-k is for the predicted classes: give it, or --target")
    if extra is not None and check:
        raise UsageError("--check runs the model on images alone: leave it out, or --extra")
    if explain_extra and extra is None:
        raise UsageError("--explain-extra explains the numbers of --extra table.csv: give it as well")
    if pair + words + (extra is not None) > 1:
        raise UsageError("--pair, --words and --extra do not go together: give one of them")
    if check and (pair or words):
        raise UsageError(f"--check is for maps of one image: leave it out, or {'--pair' if pair else '--words'}")
    if title is not None and html is None:
        raise UsageError("--title is the heading of the HTML report: give --html as well")
    methods = built(method or catalog.default_set(), options, layer, budget)
    if error and not any(isinstance(one, SampledMap) for one in methods):
        raise UsageError(
            "--error draws standard errors, and none of these methods draws anything at random: leave it out, or give "
            "one that does, such as -m rise"
        )
    check_device(device)
    if f".{format}" in FIGURES:
        check_matplotlib()
    photographs = Photographs.found(photos or (str(bundled_example()),))
    report = Report(photographs, output, format, scale, error, keep=html is not None)
    stopped: KeyboardInterrupt | None = None
    if photographs.paths:
        probe_folder(output)
        if html is not None:
            probe_folder(html.parent)
        keep_memory()
        loaded = loaded_model(model, weights, labels, device, output_kind, loading)
        if method is None and loaded.is_black_box:
            methods = built(catalog.default_set(black_box=True), options, layer, budget)
        photographs.narrow(loaded.reads)
        table = read_extra(extra, photographs.paths)
        wanted = parsed_targets(target, loaded)
        if wanted is not None and all(map(is_contrast, wanted)):
            methods = _signed(methods, method or [], options)
        asked = {"top_k": top_k, "format": format, "check": check, "scale": scale}
        other = _other_of(loaded, wanted) if pair else None
        if words:
            _check_texts(wanted)
        along: dict[str, Any] = {} if table is None else {"extra": table.digest}
        flags = {"pair": pair, "words": words, "explain extra": explain_extra, "error": error}
        along |= {name: True for name, given in flags.items() if given}
        report.records.question.update(asked_of_each(loaded, methods, wanted) | asked | along)
        if resume:
            report.resume()
        try:
            lenient = all(catalog.members(name) is not None for name in method or [])
            if other is not None:
                found = _pairs(report, loaded, methods, *other, lenient)
            else:
                items = _items(report, loaded, wanted, table, explain_extra)
                found = _explained(report, loaded, methods, items, top_k, lenient)
            if words:
                found = _with_words(report, loaded, found)
            _write_all(loaded, methods, found, report, check, quiet=json)
        except KeyboardInterrupt as error:
            stopped = error  # what is done until then is written all the same
    if html is not None and report.kept:
        write_report(report.kept, html, title=title)
        if not json:
            print(f"{html}: standalone HTML report")
    photographs.tell_failures()
    if json:
        print(dumps(report.as_json() | ({} if stopped is None else {"interrupted": True}), indent=2))
    if stopped is not None:
        raise stopped
    return photographs.exit_code(len(report.done))


def _signed(methods: list[Method], given: list[str], options: Any) -> list[Method]:
    """The methods of a contrast, why this class and not that one: without the ReLU, unless that was stated."""
    stated = options.grad_cam_relu is not None or any("relu" in text for text in given)
    if stated:
        return methods
    unsigned: dict[str, Any] = {"relu": False}
    return [replace(one, **unsigned) if hasattr(one, "relu") else one for one in methods]


def _items(
    report: Report,
    loaded: LoadedModel,
    target: tuple[Objective, ...] | None,
    table: ExtraTable | None,
    explained: bool,
) -> Iterator[Item]:
    """The images, each with its line of the table, which is explained or goes along; one without a line has failed."""
    for image in report.photographs.prepared(loaded):
        if table is None:
            yield Item(image, target)
            continue
        try:
            path = report.photographs.opened[image]
            item = (
                table.explained(loaded, image, path, target)
                if explained
                else Item(image, target, inputs=table.of(path))
            )
        except TargetError as error:
            report.photographs.fail(image, error)
        else:
            yield item


Showing = Callable[[Progress], Iterator[ImageOutcomes]]
"""Results one by one, which tell the method under way and the maps that are done of the images under way."""


def _explained(
    report: Report, loaded: LoadedModel, methods: list[Method], items: Iterator[Item], top_k: int, lenient: bool
) -> Showing:
    return lambda progress: explain_items(
        loaded,
        items,
        methods,
        top_k=top_k,
        lenient=lenient,
        progress=progress,
        on_error=lambda item, error: report.photographs.fail(item.image, error),
    )


def _check_texts(target: tuple[Objective, ...] | None) -> None:
    """Refuse targets that have no words.

    Raises:
        UsageError: if one is no text.
    """
    if target is None or not all(isinstance(one, Text) for one in target):
        raise UsageError("--words needs texts: --target 'text(\"a red car\")'")


def _with_words(report: Report, loaded: LoadedModel, images: Showing) -> Showing:
    """Each image with the words of its texts."""

    def found(progress: Progress) -> Iterator[ImageOutcomes]:
        for one in images(progress):
            try:
                yield with_words(loaded, one)
            except (ModelError, TargetError) as error:
                report.photographs.fail(one.image, error)

    return found


def _other_of(loaded: LoadedModel, target: tuple[Objective, ...] | None) -> tuple[Prepared, Measure]:
    """The image that the others are compared with, and how.

    Raises:
        UsageError: if the target is no similarity to an image.
        ImageError: if it cannot be opened.
    """
    only = target[0] if target is not None and len(target) == 1 else None
    if not isinstance(only, Similarity) or not isinstance(only.to, str) or only.layer is not None:
        raise UsageError("--pair needs one target, the other image: --target 'similarity(file(\"other.jpg\"))'")
    return loaded.prepare(only.to), only.measure


def _pairs(
    report: Report, loaded: LoadedModel, methods: list[Method], other: Prepared, measure: Measure, lenient: bool
) -> Showing:
    """Each image with the other one."""

    def found(progress: Progress) -> Iterator[ImageOutcomes]:
        for image in report.photographs.prepared(loaded):
            progress(image.name, 0)
            try:
                both = merged(*explain_both(loaded, image, other, methods, measure=measure, lenient=lenient))
            except (ModelError, TargetError) as error:
                report.photographs.fail(image, error)
                continue
            yield both
            if _is_partial(both):
                return

    return found


def _write_all(
    loaded: LoadedModel, methods: list[Method], found: Showing, report: Report, check: bool, quiet: bool
) -> None:
    """Explain image by image, writing the results and recording failures."""
    with warnings.catch_warnings(), progress_bar() as progress:
        # every warning is in the notes of its explanation, from which it is printed
        warnings.simplefilter("ignore", DeepVizWarning)
        total = report.photographs.total * len(methods)
        # shared results state of which weights they are
        known = {WEIGHTS: weights_hash(loaded.module)} if report.keep or report.format == "deepviz" else {}
        stopped = False
        try:
            for one in found(lambda what, done: progress.show(what, report.finished * len(methods) + done, total)):
                if known:
                    one = one.with_explanations([each.noting(known) for each in one.explanations])
                if check:
                    progress.show("checks", report.finished * len(methods), total)
                    one = one.with_explanations(checked(loaded, one.image, one.explanations))
                message = report.write(one)
                if not quiet:
                    progress.say(message)
                stopped = stopped or _is_partial(one)  # of images that went through the model together, all are
            if stopped:
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            done = f"interrupted: {len(report.done)} of {report.photographs.total} images are in {report.output}"
            raise KeyboardInterrupt(done) from None


def _is_partial(found: ImageOutcomes) -> bool:
    """Whether Ctrl-C ended the work in the middle of one of its maps."""
    return any(INTERRUPTED in each.notes for each in found.explanations)
