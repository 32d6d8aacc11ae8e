"""`viz_attention`: matrices that are re-derived slowly, rows where the patches lie, refusals that name the way out."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import attention_by_hand as by_hand
import deepviz
from deepviz.errors import ImageError, LayerError, NoAttention, OutputError
from deepviz.inside import attention_rows, viz_attention
from deepviz.inside.loading import UNSEEN
from deepviz.models.torchvision_shim import import_timm
from deepviz.render.text import percent
from deepviz.testing import surroundings
from networks import InPlaceAndReused, MeanViT, TinyViT, assert_same, plain
from small_models import seeded

WIDE = torch.rand(3, 12, 16, generator=torch.Generator().manual_seed(0))  # 3 x 4 patches
SQUARE = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))


def created(name, **options):
    if find_spec("timm") is None:
        pytest.skip("timm is not installed")
    return import_timm().create_model(name, pretrained=False, **options)


def timm_vit(**options):
    """A transformer of timm with random weights, for images of 32 x 32: 4 x 4 patches."""
    small = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 5}
    model = created("vit_tiny_patch16_224", **{**small, **options})
    with torch.no_grad():  # timm's own are so small that all tokens attend to all alike
        generator = torch.Generator().manual_seed(0)
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / max(1, parameter[0].numel()) ** 0.5)
    return model.eval()


def softmax_of(model, x):
    """softmax(q k^T / sqrt(d)) of each layer of timm's, (heads, T, T), from what its linear layers return."""
    found = []

    def remember(module, _, output):
        T, heads = output.shape[1], 3
        q, k, _ = output.reshape(T, 3, heads, -1).permute(1, 2, 0, 3)
        found.append(torch.softmax(q @ k.transpose(1, 2) / q.shape[-1] ** 0.5, -1))

    hooks = [block.attn.qkv.register_forward_hook(remember) for block in model.blocks]
    with torch.no_grad():
        model(x[None])
    for hook in hooks:
        hook.remove()
    return found


def test_the_matrices_are_those_of_the_slow_oracle():
    vit = seeded(TinyViT())
    _, expected = by_hand.layers(vit, WIDE.double().numpy())
    found = viz_attention(vit, WIDE)
    assert found.layers == tuple(found.matrices) == ("blocks.0.attn", "blocks.1.attn")
    for A, oracle in zip(found.matrices.values(), expected, strict=True):
        assert A.dtype == torch.float32
        assert_same(A, torch.tensor(oracle).float(), 1e-5)
        assert_same(A.sum(-1), torch.ones(A.shape[:2]), 1e-5)


@pytest.mark.parametrize("fused", [True, False])
def test_the_matrices_of_timms_are_softmax_of_queries_and_keys(fused):
    model = timm_vit()
    for block in model.blocks:
        block.attn.fused_attn = fused
    found = viz_attention(model, SQUARE)
    expected = softmax_of(model, SQUARE)
    for A, oracle in zip(found.matrices.values(), expected, strict=True):
        assert float(A.std()) > 0.01
        assert_same(A, oracle, 1e-5)


def test_a_row_lies_on_the_image_as_the_patches_do():
    vit = seeded(TinyViT())
    found = viz_attention(vit, WIDE, "blocks.0")
    (A,) = found.matrices.values()
    for y in range(3):
        for x in range(4):
            assert_same(found.row(y, x), A.mean(0)[1 + 4 * y + x, 1:].reshape(3, 4), 1e-7)
            assert_same(found.row(y, x, head=1), A[1, 1 + 4 * y + x, 1:].reshape(3, 4), 0)
    assert_same(found.row_of(0, head=1), A[1, 0, 1:].reshape(3, 4), 0)
    assert found.on_special((1, 2))[0] == pytest.approx(1 - float(found.row(1, 2).sum()), abs=1e-6)


def test_a_patch_attends_to_what_has_its_key():
    """Of a model whose queries and keys are the patch's own colour, a red patch attends to red patches."""

    class Colours(nn.Module):
        def forward(self, x):
            tokens = F.avg_pool2d(x, 4).flatten(2).transpose(1, 2)
            return (F.scaled_dot_product_attention(tokens, tokens, tokens, scale=40.0) ** 2).mean(1)

    image = torch.zeros(3, 32, 32)
    image[2] = 1
    image[:, 0:4, 8:12] = image[:, 20:24, 28:32] = torch.tensor([1.0, 0, 0])[:, None, None]
    row = viz_attention(Colours(), image).row(0, 2)
    assert row[0, 2] == row[5, 7] == pytest.approx(0.5, abs=1e-6)


