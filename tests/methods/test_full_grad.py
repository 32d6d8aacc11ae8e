import pytest
import torch
import torch.nn.functional as F
from torch import nn

from deepviz.errors import DeepVizWarning
from deepviz.methods import FullGrad
from networks import CASES, Case, assert_same


def rectified():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 6, 3, stride=2, bias=False),
        nn.BatchNorm2d(6, affine=False),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(24, 8),
        nn.ReLU(),
        nn.Linear(8, 5),
    )


def case():
    def build():
        model = rectified().eval()
        for norm in (model[1], model[4]):
            norm.running_mean.normal_(0, 0.5)
            norm.running_var.uniform_(0.5, 2)
            if norm.affine:
                norm.weight.data.uniform_(0.5, 2)
                norm.bias.data.normal_()
        return model

    return Case(build)


def test_input_and_biases_sum_to_the_score():
    """Srinivas and Fleuret, proposition 1."""
    model, x = case().model(), case().images(3)
    found = FullGrad().attribute(model, x, torch.tensor([[0, 1], [4, 2], [3, 3]]))
    gap = found.notes.rows["completeness gap"]
    assert gap.shape == (3, 2)
    assert float(gap.max()) < 1e-9
    assert "warnings" not in found.notes.of((0, 0))


def by_hand(model, x, c, together):
    """Section 3.2: the gradient at every bias, each a parameter of its own at every position."""
    first, second = model[1], model[4]
    s1, s2 = (first.running_var + first.eps).sqrt(), (second.running_var + second.eps).sqrt()
    b = [
        model[0].bias.view(1, -1, 1, 1).expand(1, 4, 12, 12),
        (first.bias - first.weight * first.running_mean / s1).view(1, -1, 1, 1).expand(1, 4, 12, 12),
        (-second.running_mean / s2).view(1, -1, 1, 1).expand(1, 6, 5, 5),
    ]
    b = [each.detach().clone().requires_grad_() for each in b]
    x = x[None].clone().requires_grad_()
    h = F.conv2d(x, model[0].weight, padding=1) + b[0]
    h = ((first.weight / s1).view(1, -1, 1, 1) * h + b[1]).relu()
    h = (F.conv2d(h, model[3].weight, stride=2) / s2.view(1, -1, 1, 1) + b[2]).relu()
    S = model[6:](h)[0, c]
    total = torch.zeros(12, 12, dtype=x.dtype)
    for value, g in zip([x, *b], torch.autograd.grad(S, [x, *b]), strict=True):
        size = (value * g).abs().detach()[0]
        for channel in size:
            low, high = (size.min(), size.max()) if together else (channel.min(), channel.max())
            scaled = (channel - low) / (high - low) if high > low else 0 * channel
            total += F.interpolate(scaled[None, None], (12, 12), mode="bilinear", align_corners=False)[0, 0]
    return total


@pytest.mark.parametrize("scale", ["layer", "channel"])
def test_it_is_equation_6(scale):
    model, x = case().model(), case().images(2)
    found = FullGrad(scale=scale)(model, x, 1)
    for row in range(2):
        assert_same(found[row, 0], by_hand(model, x[row], 1, scale == "layer"), 1e-9)


def test_a_layer_called_twice_adds_its_bias_twice():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(3, 5)

        def forward(self, x):
            return self.head(self.conv(self.conv(x).relu()).mean((2, 3)))

    twice = Case(Twice)
    assert float(FullGrad().attribute(twice.model(), twice.images(2), 1).notes.rows["completeness gap"].max()) < 1e-9


def test_what_is_not_piecewise_linear_is_told_with_its_gap():
    """S = softplus(z), z = w x, without biases: the sum is z sigmoid(z)."""
    model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.Softplus(), nn.Flatten()).double()
    with torch.no_grad():
        model[0].weight.fill_(1)
    x = torch.tensor([0.5, -1.0], dtype=torch.float64).view(1, 1, 1, 2)
    with pytest.warns(DeepVizWarning, match="only with a gap above 5%: the model is not piecewise linear"):
        found = FullGrad().attribute(model, x, lambda output: output.sum(1))
    S, total = float(F.softplus(x).sum()), float((x * x.sigmoid()).sum())
    assert float(found.notes.rows["completeness gap"]) == pytest.approx((S - total) / S, rel=1e-9)


