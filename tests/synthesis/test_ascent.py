"""The ascent: closed forms, Adam, the learning rate's fall, and rows that do not know of each other."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from deepviz.diagnostics import Diagnostics
from deepviz.errors import GenerationError
from deepviz.models import LoadedModel, Preprocess
from deepviz.probe.borrow import borrowed
from deepviz.probe.call import Call
from deepviz.synthesis import L2, Channel, Crop, Diversity, Fourier, Logit, Noise, Pixels, Rotate
from deepviz.synthesis.ascent import ROWS, Ascent
from deepviz.synthesis.natural_images import natural_images
from networks import CASES

STD = (0.2, 0.25, 0.3)


def linear(size=(4, 5), classes=3, bias=0.0, channels=3):
    """S = w . x + b, in float64."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(channels * size[0] * size[1], classes)).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        net[1].weight.copy_(torch.randn(net[1].weight.shape, generator=generator, dtype=torch.float64))
        net[1].bias.fill_(bias)
    return net


def ascent(net, objectives, canvas, size=(4, 5), output="auto", **options):
    loaded = LoadedModel(net, "net", Preprocess(size, mean=(0.4, 0.5, 0.6), std=STD), output=output)
    defaults = {"transforms": (), "steps": 10, "lr": 0.1, "cooling": 1.0, "optimizer": "adam", "seed": 0}
    return Ascent(
        Call(net, Diagnostics()), loaded, tuple(objectives), canvas=canvas, size=size, **{**defaults, **options}
    ), loaded.preprocess