def test_registers_are_special_and_no_class_tokens():
    found = viz_attention(timm_vit(reg_tokens=2), SQUARE, -1)
    assert (found.special, found.class_token) == ((0, 1, 2), 0)
    assert [found.called(one) for one in (0, 1, (3, 0))] == ["the class token", "token 1", "patch 3, 0"]
    told = found.on_special((3, 0), head=2)
    assert float(found.row(3, 0, head=2).sum()) + sum(told.values()) == pytest.approx(1, abs=1e-6)


def test_a_class_token_at_the_end():
    class Last(TinyViT):
        def forward(self, x):
            tokens = self.patch(x).flatten(2).transpose(1, 2)
            tokens = torch.cat([tokens, self.cls.expand(len(x), -1, -1)], 1) + self.position
            return self.head(self.norm(self.blocks(tokens))[:, -1])

    found = viz_attention(seeded(Last()), WIDE, -1)
    assert (found.special, found.class_token, found.at) == ((12,), 12, 12)
    assert_same(found.row(2, 1), found.matrix().mean(0)[9, :12].reshape(3, 4), 0)


def test_tokens_that_run_down_the_columns():
    class Columns(TinyViT):
        def forward(self, x):
            tokens = self.patch(x).transpose(2, 3).flatten(2).transpose(1, 2)
            tokens = torch.cat([self.cls.expand(len(x), -1, -1), tokens], 1) + self.position
            return self.head(self.norm(self.blocks(tokens))[:, 0])

    found = viz_attention(seeded(Columns()), WIDE, -1)
    assert found.grid.size == (3, 4)
    assert found.positions.tolist() == [[1, 4, 7, 10], [2, 5, 8, 11], [3, 6, 9, 12]]
    assert_same(found.row(2, 1), found.matrix().mean(0)[6, 1:].reshape(4, 3).T, 0)


def test_without_a_class_token_the_middle_is_drawn():
    found = viz_attention(seeded(MeanViT()), WIDE)
    assert (found.class_token, found.at) == (None, (1, 2))


def test_heads_that_share_keys():
    class Grouped(nn.Module):
        def __init__(self):
            super().__init__()
            self.patch, self.q, self.kv = nn.Conv2d(3, 8, 4, stride=4), nn.Linear(8, 8), nn.Linear(8, 4)
            self.head = nn.Linear(8, 5)

        def forward(self, x):
            tokens = self.patch(x).flatten(2).transpose(1, 2)
            q = self.q(tokens).unflatten(2, (4, 2)).transpose(1, 2)
            k, v = self.kv(tokens).unflatten(2, (2, 1, 2)).permute(2, 0, 3, 1, 4)
            mixed = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
            return self.head(mixed.transpose(1, 2).flatten(2).square().mean(1))

    net = seeded(Grouped())
    with torch.no_grad():
        tokens = net.patch(WIDE[None]).flatten(2).transpose(1, 2)[0]
        q, k = net.q(tokens).reshape(12, 4, 2), net.kv(tokens)[:, :2]
    found = viz_attention(net, WIDE)
    for h in range(4):
        assert_same(found.matrix()[h], torch.softmax(q[:, h] @ k.T / 2**0.5, -1), 1e-5)


def test_learned_queries_that_pool_the_tokens():
    found = viz_attention(timm_vit(class_token=False, global_pool="map"), SQUARE, "attn_pool")
    assert found.layers == ("blocks.0.attn", "blocks.1.attn", "attn_pool")
    assert found.matrix().shape == (3, 1, 16)
    assert found.called() == "query 0"
    assert float(found.row_of(0).sum()) == pytest.approx(1, abs=1e-5)
    with pytest.raises(LayerError, match=r"'attn_pool' 1 learned queries pool the tokens.*use row_of\(0\)"):
        found.row(0, 0)


