"""Insertion: Petsiuk et al. 2018."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from deepviz.metrics.curves import ExchangeMetric
from deepviz.metrics.metric import Better
from deepviz.options import Baseline
from deepviz.probe.session import Session


@dataclass(frozen=True)
class Insertion(ExchangeMetric):
    """How fast the probability rises when the most relevant pixels are inserted first into a blurred image.

        x_t = the baseline whose round(t H W / T) most relevant pixels are the image's
        Insertion = int_0^1 p_c(x_t) dt, by trapezoids over T = `steps` intervals

    Higher is better. From 0 to 1 (unbounded for the logit). Cost: `steps` - 1 forward passes a map; the two ends are
    shared by all maps of an image.

    Shapes: x (N, C, H, W), attribution (N, C, H, W) or (N, 1, h, w) -> (N,); `curve` gives (N, steps + 1).

    The default baseline is a blur, as in the paper, where it has a standard deviation of 5 pixels at 224; here it is
    a tenth of the shorter side, which leaves less of the object to be recognised.

    Errors: see `Metric.__call__`.

    Pitfall: smooth, coarse maps insert whole objects and do well, scattered dots do badly even where they mark the
    right pixels. Read it together with `Deletion`, and against a random map and a centred Gaussian: photographers put
    objects in the middle.

    Reference: Petsiuk, Das and Saenko, "RISE: Randomized Input Sampling for Explanation of Black-box Models" (2018),
    arXiv:1806.07421.

    Example:
        >>> import torch
        >>> from deepviz.methods import GradTimesImage
        >>> from deepviz.metrics import Insertion
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 5))
        >>> x = torch.rand(2, 3, 8, 8)
        >>> R = GradTimesImage()(model, x, target=3)
        >>> metric = Insertion(steps=8, baseline=0.0)
        >>> bool((metric(model, x, R, 3) > metric(model, x, -R, 3)).all())
        True
    """

    baseline: Annotated[
        Baseline,
        "Image that pixels are inserted into: a number in normalised space, blur, or black, grey, white, mean.",
    ] = "blur"

    title: ClassVar[str] = "Insertion"
    paper: ClassVar[str] = "Petsiuk et al. 2018, arXiv:1806.07421"
    cost: ClassVar[str] = "`steps` - 1 forwards, 2 shared by all maps of an image"
    better: ClassVar[Better] = "higher"
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def points(self, session: Session, attribution: Tensor) -> Tensor:
        """p_c(x_t) from the baseline to the whole image."""
        start = session.reference(self.baseline)
        first = session.without(self.baseline, self.value, self.precision)
        last = session.clean(self.value, self.precision)
        between = self.exchanged(session, attribution, start, session.image())
        return torch.cat([first[:, None], between.to(first), last[:, None]], 1)
