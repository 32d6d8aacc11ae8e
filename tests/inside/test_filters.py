import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import deepviz
from deepviz.errors import LayerError, ModelError
from deepviz.inside import viz_filters
from networks import TinyViT, plain

SMALL = deepviz.Preprocess((8, 12))


class PatchRows(nn.Module):
    """A patch embedding by a linear layer, patches flattened in one of two orders, the image first stretched or not."""

    def __init__(self, order, stretch=False):
        super().__init__()
        self.embed, self.head = nn.Linear(3 * 4 * 4, 6), nn.Linear(6, 2)
        self.order, self.stretch = order, stretch

    def forward(self, x):
        x = (x * 3 + 0.1) if self.stretch else x
        n, c, height, width = x.shape
        patches = x.view(n, c, height // 4, 4, width // 4, 4).permute(self.order).reshape(n, -1, 48)
        return self.head(self.embed(patches).mean(1))


class Late(nn.Module):
    """The first module that it lists is not the first that it calls."""

    def __init__(self):
        super().__init__()
        self.mask = nn.Conv2d(1, 1, 3, padding=1)
        self.never = nn.Conv2d(3, 2, 1)
        self.pad, self.stem = nn.ZeroPad2d(1), nn.Conv2d(3, 4, 3)
        self.depthwise = nn.Conv2d(4, 4, 3, groups=4)

    def forward(self, x):
        x = self.stem(self.pad(x * 2))
        x = self.depthwise(x)
        return (x * self.mask(x[:, :1]).sigmoid()).mean((2, 3))


def test_the_kernels_are_the_weights():
    model = plain()
    filters = viz_filters(model)
    assert filters.layer == "0"
    assert torch.equal(filters.kernels, model[0].weight.detach())
    assert filters.kernels.data_ptr() != model[0].weight.data_ptr()


def test_the_first_convolution_that_is_called_on_the_image():
    model = Late()
    assert viz_filters(model, preprocess=SMALL).layer == "stem"
    with pytest.raises(LayerError, match=r"'mask' \(Conv2d, weight 1 x 1 x 3 x 3\).*; layer 'stem' does"):
        viz_filters(model, "mask", preprocess=SMALL)


def test_without_a_known_size_the_first_that_is_listed():
    assert viz_filters(Late()).layer == "mask"
    assert viz_filters(TinyViT()).kernels.shape == (8, 3, 4, 4)


def test_depthwise_kernels_are_not_of_the_image():
    with pytest.raises(LayerError, match=r"'depthwise' \(Conv2d, weight 4 x 1 x 3 x 3\) is not applied to"):
        viz_filters(Late(), "depthwise", preprocess=SMALL)


def test_a_grey_network():
    filters = viz_filters(plain(channels=1))
    picture = np.asarray(filters.picture(0))
    assert picture.shape == (3, 3, 3)
    assert (picture[..., 0] == picture[..., 1]).all()
    assert "grey" in repr(filters)


@pytest.mark.parametrize("order", [(0, 2, 4, 1, 3, 5), (0, 2, 4, 3, 5, 1), (0, 2, 4, 5, 3, 1)], ids=str)
def test_a_linear_patch_embedding_is_laid_out_as_it_reads(order):
    """A filter, laid on the patch, gives what the layer answers."""
    model = PatchRows(order)
    filters = viz_filters(model, "embed", preprocess=SMALL)
    assert filters.kernels.shape == (6, 3, 4, 4)
    x, found = torch.rand(1, 3, 8, 12), []
    model.embed.register_forward_hook(lambda module, inputs, output: found.append(output))
    with torch.no_grad():
        model(x)
    laid = torch.einsum("kchw,chw->k", filters.kernels, x[0, :, :4, :4]) + model.embed.bias.detach()
    torch.testing.assert_close(found[0][0, 0], laid)


def test_a_linear_layer_that_does_not_take_pixels_as_they_are():
    with pytest.raises(LayerError, match=r"'embed' .* is not applied to the image's colour channels; no convolution"):
        viz_filters(PatchRows((0, 2, 4, 1, 3, 5), stretch=True), "embed", preprocess=SMALL)
    with pytest.raises(LayerError, match=r"'6' \(Linear, weight 5 x 32\) is not applied .*; layer '0' does"):
        viz_filters(plain(), "6", preprocess=SMALL)
    with pytest.raises(LayerError, match="input size is not known: give preprocess="):
        viz_filters(PatchRows((0, 2, 4, 1, 3, 5)), "embed")


def test_layers_without_kernels_of_colours():
    with pytest.raises(LayerError, match=r"layer '1' \(ReLU\) is not applied to the image's colour channels"):
        viz_filters(plain(), "1")
    with pytest.raises(LayerError, match=r"'2' \(Conv2d, weight 8 x 6 x 3 x 3\) .*; layer '0' does"):
        viz_filters(plain(), "2")
    with pytest.raises(LayerError, match="no layer 'stam' in this model; did you mean 'stem'"):
        viz_filters(Late(), "stam")
    with pytest.raises(LayerError, match="name a layer with layer="):
        viz_filters(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)))


def test_zero_is_mid_grey_and_all_kernels_share_their_scale():
    model = nn.Sequential(nn.Conv2d(3, 2, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[2.0, 0.0, -2.0], [1.0, 0.0, 0.0]])[..., None, None])
    filters = viz_filters(model)
    assert filters.scale.high == pytest.approx(2)
    assert filters.picture(0).getpixel((0, 0)) == (255, 128, 1)
    assert filters.picture(1).getpixel((0, 0)) == (192, 128, 128)
    with pytest.raises(LayerError, match="no kernel 2: layer '0' has 2"):
        filters.picture(2)


def test_kernels_that_are_all_zero_are_said_to_be_so():
    model = nn.Sequential(nn.Conv2d(3, 2, 3))
    nn.init.zeros_(model[0].weight)
    filters = viz_filters(model)
    assert filters.picture(1).getcolors() == [(9, (128, 128, 128))]
    assert "weights are all zero" in filters._scale_in_words


def test_enlarged_without_smoothing():
    filters = viz_filters(nn.Sequential(nn.Conv2d(3, 1, 2)))
    known = {colour for _, colour in filters.picture(0).getcolors()}
    page = filters.sheet()
    drawn = {colour for _, colour in page.crop((16, 56, 16 + 64, 56 + 64)).getcolors()}
    assert drawn == known


def test_the_sheet_is_written_and_shown(tmp_path):
    filters = viz_filters(None)
    assert filters.layer == "_conv_stem"
    with Image.open(filters.save(tmp_path / "kernels.png")) as written:
        assert written.size == filters.sheet().size
    assert filters._repr_png_().startswith(b"\x89PNG")
    assert "EfficientNet-Lite0" in filters._repr_html_()


def test_weights_that_are_not_finite_are_named():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    with torch.no_grad():
        net[0].weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(ModelError, match="the weights of layer '0' hold NaN"):
        viz_filters(net)
