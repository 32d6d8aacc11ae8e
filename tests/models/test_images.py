import os
import struct
import sys
import warnings
import zlib
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from deepviz.errors import DeepVizWarning, ImageError, MissingExtra
from deepviz.models.images import find_images, find_photos, open_photo


def noise(height=24, width=32, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def pixels(photo):
    return np.asarray(photo.picture)


def saved(tmp_path, name, picture, **options):
    path = tmp_path / name
    picture.save(path, **options)
    return path


def one_line(error):
    return "\n" not in str(error.value)


def test_a_png_comes_out_as_it_was_saved(tmp_path):
    photo = open_photo(str(saved(tmp_path, "a.png", Image.fromarray(noise()))))
    assert np.array_equal(pixels(photo), noise())
    assert (photo.name, photo.notes, photo.picture.mode) == ("a.png", (), "RGB")


def test_path_that_does_not_exist(tmp_path):
    with pytest.raises(ImageError, match=r"nowhere\.jpg does not exist"):
        open_photo(tmp_path / "nowhere.jpg")


def test_folder(tmp_path):
    with pytest.raises(ImageError, match="is a folder"):
        open_photo(tmp_path)


def test_text_file_named_jpg(tmp_path):
    path = tmp_path / "notes.jpg"
    path.write_text("milk, bread")
    with pytest.raises(ImageError, match=r"notes\.jpg is not an image") as error:
        open_photo(path)
    assert one_line(error)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("lenient", [False, True])
def test_truncated_is_never_half_decoded(tmp_path, monkeypatch, suffix, lenient):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)
    path = saved(tmp_path, f"half.{suffix}", Image.fromarray(noise(200, 200)))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ImageError, match=rf"half\.{suffix} cannot be decoded, it may be truncated") as error:
        open_photo(path)
    assert one_line(error)
    assert lenient == ImageFile.LOAD_TRUNCATED_IMAGES


def test_truncated_but_not_yet_loaded_pil_image(tmp_path):
    path = saved(tmp_path, "half.jpg", Image.fromarray(noise(200, 200)))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with Image.open(path) as lazy, pytest.raises(ImageError, match="truncated"):
        open_photo(lazy)


@pytest.mark.parametrize("limit", [24 * 32 - 1, 24 * 32 // 2 - 1], ids=["warning level", "error level"])
def test_decompression_bomb(tmp_path, monkeypatch, limit):
    path = saved(tmp_path, "bomb.png", Image.fromarray(noise()))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ImageError, match=rf"bomb\.png has more than {limit} pixels"):
            open_photo(path)


def test_as_many_pixels_as_allowed(tmp_path, monkeypatch):
    path = saved(tmp_path, "large.png", Image.fromarray(noise()))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 24 * 32)
    assert open_photo(path).picture.size == (32, 24)


def test_one_pixel_is_done_with_a_warning(tmp_path):
    path = saved(tmp_path, "dot.png", Image.new("RGB", (1, 1), "red"))
    with pytest.warns(DeepVizWarning, match="1 x 1 pixels") as warned:
        photo = open_photo(path)
    assert pixels(photo).tolist() == [[[255, 0, 0]]]
    assert photo.notes == (str(warned[0].message),)
    assert warned[0].filename == __file__


def test_warning_as_error_stays_that_warning(tmp_path):
    path = saved(tmp_path, "dot.png", Image.new("RGB", (1, 1)))
    with pytest.raises(DeepVizWarning):
        open_photo(path)


def test_cmyk(tmp_path):
    path = saved(tmp_path, "print.jpg", Image.new("CMYK", (16, 16), (255, 0, 0, 0)), quality=100)
    photo = open_photo(path)
    assert np.abs(pixels(photo).astype(int) - [0, 255, 255]).max() <= 2
    assert photo.notes == ("converted from CMYK to RGB",)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bits_are_scaled_not_clipped(tmp_path, suffix):
    values = np.array([[0, 256, 257, 20000, 32768, 65535]], np.uint16).repeat(2, 0)
    photo = open_photo(saved(tmp_path, f"deep.{suffix}", Image.fromarray(values)))
    assert pixels(photo)[0, :, 0].tolist() == [0, 1, 1, 78, 128, 255]
    assert photo.notes == ("16 bits scaled to 8",)
    assert np.array_equal(pixels(open_photo(values)), pixels(photo))


def test_16_bits_big_endian_and_pgm(tmp_path):
    values = np.array([[0, 20000, 65535]] * 2, ">u2")
    path = tmp_path / "deep.pgm"
    path.write_bytes(b"P5 3 2 65535\n" + values.tobytes())
    assert pixels(open_photo(path))[0, :, 0].tolist() == [0, 78, 255]
    big = Image.frombytes("I;16B", (3, 2), values.tobytes())
    assert pixels(open_photo(big))[0, :, 0].tolist() == [0, 78, 255]


def test_32_bits_without_a_known_range():
    with pytest.raises(ImageError, match="values from 0 to 70000; scale them to 0 to 65535"):
        open_photo(Image.fromarray(np.array([[0, 70000]] * 2, np.int32)))


