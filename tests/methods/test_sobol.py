import pytest
import torch
from torch import nn

from deepviz.diagnostics import ERROR
from deepviz.errors import MethodError
from deepviz.methods import Sobol
from deepviz.probe.seeds import generator_of
from networks import assert_same
from perturbation_by_hand import coverage, curved, repeats

# of few passes on random weights
pytestmark = pytest.mark.filterwarnings("ignore:the standard error of")


class Polynomial(nn.Module):
    """f = 2 u_0 + u_1^2 + 3 u_0 u_2 of a signal's first places; the fourth is not read."""

    def forward(self, x):
        a, b, c, _ = x.flatten(1).unbind(1)
        return torch.stack([2 * a + b**2 + 3 * a * c, 0 * a], 1)


def shares():
    """In closed form, u uniform: V_0 = (3.5)^2/12, V_1 = 4/45, V_2 = (1.5)^2/12, V_02 = 9/144."""
    V0, V1, V2, V02 = 3.5**2 / 12, 4 / 45, 1.5**2 / 12, 9 / 144
    V = V0 + V1 + V2 + V02
    return torch.tensor([(V0 + V02) / V, V1 / V, (V2 + V02) / V, 0], dtype=torch.float64)


def test_the_indices_of_a_polynomial_are_those_in_closed_form():
    x = torch.ones(1, 1, 4, dtype=torch.float64)
    found = Sobol(cells=4, max_passes=6 * 4000).attribute(Polynomial(), x, 0)
    off = (found.maps.flatten() - shares()).abs()
    errors = found.notes.maps[ERROR].flatten()
    assert (off <= 3.5 * errors).all()
    assert errors.max() < 0.02
    assert float(found.maps.flatten()[3]) == 0


def test_it_is_jansens_estimator():
    model, x = curved()
    fa, fb, fc = [], [], []
    for number in range(6):
        A, B = torch.rand(2, 8, generator=generator_of(3, number))
        fa.append(model(x * A)[0, 1].detach())
        fb.append(model(x * B)[0, 1].detach())
        fc.append([model(x * torch.cat([A[:k], B[k : k + 1], A[k + 1 :]]))[0, 1].item() for k in range(8)])
    variance = torch.stack(fa + fb).var()
    R = (torch.stack(fa)[:, None] - torch.tensor(fc, dtype=torch.float64)).square().mean(0) / 2 / variance
    found = Sobol(cells=8, max_passes=69, seed=3).attribute(model, x, 1)
    assert_same(found.maps.flatten(), R, 1e-9)
    assert found.notes.rows["forward passes"].tolist() == [60]


def test_standard_errors_hold_the_indices():
    model, x = curved()
    generator = torch.Generator().manual_seed(0)
    A, B = torch.rand(2, 200_000, 8, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        fa, fb = model(A * x[0])[:, 1], model(B * x[0])[:, 1]
        swapped = [model(torch.where(torch.arange(8) == k, B, A) * x[0])[:, 1] for k in range(8)]
    truth = torch.stack([(fa - fc).square().mean() for fc in swapped]) / 2 / torch.cat([fa, fb]).var()
    assert 0.92 <= coverage(Sobol(cells=8, max_passes=1000), truth) <= 0.99


def test_of_a_linear_model_they_are_shares_that_sum_to_one():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).double()
    x = torch.rand(1, 1, 4, dtype=torch.float64)
    a = (x.flatten() * model[1].weight[1]).detach().square()
    found = Sobol(cells=4, max_passes=12000).attribute(model, x, 1)
    off = (found.maps.flatten() - a / a.sum()).abs()
    assert (off <= 3.5 * found.notes.maps[ERROR].flatten()).all()


def test_a_constant_score_has_no_variance_to_share():
    class Constant(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :2] * 0 + 1

    with pytest.warns(match="all zero"):
        assert not Sobol(cells=2, max_passes=40)(Constant(), torch.rand(1, 1, 4), 1).any()


def test_too_few_passes():
    model, x = curved()
    with pytest.raises(MethodError, match=r"needs at least 20 forward passes for 8 parts .* max_passes is 19"):
        Sobol(cells=8, max_passes=19)(model, x, 1)


def test_it_repeats():
    repeats(Sobol(cells=8, max_passes=100))
