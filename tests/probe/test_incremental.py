"""Windows of an image, computed only where they change its feature maps: equal to whole passes on any network."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from deepviz.methods import Occlusion
from deepviz.methods.perturbation import covering
from deepviz.models.torchvision_shim import import_timm
from deepviz.probe.incremental import Changed, Trace
from networks import CASES, assert_same

WINDOW = 8


class Odd(nn.Module):
    """What networks do to feature maps: in place, beside each other, gated by a mean, padded, dilated, enlarged."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 5, 2, 2)
        self.norm = nn.BatchNorm2d(8)
        self.deep = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8)
        self.point = nn.Conv2d(8, 8, 1, bias=False)
        self.even = nn.Conv2d(8, 8, (2, 4), (2, 1), (0, 1))
        self.gate = nn.Linear(8, 8)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = self.norm(self.stem(x)).relu_()
        y = self.point(self.deep(x))
        y = y + x
        y += self.point(y)
        y += F.instance_norm(y)  # of all places
        y = y * torch.sigmoid(self.gate(y.mean((2, 3))))[:, :, None, None] + 0.5
        z = F.avg_pool2d(F.pad(x, (1, 1, 0, 1)), 2, 2, 0)
        z = F.interpolate(F.max_pool2d(z, 3, 2, 1), y.shape[2:])
        return self.head(torch.cat([F.silu(y), z * 2 - 1], 1).mean((2, 3)))


class Branches(nn.Module):
    """Maps of unlike reach that meet again, before anything is taken over all places."""

    def __init__(self):
        super().__init__()
        self.small, self.large = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 6, 7, padding=3)
        self.joined = nn.Conv2d(12, 12, 3, stride=2, padding=1)
        self.head = nn.Linear(12, 4)

    def forward(self, x):
        a, b = self.small(x), self.large(x)
        x = torch.cat([a - b, a.mul_(2) + b], 1)
        x = self.joined(F.hardtanh_(x, -1, 3))
        x[:, :2].mul_(3)
        x[:, 3] = 0
        x.detach().add_(1)
        return self.head(F.avg_pool2d(x, 2).flatten(2).mean(2))


NETWORKS = {"odd": Odd, "branches": Branches}
TIMM = (
    "resnet18 resnet26d regnety_002 mobilenetv2_050 mobilenetv3_small_050 efficientnet_lite0 efficientnet_b0 "
    "densenet121 vgg11 convnext_atto repvgg_a0 dla34 hrnet_w18_small ghostnet_050 mnasnet_050 vit_tiny_patch16_224"
)


def windows(n, side, seed=0):
    generator = torch.Generator().manual_seed(seed)
    top, left = (torch.randint(side - WINDOW + 1, (n,), generator=generator) for _ in range(2))
    top[0], left[0], top[1], left[1] = 0, 0, side - WINDOW, side - WINDOW
    return top, left


def assert_as_whole(model, side=64, layout=torch.contiguous_format):
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            if module.affine:
                module.weight.data.uniform_(0.5, 1.5)
    model = model.double().eval()
    x = torch.randn(1, 3, side, side, dtype=torch.float64).contiguous(memory_format=layout)
    common = Trace()
    with torch.no_grad():
        for seed in range(3):  # what is known of the image in the first pass is used in the others
            top, left = windows(4, side, seed)
            part = torch.randn(4, 3, WINDOW, WINDOW, dtype=torch.float64)
            copies = x.repeat(4, 1, 1, 1)
            for copy, own, t, l in zip(copies, part, top.tolist(), left.tolist(), strict=True):  # noqa: E741
                copy[:, t : t + WINDOW, l : l + WINDOW] = own
            common.copies += 4
            found = model(Changed(x, part, top, left, common))
            found = found.whole() if isinstance(found, Changed) else found
            expected = model(copies)
            assert_same(found, expected, 1e-10)
            assert float((expected - model(x)).abs().max()) > 1e-6 * float(expected.abs().max())
    return common


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", NETWORKS)
def test_equal_to_whole_passes(name, layout):
    torch.manual_seed(0)
    common = assert_as_whole(NETWORKS[name](), 40, layout)
    assert common.saved > 0


@pytest.mark.parametrize("name", TIMM.split())
def test_equal_to_whole_passes_on_networks_that_people_use(name):
    timm = import_timm()
    torch.manual_seed(0)
    options = {"img_size": 64, "patch_size": 16} if name.startswith("vit") else {}
    assert_as_whole(timm.create_model(name, pretrained=False, num_classes=5, **options))


@pytest.mark.parametrize("name", CASES)
def test_occlusion_is_the_same_without_it(name, monkeypatch):
    case = CASES[name]
    model, x = case.model(), case.images(2)
    if x.ndim != 4:
        pytest.skip("no picture")
    method = Occlusion(window=3, stride=2)
    found = method(model, x, 1)
    monkeypatch.setattr(covering, "_may_pay", lambda image: False)
    assert_same(found, method(model, x, 1), 1e-9)


def test_it_is_used_where_it_pays_and_said_so():
    torch.manual_seed(0)
    model, x = Branches().eval(), torch.randn(1, 3, 64, 64)
    notes = Occlusion(window=8, stride=8).attribute(model, x, 1).notes
    assert "times fewer operations" in notes.facts["incremental"]
    whole = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 4))
    assert "incremental" not in Occlusion(window=8, stride=8).attribute(whole, x, 1).notes.facts


def test_a_model_that_computes_something_else_for_such_tensors_is_asked_by_whole_passes():
    class ByType(nn.Module):
        def forward(self, x):
            x = F.conv2d(x, torch.ones(2, 3, 3, 3))
            return x.mean((2, 3)) * (1 if type(x) is torch.Tensor else 2)

    x = torch.randn(1, 3, 64, 64)
    notes = Occlusion(window=8, stride=8).attribute(ByType(), x, 1).notes
    assert "incremental" not in notes.facts


def test_a_number_that_a_model_writes_to_between_passes_is_read_anew():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.register_buffer("passes", torch.zeros((), dtype=torch.float64))

        def forward(self, x):
            return F.max_pool2d(self.conv(x) + self.passes, 3).relu().mean((2, 3))

    torch.manual_seed(0)
    model, x = Counting().double(), torch.randn(1, 3, 24, 24, dtype=torch.float64)
    common, (top, left) = Trace(), windows(4, 24)
    with torch.no_grad():
        for _ in range(3):
            model.passes += 1
            part = torch.randn(4, 3, WINDOW, WINDOW, dtype=torch.float64)
            changed = Changed(x, part, top, left, common)
            assert_same(model(changed), model(changed.whole()), 1e-10)


def test_what_is_saved_is_counted_once_for_weights_that_are_made_in_each_pass(monkeypatch):
    class Standardised(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(8, 3, 3, 3))

        def forward(self, x):
            return F.conv2d(x, self.weight / self.weight.std()).relu().mean((2, 3))

    x = torch.randn(1, 3, 66, 66)
    said = Occlusion(window=16, stride=8).attribute(Standardised(), x, 1).notes.facts["incremental"]
    # 18 x 18 of 64 x 64 places, where the window is not at the border
    assert said == f"{64 * 64 / 18**2:.1f} times fewer operations than whole passes"
