"""Statistics of natural images: the covariance of their colours and the magnitudes of their spectrum."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from deepviz.errors import ImageError
from deepviz.probe.outputs import describe

FREQUENCIES = 24
ORIENTATIONS = 7
LOWEST = 1 / 256
"""The lowest frequency of the table, in cycles per pixel; the highest is the corner's, sqrt(1/2)."""
HIGHEST = 0.5**0.5
LEAST_VARIANCE = 1e-8
"""Of a colour's axis; far below one of 256 levels."""


@dataclass(frozen=True, eq=False)
class NaturalImages:
    """Statistics of images.

    Args:
        mean: (3,) of red, green and blue, pixels from 0 to 1.
        covariance: (3, 3) of the same.
        magnitude: (3, frequencies, orientations), the root mean square of an orthonormal Fourier transform in
            decorrelated colours; frequencies are spaced logarithmically from 1/256 to sqrt(1/2) cycles per pixel,
            orientations evenly from horizontal waves (0) to vertical ones (90 degrees).
        photographs: the number of images.
    """

    mean: Tensor
    covariance: Tensor
    magnitude: Tensor
    photographs: int

    @cached_property
    def mixing(self) -> Tensor:
        """L (3, 3) with L L^T the covariance: pixel = L z + mean, the columns its principal axes, longest first."""
        variances, axes = torch.linalg.eigh(self.covariance)
        axes = torch.where(axes.sum(0) < 0, -axes, axes)  # brighter is positive, whatever the solver's sign
        # grey images vary along one axis alone; the floor lets L be inverted all the same
        L: Tensor = (axes * variances.clamp_min(LEAST_VARIANCE).sqrt()).flip(1)
        return L

    @lru_cache(maxsize=8)  # noqa: B019 - a few small tables, which live as long as the process anyway
    def spectrum(self, size: tuple[int, int]) -> Tensor:
        """The magnitudes (3, H, W // 2 + 1) at the frequencies of `torch.fft.rfft2` for (H, W), zero at frequency 0."""
        height, width = size
        down = torch.fft.fftfreq(height)[:, None].abs()
        along = torch.fft.rfftfreq(width)[None, :]
        radius = (down**2 + along**2).sqrt()
        position = (radius.clamp_min(LOWEST) / LOWEST).log() / torch.tensor(HIGHEST / LOWEST).log()
        turn = torch.atan2(down, along.expand_as(down * along)) / (torch.pi / 2)
        grid = torch.stack([turn.expand_as(radius), position], -1) * 2 - 1
        table = self.magnitude.log()[None]
        found: Tensor = F.grid_sample(table, grid[None], padding_mode="border", align_corners=True)[0].exp()
        magnitudes: Tensor = found * (radius > 0)
        return magnitudes

    def to_json(self) -> dict[str, Any]:
        """As plain numbers."""
        return {
            "photographs": self.photographs,
            "mean": _rounded(self.mean),
            "covariance": _rounded(self.covariance),
            "magnitude": _rounded(self.magnitude),
        }

    @classmethod
    def from_json(cls, held: dict[str, Any]) -> NaturalImages:
        """What `to_json` gave."""
        mean, covariance, magnitude = (torch.tensor(held[name]) for name in ("mean", "covariance", "magnitude"))
        return cls(mean, covariance, magnitude, held["photographs"])


@cache
def natural_images() -> NaturalImages:
    """The table that comes with the package: 64 images of ImageNet's classes (`benchmarks/natural_images.py`)."""
    held = json.loads(Path(__file__).with_name("natural_images.json").read_text(encoding="utf-8"))
    return NaturalImages.from_json(held)


