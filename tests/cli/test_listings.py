import json

import pytest
from PIL import Image

from deepviz import catalog
from deepviz.cli import run


def out_of(capsys, *arguments):
    assert run(list(arguments)) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "\x1b" not in captured.out
    return captured.out


def test_methods_lists_every_method_with_cost_and_options(capsys):
    out = out_of(capsys, "methods")
    for name, cls in catalog.METHODS.items():
        assert f"{name}: {catalog.summary(cls)}" in out
        assert cls.cost in out
        for option in catalog.options(cls):
            assert f"--{name}-{option.flag} " in out or not cls.in_default_set
    assert "0x" not in out


def test_methods_as_json(capsys):
    told = json.loads(out_of(capsys, "methods", "--json"))
    assert list(told) == list(catalog.METHODS)
    assert told["smooth-grad"]["options"]["samples"]["default"] == "50"


@pytest.mark.parametrize("model", ["small_models:good", "small_models:detector", "small_models:planted_segmenter"])
def test_what_can_be_asked_of_a_model_can_be_asked(capsys, tmp_path, monkeypatch, model):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (300, 240), (200, 30, 30)).save("red.png")
    told = json.loads(out_of(capsys, "objectives", model, "--json"))
    lines = out_of(capsys, "objectives", model).splitlines()
    assert len(told) >= 5
    assert [one["target"] for one in told] == [line.split("  ")[0] for line in lines]
    for number, one in enumerate(told):
        asked = ["explain", "red.png", "--model", model, "-m", "gradient", "--target", one["target"]]
        code, err = run([*asked, "-o", str(number)]), capsys.readouterr().err
        # an image of one colour may have no such detection or region, which is said
        assert code == 0 or (code, err.startswith("deepviz: red.png: no ")) == (3, True), err


def test_layers(capsys):
    out = out_of(capsys, "layers", "small_models:good")
    assert any(line.strip().startswith("3 ") and "1 x 8 x 16 x 16" in line for line in out.splitlines())
    assert out.splitlines()[-1] == "4 of 7 layers of small can be explained; Grad-CAM takes 3 if none is named"


def test_usable_layers_and_json(capsys):
    rows = json.loads(out_of(capsys, "layers", "small_models:good", "--json"))
    usable = json.loads(out_of(capsys, "layers", "small_models:good", "--usable", "--json"))
    assert [row["layer"] for row in usable] == ["0", "1", "2", "3"]
    assert [row["layer"] for row in rows if row["usable"]] == ["0", "1", "2", "3"]
    assert all(row["reason"] for row in rows if not row["usable"])
    assert next(row for row in rows if row["layer"] == "2")["receptive field"] == [5, 5]
    assert len(out_of(capsys, "layers", "small_models:good", "--usable").splitlines()) < len(
        out_of(capsys, "layers", "small_models:good").splitlines()
    )


def test_layers_of_a_bare_module_at_another_size(capsys):
    rows = json.loads(out_of(capsys, "layers", "small_models:without_preprocessing", "--size", "48", "--json"))
    assert rows[0]["output"] == [1, 8, 48, 48]


@pytest.mark.parametrize(
    ("model", "word"), [("small_models:nothing", "cannot be imported"), ("resnet5", "unknown model 'resnet5'")]
)
def test_layers_of_no_model(capsys, model, word):
    assert run(["layers", model]) == 3
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert word in captured.err
