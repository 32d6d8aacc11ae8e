"""Preprocessing that reads its own files: volumes, images of many bands and clips."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from deepviz.errors import DeepVizError, ImageError, ModelError, in_one_line
from deepviz.models.framing import floats
from deepviz.models.images import ENDINGS, Reads, check_is_no_url, shown, unreadable
from deepviz.render.slices import side_by_side

MEAN_DRAWN = "the mean of {} channels is drawn"
Source = str | os.PathLike[str] | NDArray[Any]
Axes = Literal[2, 3]
Interpolation = Literal["linear", "area", "nearest"]


@dataclass(frozen=True, eq=False)
class Stored:
    """Numbers as a file holds them.

    Args:
        values: (C, *space), float32; NaN where there are no data.
        name: of the file.
        spacing: the distance of neighbours along each spatial axis, in millimetres; None if it is not known.
        directions: the side of the body that each spatial axis runs to, a letter each: R or L, A or P, S or I; "" if
            that is not known.
        notes: what is to be known of how they were read, one sentence each.
    """

    values: NDArray[np.float32]
    name: str
    spacing: tuple[float, ...] | None = None
    directions: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Ready:
    """A file as a model's input, with its picture.

    Args:
        x: (C, *space), float32.
        picture: RGB, all of which `x` shows; of a volume its slices side by side, with the distances of its voxels in
            millimetres as `info["spacing"]`.
        name: of the file.
        notes: what the reader of a result should know, one sentence each.
    """

    x: Tensor
    picture: Image.Image
    name: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class FilePreprocess(ABC):
    """From a file, or an array, to a model's input: what reads its own files instead of getting a picture."""

    reads: ClassVar[Reads]

    @abstractmethod
    def __call__(self, source: Source) -> Ready:
        """The model's input for a file.

        Raises:
            ImageError: if the file cannot be read, or holds something else.
            MissingExtra: if that needs a package that is not installed.
        """

    @abstractmethod
    def shows(self, x: Tensor) -> tuple[Image.Image, tuple[str, ...]]:
        """The picture of an input (C, *space) that was given as a tensor, and how it is drawn, one sentence each."""

    @abstractmethod
    def example(self) -> Tensor | None:
        """An input (C, *space) of noise, of the size that it makes of files; None if that follows the file."""

    @abstractmethod
    def pixel_value(self, name: str) -> Tensor:
        """The value (C, 1, ...) that "black", "grey", "white" or "mean" has in the model's input.

        Raises:
            ModelError: for another name, or if that is not known.
        """

    @property
    def axes(self) -> Axes:
        """How many spatial axes an input has."""
        return 2 if self.reads == "bands" else 3


