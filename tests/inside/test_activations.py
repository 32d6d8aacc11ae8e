import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import deepviz
from deepviz.errors import ImageError, LayerError, OutputError
from deepviz.inside import viz_activations
from deepviz.models import LoadedModel
from networks import CASES, InPlaceAndReused, TinyViT, assert_same, plain
from small_models import PREPROCESS, network, seeded


def patterns(*patterns):
    """A model whose layer "0" answers with these maps (h, w), whatever the image."""

    class Layer(nn.Module):
        def forward(self, x):
            return torch.stack([torch.as_tensor(pattern, dtype=torch.float32) for pattern in patterns])[None]

    return nn.Sequential(Layer(), nn.Flatten())


def test_the_maps_are_what_the_layer_answers():
    model, x = plain(), torch.rand(3, 12, 12)
    with torch.no_grad():
        expected = model.eval()[:3](x[None])[0]
    activations = viz_activations(model, x, "2")
    assert activations.maps.shape == (8, 6, 6)
    assert_same(activations.maps, expected, 1e-6)
    assert_same(viz_activations(model, x, model[2]).maps, expected, 1e-6)
    assert not activations.maps.requires_grad


def test_what_a_layer_answers_is_not_what_becomes_of_it_in_place():
    model = InPlaceAndReused()
    assert float(viz_activations(model, torch.rand(3, 12, 12), "first").maps.min()) < 0
    assert float(viz_activations(model, torch.rand(3, 12, 12), "act#2").maps.min()) >= 0


def test_the_strongest_channels_go_first():
    zero, weak = np.zeros((2, 2)), np.full((2, 2), 0.1)
    # a mean of 1 beats a peak of 2, and what is below zero does not count
    model = patterns(zero, [[2, 0], [0, -9]], np.ones((2, 2)), weak)
    image = torch.rand(3, 4, 4)
    assert viz_activations(model, image, "0").order == (2, 1, 3, 0)
    assert viz_activations(model, image, "0", 2).order == (2, 1)
    assert viz_activations(model, image, "0", [3, 0]).order == (3, 0)
    assert viz_activations(model, image, "0", "top").order == (2, 1, 3, 0)
    assert viz_activations(model, image, "0").strengths.tolist() == pytest.approx([0, 0.5, 1, 0.1])


def test_all_channels_are_kept_and_sixteen_shown():
    model = nn.Sequential(nn.Conv2d(3, 20, 3), nn.Flatten(), nn.LazyLinear(2))
    x = torch.rand(3, 8, 8)
    model(x[None])
    everything, top = viz_activations(model, x, "0"), viz_activations(model, x, "0", "top")
    assert (len(everything.maps), len(everything.order), everything.shown) == (20, 20, 16)
    assert (len(top.maps), top.order) == (20, everything.order[:16])
    assert everything.sheet().size == top.sheet().size


def test_silent_channels_are_said_to_be_so():
    model = patterns(np.zeros((3, 3)), np.ones((3, 3)))
    activations = viz_activations(model, torch.rand(3, 6, 6), "0")
    assert activations.silent == (0,)
    assert "2 channels, 1 of them silent" in repr(activations)
    assert activations.scale(0).note == "all zero"
    assert "1 of 2 channels are zero everywhere" in activations._repr_html_()


def test_a_map_with_negative_values_is_drawn_about_zero_and_each_has_its_own_scale():
    activations = viz_activations(patterns([[1.0, -4.0]], [[0.5, 0.25]]), torch.rand(3, 4, 8), "0")
    assert [(activations.scale(k).low, activations.scale(k).high) for k in (0, 1)] == [(-4, 4), (-0.5, 0.5)]
    assert viz_activations(patterns([[1.0, 3.0]]), torch.rand(3, 4, 8), "0").scale(0).low == 0


def test_maps_lie_on_the_photograph_where_the_model_looked():
    loaded = LoadedModel(network(), "small", PREPROCESS)
    with Image.open(deepviz.example_photo()) as photo:
        size = photo.size
    activations = viz_activations(loaded, deepviz.example_photo(), "3")
    strongest = activations.order[0]
    assert activations.overlay(strongest).size == size
    left, top, right, bottom = activations.geometry.box
    assert activations.heatmap(strongest).size == (round(right - left), round(bottom - top))
    assert (activations.source, activations.model) == ("chelsea.png", "small")


def test_a_peak_is_drawn_where_it_is():
    peak = torch.zeros(4, 4)
    peak[3, 0] = 1
    picture = np.asarray(viz_activations(patterns(peak), torch.rand(3, 40, 40), "0").heatmap(0).convert("L"), float)
    row, column = np.unravel_index(picture.argmax(), picture.shape)
    assert row >= 30
    assert column < 10


