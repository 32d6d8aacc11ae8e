"""Attention is found where it is computed, in whatever way a model does it; what cannot be explained is refused."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from deepviz.errors import NoAttention
from deepviz.methods import AttentionRollout, GenericAttention, LeGrad, TokenSimilarity
from deepviz.probe import attention
from deepviz.probe.attention import weights
from networks import ATTENTION, CASES, Block, TinyViT, asked, assert_same

VIT = CASES["vit"]
methods = pytest.mark.parametrize("method", ATTENTION.values(), ids=ATTENTION.keys())


def attentions(model, x, target=0):
    with asked(model.eval(), x, target) as session:
        return attention.attentions_of(session)


# spellings: o(q, k, v) is what scaled_dot_product_attention returns, of (n, heads, T, d)


def matrix(q, k):
    return q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5


def folded(q, k, v):
    n, heads = q.shape[:2]
    q, k, v = (one.flatten(0, 1) for one in (q, k, v))
    return torch.bmm(F.softmax(torch.baddbmm(k.new_zeros(1), q, k.mT) / q.shape[-1] ** 0.5, -1), v).view(
        n, heads, *v.shape[1:]
    )


def upcast_and_dropped(q, k, v):
    A = nn.functional.softmax(matrix(q, k), dim=-1, dtype=torch.float64).to(q.dtype)
    return torch.matmul(nn.Dropout(0.5).eval()(A), v)


def by_einsum(q, k, v):
    q, k, v = (one.transpose(1, 2) for one in (q, k, v))  # n, T, heads, d
    A = torch.einsum("nqhd,nkhd->nhqk", q, k).div(q.shape[-1] ** 0.5).softmax(dim=3)
    return torch.einsum("nhqk,nkhd->nqhd", A, v).transpose(1, 2)


def grouped(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)


SPELLINGS = {
    "at": lambda q, k, v: torch.softmax(matrix(q, k), -1) @ v,
    "module": lambda q, k, v: nn.Softmax(dim=-1)(matrix(q, k)).matmul(v),
    "folded": folded,
    "upcast and dropped": upcast_and_dropped,
    "einsum": by_einsum,
    "grouped": grouped,
    "operator of an exported graph": lambda q, k, v: torch.ops.aten.scaled_dot_product_attention.default(q, k, v),
}


class Spelled(nn.Module):
    def __init__(self, of, function):
        super().__init__()
        self.qkv, self.out, self.heads, self.function = of.qkv, of.out, of.heads, function

    def forward(self, tokens):
        n, length, width = tokens.shape
        q, k, v = self.qkv(tokens).view(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        return self.out(self.function(q, k, v).transpose(1, 2).reshape(n, length, width))


def spelled(function, seed=0):
    vit = VIT.model(seed=seed)
    for block in vit.blocks:
        block.attn = Spelled(block.attn, function)
    return vit


@methods
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_has_the_same_map(method, spelling):
    x = VIT.images(2)
    assert_same(method(spelled(SPELLINGS[spelling]), x, 1), method(VIT.model(), x, 1), 1e-10)


class MultiHead(nn.Module):
    """PyTorch's own module, with the weights of another."""

    def __init__(self, of, sequence_first, need_weights):
        super().__init__()
        self.inner = nn.MultiheadAttention(8, of.heads, batch_first=not sequence_first).double()
        self.sequence_first, self.need_weights = sequence_first, need_weights
        self.inner.in_proj_weight, self.inner.in_proj_bias, self.inner.out_proj = of.qkv.weight, of.qkv.bias, of.out

    def forward(self, tokens):
        tokens = tokens.transpose(0, 1) if self.sequence_first else tokens
        out, _ = self.inner(tokens, tokens, tokens, need_weights=self.need_weights)
        return out.transpose(0, 1) if self.sequence_first else out


