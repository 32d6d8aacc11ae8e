"""Volumes, clips and images of bands in the web app: files that the model's own preprocessing reads."""

import base64
import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from torch import nn

import deepviz
import small_models
from deepviz import BandPreprocess, VolumePreprocess
from deepviz.errors import DeepVizWarning, ImageError, ModelError
from deepviz.models import LoadedModel
from deepviz.web import Limits, create_app
from deepviz.web.image_store import ImageStore
from pictures import picture_file

SHAPE = (6, 12, 16)
CUBE = (slice(4, 6), slice(2, 5), slice(3, 7))


def planted(path):
    """A volume with a bright cube, saved; the path."""
    volume = np.zeros(SHAPE, np.float32)
    volume[CUBE] = 1
    np.save(path, volume)
    return path


def npy(values):
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def pixels(answer):
    return np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGB"))


def values_of(map):
    levels = np.frombuffer(base64.b64decode(map["data"]), "<u2").astype(float)
    return map["low"] + levels * (map["high"] - map["low"]) / map["levels"]


def explained(client, photograph, method="grad-times-image"):
    """The record of the map of class 1."""
    asked = {"model": "small", "rows": [{"photograph": photograph, "targets": [1]}], "methods": [{"name": method}]}
    job = client.finish(asked)
    assert job["state"] == "done", job
    return client.get(f"/api/results/{job['results'][0]['id']}").json()


def test_a_served_volume_is_shown_slice_by_slice_with_the_map_that_python_gives(serving, tmp_path):
    path = planted(tmp_path / "scan.npy")
    client = serving(small_models.volumes(), photographs=[path])
    assert client.get("/api/start").json()["reads"] == "volumes"
    (photograph,) = client.get("/api/photographs").json()
    assert photograph["name"] == "scan.npy"
    picture = f"/api/photographs/{photograph['id']}"
    for index in range(SHAPE[0]):
        shown = pixels(client.get(f"{picture}?slice={index}"))
        assert shown.shape == (12, 16, 3)
        bright = np.zeros((12, 16), bool)
        if index >= 4:
            bright[CUBE[1:]] = True
        assert np.array_equal(shown[..., 0] == 255, bright)
    assert pixels(client.get(picture)).shape == (12, 16, 3), "the middle slice, for the strip"
    assert client.get(f"{picture}?slice=6").json() == {"detail": "scan.npy has the slices 0 to 5, not 6"}

    record = explained(client, photograph["id"])
    (wanted,) = deepviz.explain(small_models.volumes(), path, "grad-times-image", target=1)
    assert record["slices"] == {"count": 6, "first": wanted.best_slice, "kind": "slice"}
    assert wanted.best_slice == 4
    assert record["map"]["size"] == [16, 12]
    step = (record["map"]["high"] - record["map"]["low"]) / 65535
    assert np.abs(values_of(record["map"]) - wanted.volume.ravel()).max() <= step
    assert client.get(f"/api/models/small/photographs/{photograph['id']}/predictions").json()[0]["index"] == 1


def test_an_uploaded_volume_is_read_as_the_model_reads_files(serving):
    client = serving(small_models.volumes(), photographs=[])
    volume = np.zeros(SHAPE, np.float32)
    volume[CUBE] = 1
    answer = client.post("/api/photographs?name=../x/my%20scan.NPY", content=npy(volume))
    assert answer.status_code == 201, answer.text
    assert answer.json()["name"] == "my scan.NPY"
    record = explained(client, answer.json()["id"])
    assert record["source"] == "my scan.NPY"
    assert record["slices"]["first"] == 4
    assert client.post("/api/photographs?name=again.npy", content=npy(volume)).json()["id"] == answer.json()["id"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.npy", b"nothing", "a.npy cannot be read, it may be damaged: "),
        ("a.png", picture_file(), "a.png is not a volume: the model's preprocessing takes "),
        ("a", b"nothing", "a is not a volume: "),
        ("a.npy", npy(np.zeros((3, 4))), "a.npy has 2 axes, (3, 4): the model's preprocessing takes "),
        ("a.npy", npy(np.full(SHAPE, np.nan)), "a.npy holds no finite value"),
        ("a.nii.gz/../../b.npy", b"", "b.npy cannot be read"),
        ("a.npy", b"x" * 20_001, "the request is larger than 20000 bytes"),
    ],
)
def test_what_is_no_volume_is_refused_in_one_line(serving, name, content, said):
    """By the name that it was uploaded with: no path of the server is told."""
    client = serving(small_models.volumes(), photographs=[], limits=Limits(upload_bytes=1, volume_bytes=20_000))
    answer = client.post("/api/photographs", params={"name": name}, content=content)
    assert answer.status_code in (413, 422)
    detail = answer.json()["detail"]
    assert detail.startswith(said), detail
    assert "\n" not in detail
    assert "/tmp" not in detail
    assert client.get("/api/photographs").json() == []


def test_what_applies_is_found_out_without_a_picture(serving):
    """With noise of the size that is stated, or with the first file: there is no example of volumes."""
    stated = serving(small_models.volumes())
    assert stated.get("/api/photographs").json() == []
    reasons = {one["name"]: one["reason"] for one in stated.get("/api/models/small/methods").json()}
    assert reasons["gradient"] == reasons["grad-cam"] == ""
    assert stated.get("/api/models/small/layers").json()["layers"][0]["output"] == [1, 2, 6, 12, 16]


