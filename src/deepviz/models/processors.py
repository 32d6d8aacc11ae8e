"""Image processors of transformers -> the fields of a `Preprocess`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from PIL import Image
from torch import Tensor

from deepviz.errors import ImageError
from deepviz.models.framing import Unreadable, filter_name, floats, framing, sides
from deepviz.models.transforms import read_transform

_KNOWN = (
    "do_resize",
    "do_center_crop",
    "do_rescale",
    "do_normalize",
    "do_flip_channel_order",
    "do_convert_rgb",  # ours are RGB
    "do_reduce_labels",  # of segmentation maps
    "do_convert_annotations",  # of boxes that are known
)
_OTHER_STEPS = (
    "patch_size",
    "max_num_patches",
    "max_patches",
    "min_pixels",
    "max_pixels",
    "size_divisor",
    "keep_aspect_ratio",
    "image_grid_pinpoints",
)
"""Options that ask for what a `Preprocess` does not do, if they are set."""
_BY_SHORTER_SIDE = ("CLIP", "Bit", "ConvNext", "Levit", "PoolFormer", "MobileNetV1", "MobileNetV2", "MobileViT")
"""Kinds to which one number is the shorter side; to others it is both."""

_BY_BOTH_SIDES = {"Detr": 1, "ConditionalDetr": 1, "DeformableDetr": 1, "Yolos": 16}
"""Kinds that keep the aspect within a shortest and a longest side, and what the sides are rounded down to; of several
images they pad the smaller ones."""


def is_processor(given: Any) -> bool:
    """Whether this is an image processor of transformers, or a processor that holds one."""
    return hasattr(given, "image_processor") or (hasattr(given, "to_dict") and hasattr(given, "model_input_names"))


def read_processor(processor: Any) -> dict[str, Any]:
    """The fields of the `Preprocess` that does what an image processor does.

    Raises:
        Unreadable: if there is none.
    """
    processor = getattr(processor, "image_processor", processor)
    if hasattr(processor, "val_transforms"):  # of a timm model in transformers
        return read_transform(processor.val_transforms)
    return read_configuration(processor.to_dict() | {"image_processor_type": type(processor).__name__})


def read_configuration(said: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the `Preprocess` that an image processor with this configuration is, preprocessor_config.json.

    Raises:
        Unreadable: if there is none.
    """
    said = {key: value for key, value in said.items() if value is not None}
    name = str(said.get("image_processor_type") or said.get("feature_extractor_type") or "")
    kind = name.removesuffix("Pil").removesuffix("Fast").removesuffix("ImageProcessor").removesuffix("FeatureExtractor")
    asked = [key for key, value in said.items() if value and (key.startswith("do_") or key in _OTHER_STEPS)]
    if kind in _BY_BOTH_SIDES and not said.get("pad_size"):
        asked = [key for key in asked if key not in ("do_pad", "pad_and_return_pixel_mask")]
    if _divisible(said):
        asked.remove("size_divisor")
    # Perceiver's crops before it resizes
    if any(key not in _KNOWN for key in asked) or not said.get("do_resize", True) or kind == "Perceiver":
        raise Unreadable
    mean, std = _statistics(kind, said)
    frame = _frame(kind, said)
    frame |= {"mean": mean, "std": std, "interpolation": filter_name(said.get("resample"))}
    if said.get("do_flip_channel_order"):
        frame["channels"] = "bgr"
    return frame


def _divisible(said: Mapping[str, Any]) -> bool:
    """Whether the sides are multiples of what they are to be multiples of."""
    size, divisor = said.get("size"), said.get("size_divisor")
    if not divisor or not isinstance(size, Mapping) or not (size.get("height") and size.get("width")):
        return False
    return bool(size["height"] % divisor == 0 == size["width"] % divisor)