@dataclass(frozen=True)
class ArrayPreprocess(FilePreprocess):
    """What volumes and images of bands share: resizing, a window of values, mean and standard deviation.

    Args:
        size: the model's input, along each spatial axis; one number for all of them; None: as stored.
        window: (low, high): values are cut to these and scaled to 0..1. None: they are taken as they are.
        mean: of each channel, or one for all, after the window.
        std: likewise.
        standardise: each channel is given mean 0 and standard deviation 1 by its own values, in place of `mean` and
            `std`.
        interpolation: of the resizing.
    """

    size: int | tuple[int, ...] | None = None
    window: tuple[float, float] | None = None
    mean: float | tuple[float, ...] = 0.0
    std: float | tuple[float, ...] = 1.0
    standardise: bool = False
    interpolation: Interpolation = "linear"

    def __post_init__(self) -> None:
        for field in ("mean", "std"):
            object.__setattr__(self, field, floats(getattr(self, field)))
        if self.size is not None:
            given = (self.size,) * self.axes if isinstance(self.size, int) else tuple(self.size)
            if len(given) != self.axes or any(not isinstance(side, int) or side < 1 for side in given):
                named = "(height, width)" if self.axes == 2 else "(depth, height, width)"
                raise ModelError(f"size must be one number, {named} or None, got {self.size!r}")
            object.__setattr__(self, "size", given)
        if self.window is not None:
            window = floats(self.window)
            if len(window) != 2 or not window[0] < window[1]:
                raise ModelError(f"window must be (low, high), low below high, got {self.window!r}")
            object.__setattr__(self, "window", window)
        mean, std = self.statistics
        if len(mean) != len(std) and min(len(mean), len(std)) > 1:
            raise ModelError(f"mean and std must hold as many values as there are channels, got {mean} and {std}")
        if self.interpolation not in get_args(Interpolation):
            raise ModelError(f"interpolation must be linear, area or nearest, got {self.interpolation!r}")
        if 0 in std:
            raise ModelError(f"std must hold no 0, got {std}")
        if self.standardise and (set(mean) != {0.0} or set(std) != {1.0}):
            raise ModelError(
                "standardise=True takes each channel's own mean and standard deviation: leave out mean, std"
            )

    @property
    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation."""
        return floats(self.mean), floats(self.std)

    def pixel_value(self, name: str) -> Tensor:
        """The value (C, 1, ...) that "black", "grey" or "white" (the window's low end, middle and high end), or "mean",
        has in the model's input.

        Raises:
            ModelError: for another name, or without a window.
        """
        levels = {"mean": None, "black": 0.0, "grey": 0.5, "white": 1.0}
        if name not in levels:
            raise ModelError(f"unknown pixel value {name!r}: use 'black', 'grey', 'white' or 'mean'")
        level = levels[name]
        mean, std = self._statistics(torch.zeros(()))
        if level is None:
            return torch.zeros_like(mean + std)
        if self.window is None or self.standardise:
            raise ModelError(
                f"{name!r} is not known of values without a window: give window=(low, high), or use 'mean' or a number"
            )
        return (level - mean) / std

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = (torch.tensor(values, dtype=like.dtype, device=like.device) for values in self.statistics)
        ones = (1,) * self.axes
        return mean.view(-1, *ones), std.view(-1, *ones)

    def _checked(self, stored: Stored) -> Stored:
        """The same, if it has values, and as many channels as are stated."""
        named = "(C, H, W)" if self.axes == 2 else "(C, D, H, W)"
        if stored.values.ndim != self.axes + 1 or 0 in stored.values.shape:
            raise ImageError(f"{stored.name} is {stored.values.shape}, not {named}")
        if not bool(np.isfinite(stored.values).any()):
            raise ImageError(f"{stored.name} holds no finite value")
        most = max(map(len, self.statistics))
        if most not in (1, len(stored.values)):
            raise ImageError(f"{stored.name} has {len(stored.values)} channels, mean and std have {most}")
        return stored

    def _filled(self, values: Tensor) -> tuple[Tensor, tuple[str, ...]]:
        """The values with what becomes 0 in the model's input where there are no data."""
        missing = ~values.isfinite()
        if not bool(missing.any()):
            return values, ()
        if self.standardise:
            known = torch.where(missing, values.new_tensor(torch.nan), values)
            neutral = known.flatten(1).nanmean(1).nan_to_num().view(-1, *[1] * self.axes)
        else:
            neutral, _ = self._statistics(values)
            if self.window is not None:
                low, high = self.window
                neutral = low + neutral * (high - low)
        share = float(missing.double().mean())
        words = "less than 1 %" if share < 0.01 else f"{share:.0%}".replace("%", " %")
        return torch.where(missing, neutral, values), (f"{words} of the values are missing: 0 in the model's input",)

    def _windowed(self, values: Tensor) -> Tensor:
        if self.window is None:
            return values
        low, high = self.window
        return ((values - low) / (high - low)).clamp(0, 1)

    def _normalised(self, values: Tensor) -> Tensor:
        if not self.standardise:
            mean, std = self._statistics(values)
            return (values - mean) / std
        own = values.flatten(1).double()
        mean, std = own.mean(1), own.std(1, correction=0)
        shape = (-1, *[1] * self.axes)
        return ((values - mean.view(shape)) / std.where(std > 0, 1.0).view(shape)).to(values)

    def _levels(self, x: Tensor) -> Tensor | None:
        """An input, given as a tensor, before it was normalised; None if that is not known."""
        if self.standardise:
            return None
        mean, std = self._statistics(x)
        return x * std + mean

    def _noise(self, channels: int) -> Tensor | None:
        if not isinstance(self.size, tuple):
            return None
        return torch.randn(channels, *self.size, generator=torch.Generator().manual_seed(0))


def resized(values: Tensor, size: tuple[int, ...], interpolation: Interpolation = "linear") -> Tensor:
    """(C, *space) in another size; images are smoothed where they shrink."""
    if tuple(values.shape[1:]) == size:
        return values
    if interpolation != "linear":
        return F.interpolate(values[None], size, mode=interpolation)[0]
    mode = "bilinear" if len(size) == 2 else "trilinear"
    return F.interpolate(values[None], size, mode=mode, align_corners=False, antialias=len(size) == 2)[0]


def slices_picture(levels: Tensor) -> Image.Image:
    """Slices of levels (C, D, H, W) from 0 to 1: in colour if there are three channels, else the mean in grey."""
    shown_channels = levels if len(levels) == 3 else levels.mean(0, keepdim=True).expand(3, *levels.shape[1:])
    pixels = shown_channels.float().clamp(0, 1).mul(255).round().to("cpu", torch.uint8)
    return Image.fromarray(side_by_side(pixels.permute(1, 2, 3, 0).contiguous().numpy()))


def stretched(values: Tensor) -> Tensor:
    """Values from 0 at their minimum to 1 at their maximum."""
    low, high = values.min(), values.max()
    return (values - low) / (high - low if high > low else 1)


def from_array(values: NDArray[Any], axes: Axes, name: str) -> Stored:
    """An array (*space) or (C, *space).

    Raises:
        ImageError: for another shape, or what is no real number.
    """
    if values.ndim not in (axes, axes + 1):
        accepted, other = (
            ("(H, W) or (C, H, W)", "VolumePreprocess")
            if axes == 2
            else (
                "(D, H, W) or (C, D, H, W)",
                "BandPreprocess",
            )
        )
        raise ImageError(
            f"{name} has {values.ndim} axes, {values.shape}: the model's preprocessing takes {accepted}; of "
            f"{2 if axes == 3 else 3} spatial axes it is deepviz.{other}"
        )
    if values.dtype.kind not in "biuf":
        raise ImageError(f"{name} holds {values.dtype}, not real numbers")
    return Stored((values[None] if values.ndim == axes else values).astype(np.float32), name)


def read_array(path: Path, axes: Axes) -> Stored:
    """A .npy file, or the one array of a .npz file.

    Raises:
        ImageError: if it cannot be read, or there are several.
    """
    name = shown(path.name)
    with reading(path):
        loaded = np.load(path, allow_pickle=False)
        if not isinstance(loaded, np.ndarray):
            with loaded:
                if len(loaded.files) != 1:
                    held = ", ".join(loaded.files) or "none"
                    raise ImageError(f"{name} must hold one array, not {held}: save the one as .npy")
                loaded = loaded[loaded.files[0]]
    return from_array(loaded, axes, name)


def path_of(source: Source, what: str) -> Path:
    """The path of a file or folder that is there.

    Raises:
        ImageError: for anything else.
    """
    if not isinstance(source, (str, os.PathLike)):
        raise ImageError(f"{what} is a path, an array or a tensor, not {type(source).__name__}")
    check_is_no_url(source)
    path = Path(source)
    if not path.exists():
        raise ImageError(f"{shown(source)} does not exist")
    return path


def other_kind(path: Path, reads: Reads, what: str) -> ImageError:
    """Of a file, or folder, that a preprocessing does not take."""
    if path.is_dir():
        return ImageError(f"{shown(path)} is a folder; give {what} in it")
    return ImageError(
        f"{shown(path)} is not {what}: the model's preprocessing takes {', '.join(sorted(ENDINGS[reads]))}"
    )


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Whatever goes wrong while a file is read is an `ImageError` that names it."""
    try:
        yield
    except DeepVizError:
        raise
    except OSError as error:
        if error.errno is None:
            raise ImageError(f"{shown(path)} cannot be read, it may be damaged: {in_one_line(error)}") from error
        raise ImageError(unreadable(path, shown(path), error)) from None
    except Exception as error:  # a broken file can make a reader raise almost anything
        raise ImageError(f"{shown(path)} cannot be read, it may be damaged: {in_one_line(error)}") from error
