"""Objectives about the image itself: penalties, to be subtracted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from deepviz.objectives.objective import Objective
from deepviz.options import Gt
from deepviz.probe.seen import Seen


@dataclass(frozen=True, eq=False)
class L2(Objective):
    """|I|^2 of the image: the penalty of Simonyan et al. 2013, to be subtracted.

    Of a generated image in standard deviations of natural images' pixels, whatever the network's input is; else of the
    normalised input.
    """

    def __call__(self, seen: Seen) -> Tensor:
        """sum I^2."""
        return seen.image().square().flatten(1).sum(1)

    def caption(self, label: Callable[[int], str] | None = None) -> str:
        """In words."""
        return "L2"


@dataclass(frozen=True, eq=False)
class TotalVariation(Objective):
    """How much neighbouring pixels differ (Mahendran and Vedaldi 2015), to be subtracted."""

    beta: Annotated[float, Gt(0), "Power of the slope: 1 keeps edges, 2 smooths them."] = 2.0

    def __call__(self, seen: Seen) -> Tensor:
        """sum_p (sum_a (I_p+a - I_p)^2)^(beta / 2), a one pixel along each spatial axis."""
        x = seen.image()
        tiny = torch.finfo(x.dtype).tiny ** 0.5  # the root has no slope at 0
        slope = torch.full_like(x, tiny)
        for axis in range(2, x.ndim):
            # the last pixel has no neighbour: no difference
            after = (0, 0) * (x.ndim - 1 - axis) + (0, 1)
            slope = slope + F.pad(x.diff(dim=axis), after).square()
        return slope.sqrt().pow(self.beta).flatten(1).sum(1)

    def caption(self, label: Callable[[int], str] | None = None) -> str:
        """In words."""
        return "total variation"
