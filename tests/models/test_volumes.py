import sys

import numpy as np
import pytest
import torch
from torch import nn

from deepviz import BandPreprocess, VideoPreprocess, VolumePreprocess, explain, load_model
from deepviz.errors import DeepVizWarning, ImageError, MissingExtra, ModelError
from deepviz.models.images import find_images
from deepviz.models.orientation import directions_of, oriented
from deepviz.models.stored import Stored

SHAPE = (4, 6, 8)
"""Superior, posterior, left: D, H, W of the model's input."""
AT = (3, 1, 6)
"""Of a voxel: the most superior slice, near the front, near the patient's left side."""


def marked():
    volume = np.zeros(SHAPE, np.float32)
    volume[AT] = 100
    return volume


def place(x):
    assert int((x == x.max()).sum()) == 1
    return tuple(int(one) for one in np.unravel_index(int(x[0].argmax()), x.shape[1:]))


def one_line(error):
    return "\n" not in str(error.value)


class Bright(nn.Module):
    """Two scores, dark and bright."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(1, 2, 3, padding=1)

    def forward(self, x):
        return self.conv(x).mean((2, 3, 4))


# ---- arrays


def test_an_array_is_one_volume_with_one_channel():
    ready = VolumePreprocess()(marked())
    assert ready.x.shape == (1, *SHAPE)
    assert place(ready.x) == AT


def test_an_npy_file_and_the_one_array_of_an_npz(tmp_path):
    np.save(tmp_path / "a.npy", marked())
    np.savez(tmp_path / "b.npz", scan=marked()[None])
    for name in ("a.npy", "b.npz"):
        assert np.array_equal(VolumePreprocess()(tmp_path / name).x[0], marked())


def test_several_arrays_in_one_npz_are_refused_by_name(tmp_path):
    np.savez(tmp_path / "b.npz", scan=marked(), mask=marked())
    with pytest.raises(ImageError, match=r"b\.npz must hold one array, not scan, mask: save the one as \.npy"):
        VolumePreprocess()(tmp_path / "b.npz")


@pytest.mark.parametrize("shape", [(6, 8), (1, 1, 4, 6, 8)])
def test_another_number_of_axes_is_refused_with_what_is_taken(tmp_path, shape):
    np.save(tmp_path / "a.npy", np.zeros(shape))
    with pytest.raises(ImageError, match=r"a\.npy has \d axes.*\(D, H, W\) or \(C, D, H, W\); of 2.*BandPreprocess"):
        VolumePreprocess()(tmp_path / "a.npy")


def test_pickled_objects_are_not_loaded(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(ImageError, match=r"a\.npy cannot be read") as error:
        VolumePreprocess()(tmp_path / "a.npy")
    assert one_line(error)


def test_half_a_file_is_an_error_that_names_it(tmp_path):
    np.save(tmp_path / "a.npy", marked())
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-100])
    with pytest.raises(ImageError, match=r"a\.npy cannot be read, it may be damaged") as error:
        VolumePreprocess()(tmp_path / "a.npy")
    assert one_line(error)


def test_channels_last_are_refused_by_the_models_first_convolution(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((4, 6, 8, 1), np.float32))
    model = load_model(Bright(), preprocess=VolumePreprocess())
    with pytest.raises(ImageError, match="are its last axis"):
        model.prepare(tmp_path / "a.npy")


@pytest.mark.parametrize(
    ("name", "match"),
    [("no.npy", "does not exist"), ("cat.png", r"cat\.png is not a volume: .*\.nii"), ("s3://a/b.nii", "is a URL")],
)
def test_what_is_no_volume_is_an_error_of_one_line(tmp_path, name, match):
    (tmp_path / "cat.png").write_bytes(b"")
    with pytest.raises(ImageError, match=match) as error:
        VolumePreprocess()(name if ":" in name else tmp_path / name)
    assert one_line(error)


def test_an_image_model_says_what_a_volume_needs(tmp_path):
    np.save(tmp_path / "a.npy", marked())
    for model in (load_model(), load_model(Bright())):
        with pytest.raises(ImageError, match=r"a\.npy is no picture.*VolumePreprocess.*--preprocess volumes"):
            model.prepare(tmp_path / "a.npy")


# ---- values


def test_a_window_cuts_and_scales():
    volume = np.array([-1000, -160, 40, 240, 3000], np.float32).reshape(1, 1, 5)
    x = VolumePreprocess(window=(-160, 240), mean=0.5, std=0.5)(volume).x
    assert x.flatten().tolist() == pytest.approx([-1, -1, 0, 1, 1])


def test_standardised_channels_have_mean_0_and_standard_deviation_1_each():
    volume = np.random.default_rng(0).normal([[[[5]]], [[[-300]]]], [[[[2]]], [[[70]]]], (2, 4, 6, 8))
    x = VolumePreprocess(standardise=True)(volume).x
    assert x.mean((1, 2, 3)).tolist() == pytest.approx([0, 0], abs=1e-6)
    assert x.std((1, 2, 3), correction=0).tolist() == pytest.approx([1, 1], abs=1e-6)


@pytest.mark.parametrize(
    "preprocess",
    [VolumePreprocess(window=(0, 200), mean=0.3, std=2), VolumePreprocess(mean=7), VolumePreprocess(standardise=True)],
)
def test_missing_values_are_0_in_the_models_input_and_said(preprocess):
    volume = np.random.default_rng(0).uniform(0, 200, SHAPE)
    volume[0] = np.nan
    ready = preprocess(volume)
    assert ready.x[:, 0].abs().max() < 1e-5
    assert "25 % of the values are missing: 0 in the model's input" in ready.notes


def test_nothing_but_missing_values_is_refused():
    with pytest.raises(ImageError, match="holds no finite value"):
        VolumePreprocess()(np.full(SHAPE, np.nan))


def test_halved_by_area_each_value_is_the_mean_of_eight():
    volume = np.random.default_rng(0).normal(size=(4, 6, 8))
    x = VolumePreprocess(size=(2, 3, 4), interpolation="area")(volume).x[0]
    means = volume.reshape(2, 2, 3, 2, 4, 2).mean((1, 3, 5))
    assert np.allclose(x, means, atol=1e-6)


def test_a_picture_of_a_window_is_black_at_its_low_end_and_white_at_its_high_end():
    ready = VolumePreprocess(window=(0, 100), mean=0.4, std=0.2)(np.full((1, 4, 4), 50.0))
    assert ready.picture.getpixel((0, 0)) == (128, 128, 128)
    assert "drawn from 0 (black) to 100 (white)" in ready.notes


def test_a_tensor_is_drawn_as_the_file_that_it_was_made_of():
    preprocess = VolumePreprocess(window=(0, 150), mean=0.4, std=0.2)
    model = load_model(Bright(), preprocess=preprocess)
    of_file = model.prepare(marked())
    of_tensor = model.prepare(of_file.x)
    assert of_tensor.space == of_file.space == SHAPE
    assert np.array_equal(np.asarray(of_tensor.photo), np.asarray(of_file.photo))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"size": (4, 4)}, r"size must be one number, \(depth, height, width\) or None"),
        ({"size": 4, "spacing": 1}, "give one of them"),
        ({"window": (3, 3)}, r"window must be \(low, high\)"),
        ({"orientation": "RAL"}, "orientation must be one of R or L"),
        ({"std": 0}, "std must hold no 0"),
        ({"mean": (1, 2), "std": (1, 2, 3)}, "as many values as there are channels"),
        ({"standardise": True, "mean": 1}, "leave out mean, std"),
        ({"interpolation": "cubic"}, "interpolation must be"),
        ({"spacing": -1}, "spacing must be millimetres"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, match):
    with pytest.raises(ModelError, match=match):
        VolumePreprocess(**options)


def test_colours_by_name_are_ends_of_the_window():
    preprocess = VolumePreprocess(window=(0, 200), mean=0.3, std=2)
    made = preprocess(np.array([[[0.0, 200.0, 60.0]]])).x.flatten()
    named = torch.stack([preprocess.pixel_value(name) for name in ("black", "white", "mean")]).flatten()
    assert torch.allclose(made, named, atol=1e-6)
    with pytest.raises(ModelError, match="without a window"):
        VolumePreprocess().pixel_value("black")


@pytest.mark.parametrize(
    ("name", "package", "preprocess", "extra"),
    [
        ("a.nii.gz", "nibabel", VolumePreprocess(), "medical"),
        ("a.dcm", "pydicom", VolumePreprocess(), "medical"),
        ("a.dcm", "pydicom", BandPreprocess(), "medical"),
        ("a.tif", "tifffile", BandPreprocess(), "geo"),
        ("a.mp4", "av", VideoPreprocess(), "video"),
    ],
)
def test_a_missing_package_is_an_error_that_says_how_to_get_it(tmp_path, monkeypatch, name, package, preprocess, extra):
    (tmp_path / name).write_bytes(b"")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=rf"{name}.*pip install 'deepviz\[{extra}\]'") as error:
        preprocess(tmp_path / name)
    assert one_line(error)


# ---- orientation


@pytest.mark.parametrize("stored", ["RAS", "LPS", "SPL", "IRA", "ALI"])
def test_a_voxel_is_at_its_place_whatever_the_order_of_the_file(stored):
    original = Stored(marked()[None], "a", (5.0, 2.0, 1.0), "SPL")
    turned = oriented(original, stored)
    assert turned.directions == stored
    assert dict(zip(turned.directions.translate(str.maketrans("RAI", "LPS")), turned.spacing, strict=True)) == {
        "S": 5,
        "P": 2,
        "L": 1,
    }
    back = oriented(turned, "SPL")
    assert np.array_equal(back.values, original.values)
    assert back.spacing == original.spacing


def test_oblique_axes_run_to_the_nearest_sides():
    # 30 degrees about the first axis
    axes = np.array([[1, 0, 0], [0, 0.866, 0.5], [0, -0.5, 0.866]])
    assert directions_of(axes) == "RAS"


# ---- NIfTI


def save_nifti(path, values, affine, **header):
    nibabel = pytest.importorskip("nibabel")
    image = nibabel.Nifti1Image(values, affine)
    for name, value in header.items():
        image.header[name] = value
    nibabel.save(image, path)
    return path


AFFINE = np.diag([-1.0, -2.0, 5.0, 1.0])
"""Of (L, P, S) axes, in right, anterior and superior."""


@pytest.mark.parametrize("name", ["scan.nii.gz", "scan.nii"])
def test_a_nifti_voxel_lands_at_its_place_in_the_body(tmp_path, name):
    path = save_nifti(tmp_path / name, np.ascontiguousarray(marked().transpose(2, 1, 0)), AFFINE)
    ready = VolumePreprocess()(path)
    assert place(ready.x) == AT
    assert ready.picture.info["spacing"] == (5, 2, 1)
    assert ready.name == name
    assert "axes run to superior, posterior, left (SPL)" in ready.notes
    right = SHAPE[2] - 1 - AT[2]
    anterior = SHAPE[1] - 1 - AT[1]
    assert place(VolumePreprocess(orientation="RAS")(path).x) == (right, anterior, AT[0])
    assert place(VolumePreprocess(orientation=None)(path).x) == (AT[2], AT[1], AT[0])


def test_ras_is_what_nibabel_makes_canonical(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    values = np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32)
    affine = np.array([[0, 0.1, -3, 7], [2, 0, 0.1, 5], [0.1, -1, 0, 3], [0, 0, 0, 1]])
    path = save_nifti(tmp_path / "a.nii", values, affine)
    canonical = nibabel.as_closest_canonical(nibabel.load(path))
    ready = VolumePreprocess(orientation="RAS")(path)
    assert np.array_equal(ready.x[0], canonical.get_fdata())
    assert ready.picture.info["spacing"] == pytest.approx(canonical.header.get_zooms())


def test_slope_and_intercept_of_a_nifti_file_are_applied(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    image = nibabel.Nifti1Image(np.full((2, 2, 2), 3, np.int16), np.eye(4))
    image.header.set_slope_inter(2, -1000)
    nibabel.save(image, tmp_path / "a.nii")
    assert set(VolumePreprocess()(tmp_path / "a.nii").x.flatten().tolist()) in ({3.0}, {-994.0})
    stored = nibabel.load(tmp_path / "a.nii").get_fdata()
    assert np.array_equal(VolumePreprocess(orientation="RAS")(tmp_path / "a.nii").x[0], stored)


def test_the_fourth_axis_of_a_nifti_file_holds_channels(tmp_path):
    values = np.stack([np.full((3, 4, 5), channel, np.float32) for channel in range(4)], -1)
    ready = VolumePreprocess()(save_nifti(tmp_path / "a.nii", values, np.eye(4)))
    assert ready.x.shape == (4, 5, 4, 3)
    assert ready.x[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert "the mean of 4 channels is drawn" in ready.notes


def test_a_spacing_asked_for_gives_as_many_voxels_as_fill_the_extent(tmp_path):
    path = save_nifti(tmp_path / "a.nii", np.ones((8, 6, 4), np.float32), AFFINE)
    ready = VolumePreprocess(spacing=(2.5, 2, 2))(path)
    assert ready.x.shape == (1, 8, 6, 4)  # 20, 12 and 8 mm
    assert ready.picture.info["spacing"] == (2.5, 2, 2)


def test_a_spacing_is_refused_of_what_states_none():
    with pytest.raises(ImageError, match="the spacing of array is not known: give size="):
        VolumePreprocess(spacing=1)(marked())


def test_half_a_nifti_file_is_an_error_that_names_it(tmp_path):
    path = save_nifti(tmp_path / "a.nii.gz", np.random.default_rng(0).normal(size=(20, 20, 20)), np.eye(4))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ImageError, match=r"a\.nii\.gz cannot be read") as error:
        VolumePreprocess()(path)
    assert one_line(error)


def test_a_nifti_volume_is_explained_and_its_map_lies_on_it(tmp_path):
    path = save_nifti(tmp_path / "scan.nii.gz", np.ascontiguousarray(marked().transpose(2, 1, 0)), AFFINE)
    (found,) = explain(Bright(), path, "grad-times-image", preprocess=VolumePreprocess(window=(0, 100)))
    assert found.space == SHAPE
    assert place(found.attribution.abs()) == AT
    assert found.image.info["spacing"] == (5, 2, 1)


# ---- DICOM


def save_slice(path, pixels, position, series="1.2.3", orientation=(1, 0, 0, 0, 1, 0), **attributes):
    """One slice of a CT, with stored value = (HU + 1024) / 2."""
    pydicom = pytest.importorskip("pydicom")
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    meta = pydicom.dataset.FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = CTImageStorage, ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = generate_uid()
    data = pydicom.dataset.FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    data.SeriesInstanceUID, data.Modality = series, "CT"
    data.Rows, data.Columns = pixels.shape[-2:]
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 0
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.RescaleSlope, data.RescaleIntercept = 2, -1024
    data.PixelSpacing = [2, 1]
    if position is not None:
        data.ImagePositionPatient, data.ImageOrientationPatient = list(position), list(orientation)
    for name, value in attributes.items():
        setattr(data, name, value)
    data.PixelData = ((pixels + 1024) / 2).astype(np.uint16).tobytes()
    data.save_as(path, enforce_file_format=True)
    return path


def save_series(folder, volume, names=None, **attributes):
    """Slices whose names follow each other in no order of their places."""
    folder.mkdir(exist_ok=True, parents=True)
    order = [2, 0, 3, 1]
    for number, slice_at in enumerate(order):
        name = f"IM{number:04}.dcm" if names is None else names[number]
        save_slice(folder / name, volume[slice_at], (0, 0, 5 * slice_at - 100), **attributes)
    return folder


@pytest.mark.parametrize("names", [None, ["IM0", "IM1", "IM2", "1.2.840.4"]])
def test_the_slices_of_a_series_are_ordered_by_position_in_hounsfield_units(tmp_path, names):
    ready = VolumePreprocess()(save_series(tmp_path / "ct", marked(), names))
    assert place(ready.x) == AT
    assert np.array_equal(ready.x[0], marked())
    assert ready.picture.info["spacing"] == (5, 2, 1)
    assert ready.name == "ct"


def test_sagittal_slices_become_axial_ones(tmp_path):
    # rows of a sagittal slice run to posterior, its columns to inferior
    sagittal = marked().transpose(2, 0, 1)[:, ::-1]
    for number, pixels in enumerate(sagittal):
        save_slice(tmp_path / f"{number}.dcm", pixels, (number, 0, 0), orientation=(0, 1, 0, 0, 0, -1))
    assert place(VolumePreprocess()(tmp_path).x) == AT
    assert place(VolumePreprocess(orientation=None)(tmp_path).x) == (SHAPE[2] - 1 - AT[2], SHAPE[0] - 1 - AT[0], AT[1])


def test_a_missing_slice_is_an_error_that_names_its_neighbours(tmp_path):
    volume = np.zeros((6, 4, 4))
    for number in (0, 1, 3, 4, 5):
        save_slice(tmp_path / f"{number}.dcm", volume[number], (0, 0, 5 * number))
    with pytest.raises(ImageError, match=r"lacks slices between 1\.dcm and 3\.dcm: they are 10 mm apart, the others 5"):
        VolumePreprocess()(tmp_path)


def test_two_slices_at_one_place_are_refused_by_name(tmp_path):
    for number, z in enumerate((0, 5, 5, 10)):
        save_slice(tmp_path / f"{number}.dcm", np.zeros((4, 4)), (0, 0, z))
    with pytest.raises(ImageError, match=r"two slices at one place, 1\.dcm and 2\.dcm"):
        VolumePreprocess()(tmp_path)


def test_an_unreadable_slice_is_an_error_that_names_it(tmp_path):
    folder = save_series(tmp_path / "ct", marked())
    broken = folder / "IM0002.dcm"
    for content in (broken.read_bytes()[:-20], b"no DICOM"):
        broken.write_bytes(content)
        with pytest.raises(ImageError, match=r"IM0002\.dcm cannot be read") as error:
            VolumePreprocess()(folder)
        assert one_line(error)


def test_a_slice_of_another_size_is_refused_by_name(tmp_path):
    folder = save_series(tmp_path / "ct", marked())
    save_slice(folder / "IM0009.dcm", np.zeros((5, 5)), (0, 0, -80))
    with pytest.raises(ImageError, match=r"IM0009\.dcm is 5 x 5 pixels, the other slices of ct are 6 x 8"):
        VolumePreprocess()(folder)


def test_a_compression_without_a_decoder_names_a_package(tmp_path):
    pydicom = pytest.importorskip("pydicom")
    from pydicom.uid import JPEGLSLossless

    if pydicom.pixels.get_decoder(JPEGLSLossless).is_available:
        pytest.skip("a decoder of JPEG-LS is installed")
    path = save_slice(tmp_path / "a.dcm", np.zeros((4, 4)), (0, 0, 0))
    data = pydicom.dcmread(path)
    data.PixelData = pydicom.encaps.encapsulate([b"\0" * 8])
    data["PixelData"].VR = "OB"
    data.file_meta.TransferSyntaxUID = JPEGLSLossless
    data.save_as(path)
    with pytest.raises(MissingExtra, match=r"a\.dcm is compressed.*pip install 'pylibjpeg\[all\]'") as error:
        VolumePreprocess()(path)
    assert one_line(error)


def test_a_folder_with_two_series_is_refused_with_their_names(tmp_path):
    folder = save_series(tmp_path / "ct", marked(), SeriesDescription="thorax")
    save_slice(folder / "scout.dcm", np.zeros((6, 8)), (0, 0, 0), series="9.9", SeriesDescription="scout")
    with pytest.raises(ImageError, match=r"holds 2 series: thorax \(4 files\), scout \(1 files\); give each a folder"):
        VolumePreprocess()(folder)


def test_slices_without_positions_are_refused(tmp_path):
    for number in range(3):
        save_slice(tmp_path / f"{number}.dcm", np.zeros((4, 4)), None)
    with pytest.raises(ImageError, match=r"0\.dcm has no ImagePositionPatient.*save them as one \.npy"):
        VolumePreprocess()(tmp_path)


def test_the_frames_of_one_file_are_ordered_by_their_positions(tmp_path):
    pydicom = pytest.importorskip("pydicom")

    def item(**attributes):
        data = pydicom.dataset.Dataset()
        for name, value in attributes.items():
            setattr(data, name, [value] if isinstance(value, pydicom.dataset.Dataset) else value)
        return data

    order = [2, 0, 3, 1]
    frames = [item(PlanePositionSequence=item(ImagePositionPatient=[0, 0, 5 * one])) for one in order]
    shared = item(
        PlaneOrientationSequence=item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0]),
        PixelMeasuresSequence=item(PixelSpacing=[2, 1]),
        PixelValueTransformationSequence=item(RescaleSlope=2, RescaleIntercept=-1024),
    )
    path = save_slice(
        tmp_path / "enhanced.dcm",
        marked()[order],
        None,
        NumberOfFrames=4,
        PerFrameFunctionalGroupsSequence=frames,
        SharedFunctionalGroupsSequence=[shared],
        RescaleSlope=None,
        RescaleIntercept=None,
        PixelSpacing=None,
    )
    ready = VolumePreprocess()(path)
    assert np.array_equal(ready.x[0], marked())
    assert ready.picture.info["spacing"] == (5, 2, 1)


def test_frames_with_one_position_stay_in_their_order(tmp_path):
    path = save_slice(tmp_path / "a.dcm", marked(), (0, 0, 0), NumberOfFrames=4, SpacingBetweenSlices=5)
    ready = VolumePreprocess()(path)
    assert np.array_equal(ready.x[0], marked())
    assert ready.picture.info["spacing"] == (5, 2, 1)
    assert ready.notes[0] == "frames in the order of the file: it holds no positions"


def test_a_file_without_pixels_is_refused_by_name(tmp_path):
    pydicom = pytest.importorskip("pydicom")
    folder = save_series(tmp_path / "ct", marked())
    data = pydicom.dcmread(folder / "IM0001.dcm")
    for name in ("Rows", "Columns", "PixelData"):
        delattr(data, name)
    data.Modality = "SR"
    data.save_as(folder / "IM0001.dcm")
    with pytest.raises(ImageError, match=r"IM0001\.dcm holds no image, its modality is SR: leave it out"):
        VolumePreprocess()(folder)


def test_an_attribute_that_is_no_number_is_an_error_that_names_the_file(tmp_path):
    folder = save_series(tmp_path / "ct", marked())
    broken = folder / "IM0003.dcm"
    content = broken.read_bytes()
    assert content.count(b"-95") == 1
    broken.write_bytes(content.replace(b"-95", b"-9x"))
    with pytest.raises(ImageError, match=r"IM0003\.dcm cannot be read") as error:
        VolumePreprocess()(folder)
    assert one_line(error)


def test_a_folder_of_a_series_is_one_volume_and_a_folder_of_folders_several(tmp_path):
    for name in ("a", "b"):
        save_series(tmp_path / "scans" / name, marked())
    np.save(tmp_path / "scans" / "c.npy", marked())
    (tmp_path / "scans" / "notes.txt").write_text("")
    (tmp_path / "scans" / "thumbnail.png").write_bytes(b"")
    found = find_images(tmp_path / "scans", "volumes")
    assert [path.name for path in found.paths] == ["c.npy", "a", "b"]
    assert found.skipped_in_words == "2 files skipped: 1 .png; 1 .txt"
    assert [path.name for path in find_images(tmp_path / "scans").paths] == ["thumbnail.png"]
    with pytest.warns(DeepVizWarning, match="2 files skipped"):
        results = explain(Bright(), tmp_path / "scans", "gradient", preprocess=VolumePreprocess())
    assert [one.source for one in results] == ["c.npy", "a", "b"]
