"""What is optimised: parameters of an image whose colours are valid by construction."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated

import torch
from torch import Tensor

from deepviz.options import Frozen, Ge, Gt, Le
from deepviz.synthesis.natural_images import NaturalImages, natural_images

Size = tuple[int, int]
"""(height, width) in pixels."""


@dataclass(frozen=True)
class Canvas(Frozen, ABC):
    """A parameterisation of images: parameters (n, ...) -> pixels (n, C, H, W) from 0 to 1, C = 1 or 3.

    `start` makes the parameters of one image from a generator, `draw` is differentiable, `project` may put parameters
    back where they are valid after a step, and `invert` finds parameters that draw given pixels.
    """

    @abstractmethod
    def start(self, channels: int, size: Size, generator: torch.Generator) -> Tensor:
        """The parameters of one image, float64, on the CPU."""

    @abstractmethod
    def draw(self, parameters: Tensor, size: Size) -> Tensor:
        """The pixels (n, C, H, W), from 0 to 1."""

    @abstractmethod
    def invert(self, pixels: Tensor) -> Tensor:
        """Parameters that draw `pixels` (n, C, H, W), or come closest."""

    def project(self, parameters: Tensor, size: Size) -> None:
        """Bring parameters back where they are valid, in place."""


@dataclass(frozen=True)
class Pixels(Canvas):
    """The image itself, pixel by pixel (Simonyan et al. 2013), cut to 0..1 after each step.

    Plain ascent on pixels finds images that this network scores highly and others do not recognise.

    Example:
        >>> import torch
        >>> pixels = torch.rand(1, 3, 8, 8)
        >>> torch.equal(Pixels().draw(Pixels().invert(pixels), (8, 8)), pixels)
        True
    """

    level: Annotated[float, Ge(0), Le(1), "Initial grey level, from 0 (black) to 1 (white)."] = 0.5
    noise: Annotated[float, Ge(0), "Standard deviation of the initial noise, in pixels from 0 to 1."] = 0.01

    def start(self, channels: int, size: Size, generator: torch.Generator) -> Tensor:
        """Grey with a little noise."""
        noise = torch.randn(channels, *size, generator=generator, dtype=torch.float64)
        return (self.level + self.noise * noise).clamp(0, 1)

    def draw(self, parameters: Tensor, size: Size) -> Tensor:
        """The parameters."""
        return parameters

    def invert(self, pixels: Tensor) -> Tensor:
        """The pixels."""
        return pixels.clone()

    def project(self, parameters: Tensor, size: Size) -> None:
        """Cut to 0..1."""
        parameters.clamp_(0, 1)


@dataclass(frozen=True)
class Fourier(Canvas):
    """Spatial frequencies of decorrelated colours (Olah et al. 2017).

        pixel = sigmoid(4 (L z + m - 1/2)),   z = F^-1[ s(f) (a + i b) ],   s(f) = c / max(f, f_1)^decay

    a + i b are the parameters; L L^T is the covariance of natural images' colours and m their mean, so that
    for moderate values pixel = L z + m; f_1 is the lowest frequency of the canvas, and c makes z of variance near 1
    (0.94 at 224 x 224) for parameters of variance 1. A step of equal size in every parameter changes coarse structure
    more than fine, as natural images vary. A grey canvas (C = 1) takes the mean of L's first column.

    After each step no frequency's magnitude may exceed `limit` times that of natural images (the projection makes
    of the magnitudes of Fel et al. 2023 a bound; None: no bound, as in Olah et al.). Frequency 0, the mean colour, has
    the magnitude 0 there, as the mean of images is m: a limit, whatever its size, holds the mean of z at 0.

    Example:
        >>> import torch
        >>> pixels = torch.rand(1, 3, 8, 8) * 0.9 + 0.05
        >>> torch.allclose(Fourier().draw(Fourier().invert(pixels), (8, 8)), pixels, atol=1e-4)
        True
    """

    # amplitudes that fall faster are 0 in single precision
    decay: Annotated[
        float, Ge(-4), Le(4), "Power of the frequency by which amplitudes fall; natural images have about 1."
    ] = 1.0
    noise: Annotated[float, Ge(0), "Standard deviation of the parameters at the start."] = 0.5
    limit: Annotated[
        float | None, Gt(0), "Most magnitude of a frequency, relative to natural images; None: unlimited."
    ] = 1.0

    def start(self, channels: int, size: Size, generator: torch.Generator) -> Tensor:
        """Gaussian noise, (C, H, W // 2 + 1, 2)."""
        return self.noise * torch.randn(
            channels, size[0], size[1] // 2 + 1, 2, generator=generator, dtype=torch.float64
        )

    def draw(self, parameters: Tensor, size: Size) -> Tensor:
        """From frequencies to pixels."""
        scaled = torch.view_as_complex(parameters) * self._amplitudes(size).to(parameters)
        return in_colour(torch.fft.irfft2(scaled, s=size, norm="ortho"))

    def invert(self, pixels: Tensor) -> Tensor:
        """From pixels to frequencies; black and white are taken as 0.01 and 0.99, which the sigmoid can reach."""
        spectrum = torch.fft.rfft2(out_of_colour(pixels), norm="ortho")
        size = (pixels.shape[2], pixels.shape[3])
        return torch.view_as_real(spectrum / self._amplitudes(size).to(pixels)).contiguous()

    def project(self, parameters: Tensor, size: Size) -> None:
        """Shrink what is beyond the limit, its phase kept."""
        if self.limit is None:
            return
        most = _most(self.decay, size).to(parameters)[: parameters.shape[1]] * self.limit
        spectrum = torch.view_as_complex(parameters)
        factor = spectrum.abs().clamp_min_(1e-12)
        spectrum.mul_(torch.div(most, factor, out=factor).clamp_max_(1))

    def _amplitudes(self, size: Size) -> Tensor:
        return _amplitudes(self.decay, size)


@dataclass(frozen=True)
class Magnitude(Canvas):
    """Only the phase is optimised; the magnitudes are those of natural images (MACO, Fel et al. 2023).

        pixel = sigmoid(4 (L z + m - 1/2)),   z = F^-1[ r(f) exp(i phase) ]

    The magnitudes r come from 64 images (`benchmarks/natural_images.py`), or from `spectrum`, which
    `measured(images)` makes of the user's own; at frequency 0, the mean colour, r is 0. High frequencies cannot
    grow beyond those of images, which keeps the noise out that other canvases need transforms and penalties
    against.

    Example:
        >>> import torch
        >>> parameters = Magnitude().start(3, (8, 8), torch.Generator().manual_seed(0))[None]
        >>> tuple(Magnitude().draw(parameters, (8, 8)).shape)
        (1, 3, 8, 8)
    """

    spectrum: Annotated[NaturalImages | None, "Magnitudes and colours computed from other images."] = None
    contrast: Annotated[float, Gt(0), "Factor on the magnitudes."] = 1.0

    def start(self, channels: int, size: Size, generator: torch.Generator) -> Tensor:
        """Phases, evenly from 0 to 2 pi, (C, H, W // 2 + 1)."""
        return 2 * torch.pi * torch.rand(channels, size[0], size[1] // 2 + 1, generator=generator, dtype=torch.float64)

    def draw(self, parameters: Tensor, size: Size) -> Tensor:
        """From phases to pixels."""
        z: Tensor = torch.fft.irfft2(torch.polar(self._magnitudes(parameters, size), parameters), s=size, norm="ortho")
        return in_colour(z, self.spectrum)

    def invert(self, pixels: Tensor) -> Tensor:
        """The phases of `pixels`: their magnitudes are lost, as this canvas has its own."""
        phases: Tensor = torch.fft.rfft2(out_of_colour(pixels, self.spectrum)).angle()
        return phases

    def _magnitudes(self, parameters: Tensor, size: Size) -> Tensor:
        table = (self.spectrum or natural_images()).spectrum(size).to(parameters)
        return self.contrast * table[: parameters.shape[1]].expand_as(parameters)


@lru_cache(maxsize=8)
def _amplitudes(decay: float, size: Size) -> Tensor:
    """s(f), (H, W // 2 + 1), float64."""
    s = frequencies(size).clamp_min(1 / max(size)) ** -decay
    variance = (waves(size) * s.square()).sum() * 2 / (size[0] * size[1])  # of z, as |a + i b|^2 has mean 2
    return s / variance.sqrt()


@lru_cache(maxsize=8)
def _most(decay: float, size: Size) -> Tensor:
    """The magnitude of parameters that draws that of natural images, (3, H, W // 2 + 1)."""
    return natural_images().spectrum(size) / _amplitudes(decay, size)


def in_colour(z: Tensor, statistics: NaturalImages | None = None) -> Tensor:
    """Decorrelated values (n, C, H, W) as pixels from 0 to 1: sigmoid(4 (L z + m - 1/2))."""
    L, m = _mixing(z, statistics)
    n = len(z)
    # 4 (L z + m - 1/2) in one pass over the pixels
    logits = torch.baddbmm((4 * m - 2).expand(n, -1, -1), (4 * L).expand(n, -1, -1), z.flatten(2))
    return torch.sigmoid(logits).view_as(z)


def out_of_colour(pixels: Tensor, statistics: NaturalImages | None = None) -> Tensor:
    """The inverse of `in_colour`, of pixels cut to 0.01..0.99."""
    L, m = _mixing(pixels, statistics)
    mixed = torch.logit(pixels.clamp(0.01, 0.99)) / 4 + 0.5 - m[..., None]
    return torch.einsum("ij,njhw->nihw", torch.linalg.inv(L), mixed)


def _mixing(like: Tensor, statistics: NaturalImages | None) -> tuple[Tensor, Tensor]:
    found = statistics or natural_images()
    L, m = found.mixing.double(), found.mean.double()
    if like.shape[1] == 1:
        L, m = L[:, :1].mean().reshape(1, 1), m.mean().reshape(1)
    return L.to(like), m[:, None].to(like)


def frequencies(size: Size) -> Tensor:
    """|f| in cycles per pixel, (H, W // 2 + 1), float64."""
    down = torch.fft.fftfreq(size[0], dtype=torch.float64)[:, None]
    along = torch.fft.rfftfreq(size[1], dtype=torch.float64)[None, :]
    f: Tensor = (down**2 + along**2).sqrt()
    return f


def waves(size: Size) -> Tensor:
    """How many frequencies of the full transform each of the half transform stands for: (W // 2 + 1,)."""
    count = torch.full((size[1] // 2 + 1,), 2.0, dtype=torch.float64)
    count[0] = 1
    if size[1] % 2 == 0:
        count[-1] = 1
    return count
