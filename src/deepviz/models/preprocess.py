"""From an image to a model's input, and the way back to its pixels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from deepviz.errors import ModelError
from deepviz.geometry import Geometry
from deepviz.names import nearest

_RESAMPLING = {filter.name.lower(): filter for filter in Image.Resampling}
_MOST_RESIZED_PIXELS = 2**26


@dataclass(frozen=True)
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

    def __post_init__(self) -> None:
        for field in ("mean", "std"):
            object.__setattr__(self, field, _floats(getattr(self, field)))
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
        if self.interpolation not in _RESAMPLING:
            raise ModelError(
                f"interpolation {self.interpolation!r} is unknown{nearest(self.interpolation, _RESAMPLING)}"
            )

    def __call__(self, picture: Image.Image) -> tuple[Tensor, Geometry]:
        """The model's input (C, H, W), float32, and the part of `picture` that it shows."""
        picture = picture.convert("L" if len(self.mean) == 1 else "RGB")
        height, width = self._height_width
        resized = self._resized(picture.size)
        geometry = Geometry.resize_crop(picture.size, resized, (width, height))
        pixels = torch.from_numpy(np.array(self._framed(picture, resized, geometry)))
        pixels = pixels.reshape(height, width, -1).permute(2, 0, 1).contiguous().float().div(255)
        mean, std = self._statistics(pixels)
        return pixels.sub(mean).div(std), geometry

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) of the model's input."""
        return self._height_width

    def normalise(self, pixels: Tensor) -> Tensor:
        """(pixels - mean) / std, for pixels (..., C, H, W) from 0 to 1; differentiable."""
        mean, std = self._statistics(pixels)
        return torch.addcmul(-mean / std, pixels, 1 / std)  # in one pass

    def unnormalise(self, x: Tensor) -> Tensor:
        """Back to pixels from 0 to 1: x std + mean, for x (..., C, H, W); what lay outside stays outside."""
        mean, std = self._statistics(x)
        return x * std + mean

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
            PIL image, it is the same to about one level in 255; transformers may crop half a pixel elsewhere.
        """
        package = type(transform).__module__.split(".")[0]
        if package == "transformers":
            found = _read_processor(transform)
        elif type(transform).__name__ == "ImageClassification" and package == "torchvision":
            found = _read_preset(transform)
        else:
            found = _read_steps(list(_flat(transform)))
        return None if found is None else cls(**found)

    @property
    def _height_width(self) -> tuple[int, int]:
        return self.size if isinstance(self.size, tuple) else (self.size, self.size)

    def _resized(self, size: tuple[int, int]) -> tuple[int, int]:
        height, width = self._height_width
        if self.crop is None:
            return width, height
        return _covering(size, _enlarged(height, self.crop), _enlarged(width, self.crop))

    def _framed(self, picture: Image.Image, resized: tuple[int, int], geometry: Geometry) -> Image.Image:
        height, width = self._height_width
        resample = _RESAMPLING[self.interpolation]
        if resized[0] * resized[1] > _MOST_RESIZED_PIXELS:
            # a strip of 1 x 60000 pixels would grow to gigabytes, only to be cropped: resample its centre alone
            left, top, right, bottom = geometry.box
            box = (left, top, min(right, picture.width), min(bottom, picture.height))
            return picture.resize((width, height), resample, box=box)
        left, top = round((resized[0] - width) / 2), round((resized[1] - height) / 2)
        return picture.resize(resized, resample).crop((left, top, left + width, top + height))

    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = (torch.tensor(values, dtype=x.dtype, device=x.device) for values in (self.mean, self.std))
        return mean[:, None, None], std[:, None, None]


def _floats(values: Any) -> tuple[float, ...]:
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    # a float32 0.485 is 0.4850000143: its shortest name is the number that was meant
    return tuple(
        float(str(value)) if isinstance(value, np.floating) else float(value) for value in np.atleast_1d(values)
    )


def _enlarged(side: int, crop: float) -> int:
    return math.floor(side / crop + 1e-6)  # 224 / (224 / 232) is 231.99999999999997


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


def _flat(transform: Any) -> Iterator[Any]:
    inner = getattr(transform, "transforms", None)
    if inner is None and isinstance(transform, torch.nn.Sequential):
        inner = list(transform)
    if inner is None:
        yield transform
        return
    for step in inner:
        yield from _flat(step)


def _read_preset(preset: Any) -> dict[str, Any] | None:
    framing = _framing(preset.resize_size, preset.crop_size)
    interpolation = _filter_name(preset.interpolation)
    if framing is None or interpolation is None:
        return None
    return {**framing, "mean": preset.mean, "std": preset.std, "interpolation": interpolation}


class _UnreadableError(Exception):
    """A step that cannot be said as a `Preprocess`."""


class _Reading:
    """What has been understood of a list of transforms, step by step; any surprise is `_UnreadableError`."""

    def __init__(self) -> None:
        self.stage = "picture"
        self.grey = False
        self.resize: Any = None
        self.crop: Any = None
        self.covers = False
        self.interpolation = "bilinear"
        self.mean: tuple[float, ...] = (0.0,)
        self.std: tuple[float, ...] = (1.0,)

    def step(self, step: Any) -> None:
        reader = _STEPS.get((type(step).__module__.split(".")[0], type(step).__name__))
        if reader is None and getattr(step, "__name__", "") in _TO_RGB:
            reader = _Reading.nothing
        if reader is None:
            raise _UnreadableError
        reader(self, step)

    def expect(self, fits: bool) -> None:
        if not fits:
            raise _UnreadableError

    def nothing(self, step: Any) -> None:
        pass

    def to_rgb(self, step: Any) -> None:
        self.expect(getattr(step, "mode", "RGB") == "RGB")

    def grayscale(self, step: Any) -> None:
        self.expect(self.stage == "picture" and self.resize is None and step.num_output_channels == 1)
        self.grey = True

    def resized(self, step: Any) -> None:
        self.expect(self.stage in ("picture", "bytes") and self.resize is None and self.crop is None)
        self.expect(getattr(step, "max_size", None) is None)
        self.expect(self.stage == "picture" or getattr(step, "antialias", True) is True)
        self.resize = step.size
        self.interpolated(step)

    def resized_keeping_ratio(self, step: Any) -> None:
        self.expect(self.stage == "picture" and self.resize is None and self.crop is None)
        self.expect(step.longest == 0 and step.random_scale_prob == 0 and step.random_aspect_prob == 0)
        self.resize, self.covers = step.size, True
        self.interpolated(step)

    def interpolated(self, step: Any) -> None:
        name = _filter_name(step.interpolation)
        self.expect(name is not None)
        self.interpolation = str(name)

    def cropped(self, step: Any) -> None:
        self.expect(self.stage in ("picture", "bytes") and self.resize is not None and self.crop is None)
        self.crop = step.size

    def to_bytes(self, step: Any) -> None:
        self.expect(self.stage in ("picture", "bytes"))
        self.stage = "bytes"

    def to_floats(self, step: Any) -> None:
        self.expect(self.stage == "picture")
        self.stage = "floats"

    def cast(self, step: Any) -> None:
        self.expect(self.stage == "bytes" and step.dtype == torch.float32 and getattr(step, "scale", True))
        self.stage = "floats"

    def normalised(self, step: Any) -> None:
        self.expect(self.stage == "floats")
        self.mean, self.std, self.stage = _floats(step.mean), _floats(step.std), "normalised"

    def found(self) -> dict[str, Any] | None:
        self.expect(self.stage in ("floats", "normalised"))
        framing = _framing(self.resize, self.crop, self.covers)
        if framing is None:
            return None
        channels = 1 if self.grey else 3
        mean, std = (v * channels if len(v) == 1 else v for v in (self.mean, self.std))
        self.expect(len(mean) == len(std) == channels)
        return {**framing, "mean": mean, "std": std, "interpolation": self.interpolation}


_TO_RGB = (
    "_convert_to_rgb",
    "_convert_image_to_rgb",
)  # open_clip's and CLIP's first step: ours are RGB already
_STEPS = {
    ("open_clip", "MaybeConvertMode"): _Reading.to_rgb,
    ("open_clip", "MaybeToTensor"): _Reading.to_floats,
    ("timm", "MaybeToTensor"): _Reading.to_floats,
    ("timm", "MaybePILToTensor"): _Reading.to_bytes,
    ("timm", "ResizeKeepRatio"): _Reading.resized_keeping_ratio,
    ("torchvision", "CenterCrop"): _Reading.cropped,
    ("torchvision", "ConvertImageDtype"): _Reading.cast,
    ("torchvision", "Grayscale"): _Reading.grayscale,
    ("torchvision", "Identity"): _Reading.nothing,
    ("torchvision", "Normalize"): _Reading.normalised,
    ("torchvision", "PILToTensor"): _Reading.to_bytes,
    ("torchvision", "RGB"): _Reading.to_rgb,
    ("torchvision", "Resize"): _Reading.resized,
    ("torchvision", "ToDtype"): _Reading.cast,
    ("torchvision", "ToImage"): _Reading.to_bytes,
    ("torchvision", "ToPureTensor"): _Reading.nothing,
    ("torchvision", "ToTensor"): _Reading.to_floats,
}


def _read_steps(steps: list[Any]) -> dict[str, Any] | None:
    reading = _Reading()
    try:
        for step in steps:
            reading.step(step)
        return reading.found()
    except _UnreadableError:
        return None


def _framing(resize: Any, crop: Any, covers: bool = False) -> dict[str, Any] | None:
    """`size` and `crop` that resize and cut as these do, or None."""
    to, kept = _sides(resize), _sides(crop)
    if len(kept) == 1:
        kept *= 2
    if len(to) == 2 and not covers:
        return {"size": _size(to), "crop": None} if kept in ((), to) else None
    if not to or not kept:
        return None
    to = to * 2 if len(to) == 1 else to
    fraction = min(kept[0] / to[0], kept[1] / to[1])
    covered = tuple(_enlarged(side, fraction) for side in kept)
    square_rule = (kept[0] == kept[1]) != covers  # torchvision's rule for squares, timm's for the others
    if fraction > 1 or covered != to or not square_rule:
        return None
    return {"size": _size(kept), "crop": fraction}


def _sides(size: Any) -> tuple[int, ...]:
    if size is None:
        return ()
    return tuple(int(side) for side in size) if isinstance(size, Iterable) else (int(size),)


def _size(sides: tuple[int, ...]) -> int | tuple[int, ...]:
    return sides[0] if sides[0] == sides[1] else sides


def _filter_name(interpolation: Any) -> str | None:
    """Pillow's name for a filter that is given by a name, an enumeration or Pillow's number."""
    if isinstance(interpolation, int) and interpolation in _RESAMPLING.values():
        return Image.Resampling(interpolation).name.lower()
    name = str(getattr(interpolation, "value", interpolation)).removesuffix("-exact")
    return name if name in _RESAMPLING else None


def _read_processor(processor: Any) -> dict[str, Any] | None:
    """A transformers image processor, by what its configuration says."""
    said = processor.to_dict()
    known = ("do_resize", "do_rescale", "do_normalize")
    strange = ("do_pad", "rescale_offset", "include_top", "do_flip_channel_order")
    if not all(said.get(key) for key in known) or any(said.get(key) for key in strange):
        return None
    size = dict(said["size"])
    resize: Any = size.get("shortest_edge") or (size.get("height"), size.get("width"))
    crop = _sides(dict(said["crop_size"]).values()) if said.get("do_center_crop") else None
    if "crop_pct" in said:
        if not type(processor).__name__.startswith("ConvNext") or "shortest_edge" not in size:
            return None
        # ConvNeXt crops up to 384 pixels, and squashes from there on
        resize, crop = (int(resize / said["crop_pct"]), resize) if resize < 384 else ((resize, resize), None)
    interpolation = _filter_name(said.get("resample"))
    exact = abs(said.get("rescale_factor", 1 / 255) * 255 - 1) < 1e-6
    if interpolation is None or not exact or size.get("longest_edge") or resize == (None, None):
        return None
    framing = _framing(resize, crop)
    if framing is None:
        return None
    return {**framing, "mean": said["image_mean"], "std": said["image_std"], "interpolation": interpolation}
