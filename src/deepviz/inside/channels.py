"""`viz_channels`: feature visualisations of channels beside the images that activate them most."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from torch import nn

from deepviz.errors import LayerError
from deepviz.files import encoded, write_picture
from deepviz.inside.examples import Examples, dataset_examples
from deepviz.inside.loading import ImageLike, Model, figure, take_model
from deepviz.probe.capture import layer_name
from deepviz.synthesis import Channel, Generated, ImageGenerator, Step

SIDE, GAP, MARGIN, HEAD, LABEL = 148, 12, 20, 68, 110
INK, FAINT = "#16181d", "#6b7280"


@dataclass(frozen=True, eq=False)
class Channels:
    """Channels of a layer: for each a generated image, and the parts of images that activate it most.

    Args:
        layer: its name.
        channels: which, in the order asked for.
        generated: an image for each.
        examples: from images; None if none were given.
    """

    layer: str
    channels: tuple[int, ...]
    generated: Generated
    examples: Examples | None

    @property
    def named(self) -> str:
        """The layer's name, with its title if that says more and images were given."""
        return self.layer if self.examples is None else self.examples.named

    def sheet(self) -> Image.Image:
        """A row per channel (without images, the images alone)."""
        if self.examples is None:
            return self.generated.sheet()
        rows = [self.examples.row(channel) for channel in self.channels]
        left = MARGIN + LABEL + SIDE + GAP
        page = Image.new(
            "RGB", (left + max(400, *(row.width for row in rows)) + MARGIN, HEAD + len(rows) * (SIDE + GAP)), "white"
        )
        draw = ImageDraw.Draw(page)
        draw.text((MARGIN, 12), f"{self.named}: feature visualisations", INK, ImageFont.load_default(20))
        told = f"generated image, then the strongest of {self.examples.seen} images · {self.generated.model}"
        draw.text((MARGIN, 38), told, FAINT, ImageFont.load_default(13))
        for place, (channel, image, row) in enumerate(zip(self.channels, self.generated.images, rows, strict=True)):
            top = HEAD + place * (SIDE + GAP)
            draw.text((MARGIN, top + SIDE // 2 - 8), f"channel {channel}", INK, ImageFont.load_default(15))
            page.paste(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS), (MARGIN + LABEL, top))
            page.paste(row, (left, top))
        return page

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the sheet, .png or .jpg.

        Raises:
            OutputError: if the ending is another, or the file cannot be written.
        """
        return write_picture(Path(path), self.sheet())

    def __repr__(self) -> str:
        return f"Channels({self.named}: {', '.join(map(str, self.channels))}; {self.examples})"

    def _repr_png_(self) -> bytes:
        return encoded(self.sheet())

    def _repr_html_(self) -> str:
        return figure(self.sheet(), f"{self.named}: feature visualisations", [self.generated.model])


def viz_channels(
    model: Model,
    layer: str | nn.Module,
    channels: Sequence[int],
    photos: str | os.PathLike[str] | Iterable[ImageLike] | None = None,
    *,
    most: int = 6,
    preprocess: Any = None,
    progress: Callable[[Step | int], object] | None = None,
    drawn: Callable[[Step], object] | None = None,
    looked: Callable[[int], object] | None = None,
    **options: Any,
) -> Channels:
    """Feature visualisations of a layer's channels, beside the image patches that activate each most.

    Args:
        model: an `nn.Module`, a `LoadedModel`, a name ("timm:resnet50"), or None for the bundled model.
        layer: a name from `viz_layers`, or the module.
        channels: which channels.
        photos: a folder, or images (see `dataset_examples`); None: only drawn.
        most: how many parts of images for each channel.
        preprocess: as for `deepviz.explain`.
        progress: called with the number of images that have been searched, and then with each `Step` of the generation.
        drawn: deprecated: use `progress`.
        looked: deprecated: use `progress`.
        options: of `ImageGenerator`, such as preset, steps or seed.

    A KeyboardInterrupt ends the part that is under way, and what there is, is returned.

    Pitfall: a channel is not a concept. Many answer to several unlike things, and the drawn image shows one;
    the images are only as varied as the folder.

    Raises:
        LayerError: if there is no such layer or channel, none is asked for, or the layer has no channels.
        ImageError: if there is no image that can be read.
        TypeError: for an option that is not this function's to choose.

    Example:
        >>> import deepviz, torch
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 14 * 14, 2))
        >>> photos = [deepviz.example_photo()]
        >>> found = viz_channels(net, "1", [0, 3], photos, preprocess=deepviz.Preprocess(16), steps=2)
        >>> found.channels, len(found.generated.images), list(found.examples)
        ((0, 3), 2, [0, 3])
    """
    if drawn is not None or looked is not None:
        warnings.warn("drawn= and looked= are deprecated: use progress=", DeprecationWarning, stacklevel=2)
    loaded, call = take_model(model, preprocess=preprocess)
    name = layer_name(call.model, layer)
    if isinstance(channels, int) or not len(channels):
        raise LayerError(f"channels takes a list of at least one channel, such as [0, 3], got {channels!r}")
    if taken := options.keys() & {"objective", "copies"}:
        raise TypeError(f"viz_channels draws one image for each channel: leave out {', '.join(sorted(taken))}")
    wanted = tuple(dict.fromkeys(channels))
    generator = ImageGenerator(loaded, objective=[Channel(name, channel) for channel in wanted], **options)
    examples = None
    if photos is not None:
        # first: it is quick, and refuses what cannot be
        examples = dataset_examples(loaded, name, wanted, photos, most, progress=looked or progress)
    return Channels(name, wanted, generator(progress=drawn or progress), examples)
