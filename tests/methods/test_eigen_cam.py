import numpy as np
import pytest
import torch
from torch import nn

import deepviz
from deepviz.methods import EigenCAM, GradCAM
from networks import READABLE, Case, assert_same


@pytest.mark.parametrize("channels", [3, 40], ids=["fewer channels than positions", "more"])
@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_projection_on_the_first_singular_vector(seed, channels):
    """Muhammad and Yeasin, section III, by numpy's own decomposition."""
    case = Case(
        lambda: nn.Sequential(nn.Conv2d(2, channels, 3), nn.ReLU(), nn.Flatten(), nn.Linear(25 * channels, 3)),
        (2, 7, 7),
    )
    net, x = case.model(seed=seed), case.images(2, seed=seed)
    found = EigenCAM(layer="1")(net, x, 0)
    for row in range(2):
        A = net[:2](x[row : row + 1])[0].detach().flatten(1).T.numpy()  # positions x channels
        _, _, Vt = np.linalg.svd(A, full_matrices=False)
        expected = A @ Vt[0]
        assert_same(found[row, 0].flatten(), torch.from_numpy(expected * np.sign((expected**3).sum())), 1e-8)


def test_after_a_relu_it_is_nowhere_negative():
    """Perron and Frobenius: the first singular vectors of a matrix without negative entries have none."""
    net, x = READABLE.model(), READABLE.images(4)
    assert float(EigenCAM(layer="4")(net, x, 0).min()) >= -1e-12


def test_it_knows_no_class():
    net, x = READABLE.model(), READABLE.images(2)
    found = EigenCAM(layer="4").attribute(net, x, torch.tensor([[0, 1], [2, 1]]))
    assert found.maps.shape[:2] == (2, 2)
    assert torch.equal(found.maps[:, 0], found.maps[:, 1])
    assert found.notes.facts["objective"] == "none: the map is the same for every class"


class Pattern(nn.Module):
    def forward(self, x):
        return x[:, :1] * torch.tensor([1.0, 2.0, 2.0], dtype=x.dtype).view(1, 3, 1, 1)


def test_one_pattern_in_all_channels_is_that_pattern():
    """A = a b^T: the first singular vector is b / |b|, and the map a |b|."""
    model = nn.Sequential(Pattern(), nn.Flatten(), nn.Linear(3 * 16, 2)).double()
    x = torch.rand(2, 1, 4, 4, dtype=torch.float64)
    assert_same(EigenCAM(layer="0")(model, x, 0), 3 * x, 1e-9)


def test_its_caption_says_that_it_knows_no_class():
    (found,) = deepviz.explain(READABLE.model(torch.float32), torch.rand(2, 10, 12), EigenCAM(layer="4"), target=1)
    assert "the same for every class" in found.caption
    (other,) = deepviz.explain(READABLE.model(torch.float32), torch.rand(2, 10, 12), GradCAM("4", relu=False), target=1)
    assert "every class" not in other.caption
