import pytest
import torch
from PIL import Image
from torch import nn

import deepviz
from deepviz.cli import run
from deepviz.errors import NotInImage, TargetError
from deepviz.methods import Gradient, IntegratedGradients
from deepviz.objectives import Output, from_plain, parse, to_plain
from deepviz.probe.seen import Seen
from networks import assert_same

CELL = 4


class PlantedDepth(nn.Module):
    """Of cells of 4 x 4 pixels the mean of red, times 2; so that the mean over k cells has the gradient 2 / 16 / k."""

    def __init__(self, channel=False):
        super().__init__()
        self.channel = channel

    def forward(self, x):
        depth = 2 * nn.functional.avg_pool2d(x, CELL)[:, 0]
        return {"confidence": x.mean((1, 2, 3)), "predicted_depth": depth[:, None] if self.channel else depth}


X = torch.rand(2, 3, 16, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def weights(rows, columns, weight=1.0):
    expected = torch.zeros(2, 3, 16, 24, dtype=torch.float64)
    expected[:, 0, rows[0] * CELL : rows[1] * CELL, columns[0] * CELL : columns[1] * CELL] = weight * 2 / CELL**2
    return expected


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        ((9, 5), weights((1, 2), (2, 3))),
        ((8.9, 4.2), weights((1, 2), (2, 3))),
        ((4, 0, 12, 8), weights((0, 2), (1, 3), 1 / 4)),
        # half of one cell and all of the next
        ((2, 0, 8, 4), weights((0, 1), (0, 1), 1 / 3) + weights((0, 1), (1, 2), 2 / 3)),
        (torch.tensor([[4, 0, 12, 8]] * 2), weights((0, 2), (1, 3), 1 / 4)),
        ((0, 0, 24, 16), weights((0, 4), (0, 6), 1 / 24)),
    ],
    ids=str,
)
@pytest.mark.parametrize("path", [("predicted_depth",), ()], ids=str)
def test_the_gradient_is_that_of_the_mean_over_the_place(path, at, expected):
    for net in (PlantedDepth(), PlantedDepth(channel=True)):
        assert_same(Gradient()(net, X, Output(*path, at=at)), expected, 1e-12)
    total = IntegratedGradients(steps=1)(PlantedDepth(), X, Output(*path, at=at)).flatten(1).sum(1)
    assert_same(total, Output(*path, at=at)(Seen(PlantedDepth()(X), (X,))), 1e-9)


def test_each_row_has_its_own_place_and_each_keypoint_its_own_map():
    heatmaps = torch.rand(2, 5, 4, 6)
    seen = Seen({"heatmaps": heatmaps}, (X,))
    assert_same(Output("heatmaps", 3, at=(9, 5))(seen), heatmaps[:, 3, 1, 2], 1e-6)
    assert_same(Output(3, at=(9, 5))(Seen(heatmaps, (X,))), heatmaps[:, 3, 1, 2], 1e-6)
    places = torch.tensor([[8, 4, 12, 8], [0, 0, 4, 8]])
    expected = torch.stack([heatmaps[0, 3, 1, 2], heatmaps[1, 3, :2, 0].mean()])
    assert_same(Output("heatmaps", 3, at=places)(seen), expected, 1e-6)
    assert_same(Output("heatmaps", 3, at=places).take(torch.tensor([1]))(seen.rows(slice(1, 2))), expected[1:], 1e-6)


def test_a_place_in_a_volume():
    maps = torch.rand(2, 2, 3, 4)
    seen = Seen(maps, (torch.rand(2, 1, 4, 6, 8),))
    assert_same(Output(at=(7, 3, 1))(seen), maps[:, 0, 1, 3], 1e-6)
    assert_same(Output(at=(0, 2, 0, 4, 4, 4))(seen), maps[:, :, 1, :2].mean((1, 2)), 1e-6)


@pytest.fixture
def model():
    preprocess = deepviz.Preprocess((16, 24), crop=0.8, mean=(0, 0, 0), std=(1, 1, 1), interpolation="nearest")
    return deepviz.load_model(PlantedDepth(), preprocess=preprocess)


