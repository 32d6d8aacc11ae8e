"""Charts: matplotlib figures that show themselves in a notebook, without pyplot and its global state."""

from __future__ import annotations

import io
from typing import Any

from deepviz.errors import MissingExtra


def figure(width: float, height: float) -> Any:
    """An empty figure of so many inches.

    Raises:
        MissingExtra: without matplotlib.
    """
    try:
        import matplotlib  # noqa: F401 - a part may be there without it
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtra("plot() needs matplotlib: pip install 'deepviz[plot]'") from None

    class Chart(Figure):
        """A figure that a notebook draws; pyplot's own would be drawn twice."""

        def _repr_png_(self) -> bytes:
            return as_png(self)

    return Chart(figsize=(width, height), layout="constrained")


def as_png(chart: Any) -> bytes:
    """A figure as the bytes of a PNG."""
    buffer = io.BytesIO()
    chart.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
