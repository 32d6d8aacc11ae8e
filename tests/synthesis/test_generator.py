"""`ImageGenerator`: the same image every time, whatever stands beside it; a borrowed model; what it refuses."""

import copy
import json
import math
import warnings
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import deepviz
from deepviz.errors import (
    DeepVizError,
    DeepVizWarning,
    GenerationError,
    ImageError,
    LayerError,
    MethodError,
    ModelError,
    ModelFailed,
    OutputError,
    TargetError,
)
from deepviz.methods import Gradient
from deepviz.models import LoadedModel, Preprocess
from deepviz.objectives import Function, Output, Probability
from deepviz.synthesis import (
    L2,
    PRESETS,
    Channel,
    Crop,
    Direction,
    Diversity,
    Energy,
    Fourier,
    ImageGenerator,
    Logit,
    Magnitude,
    Match,
    Noise,
    Objective,
    Pixels,
    Similarity,
    TotalVariation,
)
from deepviz.testing import surroundings
from networks import CASES, all_scores
from small_models import LABELS, Counting, Failing, Tinted, network

pytestmark = pytest.mark.filterwarnings("ignore:the finished image is not predicted")
"""Few steps on untrained networks."""
SOUND = sorted(set(CASES) - {"odd"})
cases = pytest.mark.parametrize("case", SOUND)
PHOTO = Image.open(deepviz.example_photo()).convert("RGB").resize((60, 50))
NO_IMAGE = torch.empty(0)
V = torch.randn(8, generator=torch.Generator().manual_seed(0))


def small(module=None, **options):
    return LoadedModel(module or network(), "small", Preprocess(16), LABELS, **options)


def generator(*arguments, model=None, **options):
    return ImageGenerator(small() if model is None else model, *arguments, **{"steps": 3, **options})


def of_case(case, *arguments, dtype=torch.float64, **options):
    output = "binary" if case == "one-logit" else "auto"
    model = LoadedModel(CASES[case].model(dtype), case, Preprocess(CASES[case].image[1:]), output=output)
    return generator(*arguments, model=model, **options)


# the same image


@pytest.mark.parametrize("preset", PRESETS)
def test_the_same_seed_draws_the_same_image(preset):
    one, again = (generator([1, "lynx"], preset=preset)() for _ in range(2))
    assert torch.equal(one.tensor, again.tensor)
    assert torch.equal(one.scores, again.scores)
    assert torch.equal(one.importance, again.importance)
    # without noise and transforms there is nothing that a seed could change
    other = generator([1, "lynx"], preset=preset, seed=1)()
    assert torch.equal(other.tensor, one.tensor) == (preset == "simonyan")


def test_each_seed_draws_another_image():
    seeds = [0, 1, 2**31 - 1, 2**31, 2**32 - 1]
    made = [image for seed in seeds for image in generator(1, seed=seed, copies=2)().tensor]
    assert not any(torch.equal(one, other) for one, other in combinations(made, 2))


def test_calling_twice_draws_the_same():
    drawn = generator(1)
    assert torch.equal(drawn().tensor, drawn().tensor)


@pytest.mark.parametrize("case", ["plain", "vit"])
def test_an_image_is_what_it_would_be_alone(case):
    together = of_case(case, [0, 1, 2, 3, 4])()
    for target in range(5):
        alone = of_case(case, target)()
        assert torch.allclose(alone.tensor[0], together.tensor[target], rtol=0, atol=1e-6)
        assert torch.allclose(alone.scores[:, 0], together.scores[:, target], rtol=0, atol=1e-9)
    order = [4, 0, 3]
    other = of_case(case, order)()
    assert torch.allclose(other.scores, together.scores[:, order], rtol=0, atol=1e-9)


def test_the_first_copy_is_what_it_would_be_alone():
    many, one = (of_case("plain", [2, 3], copies=copies)() for copies in (3, 1))
    assert many.targets == (2, 2, 2, 3, 3, 3)
    assert torch.allclose(many.scores[:, [0, 3]], one.scores, rtol=0, atol=1e-9)
    assert not torch.allclose(many.tensor[0], many.tensor[1], atol=1e-2)


def test_diverse_copies_are_drawn_together():
    objective = Channel("2", 3) + 10 * Diversity("2")
    free = {"copies": 6, "transforms": (), "canvas": Fourier(limit=None)}
    made = generator(objective=objective, **free)()
    alone = generator(objective=Channel("2", 3), **free)()
    assert not torch.allclose(made.tensor, alone.tensor, atol=1e-3)
    assert bool((made.scores[-1] > made.scores[0]).all())
    with pytest.raises(TargetError, match="at least 2"):
        generator(objective=objective)()


def test_it_costs_one_gradient_a_step():
    net = Counting()
    generator([0, 1, 2], model=small(net), steps=5)()
    assert net.forwards == 5 + 1  # and one look at the finished images
    net = Counting()
    generator(0, model=small(net), steps=5)(every=1)
    assert net.forwards == 5 + 1


# any model


@cases
def test_any_model(case):
    made = of_case(case, [1, 0], steps=4, optimizer="adam", lr=0.05)()
    net, size = CASES[case].model().eval(), CASES[case].image[1:]
    assert made.tensor.shape == (2, 3, *size)
    assert made.tensor.dtype == torch.float32
    assert 0 <= made.tensor.min() <= made.tensor.max() <= 1
    pixels = made.tensor.mul(255).round().double() / 255
    scores = all_scores(net(Preprocess(size).normalise(pixels))).detach()
    chances = scores.sigmoid() if case == "one-logit" else scores.softmax(1)
    assert torch.allclose(made.final_scores, scores[[0, 1], [1, 0]], rtol=1e-6)
    assert torch.allclose(made.final_probabilities, chances[[0, 1], [1, 0]], rtol=1e-6)
    assert made.scores.shape == made.probabilities.shape == (4, 2)
    assert bool((made.importance >= 0).all())
    assert float(made.importance.sum()) > 0
    assert made.complete