def begun(canvas, n, size=(4, 5), channels=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([canvas.start(channels, size, generator) for _ in range(n)])


def drawn(climb, parameters):
    """The state after all steps, and the steps."""
    with borrowed(climb.call.model):
        state = climb.begin(parameters.clone())
        steps = list(climb.steps_from(state))
    return state, steps


@pytest.mark.parametrize("penalty", [0.5, 0.05])
@pytest.mark.parametrize("bias", [0.0, -1000.0])
def test_a_linear_models_maximiser_under_an_l2_penalty(penalty, bias):
    net = linear(bias=bias)
    objectives = [Logit(target) - penalty * L2() for target in range(3)]
    canvas = Pixels(noise=0.0)
    mean, variance = natural_images().mean, natural_images().covariance.diagonal()
    mean, deviation = (one.double()[:, None, None] for one in (mean, variance.sqrt()))
    rate = 0.5 * float(deviation.min()) ** 2 / penalty
    climb, _ = ascent(net, objectives, canvas, optimizer="ascent", lr=rate, steps=150)
    state, steps = drawn(climb, begun(canvas, 3))
    # argmax_p w.p/std - lambda |(p - m)/s|^2, a parabola in each pixel: m + s^2 w / (2 lambda std), cut to 0..1
    w = net[1].weight.detach().view(3, 3, 4, 5) / torch.tensor(STD, dtype=torch.float64)[:, None, None]
    expected = (mean + deviation**2 * w / (2 * penalty)).clamp(0, 1)
    assert torch.allclose(state.parameters, expected, rtol=0, atol=1e-9)
    cut = (expected == 0) | (expected == 1)
    assert bool((~cut).any())
    assert bool(cut.any()) or penalty == 0.5
    scores = torch.stack([step.scores for step in steps])
    assert bool((scores.diff(dim=0) >= -1e-9).all())
    assert bool((scores[-1] > scores[0]).all())


def test_without_a_penalty_every_colour_goes_to_its_end():
    net = linear()
    canvas = Pixels(noise=0.0)
    climb, _ = ascent(net, [Logit(1)], canvas, optimizer="ascent", lr=1.0, steps=60)
    state, _ = drawn(climb, begun(canvas, 1))
    assert torch.equal(state.parameters[0], (net[1].weight[1].view(3, 4, 5) > 0).double())
    # |d(objective)/d(pixel)| is the same at each step
    size = (net[1].weight[1].detach().view(3, 4, 5).abs() / torch.tensor(STD, dtype=torch.float64)[:, None, None]).mean(
        0
    )
    assert torch.allclose(state.importance[0, 0], 60 * size, rtol=1e-10)


@pytest.mark.parametrize("cooling", [1.0, 0.1])
def test_adam_is_torchs_adam(cooling):
    net = CASES["plain"].model()
    size, canvas, steps, lr = (12, 12), Fourier(limit=None), 12, 0.05
    parameters = begun(canvas, 2, size)
    climb, preprocess = ascent(net, [Logit(1), Logit(3)], canvas, size, lr=lr, cooling=cooling, steps=steps)
    leaf = parameters.clone().requires_grad_()
    adam = torch.optim.Adam([leaf], lr=lr, maximize=True)
    with borrowed(net):
        state = climb.begin(parameters.clone())
        for number, _ in enumerate(climb.steps_from(state)):
            for group in adam.param_groups:
                group["lr"] = lr * (cooling + (1 - cooling) * (1 + math.cos(math.pi * number / (steps - 1))) / 2)
            adam.zero_grad()
            scores = net(preprocess.normalise(canvas.draw(leaf, size)))
            (scores[0, 1] + scores[1, 3]).backward()
            adam.step()
            assert torch.allclose(state.parameters, leaf, rtol=0, atol=1e-12)
    net.zero_grad()


def test_the_learning_rate_falls_along_half_a_cosine():
    net, canvas = linear(), Pixels(noise=0.0)
    lr, steps = 1e-4, 9
    climb, _ = ascent(net, [Logit(0)], canvas, optimizer="ascent", lr=lr, cooling=0.2, steps=steps)
    gradient = net[1].weight[0].detach().view(3, 4, 5) / torch.tensor(STD, dtype=torch.float64)[:, None, None]
    with borrowed(net):
        state = climb.begin(begun(canvas, 1))
        places = [state.parameters.clone()]
        places += [state.parameters.clone() for _ in climb.steps_from(state)]
    rates = [float(((b - a)[0] / gradient).mean()) / lr for a, b in pairwise(places)]
    assert rates[0] == pytest.approx(1, abs=1e-9)
    assert rates[steps // 2] == pytest.approx(0.6, abs=1e-9)
    assert rates[-1] == pytest.approx(0.2, abs=1e-9)
    assert rates == sorted(rates, reverse=True)


def test_a_single_step_has_the_full_rate():
    net, canvas = linear(), Pixels(noise=0.0)
    climb, _ = ascent(net, [Logit(0)], canvas, optimizer="ascent", lr=1e-4, cooling=0.2, steps=1)
    state, (step,) = drawn(climb, begun(canvas, 1))
    gradient = net[1].weight[0].detach().view(3, 4, 5) / torch.tensor(STD, dtype=torch.float64)[:, None, None]
    assert torch.allclose(state.parameters[0] - 0.5, 1e-4 * gradient, atol=1e-12)
    assert (step.number, step.steps) == (1, 1)


@pytest.mark.parametrize("case", ["plain", "vit", "skip", "train-mode"])
def test_images_do_not_know_of_each_other(case):
    net, size = CASES[case].model(), CASES[case].image[1:]
    canvas, transforms = Fourier(), (Crop(), Rotate(), Noise())
    objectives = [Logit(target) for target in (3, 0, 4, 1, 2, 3)]
    parameters = begun(canvas, 6, size)
    climb, _ = ascent(net, objectives, canvas, size, steps=3, transforms=transforms)
    together, steps = drawn(climb, parameters)
    for order in ([0], [5], [4, 2], [5, 4, 3, 2, 1, 0]):
        climb, _ = ascent(net, [objectives[row] for row in order], canvas, size, steps=3, transforms=transforms)
        state, alone = drawn(climb, parameters[order])
        assert torch.allclose(state.parameters, together.parameters[order], rtol=0, atol=1e-9)
        for one, all_ in zip(alone, steps, strict=True):
            assert torch.allclose(one.scores, all_.scores[order], rtol=0, atol=1e-9)
            assert torch.allclose(one.probabilities, all_.probabilities[order], rtol=0, atol=1e-9)


def test_joint_objectives_stay_together_and_others_go_in_small_chunks():
    net = CASES["plain"].model()
    joint = Channel("0", 1) + Diversity("2")
    objectives = [Logit(0)] * 3 + [Logit(1)] * (ROWS - 1) + [joint] * (ROWS + 2) + [Logit(2)]
    climb, _ = ascent(net, objectives, Fourier(), (12, 12))
    chunks = list(climb._chunks())
    assert [row for rows in chunks for row in range(rows.start, rows.stop)] == list(range(len(objectives)))
    first = 3 + ROWS - 1
    assert slice(first, first + ROWS + 2) in chunks
    assert all(rows.stop - rows.start <= ROWS for rows in chunks if not objectives[rows.start].joint)


def test_joint_images_know_of_each_other():
    net, canvas = CASES["plain"].model(), Fourier()
    objective = Channel("0", 1) + 5 * Diversity("2")
    parameters = begun(canvas, 3, (12, 12))
    three, _ = drawn(ascent(net, [objective] * 3, canvas, (12, 12), steps=3)[0], parameters)
    two, _ = drawn(ascent(net, [objective] * 2, canvas, (12, 12), steps=3)[0], parameters[:2])
    assert not torch.allclose(three.parameters[:2], two.parameters, atol=1e-4)


def test_the_shaking_depends_on_the_seed_and_the_step():
    net, canvas = CASES["plain"].model(), Fourier()
    parameters = begun(canvas, 1, (12, 12))

    def shaken(seed):
        return drawn(ascent(net, [Logit(1)], canvas, (12, 12), transforms=(Crop(),), seed=seed)[0], parameters)[0]

    assert torch.equal(shaken(4).parameters, shaken(4).parameters)
    assert not torch.allclose(shaken(4).parameters, shaken(5).parameters)
    # the same view at every step would be the same number at every step, at so small a rate
    climb, _ = ascent(net, [Logit(1)], canvas, (12, 12), transforms=(Rotate(),), lr=1e-9)
    scores = torch.cat([step.scores for step in drawn(climb, parameters)[1]])[1:]  # from the first projection on
    assert float(scores.sort().values.diff().min()) > 1e-6


def test_a_nan_stops_before_the_step_and_names_it():
    class BreaksLater(nn.Module):
        calls = 0

        def forward(self, x):
            self.calls += 1
            return x.flatten(1)[:, :3] * (math.nan if self.calls > 4 else 1)

    net, canvas = BreaksLater(), Pixels()
    climb, _ = ascent(net, [Logit(2)], canvas, steps=9)
    with borrowed(net):
        state = climb.begin(begun(canvas, 1))
        steps = climb.steps_from(state)
        for _ in range(4):
            next(steps)
        kept = state.parameters.clone()
        with pytest.raises(GenerationError, match=r"logit\(2\).* at step 5 of 9"):
            next(steps)
    assert torch.equal(state.parameters, kept)
    assert bool(kept.isfinite().all())


def test_an_infinite_gradient_stops_too():
    class Steep(nn.Module):
        def forward(self, x):
            # a root's slope at 0
            return (x.flatten(1)[:, :3] * 0).sqrt()

    canvas = Pixels()
    climb, _ = ascent(Steep(), [Logit(2)], canvas)
    with pytest.raises(GenerationError, match="step 1 of 10"):
        drawn(climb, begun(canvas, 1))


def test_an_objective_without_the_image_is_refused():
    class Deaf(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(2, 3).double()

        def forward(self, x):
            return self.head(torch.ones(len(x), 2, dtype=x.dtype))

    canvas = Pixels()
    climb, _ = ascent(Deaf(), [Logit(2)], canvas)
    with pytest.raises(GenerationError, match="does not depend on the image"):
        drawn(climb, begun(canvas, 1))


def test_judging_is_of_the_images_unshaken():
    net = CASES["plain"].model()
    climb, preprocess = ascent(net, [Logit(1), Logit(3)], Fourier(), (12, 12), transforms=(Noise(9.0, 9.0),))
    pixels = torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with borrowed(net):
        judged = climb.judge(pixels)
    scores, chances = judged.scores, judged.probabilities
    output = net(preprocess.normalise(pixels)).detach()
    assert not scores.requires_grad
    assert torch.allclose(scores, output[[0, 1], [1, 3]], atol=1e-12)
    assert torch.allclose(chances, output.softmax(1)[[0, 1], [1, 3]], atol=1e-12)


def test_a_sigmoids_probability_is_not_squashed_again():
    net = nn.Sequential(linear(classes=1), nn.Sigmoid()).requires_grad_(False)
    climb, preprocess = ascent(net, [Logit(1), Logit(0)], Pixels(), output="binary")
    pixels = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with borrowed(net):
        judged = climb.judge(pixels)
    chances = judged.probabilities
    p = net(preprocess.normalise(pixels)).detach()
    assert torch.allclose(chances, torch.stack([p[0, 0], 1 - p[1, 0]]), atol=1e-12)
    z = p.logit()
    assert torch.allclose(judged.scores, torch.stack([z[0, 0], -z[1, 0]]), atol=1e-9), "the logit before the sigmoid"
