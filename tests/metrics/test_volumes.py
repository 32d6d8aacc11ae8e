"""Metrics of maps of volumes (N, C, D, H, W): of one slice they are those of the image, and a planted cube is exact."""

from dataclasses import replace
from math import dist

import numpy as np
import pytest
import torch
from torch import nn

import deepviz
import small_models
from deepviz import catalog
from deepviz.errors import ImageError, TargetError
from deepviz.methods import Gradient, GradTimesImage
from deepviz.metrics import (
    ROAD,
    CentreGaussian,
    Deletion,
    EdgeDetector,
    EnergyInside,
    FaithfulnessCorrelation,
    Infidelity,
    Insertion,
    ParameterRandomization,
    PointingGame,
    RandomMap,
    TopKIntersection,
)
from networks import plain

SHAPE = (6, 12, 16)
CUBE = (slice(4, 6), slice(2, 5), slice(3, 7))
INSIDE = torch.zeros(SHAPE, dtype=torch.bool)
INSIDE[CUBE] = True
X = torch.rand(2, 3, 8, 9, generator=torch.Generator().manual_seed(0))
OF_IMAGES = {"road"}


class OfOneSlice(nn.Module):
    """A network of images, for volumes of one slice."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x.squeeze(2))


class Weighted(nn.Module):
    """Scores (N, 2): a weighted sum of the voxels, and zero."""

    def __init__(self, weights):
        super().__init__()
        self.weights = nn.Parameter(weights)

    def forward(self, x):
        score = (self.weights * x).flatten(1).sum(1)
        return torch.stack([score, torch.zeros_like(score)], 1)


def comparable(cls):
    """The metric with options that mean the same for an image and for a volume of one slice: no blur, and no cube."""
    given = {}
    if issubclass(cls, Insertion):
        given["baseline"] = 0.0
    if issubclass(cls, Infidelity):
        given["perturbation"] = "noise"
    metric = cls(**given)
    if hasattr(metric, "inside"):
        metric = replace(metric, inside=X[:, 0] > 0.5)
    return metric


def of_one_slice(metric):
    return replace(metric, inside=metric.inside.unsqueeze(1)) if hasattr(metric, "inside") else metric


@pytest.mark.parametrize("cls", [cls for cls in catalog.METRICS.values() if 3 in cls.spatial])
@pytest.mark.filterwarnings("ignore::deepviz.DeepVizWarning")
def test_of_a_volume_of_one_slice_it_is_that_of_the_image(cls):
    metric, net = comparable(cls), plain(channels=3)
    volume, of_volumes = X.unsqueeze(2), OfOneSlice(net)
    if metric.judges == "method":
        found, expected = metric(of_volumes, volume, Gradient(), 1), metric(net, X, Gradient(), 1)
    else:
        maps = Gradient()(net, X, 1)
        found, expected = of_one_slice(metric)(of_volumes, volume, maps.unsqueeze(2), 1), metric(net, X, maps, 1)
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-4, abs=1e-6)


def test_all_but_those_that_are_defined_for_images_alone_judge_volumes():
    assert {name for name, cls in catalog.METRICS.items() if 3 not in cls.spatial} == OF_IMAGES


def test_a_metric_of_images_says_so():
    x = torch.rand(1, 1, *SHAPE)
    with pytest.raises(
        ImageError, match=r"ROAD judges maps of images \(N, C, H, W\), not of an input \(1, 1, 6, 12, 16"
    ):
        ROAD()(Weighted(torch.ones(SHAPE)), x, torch.ones_like(x), 0)
    with pytest.raises(ValueError, match=r"metrics judge maps of images .* and some of volumes"):
        Deletion()(plain(channels=3), torch.rand(1, 3, 9), torch.ones(1, 3, 9), 0)


def test_the_margin_of_the_pointing_game_is_a_ball():
    """Against a loop over voxels."""
    one = torch.zeros(5, 6, 7, dtype=torch.bool)
    one[1, 2, 3] = True
    model, x = Weighted(torch.ones(5, 6, 7)), torch.rand(1, 1, 5, 6, 7)
    for place in [(1, 2, 3), (2, 4, 3), (3, 4, 4), (4, 0, 1), (0, 5, 6), (4, 5, 6)]:
        R = torch.zeros_like(x)
        R[(0, 0, *place)] = 1
        for tolerance in range(7):
            hit = PointingGame(inside=one, tolerance=tolerance)(model, x, R, 0).item()
            assert hit == (dist(place, (1, 2, 3)) <= tolerance), (place, tolerance)


def test_a_planted_cube_is_pointed_at_exactly():
    model, x = Weighted(INSIDE.float()), torch.ones(1, 1, *SHAPE)
    R = GradTimesImage()(model, x, 0)
    beside = PointingGame(inside=INSIDE.roll(6, 2), tolerance=0)
    assert PointingGame(inside=INSIDE, tolerance=0)(model, x, R, 0).item() == 1
    assert beside(model, x, R, 0).item() == 0
    assert EnergyInside(inside=INSIDE)(model, x, R, 0).item() == 1
    assert TopKIntersection(inside=INSIDE, k=24)(model, x, R, 0).item() == 1
    assert EnergyInside(inside=INSIDE[None])(model, x, torch.ones_like(R), 0).item() == 24 / INSIDE.numel()


@pytest.mark.parametrize(("metric", "sign"), [(Deletion, 1), (Insertion, -1)])
def test_a_curve_of_a_planted_cube_in_closed_form(metric, sign):
    """With 24 of 1152 voxels, at each of 48 steps 24 voxels are exchanged: the first step takes all of the cube."""
    model, x = Weighted(INSIDE.float()), torch.ones(1, 1, *SHAPE)
    R = GradTimesImage()(model, x, 0)
    curve = metric(steps=48, baseline=0.0, value="score").curve(model, x, R, 0)[0]
    assert curve.tolist() == [24 if sign > 0 else 0] + 48 * [0 if sign > 0 else 24]


def test_a_linear_network_has_no_infidelity_and_full_faithfulness():
    """Of its gradient, whatever cube is taken away; of gradient x image, whatever set of voxels."""
    weights = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    model, x = Weighted(weights), torch.rand(2, 1, *SHAPE)
    assert Infidelity(scaled=False)(model, x, Gradient()(model, x, 0), 0).abs().max() < 1e-6
    faithful = FaithfulnessCorrelation(subsets=20)(model, x, GradTimesImage()(model, x, 0), 0)
    assert faithful.tolist() == pytest.approx([1, 1], abs=1e-6)


def test_a_layers_map_is_enlarged_linearly_along_all_axes():
    """A map of two slices that rises from 0 to 1, of four: 0, 1/4, 3/4, 1."""
    x = torch.zeros(1, 1, 4, 2, 2)
    R = torch.tensor([0.0, 1.0]).view(1, 1, 2, 1, 1)
    inside = torch.zeros(4, 2, 2, dtype=torch.bool)
    inside[1] = True
    assert EnergyInside(inside=inside)(Weighted(torch.ones(4, 2, 2)), x, R, 0).item() == pytest.approx(0.25 / 2)


def test_controls_of_volumes():
    model, x = Weighted(torch.ones(5, 7, 9)), torch.rand(2, 1, 5, 7, 9)
    spot = CentreGaussian()(model, x, 0)[0, 0]
    s = 0.25 * 5
    for place in [(2, 3, 4), (0, 0, 0), (4, 1, 8)]:
        assert spot[place].item() == pytest.approx(np.exp(-(dist(place, (2, 3, 4)) ** 2) / (2 * s**2)), rel=1e-5)
    assert torch.equal(RandomMap()(model, x, 0)[1:], RandomMap()(model, x[1:], 0))
    ramp = torch.arange(5.0)[:, None, None] + 2 * torch.arange(7.0)[:, None] + 2 * torch.arange(9.0)
    edges = EdgeDetector()(model, ramp[None, None], 0)[0, 0]
    # twice the slope along an axis, times 4 x 4 for the smoothing along the others: 32 (1, 2, 2), of length 96
    assert edges[1:-1, 1:-1, 1:-1].unique().tolist() == pytest.approx([96.0])


def test_masks_and_boxes_that_do_not_fit_a_volume():
    model, x = Weighted(torch.ones(SHAPE)), torch.rand(2, 1, *SHAPE)
    for inside, message in (
        (INSIDE[0], r"a mask must be \(6, 12, 16\) or \(2, 6, 12, 16\), as the model's input, got \(12, 16\)"),
        (INSIDE.float(), "a mask must be bool, got float32"),
        (torch.tensor([0, 0, 4, 4]), r"boxes are of images \(N, C, H, W\): of volumes give a bool mask \(6, 12, 16\)"),
    ):
        with pytest.raises(ValueError, match=message):
            PointingGame(inside=inside)(model, x, torch.rand_like(x), 0)
    with pytest.raises(ValueError, match=r"attribution must be \(N, C, D, H, W\) like x .* or \(N, 1, d, h, w\)"):
        Deletion()(model, x, torch.rand(2, 1, 12, 16), 0)


def test_parameter_randomization_compares_slice_beside_slice():
    net = nn.Sequential(nn.Conv3d(1, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(2, 2))
    net, x = small_models.seeded(net), torch.rand(1, 1, *SHAPE, generator=torch.Generator().manual_seed(2))
    for similarity in ("ssim", "hog"):
        curve = ParameterRandomization(similarity=similarity).curve(net, x, Gradient(), 0, maps=True)
        assert curve.maps[0].shape == (1, 12, 6 * 16)
        assert -1 <= curve.similarities.min() <= curve.similarities.max() <= 1


def planted(tmp_path, *values):
    """Files of volumes whose cube has these values."""
    paths = []
    for number, value in enumerate(values):
        paths.append(tmp_path / f"{number}.npy")
        np.save(paths[-1], value * INSIDE.float().numpy())
    return paths


def test_evaluate_of_volumes_in_files(tmp_path):
    """Each image has its own mask, or all of them one."""
    paths = planted(tmp_path, 1.0, 0.9, 0.8)
    metrics = [
        Deletion(steps=48),
        PointingGame(inside=INSIDE, tolerance=0),
        EnergyInside(inside=INSIDE.expand(3, *SHAPE)),
    ]
    found = deepviz.evaluate(small_models.volumes(), paths, "grad-times-image", metrics, target=1)
    assert found.rows == ("Gradient × image", "Random map", "Centred Gaussian", "Edge detector")
    assert (found.values[:, 0, 1:] == 1).all()
    assert (found.values[:, 0, 0] < found.values[:, 1, 0]).all()
    assert found.values[:, 1, 2] == pytest.approx(3 * [24 / 1152], abs=0.01)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"metrics": "road"}, ImageError, "ROAD judges maps of images .*: leave it out"),
        ({"boxes": [[(0, 0, 5, 5)]]}, TargetError, r"0.npy: boxes are of images; of a volume or clip give a bool mask"),
    ],
)
def test_what_is_not_defined_for_volumes_is_refused_before_any_work(tmp_path, given, error, message):
    with pytest.raises(error, match=message):
        deepviz.evaluate(small_models.volumes(), planted(tmp_path, 1.0), "gradient", **given)


@pytest.mark.filterwarnings("ignore::deepviz.DeepVizWarning")
def test_sanity_of_volumes(tmp_path):
    """Integrated gradients of a network of volumes keep what the weights do not say: a map of ones has a similarity."""
    found = deepviz.sanity_check(small_models.volumes(), planted(tmp_path, 1.0), "grad-times-image", target=1, stages=2)
    assert found.similarities["absolute-spearman"].shape == (1, 1, 3)
    assert found.similarities["absolute-spearman"][0, 0, 0] == 1
    assert found.strip().width > 0
