"""TorchCAM: the same map where the definition is the same."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from deepviz.methods import GradCAM
from deepviz.models.torchvision_shim import import_torchvision
from networks import CASES, Case, assert_same

import_torchvision()
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torchcam.methods import GradCAM as TorchCAM

pytestmark = pytest.mark.filterwarnings("ignore:.*is all zero:deepviz.errors.DeepVizWarning")
TARGET = torch.tensor([2, 0, 4])
MODELS = {
    "plain": (CASES["plain"], "3"),
    "resnet18": (Case(lambda: import_torchvision().models.resnet18(weights=None), (3, 64, 64)), "layer4"),
}


def _theirs(model, x, layer, reshape=None):
    with TorchCAM(model, layer, reshape_transform=reshape) as extractor:
        (cam,) = extractor(class_idx=TARGET.tolist(), scores=model(x), normalized=False)
    return cam.unsqueeze(1)


@pytest.mark.parametrize("name", MODELS)
def test_the_map_before_scaling(name):
    case, layer = MODELS[name]
    model, x = case.model().eval(), case.images(3)
    assert_same(GradCAM(layer=layer)(model, x, TARGET), _theirs(model, x, layer), 1e-5)


def test_tokens_with_a_reshape_function_there_and_without_one_here():
    case, layer = CASES["vit"], "blocks.1.norm1"
    model, x = case.model().eval(), case.images(3)
    ours = GradCAM(layer=layer)(model, x, TARGET)
    theirs = _theirs(model, x, layer, lambda tokens: tokens[:, 1:].unflatten(1, (3, 4)).movedim(-1, 1))
    assert_same(ours, theirs, 1e-5)
    assert ours.shape == (3, 1, 3, 4)
    assert _theirs(model, x, layer).shape == (3, 1, 8)  # tokens taken as channels, in silence


def test_the_layer_of_a_class_token_vit():
    """Patches of the last block's output do not reach the class token's score; those of its first norm do.

    TorchCAM looks for a 4-D output, which only the patch embedding has, before any block has seen the image.
    """
    case = CASES["vit"]
    model, x = case.model(torch.float32).eval(), case.images(3, torch.float32)
    assert GradCAM().attribute(model, x, TARGET).notes.facts["layer"] == "blocks.1.norm1"
    with TorchCAM(model, input_shape=case.image) as extractor:
        assert extractor.target_names == ["patch"]


def test_a_layer_that_an_in_place_relu_overwrites():
    """Grad-CAM at the convolution is about its output A; their copy shares A's memory and holds relu(A)."""
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)
    case = Case(lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(inplace=True), *head))
    model, x = case.model(), case.images(3)
    A, W = F.conv2d(x, model[0].weight, model[0].bias).detach(), model[4].weight[TARGET].detach()

    def cam(values, on):
        w = (W[:, :, None, None] * on / 100).mean((2, 3), keepdim=True)
        return (w * values).sum(1, True).relu()

    assert_same(GradCAM(layer="0")(model, x, TARGET), cam(A, A > 0), 1e-12)
    theirs = _theirs(model, x, "0")
    error = float((theirs - cam(A, A > 0)).abs().max() / cam(A, A > 0).abs().max())
    assert error > 0.1
