import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import small_models
from deepviz.cli import run
from deepviz.inside import viz_attention

MODEL = ["--model", "small_models:good"]


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """A command with these arguments, in a folder with three photographs: its exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for seed in range(3):
        pixels = np.random.default_rng(seed).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"photos/{seed}.png")

    def ran(*arguments):
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return code, captured.out, captured.err

    return ran


def test_activations(command):
    code, out, err = command("activations", "photos/0.png", "--layer", "0", *MODEL, "--json")
    told = json.loads(out)
    assert (code, err) == (0, "")
    strengths = list(told["strengths"].values())
    assert strengths == sorted(strengths, reverse=True)
    with Image.open(told["file"]) as drawn:
        drawn.load()


VIT = ["--model", "small_models:transformer"]


def test_attention_of_a_patch(command):
    code, out, err = command(
        "attention", "photos/0.png", "--layer", "1.layers.1", "--head", "1", "--at", "0,2", *VIT, "--json"
    )
    told = json.loads(out)
    assert (code, err) == (0, "")
    assert (told["layers"], told["grid"]) == (["1.layers.0", "1.layers.1"], [8, 8])
    row = told["rows"]["1.layers.1"]
    assert row["of"] == "patch 0, 2"
    found = viz_attention(small_models.transformer(), "photos/0.png")
    assert np.allclose(row["image"], found.row(0, 2, head=1), atol=1e-6)
    with Image.open(told["file"]) as drawn:
        assert drawn.size == viz_attention(small_models.transformer(), "photos/0.png", at=(0, 2)).sheet(1).size


def test_attention_of_all_layers(command):
    code, out, err = command("attention", "photos/0.png", *VIT)
    assert (code, err) == (0, "")
    assert out.startswith("0.png, 1.layers.0, 1.layers.1: what patch 4, 4 attends to, mean over heads\n")
    assert out.splitlines()[1] == f"  {Path('deepviz-out/0_attention.png')}"
    assert Path("deepviz-out/0_attention.png").is_file()


def test_channels_beside_photographs(command):
    arguments = ["--layer", "0", "--channels", "0-1", "--photos", "photos", "--steps", "2"]
    code, out, err = command("channels", *arguments, *MODEL)
    assert (code, err) == (0, "")
    assert "2 channels" in out
    assert Path("deepviz-out/0_channels.png").is_file()


def test_an_unreadable_photograph_is_told(command):
    Path("photos/broken.png").write_bytes(b"no picture")
    code, _, err = command("channels", "--layer", "0", "--channels", "0", "--photos", "photos", "--steps", "1", *MODEL)
    assert code == 4
    assert "broken.png" in err


def test_filters(command):
    code, out, err = command("filters", *MODEL)
    assert (code, err) == (0, "")
    assert "kernels" in out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["activations", "photos/0.png", "--layer", "nowhere"], 3, "nowhere"),
        (["activations", "missing.png", "--layer", "0"], 3, "missing.png"),
        (["activations", "photos/0.png", "--layer", "0", "--channels", "9999"], 3, "9999"),
        (["channels", "--layer", "0", "--channels", "x"], 2, "--channels"),
        (["channels", "--layer", "0", "--photos", "nowhere"], 3, "nowhere"),
        (["filters", "--layer", "nowhere"], 3, "nowhere"),
        (["attention", "photos/0.png"], 3, "computes no attention on the image"),
        (["attention", "photos/0.png", *VIT, "--layer", "0"], 3, "layers that do: 1.layers.0, 1.layers.1"),
        (["attention", "photos/0.png", *VIT, "--at", "8,0"], 3, "the grid is 8 x 8"),
        (["attention", "photos/0.png", *VIT, "--at", "here"], 2, "--at takes a patch such as 3,5"),
        (["attention", "photos/0.png", *VIT, "--head", "9"], 3, "head 9"),
    ],
)
def test_mistakes(command, arguments, code, words):
    model = [] if "--model" in arguments else MODEL
    found, out, err = command(*arguments, *model)
    assert (found, out) == (code, "")
    assert err.count("\n") == 1, err
    assert words in err