@cases
def test_scores_rise_from_wherever_they_are(case):
    made = of_case(case, [0, 1], transforms=(), canvas=Fourier(limit=None), steps=15, lr=0.05)()
    assert bool((made.scores[-1] > made.scores[0]).all())
    assert bool((made.probabilities[-1] > made.probabilities[0]).all())


@pytest.mark.parametrize(
    ("dtype", "drawn"), [(torch.float64, 1e-12), (torch.float32, 1e-4), (torch.bfloat16, 0.1)], ids=str
)
def test_any_floating_type(dtype, drawn):
    objectives = [Logit(1) - 1e-3 * L2(), Energy("0"), Direction("2", V), Similarity(V[:5])]
    made = of_case("plain", objective=objectives, dtype=dtype, transforms=(), copies=2)()
    exact = of_case("plain", objective=objectives, transforms=(), copies=2)()
    assert torch.allclose(made.scores[0].double(), exact.scores[0], rtol=drawn, atol=drawn)
    assert bool(made.tensor.isfinite().all())


def test_grey_models():
    net = nn.Sequential(nn.Conv2d(1, 3, 1), network())
    grey = LoadedModel(net, "grey", Preprocess(16, mean=(0.5,), std=(0.25,)), LABELS)
    for preset in PRESETS:
        made = generator(1, model=grey, preset=preset)()
        assert made.tensor.shape == (1, 1, 16, 16)
        assert made.images[0].mode == "L"
        assert made.transparent().mode == "RGBA"


@pytest.mark.parametrize("size", [24, (40, 20), [9, 31], (16, 16)], ids=str)
def test_other_sizes_than_the_models(size):
    made = generator(1, size=size)(every=1)
    sides = (size, size) if isinstance(size, int) else tuple(size)
    assert made.tensor.shape == (1, 3, *sides)
    assert made.importance.shape == (1, 1, *sides)
    assert made.images[0].size == made.strip(0).size[::-1] or made.images[0].size == sides[::-1]


def test_parallel_and_frozen_models_and_no_parameters():
    net = network()
    expected = generator(1, model=small(net))()
    frozen = copy.deepcopy(net).requires_grad_(False)
    assert torch.equal(generator(1, model=small(frozen))().tensor, expected.tensor)
    assert torch.equal(generator(1, model=small(nn.DataParallel(net)))().tensor, expected.tensor)
    bare = nn.Sequential(nn.AvgPool2d(8), nn.Flatten())
    assert bool(generator(1, model=LoadedModel(bare, "bare", Preprocess(16)))().tensor.isfinite().all())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_any_mode_of_the_caller_will_do(mode):
    options = {"objective": [Logit(1), Direction("2", V), Energy("0")]}
    expected = generator(**options)()
    net = network()
    with mode():
        # tensors made here are inference tensors
        made = generator(objective=[Logit(1), Direction("2", V * 1), Energy("0")], model=small(net))()
        e = net(torch.ones(1, 3, 16, 16))[0]
    assert torch.equal(made.tensor, expected.tensor)
    for objective in (Similarity(e), Match("6", e.view(5, 1, 1)), Direction("6", e)):
        assert bool(generator(objective=objective, model=small(net))().tensor.isfinite().all())


# a borrowed model


@cases
def test_nothing_changes(case):
    drawn = of_case(case, 1, penalty=1e-3 * TotalVariation())
    before = surroundings(drawn.model.module, NO_IMAGE)
    drawn(every=1)
    assert surroundings(drawn.model.module, NO_IMAGE) == before


@pytest.mark.parametrize("stop", ["model", "class", "layer", "interrupt", "NaN", "progress"])
def test_nothing_changes_after_a_failure(stop):
    net = CASES["train-mode"].model()
    options = {"target": 99 if stop == "class" else 1, "penalty": None}
    if stop == "model":
        net.append(Failing())
    if stop == "layer":
        options["penalty"] = Channel("0", 99)
    if stop == "NaN":
        options.update(objective=-1e308 * Energy("0"), target=None)
    drawn = generator(model=net, preprocess=Preprocess(12), **options)
    before = surroundings(net, NO_IMAGE)

    def progress(step):
        if stop in ("interrupt", "progress"):
            raise {"interrupt": KeyboardInterrupt, "progress": ZeroDivisionError}[stop]

    if stop == "interrupt":
        assert not drawn(progress=progress).complete
    else:
        with pytest.raises(ZeroDivisionError if stop == "progress" else DeepVizError):
            drawn(progress=progress)
    assert surroundings(net, NO_IMAGE) == before


# targets and objectives


def test_targets_are_indices_and_labels():
    made = generator(["red fox", 2, "tabby cat", np.int64(4), torch.tensor(3)])()
    assert made.targets == (1, 2, 0, 4, 3)
    assert made.titles == ("red fox", "lynx", "tabby, tabby cat", "crane", "coffee mug")
    assert generator(range(2))().targets == (0, 1)
    assert generator((1,))().titles == ("red fox",)


def test_objectives_are_written_in_any_way():
    ways = [Logit("lynx") - 0.5 * Logit("red fox"), "lynx - 0.5 * red fox", "logit(2) - 0.5 * logit(1)"]
    made = [generator(objective=objective) for objective in ways]
    assert made[0].objectives == made[1].objectives == made[2].objectives
    assert made[0]().titles == ("lynx - 0.5 * red fox",)
    first = generator(objective=lambda output: output[:, 2])()
    assert torch.equal(first.tensor, generator(objective=Logit(2))().tensor)
    assert first.titles == ("lambda",)


