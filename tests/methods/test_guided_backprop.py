import warnings

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from by_hand import array, backward, rectify
from deepviz.errors import DeepVizWarning, NothingOverridden
from deepviz.methods import Deconvolution, Gradient, GuidedBackprop
from networks import CASES, READABLE, Case, assert_same

RULES = [(GuidedBackprop(), "guided"), (Deconvolution(), "deconvnet")]
both = pytest.mark.parametrize(("method", "rule"), RULES, ids=[rule for _, rule in RULES])


@both
@given(seed=st.integers(0, 1000), k=st.integers(0, 2))
def test_the_rule_is_a_backward_pass_by_hand(method, rule, seed, k):
    net, x = READABLE.model(seed=seed), READABLE.images(2, seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeepVizWarning)  # some random networks let nothing through
        found = method(net, x, k)
    for row in range(2):
        assert_same(found[row], torch.from_numpy(backward(net, array(x[row]), k, rule)[0]), 1e-12)


class Beside(nn.Module):
    """y = relu(h) + s h, h = W x: the rule belongs to the ReLU's edge, not to the whole gradient of h."""

    def __init__(self, inplace_sum=False):
        super().__init__()
        self.W, self.V, self.inplace_sum = nn.Linear(6, 5, bias=False), nn.Linear(5, 3, bias=False), inplace_sum

    def forward(self, x):
        h = self.W(x.flatten(1))
        if self.inplace_sum:  # what a clamp allows; torch's own ReLU needs its result again
            return self.V(h.clamp(min=0).add_(h, alpha=-2))
        return self.V(F.relu(h) - 2 * h)


@both
@pytest.mark.parametrize("inplace_sum", [False, True])
def test_a_relu_beside_a_skip(method, rule, inplace_sum):
    case = Case(lambda: Beside(inplace_sum), (1, 2, 3))
    model, x = case.model(), case.images(4)
    found = method(model, x, 1).flatten(1)
    W, V = array(model.W.weight), array(model.V.weight)
    for row in range(4):
        h = W @ array(x[row]).ravel()
        R = V[1]
        assert_same(found[row], torch.from_numpy(W.T @ (rectify(h, R, rule) - 2 * R)), 1e-12)


@both
def test_relu6_passes_where_it_is_neither_off_nor_saturated(method, rule):
    model = Case(lambda: nn.Sequential(nn.Flatten(), nn.Linear(6, 90), nn.ReLU6(), nn.Linear(90, 3)), (1, 2, 3)).model()
    x = 10 * Case(lambda: None, (1, 2, 3)).images(4)
    found = method(model, x, 1).flatten(1)
    W, b, V = array(model[1].weight), array(model[1].bias), array(model[3].weight)
    for row in range(4):
        h = W @ array(x[row]).ravel() + b
        assert (h > 6).any()
        assert (h < 0).any()
        R = V[1].clip(0) * ((h > 0) & (h < 6) if rule == "guided" else 1)
        assert_same(found[row], torch.from_numpy(W.T @ R), 1e-12)


SMOOTH = {
    "LeakyReLU": nn.LeakyReLU(0.1),
    "PReLU": nn.PReLU(),
    "ELU": nn.ELU(),
    "SELU": nn.SELU(),
    "CELU": nn.CELU(0.5),
    "GELU": nn.GELU(),
    "GELU, tanh": nn.GELU(approximate="tanh"),
    "SiLU": nn.SiLU(),
    "SiLU, in place": nn.SiLU(inplace=True),
    "Hardswish": nn.Hardswish(),
    "Mish": nn.Mish(),
    "Softplus": nn.Softplus(),
    "RReLU": nn.RReLU(),
}


