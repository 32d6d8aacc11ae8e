import numpy as np
import pytest
import torch
from torch import nn

from deepviz import BandPreprocess, evaluate, explain, load_model
from deepviz.errors import ImageError, MissingExtra, ModelError
from deepviz.methods import SmoothGrad

tifffile = pytest.importorskip("tifffile")


def bands(count=5, height=6, width=8):
    """Band b holds 1000 (b + 1) + 10 row + column."""
    rows, columns = np.mgrid[:height, :width]
    return (1000 * (1 + np.arange(count))[:, None, None] + 10 * rows + columns).astype(np.uint16)


def save(path, values, **options):
    tifffile.imwrite(path, values, photometric="minisblack", **options)
    return path


def network(channels=5):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(channels, 3, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.mark.parametrize("layout", ["separate", "contig", "pages"])
def test_bands_come_as_they_are_stored_however_the_file_lays_them_out(tmp_path, layout):
    path = tmp_path / "a.tif"
    if layout == "contig":
        save(path, bands().transpose(1, 2, 0), planarconfig="contig")
    else:
        save(path, bands(), **({"planarconfig": "separate"} if layout == "separate" else {}))
    assert np.array_equal(BandPreprocess()(path).x, bands())


def test_one_band_and_bands_that_are_chosen(tmp_path):
    assert BandPreprocess()(save(tmp_path / "a.tif", bands()[0])).x.shape == (1, 6, 8)
    x = BandPreprocess(bands=(4, 0))(save(tmp_path / "b.tif", bands())).x
    assert np.array_equal(x, bands()[[4, 0]])
    with pytest.raises(ImageError, match=r"b\.tif has the bands 0 to 4, not 5"):
        BandPreprocess(bands=(5,))(tmp_path / "b.tif")


@pytest.mark.parametrize(("kind", "nodata"), [(np.uint16, "0"), (np.float32, "-9999"), (np.float32, "nan")])
def test_no_data_is_0_in_the_models_input_and_black(tmp_path, kind, nodata):
    values = bands().astype(kind)
    values[:, :3] = float(nodata)
    path = save(tmp_path / "a.tif", values, extratags=[(42113, "s", 0, nodata, True)])
    ready = BandPreprocess(window=(0, 10000), mean=0.3, std=0.1, picture=(3, 2, 1))(path)
    assert ready.x[:, :3].abs().max() < 1e-5
    assert torch.allclose(ready.x[:, 3:], (torch.tensor(values[:, 3:].astype(np.float32)) / 10000 - 0.3) / 0.1)
    assert "50 % of the values are missing: 0 in the model's input" in ready.notes
    assert ready.picture.getpixel((0, 0)) == (0, 0, 0)


def test_the_stated_bands_are_red_green_and_blue():
    ready = BandPreprocess(window=(0, 5100), picture=(3, 2, 1))(
        np.full((5, 4, 4), [[[0]], [[1020]], [[2040]], [[3060]], [[9]]])
    )
    assert ready.picture.getpixel((0, 0)) == (153, 102, 51)
    assert ready.notes == ("drawn in bands 3, 2, 1 as red, green, blue, from 0 to 5100",)


def test_without_a_window_each_band_is_drawn_from_its_2_to_its_98_percent_quantile():
    values = np.zeros((4, 1, 101))
    values[:] = np.arange(101) * np.array([1, 10, 100, 7])[:, None, None]
    ready = BandPreprocess(picture=(0, 1, 2))(values)
    row = [ready.picture.getpixel((x, 0)) for x in (0, 2, 50, 98, 100)]
    assert row == [(0, 0, 0), (0, 0, 0), (128, 128, 128), (255, 255, 255), (255, 255, 255)]


def test_a_callable_draws_the_picture():
    def vegetation(values):
        index = (values[3] - values[2]) / (values[3] + values[2])
        return np.stack([0 * index, index, 0 * index], -1)

    values = np.ones((4, 5, 5))
    values[3] = 3
    assert BandPreprocess(picture=vegetation)(values).picture.getpixel((0, 0)) == (0, 128, 0)
    with pytest.raises(ImageError, match=r"picture= must return \(H, W, 3\)"):
        BandPreprocess(picture=lambda values: values)(values)


def test_grey_is_never_drawn_without_a_word(tmp_path):
    ready = BandPreprocess()(save(tmp_path / "a.tif", bands()))
    assert "drawn as the mean of 5 bands in grey; picture=(3, 2, 1)" in ready.notes[0]
    for image in (torch.rand(5, 8, 8), tmp_path / "a.tif"):
        preprocess = None if isinstance(image, torch.Tensor) else BandPreprocess(window=(0, 5000))
        (found,) = explain(network(), image, "gradient", preprocess=preprocess)
        assert "picture=(3, 2, 1)" in found.notes["photograph"][0]


def test_a_tensor_is_drawn_as_the_file_that_it_was_made_of(tmp_path):
    path = save(tmp_path / "a.tif", bands())
    model = load_model(network(), preprocess=BandPreprocess(window=(0, 6000), mean=0.2, std=0.1, picture=(3, 2, 1)))
    of_file = model.prepare(path)
    difference = np.asarray(model.prepare(of_file.x).photo).astype(int) - np.asarray(of_file.photo)
    assert abs(difference).max() <= 1  # rounding of one level


def test_the_map_of_a_resized_image_lies_on_the_image_at_its_own_size(tmp_path):
    path = save(tmp_path / "a.tif", bands(height=40, width=60))
    (found,) = explain(network(), path, "gradient", preprocess=BandPreprocess(16, window=(0, 6000), picture=(3, 2, 1)))
    assert found.attribution.shape == (5, 16, 16)
    assert found.overlay().size == found.image.size == (60, 40)


def test_smooth_grad_noise_is_in_units_of_each_band_where_these_are_unlike(tmp_path):
    """Of the mean of squares over the pixels, the expected squared gradient is (2 x)^2 + (2 s_c)^2, s_c the noise of
    band c: 0.1 of its own range, which is far below that of the whole image."""
    values = bands(3).astype(np.float32) * np.array([1e-3, 1, 100], np.float32)[:, None, None]
    path = save(tmp_path / "a.tif", values)

    class Squares(nn.Module):
        def forward(self, x):
            return torch.stack([x.square().flatten(1).sum(1), 0 * x.flatten(1).sum(1)], 1)

    method = SmoothGrad(samples=2000, noise=0.1, statistic="variance")
    (found,) = explain(Squares(), path, method, target=0, preprocess=BandPreprocess(picture=(0, 1, 2)))
    ranges = values.max((1, 2)) - values.min((1, 2))
    expected = torch.tensor((2 * 0.1 * ranges) ** 2)
    # the variance of n draws has a relative standard error of sqrt(2 / n) = 3 %, the mean of 48 pixels far less
    assert torch.allclose(found.attribution.mean((1, 2)), expected, rtol=0.03)
    assert found.notes["noise"].startswith("relative to each channel's own range")


def test_metrics_judge_images_of_bands(tmp_path):
    path = save(tmp_path / "a.tif", bands(height=16, width=16))
    preprocess = BandPreprocess(window=(0, 6000), mean=0.2, std=0.1, picture=(3, 2, 1))
    found = evaluate(network(), path, "gradient", ["deletion(baseline=black)", "insertion"], preprocess=preprocess)
    assert np.isfinite(found.values).all()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"picture": (1, 2)}, "picture must be three bands"),
        ({"picture": (1, 2, -1)}, "picture must be numbers of bands, counted from 0"),
        ({"bands": ()}, "bands must be numbers of bands"),
        ({"size": (1, 2, 3)}, r"size must be one number, \(height, width\)"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, match):
    with pytest.raises(ModelError, match=match):
        BandPreprocess(**options)


def test_a_damaged_file_is_an_error_of_one_line(tmp_path):
    path = save(tmp_path / "a.tif", bands(height=60, width=80))
    for content in (path.read_bytes()[:2000], b"no TIFF"):
        path.write_bytes(content)
        with pytest.raises(ImageError, match=r"a\.tif") as error:
            BandPreprocess()(path)
        assert "\n" not in str(error.value)


def test_a_compression_that_needs_another_package_says_which(tmp_path, monkeypatch):
    path = save(tmp_path / "a.tif", bands())

    def refuse(self, **options):
        raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")

    monkeypatch.setattr(tifffile.TiffPageSeries, "asarray", refuse)
    with pytest.raises(MissingExtra, match=r"a\.tif: .*imagecodecs.*pip install 'deepviz\[geo\]'"):
        BandPreprocess()(path)


def test_an_image_model_names_what_reads_bands(tmp_path):
    path = save(tmp_path / "a.tif", bands(), planarconfig="separate")
    with pytest.raises(ImageError, match=r"a\.tif is not an image .*BandPreprocess"):
        load_model().prepare(path)
