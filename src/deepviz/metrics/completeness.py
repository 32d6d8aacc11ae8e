"""Completeness: Sundararajan et al. 2017."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from deepviz.inputs import Leaves
from deepviz.metrics.metric import Better, Metric, per_pixel
from deepviz.options import Baseline, Baselines
from deepviz.probe.reference import references
from deepviz.probe.session import Session

STILL = 1e-6
"""A change in score below this share of the score is none."""


@dataclass(frozen=True)
class Completeness(Metric):
    """How far the sum of a map is from the change in score between a baseline and the image.

        Completeness = |sum_i R_i - (S_c(x) - S_c(x'))| / |S_c(x) - S_c(x')|

    With several baselines S_c(x') is the mean of their scores. Lower is better, from 0 up. Cost: 2 forward passes, of
    which that of the image is shared by all of its maps.

    Shapes: x (N, C, H, W), attribution (N, C, H, W) -> (N,); a layer's map is summed over the pixels after it was
    enlarged, which has no meaning in units of the score.

    Errors: see `Metric.__call__`.

    Pitfall: it only asks methods that promise it: integrated gradients with the same baseline, and gradient x image
    on linear networks. A gradient or a Grad-CAM is in other units and misses by any amount. A small gap is not proof
    of a right map: errors of single pixels may cancel, and any map can be rescaled until its sum fits.

    Reference: Sundararajan, Taly and Yan, "Axiomatic Attribution for Deep Networks" (2017), arXiv:1703.01365.

    Example:
        >>> import torch
        >>> from deepviz.methods import GradTimesImage
        >>> from deepviz.metrics import Completeness
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 5))
        >>> x = torch.rand(2, 3, 8, 8)
        >>> R = GradTimesImage()(model, x, target=3)
        >>> bool((Completeness()(model, x, R, 3) < 1e-4).all())
        True
    """

    baseline: Annotated[
        Baseline | None,
        "Where the change starts: a number in normalised space, blur, or black, grey, white, mean; None: the method's "
        "own where the method is known, else 0.0.",
    ] = None
    baselines: Annotated[Baselines | None, "Several baselines in place of one, as the method has them."] = None

    title: ClassVar[str] = "Completeness gap"
    paper: ClassVar[str] = "Sundararajan et al. 2017, arXiv:1703.01365"
    cost: ClassVar[str] = "1 forward, and 1 for each baseline"
    better: ClassVar[Better] = "lower"
    range: ClassVar[tuple[float, float]] = (0.0, float("inf"))
    spatial: ClassVar[tuple[int, ...]] = (2, 3)

    def measure(self, session: Session, attribution: Tensor) -> Tensor:
        """|sum R - (S(x) - S(x'))| / |S(x) - S(x')|."""
        score = session.clean("score")
        change = score - self._start(session)
        still = change.abs() <= STILL * score.abs().clamp_min(torch.finfo(score.dtype).tiny)
        if bool(still.any()):
            session.notes.warn("the score is that of the baseline: a gap relative to that means nothing", still)
        total = per_pixel(attribution, session.image()).flatten(1).sum(1).to(change)
        return (total - change).abs() / change.abs().clamp_min(torch.finfo(change.dtype).eps)

    def _start(self, session: Session) -> Tensor:
        """S(x'), or the mean over several."""
        if self.baselines is None:
            return session.without(0.0 if self.baseline is None else self.baseline, "score")
        starts = torch.cat([leaf for (leaf,) in references(Leaves((session.image(),)), self.baselines)])
        rows = torch.arange(session.n).repeat(len(starts) // session.n)
        scores: Tensor = session.ask(rows, lambda chunk: starts[chunk].clone()).unflatten(0, (-1, session.n))
        return scores.mean(0)
