"""Volumes, images of bands and videos on the command line."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from deepviz import BandPreprocess, LoadedModel, VolumePreprocess
from deepviz.cli import INPUT, OK, PARTLY, run

HERE = __name__
SHAPE = (4, 6, 8)


class OfVolumes(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(1, 2, 3, padding=1)

    def forward(self, x):
        return self.conv(x).relu().mean((2, 3, 4))


def volumes():
    torch.manual_seed(0)
    return OfVolumes()


def prepared_volumes():
    return LoadedModel(volumes(), "small", VolumePreprocess(SHAPE, window=(-160, 240)))


def bands():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(5, 3, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return LoadedModel(net, "small", BandPreprocess(window=(0, 10000), picture=(3, 2, 1)))


@pytest.fixture
def scans(tmp_path, monkeypatch):
    """A folder with two volumes and a picture, in which commands are run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scans").mkdir()
    for name in ("a", "b"):
        np.save(tmp_path / "scans" / f"{name}.npy", np.random.default_rng(0).uniform(-1000, 1000, (8, 12, 16)))
    (tmp_path / "scans" / "thumbnail.png").write_bytes(b"")
    return tmp_path


@pytest.fixture
def deepviz(scans, capsys):
    def ran(*arguments):
        code = run(list(map(str, arguments)))
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return code, captured.out, captured.err

    return ran


def test_the_volumes_of_a_folder_are_explained(deepviz, scans):
    code, out, err = deepviz("explain", "scans", "--model", f"{HERE}:prepared_volumes", "-m", "gradient", "--json")
    assert code == OK
    done = json.loads(out)["photographs"]
    assert [one["photograph"] for one in done] == ["scans/a.npy", "scans/b.npy"]
    assert (scans / "deepviz-out" / "a" / "sheet.png").exists()
    assert "1 file skipped: 1 .png" in err


def test_a_damaged_volume_fails_alone(deepviz, scans):
    (scans / "scans" / "a.npy").write_bytes(b"no array")
    code, _, err = deepviz("explain", "scans", "--model", f"{HERE}:prepared_volumes", "-m", "gradient")
    assert code == PARTLY
    assert "deepviz: scans/a.npy cannot be read, it may be damaged" in err
    assert "1 of 2 images failed" in err


def test_flags_say_how_volumes_are_read(deepviz, scans):
    flags = ["--preprocess", "volumes", "--size", "4x6x8", "--window", "-160", "240"]
    shared = ["explain", "scans/a.npy", "-m", "gradient", "--format", "npz"]
    assert deepviz(*shared, "--model", f"{HERE}:volumes", *flags, "-o", "flags")[0] == OK
    assert deepviz(*shared, "--model", f"{HERE}:prepared_volumes", "-o", "stated")[0] == OK
    (scans / "how.json").write_text(json.dumps({"reads": "volumes", "size": SHAPE, "window": [-160, 240]}))
    assert deepviz(*shared, "--model", f"{HERE}:volumes", "--preprocess", "how.json", "-o", "file")[0] == OK
    maps = [np.load(scans / name / "a" / "gradient.npz")["attribution"] for name in ("flags", "stated", "file")]
    assert maps[0].shape == (1, *SHAPE)
    assert np.array_equal(maps[0], maps[1])
    assert np.array_equal(maps[0], maps[2])


def test_a_file_that_states_another_kind_or_field_is_refused(deepviz, scans):
    for said, message in (
        ({"reads": "scans"}, "'reads' must be one of volumes, bands, videos"),
        ({"reads": "volumes", "windw": [0, 1]}, "'windw' is unknown; did you mean 'window'"),
    ):
        (scans / "how.json").write_text(json.dumps(said))
        code, _, err = deepviz("explain", "scans/a.npy", "--model", f"{HERE}:volumes", "--preprocess", "how.json")
        assert code == INPUT
        assert message in err


def test_without_preprocessing_the_error_names_it(deepviz):
    code, _, err = deepviz("explain", "scans/a.npy", "--model", f"{HERE}:volumes", "-m", "gradient")
    assert code == INPUT
    assert "scans/a.npy is no picture" in err
    assert "--preprocess volumes" in err


def test_a_folder_without_what_the_model_takes_is_refused(deepviz, scans):
    code, _, err = deepviz("explain", "scans", "--model", f"{HERE}:bands", "-m", "gradient")
    assert code == INPUT  # a.npy is (8, 12, 16), of eight bands
    assert "2 of 2 images failed" in err
    (scans / "empty").mkdir()
    (scans / "empty" / "a.nii").write_bytes(b"")
    code, _, err = deepviz("explain", "empty", "-m", "gradient")
    assert code == INPUT
    assert "empty is a folder without an image: 1 file skipped: 1 .nii" in err


def test_doctor_and_layers_take_noise_of_the_size(deepviz):
    code, out, _ = deepviz("doctor", f"{HERE}:prepared_volumes")
    assert code == OK
    assert "VolumePreprocess(size=(4, 6, 8), window=(-160.0, 240.0)" in out
    assert "1 x 4 x 6 x 8 of float32" in out
    assert "conv, for Grad-CAM" in out
    assert deepviz("doctor", f"{HERE}:prepared_volumes", "scans/a.npy")[1].count("conv, for Grad-CAM") == 1
    code, out, _ = deepviz("layers", f"{HERE}:prepared_volumes")
    assert code == OK
    assert "conv" in out
    code, _, err = deepviz("layers", f"{HERE}:bands")
    assert code == INPUT
    assert "the input size of small follows the file: give one, or size= of its BandPreprocess" in err


def test_images_of_bands_are_judged(deepviz, scans):
    np.save(scans / "field.npy", np.random.default_rng(0).uniform(0, 10000, (5, 16, 16)))
    code, out, _ = deepviz(
        "evaluate", "field.npy", "--model", f"{HERE}:bands", "-m", "gradient", "--metric", "deletion", "--format", "csv"
    )
    assert code == OK
    assert "Gradient" in out


def test_results_of_a_series_are_known_again_until_a_slice_changes(deepviz, scans):
    pytest.importorskip("pydicom")
    from models.test_volumes import marked, save_series

    save_series(scans / "ct", marked())
    arguments = ["explain", "ct", "--model", f"{HERE}:prepared_volumes", "-m", "gradient", "--resume"]
    assert deepviz(*arguments)[0] == OK
    assert "1 of 1 images are done already" in deepviz(*arguments)[2]
    save_series(scans / "ct", 2 * marked())
    assert "0 of 1 images are done already" in deepviz(*arguments)[2]
