"""Curves of the model's answer while pixels are taken away or put in, the most relevant first."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from deepviz.methods.method import Method
from deepviz.metrics.metric import ChannelsOption, Metric, per_pixel
from deepviz.options import Baseline, Ge, Seed
from deepviz.probe.outputs import Kind
from deepviz.probe.session import Precision, Session, Value


@dataclass(frozen=True)
class CurveMetric(Metric):
    """A metric that sums up a curve over the fraction of the pixels that were changed."""

    def curve(
        self,
        model: nn.Module,
        x: Any,
        attribution: Tensor | Method,
        target: Any = None,
        *,
        extra: Any = None,
        output: Kind = "auto",
    ) -> Tensor:
        """The curve itself: (N, points), the model's values at `fractions`. Arguments as for a call."""
        return self.judge(self.points, model, x, attribution, target, extra, output)

    def measure(self, session: Session, attribution: Tensor) -> Tensor:
        """What the curve sums up to."""
        return self.of_curve(self.points(session, attribution))

    @property
    @abstractmethod
    def fractions(self) -> tuple[float, ...]:
        """Of the pixels, how many are changed at each point, rising from 0."""

    @abstractmethod
    def points(self, session: Session, attribution: Tensor) -> Tensor:
        """The curve of each row: (N, points)."""

    @abstractmethod
    def of_curve(self, points: Tensor) -> Tensor:
        """The value of curves (N, points): (N,)."""


@dataclass(frozen=True)
class ExchangeMetric(CurveMetric):
    """The area under a curve along which the image's pixels and a baseline's are exchanged, from 0 to 1."""

    spatial: ClassVar[tuple[int, ...]] = (2, 3)

    steps: Annotated[int, Ge(1), "Points on the curve after the first; the cost is about this many forward passes."] = (
        50
    )
    baseline: Annotated[
        Baseline,
        "Value that replaces a removed pixel: a number in normalised space, blur, or black, grey, white, mean.",
    ] = 0.0
    value: Annotated[Value, "The quantity measured: the class's probability, or its score, the logit."] = "probability"
    channels: ChannelsOption = None
    precision: Annotated[
        Precision, "Precision of the forward passes: full, or bfloat16, which is faster on some processors."
    ] = "full"
    seed: Annotated[Seed, "For the order of pixels with equal values."] = 0

    @property
    def fractions(self) -> tuple[float, ...]:
        """0, 1/steps, ..., 1."""
        return tuple(step / self.steps for step in range(self.steps + 1))

    def passes(self, method: Method) -> float:
        """`steps` - 1 forwards."""
        return self.steps - 1.0

    def of_curve(self, points: Tensor) -> Tensor:
        """The area under each curve, by trapezoids."""
        return torch.trapezoid(points, dx=1 / self.steps, dim=1)

    def exchange(self, session: Session, attribution: Tensor) -> Tensor:
        """The point of the curve at which each pixel is exchanged, from 1 to `steps`: (N, *space)."""
        places = falling(session, per_pixel(attribution, session.image(), self.channels), self.seed)
        pixels = places[0].numel()
        taken = torch.tensor([round(step * pixels / self.steps) for step in range(1, self.steps)], dtype=torch.int32)
        return torch.bucketize(places, taken.to(places.device), out_int32=True, right=True) + 1

    def exchanged(self, session: Session, attribution: Tensor, start: Tensor, end: Tensor) -> Tensor:
        """The model's values while the pixels of `start` become those of `end`, without both ends: (N, steps - 1)."""
        x = session.image()
        when = self.exchange(session, attribution)
        n, between = len(x), torch.arange(1, self.steps, dtype=torch.int32)
        rows = torch.arange(n).repeat_interleave(len(between))
        steps = between.repeat(n).to(x.device)
        start, end = session.call.to_layout(start), session.call.to_layout(end)

        def make(chunk: slice) -> Tensor:
            of = rows[chunk]
            if of[0] == of[-1]:  # of one image, which then need not be copied as often
                of = of[:1]
            gone = when[of] <= steps[chunk].view(-1, *[1] * (when.ndim - 1))
            return torch.where(gone.unsqueeze(1), end[of], start[of])

        if not len(rows):
            return x.new_empty((n, 0), dtype=torch.float32)
        return session.ask(rows, make, self.value, self.precision).view(n, -1)


def falling(session: Session, values: Tensor, seed: int) -> Tensor:
    """`ranks` of a map (N, *space), with a warning where it is the same everywhere: the order is that of chance."""
    flat = values.flatten(1)
    same = flat.amin(1) == flat.amax(1)
    if bool(same.any()):
        session.notes.warn("a map is the same everywhere: its pixels are taken in random order", same)
    return ranks(values, seed)


def ranks(values: Tensor, seed: int) -> Tensor:
    """The place of each pixel when the values (N, *space) are put in falling order, from 0; ties lie at random.

    The same seed breaks ties in the same way in every row, so a row does not depend on the others.
    """
    n, pixels = len(values), values[0].numel()
    shuffled = torch.randperm(pixels, generator=torch.Generator().manual_seed(seed)).to(values.device)
    order = values.flatten(1)[:, shuffled].argsort(dim=1, descending=True, stable=True)
    places = torch.empty_like(order, dtype=torch.int32)  # read once for every point of a curve
    counted = torch.arange(pixels, dtype=torch.int32, device=values.device).expand(n, -1)
    places.scatter_(1, shuffled[order], counted)
    return places.view(values.shape)
