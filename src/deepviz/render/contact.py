"""A page of pictures side by side, each with a line or two below."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from deepviz.render.sheet import FAINT, INK, PAPER
from deepviz.render.text import cut, write

BORDER, SPACE = 32, 16
LONGEST = 256
"""Longer side of a picture on the page at most, in pixels; small pictures keep whole pixels when they are enlarged."""


@dataclass(frozen=True)
class Thumbnail:
    """One picture with its caption.

    Args:
        picture: of any size.
        caption: the first line.
        detail: the second, fainter.
    """

    picture: Image.Image
    caption: str = ""
    detail: str = ""


def contact_sheet(
    thumbnails: Sequence[Thumbnail], *, title: str = "", footer: str = "", columns: int | None = None
) -> Image.Image:
    """The pictures in rows, in reading order.

    Args:
        thumbnails: at least one.
        title: of the page, or nothing.
        footer: one small line at the end, or nothing.
        columns: how many stand in a row; None: as many as make the page somewhat wider than high.

    Raises:
        ValueError: if there is no picture.
    """
    if not thumbnails:
        raise ValueError("no pictures to draw")
    columns = columns or _columns(len(thumbnails))
    pictures = [_sized(one.picture) for one in thumbnails]
    width, height = (max(picture.size[axis] for picture in pictures) for axis in (0, 1))
    text = 26 * any(one.caption for one in thumbnails) + 22 * any(one.detail for one in thumbnails)
    rows = math.ceil(len(thumbnails) / columns)
    top = BORDER + (48 if title else 0)
    page = Image.new(
        "RGB",
        (
            2 * BORDER + columns * (width + SPACE) - SPACE,
            top + rows * (height + text + SPACE) + (BORDER if footer else 0) + SPACE,
        ),
        PAPER,
    )
    draw = ImageDraw.Draw(page)
    across = page.width - 2 * BORDER
    if title:
        write(draw, (BORDER, BORDER - 8), cut(title, 30, across), INK, 30)
    for place, (one, picture) in enumerate(zip(thumbnails, pictures, strict=True)):
        x = BORDER + place % columns * (width + SPACE)
        y = top + place // columns * (height + text + SPACE)
        page.paste(picture, (x, y))
        write(draw, (x, y + height + 3), cut(one.caption, 18, width), INK, 18)
        write(draw, (x, y + height + 27), cut(one.detail, 15, width), FAINT, 15)
    if footer:
        write(draw, (BORDER, page.height - BORDER), cut(footer, 14, across), FAINT, 14)
    return page


def _columns(count: int) -> int:
    """As many as make the page wider than high, with few places left empty."""
    usual = math.ceil(math.sqrt(1.3 * count))
    near = range(max(1, usual - 1), min(usual + 1, count) + 1)
    return min(near, key=lambda columns: (-count % columns, abs(columns - usual), -columns))


def _sized(picture: Image.Image) -> Image.Image:
    picture = picture.convert("RGB")
    longer = max(picture.size)
    if longer * 2 <= LONGEST:
        times = LONGEST // longer
        return picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)
    if longer <= LONGEST:
        return picture
    share = LONGEST / longer
    size = tuple(max(1, round(side * share)) for side in picture.size)
    return picture.resize(size, Image.Resampling.LANCZOS)  # type: ignore[arg-type]
