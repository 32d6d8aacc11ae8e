import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from by_hand import array, backward, forward
from deepviz.methods import GradCAM, GradCAMPlusPlus
from networks import CASES, READABLE, assert_same

pytestmark = pytest.mark.filterwarnings("ignore:.*is all zero")

SIGNED = GradCAMPlusPlus(layer="4", relu=False)


def by_hand(net, x, c):
    """Chattopadhay et al., equations 10 and 19, of Y = exp(S), divided by exp(S)."""
    A, g = forward(net, x)[5], backward(net, x, c)[5]
    cam = np.zeros(A.shape[1:])
    for k in range(len(A)):
        w = 0.0
        for i, j in np.ndindex(*A.shape[1:]):
            if g[k, i, j] != 0:
                alpha = g[k, i, j] ** 2 / (2 * g[k, i, j] ** 2 + A[k].sum() * g[k, i, j] ** 3)
                w += alpha * max(g[k, i, j], 0)
        cam += w * A[k]
    return cam


@given(seed=st.integers(0, 1000), c=st.integers(0, 2))
def test_it_is_the_papers_formula(seed, c):
    net, x = READABLE.model(seed=seed), READABLE.images(2, seed=seed)
    found = SIGNED(net, x, c)
    for row in range(2):
        assert_same(found[row, 0], torch.from_numpy(by_hand(net, array(x[row]), c)), 1e-10)


def test_alpha_is_that_of_the_exponential_of_the_score():
    """Of Y = exp(S(A)), by autograd at one position: its second derivative over twice itself and the third's sum."""
    A = torch.tensor([0.4, 0.1, 0.7], dtype=torch.float64, requires_grad=True)
    v = torch.tensor([1.3, -0.2, 0.6], dtype=torch.float64)
    Y = (A @ v).exp()
    (first,) = torch.autograd.grad(Y, A, create_graph=True)
    (second,) = torch.autograd.grad(first[0], A, create_graph=True)
    (third,) = torch.autograd.grad(second[0], A)
    alpha = second[0] / (2 * second[0] + third[0] * A.sum())
    g, sums = float(v[0]), float(A.sum())
    assert float(alpha.detach()) == pytest.approx(g**2 / (2 * g**2 + g**3 * sums))


def test_a_channel_with_negative_gradients_alone_has_no_weight():
    model, x = CASES["plain"].model(), CASES["plain"].images(1)
    with torch.no_grad():
        model[6].weight[0] = -1
    grad_cam = GradCAM(layer="3", relu=False)(model, x, 0)
    assert float(grad_cam.max()) <= 0
    assert float(grad_cam.min()) < 0
    assert not GradCAMPlusPlus(layer="3", relu=False)(model, x, 0).any()
