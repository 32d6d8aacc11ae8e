"""Calls leave nothing behind: no tensors, no memory, no models kept alive."""

import gc
import resource
import weakref

import pytest
import torch
from networks import CASES, METHODS
from torch import nn

pytestmark = pytest.mark.filterwarnings("ignore::deepviz.errors.DeepVizWarning")
methods = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())


def tensors_alive() -> int:
    # the type, since isinstance() asks lazy objects of other libraries, which answer with warnings
    return sum(issubclass(type(value), torch.Tensor) for value in gc.get_objects())


@pytest.fixture
def _no_collector():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@methods
@pytest.mark.usefixtures("_no_collector")
def test_two_hundred_calls_leave_memory_flat_without_the_cycle_collector(method):
    model, x = CASES["plain"].model(torch.float32), torch.rand(1, 3, 32, 32)
    for _ in range(3):
        method(model, x)
    tensors, peak = tensors_alive(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(200):
        method(model, x)
    assert tensors_alive() <= tensors
    # in KiB on Linux; two hundred graphs of this network would take 10 MiB and more
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 5_000


@methods
@pytest.mark.parametrize("name", ["plain", "viewing", "vit"])
def test_no_cache_keeps_a_model_alive(method, name):
    model, x = CASES[name].model(), CASES[name].images()
    method(model, x)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


@methods
def test_a_model_that_crashed_is_not_kept_alive(method):
    model, x = CASES["plain"].model().append(nn.Linear(3, 3)), CASES["plain"].images()
    with pytest.raises(RuntimeError):
        method(model, x)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
