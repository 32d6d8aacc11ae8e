"""Class activation maps of grad-cam 1.5, TorchCAM and Captum: the same numbers where the definition is the same, and a
closed form where it is not."""

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from captum.attr import LayerGradientXActivation
from torch import nn

from deepviz.methods import (
    CAM,
    FEM,
    ISCAM,
    AblationCAM,
    EigenCAM,
    EigenGradCAM,
    FullGrad,
    GradCAM,
    GradCAMPlusPlus,
    HiResCAM,
    LayerCAM,
    RefineCAM,
    ScoreCAM,
    ShapleyCAM,
    XGradCAM,
)
from deepviz.models.torchvision_shim import import_torchvision
from deepviz.objectives import Finer, ReST
from networks import CASES, Case, assert_same

import_torchvision()
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import pytorch_grad_cam as grad_cam
    import torchcam.methods as torchcam
    from pytorch_grad_cam.utils.model_targets import (
        ClassifierOutputReST,
        ClassifierOutputSoftmaxTarget,
        ClassifierOutputTarget,
    )

pytestmark = pytest.mark.filterwarnings("ignore:.*is all zero:deepviz.errors.DeepVizWarning", "ignore:.*not positive")
TARGET = torch.tensor([2, 0, 4])
TOLERANCE = 1e-5


def pooled():
    """The gradient at layer "3" is the same at every position; weights as large as a trained network's."""
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
    model = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(), *head)
    with torch.no_grad():
        model[6].weight.mul_(300)
    return model


POOLED = Case(pooled)


def of_grad_cam(name, model, x, layer, target=ClassifierOutputTarget, **options):
    """Their map before the ReLU and the scaling, (N, 1, h, w)."""
    cls = getattr(grad_cam, name)

    class Raw(cls):
        def get_cam_image(self, *args, **kwargs):
            self.raw = super().get_cam_image(*args, **kwargs)
            return self.raw

    with Raw(model, [model.get_submodule(layer)], **options) as cam:
        cam(x.clone(), [target(int(k)) for k in TARGET])
        return torch.from_numpy(np.asarray(cam.raw)).unsqueeze(1)


def of_torchcam(name, model, x, layer, classes=None, **options):
    """Their map before the scaling."""
    with getattr(torchcam, name)(model, layer, input_shape=tuple(x.shape[1:]), **options) as extractor:
        scores = model(x)
        (cam,) = extractor(class_idx=(TARGET if classes is None else classes).tolist(), scores=scores, normalized=False)
    return cam.unsqueeze(1).detach()


def far(found, other):
    """They differ by more than a tenth, up to a factor."""
    found, other = (each.flatten(1) / each.flatten(1).abs().amax(1, keepdim=True) for each in (found, other))
    return float((found - other).abs().max()) > 0.1


SAME = {
    "GradCAMPlusPlus": GradCAMPlusPlus(layer="3", relu=False),
    "XGradCAM": XGradCAM(layer="3", relu=False),
    "LayerCAM": LayerCAM(layer="3", relu=False),
    "HiResCAM": HiResCAM(layer="3", relu=False),
    "AblationCAM": AblationCAM(layer="3", relu=False),
    "ShapleyCAM": ShapleyCAM(layer="3", relu=False),
}


@pytest.mark.parametrize("name", SAME)
def test_grad_cam_before_its_scaling(name):
    model, x = POOLED.model().eval(), POOLED.images(3)
    assert_same(SAME[name](model, x, TARGET), of_grad_cam(name, model, x, "3"), TOLERANCE)


@pytest.mark.parametrize("name", ["XGradCAM", "LayerCAM", "HiResCAM", "AblationCAM", "ShapleyCAM"])
def test_grad_cam_where_the_gradient_differs_from_place_to_place(name):
    model, x = CASES["plain"].model().eval(), CASES["plain"].images(3)
    assert_same(SAME[name](model, x, TARGET), of_grad_cam(name, model, x, "3"), TOLERANCE)


def test_grad_cams_shapley_cam_of_rest():
    model, x = CASES["plain"].model().eval(), CASES["plain"].images(3)
    theirs = of_grad_cam("ShapleyCAM", model, x, "3", ClassifierOutputReST)
    assert_same(ShapleyCAM(layer="3", relu=False)(model, x, ReST(TARGET)), theirs, TOLERANCE)


def test_grad_cams_score_cam_at_the_size_of_the_image():
    """Elsewhere it enlarges with aligned corners, which moves every cell."""
    model, x = CASES["plain"].model().eval(), CASES["plain"].images(3)
    theirs = of_grad_cam("ScoreCAM", model, x, "1", ClassifierOutputSoftmaxTarget)
    assert_same(ScoreCAM(layer="1", relu=False)(model, x, TARGET), theirs, TOLERANCE)


