"""`DeepDream`: sizes, tiles, growth; stopped early; what it refuses."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import deepviz
from deepviz.errors import DeepVizWarning, GenerationError, ImageError, LayerError, ModelError, OutputError, TargetError
from deepviz.models import LoadedModel, Preprocess
from deepviz.probe.seeds import generator_of
from deepviz.synthesis import Channel, DeepDream, Diversity, Energy, Logit, Neuron
from deepviz.synthesis.dream import _tiles
from networks import CASES
from small_models import LABELS, Tinted, network

NOISE = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
PHOTO = Image.fromarray(NOISE).resize((84, 60))


def small(module=None, size=16, **options):
    return LoadedModel(module or network(), "small", Preprocess(size, **options), LABELS)


def dream(layer=None, model=None, **options):
    return DeepDream(small() if model is None else model, layer, **{"steps": 2, "octaves": 2, **options})


@pytest.mark.parametrize(
    "options",
    [{"layer": "2"}, {"target": "lynx"}, {"target": 2}, {"objective": Channel("0", 3) - Logit(1)}],
    ids=str,
)
def test_the_objective_grows(options):
    made = dream(octaves=1, steps=20, side=40, **options)(PHOTO)
    # each step looks at other tiles
    assert made.scores[-5:].mean() > made.scores[:5].mean() + 0.1 * made.scores[:5].std()
    assert made.complete


@pytest.mark.parametrize("name", ["target", "objective"])
def test_targets_and_objectives_are_written_in_any_way(name):
    """Text, objectives and callables of the same value give the same dream."""

    def difference(output):
        return output[:, 2] - output[:, 1]

    ways = ["lynx - red fox", "logit(2) - logit(1)", Logit("lynx") - Logit(1), difference]
    made = [dream(**{name: way}, octaves=1)(PHOTO) for way in ways]
    assert all(torch.equal(one.tensor, made[0].tensor) for one in made[1:])
    assert [one.titles[0] for one in made] == ["image, lynx - red fox"] * 3 + ["image, difference"]
    assert made[0].settings[name] == made[2].settings[name]
    assert dream(target=Logit(2)).target == 2


def test_pixels_move_by_the_learning_rate():
    made = dream("2", octaves=1, steps=1, side=84, lr=0.001)(PHOTO)
    change = made.tensor[0] - torch.from_numpy(np.array(PHOTO)).permute(2, 0, 1) / 255
    # but for those that were cut at black or white
    assert float(change.abs().mean()) == pytest.approx(0.001, rel=0.05)


@pytest.mark.parametrize("size", [(1, 1), (5, 40), (16, 16), (17, 33), (31, 16), (48, 47)], ids=str)
@pytest.mark.parametrize("tile", [(16, 16), (12, 20)], ids=str)
def test_tiles_cover_every_pixel(size, tile):
    seen = torch.zeros(size)
    for down, along in _tiles(size, tile):
        assert 0 <= down.start < down.stop <= size[0]
        assert 0 <= along.start < along.stop <= size[1]
        assert (down.stop - down.start, along.stop - along.start) == (min(size[0], tile[0]), min(size[1], tile[1]))
        seen[down, along] += 1
    assert seen.min() >= 1


@pytest.mark.parametrize(
    ("size", "options", "sizes"),
    [
        ((100, 50), {"octaves": 3, "octave_scale": 2.0, "side": 100}, [(25, 12), (50, 25), (100, 50)]),
        ((100, 100), {"octaves": 3, "octave_scale": 2.0, "side": 100}, [(25, 25), (50, 50), (100, 100)]),
        # none shorter than half the model's input, but for the last
        ((100, 50), {"octaves": 4, "octave_scale": 2.0, "side": 100}, [(25, 12), (50, 25), (100, 50)]),
        ((100, 100), {"octaves": 9, "octave_scale": 2.0, "side": 100}, [(12, 12), (25, 25), (50, 50), (100, 100)]),
        ((100, 80), {"octaves": 1}, [(32, 26)]),  # twice the model's input
        ((20, 24), {"octaves": 1}, [(20, 24)]),  # at most its own
        ((20, 24), {"octaves": 1, "side": 48}, [(40, 48)]),
        ((4, 3), {"octaves": 2}, [(4, 3)]),
        ((1, 300), {"octaves": 3, "side": 30}, [(1, 30)]),
    ],
    ids=str,
)
def test_octaves(size, options, sizes):
    assert dream("2", **options)._sizes(size) == sizes


@pytest.mark.parametrize("size", [(84, 60), (15, 15), (7, 50), (33, 9)], ids=str)
def test_pictures_of_any_size(size):
    made = dream("2", octaves=3)(PHOTO.resize(size))
    width, height = made.images[0].size
    most = min(max(size), 32)
    assert max(width, height) == most
    assert (width, height) == tuple(max(1, round(side * most / max(size))) for side in size)
    assert made.importance.shape == (1, 1, height, width)
    assert bool((made.importance >= 0).all())
    assert 0 <= made.tensor.min() <= made.tensor.max() <= 1


@pytest.mark.parametrize("case", sorted(set(CASES) - {"odd"}))
def test_any_model(case):
    model, size = CASES[case].model(), CASES[case].image[1:]
    modes = [module.training for module in model.modules()]
    loaded = LoadedModel(model, case, output="binary" if case == "one-logit" else "auto")
    made = DeepDream(loaded, target=1, preprocess=Preprocess(size), steps=2, octaves=1)(PHOTO)
    assert bool(made.tensor.isfinite().all())
    assert modes == [module.training for module in model.modules()]
    assert not any(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("last", [1, 2, 3, 4])
def test_importance_is_never_negative(last):
    def progress(step):
        if step.number == last:
            raise KeyboardInterrupt

    # a point, which enlarging with a cubic filter surrounds by less than nothing
    made = dream(objective=Neuron("0", 0, (8, 8)), steps=1, octaves=4, octave_scale=1.3, side=32)(
        PHOTO, progress=progress
    )
    assert made.importance.shape == (1, 1, 23, 32)
    assert float(made.importance.min()) == 0
    assert float(made.importance.max()) > 0


@pytest.mark.parametrize("extra", [torch.tensor([[2.0, 0.5, -1.0]]), deepviz.shared(torch.tensor([[2.0, 0.5, -1.0]]))])
@pytest.mark.parametrize("options", [{"target": 2}, {"layer": "net.2"}], ids=str)
def test_what_goes_along_with_the_image_goes_along_with_each_tile(extra, options, tmp_path):
    """One step, tile by tile: I + lr g / mean |g|, g = d(sum of the tiles' objectives)/dI, I rolled by the shift."""
    photo, net, weights = PHOTO.resize((24, 20)), network(), torch.tensor([[2.0, 0.5, -1.0]])
    model = small(Tinted(net).eval())
    extra = {"weights": extra} if isinstance(extra, torch.Tensor) else (extra,)
    made = dream(model=model, extra=extra, octaves=1, steps=1, side=24, lr=0.01, seed=5, **options)(photo, tmp_path)
    image = (torch.from_numpy(np.array(photo)).permute(2, 0, 1)[None] / 255).requires_grad_()
    generator = generator_of(5, 0)
    shift = [int(torch.randint(side, (), generator=generator)) for side in (20, 24)]
    rolled = image.roll(shift, (2, 3))
    total = 0.0
    for down, along in _tiles((20, 24), (16, 16)):
        x = Preprocess(16).normalise(rolled[:, :, down, along]) * weights[:, :, None, None]
        total = total + (net(x)[0, 2] if "target" in options else net[:3](x).square().mean())
    (g,) = torch.autograd.grad(total, image)
    expected = (image + 0.01 * g / g.abs().mean()).clamp(0, 1).detach()
    assert torch.allclose(made.tensor, expected, atol=1e-5)
    told = json.loads((tmp_path / "generated.json").read_text())["settings"]["extra"]
    shape = "a tensor (1, 3) of float32"
    assert told == ({"weights": shape} if isinstance(extra, dict) else [{"shared": shape}])


def test_what_goes_along_has_one_row():
    with pytest.raises(ValueError, match=r"extra\['weights'\] has 2 rows for 1 image"):
        dream(model=small(Tinted().eval()), target=1, extra={"weights": torch.ones(2, 3)})(PHOTO)
    with pytest.raises(ModelError, match="given as extra="):
        dream(model=small(Tinted().eval()), target=1)(PHOTO)
    assert dream("2")(PHOTO).settings["extra"] is None


def test_grey_models():
    grey = small(nn.Sequential(nn.Conv2d(1, 3, 1), network()), mean=(0.5,), std=(0.5,))
    made = dream(model=grey, target=1)(PHOTO)
    assert made.images[0].mode == "L"


@pytest.mark.parametrize("size", [(84, 60), (14, 10), (16, 40)], ids=str)
@pytest.mark.parametrize("interrupted", [False, True])
def test_the_final_score_is_of_the_picture_that_is_returned(size, interrupted):
    def progress(step):
        if interrupted and step.number == 1:
            raise KeyboardInterrupt

    made = dream(target=2, side=max(size))(PHOTO.resize(size), progress=progress)
    assert made.complete is not interrupted
    pixels = torch.from_numpy(np.array(made.images[0])).permute(2, 0, 1)[None] / 255
    tiles = [pixels[:, :, down, along] for down, along in _tiles(tuple(pixels.shape[2:]), (16, 16))]
    seen = [torch.nn.functional.interpolate(tile, (16, 16), mode="bilinear", antialias=True) for tile in tiles]
    expected = network()(Preprocess(16).normalise(torch.cat(seen)))[:, 2].mean().detach()
    assert made.final_scores.shape == (1,)
    assert float(made.final_scores) == pytest.approx(float(expected), rel=1e-4, abs=1e-5)


def test_the_seed_shifts_the_tiles():
    one, again, other = (dream("2", seed=seed)(PHOTO).tensor for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert bool(dream("2", seed=2**32 - 1)(PHOTO).tensor.isfinite().all())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_any_mode_of_the_caller_will_do(mode):
    drawn = dream("2")
    with mode():
        made = drawn(PHOTO)
    assert torch.equal(made.tensor, drawn(PHOTO).tensor)


def test_files(tmp_path):
    PHOTO.save(tmp_path / "a photo.jpg")
    made = dream("2")(tmp_path / "a photo.jpg", tmp_path / "out")
    assert made.titles == ("a photo, 2, energy",)
    told = json.loads((tmp_path / "out" / "generated.json").read_text())
    assert told["settings"]["photo"] == "a photo.jpg"
    assert len(made.frames) == 2  # one for each octave
    for path in (tmp_path / "out").iterdir():
        if path.suffix in (".png", ".gif"):
            with Image.open(path) as opened:
                opened.load()


@pytest.mark.parametrize("last", [1, 2, 3, 5])
def test_an_interruption_keeps_what_there_is(last, tmp_path):
    def progress(step):
        if step.number == last:
            raise KeyboardInterrupt

    made = dream("2", octaves=3, lr=1e-6, side=60)(PHOTO, tmp_path, progress=progress)
    assert not made.complete
    assert made.scores.shape == (last, 1)
    # so small a change: the photograph itself, as sharp as it is
    expected = PHOTO.resize(made.images[0].size, Image.Resampling.BICUBIC)
    assert float(np.abs(np.asarray(made.images[0], float) - np.asarray(expected, float)).mean()) < 1
    assert made.importance.shape[2:] == made.tensor.shape[2:]
    assert json.loads((tmp_path / "generated.json").read_text())["complete"] is False


def test_nan_keeps_the_last_good_picture(tmp_path):
    class Breaking(nn.Module):
        left = 2

        def __init__(self):
            super().__init__()
            self.body = network()

        def forward(self, x):
            self.left -= 1
            return self.body(x) * (1 if self.left >= 0 else math.nan)

    # pictures smaller than the input: one tile, one call a step
    with pytest.raises(GenerationError, match="step 3") as caught:
        dream(model=small(Breaking()), target=1, octaves=1, steps=5)(PHOTO.resize((14, 10)), tmp_path)
    kept = caught.value.generated
    assert kept.scores.shape == (2, 1)
    assert bool(kept.tensor.isfinite().all())
    assert json.loads((tmp_path / "generated.json").read_text())["complete"] is False


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({}, TargetError, "exactly one of layer, target and objective"),
        ({"layer": "2", "target": 1}, TargetError, "exactly one of layer, target and objective"),
        ({"layer": "22"}, LayerError, "no layer '22'"),
        ({"objective": Energy("x")}, LayerError, "no layer 'x'"),
        ({"layer": network()[2]}, LayerError, "not part of this model"),
        ({"objective": 2}, TypeError, "expected an objective, got 2"),
        ({"objective": "linx - lynx"}, TargetError, "no class named 'linx'; did you mean 'lynx'"),
        ({"target": [1, 2]}, TargetError, "one image has one objective"),
        ({"target": Logit(5)}, TargetError, "class 5 is out of range: the model has 5 classes, 0 to 4"),
        ({"target": Diversity("2")}, TargetError, "DeepDream takes one image"),
        ({"objective": Energy}, TypeError, r"did you mean Energy\(\)"),
        ({"objective": Energy("2") + Diversity("2")}, TargetError, "DeepDream takes one image"),
        ({"target": "linx"}, TargetError, "did you mean 'lynx'"),
        ({"layer": "2", "octaves": 0}, ValueError, "octaves must be at least 1"),
        ({"layer": "2", "steps": 0}, ValueError, "steps must be at least 1"),
        ({"layer": "2", "side": 0}, ValueError, "side must be at least 1"),
        ({"layer": "2", "lr": 0}, ValueError, "lr must be above 0"),
        ({"layer": "2", "lr": math.inf}, ValueError, "at most 1"),
        ({"layer": "2", "lr": math.nan}, ValueError, "at most 1"),
        ({"layer": "2", "seed": 2**32}, ValueError, r"seed must be from 0 to 2\*\*32"),
        ({"layer": "2", "seed": 0.5}, TypeError, "seed must be a whole number, got 0.5"),
        ({"layer": "2", "steps": 2.5}, TypeError, "steps must be a whole number, got 2.5"),
        ({"layer": "2", "side": "9"}, TypeError, "side must be a whole number or None, got '9'"),
        ({"layer": "2", "octave_scale": 1.0}, ValueError, "octave_scale must be above 1"),
        ({"layer": "2", "model": network()}, ModelError, "pass preprocess="),
        ({"layer": "2", "model": 3}, ModelError, "got int"),
    ],
)
def test_mistakes(options, error, words):
    with pytest.raises(error, match=words):
        dream(**options)


