import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from by_hand import array, backward, forward
from deepviz.methods import XGradCAM
from networks import READABLE, Case, assert_same

pytestmark = pytest.mark.filterwarnings("ignore:.*is all zero")


def by_hand(net, x, c):
    """Fu et al., equation 8."""
    A, g = forward(net, x)[5], backward(net, x, c)[5]
    cam = np.zeros(A.shape[1:])
    for k in range(len(A)):
        if A[k].sum() != 0:
            cam += sum(A[k, i, j] / A[k].sum() * g[k, i, j] for i, j in np.ndindex(*A.shape[1:])) * A[k]
    return cam


@given(seed=st.integers(0, 1000), c=st.integers(0, 2))
def test_it_is_equation_8(seed, c):
    net, x = READABLE.model(seed=seed), READABLE.images(2, seed=seed)
    found = XGradCAM(layer="4", relu=False)(net, x, c)
    for row in range(2):
        assert_same(found[row, 0], torch.from_numpy(by_hand(net, array(x[row]), c)), 1e-10)


@given(seed=st.integers(0, 1000))
def test_without_biases_the_map_sums_to_the_score(seed):
    """The axiom of conservation: the map's sum is that of gradient times activation, for ReLUs without biases S."""
    case = Case(
        lambda: nn.Sequential(
            nn.Conv2d(3, 6, 3, bias=False),
            nn.ReLU(),
            nn.Conv2d(6, 8, 3, bias=False),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(8 * 64, 5, bias=False),
        ),
        (3, 12, 12),
    )
    model, x = case.model(seed=seed), case.images(3, seed=seed)
    cam = XGradCAM(layer="1", relu=False)(model, x, 2)
    assert_same(cam.sum((1, 2, 3)), model(x)[:, 2].detach(), 1e-9)
