"""Infidelity: Yeh et al. 2019."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from deepviz.methods.method import Method
from deepviz.metrics.metric import Better, Metric, per_value
from deepviz.options import Baseline, Ge, Gt, Le, Seed
from deepviz.probe.reference import reference
from deepviz.probe.seeds import generator_of
from deepviz.probe.session import Session


@dataclass(frozen=True)
class Infidelity(Metric):
    """How well the map predicts the effect of a perturbation I of the image on the score.

        INFD = E_I [ (I . b R - (S_c(x) - S_c(x - I)))^2 ],    over `samples` draws of I

    Lower is better, from 0 up, in squared units of the score. `perturbation="noise"`: I ~ N(0, s^2) in every value,
    s = `amount` (max x - min x), the paper's noisy baseline. "square": I = x - x' inside a square of side
    `amount` min(H, W) at a random place and 0 elsewhere, the paper's square removal.

    b = 1, or with `scaled`, as in the paper's experiments, the factor that makes the mean least, for each row:
    b = E[(I . R)(S(x) - S(x - I))] / E[(I . R)^2]; then maps in other units than the score's compare too.

    For a linear model the plain gradient has infidelity 0 under any I; so has gradient x image with `multiplied`,
    which divides I by x elementwise, since that map holds the factor x already (values at x = 0 are left out).

    Shapes: x (N, C, H, W), attribution (N, C, H, W) or (N, 1, h, w) -> (N,). A map with one value per pixel is shared
    out evenly among the channels. Cost: `samples` forward passes, 1 more shared by all maps of an image.

    Errors: see `Metric.__call__`.

    Pitfall: the change must be one that matters: noise that the model shrugs off gives a low value to any small map,
    and with `scaled` to one that is zero. Numbers of different models, images and amounts do not compare.

    Reference: Yeh, Hsieh, Suggala, Inouye and Ravikumar, "On the (In)fidelity and Sensitivity of Explanations"
    (2019), arXiv:1901.09392.

    Example:
        >>> import torch
        >>> from deepviz.methods import Gradient
        >>> from deepviz.metrics import Infidelity
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 5))
        >>> x = torch.rand(2, 3, 8, 8)
        >>> bool((Infidelity(samples=10)(model, x, Gradient()(model, x, 3), 3) < 1e-8).all())
        True
    """

    samples: Annotated[int, Ge(2), "Draws of the change; the cost is this many forward passes."] = 50
    perturbation: Annotated[Literal["noise", "square"], "What the image is changed by."] = "square"
    amount: Annotated[
        float, Gt(0), Le(1), "Of the noise relative to the image's range, or the square's side to the image's."
    ] = 0.3
    baseline: Annotated[
        Baseline, "Value that replaces a square: a number in normalised space, blur, or black, grey, white, mean."
    ] = 0.0
    scaled: Annotated[bool, "Rescale each map by least squares, so that maps in different units are comparable."] = True
    multiplied: Annotated[bool, "The map holds the factor x already, as gradient x image does."] = False
    seed: Annotated[Seed, "Seed of the perturbations."] = 0

    title: ClassVar[str] = "Infidelity"
    paper: ClassVar[str] = "Yeh et al. 2019, arXiv:1901.09392"
    cost: ClassVar[str] = "`samples` forwards, 1 shared by all maps of an image"
    better: ClassVar[Better] = "lower"
    range: ClassVar[tuple[float, float]] = (0.0, float("inf"))
    spatial: ClassVar[tuple[int, ...]] = (2, 3)

    def passes(self, method: Method) -> float:
        """`samples` forwards."""
        return float(self.samples)

    def measure(self, session: Session, attribution: Tensor) -> Tensor:
        """E[(I . b R - (S(x) - S(x - I)))^2]."""
        x = session.image()
        n = len(x)
        R = per_value(attribution, x)
        rows = torch.arange(n).repeat_interleave(self.samples)
        start = reference(x, self.baseline) if self.perturbation == "square" else x
        foretold = torch.zeros(len(rows), dtype=torch.float64)

        def make(chunk: slice) -> Tensor:
            of = rows[chunk]
            changes = [self._change(x[row], start[row], k % self.samples) for row, k in _each(of, chunk)]
            I = torch.stack(changes)  # noqa: E741
            counted = torch.where(x[of] == 0, 0, I / x[of]) if self.multiplied else I
            foretold[chunk] = (counted.double() * R[of].double()).flatten(1).sum(1).cpu()
            return x[of] - I

        changed = session.ask(rows, make, "score").cpu().double().view(n, -1)
        fall = session.clean("score").cpu().double()[:, None] - changed  # S(x) - S(x - I)
        foretold = foretold.view(n, -1)  # I . R
        b = torch.ones(n, 1, dtype=torch.float64)
        if self.scaled:
            power = foretold.square().mean(1, keepdim=True)
            b = (foretold * fall).mean(1, keepdim=True) / power.clamp_min(torch.finfo(torch.float64).tiny)
        return (b * foretold - fall).square().mean(1)

    def _change(self, x: Tensor, start: Tensor, k: int) -> Tensor:
        """I, the k-th, for one image; the same draw for every image. Of a volume the square is a cube."""
        generator = generator_of(self.seed, k)
        if self.perturbation == "noise":
            s = self.amount * (x.amax() - x.amin())
            return s * torch.randn(x.shape, generator=generator).to(x)
        side = max(1, round(self.amount * min(x.shape[1:])))
        starts = [int(torch.randint(length - side + 1, (), generator=generator)) for length in x.shape[1:]]
        change = torch.zeros_like(x)
        inside = (slice(None), *(slice(first, first + side) for first in starts))
        change[inside] = (x - start)[inside]
        return change


def _each(rows: Tensor, chunk: slice) -> list[tuple[int, int]]:
    """The row and the running number of each changed image of a chunk."""
    return list(zip(rows.tolist(), range(chunk.start, chunk.stop), strict=True))
