"""Inversion: a layer that keeps everything gives the photograph back."""

from dataclasses import replace

import pytest
import torch
from PIL import Image
from torch import nn

import deepviz
from deepviz.errors import DeepVizWarning, ImageError, LayerError, ModelError
from deepviz.models import Preprocess
from deepviz.synthesis import Fourier, Pixels, inversion
from networks import CASES
from small_models import Tinted, network, seeded

SIZE = 12
PREPROCESS = Preprocess(SIZE)
PHOTO = Image.open(deepviz.example_photo()).convert("RGB").resize((40, 36))


def invertible():
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 5)).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        axes = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))[0]
        net[0].weight.copy_(axes[:, :, None, None])
        net[0].bias.zero_()
    return net


class Columns(nn.Module):
    """Patches of 4 x 4 pixels as tokens, listed column by column."""

    def __init__(self):
        super().__init__()
        self.patch, self.tokens, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 8), nn.Linear(8, 5)

    def forward(self, x):
        maps = self.patch(x)
        return self.head(self.tokens(maps.transpose(2, 3).flatten(2).transpose(1, 2)).tanh().mean(1))


@pytest.mark.parametrize("dark", [1.0, 0.3])
@pytest.mark.parametrize("options", [{}, {"canvas": Pixels(), "lr": 0.03}, {"preset": "simonyan", "lr": 1.0}], ids=str)
def test_an_invertible_layer_gives_the_photograph_back(dark, options):
    photo = PHOTO.point(lambda level: round(level * dark))
    made = inversion(invertible(), photo, "0", preprocess=PREPROCESS, steps=300, **options)()
    expected = PREPROCESS.unnormalise(PREPROCESS(photo)[0])
    assert float((made.tensor[0] - expected).abs().mean()) < 0.02
    assert float(made.tensor.mean() - expected.mean()) == pytest.approx(0, abs=0.02)
    assert bool(made.scores[-1] > 0.1 * made.scores[0])
    assert float(made.final_scores) > -0.02


@pytest.mark.parametrize(("case", "layer"), [("plain", "2"), ("vit", "blocks.0"), ("in-place", "first")])
def test_any_layer_is_matched_better_and_better(case, layer):
    preprocess = Preprocess(CASES[case].image[1:])
    made = inversion(CASES[case].model(), PHOTO, layer, preprocess=preprocess, steps=25)()
    assert bool(made.scores[-1] > made.scores[0])
    assert made.titles[0].startswith(f"{layer}, match")


def test_the_photograph_itself_matches_but_for_its_roughness():
    net = invertible()
    x = PREPROCESS(PHOTO)[0].double()
    start = PREPROCESS.unnormalise(x)
    options = {"start": start.clamp(0, 1), "canvas": Pixels(), "steps": 1, "lr": 1e-9}
    made = inversion(net, PHOTO, "0", preprocess=PREPROCESS, **options)()
    assert -0.02 < float(made.scores[0, 0]) <= 0
    made = inversion(net, x, "0", preprocess=PREPROCESS, **options)()  # a tensor is the model's input
    assert -0.02 < float(made.scores[0, 0]) <= 0


def test_what_goes_along_with_the_image_is_matched_too():
    """The layer sees the image times the weights, both of the photograph and of what is drawn."""
    weights = torch.tensor([[0.5, 2.0, -1.0]], dtype=torch.float64)
    model, extra = Tinted(invertible()).eval(), {"weights": weights}
    drawn = inversion(model, PHOTO, "net.0", preprocess=PREPROCESS, extra=extra, steps=300)
    x = PREPROCESS(PHOTO)[0].double()[None]
    (match, *_) = drawn.objectives[0].parts()
    expected = model.net[0](x * weights[:, :, None, None])[0]
    assert torch.allclose(match.activations, expected)
    made = drawn()
    assert float((made.tensor[0] - PREPROCESS.unnormalise(x[0])).abs().mean()) < 0.02
    assert made.settings["extra"] == {"weights": "a tensor (1, 3) of float64"}


def test_the_layer_is_read_as_its_generator_reads_it():
    """Of tokens in an order that only the place check tells, the photograph itself is the best match."""
    net, preprocess = seeded(Columns()), Preprocess(24)
    pixels = preprocess.unnormalise(preprocess(PHOTO)[0]).mul(255).round() / 255
    drawn = inversion(net, preprocess.normalise(pixels), "tokens", preprocess=preprocess, steps=1, start=pixels)
    match, _ = drawn.objectives[0].parts()
    tokens = net.tokens(net.patch(preprocess.normalise(pixels)[None]).movedim(1, 3))[0]
    assert torch.allclose(match.activations, tokens.movedim(2, 0), atol=1e-5)
    with pytest.warns(DeepVizWarning, match="zero gradient at every step"):
        made = replace(drawn, objective=match, canvas=Pixels(), lr=1e-9)()
    assert float(made.scores[0, 0]) == pytest.approx(0, abs=1e-9)


def test_options():
    drawn = inversion(network(), PHOTO, "0", preprocess=PREPROCESS)
    assert (drawn.transforms, drawn.canvas) == ((), Fourier(limit=None))
    drawn = inversion(network(), PHOTO, "0", preprocess=PREPROCESS, preset="maco", seed=4)
    assert (drawn.transforms, drawn.seed, type(drawn.canvas).__name__) == ((), 4, "Magnitude")


def test_a_record_draws_the_same_image():
    net = network()
    made = inversion(net, PHOTO, "2", preprocess=PREPROCESS, steps=3)()
    assert torch.equal(deepviz.ImageGenerator.from_json(made.settings, net)().tensor, made.tensor)


def test_mistakes():
    with pytest.raises(LayerError, match="no layer 'nowhere'"):
        inversion(network(), PHOTO, "nowhere", preprocess=PREPROCESS)
    with pytest.raises(ImageError, match="missing"):
        inversion(network(), "missing.jpg", "0", preprocess=PREPROCESS)
    with pytest.raises(ImageError, match="no preprocessing"):
        inversion(network(), PHOTO, "0")
    with pytest.raises(ModelError, match="pass preprocess="):
        inversion(network(), torch.zeros(3, 16, 16), "0")
