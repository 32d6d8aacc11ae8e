"""Resizing and cropping as transforms say it -> the fields of a `Preprocess`."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

RESAMPLING = {filter.name.lower(): filter for filter in Image.Resampling}


class Unreadable(Exception):
    """A step that cannot be said as a `Preprocess`."""


def framing(resize: Any, crop: Any, covers: bool = False) -> dict[str, Any]:
    """`size`, `crop` and `fit` that resize and cut as these do.

    Args:
        resize: one number for the shorter side, (height, width) to squash into, or None.
        crop: the sides of the centre that is cut out, or None.
        covers: whether two sides of `resize` are to be covered, the aspect kept, as timm does for rectangles.

    Raises:
        Unreadable: if no `Preprocess` does that.
    """
    to, kept = sides(resize), sides(crop)
    if len(kept) == 1:
        kept *= 2
    if not to or (covers and not kept):
        raise Unreadable
    if not kept:
        return {"size": _size(to), "crop": None} | ({"fit": "whole"} if len(to) == 1 else {})
    squashed = len(to) == 2 and not covers
    if squashed and kept == to:
        return {"size": _size(to), "crop": None}
    to = to * 2 if len(to) == 1 else to
    fraction = min(kept[0] / to[0], kept[1] / to[1])
    if fraction > 1 or tuple(enlarged(side, fraction) for side in kept) != to:
        raise Unreadable
    if squashed:
        return {"size": _size(kept), "crop": fraction, "fit": "squash"}
    if (kept[0] == kept[1]) == covers:  # torchvision's rule is for squares, timm's for the others
        raise Unreadable
    return {"size": _size(kept), "crop": fraction}


def enlarged(side: int, crop: float) -> int:
    """The side of a picture of which a crop keeps `side`."""
    return math.floor(side / crop + 1e-6)  # 224 / (224 / 232) is 231.99999999999997


def sides(size: Any) -> tuple[int, ...]:
    """One or two sides, or none."""
    if size is None:
        return ()
    return tuple(int(side) for side in size) if isinstance(size, Iterable) else (int(size),)


def _size(of: tuple[int, ...]) -> int | tuple[int, ...]:
    return of[0] if of[0] == of[-1] else of


def filter_name(interpolation: Any) -> str:
    """Pillow's name for a filter that is given by a name, an enumeration or Pillow's number.

    Raises:
        Unreadable: for another.
    """
    if isinstance(interpolation, int) and interpolation in RESAMPLING.values():
        return Image.Resampling(interpolation).name.lower()
    name = str(getattr(interpolation, "value", interpolation)).removesuffix("-exact")
    if name not in RESAMPLING:
        raise Unreadable
    return name


def floats(values: Any) -> tuple[float, ...]:
    """Numbers as Python's, of whatever kind of sequence."""
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    # a float32 0.485 is 0.4850000143: its shortest name is the number that was meant
    return tuple(
        float(str(value)) if isinstance(value, np.floating) else float(value) for value in np.atleast_1d(values)
    )
