import json

import pytest
import safetensors.torch

import deepviz
from deepviz.cli import run
from tiny_run import folder_of_images, loaded, network

pytest.importorskip("zarr", reason="zarr is not installed: pip install 'deepviz[data]'")
pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'deepviz[data]'")


@pytest.fixture
def runs(tmp_path):
    images = folder_of_images(tmp_path / "images")
    for seed in (0, 5):
        deepviz.run(loaded(seed), images, "gradient", out=tmp_path / str(seed))
    return tmp_path / "0", tmp_path / "5"


def test_two_runs_are_compared_and_a_bound_is_kept(runs, capsys):
    one, other = runs
    found = deepviz.diff(one, other)
    assert run(["diff", str(one), str(other), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [entry["image"] for entry in told["reasons"]] == [change.image for change in found.reasons]
    assert len(told["reasons"]) + len(told["other predictions"]) == 6
    assert run(["diff", str(one), str(one), "--fail-above", "0.01"]) == 0
    assert "6 kept their prediction, 0 did not" in capsys.readouterr().out


def test_a_change_above_the_bound_is_exit_code_1(tmp_path, capsys):
    images = folder_of_images(tmp_path / "images")
    for name, method in (("a", "gradient"), ("b", "smooth-grad(samples=2, noise=0.9)")):
        deepviz.run(loaded(), images, method, out=tmp_path / name)
    assert run(["diff", str(tmp_path / "a"), str(tmp_path / "b"), "--fail-above", "0.001"]) == 1
    captured = capsys.readouterr()
    assert "is above 0.001" in captured.err
    assert "ant/0.png" in captured.out


def test_two_checkpoints_are_run_over_a_source_and_compared(runs, tmp_path, capsys):
    for seed in (0, 5):
        safetensors.torch.save_file(network(seed).state_dict(), tmp_path / f"{seed}.safetensors")
    files = [str(tmp_path / f"{seed}.safetensors") for seed in (0, 5)]
    out = tmp_path / "compared"
    asked = ["--source", str(tmp_path / "images"), "--model", "tiny_run:network", "--size", "12", "--crop", "1.0"]
    asked += ["--preprocess", "imagenet", "-m", "gradient", "--json"]
    assert run(["diff", *files, *asked, "-o", str(out)]) == 0
    told = json.loads(capsys.readouterr().out)
    found = deepviz.diff(out / "before", out / "after")
    assert [entry["change"] for entry in told["reasons"]] == [change.change for change in found.reasons]
    assert told["images"] == 6
    assert told["altered"] == 0
    # one that was run already is taken as it is
    assert run(["diff", str(out / "before"), files[1], *asked, "-o", str(out)]) == 0
    assert json.loads(capsys.readouterr().out) == told
    assert run(["diff", files[0], files[0], *asked, "-o", str(tmp_path / "same"), "--fail-above", "0"]) == 0


def test_files_of_weights_need_a_source(tmp_path, capsys):
    path = tmp_path / "a.safetensors"
    path.touch()
    assert run(["diff", str(path), str(path)]) == 2
    assert capsys.readouterr().err == (
        f"deepviz: {path} is no folder of a run; for files of weights give the images as --source\n"
    )


def test_what_holds_no_run_is_one_line(tmp_path, capsys):
    assert run(["diff", str(tmp_path), str(tmp_path)]) == 3
    assert capsys.readouterr().err == f"deepviz: {tmp_path} holds no run: it has no manifest.json\n"
