"""A model is borrowed: after success, a bad target or a crash, it and its surroundings are as they were."""

import copy

import pytest
import torch
from torch import nn

from deepviz.errors import ModelError, ModelFailed, TargetError
from deepviz.testing import surroundings
from networks import CASES, METHODS, VARIANTS

pytestmark = pytest.mark.filterwarnings("ignore::deepviz.errors.DeepVizWarning")
methods = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
variants = pytest.mark.parametrize("method", VARIANTS.values(), ids=VARIANTS.keys())
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


class Crash(RuntimeError):
    pass


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
    before["the image"] = (*before["the image"][:2], x.grad.tolist(), before["the image"][3])
    method(model, x)
    after = surroundings(model, x)
    after["the image"] = (*after["the image"][:2], x.grad.tolist(), after["the image"][3])
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
