"""How sure a mean over images is: percentile bootstrap (Efron 1979)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
LEVEL = 0.95
FEWEST = 3
"""Below this many images an interval is meaningless."""
FEWEST_TO_DIFFER = 10
"""Below so many, the interval is too narrow: two equal rows would be called different one time in five."""

Values = NDArray[np.float64]


def interval(values: Values, seed: int = 0) -> tuple[float, float]:
    """The 95 % percentile interval of the mean of `values` (n,) over resampled images; NaN for fewer than three.

    Example:
        >>> import numpy as np
        >>> interval(np.full(10, 0.5))
        (0.5, 0.5)
    """
    if len(values) < FEWEST:
        return float("nan"), float("nan")
    low, high = np.quantile(_means(values, seed), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def differs(one: Values, other: Values, seed: int = 0) -> bool:
    """Whether the paired bootstrap interval of the mean of `one - other`, over the same images, leaves out zero; never
    for fewer than ten images."""
    if len(one) < FEWEST_TO_DIFFER:
        return False
    low, high = interval(one - other, seed)
    return low > 0 or high < 0


def _means(values: Values, seed: int) -> Values:
    n = len(values)
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
    means: Values = drawn @ values / n
    return means
