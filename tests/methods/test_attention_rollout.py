import numpy as np
import pytest
import torch
from torch import nn

from attention_by_hand import rollout
from by_hand import array
from deepviz.methods import AttentionRollout
from deepviz.objectives import Logit
from networks import CASES, Attention, MeanViT, assert_same

VIT = CASES["vit"]


@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_row_of_the_class_token_in_the_product_by_hand(seed):
    vit, x = VIT.model(seed=seed), VIT.images(2, seed=seed)
    found = AttentionRollout()(vit, x)
    for row in range(2):
        expected = rollout(vit, array(x[row]))[0, 1:].reshape(1, 3, 4)
        assert_same(found[row], torch.from_numpy(expected), 1e-12)


def test_a_model_that_reads_the_mean_of_the_image_s_tokens_has_the_mean_of_their_rows():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vit = MeanViT().double()
    x = VIT.images(1)
    expected = rollout(vit, array(x[0]))[1:, 1:].mean(0).reshape(1, 1, 3, 4)
    found = AttentionRollout().attribute(vit, x)
    assert_same(found.maps, torch.from_numpy(expected), 1e-12)
    assert found.notes.facts["attention"] == "2 layers of 2 heads, 12 tokens are read"


class OneLayer(nn.Module):
    """A class token and patches of 4 x 4, one layer of one head without a skip connection, no normalisation."""

    def __init__(self):
        super().__init__()
        self.patch, self.cls = nn.Conv2d(3, 6, 4, stride=4), nn.Parameter(torch.randn(1, 1, 6))
        self.attn, self.head = Attention(6, heads=1), nn.Linear(6, 5)

    def forward(self, x):
        tokens = torch.cat([self.cls.expand(len(x), -1, -1), self.patch(x).flatten(2).transpose(1, 2)], 1)
        return self.head(self.attn(tokens)[:, 0])


def test_of_one_layer_with_one_head_it_is_half_the_attention_of_the_class_token():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = OneLayer().double()
    x = VIT.images(3)
    tokens = torch.cat([model.cls.expand(3, -1, -1), model.patch(x).flatten(2).transpose(1, 2)], 1)
    q, k, _ = model.attn.qkv(tokens).chunk(3, -1)
    A = (q @ k.transpose(1, 2) / 6**0.5).softmax(-1)
    assert_same(AttentionRollout()(model, x), A[:, 0, 1:].view(3, 1, 3, 4).detach() / 2, 1e-12)


def test_it_is_the_same_for_every_class_and_says_so():
    vit, x = VIT.model(), VIT.images()
    found = AttentionRollout().attribute(vit, x, torch.tensor([[0, 1], [2, 3], [4, 4]]))
    assert found.maps.shape == (3, 2, 1, 3, 4)
    assert torch.equal(found.maps[:, 0], found.maps[:, 1])
    assert torch.equal(found.maps[:, 0], AttentionRollout()(vit, x, Logit(1) - Logit(2)))
    assert found.notes.facts["objective"] == "none: the map is the same for every class"


def test_the_rows_of_all_tokens_sum_to_one():
    vit, x = VIT.model(), VIT.images(1)
    on_class_token = rollout(vit, array(x[0]))[0, 0]
    np.testing.assert_allclose(float(AttentionRollout()(vit, x).sum()) + on_class_token, 1, rtol=1e-12)
