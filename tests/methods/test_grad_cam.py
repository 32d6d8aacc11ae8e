import warnings
from collections import namedtuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from by_hand import array, backward, forward
from deepviz.errors import DeepVizWarning, LayerError
from deepviz.methods import GradCAM, GuidedGradCAM, SmoothGrad
from deepviz.probe import chunks
from networks import CASES, READABLE, Case, TinyViT, assert_same

SIGNED = GradCAM(layer="4", relu=False)


def cam_by_hand(net, x, k):
    """Selvaraju et al., equations 1 and 2 without the ReLU, at layer "4"."""
    A, dA = forward(net, x)[5], backward(net, x, k)[5]
    Z = A.shape[1] * A.shape[2]
    return sum(sum(dA[c, i, j] for i, j in np.ndindex(*A.shape[1:])) / Z * A[c] for c in range(len(A)))


@given(seed=st.integers(0, 1000), k=st.integers(0, 2))
def test_grad_cam_is_equations_one_and_two(seed, k):
    net, x = READABLE.model(seed=seed), READABLE.images(2, seed=seed)
    found = SIGNED(net, x, k)
    for row in range(2):
        assert_same(found[row, 0], torch.from_numpy(cam_by_hand(net, array(x[row]), k)), 1e-12)


@pytest.mark.filterwarnings("ignore:Grad-CAM is all zero")
def test_the_relu_is_the_last_step():
    net, x = READABLE.model(), READABLE.images(6)
    assert torch.equal(GradCAM(layer="4")(net, x, 1), SIGNED(net, x, 1).relu())


def test_the_weights_are_what_the_score_gains_when_a_whole_channel_is_raised():
    net, x = READABLE.model().requires_grad_(False), READABLE.images(1)
    below, above, step = net[:5], net[5:], 1e-6
    A = below(x)
    cam = torch.zeros_like(A[:, :1])
    for c in range(A.shape[1]):
        raised, lowered = A.clone(), A.clone()
        raised[:, c] += step
        lowered[:, c] -= step
        w = (above(raised) - above(lowered))[0, 2] / (2 * step * A.shape[2] * A.shape[3])
        cam += w * A[:, c : c + 1]
    assert_same(SIGNED(net, x, 2), cam, 1e-6)


@given(seed=st.integers(0, 1000), pool=st.sampled_from(["adaptive", "mean"]))
def test_with_global_average_pooling_and_one_linear_layer_it_is_cam(seed, pool):
    """Zhou et al. 2016: CAM = sum_k W_ck A_k; and dS/dA_kij = W_ck / (h w), so Grad-CAM = relu(CAM) / (h w)."""

    class Mean(nn.Module):
        def forward(self, A):
            return A.mean((2, 3), keepdim=True)

    pooling = nn.AdaptiveAvgPool2d(1) if pool == "adaptive" else Mean()
    case = Case(lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), pooling, nn.Flatten(), nn.Linear(8, 5)))
    model, x = case.model(seed=seed), case.images(2, seed=seed)
    A = model[:2](x).detach()
    target = torch.tensor([0, 3])
    cam = torch.einsum("nk,nkhw->nhw", model[4].weight[target], A).unsqueeze(1).detach()
    assert_same(GradCAM(relu=False)(model, x, target), cam / 100, 1e-12)  # the layer is found


def test_all_negative_evidence_warns_and_can_be_shown():
    model, x = CASES["plain"].model(), CASES["plain"].images(2)
    with torch.no_grad():
        model[6].weight[0], model[6].weight[1] = -1, 1
    with pytest.warns(DeepVizWarning, match="relu=False") as warned:
        found = GradCAM(layer="3").attribute(model, x, torch.tensor([0, 1]))
    assert len(warned) == 1  # not also that it is all zero
    assert not found.maps[0].any()
    assert found.maps[1].max() > 0
    assert "warnings" in found.notes.of(0)
    assert "warnings" not in found.notes.of(1)
    signed = GradCAM(layer="3", relu=False)(model, x, torch.tensor([0, 1]))
    assert signed[0].max() <= 0
    assert signed[0].min() < 0


def test_an_all_zero_map_without_negative_evidence_warns_too():
    model, x = CASES["plain"].model(), CASES["plain"].images(2)
    with torch.no_grad():
        model[2].weight.zero_()
        model[2].bias.fill_(-1)
    with pytest.warns(DeepVizWarning, match="all zero: no gradient"):
        GradCAM(layer="3")(model, x, 0)


@pytest.mark.filterwarnings("ignore:Grad-CAM is all zero")
def test_the_layer_found_is_the_last_map_before_pooling():
    notes = GradCAM().attribute(CASES["plain"].model(), CASES["plain"].images()).notes
    assert (notes.facts["layer"], notes.facts["grid"]) == ("3", "6 x 6, channels first")


