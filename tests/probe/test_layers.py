"""Which layer is found on the networks that people use; random weights, small pictures that are not square."""

import gc
import warnings
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from deepviz.errors import LayerError, ModelFailed
from deepviz.methods import GradCAM
from deepviz.models import load_model
from deepviz.models.torchvision_shim import import_timm, import_torchvision
from deepviz.probe import layers, places
from deepviz.probe.grid import Grid
from deepviz.probe.layers import choose_layer, probe_layers
from deepviz.probe.lineage import Lineage
from networks import CASES, Case, TinyViT, asked

IMAGE = (64, 96)


def found(model, x, layer=None):
    with asked(model, x) as session:
        return choose_layer(session, layer)


def told(layer):
    return f"{layer.name} ({layer.grid})"


def probed(model, x):
    with asked(model, x) as session:
        return probe_layers(session)


def pictures(height, width, n=1):
    return torch.randn(n, 3, height, width, generator=torch.Generator().manual_seed(0))


def _torchvision(name, **options):
    return getattr(import_torchvision().models, name)(weights=None, **options)


def _timm(name, **options):
    return import_timm().create_model(name, pretrained=False, **options)


def _huggingface(kind):
    from transformers import SwinConfig, SwinForImageClassification, ViTConfig, ViTForImageClassification

    if kind == "vit":
        sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
        return ViTForImageClassification(ViTConfig(**sizes, image_size=64, num_labels=5))
    sizes = {"embed_dim": 8, "depths": [1, 1, 1], "num_heads": [1, 2, 4], "window_size": 4}
    return SwinForImageClassification(SwinConfig(**sizes, image_size=64, num_labels=5))


CNNS = {
    "resnet18": (lambda: _torchvision("resnet18"), "layer4"),
    "vgg11": (lambda: _torchvision("vgg11_bn", num_classes=2), "features"),
    "densenet121": (lambda: _torchvision("densenet121"), "features"),
    "mobilenet_v2": (lambda: _torchvision("mobilenet_v2"), "features"),
    "efficientnet_b0": (lambda: _torchvision("efficientnet_b0"), "features"),
    "googlenet": (lambda: _torchvision("googlenet", init_weights=False), "inception5b"),
    "convnext_atto": (lambda: _timm("convnext_atto"), "stages"),
    "regnetx_002": (lambda: _timm("regnetx_002"), "s4"),
    "efficientnet-lite0": (lambda: load_model().module, "_swish#2"),
}


@pytest.mark.parametrize("name", CNNS)
def test_on_a_cnn_the_outermost_module_before_pooling(name):
    build, layer = CNNS[name]
    model = _quietly(build)
    assert told(found(model, pictures(*IMAGE))) == f"{layer} (2 x 3, channels first)"


def _quietly(build):
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")  # of the model's library, about its own future
        torch.manual_seed(0)
        return build().eval()


TRANSFORMERS = {
    # pooled by the class token: the patches of the last block's output reach nothing, those of its first norm do
    "vit_tiny": (
        lambda: _timm("vit_tiny_patch16_224", img_size=IMAGE, depth=2),
        IMAGE,
        "blocks.1.norm1 (4 x 6 + 1 other token, tokens)",
    ),
    "vit_tiny at 224": (
        lambda: _timm("vit_tiny_patch16_224", depth=2),
        (224, 224),
        "blocks.1.norm1 (14 x 14 + 1 other token, tokens)",
    ),
    "vit with registers": (
        lambda: _timm("vit_small_patch14_reg4_dinov2", img_size=(56, 84), depth=2, num_classes=5),
        (56, 84),
        "blocks.1.norm1 (4 x 6 + 5 other tokens, tokens)",
    ),
    "deit, distilled": (
        lambda: _timm("deit_tiny_distilled_patch16_224", img_size=IMAGE, depth=2),
        IMAGE,
        "blocks.1.norm1 (4 x 6 + 2 other tokens, tokens)",
    ),
    # pooled by the mean of the patches
    "vit_tiny, mean": (
        lambda: _timm("vit_tiny_patch16_224", img_size=IMAGE, depth=2, global_pool="avg"),
        IMAGE,
        "blocks (4 x 6 + 1 other token, tokens)",
    ),
    "swin_tiny": (
        lambda: _timm("swin_tiny_patch4_window7_224", img_size=IMAGE, window_size=2, depths=(1, 1, 1, 1)),
        IMAGE,
        "norm (2 x 3, channels last)",
    ),
    "Hugging Face ViT": (
        lambda: _huggingface("vit"),
        (64, 64),
        "vit.layers.1.layernorm_before (4 x 4 + 1 other token, tokens)",
    ),
    "Hugging Face Swin": (lambda: _huggingface("swin"), (64, 64), "swin (4 x 4, tokens)"),
    "tiny": (lambda: Case(TinyViT).model(torch.float32), (12, 16), "blocks.1.norm1 (3 x 4 + 1 other token, tokens)"),
}


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_on_a_transformer_the_last_tokens_with_a_gradient(name):
    build, size, layer = TRANSFORMERS[name]
    if name.startswith("Hugging"):
        pytest.importorskip("transformers")
    model, x = _quietly(build), pictures(*size)
    assert told(found(model, x)) == layer
    chosen = next(answer for answer in probed(model, x) if answer.name == layer.split(" (")[0])
    assert chosen.strength > 0
    assert chosen.usable


