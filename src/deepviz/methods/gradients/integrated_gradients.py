"""Integrated gradients: Sundararajan et al. 2017."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from deepviz.inputs import Leaves
from deepviz.methods.gradients.paths import (
    LARGE_GAP,
    between,
    changes,
    completeness_gap,
    flat,
    note_gap,
    precise,
    times_change,
)
from deepviz.methods.gradients.quadrature import Node, QuadratureRule, bisect, quadrature
from deepviz.methods.method import Method, View
from deepviz.methods.needs import Needs
from deepviz.options import Baseline, Baselines, Ge, Gt, Noise, Seed
from deepviz.probe.chunks import spans
from deepviz.probe.reference import is_noise, references
from deepviz.probe.session import Session

STEPS = (50, 100, 200)
"""How many points the path has by default: the first, and in turn the others where the gap is large."""


@dataclass(frozen=True)
class IntegratedGradients(Method):
    """The gradient, averaged on the straight path from a baseline x' to the image x, times their difference.

        R = (x - x') * int_0^1 dS_c(x' + a (x - x')) / dx da

    The values sum to S(x) - S(x'), up to the error of the integration, which the notes hold as "completeness gap",
    relative to |S(x) - S(x')|. The result is never rescaled to close it.

    The integral is a weighted sum over `steps` points by `rule`. By default it is 50, and a map with a gap above 5 % is
    computed again with 100 and then 200 points; the notes hold the "steps" of the map and the gradients spent,
    "points": 50, 150 or 350. With a `tolerance`, it is as many points as that needs: the path is bisected where the map
    differs most between neighbouring points, and where these disagree most with the change of the score, until the gap
    is within the tolerance, and not by luck: the local gaps sum to at most ten times it. That way keeps a map per point
    in memory; with `steps` memory is constant.

    The baseline is a number in the input's normalised space (0.0 usually is the mean colour), a tensor that
    broadcasts against one image, "blur" (Gaussian, sigma a tenth of the shorter side), or, where the preprocessing
    is known (`deepviz.explain`), a colour: "black", "grey", "white", "mean". Or it is noise, "uniform-noise" over the
    range of each channel of the image or "gaussian-noise" with its mean and standard deviation: then R is the mean
    over `draws`. With `baselines` it is the mean over all of them, a noise counting once per draw, and the values sum
    to S(x) less the mean of S(x').

    Shapes: x (N, C, H, W) -> (N, C, H, W), in units of the score (of score per input without `multiply_by_input`).
    Drawn as the signed sum over channels, which keeps the additive meaning.

    Errors: ValueError for a baseline that does not fit, or one named by colour on a bare module. A warning where the
    gap is above 5 %, or the tolerance is not reached within `max_steps`. See also `Method.__call__`.

    Pitfall: pixels that equal the baseline get nothing, so black objects are invisible from a black baseline; the
    map answers "compared with what?", so say which baseline it was. A small gap does not prove a precise map: errors
    of single pixels may cancel in the sum. At the same cost `tolerance` gives a map that is closer to the limit than
    `steps` does where the gradient jumps, as in networks of rectifiers (`benchmarks/RESULTS.md`).

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

    steps: Annotated[
        int | None,
        Ge(1),
        "Points on the path; the cost is this many gradients. By default 50, and again 100 and 200 while the gap is "
        "above 5 %.",
    ] = None
    rule: Annotated[QuadratureRule, "Where the points lie and how they are weighted."] = "gauss-legendre"
    baseline: Annotated[
        Baseline | Noise,
        "Start of the path: a number in normalised space, blur, by colour black, grey, white, mean, or noise.",
    ] = 0.0
    tolerance: Annotated[
        float | None, Gt(0), "Take as many points as this relative completeness gap needs, instead of `steps`."
    ] = None
    max_steps: Annotated[int, Ge(9), "Most points when a tolerance is given."] = 1000
    multiply_by_input: Annotated[bool, "Multiply by (x - x'), as in the paper; without it, the mean gradient."] = True
    baselines: Annotated[
        Baselines | None, "Several baselines in place of one, such as (black, white); their maps are averaged."
    ] = None
    draws: Annotated[int, Ge(1), "Draws of a baseline that is noise; each costs as much as a baseline."] = 5
    seed: Annotated[Seed, "Seed of the noise."] = 0

    title: ClassVar[str] = "Integrated gradients"
    paper: ClassVar[str] = "Sundararajan et al. 2017, arXiv:1703.01365"
    cost: ClassVar[str] = (
        "`steps` (50, 150 or 350 by default) times (1 forward, 1 backward), 2 forwards; for each baseline"
    )
    needs: ClassVar[Needs] = Needs(gradient=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        quadrature(self.rule, self.steps or STEPS[0])  # raises for too few steps for the rule
        if self.baselines == ():
            raise ValueError("baselines must be at least one, got ()")
        if self.baselines and not (isinstance(self.baseline, float) and self.baseline == 0):
            raise ValueError("baseline and baselines are both given: put all of them into baselines")

    def passes(self) -> float:
        """`steps` gradients and 2 forwards for each baseline: without `steps`, as many gradients as most maps take;
        with a tolerance, at most."""
        paths = sum(self.draws if is_noise(baseline) else 1 for baseline in self.baselines or (self.baseline,))
        return paths * (2.0 * (self.steps or STEPS[0] if self.tolerance is None else self.max_steps) + 1) + 1

    def maps(self, session: Session) -> Leaves:
        """(x - x') times the mean gradient on the path, averaged over the baselines."""
        return self.along(session, self.starts(session.x))

    def along(self, session: Session, starts: list[Leaves]) -> Leaves:
        """The same from other baselines."""
        change = changes(session, starts)
        session = session.to_layout()
        paths = []
        for start, along in zip(starts, change, strict=True):
            start = start.map(session.call.to_layout)
            mean = self._mean_gradient(session, start, along)
            paths.append((mean, times_change(session, start, mean)))  # (x - x') int dS/dx da
        mean, R = (Leaves(_average(leaf) for leaf in zip(*maps, strict=True)) for maps in zip(*paths, strict=True))
        more = "set tolerance=0.01" if self.steps is None else "raise steps, or set tolerance=0.01"
        note_gap(session, completeness_gap(session, R, change.mean(0)), "integrated gradients", more)
        return R if self.multiply_by_input else mean

    def starts(self, x: Leaves) -> list[Leaves]:
        """The baselines; of a noise, its draws."""
        return references(x, self.baselines or (self.baseline,), self.draws, self.seed)

    def _mean_gradient(self, session: Session, start: Leaves, change: Tensor) -> Leaves:
        """int dS/dx da on the path from one baseline, with what it took in the notes."""
        if self.tolerance is not None:
            return self._adaptive(session, start)
        if self.steps is not None:
            return self._uniform(session, start, self.steps, range(session.n))
        return self._repeated(session, start, change)

    def _uniform(self, session: Session, start: Leaves, steps: int, rows: Sequence[int]) -> Leaves:
        """The mean gradient of some rows by the fixed rule, all rows' points in chunks after each other."""
        a, w = quadrature(self.rule, steps)
        mean: dict[int, list[Tensor]] = {}
        for span in spans(len(rows) * steps, session.chunk()):
            points = [divmod(point, steps) for point in range(span.start, span.stop)]
            of, step = torch.tensor([rows[place] for place, _ in points]), torch.tensor([step for _, step in points])
            G = session.at(between(session.x, start, of, a[step]), of).gradient()
            for index, (place, k) in enumerate(points):
                if place not in mean:
                    # in the memory layout of what is added
                    mean[place] = [torch.zeros_like(g[index], dtype=precise(g)) for g in G]
                for total, g in zip(mean[place], G, strict=True):
                    total.add_(g[index], alpha=float(w[k]))
        return Leaves(torch.stack([mean[place][leaf] for place in range(len(rows))]) for leaf in range(len(session.x)))

    def _repeated(self, session: Session, start: Leaves, change: Tensor) -> Leaves:
        """The mean gradient by the fixed rule, with more points for each map whose gap is large."""
        mean = self._uniform(session, start, STEPS[0], range(session.n))
        steps, points = torch.full(change.shape, STEPS[0]), torch.full(change.shape, STEPS[0])
        for more in STEPS[1:]:
            gap = completeness_gap(session, times_change(session, start, mean), change)
            large = gap > LARGE_GAP  # (N,) or (N, K)
            rows = large.view(session.n, -1).any(1).nonzero().flatten().tolist()
            if not rows:
                break
            again = self._uniform(session, start, more, rows)
            for old, new in zip(mean, again, strict=True):
                which = large[rows].to(old.device).view(*large[rows].shape, *[1] * (old.ndim - large.ndim))
                old[rows] = torch.where(which, new, old[rows])
            steps[large] = more
            points[large] += more
        _note_cost(session, steps=steps, points=points)
        return mean

    def _adaptive(self, session: Session, start: Leaves) -> Leaves:
        """The mean gradient to the tolerance, row by row and objective by objective."""
        assert self.tolerance is not None
        found = []
        for one in session.each():
            for row in range(session.n):
                along = flat((x[row : row + 1] - s[row : row + 1]) for x, s in zip(session.x, start, strict=True))[0]

                def evaluate(
                    points: list[float], row: int = row, one: Session = one, along: Tensor = along
                ) -> list[Node]:
                    same = torch.full((len(points),), row)
                    path = between(session.x, start, same, torch.tensor(points, dtype=torch.float64))
                    G, S = one.at(path, same).gradient_and_values()
                    return [Node(float(s), float((g * along).sum()), g) for s, g in zip(S, flat(G), strict=True)]

                found.append(bisect(evaluate, self.tolerance, self.max_steps, along))
        shape = (*session.score.shape, session.n)
        _note_cost(session, points=_rows_first([integral.points for integral in found], shape))
        missed = _rows_first([not integral.reached for integral in found], shape)
        if bool(missed.any()):
            session.notes.warn(
                f"integrated gradients did not reach a completeness gap of {self.tolerance:g} within "
                f"{self.max_steps} points; raise max_steps",
                missed,
            )
        means: Tensor = torch.stack([integral.mean for integral in found]).unflatten(0, shape)
        means = means.transpose(0, 1) if session.several else means
        parts = means.split([x[0].numel() for x in session.x], dim=-1)
        return session.x.map(lambda x, part: part.unflatten(-1, x.shape[1:]), tuple(parts))

    @property
    def view(self) -> View:
        """The signed sum over channels."""
        return "sum"


def _rows_first(values: list[int] | list[bool], shape: tuple[int, ...]) -> Tensor:
    """Values found objective by objective, (K, N) or (N,), as (N, K) or (N,)."""
    return torch.tensor(values).view(shape).movedim(-1, 0)


def _note_cost(session: Session, **cost: Tensor) -> None:
    """The points of all paths together, and the most steps of one of them."""
    rows = session.notes.rows
    if "steps" in cost:
        rows["steps"] = torch.maximum(cost["steps"], rows.get("steps", cost["steps"]))
    rows["points"] = cost["points"] + rows.get("points", 0)


def _average(maps: tuple[Tensor, ...]) -> Tensor:
    """The mean of maps; one alone stays as it is."""
    return maps[0] if len(maps) == 1 else torch.stack(maps).mean(0)
