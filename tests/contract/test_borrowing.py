"""A model is borrowed: after success, a bad target or a crash, it and its surroundings are as they were."""

import copy
import random

import numpy as np
import pytest
import torch
from torch import nn

from deepviz.errors import ModelError, ModelFailed, TargetError
from networks import CASES, METHODS, VARIANTS

pytestmark = pytest.mark.filterwarnings("ignore::deepviz.errors.DeepVizWarning")
methods = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
variants = pytest.mark.parametrize("method", VARIANTS.values(), ids=VARIANTS.keys())
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


class Crash(RuntimeError):
    pass


def surroundings(model, x):
    """All that a call could change, as plain values that can be compared."""
    modules = dict(model.named_modules())
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {
        "tensors": {name: (id(value), value.detach().clone().tolist()) for name, value in tensors.items()},
        "versions": {name: value._version for name, value in tensors.items() if not value.is_inference()},
        "gradients": {name: None if value.grad is None else value.grad.tolist() for name, value in tensors.items()},
        "requires_grad": {name: value.requires_grad for name, value in tensors.items()},
        "training": {name: module.training for name, module in modules.items()},
        "hooks": {
            (name, key): list(getattr(module, key))
            for name, module in modules.items()
            for key in vars(module)
            if "hooks" in key
        },
        "attributes": {name: sorted(vars(module)) for name, module in modules.items()},
        "tensor hooks": {name: len(value._backward_hooks or ()) for name, value in tensors.items()},
        "x": (x.detach().clone().tolist(), x.requires_grad, x.grad, x._backward_hooks),
        "x version": None if x.is_inference() else x._version,
        "modes": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_dtype()),
        "autocast": torch.is_autocast_enabled("cpu"),
        "torch's random state": torch.get_rng_state().tolist(),
        "numpy's random state": repr(np.random.get_state()),
        "python's random state": random.getstate(),
    }


@variants
@cases
def test_nothing_changes_after_success(method, case):
    model, x = case.model(), case.images()
    before = surroundings(model, x)
    method(model, x)
    assert surroundings(model, x) == before


@methods
@pytest.mark.parametrize(
    "case", [CASES["in-place"], CASES["train-mode"], CASES["object"]], ids=["in-place", "train", "object"]
)
@pytest.mark.parametrize("bad", [99, -1, "cat", torch.zeros(3), torch.zeros(2, dtype=torch.long), lambda output: 0])
def test_nothing_changes_after_a_bad_target(method, case, bad):
    model, x = case.model(), case.images()
    before = surroundings(model, x)
    with pytest.raises(TargetError):
        method(model, x, bad)
    assert surroundings(model, x) == before


@variants
@pytest.mark.parametrize("after", [0, 1, 2, 5])
@pytest.mark.parametrize("error", [Crash, KeyboardInterrupt])
def test_nothing_changes_after_a_model_that_raises_half_way(method, after, error):
    model, x = CASES["train-mode"].model(), CASES["train-mode"].images()
    calls = 0

    def crash(module, inputs, output):
        nonlocal calls
        calls += 1
        if calls > after:
            raise error("half way")

    model[4].register_forward_hook(crash)
    before = surroundings(model, x)
    crashed = False
    try:
        method(model, x, 1)
    except (ModelFailed, KeyboardInterrupt) as raised:
        crashed = isinstance(raised if error is KeyboardInterrupt else raised.__cause__, error)
    assert surroundings(model, x) == before
    assert crashed == (calls > after)
    assert crashed or after > 0


@methods
def test_nothing_changes_after_a_backward_pass_that_raises(method):
    class Refuses(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            raise Crash("no gradient from me")

    class Head(nn.Module):
        def forward(self, x):
            return Refuses.apply(x)

    model, x = CASES["train-mode"].model().append(Head()), CASES["train-mode"].images()
    before = surroundings(model, x)
    with pytest.raises(ModelFailed, match="backward pass failed: no gradient from me") as raised:
        method(model, x, 1)
    assert isinstance(raised.value.__cause__, Crash)
    assert surroundings(model, x) == before


@methods
def test_the_models_own_hooks_and_gradients_stay(method):
    model, x = CASES["plain"].model(), CASES["plain"].images()
    heard = []
    model[1].register_forward_hook(lambda module, inputs, output: heard.append(module))
    model[2].register_full_backward_hook(lambda module, grad_input, grad_output: None)
    model(x).sum().backward()
    x.requires_grad_()
    x.grad = torch.ones_like(x)
    before = surroundings(model, x)
    before["x"] = (*before["x"][:2], x.grad.tolist(), before["x"][3])
    method(model, x)
    after = surroundings(model, x)
    after["x"] = (*after["x"][:2], x.grad.tolist(), after["x"][3])
    assert after == before
    assert heard


@methods
def test_an_image_inside_the_callers_own_graph_is_left_in_it(method):
    model = CASES["plain"].model()
    leaf = CASES["plain"].images().requires_grad_()
    x = leaf * 2
    maps = method(model, x)
    assert not maps.requires_grad
    assert leaf.grad is None
    x.sum().backward()
    assert torch.equal(leaf.grad, torch.full_like(leaf, 2))


@methods
def test_the_answer_is_not_the_input_nor_part_of_it(method):
    model, x = CASES["plain"].model(), CASES["plain"].images()
    kept = x.clone()
    method(model, x).fill_(7)
    assert torch.equal(x, kept)


@methods
def test_a_parameter_that_is_not_finite_is_named(method):
    model, x = CASES["plain"].model(), CASES["plain"].images()
    with torch.no_grad():
        model[2].weight[0, 0, 0, 0] = float("nan")
    before = [module.training for module in model.modules()]
    with pytest.raises(ModelError, match=r"2\.weight"):
        method(model, x)
    assert [module.training for module in model.modules()] == before


@methods
def test_a_copied_model_gives_the_same_map(method):
    model, x = CASES["train-mode"].model(), CASES["train-mode"].images()
    expected = method(model, x)
    assert torch.equal(method(copy.deepcopy(model), x), expected)
