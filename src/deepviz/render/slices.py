"""Volumes and clips as one picture: slices along their first axis, side by side in reading order."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

GRIDS = {9: 3, 8: 4, 6: 3, 4: 2, 3: 3, 2: 2, 1: 1}
"""How many slices are shown, and in how many columns, so that no place stays empty."""


def shown_slices(depth: int) -> list[int]:
    """Which slices of a volume are shown: at most nine, evenly spaced, the first and last among them.

    Example:
        >>> shown_slices(16), shown_slices(3), shown_slices(1)
        ([0, 2, 4, 6, 8, 9, 11, 13, 15], [0, 1, 2], [0])
    """
    count = next(number for number in GRIDS if number <= depth)
    return [round(one) for one in np.linspace(0, depth - 1, count)] if count > 1 else [depth // 2]


def side_by_side(volume: NDArray[Any]) -> NDArray[Any]:
    """The shown slices of a volume (D, H, W, ...) as one array (rows H, columns W, ...).

    Example:
        >>> import numpy as np
        >>> side_by_side(np.zeros((16, 10, 20))).shape
        (30, 60)
    """
    slices = volume[shown_slices(len(volume))]
    columns = GRIDS[len(slices)]
    grid = slices.reshape(len(slices) // columns, columns, *slices.shape[1:])
    rows = [np.concatenate(list(row), axis=1) for row in grid]
    return np.concatenate(rows, axis=0)
