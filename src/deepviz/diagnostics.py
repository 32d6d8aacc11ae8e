"""What one call found out on its way: facts, numbers per row, and warnings."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from pathlib import Path
from typing import Any

from torch import Tensor

from deepviz.errors import DeepVizWarning

Index = int | tuple[int, int]
OBJECTIVE = "objective"
"""The fact about what a map explains, where that is nothing that was asked."""
NO_CLASS = "none: the map is the same for every class"
"""What it says of a method that knows no class."""
ERROR = "standard error"
"""The note of the standard error of a map, relative to it, or of each of its values."""
PACKAGE = os.path.join(Path(__file__).parent, "")


def warn(text: str) -> None:
    """Issue a `DeepVizWarning` that points to the line outside this package from which it was called."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith((PACKAGE, contextlib.__file__)):
        frame, level = frame.f_back, level + 1
    warnings.warn(text, DeepVizWarning, stacklevel=level)


class Diagnostics:
    """Collects, during one call, what its results need to say about themselves.

    `facts` hold for the whole call ("layer": "layer4"), `rows` for one row, or one row and target, each
    ("completeness gap": a tensor (N,) or (N, K)), `maps` for each value of a map ("standard error": a tensor
    (N, 1, *grid) or (N, K, 1, *grid)). Warnings are sentences: `general` ones about the whole call (keys alone, in
    order), `particular` ones with a boolean mask of the rows that they concern.
    """

    def __init__(self) -> None:
        self.facts: dict[str, Any] = {}
        self.rows: dict[str, Tensor] = {}
        self.maps: dict[str, Tensor] = {}
        self.general: dict[str, None] = {}
        self.particular: dict[str, Tensor] = {}
        self._zero: Tensor | None = None

    def warn(self, text: str, rows: Tensor | None = None) -> None:
        """Keep `text` for the rows that the boolean mask marks (None: the whole call), to be warned of once."""
        if rows is None:
            self.general[text] = None
        else:
            known = self.particular.get(text)
            self.particular[text] = rows if known is None else known | rows

    def warn_of_zero(self, text: str, rows: Tensor) -> None:
        """Warn of maps that are zero everywhere, in the rows that have no reason for it yet."""
        new = rows if self._zero is None else rows & ~self._zero
        self._zero = rows if self._zero is None else rows | self._zero
        if bool(new.any()):
            self.warn(text, new)

    def aside(self) -> Diagnostics:
        """For a method inside another: what it learns about the whole call is kept here, its rows are not ours."""
        inner = Diagnostics()
        inner.facts, inner.general = self.facts, self.general
        return inner

    def issue(self) -> None:
        """Hand the warnings to Python's `warnings`, at the end of a call that succeeded."""
        for text in (*self.general, *self.particular):
            warn(text)

    def of(self, index: Index) -> dict[str, Any]:
        """What holds for one map: its row, or (row, target)."""
        told: dict[str, Any] = dict(self.facts)
        told.update({key: values[index].item() for key, values in self.rows.items()})
        said = (*self.general, *(text for text, rows in self.particular.items() if bool(rows[index])))
        if said:
            told["warnings"] = said
        return told
