import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from deepviz.methods.gradients.quadrature import Node, bisect, quadrature

RULES = ("gauss-legendre", "midpoint", "trapezoid", "left")


def integral(rule, n, f):
    points, weights = quadrature(rule, n)
    return float((f(points) * weights).sum())


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("n", [2, 3, 7, 50, 300])
def test_points_lie_in_the_interval_and_weights_sum_to_one(rule, n):
    points, weights = quadrature(rule, n)
    assert points.dtype == weights.dtype == torch.float64
    assert len(points) == len(weights) == n
    assert 0 <= float(points.min()) <= float(points.max()) <= 1
    assert bool((points.diff() > 0).all())
    assert bool((weights > 0).all())
    assert abs(float(weights.sum()) - 1) < 1e-14


@pytest.mark.parametrize("n", [1, 2, 5, 12])
def test_gauss_legendre_is_exact_up_to_degree_two_n_minus_one_and_no_further(n):
    for degree in range(2 * n):
        assert abs(integral("gauss-legendre", n, lambda a, d=degree: a**d) - 1 / (degree + 1)) < 1e-14
    if n <= 5:  # beyond, the difference is below rounding
        assert abs(integral("gauss-legendre", n, lambda a: a ** (2 * n)) - 1 / (2 * n + 1)) > 1e-9


def test_gauss_legendre_points_are_the_eigenvalues_of_jacobis_matrix():
    """Golub and Welsch 1969."""
    n = 20
    k = np.arange(1, n)
    values, vectors = np.linalg.eigh(np.diag(k / np.sqrt(4 * k**2 - 1), 1) + np.diag(k / np.sqrt(4 * k**2 - 1), -1))
    points, weights = quadrature("gauss-legendre", n)
    np.testing.assert_allclose(points, (values + 1) / 2, atol=1e-14)
    np.testing.assert_allclose(weights, vectors[0] ** 2, atol=1e-14)


@pytest.mark.parametrize(("rule", "order"), [("left", 1), ("midpoint", 2), ("trapezoid", 2)])
def test_each_rule_converges_with_its_order(rule, order):
    """Halving the step divides the error by 2^order: the leading term of the Euler-Maclaurin formula."""
    errors = []
    for pieces in (20, 40, 80):
        n = pieces + 1 if rule == "trapezoid" else pieces
        errors.append(abs(integral(rule, n, torch.exp) - (math.e - 1)))
    for coarse, fine in pairwise(errors):
        assert abs(math.log2(coarse / fine) - order) < 0.03


def test_gauss_legendre_converges_faster_than_any_order():
    assert abs(integral("gauss-legendre", 8, torch.exp) - (math.e - 1)) < 1e-15


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_is_exact_for_a_constant_and_left_alone_not_for_a_line(rule):
    assert abs(integral(rule, 6, torch.ones_like) - 1) < 1e-15
    assert (abs(integral(rule, 6, lambda a: a) - 0.5) < 1e-15) == (rule != "left")


def test_too_few_points_or_an_unknown_rule_is_an_error():
    for rule in RULES:
        with pytest.raises(ValueError, match="needs at least"):
            quadrature(rule, 0)
    with pytest.raises(ValueError, match="at least 2 points, got 1"):
        quadrature("trapezoid", 1)
    with pytest.raises(ValueError, match="gauss-legendre, midpoint, trapezoid or left, got 'simpson'"):
        quadrature("simpson", 5)


class Path:
    """A score f(a) with slope f'(a); the map at a holds f'(a) and a, so that its mean can be checked."""

    def __init__(self, f, slope):
        self.f, self.slope, self.asked = f, slope, []

    def __call__(self, points):
        self.asked.append(points)
        return [
            Node(self.f(a), self.slope(a), torch.tensor([self.slope(a), a, 1.0], dtype=torch.float64)) for a in points
        ]


