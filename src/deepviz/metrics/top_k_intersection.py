"""Top-k intersection: Theiner et al. 2021."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from torch import Tensor

from deepviz.metrics.metric import Better
from deepviz.metrics.region import RegionMetric
from deepviz.options import Ge
from deepviz.probe.session import Session

SHARE = 1000 / 224**2


@dataclass(frozen=True, eq=False)
class TopKIntersection(RegionMetric):
    """How many of the map's k most relevant pixels lie on the object.

        TopKIntersection = |top_k(a) and inside| / k

    Higher is better, from 0 to 1. Only the order of the values counts. Pixels that share the k-th value count in
    parts, as many as there is room for, which is what drawing among them gives on average: a map that is the same
    everywhere has the value of chance, the region's share of the image (with a warning). Cost: none.

    Shapes: x (N, C, H, W), attribution (N, C, H, W) or (N, 1, h, w) -> (N,).

    The default k is 1000 pixels of an image of 224 x 224, 2 %, and the same share of any other.

    Errors: see `Metric.__call__`; ValueError for a region that is missing, empty, of a wrong shape or off the image,
    and for a k larger than the image.

    Pitfall: an object of fewer than k pixels cannot reach 1. It measures whether the map is where a person sees the
    object: a model that goes by the background is explained truly by a map that misses.

    Reference: Theiner, Müller-Budack and Ewerth, "Interpretable Semantic Photo Geolocation" (2021), arXiv:2104.14995.

    Example:
        >>> import torch
        >>> from deepviz.metrics import TopKIntersection
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 5))
        >>> R = torch.arange(64.0).view(1, 1, 8, 8)  # the most relevant pixels are the last ones
        >>> below = torch.tensor([0, 6, 8, 8])  # the last two rows of pixels
        >>> TopKIntersection(inside=below, k=32)(model, torch.rand(1, 3, 8, 8), R).tolist()
        [0.5]
    """

    k: Annotated[int | None, Ge(1), "Number of most relevant pixels to compare; None: 2 % of them."] = None
    title: ClassVar[str] = "Top-k intersection"
    paper: ClassVar[str] = "Theiner et al. 2021, arXiv:2104.14995"
    cost: ClassVar[str] = "none"
    better: ClassVar[Better] = "higher"
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def check(self, attribution: Any, x: Tensor) -> None:
        """As for other regions, and for a k larger than the image."""
        super().check(attribution, x)
        if self.k is not None and self.k > x.shape[2:].numel():
            size = " x ".join(map(str, x.shape[2:]))
            raise ValueError(f"k is {self.k} pixels, but the input has {size}: give a smaller k")

    def measure(self, session: Session, attribution: Tensor) -> Tensor:
        """|top_k(a) and inside| / k."""
        a = self.values(session, attribution).flatten(1)
        inside = self.region(session.image()).flatten(1)
        k = max(1, round(SHARE * a.shape[1])) if self.k is None else self.k
        kth = a.topk(k, dim=1).values[:, -1:]
        above, tied = a > kth, a == kth
        self.warn_of_chance(session, "is the same everywhere", tied.all(1))
        room = k - above.sum(1)
        return ((above & inside).sum(1) + room * (tied & inside).sum(1) / tied.sum(1).double()) / k