def test_a_target_is_an_expression_an_objective_or_a_callable_too(tmp_path):
    """Each draws what the same value draws as objective."""

    def lynx(output):
        return output[:, 2]

    targets = ["lynx - red fox", 'channel("0", 3)', Logit(2) - Logit(1), lynx, 2, "lynx", Logit(2)]
    drawn = generator(targets)
    assert drawn.target == (Logit(2) - Logit(1), Channel("0", 3), Logit(2) - Logit(1), Function(lynx), 2, 2, 2)
    same = generator(objective=[*targets[:4], Logit(2), "lynx", Logit(2)])
    assert drawn.objectives == same.objectives
    made = drawn(tmp_path)
    assert torch.equal(made.tensor, same().tensor)
    assert made.titles == ("lynx - red fox", "0, channel 3", "lynx - red fox", "lynx", "lynx", "lynx", "lynx")
    with pytest.raises(ModelError, match="give the objective again"):  # a function cannot be read from a file
        ImageGenerator.from_json(tmp_path / "generated.json", drawn.model)
    stored = generator(targets[:3])
    assert ImageGenerator.from_json(stored.settings(), stored.model).target == stored.target


def test_a_presets_penalty_is_of_scores_of_classes_alone():
    sums = generator(["lynx - red fox", 1], preset="simonyan")
    assert sums.objectives == (Logit(2) - Logit(1) - 1e-4 * L2(), Logit(1) - 1e-4 * L2())
    other = generator(['channel("0", 3)'], preset="simonyan")
    assert other.objectives == (Channel("0", 3),)


def test_a_single_output_is_asked_for_as_the_error_says():
    """Of one number, class 0 is unclear; each way out that the message names draws the number."""
    module = network(1)
    unclear = LoadedModel(module, "small", Preprocess(16))
    with pytest.raises(TargetError, match=r"output='binary' .* or output='regression' .* or give .*Output\(0\)"):
        generator(0, model=unclear)()
    by_place = generator("output(0)", model=unclear)().tensor
    assert torch.equal(generator(Output(0), model=unclear)().tensor, by_place)
    stated = LoadedModel(module, "small", Preprocess(16), output="regression")
    assert torch.equal(generator(0, model=stated)().tensor, by_place)
    both = LoadedModel(module, "small", Preprocess(16), output="binary")
    assert torch.equal(generator(1, model=both)().tensor, by_place)
    x = torch.rand(1, 3, 16, 16)
    assert torch.equal(Gradient()(module, x, Output(0)), Gradient()(module, x, 0, output="regression"))


def test_titles_without_labels():
    made = generator(1, model=LoadedModel(network(), "small", Preprocess(16)))()
    assert made.titles == ("class 1",)
    made = generator(objective=[Channel("0", 3), Logit(2) - L2()])()
    assert made.titles == ("0, channel 3", "lynx")
    assert made.targets == (None, 2)
    assert bool(made.probabilities[:, 0].isnan().all())
    assert bool(made.final_probabilities[1:].isfinite().all())


def test_equal_targets_have_files_of_their_own(tmp_path):
    generator([1, 1], copies=2)(tmp_path)
    files = [image["file"] for image in json.loads((tmp_path / "generated.json").read_text())["images"]]
    assert len(set(files)) == 4
    assert all((tmp_path / file).exists() for file in files)


def test_a_penalty_is_subtracted_from_any_objective():
    drawn = generator(objective=[Channel("0", 1), Logit(2)], penalty=0.5 * L2())
    assert drawn.objectives == (Channel("0", 1) - 0.5 * L2(), Logit(2) - 0.5 * L2())
    assert drawn().targets == (None, 2)


def test_a_presets_penalty_is_of_classes_and_can_be_switched_off():
    assert generator(1, preset="simonyan").objectives == (Logit(1) - 1e-4 * L2(),)
    assert generator(1, preset="simonyan", penalty=None).objectives == (Logit(1) - 1e-4 * L2(),)
    assert generator(1, preset="simonyan", penalty=L2()).objectives == (Logit(1) - L2(),)
    off = generator(1, preset="simonyan", penalty=0)
    assert off.objectives == (Logit(1),)
    assert replace(off, seed=3).objectives == (Logit(1),)
    assert ImageGenerator.from_json(off.settings(), off.model).objectives == (Logit(1),)
    ours = generator(objective=Logit(1), preset="simonyan")
    assert ours.objectives == (Logit(1),)
    assert replace(ours, seed=3).objectives == (Logit(1),)


def test_a_penalty_is_subtracted_from_the_logit():
    drawn = generator([1, 2], penalty=0.5 * L2())
    assert drawn.objectives == (Logit(1) - 0.5 * L2(), Logit(2) - 0.5 * L2())
    free = generator(1, transforms=(), steps=20)()
    held = generator(1, penalty=10 * TotalVariation(), transforms=(), steps=20)()

    def rough(made):
        return float(made.tensor.diff(dim=2).square().mean())

    assert rough(held) < 0.5 * rough(free)


class Levels(nn.Module):
    """A network that takes what another does as levels from 0 to 255."""

    def __init__(self, body, preprocess):
        super().__init__()
        self.body = body
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(getattr(preprocess, name), dtype=torch.float64).view(3, 1, 1))

    def forward(self, x):
        return self.body((x / 255 - self.mean) / self.std)


OF_LEVELS = Preprocess(16, mean=(0.0, 0.0, 0.0), std=(1 / 255, 1 / 255, 1 / 255))


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("penalty", [None, 1e-3 * TotalVariation()], ids=str)
def test_a_network_that_takes_levels_draws_the_same_picture(preset, penalty):
    """Steps and penalties are in units of the pixels, not of the network's input."""
    body = network().double()
    asked = {"preset": preset, "steps": 25, "penalty": penalty}
    usual = generator([1, 2], model=LoadedModel(body, "usual", Preprocess(16), LABELS), **asked)()
    twin = LoadedModel(Levels(body, Preprocess(16)), "twin", OF_LEVELS, LABELS)
    made = generator([1, 2], model=twin, **asked)()
    assert torch.allclose(made.tensor, usual.tensor, rtol=0, atol=1e-3)
    assert torch.allclose(made.final_probabilities, usual.final_probabilities, atol=1e-3)
    assert made.tensor.std() > 0.01


