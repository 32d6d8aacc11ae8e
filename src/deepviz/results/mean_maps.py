"""The mean map of many images."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from deepviz.files import write_picture
from deepviz.methods.method import Method, View
from deepviz.render.bars import bar_chart
from deepviz.render.colour import Scale
from deepviz.render.contact import Thumbnail, contact_sheet
from deepviz.render.overlay import heatmap
from deepviz.render.sheet import fitted
from deepviz.render.slices import side_by_side
from deepviz.results.drawn_maps import DrawnMaps, LeftOut, Shape, resampled

if TYPE_CHECKING:
    from deepviz.results.run import Run

By = Literal["label", "prediction"]


@dataclass(frozen=True, eq=False)
class MeanMap:
    """The mean of the drawn maps of some images, at the places of the model's input.

    Args:
        values: the mean, (h, w); (d, h, w) of volumes, (l,) of signals and tables.
        name: of the images: a label or a prediction; "" for all.
        method: its name in the run.
        view: how channels became one value for each pixel.
        images: how many maps it is the mean of.
        resampled: how many of these had another resolution.
        left_out: the images without a map, and why.
    """

    values: NDArray[np.float32]
    name: str
    method: str
    view: View
    images: int
    resampled: int
    left_out: tuple[LeftOut, ...] = field(repr=False)

    @property
    def signed(self) -> bool:
        """Whether the values have a sign."""
        return self.view == "sum"

    @cached_property
    def scale(self) -> Scale:
        """What the colours mean."""
        return Scale.of(self.values, self.signed)

    def picture(self, *, scale: Scale | None = None, size: tuple[int, int] | None = None) -> Image.Image:
        """The values in colour, of a volume all slices side by side, of a table a bar for each entry.

        Args:
            scale: of the colours; by default its own.
            size: width and height; by default as wide as a tile of a sheet.
        """
        scale = scale or self.scale
        values = self.values
        if values.ndim == 1:
            return bar_chart(values, scale)
        drawn = side_by_side(values) if values.ndim == 3 else values
        return heatmap(drawn, scale, size=size or fitted((drawn.shape[1], drawn.shape[0])))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the picture, .png or .jpg.

        Raises:
            OutputError: if the ending is another, or the file cannot be written.
        """
        return write_picture(Path(path), self.picture())

    def __repr__(self) -> str:
        of = f"{self.name!r}, " if self.name else ""
        shape = "x".join(map(str, self.values.shape))
        return f"MeanMap({of}{self.method}, {self.images} image{'s' if self.images != 1 else ''}, {shape})"


def mean_maps_sheet(maps: Mapping[str, MeanMap]) -> Image.Image:
    """Mean maps side by side, each with a scale of its own.

    Args:
        maps: by name, as `Run.mean_maps` returns them.

    Raises:
        ValueError: if there is none.
    """
    thumbnails = [
        Thumbnail(one.picture(), name, f"{one.images} image{'s' if one.images > 1 else ''}")
        for name, one in maps.items()
    ]
    methods = ", ".join(dict.fromkeys(one.method for one in maps.values()))
    return contact_sheet(thumbnails, title=f"Mean maps of {methods}")


def mean_maps(
    run: Run,
    method: Method | str | None,
    by: By | None,
    *,
    where: str | None = None,
    rank: int = 0,
    input: str | None = None,
    normalise: bool = True,
) -> dict[str, MeanMap]:
    """The mean map of each label or prediction, in order of their names; of all images under "" if `by` is None.

    A shard of the run is in memory at a time.

    Raises:
        LookupError: for a method that the run has no maps of.
        ValueError: for a condition that is none, if there is no map, or for another `by`.
    """
    if by not in (None, "label", "prediction"):
        raise ValueError(f'by must be "label" or "prediction", got {by!r}')
    maps = DrawnMaps.of(run, method, where, rank, input)
    names = [""] * len(maps) if by is None else maps.rows[by].to_pylist()
    known = [row for row, name in enumerate(names) if name is not None]
    without = [
        LeftOut(int(maps.indices[row]), maps.rows["image"][row].as_py(), f"it has no {by}")
        for row, name in enumerate(names)
        if name is None
    ]
    if not known:
        raise ValueError(f"no image of {run.folder} has a {by}")
    left_out = tuple(sorted([*maps.left_out, *without]))
    sums = {name: Mean(maps.shape) for name in sorted({names[row] for row in known})}
    for rows, drawn in maps.shards(np.array(known, np.intp)):
        for row, values in zip(rows, drawn, strict=True):
            sums[names[row]].add(values, normalise=normalise)
    return {
        name: MeanMap(found.values, name, maps.method, maps.view, found.count, found.resampled, left_out)
        for name, found in sums.items()
    }


class Mean:
    """The mean of maps that come one after the other, at one resolution.

    Args:
        shape: of the mean.
    """

    def __init__(self, shape: Shape) -> None:
        self._sum = torch.zeros(shape, dtype=torch.float64)
        self.count = self.resampled = 0

    def add(self, values: Tensor, *, normalise: bool) -> None:
        """Take one map, perhaps divided by the mean of its magnitudes."""
        self.resampled += values.shape != self._sum.shape
        values = resampled(values, tuple(self._sum.shape)).double()
        size = values.abs().mean() if normalise else 1.0
        self._sum += values / size if size else values
        self.count += 1

    @property
    def values(self) -> NDArray[np.float32]:
        """The mean of those that came; zeros if none did."""
        return (self._sum / max(1, self.count)).float().numpy()
