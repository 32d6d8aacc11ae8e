"""Every spelling in the tables: the forward bit for bit, the backward by its formula; the traps; the receipt."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from deepviz.errors import NothingOverridden
from deepviz.probe.rules import EXACT, GENERALISED, Override, Rule, covered, refuse_scripted
from networks import assert_same

ARGUMENTS = {  # beyond x, for each operator's name without its trailing underscore; (lower, upper) bound
    "relu": ((), 0, float("inf")),
    "relu6": ((), 0, 6),
    "hardtanh": ((0.0, 2.0), 0, 2),
    "clamp": ((0.0, 2.0), 0, 2),
    "clip": ((0.0, 2.0), 0, 2),
    "clamp_min": ((0.0,), 0, float("inf")),
    "threshold": ((0.0, 0.0), 0, float("inf")),
}
UNDIFFERENTIABLE = ("out", "Tensor", "Tensor_out")  # out= has no gradient; bounds given as tensors are not read
X = torch.tensor([-3.0, -0.5, 0.0, 0.5, 1.5, 2.0, 2.5, 6.0, 7.0], dtype=torch.float64)
R = torch.tensor([1.0, -1.0, 2.0, -2.0, 3.0, 4.0, -3.0, 5.0, 6.0], dtype=torch.float64)


def name_of(operator):
    return getattr(operator, "__name__", str(operator)).split(".")[0]


def overload_of(operator):
    return getattr(operator, "_overloadname", "default")


def is_in_place(operator):
    return name_of(operator).endswith("_")


def label(operator):
    if isinstance(operator, torch._ops.OpOverload | torch._ops.OpOverloadPacket):
        return f"aten {operator}"
    return f"{getattr(operator, '__module__', None) or getattr(operator, '__objclass__', 'torch')}.{name_of(operator)}"


def run(operator, x, arguments, rule=None):
    """The operator on a copy of x (in place if it works so), as a model would: (result, its leaf)."""
    leaf = x.clone().requires_grad_()
    h = leaf * 1  # not a leaf, which could not be written to
    if rule is None:
        return operator(h, *arguments), leaf
    with Override(rule):
        return operator(h, *arguments), leaf


EXACT_OPERATORS = [operator for operator in EXACT if overload_of(operator) not in UNDIFFERENTIABLE]


@pytest.mark.parametrize("operator", EXACT_OPERATORS, ids=label)
@pytest.mark.parametrize("mask", [True, False], ids=["guided", "deconvnet"])
def test_exact_rectifiers(operator, mask):
    arguments, low, high = ARGUMENTS[name_of(operator).strip("_")]
    plain, _ = run(operator, X, arguments)
    rule = Rule(mask)
    result, leaf = run(operator, X, arguments, rule)
    assert torch.equal(result, plain)
    (found,) = torch.autograd.grad(result, leaf, R)
    expected = R.clamp(min=0) * ((low < X) & (high > X) if mask else 1)
    assert torch.equal(found, expected)
    done, missed = covered(result.sum(), rule)
    assert sum(done.values()) == 1
    assert missed == {}


@pytest.mark.parametrize("operator", [op for op in EXACT_OPERATORS if is_in_place(op)], ids=label)
@pytest.mark.parametrize("mask", [True, False], ids=["guided", "deconvnet"])
def test_in_place_rectifiers_whose_result_is_thrown_away(operator, mask):
    arguments, low, high = ARGUMENTS[name_of(operator).strip("_")]
    leaf = X.clone().requires_grad_()
    rule = Rule(mask)
    with Override(rule):
        h = leaf * 1
        operator(h, *arguments)
        result = 2 * h
    assert torch.equal(result, 2 * X.clamp(low, high))
    (found,) = torch.autograd.grad(result, leaf, R)
    assert torch.equal(found, 2 * R.clamp(min=0) * ((low < X) & (high > X) if mask else 1))


RECTIFIES_NOT = {
    "clamp(-1, 1)": lambda h: h.clamp(-1, 1),
    "clamp(max=1)": lambda h: h.clamp(max=1),
    "clamp(min=0.5)": lambda h: h.clamp(min=0.5),
    "hardtanh": F.hardtanh,
    "threshold(0, 1)": lambda h: F.threshold(h, 0, 1),
    "threshold(1, 0)": lambda h: F.threshold(h, 1, 0),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "softmax": lambda h: h.softmax(0),
    "abs": torch.abs,
}


@pytest.mark.parametrize("name", RECTIFIES_NOT)
@pytest.mark.parametrize("mask", [True, False], ids=["guided", "deconvnet"])
def test_what_is_no_rectifier_is_left_alone(name, mask):
    operator = RECTIFIES_NOT[name]
    plain, at = run(operator, X, ())
    (expected,) = torch.autograd.grad(plain, at, R)
    rule = Rule(mask)
    result, leaf = run(operator, X, (), rule)
    assert torch.equal(result, plain)
    assert torch.equal(torch.autograd.grad(result, leaf, R)[0], expected)
    assert not rule.carriers


MORE = {"prelu": (torch.tensor([0.25], dtype=torch.float64),)}
GENERALISED_OPERATORS = [
    operator
    for operator in GENERALISED
    if "out" not in overload_of(operator) and overload_of(operator) != "dimname" and name_of(operator) != "rrelu_"
]


@pytest.mark.parametrize("operator", GENERALISED_OPERATORS, ids=label)
@pytest.mark.parametrize("mask", [True, False], ids=["guided", "deconvnet"])
def test_generalised_rectifiers(operator, mask):
    """Guided: the activation's own derivative on the positive part of the signal; deconvnet: that part alone."""
    arguments = MORE.get(name_of(operator), ())
    plain, at = run(operator, X, arguments)
    (own,) = torch.autograd.grad(plain, at, torch.ones_like(R))
    rule = Rule(mask)
    result, leaf = run(operator, X, arguments, rule)
    assert torch.equal(result, plain)
    (found,) = torch.autograd.grad(result, leaf, R)
    assert_same(found, R.clamp(min=0) * (own if mask else 1), 1e-12)
    done, missed = covered(result.sum(), rule)
    assert done == {GENERALISED[operator]: 1}
    assert missed == {}