class Ending(nn.Module):
    """A network whose logits are large and go through a last operator."""

    def __init__(self, end, wrap=lambda p: p):
        super().__init__()
        self.body, self.end, self.wrap = network(), end, wrap

    def forward(self, x):
        return self.wrap(self.end(100 * self.body(x)))


ENDINGS = {
    "softmax": nn.Softmax(1),
    "functional": lambda z: torch.nn.functional.softmax(z, dim=-1),
    "method": lambda z: z.softmax(1),
    "log-softmax": nn.LogSoftmax(1),
    "of a map": lambda z: z[:, :, None, None].softmax(1).flatten(1),
}


@pytest.mark.parametrize("wrap", [lambda p: p, lambda p: {"probabilities": p}], ids=["tensor", "dict"])
@pytest.mark.parametrize("end", ENDINGS)
@pytest.mark.parametrize("preset", ["lucid", "simonyan"])
def test_before_a_final_softmax_stands_the_logit(preset, end, wrap):
    """Its pictures are those of the network without it, whose gradient does not vanish."""
    logits = small(Ending(lambda z: z))
    expected = generator([1, 2], model=logits, preset=preset, steps=10)()
    made = generator([1, 2], model=small(Ending(ENDINGS[end], wrap)), preset=preset, steps=10)()
    assert torch.allclose(made.tensor, expected.tensor, atol=1e-5)
    assert torch.allclose(made.final_scores, expected.final_scores, rtol=1e-4)
    assert torch.allclose(made.final_probabilities, expected.final_probabilities, atol=1e-6)
    name = "log-softmax" if end == "log-softmax" else "softmax"
    assert made.notes == (f"the score is the logit before the model's final {name}",)
    assert expected.notes == ()
    assert made.predicted[0][0] == expected.predicted[0][0]


def test_before_a_final_sigmoid_stands_the_logit():
    expected = generator(1, model=small(Ending(lambda z: z), output="multi-label"), steps=10)()
    made = generator(1, model=small(Ending(nn.Sigmoid())), steps=10)()
    assert torch.allclose(made.tensor, expected.tensor, atol=1e-5)
    assert torch.allclose(made.final_probabilities, expected.final_probabilities, atol=1e-6)


def test_a_probability_that_is_asked_for_is_drawn():
    expected = generator(Probability(1), model=small(Ending(lambda z: z / 100)), steps=10)()
    made = generator(Probability(1), model=small(Ending(lambda z: (z / 100).softmax(1))), steps=10)()
    assert torch.allclose(made.tensor, expected.tensor, atol=1e-5)


def test_raw_outputs_are_drawn_as_they_are_beside_classes():
    model = small(Ending(lambda z: (z / 100).softmax(1)))
    alone = generator(Output(2), model=model)()
    beside = generator([1, Output(2)], model=model)()
    assert torch.allclose(beside.tensor[1], alone.tensor[0], atol=1e-6)
    assert beside.final_scores[1] < 1


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_a_softmax_out_of_sight_is_told_of():
    """In compiled code no operator is seen; the logarithm has a slope where the class is unlikely."""
    end = torch.jit.script(nn.Softmax(1))
    made = generator(1, model=small(Ending(lambda z: end(z / 10))), canvas=Pixels(), transforms=())()
    assert made.notes == ("the score is the logarithm of the probability, since the model's softmax is out of sight",)
    start = generator(1, canvas=Pixels(), transforms=(), steps=1, lr=1e-9)().tensor
    assert float((made.tensor - start).abs().max()) > 0.01


# what a picture is drawn for is what it shows


@pytest.mark.filterwarnings("error")
def test_a_finished_picture_of_another_class_is_told_of():
    with pytest.warns(
        DeepVizWarning, match="not predicted as its class: red fox .*%, predicted is lynx 7.*%; try more"
    ):
        made = generator([1, 2])()
    assert made.missed == (True, False)
    pixels = made.tensor.mul(255).round() / 255
    expected = network()(Preprocess(16).normalise(pixels)).softmax(1).detach()
    assert made.predicted == ((2, pytest.approx(float(expected[0, 2]))), (2, pytest.approx(float(expected[1, 2]))))
    # a contrast, a channel and a number are no class that can be missed
    others = generator(objective=[Logit(1) - Logit(2), Channel("0", 1), lambda output: output[:, 1]])()
    assert others.missed == (False, False, False)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("target", [0, 1])
def test_a_dead_network_is_an_error(tmp_path, preset, target):
    """All of its weights are 0, so its output is constant; a penalty alone draws nothing either."""
    dead = network()
    with torch.no_grad():
        for parameter in dead.parameters():
            parameter.zero_()
    with pytest.raises(GenerationError, match=r"zero gradient at every step for .*: the score does not depend"):
        generator(target, model=small(dead), preset=preset)(tmp_path)
    assert (tmp_path / "generated.json").exists()


# a photograph to start from


@pytest.mark.parametrize("preset", ["lucid", "simonyan"])
@pytest.mark.parametrize("dark", [1.0, 0.3])
def test_a_photograph_to_start_from(preset, dark):
    photo = Image.fromarray((np.asarray(PHOTO) * dark).astype(np.uint8))
    made = generator(1, start=photo, preset=preset, lr=1e-7, steps=2)()
    prepared = small().prepare(photo)
    expected = Preprocess(16).unnormalise(prepared.x)
    assert float((made.tensor[0] - expected).abs().max()) < 0.012  # black and white are 0.01 and 0.99


def test_starts_of_other_kinds(tmp_path):
    PHOTO.save(tmp_path / "photo.png")
    pixels = Preprocess((12, 20)).unnormalise(Preprocess((12, 20))(PHOTO)[0])
    expected = generator(1, start=PHOTO, size=(12, 20))().tensor
    for start in (tmp_path / "photo.png", str(tmp_path / "photo.png"), PHOTO, np.asarray(PHOTO), pixels):
        assert torch.equal(generator(1, start=start, size=(12, 20))().tensor, expected)


