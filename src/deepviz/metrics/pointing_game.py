"""The pointing game: Zhang et al. 2018."""

from dataclasses import dataclass
from math import isqrt
from typing import Annotated, ClassVar

import torch.nn.functional as F
from torch import Tensor

from deepviz.metrics.metric import Better
from deepviz.metrics.region import RegionMetric
from deepviz.options import Ge
from deepviz.probe.session import Session


@dataclass(frozen=True, eq=False)
class PointingGame(RegionMetric):
    """Whether the map's largest value lies on the object.

        p = argmax_ij a_ij,    PointingGame = 1 if |p - q| <= tolerance for a pixel q inside, else 0

    Higher is better; 0 or 1 an image, so the mean over images is the share of hits. Where several pixels share the
    largest value, the share of them that are hits, which is what one drawn of them scores on average: a map that is
    the same everywhere has the value of chance, the region's share of the image (with a warning). Cost: none.

    Shapes: x (N, C, H, W), attribution (N, C, H, W) or (N, 1, h, w) -> (N,).

    The paper allows a margin of 15 pixels around the object; the default here is none. Distances are between the
    centres of pixels.

    Errors: see `Metric.__call__`; ValueError for a region that is missing, empty, of a wrong shape or off the image.

    Pitfall: it measures whether the map is where a person sees the object. A model that goes by the background is
    explained truly by a map that misses. Images have their object in the middle: compare with the centred
    Gaussian, which scores high without knowing anything.

    Reference: Zhang, Bargal, Lin, Brandt, Shen and Sclaroff, "Top-down Neural Attention by Excitation Backprop"
    (2018), arXiv:1608.00507.

    Example:
        >>> import torch
        >>> from deepviz.metrics import PointingGame
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 5))
        >>> R = torch.zeros(2, 1, 8, 8)
        >>> R[0, 0, 1, 1] = R[1, 0, 1, 6] = 1
        >>> left_half = torch.tensor([0, 0, 4, 8])
        >>> PointingGame(inside=left_half)(model, torch.rand(2, 3, 8, 8), R).tolist()
        [1.0, 0.0]
        >>> PointingGame(inside=left_half, tolerance=3)(model, torch.rand(2, 3, 8, 8), R).tolist()
        [1.0, 1.0]
    """

    tolerance: Annotated[
        int, Ge(0), "Tolerance in pixels around the object that still counts as a hit; 15 in the paper."
    ] = 0
    title: ClassVar[str] = "Pointing game"
    paper: ClassVar[str] = "Zhang et al. 2018, arXiv:1608.00507"
    cost: ClassVar[str] = "none"
    better: ClassVar[Better] = "higher"
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def measure(self, session: Session, attribution: Tensor) -> Tensor:
        """The share of the pixels p = argmax a that are hits."""
        a = self.values(session, attribution).flatten(1)
        hit = _within(self.region(session.image()), self.tolerance**2).flatten(1)
        p = a == a.amax(1, keepdim=True)
        self.warn_of_chance(session, "is the same everywhere", p.all(1))
        return (p & hit).sum(1).double() / p.sum(1)


def _within(mask: Tensor, square: int) -> Tensor:
    """Masks (N, *space) with all pixels added whose squared distance from one of theirs is at most `square`."""
    reach = isqrt(square)
    if mask.ndim == 2:
        return F.max_pool1d(mask.float(), 2 * reach + 1, stride=1, padding=reach) > 0
    found = mask.clone()
    length = mask.shape[1]
    for away in range(min(reach, length - 1) + 1):
        # a disc row by row, a ball disc by disc: how far a pixel may be along the axes that are left
        wide = _within(mask.flatten(0, 1), square - away**2).unflatten(0, mask.shape[:2])
        found[:, away:] |= wide[:, : length - away]
        found[:, : length - away] |= wide[:, away:]
    return found