def test_a_size_that_follows_the_file_is_that_of_the_first_file(serving, tmp_path):
    (tmp_path / "a.npy").write_bytes(b"nothing")
    planted(tmp_path / "b.npy")
    loaded = small_models.volumes_as_stored()
    client = serving(loaded, photographs=[tmp_path / "a.npy", tmp_path / "b.npy"])
    assert client.get("/api/models/small/layers").json()["layers"][0]["output"] == [1, 2, *SHAPE]
    empty = serving(loaded)
    assert "follows the file: give one" in empty.get("/api/models/small/layers").json()["detail"]


def test_models_that_read_files_in_unlike_ways_are_not_served_together():
    volumes = small_models.volumes()
    other = replace(volumes, name="other", preprocess=VolumePreprocess((6, 12, 16), window=(0, 2)))
    with pytest.raises(ModelError, match="small reads volumes and other reads volumes, with preprocessing that is not"):
        create_app([volumes, other])
    with pytest.raises(ModelError, match="--port of its own"):
        create_app([small_models.good(), volumes])
    create_app([volumes, replace(volumes, name="other")])


def bands():
    net = small_models.seeded(nn.Sequential(nn.Conv2d(5, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    return LoadedModel(net, "small", BandPreprocess(window=(0, 1), picture=(3, 2, 1)))


def test_an_image_of_bands_is_shown_in_the_bands_that_are_stated(serving):
    client = serving(bands(), photographs=[])
    values = np.random.default_rng(0).integers(0, 256, (5, 12, 16)) / 255
    photograph = client.post("/api/photographs?name=a.npy", content=npy(values.astype(np.float32))).json()
    shown = pixels(client.get(f"/api/photographs/{photograph['id']}?size=1280"))
    assert np.array_equal(shown, np.rint(255 * values[[3, 2, 1]]).transpose(1, 2, 0))
    record = explained(client, photograph["id"])
    assert "slices" not in record
    assert record["map"]["bits"] == 32


def test_volumes_in_the_order_in_which_they_were_read_are_forgotten(tmp_path):
    forgotten = []
    reader = VolumePreprocess(window=(0, 1))
    size = int(np.prod(SHAPE)) * (4 + 3)
    store = ImageStore(Limits(photographs_bytes=2 * size), forgotten.append, reader)
    ids = [store.upload(npy(np.full(SHAPE, n, np.float32)), f"{n}.npy").id for n in range(3)]
    assert forgotten == ids[:1]
    (served,) = store.add_files([planted(tmp_path / "scan.npy")])
    assert store.thumbnail(served, 192).size == (16, 12)
    assert forgotten == ids[:1], "a thumbnail pushes nothing out"
    (tmp_path / "scan.npy").unlink()
    assert store.thumbnail(served, 192).size == (16, 12), "it is kept"
    with pytest.raises(ImageError, match="does not exist"):
        store.photo(served)
    with pytest.warns(DeepVizWarning, match="left out: .*cannot be read"):
        assert store.add_files([tmp_path / "scan.npy"]) == []


def test_a_folder_of_slices_is_one_volume_by_what_is_in_it(tmp_path):
    store = ImageStore(Limits(), print, VolumePreprocess())
    ids = []
    for folder, content in (("one", b"1"), ("same", b"1"), ("other", b"2")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "0.dcm").write_bytes(content)
        ids += store.add_files([tmp_path / folder])
    assert ids[0] == ids[1] != ids[2]


def test_checks_show_the_slice_with_the_most_evidence(serving, tmp_path, monkeypatch):
    """Of the curves the picture, what its pixels become and when; of the strip the same slice at each stage."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = planted(tmp_path / "scan.npy")
    client = serving(small_models.volumes(), photographs=[path])
    (photograph,) = client.get("/api/photographs").json()
    asked = {"model": "small", "rows": [{"photograph": photograph["id"], "targets": [1]}]}
    job = client.finish({**asked, "methods": [{"name": "grad-times-image"}]})
    result = job["results"][0]["id"]
    assert client.finish({"results": [result]}, "/api/checks")["failures"] == []
    curves = client.get(f"/api/results/{result}/checks/curves").json()
    assert (curves["of"], curves["size"]) == ("slice 5 of 6", [16, 12])
    when = np.frombuffer(base64.b64decode(curves["when"]), np.uint8).reshape(12, 16)
    first = np.zeros((12, 16), bool)
    first[CUBE[1:]] = True
    assert (when[first] == 1).all(), "24 of 1152 voxels are within the first of 20 steps"
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(curves["picture"].partition(",")[2]))).convert("L"))
    assert np.array_equal(shown == 255, first)
    gone = np.asarray(Image.open(io.BytesIO(base64.b64decode(curves["start"]["deletion"].partition(",")[2]))))
    assert (gone == 0).all()
    deletion = deepviz.evaluate(
        small_models.volumes(), path, "grad-times-image", deepviz.metrics.Deletion(steps=20), target=1, controls=False
    )
    assert curves["curves"]["deletion"]["area"] == pytest.approx(deletion.values[0, 0, 0], abs=1e-6)
    assert len(client.get(f"/api/results/{result}/checks/strip").json()["stages"]) == 3


def test_channels_of_volumes_are_refused_in_one_line(serving, tmp_path):
    client = serving(small_models.volumes(), photographs=[planted(tmp_path / "scan.npy")])
    (photograph,) = client.get("/api/photographs").json()
    answer = client.get(f"/api/models/small/photographs/{photograph['id']}/activations?layer=0")
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith(
        "layer '0' has maps (2, 6, 12, 16) of an input (1, 6, 12, 16): channels are"
    )
