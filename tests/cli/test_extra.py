import json

import numpy as np
import pytest
from PIL import Image

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
        Image.new("RGB", (40, 40), (120, 60, 30)).save(path)
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
