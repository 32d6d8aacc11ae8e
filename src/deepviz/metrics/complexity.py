"""Complexity: Bhatt et al. 2020."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from deepviz.metrics.metric import Better, ChannelsOption, Metric
from deepviz.metrics.sparseness import magnitudes
from deepviz.probe.session import Session


@dataclass(frozen=True)
class Complexity(Metric):
    """How many pixels the map is spread over: the entropy of the pixels' shares in it.

        Complexity = -sum_ij P_ij ln P_ij,    P_ij = |a_ij| / sum_kl |a_kl|

    Lower is better: a short explanation. From 0, one pixel alone, to ln(H W), all magnitudes equal; e to its power is
    the number of even pixels that would be as complex. A map that is zero everywhere counts as an even one, ln(H W)
    (with a warning). Cost: none.

    Shapes: x (N, C, H, W), attribution (N, C, H, W) or (N, 1, h, w) -> (N,).

    Pixels, not the channels of each, are the features here. In nats.

    Errors: see `Metric.__call__`.

    Pitfall: simple is not true: a dot drawn at random is the simplest map there is. Read it beside a measure of
    faithfulness. Values of inputs of different sizes do not compare: ln(H W) grows.

    Reference: Bhatt, Weller and Moura, "Evaluating and Aggregating Feature-based Model Explanations" (2020),
    arXiv:2005.00631.

    Example:
        >>> import torch
        >>> from deepviz.metrics import Complexity
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 5))
        >>> R = torch.zeros(1, 1, 8, 8)
        >>> R[0, 0, 2, :5] = 1  # five pixels
        >>> round(Complexity()(model, torch.rand(1, 3, 8, 8), R).exp().item(), 6)
        5.0
    """

    channels: ChannelsOption = None
    title: ClassVar[str] = "Complexity"
    paper: ClassVar[str] = "Bhatt et al. 2020, arXiv:2005.00631"
    cost: ClassVar[str] = "none"
    better: ClassVar[Better] = "lower"
    range: ClassVar[tuple[float, float]] = (0.0, float("inf"))
    spatial: ClassVar[tuple[int, ...]] = (2, 3)

    def measure(self, session: Session, attribution: Tensor) -> Tensor:
        """-sum P ln P."""
        a = magnitudes(session, attribution, self.channels)
        P = a / a.sum(1, keepdim=True)
        return -torch.xlogy(P, P).sum(1)  # 0 ln 0 is 0
