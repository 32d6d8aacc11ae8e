"""The transforms of torchvision, timm and open_clip -> the fields of a `Preprocess`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from deepviz.models.framing import Unreadable, filter_name, floats, framing

_PRESETS = ("ImageClassification", "SemanticSegmentation")
"""Of torchvision's weights, those that resize and normalise one image."""


def read_transform(transform: Any) -> dict[str, Any]:
    """The fields of the `Preprocess` that does what a transform does.

    Raises:
        Unreadable: if there is none.
    """
    if type(transform).__name__ in _PRESETS and type(transform).__module__.startswith("torchvision."):
        return _read_preset(transform)
    reading = _Reading()
    for step in _flat(transform):
        reading.step(step)
    return reading.found()


def _flat(transform: Any) -> Iterator[Any]:
    inner = getattr(transform, "transforms", None)
    if inner is None and isinstance(transform, torch.nn.Sequential):
        inner = list(transform)
    if inner is None:
        yield transform
        return
    for step in inner:
        yield from _flat(step)


def _read_preset(preset: Any) -> dict[str, Any]:
    frame = framing(preset.resize_size, getattr(preset, "crop_size", None))
    return {**frame, "mean": preset.mean, "std": preset.std, "interpolation": filter_name(preset.interpolation)}


class _Reading:
    """What has been understood of a list of transforms, step by step; any surprise is `Unreadable`."""

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
            raise Unreadable
        reader(self, step)

    def expect(self, fits: bool) -> None:
        if not fits:
            raise Unreadable

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
        self.interpolation = filter_name(step.interpolation)

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
        self.mean, self.std, self.stage = floats(step.mean), floats(step.std), "normalised"

    def found(self) -> dict[str, Any]:
        self.expect(self.stage in ("floats", "normalised"))
        frame = framing(self.resize, self.crop, self.covers)
        channels = 1 if self.grey else 3
        mean, std = (v * channels if len(v) == 1 else v for v in (self.mean, self.std))
        self.expect(len(mean) == len(std) == channels)
        return {**frame, "mean": mean, "std": std, "interpolation": self.interpolation}


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