@methods
@pytest.mark.parametrize("sequence_first", [False, True])
@pytest.mark.parametrize("need_weights", [False, True])
def test_pytorch_s_own_module_has_the_same_map(method, sequence_first, need_weights):
    vit, x = VIT.model(), VIT.images(2)
    expected = method(vit, x, 1)
    for block in vit.blocks:
        block.attn = MultiHead(block.attn, sequence_first, need_weights)
    assert_same(method(vit.eval(), x, 1), expected, 1e-10)


class SequenceFirst(TinyViT):
    """Layers take and return (T, n, D)."""

    def forward(self, x):
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls.expand(len(x), -1, -1), tokens], 1) + self.position
        tokens = tokens.transpose(0, 1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(self.norm(tokens)[0])


class Transposed(nn.Module):
    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, tokens):
        return self.block(tokens.transpose(0, 1)).transpose(0, 1)


@methods
def test_layers_that_return_the_sequence_first_have_the_same_map(method):
    vit, x = VIT.model(), VIT.images(3)
    other = SequenceFirst().double()
    other.load_state_dict(vit.state_dict())
    other.blocks = nn.Sequential(*map(Transposed, other.blocks))
    assert_same(method(other, x, 1), method(vit, x, 1), 1e-12)


@pytest.mark.parametrize("encoder", [nn.TransformerEncoder, lambda layer, depth: nn.Sequential(layer)])
def test_pytorch_s_own_layers_are_not_skipped_for_a_fused_kernel(encoder):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.patch, self.position = nn.Conv2d(3, 8, 4, stride=4), nn.Parameter(torch.randn(1, 12, 8))
            layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
            self.encoder, self.head = encoder(layer, 2), nn.Linear(8, 5)

        def forward(self, x):
            return self.head(self.encoder(self.patch(x).flatten(2).transpose(1, 2) + self.position).mean(1))

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Model().double().eval()
    x = VIT.images(2)
    with torch.no_grad():
        for method in ATTENTION.values():
            assert method(model, x, 1).shape == (2, 1, 3, 4)


# the explicit form


MASKS = {
    "none": {},
    "added": {"attn_mask": torch.randn(2, 1, 5, 5, dtype=torch.float64)},
    "boolean": {"attn_mask": torch.rand(5, 5) > 0.4},
    "a query that may see nothing": {"attn_mask": torch.arange(5)[:, None].expand(5, 5) != 2},
    "causal": {"is_causal": True},
    "scaled": {"scale": 0.3},
    "grouped": {"enable_gqa": True},
}


@pytest.mark.parametrize("kind", MASKS)
def test_the_explicit_form_is_the_fused_operator(kind):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, heads, 5, 3, generator=generator, dtype=torch.float64) for heads in (4, 4, 4))
    given = MASKS[kind]
    if kind == "grouped":
        k, v = k[:, :2], v[:, :2]
    A = weights(q, k, given.get("attn_mask"), "is_causal" in given, given.get("scale"), kind == "grouped")
    found = A @ (v.repeat_interleave(2, 1) if kind == "grouped" else v)
    assert_same(found, F.scaled_dot_product_attention(q, k, v, **given), 1e-12)


def test_an_explicit_form_that_gives_other_scores_is_refused(monkeypatch):
    monkeypatch.setattr(attention, "weights", lambda *given: weights(*given) ** 2)
    with pytest.raises(NoAttention, match=r"the model's scores differ by .* it computes something else"):
        AttentionRollout()(VIT.model(), VIT.images(1), 0)


# what is found


def test_registers_and_class_token_are_left_out_and_the_tokens_that_are_read_are_found():
    class Registers(TinyViT):
        def __init__(self):
            super().__init__(patches=15)
            self.registers = nn.Parameter(torch.randn(1, 3, 8))

        def forward(self, x):
            others = torch.cat([self.cls, self.registers], 1).expand(len(x), -1, -1)
            tokens = torch.cat([others, self.patch(x).flatten(2).transpose(1, 2)], 1) + self.position
            return self.head(self.norm(self.blocks(tokens))[:, :2].mean(1))

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Registers().double()
    found = attentions(model, VIT.images(1))
    assert (found.read, found.grid.skip, found.grid.size) == ((0, 1), (0, 1, 2, 3), (3, 4))
    assert [layer.block for layer in found.layers] == ["blocks.0", "blocks.1"]
    assert [layer.heads for layer in found.layers] == [2, 2]


