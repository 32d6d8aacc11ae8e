"""The result: one image, one target, one method, and its views."""

from __future__ import annotations

import base64
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from html import escape
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from deepviz import catalog
from deepviz.diagnostics import ERROR, NO_CLASS, OBJECTIVE
from deepviz.errors import OutputError
from deepviz.files import PICTURES, encoded, write_bytes, write_picture
from deepviz.geometry import Geometry
from deepviz.methods.method import Method, View, drawn_values
from deepviz.objectives import Function, Objective, Output, Region
from deepviz.objectives.record import HELD
from deepviz.render import Scale, Tile, colour_bar, fitted, grey, place, resized
from deepviz.render import heatmap as draw_heatmap
from deepviz.render import overlay as draw_overlay
from deepviz.render import sheet as draw_sheet
from deepviz.render.bars import bar_chart
from deepviz.render.boxes import BoxOf, DrawnBox, boxed
from deepviz.render.colour import colour_table
from deepviz.render.figure import FIGURES, as_vectors, figure, font_families
from deepviz.render.outline import outlined
from deepviz.render.sheet import MOST_PREDICTIONS, framed
from deepviz.render.slices import (
    MAIN_BOX,
    PLANE_BOX,
    STRIP_BOX,
    WIDE_BOX,
    apart,
    composed,
    crossed,
    evenly_spaced,
    is_coloured,
    largest_in,
    played,
    playing_size,
    side_by_side,
    slice_picture,
    slice_with_most,
    spacing_of,
    strongest_voxel,
    true_to_scale,
)
from deepviz.render.text import drawable, percent, spelled
from deepviz.render.words import Field, on_fields

Picture = Literal["overlay", "heatmap", "grey", "error"]
Layout = Literal["image", "slices", "signal", "table", "words"]
"""How values lie on a picture: (C, H, W) as they are; (C, D, H, W) slice by slice; (C, L) along a line; those of a
text's tokens on its words; anything else as bars."""
ARRAYS = (".npz", ".safetensors")
GIF = ".gif"
SHOWN = "shown"
"""The note of a map that is not of values but, as it says, of their standard errors."""
PAIR = "pair"
"""The note with the names of two images, of maps of what makes them similar."""
LARGEST_REPR = 250_000
"""Bytes of a picture in a notebook, which is saved with all of its outputs."""
THINNEST = 16
"""Pixels of a side of a picture that is written to a file, at least: less cannot be seen."""
NARROWEST = 6
"""Pixels of a side of what the model saw, at least, where the image is drawn at another size."""


@dataclass(frozen=True)
class ExplainedTarget:
    """What was explained: a class or another objective, with its value.

    Args:
        index: the class, or 0 for a model's only number; None for any other objective.
        label: the name of the class, "class 281" where the model's labels are unknown; else the objective in words.
        probability: of the class, or of the objective if that is a `Probability`; else None.
        score: the value that was explained: of a class its logit, or what the model returns in its place. None if it
            was read from a file of 0.1, which had none for callables.
        function: the callable itself, if the target is one, so that two of the same name are two targets; None if it
            was read from a file.
        objective: what was explained, as a value that can be given as `target` again.
        box: of a detection, or a part of a map of numbers, (left, top, right, bottom) in pixels of the image.
    """

    index: int | None
    label: str
    probability: float | None
    score: float | None
    function: Callable[[Any], Tensor] | None = field(default=None, repr=False, hash=False)
    objective: Objective | None = field(default=None, repr=False)
    box: BoxOf | None = None

    @property
    def drawn(self) -> ExplainedTarget:
        """The same with the number of the class where no font at hand can draw its label."""
        if self.index is None or drawable(self.label):
            return self
        return replace(self, label=f"class {self.index}")

    def as_json(self) -> dict[str, Any]:
        """As plain values for JSON; of a callable its name, marked "held a callable"."""
        plain = {"index": self.index, "label": self.label, "probability": self.probability, "score": self.score}
        said: dict[str, Any] = {} if self.objective is None else {"objective": str(self.objective)}
        said |= {} if self.box is None else {"box": list(self.box)}
        return plain | said | ({HELD: True} if self.holds_callable else {})

    @property
    def holds_callable(self) -> bool:
        """Whether a callable is, or is part of, what was explained: only its name can be stored."""
        parts = () if self.objective is None else self.objective.parts()
        return self.function is not None or any(isinstance(part, Function) for part in parts)

    def __str__(self) -> str:
        if self.probability is not None:
            return f"{self.label} {percent(self.probability)}"
        units = f" {self.objective.units}" if isinstance(self.objective, Output) and self.objective.units else ""
        return self.label if self.score is None else f"{self.label}: {self.score:.3g}{units}"


class Detected(NamedTuple):
    """One detection of an image, with its box (left, top, right, bottom) in pixels of the image."""

    label: str
    score: float
    box: BoxOf


