from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from deepviz.errors import DeepVizWarning, ModelFailed
from deepviz.methods import CAM, AblationCAM, ReciproCAM
from networks import CASES, READABLE, Case, assert_same

pytestmark = pytest.mark.filterwarnings("ignore:.*the score is not positive")
SIGNED = AblationCAM(layer="4", relu=False)


@torch.no_grad()
def by_hand(below, above, x, c):
    """Desai and Ramaswamy, equations 3 and 4, one channel and one image at a time."""
    cams = []
    for row in x:
        A = below(row[None]).detach()
        S = float(above(A)[0, c])
        cam = torch.zeros_like(A[:, 0])
        for k in range(A.shape[1]):
            without = A.clone()
            without[:, k] = 0
            cam += (S - float(above(without)[0, c])) / S * A[:, k]
        cams.append(cam)
    return torch.stack(cams)


@given(seed=st.integers(0, 1000), c=st.integers(0, 2))
def test_it_is_equations_3_and_4(seed, c):
    net, x = READABLE.model(seed=seed), READABLE.images(2, seed=seed)
    assert_same(SIGNED(net, x, c), by_hand(net[:5], net[5:], x, c), 1e-9)


def test_several_classes_share_their_passes():
    net, x = READABLE.model(), READABLE.images(2)
    together = SIGNED(net, x, torch.tensor([[0, 2], [1, 0]]))
    assert_same(together[0, 1], SIGNED(net, x[:1], 2)[0], 1e-12)
    assert_same(together[1, 0], SIGNED(net, x[1:], 1)[0], 1e-12)


class Counting(nn.Module):
    """How many rows came by."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def forward(self, x):
        self.rows.append(len(x))
        return x


def test_the_layers_below_run_on_one_row_for_many_channels():
    below, above = Counting(), Counting()
    net = nn.Sequential(below, nn.Conv2d(3, 16, 3), nn.ReLU(), above, nn.Flatten(), nn.Linear(16 * 64, 3)).double()
    x = torch.rand(1, 3, 10, 10, dtype=torch.float64)
    method = AblationCAM(layer="2", relu=False)
    method(net, x, 1)
    below.rows.clear()
    above.rows.clear()
    method(net, x, 1)
    assert sum(above.rows) >= 17  # the image, and a copy without each channel
    assert set(below.rows) == {1}


class SkipPast(nn.Module):
    """The layer's output is concatenated with what went past it, which needs the same number of rows."""

    def __init__(self):
        super().__init__()
        self.first, self.layer, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 1), nn.Linear(10 * 64, 3)

    def above(self, h, A):
        return self.head(torch.cat([h, A], 1).flatten(1))

    def forward(self, x):
        h = self.first(x).relu()
        return self.above(h, self.layer(h))


class BatchSize(nn.Module):
    """It takes the mean of whatever rows there are beyond those that came in, in silence."""

    def __init__(self):
        super().__init__()
        self.first, self.layer, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 1), nn.Linear(6, 3)

    def above(self, h, A):
        return self.head(A.reshape(len(h), -1, 6, *A.shape[2:]).mean((1, 3, 4)))

    def forward(self, x):
        h = self.first(x).relu()
        return self.above(h, self.layer(h))


@pytest.mark.parametrize("made", [SkipPast, BatchSize])
def test_models_that_do_not_take_one_row_below_and_many_above_are_run_from_the_start(made):
    torch.manual_seed(0)
    model, x = made().double(), torch.rand(2, 3, 10, 10, dtype=torch.float64)
    found = AblationCAM(layer="layer", relu=False)(model, x, 1)
    h = model.first(x).relu()
    A = model.layer(h)
    S = model.above(h, A)[:, 1]
    cam = torch.zeros_like(A[:, :1])
    for k in range(6):
        without = A.clone()
        without[:, k] = 0
        w = (S - model.above(h, without)[:, 1]) / S
        cam = cam + w.view(2, 1, 1, 1) * A[:, k : k + 1]
    assert_same(found, cam.detach(), 1e-9)


@torch.no_grad()
def test_tokens_lose_their_channel_at_the_places_of_the_image():
    model, x = CASES["vit"].model(), CASES["vit"].images(1)
    found = AblationCAM(layer="blocks.1.norm1", relu=False)(model, x, 2)
    layer, seen = model.blocks[1].norm1, {}
    handle = layer.register_forward_hook(lambda module, inputs, output: seen.update(A=output.detach()))
    S = float(model(x)[0, 2])
    handle.remove()
    cam = torch.zeros_like(seen["A"][0, 1:, 0])
    for k in range(seen["A"].shape[2]):
        changed = seen["A"].clone()
        changed[:, 1:, k] = 0
        handle = layer.register_forward_hook(lambda *_, changed=changed: changed)
        cam += (S - float(model(x)[0, 2])) / S * seen["A"][0, 1:, k]
        handle.remove()
    assert_same(found.flatten(), cam, 1e-9)


