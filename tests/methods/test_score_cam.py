import numpy as np
import pytest
import torch
from torch import nn

from by_hand import array, bilinear, forward
from deepviz.methods import ISCAM, SSCAM, ScoreCAM
from deepviz.probe.seeds import generator_of
from networks import CASES, READABLE, Case, assert_same

pytestmark = pytest.mark.filterwarnings("ignore:.*is all zero")


def by_hand(net, x, c, probability, factors=(1.0,), noise=None):
    """Wang et al., algorithm 1, one channel at a time, with what follows the softmax written out."""
    A = forward(net, x)[5]
    f = []
    for channel in A:
        H = bilinear(channel, *x.shape[1:])
        H = (H - H.min()) / (H.max() - H.min()) if H.max() > H.min() else 0 * H
        masks = [factor * H for factor in factors] if noise is None else [H + e for e in noise]
        z = [forward(net, x * mask)[-1] for mask in masks]
        f.append(np.mean([np.exp(s[c]) / np.exp(s).sum() if probability else s[c] for s in z]))
    w = np.exp(np.array(f)) / np.exp(np.array(f)).sum()
    return sum(weight * channel for weight, channel in zip(w, A, strict=True)), 1 / (w**2).sum()


@pytest.mark.parametrize("value", ["probability", "score"])
@pytest.mark.parametrize("seed", range(3))
def test_it_is_algorithm_1(seed, value):
    net, x = READABLE.model(seed=seed), READABLE.images(2, seed=seed)
    found = ScoreCAM(layer="4", value=value).attribute(net, x, 1)
    assert value in found.notes.facts["weights"]
    for row in range(2):
        cam, effective = by_hand(net, array(x[row]), 1, value == "probability")
        assert_same(found.maps[row, 0], torch.from_numpy(np.maximum(cam, 0)), 1e-9)
        assert float(found.notes.rows["effective channels"][row]) == pytest.approx(effective, rel=1e-9)


def test_integrated_masks_grow_to_full_strength():
    net, x = READABLE.model(), READABLE.images(1)
    found = ISCAM(layer="4", steps=4, value="score")(net, x, 1)
    cam, _ = by_hand(net, array(x[0]), 1, False, (0.25, 0.5, 0.75, 1.0))
    assert_same(found[0, 0], torch.from_numpy(cam), 1e-9)
    assert_same(ISCAM(layer="4", steps=1)(net, x, 1), ScoreCAM(layer="4")(net, x, 1), 1e-12)


def test_smoothed_masks_have_noise_of_their_own_sample():
    net, x = READABLE.model(), READABLE.images(1)
    noise = [0.3 * torch.randn((10, 12), generator=generator_of(7, i)).double().numpy() for i in range(3)]
    found = SSCAM(layer="4", samples=3, noise=0.3, seed=7)(net, x, 1)
    cam, _ = by_hand(net, array(x[0]), 1, True, noise=noise)
    assert_same(found[0, 0], torch.from_numpy(cam), 1e-9)


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
