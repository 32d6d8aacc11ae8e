import pytest
import torch
from torch import nn

from deepviz.methods import GradCAM, ShapleyCAM
from deepviz.objectives import ReST
from networks import CASES, Case, assert_same

SIGNED = ShapleyCAM(relu=False)


def smooth():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Softplus(), nn.Conv2d(4, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(3 * 36, 5)
    )


def by_hand(below, above, x, score):
    """The whole Hessian of one image at a time, (D h w)^2 numbers."""
    cams = []
    for row in x:
        A = below(row[None]).detach()
        g = torch.autograd.functional.jacobian(lambda a: score(above(a))[0], A)
        H = torch.autograd.functional.hessian(lambda a: score(above(a))[0], A).reshape(A.numel(), A.numel())
        e = g - 0.5 * (H @ A.flatten()).view_as(A)
        cams.append((e.mean((2, 3), keepdim=True) * A).sum(1))
    return torch.stack(cams)


@pytest.mark.parametrize("objective", [2, ReST(2)], ids=str)
def test_it_is_the_papers_formula_with_the_whole_hessian(objective):
    case = Case(smooth, (3, 10, 10))
    model, x = case.model(), case.images(2)

    def score(z):
        return z[:, 2] + (0 if objective == 2 else z.log_softmax(1)[:, 2])

    expected = by_hand(model[:2], model[2:], x, score)
    found = ShapleyCAM(layer="1", relu=False)(model, x, objective)
    assert_same(found, expected, 1e-9)
    assert (
        float((found - GradCAM(layer="1", relu=False)(model, x, objective)).abs().max() / expected.abs().max()) > 1e-3
    )


def head_of(model):
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), *head) if model == "pooled" else CASES["plain"].build()


@pytest.mark.parametrize("model", ["pooled", "rectified"])
def test_where_the_score_is_linear_above_the_layer_it_is_grad_cam(model):
    case = Case(lambda: head_of(model))
    net, x = case.model(), case.images(2)
    assert_same(ShapleyCAM(layer="1", relu=False)(net, x, 1), GradCAM(layer="1", relu=False)(net, x, 1), 1e-12)


def test_of_rest_on_pooling_and_a_linear_layer_it_has_a_closed_form():
    """S = z_c + log p_c, with z = W a + b of the means a: e_k = 2 W_ck - sum_j p_j W_jk + 1/2 sum_l C_kl a_l, where
    C is the covariance of the rows of W under p."""
    case = Case(lambda: head_of("pooled"))
    net, x = case.model(), case.images(2)
    W, A = net[4].weight, net[:2](x)
    a, p = A.mean((2, 3)), net(x).softmax(1)
    mean = p @ W
    C = torch.einsum("nj,jk,jl->nkl", p, W, W) - mean[:, :, None] * mean[:, None]
    w = (2 * W[1] - mean + 0.5 * torch.einsum("nkl,nl->nk", C, a)) / A[0, 0].numel()
    assert_same(SIGNED(net, x, ReST(1)), (w[:, :, None, None] * A).sum(1, True).detach(), 1e-9)


def test_attention_has_a_second_derivative_and_several_targets_share_a_pass():
    model, x = CASES["vit"].model(), CASES["vit"].images(2)
    method = ShapleyCAM(layer="blocks.1.norm1", relu=False)
    together = method(model, x, [ReST(0), ReST(3)])
    assert_same(together[:, 1], method(model, x, ReST(3)), 1e-9)
    assert float((together[:, 0] - GradCAM("blocks.1.norm1", relu=False)(model, x, ReST(0))).abs().max()) > 0