def test_captums_gradient_times_activation_is_hi_res_cam():
    model, x = CASES["plain"].model().eval(), CASES["plain"].images(3)
    theirs = LayerGradientXActivation(model, model[3]).attribute(x, TARGET).sum(1, keepdim=True).detach()
    assert_same(HiResCAM(layer="3", relu=False)(model, x, TARGET), theirs, TOLERANCE)


@pytest.mark.parametrize(
    ("name", "ours"),
    [("XGradCAM", XGradCAM(layer="3")), ("LayerCAM", LayerCAM(layer="3"))],
)
def test_torchcam_before_its_scaling(name, ours):
    model, x = POOLED.model().eval(), POOLED.images(3)
    assert_same(ours(model, x, TARGET), of_torchcam(name, model, x, "3").relu(), TOLERANCE)


@pytest.mark.parametrize("name", ["XGradCAM", "LayerCAM"])
def test_torchcam_where_the_gradient_differs_from_place_to_place(name):
    model, x = CASES["plain"].model().eval(), CASES["plain"].images(3)
    assert_same(SAME[name](model, x, TARGET).relu(), of_torchcam(name, model, x, "3").relu(), TOLERANCE)


def test_torchcams_cam():
    model, x = POOLED.model().eval(), POOLED.images(3)
    found = CAM(layer="3")(model, x, TARGET)
    theirs = of_torchcam("CAM", model, x, "3", fc_layer="6")
    assert_same(found if float(theirs.min()) < 0 else found.relu(), theirs, TOLERANCE)


def test_torchcams_score_cam_of_logits_at_the_size_of_the_image():
    """Elsewhere it scales a channel before it is enlarged, where the paper scales the enlarged one."""
    model, x = CASES["plain"].model().eval(), CASES["plain"].images(3)
    theirs = of_torchcam("ScoreCAM", model, x, "1")
    assert_same(ScoreCAM(layer="1", value="score")(model, x, TARGET), theirs, TOLERANCE)


@pytest.mark.parametrize(("base", "ours"), [("GradCAM", GradCAM("3")), ("LayerCAM", LayerCAM("3"))])
def test_torchcams_finer_cam(base, ours):
    model, x = CASES["plain"].model().eval(), CASES["plain"].images(3)
    theirs = of_torchcam("FinerCAM", model, x, "3", base_method=getattr(torchcam, base))
    assert_same(ours(model, x, Finer(TARGET)), theirs.relu(), TOLERANCE)


# ------------------------------------------------------------------------------------------------- where peers differ


def test_grad_cams_finer_cam_weights_by_a_softmax_and_differentiates_it():
    """Its target: sum_d p_d (z_c - z_d) / sum_d p_d; of two similar classes with like scores the gradient has a part
    that moves the weights, which grows with the difference of z_c from them."""
    z = torch.tensor([3.0, 1.0, 0.5, -4.0], dtype=torch.float64, requires_grad=True)
    theirs = grad_cam.finer_cam.FinerWeightedTarget(0, [1, 2], 1.0)(z)
    (g,) = torch.autograd.grad(theirs, z)
    w = z[[1, 2]].softmax(0).detach()
    moved = w * (-(z[[1, 2]] - (w * z[[1, 2]]).sum())).detach()
    assert_same(g, torch.tensor([1.0, *(-w + moved).tolist(), 0.0], dtype=torch.float64), 1e-6)


def test_grad_cams_eigen_cams_subtract_the_mean_of_each_channel():
    """EigenCAM's paper projects A itself."""
    model, x = CASES["plain"].model().eval(), CASES["plain"].images(3)
    A = model[:4](x).detach()
    for name, ours, M in (("EigenCAM", EigenCAM(layer="3"), A), ("EigenGradCAM", EigenGradCAM("3", relu=False), None)):
        theirs = of_grad_cam(name, model, x, "3")
        if M is not None:
            rows = M.flatten(2).transpose(1, 2)
            _, _, V = torch.linalg.svd(rows - rows.mean(1, keepdim=True))
            centred = ((rows - rows.mean(1, keepdim=True)) @ V[:, :1].transpose(1, 2)).squeeze(2).view(3, 1, 6, 6)
            assert_same(theirs.abs(), centred.abs(), TOLERANCE)
        assert far(ours(model, x, TARGET), theirs)


def test_grad_cams_fem_weights_activations_by_how_many_are_unusual():
    """The paper: sum_k mean(A_k) [A_k >= mu + k sigma]."""
    model, x = CASES["plain"].model().eval(), CASES["plain"].images(3)
    A = model[:4](x).detach()
    mu, sigma = A.mean((2, 3), keepdim=True), A.std((2, 3), correction=0, keepdim=True)
    share = (mu + 2 * sigma < A).double().mean((2, 3), keepdim=True)
    theirs = of_grad_cam("FEM", model, x, "3")
    assert_same(theirs, (share * A).sum(1, keepdim=True), TOLERANCE)
    assert far(FEM(layer="3", k=2.0)(model, x), theirs)