def test_a_token_layer_has_the_same_grid_whether_it_is_named_or_found():
    size = (112, 70)
    model = _quietly(lambda: _timm("vit_small_patch14_reg4_dinov2", img_size=size, depth=2, num_classes=5))
    named, searched = (
        GradCAM(layer=layer, relu=False).attribute(model, pictures(*size), 1) for layer in ("blocks.1.norm1", None)
    )
    assert searched.notes.facts["grid"] == "8 x 5 + 5 other tokens, tokens"
    assert named.notes.facts == searched.notes.facts
    assert torch.equal(named.maps, searched.maps)


def test_on_a_class_token_vit_the_last_blocks_patches_get_no_gradient():
    model = _quietly(lambda: _timm("vit_tiny_patch16_224", img_size=IMAGE, depth=2))
    answers = {answer.name: answer for answer in probed(model, pictures(*IMAGE))}
    assert answers["blocks.1"].reason == "no gradient arrives on its grid"
    assert answers["blocks.1.norm1"].usable
    assert answers["blocks.0"].usable
    assert answers["blocks.1.attn.qkv"].reason == "inside attention"
    assert answers["patch_embed.proj"].grid == Grid("channels first", (4, 6))
    assert answers["head"].reason == "no spatial map"


def test_pooling_and_what_follows_is_no_spatial_map():
    answers = {answer.name: answer for answer in probed(CASES["plain"].model(), CASES["plain"].images(1))}
    assert {name: answer.reason for name, answer in answers.items()} == {
        "0": "",
        "1": "",
        "2": "",
        "3": "",
        "4": "pooling",
        "5": "no spatial map",
        "6": "no spatial map",
    }


class _Pooled(nn.Module):
    """Features, pooling to 2 x 2 in one of several spellings, and a linear layer."""

    def __init__(self, spelling):
        super().__init__()
        features = [nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()]
        if spelling == "in the block":
            features.append(nn.AdaptiveAvgPool2d(2))
        self.features, self.spelling = nn.Sequential(*features), spelling
        self.dropout, self.head = nn.Dropout(), nn.Linear(16, 3)

    def forward(self, x):
        f = self.features(x)
        if self.spelling == "functional, then dropout":
            f = self.dropout(F.adaptive_avg_pool2d(f, 2))
        elif self.spelling == "functional, then arithmetic":
            f = self.dropout(torch.tanh(2 * F.adaptive_max_pool2d(f, 2) - 1))
        return self.head(f.flatten(1))


@pytest.mark.parametrize(
    ("spelling", "layer"),
    [
        ("in the block", "features.1"),
        ("functional, then dropout", "features"),
        ("functional, then arithmetic", "features"),
    ],
)
def test_what_pooling_left_is_not_chosen_whoever_returns_it(spelling, layer):
    assert told(found(_Pooled(spelling).eval(), torch.rand(1, 3, 8, 8))) == f"{layer} (8 x 8, channels first)"


def test_a_gate_made_by_pooling_leaves_a_map_as_it_is():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.gate, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 1), nn.Linear(4, 3)
            self.last = nn.Identity()

        def forward(self, x):
            f = self.conv(x).relu()
            f = self.last(f * self.gate(F.adaptive_avg_pool2d(f, 1)).sigmoid())
            return self.head(f.mean((2, 3)))

    assert told(found(Gated().eval(), torch.rand(1, 3, 8, 8))) == "last (8 x 8, channels first)"


