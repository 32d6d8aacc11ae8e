"""From an image to a model's input, and the way back to its pixels."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from deepviz.errors import ImageError, ModelError
from deepviz.geometry import Geometry
from deepviz.models.framing import RESAMPLING, Unreadable, enlarged, floats
from deepviz.models.processors import is_processor, read_processor
from deepviz.models.transforms import read_transform
from deepviz.names import nearest

Fit = Literal["cover", "squash", "whole", "letterbox"]
_FITS: tuple[Fit, ...] = get_args(Fit)
_MOST_RESIZED_PIXELS = 2**26
_ALWAYS_TOLD = 5
"""Fields, from the first on, that the text of a `Preprocess` always tells."""


@dataclass(frozen=True, repr=False)
class Preprocess:
    """Resize, crop to the centre, scale to 0..1 and normalise: (pixel - mean) / std.

    With Pillow's resampling, and bit for bit what torchvision's Resize, CenterCrop, ToTensor and Normalize give.

    Args:
        size: the model's input, in pixels: one number for a square, or (height, width).
        crop: the fraction of the resized picture that is kept. The picture is resized, its aspect kept, until it
            just covers floor(size / crop); then the centre is cut out: `Preprocess(224, crop=224 / 256)` is
            Resize(256) and CenterCrop(224). None: the whole picture, squashed into `size`.
        mean: per channel, in pixels from 0 to 1. One channel makes a grey input.
        std: per channel.
        interpolation: "bilinear", "bicubic", "nearest", "lanczos", "box" or "hamming".
        fit: how the picture is resized: "cover", the default if there is a `crop`; "squash", the default if there is
            none, to size / crop whatever its aspect; "whole", its aspect kept and nothing cut, so that the shorter
            side is `size` and the input's shape follows the picture's; or "letterbox", its aspect kept, as large as
            fits into `size`, and padded on both sides.
        channels: "rgb", or "bgr", in which order `mean` and `std` then are.
        centre: where an odd pixel of a crop goes: "round", as torchvision and timm have it, or "floor", as
            transformers do.
        longest: of fit="whole", the longer side, at most: a picture for which it would be longer becomes smaller.
        multiple: of fit="whole" and "letterbox", the input's sides are multiples of it; of "letterbox", the smallest
            ones into which the picture fits, in place of `size`.
        pad: what is added, below and to the right of the "whole" picture or around the "letterbox": a grey level from
            0 to 1, or "mean", the mean colour. None: nothing; the sides are rounded down to the `multiple`.
        antialias: False: resized as `torch.nn.functional.interpolate` does it, from four pixels, whatever the scale,
            and with the sides of fit="whole" rounded down; with "bilinear" alone. Detectors of torchvision do so, and
            OpenCV within a level of 255.

    Raises:
        ModelError: for values that make no sense.

    Example:
        >>> x, geometry = Preprocess(32, crop=1.0)(Image.new("RGB", (60, 40)))
        >>> x.shape, geometry.box
        (torch.Size([3, 32, 32]), (10.0, 0.0, 50.0, 40.0))
    """

    size: int | tuple[int, int]
    crop: float | None = 0.875
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    interpolation: str = "bilinear"
    fit: Fit | None = None
    channels: Literal["rgb", "bgr"] = "rgb"
    centre: Literal["round", "floor"] = "round"
    longest: int | None = None
    multiple: int = 1
    pad: float | Literal["mean"] | None = None
    antialias: bool = True

    def __post_init__(self) -> None:
        for field in ("mean", "std"):
            object.__setattr__(self, field, floats(getattr(self, field)))
        if isinstance(self.size, Iterable):
            object.__setattr__(self, "size", tuple(self.size))
        if len(self._height_width) != 2 or any(not isinstance(side, int) or side < 1 for side in self._height_width):
            raise ModelError(f"size must be a number of pixels or (height, width), got {self.size!r}")
        if self.crop is not None and not 0 < self.crop <= 1:
            raise ModelError(f"crop must be a fraction above 0 and up to 1, or None to squash, got {self.crop!r}")
        if len(self.mean) not in (1, 3) or len(self.mean) != len(self.std) or 0 in self.std:
            raise ModelError(
                f"mean and std must hold 1 or 3 values each, std none of 0, got {self.mean} and {self.std}"
            )
        if self.interpolation not in RESAMPLING:
            raise ModelError(
                f"interpolation {self.interpolation!r} is unknown{nearest(self.interpolation, RESAMPLING)}"
            )

        self._check_fit()
        if self.fit == self._usual_fit:
            object.__setattr__(self, "fit", None)  # so that equal ones compare equal

    def _check_fit(self) -> None:
        if self.fit not in (None, *_FITS):
            raise ModelError(f"fit must be one of {', '.join(map(repr, _FITS))}, got {self.fit!r}")
        if self.fit == "cover" and self.crop is None:
            raise ModelError("fit='cover' needs a crop: 1.0 cuts out the largest centre of the input's aspect")
        if self.fit == "whole" and (self.crop is not None or isinstance(self.size, tuple)):
            raise ModelError("fit='whole' cuts nothing: it takes crop=None, and one number as size, the shorter side")
        self._check_padding()
        if self.channels not in ("rgb", "bgr") or (self.channels == "bgr" and len(self.mean) != 3):
            raise ModelError(f"channels must be 'rgb', or 'bgr' of three channels, got {self.channels!r}")
        if self.centre not in ("round", "floor"):
            raise ModelError(f"centre must be 'round' or 'floor', got {self.centre!r}")

    def _check_padding(self) -> None:
        keeps = self.fit in ("whole", "letterbox")
        if self.fit == "letterbox" and (self.crop is not None or self.pad is None):
            raise ModelError(
                "fit='letterbox' cuts nothing and pads: it takes crop=None, and pad='mean' or a grey level"
            )
        if self.longest is not None and (self.fit != "whole" or self.longest < max(self._height_width)):
            raise ModelError(f"longest={self.longest!r} is for fit='whole', and at least the shorter side, `size`")
        if not isinstance(self.multiple, int) or self.multiple < 1 or (self.multiple > 1 and not keeps):
            raise ModelError(f"multiple={self.multiple!r} is a number of pixels, for fit='whole' or 'letterbox'")
        grey = isinstance(self.pad, (int, float)) and 0 <= self.pad <= 1
        if self.pad is not None and (not keeps or not (self.pad == "mean" or grey)):
            raise ModelError(f"pad={self.pad!r} is 'mean' or a grey level from 0 to 1, for fit='whole' or 'letterbox'")
        if not self.antialias and self.interpolation != "bilinear":
            raise ModelError("antialias=False is for interpolation='bilinear'")

    def __call__(self, picture: Image.Image) -> tuple[Tensor, Geometry]:
        """The model's input (C, H, W), float32, and the part of `picture` that it shows."""
        picture = picture.convert("L" if len(self.mean) == 1 else "RGB")
        resized = self._resized(picture.size)
        width, height = self._input_of(resized)
        left, top = self._offset(resized[0] - width), self._offset(resized[1] - height)
        sx, sy = picture.width / resized[0], picture.height / resized[1]
        geometry = Geometry(picture.size, (left * sx, top * sy, (left + width) * sx, (top + height) * sy))
        # of what is padded, all of the picture; the offsets are negative there
        cut = (max(left, 0), max(top, 0), min(left + width, resized[0]), min(top + height, resized[1]))
        pixels = self._ordered(self._framed(picture, resized, cut, geometry))
        mean, std = self._statistics(pixels)
        x = pixels.sub(mean).div(std)
        return self._padded(x, (width, height), (max(-left, 0), max(-top, 0))), geometry

    def __repr__(self) -> str:
        # what is as usual goes without saying
        usual = {field.name: field.default for field in fields(self)[_ALWAYS_TOLD:]}
        told = {field.name: getattr(self, field.name) for field in fields(self)}
        said = ", ".join(f"{name}={value!r}" for name, value in told.items() if usual.get(name, ...) != value)
        return f"Preprocess({said})"

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) of the model's input; with fit="whole" of that of a square image."""
        return self._height_width

    def normalise(self, pixels: Tensor) -> Tensor:
        """(pixels - mean) / std, for pixels (..., C, H, W) from 0 to 1; differentiable."""
        mean, std = self._statistics(pixels)
        return torch.addcmul(-mean / std, self._ordered(pixels), 1 / std)  # in one pass

    def unnormalise(self, x: Tensor) -> Tensor:
        """Back to pixels from 0 to 1: x std + mean, for x (..., C, H, W); what lay outside stays outside."""
        mean, std = self._statistics(x)
        return self._ordered(x * std + mean)

    def pixel_value(self, name: str) -> Tensor:
        """The value (C, 1, 1) that "black", "grey", "white" or "mean" (the mean colour, 0) has in the model's input.

        Raises:
            ModelError: for another name.
        """
        shades = {"black": 0.0, "grey": 0.5, "white": 1.0}
        levels = {"mean": self.mean} | {shade: (level,) * len(self.mean) for shade, level in shades.items()}
        if name not in levels:
            raise ModelError(f"unknown pixel value {name!r}: use 'black', 'grey', 'white' or 'mean'")
        pixels = torch.tensor(levels[name])[:, None, None]
        mean, std = self._statistics(pixels)
        return pixels.sub(mean).div(std)

    @classmethod
    def read(cls, transform: Any) -> Preprocess | None:
        """The same preprocessing as a torchvision (v1, v2, weights' preset), timm or transformers one does.

        Returns:
            None if it cannot be said in these terms. Where `transform` resizes a uint8 tensor rather than a
            PIL image, it is the same to about one level in 255.
        """
        try:
            return cls(**(read_processor if is_processor(transform) else read_transform)(transform))
        except Unreadable:
            return None

    @property
    def _usual_fit(self) -> Fit:
        return "squash" if self.crop is None else "cover"

    @property
    def _height_width(self) -> tuple[int, int]:
        return self.size if isinstance(self.size, tuple) else (self.size, self.size)

    def _resized(self, size: tuple[int, int]) -> tuple[int, int]:
        height, width = self._height_width
        if self.crop is not None:
            height, width = enlarged(height, self.crop), enlarged(width, self.crop)
        if (self.fit or self._usual_fit) == "squash":
            return width, height
        if self.fit == "letterbox":
            scale = min(height / size[1], width / size[0])
            return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
        if self.fit == "whole":
            short = self._height_width[0]
            across, down = _whole(size, short, self.longest) if self.antialias else _shrunk(size, short, self.longest)
            if self.pad is None:
                across, down = (max(side - side % self.multiple, self.multiple) for side in (across, down))
            return across, down
        return _covering(size, height, width)

    def _input_of(self, resized: tuple[int, int]) -> tuple[int, int]:
        """(width, height) of the input of a picture that is resized to this."""
        if self.fit == "whole" or (self.fit == "letterbox" and self.multiple > 1):
            width, height = (-(-side // self.multiple) * self.multiple for side in resized)
            return width, height
        return self._height_width[1], self._height_width[0]

    def _offset(self, rest: int) -> int:
        if self.fit == "whole":
            return 0
        if self.fit == "letterbox":  # an odd pixel is added below or to the right
            return -(-rest // 2)
        return rest // 2 if self.centre == "floor" else round(rest / 2)

    def _padded(self, x: Tensor, size: tuple[int, int], place: tuple[int, int]) -> Tensor:
        """The input of `size` = (width, height), filled up, with `x` at `place` = (left, top)."""
        if tuple(x.shape[:0:-1]) == size:
            return x
        pad = torch.zeros(len(x), 1, 1) if self.pad == "mean" else self._normalised_grey(float(self.pad or 0))
        whole = pad.expand(-1, size[1], size[0]).clone()
        whole[:, place[1] : place[1] + x.shape[1], place[0] : place[0] + x.shape[2]] = x
        return whole

    def _normalised_grey(self, level: float) -> Tensor:
        """The value (C, 1, 1) that a grey pixel has in the model's input."""
        pixels = torch.full((len(self.mean), 1, 1), level)
        mean, std = self._statistics(pixels)
        return pixels.sub(mean).div(std)

    def _framed(
        self, picture: Image.Image, resized: tuple[int, int], cut: tuple[int, int, int, int], geometry: Geometry
    ) -> Tensor:
        """The part of the resized picture that is cut out, (C, h, w), pixels from 0 to 1 in its own order."""
        if not self.antialias:
            self._check_resized(picture, resized)
            pixels = _pixels(picture)[None]
            size = (resized[1], resized[0])
            left, top, right, bottom = cut
            return F.interpolate(pixels, size, mode="bilinear", align_corners=False)[0, :, top:bottom, left:right]
        return _pixels(self._resized_and_cut(picture, resized, cut, geometry))

    def _resized_and_cut(
        self, picture: Image.Image, resized: tuple[int, int], cut: tuple[int, int, int, int], geometry: Geometry
    ) -> Image.Image:
        resample = RESAMPLING[self.interpolation]
        if resized[0] * resized[1] > _MOST_RESIZED_PIXELS:
            if self.fit == "whole":
                self._check_resized(picture, resized)
            # a strip of 1 x 60000 pixels would grow to gigabytes, only to be cropped: resample its centre alone
            left, top, right, bottom = geometry.box
            box = (left, top, min(right, picture.width), min(bottom, picture.height))
            return picture.resize((cut[2] - cut[0], cut[3] - cut[1]), resample, box=box)
        return picture.resize(resized, resample).crop(cut)

    def _check_resized(self, picture: Image.Image, resized: tuple[int, int]) -> None:
        across, down = resized
        if across * down > _MOST_RESIZED_PIXELS:
            raise ImageError(f"{picture.width} x {picture.height} pixels would become {across} x {down}; crop it")

    def _ordered(self, pixels: Tensor) -> Tensor:
        """From red, green, blue to the model's order, or back."""
        return pixels.flip(-3) if self.channels == "bgr" else pixels

    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = (torch.tensor(values, dtype=x.dtype, device=x.device) for values in (self.mean, self.std))
        return mean[:, None, None], std[:, None, None]


def _pixels(picture: Image.Image) -> Tensor:
    """(C, H, W), from 0 to 1."""
    values = torch.from_numpy(np.array(picture)).reshape(picture.height, picture.width, -1)
    return values.permute(2, 0, 1).contiguous().float().div(255)


def _whole(size: tuple[int, int], short: int, longest: int | None) -> tuple[int, int]:
    """The (width, height) of a picture of `size` whose shorter side becomes `short`, or whose longer one `longest`.

    Rounded as torchvision's Resize does, and where `longest` decides, as image processors of transformers do.
    """
    least, most = min(size), max(size)
    side: float = short
    if longest is not None and most / least * short > longest:
        side = longest * least / most
    other = int(side * most / least)
    return (round(side), other) if size[0] <= size[1] else (other, round(side))


def _shrunk(size: tuple[int, int], short: int, longest: int | None) -> tuple[int, int]:
    """The same, rounded down as `interpolate` does for a scale."""
    scale = short / min(size) if longest is None else min(short / min(size), longest / max(size))
    return max(1, int(size[0] * scale)), max(1, int(size[1] * scale))


def _covering(size: tuple[int, int], height: int, width: int) -> tuple[int, int]:
    """The (width, height) of a picture of `size` when it just covers height x width, its aspect kept.

    Rounded as torchvision does for a square, and as timm does for another rectangle.
    """
    if height == width:
        short, long = min(size), max(size)
        other = int(height * long / short)
        return (height, other) if size[0] <= size[1] else (other, height)
    ratio = min(size[0] / width, size[1] / height)
    return round(size[0] / ratio), round(size[1] / ratio)
