"""Energy inside, or relevance mass accuracy: Wang et al. 2020, Arras et al. 2022."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from deepviz.metrics.metric import Better
from deepviz.metrics.region import RegionMetric
from deepviz.probe.session import Session


@dataclass(frozen=True, eq=False)
class EnergyInside(RegionMetric):
    """How much of the map's positive mass lies on the object.

        EnergyInside = sum_{ij inside} max(a_ij, 0) / sum_ij max(a_ij, 0)

    Higher is better, from 0 to 1. Known as the energy-based pointing game and as relevance mass accuracy. A map that
    is the same everywhere has the value of chance, the region's share of the image; so by definition has a map
    without any positive value, which has no mass to share out (with a warning). Cost: none.

    Shapes: x (N, C, H, W), attribution (N, C, H, W) or (N, 1, h, w) -> (N,).

    Negative values do not count. Quantus 0.6 adds them with their sign, so that its quotient of a signed map may lie
    outside 0 to 1; the papers make the map positive first.

    Errors: see `Metric.__call__`; ValueError for a region that is missing, empty, of a wrong shape or off the image.

    Pitfall: a large object makes it large, whatever the map: compare with a random map, which gets the region's
    share. Scattered small values far from the object weigh as much as one strong wrong spot. It says where the map
    is, not whether the model uses what is there.

    Reference: Wang et al., "Score-CAM: Score-Weighted Visual Explanations for Convolutional Neural Networks" (2020),
    arXiv:1910.01279; Arras, Osman and Samek, "CLEVR-XAI: A benchmark dataset for the ground truth evaluation of
    neural network explanations" (2022), arXiv:2003.07258.

    Example:
        >>> import torch
        >>> from deepviz.metrics import EnergyInside
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 5))
        >>> quarter = torch.zeros(8, 8, dtype=torch.bool)
        >>> quarter[:4, :4] = True
        >>> EnergyInside(inside=quarter)(model, torch.rand(1, 3, 8, 8), torch.ones(1, 1, 8, 8)).tolist()
        [0.25]
    """

    title: ClassVar[str] = "Energy inside"
    paper: ClassVar[str] = "Wang et al. 2020, arXiv:1910.01279; Arras et al. 2022, arXiv:2003.07258"
    cost: ClassVar[str] = "none"
    better: ClassVar[Better] = "higher"
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def measure(self, session: Session, attribution: Tensor) -> Tensor:
        """sum_{inside} max(a, 0) / sum max(a, 0)."""
        a = self.values(session, attribution).flatten(1).clamp_min(0)
        inside = self.region(session.image()).flatten(1)
        mass = a.sum(1)
        self.warn_of_chance(session, "has no positive value", mass == 0)
        return torch.where(mass > 0, (a * inside).sum(1) / mass, inside.double().mean(1))
