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


FIRST_PIECES = 8
BISECTED_BY_MAP = 2
BISECTED_BY_GAP = 1
LOCAL_GAPS = 10.0


class Piece(NamedTuple):
    """What the trapezoidal rule may miss between two neighbouring points: of the score, and of the map."""

    gap: float
    difference: float


def bisect(
    evaluate: Callable[[list[float]], list[Node]], tolerance: float, most: int, along: Tensor | float = 1.0
) -> Integral:
    """The mean gradient over the path by the trapezoidal rule, with more points where it errs most.

    Of a piece [a, b] two things are known: its gap, f(b) - f(a) minus the rule's estimate of the integral of the
    slope, exactly; and (b - a) |(g(b) - g(a)) `along`|, with which the error of its map goes where the gradient jumps.
    Each time the two pieces where the map differs most are bisected, and the one with the largest gap. It ends when the
    total gap is within `tolerance` |f(1) - f(0)|, and the absolute local gaps sum to at most ten times that, so that
    they do not merely cancel; or before more than `most` points.
    """
    nodes: dict[float, Node] = {}
    pieces: dict[tuple[float, float], Piece] = {}

    def visit(new: list[float], found: list[tuple[float, float]]) -> None:
        nodes.update(zip(new, evaluate(new), strict=True))
        for a, b in found:
            gap = nodes[b].score - nodes[a].score - (b - a) / 2 * (nodes[a].slope + nodes[b].slope)
            difference = (b - a) * float(((nodes[b].gradient - nodes[a].gradient) * along).norm())
            pieces[a, b] = Piece(gap, difference)

    def reached() -> bool:
        gaps = [piece.gap for piece in pieces.values()]
        return abs(sum(gaps)) <= allowed and sum(map(abs, gaps)) <= LOCAL_GAPS * allowed

    edges = [k / FIRST_PIECES for k in range(FIRST_PIECES + 1)]
    visit(edges, list(pairwise(edges)))
    allowed = tolerance * abs(nodes[1.0].score - nodes[0.0].score)
    while not reached() and len(nodes) + BISECTED_BY_MAP + BISECTED_BY_GAP <= most:
        by_map = sorted(pieces, key=lambda piece: -pieces[piece].difference)[:BISECTED_BY_MAP]
        by_gap = sorted(pieces.keys() - by_map, key=lambda piece: -abs(pieces[piece].gap))[:BISECTED_BY_GAP]
        worst = sorted([*by_map, *by_gap])
        middles = [(a + b) / 2 for a, b in worst]
        for piece in worst:
            del pieces[piece]
        visit(middles, [half for (a, b), c in zip(worst, middles, strict=True) for half in ((a, c), (c, b))])
    weights = dict.fromkeys(nodes, 0.0)
    for a, b in pieces:
        for point in (a, b):
            weights[point] += (b - a) / 2
    mean = torch.zeros_like(nodes[0.0].gradient)
    for point, node in nodes.items():
        mean.add_(node.gradient, alpha=weights[point])
    return Integral(mean, len(nodes), reached())
