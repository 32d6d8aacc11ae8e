"""From numbers to colours, on a scale that is stated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cmap as cmaps
import numpy as np
from numpy.typing import NDArray

from deepviz.names import nearest

Values = NDArray[Any]
"""Floating-point values."""

UNSIGNED = "inferno"
SIGNED = "crameri:vik"
LEVELS = 513
"""Odd, so that a signed scale has an entry for zero itself."""


@dataclass(frozen=True)
class Scale:
    """The range of values that the colours span; values beyond it take the end colours.

    Args:
        low: zero, or for signed values the negative of `high`.
        high: the value of the last colour.
        signed: whether zero is in the middle.
        note: what the reader must know: "all zero", "constant", "nothing above zero", or nothing.

    Raises:
        ValueError: if the range is empty, not finite, or has zero elsewhere than `signed` says.
    """

    low: float
    high: float
    signed: bool
    note: str = ""

    def __post_init__(self) -> None:
        if not (0 < self.high < float("inf") and self.low == (-self.high if self.signed else 0)):
            expected = "from -high to high" if self.signed else "from 0 to high"
            raise ValueError(f"the scale must go {expected}, with high above 0, got {self.low} to {self.high}")

    @classmethod
    def of(cls, values: Values, signed: bool, percentile: float = 99.5) -> Scale:
        """From zero, or symmetric about it, to a percentile of the magnitude.

        A map so sparse that the percentile is zero is scaled to its maximum. A map that is zero everywhere keeps the
        range 0 to 1, so that it is drawn as nothing instead of stretched into noise, and says so.

        Raises:
            ValueError: if there is no value, or one is not finite.
        """
        values = finite(values)
        magnitude = np.abs(values) if signed else np.maximum(values, 0)
        high = float(np.percentile(magnitude, percentile)) or float(magnitude.max())
        note = "" if values.min() < values.max() else "constant"
        if high == 0:
            note, high = "all zero" if not np.any(values) else "nothing above zero", 1.0
        return cls(-high if signed else 0.0, high, signed, note)

    @classmethod
    def shared(cls, maps: Sequence[Values], signed: bool, percentile: float = 99.5) -> Scale:
        """One scale for several maps, so that their colours can be compared."""
        if len(maps) == 0:
            raise ValueError("no maps to share a scale")
        return cls.of(np.concatenate([values.ravel() for values in maps]), signed, percentile)

    def unit(self, values: Values) -> NDArray[np.float32]:
        """The values as fractions of the scale, 0 to 1, clipped; zero is 0.5 on a signed scale."""
        shares = np.clip(values, self.low, self.high) / self.high
        return ((shares + 1) / 2 if self.signed else shares).astype(np.float32)

    def strength(self, values: Values) -> NDArray[np.float32]:
        """|value| / high, clipped to 1: how much there is to see."""
        return (np.clip(np.abs(values) if self.signed else values, 0, self.high) / self.high).astype(np.float32)


def colour(values: Values, scale: Scale, cmap: str | None = None) -> NDArray[np.uint8]:
    """Colours (H, W, 3) of values (H, W) on `scale`, by a perceptually uniform (signed: diverging) colour map.

    Raises:
        ValueError: for a colour map that does not exist, with the nearest names; for values that are no map.
    """
    table = colour_table(scale, cmap)
    return table[np.rint(scale.unit(as_map(values)) * (LEVELS - 1)).astype(np.intp)]


def colour_table(scale: Scale, cmap: str | None = None) -> NDArray[np.uint8]:
    """The colours (n, 3) from the low end of a scale to the high one."""
    return _table(cmap or (SIGNED if scale.signed else UNSIGNED))


def as_map(values: Values) -> Values:
    """The values, known to be one map (H, W) of finite numbers.

    Raises:
        ValueError: if they are not.
    """
    if values.ndim != 2:
        raise ValueError(f"a map must be (H, W), got {values.shape}")
    return finite(values)


def finite(values: Values) -> Values:
    """The values, known to be finite, and wide enough to take differences of: float32 at least.

    Raises:
        ValueError: if there is none, or one is not finite.
    """
    if not values.size:
        raise ValueError(f"the map is empty, got {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError("the map holds NaN or infinity, which has no colour")
    return values.astype(np.result_type(values, np.float32), copy=False)


@lru_cache(maxsize=32)
def _table(name: str) -> NDArray[np.uint8]:
    try:
        found = cmaps.Colormap(name)
    except (ValueError, TypeError):
        known = {entry.split(":")[-1] for entry in cmaps.Catalog().unique_keys()}
        raise ValueError(f"no colour map {name!r}{nearest(name.split(':')[-1], known)}") from None
    table: NDArray[np.uint8] = np.rint(np.asarray(found(np.linspace(0, 1, LEVELS)))[:, :3] * 255).astype(np.uint8)
    table.setflags(write=False)
    return table