def test_a_limit_that_was_asked_for_stays():
    drawn = generator(1, start=torch.full((3, 16, 16), 0.1), canvas=Fourier(limit=0.5))
    assert drawn.canvas.limit == 0.5
    assert generator(1, start=torch.full((3, 16, 16), 0.1)).canvas.limit is None
    assert generator(1).canvas.limit == 1.0


@pytest.mark.parametrize(
    ("start", "words"),
    [
        ("nowhere.jpg", "nowhere.jpg"),
        (torch.zeros(3, 8, 8), r"start must be pixels \(3, 16, 16\)"),
        (torch.full((3, 16, 16), 200.0), r"start must be pixels from 0 to 1 .*, got 200 to 200"),
        (torch.linspace(-2, 2, 768).view(3, 16, 16), r"start must be pixels from 0 to 1 .*, got -2 to 2"),
        (torch.full((3, 16, 16), math.nan), "start must be pixels from 0 to 1"),
        (torch.zeros(3, 16, 16, dtype=torch.uint8), r"from 0 to 1, got a tensor \(3, 16, 16\) of uint8"),
    ],
)
def test_starts_that_are_none(start, words):
    with pytest.raises(ImageError, match=words):
        generator(1, start=start)()


# errors


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({}, TargetError, "give either a target"),
        ({"target": []}, TargetError, "give either"),
        ({"target": 1, "objective": Logit(1)}, TargetError, "give either"),
        ({"target": 5}, TargetError, "class 5 is out of range: the model has 5 classes, 0 to 4"),
        ({"target": -1}, TargetError, "a class index from 0 up, got -1"),
        ({"target": [1, 5]}, TargetError, "class 5 is out of range"),
        ({"target": "linx"}, TargetError, "did you mean 'lynx'"),
        ({"target": 1.5}, TargetError, "a target is a class index, a label.*got 1.5"),
        ({"target": Logit}, TargetError, r"did you mean Logit\(...\)"),
        ({"target": [[1, 2], 3]}, TargetError, "one image has one objective"),
        ({"target": "lynx - linx"}, TargetError, "no class named 'linx'"),
        ({"target": Logit(1) - Logit(5)}, TargetError, "class 5 is out of range: the model has 5 classes, 0 to 4"),
        ({"target": torch.tensor([1])}, TargetError, "a value for each of several rows"),
        ({"objective": Logit}, TypeError, r"expected an objective.*did you mean Logit\(\)"),
        ({"target": True}, TargetError, "not a bool"),
        ({"objective": 0.5}, TypeError, "expected an objective, got 0.5"),
        ({"objective": "linx - coffee mug"}, TargetError, "no class named 'linx'"),
        ({"objective": Logit(torch.tensor([1, 2]))}, TargetError, "a value for each of several rows"),
        ({"objective": [Logit(1), 3]}, TypeError, "expected an objective, got 3"),
        ({"target": 1, "penalty": L2}, TypeError, r"did you mean L2\(\)"),
        ({"target": 1, "penalty": 0.1}, TypeError, "penalty must be an objective, 0 or None, got 0.1"),
        ({"target": 1, "canvas": Fourier}, TypeError, r"canvas.*did you mean Fourier\(\)"),
        ({"target": 1, "transforms": Crop}, TypeError, r"transforms.*did you mean Crop\(\)"),
        ({"target": 1, "transforms": (Crop(), Noise)}, TypeError, r"did you mean Noise\(\)"),
        ({"target": 1, "preset": "lucit"}, MethodError, "did you mean 'lucid'"),
        ({"target": 1, "seed": 2**32}, ValueError, r"seed must be from 0 to 2\*\*32 - 1, got 4294967296"),
        ({"target": 1, "seed": 10**30}, ValueError, r"seed must be from 0 to 2\*\*32 - 1"),
        ({"target": 1, "seed": -1}, ValueError, r"seed must be from 0 to 2\*\*32 - 1"),
        (
            {"target": 1, "copies": 2, "start": PHOTO},
            ValueError,
            "2 copies would be identical, as all start from",
        ),
        ({"target": 1, "copies": 3, "preset": "simonyan"}, ValueError, "3 copies would be identical.*without noise"),
        (
            {"target": 1, "copies": 2, "canvas": Fourier(noise=0)},
            ValueError,
            r"canvas with noise, such as Pixels\(",
        ),
        ({"target": 1, "steps": 0}, ValueError, "steps must be at least 1, got 0"),
        ({"target": 1, "steps": 2.5}, TypeError, "steps must be a whole number, got 2.5"),
        ({"target": 1, "copies": 0}, ValueError, "copies must be at least 1"),
        ({"target": 1, "seed": "a"}, TypeError, "seed must be a whole number"),
        ({"target": 1, "lr": 0}, ValueError, "lr must be above 0"),
        ({"target": 1, "lr": math.nan}, ValueError, "lr must be above 0"),
        ({"target": 1, "lr": math.inf}, ValueError, "and finite"),
        ({"target": 1, "cooling": -1}, ValueError, "cooling must be above 0"),
        ({"target": 1, "optimizer": "sgd"}, ValueError, "adam or ascent, got 'sgd'"),
        ({"target": 1, "size": 0}, ValueError, "size must be at least 1"),
        (
            {"target": 1, "size": (3, 4, 5)},
            TypeError,
            "size must be a whole number, a tuple of 2 whole numbers or None",
        ),
        ({"target": 1, "size": (8, 2.5)}, TypeError, "size must be a whole number, a tuple"),
        ({"objective": Channel("00", 1)}, LayerError, "no layer '00' in this model"),
        ({"objective": Energy("3") - 2 * Energy("33")}, LayerError, "no layer '33'"),
        ({"target": 1, "penalty": Energy("nowhere")}, LayerError, "no layer 'nowhere'"),
    ],
)
def test_mistakes(options, error, words):
    with pytest.raises(error, match=words) as caught:
        generator(**options)
    assert "\n" not in str(caught.value)


