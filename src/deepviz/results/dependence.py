"""How far a method's maps depend on what a network has learned: the verdict over several images, and its words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan, nan
from typing import Any, Literal

import numpy as np

from deepviz.metrics.bootstrap import interval

KEPT, PARTLY_KEPT = 0.5, 0.35
"""Above the one, what is left of a map is most of it; below the other, it is little."""
NEAR = 0.1
"""A share of the layers that is no further from half of them is called that."""
FEWEST_IMAGES = 8
"""Images, below which the figures are no verdict."""

Dependence = Literal["none", "little", "partly", "full", "unknown"]
"""How far a map depends on what the network has learned, by its similarity to the map with random layers."""
MEANING: dict[Dependence, str] = {
    "none": "it does not depend on what this network learned",
    "little": "it hardly depends on what the upper layers, which separate the classes, have learned",
    "partly": "it depends in part on what this network learned",
    "full": "it depends on what this network learned",
    "unknown": "more stages are needed to tell whether it depends on the upper layers alone",
}
BADGES: dict[Dependence, str] = {
    "full": "Depends on the weights",
    "partly": "Depends in part on the weights",
    "little": "Hardly depends on the upper layers",
    "none": "Does not depend on the weights",
    "unknown": "Unknown",
}


def dependence(half: float, whole: float) -> Dependence:
    """How far a map depends on the weights, from its similarity with about half of the layers random, from the output
    down, and with all; NaN for what was not computed.

    Example:
        >>> dependence(0.9, 0.8), dependence(0.9, 0.2), dependence(0.4, 0.2), dependence(0.1, 0.1)
        ('none', 'little', 'partly', 'full')
        >>> dependence(float("nan"), 0.1)
        'unknown'
    """
    if whole > KEPT:
        return "none"
    if isnan(half):
        return "unknown"
    if half > KEPT:
        return "little"
    return "partly" if max(half, whole) > PARTLY_KEPT else "full"


def verdict_of(values: Mapping[str, Any]) -> Verdict:
    """The verdict on what is remembered of a method: "half", "all" and "share" of `Sanity.by_key`."""
    return Verdict.of(values["half"], values["all"], values["share"])


@dataclass(frozen=True)
class Spread:
    """The mean over images, with its 95 % bootstrap interval; NaN for the ends of that of too few images."""

    mean: float
    low: float = nan
    high: float = nan

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """That of one number for each image; None if all are NaN."""
        there = np.array([value for value in values if not isnan(value)])
        if not len(there):
            return None
        ends = interval(there) if len(there) >= FEWEST_IMAGES else (nan, nan)
        return cls(float(there.mean()), *ends)

    @property
    def ends(self) -> tuple[float, float] | None:
        """The interval, if there is one."""
        return None if isnan(self.low) else (self.low, self.high)

    def __str__(self) -> str:
        return f"{self.mean:.2f}" + ("" if self.ends is None else f" ({self.low:.2f} to {self.high:.2f})")

    def as_json(self) -> dict[str, float]:
        """As plain values: "mean", and "low" and "high" if there is an interval."""
        return {"mean": self.mean} | ({} if self.ends is None else {"low": self.low, "high": self.high})


@dataclass(frozen=True)
class Verdict:
    """What several images say of a method on a network.

    Args:
        images: how many are compared.
        blank: how many are not, since their maps are blank with random weights.
        half: the similarity to the original maps with about half of the layers random; None if that was not tried.
        all: that with all of them random; None if there is nothing to compare.
        share: of the layers that are random where about half of them are.

    Example:
        >>> str(Verdict.of([0.2, 0.3], [0.1, 0.0]))
        'similarity 0.25 to the original map with the upper half of the layers random, 0.05 with all: a verdict takes \
at least 8 images'
        >>> str(Verdict.of(8 * [0.2], 8 * [0.1])).endswith(": it depends on what this network learned")
        True
    """

    images: int
    blank: int
    half: Spread | None
    all: Spread | None
    share: float = 0.5

    @classmethod
    def of(cls, half: Sequence[float], whole: Sequence[float], share: float = 0.5) -> Verdict:
        """From the similarities of each image, with about half of the layers random and with all; NaN for none."""
        there = [pair for pair in zip(half, whole, strict=True) if not isnan(pair[1])]
        halves, wholes = [one for one, _ in there], [one for _, one in there]
        return cls(len(there), len(whole) - len(there), Spread.of(halves), Spread.of(wholes), share)

    @property
    def grade(self) -> Dependence | None:
        """How far the maps depend on the weights; None for too few images, or if the interval has several answers."""
        ends = self._ends
        return ends[0] if ends is not None and ends[0] == ends[1] else None

    @property
    def _ends(self) -> tuple[Dependence, Dependence] | None:
        """The dependence at both ends of the intervals."""
        if self.all is None or self.all.ends is None:
            return None
        half = Spread(nan) if self.half is None else self.half
        return dependence(half.low, self.all.low), dependence(half.high, self.all.high)

    @property
    def badge(self) -> str:
        """The verdict in a few words."""
        return "No verdict" if self.grade is None else BADGES[self.grade]

    @property
    def figures(self) -> str:
        """How similar the maps stay."""
        if self.all is None:
            return "blank with random weights"
        means = [one.mean for one in (self.half, self.all) if one is not None]
        if max(means) < 0:  # anticorrelated is no degree of similarity
            return "unrelated to the original map with random layers"
        if self.half is None:
            return f"similarity {self.all} to the original map with all layers random"
        upper = "half" if abs(self.share - 0.5) < NEAR else f"{self.share:.0%}"
        half, whole = (f"similarity {one}" if one.mean >= 0 else "unrelated" for one in (self.half, self.all))
        if self.half.mean >= 0:
            whole = whole.removeprefix("similarity ")
        return f"{half} to the original map with the upper {upper} of the layers random, {whole} with all"

    @property
    def meaning(self) -> str:
        """What that means, or why it is no verdict."""
        if self.all is None:
            return "nothing to compare"
        if self.grade is not None:
            return MEANING[self.grade]
        if self._ends is None:
            return f"a verdict takes at least {FEWEST_IMAGES} images"
        low, high = (BADGES[one].lower() for one in self._ends)
        return f'from "{low}" to "{high}": a verdict takes more images'

    @property
    def remark(self) -> str:
        """How many images are left out, if any are."""
        if not (self.blank and self.images):
            return ""
        return f" ({self.blank} of {self.blank + self.images} images left out: a map is blank there)"

    def __str__(self) -> str:
        return f"{self.figures}: {self.meaning}{self.remark}"

    def as_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "images": self.images,
            "half": None if self.half is None else self.half.as_json(),
            "all": None if self.all is None else self.all.as_json(),
            "share": None if isnan(self.share) else self.share,
            "grade": self.grade,
        }