def test_tokens_are_laid_out_on_their_grid():
    model = TinyViT().eval()
    x = torch.rand(3, 12, 16)
    with torch.no_grad():
        patches = model.patch(x[None])
        tokens = torch.cat([model.cls, patches.flatten(2).transpose(1, 2)], 1) + model.position
        expected = model.blocks[0](tokens)[0, 1:].reshape(3, 4, 8).permute(2, 0, 1)
    activations = viz_activations(model, x, "blocks.0")
    assert_same(activations.maps, expected, 1e-5)
    assert str(activations.grid) == "3 x 4 + 1 other token, tokens"


def test_parts_of_pytorchs_own_transformer_layers_answer_too():
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.patch = nn.Conv2d(3, 8, 4, stride=4)
            self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
            self.head = nn.Linear(8, 2)

        def forward(self, x):
            return self.head(self.layer(self.patch(x).flatten(2).transpose(1, 2)).mean(1))

    assert viz_activations(Encoder(), torch.rand(3, 12, 12), "layer.linear2").maps.shape == (8, 3, 3)


def test_channels_last_and_a_model_that_takes_views():
    model, x = CASES["viewing"].model(), CASES["viewing"].images(1)[0]
    assert viz_activations(model, x, "conv2").maps.shape == (6, 3, 3)


@pytest.mark.parametrize(
    ("layer", "channels", "message"),
    [
        ("7", None, r"no layer '7' in this model"),
        ("6", None, r"layer '6' has no spatial map: its output is a tensor \(1, 5\)"),
        ("2", [0, 8], r"channel 8 is out of range: layer '2' has 8, 0 to 7"),
        ("2", [-1], r"channel -1 is out of range"),
        ("2", [0.5], r"a channel is a whole number, got 0.5"),
        ("2", "best", r"'top' or None, got 'best'"),
        ("2", 0, r"channels must be at least 1, got 0; for channel 0 give a list"),
        ("2", [], r"channels is an empty list"),
        ("2#2", None, r"layer '2#2' is only 1 times called"),
    ],
)
def test_what_is_not_there_is_a_layer_error(layer, channels, message):
    with pytest.raises(LayerError, match=message):
        viz_activations(plain(), torch.rand(3, 12, 12), layer, channels)


def test_a_misspelt_layer_has_its_nearest_names():
    with pytest.raises(LayerError, match="did you mean 'second'"):
        viz_activations(InPlaceAndReused(), torch.rand(3, 12, 12), "secnd")


def test_a_layer_that_answers_nan_is_an_error():
    with pytest.raises(LayerError, match="layer '0' returns NaN or infinity"):
        viz_activations(patterns([[float("nan"), 1.0]]), torch.rand(3, 4, 8), "0")


def test_a_bad_image_is_an_image_error(tmp_path):
    with pytest.raises(ImageError, match="has no preprocessing"):
        viz_activations(plain(), deepviz.example_photo(), "2")
    with pytest.raises(ImageError, match="does not exist"):
        viz_activations(LoadedModel(network(), "small", PREPROCESS), tmp_path / "none.png", "2")
    with pytest.raises(TypeError, match="swapped"):
        viz_activations(torch.rand(3, 12, 12), plain(), "2")


def test_channels_of_a_volume_are_refused():
    net = nn.Sequential(nn.Conv3d(1, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(2, 3))
    loaded = LoadedModel(seeded(net), "small", deepviz.VolumePreprocess())
    with pytest.raises(LayerError, match=r"layer '0' has maps \(2, 4, 5, 6\) of an input \(1, 6, 7, 8\): channels are"):
        viz_activations(loaded, np.random.default_rng(0).random((6, 7, 8)), "0")


def test_an_input_that_cannot_be_shown_gives_grey(tmp_path):
    case = CASES["odd"]
    activations = viz_activations(case.model(), case.images(1)[0], "2")
    assert activations.image.getcolors() == [(17 * 23, (128, 128, 128))]
    assert activations.save(tmp_path / "maps.png").stat().st_size > 0


def test_the_sheet_is_written_and_shown(tmp_path):
    activations = viz_activations(seeded(plain()), torch.rand(3, 12, 12), "3", [1, 0])
    with Image.open(activations.save(tmp_path / "new" / "maps.jpg")) as written:
        assert written.size == activations.sheet().size
    assert activations._repr_png_().startswith(b"\x89PNG")
    with pytest.raises(OutputError, match="the ending must be one of"):
        activations.save(tmp_path / "maps.gif")
