"""Efficient parameter randomisation: Hedstrom et al. 2024."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from deepviz.methods.method import Method
from deepviz.metrics.metric import Better, Metric
from deepviz.metrics.parameter_randomization import drawn_when_random
from deepviz.options import Ge, Seed
from deepviz.probe.session import Session


@dataclass(frozen=True)
class EfficientRandomization(Metric):
    """By how much a method's maps get more complex when every layer has random weights.

        q = (H(M(f_r, x)) - H(M(f, x))) / H(M(f, x)),    H = -sum_b p_b log p_b

    p_b is the share of the map's values in bin b of `bins` equal ones between its least and largest value. Higher is
    better: a method that depends on the network draws noise for an untrained one, and noise spreads evenly
    over the bins. From -1 up; 0 for a map that stays as complex as it was, and for a method that ignores the network.

    Cost: two maps of the method, and a copy of the model. Maps are taken as in `ParameterRandomization`, cascading:
    as they are drawn, at the method's own resolution. (The authors' code bins the raw values.)

    Shapes: x (N, C, H, W), a method -> (N,).

    Errors: see `Metric.__call__`; ModelError where the random network has no finite scores.

    Pitfall: it compares two numbers, not two maps. A map of which nothing is left can be just as complex, and gets
    0, as does a map that did not change; and a random network with large gradients in a few places may be simpler.
    Read it beside `ParameterRandomization`. A map that is the same everywhere has H = 0; where the trained network's
    is, there is no relative rise, and the value is 0, with a warning.

    Reference: Hedstrom, Weber, Lapuschkin and Hoehne, "A Fresh Look at Sanity Checks for Saliency Maps" (2024),
    arXiv:2405.02383.

    Example:
        >>> import torch
        >>> from deepviz.metrics import EdgeDetector, EfficientRandomization
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 5))
        >>> EfficientRandomization()(model, torch.rand(2, 3, 8, 8), EdgeDetector()).tolist()
        [0.0, 0.0]
    """

    bins: Annotated[int, Ge(2), "Of the histogram of a map's values."] = 100
    seed: Annotated[Seed, "Seed of the random weights."] = 0

    title: ClassVar[str] = "Efficient randomization"
    paper: ClassVar[str] = "Hedstrom et al. 2024, arXiv:2405.02383"
    cost: ClassVar[str] = "2 maps of the method"
    better: ClassVar[Better] = "higher"
    range: ClassVar[tuple[float, float]] = (-1.0, float("inf"))
    spatial: ClassVar[tuple[int, ...]] = (2, 3)
    judges: ClassVar[Literal["map", "method"]] = "method"

    def passes(self, method: Method) -> float:
        """2 maps."""
        return 2 * method.passes()

    def measure(self, session: Session, attribution: Method) -> Tensor:
        """The relative rise of the entropy."""
        (_, trained), (_, random) = drawn_when_random(session, attribution, stages=1, seed=self.seed)
        H, H_r = histogram_entropy(trained, self.bins), histogram_entropy(random, self.bins)
        return torch.where(H > 0, (H_r - H) / H.clamp_min(torch.finfo(H.dtype).tiny), 0)


def histogram_entropy(maps: Tensor, bins: int) -> Tensor:
    """-sum_b p_b log p_b of the histogram of the values of each map (N, h, w), between its own extremes: (N,)."""
    values = maps.flatten(1).double()
    low, high = values.amin(1, keepdim=True), values.amax(1, keepdim=True)
    place = ((values - low) / (high - low).clamp_min(torch.finfo(values.dtype).tiny) * bins).long()
    counts = values.new_zeros((len(values), bins)).scatter_add_(1, place.clamp_max(bins - 1), torch.ones_like(values))
    H: Tensor = torch.special.entr(counts / values.shape[1]).sum(1)
    return H
