"""`deepviz sanity`: what is left of each method's map when the network's weights are random."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from json import dumps
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from deepviz import catalog
from deepviz.cli import INPUT, UsageError
from deepviz.cli.method_options import MethodOptions, built
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
from deepviz.cli.photographs import Photographs, listed, own_name, stem
from deepviz.cli.progress import progress_bar
from deepviz.cli.records import asked, own_folder
from deepviz.cli.targets import Target, parsed_targets
from deepviz.cli.truth import Truth, read_truth
from deepviz.errors import DeepVizWarning, MissingExtra, OutputError, TargetError
from deepviz.files import probe_folder, write_bytes, write_picture
from deepviz.methods import Method
from deepviz.models import LoadedModel, example_photo
from deepviz.objectives import Objective
from deepviz.probe.memory import keep_memory
from deepviz.probe.seeds import check_seed
from deepviz.render.figure import as_png
from deepviz.results.identity import captions
from deepviz.results.sanity import RandomizationResult, Sanity
from deepviz.runs.asked import Item
from deepviz.runs.sanity import STAGES, Randomization, randomize_items
from deepviz.runs.truth import GroundTruth
from deepviz.runs.verdicts import remember

NOTHING_GIVEN = MethodOptions()


def sanity(
    *photos: str,
    model: Model = None,
    weights: Weights = None,
    method: Annotated[
        list[str] | None,
        Parameter(alias="-m", negative="", help=f"Method to check, repeat for several: {', '.join(catalog.METHODS)}."),
    ] = None,
    target: Target = None,
    labels: Labels = None,
    truth: Truth = None,
    stages: Annotated[int, Parameter(help="Number of steps in which the layers are randomised.")] = STAGES,
    mode: Annotated[
        Literal["cascading", "independent"],
        Parameter(help="Cascading: from the output down; independent: the layers of one step at a time."),
    ] = "cascading",
    seed: Annotated[int, Parameter(help="Seed of the random weights.")] = 0,
    layer: Annotated[str | None, Parameter(help="Layer for the methods that take one; see deepviz layers.")] = None,
    device: Device = None,
    output_kind: OutputKind = "auto",
    output: Annotated[Path, Parameter(alias="-o", help="Folder for the results.")] = Path("deepviz-out"),
    json: Annotated[bool, Parameter(negative="", help="Print the results as JSON.")] = False,
    loading: LoadingOptions = NOTHING_SAID,
    options: Annotated[MethodOptions, Parameter(name="*")] = NOTHING_GIVEN,  # type: ignore[valid-type]
) -> int:
    """Check whether the methods' maps depend on what the network has learned (Adebayo et al. 2018).

    PHOTOS are files or folders; without any, the bundled example image is used. Writes a strip of maps
    for each image and target, the curves of all and sanity.json. The verdicts are saved for deepviz explain --check.
    """
    if stages < 1:
        raise UsageError(f"--stages must be at least 1, got {stages}")
    try:
        check_seed(seed)
    except ValueError as error:
        raise UsageError(f"--{error}") from None
    methods = built(method or catalog.default_set(), options, layer)
    check_device(device)
    classes, names = read_truth(truth, labels, target)
    if not photos:
        print("deepviz: no image given; using the bundled example", file=sys.stderr)
    photographs = Photographs.found(photos or (str(example_photo()),))
    examined: list[RandomizationResult] = []
    if photographs.paths:
        probe_folder(output)
        keep_memory()
        loaded = loaded_model(model, weights, names, device, output_kind, loading)
        targets = parsed_targets(target, loaded)
        output = own_folder(
            output,
            "sanity",
            asked(loaded, methods, photographs, targets, classes) | {"stages": stages, "mode": mode, "seed": seed},
        )
        items = _items(photographs, loaded, targets, classes)
        written: list[Path] = []
        try:
            _examine(loaded, photographs, items, methods, stages, mode == "cascading", seed, output, examined, written)
        except KeyboardInterrupt:
            if examined:
                found = Sanity.of(loaded, methods, examined, mode == "cascading", seed)
                written += _write(found, output)
                if json:
                    print(dumps(found.as_json() | {"failed": photographs.failed, "interrupted": True}, indent=2))
            raise KeyboardInterrupt(
                f"interrupted after {_images(examined)} of {photographs.total} images"
                + (f": {listed(written)}" if written else "")
            ) from None
        if examined:
            found = Sanity.of(loaded, methods, examined, mode == "cascading", seed)
            written += _write(found, output)
            if json:
                print(dumps(found.as_json() | {"failed": photographs.failed}, indent=2))
            else:
                print(f"{found}\n\n{listed(written)}")
            if mode == "cascading":
                _remember(found)
    photographs.tell_failures()
    return photographs.exit_code(len(examined)) if examined else INPUT


def _items(
    photographs: Photographs,
    loaded: LoadedModel,
    targets: tuple[Objective, ...] | None,
    classes: GroundTruth | None,
) -> Iterator[Item]:
    """Each image with what is explained of it; one whose class is not known has failed."""
    for image in photographs.prepared(loaded):
        path = photographs.opened[image]
        try:
            of = targets if classes is None else classes.targets(path, photographs.folders[path], loaded.labels)
        except TargetError as error:
            photographs.fail(image, error)
            continue
        yield Item(image, of)


def _examine(
    loaded: LoadedModel,
    photographs: Photographs,
    items: Iterable[Item],
    methods: list[Method],
    stages: int,
    cascading: bool,
    seed: int,
    output: Path,
    examined: list[RandomizationResult],
    written: list[Path],
) -> None:
    """Examine image by image, writing the strip of each."""
    taken: dict[Path, set[str]] = {}
    each = len(methods) * (stages + 1)
    with warnings.catch_warnings(), progress_bar() as progress:
        warnings.simplefilter("ignore", DeepVizWarning)
        total = photographs.total * each

        def step(what: str, done: int) -> None:
            finished = (_images(examined) + len(photographs.failed)) * each
            progress.show(what, finished + done, total)

        for one in randomize_items(
            loaded,
            items,
            methods,
            Randomization(stages, cascading, seed),
            progress=step,
            on_error=lambda item, error: photographs.fail(item.image, error),
        ):
            if one.image in photographs.opened:  # further targets of the same image follow it
                path = photographs.close(one.image)
            strip = Sanity.of(loaded, methods, [one], cascading).strip()
            inside = photographs.folders[path]
            name = own_name(stem(path), taken.setdefault(inside, set()))
            written.append(write_picture(output / inside / f"{name}_sanity.png", strip))
            examined.append(one)
    left_out = {
        f"{name}: {missing.reason}"
        for one in examined
        for name, missing in zip(captions(methods, one.layers), one.missing, strict=True)
        if missing is not None
    }
    for text in sorted(left_out):
        print(f"deepviz: left out: {text}", file=sys.stderr)


def _images(examined: Sequence[RandomizationResult]) -> int:
    """Of how many images the results are, which may be of several targets each."""
    return len({one.image for one in examined})


def _write(found: Sanity, output: Path) -> list[Path]:
    files = [write_bytes(output / "sanity.json", dumps(found.as_json(), indent=1).encode())]
    try:
        files.append(write_bytes(output / "sanity_curves.png", as_png(found.plot())))
    except MissingExtra as error:
        print(f"deepviz: no sanity_curves.png: {error}", file=sys.stderr)
    return files


def _remember(found: Sanity) -> None:
    try:
        remember(found)
    except OutputError as error:
        print(f"deepviz: the verdicts were not saved: {error}", file=sys.stderr)
