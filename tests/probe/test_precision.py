"""How far values may be apart by rounding."""

import copy

import pytest
import torch
from torch import nn

from deepviz.methods import Gradient
from deepviz.probe.precision import FULL, REDUCED, is_reduced, rounding

GPU, CPU = torch.device("cuda"), torch.device("cpu")


@pytest.fixture(params=[True, False], ids=["TF32", "full"])
def tf32(request):
    backends = torch.backends
    before = backends.cudnn.conv.fp32_precision, backends.cuda.matmul.fp32_precision
    backends.cudnn.conv.fp32_precision = "tf32" if request.param else "ieee"
    backends.cuda.matmul.fp32_precision = "ieee"
    yield request.param
    backends.cudnn.conv.fp32_precision, backends.cuda.matmul.fp32_precision = before


def test_float32_on_a_gpu_has_the_digits_of_tf32_where_that_is_allowed(tf32):
    assert is_reduced(GPU, torch.float32) == tf32
    assert not is_reduced(GPU, torch.float64)
    assert not is_reduced(CPU, torch.float32)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_reduced_in_the_image_or_the_weights(dtype):
    assert rounding(torch.zeros(1, dtype=dtype)) == REDUCED
    assert rounding(torch.zeros(1), torch.float32, dtype) == REDUCED
    assert rounding(torch.zeros(1), torch.float32) == FULL
    assert rounding(torch.zeros(1, dtype=torch.float64), torch.float64) == FULL


def test_so_are_products_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        assert rounding(torch.zeros(1)) == REDUCED
        assert rounding(torch.zeros(1, dtype=torch.float64)) == FULL
    assert rounding(torch.zeros(1)) == FULL


class Rounded(nn.Module):
    """What a row gives depends on how many rows there are, by as much as TF32 makes of other kernels."""

    def __init__(self, off):
        super().__init__()
        torch.manual_seed(0)
        self.head, self.off = nn.Linear(48, 3), off
        self.rows = []

    def forward(self, x):
        self.rows.append(len(x))
        return self.head(x.flatten(1)) * (1 + self.off * (len(x) > 1))


@pytest.mark.parametrize(("off", "together"), [(2e-3, True), (0.2, False)])
def test_rows_go_together_under_autocast_where_only_rounding_tells_them_apart(off, together):
    model, x = Rounded(off), torch.rand(4, 3, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        Gradient()(model, x, 1)
        model.rows.clear()
        Gradient()(model, x, 1)
    assert model.rows == ([4] if together else [1, 1, 1, 1])
    exact = copy.deepcopy(model)
    Gradient()(exact, x, 1)
    exact.rows.clear()
    Gradient()(exact, x, 1)
    assert exact.rows == [1, 1, 1, 1]
