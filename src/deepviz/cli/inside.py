"""`deepviz activations`, `attention`, `channels` and `filters`: what the inner layers look like."""

from __future__ import annotations

import re
import sys
import warnings
from json import dumps
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from deepviz.cli import INTERRUPTED, OK, PARTLY, UsageError
from deepviz.cli.generate import FOLDER, GENERATOR, Json, Output, channel_list, drawing
from deepviz.cli.model_options import NOTHING_SAID, Device, LoadingOptions, Model, Weights, check_device, loaded_model
from deepviz.cli.photographs import bundled_example, stem
from deepviz.cli.progress import progress_bar
from deepviz.errors import DeepVizWarning
from deepviz.files import probe_folder
from deepviz.inside import viz_activations, viz_attention, viz_channels, viz_filters
from deepviz.models import find_images
from deepviz.models.images import FoundImages
from deepviz.probe.memory import keep_memory

Layer = Annotated[str, Parameter(help="A layer; see deepviz layers.")]


def activations(
    photo: str | None = None,
    *,
    layer: Layer,
    channels: Annotated[
        str | None, Parameter(help="Which channels: 3, 0-15 or 1,5,9; by default the strongest.")
    ] = None,
    model: Model = None,
    weights: Weights = None,
    device: Device = None,
    output: Output = FOLDER,
    json: Json = False,
    loading: LoadingOptions = NOTHING_SAID,
) -> int:
    """Show a layer's feature maps for an image, the strongest channels first, each overlaid on the image."""
    path = Path(photo) if photo else bundled_example()
    wanted = None if channels is None else channel_list(channels)
    check_device(device)
    probe_folder(output)
    found = viz_activations(loaded_model(model, weights, device=device, loading=loading), path, layer, wanted)
    page = found.save(output / f"{stem(path)}_{_file_name(found.layer)}.png")
    strengths = {channel: float(found.strengths[channel]) for channel in found.order}
    if json:
        print(dumps({"layer": found.layer, "file": str(page), "strengths": strengths}, indent=2))
    else:
        best = ", ".join(f"{channel} ({strength:.3g})" for channel, strength in list(strengths.items())[:5])
        print(f"{path.name}, {found.named}: strongest channels {best}\n  {page}")
    return OK


def attention(
    photo: str | None = None,
    *,
    layer: Annotated[
        str | None, Parameter(help="A layer of attention, or a block with one; by default all, a map for each.")
    ] = None,
    head: Annotated[
        int | None, Parameter(help="One head; by default the mean over heads and, of a single layer, every head.")
    ] = None,
    at: Annotated[
        str | None,
        Parameter(
            help="Whose row: a patch by row and column, such as 3,5, or a token by its position, such as 0; by default "
            "the class token, or the patch in the middle."
        ),
    ] = None,
    model: Model = None,
    weights: Weights = None,
    device: Device = None,
    output: Output = FOLDER,
    json: Json = False,
    loading: LoadingOptions = NOTHING_SAID,
) -> int:
    """Show what a patch or token of a transformer attends to, by layer and head, overlaid on the image."""
    path = Path(photo) if photo else bundled_example()
    place = None if at is None else _place(at)
    check_device(device)
    probe_folder(output)
    found = viz_attention(loaded_model(model, weights, device=device, loading=loading), path, layer, place)
    drawn = list(found.matrices)
    of = f"_{_file_name(drawn[0])}" if len(drawn) == 1 else ""
    page = found.save(output / f"{stem(path)}{of}_attention.png", head)
    if json:
        rows = {
            name: {
                "of": found.called(None, name),
                "image": found.row_of(None, head, name).tolist(),
                "special": found.on_special(None, head, name),
            }
            for name in drawn
        }
        told = {"layers": found.layers, "grid": found.grid.size, "head": head, "rows": rows, "file": str(page)}
        print(dumps(told, indent=2))
    else:
        which = "mean over heads" if head is None else f"head {head}"
        print(f"{path.name}, {found.named}: {found.told}, {which}\n  {page}")
    return OK


