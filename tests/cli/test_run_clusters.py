import json

import pytest
from PIL import Image

import deepviz
from deepviz.cli import run
from tiny_run import folder_of_images, loaded

pytest.importorskip("zarr", reason="zarr is not installed: pip install 'deepviz[data]'")
pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'deepviz[data]'")
pytest.importorskip("sklearn", reason="scikit-learn is not installed: pip install 'deepviz[data]'")


@pytest.fixture
def folder(tmp_path):
    images = folder_of_images(tmp_path / "images", count=18)
    deepviz.run(loaded(), images, "gradient", out=tmp_path / "run")
    return tmp_path / "run"


def test_clusters_are_listed_drawn_and_told_as_json(folder, tmp_path, capsys):
    found = deepviz.Run(folder).clusters(n=2)
    picture = tmp_path / "clusters.png"
    assert run(["clusters", str(folder), "--n", "2", "-o", str(picture)]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "2 clusters of 18 maps of gradient"
    sizes = [f"cluster {number}: {size} maps" for number, size in enumerate(found.sizes)]
    assert [line.split(",")[0] for line in told if line.startswith("cluster")] == sizes
    oddest = found.images[found.oddness.argmax()]
    assert told[told.index("like no other:") + 1].startswith(f"  {oddest}: oddness {found.oddness.max():.2f}, ")
    with Image.open(picture) as drawn:
        assert drawn.size == found.sheet().size
    assert run(["clusters", str(folder), "--n", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(found.as_json()))


def test_the_images_can_be_chosen(folder, capsys):
    assert run(["clusters", str(folder), "--where", "label == 'ant'", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {one["image"].split("/")[0] for one in told["images"]} == {"ant"}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--where", "label == 'dog'"), 2, "has no map of gradient for target 0 for which label == 'dog'"),
        (("--where", "colour == 1"), 2, "is no condition on the columns"),
        (("--n", "0"), 2, "n must be at least 1 or None, got 0"),
        (("-m", "grad-cam"), 2, "has no maps of grad-cam"),
        (("-o", "clusters.bmp2"), 3, "clusters.bmp2"),
    ],
)
def test_what_cannot_be_clustered_is_one_line(folder, arguments, code, message, capsys):
    assert run(["clusters", str(folder), *arguments]) == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_a_folder_without_a_run_is_one_line(tmp_path, capsys):
    assert run(["clusters", str(tmp_path)]) == 3
    assert capsys.readouterr().err == f"deepviz: {tmp_path} holds no run: it has no manifest.json\n"