def test_float_tiff_of_0_to_1(tmp_path):
    values = np.array([[0, 0.5, 1]] * 2, np.float32)
    photo = open_photo(saved(tmp_path, "float.tif", Image.fromarray(values)))
    assert pixels(photo)[0, :, 0].tolist() == [0, 128, 255]


def test_float_tiff_of_another_range(tmp_path):
    path = saved(tmp_path, "float.tif", Image.fromarray(np.array([[-3, 900]] * 2, np.float32)))
    with pytest.raises(ImageError, match=r"float\.tif: values from -3 to 900; scale them to 0 to 1"):
        open_photo(path)


def test_palette(tmp_path):
    picture = Image.fromarray(noise()).quantize(16)
    photo = open_photo(saved(tmp_path, "palette.png", picture))
    assert np.array_equal(pixels(photo), np.asarray(picture.convert("RGB")))
    assert photo.notes == ()


def test_palette_with_transparency(tmp_path):
    picture = Image.new("P", (4, 4), 0)
    picture.putpalette([255, 0, 0, 0, 0, 255])
    picture.putpixel((1, 1), 1)
    photo = open_photo(saved(tmp_path, "palette.png", picture, transparency=0))
    assert pixels(photo)[0, 0].tolist() == [255, 255, 255]
    assert pixels(photo)[1, 1].tolist() == [0, 0, 255]
    assert photo.notes == ("transparency over white",)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_laid_over_white(tmp_path, mode):
    colour = (0, 0, 0, 51) if mode == "RGBA" else (0, 51)
    photo = open_photo(saved(tmp_path, "glass.png", Image.new(mode, (4, 4), colour)))
    assert np.unique(pixels(photo)).tolist() == [204]
    assert photo.notes == ("transparency over white",)


def test_opaque_alpha_changes_nothing():
    photo = open_photo(np.dstack([noise(), np.full((24, 32), 255, np.uint8)]))
    assert np.array_equal(pixels(photo), noise())
    assert photo.notes == ()


@pytest.mark.parametrize(
    ("orientation", "stored"),
    [(1, lambda a: a), (3, lambda a: a[::-1, ::-1]), (6, lambda a: np.rot90(a, 1)), (8, lambda a: np.rot90(a, 3))],
)
def test_exif_rotation(tmp_path, orientation, stored):
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.fromarray(np.ascontiguousarray(stored(noise())))
    path = saved(tmp_path, "phone.png", picture, exif=exif)
    assert np.array_equal(pixels(open_photo(path)), noise())
    with Image.open(path) as lazy:
        assert np.array_equal(pixels(open_photo(lazy)), noise())


def test_animated_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    photo = open_photo(saved(tmp_path, "film.gif", frames[0], save_all=True, append_images=frames[1:]))
    assert pixels(photo)[0, 0].tolist() == [255, 0, 0]
    assert photo.notes == ("frame 1 of several",)


def test_mode_without_a_way_to_rgb_is_named(tmp_path):
    with pytest.raises(ImageError, match="mode"):
        open_photo(Image.new("La", (4, 4)))


def test_given_picture_is_not_changed():
    picture = Image.new("RGBA", (4, 4), (1, 2, 3, 0))
    open_photo(picture)
    assert picture.getpixel((0, 0)) == (1, 2, 3, 0)


@pytest.mark.parametrize(
    "values",
    [
        noise(),
        noise() / 255,
        (noise() / 255).astype(np.float32),
        noise().astype(np.uint16) * 257,
        np.asfortranarray(noise()),
    ],
    ids=["uint8", "float64", "float32", "uint16", "fortran"],
)
def test_arrays_of_each_kind_are_the_same_picture(values):
    assert np.array_equal(pixels(open_photo(values)), noise())


def test_grey_arrays():
    grey = noise()[:, :, 0]
    for values in (grey, grey[:, :, None]):
        assert np.array_equal(pixels(open_photo(values)), np.repeat(grey[:, :, None], 3, 2))
    assert pixels(open_photo(np.array([[False, True]] * 2)))[0, :, 0].tolist() == [0, 255]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((3, 8, 8), np.uint8), "torch tensor"),
        (np.zeros((2, 3, 8, 8), np.uint8), r"got \(2, 3, 8, 8\)"),
        (np.zeros((0, 8), np.uint8), "an empty"),
        (np.zeros((8, 8), np.int64), "int64"),
        (np.full((8, 8), 255.0), "scale them to 0 to 1"),
        (np.full((8, 8), np.nan), "nan"),
    ],
)
def test_arrays_that_are_no_photograph(values, message):
    with pytest.raises(ImageError, match=message):
        open_photo(values)


def test_other_types():
    with pytest.raises(ImageError, match="not int"):
        open_photo(7)


