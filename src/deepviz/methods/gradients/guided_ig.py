"""Guided integrated gradients: Kapishnikov et al. 2021."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from deepviz.inputs import Leaves
from deepviz.methods.gradients.paths import changes, completeness_gap, flat, note_gap
from deepviz.methods.method import Method, View
from deepviz.methods.needs import Needs
from deepviz.options import Baseline, Ge, Gt, Le
from deepviz.probe.reference import references
from deepviz.probe.session import Session

ROUNDING = 1e-9
"""A distance to go below this share of the whole is none."""


@dataclass(frozen=True)
class GuidedIG(Method):
    """Integrated gradients along a path that moves the values with the smallest gradients first.

        R_i = sum_k dS_c(x^k) / dx_i (x_i^(k+1) - x_i^k),    x^0 = x' the baseline,  x^steps = x

    A step moves the `fraction` of the values with the smallest |dS/dx_i| towards x, then the next, until the distance
    |x - x^k|_1 is what it would be on the straight path; no value is farther from that than `max_distance` of its own
    way. So the path avoids regions where the gradient is large for no lasting effect, which is where noise in
    integrated gradients comes from. With `max_distance=0` it is the straight path, integrated gradients by the left
    rule.

    The baseline is one of `IntegratedGradients`, but for noise. The notes hold the "completeness gap".

    Shapes: x (N, C, H, W) -> (N, C, H, W), in units of the score. Drawn as the signed sum over channels.

    Errors: as `IntegratedGradients`. A warning where the gap is above 5 %. See also `Method.__call__`.

    Pitfall: each objective has a path of its own, and so do equal images whose gradients differ by rounding: where many
    gradients are alike, small causes change the order of the values. Steps follow each other, so one image runs no
    chunks of points.

    Reference: Kapishnikov, Venugopalan, Avci, Wedin, Terry and Bolukbasi, "Guided Integrated Gradients" (2021),
    arXiv:2106.09788.

    Example:
        >>> import torch
        >>> from deepviz.methods import GuidedIG
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 5))
        >>> x = torch.rand(2, 3, 8, 8)
        >>> R = GuidedIG(steps=5)(model, x, target=3)
        >>> torch.allclose(R.sum((1, 2, 3)), (model(x) - model(0 * x))[:, 3], atol=1e-5)
        True
    """

    steps: Annotated[int, Ge(1), "Steps of the path; the cost is this many gradients."] = 200
    fraction: Annotated[
        float, Gt(0), Le(1), "Share of the values, those with the smallest gradients, moved together."
    ] = 0.25
    max_distance: Annotated[
        float, Ge(0), Le(1), "Farthest that a value may be from its place on the straight path, as a share of its way."
    ] = 0.02
    baseline: Annotated[
        Baseline, "Start of the path: a number in normalised space, blur, or by colour black, grey, white, mean."
    ] = 0.0

    title: ClassVar[str] = "Guided IG"
    paper: ClassVar[str] = "Kapishnikov et al. 2021, arXiv:2106.09788"
    cost: ClassVar[str] = "`steps` times (1 forward, 1 backward), 2 forwards; for each objective"
    needs: ClassVar[Needs] = Needs(gradient=True)
    in_default_set: ClassVar[bool] = False

    def passes(self) -> float:
        """`steps` gradients and 2 forwards."""
        return 2.0 * self.steps + 2

    def maps(self, session: Session) -> Leaves:
        """The sum over the steps of dS/dx (x^(k+1) - x^k)."""
        (start,) = self.starts(session.x)
        (change,) = changes(session, [start])
        session = session.to_layout()
        found = torch.stack([self._path(one, start) for one in session.each()])  # (K, N, values)
        found = found.transpose(0, 1) if session.several else found[0]
        parts = found.split([leaf[0].numel() for leaf in session.x], dim=-1)
        R = session.x.map(lambda leaf, part: part.unflatten(-1, leaf.shape[1:]), tuple(parts))
        note_gap(session, completeness_gap(session, R, change), "guided IG", "raise steps")
        return R

    def _path(self, session: Session, start: Leaves) -> Tensor:
        """R of one objective, (N, values), float64: sums of small differences decide which values move."""
        x, x0 = flat(session.x).double(), flat(start).double()
        R, point = torch.zeros_like(x), x0.clone()
        rows = torch.arange(session.n)
        for step in range(self.steps):
            parts = point.split([leaf[0].numel() for leaf in session.x], dim=1)
            leaves = session.x.map(
                lambda leaf, part: session.call.to_layout(part.unflatten(1, leaf.shape[1:]).to(leaf.dtype)),
                tuple(parts),
            )
            dS = flat(session.at(leaves, rows).gradient()).double()
            a = (step + 1) / self.steps
            for row in range(session.n):
                new = self._moved(point[row], dS[row].abs(), x[row], x0[row], a)
                R[row] += dS[row] * (new - point[row])
                point[row] = new
        return R

    def _moved(self, point: Tensor, size: Tensor, x: Tensor, x0: Tensor, a: float) -> Tensor:
        """The next point, as far from x as the straight path is at a: |x - x^k|_1 = (1 - a) |x - x'|_1."""
        whole = float((x - x0).abs().sum())
        low = x0 + (x - x0) * max(a - self.max_distance, 0.0)
        high = x0 + (x - x0) * min(a + self.max_distance, 1.0)
        # values that fell behind; the sign of x - x' tells which way forward is
        behind = (point - low) * (x - x0).sign() < 0
        point = torch.where(behind, low, point)
        free = point != high
        kth = int(self.fraction * (len(x) - 1)) + 1
        while (to_go := float((x - point).abs().sum()) - (1 - a) * whole) > ROUNDING * whole and bool(free.any()):
            size = size.masked_fill(~free, torch.inf)
            chosen = free & (size <= size.kthvalue(kth).values)
            room = float((high - point).abs()[chosen].sum())
            if room > to_go:
                return torch.where(chosen, point + (high - point) * (to_go / room), point)
            point = torch.where(chosen, high, point)
            free &= ~chosen
        return point

    def starts(self, x: Leaves) -> list[Leaves]:
        """The baseline."""
        return references(x, (self.baseline,))

    @property
    def view(self) -> View:
        """The signed sum over channels."""
        return "sum"
