import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import deepviz
import small_models
from deepviz.cli import run
from deepviz.cli.extra import read_extra
from deepviz.errors import TargetError

ASKED = ["--model", "small_models:weighted", "-m", "gradient", "--target", "green", "--format", "npz"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a/1.png", "b/1.png", "2.png"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(len(name)).integers(0, 255, (40, 40, 3), np.uint8)
        Image.fromarray(pixels).save(path)
    return tmp_path


def test_each_image_has_the_numbers_of_its_line(here, capsys):
    (here / "table.csv").write_text("file,red,green,blue\nb/1.png,1,5,9\na/1.png,1,3,9\n2.png,0,-2,0\n")
    assert run(["explain", "photos", *ASKED, "--extra", "table.csv", "--json"]) == 0
    found = {
        one["photograph"]: one["explanations"][0]["file"] for one in json.loads(capsys.readouterr().out)["photographs"]
    }
    for name, weight in {"photos/a/1.png": 3, "photos/b/1.png": 5, "photos/2.png": -2}.items():
        gradient = np.load(found[name])["attribution"]
        np.testing.assert_allclose(gradient[1], weight / 32**2, rtol=1e-5)
        assert not gradient[[0, 2]].any()


def test_an_image_without_a_line_does_not_stop_the_others(here, capsys):
    (here / "table.csv").write_text("file,red,green,blue\na/1.png,1,3,9\nb/1.png,1,3,9\n")
    assert run(["explain", "photos", *ASKED, "--extra", "table.csv"]) == 4
    out, err = capsys.readouterr()
    assert out.count("sheet.png") == 2
    assert err.splitlines()[0] == "deepviz: photos/2.png: 2.png: it has no line in the --extra file"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1.png,1,2,3\n", "which may be"),
        ("a/1.png,1,x,3\n", "line 1: expected file,number"),
        ("a/1.png\n", "line 1: expected file,number"),
        ("a/1.png,1,nan,3\n", "line 1: expected file,number"),
        ("a/1.png,1,2\nb/1.png,1\n", "unlike many numbers"),
        ("a/1.png,1\na/1.png,2\n", "a/1.png has other numbers already"),
    ],
)
def test_a_table_that_cannot_be_meant(here, text, message):
    (here / "table.csv").write_text(text)
    with pytest.raises(TargetError, match=message):
        read_extra(here / "table.csv", [here / "photos/a/1.png", here / "photos/b/1.png"])


def test_another_table_is_another_question(here, capsys):
    for numbers in ("1,2,3", "1,7,3"):
        (here / "table.csv").write_text(f"2.png,{numbers}\n")
        assert run(["explain", "photos/2.png", *ASKED, "--extra", "table.csv"]) == 0
    assert sorted(path.name for path in (here / "deepviz-out").iterdir()) == ["2", "2-2"]
    assert run(["explain", "photos/2.png", *ASKED, "--extra", "table.csv", "--check"]) == 2


NUMBERS = {"a/1.png": (1.0, 3.0, 9.0), "b/1.png": (1.0, 5.0, 9.0), "2.png": (0.0, -2.0, 0.0)}
MODEL = ["--model", "small_models:weighted_layer", "--target", "green"]


def table(folder, names):
    (folder / "table.csv").write_text("".join(f"{name},{','.join(map(str, NUMBERS[name]))}\n" for name in names))
    return ["--extra", "table.csv"]


