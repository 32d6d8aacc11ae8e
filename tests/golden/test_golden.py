"""Pictures as they are meant to look, stored small. After a change that is meant:

    DEEPVIZ_RENEW_GOLDEN=1 pytest tests/golden

writes them anew; look at them, and commit them with the change.
"""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import deepviz
from deepviz.methods import GradCAM
from deepviz.models import LoadedModel
from small_models import LABELS, network

HERE = Path(__file__).parent
RENEW = bool(os.environ.get("DEEPVIZ_RENEW_GOLDEN"))
TOLERANCE = 2.0
"""Mean difference in levels of 255; fonts and resampling differ a little between versions of Pillow."""


@pytest.fixture(scope="module")
def explanations():
    with Image.open(Path(deepviz.__file__).parent / "photos" / "chelsea.png") as photo:
        small = photo.convert("RGB").resize((150, 100), Image.Resampling.BOX)
    model = LoadedModel(network(), "small", deepviz.Preprocess(64, crop=0.8), LABELS)
    methods = ["gradient", "grad-times-image", GradCAM(relu=False)]
    found = deepviz.explain(model, small, methods, target=["lynx", "coffee mug"])
    return {"gradient": found[0], "product": found[1], "cam": found[2], "all": found}


PICTURES = {
    "overlay_fine_unsigned": lambda found: found["gradient"].overlay(),
    "overlay_fine_signed": lambda found: found["product"].overlay(),
    "overlay_coarse": lambda found: found["cam"].overlay(),
    "heatmap": lambda found: found["cam"].heatmap(),
    "grey_signed": lambda found: found["gradient"].grey(gray=False),
    "sheet": lambda found: deepviz.sheet(found["all"]).reduce(4),
}


@pytest.mark.parametrize("name", PICTURES)
def test_the_picture_is_as_it_was(name, explanations):
    drawn, path = PICTURES[name](explanations), HERE / f"{name}.png"
    if RENEW:
        drawn.save(path, optimize=True)
    with Image.open(path) as stored:
        assert drawn.size == stored.size
        difference = np.abs(np.asarray(drawn).astype(float) - np.asarray(stored)).mean()
    assert difference <= TOLERANCE
