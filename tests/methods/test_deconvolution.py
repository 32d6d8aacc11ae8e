"""Its rule is proven next to guided backpropagation's, in test_guided_backprop.py; here is what is only its own."""

import numpy as np
import pytest
import torch

from by_hand import array, backward, forward
from deepviz.errors import DeepVizWarning
from deepviz.methods import Deconvolution, GuidedBackprop
from networks import READABLE, assert_same


def test_guided_backprop_is_deconvolution_and_gradient_at_once():
    net, x = READABLE.model(), READABLE.images(1)[0]
    values, signals = forward(net, array(x)), backward(net, array(x), 1, "deconvnet")
    R = signals[-2]  # above the last ReLU the three rules agree
    on = values[-3] > 0
    guided = backward(net, array(x), 1, "guided")
    np.testing.assert_array_equal(guided[-3], signals[-3] * on)
    assert (R < 0).any()


def test_the_signal_passes_rectifiers_that_are_off():
    net, x = READABLE.model(), READABLE.images(2)
    with torch.no_grad():
        net[3].bias -= 100  # every unit of the second convolution is off
    assert Deconvolution()(net, x, 1).abs().amax((1, 2, 3)).gt(0).all()
    off = backward(net, array(x[0]), 1, "guided")[0]
    assert not off.any()
    with pytest.warns(DeepVizWarning, match="Guided backprop is all zero"):
        assert_same(GuidedBackprop()(net, x, 1), torch.zeros_like(x))