@pytest.mark.parametrize("mask", [True, False], ids=["guided", "deconvnet"])
@pytest.mark.parametrize("thrown_away", [True, False])
def test_in_place_on_a_view(mask, thrown_away):
    """A view's other half, and the base that holds both, go on with what was written."""
    leaf = X.clone().requires_grad_()
    with Override(Rule(mask)):
        h = leaf * 1
        view = h[:5]
        written = F.relu(view, inplace=True)
        result = h * 1 if thrown_away else torch.cat([written, h[5:]])
    assert torch.equal(result, torch.cat([X[:5].clamp(min=0), X[5:]]))
    (found,) = torch.autograd.grad(result, leaf, R)
    expected = torch.cat([R[:5].clamp(min=0) * ((X[:5] > 0) if mask else 1), R[5:]])
    assert torch.equal(found, expected)


@pytest.mark.parametrize("mask", [True, False], ids=["guided", "deconvnet"])
def test_the_rule_is_of_the_relus_own_edge(mask):
    leaf = X.clone().requires_grad_()
    with Override(Rule(mask)):
        h = leaf * 1
        result = F.relu(h) - 2 * h
    (found,) = torch.autograd.grad(result, leaf, R)
    assert torch.equal(found, R.clamp(min=0) * ((X > 0) if mask else 1) - 2 * R)


@pytest.mark.parametrize("mask", [True, False], ids=["guided", "deconvnet"])
def test_a_result_that_feeds_two_things_is_one_signal(mask):
    """[R' > 0] is asked of the sum that arrives, not of each part."""
    leaf = X.clone().requires_grad_()
    with Override(Rule(mask)):
        h = F.relu(leaf * 1)
        result = 3 * h - h
    (found,) = torch.autograd.grad(result, leaf, R)
    assert torch.equal(found, 2 * R.clamp(min=0) * ((X > 0) if mask else 1))


