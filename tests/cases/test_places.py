"""A map lies where it is drawn: checked against the layer's own answer on the right layout, or a LayerError."""

import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import deepviz
from cases.oracles import (
    ALL,
    LAYER_METHODS,
    Counted,
    cam,
    gradient,
    images,
    layer_and_gradient,
    noisy_gradient,
    path_gradient,
    right_or_refused,
    seeded,
    weighted,
)
from deepviz.errors import DeepVizError, LayerError
from deepviz.methods import GradCAM, Gradient, GuidedBackprop, GuidedGradCAM, IntegratedGradients, SmoothGrad
from networks import assert_same

pytestmark = pytest.mark.filterwarnings("ignore::deepviz.errors.DeepVizWarning", "ignore::DeprecationWarning")


class Tokens(nn.Module):
    """A small transformer on patches; `order` says how their sequence lies on the image, `others` where no patch is."""

    def __init__(self, grid=(4, 4), others=(0,), order=None, width=16, pooled=False, sequence_first=False):
        super().__init__()
        n = math.prod(grid)
        self.grid, self.others, self.pooled, self.sequence_first = grid, others, pooled, sequence_first
        self.order = torch.arange(n) if order is None else order
        self.patches = [i for i in range(n + len(others)) if i not in others]
        self.patch = nn.Conv2d(3, width, 8, 8)
        self.extra = nn.Parameter(torch.randn(len(others), width))
        self.position = nn.Parameter(torch.randn(1, n + len(others), width) * 0.3)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 2, 32, batch_first=not sequence_first, dropout=0.0) for _ in range(2)
        )
        self.head = nn.Linear(width, 4)

    def forward(self, x):
        t = self.patch(x).flatten(2).transpose(1, 2)[:, self.order]
        whole = self.position.expand(len(x), -1, -1).clone()
        whole[:, self.patches] = whole[:, self.patches] + t
        if self.others:
            whole[:, list(self.others)] = whole[:, list(self.others)] + self.extra
        t = whole.transpose(0, 1) if self.sequence_first else whole
        for block in self.blocks:
            t = block(t)
        if self.sequence_first:
            t = t.transpose(0, 1)
        return self.head(t.mean(1) if self.pooled or not self.others else t[:, self.others[0]])

    def laid(self, A):
        """The layer's answer on the image: every patch at its own place."""
        A = A.transpose(0, 1) if self.sequence_first else A
        back = torch.empty_like(self.order)
        back[self.order] = torch.arange(len(back))
        return A[:, self.patches][:, back].unflatten(1, self.grid).movedim(-1, 1)

    def image(self, n=2, seed=1):
        return images(n, 3, 8 * self.grid[0], 8 * self.grid[1], seed=seed)

    def cam(self, x, layer="blocks.0", target=1):
        return cam(self.get_submodule(layer), lambda z: self(z)[:, target], x, self.laid)


SIGNED = {"layer": "blocks.0", "relu": False}
SEQUENCES = {
    "class token first": {"others": (0,)},
    "class token last": {"others": (16,)},
    "class token in the middle": {"others": (8,)},
    "class token in the middle of 6 x 6": {"grid": (6, 6), "others": (18,)},
    "no class token": {"others": ()},
    "class and distillation token": {"others": (0, 1)},
    "class token and four registers": {"others": (0, 1, 2, 3, 4)},
    "wide": {"grid": (3, 5)},
    "tall": {"grid": (6, 2)},
    "wide, class token last": {"grid": (2, 6), "others": (12,)},
    "odd": {"grid": (5, 7)},
    "5 x 7, two tokens": {"grid": (5, 7), "others": (0, 1)},
    "one row of patches": {"grid": (1, 9)},
    "sequence first": {"sequence_first": True},
    "sequence first, class token last": {"sequence_first": True, "others": (16,)},
    "sequence first, wide": {"sequence_first": True, "grid": (3, 5)},
    "pooled by the mean": {"others": (), "pooled": True},
}


@pytest.mark.parametrize("options", SEQUENCES.values(), ids=SEQUENCES.keys())
def test_tokens_row_by_row_are_laid_out_without_help(options):
    net = seeded(lambda: Tokens(**options))
    x = net.image()
    assert_same(GradCAM(**SIGNED)(net, x, 1), net.cam(x))


@pytest.mark.parametrize("options", SEQUENCES.values(), ids=SEQUENCES.keys())
def test_the_default_layer_of_tokens_row_by_row_is_right(options):
    net = seeded(lambda: Tokens(**options))
    x = net.image()
    found = GradCAM(relu=False).attribute(net, x, 1)
    layer = found.notes.facts["layer"]
    if layer == "patch":  # followed by nothing that mixes: maps already
        assert_same(found.maps, cam(net.patch, lambda z: net(z)[:, 1], x))
    else:
        assert_same(found.maps, net.cam(x, layer))


@pytest.mark.parametrize(
    "others",
    [(0, 17, 18, 19, 20), (0, *range(17, 27)), (8, 9), (3, 7, 15), (0, 8, 17), (5, 11)],
    ids=["registers last", "detection tokens last", "two in the middle", "scattered", "thirds", "prompts within"],
)
def test_other_tokens_anywhere_are_found_or_refused(others):
    net = seeded(lambda: Tokens(others=others))
    x = net.image()
    right_or_refused(lambda: GradCAM(**SIGNED)(net, x, 1), net.cam(x), error=LayerError, names="skip=")
    assert_same(GradCAM(**SIGNED, skip=others)(net, x, 1), net.cam(x))


@pytest.mark.parametrize("n", [1, 15, 16, 17, 18])
def test_a_batch_axis_as_long_as_the_sequence_is_not_taken_for_it(n):
    for options in ({}, {"sequence_first": True}):
        net = seeded(lambda options=options: Tokens(**options))
        x = net.image(n)
        assert_same(GradCAM(**SIGNED)(net, x, 1), net.cam(x))


def z_order(side):
    """Both coordinates' bits in turn, as Hiera keeps its units."""
    bits = side.bit_length() - 1

    def code(i, j):
        return sum(((i >> b & 1) << 2 * b + 1) | ((j >> b & 1) << 2 * b) for b in range(bits))

    return torch.tensor(sorted(range(side * side), key=lambda p: code(*divmod(p, side))))


