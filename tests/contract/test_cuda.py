"""On a GPU the maps are those of the CPU, lie where the image lies, and adapt to the memory there is."""

import gc

import pytest
import torch

from deepviz.errors import ModelFailed
from deepviz.probe.chunks import chunk_rows
from networks import CASES, METHODS, VARIANTS, Small, assert_same

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
    pytest.mark.filterwarnings("ignore::deepviz.errors.DeepVizWarning"),
]
DEVICE = torch.device("cuda", 0)
methods = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
variants = pytest.mark.parametrize("method", VARIANTS.values(), ids=VARIANTS.keys())
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


@pytest.fixture
def _full_precision():
    # without cuDNN, whose convolutions round float32 to TF32
    with torch.backends.cudnn.flags(enabled=False):
        yield


@variants
@cases
@pytest.mark.usefixtures("_full_precision")
def test_float32_agrees_with_the_cpu(method, case):
    model, x = case.model(torch.float32), case.images(3, torch.float32)
    expected = method(model, x)
    maps = method(model.to(DEVICE), x.to(DEVICE))
    assert maps.device == DEVICE
    assert maps.dtype == torch.float32
    assert_same(maps.cpu(), expected, 1e-3)


@methods
@pytest.mark.parametrize("case", [CASES["plain"], CASES["vit"]], ids=["plain", "vit"])
def test_bfloat16_is_near_the_cpu(method, case):
    model, x = case.model(torch.bfloat16), case.images(3, torch.bfloat16)
    maps = method(model.to(DEVICE), x.to(DEVICE), 1)
    assert maps.device == DEVICE
    assert maps.dtype == torch.bfloat16
    exact = method(model.cpu().float(), x.float(), 1)
    assert float((maps.cpu() - exact).norm()) <= 0.3 * float(exact.norm())


@methods
def test_everything_but_the_maps_is_on_the_cpu(method):
    model, x = CASES["plain"].model(torch.float32).to(DEVICE), CASES["plain"].images(3, torch.float32).to(DEVICE)
    found = method.attribute(model, x)
    assert found.classes.device.type == "cpu"
    assert all(values.device.type == "cpu" for values in found.notes.rows.values())


@methods
def test_targets_may_be_on_either_device(method):
    model, x = CASES["plain"].model(torch.float32).to(DEVICE), CASES["plain"].images(3, torch.float32).to(DEVICE)
    targets = torch.tensor([[0, 1], [2, 3], [4, 0]])
    maps = method(model, x, targets)
    assert maps.shape[:2] == (3, 2)
    assert_same(method(model, x, targets.to(DEVICE)), maps, 1e-3)


@methods
@pytest.mark.usefixtures("_full_precision")
def test_out_of_memory_halves_the_chunk(method):
    body, x = CASES["plain"].model(torch.float32).to(DEVICE), CASES["plain"].images(40, torch.float32).to(DEVICE)
    target = torch.arange(40) % 5
    small = Small(body, 2)
    maps = method(small, x, target)
    assert_same(maps, method(body, x, target), 1e-3)
    assert small.failures >= 1
    assert chunk_rows(small, x) <= 2 < chunk_rows(body, x)


@pytest.mark.parametrize("method", [m for m in METHODS.values() if not hasattr(m, "layer")], ids=str)
def test_one_row_that_does_not_fit_is_named(method):
    model, x = CASES["plain"].model(torch.float32).to(DEVICE), CASES["plain"].images(3, torch.float32).to(DEVICE)
    with pytest.raises(ModelFailed, match=rf"even one row \(3, 12, 12\) does not fit into the memory of {DEVICE}"):
        method(Small(model, 0), x, 1)


@methods
def test_nothing_stays_on_the_device(method):
    model, x = CASES["plain"].model(torch.float32).to(DEVICE), CASES["plain"].images(3, torch.float32).to(DEVICE)
    method(model, x)
    gc.collect()  # what earlier tests left in cycles
    before = torch.cuda.memory_allocated(DEVICE)
    for _ in range(20):
        method(model, x)
    gc.collect()
    assert torch.cuda.memory_allocated(DEVICE) == before