def test_a_guided_rule_can_be_switched_off_between_two_backward_passes():
    rule = Rule(mask=True)
    result, leaf = run(F.relu, X, (), rule)
    rule.active = False
    (plain,) = torch.autograd.grad(result, leaf, R, retain_graph=True)
    rule.active = True
    (guided,) = torch.autograd.grad(result, leaf, R)
    assert torch.equal(plain, R * (X > 0))
    assert torch.equal(guided, R.clamp(min=0) * (X > 0))


def test_outside_the_scope_nothing_is_changed():
    run(F.relu, X, (), Rule(mask=True))
    result, leaf = run(F.relu, X, ())
    assert torch.equal(torch.autograd.grad(result, leaf, R)[0], R * (X > 0))
    with pytest.raises(KeyError), Override(Rule(mask=True)):
        raise KeyError
    result, leaf = run(F.relu, X, ())
    assert torch.equal(torch.autograd.grad(result, leaf, R)[0], R * (X > 0))


def test_the_receipt_counts_by_kind_and_only_what_the_score_depends_on():
    rule = Rule(mask=True)
    leaf = X.clone().requires_grad_()
    with Override(rule):
        F.relu(leaf * 1)  # goes nowhere
        h = F.relu6(F.relu(F.relu(leaf * 1)))
        score = F.gelu(h).clamp(min=0).sum()
    done, missed = covered(score, rule)
    assert done == {"ReLU": 2, "ReLU6": 1, "GELU": 1, "clamp": 1}
    assert missed == {}
    assert not rule.carriers


def test_only_rectifiers_between_the_explained_tensors_and_the_score_are_counted():
    rule = Rule(mask=True)
    leaf, table = X.clone().requires_grad_(), X.clone().requires_grad_()
    with Override(rule):
        score = (F.relu(leaf * 1) + F.gelu(table * 1) + torch.maximum(table, torch.zeros(()))).sum()
    done, missed = covered(score, rule, [leaf])
    assert (done, missed) == ({"ReLU": 1}, {})


def test_rectifiers_that_the_rule_did_not_reach_are_found():
    rule = Rule(mask=True)
    leaf = X.clone().requires_grad_()
    inside = F.relu(leaf * 1)  # before the scope, as if inside something
    with Override(rule):
        score = torch.maximum(F.relu(inside * 1), torch.zeros(())).clamp(min=1e-6).sum()
    done, missed = covered(score, rule)
    assert done == {"ReLU": 1}
    assert missed == {"Relu": 1, "Maximum": 1}  # a clamp with another minimum guards a division


def test_without_gradients_nothing_breaks():
    with torch.no_grad(), Override(Rule(mask=False)):
        assert torch.equal(F.relu(X), X.clamp(min=0))
        assert torch.equal(F.relu(X.clone(), inplace=True), X.clamp(min=0))
        assert torch.equal(F.relu_(torch.arange(-2, 3)), torch.arange(-2, 3).clamp(min=0))


def test_two_scopes_on_two_threads_do_not_meet():
    from concurrent.futures import ThreadPoolExecutor
    from threading import Barrier

    met = Barrier(2)

    def work(mask):
        leaf = X.clone().requires_grad_()
        with Override(Rule(mask)):
            met.wait()
            result = F.relu(leaf * 1)
            met.wait()
        return torch.autograd.grad(result, leaf, R)[0]

    with ThreadPoolExecutor(2) as pool:
        guided, deconvnet = pool.map(work, [True, False])
    assert torch.equal(guided, R.clamp(min=0) * (X > 0))
    assert torch.equal(deconvnet, R.clamp(min=0))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_scripted_part_is_named():
    inner = torch.jit.script(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
    refuse_scripted(nn.Sequential(nn.ReLU()))
    with pytest.raises(NothingOverridden, match="features"):
        refuse_scripted(nn.ModuleDict({"features": inner}))
