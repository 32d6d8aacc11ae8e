import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from deepviz.errors import LayerError
from deepviz.methods import CAM, GradCAM, HiResCAM
from networks import Case, assert_same


class Mean(nn.Module):
    def forward(self, A):
        return A.mean((2, 3))


def pooled(pool):
    pooling = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()) if pool == "module" else Mean()
    return Case(lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), pooling, nn.Linear(8, 5)), (3, 10, 12))


@given(seed=st.integers(0, 1000), pool=st.sampled_from(["module", "method"]))
def test_it_is_equation_2(seed, pool):
    """Zhou et al.: M_c = sum_k w_ck A_k, with the weights of the linear layer itself."""
    case = pooled(pool)
    model, x = case.model(seed=seed), case.images(3, seed=seed)
    target = torch.tensor([0, 3, 1])
    A = model[:2](x).detach()
    expected = torch.einsum("nk,nkhw->nhw", model[3].weight[target], A)[:, None].detach()
    found = CAM()(model, x, target)
    assert_same(found, expected, 1e-10)
    score = model(x).gather(1, target[:, None])[:, 0].detach()
    assert_same(found.mean((1, 2, 3)) + model[3].bias[target].detach(), score, 1e-10)


def test_grad_cam_and_hi_res_cam_are_the_same_divided_by_the_number_of_positions():
    case = pooled("module")
    model, x = case.model(), case.images(2)
    cam = CAM()(model, x, 1) / (8 * 10)
    assert_same(GradCAM(relu=False)(model, x, 1), cam, 1e-12)
    assert_same(HiResCAM(relu=False)(model, x, 1), cam, 1e-12)


def always_on():
    layer = nn.Linear(8, 8)
    nn.init.constant_(layer.bias, 3)
    return layer


@pytest.mark.parametrize(
    "above",
    [
        lambda: [nn.Flatten(), nn.Linear(8 * 80, 5)],  # every position has a weight of its own
        lambda: [nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(8, 5)],
        lambda: [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 9), nn.Tanh(), nn.Linear(9, 5)],
        lambda: [nn.AdaptiveAvgPool2d(1), nn.Flatten(), always_on(), nn.ReLU(), nn.Linear(8, 5)],
        lambda: [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(8), nn.Linear(8, 5)],
        lambda: [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5), nn.Tanh()],
    ],
    ids=["flatten", "maximum", "two layers", "units that are on for these images", "normalised", "bounded"],
)
def test_anything_else_above_the_layer_is_refused(above):
    case = Case(lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), *above()), (3, 10, 12))
    with pytest.raises(LayerError, match=r"one linear layer, but what follows layer '1' is something else \(off by"):
        CAM(layer="1")(case.model(), case.images(2), 1)


class TokensFirst(nn.Module):
    """(L, N, D) below the mean over tokens, or below the class of the first of them."""

    def __init__(self, mean):
        super().__init__()
        self.patch, self.tokens, self.head = nn.Conv2d(3, 6, 4, 4), nn.Linear(6, 8), nn.Linear(8, 5)
        self.mean = mean

    def forward(self, x):
        tokens = self.tokens(self.patch(x).flatten(2).permute(2, 0, 1).relu())
        return self.head(tokens.mean(0) if self.mean else (tokens[0] * tokens.mean(0)).relu())


@pytest.mark.parametrize("target", [1, torch.tensor([[1, 2], [0, 4]])], ids=["one", "two"])
def test_tokens_may_come_first(target):
    model, x = (case := Case(lambda: TokensFirst(True), (3, 12, 16))).model(), case.images(2)
    found = CAM(layer="tokens")(model, x, target)
    A = model.tokens(model.patch(x).flatten(2).permute(2, 0, 1).relu())
    w = model.head.weight[torch.as_tensor(target).expand(2) if isinstance(target, int) else target]
    expected = torch.einsum("lnd,n...d->n...l", A, w).unflatten(-1, (3, 4)).unsqueeze(-3)
    assert_same(found, expected.detach(), 1e-9)


def test_tokens_first_below_something_else_are_refused():
    model, x = (case := Case(lambda: TokensFirst(False), (3, 12, 16))).model(), case.images(2)
    with pytest.raises(LayerError, match="is something else"):
        CAM(layer="tokens")(model, x, 1)
