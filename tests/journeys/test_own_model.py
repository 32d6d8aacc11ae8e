"""From a checkpoint of one's own to maps: on the command line, in Python, in a report."""

import json

import pytest
import torch
from PIL import Image

import deepviz
from journeys.conftest import ANIMALS

MODEL = ["--model", "timm:tf_efficientnet_lite0", "--weights", "animals5.pt", "--labels", "classes.txt"]
LOADED = (
    "deepviz.load_model('timm:tf_efficientnet_lite0', weights='animals5.pt', labels='classes.txt', name='animals v3')"
)


def expected():
    """The scores of the five classes for the example image, from the network that the checkpoint was made of."""
    trained = deepviz.load_model()
    with torch.no_grad():
        scores = trained.module(trained.prepare(deepviz.example_photo()).x[None])[0]
    return dict(zip(ANIMALS, scores[[trained.index(name) for name in ANIMALS.values()]], strict=True))


def test_one_command_says_what_it_read_and_draws(own_model):
    out, err = own_model.deepviz("explain", "cat.png", *MODEL, "-m", "grad-cam", "-m", "gradient", "--json")
    assert "num_classes=5 was read from animals5.pt" in err
    assert "under the prefix 'model.'" in err
    (one,) = json.loads(out)["photographs"]
    scores = expected()
    likely = dict(zip(ANIMALS, torch.stack([*scores.values()]).softmax(0).tolist(), strict=True))
    assert {each["label"]: each["probability"] for each in one["predictions"]} == pytest.approx(likely, abs=1e-5)
    for each in one["explanations"]:
        assert each["target"]["label"] == "cat"
        assert each["target"]["score"] == pytest.approx(float(scores["cat"]), abs=1e-4)
        with Image.open(own_model / each["file"]) as drawn:
            assert len(drawn.convert("RGB").getcolors(drawn.width * drawn.height)) > 1000
    with Image.open(own_model / one["sheet"]) as sheet:
        assert sheet.width > 400


def test_why_a_cat_and_no_fox(own_model):
    out, _ = own_model.deepviz("explain", "cat.png", *MODEL, "-m", "gradient", "--target", "cat - fox", "--json")
    ((each,),) = [one["explanations"] for one in json.loads(out)["photographs"]]
    scores = expected()
    assert each["target"]["label"] == "cat - fox"
    assert each["target"]["score"] == pytest.approx(float(scores["cat"] - scores["fox"]), abs=1e-4)


def test_the_doctor_knows_the_model(own_model):
    out, _ = own_model.deepviz("doctor", "timm:tf_efficientnet_lite0", "cat.png", *MODEL[2:])
    assert "5: cat, fox, wolf, coffee, teapot" in out
    assert "3 x 224 x 224" in out
    assert "mean=(0.5, 0.5, 0.5)" in out


def test_weights_of_another_network_are_one_line_that_says_what_to_write(own_model):
    _, err = own_model.deepviz("explain", "cat.png", "--model", "timm:resnet18", *MODEL[2:], code=3)
    (line,) = [line for line in err.splitlines() if "does not fit" in line]
    for part in ("Likely causes", "--model with the name of the one that was saved", "--num-classes"):
        assert part in line


def test_python_and_the_report(own_model):
    said = own_model.run(
        f"""
import json, deepviz
model = {LOADED}
explanations = deepviz.explain(model, "cat.png", ["grad-cam", "guided-backprop"], target=["cat", "fox"])
deepviz.sheet(explanations).save("sheet.png")
deepviz.report(explanations, "report.html", title="Before the release")
print(json.dumps([[str(one.target), one.model, one.method.title] for one in explanations]))
print(json.dumps([model.predict("cat.png")[0][0].label, model.labels, repr(model)]))
"""
    )
    explained, (best, labels, shown) = map(json.loads, said.splitlines())
    assert [one[0].split()[0] for one in explained] == ["cat", "cat", "fox", "fox"]
    assert {one[1].split(" (")[0] for one in explained} == {"animals v3"}
    assert (best, tuple(labels)) == ("cat", tuple(ANIMALS))
    assert shown.startswith("LoadedModel(animals v3")
    page = (own_model / "report.html").read_text(encoding="utf-8")
    assert "Before the release" in page
    assert "animals v3" in page


def test_a_factory_of_ones_own_is_a_model_everywhere(own_model):
    (own_model / "animals.py").write_text(f"import deepviz\n\n\ndef animals():\n    return {LOADED}\n")
    out, _ = own_model.deepviz("explain", "cat.png", "--model", "animals:animals", "-m", "gradient", "--json")
    ((each,),) = [one["explanations"] for one in json.loads(out)["photographs"]]
    assert (each["target"]["label"], each["model"].split(" (")[0]) == ("cat", "animals v3")
