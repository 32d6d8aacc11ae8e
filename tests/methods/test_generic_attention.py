import pytest
import torch
from torch import nn

from attention_by_hand import generic, layer_norm, linear, score
from by_hand import array
from deepviz.methods import AttentionRollout, GenericAttention
from networks import CASES, MeanViT, assert_same

VIT = CASES["vit"]


@pytest.mark.parametrize(("seed", "k"), [(0, 0), (1, 3), (2, 4)])
def test_it_is_the_row_of_the_class_token_by_hand(seed, k):
    vit, x = VIT.model(seed=seed), VIT.images(2, seed=seed)
    found = GenericAttention()(vit, x, k)
    R = generic(vit, array(x[1]), k, lambda Z, k: score(vit, Z[0], k))
    assert_same(found[1], torch.from_numpy(R[0, 1:].reshape(1, 3, 4)), 1e-6)


def test_a_model_that_reads_the_mean_of_the_image_s_tokens_has_the_mean_of_their_rows():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vit = MeanViT().double()
    x = VIT.images(1)
    R = generic(vit, array(x[0]), 2, lambda Z, k: linear(vit.head, layer_norm(vit.norm, Z)[1:].mean(0))[k])
    assert_same(GenericAttention()(vit, x, 2)[0], torch.from_numpy(R[1:, 1:].mean(0).reshape(1, 3, 4)), 1e-6)


def test_several_objectives_share_the_forward_pass():
    vit, x = VIT.model(), VIT.images()
    targets = torch.tensor([[0, 1], [2, 3], [4, 4]])
    together = GenericAttention()(vit, x, targets)
    calls = []
    handle = vit.head.register_forward_hook(lambda module, inputs, output: calls.append(len(output)))
    GenericAttention()(vit, x, targets)
    handle.remove()
    assert calls == [3]
    for k in range(2):
        assert_same(together[:, k], GenericAttention()(vit, x, targets[:, k]), 1e-12)


class Frozen(nn.Module):
    """The body runs under no_grad, as of a model of which only the classifier is trained."""

    def __init__(self, vit):
        super().__init__()
        self.vit = vit

    def forward(self, x):
        tokens = torch.cat([self.vit.cls.expand(len(x), -1, -1), self.vit.patch(x).flatten(2).transpose(1, 2)], 1)
        with torch.no_grad():
            tokens = self.vit.blocks(tokens + self.vit.position)
        return self.vit.head(self.vit.norm(tokens)[:, 0])


@pytest.mark.filterwarnings("ignore:a part of the model runs under torch.no_grad")
def test_a_body_under_no_grad_has_the_map_of_the_same_body_with_gradients():
    vit, x = VIT.model(), VIT.images()
    assert_same(GenericAttention()(Frozen(vit), x, 1), GenericAttention()(vit, x, 1), 1e-12)
    assert_same(AttentionRollout()(Frozen(vit), x, 1), AttentionRollout()(vit, x, 1), 1e-12)
