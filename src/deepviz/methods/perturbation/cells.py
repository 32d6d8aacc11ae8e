"""The parts of an image that are taken away together: cells of a grid, superpixels, or regions that are given."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from torch import Tensor

from deepviz.errors import ImageError, MissingExtra
from deepviz.options import Ge
from deepviz.probe.seeds import generator_of

SUPERPIXELS = 50
"""How many superpixels an image is cut into, about."""
COMPACTNESS = 10.0
Cells = Annotated[
    Annotated[int, Ge(1)] | Tensor | Literal["superpixels"],
    "The parts of the image: so many cells along each axis; superpixels; or in Python a tensor of whole numbers, the "
    "part that each pixel belongs to.",
]


def halves(parts: int, seed: int, numbers: Iterable[int]) -> Tensor:
    """Which parts are there in the draws of these numbers, (n, parts): each with probability 1/2."""
    drawn = [torch.rand(parts, generator=generator_of(seed, number)) < 0.5 for number in numbers]
    return torch.stack(drawn).float()


@dataclass(frozen=True, eq=False)
class Partition:
    """An image cut into parts.

    Args:
        labels: the part of each pixel, from 0, (*space), where the image is.
        count: how many parts there are.
        grid: of parts that are cells of a grid, how many there are along each axis.
    """

    labels: Tensor
    count: int
    grid: tuple[int, ...] | None

    def masks(self, z: Tensor) -> Tensor:
        """What each pixel has of its part: (n, count) -> (n, 1, *space), where the labels are."""
        labels = self.labels
        return z.to(labels.device)[:, labels.flatten()].view(len(z), 1, *labels.shape)

    def maps(self, values: Tensor) -> Tensor:
        """Values of the parts, (K, count), as maps: (K, 1, *grid), or (K, 1, *space) where there is no grid."""
        if self.grid is not None:
            return values.view(len(values), 1, *self.grid)
        return values[:, self.labels.flatten().to(values.device)].view(len(values), 1, *self.labels.shape)


def partition(x: Tensor, cells: int | Tensor | Literal["superpixels"]) -> Partition:
    """An image (1, C, *space) cut into parts.

    Raises:
        ImageError: for labels of another shape or that are no whole numbers, and superpixels of what is no image.
        MissingExtra: for superpixels without scikit-image.
    """
    space = tuple(x.shape[2:])
    if isinstance(cells, int):
        return _grid(space, cells, x.device)
    if isinstance(cells, Tensor):
        if cells.is_floating_point() or cells.is_complex() or tuple(cells.shape) not in (space, (1, *space)):
            raise ImageError(
                f"cells must be a tensor of whole numbers of the image's size {space}, got {tuple(cells.shape)} "
                f"{str(cells.dtype).removeprefix('torch.')}"
            )
        labels = cells.reshape(space).cpu().long()
    else:
        labels = _superpixels(x)
    values, labels = labels.unique(return_inverse=True)
    return Partition(labels.to(x.device), len(values), None)


def _grid(space: tuple[int, ...], cells: int, device: torch.device) -> Partition:
    grid = tuple(min(cells, side) for side in space)
    along = [torch.arange(side) * number // side for side, number in zip(space, grid, strict=True)]
    labels = torch.zeros(space, dtype=torch.long)
    for axis, (places, number) in enumerate(zip(along, grid, strict=True)):
        labels = labels * number + places.view(-1, *[1] * (len(space) - axis - 1))
    return Partition(labels.to(device), int(np.prod(grid)), grid)


def _superpixels(x: Tensor) -> Tensor:
    if x.ndim != 4:
        raise ImageError(f"superpixels are parts of images (N, C, H, W), got an input {tuple(x.shape)}: use cells=7")
    try:
        from skimage.segmentation import slic
    except ImportError:
        raise MissingExtra("superpixels need scikit-image: pip install 'deepviz[regions]'") from None
    image = x[0].detach().to("cpu", torch.float64).permute(1, 2, 0).numpy()
    image = (image - image.min()) / max(float(np.ptp(image)), np.finfo(float).tiny)
    in_colour = image.shape[2] == 3
    found = slic(image, SUPERPIXELS, COMPACTNESS, convert2lab=in_colour, start_label=0, channel_axis=-1)
    return torch.from_numpy(np.ascontiguousarray(found)).long()


def counted(cells: int | Tensor | Literal["superpixels"]) -> int:
    """How many parts an image (N, C, H, W) has, about."""
    if isinstance(cells, int):
        return cells**2
    return int(cells.unique().numel()) if isinstance(cells, Tensor) else SUPERPIXELS
