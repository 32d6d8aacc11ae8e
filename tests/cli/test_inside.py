import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deepviz.cli import run

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
    ],
)
def test_mistakes(command, arguments, code, words):
    found, out, err = command(*arguments, *MODEL)
    assert (found, out) == (code, "")
    assert err.count("\n") == 1, err
    assert words in err
