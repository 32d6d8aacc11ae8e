"""Sparseness: Chalasani et al. 2020."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from deepviz.metrics.metric import Better, Channels, ChannelsOption, Metric, per_pixel
from deepviz.probe.session import Session


@dataclass(frozen=True)
class Sparseness(Metric):
    """How concentrated the map is on few pixels: the Gini index of its magnitudes.

        G = 1 - 2 sum_k v_k (d - k + 1/2) / (d sum_k v_k)

    v_1 <= ... <= v_d are the magnitudes |a_ij| of all d = H W pixels in rising order. Higher is better: a short
    explanation. From 0, all magnitudes equal, to 1 - 1/d, one pixel alone. A map that is zero everywhere counts as
    an even one, 0 (with a warning). Cost: none.

    Shapes: x (N, C, H, W), attribution (N, C, H, W) or (N, 1, h, w) -> (N,).

    Pixels, not the channels of each, are the features here; the number of pixels and the scale of the map do not
    matter.

    Errors: see `Metric.__call__`.

    Pitfall: sparse is not true: a dot drawn at random is the sparsest map there is. Read it beside a measure of
    faithfulness. A layer's map is smooth because it was enlarged, whatever the model does.

    Reference: Chalasani, Chen, Roy Chowdhury, Wu and Jha, "Concise Explanations of Neural Networks using Adversarial
    Training" (2020), arXiv:1810.06583.

    Example:
        >>> import torch
        >>> from deepviz.metrics import Sparseness
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 5))
        >>> R = torch.ones(2, 1, 8, 8)
        >>> R[1, 0, :, :4] = 0  # the right half alone
        >>> Sparseness()(model, torch.rand(2, 3, 8, 8), R).tolist()
        [0.0, 0.5]
    """

    channels: ChannelsOption = None
    title: ClassVar[str] = "Sparseness"
    paper: ClassVar[str] = "Chalasani et al. 2020, arXiv:1810.06583"
    cost: ClassVar[str] = "none"
    better: ClassVar[Better] = "higher"
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    spatial: ClassVar[tuple[int, ...]] = (2, 3)

    def measure(self, session: Session, attribution: Tensor) -> Tensor:
        """G = 1 - 2 sum_k v_k (d - k + 1/2) / (d sum_k v_k)."""
        v = magnitudes(session, attribution, self.channels).sort(1).values
        d = v.shape[1]
        k = torch.arange(1, d + 1, dtype=v.dtype)
        G = 1 - 2 * (v * (d - k + 0.5)).sum(1) / (v.sum(1) * d)
        return G.clamp_min(0)  # an even map's may round to less


def magnitudes(session: Session, attribution: Tensor, channels: Channels | None) -> Tensor:
    """|a| of all pixels, in double precision on the CPU: (N, pixels). All ones for a map of zeros, with a warning."""
    a = per_pixel(attribution, session.image(), channels).cpu().double().abs().flatten(1)
    zero = a.amax(1) == 0
    if bool(zero.any()):
        session.notes.warn("the map is zero everywhere: it is counted as uniform", zero)
    return torch.where(zero[:, None], torch.ones_like(a), a)
