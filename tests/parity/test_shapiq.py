"""Exact Shapley values are those of shapiq, and sampled ones lie within their own error bars of them."""

import numpy as np
import pytest
import torch

from deepviz.diagnostics import ERROR
from deepviz.methods import KernelSHAP, ShapleySampling
from networks import assert_same
from perturbation_by_hand import curved

pytestmark = pytest.mark.filterwarnings("ignore")  # shapiq's own, and of few passes on random weights
exact = pytest.importorskip("shapiq.game_theory.exact", reason="shapiq is not installed: pip install shapiq")


@pytest.fixture(scope="module")
def values():
    model, x = curved()

    def game(coalitions):
        z = torch.from_numpy(np.asarray(coalitions, float))
        with torch.no_grad():
            return model(x * z[:, None])[:, 1].numpy()

    found = exact.ExactComputer(n_players=8, game=game)("SV").dict_values
    return torch.tensor([found[(part,)] for part in range(8)], dtype=torch.float64)


def test_kernel_shap_of_all_combinations(values):
    model, x = curved()
    assert_same(KernelSHAP(cells=8, max_passes=256)(model, x, 1).flatten(), values, 1e-9)


@pytest.mark.parametrize(
    "method", [KernelSHAP(cells=8, max_passes=120), ShapleySampling(cells=8, max_passes=400)], ids=str
)
def test_samples_within_four_standard_errors(values, method):
    model, x = curved()
    found = method.attribute(model, x, 1)
    errors = found.notes.maps[ERROR].flatten()
    assert errors.min() > 0
    assert ((found.maps.flatten() - values).abs() <= 4 * errors).all()
