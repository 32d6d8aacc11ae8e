"""One page of many maps: the photograph, what the model said, and a tile per explanation."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from PIL import Image, ImageDraw, ImageFont

from deepviz.geometry import Geometry
from deepviz.render.colour import Scale
from deepviz.render.overlay import colour_bar

PAPER, INK, FAINT, RULE, ACCENT, ALARM = "#ffffff", "#16181d", "#6b7280", "#e5e7eb", "#3b5bdb", "#b45309"
MARGIN, GAP = 56, 32
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
TILE = 440
"""Longer side of a picture on the sheet, in pixels."""


@dataclass(frozen=True)
class Tile:
    """One picture with its caption.

    Args:
        picture: of any size; it is fitted into the tile.
        caption: the first line, large.
        detail: the second line, small.
        scale: what its colours mean, drawn as a bar; None for none.
        cmap: the colour map of the bar.
        warning: what the reader must know, up to two lines.
    """

    picture: Image.Image
    caption: str
    detail: str = ""
    scale: Scale | None = None
    cmap: str | None = None
    warning: str = ""


def sheet(
    title: str,
    photo: Image.Image,
    tiles: Sequence[Tile],
    *,
    predictions: Sequence[tuple[str, float]] = (),
    geometry: Geometry | None = None,
    columns: int | None = None,
    footer: str = "",
) -> Image.Image:
    """The photograph with the model's predictions, then the tiles in a grid.

    Args:
        title: of the page.
        photo: the photograph; the part that the model saw is framed if it did not see all.
        tiles: in reading order.
        predictions: (label, probability), drawn as bars.
        geometry: where the model looked.
        columns: tiles in a row; by default as many as give an even grid.
        footer: one small line at the end.
    """
    width, height = _fitted(photo.size)
    columns = columns or _even_columns(len(tiles), width / height)
    rows = math.ceil(len(tiles) / columns)
    cell = height + _CAPTION
    page_width = max(2 * MARGIN + columns * width + (columns - 1) * GAP, 2 * MARGIN + width + GAP + 520)
    head = MARGIN + height + GAP
    page = Image.new("RGB", (page_width, head + rows * cell + MARGIN), PAPER)
    draw = ImageDraw.Draw(page)
    page.paste(_framed(photo, geometry).resize((width, height), Image.Resampling.LANCZOS), (MARGIN, MARGIN))
    left = MARGIN + width + GAP + 8
    _draw_head(draw, title, predictions, (left, MARGIN, min(page_width - MARGIN, left + 760), MARGIN + height))
    for index, tile in enumerate(tiles):
        x = MARGIN + index % columns * (width + GAP)
        y = head + index // columns * cell
        _draw_tile(page, draw, tile, (x, y), (width, height))
    if footer:
        draw.text(
            (MARGIN, page.height - MARGIN + 8), _cut(footer, _font(18), page_width - 2 * MARGIN), FAINT, _font(18)
        )
    return page


_CAPTION = 136
"""Height of what stands under a tile's picture, with the space below it."""


def _fitted(size: tuple[int, int]) -> tuple[int, int]:
    """A photograph's size with its longer side as a tile's; extreme strips are cut to 3 : 1."""
    ratio = min(max(size[0] / size[1], 1 / 3), 3.0)
    return (TILE, max(1, round(TILE / ratio))) if ratio >= 1 else (max(1, round(TILE * ratio)), TILE)


def _even_columns(count: int, aspect: float) -> int:
    """Columns that fill their rows and give a page somewhat wider than high; four for eight tiles."""
    most = min(count, 4 if aspect >= 0.8 else 6) or 1
    return min(range(1, most + 1), key=lambda columns: (-count % columns, -columns) if columns > most / 2 else (99, 0))


def _framed(photo: Image.Image, geometry: Geometry | None) -> Image.Image:
    picture = photo.convert("RGB")
    if geometry is None or geometry.covers_all:
        return picture
    stroke = max(1, round(max(picture.size) / TILE * 2))
    left, top, right, bottom = (round(value) for value in geometry.box)
    box = (max(0, left), max(0, top), min(picture.width, right) - 1, min(picture.height, bottom) - 1)
    picture = picture.copy()
    if box[2] > box[0] and box[3] > box[1]:
        ImageDraw.Draw(picture).rectangle(box, outline="white", width=stroke)
    return picture


