"""Maps that know nothing of the model."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from deepviz.methods.method import Method, View
from deepviz.probe.gradient import Call
from deepviz.target import Score


@dataclass(frozen=True)
class RandomMap(Method):
    """Uniform noise."""

    seed: Annotated[int, "Of the noise."] = 0
    title: ClassVar[str] = "Random map"

    def maps(self, call: Call, x: Tensor, score: Score) -> Tensor:
        """Noise."""
        call.scores(x, score)
        one = torch.rand((1, 1, *x.shape[2:]), generator=torch.Generator().manual_seed(self.seed)).to(x)
        return one.expand(len(x), -1, -1, -1)

    @property
    def view(self) -> View:
        """As it is."""
        return "positive"


@dataclass(frozen=True)
class CentreGaussian(Method):
    """A Gaussian."""

    width: Annotated[float, "Standard deviation, in shorter sides."] = 0.25
    title: ClassVar[str] = "Centred Gaussian"

    def maps(self, call: Call, x: Tensor, score: Score) -> Tensor:
        """exp."""
        call.scores(x, score)
        h, w = x.shape[2:]
        i = torch.arange(h).to(x) - (h - 1) / 2
        j = torch.arange(w).to(x) - (w - 1) / 2
        s = self.width * min(h, w)
        return torch.exp(-(i[:, None] ** 2 + j[None] ** 2) / (2 * s * s)).expand(len(x), 1, h, w)

    @property
    def view(self) -> View:
        """As it is."""
        return "positive"


@dataclass(frozen=True)
class EdgeDetector(Method):
    """Sobel."""

    title: ClassVar[str] = "Edge detector"

    def maps(self, call: Call, x: Tensor, score: Score) -> Tensor:
        """Sobel."""
        call.scores(x, score)
        k = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]]).to(x)
        g = F.pad(x.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
        return torch.hypot(F.conv2d(g, k[None, None]), F.conv2d(g, k.T[None, None]))

    @property
    def view(self) -> View:
        """As it is."""
        return "positive"
