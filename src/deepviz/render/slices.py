"""Volumes and clips as pictures: slices along their first axis, and cuts across it."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw

from deepviz.render.colour import Values
from deepviz.render.sheet import FAINT, INK, PAPER, resized
from deepviz.render.text import cut, write

Spacing = tuple[float, float, float]
"""The distance of a volume's voxels along its axes (D, H, W), in any unit."""
Panel = tuple[str, Image.Image]
"""A picture with the line below it."""

WIDTH = 660
"""Of the whole picture, in pixels."""
STRIP = 6
"""How many evenly spaced slices are shown below the large one."""
SPACE, TITLE, LABEL = 8, 18, 15
"""Between pictures, and sizes of the lines below them, in pixels."""
MAIN_BOX, WIDE_BOX, PLANE_BOX = (436, 436), (WIDTH, 436), (208, 134)
STRIP_BOX = ((WIDTH - (STRIP - 1) * SPACE) // STRIP,) * 2
"""Width and height at most of the large slice, beside cuts or alone, of a cut, and of a slice of the strip."""
PLAYED, DURATION = (320, 640), 120
"""Bounds of the longer side of a played slice, in pixels, and how long it is shown, in milliseconds."""
WHITE, BLACK = (255, 255, 255), (0, 0, 0)


def side_by_side(volume: NDArray[Any]) -> NDArray[Any]:
    """All slices of a volume (D, H, W, ...) side by side, as one array (H, D W, ...).

    Example:
        >>> import numpy as np
        >>> side_by_side(np.zeros((16, 10, 20))).shape
        (10, 320)
    """
    return np.concatenate(list(volume), axis=1)


def apart(laid: NDArray[Any], depth: int) -> NDArray[Any]:
    """The volume (D, H, W, ...) of which the slices lie side by side, (H, D W, ...)."""
    return laid.reshape(len(laid), depth, -1, *laid.shape[2:]).swapaxes(0, 1)


def evenly_spaced(depth: int, count: int = STRIP) -> list[int]:
    """At most `count` slices of a volume, evenly spaced, the first and last among them.

    Example:
        >>> evenly_spaced(16), evenly_spaced(3), evenly_spaced(1)
        ([0, 3, 6, 9, 12, 15], [0, 1, 2], [0])
    """
    return [round(one) for one in np.linspace(0, depth - 1, min(count, depth))]


def slice_with_most(volume: Values) -> int:
    """The slice of a map (D, H, W) with the largest sum of magnitudes, of several the first; the middle one if there is
    nothing but zero."""
    sums = np.abs(volume).sum((1, 2), dtype=np.float64)
    return int(sums.argmax()) if sums.any() else len(volume) // 2


def strongest_voxel(volume: Values) -> tuple[int, int, int]:
    """Where the magnitude of a map (D, H, W) is largest."""
    d, h, w = np.unravel_index(np.abs(volume).argmax(), volume.shape)
    return int(d), int(h), int(w)


def is_coloured(picture: Image.Image) -> bool:
    """Whether any pixel is not grey."""
    red, green, blue = picture.convert("RGB").split()
    return any(ImageChops.difference(red, other).getbbox() is not None for other in (green, blue))


def spacing_of(picture: Image.Image) -> Spacing | None:
    """The distance of the voxels of a volume's picture, if the picture states it: `picture.info["spacing"]`."""
    found = picture.info.get("spacing")
    if found is None:
        return None
    d, h, w = (float(one) for one in found)
    return d, h, w


def in_proportion(size: tuple[int, int], spacing: tuple[float, float]) -> tuple[int, int]:
    """The size (width, height) at which pixels of a spacing (across, down) have their true proportions: one side stays
    as it is, the other is enlarged.

    Example:
        >>> in_proportion((64, 20), (1.0, 5.0))
        (64, 100)
    """
    least = min(spacing)
    return round(size[0] * spacing[0] / least), round(size[1] * spacing[1] / least)


def true_to_scale(picture: Image.Image, spacing: tuple[float, float]) -> Image.Image:
    """A picture whose pixels have a spacing (across, down), in its true proportions."""
    size = in_proportion(picture.size, spacing)
    return picture if size == picture.size else resized(picture, size)


def slice_picture(picture: Image.Image, index: int, depth: int) -> Image.Image:
    """One slice of a volume's picture, on which `depth` slices lie side by side, in its true proportions.

    Example:
        >>> picture = Image.new("RGB", (40, 10))
        >>> picture.info["spacing"] = (5.0, 2.0, 1.0)
        >>> slice_picture(picture, 3, 4).size
        (10, 20)
    """
    width = picture.width // depth
    _, down, across = spacing_of(picture) or (1.0, 1.0, 1.0)
    return true_to_scale(picture.crop((index * width, 0, (index + 1) * width, picture.height)), (across, down))


def largest_in(size: tuple[int, int], box: tuple[int, int]) -> tuple[int, int]:
    """The largest size of the same proportions that fits into a box."""
    share = min(box[0] / size[0], box[1] / size[1])
    return max(1, round(share * size[0])), max(1, round(share * size[1]))


def crossed(picture: Image.Image, x: float, y: float) -> Image.Image:
    """The picture with a line across and one down through a point, given as shares of its width and height; the
    point itself stays free."""
    drawn = picture.convert("RGB")
    draw = ImageDraw.Draw(drawn)
    width, height = drawn.size
    column, row = min(int(x * width), width - 1), min(int(y * height), height - 1)
    gap = max(3, min(width, height) // 12)
    for ends in (
        ((0, row), (column - gap, row)),
        ((column + gap, row), (width, row)),
        ((column, 0), (column, row - gap)),
        ((column, row + gap), (column, height)),
    ):
        if ends[0] <= ends[1]:
            draw.line(ends, BLACK, 3)
            draw.line(ends, WHITE, 1)
    return drawn


def composed(main: Panel, planes: Sequence[Panel], strip: Sequence[Panel]) -> Image.Image:
    """One picture of a volume: a large slice, cuts beside it, and a strip of slices below.

    Args:
        main: the large one, of at most `MAIN_BOX`, or `WIDE_BOX` without cuts; its line says which it is.
        planes: one below the other beside it, of at most `PLANE_BOX` each; none for a clip.
        strip: in reading order, of at most `STRIP_BOX` each.
    """
    lines = (SPACE // 2 + TITLE + SPACE, SPACE // 2 + LABEL + SPACE)
    beside = sum(picture.height + lines[1] for _, picture in planes)
    top = max(main[1].height + lines[0], beside)
    below = max((picture.height + lines[1] for _, picture in strip), default=0)
    page = Image.new("RGB", (WIDTH, top + below), PAPER)
    draw = ImageDraw.Draw(page)

    def put(panel: Panel, x: int, y: int, ink: str, size: int, width: int) -> None:
        page.paste(panel[1], (x, y))
        write(draw, (x, y + panel[1].height + SPACE // 2), cut(panel[0], size, width), ink, size)

    put(main, 0, 0, INK, TITLE, MAIN_BOX[0] if planes else WIDTH)
    y = 0
    for panel in planes:
        put(panel, WIDTH - PLANE_BOX[0], y, FAINT, LABEL, PLANE_BOX[0])
        y += panel[1].height + lines[1]
    for place, panel in enumerate(strip):
        put(panel, place * (STRIP_BOX[0] + SPACE), top, FAINT, LABEL, STRIP_BOX[0])
    return page


def playing_size(size: tuple[int, int]) -> tuple[int, int]:
    """The size at which slices are played: small ones are enlarged, large ones made smaller.

    Example:
        >>> playing_size((32, 16)), playing_size((400, 300)), playing_size((1280, 640))
        ((320, 160), (400, 300), (640, 320))
    """
    side = min(max(max(size), PLAYED[0]), PLAYED[1])
    return largest_in(size, (side, side))


def played(frames: Iterable[Panel]) -> bytes:
    """Pictures of one size as the bytes of a GIF that begins again at its end, each with its line below it."""
    drawn = []
    for line, picture in frames:
        page = Image.new("RGB", (picture.width, picture.height + LABEL + SPACE), PAPER)
        page.paste(picture)
        write(ImageDraw.Draw(page), (0, picture.height + SPACE // 4), cut(line, LABEL, page.width), INK, LABEL)
        drawn.append(page.quantize(256))
    buffer = io.BytesIO()
    drawn[0].save(buffer, "GIF", save_all=True, append_images=drawn[1:], duration=DURATION, loop=0)
    return buffer.getvalue()