def in_windows(side, window):
    """Windows after each other, as Swin has them inside a block."""
    grid = torch.arange(side * side).view(side // window, window, side // window, window)
    return grid.permute(0, 2, 1, 3).flatten()


def snake(h, w):
    """Every other row backwards, as some state-space models scan."""
    grid = torch.arange(h * w).view(h, w).clone()
    grid[1::2] = grid[1::2].flip(1)
    return grid.flatten()


ORDERS = {
    "shuffled": torch.randperm(36, generator=torch.Generator().manual_seed(0)),
    "column by column": torch.arange(36).view(6, 6).T.flatten(),
    "backwards": torch.arange(36).flip(0),
    "in windows": in_windows(6, 2),
    "in large windows": in_windows(6, 3),
    "snake": snake(6, 6),
    "rows interleaved": torch.arange(36).view(2, 3, 6).transpose(0, 1).flatten(),
    "rolled by half": torch.arange(36).roll(18),
    "rolled by a column": torch.arange(36).view(6, 6).roll(1, 1).flatten(),
    "mirrored": torch.arange(36).view(6, 6).flip(1).flatten(),
}


@pytest.mark.parametrize("others", [(), (0,), (18,)], ids=str)
@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS.keys())
def test_tokens_in_another_order_are_put_right_or_refused(order, others):
    net = seeded(lambda: Tokens((6, 6), others, order))
    x = net.image()
    right_or_refused(lambda: GradCAM(**SIGNED)(net, x, 1), net.cam(x), error=LayerError, names=r"grid=|skip=")


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS.keys())
def test_the_default_layer_is_no_shuffled_one(order):
    net = seeded(lambda: Tokens((6, 6), (0,), order))
    x = net.image()
    try:
        found = GradCAM(relu=False).attribute(net, x, 1)
    except LayerError:
        return
    layer = found.notes.facts["layer"]
    expected = cam(net.patch, lambda z: net(z)[:, 1], x) if layer == "patch" else net.cam(x, layer)
    assert_same(found.maps, expected)


@pytest.mark.parametrize("shape", [(4, 16), (16, 4), (6, 6)])
def test_column_by_column_on_a_long_image_is_put_right_or_refused(shape):
    h, w = shape
    net = seeded(lambda: Tokens(shape, (0,), torch.arange(h * w).view(h, w).T.flatten()))
    x = net.image()
    right_or_refused(lambda: GradCAM(**SIGNED)(net, x, 1), net.cam(x), error=LayerError, names="grid=")


def test_a_space_filling_curve_is_put_right_or_refused():
    net = seeded(lambda: Tokens((8, 8), (0,), z_order(8)))
    x = net.image(1)
    right_or_refused(lambda: GradCAM(**SIGNED)(net, x, 1), net.cam(x), error=LayerError, names="grid=")


def test_a_row_of_every_image_s_own_is_put_right_or_refused():
    """Tokens sorted by their brightness, as token-merging models do."""

    class Sorted(Tokens):
        def forward(self, x):
            t = self.patch(x).flatten(2).transpose(1, 2)
            place = t.sum(-1).argsort(1)
            t = t.gather(1, place.unsqueeze(-1).expand(-1, -1, t.shape[-1]))
            for block in self.blocks:
                t = block(t)
            return self.head((t * torch.arange(t.shape[1], dtype=t.dtype)[None, :, None]).mean(1))

    net = seeded(lambda: Sorted((6, 6), ()))
    with pytest.raises(LayerError, match="grid="):
        GradCAM(**SIGNED)(net, net.image(), 1)


@pytest.mark.parametrize("method", LAYER_METHODS.values(), ids=LAYER_METHODS.keys())
def test_positions_that_are_no_image_tokens_can_be_skipped(method):
    """The same network with its class token in the middle and first: one map."""
    first = seeded(lambda: Tokens(others=(0,)))
    middle = seeded(lambda: Tokens(others=(8,)))
    middle.load_state_dict(first.state_dict())
    with torch.no_grad():  # the class token's place is parameters' too
        position = first.position[:, [*range(1, 9), 0, *range(9, 17)]]
        middle.position.copy_(position)
    x = first.image()
    assert torch.allclose(first(x), middle(x))
    at = with_place(method, layer="blocks.0")
    skipping = with_place(method, layer="blocks.0", skip=(8,))
    assert_same(skipping(middle, x, 1), at(first, x, 1), 1e-8)


def with_place(method, **options):
    """The layer method with its layer and place, also inside another."""
    from dataclasses import replace

    return replace(method, **options) if hasattr(method, "layer") else replace(method, of=replace(method.of, **options))


@pytest.mark.parametrize(
    ("options", "place"),
    [
        ({"others": (0,)}, {"grid": (4, 4)}),
        ({"others": (0,)}, {"grid": (4, 4), "skip": (0,)}),
        ({"others": (8,)}, {"skip": (8,)}),
        ({"others": (8,)}, {"grid": (4, 4), "skip": (8,)}),
        ({"others": (0, 9, 17)}, {"skip": (0, 9, 17)}),
        ({"others": (16,)}, {"skip": (-1,)}),
        ({"grid": (3, 5), "others": (0, 15)}, {"grid": (3, 5), "skip": (0, 15)}),
        ({"others": (8,), "sequence_first": True}, {"skip": (8,)}),
    ],
    ids=str,
)
def test_grid_and_skip_say_what_cannot_be_found(options, place):
    net = seeded(lambda: Tokens(**options))
    x = net.image()
    assert_same(GradCAM(**SIGNED, **place)(net, x, 1), net.cam(x))


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS.keys())
def test_a_callable_lays_out_any_order(order):
    net = seeded(lambda: Tokens((6, 6), (18,), order))
    x = net.image()
    assert_same(GradCAM(**SIGNED, grid=net.laid)(net, x, 1), net.cam(x))
    guided = GuidedBackprop()(net, x, 1)
    up = F.interpolate(net.cam(x).relu(), x.shape[2:], mode="bilinear", align_corners=False)
    assert_same(GuidedGradCAM("blocks.0", grid=net.laid)(net, x, 1), guided * up)


@pytest.mark.parametrize("place", [{"grid": (3, 5)}, {"grid": (4, 5)}, {"skip": (17,)}, {"skip": (0, 0, 99)}], ids=str)
def test_a_place_that_does_not_fit_is_an_error_with_the_shape(place):
    net = seeded(Tokens)
    with pytest.raises((LayerError, ValueError), match="17"):
        GradCAM(**SIGNED, **place)(net, net.image(), 1)


@pytest.mark.parametrize(
    "options",
    [
        {"grid": 4},
        {"grid": (0, 4)},
        {"grid": "4 x 4"},
        {"grid": (4.5, 4)},
        {"skip": 0},
        {"skip": ("0",)},
        {"skip": True},
    ],
    ids=str,
)
def test_a_place_of_another_kind_is_refused_at_once(options):
    with pytest.raises((ValueError, TypeError), match=next(iter(options))):
        GradCAM("blocks.0", **options)


