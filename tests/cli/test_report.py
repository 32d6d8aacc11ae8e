from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import deepviz
from deepviz.cli import run
from deepviz.models.weights import weights_hash
from small_models import good

QUICK = ["--model", "small_models:good", "-m", "gradient", "-m", "grad-cam"]


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """A deepviz command in a folder with one photograph: its exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("cat.png")

    def called(*arguments):
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return code, captured.out, captured.err

    return called


def test_what_explain_stored_becomes_a_page(command):
    code, _, _ = command("explain", "cat.png", *QUICK, "--format", "deepviz")
    assert code == 0
    stored = Path("deepviz-out/cat/explanations.deepviz")
    assert sorted(path.name for path in stored.parent.iterdir()) == [
        "explain.json",
        "explanations.deepviz",
        "sheet.png",
    ]
    kept = deepviz.load_explanations(stored)
    assert [one.title for one in kept] == ["Gradient", "Grad-CAM"]
    assert kept[0].notes["weights sha256"] == weights_hash(good().module)
    code, out, err = command("report", stored, "-o", "page.html", "--title", "Cats & <dogs>")
    assert (code, out, err) == (0, "page.html: 2 maps\n", "")
    page = Path("page.html").read_text(encoding="utf-8")
    assert "Cats &amp; &lt;dogs&gt;" in page
    assert "<dogs>" not in page


def test_explain_writes_the_page_of_all_photographs_at_once(command):
    Image.new("RGB", (30, 30), "olive").save("dog.png")
    code, out, _ = command("explain", "cat.png", "dog.png", *QUICK, "--html", "pages/all.html")
    assert code == 0
    assert out.splitlines()[-1] == "pages/all.html: standalone HTML report"
    page = Path("pages/all.html").read_text(encoding="utf-8")
    assert "cat.png" in page
    assert "dog.png" in page


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "give stored results"),
        (["nowhere.deepviz"], 3, "nowhere.deepviz"),
        (["cat.png"], 3, "cat.png"),
    ],
)
def test_mistakes_are_one_line(command, arguments, code, said):
    found, out, err = command("report", *arguments)
    assert (found, out) == (code, "")
    assert said in err
    assert err.count("\n") == 1
