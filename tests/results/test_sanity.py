"""What is left of maps when layers are random: exact on networks small enough, and kept apart from the model."""

import json
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

import deepviz
from deepviz import catalog
from deepviz.errors import DeepVizWarning
from deepviz.methods import GradCAM, Gradient, GuidedBackprop, SmoothGrad
from deepviz.metrics import EdgeDetector
from deepviz.metrics.controls import Control
from deepviz.metrics.similarity import SIMILARITIES
from deepviz.models.weights import weights_hash
from deepviz.probe.randomise import randomised
from deepviz.results.dependence import FEWEST_IMAGES, Verdict
from deepviz.results.sanity import key_of
from deepviz.runs.verdicts import recall, remember
from networks import assert_same
from small_models import LayerBySize, good, network, no_rectifier, softmax

X = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_a_network_of_one_layer_is_exact():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 4))
    x = torch.rand(1, 3, 8, 8)
    found = deepviz.sanity_check(model, x, Gradient(), target=2)
    (stage,) = randomised(model, x)
    maps = [layer.weight[2].detach().view(1, 3, 8, 8).abs().amax(1) for layer in (model[1], stage.model[1])]
    assert found.stages == ("trained", "1")
    for name, similarity in SIMILARITIES.items():
        assert found.similarities[name][0, 0].tolist() == pytest.approx([1, float(similarity(*maps)[0])], abs=1e-6)


def test_each_stage_is_the_methods_map_of_that_copy_for_the_class_of_the_trained_network():
    model = network()
    found = deepviz.sanity_check(model, X, [Gradient(), GradCAM()], stages=3, seed=5)
    assert found.shares == pytest.approx((0, 1 / 3, 2 / 3, 1))
    for row, x in enumerate(X):
        predicted = int(model(x[None]).argmax())
        for number, stage in enumerate(randomised(model, x[None], stages=3, seed=5), 1):
            for method, history in zip([Gradient(), GradCAM("3")], found.examined[row].maps, strict=True):
                assert history[0].target.index == predicted
                assert_same(history[number].attribution, method(stage.model, x[None], predicted)[0], 1e-6)


def test_a_method_that_does_not_look_at_the_model_keeps_all_of_its_map():
    found = deepviz.sanity_check(network(), torch.rand(8, 3, 32, 32), EdgeDetector(), stages=2)
    for values in found.similarities.values():
        assert values == pytest.approx(np.ones((8, 1, 3)))
    assert found.verdicts["Edge detector"].endswith("it does not depend on what this network learned")


def test_layers_one_step_at_a_time():
    found = deepviz.sanity_check(network(), X, Gradient(), stages=3, cascading=False)
    (history,) = found.examined[0].maps
    for number, stage in enumerate(randomised(network(), X[:1], stages=3, cascading=False), 1):
        expected = Gradient()(stage.model, X[:1], history[0].target.index)[0]
        assert_same(history[number].attribution, expected, 1e-6)
    assert found.kept()[0] == pytest.approx(found.similarities["absolute-spearman"][:, 0, 1:].mean())


def test_the_model_is_given_back_bit_for_bit():
    model = network().train()
    fingerprint, state = weights_hash(model), torch.get_rng_state()
    deepviz.sanity_check(model, X, [Gradient(), SmoothGrad(samples=2)], stages=2)
    assert weights_hash(model) == fingerprint
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)


def test_a_method_inside_another_stays_at_the_layer_that_it_found():
    found = deepviz.sanity_check(network(), X[:1], SmoothGrad(of=GradCAM(), samples=2), stages=1)
    (history,) = found.examined[0].maps
    assert [one.layer for one in history] == ["3", "3"]


