"""What is left of maps when layers are random: exact on networks small enough, and kept apart from the model."""

import json
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

import deepviz
from deepviz.errors import DeepVizWarning
from deepviz.methods import GradCAM, Gradient, GuidedBackprop, SmoothGrad
from deepviz.metrics import EdgeDetector
from deepviz.metrics.similarity import SIMILARITIES
from deepviz.models.weights import weights_hash
from deepviz.probe.randomise import randomised
from deepviz.sanity import recall, remember, verdict
from networks import assert_same
from small_models import good, network, no_rectifier

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
    found = deepviz.sanity_check(network(), X, EdgeDetector(), stages=2)
    for values in found.similarities.values():
        assert values == pytest.approx(np.ones((2, 1, 3)))
    assert found.verdicts["Edge detector"].endswith("it does not show what this network learned")


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
        (0.9, 0.9, "does not show what this network learned"),
        (0.9, 0.3, "hardly shows what the upper layers"),
        (0.4, 0.1, "in part"),
        (0.1, 0.4, "in part"),
        (0.2, 0.1, "depends on what this network learned"),
    ],
)
def test_verdicts_in_words(half, whole, said):
    assert said in verdict(half, whole)
    assert f"keeps {half:.2f}" in verdict(half, whole)


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
    assert recall(found.fingerprint) == {}
    path = remember(found)
    assert path.is_relative_to(tmp_path)
    assert recall(found.fingerprint)["Gradient"] == {
        "half": pytest.approx(found.kept(0.5)[0]),
        "all": pytest.approx(found.kept(1.0)[0]),
        "images": 2,
    }
    remember(replace(found, methods=("Other",)))
    assert set(recall(found.fingerprint)) == {"Gradient", "Other"}
    path.write_text("{broken")
    assert recall(found.fingerprint) == {}