def test_the_nearest_layers_are_named():
    net = nn.Sequential()
    net.add_module("layer1", network())
    with pytest.raises(LayerError, match="did you mean 'layer1"):
        generator(objective=Channel("layer2", 0), model=small(net))


def test_a_module_instead_of_a_layers_name():
    net = network()
    with pytest.raises(TypeError, match="layer must be a name, got Conv2d"):
        generator(objective=Channel(net[2], 0), model=small(net))


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"objective": Channel("0", 8)}, LayerError, "has 8 channels, 0 to 7, not 8"),
        ({"objective": Direction("0", V[:3])}, LayerError, r"must be \(8,\), got \(3,\)"),
        ({"objective": Similarity(V)}, TargetError, r"must be \(5,\)"),
        ({"objective": Match("0", torch.ones(8, 2, 2))}, LayerError, r"is \(8, 16, 16\), not"),
        ({"objective": Logit(5)}, TargetError, "class 5 is out of range"),
        ({"objective": Diversity("0")}, TargetError, "copies="),
    ],
)
def test_mistakes_that_the_first_step_finds(options, error, words):
    with pytest.raises(error, match=words):
        generator(**options)()


def test_the_wrong_way_round():
    with pytest.raises(ModelError, match="got int"):
        ImageGenerator(1, network())
    with pytest.raises(ModelError):
        ImageGenerator("tiger cat", network())


def test_a_model_without_preprocessing():
    with pytest.raises(ModelError, match=r"pass preprocess=deepviz\.Preprocess\(224"):
        ImageGenerator(network(), 1)
    with pytest.raises(ModelError, match="pass preprocess="):
        ImageGenerator(network(), 1, preprocess=lambda picture: torch.zeros(3, 8, 8))


def test_a_model_that_takes_other_channels():
    with pytest.raises(ModelFailed):
        generator(1, model=LoadedModel(network(), "small", Preprocess(16, mean=(0.5,), std=(0.5,))))()


@pytest.mark.parametrize("every", [0, -3])
def test_every(every):
    with pytest.raises(ValueError, match="every must be at least 1"):
        generator(1)(every=every)


def test_a_folder_that_cannot_be_written_is_found_before_any_work(tmp_path):
    (tmp_path / "file").write_text("kept")
    net = Counting()
    with pytest.raises(OutputError, match="cannot write"):
        generator(1, model=small(net), steps=10**6)(tmp_path / "file")
    assert net.forwards == 0
    assert (tmp_path / "file").read_text() == "kept"


# stopped early


class Breaking(nn.Module):
    """Its scores are NaN from some call on."""

    def __init__(self, last):
        super().__init__()
        self.body, self.left = network(), last

    def forward(self, x):
        self.left -= 1
        return self.body(x) * (1 if self.left >= 0 else math.nan)


def assert_valid(folder, complete, taken):
    told = json.loads((folder / "generated.json").read_text())
    assert (told["complete"], told["steps taken"]) == (complete, taken)
    for path in folder.iterdir():
        assert path.suffix in (".png", ".gif", ".mp4", ".json")
        if path.suffix in (".png", ".gif"):
            with Image.open(path) as opened:
                opened.load()
    return told


def test_nan_keeps_the_last_good_image(tmp_path):
    options = {"cooling": 1.0, "transforms": ()}
    with pytest.raises(GenerationError, match="at step 4 of 9") as caught:
        generator(1, model=small(Breaking(3)), steps=9, **options)(tmp_path)
    kept = caught.value.generated
    assert not kept.complete
    assert kept.scores.shape == (3, 1)
    assert torch.equal(kept.tensor, generator(1, steps=3, **options)().tensor)
    told = assert_valid(tmp_path, False, 3)
    assert told["images"][0]["probability"] is None
    assert (tmp_path / "red_fox.gif").exists()


class Cut(nn.Module):
    """A network that gives no gradient: without a graph, or only below some layer, or zero everywhere."""

    def __init__(self, how):
        super().__init__()
        self.body, self.how = network(), how

    def forward(self, x):
        if self.how == "zero":
            return self.body(x).round()
        if self.how == "detach":
            return self.body(x.detach())
        with torch.no_grad():
            return self.body(x)


@pytest.mark.parametrize("how", ["detach", "no_grad"])
def test_a_model_without_a_gradient(how):
    with pytest.raises(GenerationError, match=r"\(logit\(1\)\) does not depend on the image in a differentiable way"):
        generator(1, model=small(Cut(how)))()


def test_an_image_that_never_moved_is_told_of():
    with pytest.raises(
        GenerationError, match=r"zero gradient at every step for red fox: .* nothing was drawn"
    ) as caught:
        generator(1, model=small(Cut("zero")), canvas=Pixels())()
    made = caught.value.generated
    assert made.still == (True,)
    assert torch.equal(made.tensor, made.tensor.clamp(0, 1))
    silent = nn.Sequential(network()[0], nn.Threshold(1e9, 0.0), *network()[1:])
    with pytest.warns(DeepVizWarning, match="for 1, channel 2, so"):
        generator(objective=[Channel("0", 2), Channel("1", 2)], model=small(silent))()


def test_nan_at_the_first_step(tmp_path):
    with pytest.raises(GenerationError, match=r"at step 1 of 3, .*: check the numbers in the objective") as caught:
        generator([1, 2], model=small(Breaking(0)))(tmp_path)
    kept = caught.value.generated
    assert kept.scores.shape == (0, 2)
    assert bool(kept.tensor.isfinite().all())
    assert_valid(tmp_path, False, 0)


