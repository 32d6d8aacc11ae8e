"""What one call found out on its way: facts, numbers per row, and warnings."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Any

from torch import Tensor

from deepviz.errors import DeepVizWarning

Index = int | tuple[int, int]
PACKAGE = os.path.join(Path(__file__).parent, "")


def warn(text: str) -> None:
    """Issue a `DeepVizWarning` that points to the line outside this package from which it was called."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(PACKAGE):
        frame, level = frame.f_back, level + 1
    warnings.warn(text, DeepVizWarning, stacklevel=level)


class Notes:
    """Collects, during one call, what its results need to say about themselves.

    `facts` hold for the whole call ("layer": "layer4"), `rows` for one row, or one row and target, each
    ("completeness_gap": a tensor (N,) or (N, K)), and `warned` are sentences with the rows that they concern.
    """

    def __init__(self) -> None:
        self.facts: dict[str, Any] = {}
        self.rows: dict[str, Tensor] = {}
        self.warned: list[tuple[str, Tensor | None]] = []

    def warn(self, text: str, rows: Tensor | None = None) -> None:
        """Keep `text` for the rows that the boolean mask marks (None: all), to be warned of once."""
        if not any(text == known for known, _ in self.warned):
            self.warned.append((text, rows))

    def issue(self) -> None:
        """Hand the warnings to Python's `warnings`, at the end of a call that succeeded."""
        for text, _ in self.warned:
            warn(text)

    def of(self, index: Index) -> dict[str, Any]:
        """What holds for one map: its row, or (row, target)."""
        told: dict[str, Any] = dict(self.facts)
        told.update({key: values[index].item() for key, values in self.rows.items()})
        said = tuple(text for text, rows in self.warned if rows is None or bool(rows[index]))
        if said:
            told["warnings"] = said
        return told