def test_a_callable_that_does_not_return_maps_is_an_error():
    net = seeded(Tokens)
    with pytest.raises((LayerError, ValueError), match="grid"):
        GradCAM(**SIGNED, grid=lambda A: A.mean(-1))(net, net.image(), 1)


def clip(sequence_first):
    return seeded(lambda: Clip(sequence_first))


class Clip(nn.Module):
    """As OpenAI's image tower: blocks that run sequence first, a class token, a projection."""

    def __init__(self, sequence_first, patch=8, patches=16, width=16):
        super().__init__()
        self.sequence_first = sequence_first
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.cls = nn.Parameter(torch.randn(width))
        self.position = nn.Parameter(torch.randn(patches + 1, width) * 0.3)
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 2, 32, batch_first=not sequence_first, dropout=0.0, norm_first=True)
            for _ in range(3)
        )
        self.proj = nn.Parameter(torch.randn(width, 8))

    def forward(self, x):
        t = self.conv1(x).flatten(2).transpose(1, 2)
        t = self.ln_pre(torch.cat([self.cls.expand(len(x), 1, -1), t], 1) + self.position)
        t = t.permute(1, 0, 2) if self.sequence_first else t
        for block in self.blocks:
            t = block(t)
        t = t.permute(1, 0, 2) if self.sequence_first else t
        return self.ln_post(t[:, 0]) @ self.proj


TEXT = images(1, 8, seed=3)


def similarity(output):
    return F.cosine_similarity(output, TEXT, dim=1)


@pytest.mark.parametrize("n", [1, 3, 17])
def test_clip_sequence_first_is_clip_batch_first(n):
    net, x = clip(True), images(n, 3, 32, 32)

    def laid(A):
        return A.transpose(0, 1)[:, 1:].unflatten(1, (4, 4)).movedim(-1, 1)

    expected = cam(net.blocks[1], lambda z: similarity(net(z)), x, laid)
    assert_same(GradCAM("blocks.1", relu=False)(net, x, similarity), expected)
    assert_same(GradCAM("blocks.1", relu=False)(clip(False), x, similarity), expected)


def test_clip_s_default_layer_is_the_same_in_both_orders():
    x = images(3, 3, 32, 32)
    first, last = (GradCAM(relu=False).attribute(clip(order), x, similarity) for order in (False, True))
    assert first.notes.facts["layer"] == last.notes.facts["layer"]
    assert_same(first.maps, last.maps)


def test_five_images_and_five_tokens_are_told_apart():
    x = images(5, 3, 32, 32)
    nets = [seeded(lambda order=order: Clip(order, 16, 4)) for order in (False, True)]
    batch_first, sequence_first = (GradCAM("blocks.1", relu=False)(net, x, similarity) for net in nets)
    expected = cam(
        nets[0].blocks[1], lambda z: similarity(nets[0](z)), x, lambda A: A[:, 1:].unflatten(1, (2, 2)).movedim(-1, 1)
    )
    assert_same(batch_first, expected)
    assert_same(sequence_first, expected)


def test_the_tree_of_layers_says_how_a_sequence_lies():
    rows = deepviz.viz_layers(deepviz.load_model(clip(True)), images(1, 3, 32, 32)[0])
    told = {row.name: row for row in rows}
    assert told["blocks.1"].usable
    assert "4 x 4" in str(told["blocks.1"].grid)


class FramePatches(nn.Module):
    """Patches as tall as the spectrogram: the grid is 1 x 64 on an image of 64 x 128."""

    def __init__(self, height=64, patches=64, width=16):
        super().__init__()
        self.patch, self.cls = nn.Conv2d(1, width, (height, 2), (height, 2)), nn.Parameter(torch.randn(1, 1, width))
        self.position = nn.Parameter(torch.randn(1, patches + 1, width) * 0.3)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 2, 32, batch_first=True, dropout=0.0) for _ in range(2)
        )
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        t = torch.cat([self.cls.expand(len(x), -1, -1), self.patch(x).flatten(2).transpose(1, 2)], 1) + self.position
        for block in self.blocks:
            t = block(t)
        return self.head(t[:, 0])


def in_one_row(A):
    return A[:, 1:].unflatten(1, (1, 64)).movedim(-1, 1)


def test_the_patch_embedding_s_own_answer_gives_the_grid_whatever_its_proportions():
    net, x = seeded(FramePatches), images(2, 1, 64, 128)
    expected = cam(net.blocks[0], lambda z: net(z)[:, 1], x, in_one_row)
    assert_same(GradCAM(**SIGNED)(net, x, 1), expected)
    found = GradCAM(relu=False).attribute(net, x, 1)
    layer = net.get_submodule(found.notes.facts["layer"])
    laid = in_one_row if layer is not net.patch else (lambda A: A)
    assert_same(found.maps, cam(layer, lambda z: net(z)[:, 1], x, laid))


class Channel(nn.Module):
    """A picture of one channel for a model that takes (N, time, frequency)."""

    def __init__(self, net, turned=False):
        super().__init__()
        self.net, self.turned = net, turned

    def forward(self, x):
        return self.net(x[:, 0].transpose(1, 2) if self.turned else x[:, 0])


@pytest.fixture(scope="module")
def transformers():
    from deepviz.models.torchvision_shim import import_torchvision

    import_torchvision()
    return pytest.importorskip("transformers")


@pytest.fixture(scope="module", autouse=True)
def _loaded(transformers):
    """What takes seconds to import is no test's time."""
    from deepviz.models.torchvision_shim import import_timm

    import_timm()
    transformers.ASTForAudioClassification, transformers.DetrForObjectDetection, transformers.CLIPModel  # noqa: B018


def spectrogram_transformer(transformers, time=96, frequency=48):
    options = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.ASTConfig(**options, max_length=time, num_mel_bins=frequency, num_labels=5)
    return seeded(lambda: transformers.ASTForAudioClassification(config))


@pytest.mark.parametrize("turned", [False, True])
def test_overlapping_patches_of_a_spectrogram_are_right_or_refused(transformers, turned):
    """Tokens run over time within each frequency: on (time, frequency) they are column by column."""
    body = spectrogram_transformer(transformers)
    net = Channel(body, turned).eval()
    x = images(1, 1, *((48, 96) if turned else (96, 48)))
    (name,) = [name for name, _ in body.named_modules() if name.endswith(("layer.0", "layers.0"))][:1]

    def laid(A):
        maps = A[:, 2:].unflatten(1, (4, 9)).movedim(-1, 1)
        return maps if turned else maps.transpose(2, 3)

    expected = cam(body.get_submodule(name), lambda z: net(z).logits[:, 1], x, laid)
    method = GradCAM(f"net.{name}", relu=False)
    right = right_or_refused(lambda: method(net, x, 1), expected, error=LayerError, names="grid=")
    assert right or not turned  # the patch embedding's answer gives it
    assert_same(GradCAM(f"net.{name}", relu=False, grid=laid)(net, x, 1), expected)
    assert_same(Gradient()(net, x, 1), gradient(lambda z: net(z).logits[:, 1], x))


