"""Integrated gradients: Sundararajan et al. 2017."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from deepviz.methods.gradients.quadrature import Node, QuadratureRule, bisect, quadrature
from deepviz.methods.method import Method, View
from deepviz.methods.needs import Needs
from deepviz.options import Baseline, Ge, Gt
from deepviz.probe.chunks import chunk_rows, spans
from deepviz.probe.gradient import Call, input_gradient
from deepviz.probe.reference import reference
from deepviz.target import Score

GAP_WORTH_A_WARNING = 0.05


@dataclass(frozen=True)
class IntegratedGradients(Method):
    """The gradient, averaged on the straight path from a baseline x' to the image x, times their difference.

        R = (x - x') * int_0^1 dS_c(x' + a (x - x')) / dx da

    The values sum to S(x) - S(x'), up to the error of the integration, which the notes hold as "completeness gap",
    relative to |S(x) - S(x')|. The result is never rescaled to close it.

    The integral is a weighted sum over `steps` points by `rule`; or, with a `tolerance`, over as many points as it
    needs: the path is bisected where the gradients disagree most with the change of the score, until the gap is
    within the tolerance, and not by luck: the local gaps sum to at most five times it. That way keeps a map per
    point in memory; with `steps` memory does not grow.

    The baseline is a number in the input's normalised space (0.0 usually is the mean colour), a tensor that
    broadcasts against one image, "blur" (Gaussian, sigma a tenth of the shorter side), or, where the preprocessing
    is known (`deepviz.explain`), a colour: "black", "grey", "white", "mean".

    Shapes: x (N, C, H, W) -> (N, C, H, W), in units of the score (of score per input without `multiply_by_input`).
    Drawn as the signed sum over channels, which keeps the additive meaning.

    Errors: ValueError for a baseline that does not fit, or one named by colour on a bare module. A warning where the
    gap is above 5 %, or the tolerance is not reached within `max_steps`. See also `Method.__call__`.

    Pitfall: pixels that equal the baseline get nothing, so black objects are invisible from a black baseline; the
    map answers "compared with what?", so say which baseline it was. A closed gap is no proof of a precise map: errors
    of single pixels may cancel in the sum, and at like cost `steps` gives pixels that are closer to the limit than
    `tolerance` does (`benchmarks/RESULTS.md`).

    Reference: Sundararajan, Taly and Yan, "Axiomatic Attribution for Deep Networks" (2017), arXiv:1703.01365.

    Example:
        >>> import torch
        >>> from deepviz.methods import IntegratedGradients
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 5), torch.nn.Softplus())
        >>> x = torch.rand(2, 3, 8, 8)
        >>> R = IntegratedGradients(steps=20)(model, x, target=3)
        >>> change = model(x)[:, 3] - model(0 * x)[:, 3]
        >>> torch.allclose(R.sum((1, 2, 3)), change, atol=1e-5)
        True
    """

    steps: Annotated[int, Ge(1), "Points on the path; the cost is this many gradients."] = 50
    rule: Annotated[QuadratureRule, "Where the points lie and how they are weighted."] = "gauss-legendre"
    baseline: Annotated[
        Baseline, "Start of the path: a number in normalised space, blur, or by colour black, grey, white, mean."
    ] = 0.0
    tolerance: Annotated[
        float | None, Gt(0), "Take as many points as this relative completeness gap needs, instead of `steps`."
    ] = None
    max_steps: Annotated[int, Ge(9), "Most points when a tolerance is given."] = 1000
    multiply_by_input: Annotated[bool, "Multiply by (x - x'), as in the paper; without it, the mean gradient."] = True

    title: ClassVar[str] = "Integrated gradients"
    paper: ClassVar[str] = "Sundararajan et al. 2017, arXiv:1703.01365"
    cost: ClassVar[str] = "`steps` times (1 forward, 1 backward), 2 forwards"
    needs: ClassVar[Needs] = Needs(gradient=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        quadrature(self.rule, self.steps)  # raises for too few steps for the rule

    def passes(self) -> float:
        """`steps` gradients and 2 forwards; with a tolerance, at most."""
        return 2.0 * (self.steps if self.tolerance is None else self.max_steps) + 2

    def maps(self, call: Call, x: Tensor, score: Score) -> Tensor:
        """(x - x') times the mean gradient on the path."""
        start = reference(x, self.baseline)
        change = _change(call, x, start, score)
        x, start = call.laid(x), call.laid(start)
        mean = self._uniform(call, x, start, score) if self.tolerance is None else self._adaptive(call, x, start, score)
        along = (x - start).to(mean)
        R = (along.unsqueeze(1) if score.shape else along) * mean  # (x - x') int dS/dx da
        self._note_gap(call, change.to(mean), R.sum((-3, -2, -1)))
        return R if self.multiply_by_input else mean

    def _uniform(self, call: Call, x: Tensor, start: Tensor, score: Score) -> Tensor:
        """The mean gradient by the fixed rule, (N, ...), all rows' points in chunks after each other."""
        a, w = quadrature(self.rule, self.steps)
        mean: dict[int, Tensor] = {}
        for span in spans(len(x) * self.steps, chunk_rows(call.model, x)):
            points = [divmod(point, self.steps) for point in range(span.start, span.stop)]
            rows, steps = (torch.tensor(part) for part in zip(*points, strict=True))
            G, _ = input_gradient(call, between(x, start, rows, a[steps]), score.take(rows))
            for (row, step), g in zip(points, G, strict=True):
                if row not in mean:
                    mean[row] = torch.zeros_like(g, dtype=_precise(x))  # in the memory layout of what is added
                mean[row].add_(g, alpha=float(w[step]))
        return torch.stack([mean[row] for row in range(len(x))])

    def _adaptive(self, call: Call, x: Tensor, start: Tensor, score: Score) -> Tensor:
        """The mean gradient to the tolerance, row by row and target by target."""
        assert self.tolerance is not None
        found = []
        for one in score.each():
            for row in range(len(x)):
                along = (x[row] - start[row]).to(_precise(x))

                def evaluate(
                    points: list[float], row: int = row, one: Score = one, along: Tensor = along
                ) -> list[Node]:
                    same = torch.full((len(points),), row)
                    path = between(x, start, same, torch.tensor(points, dtype=torch.float64))
                    G, S = input_gradient(call, path, one.take(same))
                    G = G.to(along)
                    return [Node(float(s), float((g * along).sum()), g) for s, g in zip(S, G, strict=True)]

                found.append(bisect(evaluate, self.tolerance, self.max_steps))
        shape = (*score.shape, len(x))
        call.notes.rows["points"] = _rows_first([integral.points for integral in found], shape)
        missed = _rows_first([not integral.reached for integral in found], shape)
        if bool(missed.any()):
            call.notes.warn(
                f"integrated gradients did not reach a gap of {self.tolerance:g} within {self.max_steps} points; "
                "raise max_steps",
                missed,
            )
        means: Tensor = torch.stack([integral.mean for integral in found]).unflatten(0, shape)
        return means.transpose(0, 1) if score.shape else means

    def _note_gap(self, call: Call, change: Tensor, total: Tensor) -> None:
        """|S(x) - S(x') - sum R| / |S(x) - S(x')|, with a warning where it is large."""
        tiny = torch.finfo(change.dtype).eps
        gap = ((change - total).abs() / change.abs().clamp_min(tiny)).cpu()
        call.notes.rows["completeness gap"] = gap
        large = gap > GAP_WORTH_A_WARNING
        if bool(large.any()):
            call.notes.warn(
                "integrated gradients: the map's sum misses the change in score by more than "
                f"{GAP_WORTH_A_WARNING:.0%}; raise steps, or set tolerance=0.01",
                large,
            )

    @property
    def view(self) -> View:
        """The signed sum over channels."""
        return "sum"


def _rows_first(values: list[int] | list[bool], shape: tuple[int, ...]) -> Tensor:
    """What was found target by target, (K, N) or (N,), as (N, K) or (N,)."""
    return torch.tensor(values).view(shape).movedim(-1, 0)


def _change(call: Call, x: Tensor, start: Tensor, score: Score) -> Tensor:
    """S(x) - S(x'), for the class that is predicted for x if none is given; one forward pass if one is."""
    if not score.decided:
        return call.scores(x, score) - call.scores(start, score)
    ends = call.scores(torch.cat([x, start]), score.take(torch.arange(len(x)).repeat(2)))
    return ends[: len(x)] - ends[len(x) :]


def between(x: Tensor, start: Tensor, rows: Tensor, a: Tensor) -> Tensor:
    """x' + a (x - x') for some rows, each with its own a, computed in float32 at least."""
    precise = _precise(x)
    if len(x) > 1:
        x, start = x[rows], start[rows]
    a = a.to(x.device, precise).view(-1, 1, 1, 1)
    return torch.lerp(start.to(precise), x.to(precise), a).to(x.dtype)


def _precise(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
