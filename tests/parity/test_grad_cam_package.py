"""The grad-cam package: the same map before it is scaled, and what its scaling and its guided model do."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from deepviz.methods import GradCAM, Gradient, GuidedBackprop
from deepviz.models.torchvision_shim import import_torchvision
from networks import CASES, Case, TinyViT, assert_same

import_torchvision()
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from pytorch_grad_cam import GradCAM as TheirGradCAM
    from pytorch_grad_cam import GuidedBackpropReLUModel
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

pytestmark = pytest.mark.filterwarnings("ignore:.*is all zero:deepviz.errors.DeepVizWarning")
TARGET = torch.tensor([2, 0, 4])
MODELS = {
    "plain": (CASES["plain"], "3"),
    "resnet18": (Case(lambda: import_torchvision().models.resnet18(weights=None), (3, 64, 64)), "layer4"),
}


class Raw(TheirGradCAM):
    """Keeps the map as it is before the ReLU and the scaling."""

    def get_cam_image(self, *args, **kwargs):
        self.raw = super().get_cam_image(*args, **kwargs)
        return self.raw


def _theirs(model, x, layer, reshape=None):
    with Raw(model, [model.get_submodule(layer)], reshape_transform=reshape) as cam:
        scaled = cam(x, [ClassifierOutputTarget(int(k)) for k in TARGET])
        return torch.from_numpy(cam.raw).unsqueeze(1), torch.from_numpy(scaled).unsqueeze(1)


@pytest.mark.parametrize("name", MODELS)
def test_the_map_before_scaling(name):
    case, layer = MODELS[name]
    model, x = case.model().eval(), case.images(3)
    raw, _ = _theirs(model, x, layer)
    assert_same(GradCAM(layer=layer, relu=False)(model, x, TARGET), raw, 1e-5)


def test_tokens_need_a_reshape_function_there():
    case = CASES["vit"]
    model, x = case.model().eval(), case.images(3)
    assert isinstance(model, TinyViT)
    raw, _ = _theirs(model, x, "blocks.1.norm1", lambda tokens: tokens[:, 1:].unflatten(1, (3, 4)).movedim(-1, 1))
    assert_same(GradCAM(layer="blocks.1.norm1", relu=False)(model, x, TARGET), raw, 1e-5)
    with pytest.raises(ValueError, match="Invalid grads shape"):
        _theirs(model, x, "blocks.1.norm1")


class Positive(nn.Module):
    """All evidence is for the class: A between 1 and 2, S = mean A."""

    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU()

    def forward(self, x):
        return self.relu(1 + x.sigmoid()).mean((2, 3)).repeat(1, 5)


def test_scaling_by_minimum_and_maximum_moves_zero():
    """Half of the evidence or more lies everywhere, Grad-CAM = A / (h w); scaled, the least of it is drawn as none."""
    x = Case(lambda: None, (1, 6, 7)).images(3)
    model = Positive()
    model.register_parameter("unused", nn.Parameter(torch.zeros(())))  # it asks the parameters for the device
    by_hand = (1 + x.sigmoid()) / 42
    x.requires_grad_()
    _, scaled = _theirs(model, x, "relu")
    assert_same(GradCAM(layer="relu")(model, x, TARGET), by_hand, 1e-12)
    assert (by_hand.amin((1, 2, 3)) >= by_hand.amax((1, 2, 3)) / 2).all()
    assert not scaled.amin((1, 2, 3)).any()


def test_a_layer_that_an_in_place_relu_overwrites():
    """Grad-CAM at the convolution is about its output A; their copy shares A's memory and holds relu(A)."""
    case = Case(lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(inplace=True), *_mean_and_linear()))
    model, x = case.model(), case.images(3)
    A, W = F.conv2d(x, model[0].weight, model[0].bias), model[4].weight[TARGET]
    w = (W[:, :, None, None] * (A > 0) / 100).mean((2, 3), keepdim=True)
    raw, _ = _theirs(model, x, "0")
    assert_same(GradCAM(layer="0", relu=False)(model, x, TARGET), (w * A).sum(1, True).detach(), 1e-12)
    assert_same(raw, (w * A.relu()).sum(1, True).detach(), 1e-5)


def _mean_and_linear():
    return nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)


def _guided(model, x):
    return torch.from_numpy(GuidedBackpropReLUModel(model)(x[:1].clone(), 2)).movedim(-1, 0)[None]


def test_guided_backprop_on_relu_modules():
    model, x = CASES["plain"].model().eval(), CASES["plain"].images(1)
    assert_same(GuidedBackprop()(model, x, 2), _guided(model, x), 1e-5)


def test_its_guided_model_replaces_relu_modules_only_and_for_good():
    case = CASES["skip"]  # F.relu
    model, x = case.model().eval(), case.images(1)
    assert_same(_guided(model, x), Gradient()(model, x, 2), 1e-12)

    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(inplace=True), *_mean_and_linear()).double().eval()
    act = model[1]
    GuidedBackprop()(model, x, 2)
    assert model[1] is act
    _guided(model, x)
    assert model[1] is not act
    assert not model[1].inplace
