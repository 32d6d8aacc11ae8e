import json

import pytest
import torch
from torch import nn

import deepviz
from deepviz.errors import ImageError, LayerError, ModelFailed
from deepviz.inside import dataset_examples, viz_activations, viz_channels, viz_layers
from deepviz.models import LoadedModel
from networks import CASES, InPlaceAndReused, TinyViT, plain
from small_models import PREPROCESS, network, no_class_scores, no_map, scripted


class Parts(nn.Module):
    """Modules called once, twice, never, and only in parts."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)])
        self.act, self.unused, self.head = nn.ReLU(), nn.Linear(2, 3), nn.Linear(4, 5)
        self.head.second_name_of_the_weight = self.head.weight

    def forward(self, x):
        for conv in self.convs:
            x = self.act(conv(x))
        return self.head(x.mean((2, 3)))


def test_every_module_has_its_row_with_what_it_answers():
    tree = viz_layers(Parts(), torch.rand(3, 12, 10))
    rows = {row.name: row for row in tree}
    assert list(rows) == ["convs", "convs.0", "convs.1", "act#1", "act#2", "unused", "head"]
    assert {name: row.shape for name, row in rows.items()} == {
        "convs": None,
        "convs.0": (1, 4, 10, 8),
        "convs.1": (1, 4, 8, 6),
        "act#1": (1, 4, 10, 8),
        "act#2": (1, 4, 8, 6),
        "unused": None,
        "head": (1, 5),
    }
    assert [row.depth for row in tree] == [0, 1, 1, 0, 0, 0, 0]
    assert [row.calls for row in tree] == [0, 1, 1, 2, 2, 0, 1]
    assert (rows["convs"].reason, rows["unused"].reason) == ("only its parts are called", "never called")
    assert rows["convs.1"].kind == "Conv2d"
    sizes = {name: rows[name].field.size for name in ("convs.0", "convs.1", "act#1", "act#2")}
    assert sizes == {"convs.0": (3, 3), "convs.1": (5, 5), "act#1": (3, 3), "act#2": (5, 5)}
    assert rows["head"].sees == "whole image"


def test_the_calls_of_a_reused_module_are_told_apart_by_what_was_called_before():
    model, image = Parts(), torch.rand(3, 12, 10)
    titles = {row.name: row.title for row in viz_layers(model, image)}
    assert titles["act#1"] == "ReLU after convs.0"
    assert titles["act#2"] == "ReLU after convs.1"
    assert all(title == name for name, title in titles.items() if "#" not in name)
    for asked in (None, "act#2"):
        (cam,) = deepviz.explain(model, image, deepviz.methods.GradCAM(layer=asked, relu=False))
        assert (cam.layer, cam.layer_title) == ("act#2", "ReLU after convs.1")
        assert "ReLU after convs.1" in cam.caption
        assert "#" not in cam.caption


def test_a_numbered_call_is_shown_with_its_title_wherever_its_name_is():
    named, image = "act#2 (ReLU after convs.1)", torch.rand(3, 12, 10)
    tree = viz_layers(Parts(), image)
    assert [line.split("  ")[0] for line in str(tree).splitlines()[2:]] == [
        "convs", "", "", "act#1 (ReLU after convs.0)", named, "unused", "head",
    ]  # fmt: skip
    assert f"<td style='text-align:left;white-space:pre'>{named}</td>" in tree._repr_html_()
    for shown in (
        viz_activations(Parts(), image, "act#2"),
        dataset_examples(Parts(), "act#2", [0], image[None]),
        viz_channels(Parts(), "act#2", [0], image[None], preprocess=deepviz.Preprocess((12, 10)), steps=1),
    ):
        assert f"({named}: " in repr(shown)
        assert f"<b>{named}" in shown._repr_html_()


def test_parameters_are_counted_once():
    model = Parts()
    tree = viz_layers(model, torch.rand(3, 12, 10))
    assert tree["convs"].parameters == 0
    assert tree["convs"].parameters_inside == 3 * 4 * 9 + 4 + 4 * 4 * 9 + 4
    assert tree["head"].parameters == tree["head"].parameters_inside == 4 * 5 + 5
    assert tree.parameters == sum(parameter.numel() for parameter in model.parameters())


def test_the_default_is_what_grad_cam_takes():
    image = torch.rand(3, 12, 12, generator=torch.Generator().manual_seed(0)).double()
    for case in ("plain", "in-place", "skip", "vit"):
        model = CASES[case].model()
        x = image.repeat(1, 1, 2)[:, :, :16] if case == "vit" else image
        (cam,) = deepviz.explain(model, x, deepviz.methods.GradCAM(relu=False))
        default = viz_layers(model, x).default
        assert default.name == cam.layer
        assert default.usable
        assert str(default.grid) == cam.notes["grid"]


def test_tokens_have_their_grid_and_internals_their_reason():
    tree = viz_layers(TinyViT(), torch.rand(3, 12, 16))
    assert str(tree["blocks.0"].grid) == "3 x 4 + 1 other token, tokens"
    assert tree["blocks.0.attn.qkv"].reason == "inside attention"
    assert tree["head"].reason == "no spatial map"


def test_without_an_image_the_size_comes_from_the_preprocessing():
    loaded = LoadedModel(network(), "small", PREPROCESS)
    assert viz_layers(loaded).input == (1, 3, 32, 32)
    assert viz_layers(network(), preprocess=deepviz.Preprocess((32, 40), mean=(0.5,) * 3)).input == (1, 3, 32, 40)
    with pytest.raises(ImageError, match=r"input size of Sequential is not known: give an image"):
        viz_layers(network())


def test_a_photograph_gives_the_same_tree_as_noise_of_its_size():
    loaded = LoadedModel(network(), "small", PREPROCESS)
    assert viz_layers(loaded, deepviz.example_photo()).to_dict() == viz_layers(loaded).to_dict()


def test_a_model_without_class_scores_has_its_tree_all_the_same():
    tree = viz_layers(no_class_scores())
    assert tree.default.name == "body"
    assert tree["body.0"].usable
    assert tree["body.0"].field.size == (3, 3)


def test_a_model_without_maps_has_no_default():
    tree = viz_layers(no_map())
    assert tree.default is None
    assert not any(row.usable for row in tree)


def test_torchscript_is_not_said_to_be_never_called():
    assert {row.reason for row in viz_layers(scripted())} == {"TorchScript cannot be hooked"}


def test_a_model_that_fails_is_an_error():
    with pytest.raises(ModelFailed, match=r"failed on x \(1, 5, 8, 8\)"):
        viz_layers(plain(), torch.rand(5, 8, 8))


def test_swapped_arguments():
    with pytest.raises(TypeError, match=r"the order is \(model, image\)"):
        viz_layers(torch.rand(3, 8, 8), plain())


def test_it_reads_as_a_table():
    tree = viz_layers(InPlaceAndReused(), torch.rand(3, 12, 12))
    title, head, first, *_ = str(tree).splitlines()
    assert title == "InPlaceAndReused: 653 parameters, input 1 x 3 x 12 x 12"
    assert head.split() == ["layer", "type", "output", "parameters", "sees", "for", "CAM", "methods"]
    assert first.split("  ")[0] == "first"
    assert "yes, by default" in str(tree)
    assert str(tree) == repr(tree)
    assert all(line == line.rstrip() for line in str(tree).splitlines())
    assert "<script>" not in viz_layers(LoadedModel(plain(), "<script>"), torch.rand(3, 8, 8))._repr_html_()


def test_it_goes_into_json():
    tree = viz_layers(Parts(), torch.rand(3, 12, 10))
    told = json.loads(json.dumps(tree.to_dict()))
    assert told["default"] == tree.default.name
    assert len(told["layers"]) == len(tree) == 7
    assert told["layers"][1] == {
        "layer": "convs.0",
        "title": "convs.0",
        "depth": 1,
        "type": "Conv2d",
        "output": [1, 4, 10, 8],
        "parameters": 112,
        "parameters inside": 112,
        "receptive field": [3, 3],
        "step": [1, 1],
        "calls": 1,
        "usable": True,
        "reason": "",
        "default": False,
        "grid": [10, 8],
    }
    with pytest.raises(KeyError):
        tree["nothing"]


@pytest.mark.parametrize(
    ("conv", "pool", "space"),
    [(nn.Conv1d, nn.AdaptiveAvgPool1d, (40,)), (nn.Conv3d, nn.AdaptiveAvgPool3d, (4, 12, 10))],
)
def test_signals_and_volumes_have_their_tree(conv, pool, space):
    net = nn.Sequential(conv(2, 4, 3, stride=2, padding=1), nn.ReLU(), pool(1), nn.Flatten(), nn.Linear(4, 3))
    image = torch.rand(2, *space)
    tree = viz_layers(net, image)
    assert tree.input == (1, 2, *space)
    assert (tree.default.name, tree["1"].grid.size) == ("1", tuple(length // 2 for length in space))
    assert [row.usable for row in tree] == [True, True, False, False, False]
    assert [row.shape for row in viz_layers(net, deepviz.Inputs(torch.rand(3, 2, *space)))] == [
        row.shape for row in tree
    ]


def test_what_is_usable_is_what_grad_cam_takes():
    """Layer by layer, on tokens whose class token is last, with queries that look at them."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.patch, self.norm, self.mlp = nn.Conv2d(3, 12, 8, 8), nn.LayerNorm(12), nn.Linear(12, 12)
            self.cls, self.queries = nn.Parameter(torch.randn(1, 1, 12)), nn.Parameter(torch.randn(1, 9, 12))
            self.attn = nn.MultiheadAttention(12, 2, batch_first=True)
            self.decoded, self.head = nn.LayerNorm(12), nn.Linear(12, 5)

        def forward(self, x):
            tokens = torch.cat([self.patch(x).flatten(2).transpose(1, 2), self.cls.expand(len(x), -1, -1)], 1)
            tokens = tokens + self.mlp(self.norm(tokens))
            queries = self.queries.expand(len(x), -1, -1)
            seen = self.decoded(queries + self.attn(queries, tokens, tokens, need_weights=False)[0])
            return self.head(seen.mean(1))

    net, image = Net().eval(), torch.rand(3, 32, 32)
    tree = viz_layers(net, image)
    assert tree.default.name == "mlp"
    for row in tree:
        usable = True
        try:
            found = deepviz.methods.GradCAM(layer=row.name, relu=False).attribute(net, image[None], 1)
        except LayerError:
            usable = False
        assert row.usable == usable or row.reason == "inside attention", row.name
        if row.usable:
            assert str(row.grid) == found.notes.facts["grid"]
    assert str(tree["norm"].grid) == "4 x 4 + 1 other token, tokens"
    assert "do not lie on the image" in tree["decoded"].reason
