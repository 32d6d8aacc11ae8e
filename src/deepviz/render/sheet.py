"""One page of many maps: the image, what the model said, and a tile per explanation."""

from __future__ import annotations

import unicodedata
from bisect import bisect_left
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
NARROWEST = 300
"""Width of a tile's text at least, for names of methods beside a narrow picture."""


@dataclass(frozen=True)
class Tile:
    """One picture with its caption.

    Args:
        picture: of any size; it is fitted into the tile.
        caption: the first line, large.
        detail: the second line, small.
        scale: what its colours mean, drawn as a bar; None for none.
        warning: what the reader must know, up to three lines.
        checks: how far it can be believed, up to three lines.
    """

    picture: Image.Image
    caption: str
    detail: str = ""
    scale: Scale | None = None
    warning: str = ""
    checks: str = ""


Section = tuple[str, Sequence[Tile]]
"""A heading, or nothing, and the tiles under it."""


def sheet(
    title: str,
    photo: Image.Image,
    sections: Sequence[Section],
    *,
    predictions: Sequence[tuple[str, float]] = (),
    geometry: Geometry | None = None,
    footer: str = "",
) -> Image.Image:
    """The image with the model's predictions, then the tiles in a grid, section by section.

    Args:
        title: of the page.
        photo: the image; the part that the model saw is framed if it did not see all.
        sections: headings with their tiles, in reading order.
        predictions: (label, probability), drawn as bars, at most five.
        geometry: where the model looked.
        footer: one small line at the end.

    Raises:
        ValueError: if there is no tile.
    """
    if not any(tiles for _, tiles in sections):
        raise ValueError("no tiles to draw")
    width, height = fitted(photo.size)
    cell = max(width, NARROWEST)
    columns = _even_columns(max(len(tiles) for _, tiles in sections), cell / height)
    page_width = 2 * MARGIN + max(columns * (cell + GAP) - GAP, width + GAP + 520)
    head_height = max(height, _PREDICTIONS_TOP + _PREDICTION * min(len(predictions), _MOST_PREDICTIONS))
    blocks = [_Block(heading, _rows(tiles, columns, cell)) for heading, tiles in sections]
    block_heights = [block.height(height) for block in blocks]

    page = Image.new("RGB", (page_width, MARGIN + head_height + GAP + sum(block_heights) + MARGIN), PAPER)
    draw = ImageDraw.Draw(page)
    page.paste(_framed(photo, geometry, (width, height)), (MARGIN, MARGIN))
    left = MARGIN + width + GAP + 8
    _draw_head(draw, title, predictions, (left, MARGIN, min(page_width - MARGIN, left + 760)))
    y = MARGIN + head_height + GAP
    for block, block_height in zip(blocks, block_heights, strict=True):
        _draw_block(page, draw, block, y, (cell, height))
        y += block_height
    if footer:
        draw.text(
            (MARGIN, page.height - MARGIN + 8), _cut(footer, _font(18), page_width - 2 * MARGIN), FAINT, _font(18)
        )
    return page


_PREDICTIONS_TOP, _PREDICTION, _MOST_PREDICTIONS = 66, 42, 5
_HEADING, _CAPTION, _DETAIL, _BAR, _LINE, _SPACE = 64, 44, 30, 42, 22, 22
"""Heights of what stands around pictures: a section's heading, a tile's lines, the space below."""
_BESIDE = 380
"""The width from which a tile has room for its bar beside its caption."""
_NARROWEST_BAR = 150
"""The width of a bar that has room for its three numbers."""


@dataclass(frozen=True)
class _Row:
    """Tiles side by side, with the height of the text below each."""

    tiles: Sequence[Tile]
    text: int


@dataclass(frozen=True)
class _Block:
    """One section, broken into rows."""

    heading: str
    rows: Sequence[_Row]

    def height(self, picture: int) -> int:
        return (_HEADING if self.heading else 0) + sum(picture + row.text + _SPACE for row in self.rows)


def _rows(tiles: Sequence[Tile], columns: int, cell: int) -> list[_Row]:
    rows = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
    return [_Row(row, max(_text_height(tile, cell) for tile in row)) for row in rows]


def _text_height(tile: Tile, cell: int) -> int:
    below = _BAR if tile.scale is not None and cell < _BESIDE else 0
    detail = _DETAIL if tile.detail or (tile.scale is not None and not below) else 0
    return _CAPTION + detail + below + _LINE * len(_lines(tile, cell))


def _lines(tile: Tile, cell: int) -> list[tuple[str, str]]:
    """The small lines below a tile, with their colour."""
    said = ((tile.checks, FAINT), (tile.warning, ALARM))
    return [(line, ink) for text, ink in said for line in _wrapped(text, _font(17), cell, most=3)]


def fitted(size: tuple[int, int]) -> tuple[int, int]:
    """The size at which a picture stands in its tile: the longer side is `TILE`, and extreme strips are widened to
    3 : 1, to be seen at all."""
    ratio = min(max(size[0] / size[1], 1 / 3), 3.0)
    return (TILE, max(1, round(TILE / ratio))) if ratio >= 1 else (max(1, round(TILE * ratio)), TILE)


def _even_columns(count: int, aspect: float) -> int:
    """Columns that fill their rows and give a page somewhat wider than high; four for eight tiles."""
    most = min(count, 4 if aspect >= 0.8 else 6) or 1
    return min(range(1, most + 1), key=lambda columns: (-count % columns, -columns) if columns > most / 2 else (99, 0))


