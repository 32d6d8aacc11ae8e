"""Captum: the same numbers where definitions agree, and where they do not, a closed form says who is right."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from captum.attr import (
    Deconvolution as CaptumDeconvolution,
)
from captum.attr import (
    GradientShap,
    GuidedGradCam,
    InputXGradient,
    LayerGradCam,
    NoiseTunnel,
    Saliency,
)
from captum.attr import (
    GuidedBackprop as CaptumGuided,
)
from captum.attr import (
    IntegratedGradients as CaptumIntegrated,
)
from torch import nn

from deepviz.methods import (
    Deconvolution,
    ExpectedGradients,
    GradCAM,
    Gradient,
    GradTimesImage,
    GuidedBackprop,
    GuidedGradCAM,
    IntegratedGradients,
    SmoothGrad,
)
from deepviz.models.torchvision_shim import import_torchvision
from networks import CASES, Case, assert_same

pytestmark = pytest.mark.filterwarnings(
    "ignore:Setting backward hooks on ReLU activations",
    "ignore:Input Tensor 0 did not already require gradients",
    "ignore:.*is all zero:deepviz.errors.DeepVizWarning",
    "ignore:integrated gradients. the map's sum misses:deepviz.errors.DeepVizWarning",
)

TOLERANCE = 1e-5
TARGET = torch.tensor([2, 0, 4])


def _resnet18():
    return import_torchvision().models.resnet18(weights=None)


MODELS = {
    "plain": (CASES["plain"], "3"),
    "in-place and reused": (Case(lambda: _reused(nn.ReLU(inplace=True))), "2"),
    "resnet18": (Case(_resnet18, (3, 64, 64)), "layer4"),
}


def _reused(act):
    head = nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 5)
    return nn.Sequential(nn.Conv2d(3, 6, 3), act, nn.Conv2d(6, 8, 3), act, *head)


def _built(name):
    case, layer = MODELS[name]
    return case.model().eval(), case.images(3), layer


models = pytest.mark.parametrize("name", MODELS)


@models
def test_gradient_is_saliency_without_its_absolute_value(name):
    model, x, _ = _built(name)
    assert_same(Gradient()(model, x, TARGET), Saliency(model).attribute(x, TARGET, abs=False), TOLERANCE)


@models
def test_gradient_times_image_is_input_x_gradient(name):
    model, x, _ = _built(name)
    assert_same(GradTimesImage()(model, x, TARGET), InputXGradient(model).attribute(x, TARGET).detach(), TOLERANCE)


@models
@pytest.mark.parametrize(
    ("rule", "method"),
    [("gauss-legendre", "gausslegendre"), ("midpoint", "riemann_middle"), ("left", "riemann_left")],
)
def test_integrated_gradients_by_the_same_rule(name, rule, method):
    model, x, _ = _built(name)
    steps = 3 if name == "resnet18" else 20
    theirs = CaptumIntegrated(model).attribute(x, x.flip(3), TARGET, method=method, n_steps=steps)
    for row in range(3):  # each row's own baseline
        ours = IntegratedGradients(steps=steps, rule=rule, baseline=x[row].flip(2))
        assert_same(ours(model, x[row : row + 1], int(TARGET[row])), theirs[row : row + 1], TOLERANCE)


@models
def test_expected_gradients_are_gradient_shap_for_the_same_draws(name, monkeypatch):
    model, x, _ = _built(name)
    others, samples = x.flip(3), 12
    for row in range(3):
        a, chosen = [], []
        for sample in range(samples):  # as `ExpectedGradients(seed=0)` draws
            generator = torch.Generator().manual_seed(sample)
            a.append(float(torch.rand((), generator=generator, dtype=torch.float64)))
            chosen.append(int(torch.randint(3, (), generator=generator)))
        monkeypatch.setattr("numpy.random.uniform", lambda *given: np.array(a))  # noqa: B023
        monkeypatch.setattr("numpy.random.choice", lambda *given: np.array(chosen))  # noqa: B023
        one, target = x[row : row + 1], int(TARGET[row])
        theirs = GradientShap(model).attribute(one, others, n_samples=samples, stdevs=0.0, target=target)
        ours = ExpectedGradients(baselines=list(others), samples=samples)(model, one, target)
        assert_same(ours, theirs.detach(), TOLERANCE)


@models
@pytest.mark.parametrize(
    ("ours", "theirs"), [(GuidedBackprop(), CaptumGuided), (Deconvolution(), CaptumDeconvolution)], ids=str
)
def test_rules_on_models_whose_rectifiers_are_relu_modules(name, ours, theirs):
    model, x, _ = _built(name)
    assert_same(ours(model, x, TARGET), theirs(model).attribute(x, TARGET), TOLERANCE)


@models
def test_grad_cam_is_layer_grad_cam_with_its_relu(name):
    model, x, layer = _built(name)
    theirs = LayerGradCam(model, model.get_submodule(layer))
    assert_same(GradCAM(layer=layer, relu=False)(model, x, TARGET), theirs.attribute(x, TARGET).detach(), TOLERANCE)
    ours = GradCAM(layer=layer)(model, x, TARGET)
    assert_same(ours, theirs.attribute(x, TARGET, relu_attributions=True).detach(), TOLERANCE)


@models
def test_guided_grad_cam_with_bilinear_upsampling(name):
    model, x, layer = _built(name)
    theirs = GuidedGradCam(model, model.get_submodule(layer)).attribute(x, TARGET, interpolate_mode="bilinear")
    assert_same(GuidedGradCAM(layer=layer)(model, x, TARGET), theirs.detach(), TOLERANCE)


# ------------------------------------------------------------------------------------------ where Captum differs


class OneLayer(nn.Module):
    """S = V a(W x): both rules are one line by hand."""

    def __init__(self, act, skip=0.0):
        super().__init__()
        self.W, self.V = nn.Linear(6, 20, bias=False), nn.Linear(20, 3, bias=False)
        self.act, self.skip = act, skip

    def forward(self, x):
        h = self.W(x.flatten(1))
        return self.V(self.act(h) + self.skip * h)


def _one_layer(act, skip=0.0):
    case = Case(lambda: OneLayer(act, skip), (1, 2, 3))
    model, x = case.model().eval().requires_grad_(False), 4 * case.images(4)
    return model, x, x.flatten(1) @ model.W.weight.T, model.V.weight[1]


UNSEEN = {
    "F.relu": (F.relu, float("inf")),
    "x.relu()": (lambda h: h.relu(), float("inf")),
    "torch.relu": (torch.relu, float("inf")),
    "clamp(min=0)": (lambda h: h.clamp(min=0), float("inf")),
    "nn.ReLU6": (nn.ReLU6(), 2.0),
    "nn.Hardtanh(0, 2)": (nn.Hardtanh(0, 2), 2.0),
}


@pytest.mark.parametrize("spelling", UNSEEN)
def test_captum_hooks_relu_modules_only_and_answers_a_plain_gradient_for_the_rest(spelling):
    act, high = UNSEEN[spelling]
    model, x, h, R = _one_layer(act)
    high = 6.0 if spelling == "nn.ReLU6" else high
    by_hand = (((h > 0) & (h < high)) * R.clamp(min=0)) @ model.W.weight
    plain = Gradient()(model, x, 1)
    assert_same(GuidedBackprop()(model, x, 1).flatten(1), by_hand.detach(), 1e-12)
    assert_same(CaptumGuided(model).attribute(x, 1), plain, 1e-12)
    assert_same(CaptumDeconvolution(model).attribute(x, 1), plain, 1e-12)
    assert float((plain.flatten(1) - by_hand).abs().max() / by_hand.abs().max()) > 0.1


def test_captum_clamps_the_whole_gradient_of_a_tensor_that_feeds_a_relu_and_a_skip():
    """y = relu(h) - 2 h. The rule is about the ReLU: R_h = [h > 0] [R > 0] R - 2 R, whose second part has any sign."""
    model, x, h, R = _one_layer(nn.ReLU(), skip=-2.0)
    by_hand = ((h > 0) * R.clamp(min=0) - 2 * R) @ model.W.weight
    captums = ((h > 0) * R - 2 * R).clamp(min=0) @ model.W.weight
    assert_same(GuidedBackprop()(model, x, 1).flatten(1), by_hand.detach(), 1e-12)
    assert_same(CaptumGuided(model).attribute(x, 1).flatten(1), captums.detach(), 1e-12)
    assert float((captums - by_hand).abs().max() / by_hand.abs().max()) > 0.1


@pytest.mark.parametrize("n", [5, 50])
def test_captums_trapezoid_weights_sum_to_less_than_one(n):
    """On a linear network integrated gradients are x w for every rule; n weights of 1/n with halved ends give less."""
    case = Case(lambda: nn.Sequential(nn.Flatten(), nn.Linear(6, 3)), (1, 2, 3))
    model, x = case.model(), case.images(2)
    exact = (x * model[1].weight[1].view(1, 2, 3)).detach()
    assert_same(IntegratedGradients(steps=n, rule="trapezoid")(model, x, 1), exact, 1e-12)
    theirs = CaptumIntegrated(model).attribute(x, target=1, method="riemann_trapezoid", n_steps=n)
    assert_same(theirs, exact * (n - 1) / n, 1e-6)


def test_captums_smoothgrad_averages_absolute_values_unless_told_otherwise():
    """The mean of signed gradients of a linear network is w; `Saliency` inside `NoiseTunnel` takes |.| first."""
    case = Case(lambda: nn.Sequential(nn.Flatten(), nn.Linear(6, 3)), (1, 2, 3))
    model, x = case.model(), case.images(1)
    w = model[1].weight[1].view(1, 1, 2, 3).detach()
    assert (w < 0).any()
    assert_same(SmoothGrad(samples=3)(model, x, 1), w, 1e-12)
    assert_same(NoiseTunnel(Saliency(model)).attribute(x, nt_samples=3, target=1), w.abs(), 1e-12)
    assert_same(NoiseTunnel(Saliency(model)).attribute(x, nt_samples=3, target=1, abs=False), w, 1e-12)


def test_captums_noise_has_deviation_one_whatever_the_range_of_the_image():
    """S = w x^2 / 2 has the gradient w x, whose variance under noise of deviation s is w^2 s^2."""

    class Quadratic(nn.Module):
        def forward(self, x):
            return (x.flatten(1) ** 2 / 2).sum(1, keepdim=True).expand(-1, 2)

    x = 0.01 * Case(lambda: None, (1, 8, 8)).images(1)
    s = 0.15 * float(x.max() - x.min())
    ours = SmoothGrad(samples=200, statistic="variance")(Quadratic(), x, 1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = NoiseTunnel(Saliency(Quadratic())).attribute(x, nt_type="vargrad", nt_samples=200, target=1, abs=False)
    assert float(ours.mean()) == pytest.approx(s**2, rel=0.05)
    assert float(theirs.mean()) == pytest.approx(1, rel=0.05)


def test_captums_guided_grad_cam_repeats_pixels_unless_told_otherwise():
    model, x, layer = _built("plain")
    theirs = GuidedGradCam(model, model.get_submodule(layer)).attribute(x, TARGET)
    G, cam = GuidedBackprop()(model, x, TARGET), GradCAM(layer=layer)(model, x, TARGET)
    assert_same(theirs.detach(), G * F.interpolate(cam, x.shape[2:], mode="nearest"), TOLERANCE)
    bilinear = G * F.interpolate(cam, x.shape[2:], mode="bilinear", align_corners=False)
    assert_same(GuidedGradCAM(layer=layer)(model, x, TARGET), bilinear, 1e-12)