@both
@pytest.mark.parametrize("name", SMOOTH)
def test_smooth_relatives_pass_positive_signals_guided_with_their_own_derivative(method, rule, name):
    act = SMOOTH[name]
    case = Case(lambda: nn.Sequential(nn.Flatten(), nn.Linear(6, 9), act, nn.Linear(9, 3)), (1, 2, 3))
    model, x = case.model(), case.images(4)
    result = method.attribute(model, x, 1)
    h = model[1](x.flatten(1)).detach().requires_grad_()
    (own,) = torch.autograd.grad(act.eval()(h.clone()).sum(), h)
    R = model[3].weight[1].clamp(min=0).expand_as(h) * (own if rule == "guided" else 1)
    assert_same(result.maps.flatten(1), (R @ model[1].weight).detach(), 1e-12)
    assert sum(result.notes.facts["overridden"].values()) == 1
    assert "not overridden" not in result.notes.facts


@both
def test_saturating_and_normalising_activations_are_left_alone(method, rule):
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.W, self.V = nn.Linear(6, 4), nn.Linear(4, 3)

        def forward(self, x):
            h = F.relu(self.W(x.flatten(1)) + 9)  # always on
            y = torch.sigmoid(h - 9) + torch.tanh(h - 9) + torch.softmax(h, 1) / h.sum(1, True).clamp(min=1)
            return self.V(y)

    case = Case(Gated, (1, 2, 3))
    model, x = case.model(), case.images(2)
    with torch.no_grad():
        model.V.weight.abs_()
    h = (model.W(x.flatten(1)) + 9).detach().requires_grad_()
    y = torch.sigmoid(h - 9) + torch.tanh(h - 9) + torch.softmax(h, 1) / h.sum(1, True)
    (R,) = torch.autograd.grad(model.V(y)[:, 1].sum(), h)
    result = method.attribute(model, x, 1)
    assert_same(result.maps.flatten(1), (R.clamp(min=0) @ model.W.weight).detach(), 1e-12)
    assert result.notes.facts["overridden"] == {"ReLU": 1}


@both
def test_without_a_rectifier_it_refuses(method, rule):
    model = Case(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(400, 2))).model()
    with pytest.raises(NothingOverridden, match="Gradient"):
        method(model, CASES["plain"].images())


@both
def test_a_rectifier_off_the_way_to_the_score_does_not_count(method, rule):
    class Aside(nn.Module):
        def forward(self, x):
            F.relu(x)
            return x.flatten(1)[:, :3].tanh()

    with pytest.raises(NothingOverridden):
        method(Aside(), CASES["plain"].images())


scripting = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@both
@scripting
@pytest.mark.parametrize("place", ["whole", "inside"])
def test_a_scripted_or_traced_model_is_refused_by_name(method, rule, place):
    model, x = CASES["plain"].model(), CASES["plain"].images()
    for frozen in (torch.jit.script(model), torch.jit.trace(model, x)):
        given = frozen if place == "whole" else nn.Sequential(nn.ReLU(), frozen)
        with pytest.raises(NothingOverridden, match="scripted"):
            method(given, x)


