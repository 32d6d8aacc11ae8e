import numpy as np
import pytest
import torch

from deepviz.diagnostics import ERROR
from deepviz.methods import HSIC
from deepviz.methods.perturbation.cells import halves
from deepviz.methods.perturbation.hsic import dependence
from networks import assert_same
from perturbation_by_hand import coverage, curved, repeats, table

# of few passes on random weights
pytestmark = pytest.mark.filterwarnings("ignore:the standard error of")


def gaussian(f, width=None):
    apart = np.abs(f[:, None] - f[None, :])
    pairs = np.sort(apart[np.triu_indices(len(f), 1)])
    w = pairs[(len(pairs) - 1) // 2] if width is None else width
    return np.exp(-(apart**2) / (2 * w**2))


def by_quadruples(z, f):
    """The mean over all (i, j, q, r), no two alike, of k_ij (l_ij + l_qr - 2 l_iq) (Song et al. 2012, theorem 2)."""
    K, L = np.where(z[:, None] == z[None, :], 0.5, -0.5), gaussian(f)
    total, count = 0.0, 0
    for i in range(len(f)):
        for j in range(len(f)):
            for q in range(len(f)):
                for r in range(len(f)):
                    if len({i, j, q, r}) == 4:
                        total += K[i, j] * (L[i, j] + L[q, r] - 2 * L[i, q])
                        count += 1
    return total / count


def test_it_is_the_mean_over_quadruples():
    z = halves(3, 1, range(9))
    f = torch.randn(9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found, _ = dependence(2 * z.double() - 1, f)
    expected = [by_quadruples(z[:, k].numpy(), f.numpy()) for k in range(3)]
    assert_same(found, torch.tensor(expected, dtype=torch.float64), 1e-9)


def test_the_map_is_the_dependence_of_each_part():
    model, x = curved()
    S = table(model, x)
    z = list(halves(8, 2, range(100)))
    f = torch.tensor([S[tuple(one.int().tolist())] for one in z], dtype=torch.float64)
    R, errors = dependence(2 * torch.stack(z).double() - 1, f)
    found = HSIC(cells=8, max_passes=100, seed=2).attribute(model, x, 1)
    assert_same(found.maps.flatten(), R, 1e-9)
    assert_same(found.notes.maps[ERROR].flatten(), errors, 1e-6)


def test_it_is_near_the_papers_estimate_less_its_bias():
    """tr(K H L H)/(n - 1)^2, whose bias is of the order of 1/n."""
    z = halves(4, 1, range(800))
    f = (z @ torch.tensor([1.0, 0.5, 0.0, -2.0])).double()
    found, _ = dependence(2 * z.double() - 1, f)
    H = np.eye(800) - 1 / 800
    L = H @ gaussian(f.numpy()) @ H
    papers = []
    for k in range(4):
        K = np.where(z[:, None, k] == z[None, :, k], 0.5, -0.5)
        papers.append((K * L).sum() / 799**2)
    assert (torch.tensor(papers, dtype=torch.float64) - found).abs().max() < 1 / 800
    assert (torch.tensor(papers) > 0).all()
    assert (found >= -3 / 800).all()


def exact():
    """HSIC with all combinations alike in probability, the kernel as wide as the median of independent values."""
    model, x = curved()
    S = table(model, x)
    z, f = np.array(list(S)), np.array(list(S.values()))
    L = gaussian(f, np.median(np.abs(f[:, None] - f[None, :])))
    H = np.eye(256) - 1 / 256
    centred = H @ L @ H
    return torch.tensor([(np.where(z[:, None, k] == z[None, :, k], 0.5, -0.5) * centred).mean() for k in range(8)])


@pytest.mark.parametrize("passes", [100, 300])
def test_standard_errors_hold_the_dependence(passes):
    assert 0.92 <= coverage(HSIC(cells=8, max_passes=passes), exact()) <= 0.99


def test_of_noise_it_is_zero_within_its_error():
    """Of values that do not depend on the parts the estimate has no bias; its error is on the safe side."""
    found, scaled = [], []
    generator = torch.Generator().manual_seed(1)
    for seed in range(400):
        z = halves(4, seed, range(60))
        R, errors = dependence(2 * z.double() - 1, torch.randn(60, generator=generator, dtype=torch.float64))
        found.append(R)
        scaled.append(R / errors)
    found, scaled = torch.cat(found), torch.cat(scaled)
    assert float((scaled.abs() <= 1.96).double().mean()) >= 0.95
    assert 0.4 < float(scaled.std()) < 1
    assert abs(float(found.mean())) < 3 * float(found.std()) / 1600**0.5


def test_a_part_that_is_not_read_has_none():
    model, x = curved()
    with torch.no_grad():
        model.inner.weight[:, 3] = 0
    found = HSIC(cells=8, max_passes=400).attribute(model, x, 1)
    R, errors = found.maps.flatten(), found.notes.maps[ERROR].flatten()
    assert abs(float(R[3])) < 3 * float(errors[3])
    assert float(R.max()) > 10 * abs(float(R[3]))


def test_it_is_at_most_a_quarter():
    z = torch.tensor([[0.0], [1.0]]).repeat(200, 1)
    found, _ = dependence(2 * z.double() - 1, 1000 * z[:, 0].double())
    assert float(found) <= 0.2501


def test_a_constant_score_depends_on_nothing():
    class Constant(torch.nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :2] * 0 + 1

    with pytest.warns(match="all zero"):
        assert not HSIC(cells=2, max_passes=40)(Constant(), torch.rand(1, 1, 4), 1).any()


def test_it_repeats():
    repeats(HSIC(cells=8, max_passes=100))
