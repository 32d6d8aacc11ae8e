"""Looking inside a model leaves it, and its surroundings, as they were."""

import pytest
import torch
from torch import nn

from deepviz.errors import DeepVizError
from deepviz.inside import dataset_examples, viz_activations, viz_filters, viz_layers
from deepviz.testing import surroundings
from networks import CASES

LOOKS = {
    "layers": lambda model, x, layer: viz_layers(model, x),
    "activations": lambda model, x, layer: viz_activations(model, x, layer),
    "filters": lambda model, x, layer: viz_filters(model, layer),
    "examples": lambda model, x, layer: dataset_examples(model, layer, [0, 1], [x, x]),
}
LAYERS = {"plain": "0", "in-place": "first", "skip": "first", "vit": "patch", "train-mode": "0", "viewing": "conv1"}
looks = pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS.keys())


@looks
@pytest.mark.parametrize("case", LAYERS)
def test_nothing_changes(look, case):
    model, x = CASES[case].model(), CASES[case].images(1)[0]
    before = surroundings(model, x)
    look(model, x, LAYERS[case])
    assert surroundings(model, x) == before


@looks
@pytest.mark.parametrize("layer", ["missing", "4"])
def test_nothing_changes_after_an_error(look, layer):
    class Raises(nn.Module):
        def forward(self, x):
            raise RuntimeError("half way")

    model, x = CASES["train-mode"].model(), CASES["train-mode"].images(1)[0]
    model.append(Raises())
    before = surroundings(model, x)
    if look is not LOOKS["filters"] or layer == "missing":
        with pytest.raises(DeepVizError):
            look(model, x, layer)
    assert surroundings(model, x) == before


@looks
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_any_mode_of_the_caller_will_do(look, mode):
    model, x = CASES["plain"].model(), CASES["plain"].images(1)[0]
    with mode():
        look(model, x, "0")


@looks
def test_nested_in_parallel_and_frozen_models(look):
    model, x = CASES["plain"].model().requires_grad_(False), CASES["plain"].images(1)[0]
    look(nn.DataParallel(model), x, "0")