def test_a_verdict_is_about_one_layer_and_images_of_another_are_left_out():
    """The layer that is found depends on the size of the image."""
    generator = torch.Generator().manual_seed(0)
    small, *large = (torch.rand(3, size, size, generator=generator) for size in (16, 32, 32))
    method = GradCAM(relu=False)
    found = deepviz.sanity_check(LayerBySize(), [small, *large], [method, Gradient()], stages=2, target=0)
    alone = deepviz.sanity_check(LayerBySize(), large, method, stages=2, target=0)
    assert [one.layers[0] for one in found.examined] == ["fine", "coarse", "coarse"]
    assert found.keys == (catalog.key(GradCAM("coarse", relu=False)), catalog.key(Gradient()))
    (of_alone,) = alone.by_key.values()
    for part in ("half", "all"):
        assert found.by_key[found.keys[0]][part] == pytest.approx(of_alone[part])
    assert len(found.by_key[found.keys[0]]["all"]) == 2
    assert len(found.by_key[found.keys[1]]["all"]) == 3
    assert found.blank == (0, 0)
    assert "layer coarse: images in which it found another (fine) are left out" in found.footnote
    assert found.as_json()["layers of images"][0] == ["fine", None]
    assert alone.remarks == ()


def test_what_does_not_apply_has_no_verdict():
    with pytest.warns(DeepVizWarning, match="left out"):
        found = deepviz.sanity_check(no_rectifier(), X, [GuidedBackprop(), Gradient()], stages=1)
    assert list(found.verdicts) == ["Gradient"]
    assert np.isnan(found.similarities["ssim"][:, 0]).all()
    assert found.strip().width > 100
    assert len(found.plot().axes[0].lines) == 2  # the gradient's curve, and the line at zero


@pytest.mark.parametrize(
    ("half", "whole", "said"),
    [
        (0.9, 0.9, "does not depend on what this network learned"),
        (0.9, 0.3, "hardly depends on what the upper layers"),
        (0.4, 0.1, "in part"),
        (0.1, 0.4, "in part"),
        (0.2, 0.1, "depends on what this network learned"),
    ],
)
def test_verdicts_in_words(half, whole, said):
    verdict = Verdict.of(FEWEST_IMAGES * [half], FEWEST_IMAGES * [whole])
    assert said in str(verdict)
    assert f"similarity {half:.2f}" in str(verdict)
    few = str(Verdict.of([half], [whole]))
    assert few.endswith("a verdict takes at least 8 images")
    assert "depend" not in few


def test_negative_correlations_are_no_similarity():
    both, whole = (Verdict.of(8 * [half], 8 * [-0.37]) for half in (-0.2, float("nan")))
    assert str(both).startswith("unrelated to the original map with random layers: it depends")
    assert "-0.37" not in str(whole)
    assert "unrelated with all" in str(Verdict.of(8 * [0.2], 8 * [-0.37]))


def test_everything_but_the_maps_is_plain_for_json():
    found = deepviz.sanity_check(good(), X, ["gradient"], stages=2)
    kept = json.loads(json.dumps(found.as_json()))
    assert kept["weights"] == weights_hash(good().module)
    assert np.array(kept["similarities"]["ssim"]) == pytest.approx(found.similarities["ssim"])
    assert kept["stages"][0] == "trained"


def test_the_strip_has_a_row_for_each_method_and_the_curves_a_line():
    found = deepviz.sanity_check(network(), X[:1], ["gradient", "grad-cam"], stages=4)
    one = deepviz.sanity_check(network(), X[:1], ["gradient"], stages=4)
    assert found.strip().width == one.strip().width
    assert found.strip().height > one.strip().height
    assert len(found.plot().axes[0].lines) == 3


def test_what_comes_from_outside_is_escaped_in_a_notebook():
    @dataclass(frozen=True)
    class Bold(Gradient):
        title: ClassVar[str] = "<b>"

    found = deepviz.sanity_check(network(), X[:1], Bold(), stages=1)
    assert "<b>" not in found._repr_html_()
    assert "&lt;b&gt;" in found._repr_html_()


def test_what_a_method_keeps_is_remembered_by_the_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = deepviz.sanity_check(network(), X, ["gradient"], stages=2)
    assert recall(found.key) == {}
    path = remember(found)
    assert path.is_relative_to(tmp_path)
    assert found.fingerprint in path.name
    assert recall(found.key)[catalog.key(Gradient())] == {
        "half": pytest.approx(found.similarities["absolute-spearman"][:, 0, 1].tolist(), abs=1e-4),
        "all": pytest.approx(found.similarities["absolute-spearman"][:, 0, 2].tolist(), abs=1e-4),
        "share": found.shares[1],
    }
    remember(replace(found, keys=("other()",)))
    assert set(recall(found.key)) == {catalog.key(Gradient()), "other()"}
    one = deepviz.sanity_check(network(), X[:1], ["gradient"], stages=2, seed=3)
    before = recall(one.key)
    remember(one)
    assert recall(one.key) == before, "what more images have said stays"
    path.write_text("{broken")
    assert recall(found.key) == {}


