"""One page of many maps: the image, what the model said, and a tile per explanation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from deepviz.geometry import Geometry
from deepviz.render.colour import Scale
from deepviz.render.overlay import colour_bar
from deepviz.render.text import cut, length, percent, wrapped, write

PAPER, INK, FAINT, RULE, ACCENT, ALARM = "#ffffff", "#16181d", "#6b7280", "#e5e7eb", "#3b5bdb", "#b45309"
MARGIN, GAP = 56, 32
TILE = 440
"""Longer side of a picture on the sheet, in pixels, unless it is longer than 3 : 1."""
THICK, LONGEST, THINNEST = TILE // 3, 960, 48
"""Of longer pictures: their shorter side, until the longer one has this length; and the shorter side at least."""
MOST_PREDICTIONS = 5
"""That have a bar."""
WIDEST = 2400
"""Of a row of tiles, in pixels."""
NARROWEST = 300
"""Width of a tile's text at least, for names of methods beside a narrow picture."""


@dataclass(frozen=True)
class Tile:
    """One picture with its caption.

    Args:
        picture: of any size; it is fitted into the tile.
        caption: large, up to two lines.
        detail: below it, small, up to two lines.
        scale: what its colours mean, drawn as a bar; None for none.
        warning: what the reader must know, up to three lines.
        checks: results of the checks of the map, up to three lines.
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
    photo: Image.Image | None,
    sections: Sequence[Section],
    *,
    predictions: Sequence[tuple[str, float]] = (),
    geometry: Geometry | None = None,
    footer: str = "",
    cell: tuple[int, int] | None = None,
) -> Image.Image:
    """The image with the model's predictions, then the tiles in a grid, section by section.

    Args:
        title: of the page.
        photo: the image; the part that the model saw is framed if it did not see all. None: the page has a title alone.
        sections: headings with their tiles, in reading order.
        predictions: (label, probability), drawn as bars, at most five.
        geometry: where the model looked.
        footer: small lines at the end.
        cell: width and height of a picture; by default those at which `photo`, or the first tile's picture, is fitted.

    Raises:
        ValueError: if there is no tile.
    """
    if not any(tiles for _, tiles in sections):
        raise ValueError("no tiles to draw")
    width, height = cell or fitted((photo or next(tile for _, tiles in sections for tile in tiles).picture).size)
    across = max(width, NARROWEST)
    columns = even_columns([len(tiles) for _, tiles in sections], across, height)
    page_width = 2 * MARGIN + max(columns * (across + GAP) - GAP, width + GAP + 520)
    head_height = _PREDICTIONS_TOP + _PREDICTION * min(len(predictions), MOST_PREDICTIONS)
    left = MARGIN
    if photo is not None:
        head_height, left = max(height, head_height), MARGIN + width + GAP + 8
    blocks = [_Block(heading, _rows(tiles, columns, across)) for heading, tiles in sections]
    block_heights = [block.height(height) for block in blocks]
    last = [line for text in footer.split("\n") for line in wrapped(text, 18, page_width - 2 * MARGIN, 3)]

    foot = MARGIN + _FOOT * max(0, len(last) - 1)
    page = Image.new("RGB", (page_width, MARGIN + head_height + GAP + sum(block_heights) + foot), PAPER)
    draw = ImageDraw.Draw(page)
    if photo is not None:
        size = (width, height) if cell is None else _inside(photo, cell).size
        page.paste(framed(photo, geometry, size), (MARGIN, MARGIN))
    _draw_head(draw, title, predictions, (left, MARGIN, min(page_width - MARGIN, left + 760)))
    y = MARGIN + head_height + GAP
    for block, block_height in zip(blocks, block_heights, strict=True):
        _draw_block(page, draw, block, y, (across, height))
        y += block_height
    for number, line in enumerate(last):
        write(draw, (MARGIN, page.height - foot + 8 + number * _FOOT), line, FAINT, 18)
    return page


_PREDICTIONS_TOP, _PREDICTION = 66, 42
_HEADING, _BAR, _SPACE = 64, 42, 22
"""Heights of what stands around pictures: a section's heading, a tile's bar, the space below."""
_CAPTION, _DETAIL, _SMALL = (25, 32), (19, 26), (17, 22)
"""Sizes of a tile's texts, and the heights of their lines."""
_FOOT = 24
"""Height of a line at the end."""
_ABOVE, _LEAST = 10, 58
"""Heights of the space above a tile's text, and of the text beside a bar."""
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
    top, bottom = (sum(height for *_, height in lines) for lines in _texts(tile, cell))
    if _is_beside(tile, cell):
        return _ABOVE + max(top, _LEAST) + bottom
    return _ABOVE + top + (0 if tile.scale is None else _BAR) + bottom


def _is_beside(tile: Tile, cell: int) -> bool:
    """Whether the bar of a tile stands beside its caption."""
    return tile.scale is not None and cell >= _BESIDE


Line = tuple[str, str, int, int]
"""A line of text, its colour, its size, and the height that it takes."""


def _texts(tile: Tile, cell: int) -> tuple[list[Line], list[Line]]:
    """The lines of a tile above and below its bar."""

    def lines(text: str, ink: str, size: tuple[int, int], width: int, most: int) -> list[Line]:
        return [(line, ink, *size) for line in wrapped(text, size[0], width, most)]

    width = cell - _NARROWEST_BAR - 12 if _is_beside(tile, cell) else cell
    return (
        [*lines(tile.caption, INK, _CAPTION, width, 2), *lines(tile.detail, FAINT, _DETAIL, width, 2)],
        [*lines(tile.checks, FAINT, _SMALL, cell, 3), *lines(tile.warning, ALARM, _SMALL, cell, 3)],
    )