def test_folder_expands_to_its_images_by_name(tmp_path):
    for name in ("b.JPEG", "a.png", "c.txt", ".hidden.png"):
        (tmp_path / name).touch()
    (tmp_path / "deeper.png").mkdir()
    deeper = tmp_path / "deeper.png" / "d.png"
    deeper.touch()
    given = [Path("missing.png"), tmp_path]
    assert find_photos(given) == [Path("missing.png"), tmp_path / "a.png", tmp_path / "b.JPEG", deeper]
    assert find_photos(str(tmp_path)) == [tmp_path / "a.png", tmp_path / "b.JPEG", deeper]


def test_folder_without_an_image(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ImageError, match="without an image"):
        find_photos([tmp_path])


def test_sub_folders_are_searched_once_and_what_is_skipped_is_counted(tmp_path):
    for name in ("b/2.png", "b/c/1.png", "3.png", "b/.hidden/x.png", "deepviz-out/3/sheet.png", "old/3/sheet.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise()).save(tmp_path / name)
    (tmp_path / "old/3/explain.json").write_text("{}")
    for name in ("notes.txt", "b/more.TXT", "b/a.heic", "plain"):
        (tmp_path / name).write_text("no image")
    (tmp_path / "b/c/up").symlink_to(tmp_path)
    found = find_images(tmp_path)
    assert [str(path.relative_to(tmp_path)) for path in found.paths if path.suffix == ".png"] == [
        "3.png",
        "b/2.png",
        "b/c/1.png",
    ]
    assert [str(folder) for folder in found.folders if folder != Path("b")] == [".", "b/c"]
    if find_spec("pillow_heif") is None:
        assert found.skipped_in_words == (
            "4 files skipped: 2 .txt; 1 without an ending; 1 .heic, pip install 'deepviz[heif]'"
        )


def test_an_address_is_no_file(tmp_path):
    for address in ("https://example.org/cat.jpg", "s3://cats/1.png"):
        with pytest.raises(ImageError, match=f"{address} is a URL: download it first"):
            open_photo(address)
        with pytest.raises(ImageError, match="is a URL"):
            find_images([address])


def test_heif_without_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "a.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(MissingExtra, match=r"a\.HEIC is HEIF.*pip install 'deepviz\[heif\]'"):
        open_photo(tmp_path / "a.HEIC")


def test_heif(tmp_path):
    heif = pytest.importorskip("pillow_heif", reason="pip install 'deepviz[heif]'")
    heif.from_pillow(Image.new("RGB", (64, 48), (200, 30, 30))).save(tmp_path / "a.heic")
    (found,) = find_images(tmp_path).paths
    photo = open_photo(found)
    assert photo.picture.size == (64, 48)
    assert np.abs(pixels(photo).astype(int) - [200, 30, 30]).max() <= 6


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_12_bits_in_16(tmp_path, suffix):
    values = np.array([[0, 2048, 4095]] * 2, np.uint16)
    photo = open_photo(saved(tmp_path, f"deep.{suffix}", Image.fromarray(values)))
    assert pixels(photo)[0, :, 0].tolist() == [0, 128, 255]
    assert photo.notes == ("12 bits scaled to 8",)
    assert pixels(open_photo(values + np.array([0, 0, 1], np.uint16)))[0, :, 0].tolist() == [0, 8, 16]


@pytest.mark.parametrize("suffix", ["jp2", "j2k", "tif", "ppm", "webp"])
def test_lossless_formats_give_the_pixels_that_were_saved(tmp_path, suffix):
    options = {"lossless": True} if suffix == "webp" else {"irreversible": False} if suffix[0] == "j" else {}
    path = saved(tmp_path, f"a.{suffix}", Image.fromarray(noise()), **options)
    assert find_images(tmp_path).paths == [path]
    assert np.array_equal(pixels(open_photo(path)), noise())


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    def refuse(self, *arguments, **options):
        raise PermissionError(13, "Permission denied")

    path = saved(tmp_path, "a.png", Image.fromarray(noise()))
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ImageError, match=r"a\.png cannot be read: Permission denied"):
        open_photo(path)


def test_a_name_that_is_not_utf_8_is_text_for_any_stream(tmp_path):
    path = saved(tmp_path, os.fsdecode(b"caf\xe9.png"), Image.fromarray(noise()))
    assert open_photo(path).name == r"caf\xe9.png"
    path.write_text("no image")
    with pytest.raises(ImageError) as error:
        open_photo(path)
    assert str(error.value).encode("utf-8").endswith(rb"caf\xe9.png is not an image in a format that Pillow can read")


def colour_png(values):
    """A PNG of 16 bits per channel, which Pillow does not write."""

    def chunk(kind, content):
        checked = kind + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_12_bits_of_colour_are_not_taken_for_darkness(tmp_path):
    values = noise().astype(np.uint16)
    (tmp_path / "deep.png").write_bytes(colour_png(values * 257))
    assert np.array_equal(pixels(open_photo(tmp_path / "deep.png")), noise())
    (tmp_path / "deep.png").write_bytes(colour_png(values * 16))
    with pytest.raises(ImageError, match=r"deep\.png: 12-bit values in 16-bit colour"):
        open_photo(tmp_path / "deep.png")
