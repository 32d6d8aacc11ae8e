"""Faithfulness correlation: Bhatt et al. 2020."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from deepviz.methods.method import Method
from deepviz.metrics.metric import Better, ChannelsOption, Metric, per_pixel
from deepviz.options import Baseline, Ge, Gt, Lt, Seed
from deepviz.probe.seeds import generator_of
from deepviz.probe.session import Precision, Session


@dataclass(frozen=True)
class FaithfulnessCorrelation(Metric):
    """Whether pixels with larger values are those whose removal lowers the score more.

        corr_S ( sum_{i in S} R_i,  S_c(x) - S_c(x_S) ),    x_S: x with the pixels S of the baseline

    Pearson's correlation over `subsets` random sets S of `share` H W pixels. Higher is better, from -1 to 1; for
    a random map about 0, within 2 / sqrt(`subsets`). Cost: `subsets` forward passes, 1 more shared by all maps of an
    image.

    Shapes: x (N, C, H, W), attribution (N, C, H, W) or (N, 1, h, w) -> (N,).

    Quantus 0.6 reads the softmax unless told otherwise; here it is the score, the logit, as attribution methods
    explain it. A map that is the same everywhere predicts nothing and scores 0, with a warning.

    Errors: see `Metric.__call__`.

    Pitfall: large random sets all look alike, so both numbers hardly vary and the correlation is mostly noise; small
    ones change the score too little. An image with scattered holes is out of distribution. Take many subsets, and
    compare with a random map.

    Reference: Bhatt, Weller and Moura, "Evaluating and Aggregating Feature-based Model Explanations" (2020),
    arXiv:2005.00631.

    Example:
        >>> import torch
        >>> from deepviz.methods import GradTimesImage
        >>> from deepviz.metrics import FaithfulnessCorrelation
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 5))
        >>> x = torch.rand(2, 3, 8, 8)
        >>> R = GradTimesImage()(model, x, target=3)
        >>> bool((FaithfulnessCorrelation(subsets=10)(model, x, R, 3) > 0.999).all())
        True
    """

    subsets: Annotated[int, Ge(3), "Random sets of pixels; the cost is this many forward passes."] = 100
    share: Annotated[float, Gt(0), Lt(1), "Of the pixels, how many are in a set."] = 0.1
    baseline: Annotated[
        Baseline,
        "Value that replaces a removed pixel: a number in normalised space, blur, or black, grey, white, mean.",
    ] = 0.0
    channels: ChannelsOption = None
    precision: Annotated[
        Precision, "Precision of the forward passes: full, or bfloat16, which is faster on some processors."
    ] = "full"
    seed: Annotated[Seed, "Seed of the random sets."] = 0

    title: ClassVar[str] = "Faithfulness correlation"
    paper: ClassVar[str] = "Bhatt et al. 2020, arXiv:2005.00631"
    cost: ClassVar[str] = "`subsets` forwards, 1 shared by all maps of an image"
    better: ClassVar[Better] = "higher"
    range: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    spatial: ClassVar[tuple[int, ...]] = (2, 3)

    def passes(self, method: Method) -> float:
        """`subsets` forwards."""
        return float(self.subsets)

    def measure(self, session: Session, attribution: Tensor) -> Tensor:
        """corr(sum of R over S, S(x) - S(x_S))."""
        x = session.image()
        n, space = len(x), x.shape[2:]
        R = per_pixel(attribution, x, self.channels).double()
        start = session.reference(self.baseline)
        rows = torch.arange(n).repeat_interleave(self.subsets)
        sums = torch.zeros(len(rows), dtype=torch.float64)

        def make(chunk: slice) -> Tensor:
            of = rows[chunk]
            masks = [self._set(k % self.subsets, space) for k in range(chunk.start, chunk.stop)]
            S = torch.stack(masks).to(x.device)
            sums[chunk] = (R[of] * S).flatten(1).sum(1).cpu()
            return torch.where(S.unsqueeze(1), start[of], x[of])

        without = session.ask(rows, make, "score", self.precision).cpu().double().view(n, -1)
        fall = session.clean("score", self.precision).cpu().double()[:, None] - without
        return self._correlation(session, sums.view(n, -1), fall)

    def _set(self, k: int, space: torch.Size) -> Tensor:
        """The k-th set of pixels, bool (*space); the same for every image."""
        generator, pixels = generator_of(self.seed, k), space.numel()
        size = min(pixels - 1, max(1, round(self.share * pixels)))
        mask = torch.zeros(pixels, dtype=torch.bool)
        mask[torch.randperm(pixels, generator=generator)[:size]] = True
        return mask.view(space)

    def _correlation(self, session: Session, sums: Tensor, fall: Tensor) -> Tensor:
        a, b = sums - sums.mean(1, keepdim=True), fall - fall.mean(1, keepdim=True)
        eps = torch.finfo(torch.float32).eps
        flat = (a.norm(dim=1) <= eps * sums.norm(dim=1)) | (b.norm(dim=1) <= eps * fall.norm(dim=1))
        if bool(flat.any()):
            session.notes.warn("all sets of pixels have the same sum or effect: the correlation counts as 0", flat)
        product = (a.norm(dim=1) * b.norm(dim=1)).clamp_min(torch.finfo(torch.float64).tiny)
        return torch.where(flat, 0, (a * b).sum(1) / product)