def vit_by_hand(model, x, k, block):
    """Grad-CAM on the tokens that leave `blocks[block].norm1`, without the class token, on the grid of 3 x 4."""
    kept = {}

    def keep(module, inputs, output):
        output.retain_grad()
        kept["A"] = output

    handle = model.blocks[block].norm1.register_forward_hook(keep)
    model(x)[:, k].sum().backward()
    handle.remove()
    A, dA = kept["A"].detach()[:, 1:], kept["A"].grad[:, 1:]
    cam = torch.zeros(len(x), 3, 4, dtype=x.dtype)
    for i in range(3):
        for j in range(4):
            cam[:, i, j] = (dA.mean(1) * A[:, 4 * i + j]).sum(1)
    return cam.unsqueeze(1)


def test_on_a_vit_pooled_by_its_class_token_it_finds_the_last_patches_that_matter():
    case = Case(TinyViT, (3, 12, 16))
    model, x = case.model(), case.images(2)
    result = GradCAM(relu=False).attribute(model, x, 2)
    assert result.notes.facts["layer"] == "blocks.1.norm1"
    assert result.notes.facts["grid"] == "3 x 4 + 1 other token, tokens"
    assert_same(result.maps, vit_by_hand(case.model(), x, 2, 1), 1e-10)
    named = GradCAM(layer="blocks.0.norm1", relu=False)(model, x, 2)
    assert_same(named, vit_by_hand(case.model(), x, 2, 0), 1e-10)


def test_a_layers_answer_is_what_it_was_before_the_next_layer_worked_on_it_in_place():
    class Adds(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

        def forward(self, x):
            out = self.conv(x)
            out += 5
            F.relu_(out)
            return self.head(out.mean((2, 3)))

    model, x = Case(Adds).model(), CASES["plain"].images(2)
    A = model.conv(x).detach()
    w = (model.head.weight[1] * (A + 5 > 0).to(A).mean((2, 3)) / 100).detach()
    assert_same(GradCAM(layer="conv", relu=False)(model, x, 1), (w[..., None, None] * A).sum(1, keepdim=True), 1e-12)


@pytest.mark.filterwarnings("ignore:.*is all zero")
@pytest.mark.parametrize("method", [GradCAM, GuidedGradCAM])
@pytest.mark.parametrize("thrown_away", [False, True])
def test_an_in_place_layer_is_the_layer_it_would_be_out_of_place(method, thrown_away):
    class InPlace(nn.Module):
        def __init__(self, inplace):
            super().__init__()
            self.conv, self.act, self.head = nn.Conv2d(3, 4, 3), nn.ReLU(inplace), nn.Linear(4, 3)

        def forward(self, x):
            h = self.conv(x)
            out = self.act(h)
            return self.head((h if thrown_away and self.act.inplace else out).mean((2, 3)))

    x = CASES["plain"].images(2)
    usual, in_place = (Case(lambda i=inplace: InPlace(i)).model() for inplace in (False, True))
    assert_same(method(layer="act")(in_place, x, 1), method(layer="act")(usual, x, 1), 1e-12)
    assert_same(method()(in_place, x, 1), method()(usual, x, 1), 1e-12)


Pair = namedtuple("Pair", "map mask")
WRAPPINGS = {
    "tuple": (lambda h: (h, None), lambda out: out[0]),
    "list": (lambda h: [h, 3], lambda out: out[0]),
    "dict": (lambda h: {"size": 3, "map": h}, lambda out: out["map"]),
    "namedtuple": (lambda h: Pair(h, None), lambda out: out.map),
}


@pytest.mark.filterwarnings("ignore:.*is all zero")
@pytest.mark.parametrize("method", [GradCAM, GuidedGradCAM])
@pytest.mark.parametrize("kind", WRAPPINGS)
def test_a_layer_may_answer_with_more_than_a_tensor(method, kind):
    wrap, unwrap = WRAPPINGS[kind]

    class Stage(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return wrap(F.relu(self.conv(x)))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stage, self.head = Stage(), nn.Linear(4, 3)

        def forward(self, x):
            return self.head(unwrap(self.stage(x)).mean((2, 3)))

    model, x = Case(Net).model(), CASES["plain"].images(2)
    plain = nn.Sequential(model.stage.conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), model.head)
    assert_same(method(layer="stage")(model, x, 1), method(layer="1")(plain, x, 1), 1e-12)


def test_k_targets_find_the_layer_even_if_their_scores_sum_to_a_constant():
    x = CASES["plain"].images(1)
    opposite = torch.tensor([[0, 1]])  # z and -z
    assert GradCAM(relu=False)(CASES["one-logit"].model(), x, opposite).shape == (1, 2, 1, 6, 6)


class Odd(nn.Module):
    """Layers that cannot be explained, each for its own reason."""

    def __init__(self):
        super().__init__()
        self.conv, self.twice, self.unused = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)
        self.aside, self.blind, self.head = nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 3)

    def forward(self, x):
        h = self.conv(x)
        self.aside(h)
        with torch.no_grad():
            gate = self.blind(h).mean((2, 3)).sigmoid()
        return self.head(self.twice(self.twice(h)).mean((2, 3)) * gate)


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        ("twise", "did you mean.*twice"),
        ("", "no layer"),
        ("unused", "never called"),
        ("twice", "more than once"),
        ("aside", "does not depend"),
        ("head", "no spatial map"),
    ],
)
def test_a_layer_that_cannot_be_explained_is_an_error_that_says_why(layer, says):
    with pytest.raises(LayerError, match=says):
        GradCAM(layer=layer)(Case(Odd).model(), CASES["plain"].images(), 0)


