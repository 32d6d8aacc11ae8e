import pytest
import torch
from torch import nn

from attention_by_hand import legrad
from by_hand import array
from deepviz.errors import NoAttention
from deepviz.methods import LeGrad
from deepviz.objectives import Channel
from networks import CASES, Attention, TinyViT, assert_same

VIT = CASES["vit"]


@pytest.mark.parametrize(("seed", "k"), [(0, 0), (1, 3), (2, 4)])
def test_it_is_the_mean_over_layers_by_hand(seed, k):
    vit, x = VIT.model(seed=seed), VIT.images(2, seed=seed)
    E = legrad(vit, array(x[1]), k)
    expected = torch.from_numpy(sum(E)[1:].reshape(1, 3, 4) / 2)
    assert_same(LeGrad()(vit, x, k)[1], expected, 1e-6)


class ThreeLayers(TinyViT):
    def __init__(self):
        super().__init__()
        self.blocks.append(TinyViT().blocks[0])


def test_it_is_of_all_layers_as_in_the_paper_not_of_the_last_two_as_in_its_authors_code():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vit = ThreeLayers().double()
    x = VIT.images(1)
    E = legrad(vit, array(x[0]), 1)
    found = LeGrad()(vit, x, 1)[0]
    assert_same(found, torch.from_numpy(sum(E)[1:].reshape(1, 3, 4) / 3), 1e-6)
    last = torch.from_numpy(sum(E[-2:])[1:].reshape(1, 3, 4) / 2)
    assert float((found / found.max() - last / last.max()).abs().max()) > 0.01


class OneLayer(nn.Module):
    """Patches of 4 x 4, one layer of attention, no normalisation; the mean of the tokens has a linear classifier."""

    def __init__(self):
        super().__init__()
        self.patch, self.attn, self.head = nn.Conv2d(3, 6, 4, stride=4), Attention(6, heads=1), nn.Linear(6, 5)

    def forward(self, x):
        return self.head(self.attn(self.patch(x).flatten(2).transpose(1, 2)).mean(1))


def test_of_one_layer_it_is_the_positive_part_of_what_the_classifier_makes_of_each_value():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = OneLayer().double()
    x = VIT.images(3)
    v = model.attn.qkv(model.patch(x).flatten(2).transpose(1, 2)).chunk(3, -1)[2]
    # S = w . 1/T sum_i W (sum_j A_ij v_j): each of T queries has the slope w W v_j / T
    w = model.head.weight[2] @ model.attn.out.weight
    expected = (v @ w).clamp(min=0) / 12
    assert_same(LeGrad()(model, x, 2), expected.view(3, 1, 3, 4).detach(), 1e-12)


class CountsItsRows(TinyViT):
    """What follows the last layer knows how many images went in."""

    def forward(self, x):
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls.expand(len(x), -1, -1), tokens], 1) + self.position
        return self.head(self.norm(self.blocks(tokens)).reshape(len(x), 13, -1)[:, 0])


def test_where_layers_cannot_go_together_they_go_one_at_a_time_with_the_same_result():
    vit, x = VIT.model(), VIT.images()
    counting = CountsItsRows().double()
    counting.load_state_dict(vit.state_dict())
    targets = torch.tensor([[0, 1], [2, 3], [4, 4]])
    assert_same(LeGrad()(counting, x, targets), LeGrad()(vit, x, targets), 1e-12)


def test_layers_and_objectives_share_one_forward_pass():
    vit, x = VIT.model(), VIT.images()
    targets = torch.tensor([[0, 1], [2, 3], [4, 4]])
    LeGrad()(vit, x, targets)
    calls = []
    handle = vit.patch.register_forward_hook(lambda module, inputs, output: calls.append(len(output)))
    LeGrad()(vit, x, targets)
    handle.remove()
    assert calls == [3]


def test_an_objective_of_a_layer_is_refused():
    with pytest.raises(NoAttention, match="the objective reads a layer inside it"):
        LeGrad()(VIT.model(), VIT.images(1), Channel("blocks.1", 0))


class Unrolled(TinyViT):
    """Its layers are in no module that returns their tokens."""

    def forward(self, x):
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls.expand(len(x), -1, -1), tokens], 1) + self.position
        for block in self.blocks:
            q, k, v = block.attn.qkv(block.norm1(tokens)).chunk(3, -1)
            tokens = tokens + (q @ k.transpose(1, 2)).softmax(-1) @ v
        return self.head(self.norm(tokens)[:, 0])


def test_layers_in_no_module_are_refused_with_another_method():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Unrolled().double()
    with pytest.raises(NoAttention, match=r"is in no module .* use GenericAttention"):
        LeGrad()(model, VIT.images(1), 0)