def test_mistakes_in_the_call(tmp_path):
    with pytest.raises(ImageError, match="missing"):
        dream("2")("missing.jpg")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        dream("2")(PHOTO, tmp_path / "file")
    without = LoadedModel(network(), "small", Preprocess(16))
    with pytest.raises(TargetError, match="out of range"):
        dream(target=7, model=without)(PHOTO)


def test_a_layer_without_a_gradient():
    class Cut(nn.Module):
        def forward(self, x):
            return x.detach() * torch.ones_like(x, requires_grad=True)

    with pytest.raises(GenerationError, match="no finite gradient"):
        dream("0", model=small(nn.Sequential(Cut(), network())))(PHOTO)


def test_a_model_without_a_graph():
    class Closed(nn.Module):
        body = network()

        def forward(self, x):
            with torch.no_grad():
                return self.body(x)

    with pytest.raises(GenerationError, match="no finite gradient"):
        dream(target=1, model=small(Closed()))(PHOTO)


def test_a_picture_that_never_moved_is_told_of():
    silent = nn.Sequential(nn.Threshold(1e9, 0.0), network())
    with pytest.warns(
        DeepVizWarning, match="zero gradient at every step for image, lynx, so the starting image is shown"
    ):
        dream(target=2, model=small(silent))(PHOTO)


def test_progress_may_look_at_the_dream_of_its_step():
    seen = []
    made = dream("2", octaves=1, steps=2, side=40)(PHOTO, progress=lambda step: seen.append(step.pixels().clone()))
    assert not torch.equal(seen[0], seen[1])
    assert torch.equal(seen[1], made.tensor)


def test_the_former_name_of_target_is_still_accepted():
    with pytest.warns(DeprecationWarning, match="target_class= is deprecated: use target="):
        made = DeepDream(small(), target_class="lynx")
    assert made.target == DeepDream(small(), target="lynx").target
    with pytest.warns(DeprecationWarning, match="use target"):
        assert made.target_class == made.target
