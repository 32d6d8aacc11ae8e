"""Files that version 0.1 wrote are read as it read them."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import deepviz
from deepviz import load_explanations
from deepviz.methods import GradCAM, IntegratedGradients, SmoothGrad

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="module")
def stored():
    return load_explanations(DATA / "stored_0_1.deepviz")


def test_methods_come_back_with_their_options(stored):
    cam, smooth, tensor = (one.method for one in stored)
    assert cam == GradCAM(layer="1", relu=False)
    assert smooth == SmoothGrad(of=IntegratedGradients(steps=3, baseline="black"), samples=4, noise=0.25)
    assert str(tensor).startswith("Integrated gradients, steps 3, baseline tensor (3, 1, 1)")  # 0.1 kept no tensors
    assert [one.view for one in (cam, smooth, tensor)] == ["sum", "sum", "sum"]
    assert [one.coarse for one in stored] == [True, False, False]
    assert [one.title for one in stored][:2] == [
        "Grad-CAM, relu False",
        "SmoothGrad of Integrated gradients, steps 3, baseline black, samples 4, noise 0.25",
    ]


def test_maps_and_photographs_have_their_values(stored):
    assert [tuple(one.attribution.shape) for one in stored] == [(1, 14, 14), (3, 16, 16), (3, 16, 16)]
    cam, smooth, _ = (one.attribution for one in stored)
    assert cam.flatten()[:3].tolist() == pytest.approx([0.00119044, 0.00132816, 0.00252377], abs=1e-7)
    assert float(cam.sum()) == pytest.approx(0.215918, abs=1e-4)
    assert (float(smooth.min()), float(smooth.max())) == pytest.approx((-0.0232385, 0.0297537), abs=1e-6)
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    for one in stored:
        assert np.array_equal(np.asarray(one.image), pixels)
        assert one.geometry.size == (16, 16)
        assert one.geometry.box == pytest.approx((0.888889, 0.888889, 15.111111, 15.111111), abs=1e-5)


def test_targets_and_notes_come_back(stored):
    for one in stored[:2]:
        assert (one.target.index, one.target.label) == (3, "class 3")
        assert one.target.probability == pytest.approx(0.23159218)
        assert one.target.score == pytest.approx(0.13600463)
    assert stored[0].layer == "1"
    assert stored[0].notes["grid"] == "14 x 14, channels first"
    assert stored[1].notes["standard error"] == pytest.approx(0.24347566)
    assert stored[2].target.index is None
    assert all(one.versions["deepviz"] == "0.1.0" and one.model == "Sequential (as given)" for one in stored)


def test_a_generation_record_draws_the_same_image_again():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(4 * 16, 5)
    ).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", deepviz.DeepVizWarning)  # other threads or versions than it was drawn with
        again = deepviz.ImageGenerator.from_json(DATA / "generated_0_1.json", model=net)
    assert (again.steps, again.lr, again.seed, str(again.canvas)) == (
        3,
        0.1,
        0,
        "Fourier(decay=1.0, noise=0.5, limit=1.0)",
    )
    assert float(again().final_scores[0]) == pytest.approx(0.0141885, rel=1e-3)