def _framed(photo: Image.Image, geometry: Geometry | None, size: tuple[int, int]) -> Image.Image:
    """The image at `size`, with a white line, edged with black, about what the model saw if not all."""
    picture = photo.convert("RGB").resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    if geometry is None or geometry.covers_all:
        return picture
    left, top, right, bottom = map(round, geometry.scaled(size).box)
    box = (max(0, left), max(0, top), min(size[0], right) - 1, min(size[1], bottom) - 1)
    if box[2] - box[0] > 8 and box[3] - box[1] > 8:
        draw = ImageDraw.Draw(picture)
        draw.rectangle(box, outline="black", width=4)
        draw.rectangle((box[0] + 1, box[1] + 1, box[2] - 1, box[3] - 1), outline="white", width=2)
    return picture


def _draw_head(
    draw: ImageDraw.ImageDraw,
    title: str,
    predictions: Sequence[tuple[str, float]],
    box: tuple[int, int, int],
) -> None:
    left, top, right = box
    draw.text((left, top - 6), _cut(title, _font(40), right - left), INK, _font(40))
    y = top + _PREDICTIONS_TOP
    name_width = min(300, (right - left) // 2)
    for label, probability in predictions[:_MOST_PREDICTIONS]:
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
        y += _PREDICTION


def _draw_block(page: Image.Image, draw: ImageDraw.ImageDraw, block: _Block, y: int, size: tuple[int, int]) -> None:
    cell, height = size
    if block.heading:
        right = page.width - MARGIN
        draw.line((MARGIN, y, right, y), RULE, 2)
        draw.text((MARGIN, y + 12), _cut(block.heading, _font(30), right - MARGIN), INK, _font(30))
        y += _HEADING
    for row in block.rows:
        for column, tile in enumerate(row.tiles):
            _draw_tile(page, draw, tile, (MARGIN + column * (cell + GAP), y), (cell, height))
        y += height + row.text + _SPACE


def _draw_tile(
    page: Image.Image, draw: ImageDraw.ImageDraw, tile: Tile, corner: tuple[int, int], size: tuple[int, int]
) -> None:
    x, y = corner
    cell, height = size
    picture = _inside(tile.picture.convert("RGB"), size)
    page.paste(picture, corner)
    y += height + 10
    beside = tile.scale is not None and cell >= _BESIDE
    text_width = cell - _NARROWEST_BAR - 12 if beside else cell
    draw.text((x, y), _cut(tile.caption, _font(25), text_width), INK, _font(25))
    if beside:
        _draw_bar(page, draw, tile, (x + cell - _NARROWEST_BAR, y + 4), _NARROWEST_BAR)
    draw.text((x, y + 34), _cut(tile.detail, _font(19), text_width), FAINT, _font(19))
    y += _CAPTION - 10 + (_DETAIL if tile.detail or beside else 0)
    if tile.scale is not None and not beside:
        _draw_bar(page, draw, tile, (x, y + 2), max(picture.width, _NARROWEST_BAR))
        y += _BAR
    for number, (line, ink) in enumerate(_lines(tile, cell)):
        draw.text((x, y + _LINE * number), line, ink, _font(17))


def _inside(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The picture, as large as fits into `size`."""
    width, height = fitted(picture.size)
    share = min(size[0] / width, size[1] / height)
    return picture.resize((max(1, round(width * share)), max(1, round(height * share))), Image.Resampling.LANCZOS)


def _draw_bar(page: Image.Image, draw: ImageDraw.ImageDraw, tile: Tile, corner: tuple[int, int], width: int) -> None:
    scale = tile.scale
    assert scale is not None
    x, y = corner
    page.paste(colour_bar(scale, size=(width, 12)), corner)
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
    if character.isspace():
        return " "  # a line break would break the layout
    if bytes(font.getmask(character)) != bytes(font.getmask("\uffff")):
        return character
    plain = unicodedata.normalize("NFKD", _PLAINER.get(character, character)).encode("ascii", "ignore").decode()
    return plain or "?"


_PLAINER = {"×": "x", "−": "-", "…": "...", "–": "-", "—": "-", "ß": "ss", "æ": "ae", "œ": "oe", "Æ": "AE", "Œ": "OE"}
_PLAINER |= dict(zip("øØłŁđĐı", "oOlLdDi", strict=True))


def _cut(text: str, font: Font, width: float) -> str:
    """The text as it can be drawn, or as much of it as fits with an ellipsis."""
    text = "".join(map(_drawable, text))
    if font.getlength(text) <= width:
        return text
    lengths = range(1, len(text) + 1)
    kept = bisect_left(lengths, True, key=lambda kept: font.getlength(text[:kept].rstrip() + "…") > width)
    return text[:kept].rstrip() + "…"


def _wrapped(text: str, font: Font, width: float, most: int) -> list[str]:
    """The text in at most `most` lines, the last one cut."""
    lines: list[str] = []
    words = "".join(map(_drawable, text)).split()
    while words and len(lines) < most - 1:
        taken = 1
        while taken < len(words) and font.getlength(" ".join(words[: taken + 1])) <= width:
            taken += 1
        lines.append(_cut(" ".join(words[:taken]), font, width))
        words = words[taken:]
    return [*lines, _cut(" ".join(words), font, width)] if words else lines