def test_networks_of_the_same_weights_are_told_apart():
    """A softmax at the end has none of its own, and another preprocessing none either."""
    loaded = good()
    keys = {
        key_of(loaded),
        key_of(softmax()),
        key_of(replace(loaded, preprocess=replace(loaded.preprocess, crop=0.5))),
        key_of(good()),
    }
    assert len(keys) == 3
    assert len({weights_hash(one.module) for one in (loaded, softmax())}) == 1


class Dying(nn.Module):
    """Answers by its positive part alone: with other weights often not at all."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 2, 1)
        nn.init.constant_(self.layer.weight, 1.0)
        nn.init.constant_(self.layer.bias, 0.0)
        self.head = nn.Linear(2, 2)

    def forward(self, x):
        return self.head(torch.relu(self.layer(x) - 0.4).mean((2, 3)))


@dataclass(frozen=True)
class Positive(Control):
    """The first layer's positive part: blank if there is none."""

    title: ClassVar[str] = "Positive part"

    def maps(self, session):
        x = session.image()
        session.decide()
        return torch.relu(session.model.layer(x) - 0.4).sum(1, keepdim=True).detach()

    def of_images(self, x):
        raise NotImplementedError


def test_a_blank_map_is_nothing_to_compare():
    """It is no praise that the map is gone: it is said, and left out of the mean."""
    x = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    x[1] *= 0.01  # below the threshold from the start
    with pytest.warns(DeepVizWarning):
        found = deepviz.sanity_check(Dying(), x, Positive(), stages=2, seed=1)
    assert np.isnan(found.similarities["ssim"][1]).all()
    assert found.blank[0] >= 1
    if found.blank[0] == 1:
        assert found.verdicts["Positive part"].endswith("(1 of 2 images left out: a map is blank there)")
        assert found.kept()[0] == found.similarities["absolute-spearman"][0, 0, -1]
    with pytest.warns(DeepVizWarning):
        none = deepviz.sanity_check(Dying(), x[1:], Positive(), stages=2)
    assert none.verdicts == {"Positive part": "its map is blank with all layers random, so it cannot be compared"}
    assert none.summary == {}
    assert json.loads(json.dumps(none.as_json(), allow_nan=False))["blank"] == {"Positive part": 1}
    assert none.strip().width > 100
    pytest.importorskip("matplotlib", reason="the extra plot is not installed")
    assert all(axes.get_legend() is None for axes in none.plot().axes)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"stages": 0}, ValueError, "stages must be at least 1, got 0"),
        ({"stages": -1}, ValueError, "stages must be at least 1, got -1"),
        ({"stages": True}, TypeError, "stages must be a whole number, got True"),
        ({"stages": 1.5}, TypeError, "stages must be a whole number, got 1.5"),
        ({"cascading": "no"}, TypeError, "cascading must be true or false, got 'no'"),
        ({"seed": -1}, ValueError, "seed must be from 0"),
    ],
)
def test_options_that_make_no_sense(options, error, message):
    with pytest.raises(error, match=message):
        deepviz.sanity_check(network(), X, Gradient(), **options)


def test_one_stage_says_nothing_of_the_upper_half():
    found = deepviz.sanity_check(network(), torch.rand(8, 3, 32, 32), Gradient(), stages=1)
    (said,) = found.verdicts.values()
    assert "half" not in said
    assert "more stages are needed" in said
    assert np.isnan(found.kept(0.5)).all()


def test_a_share_that_is_not_half_is_not_called_so():
    found = deepviz.sanity_check(network(), X, Gradient(), stages=3)
    assert "with the upper 33% of the layers random" in found.verdicts["Gradient"]
