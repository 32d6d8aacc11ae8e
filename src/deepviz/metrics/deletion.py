"""Deletion: Petsiuk et al. 2018."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from deepviz.metrics.curves import ExchangeMetric
from deepviz.metrics.metric import Better
from deepviz.probe.session import Session


@dataclass(frozen=True)
class Deletion(ExchangeMetric):
    """How fast the probability falls when the most relevant pixels are removed first.

        x_t = the image whose round(t H W / T) most relevant pixels are the baseline's
        Deletion = int_0^1 p_c(x_t) dt, by trapezoids over T = `steps` intervals

    Lower is better: a map that ranks what the model uses first makes the probability fall at once. From 0 to 1
    (unbounded for the logit). Cost: `steps` - 1 forward passes a map; the two ends are shared by all maps of an image.

    Shapes: x (N, C, H, W), attribution (N, C, H, W) or (N, 1, h, w) -> (N,); `curve` gives (N, steps + 1).

    The default baseline, 0.0 in normalised space, usually is the mean colour, as in the authors' code.

    Errors: see `Metric.__call__`.

    Pitfall: an image with grey holes is out of distribution. A method that draws high-frequency dots destroys
    it with few pixels and gets a low value, whether or not the dots explain anything; compare with a random map, and
    with `Insertion` and `ROAD`. Values of different images, models and baselines do not compare.

    Reference: Petsiuk, Das and Saenko, "RISE: Randomized Input Sampling for Explanation of Black-box Models" (2018),
    arXiv:1806.07421.

    Example:
        >>> import torch
        >>> from deepviz.methods import GradTimesImage
        >>> from deepviz.metrics import Deletion
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 5))
        >>> x = torch.rand(2, 3, 8, 8)
        >>> R = GradTimesImage()(model, x, target=3)
        >>> bool((Deletion(steps=8)(model, x, R, 3) < Deletion(steps=8)(model, x, -R, 3)).all())
        True
    """

    title: ClassVar[str] = "Deletion"
    paper: ClassVar[str] = "Petsiuk et al. 2018, arXiv:1806.07421"
    cost: ClassVar[str] = "`steps` - 1 forwards, 2 shared by all maps of an image"
    better: ClassVar[Better] = "lower"
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def points(self, session: Session, attribution: Tensor) -> Tensor:
        """p_c(x_t) from the whole image to the baseline."""
        gone = session.reference(self.baseline)
        first = session.clean(self.value, self.precision)
        last = session.without(self.baseline, self.value, self.precision)
        between = self.exchanged(session, attribution, session.image(), gone)
        return torch.cat([first[:, None], between.to(first), last[:, None]], 1)