@pytest.fixture
def picture():
    """300 x 200, of which the model sees (30, 20) to (270, 180): cells of 40 pixels."""
    return Image.new("RGB", (300, 200), (255, 0, 0))


@pytest.mark.parametrize(
    ("target", "label", "cells"),
    [
        ("output('predicted_depth', at=(100, 70))", "output predicted_depth at (100, 70)", [(1, 1)]),
        (
            "output('predicted_depth', at=(70, 60, 150, 140), name='depth', units='m')",
            "depth at (70, 60, 150, 140)",
            [(1, 1), (1, 2), (2, 1), (2, 2)],
        ),
    ],
)
def test_places_are_given_on_the_image(model, picture, target, label, cells):
    objective = parse(target)
    assert parse(str(objective)) == objective == from_plain(to_plain(objective)) == eval(repr(objective))
    (found,) = deepviz.explain(model, picture, "gradient", target=target)
    middles = found.placed()[40:200:40, 50:290:40]
    assert {(row, column) for row in range(4) for column in range(6) if middles[row, column] > 0} == set(cells)
    assert (found.target.label, found.target.score) == (label, pytest.approx(2.0))
    assert str(found.target) == f"{label}: 2{' m' if 'units' in target else ''}"
    at = objective.at
    assert found.target.box == pytest.approx(at if len(at) == 4 else (*at, at[0] + 1, at[1] + 1))
    assert found.overlay().size == (300, 200)


def test_results_keep_their_place(model, picture, tmp_path):
    (one,) = deepviz.explain(model, picture, "gradient", target=Output("predicted_depth", at=(100, 70), units="m"))
    deepviz.save_explanations([one], tmp_path / "depth.deepviz")
    (again,) = deepviz.load_explanations(tmp_path / "depth.deepviz")
    assert again.target == one.target
    assert again.overlay().tobytes() == one.overlay().tobytes()


def test_what_cannot_be_meant(model, picture):
    for at, words in {
        (5, 100): "the model saw nothing at",
        (500, 3): "outside of the image, 300 x 200 pixels",
        (-5, 3): "outside of the image",
    }.items():
        with pytest.raises(NotInImage, match=words):  # other images may have it
            deepviz.explain(model, picture, "gradient", target=Output("predicted_depth", at=at))
    for at in ((1,), (1, 2, 3, 4, 5), (5, 5, 5, 9), (float("nan"), 1)):
        with pytest.raises(ValueError, match=r"at (is|must be) "):
            Output(at=at)
    with pytest.raises(TargetError, match=r"outside of the model's input, 24 x 16 pixels"):
        Gradient()(PlantedDepth(), X, Output(at=(30, 2)))
    with pytest.raises(TargetError, match=r"is \(1,\) numbers a row, and at has 2 axes: name a map"):
        Gradient()(PlantedDepth(), X, Output("confidence", at=(3, 2)))
    with pytest.raises(TargetError, match=r"or at=\(x, y\) on a map"):
        Gradient()(PlantedDepth(), X, Output("predicted_depth"))


def test_without_a_target_the_error_says_how_to_give_a_place(model, picture):
    with pytest.raises(deepviz.errors.ModelError, match=r"Output\('predicted_depth', at=\(x, y\)\)"):
        deepviz.explain(deepviz.load_model(OnlyDepth(), preprocess=model.preprocess), picture, "gradient")


class OnlyDepth(PlantedDepth):
    def forward(self, x):
        return {"predicted_depth": super().forward(x)["predicted_depth"]}


def test_doctor_of_a_depth_model_tries_the_methods_on_a_point(capsys):
    assert run(["doctor", "small_models:no_class_scores"]) == 0
    said = capsys.readouterr().out
    assert "at=(x, y)" in said
    refused = [line.split(": ")[1] for line in said.splitlines() if line.strip().startswith("does not apply")]
    assert refused == ["cam", "attention-rollout, generic-attention, le-grad, token-similarity"]
