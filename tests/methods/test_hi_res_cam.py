import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from by_hand import array, backward, forward
from deepviz.methods import GradCAM, HiResCAM
from networks import READABLE, Case, assert_same

pytestmark = pytest.mark.filterwarnings("ignore:.*is all zero")


def by_hand(net, x, c):
    """Draelos and Carin, equation 3: the sum over channels of gradient times activation."""
    A, g = forward(net, x)[5], backward(net, x, c)[5]
    cam = np.zeros(A.shape[1:])
    for k, i, j in np.ndindex(*A.shape):
        cam[i, j] += g[k, i, j] * A[k, i, j]
    return cam


@given(seed=st.integers(0, 1000), c=st.integers(0, 2))
def test_it_is_equation_3(seed, c):
    net, x = READABLE.model(seed=seed), READABLE.images(2, seed=seed)
    found = HiResCAM(layer="4", relu=False)(net, x, c)
    for row in range(2):
        assert_same(found[row, 0], torch.from_numpy(by_hand(net, array(x[row]), c)), 1e-10)


@given(seed=st.integers(0, 1000))
def test_below_one_linear_layer_the_map_and_the_bias_are_the_score(seed):
    case = Case(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 5)), (3, 12, 12))
    model, x = case.model(seed=seed), case.images(3, seed=seed)
    cam = HiResCAM(layer="1", relu=False)(model, x, 2)
    assert_same(cam.sum((1, 2, 3)) + model[3].bias[2].detach(), model(x)[:, 2].detach(), 1e-9)


def test_below_average_pooling_it_is_grad_cam():
    case = Case(
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    )
    model, x = case.model(), case.images(2)
    assert_same(HiResCAM(relu=False)(model, x, 1), GradCAM(relu=False)(model, x, 1), 1e-12)
