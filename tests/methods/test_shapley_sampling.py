import pytest
import torch

from deepviz.diagnostics import ERROR
from deepviz.errors import MethodError
from deepviz.methods import ShapleySampling
from deepviz.probe.seeds import generator_of
from networks import READABLE, assert_same
from perturbation_by_hand import coverage, curved, repeats, shapley_values, table, with_part

# of few passes on random weights
pytestmark = pytest.mark.filterwarnings("ignore:the standard error of")


def test_it_is_the_mean_over_orders_and_their_reverses():
    model, x = curved()
    S = table(model, x)
    R = torch.zeros(8, dtype=torch.float64)
    for number in range(5):
        order = torch.randperm(8, generator=generator_of(3, number)).tolist()
        for one in (order, order[::-1]):
            z = (0,) * 8
            for k in one:
                R[k] += (S[with_part(z, k)] - S[z]) / 10
                z = with_part(z, k)
    found = ShapleySampling(cells=8, max_passes=2 + 5 * 14, seed=3).attribute(model, x, 1)
    assert_same(found.maps.flatten(), R, 1e-9)
    assert found.notes.rows["forward passes"].tolist() == [72]


def test_values_sum_to_the_change_of_the_score():
    model, x = READABLE.model(), READABLE.images(2)
    found = ShapleySampling(cells=3, max_passes=40, baseline=0.2)(model, x, 1)
    change = (model(x) - model(torch.full_like(x, 0.2)))[:, 1].detach()
    assert_same(found.sum((1, 2, 3)), change, 1e-9)


def test_standard_errors_hold_the_shapley_values():
    model, x = curved()
    assert 0.92 <= coverage(ShapleySampling(cells=8, max_passes=450), shapley_values(table(model, x))) <= 0.99


def test_a_sum_of_pairs_is_exact_from_two_pairs_of_orders():
    x = torch.rand(1, 1, 6, dtype=torch.float64)

    class Pairs(torch.nn.Module):
        def forward(self, x):
            x = x.flatten(1)
            score = x.sum(1) + (x[:, :, None] * x[:, None, :]).sum((1, 2))
            return torch.stack([score, -score], 1)

    found = ShapleySampling(cells=6, max_passes=22).attribute(Pairs(), x, 0)
    assert_same(found.maps.flatten(), shapley_values(table(Pairs(), x, 0)), 1e-12)
    assert float(found.notes.maps[ERROR].max()) < 1e-12


def test_one_part_is_the_whole_change():
    model, x = curved()
    found = ShapleySampling(cells=1, max_passes=2).attribute(model, x, 1)
    assert_same(found.maps.flatten(), (model(x) - model(0 * x))[:, 1].detach(), 1e-12)
    assert float(found.notes.maps[ERROR]) == 0


def test_too_few_passes():
    model, x = curved()
    with pytest.raises(MethodError, match=r"needs at least 30 forward passes for 8 parts .* max_passes is 29"):
        ShapleySampling(cells=8, max_passes=29)(model, x, 1)
    assert ShapleySampling(cells=8, max_passes=30)(model, x, 1).shape == (1, 1, 8)


def test_it_repeats():
    repeats(ShapleySampling(cells=8, max_passes=100))
