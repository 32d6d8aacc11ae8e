"""Random augmentations of the generated image, applied before the network sees it at each step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from deepviz.options import Frozen, Ge, Gt, Le

Size = tuple[int, int]
"""(height, width) in pixels."""


@dataclass(frozen=True)
class Transform(Frozen, ABC):
    """A random augmentation (n, C, H, W) -> (n, C, H, W), the same for all images of a step.

    A spatial transform is a matrix from the position of a pixel in the augmented image to its position in the original;
    consecutive ones are multiplied, so that pixels are sampled once.
    """

    @abstractmethod
    def __call__(self, x: Tensor, generator: torch.Generator, progress: float) -> Tensor:
        """The augmented image; `progress` goes from 0 at the first step to 1 at the last."""


@dataclass(frozen=True)
class Spatial(Transform):
    """A transform that moves pixels and does not change their values."""

    @abstractmethod
    def matrix(self, size: Size, generator: torch.Generator, progress: float) -> Tensor:
        """(3, 3), float64: pixels from the centre, (x, y, 1), of the augmented image -> of the original."""

    def __call__(self, x: Tensor, generator: torch.Generator, progress: float) -> Tensor:
        """The image, sampled bilinearly, and mirrored beyond its border."""
        size = (x.shape[2], x.shape[3])
        return sampled(x, self.matrix(size, generator, progress))


@dataclass(frozen=True)
class Jitter(Spatial):
    """Moves the image by up to `pixels` in each direction."""

    pixels: Annotated[float, Ge(0), "Most pixels to move, each way."] = 16

    def matrix(self, size: Size, generator: torch.Generator, progress: float) -> Tensor:
        """A shift by whole pixels."""
        along, down = (round(self.pixels * _between(-1, 1, generator)) for _ in range(2))
        return _matrix([[1, 0, along], [0, 1, down], [0, 0, 1]])


@dataclass(frozen=True)
class Scale(Spatial):
    """Magnifies the image by a factor between `low` and `high`, about its centre."""

    low: Annotated[float, Gt(0), "Least magnification."] = 0.9
    high: Annotated[float, Gt(0), "Most magnification."] = 1.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low > self.high:
            raise ValueError(f"a scale goes from low, above 0, to high, got {self}")

    def matrix(self, size: Size, generator: torch.Generator, progress: float) -> Tensor:
        """1 / factor."""
        factor = _between(self.low, self.high, generator)
        return _matrix([[1 / factor, 0, 0], [0, 1 / factor, 0], [0, 0, 1]])


@dataclass(frozen=True)
class Rotate(Spatial):
    """Rotates the image by up to `degrees` either way."""

    degrees: Annotated[float, Ge(0), "Most degrees to turn, either way."] = 10

    def matrix(self, size: Size, generator: torch.Generator, progress: float) -> Tensor:
        """A rotation."""
        angle = torch.tensor(_between(-self.degrees, self.degrees, generator), dtype=torch.float64).deg2rad()
        cos, sin = float(angle.cos()), float(angle.sin())
        return _matrix([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])


@dataclass(frozen=True)
class Crop(Spatial):
    """A random crop, enlarged to full size: its side is at least a fraction of the whole that goes from `start` to
    `end`, so that parts are drawn first and then have to make one image."""

    start: Annotated[float, Gt(0), Le(1), "Smallest side of the part at the first step, as a fraction."] = 0.3
    end: Annotated[float, Gt(0), Le(1), "Smallest side of the part at the last step."] = 0.7

    def matrix(self, size: Size, generator: torch.Generator, progress: float) -> Tensor:
        """A scaling and a shift that stays inside."""
        side = _between(self.start + (self.end - self.start) * progress, 1, generator)
        down, along = ((1 - side) / 2 * length * _between(-1, 1, generator) for length in size)
        return _matrix([[side, 0, along], [0, side, down], [0, 0, 1]])


@dataclass(frozen=True)
class Pad(Spatial):
    """Shrinks the image and surrounds it with `pixels` of its mirrored border, so that its edges are optimised too."""

    pixels: Annotated[float, Ge(0), "Width of the border."] = 12

    def matrix(self, size: Size, generator: torch.Generator, progress: float) -> Tensor:
        """A scaling by (side + 2 pixels) / side."""
        down, along = (1 + 2 * self.pixels / length for length in size)
        return _matrix([[along, 0, 0], [0, down, 0], [0, 0, 1]])


@dataclass(frozen=True)
class Noise(Transform):
    """Adds Gaussian noise to every pixel, fading from `start` to `end`, which suppresses patterns weaker than it."""

    start: Annotated[float, Ge(0), "Standard deviation at the first step, in pixels from 0 to 1."] = 0.1
    end: Annotated[float, Ge(0), "Standard deviation at the last step."] = 0.03

    def __call__(self, x: Tensor, generator: torch.Generator, progress: float) -> Tensor:
        """The same noise on all images of a step."""
        sd = self.start + (self.end - self.start) * progress
        noise = torch.randn(x.shape[1:], generator=generator, dtype=torch.promote_types(x.dtype, torch.float32))
        return torch.add(x, noise.to(x), alpha=sd)


@dataclass(frozen=True)
class Blur(Transform):
    """A Gaussian blur that fades from `start` to `end` pixels: coarse shapes first, details later."""

    start: Annotated[float, Ge(0), "Standard deviation at the first step, in pixels."] = 3.0
    end: Annotated[float, Ge(0), "Standard deviation at the last step, in pixels."] = 0.3

    def __call__(self, x: Tensor, generator: torch.Generator, progress: float) -> Tensor:
        """Blurred along one axis and then the other."""
        sigma = self.start + (self.end - self.start) * progress
        return gaussian(x, sigma) if sigma > 0.1 else x


def transformed(x: Tensor, transforms: Sequence[Transform], generator: torch.Generator, progress: float) -> Tensor:
    """All transforms, in the order given; consecutive spatial ones sample the pixels once."""
    size = (x.shape[2], x.shape[3])
    matrix: Tensor | None = None
    for transform in transforms:
        if isinstance(transform, Spatial):
            step = transform.matrix(size, generator, progress)
            matrix = step if matrix is None else matrix @ step
            continue
        if matrix is not None:
            x, matrix = sampled(x, matrix), None
        x = transform(x, generator, progress)
    return x if matrix is None else sampled(x, matrix)


def sampled(x: Tensor, matrix: Tensor) -> Tensor:
    """`x` with each pixel taken from where `matrix` says, bilinearly, mirrored beyond the border."""
    height, width = x.shape[2:]
    (a, b, along), (c, d, down) = matrix[:2].tolist()
    across = torch.arange(width, dtype=x.dtype, device=x.device) - (width - 1) / 2
    upright = (torch.arange(height, dtype=x.dtype, device=x.device) - (height - 1) / 2)[:, None]
    # as grid_sample counts: -1 to 1 from border to border
    grid = torch.stack(
        [
            torch.add(a * across, upright, alpha=b).add_(along).mul_(2 / width),
            torch.add(c * across, upright, alpha=d).add_(down).mul_(2 / height),
        ],
        -1,
    )
    planes = x.reshape(_groups(x), -1, height, width)
    taken = F.grid_sample(planes, grid.expand(len(planes), -1, -1, -1), padding_mode="reflection", align_corners=False)
    return taken.view_as(x)


def _groups(x: Tensor) -> int:
    """The batch size that `grid_sample` is given. It computes the positions once for each image of the batch, and uses
    one CPU thread for each. As all planes of all images move alike, the fewest images that use all threads are best."""
    if x.device.type != "cpu":
        return len(x)
    planes = x.shape[0] * x.shape[1]
    return next(groups for groups in range(min(torch.get_num_threads(), planes), 0, -1) if planes % groups == 0)


def gaussian(x: Tensor, sigma: float) -> Tensor:
    """A Gaussian blur of standard deviation `sigma` pixels, the border's pixels repeated outwards."""
    radius = max(1, round(3 * sigma))
    offsets = torch.arange(-radius, radius + 1, dtype=x.dtype, device=x.device)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = kernel / kernel.sum()
    rows = F.pad(x.flatten(0, 1).unsqueeze(1), (radius, radius, radius, radius), mode="replicate")
    return F.conv2d(F.conv2d(rows, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1)).view_as(x)


def _between(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))


def _matrix(rows: list[list[float]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)