class Pooled(TinyViT):
    """A learned query pools the tokens, as in SigLIP."""

    def __init__(self):
        super().__init__()
        self.query = nn.Parameter(torch.randn(1, 1, 8))
        self.pool = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        tokens = self.blocks(self.patch(x).flatten(2).transpose(1, 2) + self.position[:, 1:])
        return self.head(self.pool(self.query.expand(len(x), -1, -1), tokens, tokens)[0][:, 0])


def pooled():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Pooled().double()


def parts_of(model, x):
    """The tokens after each layer, the attention of each, and the pooling attention."""
    tokens = model.patch(x).flatten(2).transpose(1, 2) + model.position[:, 1:]
    A, Z = [], []
    for block in model.blocks:
        q, k, _ = block.attn.qkv(block.norm1(tokens)).unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        A.append(matrix(q, k).softmax(-1))
        tokens = block(tokens)
        Z.append(tokens)
    return Z, A


def test_where_a_query_pools_the_tokens_its_attention_is_the_row():
    model, x = pooled(), VIT.images(2)
    with torch.no_grad():
        Z, A = parts_of(model, x)
        _, row = model.pool(model.query.expand(2, -1, -1), Z[-1], Z[-1])  # the mean over heads
    eye = torch.eye(12, dtype=torch.float64)
    expected = row @ (0.5 * A[1].mean(1) + 0.5 * eye) @ (0.5 * A[0].mean(1) + 0.5 * eye)
    assert_same(AttentionRollout()(model, x), expected.view(2, 1, 3, 4), 1e-12)


def test_where_a_query_pools_the_tokens_legrad_is_of_the_pooling_attention_for_the_tokens_of_each_layer():
    model, x = pooled(), VIT.images(2)
    with torch.no_grad():
        Z, _ = parts_of(model, x)
    W, b = model.pool.in_proj_weight.chunk(3), model.pool.in_proj_bias.chunk(3)
    expected = 0
    for tokens in Z:
        q, k, v = (F.linear(one, W[n], b[n]) for n, one in enumerate((model.query, tokens, tokens)))
        q, k, v = (one.unflatten(2, (2, 4)).transpose(1, 2) for one in (q, k, v))
        A = matrix(q, k).softmax(-1).detach().requires_grad_()
        scores = model.head(model.pool.out_proj((A @ v).transpose(1, 2).flatten(2))[:, 0])
        (dA,) = torch.autograd.grad(scores[:, 3].sum(), A)
        expected = expected + dA.clamp(min=0).mean((1, 2)) / 2
    assert_same(LeGrad()(model, x, 3), expected.view(2, 1, 3, 4), 1e-12)


def test_the_attention_of_a_text_beside_the_image_is_left_out():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.vit, self.words = VIT.model(), Block(8).double()
            self.text = nn.Parameter(torch.randn(5, 7, 8, dtype=torch.float64))

        def forward(self, x):
            texts = self.words(self.text).mean(1)
            return self.vit(x) @ (texts @ self.vit.head.weight.T).T

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Both()
    x = VIT.images(2)
    found = attentions(model, x)
    assert (len(found.layers), found.total) == (2, 3)
    assert_same(AttentionRollout()(model, x), AttentionRollout()(model.vit, x), 1e-12)


# what is refused, with the reason


def talking(q, k, v):
    A = matrix(q, k).softmax(-1)
    return (A.permute(0, 2, 3, 1) @ A.new_tensor([[0.9, 0.1], [0.2, 0.8]])).permute(0, 3, 1, 2) @ v