@pytest.mark.parametrize("optimizer", ["adam", "ascent"])
@pytest.mark.parametrize(("lr", "step"), [(1e25, 1), (1e39, 1), (1e300, 1), (4e18, None)])
def test_an_absurd_learning_rate(tmp_path, optimizer, lr, step):
    canvas = Fourier(limit=None, noise=0.1)
    lr = lr * (1 if optimizer == "adam" else 1e6)  # whose steps are as small as the gradient
    drawn = generator([1, 2], canvas=canvas, optimizer=optimizer, lr=lr, steps=9, transforms=())
    with pytest.raises(GenerationError, match=r"at step \d of 9, .* use an lr below") as caught:
        drawn(tmp_path)
    kept = caught.value.generated
    if step is not None:
        assert kept.scores.shape == (step - 1, 2)
    assert bool(kept.tensor.isfinite().all())
    assert bool(kept.final_scores.isfinite().all())
    assert not kept.complete
    assert_valid(tmp_path, False, len(kept.scores))


def test_a_gradient_that_adam_cannot_square():
    with pytest.raises(GenerationError, match=r"huge at step 1 of 3.*check the numbers in the objective"):
        generator(objective=1e30 * Logit(1))()


def test_an_interruption_keeps_what_there_is(tmp_path):
    def progress(step):
        if step.number == 3:
            raise KeyboardInterrupt

    options = {"cooling": 1.0, "transforms": (), "steps": 9}
    made = generator(1, **options)(tmp_path, progress=progress)
    assert not made.complete
    assert made.scores.shape == (3, 1)
    assert torch.equal(made.tensor, generator(1, **{**options, "steps": 3})().tensor)
    assert "stopped early" in repr(made)
    assert_valid(tmp_path, False, 3)


def test_an_interrupted_model():
    class Interrupting(Breaking):
        def forward(self, x):
            self.left -= 1
            if self.left == -1:
                raise KeyboardInterrupt
            return self.body(x)

    made = generator(1, model=small(Interrupting(2)), steps=9)()
    assert not made.complete
    assert made.scores.shape == (2, 1)


# the way


def test_progress_is_told_of_every_step():
    seen = []
    made = generator([1, 2], steps=4)(progress=seen.append)
    assert [(step.number, step.steps) for step in seen] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert torch.equal(torch.stack([step.scores for step in seen]), made.scores)
    assert torch.equal(torch.stack([step.probabilities for step in seen]), made.probabilities)


def test_progress_may_look_at_the_images_of_its_step():
    seen = []
    made = generator([1, 2], steps=3)(every=1, progress=lambda step: seen.append(step.pixels()))
    for frame, pixels in zip(made.frames, seen, strict=True):
        assert torch.equal(frame.pixels.permute(0, 3, 1, 2), pixels.mul(255).round().byte())
    assert not any(pixels.requires_grad for pixels in seen)


@pytest.mark.parametrize(
    ("steps", "every", "kept"), [(5, 2, [1, 2, 4, 5]), (3, 1, [1, 2, 3]), (4, 9, [1, 4]), (1, 1, [1])]
)
def test_frames(steps, every, kept):
    made = generator(1, steps=steps)(every=every)
    assert [frame.step for frame in made.frames] == kept
    assert torch.equal(made.frames[-1].pixels[0].permute(2, 0, 1), made.tensor[0].mul(255).round().byte())
    assert generator(1, steps=steps)().frames == ()


def test_about_24_frames_are_kept_for_files(tmp_path):
    made = generator(1, steps=50)(tmp_path)
    assert len(made.frames) == 26
    told = assert_valid(tmp_path, True, 50)
    assert told["images"] == [
        {
            "file": "red_fox.png",
            "title": "red fox",
            "class": 1,
            "score": float(made.final_scores[0]),
            "probability": float(made.final_probabilities[0]),
            "predicted": list(made.predicted[0]),
        }
    ]


# again


def through_json(made):
    return json.loads(json.dumps({"settings": made.settings}))


@pytest.mark.parametrize("preset", PRESETS)
def test_a_record_draws_the_same_image(preset, tmp_path):
    copies = 1 if preset == "simonyan" else 2
    drawn = ImageGenerator(
        "small_models:good", ["lynx", 1], preset=preset, steps=3, seed=7, copies=copies, size=(20, 24)
    )
    made = drawn(tmp_path)
    again = ImageGenerator.from_json(tmp_path / "generated.json")()
    assert torch.equal(again.tensor, made.tensor)
    assert torch.equal(again.scores, made.scores)
    assert again.settings == made.settings
    assert again.titles == made.titles


@pytest.mark.parametrize(
    "options",
    [
        {"objective": [Direction("2", V), Similarity(V[:5].double()), Match("0", torch.ones(8, 16, 16))]},
        {"objective": 2 * Energy("0") - TotalVariation(1.5)},
        {"objective": Channel("0", 1) + Diversity("2"), "copies": 3},
        {"target": 1, "penalty": 1e-3 * L2(), "optimizer": "ascent", "lr": 0.3, "cooling": 0.5},
        {"target": 1, "canvas": Magnitude(contrast=0.5), "transforms": ()},
        {"target": 1, "canvas": Pixels(noise=0.2), "transforms": [Noise(0.3, 0.1), Crop()]},
        {"target": 1, "start": PHOTO},
        {"target": 1, "start": torch.full((3, 16, 16), 0.4)},
    ],
)
def test_a_record_of_a_module_draws_the_same_image(options):
    net = network()
    made = generator(model=small(net), **options)()
    record = through_json(made)
    again = ImageGenerator.from_json(record, net)()  # its preprocessing is in the record
    assert torch.equal(again.tensor, made.tensor)
    with pytest.raises(ModelError, match="give it as model="):
        ImageGenerator.from_json(record)


def test_a_record_holds_the_preprocessing_of_a_named_model():
    made = ImageGenerator("small_models:good", 1, steps=2, preprocess=Preprocess(20, std=(0.5, 0.5, 0.5)))()
    again = ImageGenerator.from_json(through_json(made))()
    assert torch.equal(again.tensor, made.tensor)
    other = ImageGenerator.from_json(through_json(made), preprocess=Preprocess(12))
    assert other().tensor.shape == (1, 3, 12, 12)


