"""Boxes with their labels on a picture: what a detector found, the explained one emphasised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from deepviz.render.text import drawable, length, write

BoxOf = tuple[float, float, float, float]
EXPLAINED, OTHER, INK = "#ffdd00", "#ebebeb", "#141414"


@dataclass(frozen=True)
class DrawnBox:
    """One box.

    Args:
        box: (left, top, right, bottom) in pixels of the picture.
        text: what is written at it.
        explained: whether it is emphasised.
    """

    box: BoxOf
    text: str
    explained: bool = False


def boxed(picture: Image.Image, boxes: Sequence[DrawnBox]) -> Image.Image:
    """The picture with boxes on it, the explained ones last and emphasised, with labels where they fit."""
    if not boxes:
        return picture
    drawn = picture.convert("RGB")
    draw = ImageDraw.Draw(drawn)
    unit = max(1, round(min(picture.size) / 220))
    size = max(10, round(min(picture.size) / 28))
    for one in sorted(boxes, key=lambda each: each.explained):
        colour = EXPLAINED if one.explained else OTHER
        width = 2 * unit if one.explained else unit
        box = _inside(one.box, picture.size)
        draw.rectangle(_grown(box, 1), outline=INK, width=width + 2)
        draw.rectangle(box, outline=colour, width=width)
        _label(draw, one, box, colour, size, picture.size)
    return drawn


def _label(draw: ImageDraw.ImageDraw, one: DrawnBox, box: BoxOf, colour: str, size: int, of: tuple[int, int]) -> None:
    text = one.text if drawable(one.text) else ""
    if not text or (not one.explained and length(text, size) > max(2.0 * (box[2] - box[0]), 40.0)):
        return
    wide, high = length(text, size) + 6, size + 4
    left = max(0.0, min(box[0], of[0] - wide))
    top = box[1] - high if box[1] >= high else min(box[1], of[1] - high)
    draw.rectangle((left, top, left + wide, top + high), fill=colour)
    write(draw, (left + 3, top + 1), text, INK, size)


def _inside(box: BoxOf, size: tuple[int, int]) -> BoxOf:
    left, top, right, bottom = box
    across, down = size[0] - 1.0, size[1] - 1.0
    x0, y0 = min(max(left, 0.0), across), min(max(top, 0.0), down)
    return x0, y0, min(max(right - 1, x0), across), min(max(bottom - 1, y0), down)


def _grown(box: BoxOf, by: int) -> BoxOf:
    return box[0] - by, box[1] - by, box[2] + by, box[3] + by
