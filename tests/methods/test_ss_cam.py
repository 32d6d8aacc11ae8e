import torch

from by_hand import array, score_cam
from deepviz.methods import SSCAM
from deepviz.probe.seeds import generator_of
from networks import READABLE, assert_same


def test_smoothed_masks_have_noise_of_their_own_sample():
    net, x = READABLE.model(), READABLE.images(1)
    noise = [0.3 * torch.randn((10, 12), generator=generator_of(7, i)).double().numpy() for i in range(3)]
    found = SSCAM(layer="4", samples=3, noise=0.3, seed=7)(net, x, 1)
    cam, _ = score_cam(net, array(x[0]), 1, True, noise=noise)
    assert_same(found[0, 0], torch.from_numpy(cam), 1e-9)