class Windows(TinyViT):
    """The image's two halves attend to themselves alone."""

    def forward(self, x):
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        tokens = self.blocks(tokens.reshape(-1, 6, 8)).reshape(len(x), 12, 8)
        return self.head(self.norm(tokens).mean(1))


class Merging(TinyViT):
    """Between its layers, tokens are merged two by two."""

    def forward(self, x):
        tokens = self.blocks[0](self.patch(x).flatten(2).transpose(1, 2))
        return self.head(self.norm(self.blocks[1](tokens.unflatten(1, (6, 2)).mean(2))).mean(1))


class Shuffled(TinyViT):
    """Its tokens are in an order of their own."""

    def forward(self, x):
        order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
        return self.head(self.norm(self.blocks(self.patch(x).flatten(2).transpose(1, 2)[:, order])).mean(1))


class Queries(TinyViT):
    """Queries attend to the tokens, then to each other, as in a detector."""

    def __init__(self):
        super().__init__()
        self.queries, self.cross = nn.Parameter(torch.randn(1, 4, 8)), nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        tokens = self.blocks[0](self.patch(x).flatten(2).transpose(1, 2))
        queries, _ = self.cross(self.queries.expand(len(x), -1, -1), tokens, tokens)
        return self.head(self.blocks[1](queries).mean(1))


class AsManyQueries(TinyViT):
    """As many queries as tokens attend to these, to each other, and to the tokens again."""

    def __init__(self):
        super().__init__()
        self.queries = nn.Parameter(torch.randn(1, 12, 8))
        self.first, self.second = (nn.MultiheadAttention(8, 2, batch_first=True) for _ in range(2))

    def forward(self, x):
        tokens = self.blocks[0](self.patch(x).flatten(2).transpose(1, 2))
        queries = self.queries + self.first(self.queries.expand(len(x), -1, -1), tokens, tokens)[0]
        queries = self.blocks[1](queries)
        return self.head((queries + self.second(queries, tokens, tokens)[0]).mean(1))


class SideBySide(TinyViT):
    """Two layers of attention see the same tokens, and are added."""

    def forward(self, x):
        tokens = self.patch(x).flatten(2).transpose(1, 2) + self.position[:, 1:]
        return self.head(self.norm(self.blocks[0](tokens) + self.blocks[1](tokens)).mean(1))


class Untrained(TinyViT):
    def __init__(self):
        super().__init__()
        nn.init.zeros_(self.head.weight)


REFUSED = {
    "a network without attention": (lambda: CASES["plain"].model(), "computes no attention on the image"),
    "talking heads": (lambda: spelled(talking), "goes on to change 2 of its attention matrices"),
    "windows": (Windows, "within 2 windows of 6 tokens"),
    "merged tokens": (Merging, r"merges or adds tokens between its layers \(12, 6 tokens\)"),
    "tokens in another order": (Shuffled, "tokens that blocks.1.attn attends to were not found on the image"),
    "queries of a detector": (Queries, "merges or adds tokens|4 queries attend to 12 keys"),
    "as many queries as tokens": (
        AsManyQueries,
        "the queries of second come from blocks.1.attn, but the tokens that they attend to do not",
    ),
    "layers side by side": (SideBySide, "blocks.0.attn and blocks.1.attn are computed side by side"),
    "an untrained classifier": (Untrained, "no gradient arrives at its last layer of attention"),
    "a traced module": (
        lambda: torch.jit.trace(VIT.model(), VIT.images(1), check_trace=False),
        "is a scripted or traced module",
    ),
}


@methods
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused(method, kind):
    build, reason = REFUSED[kind]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build().double()
    with pytest.raises(NoAttention, match=reason):
        method(model, VIT.images(2), 0)


def test_a_method_inside_another_needs_attention_too():
    from deepviz.methods import SmoothGrad

    assert SmoothGrad(of=GenericAttention()).requires.attention
    assert not GenericAttention().requires.black_box
    assert str(TokenSimilarity().requires) == "forward, attention"