def _draw_head(
    draw: ImageDraw.ImageDraw,
    title: str,
    predictions: Sequence[tuple[str, float]],
    box: tuple[int, int, int, int],
) -> None:
    left, top, right, bottom = box
    draw.text((left, top - 6), _cut(title, _font(40), right - left), INK, _font(40))
    y, line = top + 66, 42
    name_width = min(300, (right - left) // 2)
    for label, probability in predictions[: max(0, (bottom - y) // line)]:
        draw.text((left, y), _cut(label, _font(24), name_width - 16), INK, _font(24))
        bar = left + name_width
        full = right - 84 - bar
        draw.rounded_rectangle((bar, y + 8, bar + full, y + 22), 7, fill=RULE)
        filled = round(full * min(max(probability, 0.0), 1.0))
        if filled >= 14:
            draw.rounded_rectangle((bar, y + 8, bar + filled, y + 22), 7, fill=ACCENT)
        elif filled > 0:
            draw.rectangle((bar + 3, y + 9, bar + max(4, filled), y + 21), fill=ACCENT)
        draw.text((right, y), f"{100 * probability:.1f} %", FAINT, _font(22), anchor="ra")
        y += line


def _draw_tile(
    page: Image.Image, draw: ImageDraw.ImageDraw, tile: Tile, corner: tuple[int, int], size: tuple[int, int]
) -> None:
    x, y = corner
    width, height = size
    page.paste(tile.picture.convert("RGB").resize(size, Image.Resampling.LANCZOS), corner)
    y += height + 10
    bar_width = 150 if tile.scale is not None and width >= 380 else 0
    draw.text((x, y), _cut(tile.caption, _font(25), width - bar_width - 12), INK, _font(25))
    if tile.scale is not None and bar_width:
        _draw_bar(page, draw, tile, (x + width - bar_width, y + 4), bar_width)
    draw.text((x, y + 34), _cut(tile.detail, _font(19), width - bar_width - 12), FAINT, _font(19))
    for number, line in enumerate(_wrapped(tile.warning, _font(17), width, most=2)):
        draw.text((x, y + 62 + 22 * number), line, ALARM, _font(17))


def _draw_bar(page: Image.Image, draw: ImageDraw.ImageDraw, tile: Tile, corner: tuple[int, int], width: int) -> None:
    scale = tile.scale
    assert scale is not None
    x, y = corner
    page.paste(colour_bar(scale, tile.cmap, (width, 12)), corner)
    if scale.note:
        draw.text((x + width, y + 18), scale.note, ALARM, _font(16), anchor="ra")
        return
    draw.text((x, y + 18), _short(scale.low), FAINT, _font(16))
    if scale.signed:
        draw.text((x + width // 2, y + 18), "0", FAINT, _font(16), anchor="ma")
    draw.text((x + width, y + 18), _short(scale.high), FAINT, _font(16), anchor="ra")


def _short(value: float) -> str:
    return f"{value:.2g}".replace("e-0", "e-").replace("e+0", "e")


@cache
def _font(size: int) -> Font:
    return ImageFont.load_default(size)


@cache
def _drawable(character: str) -> str:
    """The character, or what stands for it where Pillow's own font has no picture of it."""
    font = _font(20)
    missing = bytes(font.getmask("\uffff"))
    if character.isspace() or bytes(font.getmask(character)) != missing:
        return character
    plain = unicodedata.normalize("NFKD", _PLAINER.get(character, character)).encode("ascii", "ignore").decode()
    return plain or "?"


_PLAINER = {"×": "x", "−": "-", "…": "...", "–": "-", "—": "-"}


def _cut(text: str, font: Font, width: float) -> str:
    """The text as it can be drawn, or as much of it as fits with an ellipsis."""
    text = "".join(map(_drawable, text))
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text.rstrip() + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"


def _wrapped(text: str, font: Font, width: float, most: int) -> list[str]:
    """The text in at most `most` lines, the last one cut."""
    lines: list[str] = []
    words = text.split()
    while words and len(lines) < most - 1:
        taken = 1
        while taken < len(words) and font.getlength(" ".join(words[: taken + 1])) <= width:
            taken += 1
        lines.append(_cut(" ".join(words[:taken]), font, width))
        words = words[taken:]
    return [*lines, _cut(" ".join(words), font, width)] if words else lines