@pytest.mark.parametrize("turned", [False, True])
def test_the_default_layer_of_a_spectrogram_transformer_is_right_or_refused(transformers, turned):
    body = spectrogram_transformer(transformers)
    net = Channel(body, turned).eval()
    x = images(1, 1, *((48, 96) if turned else (96, 48)))
    try:
        found = GradCAM(relu=False).attribute(net, x, 1)
    except LayerError:
        return

    def laid(A):
        if A.ndim == 4:  # the patch embedding's (N, D, frequency, time)
            return A if turned else A.transpose(2, 3)
        maps = A[:, 2:].unflatten(1, (4, 9)).movedim(-1, 1)
        return maps if turned else maps.transpose(2, 3)

    layer = net.get_submodule(found.notes.facts["layer"])
    assert_same(found.maps, cam(layer, lambda z: net(z).logits[:, 1], x, laid))


class Detector(nn.Module):
    """As DETR: features of the image as memory, learned queries that look at it, (N, queries, classes)."""

    def __init__(self, queries=16, width=16):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU(), nn.Conv2d(8, width, 2, 2), nn.ReLU())
        self.encoder = nn.TransformerEncoderLayer(width, 2, 32, dropout=0.0, batch_first=True)
        self.queries = nn.Parameter(torch.randn(queries, width))
        self.decoder = nn.ModuleList(
            nn.TransformerDecoderLayer(width, 2, 32, dropout=0.0, batch_first=True) for _ in range(2)
        )
        self.classes, self.boxes = nn.Linear(width, 6), nn.Linear(width, 4)

    def forward(self, x):
        memory = self.encoder(self.backbone(x).flatten(2).transpose(1, 2))
        q = self.queries.expand(len(x), -1, -1)
        for layer in self.decoder:
            q = layer(q, memory)
        return {"pred_logits": self.classes(q), "pred_boxes": self.boxes(q).sigmoid()}


def query(output):
    return output["pred_logits"][:, 7, 2]


@pytest.mark.parametrize("part", ["decoder.0", "decoder.1.linear2", "decoder.1.dropout2", "decoder.1.norm3", "classes"])
@pytest.mark.parametrize("queries", [16, 17, 100])
def test_no_part_of_a_decoder_is_a_picture(queries, part):
    net, x = seeded(lambda: Detector(queries)), images(2, 3, 32, 32)
    with pytest.raises(LayerError):
        GradCAM(part, relu=False)(net, x, query)


@pytest.mark.parametrize("queries", [16, 20, 17, 12, 100])
@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
def test_object_queries_are_no_picture(queries, size):
    net, x = seeded(lambda: Detector(queries)), images(2, 3, *size)
    grid = (size[0] // 8, size[1] // 8)
    with pytest.raises(LayerError):
        GradCAM("decoder.1", relu=False)(net, x, query)
    found = GradCAM(relu=False).attribute(net, x, query)
    layer = found.notes.facts["layer"]
    assert layer.startswith(("backbone", "encoder"))

    def laid(A):
        return A if A.ndim == 4 else A.unflatten(1, grid).movedim(-1, 1)

    assert_same(found.maps, cam(net.get_submodule(layer), lambda z: query(net(z)), x, laid))


def test_the_encoder_of_a_detector_is_laid_out_on_the_image():
    net, x = seeded(Detector), images(2, 3, 24, 40)
    expected = cam(net.encoder, lambda z: query(net(z)), x, lambda A: A.unflatten(1, (3, 5)).movedim(-1, 1))
    assert_same(GradCAM("encoder", relu=False)(net, x, query), expected)


@pytest.fixture(scope="module")
def detr(transformers):
    backbone = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], layer_type="basic", out_features=["stage4"]
    )
    layers = {f"{part}_{what}": 2 for part in ("encoder", "decoder") for what in ("attention_heads",)}
    sizes = {f"{part}_ffn_dim": 16 for part in ("encoder", "decoder")}
    config = transformers.DetrConfig(
        use_timm_backbone=False, use_pretrained_backbone=False, backbone=None, backbone_config=backbone, d_model=16,
        encoder_layers=1, decoder_layers=1, num_queries=25, num_labels=5, **layers, **sizes,
    )  # fmt: skip
    return seeded(lambda: transformers.DetrForObjectDetection(config))


@pytest.mark.parametrize("size", [(160, 160), (128, 192)])
def test_transformers_detr_never_draws_its_queries(detr, size):
    x = images(1, 3, *size)
    x_mirrored = x.flip(3)

    def score(output):
        return output.logits[:, 7, 2]

    for image in (x, x_mirrored):
        try:
            found = GradCAM(relu=False).attribute(detr, image, score)
        except LayerError:
            continue
        layer = found.notes.facts["layer"]
        assert "decoder" not in layer
        assert "class_labels_classifier" not in layer
        assert "bbox_predictor" not in layer


class Yolo(nn.Module):
    """A head that answers (N, 4 + classes, anchors): as many channels as a grid has cells, by chance."""

    def __init__(self, classes=12):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())
        self.detect = Detect(classes)

    def forward(self, x):
        fine = self.backbone[:2](x)
        return self.detect([fine, self.backbone[2:](fine)])


