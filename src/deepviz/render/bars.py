"""Tables as pictures: one bar for each entry."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from deepviz.render.colour import Scale, Values, colour, finite
from deepviz.render.sheet import FAINT, PAPER, RULE
from deepviz.render.text import cut, length, write

WIDTH, BAR, GAP = 440, 22, 6
"""Of the picture, of a bar and between two, in pixels."""
NAME, LONGEST_NAME = 110, 200
"""Pixels of an entry's name, at least and at most."""
MOST = 20
"""Bars with a name; of more entries those with the largest magnitude are drawn."""


def shown_entries(values: Values) -> list[int]:
    """The entries of a table that have a bar: the largest in magnitude, in their order."""
    return sorted(np.argsort(-np.abs(values), kind="stable")[:MOST].tolist())


def bar_chart(values: Values, scale: Scale, *, names: Sequence[str] = (), cmap: str | None = None) -> Image.Image:
    """The entries of a map (F,) as bars, in their order, in the colours of their values; of many the largest.

    Args:
        values: one for each entry.
        scale: the value of a bar of full length.
        names: of the entries; their numbers if there are none.
        cmap: a colour map.

    Raises:
        ValueError: for another shape, or values that are not finite.
    """
    if values.ndim != 1:
        raise ValueError(f"a bar chart takes (F,), got {values.shape}")
    values = finite(values)
    shown = shown_entries(values)
    called = {entry: names[entry] if names else str(entry) for entry in shown}
    room = min(max(NAME, round(max(length(name, 16) for name in called.values())) + 2 * GAP), LONGEST_NAME)
    below = BAR + GAP if len(shown) < len(values) else 0
    picture = Image.new("RGB", (WIDTH, len(shown) * (BAR + GAP) + GAP + below), PAPER)
    draw = ImageDraw.Draw(picture)
    left, right = room, WIDTH - GAP
    zero = (left + right) / 2 if scale.signed else float(left)
    reach = right - zero
    colours = colour(values[None], scale, cmap)[0]
    for place, entry in enumerate(shown):
        top = GAP + place * (BAR + GAP)
        write(draw, (GAP, top), cut(called[entry], 16, room - 2 * GAP), FAINT, 16)
        share = float(np.clip(values[entry] / scale.high, -1 if scale.signed else 0, 1))
        ends = sorted((zero, zero + reach * share))
        draw.rectangle((ends[0], top, ends[1], top + BAR), tuple(colours[entry].tolist()), outline=RULE)
    draw.line([(zero, 0), (zero, GAP + len(shown) * (BAR + GAP))], FAINT)
    if below:
        text = f"the {len(shown)} largest of {len(values)}"
        write(draw, (GAP, picture.height - BAR - GAP // 2), text, FAINT, 16)
    return picture
