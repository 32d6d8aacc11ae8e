"""The maps of one method in a run, as they are drawn, a shard of them in memory at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from deepviz.methods.method import Method, View, drawn_values
from deepviz.results.shards import MapReader, library

if TYPE_CHECKING:
    from deepviz.results.run import Run

ZERO = "the map is zero everywhere"
COLUMNS = ["index", "image", "label", "prediction", "method", "rank", "input", "reason", "map", "position", "maximum"]
Shape = tuple[int, ...]


@dataclass(frozen=True, order=True)
class LeftOut:
    """An image whose map is not used, and why.

    Args:
        index: its position in the source.
        image: its name.
        reason: in words.
    """

    index: int
    image: str
    reason: str


@dataclass(frozen=True, eq=False)
class DrawnMaps:
    """The maps of one method, of one target and input of each image.

    Args:
        run: where they are.
        method: its name.
        view: how channels become one value for each pixel.
        rows: those that have a map, by column.
        left_out: the images without one.
    """

    run: Run
    method: str
    view: View
    rows: Any
    left_out: tuple[LeftOut, ...]

    @classmethod
    def of(cls, run: Run, method: Method | str | None, where: str | None, rank: int, input: str | None) -> DrawnMaps:
        """The maps of some rows of a run; those that are zero everywhere are left out.

        Raises:
            LookupError: for a method that the run has no maps of.
            ValueError: for a condition that is none, or if there is no map.
        """
        name = run.name_of(method)
        view: View = next(one["view"] for one in run.manifest["methods"] if one["name"] == name)
        compute = library("pyarrow.compute")
        rows = (run if where is None else run.where(where)).rows.select(COLUMNS)
        unread = rows.filter(compute.is_null(rows["method"]))
        rows = rows.filter(compute.and_(compute.equal(rows["method"], name), compute.equal(rows["rank"], rank)))
        inputs = compute.unique(rows["input"]).to_pylist()
        if inputs:
            rows = rows.filter(compute.equal(rows["input"], inputs[0] if input is None else input))
        there = compute.fill_null(compute.greater(rows["maximum"], 0), False)
        missing = [*unread.to_pylist(), *rows.filter(compute.invert(there)).to_pylist()]
        left_out = [LeftOut(row["index"], row["image"], row["reason"] or ZERO) for row in missing]
        found = cls(run, name, view, rows.filter(there), tuple(sorted(left_out)))
        if not len(found):
            of = f" for which {where}" if where is not None else ""
            why = f": {left_out[0].reason}" if left_out else ""
            raise ValueError(f"{run.folder} has no map of {name} for target {rank}{of}{why}")
        return found

    def __len__(self) -> int:
        """How many there are."""
        return int(self.rows.num_rows)

    @property
    def indices(self) -> NDArray[np.int64]:
        """The positions of their images in the source."""
        return np.asarray(self.rows["index"].to_numpy(), np.int64)

    @property
    def signed(self) -> bool:
        """Whether the drawn values have a sign."""
        return self.view == "sum"

    @property
    def shapes(self) -> Counter[Shape]:
        """The shapes of the drawn values, and how many have each.

        Raises:
            ValueError: if they have unlike numbers of axes, or are tables of unlike lengths.
        """
        compute = library("pyarrow.compute")
        found: Counter[Shape] = Counter()
        for one in compute.value_counts(self.rows["map"]).to_pylist():
            shape = tuple(map(int, one["values"].rpartition("/")[2].rpartition("-")[2].split("x")))
            found[shape if len(shape) == 1 else shape[1:]] += one["counts"]
            is_table = len(shape) == 1
        if len({len(shape) for shape in found}) > 1 or (is_table and len(found) > 1):
            shapes = ", ".join("x".join(map(str, shape)) for shape in found)
            raise ValueError(f"the maps of {self.method} are of unlike kinds, {shapes}: choose one kind by where")
        return found

    @property
    def shape(self) -> Shape:
        """The shape that most of them have."""
        return self.shapes.most_common(1)[0][0]

    @property
    def of_tables(self) -> bool:
        """Whether they are of tables, whose entries have no neighbours."""
        return "x" not in self.rows["map"][0].as_py().rpartition("/")[2].rpartition("-")[2]

    def shards(self, chosen: NDArray[np.intp] | None = None) -> Iterator[tuple[NDArray[np.intp], list[Tensor]]]:
        """The drawn values of each shard, with the numbers of their rows.

        Args:
            chosen: the numbers of the rows that are read, ascending; None for all.

        Raises:
            StoredError: if a file is damaged.
        """
        reader = MapReader(self.run.folder)
        places = np.arange(len(self)) if chosen is None else chosen
        numbers = self.indices[places] // int(self.run.manifest["question"]["shard_size"])
        for of_shard in np.split(places, np.flatnonzero(np.diff(numbers)) + 1):
            rows = self.rows.take(of_shard).select(["map", "position", "maximum"]).to_pylist()
            maps: dict[int, Tensor] = {}
            for name in dict.fromkeys(row["map"] for row in rows):
                mine = [place for place, row in enumerate(rows) if row["map"] == name]
                for place, values in zip(mine, reader.read_all([rows[place] for place in mine]), strict=True):
                    maps[place] = drawn_values(torch.from_numpy(values), self.view)
            yield of_shard, [maps[place] for place in range(len(rows))]


def resampled(values: Tensor, shape: Shape) -> Tensor:
    """Drawn values, of one map or of several (n, *space), at another resolution.

    The mean of each area where they are more, linear between them elsewhere.

    Example:
        >>> import torch
        >>> resampled(torch.tensor([0.0, 3.0, 6.0]), (2,)).tolist()  # the means of 0, 3/2 and of 3/2, 6
        [1.0, 5.0]
    """
    maps = values.ndim - len(shape)
    space = tuple(values.shape[maps:])
    if space == shape:
        return values
    if all(new <= old for new, old in zip(shape, space, strict=True)):
        for axis, (old, new) in enumerate(zip(space, shape, strict=True), maps):
            values = (values.movedim(axis, -1) @ _shares(old, new).to(values).T).movedim(-1, axis)
        return values
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(shape)]
    found = F.interpolate(values.reshape(-1, 1, *space), shape, mode=mode, align_corners=False)
    return found.reshape(*values.shape[:maps], *shape)


@lru_cache(maxsize=16)
def _shares(length: int, cells: int) -> Tensor:
    """The share of each of `length` values in the mean of each cell, (cells, length): torch's area interpolation has
    cells that overlap, so that the same map at two resolutions has two means."""
    starts = torch.arange(cells, dtype=torch.float64)[:, None] * length / cells
    ends = starts + length / cells
    at = torch.arange(length, dtype=torch.float64)
    return (torch.minimum(ends, at + 1) - torch.maximum(starts, at)).clamp_min(0) * cells / length