def processed(processor: Any) -> Callable[[Image.Image], Tensor]:
    """The processor itself, from an image to the model's input.

    Raises:
        ImageError: from what is returned, if the processor makes no image.
    """
    processor = getattr(processor, "image_processor", processor)

    def preprocess(picture: Image.Image) -> Tensor:
        x = processor(picture, return_tensors="pt")["pixel_values"]
        if not isinstance(x, Tensor) or x.ndim != 4 or len(x) != 1:
            got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise ImageError(
                f"{type(processor).__name__} returns {got}, not one image (1, C, H, W): a model that takes patches or "
                "tiles takes tensors, deepviz.Inputs(...)"
            )
        return x[0].float()

    return preprocess


def _frame(kind: str, said: Mapping[str, Any]) -> dict[str, Any]:
    size = said.get("size")
    if kind in _BY_BOTH_SIDES:
        return _between(kind, size, said.get("max_size", 1333))
    if not isinstance(size, Mapping):  # of files before 2022
        size = {"shortest_edge": size} if kind in _BY_SHORTER_SIDE else {"height": size, "width": size}
    given = {key: value for key, value in size.items() if value is not None}
    crop = _crop(said.get("crop_size")) if said.get("do_center_crop") else None
    to: Any
    if given.keys() == {"shortest_edge"}:
        to = int(given["shortest_edge"])
    elif given.keys() == {"height", "width"}:
        to = (int(given["height"]), int(given["width"]))
    else:
        raise Unreadable
    to, crop = _resized(kind, said, to, crop)
    frame = framing(to, crop)
    return frame if frame["crop"] is None else frame | {"centre": "floor"}


def _between(kind: str, size: Any, longest: int) -> dict[str, Any]:
    """The frame of a kind that keeps the aspect; before 2023 the shorter side was one number."""
    given = {key: value for key, value in size.items() if value is not None} if isinstance(size, Mapping) else {}
    if isinstance(size, int):
        given = {"shortest_edge": size, "longest_edge": longest}
    if given.keys() != {"shortest_edge", "longest_edge"}:
        raise Unreadable
    frame = {"size": int(given["shortest_edge"]), "crop": None, "fit": "whole", "longest": int(given["longest_edge"])}
    multiple = _BY_BOTH_SIDES[kind]
    return frame if multiple == 1 else frame | {"multiple": multiple}


def _resized(kind: str, said: Mapping[str, Any], to: Any, crop: Any) -> tuple[Any, Any]:
    """What these kinds resize to, and cut out, where that is not what their options say at first sight."""
    part = said.get("crop_pct")
    if kind == "Levit" and isinstance(to, int):
        return int(256 / 224 * to), crop
    if kind.startswith("ConvNext"):
        if not isinstance(to, int) or crop is not None or part is None:
            raise Unreadable
        # it crops up to 384 pixels, and squashes from there on
        return (int(to / part), to) if to < 384 else ((to, to), None)
    if kind == "PoolFormer" and part is not None:
        if isinstance(to, int) or to[0] == to[1]:
            return int((to if isinstance(to, int) else to[0]) / part), crop
        return tuple(int(side / part) for side in to), crop
    if part is not None:
        raise Unreadable
    return to, crop


def _crop(size: Any) -> tuple[int, ...]:
    return sides((size["height"], size["width"]) if isinstance(size, Mapping) else size)


def _statistics(kind: str, said: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """`mean` and `std` of pixels from 0 to 1, of a processor that scales levels by its own factor."""
    factor = float(said.get("rescale_factor", 1 / 255)) if said.get("do_rescale", True) else 1.0
    scale = 1.0 if abs(factor * 255 - 1) < 1e-6 else factor * 255
    shift = 0.0
    if said.get("rescale_offset"):
        if kind != "EfficientNet":
            raise Unreadable
        shift = 1.0
    stated = [floats(said[key]) if key in said else () for key in ("image_mean", "image_std")]
    image_mean, image_std = (of * 3 if len(of) == 1 else of for of in stated)
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    if said.get("do_normalize", kind != "MobileViT"):
        mean, std = image_mean, image_std
    if said.get("include_top") and kind == "EfficientNet":  # divides once more
        std = tuple(one * again for one, again in zip(std, image_std, strict=False))
    if not mean or len(mean) != len(std):
        raise Unreadable
    return tuple((of + shift) / scale for of in mean), tuple(of / scale for of in std)
