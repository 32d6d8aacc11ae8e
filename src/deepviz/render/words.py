"""Texts as pictures: the words in lines, each on its own field, which takes its colour."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from deepviz.render.sheet import FAINT, INK, PAPER, THICK, TILE
from deepviz.render.text import cut, length, write

SIZE, SMALL = 30, 18
"""Of the letters of words, and of what stands for no part of the text, in pixels."""
HEIGHT, INSIDE, BETWEEN = 46, 7, 6
"""Of a word's field, of what it has left and right of the word, and between two fields, in pixels."""
LIGHT = 200
"""Grey level up to which a pixel belongs to a letter."""
SEAM = 5
"""Width of the brush that leaves letters free of colour, in pixels."""
Field = tuple[int, int, int, int]
"""Where a word stands, (left, top, right, bottom) in pixels."""


def text_picture(words: Sequence[str]) -> tuple[Image.Image, list[Field]]:
    """Words in lines from left to right, dark on white, and where each stands.

    Words in brackets, such as "[end]", are small.

    Example:
        >>> picture, fields = text_picture(["a", "red", "car"])
        >>> picture.width, len(fields)
        (440, 3)
    """
    fields: list[Field] = []
    sizes = [SMALL if word.startswith("[") and word.endswith("]") else SIZE for word in words]
    left, top, most = BETWEEN, BETWEEN, TILE - BETWEEN
    for word, size in zip(words, sizes, strict=True):
        width = min(round(length(word, size)), most - BETWEEN - 2 * INSIDE) + 2 * INSIDE
        if left + width > most and left > BETWEEN:
            left, top = BETWEEN, top + HEIGHT + BETWEEN
        fields.append((left, top, left + width, top + HEIGHT))
        left += width + BETWEEN
    bottom = top + HEIGHT + BETWEEN
    picture = Image.new("RGB", (TILE, max(bottom, THICK)), PAPER)
    draw = ImageDraw.Draw(picture)
    down = (picture.height - bottom) // 2
    fields = [(left, top + down, right, bottom + down) for left, top, right, bottom in fields]
    for word, size, (left, top, right, _) in zip(words, sizes, fields, strict=True):
        text = cut(word, size, right - left - 2 * INSIDE + 1)
        write(draw, (left + INSIDE, top + (HEIGHT - 1.3 * size) / 2), text, INK if size == SIZE else FAINT, size)
    return picture, fields


def on_fields(picture: Image.Image, fields: Sequence[Field], values: Sequence[float]) -> NDArray[np.float32]:
    """Values of words at the pixels of their picture, (H, W): each on its word's field, but not on the letters.

    Black letters would not be seen on the dark ends of a scale: so they and a seam around them stay as they are.
    """
    letters = picture.convert("L").point([255 * (level > LIGHT) for level in range(256)])
    around = letters.filter(ImageFilter.MinFilter(SEAM)).filter(ImageFilter.BoxBlur(1))
    paper = np.asarray(around, np.float32) / np.float32(255)
    found = np.zeros(paper.shape, np.float32)
    for (left, top, right, bottom), value in zip(fields, values, strict=True):
        found[top:bottom, left:right] = value * paper[top:bottom, left:right]
    return found
