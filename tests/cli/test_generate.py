import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from deepviz.cli import UsageError, run
from deepviz.cli.generate import channel_list
from deepviz.synthesis import Channel, DeepDream, ImageGenerator, Logit

QUICK = ["--model", "small_models:good", "--steps", "3"]


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """A command with these arguments, in an empty folder: its exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def ran(*arguments):
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        assert "\x1b" not in captured.out + captured.err
        return code, captured.out, captured.err

    return ran


def files(folder="deepviz-out"):
    return sorted(path.name for path in Path(folder).iterdir() if path.suffix != ".mp4")


def test_classes(command):
    code, out, err = command("generate", "1", "2", *QUICK, "-o", "out")
    assert code == 4, "after three steps the first is predicted as the second"
    assert err.startswith("deepviz: note: the finished image is not predicted as its class: red fox ")
    assert err.count("\n") == 1
    assert "out/generated.json" in out
    kinds = (".png", "_steps.png", ".gif")
    stems = [row["file"].removesuffix(".png") for row in json.loads(Path("out/generated.json").read_text())["images"]]
    assert len(set(stems)) == 2
    drawn = [stem + kind for stem in stems for kind in kinds]
    assert files("out") == sorted([*drawn, "generated.json", "sheet.png"])
    with Image.open(f"out/{stems[0]}.png") as drawn:
        assert drawn.size == ImageGenerator("small_models:good", 1).model.preprocess.input_size[::-1]


def test_again_draws_the_same(command):
    command("generate", "2", *QUICK, "--seed", "7", "-o", "one")
    code, _, err = command("generate", "--again", "one/generated.json", "-o", "two")
    assert (code, err) == (0, "")
    (name,) = [name for name in files("one") if name.endswith(".png") and "_steps" not in name]
    assert Path("one", name).read_bytes() == Path("two", name).read_bytes()


EXPRESSIONS = [
    ("lynx - red fox", Logit(2) - Logit(1)),
    ('label("lynx")', Logit(2)),
    ("0.5 * 2", 0.5 * Logit(2)),
    ('channel("0", 3)', Channel("0", 3)),
]


@pytest.mark.parametrize(("text", "objective"), EXPRESSIONS)
def test_expressions_are_drawn_as_in_python(command, text, objective):
    code, out, err = command("generate", text, *QUICK, "--json")
    assert (code, err) == (0, "")
    made = ImageGenerator("small_models:good", objective, steps=3)()
    (image,) = json.loads(out)["images"]
    assert image["title"] == made.titles[0]
    assert image["score"] == pytest.approx(float(made.final_scores))
    again = ImageGenerator.from_json("deepviz-out/generated.json")()
    assert torch.equal(again.tensor, made.tensor)


@pytest.mark.parametrize(("text", "objective"), EXPRESSIONS)
def test_expressions_are_dreamed_of_as_in_python(command, text, objective):
    Image.new("RGB", (48, 40), "olive").save("photo.png")
    code, out, err = command("dream", "photo.png", "--target", text, *QUICK, "--octaves", "1", "--json")
    assert (code, err) == (0, "")
    made = DeepDream("small_models:good", target=objective, steps=3, octaves=1)("photo.png")
    (image,) = json.loads(out)["images"]
    assert image["title"] == made.titles[0]
    assert image["score"] == pytest.approx(float(made.final_scores))


def test_json(command):
    code, out, _ = command("generate", "2", *QUICK, "--json")
    told = json.loads(out)
    assert code == 0
    assert told["complete"] is True
    assert told["settings"]["steps"] == 3
    assert told["images"][0]["class"] == 2


def test_a_network_without_a_slope_is_no_success(command):
    quick = ["--model", "small_models:dead", "--steps", "3"]
    code, out, err = command("generate", "2", *quick)
    assert (code, out) == (3, "")
    assert err.startswith("deepviz: zero gradient at every step for lynx: the score does not depend on the image")
    assert Path("deepviz-out/generated.json").exists()
    code, _, err = command("generate", "--layer", "0", "--channels", "1", *quick)
    assert code == 3
    assert err.startswith("deepviz: note: zero gradient at every step for 0, channel 1")


def test_what_the_score_is_before_a_softmax_is_told(command):
    code, out, err = command("generate", "2", "--model", "small_models:softmax", "--steps", "3", "--json")
    assert (code, err) == (0, "deepviz: note: the score is the logit before the model's final softmax\n")
    assert json.loads(out)["notes"] == ["the score is the logit before the model's final softmax"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "nothing to generate"),
        (["1", "--layer", "0", "--channels", "1"], 2, "nothing to generate"),
        (["--layer", "0"], 2, "--channels"),
        (["--channels", "1"], 2, "--layer"),
        (["--layer", "0", "--channels", "5-2"], 2, "5-2"),
        (["1", "--steps", "0"], 2, "steps must be at least 1"),
        (["1", "--lr", "0"], 2, "lr must be above 0"),
        (["1", "--every", "0"], 2, "--every"),
        (["1", "--seed", "99999999999999999999"], 2, "seed must be from 0"),
        (["1", "--preset", "simonyan", "--copies", "2"], 2, "2 copies would be identical"),
        (["1", "--preset", "lucit"], 2, "lucid"),
        (["10000"], 3, "out of range"),
        (["no such thing"], 3, "no class named"),
        (["lynx - no such thing"], 3, "no class named 'no such thing'"),
        (["--layer", "nowhere", "--channels", "1"], 3, "nowhere"),
        (["--layer", "0", "--channels", "9999"], 3, "channels"),
        (["--again", "nowhere.json"], 3, "nowhere.json"),
        (["1", "--start", "nowhere.jpg"], 3, "nowhere.jpg"),
    ],
)
def test_mistakes(command, arguments, code, words):
    model = [] if "--again" in arguments else ["--model", "small_models:good"]
    found, out, err = command("generate", *arguments, *model)
    assert (found, out) == (code, "")
    assert err.startswith("deepviz: ")
    assert err.count("\n") == 1, err
    assert words in err


def test_an_interrupted_drawing_is_kept(command, monkeypatch):
    steps = ImageGenerator.__call__

    def interrupted(self, save_dir, *, every, progress):
        def stop(step):
            progress(step)
            if step.number == 2:
                raise KeyboardInterrupt

        return steps(self, save_dir, every=every, progress=stop)

    monkeypatch.setattr(ImageGenerator, "__call__", interrupted)
    code, _, err = command("generate", "1", *QUICK)
    assert code == 130
    assert "interrupted at step 2" in err
    assert json.loads(Path("deepviz-out/generated.json").read_text())["complete"] is False
    assert [name for name in files() if name.endswith("_steps.png")]


def test_dream(command):
    Image.new("RGB", (48, 40), "olive").save("photo.png")
    code, out, err = command("dream", "photo.png", "--target", "1", *QUICK, "--octaves", "2", "-o", "out")
    assert (code, err) == (0, "")
    assert "photo" in out
    (name,) = [name for name in files("out") if name.endswith(".png") and "_steps" not in name]
    with Image.open(Path("out", name)) as drawn:
        assert drawn.size == (48, 40)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 3, "exactly one of layer, target and objective"),
        (["--layer", "nowhere"], 3, "nowhere"),
        (["--target", "linx - red fox"], 3, "no class named 'linx'"),
        (["--target", "1", "--octaves", "0"], 2, "octaves"),
        (["--target", "1", "--seed", "-1"], 2, "seed must be from 0"),
        (["--target", "1", "--lr", "2"], 2, "lr must be above 0 and at most 1"),
        (["missing.jpg", "--target", "1"], 3, "missing.jpg"),
    ],
)
def test_mistakes_in_dreams(command, arguments, code, words):
    found, out, err = command("dream", *arguments, "--model", "small_models:good")
    assert (found, out) == (code, "")
    assert words in err.splitlines()[-1]


@pytest.mark.parametrize(("text", "numbers"), [("3", [3]), ("0-3", [0, 1, 2, 3]), ("1, 5,7-8", [1, 5, 7, 8])])
def test_channel_lists(text, numbers):
    assert channel_list(text) == numbers


@pytest.mark.parametrize("text", ["", "a", "3-1", "-1", "1;2"])
def test_channel_lists_that_are_none(text):
    with pytest.raises(UsageError, match="--channels takes"):
        channel_list(text)


def test_the_random_state_is_left_alone(command):
    state = torch.random.get_rng_state()
    command("generate", "1", *QUICK)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert "small_models" in sys.modules
