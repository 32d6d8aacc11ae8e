"""The images of a server: those that it was started with, and those that were uploaded.

Pictures are decoded by Pillow. Where the models' preprocessing reads files of its own (volumes, clips, images of
bands), it reads them here too.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock

from PIL import Image

from deepviz.diagnostics import warn
from deepviz.errors import ImageError, MissingExtra
from deepviz.models import Photo, open_photo
from deepviz.models.images import FORMATS, ending, is_heif, read_heif, reads_heif
from deepviz.models.stored import FilePreprocess, Ready
from deepviz.render.slices import slice_picture
from deepviz.web.limits import Limits

ORIENTATION, TURNED = 0x0112, (5, 6, 7, 8)
"""The EXIF tag, and its values for images that lie on their side."""
Opened = Photo | Ready
"""An image, decoded, or what a preprocessing has read."""
MIDDLES = 512
"""Pictures of files that a preprocessing reads, which are kept for thumbnails: reading a volume again takes long."""
LONGEST = 64
"""Times its shorter side, the longer side of an image: preprocessing scales the shorter one up."""


LONGEST_NAME = 80
"""Letters of a name."""


class TooLarge(ImageError):
    """An image with more pixels than the server takes."""


class UnknownImage(ImageError):
    """An id of no image that the server has, or not any more."""


@dataclass(frozen=True, eq=False)
class StoredImage:
    """An image that the server has.

    Args:
        id: SHA-256 of the file's bytes.
        name: of the file, without folders.
        size: (width, height), upright; None of a file that the models' preprocessing reads: it says so once it is read.
        path: where it can be read again; None for an upload, which is forgotten once it is dropped.
    """

    id: str
    name: str
    size: tuple[int, int] | None
    path: Path | None


def decoded(content: bytes, name: str, limits: Limits, side: int | None = None) -> Photo:
    """The image in a file's bytes: its first frame, upright, RGB.

    Args:
        content: the file.
        name: for messages.
        limits: of its size.
        side: pixels of the longer side that are enough: a JPEG is then decoded at a smaller scale.

    Raises:
        TooLarge: by the pixels that its header tells of, before anything is decoded.
        MissingExtra: for HEIF, if the extra that reads it is not installed.
        ImageError: if it is in none of the formats, damaged, or a strip that no model could be shown.
    """
    with _opened(content, name, limits) as picture:
        if side is not None:
            picture.draft("RGB", (side, side))
        try:
            return replace(open_photo(picture), name=name)
        except ImageError as error:
            raise ImageError(f"{name}: {str(error).removeprefix('image: ')}") from None


def size_of(content: bytes, name: str, limits: Limits) -> tuple[int, int]:
    """(width, height) of the upright image in a file's bytes, by its header: nothing is decoded.

    Raises:
        ImageError: as `decoded` does, apart from damage behind the header.
    """
    with _opened(content, name, limits) as picture:
        try:
            turned = picture.getexif().get(ORIENTATION) in TURNED
        except Exception:  # as of any other part of a broken file
            turned = False
        width, height = picture.size
        return (height, width) if turned else (width, height)


def _opened(content: bytes, name: str, limits: Limits) -> Image.Image:
    formats = list(FORMATS)
    if is_heif(content):
        read_heif(name)
        formats = ["HEIF"]
    try:
        picture = Image.open(io.BytesIO(content), formats=formats)
        width, height = picture.size
    except Image.DecompressionBombError:
        raise TooLarge(f"{name} has more than {limits.pixels} pixels") from None
    except Exception:  # a broken file can make Pillow's readers raise almost anything
        taken = ", ".join([*FORMATS, "HEIF"] if reads_heif() else FORMATS)
        raise ImageError(f"{name} is not in a supported image format: {taken}") from None
    if width * height > limits.pixels:
        raise TooLarge(f"{name} is {width} x {height}, more than {limits.pixels} pixels")
    if max(width, height) > LONGEST * max(1, min(width, height)):
        raise ImageError(f"{name} is {width} x {height}: longer than {LONGEST} times its shorter side")
    return picture


def read(content: bytes, name: str, reader: FilePreprocess) -> Ready:
    """The volume, clip or image of bands in a file's bytes.

    Args:
        content: the file.
        name: for messages; its ending says what is in it.
        reader: reads it.

    Raises:
        ImageError: if it is something else, or damaged.
        MissingExtra: if that needs a package that is not installed.
    """
    with TemporaryDirectory() as folder:
        called = hashlib.sha256(content).hexdigest() + re.sub(r"[^a-z0-9.]", "", ending(name))
        path = Path(folder, called)
        path.write_bytes(content)
        try:
            return replace(reader(path), name=name)
        except (ImageError, MissingExtra) as error:
            raise type(error)(str(error).replace(str(path), name).replace(called, name)) from None


def pictured(opened: Opened, index: int | None = None) -> Image.Image:
    """The picture of an image; of a volume or clip that of one slice, by default the middle one.

    Raises:
        UnknownImage: if there is no such slice.
    """
    if isinstance(opened, Photo) or opened.x.ndim == 3:
        return opened.picture
    depth = opened.x.shape[1]
    index = depth // 2 if index is None else index
    if index >= depth:
        raise UnknownImage(f"{opened.name} has the slices 0 to {depth - 1}, not {index}")
    return slice_picture(opened.picture, index, depth)


def safe_name(name: str) -> str:
    """A name to show, whatever was given: its last part, printable, not too long.

    Example:
        >>> safe_name("../../etc/pass\\x00wd")
        'passwd'
    """
    last = re.split(r"[/\\\\]", name)[-1]
    shown = "".join(letter for letter in last if letter.isprintable()).strip(". ")
    if len(shown) > LONGEST_NAME:  # the ending says what is in it
        kept = ending(shown)[:LONGEST_NAME]
        shown = shown[: LONGEST_NAME - len(kept)] + kept
    return shown or "photograph"


class ImageStore:
    """Images by content id; the decoded ones in an LRU cache of bounded size.

    Args:
        limits: of the server.
        forgotten: is told of images that are no longer kept.
        reader: the preprocessing of the models, if it reads files of its own.
    """

    def __init__(self, limits: Limits, forgotten: Callable[[str], None], reader: FilePreprocess | None = None) -> None:
        self.limits = limits
        self.reader = reader
        self._forgotten = forgotten
        self._lock = Lock()
        self._reading = Lock()  # one file at a time: a volume is large while it is read
        self._kept: dict[str, StoredImage] = {}
        self._opened: OrderedDict[str, Opened] = OrderedDict()
        self._middles: OrderedDict[str, Image.Image] = OrderedDict()
        self._bytes = 0

    def add_files(self, paths: Iterable[Path]) -> list[str]:
        """Take in images of this machine, which are decoded whenever they are needed; their ids.

        One that is no image by its header, or cannot be read, is left out with a warning.
        """
        ids = []
        for path in paths:
            try:
                ids.append(self._add_file(path).id)
            except (ImageError, MissingExtra) as error:
                warn(f"left out: {error}")
        return ids

    def upload(self, content: bytes, name: str) -> StoredImage:
        """Take in the bytes of a file. The same bytes are the same image.

        Raises:
            ImageError, MissingExtra: as `decoded`, or `read`, does.
        """
        content_id, name = hashlib.sha256(content).hexdigest(), safe_name(name)
        known = self._known(content_id)
        if known is not None:
            return known
        if self.reader is None:
            photo = decoded(content, name, self.limits)
            return self._keep(StoredImage(content_id, name, photo.picture.size, None), photo)
        with self._reading:
            ready = read(content, name, self.reader)
        return self._keep(StoredImage(content_id, name, None, None), ready)

    def _add_file(self, path: Path) -> StoredImage:
        if self.reader is not None:
            content_id = _digest(path)
            return self._known(content_id) or self._keep(StoredImage(content_id, path.name, None, path))
        content = _read(path)
        content_id = hashlib.sha256(content).hexdigest()
        known = self._known(content_id)
        if known is not None:
            return known
        return self._keep(StoredImage(content_id, path.name, size_of(content, path.name, self.limits), path))

    def _known(self, content_id: str) -> StoredImage | None:
        with self._lock:
            return self._kept.get(content_id)

    def _keep(self, kept: StoredImage, opened: Opened | None = None) -> StoredImage:
        with self._lock:
            self._kept[kept.id] = kept
            if opened is not None:
                self._remember(kept.id, opened)
        return kept

    def listed(self) -> list[StoredImage]:
        """Those that can be explained, in the order in which they came."""
        with self._lock:
            return list(self._kept.values())

    def info(self, content_id: str) -> StoredImage:
        """What is known of one.

        Raises:
            UnknownImage: if the server does not have it.
        """
        with self._lock:
            try:
                return self._kept[content_id]
            except KeyError:
                raise UnknownImage(f"image {content_id[:12]} not found (expired or unknown); upload it again") from None

    def photo(self, content_id: str) -> Opened:
        """One, decoded, or read.

        Raises:
            UnknownImage: if the server does not have it.
            ImageError: if its file is not there any more, or cannot be read.
        """
        kept = self.info(content_id)
        found = self._found(content_id)
        if found is not None:
            return found
        assert kept.path is not None  # an upload that is not decoded any more is not kept either
        if self.reader is None:
            return self._remembered(kept, decoded(_read(kept.path), kept.name, self.limits))
        with self._reading:
            return self._found(content_id) or self._remembered(kept, self.reader(kept.path))

    def _found(self, content_id: str) -> Opened | None:
        with self._lock:
            found = self._opened.get(content_id)
            if found is not None:
                self._opened.move_to_end(content_id)
        return found

    def _remembered(self, kept: StoredImage, opened: Opened) -> Opened:
        with self._lock:
            self._remember(kept.id, opened)
        return opened

    def thumbnail(self, content_id: str, side: int) -> Image.Image:
        """One, its longer side about `side` pixels or more if the image's is; of a volume or clip the middle slice. It
        takes no room among the decoded ones.

        Raises:
            UnknownImage: if the server does not have it.
            ImageError: if its file is not there any more.
        """
        kept = self.info(content_id)
        with self._lock:
            found = self._opened.get(content_id)
        if found is not None or kept.path is None:
            return pictured(self.photo(content_id) if found is None else found)
        if self.reader is not None:
            return self._middle(kept.path, content_id, side, self.reader)
        return decoded(_read(kept.path), kept.name, self.limits, side).picture

    def _middle(self, path: Path, content_id: str, side: int, reader: FilePreprocess) -> Image.Image:
        """The picture of a file that is not read now, small; it is kept."""
        with self._reading:
            if content_id not in self._middles:
                small = pictured(reader(path)).copy()
                small.thumbnail((side, side))
                self._middles[content_id] = small
                if len(self._middles) > MIDDLES:
                    self._middles.popitem(last=False)
            return self._middles[content_id]

    def _remember(self, content_id: str, photo: Opened) -> None:
        if content_id not in self._opened:
            self._bytes += _bytes(photo)
        self._opened[content_id] = photo
        self._opened.move_to_end(content_id)
        while self._bytes > self.limits.photographs_bytes and len(self._opened) > 1:
            dropped, old = self._opened.popitem(last=False)
            self._bytes -= _bytes(old)
            if self._kept[dropped].path is None:
                del self._kept[dropped]
            self._forgotten(dropped)


def _bytes(opened: Opened) -> int:
    of_input = 0 if isinstance(opened, Photo) else opened.x.nbytes
    return opened.picture.width * opened.picture.height * 3 + of_input


def _digest(path: Path) -> str:
    """SHA-256 of a file's bytes; of a folder, a series of slices, of the files in it.

    Raises:
        ImageError: if it cannot be read.
    """
    try:
        if path.is_dir():
            files = sorted(file for file in path.iterdir() if file.is_file())
            return hashlib.sha256("".join(f"{file.name} {_digest(file)}\n" for file in files).encode()).hexdigest()
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror or error}") from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror or error}") from None