@pytest.mark.filterwarnings("ignore:FullGrad")
def test_biases_of_tokens_are_in_the_sum_alone():
    model, x = CASES["vit"].model(), CASES["vit"].images(2)
    found = FullGrad()(model, x, 1)
    assert found.shape == (2, 1, 12, 16)
    with torch.no_grad():
        for layer in (model.head, model.norm):
            layer.bias += 1  # of the class token: it has no place
    assert_same(FullGrad()(model, x, 1), found, 1e-12)


class Windows(nn.Module):
    """A linear layer and a convolution see the four quarters of an image as rows of their own, or tokens first."""

    def __init__(self, quarters_first):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 5)
        self.own, self.linear = nn.Conv2d(4, 4, 1), nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.quarters_first = quarters_first

    def forward(self, x):
        h = self.conv(x).relu()
        n, c, height, width = h.shape
        h = h.view(n, c, 2, height // 2, 2, width // 2).permute(2, 4, 0, 1, 3, 5)  # (2, 2, N, C, h, w)
        h = self.own(h.reshape(4 * n, c, height // 2, width // 2)).relu().mean((2, 3))
        h = h.view(4, n, c) if self.quarters_first else h.view(4, n, c).transpose(0, 1).reshape(4 * n, c)
        h = self.linear(h).relu()
        h = h if self.quarters_first else h.view(n, 4, c).transpose(0, 1)
        return self.head(self.norm(h.permute(1, 2, 0)).mean(2))


@pytest.mark.parametrize("quarters_first", [True, False])
def test_biases_of_windows_are_summed_for_the_image_they_are_of(quarters_first):
    windows = Case(lambda: Windows(quarters_first))
    model, x = windows.model(), windows.images(4)  # as many as there are quarters
    found = FullGrad().attribute(model, x, torch.tensor([0, 1, 2, 3]))
    assert float(found.notes.rows["completeness gap"].max()) < 1e-9
    for row in range(4):
        assert_same(found.maps[row : row + 1], FullGrad()(model, x[row : row + 1], row), 1e-9)


class ChannelsNormalised(nn.LayerNorm):
    """As ConvNeXt's: of the channels of (N, C, H, W)."""

    def forward(self, x):
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


@pytest.mark.filterwarnings("ignore:FullGrad")
@pytest.mark.parametrize("width", [6, 4])
def test_a_layer_normalisation_that_turns_the_axes_around_adds_its_bias_to_channels(width):
    """As long as the channels or not: the last axis is not theirs."""

    def build():
        model = nn.Sequential(
            nn.Conv2d(3, 4, 1, bias=False), ChannelsNormalised(4), nn.Flatten(), nn.Linear(16 * width, 5)
        )
        nn.init.normal_(model[1].weight)
        nn.init.normal_(model[1].bias)
        return model

    one = Case(build)
    model, x = one.model(), one.images(2)[..., :4, :width]
    found = FullGrad().attribute(model, x, 1)
    (dx,) = torch.autograd.grad(model(leaf := x.clone().requires_grad_())[:, 1].sum(), leaf)
    w = model[3].weight[1].view(1, 4, 4, width)
    shares = [(x * dx), w * model[1].bias.view(1, 4, 1, 1)]
    total = sum(share.flatten(1).sum(1) for share in shares) + model[3].bias[1]
    S = model(x)[:, 1]
    assert_same(found.notes.rows["completeness gap"], ((S - total) / S).abs().detach(), 1e-9)
    expected = 0
    for share in shares:
        low, high = (edge.view(-1, 1, 1, 1) for edge in share.abs().flatten(1).aminmax(dim=1))
        expected = expected + ((share.abs() - low) / (high - low)).sum(1, keepdim=True)
    assert_same(found.maps, expected.detach(), 1e-9)
