"""Captum's methods of forward passes alone: the same numbers where the definition is the same."""

import numpy as np
import pytest
import torch
from captum.attr import FeatureAblation as CaptumFeatureAblation
from captum.attr import KernelShap, LimeBase, ShapleyValues, ShapleyValueSampling
from captum.attr import Occlusion as CaptumOcclusion

from deepviz.diagnostics import ERROR
from deepviz.methods import LIME, FeatureAblation, KernelSHAP, Occlusion, ShapleySampling
from deepviz.methods.perturbation.cells import halves, partition
from networks import READABLE, assert_same
from perturbation_by_hand import curved

TOLERANCE = 1e-5  # Captum adds up in float32
PARTS = torch.arange(120).view(10, 12) % 6
MASK = torch.arange(8).view(1, 1, 8)


@pytest.mark.parametrize(("window", "stride"), [(4, 2), (2, 1), (2, 2)])
def test_occlusion_where_the_windows_fit(window, stride):
    model, x = READABLE.model().eval(), READABLE.images(2)
    theirs = CaptumOcclusion(model).attribute(x, (2, window, window), (2, stride, stride), baselines=0.3, target=1)
    ours = Occlusion(window=window, stride=stride, baseline=0.3)(model, x, 1)
    assert_same(ours.expand_as(theirs), theirs, TOLERANCE)


def test_feature_ablation():
    model, x = READABLE.model().eval(), READABLE.images(2)
    theirs = CaptumFeatureAblation(model).attribute(x, 0.3, target=1, feature_mask=PARTS.repeat(1, 2, 1, 1))
    assert_same(FeatureAblation(cells=PARTS, baseline=0.3)(model, x, 1).expand_as(theirs), theirs, TOLERANCE)


def test_shapley_values_of_six_parts():
    model, x = READABLE.model().eval(), READABLE.images(1)
    theirs = ShapleyValues(model).attribute(x, target=1, feature_mask=PARTS.repeat(1, 2, 1, 1))
    exact = KernelSHAP(cells=PARTS, max_passes=64)(model, x, 1)
    assert_same(exact.expand_as(theirs), theirs, TOLERANCE)
    found = ShapleySampling(cells=PARTS, max_passes=2000).attribute(model, x, 1)
    assert ((found.maps - exact).abs() <= 3.5 * found.notes.maps[ERROR] + 1e-12).all()


def test_sampled_shapley_values_come_to_the_same():
    model, x = curved()
    exact = KernelSHAP(cells=8)(model, x, 1)
    torch.manual_seed(0)
    orders = ShapleyValueSampling(model).attribute(x, target=1, n_samples=600, perturbations_per_eval=8)
    fit = KernelShap(model).attribute(x, target=1, n_samples=4000, perturbations_per_eval=100)
    assert float((orders - exact).norm()) < 0.1 * float(exact.norm())
    assert float((fit - exact).norm()) < 0.1 * float(exact.norm())


def test_lime_with_the_same_combinations():
    linear_model = pytest.importorskip("sklearn.linear_model")
    from captum._utils.models.linear_model import SkLearnLinearModel

    class Ridge(SkLearnLinearModel):
        def __init__(self):
            super().__init__(sklearn_module="linear_model.Ridge", alpha=1.0)

    assert linear_model.Ridge().alpha == 1.0

    def combinations(*_, **__):
        yield torch.ones(1, 8)
        for number in range(1, 100):
            yield halves(8, 0, [number])

    def similarity(original, perturbed, z, **_):
        D = 1 - z.double().mean().sqrt()
        return torch.exp(-(D**2) / 0.25**2).sqrt()

    def covered(z, original, **_):
        return original * z.to(original).view(1, 1, 8)

    model, x = curved()
    method = LimeBase(model, Ridge(), similarity, combinations, True, covered, None)
    theirs = method.attribute(x, target=1, n_samples=100).view(1, 1, 8)
    ours = LIME(cells=8, max_passes=100)(model, x, 1)
    assert partition(x, 8).count == 8
    assert np.isfinite(theirs.numpy()).all()
    assert_same(ours, theirs, 1e-4)  # their fit too
