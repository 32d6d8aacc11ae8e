import importlib.util
import tomllib
from pathlib import Path

from PIL import Image

import deepviz
import small_models
from deepviz.cli import doctor, run
from pictures import picture_file


def test_doctor_says_what_is_installed(capsys):
    assert run(["doctor"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("deepviz ")
    for extra in doctor.EXTRAS:
        assert f"extra {extra} (" in out
    assert "bundled model: " in out


def test_doctor_says_how_to_get_what_is_missing(capsys, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(doctor, "find_spec", lambda name: None if name == "timm" else found(name))
    assert run(["doctor"]) == 0
    assert "extra timm (timm, torchvision): missing; pip install 'deepviz[timm]'" in capsys.readouterr().out


def test_it_knows_every_extra():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert {*doctor.EXTRAS, "all"} == set(project["optional-dependencies"])
    (everything,) = project["optional-dependencies"]["all"]
    assert everything == f"deepviz[{','.join(doctor.EXTRAS)}]"


def told(capsys, *arguments):
    assert run(["doctor", *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    return [(line[:15].strip(), line[16:].strip()) for line in lines]


def test_doctor_says_what_it_understood_of_a_model(capsys):
    said = told(capsys, "small_models:good")
    model = small_models.good()
    found = dict(said)
    assert found["model:"] == "small (as given), Sequential from small_models:good"
    assert found["preprocessing:"] == repr(model.preprocess)
    assert found["input:"] == "3 x 32 x 32 of float32 on cpu, pixels (105, 30) to (346, 270) of chelsea.png, 451 x 300"
    assert found["classes:"] == "5: tabby, tabby cat, red fox, lynx, coffee mug, crane"
    assert found["output:"] == "logits (assumed: one class of 5)"
    first = model.predict(deepviz.example_photo())[0][0]
    assert found["predictions:"].startswith(f"{first}, ")
    assert found["layer:"].startswith(f"{deepviz.viz_layers(model).default.name}, ")
    assert said.count(("does not apply:", found["does not apply:"])) == 1
    assert found["does not apply:"].startswith(
        f"{', '.join(small_models.ATTENTION)}: it computes no attention on the image"
    )


def test_doctor_says_what_a_reused_layer_is(capsys):
    said = dict(told(capsys, "bundled"))
    assert said["layer:"] == "_swish#2 (ReLU6 after _conv_head), for Grad-CAM and its kind"


def test_doctor_says_which_methods_do_not_apply_and_why(capsys):
    found = [text for name, text in told(capsys, "small_models:no_rectifier") if name == "does not apply:"]
    reasons = {text.split(":")[0] for text in found}
    assert "guided-backprop, deconvolution, guided-grad-cam, guided" in reasons
    assert ", ".join(small_models.ATTENTION) in reasons
    found = [text for name, text in told(capsys, "small_models:transformer") if name == "does not apply:"]
    assert not any("attention" in text for text in found)
    assert dict(told(capsys, "small_models:number"))["numbers:"].startswith("1")


def test_doctor_takes_the_options_of_a_model_and_an_image(capsys, tmp_path):
    (tmp_path / "a.png").write_bytes(picture_file())
    said = dict(told(capsys, "small_models:without_preprocessing", str(tmp_path / "a.png"), "--size", "24"))
    assert said["input:"].startswith("3 x 24 x 24 of float32 on cpu, pixels (")
    assert "a.png" in said["input:"]
    assert said["classes:"] == "5: no labels; give --labels"


def test_doctor_of_a_model_that_takes_no_image_says_what_to_give(capsys):
    assert run(["doctor", "small_models:without_preprocessing"]) == 3
    captured = capsys.readouterr()
    assert "none known: give --preprocess or --size" in captured.out
    assert "has no preprocessing" in captured.err


def test_doctor_of_a_model_without_classes(capsys):
    said = dict(told(capsys, "small_models:no_class_scores"))
    assert said["output:"].startswith("auto, nothing predicted: the model returned no class scores")


def test_doctor_of_a_model_of_embeddings(capsys, tmp_path, monkeypatch):
    """Which predicts nothing, but of which every method for its kind of network can explain something."""
    (tmp_path / "dv_embedding.py").write_text(
        "import deepviz, small_models\n"
        "def make():\n"
        "    return deepviz.load_model(small_models.good(), output='embedding')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    said = told(capsys, "dv_embedding:make")
    assert dict(said)["output:"].startswith("embedding, nothing predicted: the output is an embedding of 5 numbers")
    left_out = [text for name, text in said if name == "does not apply:"]
    assert any(text.startswith(", ".join(small_models.ATTENTION)) for text in left_out)


def test_doctor_says_what_a_detector_finds(capsys, tmp_path):
    made = Image.new("RGB", (320, 160))
    made.paste((255, 0, 0), (160, 80, 240, 160))  # the rows above and below are filled up
    made.paste((0, 0, 230), (0, 0, 80, 80))
    made.save(tmp_path / "squares.png")
    found = dict(told(capsys, "small_models:detector", str(tmp_path / "squares.png")))
    assert found["input:"] == "3 x 32 x 32 of float32 on cpu, all of squares.png, padded"
    assert found["classes:"] == "2: red square, blue square"
    assert found["output:"] == "detections (stated: by output=, or by where the model is from)"
    assert found["detections:"] == "red square 99.3 % at (160, 80, 240, 160); blue square 98.2 % at (0, 0, 80, 80)"
    assert "layer:" in found
    Image.new("RGB", (320, 160)).save(tmp_path / "black.png")
    found = dict(told(capsys, "small_models:detector", str(tmp_path / "black.png")))
    assert found["detections:"] == "no detection; there is none at all"


def test_doctor_of_a_segmenter_has_the_shares_of_its_classes(capsys):
    found = told(capsys, "small_models:segmenter")
    said = dict(found)
    assert said["output:"].startswith("maps (assumed: class scores at each place, of a segmenter;")
    model = small_models.segmenter()
    best = model.module(model.prepare(deepviz.example_photo()).x[None])[0].argmax(0)
    largest, share = max(((k, float((best == k).double().mean())) for k in range(8)), key=lambda one: one[1])
    assert said["shares:"].startswith(f"{model.label(largest)} {100 * share:.1f} %")
    assert said["layer:"].startswith("body.2, ")
    left_out = [text for name, text in found if name == "does not apply:"]
    assert any(text.startswith(", ".join(small_models.ATTENTION)) for text in left_out)
    assert "predictions:" not in said