def in_deviations(pixels: Tensor) -> Tensor:
    """Pixels (n, C, H, W) from 0 to 1 in standard deviations of those of natural images, from their mean: a unit that
    does not depend on how a network takes its input.

    Example:
        >>> statistics = natural_images()
        >>> mean = statistics.mean.view(1, 3, 1, 1)
        >>> in_deviations(mean).flatten().tolist()
        [0.0, 0.0, 0.0]
    """
    statistics = natural_images()
    mean, deviation = statistics.mean, statistics.covariance.diagonal().sqrt()
    if pixels.shape[1] == 1:
        mean, deviation = mean.mean()[None], deviation.mean()[None]
    return (pixels - mean.to(pixels)[:, None, None]) / deviation.to(pixels)[:, None, None]


def measured(photographs: Tensor | Sequence[Any]) -> NaturalImages:
    """The statistics of images (P, H, W, 3), pixels from 0 to 1.

    Raises:
        ImageError: if they are something else.
    """
    asked = "images must be (P, H, W, 3), all of one size, with floating pixels from 0 to 1"
    if not isinstance(photographs, Tensor):
        try:
            photographs = torch.stack([torch.as_tensor(photograph) for photograph in photographs])
        except (RuntimeError, TypeError, ValueError) as error:
            raise ImageError(f"{asked}: {' '.join(str(error).split())}") from error
    pixels = photographs.float()
    if not photographs.is_floating_point() or pixels.ndim != 4 or pixels.shape[3] != 3 or min(pixels.shape) < 1:
        raise ImageError(f"{asked}, got {describe(photographs)}")
    if not bool(((pixels >= 0) & (pixels <= 1)).all()):
        raise ImageError(f"{asked}, got {float(pixels.min()):.3g} to {float(pixels.max()):.3g}")
    flat = pixels.reshape(-1, 3)
    mean = flat.mean(0)
    covariance = torch.cov(flat.T)
    found = NaturalImages(mean, covariance, torch.ones(3, FREQUENCIES, ORIENTATIONS), len(pixels))
    z = (pixels - mean) @ torch.linalg.inv(found.mixing).T
    z = z.permute(0, 3, 1, 2)
    height, width = z.shape[2:]
    window = torch.hann_window(height)[:, None] * torch.hann_window(width)[None, :]
    window = window / window.square().mean().sqrt()
    spectrum = torch.fft.fft2((z - z.mean((2, 3), keepdim=True)) * window, norm="ortho")
    power = spectrum.abs().square().mean(0)
    magnitude = _binned(power).sqrt() if max(height, width) > 1 else torch.zeros(1)
    if not bool((magnitude > 0).all()):
        raise ImageError("these images are too uniform or too small to compute a spectrum: give larger ones, or more")
    return NaturalImages(mean, covariance, magnitude, len(pixels))


def _binned(power: Tensor) -> Tensor:
    """(3, H, W) -> (3, frequencies, orientations): the mean of what lies around each point of the table.

    Frequencies that no wave of this size has take their neighbours' values.
    """
    down = torch.fft.fftfreq(power.shape[1])[:, None].abs().expand(power.shape[1:])
    along = torch.fft.fftfreq(power.shape[2])[None, :].abs().expand(power.shape[1:])
    radius = (down**2 + along**2).sqrt()
    position = (radius.clamp_min(LOWEST) / LOWEST).log() / torch.tensor(HIGHEST / LOWEST).log() * (FREQUENCIES - 1)
    turn = torch.atan2(down, along) / (torch.pi / 2) * (ORIENTATIONS - 1)
    table = torch.empty(3, FREQUENCIES, ORIENTATIONS)
    for f in range(FREQUENCIES):
        for o in range(ORIENTATIONS):
            weight = (1 - (position - f).abs() / 1.5).clamp_min(0) * (1 - (turn - o).abs() / 1.5).clamp_min(0)
            weight = weight * (radius > 0)
            if not bool(weight.any()):
                distance = (position - f).square() + (turn - o).square()
                weight = (distance <= distance[radius > 0].min() + 1e-6) * (radius > 0)
            table[:, f, o] = (power.log() * weight).sum((1, 2)).div(weight.sum()).exp()
    return table


def _rounded(values: Tensor) -> Any:
    return [_rounded(value) for value in values] if values.ndim else float(f"{float(values):.5g}")