class Word(NamedTuple):
    """One word of an explained text: how many tokens form it, and where it stands on the picture of the text.

    What stands for no part of the text is a word too: "[start]", "[end]", "[padding]".
    """

    text: str
    tokens: int
    field: Field


@dataclass(frozen=True, eq=False)
class Explanation:
    """The map of one method for one target in one image.

    Args:
        attribution: raw signed values, float32 on the CPU: (C, H, W) in the model's input, or (1, h, w) at the
            layer's own resolution; (C, L) of a signal, (C, D, H, W) of a volume or clip, (F,) of a table, (1, L) of a
            text, with a value for each token.
        image: the original image, upright; or the model's own input, drawn: of a volume or clip all slices or frames,
            side by side; or the text.
        geometry: where the model's input lies on `image`.
        method: the method, with its options.
        target: class, label, probability, score.
        model: name of the model, and of its weights.
        source: name of the image.
        notes: what was found out on the way: "layer" and "grid", "overridden", "completeness gap",
            "standard error", "warnings", "weights" if they are random, and what was done to the image.
        versions: of deepviz and torch.
        space: the spatial shape of the model's input, if it is no image: (L,), or (D, H, W).
        input: which of several explained inputs it is of, "x[1]" or "x['left']"; "" if there is one alone.
        predictions: (label, probability) of the model's best classes for the image, best first; empty if it predicts
            none.
        detections: what a detector found in the image, best first.
        columns: the names of a table's columns, if they are known.
        words: of a text, its words in order.
        standard_error: of a method that draws at random, that of each value of `attribution`.
    """

    attribution: Tensor
    image: Image.Image
    geometry: Geometry
    method: Method
    target: ExplainedTarget
    model: str
    source: str
    notes: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    space: tuple[int, ...] | None = None
    input: str = ""
    predictions: tuple[tuple[str, float], ...] = ()
    detections: tuple[Detected, ...] = ()
    columns: tuple[str, ...] = ()
    words: tuple[Word, ...] = ()
    standard_error: Tensor | None = None

    @property
    def layer(self) -> str | None:
        """The layer that was explained, for layer methods."""
        return self.notes.get("layer")

    @property
    def layer_title(self) -> str | None:
        """The layer as people read it: "ReLU6 after conv_head" where its name, "act#2", says little."""
        return self.notes.get("layer title", self.layer)

    @property
    def signed(self) -> bool:
        """Whether the drawn values have a sign: as the method's do, and those of a table, which has no channels to take
        the largest magnitude of."""
        return self.view == "sum" or (self.layout == "table" and self.view == "magnitude")

    @cached_property
    def values(self) -> NDArray[np.float32]:
        """The map that is drawn, (H, W) or (h, w); the maximum of |.| or the sum over channels, or as it is.

        Of a volume all slices, side by side; of a signal or table one row; of a text the values of its words, at the
        pixels of its picture.
        """
        if self.layout == "words":
            values = [value for _, value in self.word_values]
            return on_fields(self.image, [word.field for word in self.words], values)
        if self.layout == "table":
            return self.attribution.reshape(1, -1).numpy()
        if self.layout == "slices":
            return side_by_side(self.volume)
        drawn = drawn_values(self.attribution, self.view).numpy()
        return drawn[None] if self.layout == "signal" else drawn

    @cached_property
    def volume(self) -> NDArray[np.float32]:
        """The drawn values of all slices or frames, (D, H, W), or (D, h, w) of a layer, linear between its cells along
        the depth.

        Raises:
            OutputError: if the map is of no volume or clip.
        """
        return drawn_values(self._slices, self.view).numpy()

    @cached_property
    def _slices(self) -> Tensor:
        """The attribution of all slices, (C, D, h, w)."""
        return self._to_space(self.attribution.shape[2:])

    def _to_space(self, plane: Sequence[int]) -> Tensor:
        """The attribution (C, D, *plane), linear between the cells of a layer."""
        space = (self.depth, *plane)
        maps = self.attribution
        if tuple(maps.shape[1:]) == space:
            return maps
        return F.interpolate(maps[None], space, mode="trilinear", align_corners=False)[0]

    @property
    def depth(self) -> int:
        """How many slices or frames it has.

        Raises:
            OutputError: if the map is of no volume or clip.
        """
        if self.layout != "slices":
            raise OutputError(f"{self.title} of {self.source} is of no volume or clip: it has no slices")
        return self.attribution.shape[1] if self.space is None else self.space[0]

    @cached_property
    def best_slice(self) -> int:
        """The slice or frame with the most evidence: the largest sum of the magnitudes of its drawn values; the middle
        one of a map that is zero everywhere."""
        return slice_with_most(self.volume)

    @cached_property
    def is_clip(self) -> bool:
        """Whether the slices are the frames of a clip: whether their picture is in colour, as three channels are drawn.

        Volumes of any other number of channels are drawn in grey.
        """
        return self.layout == "slices" and is_coloured(self.image)

    @property
    def slice_kind(self) -> str:
        """ "frame" of a clip, else "slice"."""
        return "frame" if self.is_clip else "slice"

    def slice_at(self, index: int, axis: int = 0) -> Explanation:
        """One slice or frame as an explanation of a flat image, which is drawn like any other.

        Its pixels have their true proportions if the image states the distance of its voxels, `image.info["spacing"]`.

        Args:
            index: which, from 0.
            axis: 0 for a slice (H, W), 1 for a cut (D, W) across all of them, 2 for a cut (D, H).

        Raises:
            OutputError: if the map is of no volume or clip.
            IndexError: if there is no such slice.

        Example:
            >>> import deepviz, torch
            >>> net = torch.nn.Sequential(torch.nn.Conv3d(1, 3, 3), torch.nn.AdaptiveAvgPool3d(1), torch.nn.Flatten())
            >>> one = deepviz.viz_backprop(net, torch.rand(1, 1, 6, 8, 10))[0]
            >>> one.slice_at(2).image.size, one.slice_at(0, axis=1).image.size
            ((10, 8), (10, 6))
        """
        shape, (width, height) = self._space, self._slice_size
        if not 0 <= index < shape[axis]:
            raise IndexError(f"there is no slice {index} along axis {axis} of {' x '.join(map(str, shape))}")
        if axis == 0:
            maps, picture = self._slices, slice_picture(self.image, index, shape[0])
        else:
            maps = self._to_space(shape[1:])
            pixel = int((index + 0.5) / shape[axis] * (height, width)[axis - 1])
            cut = Image.fromarray(apart(np.asarray(self.image), shape[0]).take(pixel, axis))
            d, h, w = spacing_of(self.image) or (1.0, 1.0, 1.0)
            picture = true_to_scale(cut, ((w, d), (h, d))[axis - 1])
        return replace(
            self,
            attribution=maps.select(1 + axis, index).contiguous(),
            standard_error=None,
            image=picture,
            geometry=Geometry.whole(picture.size),
            space=None,
        )

    @property
    def _space(self) -> tuple[int, int, int]:
        """(D, H, W) of the model's input."""
        depth = self.depth
        height, width = self.attribution.shape[2:] if self.space is None else self.space[1:]
        return depth, height, width

    @property
    def _slice_size(self) -> tuple[int, int]:
        """The width and height of a slice in the image."""
        if self.image.width % self.depth:
            raise ValueError(f"the image is {self.image.size}: it has not {self.depth} slices side by side")
        return self.image.width // self.depth, self.image.height

    @property
    def word_values(self) -> tuple[tuple[str, float], ...]:
        """The words of a text, each with its value: the sum over its tokens, of magnitudes the largest."""
        of_words = self.attribution[0].double().split([word.tokens for word in self.words]) if self.words else ()
        values = [float(of.max() if self.view == "magnitude" else of.sum()) for of in of_words]
        return tuple((word.text, value) for word, value in zip(self.words, values, strict=True))

    @property
    def layout(self) -> Layout:
        """How the values lie on a picture."""
        if self.words:
            return "words"
        layouts: dict[int, Layout] = {2: "signal", 3: "image", 4: "slices"}
        return layouts.get(self.attribution.ndim, "table")

    @cached_property
    def scale(self) -> Scale:
        """From zero (or symmetric about it) to the 99.5th percentile; to the maximum for a layer's few values."""
        return Scale.of(self.values, self.signed, self.percentile)

    @property
    def percentile(self) -> float:
        """Of the magnitude, where the scale ends."""
        return 100.0 if self.coarse else 99.5

    @property
    def coarse(self) -> bool:
        """Whether the map is a few values, of a layer or of words, not one per pixel of the input."""
        return self.layout == "words" or self.method.coarse

    @property
    def _on_grey(self) -> bool:
        """Whether it is drawn on a grey image, where single pixels do not drown in the image's own detail, and standard
        errors, mostly a small part of the scale, can be seen."""
        return not self.coarse or SHOWN in self.notes

    @property
    def title(self) -> str:
        """The method's name."""
        return str(self.method)

    @property
    def caption(self) -> str:
        """Class with probability, and what `detail` adds."""
        return joined(str(self.target), self.detail)

    @property
    def detail(self) -> str:
        """Which input, of several, the layer, if one was explained, whether the map knows a class, how sure a map is
        that is estimated, and whether the model's weights are random."""
        same = "the same for every class" if self.notes.get(OBJECTIVE) == NO_CLASS else ""
        return joined(self.input, self.layer_title, same, self.sureness, self._randomness)

    @property
    def sureness(self) -> str:
        """Of a map that is estimated, its standard error, relative to the map, and what it took: "standard error 12 %,
        1,024 passes"; "" of others."""
        if self.standard_error is None or not isinstance(relative := self.notes.get(ERROR), float):
            return ""
        passes = self.notes.get("forward passes")
        return f"{ERROR} {percent(relative)}" + (f", {passes:,} passes" if isinstance(passes, int) else "")

    @property
    def _randomness(self) -> str:
        return "random weights" if self.notes.get("weights") == "random" else ""

    @property
    def seen(self) -> str:
        """How much of the image the model saw: "the middle 88 % of the width"; "" if all, or if it is no image."""
        return self.geometry.seen if self.layout == "image" else ""

    def heatmap(self, *, cmap: str | None = None, scale: Scale | None = None) -> Image.Image:
        """The map alone, at the size of its place on the image, in colour; of a volume the slices that `overlay`
        shows; of a table a bar for each entry."""
        if self.layout == "table":
            return bar_chart(self.values[0], scale or self.scale, names=self.columns, cmap=cmap)
        if self.layout == "slices":
            return self._composed(lambda one: one.heatmap(cmap=cmap, scale=scale or self.scale))
        left, top, right, bottom = self.geometry.box
        size = (max(1, round(right - left)), max(1, round(bottom - top)))
        return draw_heatmap(self.values, scale or self.scale, cmap, size=size)

    def overlay(
        self, *, cmap: str | None = None, scale: Scale | None = None, opacity: float | None = None
    ) -> Image.Image:
        """The map on the original image, at the image's size; what the model did not see is dimmed.

        Of a volume or clip the slice with the most evidence, large, and evenly spaced ones below; of a volume also the
        three cuts through the strongest voxel. Of a table, a bar for each entry. Of a detector, with its boxes, the
        explained one emphasised; of a segmenter, with the outline of the explained region.
        """
        if self.layout == "table":
            return bar_chart(self.values[0], scale or self.scale, names=self.columns, cmap=cmap)
        if self.layout == "slices":
            return self._composed(lambda one: one.overlay(cmap=cmap, scale=scale or self.scale, opacity=opacity))
        options = {} if opacity is None else {"opacity": opacity}
        drawn = draw_overlay(
            self.image, self.values, self.geometry, scale or self.scale, cmap=cmap, fine=self._on_grey, **options
        )
        if self.region is not None:
            drawn = outlined(drawn, self.region, self.geometry)
        return boxed(drawn, self.boxes)

    @property
    def region(self) -> NDArray[np.float32] | None:
        """The explained region of a segmenter, (h, w) from 0 to 1 on the model's input; None of other targets."""
        if not isinstance(self.target.objective, Region) or self.target.objective.mask.ndim != 2:
            return None
        mask = self.target.objective.mask.float().numpy()
        return np.asarray(mask / mask.max(), np.float32)

    @property
    def boxes(self) -> list[DrawnBox]:
        """The boxes that are drawn on the image, in its pixels: those of a detector."""
        mine = self.target.box
        others = [one for one in self.detections if one.box != mine]
        boxes = [DrawnBox(one.box, f"{one.label} {percent(one.score)}") for one in others]
        if mine is None:
            return boxes
        # beside a point its label would lie on the map; the caption has it
        text = "" if isinstance(self.target.objective, Output) else str(self.target.drawn)
        return [*boxes, DrawnBox(mine, text, explained=True)]

    def grey(self, *, gray: bool = True) -> Image.Image:
        """The map without a colour map: its drawn values from black up, or its signed channels about mid grey."""
        if self.layout == "slices":
            return self._composed(lambda one: grey(one.values, self.signed, self.scale))
        if gray or self.layout != "image":
            return grey(self.values, signed=self.signed)
        return grey(self.attribution.movedim(0, -1).numpy(), signed=True)

    def picture(self, view: Picture = "overlay") -> Image.Image:
        """One of the views, by name."""
        match view:
            case "overlay":
                return self.overlay()
            case "heatmap":
                return self.heatmap()
            case "grey":
                return self.grey()
            case "error":
                return self.error()

    @property
    def view(self) -> View:
        """How the map becomes a picture: as the method says; standard errors from zero up."""
        return "positive" if SHOWN in self.notes else self.method.view

    @property
    def of_error(self) -> Explanation:
        """The standard errors as a map of their own.

        Raises:
            OutputError: if the method draws nothing at random.
        """
        if self.standard_error is None:
            raise OutputError(f"{self.title} draws nothing at random, so its map has no standard error")
        return replace(self, attribution=self.standard_error, standard_error=None, notes={**self.notes, SHOWN: ERROR})

    def error(self, *, cmap: str | None = None, opacity: float | None = None) -> Image.Image:
        """The standard error of each value on the grey image, on the scale of the map: differences in the map that are
        no larger say nothing.

        Raises:
            OutputError: if the method draws nothing at random.
        """
        return self.of_error.overlay(cmap=cmap, scale=Scale(0.0, self.scale.high, signed=False), opacity=opacity)

    def _composed(self, drawn: Callable[[Explanation], Image.Image], marked: bool = True) -> Image.Image:
        """The slices that are shown in one picture, each as `drawn` has it; `marked`: with what the map says."""
        volume, best = self.volume, self.best_slice
        marked = marked and bool(volume.any())

        def sized(one: Explanation, box: tuple[int, int]) -> Image.Image:
            return one._drawn_at(largest_in(one.image.size, box), drawn)

        planes = []
        if not self.is_clip and volume.any() and min(self._space) > 1:
            shape = self._space
            cells = strongest_voxel(volume)
            point = [int((cell + 0.5) / of * to) for cell, of, to in zip(cells, volume.shape, shape, strict=True)]
            shares = [(at + 0.5) / to for at, to in zip(point, shape, strict=True)]
            for axis, (name, across, down) in enumerate((("slice", 2, 1), ("row", 2, 0), ("column", 1, 0))):
                picture = sized(self.slice_at(point[axis], axis), PLANE_BOX)
                picture = crossed(picture, shares[across], shares[down]) if marked else picture
                planes.append((f"{name} {point[axis] + 1} of {shape[axis]}", picture))
        main = sized(self.slice_at(best), MAIN_BOX if planes else WIDE_BOX)
        line = self.name_of(best) + (", with the most evidence" if marked and self.depth > 1 else "")
        shown = evenly_spaced(self.depth) if self.depth > 1 else []
        strip = [(f"{number + 1}", sized(self.slice_at(number), STRIP_BOX)) for number in shown]
        return composed((line, main), planes, strip)

    def name_of(self, index: int) -> str:
        """What the slice or frame at an index is called, counted from 1: "slice 12 of 40"."""
        return f"{self.slice_kind} {index + 1} of {self.depth}"

    def _drawn_at(self, size: tuple[int, int], drawn: Callable[[Explanation], Image.Image]) -> Image.Image:
        """The picture that `drawn` makes, at a size."""
        picture = drawn(self._at(size)).convert("RGB")
        return picture if picture.size == size else resized(picture, size)

    def _played(self, view: Picture) -> bytes:
        """The slices or frames one after the other, as the bytes of a GIF.

        Raises:
            OutputError: if the map is of no volume or clip.
        """
        views: dict[Picture, Callable[[Explanation], Image.Image]] = {
            "overlay": lambda one: one.overlay(scale=self.scale),
            "heatmap": lambda one: one.heatmap(scale=self.scale),
            "grey": lambda one: grey(one.values, self.signed, self.scale),
            "error": lambda one: one.overlay(scale=Scale(0.0, self.scale.high, signed=False)),
        }
        source = self.of_error if view == "error" else self
        slices = map(source.slice_at, range(self.depth))
        return played(
            (self.name_of(number), one._drawn_at(playing_size(one.image.size), views[view]))
            for number, one in enumerate(slices)
        )

    @property
    def photo(self) -> Image.Image:
        """The image as it stands beside its maps: of a volume or clip, the slices that `overlay` shows."""
        return self._composed(lambda one: one.image, marked=False) if self.layout == "slices" else self.image

    def framed(self) -> Image.Image:
        """The image as a tile of a sheet, with a frame about what the model saw if not all."""
        if self.layout == "slices":
            return self.photo
        return framed(self.image, self.geometry if self.layout == "image" else None, fitted(self.image.size))

    @property
    def _is_composed(self) -> bool:
        """Whether its picture has a size of its own, not that of the image."""
        return self.layout in ("slices", "table")

    def placed(self) -> NDArray[np.float32]:
        """The drawn values at the image's own pixels, NaN where the model did not look."""
        if self.layout == "slices":
            return side_by_side(np.stack([place(one, Geometry.whole(self._slice_size)) for one in self.volume]))
        return place(self.values, self.geometry)

    def save(self, path: str | os.PathLike[str], view: Picture = "overlay") -> Path:
        """Write a picture (.png, .jpg) of a view, a figure (.pdf, .svg), or the attribution itself (.npz, .safetensors)
        with metadata; of a volume or clip also a .gif, which plays its slices or frames.

        A picture has the size of the view; of an image thinner than 16 pixels, that side is enlarged to be seen. A
        figure is that of `plot`, with caption and colour bar; its text stays text.

        Returns:
            The path.

        Raises:
            OutputError: if the ending is unknown or the file cannot be written; nothing half-written is left.
            MissingExtra: for a figure, without matplotlib.
        """
        path = Path(path)
        suffix = path.suffix.lower()
        if suffix in FIGURES:
            return write_bytes(path, as_vectors(self.plot().figure, suffix))
        if suffix in PICTURES:
            size = [side * -(-THINNEST // side) for side in self.image.size]
            return write_picture(path, self._at((size[0], size[1])).picture(view))
        if suffix == GIF:
            if self.layout != "slices":
                raise OutputError(f"{path}: a .gif plays the slices of a volume or the frames of a clip; give .png")
            return write_bytes(path, self._played(view))
        if suffix == ".npz":
            buffer = io.BytesIO()
            arrays: dict[str, Any] = {name: values.numpy() for name, values in self._arrays.items()}
            np.savez_compressed(buffer, **arrays, metadata=np.array(json.dumps(self.metadata())))
            return write_bytes(path, buffer.getvalue())
        if suffix == ".safetensors":
            from safetensors.torch import save

            tensors = {name: values.contiguous() for name, values in self._arrays.items()}
            return write_bytes(path, save(tensors, {"deepviz": json.dumps(self.metadata())}))
        raise OutputError(f"{path}: the ending must be one of {', '.join((*PICTURES, GIF, *FIGURES, *ARRAYS))}")

    @property
    def _arrays(self) -> dict[str, Tensor]:
        errors = {} if self.standard_error is None else {"standard_error": self.standard_error}
        return {"attribution": self.attribution, **errors}

    def metadata(self) -> dict[str, Any]:
        """Everything but the arrays, as plain values for JSON."""
        return {
            "method": repr(self.method),
            "key": catalog.key(self.method, self.layer),
            "target": self.target.as_json(),
            "model": self.model,
            "source": self.source,
            "layer": self.layer,
            "input": self.input,
            "geometry": {"size": list(self.geometry.size), "box": list(self.geometry.box)},
            "view": self.method.view,
            "range": [float(self.attribution.min()), float(self.attribution.max())],
            "notes": self.notes,
            "versions": self.versions,
            **({"words": [list(one) for one in self.word_values]} if self.words else {}),
        }

    def noting(self, notes: dict[str, Any]) -> Explanation:
        """The same with more notes."""
        return replace(self, notes=self.notes | notes)

    def tile(self, scale: Scale | None = None) -> Tile:
        """As one tile of a sheet, by a scale of its own or a given one."""
        scale = scale or self.scale
        return Tile(
            picture=self._at(fitted(self.image.size)).overlay(scale=scale),
            caption=self.title,
            detail=joined(str(self.target.drawn), self.detail),
            scale=scale,
            warning="; ".join(self.notes.get("warnings", ())),
            checks=self.notes.get("checks", {}).get("in words", ""),
        )

    def _at(self, size: tuple[int, int]) -> Explanation:
        """The same on the image in another size, at which the part that the model saw can be seen."""
        if self._is_composed or self.layout == "words" or size == self.image.size:
            return self
        left, top, right, bottom = self.geometry.scaled(size).box
        across, down = max(0.0, NARROWEST - right + left) / 2, max(0.0, NARROWEST - bottom + top) / 2
        box = (left - across, top - down, right + across, bottom + down)
        sx, sy = size[0] / self.image.width, size[1] / self.image.height

        def scaled(of: BoxOf) -> BoxOf:
            return of[0] * sx, of[1] * sy, of[2] * sx, of[3] * sy

        return replace(
            self,
            image=resized(self.image, size),
            geometry=Geometry(size, box),
            target=self.target if self.target.box is None else replace(self.target, box=scaled(self.target.box)),
            detections=tuple(one._replace(box=scaled(one.box)) for one in self.detections),
        )

    def plot(self, ax: Any = None) -> Any:
        """Draw the overlay with its caption into a matplotlib axes, and return that.

        By default it is the axes of a figure of its own, with a colour bar, which pyplot does not know of; `save`
        writes it as .pdf or .svg. The coordinates of the axes are pixels of the image.

        Raises:
            MissingExtra: without matplotlib.
        """
        alone = ax is None
        if alone:
            width, height = fitted(self.photo.size)
            ax = figure(1 + width / 100, 0.6 + height / 100).add_subplot()
        self.draw(ax, colourbar=alone)
        said = joined(str(self.target.drawn), self.detail)
        ax.set_title(f"{spelled(self.title)}\n{spelled(said)}", fontfamily=font_families())
        return ax

    def draw(self, ax: Any, *, scale: Scale | None = None, colourbar: bool = False, below: bool = False) -> None:
        """Draw the overlay alone into a matplotlib axes, perhaps with a colour bar beside or below it."""
        scale = scale or self.scale
        width, height = fitted(self.photo.size)
        times = min(2.0, max(1.0, max(self.image.size) / max(width, height)))  # sharp in print
        sharp = self._at((round(width * times), round(height * times))).overlay(scale=scale)
        across, down = sharp.size if self._is_composed else self.image.size
        ax.imshow(
            sharp, extent=(-0.5, across - 0.5, down - 0.5, -0.5), aspect=sharp.height * across / sharp.width / down
        )
        ax.axis("off")
        if colourbar and self.layout != "table":
            from matplotlib.cm import ScalarMappable
            from matplotlib.colors import ListedColormap, Normalize

            colours = ScalarMappable(Normalize(scale.low, scale.high), ListedColormap(colour_table(scale) / 255))
            place = {"location": "bottom", "pad": 0.02, "aspect": 30, "panchor": False} if below else {}
            bar = ax.figure.colorbar(colours, ax=ax, **place)
            bar.solids.set_rasterized(True)
            if below:
                bar.set_ticks([scale.low, 0, scale.high] if scale.signed else [0, scale.high])
                bar.set_ticklabels([f"{tick:.2g}" for tick in bar.get_ticks()])

    def widget(self, **settings: Any) -> Any:
        """The interactive viewer for a notebook cell, as `deepviz.compare([self])`; it needs the extra `notebook`."""
        return import_module("deepviz").compare([self], **settings)

    def __repr__(self) -> str:
        return (
            f"Explanation({self.title}: {self.caption}, {self.source}, {self.model}, "
            f"attribution {tuple(self.attribution.shape)})"
        )

    def _repr_png_(self) -> bytes:
        picture = self._at(fitted(self.image.size)).overlay(scale=self.scale)
        while len(content := encoded(picture)) > LARGEST_REPR:
            picture = picture.resize((picture.width * 3 // 4, picture.height * 3 // 4), Image.Resampling.LANCZOS)
        return content

    def _repr_html_(self) -> str:
        data = base64.b64encode(encoded(self._at(fitted(self.image.size)).overlay(scale=self.scale), "JPEG")).decode()
        bar = base64.b64encode(encoded(colour_bar(self.scale))).decode()
        told = "".join(
            f"<div><b>{escape(str(key))}</b>: {escape(_in_words(value))}</div>" for key, value in self.notes.items()
        )
        return (
            f'<figure style="margin:0;display:inline-block;max-width:420px;font:13px sans-serif">'
            f'<img style="max-width:100%" alt="{escape(self.title)}" src="data:image/jpeg;base64,{data}">'
            f'<div style="display:flex;gap:6px;align-items:center"><small>{self.scale.low:.3g}</small>'
            f'<img style="flex:1;height:10px" alt="scale" src="data:image/png;base64,{bar}">'
            f"<small>{self.scale.high:.3g}</small></div>"
            f"<figcaption><b>{escape(self.title)}</b> {escape(self.caption)}<br>"
            f"<small>{escape(self.source)} · {escape(self.model)}{told}</small></figcaption></figure>"
        )


def joined(*parts: str | None) -> str:
    """The parts that are there, in one line."""
    return " · ".join(filter(None, parts))


def _in_words(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{count} {kind}" for kind, count in value.items())
    if isinstance(value, (tuple, list)):
        return "; ".join(map(str, value))
    return str(value)


def sheet(
    explanations: Sequence[Explanation],
    *,
    predictions: Sequence[tuple[str, float]] = (),
    scale: Literal["own", "shared"] = "own",
) -> Image.Image:
    """One picture of many explanations: of one image, a section per class, a tile per method; of several, one of each
    image, which begins with the image itself; of `explain_pair`, both images side by side, and below them their maps,
    which share their colours.

    Args:
        explanations: as `explain` returns them.
        predictions: of one image, (label, probability) lines for the head of the sheet; by default the model's best
            classes and those that are explained.
        scale: "own": each map's colours span its own values; "shared": those of all maps of the same method and layer,
            so that the colours of several classes or images can be compared.

    Raises:
        ValueError: if there is nothing to draw.
    """
    if not explanations:
        raise ValueError("no explanations to draw")
    scales = shared_scales(explanations) if scale == "shared" else {}
    groups = _by_image(explanations)
    if _is_pair(groups):
        return _sheet_of_pair(groups[0], groups[1])
    if len(groups) > 1 and not _of_one_item([group[0] for group in groups]):
        return _sheet_of_several(groups, scales)
    first = explanations[0]
    by_target = _by_target(explanations)
    told = predictions or _predictions(first, by_target)
    lines = [(label if drawable(label) else "(no font for this name)", value) for label, value in told]
    if len(by_target) == 1:
        sections = [("", [one.tile(scales.get(comparable(one))) for one in explanations])]
    else:  # the heading tells the class
        sections = [
            (heading, [replace(one.tile(scales.get(comparable(one))), detail=one.detail) for one in group])
            for heading, group in zip(_headings(by_target), by_target.values(), strict=True)
        ]
    return draw_sheet(
        joined(first.source, first._randomness),
        None if first.layout == "table" else first.photo,
        sections,
        predictions=lines,
        geometry=first.geometry,
        footer="\n".join([*remarks(first), _footer(first)]),
        cell=_cell(explanations),
    )


def _predictions(one: Explanation, targets: Iterable[ExplainedTarget]) -> list[tuple[str, float]]:
    """The model's best classes, and in place of the last ones those that are explained, best first; of a detector its
    best detections, of which several may be of one class."""
    if one.detections:
        return [(found.label, found.score) for found in one.detections[:MOST_PREDICTIONS]]
    explained = {target.drawn.label: target.probability for target in targets if target.probability is not None}
    asked = list(explained.items())[:MOST_PREDICTIONS]
    rivals = [(label, value) for label, value in one.predictions if label not in explained]
    return sorted([*asked, *rivals[: MOST_PREDICTIONS - len(asked)]], key=lambda pair: -pair[1])


def remarks(one: Explanation) -> list[str]:
    """What one must know of how the image is drawn, a line each."""
    return [*map(str, one.notes.get("photograph", ())), *([f"the model saw {one.seen}"] if one.seen else [])]


def comparable(one: Explanation) -> str:
    """Maps of which this is equal are in the same units."""
    return f"{catalog.key(one.method, one.layer)} {one.input}"


def shared_scales(explanations: Sequence[Explanation]) -> dict[str, Scale]:
    """For maps that can be compared, one scale."""
    groups: dict[str, list[Explanation]] = {}
    for one in explanations:
        groups.setdefault(comparable(one), []).append(one)
    return {
        key: Scale.shared([one.values for one in group], group[0].signed, group[0].percentile)
        for key, group in groups.items()
    }


def _sheet_of_several(groups: Sequence[Sequence[Explanation]], scales: dict[str, Scale]) -> Image.Image:
    sections = []
    for group in groups:
        first = group[0]
        seen = [] if first.layout == "table" else [Tile(first.framed(), "image", checks="; ".join(remarks(first)))]
        by_target = _by_target(group)
        told = _headings(by_target)[0] if len(by_target) == 1 else None
        drawn = [(one, one.tile(scales.get(comparable(one)))) for one in group]
        tiles = [replace(tile, detail=one.detail) if told else tile for one, tile in drawn]
        sections.append((joined(first.source, told), [*seen, *tiles]))
    first = groups[0][0]
    cell = _cell([one for group in groups for one in group])
    kind = "inputs" if any(group[0].layout == "table" for group in groups) else "images"
    title = joined(f"{len(groups)} {kind}", first._randomness)
    return draw_sheet(title, None, sections, footer=_footer(first), cell=cell)


def _cell(explanations: Sequence[Explanation]) -> tuple[int, int] | None:
    """The size of the pictures on a sheet, if one of them shows slices, which would be too small at that of others."""
    sizes = [one.photo.size for one in explanations if one.layout == "slices"]
    return (max(width for width, _ in sizes), max(height for _, height in sizes)) if sizes else None


def _is_pair(groups: Sequence[Sequence[Explanation]]) -> bool:
    """Whether they are two images, each explained for its similarity to the other by the same methods."""
    if len(groups) != 2 or any(PAIR not in one.notes for group in groups for one in group):
        return False
    first, second = ([(one.notes[PAIR], comparable(one)) for one in group] for group in groups)
    return first == second and len(set(first)) == len(first)


def _sheet_of_pair(first: Sequence[Explanation], second: Sequence[Explanation]) -> Image.Image:
    scales = shared_scales([*first, *second])
    images = [
        Tile(
            framed(one.image, one.geometry, fitted(one.image.size)),
            one.source,
            str(one.target),
            checks="; ".join(remarks(one)),
        )
        for one in (first[0], second[0])
    ]
    maps = [
        ("", [replace(one.tile(scales[comparable(one)]), detail=one.detail) for one in pair])
        for pair in zip(first, second, strict=True)
    ]
    title = joined(str(first[0].notes[PAIR]), first[0]._randomness)
    return draw_sheet(title, None, [("", images), *maps], footer=_footer(first[0]))


def _footer(one: Explanation) -> str:
    return f"{one.model} · DeepViz {one.versions.get('deepviz', '')}".strip()


def sections_of(explanations: Sequence[Explanation]) -> list[tuple[str, list[Explanation]]]:
    """The explanations by image and by what was explained, with that as a heading."""
    by_image = map(_by_target, _by_image(explanations))
    return [section for by_target in by_image for section in zip(_headings(by_target), by_target.values(), strict=True)]


def _by_target(explanations: Sequence[Explanation]) -> dict[ExplainedTarget, list[Explanation]]:
    found: dict[ExplainedTarget, list[Explanation]] = {}
    for explanation in explanations:
        found.setdefault(explanation.target, []).append(explanation)
    return found


def _headings(targets: Iterable[ExplainedTarget]) -> list[str]:
    """The targets' names, numbered where two have the same."""
    count: Counter[str] = Counter()
    headings = []
    for name in (str(target.drawn) for target in targets):
        count[name] += 1
        headings.append(name if count[name] == 1 else f"{name} ({count[name]})")
    return headings


def _of_one_item(explanations: Sequence[Explanation]) -> bool:
    """Whether they are of the inputs that belong together, one explanation of each."""
    inputs = {(one.input, one.words) for one in explanations}
    return len(inputs) == len(explanations) and len({one.source for one in explanations}) == 1


def _by_image(explanations: Sequence[Explanation]) -> list[list[Explanation]]:
    """The explanations of each image."""
    found: list[list[Explanation]] = []
    for explanation in explanations:
        for group in found:
            if _same_image(explanation, group[0]):
                group.append(explanation)
                break
        else:
            found.append([explanation])
    return found


def _same_image(one: Explanation, other: Explanation) -> bool:
    """Whether both are of the same part of the same picture, whatever it is called; of texts, for the same image."""
    if "table" in (one.layout, other.layout):  # the same picture stands for all tables
        return (one.layout, one.source, one.input) == (other.layout, other.source, other.input)
    if one.geometry != other.geometry or (one.words and one.source != other.source):
        return False
    return one.image is other.image or one.image.tobytes() == other.image.tobytes()