def drawn_as(found, monkeypatch):
    """The title, captions, details and footer of a sheet."""
    told = []

    def sheet(source, image, groups, geometry, footer):
        ((title, tiles),) = groups
        told.append((title, [(tile.caption, tile.detail) for tile in tiles], footer))
        return image

    monkeypatch.setattr(attention_rows, "draw_sheet", sheet)
    found.sheet()
    return told[0]


def test_a_sheet_of_layers_says_whose_row_it_is_once(monkeypatch):
    title, tiles, footer = drawn_as(viz_attention(timm_vit(class_token=False, global_pool="map"), SQUARE), monkeypatch)
    assert title == "3 layers, mean over heads: what patch 2, 2 attends to"
    assert tiles == [("blocks.0.attn", ""), ("blocks.1.attn", ""), ("attn_pool: query 0", "")]
    assert footer == "VisionTransformer · 4 x 4 patches · every map has its own scale"


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_dropout_that_is_left_on_is_no_attention(precision):
    class Dropping(nn.Module):
        def __init__(self, share):
            super().__init__()
            self.patch, self.qkv, self.head = nn.Conv2d(3, 8, 4, stride=4), nn.Linear(8, 24), nn.Linear(8, 5)
            self.share = share

        def forward(self, x):
            tokens = self.patch(x).flatten(2).transpose(1, 2)
            q, k, v = self.qkv(tokens).chunk(3, -1)
            A = F.dropout((q @ k.transpose(1, 2)).softmax(-1), self.share)
            return self.head((tokens + A @ v).square().mean(1))

    sums = viz_attention(seeded(Dropping(0.0)).to(precision), SQUARE).matrix().sum(-1)
    assert_same(sums, torch.ones_like(sums), 0.01)
    with pytest.raises(NoAttention, match="changed after the softmax, as by dropout in eval mode"):
        viz_attention(seeded(Dropping(0.3)), SQUARE)


def test_a_sheet_of_heads_has_the_share_on_patches(monkeypatch):
    found = viz_attention(timm_vit(reg_tokens=1), SQUARE, -1)
    title, tiles, footer = drawn_as(found, monkeypatch)
    assert title == "blocks.1.attn: what the class token attends to"
    assert [caption for caption, _ in tiles] == ["mean over heads", "head 0", "head 1", "head 2"]
    assert tiles[1][1] == f"{percent(float(found.matrix()[0, 0, 2:].sum()))} on patches"
    assert footer.startswith("VisionTransformer · 4 x 4 patches + 2 other tokens ·")


def test_a_module_that_computes_several_is_numbered():
    vit = seeded(TinyViT())
    vit.blocks = nn.Sequential(vit.blocks[0], vit.blocks[0])
    found = viz_attention(vit, WIDE, at=(0, 0))
    assert found.layers == ("blocks.0.attn#1", "blocks.0.attn#2")
    assert not torch.equal(*found.matrices.values())
    with pytest.raises(LayerError, match=r"layer 'blocks\.0.attn' has 2 layers of attention: choose one of"):
        viz_attention(vit, WIDE, "blocks.0.attn")


@pytest.mark.parametrize(
    "layer", ["blocks.1.attn", "blocks.1", 1, -1, lambda vit: vit.blocks[1].attn, lambda vit: vit.blocks[1]]
)
def test_a_layer_by_its_name_its_block_its_number_or_itself(layer):
    vit = seeded(TinyViT())
    found = viz_attention(vit, WIDE, layer(vit) if callable(layer) else layer)
    assert list(found.matrices) == ["blocks.1.attn"]
    assert_same(found.matrix(), viz_attention(vit, WIDE).matrix("blocks.1.attn"), 0)


@pytest.mark.parametrize(
    ("layer", "at", "message"),
    [
        ("norm", None, "layer 'norm' computes no attention on the image; layers that do: blocks.0.attn, blocks.1.attn"),
        ("blocks", None, "layer 'blocks' has 2 layers of attention"),
        ("block.1", None, "did you mean 'blocks.1'"),
        (2, None, "a number is from -2 to 1"),
        (None, (3, 0), "patch 3, 0 is out of range: the grid is 3 x 4, rows 0 to 2, columns 0 to 3"),
        (None, (-1, 0), "patch -1, 0 is out of range"),
        (None, (0.5, 0), r"a patch is its row and column, such as \(0, 3\), got \(0.5, 0\)"),
        (None, 13, "token 13 is out of range: there are 13, 0 to 12"),
    ],
)
def test_what_is_not_there_is_a_layer_error(layer, at, message):
    with pytest.raises(LayerError, match=message):
        viz_attention(seeded(TinyViT()), WIDE, layer, at)


