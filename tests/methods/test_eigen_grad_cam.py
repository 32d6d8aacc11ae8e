import numpy as np
import pytest
import torch

from by_hand import array, backward, forward
from deepviz.methods import EigenGradCAM, HiResCAM
from networks import READABLE, assert_same

pytestmark = pytest.mark.filterwarnings("ignore:.*is all zero")

SIGNED = EigenGradCAM(layer="4", relu=False)


@pytest.mark.parametrize("seed", range(8))
def test_it_is_the_first_component_of_gradient_times_activation(seed):
    net, x = READABLE.model(seed=seed), READABLE.images(1, seed=seed)
    A, g = forward(net, array(x[0]))[5], backward(net, array(x[0]), 1)[5]
    M = (A * g).reshape(len(A), -1).T
    _, s, Vt = np.linalg.svd(M, full_matrices=False)
    assert s[0] - s[1] > 1e-3 * s[0], "two directions, either of which is first"
    expected = M @ Vt[0]
    expected = expected * np.sign((expected * M.sum(1)).sum())
    assert_same(SIGNED(net, x, 1).flatten(), torch.from_numpy(expected), 1e-6)


@pytest.mark.parametrize("seed", range(8))
def test_what_is_positive_is_evidence_for_the_class(seed):
    net, x = READABLE.model(seed=seed), READABLE.images(3, seed=seed)
    along = (SIGNED(net, x, 1) * HiResCAM(layer="4", relu=False)(net, x, 1)).sum((1, 2, 3))
    assert bool((along >= -1e-12).all())