class Detect(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.heads = nn.ModuleList(nn.Conv2d(8, 4 + classes, 1) for _ in range(2))
        self.join = nn.Identity()

    def forward(self, maps):
        raw = [head(A) for head, A in zip(self.heads, maps, strict=True)]
        return self.join(torch.cat([A.flatten(2) for A in raw], 2)), raw


def best_of_class(output):
    return output[0][:, 4 + 3].amax(1)


@pytest.mark.parametrize("classes", [12, 5, 16, 60, 80])
def test_class_channels_of_a_detector_are_no_picture(classes):
    net, x = seeded(lambda: Yolo(classes)), images(2, 3, 32, 32)
    for name in ("detect", "detect.join"):
        with pytest.raises(LayerError):
            GradCAM(name, relu=False)(net, x, best_of_class)
    found = GradCAM(relu=False).attribute(net, x, best_of_class)
    layer = found.notes.facts["layer"]
    assert layer not in ("detect", "detect.join")
    assert_same(found.maps, cam(net.get_submodule(layer), lambda z: best_of_class(net(z)), x))
    explanation = deepviz.explain(net, x[0], "grad-cam", target=best_of_class)[0]
    assert explanation.layer == layer


class WithTexts(nn.Module):
    """An image tower and a text tower in one wrapper: its texts, (prompts, length, width), are no picture."""

    def __init__(self, prompts=1, length=17, width=16):
        super().__init__()
        self.image = Clip(False)
        self.words, self.text = nn.Embedding(50, width), nn.TransformerEncoderLayer(width, 2, 32, 0.0, batch_first=True)
        self.out = nn.Linear(width, 8)
        self.register_buffer("ids", torch.arange(prompts * length).view(prompts, length) % 50)

    def forward(self, x):
        texts = self.out(self.text(self.words(self.ids)).mean(1))
        return F.normalize(self.image(x), dim=1) @ F.normalize(texts, dim=1).T


@pytest.mark.parametrize("prompts", [1, 2, 3])
def test_texts_inside_a_wrapper_are_no_picture(prompts):
    net, x = seeded(lambda: WithTexts(prompts)), images(2, 3, 32, 32)

    def last(output):
        return output[:, -1]

    for name in ("text", "text.norm2", "words"):
        for rows in {1, 2, prompts}:
            with pytest.raises(LayerError):
                GradCAM(name, relu=False)(net, images(rows, 3, 32, 32), last)
    found = GradCAM(relu=False).attribute(net, x, last)
    assert found.notes.facts["layer"].startswith("image.")
    assert_same(Gradient()(net, x, last), gradient(lambda z: last(net(z)), x))


def test_transformers_clip_with_its_texts_is_explained_at_its_vision_tower(transformers):
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**small, "vocab_size": 100, "max_position_embeddings": 17, "eos_token_id": 99, "bos_token_id": 98}
    vision = {**small, "image_size": 32, "patch_size": 8}
    config = transformers.CLIPConfig(text_config={**text, "pad_token_id": 0}, vision_config=vision, projection_dim=8)

    class Wrapper(nn.Module):
        def __init__(self):
            super().__init__()
            self.clip = transformers.CLIPModel(config)
            ids = torch.arange(1, 35).view(2, 17)
            ids[:, -1] = 99
            self.register_buffer("ids", ids)

        def forward(self, x):
            return self.clip(input_ids=self.ids, pixel_values=x).logits_per_image

    net, x = seeded(Wrapper), images(1, 3, 32, 32)
    found = GradCAM(relu=False).attribute(net, x, 1)
    layer = found.notes.facts["layer"]
    assert ".vision_model." in f".{layer}."

    def laid(A):
        return A if A.ndim == 4 else A[:, A.shape[1] - 16 :].unflatten(1, (4, 4)).movedim(-1, 1)

    assert_same(found.maps, cam(net.get_submodule(layer), lambda z: net(z)[:, 1], x, laid))
    assert_same(Gradient()(net, x, 1), gradient(lambda z: net(z)[:, 1], x))


class PerFrame(nn.Module):
    """A CNN on every frame, an LSTM over their features."""

    def __init__(self, frames, channels=1, mean=True):
        super().__init__()
        self.frames, self.channels, self.mean = frames, channels, mean
        self.cnn = nn.Sequential(nn.Conv2d(channels, 6, 3, padding=1), nn.ReLU())
        self.rnn, self.head = nn.LSTM(6, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, z):
        v = z.unflatten(1, (self.channels, self.frames)).transpose(1, 2)
        q = self.cnn(v.flatten(0, 1)).mean((2, 3)).unflatten(0, (len(z), self.frames))
        steps = self.rnn(q)[0]
        return self.head(steps.mean(1) if self.mean else steps[:, -1])

    def laid(self, A):
        """Frames that are rows: (N T, D, h, w) -> (N, D, T, h, w)."""
        return A.unflatten(0, (-1, self.frames)).transpose(1, 2)


@pytest.mark.parametrize("frames", [4, 9, 16, 20, 36])
@pytest.mark.parametrize("n", [1, 2, 4])
def test_time_steps_are_no_picture(frames, n):
    net, z = seeded(lambda: PerFrame(frames)), images(n, frames, 12, 12)
    with pytest.raises(LayerError):
        GradCAM("rnn", relu=False)(net, z, 1)
    with pytest.raises(LayerError):
        GradCAM("cnn.1", relu=False)(net, z, 1)  # its rows are frames, not images
    with pytest.raises(LayerError):
        GradCAM(relu=False)(net, z, 1)
    assert_same(Gradient()(net, z, 1), gradient(lambda x: net(x)[:, 1], z))


@pytest.mark.parametrize("n", [1, 2, 4, 9])
def test_frames_that_are_rows_are_laid_out_by_a_callable(n):
    net, z = seeded(lambda: PerFrame(4, 2, mean=False)), images(n, 8, 12, 12)
    expected = cam(net.cnn[1], lambda x: net(x)[:, 1], z, net.laid)
    assert_same(GradCAM("cnn.1", relu=False, grid=net.laid)(net, z, 1), expected)


class Columns(nn.Module):
    """A word's image: a CNN down to one row of columns, an LSTM over them, characters for each (N, T, K)."""

    def __init__(self):
        super().__init__()
        self.cnn = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(4), nn.Conv2d(8, 16, (8, 1)), nn.ReLU()
        )
        self.rnn, self.head = nn.LSTM(16, 8, batch_first=True, bidirectional=True), nn.Linear(16, 11)

    def forward(self, x):
        return self.head(self.rnn(self.cnn(x).squeeze(2).transpose(1, 2))[0])


def third(output):
    return output[:, 10, 3]


def test_columns_of_a_word_are_a_row_of_places_or_refused():
    net, x = seeded(Columns), images(2, 1, 32, 100)
    expected = cam(net.cnn[4], lambda z: third(net(z)), x)
    assert expected.shape == (2, 1, 1, 25)
    assert_same(GradCAM("cnn.4", relu=False)(net, x, third), expected)
    found = GradCAM(relu=False).attribute(net, x, third)
    layer = found.notes.facts["layer"]

    def laid(A):
        return A if A.ndim == 4 else A.unsqueeze(1).movedim(-1, 1)

    assert layer != "head"  # the output itself
    assert_same(found.maps, cam(net.get_submodule(layer), lambda z: third(net(z)), x, laid))


