"""SmoothGrad: Smilkov et al. 2017."""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from deepviz.diagnostics import ERROR
from deepviz.inputs import Leaves, is_image_like
from deepviz.methods.gradients.gradient import Gradient
from deepviz.methods.gradients.moments import Moments, Statistic
from deepviz.methods.method import Method, View
from deepviz.methods.needs import Needs
from deepviz.options import Ge, Gt, Seed
from deepviz.probe.chunks import spans
from deepviz.probe.progress import to_the_end
from deepviz.probe.seeds import fill_normal
from deepviz.probe.session import Session

UNLIKE = 10
"""Ranges of channels that differ by more than this factor are in units of their own."""


@dataclass(frozen=True)
class SmoothGrad(Method):
    """The mean map of noisy copies of the image.

        R = 1/n sum_i M(x + e_i),    e_i ~ N(0, s^2),    s = noise (max x - min x)

    M is any method, by default the gradient; its signed maps are averaged. The class is the one of the clean image.
    `statistic="mean_square"` gives 1/n sum_i M^2 (SmoothGrad-squared), "variance" the unbiased variance of M
    (VarGrad). The range of x is each image's own; that of each channel where they differ by more than a factor of ten
    (planes of metadata beside colours). A table beside an image gets no noise. Noise is drawn per sample from `seed`,
    the same for every row, so that a row's result does not depend on the batch.

    Shapes: those of the method inside. Drawn as that method is (squares and variance: sum over channels, from zero).
    The notes hold "standard error": that of the mean, relative to the map, sqrt(sum var/n) / sqrt(sum mean^2), together
    with that of the method inside, if it has one. It is the share of sampling noise in what is drawn: near 1, the map
    is little else.

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

    def maps(self, session: Session) -> Leaves | Tensor:
        """The statistic of M(x + e_i) over the samples, in one pass."""
        session.decide()
        session = session.to_layout()
        noisy = [is_image_like(x) for x in session.x]
        if not any(noisy):
            noisy = [True] * len(noisy)
        s = [self._size(x, session) if add else torch.zeros(()) for x, add in zip(session.x, noisy, strict=True)]
        moments = [Moments() for _ in range(session.n)]
        own_errors = [Moments() for _ in range(session.n)]
        for span in spans(self.samples, session.chunk()):
            samples = range(span.start, span.stop)
            e = session.x.map(lambda x: self._draw(samples, x, session))  # noqa: B023
            for row in range(session.n):
                same = torch.full((len(samples),), row)
                copies = session.x.map(_noisy, tuple(s), e, (same,) * len(e))
                inner = session.aside().at(copies, same)
                with to_the_end():
                    M = self.of.maps(inner)
                moments[row].add((M,) if isinstance(M, Tensor) else M)
                if ERROR in inner.notes.maps:
                    own_errors[row].add((inner.notes.maps[ERROR],))
        level = self.of.view == "range"
        errors = [
            # what the method inside draws is the same for every sample, so that its error does not average out
            moment.relative_error(session.several, own.mean, level)
            for moment, own in zip(moments, own_errors, strict=True)
        ]
        session.notes.rows["standard error"] = torch.stack(errors).cpu()
        found = zip(*(moment.statistic(self.statistic) for moment in moments), strict=True)
        leaves = Leaves(torch.stack(rows) for rows in found)
        return leaves if len(leaves) == len(session.x) else leaves[0]

    def _size(self, x: Tensor, session: Session) -> Tensor:
        """s for each row, (N, 1, ...), or for each channel, (N, C, 1, ...)."""
        whole = x.flatten(1).aminmax(dim=1)
        span = (whole.max - whole.min).view(-1, *[1] * (x.ndim - 1))
        if is_image_like(x):
            channels = x.flatten(2).aminmax(dim=2)
            each = channels.max - channels.min
            if bool((each.amax(1) > UNLIKE * each.amin(1)).any()):
                session.notes.facts["noise"] = "relative to each channel's own range, since these are unlike"
                span = each.view(*each.shape, *[1] * (x.ndim - 2))
        return self.noise * span

    def _draw(self, samples: range, x: Tensor, session: Session) -> Tensor:
        """Standard normal noise (n, ...) of some samples."""
        e = session.call.to_layout(x[:1].expand(len(samples), *x.shape[1:]).clone())
        fill_normal(e, self.seed, samples)
        return e

    @property
    def view(self) -> View:
        """That of the method inside; squares and variances are drawn from zero up."""
        return self.of.view if self.statistic == "mean" else "positive"

    @property
    def name(self) -> str:
        """With the method inside, unless it is the gradient."""
        return self.title if self.of == Gradient() else f"{self.title} of {self.of}"


def _noisy(x: Tensor, s: Tensor, e: Tensor, rows: Tensor) -> Tensor:
    """x + s e for copies of one row; or the row itself where s is a plain zero."""
    one = rows[:1]
    return x[one] + s[one] * e if s.ndim else x[one].expand_as(e)