def _place(text: str) -> tuple[int, int] | int:
    """ "3,5" or "0" as a patch or a token's position.

    Raises:
        UsageError: if it is neither.
    """
    match = re.fullmatch(r"\s*(\d+)\s*(?:,\s*(\d+)\s*)?", text)
    if match is None:
        raise UsageError(f"--at takes a patch such as 3,5 or a token such as 0, got {text!r}")
    return int(match[1]) if match[2] is None else (int(match[1]), int(match[2]))


def channels(
    *,
    layer: Layer,
    channels: Annotated[str, Parameter(help="Which channels: 3, 0-15 or 1,5,9.")] = "0-7",
    photos: Annotated[list[str] | None, Parameter(negative="", help="Files or folders to search.")] = None,
    most: Annotated[int, Parameter(help="Number of image patches for each channel.")] = 6,
    preset: Annotated[str, Parameter(help=GENERATOR["preset"])] = "lucid",
    steps: Annotated[int | None, Parameter(help=GENERATOR["steps"])] = None,
    seed: Annotated[int, Parameter(help=GENERATOR["seed"])] = 0,
    model: Model = None,
    weights: Weights = None,
    device: Device = None,
    output: Output = FOLDER,
    json: Json = False,
    loading: LoadingOptions = NOTHING_SAID,
) -> int:
    """Visualise a layer's channels: generated images beside the image patches that activate them most."""
    keep_memory()
    wanted = channel_list(channels)
    given = FoundImages() if photos is None else find_images(photos)
    paths = None if photos is None else given.paths
    check_device(device)
    probe_folder(output)
    loaded = loaded_model(model, weights, device=device, loading=loading)
    with warnings.catch_warnings(), drawing() as drawn, progress_bar("images") as searched:
        # what was skipped is printed below
        warnings.simplefilter("ignore", DeepVizWarning)
        found = viz_channels(
            loaded,
            layer,
            wanted,
            paths,
            most=most,
            preset=preset,
            steps=steps,
            seed=seed,
            progress=lambda done: (
                searched.show("images", done, len(paths or ())) if isinstance(done, int) else drawn(done)
            ),
        )
    page = found.save(output / f"{_file_name(found.layer)}_channels.png")
    skipped = () if found.examples is None else found.examples.skipped
    if json:
        print(
            dumps({"layer": found.layer, "channels": found.channels, "file": str(page), "skipped": skipped}, indent=2)
        )
    else:
        print(f"{found.named}: {len(found.channels)} channels\n  {page}")
    for name, reason in skipped:
        print("deepviz:", reason if name in reason else f"{name}: {reason}", file=sys.stderr)
    for text in filter(None, [*given.unreadable.values(), given.skipped_in_words]):
        print("deepviz:", text, file=sys.stderr)
    if not found.generated.complete or (found.examples is not None and not found.examples.complete):
        print(f"deepviz: interrupted; the channels and patches found so far are in {page}", file=sys.stderr)
        return INTERRUPTED
    return PARTLY if skipped else OK


def filters(
    *,
    layer: Annotated[str | None, Parameter(help="A layer; by default the first one applied to the pixels.")] = None,
    model: Model = None,
    weights: Weights = None,
    device: Device = None,
    output: Output = FOLDER,
    loading: LoadingOptions = NOTHING_SAID,
) -> int:
    """Show first-layer filters: the kernels of the layer that is applied to the pixels."""
    check_device(device)
    probe_folder(output)
    found = viz_filters(loaded_model(model, weights, device=device, loading=loading, images=False), layer)
    page = found.save(output / f"{_file_name(found.layer)}_filters.png")
    print(f"{found.layer}: {len(found.kernels)} kernels\n  {page}")
    return OK


def _file_name(layer: str) -> str:
    return layer.replace("#", "-").strip(".") or "model"
