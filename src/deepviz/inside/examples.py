"""`dataset_examples`: which parts of which images activate a channel most."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from deepviz.diagnostics import warn
from deepviz.errors import ImageError, LayerError
from deepviz.files import encoded, write_picture
from deepviz.geometry import Geometry
from deepviz.inside.loading import (
    ImageLike,
    Model,
    asked,
    checked_channels,
    feature_maps,
    figure,
    on_its_device,
    picture_of,
    take_model,
)
from deepviz.inside.receptive import ReceptiveField, module_calls
from deepviz.models import LoadedModel, Prepared, find_photos
from deepviz.probe.borrow import borrowed
from deepviz.probe.call import Call
from deepviz.probe.capture import layer_name
from deepviz.probe.chunks import ROWS_WITHOUT_GRAPH
from deepviz.probe.layer_names import named, same_call
from deepviz.probe.layers import layer_title
from deepviz.probe.outputs import stated_kind

Box = tuple[float, float, float, float]
LARGEST = 256
"""Crops are kept with their longer side at most this, so that thousands of them fit into memory."""
SIDE, GAP, MARGIN, HEAD, LABEL = 128, 8, 20, 68, 110
INK, FAINT = "#16181d", "#6b7280"


@dataclass(frozen=True, eq=False)
class Example:
    """A part of an image that activates a channel.

    Args:
        crop: the part, at most 256 pixels long.
        value: the activation.
        source: name of the image.
        box: (left, top, right, bottom) of the part on the image, in its pixels.
        position: (row, column) on the layer's grid.
        whole: whether the part is all that the model saw, with the position marked, since the position may depend
            on all of it.
    """

    crop: Image.Image
    value: float
    source: str
    box: Box
    position: tuple[int, int]
    whole: bool

    def __repr__(self) -> str:
        return f"Example({self.value:.3g} in {self.source} at {tuple(round(side) for side in self.box)})"


@dataclass(frozen=True, eq=False)
class Examples:
    """The parts of the given images that activate the channels of a layer most.

    Args:
        found: for each channel its examples, strongest first, at most one per image; none where no image
            activates it (above zero).
        layer: its name.
        model: its name.
        field: what a position of the layer sees; None for the whole image.
        seen: the number of images that went through the model.
        skipped: (name, reason) of images that could not be read.
        complete: False if it was interrupted.
        title: the layer as people read it; see `Activations`.
    """

    found: Mapping[int, tuple[Example, ...]]
    layer: str
    model: str
    field: ReceptiveField | None
    seen: int
    skipped: tuple[tuple[str, str], ...] = ()
    complete: bool = True
    title: str | None = None

    @property
    def named(self) -> str:
        """The layer's name, with its title if that says more."""
        return named(self.layer, self.title)

    def __getitem__(self, channel: int) -> tuple[Example, ...]:
        """The examples of a channel, strongest first.

        Raises:
            LayerError: if the channel was not asked for.
        """
        if channel not in self.found:
            raise LayerError(f"channel {channel} was not asked for: there are {', '.join(map(str, self.found))}")
        return self.found[channel]

    def __iter__(self) -> Iterator[int]:
        return iter(self.found)

    def __len__(self) -> int:
        return len(self.found)

    def row(self, channel: int) -> Image.Image:
        """The examples of one channel side by side, each with its activation."""
        examples = self[channel]
        page = Image.new("RGB", (max(1, len(examples)) * (SIDE + GAP) - GAP, SIDE + 20), "white")
        draw = ImageDraw.Draw(page)
        for place, example in enumerate(examples):
            share = SIDE / max(example.crop.size)
            width, height = (max(1, round(share * length)) for length in example.crop.size)
            left = place * (SIDE + GAP)
            page.paste(
                example.crop.resize((width, height), Image.Resampling.LANCZOS),
                (left + (SIDE - width) // 2, (SIDE - height) // 2),
            )
            draw.text((left + SIDE // 2, SIDE + 3), f"{example.value:.3g}", FAINT, ImageFont.load_default(13), "ma")
        if not examples:
            draw.text((4, SIDE // 2), "no example", FAINT, ImageFont.load_default(13))
        return page

    def sheet(self) -> Image.Image:
        """A row per channel."""
        rows = [self.row(channel) for channel in self.found]
        head, large = f"{self.named}: what activates its channels most", ImageFont.load_default(20)
        least = max(520, round(large.getlength(head)))
        width = max(least, LABEL + max((row.width for row in rows), default=0)) + 2 * MARGIN
        page = Image.new("RGB", (width, HEAD + len(rows) * (SIDE + 32) + MARGIN), "white")
        draw = ImageDraw.Draw(page)
        draw.text((MARGIN, 12), head, INK, large)
        draw.text((MARGIN, 38), self._told, FAINT, ImageFont.load_default(13))
        for place, (channel, row) in enumerate(zip(self.found, rows, strict=True)):
            top = HEAD + place * (SIDE + 32)
            draw.text((MARGIN, top + SIDE // 2 - 8), f"channel {channel}", INK, ImageFont.load_default(15))
            page.paste(row, (MARGIN + LABEL, top))
        return page

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the sheet, .png or .jpg.

        Raises:
            OutputError: if the ending is another, or the file cannot be written.
        """
        return write_picture(Path(path), self.sheet())

    @property
    def _told(self) -> str:
        whole = self.field is None or any(one.whole for examples in self.found.values() for one in examples)
        size = "" if self.field is None else f"{' x '.join(map(str, self.field.size))} pixels"
        sees = f"the whole image{size and f' ({size})'}" if whole else f"{size} of the input"
        parts = [self.model, f"{self.seen} images", f"a position sees {sees}"]
        if self.skipped:
            parts.append(f"{len(self.skipped)} skipped")
        if not self.complete:
            parts.append("interrupted")
        return " · ".join(parts)

    def __repr__(self) -> str:
        return f"Examples({self.named}: {len(self.found)} channels, {self._told})"

    def _repr_png_(self) -> bytes:
        return encoded(self.sheet())

    def _repr_html_(self) -> str:
        return figure(self.sheet(), self.named, [self._told])


def dataset_examples(
    model: Model,
    layer: str | nn.Module,
    channels: Sequence[int],
    photos: str | os.PathLike[str] | Image.Image | Iterable[ImageLike],
    most: int = 9,
    *,
    progress: Callable[[int], object] | None = None,
    preprocess: Any = None,
) -> Examples:
    """The parts of images that activate channels of a layer most.

    Of each image counts the position where the channel is largest, and what that position sees of it (its
    receptive field), cut to what the model saw; where that is the whole image, the whole image with the position
    marked. Images that do not activate a channel (above zero) are no examples of it.

    Args:
        model: an `nn.Module`, a `LoadedModel`, a name ("timm:resnet50"), or None for the bundled model.
        layer: a name from `viz_layers`, or the module.
        channels: which channels.
        photos: a folder, a PIL image, or paths, PIL images, arrays or tensors, as many as you like: they are read one
            by one, and memory does not grow with their number.
        most: how many examples of each channel.
        progress: takes the number of images that are done.
        preprocess: as for `deepviz.explain`.

    An image that cannot be read is skipped, with a `DeepVizWarning` at the end. A KeyboardInterrupt ends the
    search, and what was found so far is returned with `complete=False`.

    Raises:
        LayerError: if there is no such layer or channel, or the layer has no spatial map.
        ImageError: if there is no image that can be read.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.Flatten(), nn.Linear(6 * 6, 2))
        >>> net[0].weight.data.fill_(1.0).item()
        1.0
        >>> photos = torch.zeros(2, 1, 6, 6)
        >>> photos[0, 0, 3, 4], photos[1, 0, 1, 2] = 5.0, 7.0
        >>> [(example.value, example.box) for example in dataset_examples(net, "0", [0], photos)[0]]
        [(7.0, (2.0, 1.0, 3.0, 2.0)), (5.0, (4.0, 3.0, 5.0, 4.0))]
    """
    if not isinstance(most, int) or most < 1:
        raise LayerError(f"most must be at least 1, and a whole number, got {most!r}")
    if isinstance(channels, int) or len(channels) == 0:
        raise LayerError(f"channels is a list of channels, at least one, got {channels!r}")
    if isinstance(photos, Image.Image):
        photos = [photos]
    loaded, call = take_model(model, preprocess=preprocess)
    search = _Search(call, layer_name(call.model, layer), list(dict.fromkeys(channels)), most)
    given = find_photos(photos, loaded.reads) if isinstance(photos, (str, os.PathLike)) else photos
    complete = True
    try:
        with borrowed(call.model):
            for batch in _batches(loaded, given, search.skipped):
                search.look_at(batch)
                if progress is not None:
                    progress(search.seen)
    except KeyboardInterrupt:
        complete = False
    if complete and not search.seen:
        raise ImageError(_nothing_read(search.skipped))
    if search.skipped:
        listed = "; ".join(reason for _, reason in search.skipped[:3]) + ("; ..." if len(search.skipped) > 3 else "")
        warn(f"skipped {len(search.skipped)} of {len(search.skipped) + search.seen} images: {listed}")
    field = next(iter(search.fields.values()), None)
    found = {channel: tuple(best) for channel, best in search.best.items()}
    return Examples(found, search.layer, loaded.name, field, search.seen, tuple(search.skipped), complete, search.title)


def _nothing_read(skipped: list[tuple[str, str]]) -> str:
    if not skipped:
        return "no image was given"
    return f"none of {len(skipped)} images could be read; the first: {skipped[0][1]}"


def _batches(
    loaded: LoadedModel, photos: Iterable[ImageLike], skipped: list[tuple[str, str]]
) -> Iterator[list[Prepared]]:
    """Images of equal size, as many as go through the model together; the unreadable ones into `skipped`."""
    batch: list[Prepared] = []
    for number, photo in enumerate(photos):
        try:
            prepared = loaded.prepare(photo)
        except ImageError as error:
            name = Path(photo).name if isinstance(photo, (str, os.PathLike)) else f"image {number + 1}"
            skipped.append((name, str(error)))
            continue
        if batch and (prepared.x.shape != batch[0].x.shape or len(batch) == ROWS_WITHOUT_GRAPH):
            yield batch
            batch = []
        batch.append(prepared)
    if batch:
        yield batch


@dataclass
class _Search:
    """The best examples so far."""

    call: Call
    layer: str
    channels: list[int]
    most: int
    seen: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)
    fields: dict[tuple[int, ...], ReceptiveField | None] = field(default_factory=dict)
    best: dict[int, list[Example]] = field(default_factory=dict)
    title: str | None = None

    def __post_init__(self) -> None:
        self.best = {channel: [] for channel in self.channels}

    def look_at(self, batch: list[Prepared]) -> None:
        x = on_its_device(torch.stack([image.x for image in batch]), self.call.model)
        _, _, maps = feature_maps(self.call, x, self.layer)
        self.channels = checked_channels(self.channels, maps.shape[1], self.layer)
        size = (x.shape[-2], x.shape[-1])
        if size not in self.fields:
            self.fields[size] = self._field(x[:1])
            self.title = layer_title(asked(self.call, x, stated_kind(self.call.model)), self.layer)
        peaks = maps[:, self.channels].flatten(2).max(2)
        for image, values, places in zip(batch, peaks.values.tolist(), peaks.indices.tolist(), strict=True):
            for channel, value, place in zip(self.channels, values, places, strict=True):
                if value > 0 and (len(self.best[channel]) < self.most or value > self.best[channel][-1].value):
                    position = divmod(place, maps.shape[3])
                    self._keep(
                        channel, _example(image, value, position, (maps.shape[2], maps.shape[3]), self.fields[size])
                    )
            self.seen += 1

    def _keep(self, channel: int, example: Example) -> None:
        best = self.best[channel]
        best.append(example)
        best.sort(key=lambda one: -one.value)  # stable: of equals, the one seen first stays ahead
        del best[self.most :]

    def _field(self, x: Tensor) -> ReceptiveField | None:
        calls = module_calls(self.call, x)
        return next((one.field for one in calls if same_call(self.layer, one.name)), None)


def _example(
    image: Prepared, value: float, position: tuple[int, int], grid: tuple[int, int], sees: ReceptiveField | None
) -> Example:
    """The part of the image that `position` sees."""
    height, width = image.x.shape[-2:]
    whole = sees is None or (sees.size[0] >= height and sees.size[1] >= width)
    if whole or sees is None:
        centre = _centre(position, grid, (height, width), sees)
        inside: Box = (0, 0, width, height)
    else:
        left, top, right, bottom = sees.box(*position)
        inside = (max(0, left), max(0, top), min(width, right), min(height, bottom))
    box = _on_photo(inside, (height, width), image.geometry)
    crop = picture_of(image).crop(_outward(box, image.geometry.size))
    crop.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    if whole:
        across, down, *_ = _on_photo((*centre, *centre), (height, width), image.geometry)
        _mark(crop, ((across - box[0]) / (box[2] - box[0]), (down - box[1]) / (box[3] - box[1])))
    return Example(crop, value, image.name, box, position, whole)


def _centre(
    position: tuple[int, int], grid: tuple[int, int], size: tuple[int, int], sees: ReceptiveField | None
) -> tuple[float, float]:
    """(x, y) in input pixels of the middle of what a position sees, or of its cell of the image."""
    row, column = position
    if sees is None:
        return (column + 0.5) / grid[1] * size[1], (row + 0.5) / grid[0] * size[0]
    left, top, right, bottom = sees.box(row, column)
    return min(max((left + right) / 2, 0), size[1]), min(max((top + bottom) / 2, 0), size[0])


def _on_photo(box: Box, size: tuple[int, int], geometry: Geometry) -> Box:
    """A box in input pixels as a box on the image, cut to it."""
    left, top, right, bottom = geometry.box
    across, down = (right - left) / size[1], (bottom - top) / size[0]
    x0, y0, x1, y1 = (left + box[0] * across, top + box[1] * down, left + box[2] * across, top + box[3] * down)
    width, height = geometry.size
    return max(0.0, x0), max(0.0, y0), min(float(width), x1), min(float(height), y1)


def _outward(box: Box, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The whole pixels that a box touches, at least one."""
    left, top = min(int(box[0]), size[0] - 1), min(int(box[1]), size[1] - 1)
    return left, top, max(left + 1, -int(-box[2] // 1)), max(top + 1, -int(-box[3] // 1))


def _mark(crop: Image.Image, place: tuple[float, float]) -> None:
    """A ring, white edged with black."""
    x, y = place[0] * crop.width, place[1] * crop.height
    radius = max(3.0, 0.07 * max(crop.size))
    draw = ImageDraw.Draw(crop)
    for grown, colour, width in ((1, "black", 4), (0, "white", 2)):
        r = radius + grown
        draw.ellipse((x - r, y - r, x + r, y + r), outline=colour, width=width)