class Latents(nn.Module):
    """As Perceiver: a square number of learned latents looks at the image."""

    def __init__(self, latents=16, width=16):
        super().__init__()
        self.patch = nn.Conv2d(3, width, 8, 8)
        self.latents = nn.Parameter(torch.randn(latents, width))
        self.look = nn.TransformerDecoderLayer(width, 2, 32, dropout=0.0, batch_first=True)
        self.block = nn.TransformerEncoderLayer(width, 2, 32, dropout=0.0, batch_first=True)
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        z = self.latents.expand(len(x), -1, -1)
        return self.head(self.block(self.look(z, self.patch(x).flatten(2).transpose(1, 2))).mean(1))


@pytest.mark.parametrize("latents", [16, 17, 20])
def test_latents_are_no_picture(latents):
    net, x = seeded(lambda: Latents(latents)), images(2, 3, 32, 32)
    for layer in ("look", "block", "block.norm2"):
        with pytest.raises(LayerError):
            GradCAM(layer, relu=False)(net, x, 1)
    found = GradCAM(relu=False).attribute(net, x, 1)
    assert found.notes.facts["layer"] == "patch"
    assert_same(found.maps, cam(net.patch, lambda z: net(z)[:, 1], x))


class Mixer(nn.Module):
    """Tokens mixed across places by a linear layer, on (N, D, L) with D = L: which axis is which?"""

    def __init__(self, width=16):
        super().__init__()
        self.patch = nn.Conv2d(3, width, 8, 8)
        self.across, self.within = nn.Linear(16, 16), nn.Linear(width, width)
        self.place = nn.Identity()
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        t = self.patch(x).flatten(2)  # (N, D, L)
        t = self.place(t + 0.1 * self.across(t).tanh())
        t = t.transpose(1, 2)
        return self.head((t + self.within(t).tanh()).mean(1))


def test_channels_before_tokens_of_one_number_are_right_or_refused():
    net, x = seeded(Mixer), images(2, 3, 32, 32)
    expected = cam(net.place, lambda z: net(z)[:, 1], x, lambda A: A.unflatten(2, (4, 4)))
    right_or_refused(lambda: GradCAM("place", relu=False)(net, x, 1), expected, error=LayerError, names="grid=")
    laid = GradCAM("place", relu=False, grid=lambda A: A.unflatten(2, (4, 4)))
    assert_same(laid(net, x, 1), expected)


def test_a_segmenter_is_not_explained_at_its_own_output():
    class Segmenter(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(
                nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1), nn.ReLU()
            )
            self.head = nn.Conv2d(6, 4, 1)

        def forward(self, x):
            return {"out": self.head(self.body(x))}

    net, x = seeded(Segmenter), images(2, 3, 12, 12)

    def mean_of_class(output):
        return output["out"][:, 2].mean((1, 2))

    found = GradCAM(relu=False).attribute(net, x, mean_of_class)
    assert found.notes.facts["layer"] in ("body", "body.3")
    assert_same(found.maps, cam(net.body, lambda z: mean_of_class(net(z)), x))


