import pytest
import torch
from torch import nn

from deepviz.methods import ReciproCAM
from networks import CASES, READABLE, Case, assert_same

GAUSSIAN = [[1 / 16, 1 / 8, 1 / 16], [1 / 8, 1 / 4, 1 / 8], [1 / 16, 1 / 8, 1 / 16]]


@torch.no_grad()
def by_hand(below, above, row, c, smooth, probability):
    """Byun and Lee, section 3, one position at a time."""
    A = below(row[None])
    h, w = A.shape[2:]
    R = torch.zeros(h, w, dtype=A.dtype)
    for u in range(h):
        for v in range(w):
            masked = torch.zeros_like(A)
            for i in range(h):
                for j in range(w):
                    if abs(i - u) <= 1 and abs(j - v) <= 1:
                        weight = GAUSSIAN[i - u + 1][j - v + 1] if smooth else float((i, j) == (u, v))
                        masked[..., i, j] = weight * A[..., i, j]
            z = above(masked)[0]
            R[u, v] = z.softmax(0)[c] if probability else z[c]
    return R


@pytest.mark.parametrize("smooth", [True, False])
@pytest.mark.parametrize("value", ["probability", "score"])
@pytest.mark.parametrize("seed", range(2))
def test_it_is_the_output_at_one_position_after_the_other(seed, value, smooth):
    net, x = READABLE.model(seed=seed), READABLE.images(2, seed=seed)
    found = ReciproCAM(layer="4", smooth=smooth, value=value)(net, x, 1)
    for row in range(2):
        assert_same(found[row, 0], by_hand(net[:5], net[5:], x[row], 1, smooth, value == "probability"), 1e-9)


def test_of_the_score_below_average_pooling_it_is_cam_up_to_the_bias():
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
    case = Case(lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), *head))
    model, x = case.model(), case.images(2)
    A, W, b = model[:2](x).detach(), model[4].weight[1].detach(), model[4].bias[1].detach()
    expected = b + (W.view(8, 1, 1) * A).sum(1, keepdim=True) / A[0, 0].numel()
    assert_same(ReciproCAM(smooth=False, value="score")(model, x, 1), expected, 1e-9)


@torch.no_grad()
def test_the_class_token_stays_and_several_targets_share_their_passes():
    model, x = CASES["vit"].model(), CASES["vit"].images(1)
    layer, seen = model.blocks[1].norm1, {}
    handle = layer.register_forward_hook(lambda module, inputs, output: seen.update(A=output.detach()))
    model(x)
    handle.remove()
    found = ReciproCAM(layer="blocks.1.norm1", smooth=False)(model, x, [2, 4])
    assert found.shape == (1, 2, 1, 3, 4)
    for position in (0, 5, 11):
        changed = torch.zeros_like(seen["A"])
        for token in (0, 1 + position):
            changed[:, token] = seen["A"][:, token]
        handle = layer.register_forward_hook(lambda *_, changed=changed: changed)
        p = model(x).softmax(1)[0]
        handle.remove()
        assert_same(found[0, :, 0].flatten(1)[:, position], p[[2, 4]], 1e-9)


def test_signals_and_volumes_have_a_kernel_of_as_many_axes():
    method = ReciproCAM()
    assert_same(method._weights(torch.Size([3]))[1], torch.tensor([0.25, 0.5, 0.25]).double(), 1e-12)
    centre = method._weights(torch.Size([3, 3, 3]))[13]
    assert float(centre.sum()) == 1
    assert float(centre[13]) == 1 / 8
