"""ROAD, remove and debias: Rong et al. 2022."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from deepviz.methods.method import Method
from deepviz.metrics.curves import CurveMetric, falling
from deepviz.metrics.metric import Better, ChannelsOption, per_pixel
from deepviz.options import Ge, Seed
from deepviz.probe.imputation import imputed
from deepviz.probe.session import Precision, Session, Value


@dataclass(frozen=True)
class ROAD(CurveMetric):
    """The probability when the most, or least, relevant pixels are imputed from their surroundings.

        x_t = the image whose round(t H W) most (least) relevant pixels are weighted means of their neighbours, plus
              noise N(0, `noise`^2)
        ROAD = mean of p_c(x_t) over t = 1/(T + 1), ..., T/(T + 1),  T = `steps`

    With `order="most"`, the default, lower is better; with "least", higher is better. From 0 to 1 (unbounded for the
    logit). A hole that is filled from what is around it does not show the model the hole's shape, which a grey one
    does: this is what the paper debiases. Means are found by solving its sparse linear system (`imputation`).

    Shapes: x (N, C, H, W), attribution (N, C, H, W) or (N, 1, h, w) -> (N,); `curve` gives (N, steps + 1), the first
    of them p_c(x). Cost: `steps` forward passes and imputations a map.

    The paper reports the accuracy over a dataset; this is the probability of the explained class, image by image,
    which has the same ends and needs no labels. Its noise of 0.01 is in the model's normalised space.

    Errors: see `Metric.__call__`.

    Pitfall: smooth surroundings carry a lot. Where the object is large, imputing scattered pixels restores nearly all
    of it, and fine maps get values near the whole image's whatever they mark. Compare with a random map at the same
    order, and look at both orders.

    Reference: Rong, Leemann, Borisov, Kasneci and Kasneci, "A Consistent and Efficient Evaluation Strategy for
    Attribution Methods" (2022), arXiv:2202.00449.

    Example:
        >>> import torch
        >>> from deepviz.methods import GradTimesImage
        >>> from deepviz.metrics import ROAD
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 5))
        >>> x = torch.rand(2, 3, 8, 8)
        >>> R = GradTimesImage()(model, x, target=3)
        >>> ROAD(steps=4).curve(model, x, R, 3).shape
        torch.Size([2, 5])
    """

    order: Annotated[Literal["most", "least"], "Which pixels go first."] = "most"
    steps: Annotated[int, Ge(1), "Fractions of removed pixels, evenly between 0 and 1; as many forward passes."] = 9
    noise: Annotated[float, Ge(0), "Standard deviation of what is added to imputed pixels, in normalised space."] = 0.01
    value: Annotated[Value, "The quantity measured: the class's probability, or its score, the logit."] = "probability"
    channels: ChannelsOption = None
    precision: Annotated[
        Precision, "Precision of the forward passes: full, or bfloat16, which is faster on some processors."
    ] = "full"
    seed: Annotated[Seed, "Of the noise, and for the order of pixels with equal values."] = 0

    title: ClassVar[str] = "ROAD"
    paper: ClassVar[str] = "Rong et al. 2022, arXiv:2202.00449"
    cost: ClassVar[str] = "`steps` forwards and imputations, 1 forward shared by all maps of an image"
    better: ClassVar[Better] = "lower"
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.order == "least":
            object.__setattr__(self, "better", "higher")  # of this value, not of the class

    @property
    def fractions(self) -> tuple[float, ...]:
        """0, 1/(steps + 1), ..., steps/(steps + 1)."""
        return tuple(step / (self.steps + 1) for step in range(self.steps + 1))

    def passes(self, method: Method) -> float:
        """`steps` forwards."""
        return float(self.steps)

    def of_curve(self, points: Tensor) -> Tensor:
        """The mean over the imputed images."""
        return points[:, 1:].mean(1)

    def points(self, session: Session, attribution: Tensor) -> Tensor:
        """p_c(x_t), from the whole image on."""
        x = session.image()
        values = per_pixel(attribution, x, self.channels)
        order = falling(session, values if self.order == "most" else -values, self.seed)
        n, pixels = len(x), x.shape[2] * x.shape[3]
        # one pixel at least is left, whatever the size
        taken = torch.tensor([min(pixels - 1, round(t * pixels)) for t in self.fractions[1:]]).repeat(n).to(x.device)
        rows = torch.arange(n).repeat_interleave(self.steps)
        noise = torch.randn(x.shape[1:], generator=torch.Generator().manual_seed(self.seed)).to(x)

        def make(chunk: slice) -> Tensor:
            of = rows[chunk]
            removed = order[of] < taken[chunk, None, None]
            filled = imputed(x[of], removed)
            return torch.where(removed.unsqueeze(1), filled + self.noise * noise, filled)

        first = session.clean(self.value, self.precision)
        found = session.ask(rows, make, self.value, self.precision).view(n, -1)
        return torch.cat([first[:, None], found.to(first)], 1)
