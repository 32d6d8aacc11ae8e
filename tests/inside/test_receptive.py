"""Receptive fields agree exactly with what the gradient of one position reaches, or are said to be undefined."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from deepviz.diagnostics import Diagnostics
from deepviz.inside.receptive import ReceptiveField, module_calls
from deepviz.models.torchvision_shim import import_torchvision
from deepviz.probe.borrow import borrowed
from deepviz.probe.call import Call
from networks import TinyViT


def positive(build):
    """The network in float64, its weights drawn above zero, so that no two paths cancel."""
    generator = torch.Generator().manual_seed(0)
    model = build().double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=generator, dtype=torch.float64) + 0.1)
    return model


def followed(model, x):
    with borrowed(model):
        return {one.name: one for one in module_calls(Call(model, Diagnostics()), x)}


def measured(model, name, x, row, column):
    """(left, top, right, bottom) of the pixels that reach one position, over several images for the maxima."""
    found = []
    handle = model.get_submodule(name).register_forward_hook(lambda module, inputs, output: found.append(output))
    seen = torch.zeros(x.shape[2:], dtype=torch.bool)
    generator = torch.Generator().manual_seed(1)
    for _ in range(12):
        leaf = torch.rand(x.shape, generator=generator, dtype=x.dtype).requires_grad_()
        model(leaf)
        (gradient,) = torch.autograd.grad(found.pop()[0, :, row, column].sum(), leaf)
        seen |= gradient[0].abs().amax(0) > 0
    handle.remove()
    rows, columns = seen.any(1).nonzero()[:, 0], seen.any(0).nonzero()[:, 0]
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


class Residual(nn.Module):
    """A bottleneck as torchvision's: three convolutions beside a strided shortcut, added in place."""

    def __init__(self, stride=2):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2)
        self.conv2, self.bn2 = nn.Conv2d(2, 2, 3, stride=stride, padding=1), nn.BatchNorm2d(2)
        self.conv3, self.bn3 = nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.down = nn.Sequential(nn.Conv2d(4, 4, 1, stride=stride), nn.BatchNorm2d(4))

    def forward(self, x):
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += self.down(x)
        return self.relu(out)


class Dense(nn.Module):
    """Concatenates all that came before, as DenseNet does."""

    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleList([nn.Conv2d(3 + 2 * n, 2, 3, padding=1) for n in range(3)])
        self.pool = nn.AvgPool2d(2)

    def forward(self, x):
        features = [x]
        for part in self.parts:
            features.append(F.relu(part(torch.cat(features, 1))))
        return self.pool(torch.cat(features, 1))


class Shuffled(nn.Module):
    """Splits, works on one half and shuffles, as ShuffleNet does; channels last between, as ConvNeXt does."""

    def __init__(self):
        super().__init__()
        self.first, self.part = nn.Conv2d(3, 4, 3, stride=2), nn.Conv2d(2, 2, 5, padding=2, groups=2)
        self.norm, self.linear, self.last = nn.LayerNorm(4), nn.Linear(4, 4), nn.Conv2d(4, 2, 3)

    def forward(self, x):
        kept, worked = self.first(x).chunk(2, dim=1)
        both = torch.cat([kept, self.part(worked)], 1)
        both = both.view(len(x), 2, 2, *both.shape[2:]).transpose(1, 2).contiguous().view(both.shape)
        rows = self.linear(self.norm(both.permute(0, 2, 3, 1)))
        mean = both.mean(1, keepdim=True)
        return self.last(rows.permute(0, 3, 1, 2) * 0.5 + mean + both[:, :1])