def fitted(size: tuple[int, int]) -> tuple[int, int]:
    """The size at which a picture stands in its tile: its proportions are kept up to 20 : 1, and what is thinner is
    widened, to be seen at all.

    Example:
        >>> fitted((400, 300)), fitted((4000, 500)), fitted((3000, 1))
        ((440, 330), (960, 120), (960, 48))
    """
    ratio = max(size) / min(size)
    if ratio <= 3:
        long, short = TILE, round(TILE / ratio)
    else:
        long = min(round(THICK * ratio), LONGEST)
        short = max(round(long / ratio), THINNEST)
    return (long, short) if size[0] >= size[1] else (short, long)


def resized(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The picture at another size; where a side is doubled or more, its pixels stay squares or stripes."""
    if any(new >= 2 * old for new, old in zip(size, picture.size, strict=True)):
        return picture.resize(size, Image.Resampling.BOX)
    return picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


def even_columns(counts: Sequence[int], cell: int, height: int) -> int:
    """Columns that leave few places of a row empty and give a page somewhat wider than high; four for eight tiles.

    Args:
        counts: of the tiles in each section.
        cell: the width of a tile.
        height: of a picture.
    """
    count = max(counts)
    usual, most = (4, 5) if cell >= 0.8 * height else (5, 6)
    room = max(1, (WIDEST + GAP) // (cell + GAP))
    most = min(most if count > 2 * usual else usual, room, count)
    empty = {columns: sum(-one % columns for one in counts) / columns for columns in range(most // 2 + 1, most + 1)}
    return min(empty, key=lambda columns: (empty[columns], abs(columns - usual), -columns))


def framed(photo: Image.Image, geometry: Geometry | None, size: tuple[int, int]) -> Image.Image:
    """The image at `size`, with a white line, edged with black, about what the model saw if not all."""
    picture = resized(photo.convert("RGB"), size)
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
    write(draw, (left, top - 6), cut(title, 40, right - left), INK, 40)
    y = top + _PREDICTIONS_TOP
    shown = predictions[:MOST_PREDICTIONS]
    longest = max((length(label, 24) for label, _ in shown), default=0.0)
    name_width = round(min(max(300.0, longest + 16), right - left - 84 - _NARROWEST_BAR))
    for label, probability in shown:
        write(draw, (left, y), cut(label, 24, name_width - 16), INK, 24)
        bar = left + name_width
        full = right - 84 - bar
        draw.rounded_rectangle((bar, y + 8, bar + full, y + 22), 7, fill=RULE)
        filled = round(full * min(max(probability, 0.0), 1.0))
        if filled >= 14:
            draw.rounded_rectangle((bar, y + 8, bar + filled, y + 22), 7, fill=ACCENT)
        elif filled > 0:
            draw.rectangle((bar + 3, y + 9, bar + max(4, filled), y + 21), fill=ACCENT)
        write(draw, (right, y), percent(probability), FAINT, 22, "right")
        y += _PREDICTION


def _draw_block(page: Image.Image, draw: ImageDraw.ImageDraw, block: _Block, y: int, size: tuple[int, int]) -> None:
    cell, height = size
    if block.heading:
        right = page.width - MARGIN
        draw.line((MARGIN, y, right, y), RULE, 2)
        write(draw, (MARGIN, y + 12), cut(block.heading, 30, right - MARGIN), INK, 30)
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
    y += height + _ABOVE
    top, bottom = _texts(tile, cell)
    beside = _is_beside(tile, cell)
    if beside:
        _draw_bar(page, draw, tile, (x + cell - _NARROWEST_BAR, y + 4), _NARROWEST_BAR)
    under = y + _LEAST if beside else y
    for text, ink, font_size, line in top:
        write(draw, (x, y), text, ink, font_size)
        y += line
    y = max(y, under)
    if tile.scale is not None and not beside:
        _draw_bar(page, draw, tile, (x, y + 2), max(picture.width, _NARROWEST_BAR))
        y += _BAR
    for text, ink, font_size, line in bottom:
        write(draw, (x, y), text, ink, font_size)
        y += line


def _inside(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The picture, as large as fits into `size`."""
    width, height = fitted(picture.size)
    share = min(size[0] / width, size[1] / height)
    return resized(picture, (max(1, round(width * share)), max(1, round(height * share))))


def _draw_bar(page: Image.Image, draw: ImageDraw.ImageDraw, tile: Tile, corner: tuple[int, int], width: int) -> None:
    scale = tile.scale
    assert scale is not None
    x, y = corner
    page.paste(colour_bar(scale, size=(width, 12)), corner)
    if scale.note:
        write(draw, (x + width, y + 18), scale.note, ALARM, 16, "right")
        return
    write(draw, (x, y + 18), _short(scale.low), FAINT, 16)
    if scale.signed:
        write(draw, (x + width // 2, y + 18), "0", FAINT, 16, "middle")
    write(draw, (x + width, y + 18), _short(scale.high), FAINT, 16, "right")


def _short(value: float) -> str:
    return f"{value:.2g}".replace("e-0", "e-").replace("e+0", "e")
