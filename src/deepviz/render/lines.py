"""Signals as pictures: one line for each channel, over time."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from deepviz.render.colour import Values, finite
from deepviz.render.sheet import INK, PAPER, RULE

NARROWEST, WIDEST = 480, 1440
"""Of the picture, in pixels: as wide as the signal is long, within these bounds."""
HEIGHT, LOWEST = 240, 48
"""Of the picture, and of each line at least, in pixels."""
MOST = 16
"""Channels that are drawn; more would be noise."""
EDGE = 0.1
"""Of a line's height that stays free above and below."""


def line_plot(signal: Values) -> Image.Image:
    """A signal (C, L), each channel from its minimum to its maximum, one below the other.

    Raises:
        ValueError: for another shape, or values that are not finite.
    """
    if signal.ndim != 2:
        raise ValueError(f"a signal must be (C, L), got {signal.shape}")
    lines = finite(signal)[:MOST]
    width = min(max(signal.shape[1], NARROWEST), WIDEST)
    height = max(HEIGHT // len(lines), LOWEST)
    picture = Image.new("RGB", (width, height * len(lines)), PAPER)
    draw = ImageDraw.Draw(picture)
    # each value in the middle of its share of the width, as maps are laid on it
    x = (np.arange(signal.shape[1]) + 0.5) / signal.shape[1] * width
    for number, line in enumerate(lines):
        if number:
            draw.line([(0, number * height), (width, number * height)], RULE)
        low, high = float(line.min()), float(line.max())
        share = (line - low) / (high - low) if high > low else np.full(len(line), 0.5)
        y = (number + 1 - EDGE - (1 - 2 * EDGE) * share) * height
        points = list(zip(x.tolist(), y.tolist(), strict=True))
        draw.line(points if len(points) > 1 else [(0, points[0][1]), (width, points[0][1])], INK, width=2)
    return picture