class WithPositions(nn.Module):
    """The last map before the score is of coordinates alone; the score does depend on it."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU())
        self.coordinates, self.head = nn.Conv2d(2, 6, 3, padding=1), nn.Linear(6, 3)

    def forward(self, x):
        lines = [torch.linspace(-1, 1, n, dtype=x.dtype) for n in x.shape[2:]]
        plane = torch.stack(torch.meshgrid(*lines, indexing="ij")).expand(len(x), -1, -1, -1)
        A = self.body(x)
        return self.head((A * self.coordinates(plane)).mean((2, 3)))


def test_a_layer_that_does_not_depend_on_the_image_is_never_chosen():
    net, x = seeded(WithPositions), images(2, 3, 12, 12)
    found = GradCAM(relu=False).attribute(net, x, 1)
    assert found.notes.facts["layer"] in ("body", "body.1")
    assert_same(found.maps, cam(net.body, lambda z: net(z)[:, 1], x))
    with pytest.raises(LayerError, match="depend"):
        GradCAM("coordinates", relu=False)(net, x, 1)


def test_a_map_that_is_turned_is_put_right_or_refused():
    """A 4-D answer whose axes are not the image's: (N, D, w, h)."""

    class Turned(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.turned, self.head = (
                nn.Conv2d(3, 6, 3, padding=1),
                nn.Conv2d(6, 6, 3, padding=1),
                nn.Linear(6, 3),
            )

        def forward(self, x):
            return self.head((self.turned(self.conv(x).relu().transpose(2, 3)).relu().square()).mean((2, 3)))

    net = seeded(Turned)
    for size in ((12, 12), (8, 16)):
        x = images(2, 3, *size)
        expected = cam(net.turned, lambda z: net(z)[:, 1], x, lambda A: A.transpose(2, 3))
        right_or_refused(lambda x=x: GradCAM("turned", relu=False)(net, x, 1), expected, error=LayerError)
        by_hand = GradCAM("turned", relu=False, grid=lambda A: A.transpose(2, 3))
        assert_same(by_hand(net, x, 1), expected)


def test_a_map_of_halves_side_by_side_is_refused():
    """Space-to-batch and shuffled pixels: 4-D, of the image's proportions, and not where it seems."""

    class Scrambled(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.mixed, self.head = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 1), nn.Linear(6, 3)
            self.order = torch.randperm(144, generator=torch.Generator().manual_seed(0))

        def forward(self, x):
            h = self.conv(x).relu().flatten(2)[:, :, self.order].unflatten(2, (12, 12))
            return self.head(self.mixed(h).relu().mean((2, 3)))

    net, x = seeded(Scrambled), images(2, 3, 12, 12)
    with pytest.raises(LayerError):
        GradCAM("mixed", relu=False)(net, x, 1)
    found = GradCAM(relu=False).attribute(net, x, 1)
    assert found.notes.facts["layer"] == "conv"


def test_channels_last_maps_are_right_whatever_their_number_of_channels():
    class ChannelsLast(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.patch, self.stage, self.head = nn.Conv2d(3, width, 4, 4), nn.Linear(width, width), nn.Linear(width, 3)

        def forward(self, x):
            t = self.stage(self.patch(x).permute(0, 2, 3, 1)).relu()
            return self.head(t.mean((1, 2)))

    for width, size in ((8, (32, 32)), (6, (24, 24)), (4, (16, 24)), (6, (16, 24))):
        net, x = seeded(lambda width=width: ChannelsLast(width)), images(2, 3, *size)
        expected = cam(net.stage, lambda z, net=net: net(z)[:, 1], x, lambda A: A.movedim(-1, 1))
        right_or_refused(
            lambda net=net, x=x: GradCAM("stage", relu=False)(net, x, 1), expected, error=LayerError, names="grid="
        )


def test_a_layer_named_is_checked_once_and_the_check_is_remembered():
    net = Counted(seeded(Tokens)).eval()
    x = net.body.image(1)
    method = GradCAM("body.blocks.0", relu=False)
    method(net, x, 1)
    first, net.passes = len(net.passes), []
    method(net, x, 1)
    assert len(net.passes) == 1  # the map's own
    assert first <= 1 + 3 + 1 + 1  # rows: three at most, place: one, and one that finds the layout
    net.passes = []
    method(net, net.body.image(1, seed=9), 2)
    assert len(net.passes) == 1


def test_another_shape_and_other_weights_are_checked_again():
    net = seeded(lambda: Tokens((4, 4), ()))
    method, x = GradCAM(**SIGNED), net.image()
    assert_same(method(net, x, 1), net.cam(x))
    net.order = torch.randperm(16, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        net.position.add_(0.01)  # a new state
    right_or_refused(lambda: method(net, x, 1), net.cam(x), error=LayerError, names="grid=")


CLASSIFIERS = {
    "deit": ("deit_tiny_distilled_patch16_224", {"img_size": 64, "patch_size": 16, "embed_dim": 32, "num_heads": 2}, 2),
    "registers": ("vit_small_patch14_reg4_dinov2", {"img_size": 56, "embed_dim": 32, "num_heads": 2}, 5),
    "wide": ("vit_tiny_patch16_224", {"img_size": (48, 80), "embed_dim": 32, "num_heads": 2}, 1),
    "pooled": ("vit_tiny_patch16_224", {"img_size": 64, "embed_dim": 32, "num_heads": 2, "global_pool": "avg"}, 1),
}


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_timm_s_transformers_are_laid_out_without_help(kind):
    from deepviz.models.torchvision_shim import import_timm

    name, options, others = CLASSIFIERS[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = seeded(lambda: import_timm().create_model(name, pretrained=False, depth=2, num_classes=4, **options))
    size = options["img_size"] if isinstance(options["img_size"], tuple) else (options["img_size"],) * 2
    x = images(2, 3, *size)
    patch = net.patch_embed.proj.kernel_size[0]
    grid = (size[0] // patch, size[1] // patch)

    def laid(A):
        assert A.shape[1] == math.prod(grid) + others
        return A[:, others:].unflatten(1, grid).movedim(-1, 1)

    expected = cam(net.blocks[0], lambda z: net(z)[:, 1], x, laid)
    assert_same(GradCAM("blocks.0", relu=False)(net, x, 1), expected)
    found = GradCAM(relu=False).attribute(net, x, 1)
    assert found.notes.facts["layer"] == "blocks" or found.notes.facts["layer"].startswith("blocks.1")
    layer = net.get_submodule(found.notes.facts["layer"])
    assert_same(found.maps, cam(layer, lambda z: net(z)[:, 1], x, laid))


def test_timm_s_swin_is_on_the_image_and_its_windows_are_not():
    from deepviz.models.torchvision_shim import import_timm

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = seeded(
            lambda: import_timm().create_model(
                "swin_tiny_patch4_window7_224",
                pretrained=False,
                img_size=32,
                window_size=4,
                embed_dim=16,
                depths=(2, 1),
                num_heads=(2, 2),
                num_classes=3,
            )
        )
    x = images(2, 3, 32, 32)
    expected = cam(net.layers[0], lambda z: net(z)[:, 1], x, lambda A: A.movedim(-1, 1))
    assert_same(GradCAM("layers.0", relu=False)(net, x, 1), expected)
    with pytest.raises(LayerError):
        GradCAM("layers.0.blocks.0.attn", relu=False)(net, x, 1)


def volume(kind, channels=2, classes=3):
    conv, pool = {
        1: (nn.Conv1d, nn.AdaptiveAvgPool1d),
        2: (nn.Conv2d, nn.AdaptiveAvgPool2d),
        3: (nn.Conv3d, nn.AdaptiveAvgPool3d),
    }[kind]
    return nn.Sequential(
        conv(channels, 6, 3, padding=1), nn.ReLU(), conv(6, 6, 3, padding=1, stride=2), nn.ReLU(),
        pool(2), nn.Flatten(), nn.Linear(6 * 2**kind, classes),
    )  # fmt: skip


SPACES = {"signal": (1, (40,)), "image": (2, (12, 10)), "clip": (3, (4, 12, 10)), "volume": (3, (8, 8, 6))}


@pytest.mark.parametrize("space", SPACES)
def test_grad_cam_weights_are_means_over_all_of_space(space):
    kind, shape = SPACES[space]
    net, x = seeded(lambda: volume(kind)), images(ROWS, 2, *shape)
    expected = cam(net[3], lambda z: net(z)[:, 1], x)
    assert expected.ndim == 2 + kind
    assert_same(GradCAM("3", relu=False)(net, x, 1), expected)
    found = GradCAM(relu=False).attribute(net, x, 1)
    assert found.notes.facts["layer"] == "3"
    assert_same(found.maps, expected)


ROWS = 5


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("method", ALL.values(), ids=ALL.keys())
def test_every_method_explains_signals_and_volumes_each_row_as_alone(space, method):
    kind, shape = SPACES[space]
    net, x = seeded(lambda: volume(kind)), images(3, 2, *shape)
    found = method(net, x, 1)
    assert_same(found, torch.cat([method(net, x[row : row + 1], 1) for row in range(3)]))
    assert found.shape[2:] == (x.shape[2:] if "grad-cam" not in str(method) and not method.coarse else found.shape[2:])


@pytest.mark.parametrize("space", SPACES)
def test_gradients_and_paths_in_any_number_of_dimensions_are_the_definition(space):
    kind, shape = SPACES[space]
    net, x = seeded(lambda: volume(kind)), images(1, 2, *shape)

    def score(z):
        return net(z)[:, 1]

    assert_same(Gradient()(net, x, 1), gradient(score, x))
    assert_same(IntegratedGradients(steps=9)(net, x, 1), path_gradient(score, x, 9))
    assert_same(SmoothGrad(samples=6)(net, x, 1), noisy_gradient(score, x, 6))


@pytest.mark.parametrize("space", SPACES)
def test_guided_grad_cam_is_upsampled_linearly_along_every_axis(space):
    kind, shape = SPACES[space]
    net, x = seeded(lambda: volume(kind)), images(2, 2, *shape)
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[kind]
    up = F.interpolate(cam(net[3], lambda z: net(z)[:, 1], x).relu(), shape, mode=mode, align_corners=False)
    assert_same(GuidedGradCAM("3")(net, x, 1), GuidedBackprop()(net, x, 1) * up)


@pytest.mark.parametrize("space", ["signal", "clip", "volume"])
def test_signals_and_volumes_can_be_explained_in_one_line(space):
    kind, shape = SPACES[space]
    net, x = seeded(lambda: volume(kind)), images(2, 2, *shape)
    # three axes are a picture, (C, H, W), and four are pictures: signals are given one by one, a volume with its batch
    both, one = ([x[0], x[1]], x[0]) if kind == 1 else (x, x[:1])
    for several, n in ((both, 2), ([x[0], x[1]], 2), (one, 1)):
        found = deepviz.explain(net, several, ["gradient", "grad-cam"], target=1)
        assert len(found) == 2 * n
        assert_same(found[0].attribution, gradient(lambda z: net(z)[:, 1], x[:1])[0].float(), 1e-5)


def test_the_layers_of_a_volume_can_be_listed():
    net = seeded(lambda: volume(3))
    rows = deepviz.viz_layers(deepviz.load_model(net), images(1, 2, 4, 12, 10)[0])
    assert rows.default is not None
    assert rows.default.name == "3"


def test_time_folded_into_channels_is_right_or_refused_at_a_volume_s_layer():
    class Folded(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = volume(3)

        def forward(self, z):
            return self.net(z.unflatten(1, (2, 4)))

    net, z = seeded(Folded), images(2, 8, 12, 10)
    expected = cam(net.net[3], lambda x: net(x)[:, 1], z)
    right_or_refused(lambda: GradCAM("net.3", relu=False)(net, z, 1), expected, error=LayerError, names="grid=")
    assert_same(GradCAM("net.3", relu=False, grid=lambda A: A)(net, z, 1), expected)
    assert_same(Gradient()(net, z, 1), gradient(lambda x: net(x)[:, 1], z))


def test_a_video_transformer_s_tokens_are_laid_out_over_time_and_space_or_refused():
    """As ViViT: tubelets of 2 x 8 x 8, tokens by time, then row by row."""

    class Tubelets(nn.Module):
        def __init__(self, width=16):
            super().__init__()
            self.patch = nn.Conv3d(2, width, (2, 8, 8), (2, 8, 8))
            self.position = nn.Parameter(torch.randn(1, 49, width) * 0.3)
            self.cls = nn.Parameter(torch.randn(1, 1, width))
            self.block = nn.TransformerEncoderLayer(width, 2, 32, dropout=0.0, batch_first=True)
            self.head = nn.Linear(width, 3)

        def forward(self, x):
            t = self.patch(x).flatten(2).transpose(1, 2)
            t = self.block(torch.cat([self.cls.expand(len(x), -1, -1), t], 1) + self.position)
            return self.head(t[:, 0])

    net, x = seeded(Tubelets), images(1, 2, 6, 32, 32)

    def laid(A):
        return A[:, 1:].unflatten(1, (3, 4, 4)).movedim(-1, 1)

    expected = cam(net.block, lambda z: net(z)[:, 1], x, laid)
    right_or_refused(lambda: GradCAM("block", relu=False)(net, x, 1), expected, error=LayerError, names="grid=")
    assert_same(GradCAM("block", relu=False, grid=laid)(net, x, 1), expected)
    assert_same(GradCAM("block", relu=False, grid=(3, 4, 4))(net, x, 1), expected)


def test_the_same_layer_called_for_two_images_is_drawn_on_neither_by_mistake():
    """A siamese network on two images in six channels: each call of its layer has a map of its own."""

    class Siamese(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(
                nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(),
                nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 8),
            )  # fmt: skip
            self.head = nn.Linear(8, 2)

        def forward(self, z):
            return self.head((self.net(z[:, :3]) - self.net(z[:, 3:])).abs())

    net, z = seeded(Siamese), images(3, 6, 12, 12)
    with pytest.raises(LayerError, match="more than once"):
        GradCAM("net.2", relu=False)(net, z, 1)
    for call in (0, 1):
        expected = cam(net.net[2], lambda x: net(x)[:, 1], z, call=call)
        assert_same(GradCAM(f"net.2#{call + 1}", relu=False)(net, z, 1), expected)
    assert_same(Gradient()(net, z, 1), gradient(lambda x: net(x)[:, 1], z))


def test_two_images_stacked_into_the_batch_are_never_drawn_on_each_other():
    class Stacked(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
            self.head = nn.Linear(1, 2)

        def forward(self, z):
            e, n = self.net(torch.cat([z[:, :3], z[:, 3:]])), len(z)
            return self.head(F.cosine_similarity(e[:n], e[n:], dim=1)[:, None])

    net, z = seeded(Stacked), images(3, 6, 12, 12)
    assert_same(Gradient()(net, z, 1), gradient(lambda x: net(x)[:, 1], z))
    for layer in (None, "net.1"):
        with pytest.raises(LayerError):
            GradCAM(layer, relu=False)(net, z, 1)

    def first(A):
        return A.unflatten(0, (2, -1))[0]

    A, dA = layer_and_gradient(net.net[1], lambda x: net(x)[:, 1], z)
    expected = weighted(first(A), first(dA))
    assert_same(GradCAM("net.1", relu=False, grid=first)(net, z, 1), expected)


def test_attention_matrices_are_no_maps():
    class Weights(nn.Module):
        def __init__(self):
            super().__init__()
            self.patch, self.qk = nn.Conv2d(3, 16, 8, 8), nn.Linear(16, 32)
            self.soft, self.head = nn.Softmax(-1), nn.Linear(16, 3)

        def forward(self, x):
            t = self.patch(x).flatten(2).transpose(1, 2)
            q, k = self.qk(t).chunk(2, -1)
            return self.head((self.soft(q @ k.transpose(1, 2)) @ t).mean(1))

    net, x = seeded(Weights), images(2, 3, 32, 32)
    with pytest.raises(LayerError):
        GradCAM("soft", relu=False)(net, x, 1)
    with pytest.raises(DeepVizError):
        GradCAM("head", relu=False)(net, x, 1)


def test_squeezed_channels_are_no_map():
    class Squeeze(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.down, self.up = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)
            self.head = nn.Linear(16, 3)

        def forward(self, x):
            h = self.conv(x).relu()
            return self.head((h * self.up(self.down(h.mean((2, 3), keepdim=True)).relu()).sigmoid()).mean((2, 3)))

    net, x = seeded(Squeeze), images(2, 3, 12, 12)
    assert GradCAM(relu=False).attribute(net, x, 1).notes.facts["layer"] == "conv"
    for layer in ("down", "up"):
        with pytest.raises(LayerError):
            GradCAM(layer, relu=False)(net, x, 1)
