"""Rows that meet only further apart than two, or only in greater numbers, are explained as if alone."""

import pytest
import torch
from torch import nn

from deepviz.errors import DeepVizWarning, ModelFailed
from deepviz.methods import RISE, Gradient, IntegratedGradients
from deepviz.methods.gradients.quadrature import quadrature
from networks import Case, Small, assert_same


class Meeting(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.conv, self.head, self.how = nn.Conv2d(3, 6, 3), nn.Linear(6, 3), how

    def forward(self, x):
        return self.head(self.how(self.conv(x).relu().mean((2, 3))))


def two_before(f):
    """Half of the features of two rows before, as a shift in time does to the frames of a clip."""
    return f + 0.5 * torch.cat([torch.zeros_like(f[:2]), f])[: len(f)]


def groups_of_four(f):
    return f + 0.5 * f.view(-1, 4, 6).mean(1).repeat_interleave(4, 0) if len(f) % 4 == 0 else f


def of_many_rows(f):
    return 2 * f if len(f) > 2 else f


@pytest.mark.parametrize("how", [two_before, groups_of_four, of_many_rows])
def test_what_happens_only_among_more_than_two_rows_is_seen(how):
    case = Case(lambda: Meeting(how))
    model, x = case.model(), case.images(5)

    def gradient(one):
        leaf = one.clone().requires_grad_()
        return torch.autograd.grad(model(leaf)[0, 1], leaf)[0]

    assert_same(Gradient()(model, x, 1), torch.cat([gradient(x[k : k + 1]) for k in range(5)]), 1e-12)
    a, w = quadrature("gauss-legendre", 8)
    path = sum(float(weight) * gradient(float(point) * x[:1]) for point, weight in zip(a, w, strict=True))
    assert_same(IntegratedGradients(steps=8)(model, x[:1], 1), path * x[:1], 1e-12)


class OneClassMeets(Meeting):
    """Class 0 depends on all rows, the others on their own."""

    def __init__(self):
        super().__init__(None)

    def forward(self, x):
        scores = self.head(self.conv(x).relu().mean((2, 3)))
        return torch.cat([scores[:, :1] * scores[:, :1].mean(0, keepdim=True), scores[:, 1:]], 1)


def test_what_is_found_for_one_class_holds_for_the_others():
    case = Case(OneClassMeets)
    model, x = case.model(), case.images(3)
    Gradient()(model, x, 1)
    alone = torch.cat([Gradient()(case.model(), x[k : k + 1], 0) for k in range(3)])
    assert_same(Gradient()(model, x, 0), alone, 1e-12)


def minus_the_mean(f):
    return f - 0.5 * f.mean(0, keepdim=True)


class Switched(Meeting):
    def __init__(self):
        super().__init__(minus_the_mean)
        self.mixes = False

    def forward(self, x):
        return super().forward(x) if self.mixes else self.head(self.conv(x).relu().mean((2, 3)))


def test_what_was_found_of_a_model_is_found_again_once_a_setting_changes():
    case = Case(Switched)
    model, x = case.model(), case.images(3)
    Gradient()(model, x, 1)  # finds that rows go together
    model.mixes = True
    alone = torch.cat([Gradient()(model, x[k : k + 1], 1) for k in range(3)])
    assert_same(Gradient()(model, x, 1), alone, 1e-12)


@pytest.mark.filterwarnings("ignore:the standard error of")
@pytest.mark.parametrize("method", [Gradient(), RISE(cells=2, max_passes=8)], ids=lambda method: method.name)
def test_a_model_of_one_row_that_is_random_is_warned_of(method):
    """Two rows together, by which others are found out, are none to it."""

    def dropped(f):
        if len(f) > 1:
            raise ValueError("one image at a time")
        return nn.functional.dropout(f, training=True)

    model = Case(lambda: Meeting(dropped)).model()
    with torch.random.fork_rng():
        torch.manual_seed(0)  # by other numbers, one of 64 pairs of passes keeps the same six features
        with pytest.warns(DeepVizWarning, match="the model is random in eval mode"):
            method(model, Case(lambda: None).images(2), 1)


def test_a_model_of_one_row_that_repeats_is_not():
    def one(f):
        if len(f) > 1:
            raise ValueError("one image at a time")
        return f

    Gradient()(Case(lambda: Meeting(one)).model(), Case(lambda: None).images(2), 1)


def test_a_device_without_memory_for_a_full_chunk_takes_as_many_rows_as_fit():
    case = Case(lambda: Meeting(lambda f: f))
    x, sizes = case.images(8), []
    small = Small(case.model(), 4)
    small.body.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    maps = Gradient()(small, x, 1)
    assert sizes[-2:] == [4, 4]
    assert_same(maps, Gradient()(small.body, x, 1), 1e-12)


def test_a_device_without_memory_for_one_row_is_named():
    case = Case(lambda: Meeting(lambda f: f))
    with pytest.raises(ModelFailed, match=r"even one row \(3, 12, 12\) does not fit into the memory of cpu"):
        Gradient()(Small(case.model(), 0), case.images(3), 1)
