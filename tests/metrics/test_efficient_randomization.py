"""Efficient randomisation: the entropy of a histogram, and its relative rise."""

from dataclasses import dataclass
from math import log

import numpy as np
import pytest
import torch

from deepviz.errors import DeepVizWarning
from deepviz.methods import Gradient
from deepviz.methods.method import Method
from deepviz.metrics.efficient_randomization import EfficientRandomization, histogram_entropy
from deepviz.metrics.parameter_randomization import ParameterRandomization
from networks import assert_same, plain

X = torch.rand(3, 3, 16, 12, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def net():
    torch.manual_seed(1)
    return plain().eval()


def entropy_by_hand(values, bins):
    p = np.histogram(values, bins)[0] / values.size
    return -sum(share * log(share) for share in p if share)


@pytest.mark.parametrize("bins", [2, 7, 100])
def test_the_entropy_is_that_of_a_histogram(bins):
    maps = torch.randn(4, 20, 15, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = [entropy_by_hand(map_.numpy(), bins) for map_ in maps]
    assert histogram_entropy(maps, bins).tolist() == pytest.approx(expected, abs=1e-12)


def test_known_entropies():
    every = torch.arange(100.0).view(1, 10, 10)
    assert float(histogram_entropy(every, 100)) == pytest.approx(log(100))
    assert float(histogram_entropy((every < 50).float(), 100)) == pytest.approx(log(2))
    assert float(histogram_entropy(torch.full((1, 10, 10), 3.0), 100)) == 0
    assert_same(histogram_entropy(-5 * every + 3, 100), histogram_entropy(every, 100), 1e-12)


def test_the_rise_is_relative_to_the_trained_networks_map(net):
    maps = ParameterRandomization(seed=4).curve(net, X, Gradient(), maps=True).maps
    H, H_r = (np.array([entropy_by_hand(map_.numpy(), 50) for map_ in of]) for of in (maps[0], maps[-1]))
    found = EfficientRandomization(bins=50, seed=4)(net, X, Gradient())
    assert found.tolist() == pytest.approx(list((H_r - H) / H), abs=1e-6)
    assert not torch.equal(found, EfficientRandomization(bins=50, seed=5)(net, X, Gradient()))


def test_a_row_alone_is_the_row_in_the_batch(net):
    together = EfficientRandomization()(net.double(), X.double(), Gradient())
    alone = torch.cat([EfficientRandomization()(net, X[i : i + 1].double(), Gradient()) for i in range(3)])
    assert_same(alone, together, 1e-9)


@dataclass(frozen=True)
class Drawn(Method):
    """The image itself, or one value everywhere."""

    flat: bool = False

    def maps(self, session):
        x = session.image()
        return torch.ones_like(x) if self.flat else x


def test_what_ignores_the_model_gets_no_more_complex(net):
    assert EfficientRandomization()(net, X, Drawn()).tolist() == [0, 0, 0]


def test_a_map_that_is_the_same_everywhere_has_no_relative_rise(net):
    with pytest.warns(DeepVizWarning, match="is constant"):
        assert EfficientRandomization()(net, X, Drawn(flat=True)).tolist() == [0, 0, 0]


def test_a_histogram_needs_two_bins():
    with pytest.raises(ValueError, match="bins must be at least 2"):
        EfficientRandomization(bins=1)
