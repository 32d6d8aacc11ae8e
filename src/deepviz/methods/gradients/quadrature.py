"""Integration over a path from 0 to 1: fixed rules, and bisection where the integrand needs it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

QuadratureRule = Literal["gauss-legendre", "midpoint", "trapezoid", "left"]


@cache
def quadrature(rule: QuadratureRule, n: int) -> tuple[Tensor, Tensor]:
    """The n points in [0, 1] and their weights, which sum to 1, float64.

        gauss-legendre   exact for polynomials up to degree 2 n - 1
        midpoint         (k + 1/2) / n, weights 1/n
        trapezoid        k / (n - 1), weights 1/(n - 1), half at the ends
        left             k / n, weights 1/n

    Raises:
        ValueError: for an unknown rule, or too few points for it.
    """
    if n < (2 if rule == "trapezoid" else 1):
        raise ValueError(f"the {rule} rule needs at least {2 if rule == 'trapezoid' else 1} points, got {n}")
    k = np.arange(n)
    if rule == "gauss-legendre":
        nodes, weights = np.polynomial.legendre.leggauss(n)
        nodes, weights = (nodes + 1) / 2, weights / 2
    elif rule == "midpoint":
        nodes, weights = (k + 0.5) / n, np.full(n, 1 / n)
    elif rule == "trapezoid":
        nodes, weights = k / (n - 1), np.full(n, 1 / (n - 1))
        weights[[0, -1]] /= 2
    elif rule == "left":
        nodes, weights = k / n, np.full(n, 1 / n)
    else:
        raise ValueError(f"rule must be gauss-legendre, midpoint, trapezoid or left, got {rule!r}")
    return torch.from_numpy(nodes), torch.from_numpy(weights)


class Node(NamedTuple):
    """The path at one point: the score, its derivative along the path, and its gradient map."""

    score: float
    slope: float
    gradient: Tensor


class Integral(NamedTuple):
    """A mean gradient, the number of points it took, and whether the tolerance was reached."""

    mean: Tensor
    points: int
    reached: bool


FIRST_PIECES = 4
BISECTED_AT_ONCE = 2
LOCAL_GAPS = 5.0


def bisect(evaluate: Callable[[list[float]], list[Node]], tolerance: float, most: int) -> Integral:
    """The mean gradient over the path by Simpson's rule on pieces, bisecting the worst.

    The gap of a piece [a, b] is f(b) - f(a) minus Simpson's estimate of the integral of the slope, so it is known
    exactly, not estimated. It ends when the total gap is within `tolerance` |f(1) - f(0)|, and the absolute local
    gaps sum to at most five times that, so that they do not merely cancel; or before more than `most` points.

    Each bisection adds two points, since a piece shares its ends and its middle becomes an end.
    """
    nodes: dict[float, Node] = {}

    def visit(pieces: list[tuple[float, float]]) -> None:
        new = sorted({point for a, b in pieces for point in (a, (a + b) / 2, b)} - nodes.keys())
        nodes.update(zip(new, evaluate(new), strict=True))

    def gap(a: float, b: float) -> float:
        slopes = nodes[a].slope + 4 * nodes[(a + b) / 2].slope + nodes[b].slope
        return nodes[b].score - nodes[a].score - (b - a) / 6 * slopes

    edges = [k / FIRST_PIECES for k in range(FIRST_PIECES + 1)]
    first = list(pairwise(edges))
    visit(first)
    gaps = {piece: gap(*piece) for piece in first}
    allowed = tolerance * abs(nodes[1.0].score - nodes[0.0].score)
    while not (reached := abs(sum(gaps.values())) <= allowed and sum(map(abs, gaps.values())) <= LOCAL_GAPS * allowed):
        if len(nodes) + 2 * BISECTED_AT_ONCE > most:
            break
        worst = sorted(gaps, key=lambda piece: -abs(gaps[piece]))[:BISECTED_AT_ONCE]
        halves = [half for a, b in worst for half in ((a, (a + b) / 2), ((a + b) / 2, b))]
        visit(halves)
        for piece in worst:
            del gaps[piece]
        gaps.update({half: gap(*half) for half in halves})
    weights = dict.fromkeys(nodes, 0.0)
    for a, b in gaps:
        for point, share in ((a, 1), ((a + b) / 2, 4), (b, 1)):
            weights[point] += share * (b - a) / 6
    mean = torch.zeros_like(nodes[0.0].gradient)
    for point, node in nodes.items():
        mean.add_(node.gradient, alpha=weights[point])
    return Integral(mean, len(nodes), reached)
