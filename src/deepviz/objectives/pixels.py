"""`Pixels`: a class of a segmenter, over the region that it is predicted for, a given mask or a point."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from deepviz.errors import NotInImage, TargetError
from deepviz.geometry import Geometry
from deepviz.objectives.classes import Labelled, class_name
from deepviz.objectives.objective import Choosing, Objective, Rows, Several
from deepviz.options import Ge, validate_fields
from deepviz.probe.outputs import best_classes, class_maps, is_one_map
from deepviz.probe.seen import Seen


@dataclass(frozen=True, eq=False)
class Pixels(Labelled, Choosing):
    """The mean logit of a class over some of the pixels of a segmenter's output.

        S = sum_p m_p z_cp / sum_p m_p

    The region that is predicted as the class is chosen once, on the image as it is, and stays the same on changed
    copies of it. A mask or point is given in pixels of the image in `deepviz.explain`, and of the model's input on
    tensors; it is scaled to the output, of which a cell counts by the share of it that the mask covers.

    Needs a segmenter: a model that returns class scores (N, K, h, w), or (N, K, d, h, w) of volumes, also as "out" or
    "logits". Of one map z, (N, 1, h, w), there are two classes: 1, whose score is z, and 0, -z.

    Example:
        >>> from deepviz.probe.seen import Seen
        >>> z = torch.tensor([[[[1.0, 3.0], [0.0, 0.0]], [[0.0, 0.0], [2.0, 4.0]]]])  # class 1 in the lower half
        >>> seen = Seen(z, (torch.zeros(1, 3, 8, 8),))
        >>> Pixels(1)(seen), Pixels(1, None)(seen), Pixels(1, (7, 7))(seen)
        (tensor([3.]), tensor([1.5000]), tensor([4.]))
    """

    label: Annotated[int | str | None, "The class, by index or label; None: that of the largest region."] = None
    mask: Annotated[
        Literal["predicted"] | Tensor | tuple[float, ...] | None,
        "Which pixels: those predicted as the class; a mask (H, W), true or a weight where it counts, or one for each "
        "row, (N, H, W), of volumes (N, D, H, W), or (1, D, H, W) for all; a point (x, y), of volumes (x, y, z); None: "
        "all.",
    ] = "predicted"
    index: Annotated[int, Ge(0), "Without a label: 0 is the class of the largest region, 1 the one after it ..."] = 0
    without: Annotated[tuple[int, ...], "Without a label: classes that are not chosen, such as the background."] = ()

    def __post_init__(self) -> None:
        if isinstance(self.mask, Sequence) and not isinstance(self.mask, str):
            object.__setattr__(self, "mask", tuple(float(one) for one in self.mask))
        elif hasattr(self.mask, "__array__") and not isinstance(self.mask, Tensor):
            object.__setattr__(self, "mask", torch.as_tensor(self.mask))
        validate_fields(self)
        if isinstance(self.mask, tuple) and len(self.mask) not in (2, 3):
            raise TargetError(f"a point is (x, y), of volumes (x, y, z), got {self.mask}")
        if isinstance(self.mask, Tensor):
            if self.mask.ndim not in (2, 3, 4):
                raise TargetError(f"a mask is (H, W), got {tuple(self.mask.shape)}")
            marked = (self.mask > 0).flatten(1 if self.mask.ndim > 2 else 0).any(-1)
            if not bool((self.mask >= 0).all()) or not bool(marked.all()):
                raise TargetError("a mask must not be negative, and somewhere be above 0")

    @property
    def rows(self) -> int | None:
        """Where there is a mask for each row, (N, H, W), how many; one of a volume, (1, D, H, W), is for all."""
        if not isinstance(self.mask, Tensor) or self.mask.ndim < 3 or (self.mask.ndim == 4 and len(self.mask) == 1):
            return None
        return len(self.mask)

    def take(self, rows: Rows) -> Objective:
        """With the masks of those rows."""
        if not isinstance(self.mask, Tensor) or self.rows is None:
            return self
        return replace(self, mask=self.mask[rows.cpu() if isinstance(rows, Tensor) else rows])

    def alone(self) -> Objective:
        """With the mask of the one row."""
        if not isinstance(self.mask, Tensor) or self.mask.ndim != 3:
            return self
        return replace(self, mask=self.mask[0])

    def on_input(self, places: Sequence[tuple[Geometry, tuple[int, int]]]) -> Objective:
        """The same with its mask or point, given on the image, on each row's input, (N, H, W).

        Raises:
            TargetError: for a mask of another size than the image, or if the model saw nothing of it.
        """
        if isinstance(self.mask, (str, type(None))):
            return self
        # volumes are not resized
        if (self.mask.ndim == 4) if isinstance(self.mask, Tensor) else (len(self.mask) == 3):
            return self
        masks = []
        for row, (geometry, size) in enumerate(places):
            seen = seen_part(self._on_image(geometry.size, row), geometry, size)
            if not bool((seen > 0).any()):
                raise NotInImage(f"the model saw nothing of the mask: it saw {geometry.seen} of the image")
            masks.append(seen)
        if len({tuple(mask.shape) for mask in masks}) > 1:
            raise TargetError("images whose inputs differ in size are explained one by one with a mask")
        return replace(self, mask=torch.stack(masks))

    def _on_image(self, size: tuple[int, int], row: int) -> Tensor:
        if isinstance(self.mask, Tensor):
            mask = self.mask[row] if self.mask.ndim == 3 else self.mask
            if tuple(mask.shape) != size[::-1]:
                height, width = mask.shape
                raise NotInImage(
                    f"the mask is {width} x {height} pixels, and the image {size[0]} x {size[1]}: a mask (H, W) has a "
                    "value for each pixel of the image"
                )
            return mask.double().cpu()
        return point_mask(self.mask, size[::-1], "the image")

    def choose(self, seen: Seen) -> Tensor:
        """Class, grid (depth 0 of images) and weight of each cell of the output: (n, 4 + d h w)."""
        z = class_maps(seen.output).detach().double().cpu()
        n, classes = z.shape[:2]
        best = best_classes(z)
        # of one map, what is not the object is the background
        without = (0,) if is_one_map(z) else ()
        labels = [self._class_of(row, classes, (*self.without, *without)) for row in best]
        chosen = torch.tensor(labels, dtype=torch.float64)[:, None]
        masks = torch.stack([self._weights(row, best[row], labels[row], seen) for row in range(n)])
        grid = torch.tensor([(0, *z.shape[2:])[-3:]], dtype=torch.float64).expand(n, 3)
        return torch.cat([chosen, grid, masks.flatten(1)], 1)

    def _class_of(self, best: Tensor, classes: int, without: tuple[int, ...]) -> int:
        if isinstance(self.label, str):
            raise TargetError(f"{self} names a class by its label: give its index, or a model that has labels")
        if self.label is not None:
            if not 0 <= self.label < classes:
                raise TargetError(f"class {self.label} is out of range: the segmenter has {classes} classes")
            return self.label
        order = [k for k, _ in regions(best, classes) if k not in without]
        if self.index >= len(order):
            raise NoRegion(self, best, classes)
        return order[self.index]

    def _weights(self, row: int, best: Tensor, label: int, seen: Seen) -> Tensor:
        if self.mask is None:
            return torch.ones(best.shape, dtype=torch.float64)
        if isinstance(self.mask, str):
            predicted = (best == label).double()
            if not bool(predicted.any()):
                raise NoRegion(replace(self, label=label), best, int(best.max()) + 1)
            return predicted
        size = tuple(seen.image().shape[2:])
        if isinstance(self.mask, Tensor):
            mask = self.mask if self.mask.ndim == 2 else self.mask[row if len(self.mask) > 1 else 0]
            if tuple(mask.shape) not in (size, tuple(best.shape)):
                one = ": of a volume it is (1, D, H, W)" if len(size) == 3 else ""
                raise TargetError(
                    f"the mask is {tuple(mask.shape)}, and the model's input {size}, its output "
                    f"{tuple(best.shape)}: it must be as large as one of them{one}"
                )
            mask = mask.double().cpu()
        else:
            mask = point_mask(self.mask, size, "the model's input")
        return F.interpolate(mask[None, None], tuple(best.shape), mode="area")[0, 0]

    def chosen(self, choice: Tensor) -> Objective:
        """The class over those cells."""
        grid = [int(side) for side in choice[0, 1:4] if side > 0]
        return Region(choice[:, 0].long(), choice[:, 4:].reshape(-1, *grid))

    def caption(self, label: Callable[[int], str] | None = None) -> str:
        """In words."""
        what = "the largest region" if self.label is None else class_name(self.label, label)
        if self.label is None and self.index:
            what = f"region {self.index + 1}"
        if self.mask is None:
            return f"{what}, all pixels"
        if isinstance(self.mask, tuple):
            return f"{what} at ({', '.join(f'{one:g}' for one in self.mask)})"
        return f"{what} in a mask" if isinstance(self.mask, Tensor) else what


@dataclass(frozen=True, eq=False)
class Region(Objective):
    """What `Pixels` becomes once its class and region are chosen: the weight of each cell of the output."""

    label: Annotated[int | Tensor, "The class; (N,) holds one for each row."]
    mask: Annotated[Tensor, "The weights (h, w) of the output's cells; (N, h, w) where there is a class for each row."]

    @property
    def rows(self) -> int | None:
        """Where there is one for each row, how many."""
        return len(self.mask) if isinstance(self.label, Tensor) else None

    def take(self, rows: Rows) -> Objective:
        """Those of the rows."""
        if self.rows is None:
            return self
        rows = rows.cpu() if isinstance(rows, Tensor) else rows
        return replace(self, label=torch.as_tensor(self.label)[rows], mask=self.mask[rows])

    def alone(self) -> Objective:
        """That of the one row."""
        return self if self.rows is None else replace(self, label=int(self.label), mask=self.mask[0])

    def __call__(self, seen: Seen) -> Tensor:
        """sum_p m_p z_cp / sum_p m_p."""
        z = class_maps(seen.output)
        c = torch.as_tensor(self.label, device=z.device).expand(len(z))
        m = self.mask.to(z)
        m = m[None] if self.rows is None else m
        if m.shape[1:] != z.shape[2:]:
            raise TargetError(f"the region is {tuple(m.shape[1:])}, and the output {tuple(z.shape[2:])}")
        return (z[torch.arange(len(z)), c] * m).flatten(1).sum(1) / m.flatten(1).sum(1)

    def caption(self, label: Callable[[int], str] | None = None) -> str:
        """The name of the class."""
        return "a region" if isinstance(self.label, Tensor) else class_name(self.label, label)

    def __str__(self) -> str:
        return f"pixels({int(self.label)}, a region)" if self.rows is None else "pixels(regions)"


@dataclass(frozen=True, eq=False)
class Regions(Several):
    """The classes that a segmenter predicts in an image, each over its region; largest first."""

    most: Annotated[int, Ge(1), "So many of the largest at most."] = 20
    without: Annotated[tuple[int, ...], "Classes that are left out, such as the background."] = ()

    def each(self, seen: Seen) -> tuple[Objective, ...]:
        """The regions of one image.

        Raises:
            NoRegion: if there is none.
        """
        z = class_maps(seen.output)
        best = best_classes(z.detach())[0]
        without = (*self.without, 0) if is_one_map(z.detach()) else self.without
        wanted = [k for k, _ in regions(best, z.shape[1]) if k not in without][: self.most]
        if not wanted:
            raise NoRegion(Pixels(without=self.without), best, z.shape[1])
        return tuple(Pixels(k) for k in wanted)

    def caption(self, label: Callable[[int], str] | None = None) -> str:
        """In words."""
        return "all regions"


class NoRegion(NotInImage):
    """No pixel is predicted as the class; what there is, is in the message."""

    def __init__(self, asked: Pixels, best: Tensor, classes: int, label: Callable[[int], str] | None = None) -> None:
        self.asked, self.best, self.classes = asked, best, classes
        which = "of another class" if asked.label is None else f"as {class_name(asked.label, label)}"
        there = ", ".join(f"{class_name(k, label)} {100 * share:.0f} %" for k, share in regions(best, classes)[:5])
        super().__init__(f"no pixel is predicted {which}; there are {there}: give a mask, or mask=None for all pixels")

    def named(self, label: Callable[[int], str]) -> NoRegion:
        """The same with the names of the classes."""
        return NoRegion(self.asked, self.best, self.classes, label)


def regions(best: Tensor, classes: int) -> list[tuple[int, float]]:
    """The classes that are predicted anywhere, with their share of the pixels, largest first.

    Example:
        >>> regions(torch.tensor([[2, 2], [2, 0]]), 3)
        [(2, 0.75), (0, 0.25)]
    """
    counted = torch.bincount(best.flatten(), minlength=classes)
    order = counted.argsort(descending=True, stable=True).tolist()
    return [(k, float(counted[k]) / best.numel()) for k in order if counted[k] > 0]


def point_mask(at: Any, size: tuple[int, ...], of: str) -> Tensor:
    """A mask of the `size` (height, width), or (depth, height, width), of one pixel, (x, y) or (x, y, z).

    Raises:
        TargetError: if the point lies outside.
    """
    written = f"({', '.join(f'{one:g}' for one in at)})"
    if len(at) != len(size):
        axes = "(x, y)" if len(size) == 2 else "(x, y, z)"
        raise TargetError(f"the point {written} has {len(at)} axes, and {of} {len(size)}: give {axes}")
    if not all(0 <= one < side for one, side in zip(at, reversed(size), strict=True)):
        sides = " x ".join(map(str, reversed(size)))
        raise NotInImage(f"the point {written} is outside of {of}, {sides} pixels")
    mask = torch.zeros(size, dtype=torch.float64)
    mask[tuple(int(one) for one in reversed(at))] = 1
    return mask


def seen_part(mask: Tensor, geometry: Geometry, size: tuple[int, int]) -> Tensor:
    """What of a mask (H, W) of the image lies on each pixel of the input, whose `size` is (width, height)."""
    left, top, right, bottom = geometry.box
    down = _shares(mask.shape[0], top, bottom, size[1])
    across = _shares(mask.shape[1], left, right, size[0])
    return down @ mask @ across.T


def _shares(pixels: int, start: float, end: float, cells: int) -> Tensor:
    """How much of each cell of start..end each pixel covers, (cells, pixels)."""
    edges = torch.linspace(start, end, cells + 1, dtype=torch.float64)
    low, high = edges[:-1, None], edges[1:, None]
    at = torch.arange(pixels, dtype=torch.float64)[None]
    return (torch.minimum(high, at + 1) - torch.maximum(low, at)).clamp_min(0) / (high - low)