def lines(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_methods_are_evaluated_with_the_numbers_of_each_image(here):
    asked = ["-m", "gradient", "--metric", "deletion(steps=4)", "--no-controls"]
    assert run(["evaluate", "photos", *MODEL, *asked, *table(here, reversed(NUMBERS))]) == 0
    found = {one["image"]: float(one["value"]) for one in lines(here / "deepviz-out/evaluation_values.csv")}
    for name, numbers in NUMBERS.items():
        expected = deepviz.evaluate(
            small_models.weighted_layer(),
            here / "photos" / name,
            "gradient",
            "deletion(steps=4)",
            target="green",
            controls=False,
            extra=torch.tensor([numbers]),
        )
        assert found[name] == pytest.approx(expected.values.item(), abs=1e-6)
    assert len(set(found.values())) == 3


@pytest.mark.parametrize(
    ("command", "result"),
    [
        (["evaluate", "-m", "gradient", "--metric", "sparseness", "--no-controls"], "evaluation_values.csv"),
        (["sanity", "-m", "gradient", "--stages", "1"], "sanity_values.csv"),
    ],
)
def test_an_image_without_a_line_is_left_out_of_evaluate_and_sanity(here, capsys, command, result):
    name, *asked = command
    asked = [name, "photos", *MODEL, *asked]
    assert run([*asked, *table(here, ("a/1.png", "b/1.png"))]) == 4
    assert "photos/2.png: 2.png: it has no line in the --extra file" in capsys.readouterr().err
    assert {Path(one["image"]).name for one in lines(here / "deepviz-out" / result)} == {"1.png"}
    # with the same numbers what was done is not done again, and the image that lacked a line is asked for anew
    assert run([*asked, *table(here, ("a/1.png", "b/1.png")), "--resume"]) == 4
    assert "2 of 3 images are done already" in capsys.readouterr().err


def test_sanity_compares_maps_with_the_numbers_of_each_image(here):
    difference = ["--target", "green - red", "-m", "grad-times-image", "--stages", "1"]
    assert run(["sanity", "photos", "--model", MODEL[1], *difference, *table(here, reversed(NUMBERS))]) == 0
    written = lines(here / "deepviz-out/sanity_values.csv")
    found = sorted(float(one["value"]) for one in written if (one["similarity"], one["stage"]) == ("spearman", "layer"))
    expected = [
        deepviz.sanity_check(
            small_models.weighted_layer(),
            here / "photos" / name,
            "grad-times-image",
            stages=1,
            target="green - red",
            extra=torch.tensor([numbers]),
        ).similarities["spearman"][0, 0, 1]
        for name, numbers in NUMBERS.items()
    ]
    assert len(found) == 3
    np.testing.assert_allclose(found, sorted(expected), atol=1e-6)


def test_the_numbers_are_explained_too(here, capsys):
    """Of z_k = w_k m_k, with the mean m_k of channel k: dz_k/dw_k = m_k."""
    asked = ["explain", "photos", "--model", "small_models:weighted", "--target", "green", "--format", "npz", "--json"]
    methods = ["-m", "gradient", "-m", "grad-times-image"]
    assert run([*asked, *methods, *table(here, NUMBERS), "--explain-extra"]) == 0
    for one in json.loads(capsys.readouterr().out)["photographs"]:
        name = Path(one["photograph"]).relative_to("photos").as_posix()
        mean = small_models.weighted().prepare(one["photograph"]).x[1].mean()
        found = [(each["input"], np.load(each["file"])["attribution"]) for each in one["explanations"]]
        assert [name for name, _ in found] == ["", "", "x[1]", "x[1]"]
        np.testing.assert_allclose(found[2][1], [0, mean, 0], rtol=1e-4)
        np.testing.assert_allclose(found[3][1], [0, mean * NUMBERS[name][1], 0], rtol=1e-4)
        np.testing.assert_allclose(found[0][1][1], NUMBERS[name][1] / 32**2, rtol=1e-4)
        assert Path(one["explanations"][2]["file"]).name == "gradient_table.npz"
    assert run([*asked, *methods, "--explain-extra"]) == 2
    assert "--explain-extra explains the numbers of --extra table.csv" in capsys.readouterr().err


def test_bars_have_the_names_of_the_columns(here):
    table(here, NUMBERS)
    plain = (here / "table.csv").read_text()
    (here / "plain.csv").write_text(plain)
    (here / "table.csv").write_text("file,red,green,blue\n" + plain)
    command = ["explain", "photos/2.png", *MODEL, "-m", "gradient", "--extra", "table.csv", "--explain-extra"]
    assert run([*command, "--format", "deepviz"]) == 0
    of_image, of_table = deepviz.load_explanations(here / "deepviz-out")
    assert (of_image.columns, of_table.columns) == ((), ("red", "green", "blue"))
    assert read_extra(here / "table.csv", []).digest == read_extra(here / "plain.csv", []).digest
