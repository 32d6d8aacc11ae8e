import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from by_hand import array, backward
from deepviz.methods import Gradient, GradTimesImage
from networks import CASES, READABLE, Case, assert_same


@given(seed=st.integers(0, 1000), k=st.integers(0, 2))
def test_it_is_the_image_times_a_backward_pass_by_hand(seed, k):
    net, x = READABLE.model(seed=seed), READABLE.images(2, seed=seed)
    found = GradTimesImage()(net, x, k)
    for row in range(2):
        assert_same(found[row], torch.from_numpy(array(x[row]) * backward(net, array(x[row]), k)[0]), 1e-12)


@given(seed=st.integers(0, 1000))
def test_on_a_linear_model_every_pixel_gets_its_own_term_exactly(seed):
    case = Case(lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(60, 4)), (2, 10, 12))
    model, x = case.model(seed=seed), case.images(3, seed=seed)
    R = GradTimesImage()(model, x, 2)
    assert_same(R.sum((1, 2, 3)), (model(x) - model(0 * x))[:, 2].detach(), 1e-12)
    one = torch.zeros_like(x[:1])
    one[0, 1, 4, 5] = x[0, 1, 4, 5]  # this pixel alone changes the score by what it was given
    assert_same((model(one) - model(0 * one))[0, 2].detach(), R[0, 1, 4, 5], 1e-10)


@given(seed=st.integers(0, 1000))
def test_on_a_relu_network_without_biases_it_is_complete(seed):
    """Such a network is homogeneous, S(a x) = a S(x), so Euler's theorem gives x dS/dx = S."""
    model, x = READABLE.model(seed=seed), READABLE.images(3, seed=seed)
    with torch.no_grad():
        for layer in (model[0], model[3], model[6], model[8]):
            layer.bias.zero_()
    assert_same(GradTimesImage()(model, x, 2).sum((1, 2, 3)), model(x)[:, 2].detach(), 1e-10)


def test_several_targets_a_row_are_each_multiplied():
    model, x = CASES["plain"].model(), CASES["plain"].images()
    target = torch.tensor([[0, 4], [1, 3], [2, 2]])
    assert_same(GradTimesImage()(model, x, target), x.unsqueeze(1) * Gradient()(model, x, target), 1e-12)
