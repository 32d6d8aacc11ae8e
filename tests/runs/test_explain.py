"""Maps of many images: what is said beside them, and what becomes of those that fail."""

import warnings

import pytest
import torch
from PIL import Image

import deepviz
import small_models
from deepviz.errors import ModelError
from deepviz.runs.look import predicted

PHOTO = Image.radial_gradient("L").convert("RGB")


@pytest.mark.filterwarnings("ignore:the model's outputs are probabilities")
@pytest.mark.parametrize("model", [small_models.good, small_models.softmax, small_models.one_logit])
def test_predicted_classes_are_those_that_are_explained(model):
    loaded = model()
    explained = deepviz.explain(loaded, PHOTO, "gradient", top_k=3)
    assert predicted(loaded, loaded.prepare(PHOTO), 3) == [one.target for one in explained]


class Alike(torch.nn.Module):
    """All classes have one score, or scores so large that their probabilities are all 1."""

    def __init__(self, apart):
        super().__init__()
        self.apart = apart

    def forward(self, x):
        return x.mean((1, 2, 3))[:, None] + 20 + self.apart * torch.arange(40.0)


@pytest.mark.parametrize(("apart", "output", "best"), [(0, "logits", 0), (1, "multi-label", 39)])
def test_of_classes_that_are_equally_probable_the_one_that_is_explained_is_the_first_prediction(apart, output, best):
    (one,) = deepviz.explain(Alike(apart), torch.rand(1, 3, 8, 8), "gradient", output=output)
    assert (one.target.index, one.predictions[0][0]) == (best, f"class {best}")


def test_predicted_needs_class_scores():
    loaded = small_models.no_class_scores()
    with pytest.raises(ModelError, match="class scores"):
        predicted(loaded, loaded.prepare(torch.rand(3, 32, 32)), 3)


class Random(torch.nn.Module):
    """Noise on its outputs, in eval mode too."""

    def __init__(self):
        super().__init__()
        self.body = small_models.network()

    def forward(self, x):
        scores = self.body(x)
        return scores + torch.randn_like(scores)


def test_what_is_odd_about_a_model_is_told_once_for_each_method():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        deepviz.explain(Random().eval(), torch.rand(1, 3, 32, 32), ["gradient", "grad-times-image"])
    assert len([one for one in caught if "random in eval mode" in str(one.message)]) == 2