@pytest.mark.parametrize("case", [POOLED, CASES["plain"]])
def test_torchcams_grad_cam_plus_plus_divides_a_copy(case):
    """The paper: alpha = g^2 / (2 g^2 + g^3 sum_ab A_ab). Its `alpha[mask].div_()` changes a copy, so alpha is g^2."""
    model, x = case.model().eval(), case.images(3)
    A = model[:4](x).detach().requires_grad_()
    (g,) = torch.autograd.grad(model[4:](A).gather(1, TARGET[:, None]).sum(), A)

    def cam(alpha):
        return ((alpha * g.relu()).sum((2, 3), keepdim=True) * A).sum(1, keepdim=True).relu().detach()

    papers = cam(torch.where(g > 0, g**2 / (2 * g**2 + g**3 * A.sum((2, 3), keepdim=True)), 0))
    theirs = of_torchcam("GradCAMpp", model, x, "3").relu()
    assert_same(theirs, cam(g**2), TOLERANCE)
    assert_same(GradCAMPlusPlus(layer="3")(model, x, TARGET), papers, 1e-9)
    assert float((theirs - papers).abs().max() / papers.abs().max()) > 0.1


class Linear(nn.Module):
    """S_c = sum of w_c x over the image: masks by a factor have a score by that factor."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.Conv2d(3, 4, 1), nn.Linear(3 * 36, 5, bias=False)

    def forward(self, x):
        self.layer(x)
        return self.head(x.flatten(1))


def test_torchcams_is_cam_adds_the_strengths_up():
    """Two steps of a half are 0.5 and 1, with the mean 0.75; its are 0.5 and 1.5, with the mean 1."""
    case = Case(Linear, (3, 6, 6))
    model, x = case.model().eval(), case.images(3)
    A = model.layer(x).detach()
    H = (A - A.amin((2, 3), True)) / (A.amax((2, 3), True) - A.amin((2, 3), True))
    f = torch.stack([model.head((x * H[:, k : k + 1]).flatten(1)).gather(1, TARGET[:, None]) for k in range(4)], 1)

    def cam(mean):
        return ((mean * f[..., 0]).softmax(1)[:, :, None, None] * A).sum(1, keepdim=True).relu().detach()

    ours = ISCAM(layer="layer", steps=2, value="score", grid=(6, 6), skip=())
    assert_same(of_torchcam("ISCAM", model, x, "layer", num_samples=2), cam(1.0), TOLERANCE)
    assert_same(of_torchcam("ISCAM", model, x, "layer", num_samples=1), cam(1.0), TOLERANCE)
    assert_same(ours(model, x, TARGET), cam(0.75), 1e-9)


def test_refine_cam_keeps_zero_where_peers_move_it():
    """Theirs scale by minimum and maximum, the least evidence of each map being none; where maps reach zero it is the
    same up to a factor. In grad-cam, the maps that its loop divides by their maximum are thrown away."""
    model, x = CASES["plain"].model().eval(), CASES["plain"].images(3)
    layers, factors = ("1", "3"), []
    for layer in layers:
        M = LayerCAM(layer=layer)(model, x, TARGET)
        low, high = M.amin((2, 3), keepdim=True), M.amax((2, 3), keepdim=True)
        factors.append(F.interpolate((M - low) / (high - low), (12, 12), mode="bilinear"))
    theirs = of_torchcam("RefineCAM", model, x, list(layers), base_method=torchcam.LayerCAM)
    assert_same(theirs, (factors[0] * factors[1]).detach(), TOLERANCE)
    found = RefineCAM(of=LayerCAM(), layers=layers)(model, x, TARGET)
    zero = torch.stack([LayerCAM(layer=layer)(model, x, TARGET).amin((1, 2, 3)) == 0 for layer in layers]).all(0)
    for row in range(3):
        same = float((found[row] - theirs[row]).abs().max()) < TOLERANCE
        assert same == bool(zero[row])


def test_grad_cams_full_grad_scales_each_channel_and_then_the_whole():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(6 * 144, 5),
    ).double().eval()  # fmt: skip
    x = POOLED.images(3)
    with torch.no_grad():
        model[1].running_mean.normal_(0, 0.5, generator=torch.Generator().manual_seed(0))
        model[6].weight.mul_(300)
        model[1].bias.normal_(generator=torch.Generator().manual_seed(1))
    with grad_cam.FullGrad(model, []) as cam:
        theirs = torch.from_numpy(cam(x.clone(), [ClassifierOutputTarget(int(k)) for k in TARGET])).unsqueeze(1)
    found = FullGrad(scale="channel")(model, x, TARGET)
    low, high = found.amin((2, 3), keepdim=True), found.amax((2, 3), keepdim=True)
    assert_same(((found - low) / (high - low)).float(), theirs, TOLERANCE)
    assert float(FullGrad().attribute(model, x, TARGET).notes.rows["completeness gap"].max()) < 1e-9
