"""Numbers of tables: NaN is what was not found, and is left out."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]


def mean_of_known(values: Values) -> Values:
    """The mean over the first axis, of what is there; NaN where nothing is.

    Example:
        >>> mean_of_known(np.array([[1.0, np.nan, np.nan], [3.0, 5.0, np.nan]])).tolist()
        [2.0, 5.0, nan]
    """
    there = ~np.isnan(values)
    count = there.sum(0)
    return np.where(count > 0, np.where(there, values, 0).sum(0) / np.maximum(count, 1), np.nan)


def listed(values: Values) -> Any:
    """Numbers as nested lists for JSON, NaN as None; `array` reads them back.

    Example:
        >>> listed(np.array([[1.5, np.nan]])), array([[1.5, None]])
        ([[1.5, None]], array([[1.5, nan]]))
    """
    return [listed(value) for value in values] if values.ndim else plain(float(values))


def array(held: Any) -> Values:
    """What `listed` was given."""
    return np.array(held, dtype=np.float64)


def plain(value: float) -> float | None:
    """A number for JSON, which has no NaN: None."""
    return None if np.isnan(value) else float(value)
