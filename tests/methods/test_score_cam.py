import numpy as np
import pytest
import torch
from torch import nn

from by_hand import array, score_cam
from deepviz.methods import ScoreCAM
from networks import CASES, READABLE, Case, assert_same

pytestmark = pytest.mark.filterwarnings("ignore:.*is all zero")


@pytest.mark.parametrize("value", ["probability", "score"])
@pytest.mark.parametrize("seed", range(3))
def test_it_is_algorithm_1(seed, value):
    net, x = READABLE.model(seed=seed), READABLE.images(2, seed=seed)
    found = ScoreCAM(layer="4", value=value).attribute(net, x, 1)
    assert value in found.notes.facts["weights"]
    for row in range(2):
        cam, effective = score_cam(net, array(x[row]), 1, value == "probability")
        assert_same(found.maps[row, 0], torch.from_numpy(np.maximum(cam, 0)), 1e-9)
        assert float(found.notes.rows["effective channels"][row]) == pytest.approx(effective, rel=1e-9)


def trained_like():
    """Sixty-four channels and logits that differ by tens, as a trained network's do."""
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 5)
    )


def test_of_logits_one_channel_is_left_and_of_probabilities_many():
    case = Case(trained_like)
    model, x = case.model(), case.images(1)
    with torch.no_grad():
        model[4].weight.mul_(300)
    effective = {
        value: float(ScoreCAM(value=value).attribute(model, x, 1).notes.rows["effective channels"])
        for value in ("score", "probability")
    }
    assert effective["score"] < 2
    assert effective["probability"] > 30


def test_a_budget_takes_the_strongest_channels_of_each_image_and_tells_their_share():
    case = Case(trained_like)
    model, x = case.model(), case.images(2)
    found = ScoreCAM(channels=8).attribute(model, x, 1)
    A = model[:2](x).detach()
    energy = A.square().sum((2, 3))
    for row in range(2):
        kept = energy[row].topk(8)
        share = float(kept.values.sum() / energy[row].sum())
        assert float(found.notes.rows["energy of the channels"][row]) == pytest.approx(share, rel=1e-9)
        H = A[row, kept.indices]
        low, high = H.amin((1, 2), True), H.amax((1, 2), True)
        z = model(x[row] * ((H - low) / (high - low)).unsqueeze(1)).detach()
        w = z.softmax(1)[:, 1].softmax(0)
        assert_same(found.maps[row, 0], (w.view(-1, 1, 1) * H).sum(0), 1e-9)
    assert "energy of the channels" not in ScoreCAM(channels=64).attribute(model, x, 1).notes.rows
    assert ScoreCAM(channels=8).passes() == 9
    assert ScoreCAM().passes() == 513


def test_several_classes_share_the_masked_images():
    model, x = CASES["plain"].model().eval(), CASES["plain"].images(2)
    together = ScoreCAM(layer="1")(model, x, [0, 3])
    assert_same(together[:, 1], ScoreCAM(layer="1")(model, x, 3), 1e-12)


def test_a_channel_that_is_the_same_everywhere_shows_nothing_of_the_image():
    model, x = CASES["plain"].model().eval(), CASES["plain"].images(1)
    with torch.no_grad():
        model[0].weight[2] = 0
        model[0].bias[2] = 1
    seen = []
    handle = model.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    ScoreCAM(layer="1")(model, x, 1)
    handle.remove()
    black = torch.cat(seen).flatten(1).abs().amax(1) == 0
    assert int(black.sum()) >= 1