def test_channels_are_told_from_parts():
    """`chunk(x, 2)` cuts the batch or fails, `chunk(x, 2, 1)` the channels, `chunk(x, 2, 2)` the rows of the image."""
    with Lineage() as lineage:
        x = torch.rand(2, 4, 6, 6)
        lineage.start(x)
        for laid, parts in (
            (True, (*x.chunk(2, 1), *x.split(2, dim=1), *torch.tensor_split(x, 2, dim=-3), torch.cat([x, x], 1))),
            (False, (*x.chunk(2, 2), *x.split(2, 3), *x.chunk(2), *x.split(1), torch.cat([x, x], 2))),
        ):
            assert [lineage.is_laid(part) for part in parts] == [laid] * len(parts)


def test_an_auxiliary_branch_has_no_gradient_and_is_not_found():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.main, self.side, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.Linear(4, 5)

        def forward(self, x):
            h = self.main(x)
            self.side(h)
            return self.head(h.mean((2, 3)))

    case = Case(Branching)
    assert found(case.model(), case.images()).name == "main"


def test_attention_spelled_by_hand_is_not_a_feature_map():
    """A matrix of 12 x 16 queries and keys follows a 12 x 16 image's proportions, but is none."""

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k, self.drop = nn.Linear(8, 8), nn.Linear(8, 8), nn.Dropout()

        def forward(self, tokens):
            scores = self.q(tokens) @ self.k(tokens).transpose(1, 2)
            return tokens + self.drop(scores.softmax(-1)) @ tokens

    class Hand(nn.Module):
        def __init__(self):
            super().__init__()
            self.patch, self.attention, self.head = nn.Conv2d(3, 8, 4, 4), Attention(), nn.Linear(8, 5)

        def forward(self, x):
            return self.head(self.attention(self.patch(x).flatten(2).transpose(1, 2)).mean(1))

    case = Case(Hand, (3, 12, 16))
    model, x = case.model(), case.images()
    assert told(found(model, x)) == "attention (3 x 4, tokens)"
    with pytest.raises(LayerError, match=r"'attention.drop' has no spatial map: .*\(3, 12, 12\)"):
        GradCAM(layer="attention.drop")(model, x, 1)


def test_a_module_called_twice_is_numbered_and_its_last_call_found():
    class Reused(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.act, self.head = nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), nn.Linear(3, 5)

        def forward(self, x):
            return self.head(self.act(self.conv(self.act(self.conv(x)))).mean((2, 3)))

    case = Case(Reused)
    names = [answer.name for answer in probed(case.model(), case.images(1))]
    assert names == ["conv#1", "act#1", "conv#2", "act#2", "head"]
    assert found(case.model(), case.images()).name == "act#2"


def test_no_spatial_map_at_all():
    case = Case(lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 12, 5)))
    with pytest.raises(LayerError, match=r"no layer with a spatial map.*layer="):
        found(case.model(), case.images())


