"""Sheets as vector graphics, for papers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from deepviz.errors import OutputError
from deepviz.files import write_bytes
from deepviz.render.figure import FIGURES, as_vectors, figure, font_families
from deepviz.render.sheet import even_columns
from deepviz.render.text import spelled
from deepviz.results.explanation import Explanation, comparable, sections_of, shared_scales

CELL = 2.2
"""Width of a picture, in inches."""
TEXT = 0.5
"""Height of the texts and the bar of a picture, in inches."""
SMALL = 7
"""Size of texts, in points."""


def save_figure(
    explanations: Sequence[Explanation], path: str | os.PathLike[str], *, scale: Literal["own", "shared"] = "own"
) -> Path:
    """Write a figure of many explanations as PDF or SVG, with text as text: `sheet` for papers.

    For each image and class the image itself comes first, then a map for each method, with its colour bar.

    Args:
        explanations: as `explain` returns them.
        path: of the file, .pdf or .svg.
        scale: "own": each map's colours span its own values; "shared": those of all maps of the same method and layer.

    Returns:
        The path.

    Raises:
        ValueError: if there is nothing to draw.
        OutputError: if the ending is another, or the file cannot be written.
        MissingExtra: without matplotlib.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in FIGURES:
        raise OutputError(f"{path}: the ending must be one of {', '.join(FIGURES)}")
    explanations = [explanations] if isinstance(explanations, Explanation) else explanations
    if not explanations:
        raise ValueError("no explanations to draw")
    return write_bytes(path, as_vectors(_figure(explanations, scale), suffix))


def _figure(explanations: Sequence[Explanation], scale: Literal["own", "shared"]) -> Any:
    scales = shared_scales(explanations) if scale == "shared" else {}
    sections = sections_of(explanations)
    sizes = [group[0].framed().size for _, group in sections]
    width, height = (max(size[axis] for size in sizes) for axis in (0, 1))
    columns = even_columns([1 + len(group) for _, group in sections], width, height)
    rows = [1 + len(group) // columns for _, group in sections]
    chart = figure(columns * CELL, sum(rows) * (CELL * height / width + TEXT))
    axes = chart.subplots(sum(rows), columns, squeeze=False)
    font = {"fontfamily": font_families()}
    for ax in axes.flat:
        ax.axis("off")
        ax.set_anchor("N")
    top = 0
    for (heading, group), taken in zip(sections, rows, strict=True):
        first, *others = axes[top : top + taken].flat
        one = group[0]
        if one.layout != "table":  # which has no image
            first.imshow(one.framed())
        first.set_title(f"{spelled(one.source)}\n{spelled(heading)}", fontsize=SMALL, loc="left", **font)
        for ax, each in zip(others, group, strict=False):
            each.draw(ax, scale=scales.get(comparable(each)), colourbar=True, below=True)
            ax.set_title(spelled(each.title) + "\n" + spelled(each.detail), fontsize=SMALL, loc="left", **font)
        top += taken
    for ax in chart.axes:
        ax.tick_params(labelsize=SMALL - 1, length=2)
    return chart
