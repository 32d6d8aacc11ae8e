"""The outline of a region on a picture."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deepviz.geometry import Geometry
from deepviz.render.boxes import EXPLAINED, INK
from deepviz.render.overlay import place

COVERED = 0.5
"""Of the pixels of the picture those belong to the region whose weight is at least this share of the largest."""


def outlined(picture: Image.Image, mask: NDArray[np.float32], geometry: Geometry) -> Image.Image:
    """The picture with the border of a region, a mask (h, w) from 0 to 1 of the model's input; none if it is all."""
    placed = np.nan_to_num(place(mask, geometry))
    inside = placed >= COVERED
    if inside.all():
        return picture
    width = max(1, round(min(picture.size) / 250))
    drawn = picture.convert("RGB")
    for colour, by in ((INK, width + 1), (EXPLAINED, width)):
        drawn.paste(colour, mask=Image.fromarray(_border(inside, by)))
    return drawn


def _border(inside: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """Pixels inside that have one outside within `width`; the edge of the picture is no border."""
    left = inside
    for _ in range(width):
        grown = np.pad(left, 1, mode="edge")
        left = left & grown[:-2, 1:-1] & grown[2:, 1:-1] & grown[1:-1, :-2] & grown[1:-1, 2:]
    return inside & ~left