def test_the_find_is_remembered_for_model_and_shape_and_weakly():
    calls = []

    class Counted(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = CASES["plain"].model()

        def forward(self, x):
            calls.append(tuple(x.shape))
            return self.body(x)

    model, x = Counted().double(), CASES["plain"].images(3)
    first = found(model, x)
    assert len(calls) == 1
    assert calls[0][0] == 1  # one row is enough
    assert found(model, x[:2]) == first
    assert len(calls) == 1
    other = found(model, F.pad(x, (0, 8)))
    assert len(calls) == 2
    assert (first.grid, other.grid) == (Grid("channels first", (6, 6)), Grid("channels first", (6, 10)))
    alive = weakref.ref(model)
    del model
    gc.collect()
    assert alive() is None


def test_probing_leaves_no_hooks_even_when_the_model_raises():
    class Failing(nn.Module):
        def forward(self, x):
            raise KeyError("half way")

    model = nn.Sequential(CASES["plain"].model(), Failing())
    with pytest.raises(ModelFailed, match="half way"):
        found(model, CASES["plain"].images())
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_a_layer_that_is_named_is_looked_at_once():
    """With one image of noise, and again when a weight was written to."""
    model, x = CASES["plain"].model(), CASES["plain"].images()
    rows = []
    model.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    assert told(found(model, x, "3")) == told(found(model, x, model[3])) == "3 (6 x 6, channels first)"
    assert rows == [1]
    with torch.no_grad():
        model[0].weight.mul_(2)
    found(model, x, "3")
    assert rows == [1, 1]


def test_the_place_of_a_layer_is_checked_once_whether_it_is_named_or_found(monkeypatch):
    case = CASES["vit"]
    model, x = case.model(), case.images(1)
    checks = []
    checked = places.place
    monkeypatch.setattr(layers, "place", lambda *args, **given: checks.append(1) or checked(*args, **given))
    first = found(model, x)
    looked = len(checks)
    assert looked > 0
    assert found(model, x, first.name) == first
    assert len(checks) == looked


def test_a_layer_that_the_model_no_longer_has_is_found_anew():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 3)), _Head())
    x = torch.rand(1, 3, 16, 16)
    first = GradCAM(relu=False).attribute(model, x, 0).notes.facts["layer"]
    del model[1]
    second = GradCAM(relu=False).attribute(model, x, 0).notes.facts["layer"]
    assert (first, second) == ("1", "0")


def test_a_layer_is_found_anew_when_another_module_takes_the_place_of_one():
    """Even at the old one's address, which is why several are made here."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), _Head())
    x = torch.rand(1, 3, 16, 16)
    assert found(model, x).name == "1"
    address = id(model[1])
    del model._modules["1"]
    whole = [nn.Conv2d(4, 4, 14) for _ in range(20)]
    pool = next((pool for pool in whole if id(pool) == address), whole[0])
    model._modules = {"0": model[0], "1": pool, "2": model[-1]}
    assert found(model, x).name == "0"


def test_a_finer_grid_than_the_image_has_its_proportions():
    model = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(3, 4, 3, padding=1), _Head())
    assert GradCAM(layer="1", relu=False)(model, torch.rand(1, 3, 8, 12), 0).shape == (1, 1, 16, 24)


class _Head(nn.Module):
    def forward(self, x):
        return x.mean((2, 3))


class _Late(nn.Module):
    """Two branches, of which the late one is silent on dark images."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 3)
        with torch.no_grad():
            self.a.weight.abs_()
            self.a.bias.zero_()
            self.b.weight.abs_()
            self.b.bias.fill_(-0.5)

    def forward(self, x):
        h = torch.relu(self.a(x))
        return self.head((h + torch.relu(self.b(h))).mean((2, 3)))


def test_the_layer_does_not_depend_on_which_image_came_first():
    dark, light = torch.full((1, 3, 8, 8), 1e-3), torch.ones(1, 3, 8, 8)
    names = set()
    for images in ((dark, light), (light, dark), (torch.cat([dark, light]),)):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = _Late().eval()
        names |= {found(model, x).name for x in images}
    assert names == {"b"}


def test_the_layer_is_found_anew_for_other_weights_in_the_same_model():
    model = _Late().eval()
    with torch.no_grad():
        weight = model.b.weight.clone()
        model.b.weight.zero_()
        model.b.bias.fill_(-1.0)  # dead
    x = torch.rand(1, 3, 8, 8)
    assert found(model, x).name == "a"
    with torch.no_grad():
        model.b.weight.copy_(weight)
        model.b.bias.fill_(1.0)
    assert found(model, x).name == "b"
    fresh = _Late().eval()
    found(fresh, x)
    fresh.load_state_dict({**model.state_dict(), "b.weight": 0 * weight, "b.bias": torch.full((4,), -1.0)})
    assert found(fresh, x).name == "a"


class _Segmenter(nn.Module):
    """Returns its last map as `ending` makes it."""

    def __init__(self, ending):
        super().__init__()
        self.body, self.last, self.ending = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 5, 1), ending

    def forward(self, x):
        return self.ending(self.last(torch.relu(self.body(x))))