SMOOTH = {
    "line": (lambda a: 3 * a, lambda a: 3.0),
    "cubic": (lambda a: a**4, lambda a: 4 * a**3),
    "exponential": (math.exp, math.exp),
    "step": (lambda a: math.tanh(80 * (a - 0.3)), lambda a: 80 / math.cosh(80 * (a - 0.3)) ** 2),
    "kink": (lambda a: max(0.0, a - 0.61), lambda a: float(a > 0.61)),
    "there and back": (lambda a: math.sin(12 * a), lambda a: 12 * math.cos(12 * a)),
}


@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize("tolerance", [0.1, 1e-2, 1e-3])
def test_bisection_reaches_the_tolerance_and_says_so(name, tolerance):
    f, slope = SMOOTH[name]
    path = Path(f, slope)
    found = bisect(path, tolerance, 2000)
    change = f(1.0) - f(0.0)
    assert found.reached
    assert abs(float(found.mean[0]) - change) <= tolerance * abs(change) * (1 + 1e-9)
    assert abs(float(found.mean[1]) - 0.5) < 1e-12  # the trapezoidal rule is exact for lines on any pieces
    assert abs(float(found.mean[2]) - 1) < 1e-12


@pytest.mark.parametrize("name", SMOOTH)
def test_no_point_is_asked_for_twice_and_all_are_counted(name):
    path = Path(*SMOOTH[name])
    found = bisect(path, 1e-3, 2000)
    asked = [point for points in path.asked for point in points]
    assert len(asked) == len(set(asked)) == found.points
    assert min(asked) == 0
    assert max(asked) == 1


def test_what_the_trapezoidal_rule_integrates_exactly_needs_no_bisection():
    assert bisect(Path(*SMOOTH["line"]), 1e-9, 2000).points == 9


def test_bisection_goes_where_the_score_or_the_map_needs_it():
    """The score's slope is steep near 0.3; the map also has a value that jumps at 0.7 and does not enter the score."""

    def evaluate(points):
        f, slope = SMOOTH["step"]
        asked.append(points)
        return [Node(f(a), slope(a), torch.tensor([slope(a), 500.0 * (a > 0.7)])) for a in points]

    for along, places in (([1.0, 0.0], {0.3}), ([1.0, 1.0], {0.3, 0.7})):
        asked = []
        bisect(evaluate, 1e-2, 2000, torch.tensor(along))
        later = [point for points in asked[2:] for point in points]
        assert {min((0.3, 0.7), key=lambda place: abs(point - place)) for point in later} == places
        assert all(min(abs(point - place) for place in places) < 0.25 for point in later)


def test_the_error_of_a_map_that_jumps_goes_with_the_piece_where_it_does():
    """The map jumps at 0.61: bisecting there halves the error each time, which more equal pieces would not."""
    found = bisect(Path(*SMOOTH["kink"]), 1e-3, 2000)
    assert abs(float(found.mean[0]) - 0.39) < 1e-3 * 0.39
    assert found.points < 40


def test_gaps_that_merely_cancel_do_not_count():
    """Two opposite steps, each inside one of the first pieces and invisible to the first points: gaps + and -."""

    def f(a):
        return a + (1.0 if 0.05 < a < 0.55 else 0.0)

    found = bisect(Path(f, lambda a: 1.0), 0.01, 60)
    assert not found.reached  # the total gap is 0 from the start; the local gaps never sum to less than 2
    assert found.points > 9


@pytest.mark.parametrize("most", [9, 10, 13, 14, 20, 41])
def test_it_stops_before_more_than_the_most_points_and_says_that_it_missed(most):
    path = Path(*SMOOTH["step"])
    found = bisect(path, 1e-9, most)
    assert not found.reached
    assert found.points <= most
    assert found.points > most - 4


def test_a_score_that_does_not_change_is_reached_only_by_no_gap_at_all():
    assert bisect(Path(lambda a: 1.0, lambda a: 0.0), 0.01, 100).reached
    assert not bisect(Path(lambda a: math.sin(2 * math.pi * a) ** 2, lambda a: 1.0), 0.01, 50).reached
