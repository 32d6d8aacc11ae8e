import numpy as np
import pytest
import torch
from torch import nn

from by_hand import array, backward
from deepviz.errors import ImageError
from deepviz.inputs import Leaves
from deepviz.methods import BlurIG, Gradient
from networks import CASES, READABLE, Case, assert_same

quiet = pytest.mark.filterwarnings("ignore:blur IG")


def blur_by_hand(image, sigma):
    """Each pixel of (C, H, W) as the weighted mean of its row, then of its column; beyond the border is the border."""
    radius = round(4 * sigma)
    if radius == 0:
        return image
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    weights /= weights.sum()
    for axis in (1, 2):
        side = image.shape[axis]
        image = sum(
            w * np.take(image, np.clip(np.arange(side) + offset, 0, side - 1), axis)
            for w, offset in zip(weights, range(-radius, radius + 1), strict=True)
        )
    return image


@quiet
def test_it_is_the_slow_sum_over_the_pieces():
    net, x = READABLE.model(), READABLE.images(2)
    sigma = 0.4 * min(x.shape[2:])
    found = BlurIG(steps=6, sigma=0.4)(net, x, 1)
    for row in range(2):
        image, total = array(x[row]), 0
        for k in range(6):
            G = backward(net, blur_by_hand(image, sigma * ((k + 0.5) / 6) ** 2), 1)[0]
            total = total + G * (
                blur_by_hand(image, sigma * (k / 6) ** 2) - blur_by_hand(image, sigma * ((k + 1) / 6) ** 2)
            )
        assert_same(found[row], torch.from_numpy(total), 1e-11)


@pytest.mark.parametrize("steps", [1, 5])
def test_a_linear_network_gives_the_gradient_times_what_the_blur_removes(steps):
    case = Case(lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(240, 4)), (2, 10, 12))
    model, x = case.model(), case.images(2)
    method = BlurIG(steps=steps)
    ((start,),) = method.starts(Leaves((x,)))
    found = method.attribute(model, x, 2)
    assert_same(found.maps, (x - start) * Gradient()(model, x, 2), 1e-10)
    assert_same(found.maps.sum((1, 2, 3)), (model(x) - model(start))[:, 2].detach(), 1e-10)
    assert float(found.notes.rows["completeness gap"].max()) < 1e-10


def test_more_pieces_close_the_sum_of_a_smooth_network():
    case = Case(lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.Softplus(), nn.Flatten(), nn.Linear(96, 5)), (2, 6, 8))
    model, x = case.model(), case.images(2)
    gaps = [
        float(BlurIG(steps=n, sigma=0.5).attribute(model, x, 1).notes.rows["completeness gap"].max()) for n in (20, 200)
    ]
    assert gaps[1] < 0.02 * gaps[0]


@quiet
def test_an_even_image_gets_nothing():
    model, x = CASES["plain"].model(), CASES["plain"].images(1)
    R = BlurIG(steps=2)(model, torch.full_like(x, 0.7), 1)
    assert float(R.abs().max()) < 1e-12


def test_a_table_cannot_be_blurred():
    with pytest.raises(ImageError, match=r"blurs image-like inputs.*\(2, 6\)"):
        BlurIG()(nn.Linear(6, 3), torch.rand(2, 6), 1)
