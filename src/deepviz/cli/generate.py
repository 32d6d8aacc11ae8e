"""`deepviz generate` and `deepviz dream`: feature visualisation and DeepDream."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import isnan
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from deepviz.catalog import options
from deepviz.cli import INPUT, INTERRUPTED, OK, PARTLY, UsageError
from deepviz.cli.model_options import (
    NOTHING_SAID_OF_CANVAS,
    CanvasLoadingOptions,
    Device,
    Labels,
    Model,
    OutputKind,
    Weights,
    check_device,
    loaded_model,
)
from deepviz.cli.photographs import bundled_example
from deepviz.cli.progress import progress_bar
from deepviz.cli.targets import parsed_targets
from deepviz.errors import DeepVizError, DeepVizWarning
from deepviz.objectives import parse
from deepviz.probe.memory import keep_memory
from deepviz.render.text import percent
from deepviz.synthesis import Channel, DeepDream, Generated, ImageGenerator, Step

GENERATOR = {option.name: option.help for option in options(ImageGenerator)}
DREAM = {option.name: option.help for option in options(DeepDream)}

Output = Annotated[Path, Parameter(alias="-o", help="Folder for the results.")]
Json = Annotated[bool, Parameter(negative="", help="Print the results as JSON.")]
FOLDER = Path("deepviz-out")


def generate(
    *classes: str,
    layer: Annotated[str | None, Parameter(help="Draw channels of this layer instead; see deepviz layers.")] = None,
    channels: Annotated[str | None, Parameter(help="Which channels of the layer: 3, or 0-15, or 1,5,9.")] = None,
    preset: Annotated[str, Parameter(help=GENERATOR["preset"])] = "lucid",
    steps: Annotated[int | None, Parameter(help=GENERATOR["steps"])] = None,
    lr: Annotated[float | None, Parameter(help=GENERATOR["lr"])] = None,
    seed: Annotated[int, Parameter(help=GENERATOR["seed"])] = 0,
    copies: Annotated[int, Parameter(help=GENERATOR["copies"])] = 1,
    size: Annotated[int | None, Parameter(help=GENERATOR["size"])] = None,
    start: Annotated[str | None, Parameter(help=GENERATOR["start"])] = None,
    every: Annotated[int | None, Parameter(help="Save an intermediate image every this many steps.")] = None,
    again: Annotated[Path | None, Parameter(help="Reproduce the images of this generated.json.")] = None,
    model: Model = None,
    weights: Weights = None,
    labels: Labels = None,
    device: Device = None,
    output_kind: OutputKind = "auto",
    output: Output = FOLDER,
    json: Json = False,
    loading: CanvasLoadingOptions = NOTHING_SAID_OF_CANVAS,
) -> int:
    """Generate feature visualisations: classes by label or index, expressions such as 'fox - wolf', or channels.

    Each image is written with a strip and an animation of its steps, and generated.json, with which --again reproduces
    all of them. The model is the bundled EfficientNet-Lite0 unless --model names another.
    """
    check_device(device)
    keep_memory()
    if every is not None and every < 1:
        raise UsageError(f"--every must be at least 1, got {every}")
    if again is not None:
        if classes or layer:
            raise UsageError("--again reproduces a record: it takes no classes and no layer")
        chosen = model or weights or labels or device or output_kind != "auto" or loading != NOTHING_SAID_OF_CANVAS
        given = loaded_model(model, weights, labels, device, output_kind, loading) if chosen else None
        generator = ImageGenerator.from_json(again, model=given)
    else:
        wanted = _channels(classes, layer, channels)
        loaded = loaded_model(model, weights, labels, device, output_kind, loading)
        with _usage_errors():
            generator = ImageGenerator(
                loaded,
                None if wanted else parsed_targets(classes, loaded),
                objective=wanted or None,
                preset=preset,
                steps=steps,  # type: ignore[arg-type]
                lr=lr,  # type: ignore[arg-type]
                seed=seed,
                copies=copies,
                size=size,
                start=start,
            )
    with notes_as_lines(), drawing() as show:
        generated = generator(output, every=every, progress=show)
    return _report(generated, output, json)


def dream(
    photo: str | None = None,
    *,
    layer: Annotated[str | None, Parameter(help=DREAM["layer"])] = None,
    target: Annotated[str | None, Parameter(help=DREAM["target"])] = None,
    octaves: Annotated[int, Parameter(help=DREAM["octaves"])] = DeepDream.octaves,
    octave_scale: Annotated[float, Parameter(help=DREAM["octave_scale"])] = DeepDream.octave_scale,
    steps: Annotated[int, Parameter(help=DREAM["steps"])] = DeepDream.steps,
    lr: Annotated[float, Parameter(help=DREAM["lr"])] = DeepDream.lr,
    side: Annotated[int | None, Parameter(help=DREAM["side"])] = None,
    seed: Annotated[int, Parameter(help=DREAM["seed"])] = 0,
    model: Model = None,
    weights: Weights = None,
    labels: Labels = None,
    device: Device = None,
    output_kind: OutputKind = "auto",
    output: Output = FOLDER,
    json: Json = False,
    loading: CanvasLoadingOptions = NOTHING_SAID_OF_CANVAS,
) -> int:
    """DeepDream: amplify a layer's activations, or a class's logit, on an image.

    Without an image the bundled example is used; the model is the bundled EfficientNet-Lite0 unless --model
    names another.
    """
    check_device(device)
    keep_memory()
    image = photo or bundled_example()
    loaded = loaded_model(model, weights, labels, device, output_kind, loading)
    with _usage_errors():
        dreamer = DeepDream(
            loaded,
            layer,
            target=None if target is None else parse(target, loaded.labels),
            octaves=octaves,
            octave_scale=octave_scale,
            steps=steps,
            lr=lr,
            side=side,
            seed=seed,
        )
    with notes_as_lines(), drawing() as show:
        generated = dreamer(image, output, progress=show)
    return _report(generated, output, json)


def channel_list(text: str) -> list[int]:
    """ "3", "0-15" or "1,5,9" as numbers.

    Raises:
        UsageError: if it is none of these.
    """
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise UsageError(f"--channels takes numbers such as 3, 0-15 or 1,5,9, got {text!r}")
        found.extend(range(int(match[1]), int(match[2] or match[1]) + 1))
    return found


@contextmanager
def notes_as_lines() -> Iterator[None]:
    """Warnings as lines on stderr, when all is done."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DeepVizWarning)
        yield
    for text in dict.fromkeys(str(one.message) for one in caught):
        print("deepviz: note:", text, file=sys.stderr)