@pytest.mark.parametrize(
    "ending",
    [
        lambda y: y,
        lambda y: {"out": F.interpolate(y, scale_factor=2, mode="bilinear")},
        lambda y: (y.flatten(2).transpose(1, 2), None),
        lambda y: [y[:, :2], y[:, 2:].sigmoid()],
        lambda y: y.sigmoid() * 10 + 1,
        lambda y: y.flatten(1)[:, torch.arange(100)],
    ],
)
def test_the_models_output_itself_is_not_chosen(ending):
    """A segmenter's last map, shown as it is, enlarged, flattened, in parts, in other units or at some entries."""

    def score(output):
        value = (
            output["out"] if isinstance(output, dict) else output[0] if isinstance(output, (tuple, list)) else output
        )
        return value.flatten(1)[:, 3:30].sum(1)

    model, x = _Segmenter(ending).eval(), torch.rand(2, 3, 8, 12)
    assert GradCAM(relu=False).attribute(model, x, score).notes.facts["layer"] == "body"
    assert GradCAM(layer="last", relu=False)(model, x, score).shape == (2, 1, 8, 12)  # whoever names it has it


@pytest.mark.parametrize("join", [torch.add, lambda a, b: (a.sigmoid() * b.sigmoid()).sqrt()])
def test_two_maps_of_which_the_output_is_made_are_not_chosen(join):
    class Two(_Segmenter):
        def __init__(self):
            super().__init__(join)
            self.finer = nn.Conv2d(4, 5, 1)

        def forward(self, x):
            h = torch.relu(self.body(x))
            return self.ending(self.last(h), self.finer(h))

    model, x = Two().eval(), torch.rand(1, 3, 8, 12)
    score = lambda output: output[:, 1].flatten(1).sum(1)  # noqa: E731
    assert GradCAM(relu=False).attribute(model, x, score).notes.facts["layer"] == "body"


def test_padding_is_no_feature_map():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ZeroPad2d(1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    assert found(model.eval(), torch.rand(1, 3, 8, 12)).name == "0"


def test_an_activation_for_all_gives_its_place_to_the_module_that_it_is_the_last_of():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            act = nn.ReLU()
            self.act = act
            self.stages = nn.Sequential(
                nn.Sequential(nn.Conv2d(3, 4, 3), act), nn.Sequential(nn.Sequential(nn.Conv2d(4, 4, 3), act))
            )
            self.head = nn.Linear(4, 5)

        def forward(self, x):
            return self.head(self.stages[1][0](self.stages[0](x)).mean((2, 3)))

    assert found(Shared().eval(), torch.rand(1, 3, 12, 16)).name == "stages.1.0"


def test_a_map_that_is_returned_beside_the_scores_may_be_explained():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

        def forward(self, x):
            features = self.body(x)
            return self.head(features.mean((2, 3))), features

    model, x = Both().eval(), torch.rand(1, 3, 8, 8)
    assert found(model, x).name == "body"


def test_a_layer_that_does_not_depend_on_the_image_is_not_found():
    """Object queries: embeddings that meet the image only later."""

    class Queries(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.mix, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 8), nn.Linear(8, 5)
            self.queries = nn.Parameter(torch.randn(1, 16, 8))

        def forward(self, x):
            tokens = self.body(x).flatten(2).transpose(1, 2)
            queries = self.mix(self.queries.expand(len(x), -1, -1))
            seen = (queries @ tokens.transpose(1, 2)).softmax(-1) @ tokens
            return self.head((queries + seen).mean(1))

    case = Case(Queries, (3, 16, 16))
    assert told(found(case.model(), case.images())) == "body (4 x 4, channels first)"
    with pytest.raises(LayerError, match=r"layer 'mix' returns .* but it does not depend on the image; choose another"):
        found(case.model(), case.images(), "mix")


def test_windows_and_frames_in_the_rows_are_refused():
    class PerFrame(nn.Module):
        def __init__(self):
            super().__init__()
            self.cnn, self.head = nn.Conv2d(2, 6, 3, padding=1), nn.Linear(6, 5)

        def forward(self, x):
            frames = x.unflatten(1, (2, 4)).transpose(1, 2).flatten(0, 1)
            return self.head(torch.relu(self.cnn(frames)).mean((2, 3)).unflatten(0, (len(x), 4)).mean(1))

    case = Case(PerFrame, (8, 12, 12))
    for x in (case.images(1), case.images(4)):
        with pytest.raises(LayerError, match="folded into its rows"):
            GradCAM(layer="cnn")(case.model(), x, 1)
        with pytest.raises(LayerError, match="no layer with a spatial map"):
            GradCAM()(case.model(), x, 1)
