"""Where the object is: a mask or boxes, and what the metrics that ask for it share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from deepviz.metrics.metric import ChannelsOption, Metric, per_pixel
from deepviz.probe.session import Session


@dataclass(frozen=True)
class RegionMetric(Metric):
    """A metric of how well a map keeps to a region of the image that is known beforehand.

    A mask says for each pixel of the model's input whether it is inside; of a box, the pixels whose centres are:
    left <= j + 1/2 < right, top <= i + 1/2 < bottom, so whole numbers are the pixels' edges. Several objects in one
    image are one mask, their union. The model is not asked anything.
    """

    inside: Annotated[
        Tensor | None,
        "Where the object is: a bool mask (N, H, W) or (H, W), of volumes (N, D, H, W) or (D, H, W), or boxes (N, 4) "
        "or (4,) as left, top, right, bottom in pixels of the model's input.",
    ] = None
    channels: ChannelsOption = None
    spatial: ClassVar[tuple[int, ...]] = (2, 3)

    def check(self, attribution: Any, x: Tensor) -> None:
        """As `Metric.check`, and for a region that is missing, empty, of a wrong shape or off the image."""
        super().check(attribution, x)
        self.region(x)

    def region(self, x: Tensor) -> Tensor:
        """The mask of each row of `x`, on the CPU: bool (N, *space).

        Raises:
            ValueError: if it is missing, empty, of a wrong shape or off the image.
        """
        if self.inside is None:
            raise ValueError(
                f"{self.name} needs to know where the object is: {type(self).__name__}(inside=a mask or boxes)"
            )
        return mask_of(self.inside, x)

    def values(self, session: Session, attribution: Tensor) -> Tensor:
        """What the map says of each pixel, in double precision on the CPU: (N, *space)."""
        return per_pixel(attribution, session.image(), self.channels).cpu().double()

    def warn_of_chance(self, session: Session, says: str, rows: Tensor) -> None:
        """Warn of the rows whose map says nothing: their value is that of chance."""
        if bool(rows.any()):
            session.notes.warn(f"the map {says}: {self.name} is what chance gives, the region's share", rows)

    def of_rows(self, rows: slice, axes: int = 2) -> RegionMetric:
        """The same metric with the masks or boxes of some of the rows; itself, if one holds for all."""
        if self.inside is None or self.inside.ndim < (1 + axes if self.inside.dtype == torch.bool else 2):
            return self
        return replace(self, inside=self.inside[rows])


def mask_of(inside: Tensor, x: Tensor) -> Tensor:
    """Masks or boxes as the mask of each row of `x` (N, C, *space), on the CPU: bool (N, *space).

    Raises:
        ValueError: for one that is empty, of a wrong shape or off the image.

    Example:
        >>> import torch
        >>> from deepviz.metrics.region import mask_of
        >>> mask_of(torch.tensor([1, 0, 3, 1]), torch.rand(1, 3, 2, 4)).int().tolist()
        [[[0, 1, 1, 0], [0, 0, 0, 0]]]
    """
    given = inside.detach().cpu()
    mask = _of_mask(given, x) if given.dtype == torch.bool else _of_boxes(given, x)
    empty = ~mask.flatten(1).any(1)
    if bool(empty.any()):
        row = int(empty.nonzero()[0])
        what = "mask" if given.dtype == torch.bool else "box"
        raise ValueError(f"the {what} of row {row} holds no pixel: leave out images without the object")
    return mask


def _of_mask(mask: Tensor, x: Tensor) -> Tensor:
    n, space = len(x), tuple(x.shape[2:])
    if tuple(mask.shape) not in (space, (n, *space)):
        raise ValueError(f"a mask must be {space} or {(n, *space)}, as the model's input, got {tuple(mask.shape)}")
    return mask.expand(n, *space)


def _of_boxes(boxes: Tensor, x: Tensor) -> Tensor:
    n, space = len(x), x.shape[2:]
    if boxes.ndim >= len(space) and boxes.shape[-len(space) :] == space and tuple(boxes.shape) != (n, 4):
        raise ValueError(f"a mask must be bool, got {str(boxes.dtype).removeprefix('torch.')}: write mask > 0")
    if len(space) != 2:
        raise ValueError(f"boxes are of images (N, C, H, W): of volumes give a bool mask {tuple(space)}")
    height, width = space
    if tuple(boxes.shape) not in ((4,), (n, 4)) or boxes.is_complex():
        raise ValueError(f"boxes must be (4,) or ({n}, 4), left, top, right, bottom, got {tuple(boxes.shape)}")
    boxes = boxes.double().expand(n, 4)
    for row, (left, top, right, bottom) in enumerate(boxes.tolist()):
        if not (0 <= left <= right <= width and 0 <= top <= bottom <= height):
            raise ValueError(
                f"the box of row {row}, left {left:g}, top {top:g}, right {right:g}, bottom {bottom:g}, is not one "
                f"inside the model's input, {width} wide and {height} high: cut it to that"
            )
    return pixels_of(boxes, height, width)


def pixels_of(boxes: Tensor, height: int, width: int) -> Tensor:
    """The pixels whose centres lie in each of some boxes (n, 4): bool (n, H, W)."""
    left, top, right, bottom = boxes[:, :, None].unbind(1)
    j, i = torch.arange(width) + 0.5, torch.arange(height) + 0.5
    across, down = (left <= j) & (j < right), (top <= i) & (i < bottom)
    return down[:, :, None] & across[:, None, :]
