"""Charts: matplotlib figures that show themselves in a notebook, without pyplot and its global state."""

from __future__ import annotations

import io
from functools import cache
from typing import Any

from deepviz.errors import MissingExtra
from deepviz.render.text import font_files

FIGURES = (".pdf", ".svg")
"""Endings of files with vector graphics."""
_AS_TEXT: Any = {"svg.fonttype": "none", "pdf.fonttype": 42, "svg.hashsalt": "deepviz"}
"""Text stays text, which can be searched and edited, and the same figure gives the same file."""


def figure(width: float, height: float) -> Any:
    """An empty figure of so many inches.

    Raises:
        MissingExtra: without matplotlib.
    """
    check_matplotlib()
    import matplotlib
    from matplotlib.figure import Figure

    class Chart(Figure):
        """A figure that a notebook draws; pyplot's own would be drawn twice."""

        def savefig(self, fname: Any, **options: Any) -> None:
            """As matplotlib's, with text as text in SVG and PDF."""
            with matplotlib.rc_context(_AS_TEXT):
                super().savefig(fname, **options)

        def _repr_png_(self) -> bytes:
            return as_png(self)

    return Chart(figsize=(width, height), layout="constrained")


def check_matplotlib() -> None:
    """Do nothing if matplotlib can draw.

    Raises:
        MissingExtra: if it is not there.
    """
    try:
        import matplotlib.figure  # noqa: F401 - a part may be there without it
    except ImportError:
        raise MissingExtra("figures need matplotlib: pip install 'deepviz[plot]'") from None


@cache
def font_families() -> tuple[str, ...]:
    """matplotlib's own font, and those that are installed for the scripts that it lacks."""
    from matplotlib import font_manager

    families = ["DejaVu Sans"]
    for path in font_files():
        if path.lower().endswith(".ttf"):  # PDF takes no others
            font_manager.fontManager.addfont(path)
            families.append(font_manager.FontProperties(fname=path).get_name())
    return tuple(dict.fromkeys(families))


def as_png(chart: Any) -> bytes:
    """A figure as the bytes of a PNG."""
    buffer = io.BytesIO()
    chart.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def as_vectors(chart: Any, suffix: str) -> bytes:
    """A figure as the bytes of a file with an ending of `FIGURES`, without the time at which it was made."""
    buffer = io.BytesIO()
    undated = {"CreationDate": None} if suffix == ".pdf" else {"Date": None}
    chart.savefig(buffer, format=suffix[1:], dpi=200, metadata=undated)
    return buffer.getvalue()
