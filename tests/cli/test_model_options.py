"""The options that say what a model of one's own takes: weights, number of classes, preprocessing, name."""

import json
import re

import numpy as np
import pytest
import torch

import deepviz
import small_models
from deepviz.cli import run
from deepviz.errors import MissingExtra
from deepviz.models import Preprocess
from deepviz.models.torchvision_shim import import_timm
from pictures import picture_file

BARE = "small_models:without_preprocessing"


def timm_or_skip():
    try:
        return import_timm()
    except MissingExtra as error:
        pytest.skip(str(error))


@pytest.fixture
def photo(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fox.png").write_bytes(picture_file())
    return tmp_path / "fox.png"


def explained(capsys, *arguments):
    assert run(["explain", "fox.png", "-m", "gradient", "--format", "npz", "--json", *arguments]) == 0
    captured = capsys.readouterr()
    (entry,) = json.loads(captured.out)["photographs"]
    return np.load(entry["explanations"][0]["file"])["attribution"], entry, captured.err


FLAGS = {
    "size": (["--size", "24"], Preprocess(24)),
    "rectangle": (["--size", "24x32"], Preprocess((24, 32))),
    "crop": (["--size", "24", "--crop", "0.5"], Preprocess(24, 0.5)),
    "squash": (["--size", "24", "--crop", "squash"], Preprocess(24, None)),
    "whole": (["--size", "24", "--crop", "whole"], Preprocess(24, None, fit="whole")),
    "statistics": (
        ["--size", "24", "--mean", "0.5", "0.4", "0.3", "--std", "0.2", "0.3", "0.4"],
        Preprocess(24, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4)),
    ),
    "interpolation": (["--size", "24", "--interpolation", "nearest"], Preprocess(24, interpolation="nearest")),
    "named": (["--preprocess", "0..255", "--size", "24"], Preprocess(24, mean=(0,) * 3, std=(1 / 255,) * 3)),
    "file": (["--preprocess", "mine.json", "--crop", "0.5"], Preprocess(24, 0.5, (0.5,) * 3, (0.5,) * 3)),
}


@pytest.mark.parametrize("case", FLAGS)
def test_flags_are_the_preprocess_that_they_say(photo, capsys, case):
    flags, preprocess = FLAGS[case]
    (photo.parent / "mine.json").write_text(json.dumps({"size": 24, "mean": [0.5] * 3, "std": [0.5] * 3}))
    found, _, _ = explained(capsys, "--model", BARE, *flags)
    model = deepviz.load_model(small_models.without_preprocessing(), preprocess=preprocess)
    (expected,) = deepviz.explain(model, photo, "gradient")
    np.testing.assert_allclose(found, expected.attribution.numpy(), rtol=1e-4, atol=1e-7)


def test_what_is_assumed_is_said(photo, capsys):
    _, _, err = explained(capsys, "--model", BARE, "--size", "24")
    assert err == f"deepviz: Sequential: what is not stated is assumed to be ImageNet's: {Preprocess(24)}\n"
    assert explained(capsys, "--model", BARE, "--preprocess", "imagenet")[2] == ""