def test_a_head_that_is_not_there():
    found = viz_attention(seeded(TinyViT()), WIDE)
    for head in (2, -1):
        with pytest.raises(LayerError, match=f"head {head} is out of range: there are 2, 0 to 1"):
            found.row(0, 0, head)
    with pytest.raises(LayerError, match=r"layer 'norm' has no attention here; there are blocks\.0\.attn"):
        found.row(0, 0, layer="norm")


def test_a_model_without_attention_and_one_with_windows():
    with pytest.raises(NoAttention, match="it computes no attention on the image"):
        viz_attention(plain(), torch.rand(3, 12, 12))
    with pytest.raises(NoAttention, match="it computes no attention on the image"):
        viz_attention(InPlaceAndReused(), torch.rand(3, 12, 12))
    options = {"img_size": 64, "embed_dim": 12, "depths": (1, 1), "num_heads": (1, 2), "window_size": 4}
    swin = created("swin_tiny_patch4_window7_224", **options)
    with pytest.raises(NoAttention, match="within 16 windows of 16 tokens"):
        viz_attention(swin, torch.rand(3, 64, 64))


def test_mistaken_images():
    with pytest.raises(ImageError, match="has no preprocessing"):
        viz_attention(seeded(TinyViT()), deepviz.example_photo())
    with pytest.raises(TypeError, match="swapped"):
        viz_attention(WIDE, seeded(TinyViT()))


def test_nothing_changes():
    vit = TinyViT().train()
    before = surroundings(vit, WIDE)
    viz_attention(vit, WIDE)
    assert surroundings(vit, WIDE) == before
    with torch.inference_mode():
        assert not viz_attention(vit, WIDE).matrix().requires_grad


def test_the_picture_marks_the_patch_and_shows_where_it_attends(tmp_path):
    class Neighbour(nn.Module):
        """Each patch attends to the next one alone."""

        def forward(self, x):
            tokens = F.avg_pool2d(x, 4).flatten(2).transpose(1, 2)
            scores = 200.0 * torch.eye(16).roll(1, 1) + 1e-3 * tokens @ tokens.transpose(1, 2)
            return (scores.softmax(-1) @ tokens).square().mean(1)

    found = viz_attention(Neighbour(), torch.full((3, 16, 16), 0.5), at=(1, 1))
    assert found.row(1, 1).argmax() == 6
    drawn = np.asarray(found.overlay(), np.int16)
    beside = np.abs(drawn - np.asarray(found.image, np.int16)).sum(2)
    assert beside[5:7, 9:11].min() > 100, "the next patch is coloured"
    assert beside[12:].max() == 0, "patches that get nothing are left as they are"
    assert {(255, 221, 0)} <= {tuple(map(int, pixel)) for pixel in drawn[4:8, 4:8].reshape(-1, 3)}
    with Image.open(found.save(tmp_path / "new" / "rows.png")) as written:
        assert written.size == found.sheet().size
    assert found._repr_png_().startswith(b"\x89PNG")
    with pytest.raises(OutputError, match="the ending must be one of"):
        found.save(tmp_path / "rows.gif")


def test_one_head_alone_or_all_of_a_layer():
    vit = seeded(TinyViT())
    one, every = viz_attention(vit, WIDE, -1), viz_attention(vit, WIDE)
    assert one.sheet().width > one.sheet(head=0).width
    assert "2 heads" in repr(one)
    assert "blocks.0.attn, blocks.1.attn: what the class token attends to" in every._repr_html_()


def test_an_input_that_cannot_be_shown_gives_grey():
    vit = seeded(TinyViT())
    vit.patch = seeded(nn.Conv2d(5, 8, 4, stride=4))
    found = viz_attention(vit, torch.rand(5, 12, 16))
    assert found.image.getcolors() == [(12 * 16, UNSEEN)]
    assert found.sheet().size
