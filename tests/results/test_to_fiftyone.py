"""A run as a FiftyOne data set: with FiftyOne where it and its database are, else with a stand-in of its classes."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import deepviz
from deepviz.errors import MissingExtra
from deepviz.objectives import Candidates
from tiny_run import METHODS, folder_of_images, loaded, network, pixels

pytest.importorskip("zarr", reason="zarr is not installed: pip install 'deepviz[data]'")
pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'deepviz[data]'")


class Fields(SimpleNamespace):
    """What has fields, as FiftyOne's samples and labels do."""

    def __getitem__(self, name):
        return getattr(self, name)

    def __setitem__(self, name, value):
        setattr(self, name, value)


class StandIn(list):
    """A FiftyOne data set, of samples in memory."""

    def __init__(self, name):
        self.name = name or "made up"

    def add_samples(self, samples, *, dynamic, progress, num_samples):
        self += samples
        assert len(self) == num_samples


def stand_in():
    kinds = dict.fromkeys(["Sample", "Classification", "Heatmap", "Detection", "Detections"], Fields)
    return SimpleNamespace(Dataset=StandIn, **kinds)


@pytest.fixture(params=["stand-in", "fiftyone"])
def fiftyone(request, monkeypatch):
    if request.param == "stand-in":
        monkeypatch.setitem(sys.modules, "fiftyone", stand_in())
        yield
        return
    module = pytest.importorskip("fiftyone", reason="fiftyone is not installed")
    try:
        before = set(module.list_datasets())
    except Exception as error:
        pytest.skip(f"FiftyOne has no database: {error}")
    yield
    for name in set(module.list_datasets()) - before:
        module.delete_dataset(name)


pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")


def test_samples_have_labels_predictions_and_maps_on_the_whole_image(fiftyone, tmp_path):
    model = deepviz.LoadedModel(network(), "tiny", deepviz.Preprocess(12, crop=0.5), labels=("ant", "bee", "cow"))
    source = folder_of_images(tmp_path / "images")
    Image.new("RGB", (500, 300), "red").save(source / "bee" / "large.png")
    (source / "cow" / "2.png").write_bytes(b"no image")
    run = deepviz.run(
        model,
        source,
        ["gradient", "grad-cam(relu=False)"],
        out=tmp_path / "out",
        top_k=2,
        metrics=["sparseness", "deletion(steps=4)"],
    )
    samples = list(run.to_fiftyone())
    names = run.manifest["question"]["source"]["count"], ["ant/0.png", "ant/3.png", "bee/1.png", "bee/4.png"]
    assert (len(samples), [sample["image"] for sample in samples[:4]]) == names
    for sample, index in zip(samples, run.images, strict=True):
        row = next(row for row in run.rows.to_pylist() if row["index"] == index)
        assert sample["filepath"] == str(source / row["image"])
        assert (sample["position"], sample["ground_truth"]["label"]) == (index, row["label"])
        if row["method"] is None:
            assert sample["failures"] == [f"image: {row['reason']}"]
            continue
        assert (sample["prediction"]["label"], sample["correct"]) == (row["prediction"], row["correct"])
        assert sample["prediction"]["confidence"] == pytest.approx(row["probability"])
        for field, method, rank in (
            ("gradient", "gradient", 0),
            ("gradient_2", "gradient", 1),
            ("grad_cam_relu_False", "grad-cam(relu=False)", 0),
            ("grad_cam_relu_False_2", "grad-cam(relu=False)", 1),
        ):
            explanation, heat = run.explanation(index, method, rank=rank), sample[field]
            found = next(
                one for one in run.rows.to_pylist()
                if (one["index"], one["method"], one["rank"]) == (index, method, rank)
            )  # fmt: skip
            assert (heat["target"], heat["score"]) == (found["target"], pytest.approx(found["score"]))
            assert heat["sparseness"] == pytest.approx(found["sparseness"])
            assert heat["deletion_steps_4"] == pytest.approx(found["deletion(steps=4)"])
            assert list(heat["range"]) == pytest.approx([explanation.scale.low, explanation.scale.high])
            width, height = explanation.image.size
            assert heat["map"].shape == ((154, 256) if width == 500 else (height, width))
            seen = ~np.isnan(explanation.placed())
            assert (~seen).any()  # the border, which the crop leaves out
            if width < 256:
                whole = np.clip(np.where(seen, explanation.placed(), 0), *heat["range"])
                assert np.allclose(heat["map"], whole, rtol=1e-6, atol=0)


def test_fields_of_a_data_set_are_sorted_by(tmp_path, monkeypatch):
    module = pytest.importorskip("fiftyone", reason="fiftyone is not installed")
    try:
        module.list_datasets()
    except Exception as error:
        pytest.skip(f"FiftyOne has no database: {error}")
    run = deepviz.run(loaded(), folder_of_images(tmp_path / "images"), METHODS, out=tmp_path / "out",
                      metrics=["sparseness"])  # fmt: skip
    data_set = run.to_fiftyone()
    order = data_set.sort_by("grad_cam.sparseness").values("position")
    rows = run.where("method == 'grad-cam'").rows.to_pylist()
    assert order == [row["index"] for row in sorted(rows, key=lambda row: row["sparseness"])]
    wrong = {sample["position"] for sample in data_set.match(module.ViewField("correct") == False)}  # noqa: E712
    assert wrong == set(run.where("not correct").images)
    data_set.delete()


def test_images_in_no_file_are_written(fiftyone, tmp_path):
    run = deepviz.run(network(), pixels(3), "gradient", out=tmp_path / "out")
    with pytest.raises(ValueError, match="FiftyOne shows files, and 0 is none: give media="):
        run.to_fiftyone()
    samples = list(run.where("index != 1").to_fiftyone("some", media=tmp_path / "media"))
    assert [sample["filepath"] for sample in samples] == [str(tmp_path / "media" / f"0000000{n}.png") for n in (0, 2)]
    with Image.open(samples[0]["filepath"]) as picture:
        assert picture.size == (12, 12)


class OneBox(torch.nn.Module):
    def forward(self, x):
        logits = 20 * x.mean((1, 2, 3))[:, None, None] - 10
        return Candidates(torch.tensor([3.0, 2, 9, 8]).expand(len(x), 1, 4), logits, logits.sigmoid())


def test_boxes_are_shares_of_the_image(fiftyone, tmp_path):
    run = deepviz.run(OneBox(), [torch.ones(3, 10, 12)], "gradient", out=tmp_path / "out", output="detections")
    (sample,) = run.to_fiftyone(media=tmp_path / "media")
    (found,) = sample["explained"]["detections"]
    assert list(found["bounding_box"]) == pytest.approx([3 / 12, 2 / 10, 6 / 12, 6 / 10])
    assert found["label"] == run.rows["target"][0].as_py()


def test_without_fiftyone_the_pip_line_is_given(tmp_path, monkeypatch):
    run = deepviz.run(loaded(), folder_of_images(tmp_path / "images"), "gradient", out=tmp_path / "out")
    monkeypatch.setitem(sys.modules, "fiftyone", None)
    with pytest.raises(MissingExtra, match="pip install fiftyone"):
        run.to_fiftyone()