def test_a_frozen_backbone_under_no_grad_is_explained_and_that_is_said():
    class Frozen(nn.Module):
        def __init__(self):
            super().__init__()
            self.features, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

        @torch.no_grad()
        def look(self, x):
            return self.features(x)

        def forward(self, x):
            return self.head(self.look(x).mean((2, 3)))

    model, x = Case(Frozen).model(), CASES["plain"].images()
    A, w = model.features(x).detach(), model.head.weight[0].detach().view(1, 4, 1, 1) / 100
    with pytest.warns(DeepVizWarning, match="under torch.no_grad"):
        cam = GradCAM(layer="features", relu=False)(model, x, 0)
    assert_same(cam, (w * A).sum(1, keepdim=True), 1e-12)


def test_a_network_without_maps_is_an_error():
    model = Case(lambda: nn.Sequential(nn.Flatten(), nn.Linear(432, 8), nn.ReLU(), nn.Linear(8, 3))).model()
    with pytest.raises(LayerError, match="no layer with a spatial map"):
        GradCAM()(model, CASES["plain"].images())


@pytest.mark.filterwarnings("ignore:Grad-CAM is all zero")
def test_a_scripted_part_that_is_not_the_layer_is_no_obstacle():
    model, x = CASES["plain"].model(), CASES["plain"].images()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = nn.Sequential(*model[:4], torch.jit.script(model[4:]))
        assert_same(GradCAM(layer="3")(scripted, x, 1), GradCAM(layer="3")(model, x, 1))


@pytest.mark.parametrize("method", [GradCAM(layer="1", relu=False), GuidedGradCAM(layer="1")], ids=str)
def test_a_named_layer_and_more_rows_than_a_chunk(method):
    model, x = CASES["plain"].model(), CASES["plain"].images(2 * chunks.ROWS_WITHOUT_GRAPH + 1)
    together = method(model, x, 1)
    for row in (0, chunks.ROWS_WITHOUT_GRAPH, len(x) - 1):
        torch.testing.assert_close(together[row : row + 1], method(model, x[row : row + 1], 1), rtol=0, atol=1e-9)


def test_all_negative_rows_in_several_chunks_are_told_apart():
    model, x = CASES["plain"].model(), CASES["plain"].images(3 * chunks.ROWS_WITH_GRAPH)
    signed = GradCAM(layer="1", relu=False)(model, x, 1).flatten(1)
    blank = (signed.amax(1) <= 0) & (signed.amin(1) < 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeepVizWarning)
        notes = GuidedGradCAM(layer="1").attribute(model, x, 1).notes
    assert [
        any("against the class" in text for text in notes.of(row).get("warnings", ())) for row in range(len(x))
    ] == (blank.tolist())


def test_a_callable_on_another_head_has_its_own_layer():
    class TwoHeads(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, x):
            return {"left": self.left(x).mean((2, 3)), "right": self.right(x).mean((2, 3))}

    model, x = TwoHeads().eval(), torch.rand(1, 3, 8, 8)
    for head in ("left", "right", "left"):
        found = GradCAM(relu=False).attribute(model, x, lambda output, head=head: output[head][:, 0])
        assert found.notes.facts["layer"] == head


def test_a_layer_that_hands_on_a_view_is_explained():
    class Viewed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.same, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Identity(), nn.Linear(4, 2)

        def forward(self, x):
            halves = self.conv(x).chunk(2, dim=1)
            return self.head((self.same(halves[0]) * halves[1]).mean((2, 3)))

    model, x = Viewed().double().eval(), torch.rand(2, 3, 8, 8, dtype=torch.float64)
    cam = GradCAM(layer="same", relu=False)(model, x, 1)
    A, B = model.conv(x).detach().chunk(2, dim=1)
    dA = model.head.weight[1].detach().view(1, 4, 1, 1) * B / 64
    expected = (dA.mean((2, 3), keepdim=True) * A).sum(1, keepdim=True)
    assert torch.allclose(cam, expected, atol=1e-12)


def test_outputs_that_are_probabilities_are_told_to_grad_cam_too():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 3), nn.Sigmoid())
    with pytest.warns(DeepVizWarning, match=r"outputs are probabilities, not logits \(sigmoid\)"):
        GradCAM(layer="0")(model, torch.rand(1, 3, 8, 8), 1)


@pytest.mark.parametrize("layer", ["0#0", "0#x", "0#"])
def test_a_call_that_has_no_number_is_refused(layer):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 3))
    with pytest.raises(LayerError, match="from 1 up"):
        GradCAM(layer=layer)(model, torch.rand(1, 3, 8, 8), 1)


def test_what_is_coarse():
    assert GradCAM().coarse
    assert SmoothGrad(of=GradCAM()).coarse
    assert not GuidedGradCAM().coarse
    assert not SmoothGrad().coarse
