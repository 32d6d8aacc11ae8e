import math

import numpy as np
import pytest
import torch

from deepviz.diagnostics import ERROR
from deepviz.errors import MethodError
from deepviz.methods import KernelSHAP
from deepviz.methods.perturbation.kernel_shap import _combination
from networks import READABLE, assert_same
from perturbation_by_hand import coverage, curved, repeats, shapley_values, table

# of few passes on random weights
pytestmark = pytest.mark.filterwarnings("ignore:the standard error of")


def constrained(z, y, w, change):
    """argmin_b sum_i w_i (y_i - z_i b)^2 with sum b = change, by the last of b taken out."""
    rest = z[:, :-1] - z[:, -1:]
    b = np.linalg.lstsq(rest * np.sqrt(w)[:, None], (y - z[:, -1] * change) * np.sqrt(w), rcond=None)[0]
    return torch.from_numpy(np.append(b, change - b.sum()))


def test_all_combinations_give_the_shapley_values():
    model, x = curved()
    S = table(model, x)
    found = KernelSHAP(cells=8, max_passes=256).attribute(model, x, 1)
    assert_same(found.maps.flatten(), shapley_values(S), 1e-9)
    assert not found.notes.maps[ERROR].any()
    assert found.notes.rows["forward passes"].tolist() == [256]
    inner = [z for z in S if 0 < sum(z) < 8]
    w = [7 / (math.comb(8, sum(z)) * sum(z) * (8 - sum(z))) for z in inner]
    y = np.array([S[z] for z in inner]) - S[(0,) * 8]
    by_theorem_2 = constrained(np.array(inner, float), y, np.array(w), S[(1,) * 8] - S[(0,) * 8])
    assert_same(found.maps.flatten(), by_theorem_2, 1e-9)


def test_a_sample_is_the_fit_to_each_combination_and_its_complement():
    model, x = curved()
    S = table(model, x)
    z = [tuple(_combination(8, 4, number).int().tolist()) for number in range(49)]
    z += [tuple(1 - k for k in one) for one in z]
    y = np.array([S[one] for one in z]) - S[(0,) * 8]
    expected = constrained(np.array(z, float), y, np.ones(98), S[(1,) * 8] - S[(0,) * 8])
    found = KernelSHAP(cells=8, max_passes=100, seed=4).attribute(model, x, 1)
    assert_same(found.maps.flatten(), expected, 1e-9)
    assert found.notes.rows["forward passes"].tolist() == [100]


def test_combinations_are_drawn_in_proportion_to_the_kernel():
    sizes = torch.stack([_combination(6, 0, number) for number in range(6000)]).sum(1)
    p = np.array([1 / (s * (6 - s)) for s in range(1, 6)])
    counts = np.array([(sizes == s).sum() for s in range(1, 6)])
    expected = 6000 * p / p.sum()
    assert ((counts - expected) ** 2 / expected).sum() < 18.5  # 99.9 % of chi squared with 4 degrees of freedom


@pytest.mark.parametrize("passes", [60, 200])
def test_standard_errors_hold_the_shapley_values(passes):
    model, x = curved()
    assert 0.92 <= coverage(KernelSHAP(cells=8, max_passes=passes), shapley_values(table(model, x))) <= 0.99


def test_values_sum_to_the_change_of_the_score():
    model, x = READABLE.model(), READABLE.images(2)
    found = KernelSHAP(cells=4, max_passes=80)(model, x, torch.tensor([[0, 1], [2, 1]]))
    change = torch.stack(
        [(model(x) - model(0 * x))[row, k].detach() for row, ks in enumerate(([0, 1], [2, 1])) for k in ks]
    )
    assert_same(found.sum((2, 3, 4)).flatten(), change, 1e-9)


def test_one_part_is_the_whole_change():
    model, x = curved()
    found = KernelSHAP(cells=1, max_passes=2, tolerance=0.1).attribute(model, x, 1)
    assert_same(found.maps.flatten(), (model(x) - model(0 * x))[:, 1].detach(), 1e-12)


def test_too_few_passes():
    model, x = curved()
    with pytest.raises(MethodError, match=r"needs at least 20 forward passes for 8 parts .* max_passes is 19"):
        KernelSHAP(cells=8, max_passes=19)(model, x, 1)


def test_combinations_that_do_not_tell_the_parts_apart_are_refused():
    """Nine of them hardly ever do: no values, rather than some that the sample does not determine."""
    model, x = curved()
    kinds = set()
    for seed in range(20):
        z = torch.stack([_combination(8, seed, number) for number in range(9)])
        enough = int(torch.linalg.matrix_rank(z - z.mean(1, keepdim=True))) == 7
        method = KernelSHAP(cells=8, max_passes=20, seed=seed)
        kinds.add(enough)
        if enough:
            assert method(model, x, 1).isfinite().all()
            continue
        with pytest.raises(MethodError, match="cannot tell the parts of the image apart by 20 forward passes"):
            method(model, x, 1)
    assert kinds == {True, False}


def test_it_repeats():
    repeats(KernelSHAP(cells=8, max_passes=100))
