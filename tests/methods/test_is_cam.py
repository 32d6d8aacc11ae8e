import torch

from by_hand import array, score_cam
from deepviz.methods import ISCAM, ScoreCAM
from networks import READABLE, assert_same


def test_integrated_masks_grow_to_full_strength():
    net, x = READABLE.model(), READABLE.images(1)
    found = ISCAM(layer="4", steps=4, value="score")(net, x, 1)
    cam, _ = score_cam(net, array(x[0]), 1, False, (0.25, 0.5, 0.75, 1.0))
    assert_same(found[0, 0], torch.from_numpy(cam), 1e-9)
    assert_same(ISCAM(layer="4", steps=1)(net, x, 1), ScoreCAM(layer="4")(net, x, 1), 1e-12)
