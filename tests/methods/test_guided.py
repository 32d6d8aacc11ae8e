import pytest
import torch

from deepviz.methods import (
    FEM,
    GradCAM,
    Gradient,
    Guided,
    GuidedBackprop,
    GuidedGradCAM,
    HiResCAM,
    LayerCAM,
    SmoothGrad,
)
from networks import CASES, assert_same

pytestmark = pytest.mark.filterwarnings("ignore:.*is all zero")


@pytest.mark.parametrize("case", ["plain", "skip", "vit", "in-place"])
def test_with_grad_cam_inside_it_is_guided_grad_cam(case):
    model, x = CASES[case].model(), CASES[case].images(2)
    method = Guided(cam=GradCAM())
    assert_same(method(model, x), GuidedGradCAM()(model, x), 1e-9)
    assert_same(method(model, x, [0, 3]), GuidedGradCAM()(model, x, [0, 3]), 1e-9)


@pytest.mark.parametrize("cam", [LayerCAM(), HiResCAM(relu=False), FEM(), LayerCAM(layers=("1", "3"))], ids=str)
def test_it_is_the_product_of_both_maps(cam):
    model, x = CASES["plain"].model().eval(), CASES["plain"].images(2)
    M = cam(model, x, 1)
    up = torch.nn.functional.interpolate(M, x.shape[2:], mode="bilinear", align_corners=False)
    assert_same(Guided(cam=cam)(model, x, 1), GuidedBackprop()(model, x, 1) * up, 1e-9)


def test_the_layer_method_inside_is_named_and_costs_its_passes():
    assert str(Guided(cam=HiResCAM(relu=False))) == "Guided HiResCAM, relu False"
    assert Guided().passes() == 4
    assert Guided().with_layer("1").cam == LayerCAM(layer="1")
    for other in (Gradient(), SmoothGrad(of=GradCAM())):
        with pytest.raises(ValueError, match="cam must be a layer method, such as"):
            Guided(cam=other)
