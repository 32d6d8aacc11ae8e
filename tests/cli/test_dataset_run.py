import json
import os
import signal

import pytest

import deepviz
from deepviz.cli import run
from processes import in_a_process, started, stopped_after
from tiny_run import contents, folder_of_images

pytest.importorskip("zarr", reason="zarr is not installed: pip install 'deepviz[data]'")
pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'deepviz[data]'")
MODEL = ("--model", "tiny_run:loaded")


@pytest.fixture
def images(tmp_path):
    return folder_of_images(tmp_path / "images")


def go(*arguments):
    return run(["run", *map(str, arguments), *MODEL])


def test_a_folder_is_explained_and_the_run_is_opened_in_python(images, tmp_path, capsys):
    out = tmp_path / "out"
    assert go(images, "-o", out, "-m", "gradient", "-m", "grad-cam", "--metric", "sparseness") == 0
    told = capsys.readouterr().out.splitlines()
    found = deepviz.Run(out)
    correct = len(found.where("correct"))
    assert told == [
        f"{out}: 12 maps of 6 images by gradient, grad-cam",
        f"{correct} of 6 predictions are correct",
        "metrics: sparseness",
        f"In Python: run = deepviz.Run({str(out)!r})",
    ]
    assert (found.methods, found.metrics) == (("gradient", "grad-cam"), ("sparseness",))


def test_the_default_is_one_method(images, tmp_path):
    assert go(images, "-o", tmp_path / "out") == 0
    assert deepviz.Run(tmp_path / "out").methods == ("grad-cam",)


def test_boxes_say_where_the_objects_are(images, tmp_path, capsys):
    out, boxes = tmp_path / "out", tmp_path / "boxes.csv"
    boxes.write_text("file,left,top,right,bottom\nant/0.png,0,0,7,14\nbee/1.png,0,0,14,14\n")
    asked = (images, "-o", out, "-m", "gradient", "--metric", "energy-inside")
    assert go(*asked) == 2
    assert "give boxes (--boxes) or masks (--masks)" in capsys.readouterr().err
    assert go(*asked, "--boxes", boxes) == 0
    assert "energy-inside has no value for 4 of 6 maps: see the column warnings" in capsys.readouterr().err
    values = {row["image"]: row["energy-inside"] for row in deepviz.Run(out).rows.to_pylist()}
    assert values["bee/1.png"] == 1
    assert 0 < values["ant/0.png"] < 1


def test_an_image_that_cannot_be_read_is_told_and_the_exit_code_is_4(images, tmp_path, capsys):
    (images / "bee" / "1.png").write_bytes(b"no image")
    assert go(images, "-o", tmp_path / "out", "--json") == 4
    captured = capsys.readouterr()
    told = json.loads(captured.out)
    assert (told["images"], told["maps"], list(told["failed"])) == (6, 5, ["bee/1.png"])
    assert "bee/1.png is not an image" in captured.err
    assert go(images, "-o", tmp_path / "out") == 4  # also if there is nothing left to do


def test_another_question_is_one_line_and_exit_code_3(images, tmp_path, capsys):
    assert go(images, "-o", tmp_path / "out") == 0
    capsys.readouterr()
    assert go(images, "-o", tmp_path / "out", "--top-k", "2") == 3
    assert capsys.readouterr().err == (
        f"deepviz: {tmp_path / 'out'} holds the results of another question: it differs in top_k (1, now 2); choose "
        "another folder\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give a folder of images"),
        (("photos", "--workers", "0"), "workers must be at least 1"),
        (("photos", "--shard-size", "0"), "shard_size must be at least 1"),
        (("photos", "--gpus", "1"), "(--gpus, --ray-address) are for engine='ray'"),
        (("photos", "--top-k", "0"), "--top-k must be at least 1"),
        (("photos", "--top-k", "2", "--target", "1"), "give it, or --target"),
        (("photos", "-m", "nothing"), "no method 'nothing'"),
    ],
)
def test_a_command_line_that_cannot_be_understood(arguments, message, tmp_path, capsys):
    assert run(["run", *arguments, "-o", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_layer_that_does_not_exist_is_exit_code_3_as_of_explain(images, tmp_path, capsys):
    assert go(images, "-o", tmp_path / "out", "--layer", "nowhere") == 3
    assert "nowhere" in capsys.readouterr().err


def test_a_metric_that_needs_the_place_of_the_object_is_refused(images, tmp_path, capsys):
    assert go(images, "-o", tmp_path / "out", "--metric", "pointing-game") == 2
    assert "needs to know where the object is" in capsys.readouterr().err


def test_a_folder_that_does_not_exist_is_named_and_nothing_else(tmp_path, capsys):
    assert go(tmp_path / "nowhere", "-o", tmp_path / "out") == 3
    assert capsys.readouterr().err == f"deepviz: {tmp_path / 'nowhere'} does not exist\n"


def test_a_metric_that_has_no_value_is_told(images, tmp_path, capsys, monkeypatch):
    def failing(*_):
        raise ValueError("it cannot be measured")

    monkeypatch.setattr("deepviz.runs.shard_work.measured", failing)
    assert go(images, "-o", tmp_path / "out", "--metric", "sparseness") == 0
    assert "sparseness has no value for 6 of 6 maps: see the column warnings" in capsys.readouterr().err
    found = deepviz.Run(tmp_path / "out").rows["warnings"].to_pylist()
    assert all(any(text.startswith("sparseness: ") and "cannot be measured" in text for text in one) for one in found)


def test_a_killed_command_with_workers_goes_on_and_equals_one_without(images, tmp_path):
    out, other = tmp_path / "out", tmp_path / "other"
    arguments = ["run", images, *MODEL, "-m", "gradient", "--shard-size", "1"]
    code, _, _ = stopped_after(started(*arguments, "-o", out, "--workers", 2), out / "rows", signal.SIGKILL)
    assert code in (-signal.SIGKILL, 0)
    assert in_a_process(*arguments, "-o", out, capture_output=True).returncode == 0
    assert go(images, "-o", other, "-m", "gradient", "--shard-size", "1") == 0
    assert contents(out) == contents(other)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_command_says_how_to_go_on(number, tmp_path):
    images, out = folder_of_images(tmp_path / "images", count=300), tmp_path / "out"
    arguments = ["run", images, *MODEL, "--shard-size", "2", "-o", out]
    code, _, err = stopped_after(started(*arguments), out / "rows", number)
    assert code == 130
    assert f"images, all in {out}: the same command goes on" in err.splitlines()[-1]
    assert len(deepviz.Run(out)) % 2 == 0
    assert not (out / "lock").exists()
    assert os.listdir(out / "rows")


def test_folders_behind_urls(images, capsys):
    fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed: pip install 'deepviz[data]'")
    memory = fsspec.filesystem("memory")
    memory.put(str(images), "/cli/images", recursive=True)
    for out in ("one", "other"):
        assert go("memory://cli/images", "-o", f"memory://cli/{out}", "-m", "gradient") == 0
    assert capsys.readouterr().out.startswith("memory://cli/one: 6 maps of 6 images by gradient\n")
    assert deepviz.Run("memory://cli/one").images == (0, 1, 2, 3, 4, 5)
    assert run(["diff", "memory://cli/one", "memory://cli/other", "--fail-above", "0"]) == 0
    memory.rm("/cli", recursive=True)
