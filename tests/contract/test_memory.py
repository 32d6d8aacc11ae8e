"""Calls leave nothing behind: no tensors, no memory, no models kept alive."""

import gc
import weakref
from pathlib import Path

import pytest
import torch
from torch import nn

from networks import CASES, METHODS

pytestmark = pytest.mark.filterwarnings("ignore::deepviz.errors.DeepVizWarning")
methods = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())


def tensors_alive() -> int:
    # the type, since isinstance() asks lazy objects of other libraries, which answer with warnings
    return sum(issubclass(type(value), torch.Tensor) for value in gc.get_objects())


def resident() -> int:
    """Memory in use, in pages of 4 KiB; 0 where the system does not say."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) if statm.exists() else 0


@pytest.fixture(autouse=True, scope="module")
def _no_collector():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@methods
def test_two_hundred_calls_leave_memory_flat_without_the_cycle_collector(method):
    model, x = CASES["plain"].model(torch.float32), torch.rand(1, 3, 32, 32)
    for _ in range(3):
        method(model, x)
    tensors, pages = tensors_alive(), resident()
    for _ in range(200):
        method(model, x)
    assert tensors_alive() <= tensors
    assert resident() - pages < 1500  # 6 MiB; two hundred graphs of this network would take more than 20


@methods
@pytest.mark.parametrize("name", ["plain", "viewing", "vit"])
def test_no_cache_keeps_a_model_alive(method, name):
    model, x = CASES[name].model(), CASES[name].images()
    method(model, x)
    gone = weakref.ref(model)
    del model
    assert gone() is None  # at once, without the cycle collector


@methods
def test_a_model_that_crashed_is_not_kept_alive(method):
    model, x = CASES["plain"].model().append(nn.Linear(3, 3)), CASES["plain"].images()
    with pytest.raises(RuntimeError):
        method(model, x)
    gone = weakref.ref(model)
    del model
    assert gone() is None  # at once, without the cycle collector
