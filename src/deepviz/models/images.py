"""Opening images: whatever a picture is stored as, what comes out is upright, 8 bits, RGB and whole."""

from __future__ import annotations

import os
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO, Literal

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from deepviz.diagnostics import warn
from deepviz.errors import ImageError, MissingExtra

PhotoSource = str | os.PathLike[str] | Image.Image | np.ndarray[Any, Any]

FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "AVIF": (".avif",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "JPEG2000": (".jp2", ".j2k", ".jpf", ".jpx"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
}
"""By Pillow's name of a format, the endings of its files."""
SUFFIXES = frozenset(suffix for suffixes in FORMATS.values() for suffix in suffixes)
Reads = Literal["images", "volumes", "bands", "videos"]
"""What a model's preprocessing takes."""
DICOM = frozenset({".dcm", ".dicom", ".ima"})
NIFTI = frozenset({".nii", ".nii.gz"})
ARRAYS = frozenset({".npy", ".npz"})
ENDINGS: dict[Reads, frozenset[str]] = {
    "volumes": NIFTI | ARRAYS | DICOM,
    "bands": frozenset({".tif", ".tiff"}) | ARRAYS | DICOM,
    "videos": frozenset({".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".gif"}),
}
"""The endings of files that are no pictures, by what takes them."""
RESULTS, RECORD = "deepviz-out", "explain.json"
"""The folder of results where none is named, and the file in which `deepviz explain` records an image's results."""
HEIF = frozenset({".heic", ".heif", ".hif"})
HEIF_EXTRA = "pip install 'deepviz[heif]'"
HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
_HIGHEST_OF_12_BITS = 4095

_pillow_settings = Lock()


@dataclass(frozen=True, eq=False)
class Photo:
    """An image, opened.

    Args:
        picture: upright, mode RGB, fully decoded.
        name: what to call it: the file's name, "image" or "array".
        notes: what had to be done to it that changes what is seen, one sentence each.
    """

    picture: Image.Image
    name: str
    notes: tuple[str, ...] = ()


def open_photo(source: PhotoSource) -> Photo:
    """Open an image.

    Args:
        source: a path; a PIL image; or an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) of bool, uint8, uint16,
            or floats from 0 to 1.

    EXIF rotation is applied, transparency is laid over white, of several frames the first is taken (of a PIL
    image, its current one), 16-bit values are scaled to 8 bits rather than clipped: as 12 bits if none is above
    4095.

    Raises:
        ImageError: if there is no such file, it is no image, it is truncated, it has more pixels than Pillow's
            `Image.MAX_IMAGE_PIXELS`, or its values have no known range.

    Example:
        >>> open_photo(np.zeros((20, 30), np.uint8)).picture.size
        (30, 20)
    """
    photo = _opened(source)
    if min(photo.picture.size) == 1:
        size = f"{photo.picture.width} x {photo.picture.height}"
        note = f"{photo.name} is only {size} pixels, too small for a useful explanation"
        warn(note)
        return replace(photo, notes=(*photo.notes, note))
    return photo


def example_photo(name: str = "chelsea") -> Path:
    """An image in the package: "chelsea", a cat, or "coffee", a cup.

    Raises:
        ImageError: for another name.

    Example:
        >>> example_photo().name
        'chelsea.png'
    """
    path = Path(__file__).parent.parent / "photos" / f"{name}.png"
    if not path.exists():
        raise ImageError(f"no bundled image is called {name!r}; there are chelsea and coffee")
    return path


@dataclass(frozen=True)
class FoundImages:
    """The image files that were found.

    Args:
        paths: of the files.
        folders: for each, the sub-folder of the folder that was given, in which it is; "." for none.
        skipped: how many files of these folders are no images, by their ending.
        unreadable: why folders could not be read, by their names.
    """

    paths: list[Path] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    unreadable: dict[str, str] = field(default_factory=dict)

    @property
    def skipped_in_words(self) -> str:
        """What was skipped, "" if nothing: "12 files skipped: 9 .heic, install deepviz[heif]; 3 .txt"."""
        total = sum(self.skipped.values())
        if not total:
            return ""
        by_ending = [
            f"{count} {ending or 'without an ending'}" + (f", {HEIF_EXTRA}" if ending in HEIF else "")
            for ending, count in sorted(self.skipped.items(), key=lambda one: (-one[1], one[0]))
        ]
        return f"{total} {'file' if total == 1 else 'files'} skipped: {'; '.join(by_ending)}"


def find_images(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], reads: Reads | None = "images"
) -> FoundImages:
    """The images that `paths` name: files as given, and all images of a folder and its sub-folders, sorted by name.

    A file is not looked at here, so that one bad image does not stop the others. Hidden files, and results of DeepViz,
    are passed over.

    Args:
        paths: files and folders.
        reads: what is looked for in folders. Of "volumes", a folder with DICOM files is one volume. None: anything.

    Raises:
        ImageError: for a folder without an image.
    """
    found = FoundImages()
    for given in [paths] if isinstance(paths, (str, os.PathLike)) else paths:
        path = Path(given)
        if path.is_dir():
            _search(path, found, reads)
        else:
            check_is_no_url(given)
            found.paths.append(path)
            found.folders.append(Path())
    return found


def find_photos(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], reads: Reads = "images"
) -> list[Path]:
    """The files that `find_images` finds.

    Raises:
        ImageError: for a folder without an image.
    """
    return find_images(paths, reads).paths


def ending(path: str | os.PathLike[str]) -> str:
    """The ending of a file's name, in small letters.

    Example:
        >>> ending("scan.NII.gz"), ending("cat.jpg")
        ('.nii.gz', '.jpg')
    """
    suffixes = [suffix.lower() for suffix in Path(path).suffixes[-2:]]
    return "".join(suffixes) if suffixes == [".nii", ".gz"] else Path(path).suffix.lower()


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM: by its ending, or by its first bytes where it has none that is known."""
    if ending(path) in DICOM:
        return True
    if path.suffix[1:] and not path.suffix[1:].isdigit():  # names that end in a part of an identifier are common
        return False
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM" and path.name != "DICOMDIR"
    except OSError:
        return False


def looked_for(reads: Reads | None) -> frozenset[str]:
    """The endings of the files that are looked for in folders."""
    images = SUFFIXES | HEIF if reads_heif() else SUFFIXES
    if reads == "images":
        return images
    return images.union(*ENDINGS.values()) if reads is None else ENDINGS[reads]


def _search(root: Path, found: FoundImages, reads: Reads | None) -> None:
    """Add the images of a folder and its sub-folders, each folder once, wherever links lead."""
    before, skipped, seen = len(found.paths), Counter[str](), set[str]()
    endings, series = looked_for(reads), reads in ("volumes", None)

    def failed(error: OSError) -> None:
        found.unreadable[shown(error.filename)] = f"{shown(error.filename)} cannot be read: {error.strerror or error}"

    for folder, inner, names in os.walk(root, followlinks=True, onerror=failed):
        inner[:] = sorted(name for name in inner if not name.startswith(".") and name != RESULTS)
        real = os.path.realpath(folder)
        if real in seen or (RECORD in names and Path(folder) != root):
            inner.clear()
            continue
        seen.add(real)
        files = [Path(folder, name) for name in sorted(names) if not name.startswith(".")]
        files = [path for path in files if path.is_file()]
        slices = {path for path in files if is_dicom(path)} if series else set()
        if slices:
            found.paths.append(Path(folder))
            found.folders.append(Path(folder).parent.relative_to(root) if Path(folder) != root else Path())
        for path in files:
            if path in slices:
                continue
            if ending(path) in endings:
                found.paths.append(path)
                found.folders.append(Path(folder).relative_to(root))
            else:
                skipped[ending(path)] += 1
    found.skipped.update(skipped)
    if len(found.paths) == before and not found.unreadable:
        seen_there = f": {FoundImages(skipped=skipped).skipped_in_words}" if skipped else ""
        raise ImageError(
            f"{shown(root)} is a folder without an image{seen_there} (looked for {', '.join(sorted(endings))})"
        )


def _opened(source: PhotoSource) -> Photo:
    if isinstance(source, Image.Image):
        stored = getattr(source, "filename", "") or "image"
        with _decoding(shown(stored)):
            return _finished(source, shown(Path(stored).name))
    if isinstance(source, np.ndarray):
        return _finished(_from_array(source), "array")
    if not isinstance(source, (str, os.PathLike)):
        raise ImageError(f"an image is a path, a PIL image or an array, not {type(source).__name__}")
    check_is_no_url(source)
    path, name = Path(source), shown(source)
    try:
        stored = path.open("rb")
    except OSError as error:
        raise ImageError(unreadable(path, name, error)) from None
    with stored:
        if path.suffix.lower() in HEIF:
            read_heif(name)
        return read_photo(stored, name, shown(path.name))


def read_photo(stored: BinaryIO, name: str, title: str | None = None) -> Photo:
    """An image from an open file, as `open_photo` reads it.

    Args:
        stored: the file.
        name: what it is called in errors.
        title: the photo's name; by default the same.

    Raises:
        ImageError: as `open_photo` does.
    """
    with _decoding(name), Image.open(stored) as picture:
        return _finished(picture, name if title is None else title)


def photo_of(content: bytes, name: str) -> Photo:
    """An image from the bytes of a file, as `open_photo` reads it; `name` is what it is called.

    Raises:
        ImageError: as `open_photo` does.
    """
    if is_heif(content):
        read_heif(shown(name))
    return read_photo(BytesIO(content), shown(name))


def shown(name: object) -> str:
    """A file's name as text for any stream, picture and page: names of files are bytes, and need not be UTF-8.

    Example:
        >>> print(shown(os.fsdecode(b"caf\\xe9.jpg")))
        caf\\xe9.jpg
    """
    return os.fsencode(str(name)).decode("utf-8", "backslashreplace")


def unreadable(path: Path, name: str, error: OSError) -> str:
    """Why a file cannot be read, in one line."""
    if isinstance(error, IsADirectoryError) or path.is_dir():
        return f"{name} is a folder; give an image in it"
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return f"{name} does not exist"
    return f"{name} cannot be read: {error.strerror or error}"


def check_is_no_url(source: str | os.PathLike[str]) -> None:
    """Refuse the address of a file on the web.

    Raises:
        ImageError: for one.
    """
    if isinstance(source, str) and re.match(r"(?i)[a-z][a-z0-9+.-]+://", source):
        raise ImageError(f"{shown(source)} is a URL: download it first, and give the file")


def reads_heif() -> bool:
    """Whether the extra that reads HEIF is installed."""
    return find_spec("pillow_heif") is not None


def is_heif(content: bytes) -> bool:
    """Whether a file's first bytes are HEIF's. AVIF, which Pillow reads, shares some brands and names its own."""
    return content[4:8] == b"ftyp" and content[8:12] in HEIF_BRANDS and b"avif" not in content[8:64]


def read_heif(name: str) -> None:
    """Make Pillow read HEIF.

    Raises:
        MissingExtra: without pillow-heif.
    """
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        raise MissingExtra(f"{name} is HEIF, which needs pillow-heif: {HEIF_EXTRA}") from None
    register_heif_opener()


@contextmanager
def _decoding(name: str) -> Iterator[None]:
    """Whatever goes wrong while a picture is read is an `ImageError` that names it."""
    try:
        with _strict_pillow():
            yield
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from None
    except UnidentifiedImageError:
        hint = "; preprocess=deepviz.BandPreprocess(...) reads bands" if ending(name) in FORMATS["TIFF"] else ""
        raise ImageError(f"{name} is not an image in a format that Pillow can read{hint}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(
            f"{name} has more than {Image.MAX_IMAGE_PIXELS} pixels; scale it down first, "
            "or raise PIL.Image.MAX_IMAGE_PIXELS if you trust it"
        ) from None
    except Exception as error:  # a broken file can make Pillow's decoders raise almost anything
        raise ImageError(f"{name} cannot be decoded, it may be truncated: {_first_line(error)}") from error


@contextmanager
def _strict_pillow() -> Iterator[None]:
    """Half an image is an error, and so is one above the pixel limit, whatever the program has set."""
    with _pillow_settings, warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        lenient = ImageFile.LOAD_TRUNCATED_IMAGES
        ImageFile.LOAD_TRUNCATED_IMAGES = False
        try:
            yield
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = lenient


def _finished(picture: Image.Image, name: str) -> Photo:
    notes = []
    if getattr(picture, "is_animated", False):
        notes.append(f"frame {picture.tell() + 1} of several")
    if 0 in picture.size:
        raise ImageError(f"an empty image: {picture.width} x {picture.height}")
    of_16_bits = picture.mode in ("RGB", "RGBA") and any(";16" in str(tile) for tile in getattr(picture, "tile", ()))
    rgb, changed = _as_rgb(ImageOps.exif_transpose(picture))
    if of_16_bits and 0 < max(high for _, high in rgb.getextrema()) <= _HIGHEST_OF_12_BITS >> 8:  # type: ignore[misc]
        raise ImageError(
            "12-bit values in 16-bit colour, of which Pillow reads 4 bits alone: scale them to 16 bits first"
        )
    notes += changed
    return Photo(rgb, name, tuple(notes))


def _as_rgb(picture: Image.Image) -> tuple[Image.Image, list[str]]:
    if picture.mode == "F":
        return _unit_range(np.asarray(picture)).convert("RGB"), ["float values 0 to 1 scaled to 8 bits"]
    if picture.mode == "I" or picture.mode.startswith("I;16"):
        values = np.asarray(picture)
        return _sixteen_bits(values).convert("RGB"), [f"{_bits(values)} bits scaled to 8"]
    try:
        if picture.has_transparency_data:
            return _over_white(picture.convert("RGBA"))
        rgb = picture.convert("RGB")
    except ValueError:
        raise ImageError(f"colour mode {picture.mode} cannot be converted to RGB") from None
    return rgb, ["converted from CMYK to RGB"] if picture.mode == "CMYK" else []


def _over_white(picture: Image.Image) -> tuple[Image.Image, list[str]]:
    opaque = picture.getchannel("A").getextrema() == (255, 255)
    white = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(white, picture).convert("RGB"), [] if opaque else ["transparency over white"]


def _from_array(values: np.ndarray[Any, Any]) -> Image.Image:
    channels = values.shape[2] if values.ndim == 3 else 1
    if values.ndim not in (2, 3) or channels not in (1, 3, 4):
        raise ImageError(
            f"an array must be (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), got {values.shape}; "
            "preprocessed input (C, H, W) goes in as a torch tensor"
        )
    if values.size == 0:
        raise ImageError(f"an empty array: {values.shape}")
    values = values[:, :, 0] if values.ndim == 3 and channels == 1 else values
    if values.dtype == np.uint8:
        return Image.fromarray(np.ascontiguousarray(values))
    if values.dtype == np.bool_:
        return Image.fromarray(values.astype(np.uint8) * 255)
    if values.dtype == np.uint16:
        return _sixteen_bits(values)
    if np.issubdtype(values.dtype, np.floating):
        return _unit_range(values)
    raise ImageError(f"an array of {values.dtype}; give uint8, uint16, or floats from 0 to 1")


def _sixteen_bits(values: np.ndarray[Any, Any]) -> Image.Image:
    _check_range(values, 0, 65535)
    return _rounded(values * (255 / (2 ** _bits(values) - 1)))


def _bits(values: np.ndarray[Any, Any]) -> int:
    """Of values in 16 bits, how many are used: cameras and scanners store 12 bits so."""
    return 12 if 0 < values.max() <= _HIGHEST_OF_12_BITS else 16


def _unit_range(values: np.ndarray[Any, Any]) -> Image.Image:
    _check_range(values, 0, 1)
    return _rounded(values.astype(np.float64) * 255)


def _rounded(values: np.ndarray[Any, Any]) -> Image.Image:
    return Image.fromarray(np.rint(values).astype(np.uint8))


def _check_range(values: np.ndarray[Any, Any], low: int, high: int) -> None:
    found_low, found_high = values.min(), values.max()
    if not low <= found_low <= found_high <= high:  # false for NaN too
        raise ImageError(f"values from {found_low:g} to {found_high:g}; scale them to {low} to {high} first")


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
