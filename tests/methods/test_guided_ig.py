import numpy as np
import pytest
import torch
from torch import nn

from by_hand import array, backward
from deepviz.methods import Gradient, GuidedIG, IntegratedGradients
from networks import CASES, READABLE, Case, assert_same

quiet = pytest.mark.filterwarnings("ignore:guided IG", "ignore:integrated gradients")


def path_by_hand(gradient, x, start, steps, fraction, most):
    """The algorithm of the paper, value by value: the values in the order of their gradients, a share at a time."""
    point, R = start.copy(), np.zeros_like(x)
    whole = np.abs(x - start).sum()
    points = [point]
    for step in range(steps):
        G = gradient(point)
        a = (step + 1) / steps
        low, high = (start + (x - start) * share for share in (max(a - most, 0), min(a + most, 1)))
        new = point.copy()
        for i in np.ndindex(x.shape):
            if x[i] != start[i] and (new[i] - start[i]) / (x[i] - start[i]) < max(a - most, 0):
                new[i] = low[i]
        done = {i for i in np.ndindex(x.shape) if new[i] == high[i]}
        while np.abs(x - new).sum() - (1 - a) * whole > 1e-9 * whole:
            sizes = sorted(np.inf if i in done else abs(G[i]) for i in np.ndindex(x.shape))
            limit = sizes[int(fraction * (len(sizes) - 1))]
            chosen = [i for i in np.ndindex(x.shape) if i not in done and abs(G[i]) <= limit]
            room = sum(abs(high[i] - new[i]) for i in chosen)
            to_go = np.abs(x - new).sum() - (1 - a) * whole
            for i in chosen:
                new[i] = new[i] + (high[i] - new[i]) * to_go / room if room > to_go else high[i]
            if room > to_go:
                break
            done |= set(chosen)
        R += G * (new - point)
        point = new
        points.append(point)
    return R, points


@quiet
@pytest.mark.parametrize("baseline", [0.0, -0.7])
@pytest.mark.parametrize(("fraction", "most"), [(0.25, 0.02), (0.1, 0.3), (1.0, 1.0), (0.5, 1.0)])
def test_it_is_the_slow_sum_over_the_path(baseline, fraction, most):
    net, x = READABLE.model(), READABLE.images(2)
    found = GuidedIG(steps=7, fraction=fraction, max_distance=most, baseline=baseline)(net, x, 1)
    for row in range(2):
        start = np.full(x.shape[1:], baseline)
        R, points = path_by_hand(lambda point: backward(net, point, 1)[0], array(x[row]), start, 7, fraction, most)
        assert_same(found[row], torch.from_numpy(R), 1e-9)
        assert np.abs(points[-1] - array(x[row])).max() < 1e-9


@quiet
def test_without_distance_it_is_integrated_gradients_by_the_left_rule():
    model, x = CASES["plain"].model(), CASES["plain"].images(2)
    target = torch.tensor([[0, 3], [1, 2]])
    expected = IntegratedGradients(steps=9, rule="left", baseline="blur")(model, x, target)
    assert_same(GuidedIG(steps=9, max_distance=0, baseline="blur")(model, x, target), expected, 1e-9)


def test_on_a_linear_network_every_path_gives_the_same():
    case = Case(lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(240, 4)), (2, 10, 12))
    model, x = case.model(), case.images(2)
    found = GuidedIG(steps=5, max_distance=1, baseline=0.3).attribute(model, x, 2)
    assert_same(found.maps, (x - 0.3) * Gradient()(model, x, 2), 1e-10)
    assert float(found.notes.rows["completeness gap"].max()) < 1e-10


def test_values_with_small_gradients_arrive_before_the_others_move():
    """S = 10 x_0^2 x_1 from (0, 1) to (1, 2): |dS/dx_1| = 10 x_0^2 is 0 at first, so x_1 moves first, alone, and gets
    nothing; then x_0 gets all of S(x) - S(x') = 20. On the straight path x_1 gets 10/3."""

    class Product(nn.Module):
        def forward(self, x):
            a, b = x.flatten(1).T
            return (10 * a**2 * b)[:, None].expand(-1, 2)

    x, start = (torch.tensor(values, dtype=torch.float64).view(1, 1, 1, 2) for values in ([1.0, 2.0], [0.0, 1.0]))
    found = GuidedIG(steps=2000, max_distance=1, fraction=0.5, baseline=start).attribute(Product(), x, 1)
    assert float(found.maps[0, 0, 0, 1]) < 0.01
    assert float(found.maps[0, 0, 0, 0]) == pytest.approx(20, rel=0.01)
    straight = IntegratedGradients(baseline=start, steps=20)(Product(), x, 1)
    assert float(straight[0, 0, 0, 1]) == pytest.approx(10 / 3)


@quiet
def test_values_that_equal_the_baseline_get_nothing_and_do_not_stop_the_others():
    model, x = CASES["plain"].model(), CASES["plain"].images(1)
    x[:, 1:] = 0
    R = GuidedIG(steps=6)(model, x, 1)
    assert float(R[:, 1:].abs().max()) == 0
    assert float(R[:, 0].abs().max()) > 0