def test_a_record_warns_of_other_weights_threads_and_versions():
    made = generator(1)()
    other = network()
    with torch.no_grad():
        other[0].weight.add_(0.1)
    with pytest.warns(DeepVizWarning, match="other weights"):
        ImageGenerator.from_json(made.settings, small(other))
    with pytest.warns(DeepVizWarning, match="other threads and versions"):
        ImageGenerator.from_json({**made.settings, "threads": 99, "versions": {"torch": "0.1"}}, small())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ImageGenerator.from_json(made.settings, small())


@pytest.mark.parametrize(
    "changed",
    [
        {"steps": 0},
        {"steps": "x"},
        {"seed": -3},
        {"canvas": {"is": "Fourier", "limit": -1}},
        {"canvas": 3},
        {"transforms": [3]},
        {"start": {"tensor": [[1]], "dtype": "uint8"}},
        {"start": {"tensor": "x", "dtype": "uint8"}},
        {"start": {"tensor": [1], "dtype": "nothing"}},
    ],
    ids=str,
)
def test_records_that_were_changed(changed):
    drawn = generator(1)
    with pytest.raises(ModelError, match=r"the record cannot be (reproduced|read): "):
        ImageGenerator.from_json({**drawn.settings(), **changed}, drawn.model)


@pytest.mark.parametrize("text", ["", "{}", "[]", "3", '{"model": "x"}', '{"settings": {"model": {}}}', "not json"])
def test_files_that_hold_no_record(tmp_path, text):
    path = tmp_path / "record.json"
    path.write_text(text)
    with pytest.raises(ModelError, match="holds no record of generated images"):
        ImageGenerator.from_json(path)
    with pytest.raises(ModelError, match="nowhere"):
        ImageGenerator.from_json(tmp_path / "nowhere.json")


def test_a_record_holds_numbers_of_numpys(tmp_path):
    drawn = generator(objective=np.float32(0.5) * Channel("2", np.int64(3)), lr=np.float64(0.1))
    made = drawn(tmp_path)
    again = ImageGenerator.from_json(tmp_path / "generated.json", drawn.model)
    assert again.objectives == drawn.objectives
    assert torch.equal(again().tensor, made.tensor)


def test_an_objective_of_ones_own_is_drawn_and_named(tmp_path):
    class Brightness(Objective):
        def __call__(self, seen):
            return seen.image().mean((1, 2, 3))

    net = network()
    made = generator(objective=Brightness(), model=small(net), canvas=Pixels())(tmp_path)
    assert bool(made.scores[-1] > made.scores[0])
    with pytest.raises(ModelError, match=r"holds brightness\(\), which is not one of DeepViz's own values"):
        ImageGenerator.from_json(tmp_path / "generated.json", net)


def test_a_generator_can_be_varied():
    drawn = generator(1)
    again = replace(drawn, seed=3)
    assert again.seed == 3
    assert torch.equal(again().tensor, generator(1, seed=3)().tensor)


class Weighted(nn.Module):
    """Scores of an image, scaled by what goes along with it."""

    def __init__(self):
        super().__init__()
        self.net = network()

    def forward(self, image, scale):
        return self.net(image) * scale


def test_what_goes_along_with_an_image_stays_with_it():
    """Each image is drawn for its own row; the first as if it were alone."""
    model, scale = small(Weighted().eval()), torch.tensor([[1.0], [-1.0]])
    both = generator([1, 1], model=model, extra={"scale": scale})().tensor
    for row in (0, 1):
        alone = generator(1, model=model, extra={"scale": scale[row : row + 1]})()
        assert torch.allclose(both[row], alone.tensor[0], atol=1e-4)
    assert not torch.equal(both[0], both[1])
    shared = generator([1, 1], model=model, extra={"scale": deepviz.shared(torch.ones(1, 1))})().tensor
    assert torch.equal(shared[0], shared[1])
    assert torch.allclose(shared[0], both[0], atol=1e-4)


def test_what_goes_along_with_an_image_is_in_its_record(tmp_path):
    """The scores are those of the model with each image's row; the record tells what has to be given again."""
    net, weights = network(), torch.tensor([[2.0, 0.5, -1.0], [1.0, 1.0, 1.0]])
    model, extra = small(Tinted(net).eval()), {"weights": weights}
    made = generator([1, 2], model=model, extra=extra)(tmp_path)
    pixels = made.tensor.mul(255).round() / 255
    expected = net(Preprocess(16).normalise(pixels) * weights[:, :, None, None])[[0, 1], [1, 2]]
    assert torch.allclose(made.final_scores.float(), expected, rtol=1e-4)
    record = tmp_path / "generated.json"
    assert json.loads(record.read_text())["settings"]["extra"] == {"weights": "a tensor (2, 3) of float32"}
    with pytest.raises(ModelError, match=r"made with extra, .* give it as extra= .*'weights': 'a tensor \(2, 3\)"):
        ImageGenerator.from_json(record, model)
    assert torch.equal(ImageGenerator.from_json(record, model, extra=extra)().tensor, made.tensor)
    assert generator(1)().settings["extra"] is None
    held = made.settings
    del held["extra"]  # as version 0.1 wrote it
    assert ImageGenerator.from_json(held, model).extra is None


def test_a_row_of_extra_for_each_image_is_asked_for():
    with pytest.raises(ValueError, match=r"extra\['scale'\] has 3 rows for 2 images"):
        generator([1, 2], model=small(Weighted().eval()), extra={"scale": torch.ones(3, 1)})()


def test_the_former_name_of_target_is_still_accepted():
    loaded = generator(1).model
    with pytest.warns(DeprecationWarning, match="target_class= is deprecated: use target="):
        made = ImageGenerator(loaded, target_class=[1, 2])
    assert made.target == (1, 2)
    held = made.settings()
    held["target_class"] = held.pop("target")  # as version 0.1 wrote it
    assert ImageGenerator.from_json(held, model=loaded).target == (1, 2)
    with pytest.warns(DeprecationWarning, match="use target"):
        assert made.target_class == (1, 2)
