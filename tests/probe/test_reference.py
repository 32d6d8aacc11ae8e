"""What stands for "nothing there"."""

import pytest
import torch

from deepviz.probe.reference import blurred, reference, resolve_baseline
from networks import assert_same


def test_a_blur_preserves_constants_and_the_mean_of_the_inside():
    constant = torch.full((1, 2, 17, 23), 0.37, dtype=torch.float64)
    assert_same(blurred(constant, 1.7), constant, 1e-14)
    spot = torch.zeros(1, 1, 41, 41, dtype=torch.float64)
    spot[0, 0, 20, 20] = 1
    wide = blurred(spot, 2.0)
    assert abs(float(wide.sum()) - 1) < 1e-12
    assert_same(wide, wide.transpose(2, 3), 1e-14)
    offset = torch.arange(41.0, dtype=torch.float64) - 20
    assert abs(float((wide.sum((0, 1, 2)) * offset**2).sum()) - 4) < 0.15  # its variance is sigma squared


def test_the_blurred_baseline_of_one_row_knows_nothing_of_the_others():
    x = torch.rand(3, 3, 9, 7, dtype=torch.float64)
    assert_same(blurred(x, 1.0)[:1], blurred(x[:1], 1.0), 1e-14)


def test_a_number_and_a_tensor_fill_every_row_and_share_nothing_with_it():
    x = torch.rand(2, 3, 4, 5)
    value = torch.tensor([1.0, 2.0, 3.0])[:, None, None]
    assert_same(reference(x, 0.5), torch.full_like(x, 0.5), 0)
    start = reference(x, value)
    start.zero_()
    assert value.flatten().tolist() == [1, 2, 3]


def test_a_colour_is_a_number_only_where_the_preprocessing_is_known():
    grey = torch.full((3, 1, 1), 0.5)
    assert resolve_baseline("grey", {"grey": grey}.__getitem__) is grey
    assert resolve_baseline("blur", {}.__getitem__) == "blur"
    assert resolve_baseline(0.25, {}.__getitem__) == 0.25
    with pytest.raises(ValueError, match="'grey' is a colour"):
        reference(torch.rand(1, 3, 4, 4), "grey")
