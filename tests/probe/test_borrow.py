"""A model comes back as it was."""

import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch
from torch import nn

from deepviz.methods import Gradient, GuidedBackprop
from deepviz.probe import borrow
from deepviz.probe.borrow import borrowed, original
from networks import CASES, left_in_train_mode


def flags(model):
    return {name: module.training for name, module in model.named_modules()}


@pytest.mark.parametrize("fails", [False, True])
def test_train_flags_module_by_module(fails):
    model = left_in_train_mode()
    before = flags(model)
    assert len(set(before.values())) == 2  # some in train mode, some not
    try:
        with borrowed(model):
            assert not any(flags(model).values())
            if fails:
                raise KeyError
    except KeyError:
        assert fails
    assert flags(model) == before


def test_a_modules_own_train_is_not_called():
    """A LoRA layer merges its weights there."""

    class Merging(nn.Linear):
        def train(self, mode=True):
            raise AssertionError("train() was called")

    model = Merging(2, 2)
    assert model.training
    with borrowed(model):
        assert not model.training
    assert model.training


def test_two_threads_that_borrow_one_model_find_it_in_eval_mode_and_the_last_gives_it_back():
    model = left_in_train_mode()
    before = flags(model)
    together = Barrier(2, timeout=30)

    def first():
        with borrowed(model):
            together.wait()  # the other comes while this one is here
        together.wait()

    def second():
        with borrowed(model):
            together.wait()
            together.wait()  # the other has gone
            return flags(model)

    with ThreadPoolExecutor(2) as pool:
        one, two = pool.submit(first), pool.submit(second)
        one.result()
        assert not any(two.result().values())
    assert flags(model) == before
    assert not any(module in borrow._borrowers for module in model.modules())


def test_a_part_that_is_borrowed_with_its_model_and_alone():
    model = left_in_train_mode()
    before = flags(model)
    with borrowed(model):
        with borrowed(model[1]), borrowed(model[3]):
            assert not any(flags(model).values())
        assert not any(flags(model).values())
    assert flags(model) == before


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_frozen_script_which_has_no_flags():
    case = CASES["plain"]
    model, x = case.model().eval(), case.images()
    frozen = torch.jit.freeze(torch.jit.script(model))
    assert not hasattr(frozen, "training")
    assert torch.allclose(Gradient()(frozen, x, 1), Gradient()(model, x, 1), rtol=1e-9, atol=0)
    around = nn.Sequential(frozen, nn.Dropout()).train()
    Gradient()(around, x, 1)
    assert around.training
    assert around[1].training


@pytest.mark.parametrize("caller", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_gradients_are_on_inside_and_as_before_afterwards(caller):
    model = CASES["plain"].model()
    with caller():
        before = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        with borrowed(model):
            assert torch.is_grad_enabled()
            assert not torch.is_inference_mode_enabled()
            assert not torch.zeros(()).is_inference()
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == before


def test_the_original_of_a_wrapped_model():
    model = CASES["plain"].model()
    assert original(model) is model
    assert original(nn.DataParallel(model)) is model
    assert original(nn.DataParallel(nn.DataParallel(model))) is model
    assert original(torch.compile(model, backend="eager")) is model
    assert original(nn.DataParallel(torch.compile(model, backend="eager"))) is model


def test_looking_does_not_import_the_compiler():
    """Its import takes seconds; whoever has compiled a model has imported it."""
    import subprocess

    code = "import sys, torch; from deepviz.probe.borrow import original; original(torch.nn.ReLU()); "
    code += "sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("method", [Gradient(), GuidedBackprop()], ids=str)
@pytest.mark.parametrize("wrap", ["compiled", "compiled part", "compiles itself", "data parallel"])
def test_rules_reach_into_wrapped_models(method, wrap):
    model, x = CASES["plain"].model().eval(), CASES["plain"].images()
    expected = method(model, x, 1)
    if wrap == "compiled":
        model = torch.compile(model, backend="aot_eager")
    elif wrap == "compiled part":
        model = nn.Sequential(torch.compile(model[:4], backend="aot_eager"), model[4:])
    elif wrap == "compiles itself":
        model.compile(backend="aot_eager")
    else:
        model = nn.DataParallel(model)
    model(x)  # now it is compiled
    before = flags(model)
    assert torch.allclose(method(model, x, 1), expected, rtol=1e-12, atol=0)
    assert flags(model) == before
    model(x)


def test_compiled_models_are_compiled_again_afterwards():
    compiled_calls = []

    def backend(graph, _):
        def run(*args):
            compiled_calls.append(1)
            return graph(*args)

        return run

    model, x = CASES["plain"].model().eval(), CASES["plain"].images()
    compiled = torch.compile(model, backend=backend)
    compiled(x)
    before = len(compiled_calls)
    Gradient()(nn.Sequential(compiled), x, 1)
    assert len(compiled_calls) == before  # eager inside
    compiled(x)
    assert len(compiled_calls) == before + 1