@contextmanager
def drawing() -> Iterator[Callable[[Step], None]]:
    """Progress on stderr, with the mean probability (or score) of the last views."""
    with progress_bar("steps") as bar:
        smooth = 0.0

        def show(step: Step) -> None:
            nonlocal smooth
            chance = float(step.probabilities.mean())
            value = float(step.scores.mean()) if isnan(chance) else chance
            # the views are augmented at random, so the value of one step varies
            smooth = value if step.number == 1 else 0.9 * smooth + 0.1 * value
            bar.show(
                f"score {smooth:.3g}" if isnan(chance) else f"probability {percent(smooth)}", step.number, step.steps
            )

        yield show


def _channels(classes: tuple[str, ...], layer: str | None, channels: str | None) -> list[Channel]:
    """The channels to draw; none if classes are drawn.

    Raises:
        UsageError: if neither was given, or both.
    """
    if channels is not None and layer is None:
        raise UsageError("--channels are of a layer: give --layer too (see: deepviz layers)")
    if bool(classes) == bool(layer):
        raise UsageError(
            "nothing to generate: give classes, such as 'tiger cat' daisy 985, or --layer with --channels, and not both"
        )
    if layer is None:
        return []
    if channels is None:
        raise UsageError(f"give the channels of {layer}: --channels 0-15, or 1,5,9")
    return [Channel(layer, channel) for channel in channel_list(channels)]


@contextmanager
def _usage_errors() -> Iterator[None]:
    """A value out of range is a wrong command line, not a bug."""
    try:
        yield
    except DeepVizError:
        raise
    except ValueError as error:
        raise UsageError(str(error)) from error


def _report(generated: Generated, output: Path, json: bool) -> int:
    record = output / "generated.json"
    if json:
        print(record.read_text(encoding="utf-8"), end="")
    else:
        for row in range(len(generated.images)):
            print(generated.caption(row))
        print(f"  {len(generated.images)} images, their strips and animations, and {record}")
    for text in generated.notes:
        print("deepviz: note:", text, file=sys.stderr)
    if generated.complete:
        if all(generated.still):
            return INPUT
        return PARTLY if any(generated.still) or any(generated.missed) else OK
    print(f"deepviz: interrupted at step {len(generated.scores)}; its images are in {output}", file=sys.stderr)
    return INTERRUPTED
