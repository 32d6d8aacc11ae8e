import numpy as np
import pytest
import torch
from torch import nn

from by_hand import array, forward
from deepviz.methods import FEM
from networks import READABLE, assert_same

pytestmark = pytest.mark.filterwarnings("ignore:.*is all zero")


@pytest.mark.parametrize("k", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("seed", range(4))
def test_it_is_the_papers_formula(seed, k):
    """Fuad et al.: channels cut at mu + k sigma, weighted by their mean."""
    net, x = READABLE.model(seed=seed), READABLE.images(2, seed=seed)
    found = FEM(layer="4", k=k)(net, x, 0)
    for row in range(2):
        A = forward(net, array(x[row]))[5]
        expected = np.zeros(A.shape[1:])
        for channel in A:
            expected += channel.mean() * (channel >= channel.mean() + k * channel.std() - 1e-12)
        assert_same(found[row, 0], torch.from_numpy(expected), 1e-9)


def test_a_channel_that_is_the_same_everywhere_says_nothing_about_where():
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Flatten(), nn.Linear(32, 2)).double()
    with torch.no_grad():
        model[0].weight.zero_()
    found = FEM(layer="0")(model, torch.rand(1, 1, 4, 4, dtype=torch.float64), 0)
    assert float(found.max() - found.min()) < 1e-12


def test_of_two_positions_the_higher_one_is_exactly_one_deviation_above_the_mean():
    model = nn.Sequential(nn.Conv2d(3, 64, 1), nn.Flatten(), nn.Linear(128, 2)).double()
    x = torch.rand(5, 3, 1, 2, dtype=torch.float64)
    A = model[0](x).detach()
    expected = (A.mean((2, 3), keepdim=True) * (A.amax((2, 3), keepdim=True) == A)).sum(1, keepdim=True)
    assert_same(FEM(layer="0")(model, x, 0), expected, 1e-12)
