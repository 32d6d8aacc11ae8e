"""SmoothGrad: Smilkov et al. 2017."""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from deepviz.methods.gradients.gradient import Gradient
from deepviz.methods.method import Method, View
from deepviz.methods.needs import Needs
from deepviz.options import Ge, Gt, Seed
from deepviz.probe.chunks import chunk_rows, spans
from deepviz.probe.gradient import Call
from deepviz.probe.seeds import generator_of
from deepviz.target import Score

Statistic = Literal["mean", "mean_square", "variance"]


@dataclass(frozen=True)
class SmoothGrad(Method):
    """The mean map of noisy copies of the image.

        R = 1/n sum_i M(x + e_i),    e_i ~ N(0, s^2),    s = noise (max x - min x)

    M is any method, by default the gradient; its signed maps are averaged. The class is the one of the clean image.
    `statistic="mean_square"` gives 1/n sum_i M^2 (SmoothGrad-squared), "variance" the unbiased variance of M
    (VarGrad). The range of x is each image's own. Noise is drawn per sample from `seed`, the same for every row, so
    that a row's result does not depend on the batch.

    Shapes: those of the method inside. Drawn as that method is (squares and variance: sum over channels, from zero).
    The notes hold "standard error": that of the mean, relative to the map, sqrt(sum var/n) / sqrt(sum mean^2). It is
    the share of sampling noise in what is drawn: near 1, the map is little else.

    Errors: those of the method inside; ValueError for less than 2 samples or no noise.

    Pitfall: more noise looks smoother because it explains a blurrier neighbourhood of the image, not because the
    map becomes truer. Above 20 % the network may no longer see the class.

    Reference: Smilkov, Thorat, Kim, Viegas and Wattenberg, "SmoothGrad" (2017), arXiv:1706.03825.

    Example:
        >>> import torch
        >>> from deepviz.methods import GuidedBackprop, SmoothGrad
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.ReLU(), torch.nn.Linear(3 * 8 * 8, 5))
        >>> SmoothGrad(of=GuidedBackprop(), samples=10)(model, torch.rand(2, 3, 8, 8), target=3).shape
        torch.Size([2, 3, 8, 8])
    """

    of: Annotated[Method, "Method whose maps are averaged."] = field(default_factory=Gradient)
    samples: Annotated[int, Ge(2), "Noisy copies; the cost is this many maps."] = 50
    noise: Annotated[float, Gt(0), "Standard deviation of the noise, as a fraction of the image's range."] = 0.15
    statistic: Annotated[Statistic, "What is taken over the samples."] = "mean"
    seed: Annotated[Seed, "Seed of the noise."] = 0

    title: ClassVar[str] = "SmoothGrad"
    paper: ClassVar[str] = "Smilkov et al. 2017, arXiv:1706.03825"
    cost: ClassVar[str] = "`samples` maps of the method inside"
    needs: ClassVar[Needs] = Needs()

    def passes(self) -> float:
        """`samples` times those of the method inside."""
        return self.samples * self.of.passes()

    def maps(self, call: Call, x: Tensor, score: Score) -> Tensor:
        """The statistic of M(x + e_i) over the samples, in one pass."""
        if not score.decided:
            call.scores(x, score)
        s = self.noise * (x.amax((1, 2, 3)) - x.amin((1, 2, 3)))  # each image's own range
        x = call.laid(x)
        moments = [_Moments() for _ in range(len(x))]
        for span in spans(self.samples, chunk_rows(call.model, x)):
            e = call.laid(x[:1].expand(span.stop - span.start, -1, -1, -1).clone())
            for i, noise in zip(range(span.start, span.stop), e, strict=True):
                noise.copy_(self._draw(i, x))
            for row in range(len(x)):
                noisy = torch.add(x[row], e, alpha=float(s[row]))
                M = self.of.maps(call.aside(), noisy, score.take(torch.full((len(e),), row)))
                moments[row].add(M)
        call.notes.rows["standard error"] = torch.stack([moment.relative_error() for moment in moments]).cpu()
        return torch.stack([moment.statistic(self.statistic) for moment in moments])

    def _draw(self, sample: int, x: Tensor) -> Tensor:
        """Standard normal noise (C, H, W) of one sample, on the CPU so that every device sees the same."""
        generator = generator_of(self.seed, sample)
        return torch.randn(x.shape[1:], generator=generator, dtype=torch.promote_types(x.dtype, torch.float32))

    @property
    def view(self) -> View:
        """That of the method inside; squares and variances are drawn from zero up."""
        return self.of.view if self.statistic == "mean" else "positive"

    @property
    def name(self) -> str:
        """With the method inside, unless it is the gradient."""
        return self.title if self.of == Gradient() else f"{self.title} of {self.of}"


class _Moments:
    """Mean and sum of squared deviations of maps that come one after the other (Welford 1962), in float32 at least."""

    def __init__(self) -> None:
        self.n = 0
        self.mean = self.squares = torch.zeros(())

    def add(self, maps: Tensor) -> None:
        precise = torch.promote_types(maps.dtype, torch.float32)
        if self.n == 0:
            self.mean, self.squares = (torch.zeros_like(maps[0], dtype=precise) for _ in range(2))
        for M in maps.to(precise):
            self.n += 1
            before = M - self.mean
            self.mean.add_(before, alpha=1 / self.n)
            self.squares.addcmul_(before, M - self.mean)

    def statistic(self, name: Statistic) -> Tensor:
        if name == "mean":
            return self.mean
        if name == "variance":
            return self.squares / (self.n - 1)
        return self.squares / self.n + self.mean.square()

    def relative_error(self) -> Tensor:
        """sqrt(sum of var/n over the map) / sqrt(sum of mean^2): one number, or one for each of K targets."""
        error = (self.squares / (self.n - 1) / self.n).sum((-3, -2, -1)).sqrt()
        return error / self.mean.square().sum((-3, -2, -1)).sqrt().clamp_min(torch.finfo(error.dtype).tiny)
