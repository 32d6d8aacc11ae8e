"""A map in its place on the image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deepviz.geometry import Geometry
from deepviz.render.colour import Scale, Values, as_map, colour, finite

OPACITY = 0.85
GHOST = 0.4
"""How much of its contrast the image keeps under a map of single pixels."""
LIFTED, DARKEST = 160, 8
"""Grey levels: what the brightest parts of a dark image become in its ghost; and below which there is only noise."""
DIMMED = 0.55
"""How bright the part of the image is drawn that the model did not see."""


def place(values: Values, geometry: Geometry) -> NDArray[np.float32]:
    """A map (h, w) at the pixels of the image: (H, W), bilinear, NaN where the model did not look.

    The map's cells tile `geometry.box`; pixel centres are sampled at their place in it (not at aligned corners), and
    the outermost half cells keep the border's values.

    Raises:
        ValueError: for values that are not one finite map, and a box without area.
    """
    values = as_map(values)
    width, height = geometry.size
    left, top, right, bottom = geometry.box
    if not (left < right and top < bottom):
        raise ValueError(f"the model's box on the image has no area: {geometry.box}")
    columns = (np.arange(width) + 0.5 - left) / (right - left)
    rows = (np.arange(height) + 0.5 - top) / (bottom - top)
    # along one axis at a time: two small matrix products
    down: NDArray[np.float32] = _sampling(rows, values.shape[0]) @ values.astype(np.float32)
    placed: NDArray[np.float32] = down @ _sampling(columns, values.shape[1]).T
    placed[(rows < 0) | (rows > 1), :] = np.nan
    placed[:, (columns < 0) | (columns > 1)] = np.nan
    return placed


def _sampling(fractions: Values, cells: int) -> NDArray[np.float32]:
    """Weights (pixels, cells) that sample `cells` values linearly at fractions of their extent.

    Where pixels are larger than cells, each is the mean of the cells around it, so that nothing falls between.
    """
    position = fractions[:, None] * cells - 0.5
    step = abs(fractions[1] - fractions[0]) * cells if len(fractions) > 1 else cells
    reach = max(1.0, step)
    nearest_cell = np.clip(position, 0, cells - 1)
    weights = np.maximum(0, 1 - np.abs(nearest_cell - np.arange(cells)[None, :]) / reach)
    shares: NDArray[np.float32] = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    return shares


def overlay(
    photo: Image.Image,
    values: Values,
    geometry: Geometry,
    scale: Scale,
    *,
    cmap: str | None = None,
    opacity: float = OPACITY,
    fine: bool = False,
) -> Image.Image:
    """The map on the image, at the image's size.

    A pixel's opacity is `opacity` times its share of the scale, so the image shows where there is no evidence.
    What the model did not see is dimmed to 55 %.

    Maps of single pixels (`fine`) would drown in the image's own detail: they are drawn on its grey ghost, dark
    under unsigned and light under signed values, with the square root of that share. The ghost of a dark image is
    lifted first.

    Raises:
        ValueError: for values that are not one finite map, an image of another size than the geometry's, and an
            opacity outside 0 to 1.
    """
    if photo.size != geometry.size:
        raise ValueError(f"the image is {photo.size}, but the geometry is for an image of {geometry.size}")
    if not 0 <= opacity <= 1:
        raise ValueError(f"the opacity must be from 0 to 1, got {opacity}")
    placed = place(values, geometry)
    unseen = np.isnan(placed)
    placed[unseen] = 0
    strength = scale.strength(placed)
    alpha = np.rint(255 * opacity * (np.sqrt(strength) if fine else strength)).astype(np.uint8)
    base = _ghost(photo, scale.signed) if fine else photo.convert("RGB")
    # in bytes, by Pillow: floats take twice the memory, which counts on images of many megapixels
    drawn = Image.composite(Image.fromarray(colour(placed, scale, cmap)), base, Image.fromarray(alpha))
    drawn.paste(base.point([round(DIMMED * level) for level in range(256)] * 3), mask=Image.fromarray(unseen))
    return drawn


def _ghost(photo: Image.Image, light: bool) -> Image.Image:
    grey = photo.convert("L")
    lifted = _lift(grey.histogram())
    levels = [round(255 - GHOST * (255 - level) if light else GHOST * level) for level in lifted]
    return grey.point(levels).convert("RGB")


def _lift(histogram: list[int]) -> list[int]:
    """Of each grey level the one that is drawn: those of a dark image are stretched until its 99th percentile is
    `LIFTED`, since its ghost would be black."""
    counted = np.cumsum(histogram)
    top = int(np.searchsorted(100 * counted, 99 * counted[-1]))
    gain = LIFTED / max(top, DARKEST) if top < LIFTED else 1
    return [min(255, round(gain * level)) for level in range(256)]


def heatmap(values: Values, scale: Scale, cmap: str | None = None, *, size: tuple[int, int]) -> Image.Image:
    """The map alone in colour, at `size` (width, height) by bilinear sampling."""
    return Image.fromarray(colour(place(values, Geometry.whole(size)), scale, cmap))


def grey(values: Values, signed: bool, scale: Scale | None = None) -> Image.Image:
    """A map (H, W), or one per channel (H, W, 3), without a colour map.

    Unsigned values go from black to white; signed ones lie about mid grey, 128, with the same scale for all
    channels, so that zero is grey and colours show which channel it is. Any other number of channels is averaged.
    By default the scale is that of the values.

    Raises:
        ValueError: for values of another shape, or not finite.
    """
    if values.ndim not in (2, 3):
        raise ValueError(f"a map must be (H, W) or (H, W, C), got {values.shape}")
    values = finite(values)
    scale = scale or Scale.of(values, signed)
    if values.ndim == 3 and values.shape[2] != 3:
        values = np.repeat(values.mean(2, keepdims=True), 3, axis=2)
    levels = 128 + 127 * values / scale.high if signed else 255 * scale.unit(values)
    return Image.fromarray(np.rint(np.clip(levels, 0, 255)).astype(np.uint8))


def colour_bar(scale: Scale, cmap: str | None = None, size: tuple[int, int] = (256, 12)) -> Image.Image:
    """The colours of `scale` from low to high, left to right."""
    width, height = size
    values = np.linspace(scale.low, scale.high, width)
    return Image.fromarray(np.repeat(colour(values[None, :], scale, cmap), height, axis=0))