def _hidden():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(_scripted_relu)

    class Custom(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.clamp(min=0)

        @staticmethod
        def backward(ctx, gradient):
            (x,) = ctx.saved_tensors
            return gradient * (x > 0)

    return {
        "a scripted function": scripted,
        "torch.maximum": lambda h: torch.maximum(h, torch.zeros_like(h)),
        "torch.max": lambda h: torch.max(h, torch.zeros(())),
        "a custom Function": Custom.apply,
        "clamp from a tensor": lambda h: h.clamp(min=torch.zeros(())),
    }


def _scripted_relu(x: torch.Tensor) -> torch.Tensor:
    return torch.relu(x)


@both
@scripting
@pytest.mark.parametrize(
    "name", ["a scripted function", "torch.maximum", "torch.max", "a custom Function", "clamp from a tensor"]
)
def test_partial_coverage_does_not_pass_in_silence(method, rule, name):
    hidden = _hidden()[name]

    class Partly(nn.Module):
        def __init__(self, known):
            super().__init__()
            self.W, self.V, self.known = nn.Linear(6, 40), nn.Linear(40, 3), known

        def forward(self, x):
            h = F.relu(x.flatten(1)) if self.known else x.flatten(1)
            return self.V(hidden(self.W(h)))

    x = Case(lambda: None, (1, 2, 3)).images(8).abs()
    with pytest.warns(DeepVizWarning, match="reached 1 rectifiers but not what is inside 1"):
        notes = method.attribute(Case(lambda: Partly(True)).model(), x, 1).notes
    assert sum(notes.facts["not overridden"].values()) == 1
    with pytest.raises(NothingOverridden, match="may hide"):
        method(Case(lambda: Partly(False)).model(), x, 1)


ARITHMETIC = {"where": lambda h: torch.where(h > 0, h, 0.0), "mask": lambda h: h * (h > 0)}


@both
@pytest.mark.parametrize("spelling", ARITHMETIC)
def test_known_limit_a_relu_spelled_by_arithmetic_is_not_seen_but_alone_it_is_refused(method, rule, spelling):
    """No operator says that it rectifies, so the rule cannot know: documented as a limit, and never a plain map."""

    class Arithmetic(nn.Module):
        def __init__(self):
            super().__init__()
            self.W, self.V = nn.Linear(6, 40), nn.Linear(40, 3)

        def forward(self, x):
            return self.V(ARITHMETIC[spelling](self.W(x.flatten(1))))

    case = Case(Arithmetic, (1, 2, 3))
    with pytest.raises(NothingOverridden):
        method(case.model(), case.images(2), 1)


@both
def test_whole_numbers_may_be_clamped(method, rule):
    """Indices into a table of positions, say: no gradient, and no ReLU for their dtype."""

    class Indexed(nn.Module):
        def __init__(self, positions):
            super().__init__()
            self.first, self.rest, self.positions = CASES["plain"].model()[:2], CASES["plain"].model()[2:], positions
            self.table = nn.Parameter(torch.rand(5) + 1)

        def forward(self, x):
            return self.rest(self.first(x) * self.table[self.positions()].sum())

    x = CASES["plain"].images()
    expected = method(Case(lambda: Indexed(lambda: torch.tensor([0, 3, 4]))).model(), x, 1)
    for positions in (
        lambda: torch.tensor([-1, 3, 8]).clamp(0, 4),
        lambda: torch.tensor([-1, 3, 8]).clamp_(0, 4),
        lambda: torch.tensor([-5, 3, 4]).clamp(min=0),
        lambda: torch.relu(torch.tensor([-5, 3, 4])),
    ):
        assert_same(method(Case(lambda p=positions: Indexed(p)).model(), x, 1), expected, 1e-12)


@both
def test_a_relu_inside_checkpointing_carries_the_rule_or_is_told(method, rule):
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.rest = CASES["plain"].model()[:2], CASES["plain"].model()[2:]

        def forward(self, x):
            return self.rest(torch.utils.checkpoint.checkpoint(self.first, x, use_reentrant=False))

    x = CASES["plain"].images()
    try:
        found = method(Case(Checkpointed).model(), x, 1)
    except (DeepVizWarning, NothingOverridden):
        return
    model = Case(Checkpointed).model()
    assert_same(found, method(nn.Sequential(*model.first, *model.rest), x, 1))


def test_guided_backprop_is_the_gradient_where_every_signal_is_positive():
    net, x = READABLE.model(), READABLE.images(2)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.abs_()
    assert_same(GuidedBackprop()(net, x, 1), Gradient()(net, x, 1), 1e-12)


def test_deconvolution_forgets_the_forward_pass_without_max_pooling():
    net = Case(lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(240, 3)), (2, 10, 12))
    maps = Deconvolution()(net.model(), net.images(2), 1)
    assert_same(maps[0], maps[1], 1e-12)
