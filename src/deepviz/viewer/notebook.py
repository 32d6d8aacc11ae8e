"""The viewer in a notebook cell."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from deepviz.errors import MissingExtra
from deepviz.results.explanation import Explanation
from deepviz.viewer.assets import bundle, static_files
from deepviz.viewer.reports import embedded


def compare(explanations: Sequence[Explanation], **settings: Any) -> Any:
    """The interactive viewer for a notebook cell: a row for each image and class, a column for each method.

    What it shows is as in a report (values of 8 bits, images of at most 640 pixels), and is kept in the notebook.

    Args:
        explanations: as `explain` returns them, of one or many images.
        settings: what the controls start with: `opacity`, `threshold` (a percentile), `view` ("overlay", "map",
            "image"), `sign` ("both", "positive", "negative", "magnitude"), `scale` ("own", "method", "all"),
            `contours`, `size` ("s", "m", "l").

    Returns:
        A widget; `widget.settings` follows the controls, and they follow it.

    Raises:
        MissingExtra: without the extra `notebook`.
        ValueError: if there is nothing to show.
        TypeError: for anything but explanations.
    """
    if isinstance(explanations, Explanation):
        explanations = [explanations]
    if not explanations:
        raise ValueError("no explanations to compare: give what deepviz.explain returned")
    if not all(isinstance(one, Explanation) for one in explanations):
        raise TypeError(f"compare takes explanations, as deepviz.explain returns them, got {explanations!r:.60}")
    return _widget_class()(data=embedded(explanations), settings=settings)


@cache
def _widget_class() -> Any:
    """Made when it is first asked for, since its parent is an extra."""
    try:
        import anywidget
        import traitlets
    except ImportError:
        raise MissingExtra("compare() needs anywidget: pip install 'deepviz[notebook]'") from None
    members = {
        "__doc__": "Maps in the viewer.",
        "_esm": bundle("notebook.js"),
        "_css": static_files()["viewer.css"].decode(),
        "data": traitlets.Dict().tag(sync=True),
        "settings": traitlets.Dict().tag(sync=True),
    }
    return type("Comparison", (anywidget.AnyWidget,), members)