class Functional(nn.Module):
    """No module between input and output, padding by hand, sides that differ."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4, 3, 3, 5))
        self.out = nn.Identity()

    def forward(self, x):
        x = F.pad(torch.sub(x, -0.1).mul_(2), (0, 1, 3, 0))
        x = F.conv2d(x, self.weight, None, (2, 1), dilation=(1, 2))
        return self.out(F.max_pool2d(F.gelu(x), (2, 3), (1, 2), padding=(1, 0)))


def sequence(*layers):
    return lambda: nn.Sequential(*layers)


DEFINED = {
    "strides": (
        sequence(nn.Conv2d(3, 4, 7, 2, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, 2), nn.ReLU(), nn.Conv2d(4, 2, 3)),
        "4",
    ),
    "dilations": (sequence(nn.Conv2d(3, 4, 3, dilation=2), nn.Conv2d(4, 4, 3, padding=3, dilation=3)), "1"),
    "sides": (sequence(nn.Conv2d(3, 4, (3, 5), (1, 2), (0, 2)), nn.Conv2d(4, 4, (1, 3), (3, 1), dilation=(1, 2))), "1"),
    "same": (sequence(nn.Conv2d(3, 4, 4, padding="same"), nn.Conv2d(4, 4, 3, padding="valid")), "1"),
    "max pooling": (sequence(nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(3, 2, 1), nn.Conv2d(4, 4, 3)), "2"),
    "average pooling": (sequence(nn.AvgPool2d(2, ceil_mode=True), nn.Conv2d(3, 4, 3), nn.AvgPool2d(3, 1)), "2"),
    "depthwise": (
        sequence(nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.SiLU(), nn.Conv2d(4, 4, 5, 2, 2, groups=4)),
        "3",
    ),
    "bottlenecks": (sequence(nn.Conv2d(3, 4, 3, 2, 1), Residual(1), Residual(2), Residual(1)), "3"),
    "dense": (sequence(Dense(), nn.Conv2d(9, 2, 3)), "1"),
    "shuffled": (Shuffled, "last"),
    "functional": (Functional, "out"),
    "dropout": (sequence(nn.Conv2d(3, 4, 3), nn.Dropout2d(), nn.Identity(), nn.Conv2d(4, 4, 3)), "3"),
}


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("case", DEFINED)
def test_the_field_is_what_the_gradient_reaches(case):
    build, name = DEFINED[case]
    model, x = positive(build), torch.zeros(1, 3, 61, 67, dtype=torch.float64)
    one = followed(model, x)[name]
    row, column = one.shape[2] // 2, one.shape[3] // 2
    assert one.field.box(row, column) == measured(model, name, x, row, column)
    assert one.field.box(row - 1, column + 1) == measured(model, name, x, row - 1, column + 1)


def test_at_the_border_the_field_reaches_into_the_padding():
    build, name = DEFINED["strides"]
    model, x = positive(build), torch.zeros(1, 3, 61, 67, dtype=torch.float64)
    left, top, right, bottom = followed(model, x)[name].field.box(0, 0)
    assert (left, top) == (-3, -3)
    assert (0, 0, right, bottom) == measured(model, name, x, 0, 0)


class Squeeze(nn.Module):
    """A gate that hangs on the mean of all positions."""

    def __init__(self):
        super().__init__()
        self.before, self.gate, self.after = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3)

    def forward(self, x):
        x = self.before(x)
        return self.after(x * self.gate(x.mean((2, 3), keepdim=True)).sigmoid())


class Own(torch.autograd.Function):
    """An operator that no one knows: every position of its answer sees all."""

    @staticmethod
    def forward(ctx, x):
        return x + x.mean((2, 3), keepdim=True)


class Calls(nn.Module):
    """Does something to the answer of a convolution, of which its last part cannot know."""

    def __init__(self, does):
        super().__init__()
        self.conv, self.last, self.does = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3), does

    def forward(self, x):
        return self.last(self.does(self.conv(x)))


def written_through_a_view(h):
    part = h[:, :2]
    part += h.mean((2, 3), keepdim=True)[:, :2]
    return h


def written_by_index(h):
    h[:, 0] = h.mean()
    return h


def written_to_a_buffer(h):
    buffer = torch.zeros_like(h)
    buffer[:, :2].copy_(h.mean((2, 3), keepdim=True)[:, :2].expand_as(h[:, :2]))
    return h + buffer


UNDEFINED = {
    "own operator": lambda h: h + Own.apply(h),
    "through numpy": lambda h: h + torch.from_numpy(h.mean((2, 3), keepdim=True).detach().numpy()),
    "through a number": lambda h: h * float(h.mean()),
    "written through a view": written_through_a_view,
    "written by index": written_by_index,
    "written to a buffer": written_to_a_buffer,
    "out=": lambda h: torch.mul(h, h.mean(), out=torch.empty_like(h)),
    "made like a larger one": lambda h: h.mean((2, 3)).type_as(h)[..., None, None] + h,
    "by a mask": lambda h: h[torch.ones(1, dtype=torch.bool)] + h[:, [0, 1, 2, 3]].mean((2, 3), keepdim=True),
    "flipped": lambda h: h.flip(2),
    "rolled": lambda h: h.roll(3, 2),
    "every other": lambda h: h[:, :, ::2],
    "transposed and added": lambda h: h + h.transpose(2, 3),
    "upsampled": lambda h: F.interpolate(h, scale_factor=2),
    "reflected": lambda h: F.pad(h, (2, 2, 2, 2), mode="reflect"),
    "attention": lambda h: (h.flatten(2) @ (h.flatten(2).transpose(1, 2) @ h.flatten(2)).softmax(-1)).view(h.shape),
    "softmax over rows": lambda h: h.softmax(2),
    "normalised over rows": lambda h: F.normalize(h, dim=2),
    "half a gated linear unit": lambda h: F.glu(h[..., :-1]),
    "the largest of all": lambda h: h - h.amax((2, 3), keepdim=True),
    "group norm": lambda h: F.group_norm(h, 2),
    "batch statistics": lambda h: F.batch_norm(h, None, None, training=True),
    "layer norm over positions": lambda h: F.layer_norm(h, h.shape[1:]),
    "adaptive pooling": lambda h: F.adaptive_avg_pool2d(h, 6),
    "concatenated rows": lambda h: torch.cat([h, h], 2),
    "made of the answer's kernel": lambda h: F.conv2d(h, h.mean((2, 3))[0].expand(4, 4)[..., None, None]),
    "two strides": lambda h: F.avg_pool2d(h, 1, 2) + F.pad(h, (0, -15, 0, -15)),
}


@pytest.mark.parametrize("does", UNDEFINED.values(), ids=UNDEFINED.keys())
def test_what_cannot_be_followed_sees_the_whole_image(does):
    calls = followed(positive(lambda: Calls(does)), torch.rand(1, 3, 33, 33, dtype=torch.float64))
    assert calls["conv"].field == ReceptiveField((3, 3), (1, 1), (0, 0))
    assert calls["last"].field is None


def test_a_gate_of_squeeze_and_excitation_sees_the_whole_image():
    calls = followed(positive(Squeeze), torch.rand(1, 3, 20, 20, dtype=torch.float64))
    assert calls["before"].field is not None
    assert calls["gate"].field is calls["after"].field is None


def test_blocks_of_a_transformer_see_the_whole_image():
    calls = followed(TinyViT().double(), torch.rand(1, 3, 12, 16, dtype=torch.float64))
    assert str(calls["patch"].field) == "4 x 4, step 4"
    assert all(one.field is None for name, one in calls.items() if name != "patch")


def test_adaptive_pooling_to_the_size_that_is_there_changes_nothing():
    calls = followed(Calls(lambda h: F.adaptive_avg_pool2d(h, 18)).double(), torch.rand(1, 3, 20, 20).double())
    assert str(calls["last"].field) == "5 x 5, step 1"


def test_channels_picked_one_by_one_are_still_pixels():
    def coloured(x):  # as torchvision's GoogLeNet does with its input
        return torch.cat([x[:, 0].unsqueeze(1) * 0.2 + 1, x[:, 1:]], 1)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 3)

        def forward(self, x):
            return self.conv(coloured(x))

    one = followed(Net(), torch.rand(1, 3, 9, 9))["conv"]
    assert one.on_image
    assert one.field.size == (3, 3)


def test_calls_of_a_reused_module_are_numbered():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3)

        def forward(self, x):
            return self.conv(self.conv(x))

    calls = followed(Twice(), torch.rand(1, 3, 9, 9))
    assert {name: one.field.size for name, one in calls.items()} == {"conv#1": (3, 3), "conv#2": (5, 5)}
    assert [one.on_image for one in calls.values()] == [True, False]


@pytest.mark.parametrize(("name", "layer", "size"), [("alexnet", "features", 195), ("vgg16", "features", 212)])
def test_published_fields(name, layer, size):
    """Araujo, Norris and Sim, "Computing Receptive Fields of Convolutional Neural Networks", 2019."""
    model = getattr(import_torchvision().models, name)(weights=None).eval()
    assert followed(model, torch.rand(1, 3, 224, 224))[layer].field.size == (size, size)


@pytest.mark.parametrize(("axes", "space"), [(1, (40,)), (3, (9, 11, 13))])
def test_signals_and_volumes_have_fields_along_each_axis(axes, space):
    """As far as the gradient of one position reaches, in the middle."""
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1]
    pool = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)[axes - 1]
    model = nn.Sequential(conv(2, 3, 3, padding=1), nn.ReLU(), pool(2), conv(3, 2, (2,) * axes))
    with torch.no_grad():
        for parameter in model.parameters():  # above 0, as the input is: every ReLU is active
            parameter.abs_()
    x = torch.rand(1, 2, *space, requires_grad=True)
    field = followed(model, x.detach())["3"].field
    answer = model(x)
    middle = tuple(length // 2 for length in answer.shape[2:])
    answer[(0, slice(None), *middle)].sum().backward()
    reached = x.grad[0].abs().sum(0).nonzero()
    first, last = reached.min(0).values.tolist(), reached.max(0).values.tolist()
    start = [s + at * step for s, at, step in zip(field.start, middle, field.step, strict=True)]
    assert start == first
    assert [s + size - 1 for s, size in zip(start, field.size, strict=True)] == last
    assert str(field) == " x ".join(["6"] * axes) + ", step 2"
