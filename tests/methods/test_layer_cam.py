import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from by_hand import array, backward, forward
from deepviz.methods import GradCAM, LayerCAM
from networks import READABLE, Case, assert_same


def by_hand(net, x, c):
    """Jiang et al., equations 5 to 7."""
    A, g = forward(net, x)[5], backward(net, x, c)[5]
    cam = np.zeros(A.shape[1:])
    for k, i, j in np.ndindex(*A.shape):
        cam[i, j] += max(g[k, i, j], 0) * A[k, i, j]
    return np.maximum(cam, 0)


@pytest.mark.filterwarnings("ignore:.*is all zero")
@given(seed=st.integers(0, 1000), c=st.integers(0, 2))
def test_it_is_equations_5_to_7(seed, c):
    net, x = READABLE.model(seed=seed), READABLE.images(2, seed=seed)
    found = LayerCAM(layer="4")(net, x, c)
    for row in range(2):
        assert_same(found[row, 0], torch.from_numpy(by_hand(net, array(x[row]), c)), 1e-10)


def test_where_pooled_gradients_are_positive_it_is_grad_cam():
    case = Case(
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    )
    model, x = case.model(), case.images(2)
    with torch.no_grad():
        model[4].weight.abs_()
    assert_same(LayerCAM()(model, x, 1), GradCAM()(model, x, 1), 1e-12)