def test_a_flag_changes_a_part_of_what_the_model_has(photo, capsys):
    found, _, _ = explained(capsys, "--model", "small_models:good", "--size", "24")
    model = deepviz.load_model(small_models.good(), preprocess=Preprocess(24, crop=0.8))
    (expected,) = deepviz.explain(model, photo, "gradient")
    np.testing.assert_allclose(found, expected.attribution.numpy(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("flags", "message", "code"),
    [
        (["--crop", "half"], "--crop must be a fraction, squash or whole, got 'half'", 2),
        (["--crop", "2"], "crop must be a fraction above 0 and up to 1", 2),
        (["--size", "big"], "--size must be a number of pixels, HEIGHTxWIDTH or DEPTHxHEIGHTxWIDTH, got 'big'", 2),
        (["--size", "0"], "size must be a number of pixels", 2),
        (["--size", "8x8x8"], "size must be a number of pixels or (height, width)", 2),
        (["--window", "0", "1"], "--window has no effect on Preprocess", 2),
        (["--preprocess", "volumes", "--crop", "1"], "--crop has no effect on VolumePreprocess", 2),
        (["--std", "0", "1", "1"], "std none of 0", 2),
        (["--preprocess", "imagnet"], "no preprocessing is called 'imagnet'; did you mean 'imagenet'", 3),
        (["--num-classes", "7"], "does not take num_classes=7", 3),
        ([], "for images pass preprocess=deepviz.Preprocess(224, ", 3),
        ([], "or on the command line --preprocess imagenet", 3),
    ],
)
def test_flags_that_are_refused(photo, capsys, flags, message, code):
    assert run(["explain", "fox.png", "-m", "gradient", "--model", BARE, *flags]) == code
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_a_fine_tuned_model_in_one_line(photo, capsys):
    """The five classes are read from the file, and the probability is the original's."""
    timm = timm_or_skip()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        original = timm.create_model("test_efficientnet", num_classes=5).eval()
    torch.save(original.state_dict(), "animals5.pt")
    (photo.parent / "classes.txt").write_text("cat\ndog\nfox\nhorse\nowl\n")
    flags = ["--weights", "animals5.pt", "--labels", "classes.txt", "--name", "animals v3"]
    _, entry, err = explained(capsys, "--model", "timm:test_efficientnet", *flags)
    assert err == "deepviz: animals v3: num_classes=5 was read from animals5.pt, by the shape of classifier.weight\n"
    x = deepviz.load_model(original).prepare(photo).x[None]
    with torch.no_grad():
        chances = original(x).softmax(1)[0]
    best = int(chances.argmax())
    first = entry["predictions"][0]
    assert first["label"] == ["cat", "dog", "fox", "horse", "owl"][best]
    assert first["probability"] == pytest.approx(float(chances[best]), rel=1e-5)
    assert entry["explanations"][0]["model"] == "animals v3 (animals5.pt)"


def test_what_was_read_is_part_of_the_result(photo):
    timm = timm_or_skip()
    with torch.random.fork_rng(devices=[]):
        module = timm.create_model("test_efficientnet", num_classes=5)
    (found,) = deepviz.explain(module, photo, "gradient")
    assert found.notes["model"] == ("preprocessing is that of the module's pretrained_cfg",)


@pytest.mark.parametrize(
    "command", ["explain", "sanity", "evaluate", "serve", "layers", "activations", "filters", "doctor"]
)
def test_every_command_with_a_model_takes_them(capsys, command):
    assert run([command, "--help"]) == 0
    told = capsys.readouterr().out
    for flag in ("--num-classes", "--preprocess", "--size", "--crop", "--mean", "--std", "--interpolation", "--name"):
        assert re.search(rf"{flag}\b", told), (command, flag)


@pytest.mark.parametrize("command", ["generate", "dream"])
def test_commands_with_a_canvas_take_them_but_for_its_size(capsys, command):
    assert run([command, "--help"]) == 0
    told = capsys.readouterr().out
    for flag in ("--num-classes", "--preprocess", "--crop", "--mean", "--std", "--interpolation", "--name"):
        assert re.search(rf"{flag}\b", told), (command, flag)


def test_layers_and_activations_take_them(photo, capsys):
    assert run(["layers", BARE, "--size", "48", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["output"] == [1, 8, 48, 48]
    assert run(["activations", "fox.png", "--layer", "0", "--model", BARE, "--size", "24"]) == 0


def test_a_model_that_takes_no_images_is_not_served(capsys):
    pytest.importorskip("fastapi")
    assert run(["serve", "--no-browser", "--port", "0", "--model", BARE]) == 3
    err = capsys.readouterr().err
    assert err.startswith("deepviz: Sequential takes no images: Sequential has no preprocessing")
    assert err.count("\n") == 1
    assert run(["serve", "--no-browser", "--port", "0", "--model", "small_models:failing"]) == 3
    assert "takes no images: the model failed" in capsys.readouterr().err


def test_options_of_one_model_are_not_for_several(capsys):
    assert run(["serve", "--model", BARE, "--model", "small_models:good", "--size", "24"]) == 2
    assert "are for one model: give one --model" in capsys.readouterr().err