class Failing(nn.Module):
    """Fails on many rows, while it is told to."""

    def __init__(self):
        super().__init__()
        self.fails = []

    def forward(self, x):
        if len(x) > 3 and self.fails:
            raise MemoryError("as told")
        return x


def test_modules_compute_again_afterwards_also_after_a_failure():
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), Failing(), nn.Flatten(), nn.Linear(16 * 64, 3)).double()
    x = torch.rand(1, 3, 10, 10, dtype=torch.float64)
    before = AblationCAM(layer="1", relu=False)(net, x, 1)
    net[2].fails.append(True)
    with pytest.raises(ModelFailed, match="as told"):
        AblationCAM(layer="1")(net, x, 1)
    net[2].fails.clear()
    assert not any("forward" in vars(module) for module in net.modules())
    assert torch.equal(AblationCAM(layer="1", relu=False)(net, x, 1), before)
    assert not any("forward" in vars(module) for module in net.modules())


@torch.no_grad()
def test_a_budget_leaves_out_the_channels_with_the_least_energy():
    net, x = READABLE.model(), READABLE.images(2)
    found = AblationCAM(layer="4", relu=False, channels=2).attribute(net, x, 1)
    A = net[:5](x)
    energy = A.square().sum((2, 3))
    for row in range(2):
        chosen = energy[row].topk(2).indices
        S, cam = float(net(x)[row, 1]), 0
        for k in chosen:
            without = A[row : row + 1].clone()
            without[:, k] = 0
            cam = cam + (S - float(net[5:](without)[0, 1])) / S * A[row, k]
        assert_same(found.maps[row, 0], cam, 1e-9)
        share = float(energy[row, chosen].sum() / energy[row].sum())
        assert float(found.notes.rows["energy of the channels"][row]) == pytest.approx(share, rel=1e-9)
    assert found.notes.facts["channels"] == "2 of 4, those with the most energy"
    assert AblationCAM(channels=2).passes() == 4


def constant_score(value):
    """One channel that adds its mean to a score that is otherwise `value`."""
    net = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2)).double()
    with torch.no_grad():
        net[0].weight.fill_(1)
        net[3].weight.fill_(1)
        net[3].bias.fill_(value)
    return net


def test_a_score_that_is_not_positive_turns_the_map_around_and_is_warned_of():
    """S = mean x + b: the channel speaks for the class, w = mean x / S."""
    x = torch.stack([torch.full((1, 3, 3), 1.0), torch.full((1, 3, 3), 4.0)]).double()
    method = AblationCAM(layer="0", relu=False)
    assert_same(method(constant_score(1.0), x, 0)[:, 0, 0, 0], torch.tensor([0.5, 16 / 5], dtype=torch.float64), 1e-12)
    with pytest.warns(DeepVizWarning, match="the score is not positive") as heard:
        found = method.attribute(constant_score(-2.0), x, 0)
    assert len(heard) == 1
    assert_same(found.maps[:, 0, 0, 0], torch.tensor([-1.0, 8.0], dtype=torch.float64), 1e-12)
    assert ["warnings" in found.notes.of(row) for row in range(2)] == [True, False]
    with pytest.warns(DeepVizWarning, match="the score is not positive"):
        assert_same(method(constant_score(-1.0), x[:1], 0)[:, 0, 0, 0], torch.tensor([1.0], dtype=torch.float64), 1e-12)


class Pooled(nn.Module):
    """A backbone as those of transformers: it returns its feature map and, made of it, what the classifier takes."""

    class Backbone(nn.Module):
        def __init__(self, stages):
            super().__init__()
            self.stages = stages

        def forward(self, x):
            h = self.stages(x)
            h = h if isinstance(h, torch.Tensor) else h[0]
            return {"last": h, "pooled": h.mean((2, 3))}

    class Pair(nn.Module):
        """A layer with a skip connection past it, beside which nothing is made of the sum."""

        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1)

        def forward(self, x):
            h = self.first(x).relu()
            return h + self.second(h), None

    def __init__(self, pair):
        super().__init__()
        plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.backbone, self.head = self.Backbone(self.Pair() if pair else plain), nn.Linear(4, 5)

    def forward(self, x):
        return self.head(self.backbone(x)["pooled"])


@pytest.mark.parametrize("pair", [False, True])
@pytest.mark.parametrize("method", [AblationCAM(relu=False), ReciproCAM(value="score"), CAM()], ids=str)
def test_a_layer_that_returns_what_is_made_of_its_map_is_changed_before_that(method, pair):
    case = Case(lambda: Pooled(pair))
    model, x = case.model(), case.images(2)
    found, inner = (
        replace(method, layer=layer).attribute(model, x, 1).maps for layer in ("backbone", "backbone.stages")
    )
    assert float((inner.amax((2, 3)) - inner.amin((2, 3))).min()) > 0
    assert_same(found, inner, 1e-9)
