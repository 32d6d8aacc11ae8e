import pytest
import torch
from torch import nn

from deepviz.methods import FeatureAblation
from networks import READABLE, Case, assert_same


def test_it_is_the_fall_without_each_part():
    model, x = READABLE.model(), READABLE.images(2)
    parts = torch.arange(120).view(10, 12) % 7
    found = FeatureAblation(cells=parts, baseline=-0.3)(model, x, 2)
    for row in range(2):
        for part in range(7):
            without = torch.where(parts == part, -0.3, x[row : row + 1])
            fall = (model(x[row : row + 1]) - model(without))[0, 2].detach()
            assert_same(found[row, 0][parts == part], fall.expand(int((parts == part).sum())), 1e-12)


def test_of_a_linear_model_the_falls_sum_to_the_change():
    case = Case(lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 9, 2)), (3, 8, 9))
    model, x = case.model(), case.images(2)
    change = (model(x) - model(0 * x))[:, 1].detach()
    found = FeatureAblation(cells=3)(model, x, 1)
    assert found.shape == (2, 1, 3, 3)
    assert_same(found.sum((1, 2, 3)), change, 1e-12)


def test_evidence_that_two_parts_hold_alike_is_missed():
    class Either(nn.Module):
        def forward(self, x):
            return x.flatten(1).amax(1, keepdim=True).expand(-1, 2)

    with pytest.warns(match="all zero"):
        assert not FeatureAblation(cells=2)(Either(), torch.tensor([[[1.0, 1.0]]]), 1).any()


def test_more_parts_than_a_round_of_passes():
    model, x = READABLE.model(), READABLE.images(1)
    found = FeatureAblation(cells=10).attribute(model, x, 1)
    assert found.notes.rows["forward passes"].tolist() == [101]
    cell = x.clone()
    cell[..., 9, 10:12] = 0  # columns of 12 in 10 cells: the last holds two
    assert_same(found.maps[0, 0, 9, 9], (model(x) - model(cell))[0, 1].detach(), 1e-9)


def test_superpixels_of_the_image():
    pytest.importorskip("skimage")
    model, x = READABLE.model(), READABLE.images(1)
    found = FeatureAblation(cells="superpixels")(model, x, 1)
    assert found.shape == (1, 1, 10, 12)
    assert 1 < found.unique().numel() <= 120
    assert FeatureAblation(cells="superpixels").passes() == 51
