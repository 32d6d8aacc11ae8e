"""The images of a server: those that it was started with, and those that were uploaded."""

from __future__ import annotations

import hashlib
import io
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock

from PIL import Image

from deepviz.diagnostics import warn
from deepviz.errors import ImageError, MissingExtra
from deepviz.models import Photo, open_photo
from deepviz.models.images import FORMATS, is_heif, read_heif, reads_heif
from deepviz.web.limits import Limits

ORIENTATION, TURNED = 0x0112, (5, 6, 7, 8)
"""The EXIF tag, and its values for images that lie on their side."""
LONGEST = 64
"""Times its shorter side, the longer side of an image: preprocessing scales the shorter one up."""


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
        size: (width, height), upright.
        path: where it can be read again; None for an upload, which is forgotten once it is dropped.
    """

    id: str
    name: str
    size: tuple[int, int]
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


def safe_name(name: str) -> str:
    """A name to show, whatever was given: its last part, printable, not too long.

    Example:
        >>> safe_name("../../etc/pass\\x00wd")
        'passwd'
    """
    last = re.split(r"[/\\\\]", name)[-1]
    shown = "".join(letter for letter in last if letter.isprintable()).strip(". ")
    return shown[:80] or "photograph"


class ImageStore:
    """Images by content id; the decoded ones in an LRU cache of bounded size."""

    def __init__(self, limits: Limits, forgotten: Callable[[str], None]) -> None:
        self.limits = limits
        self._forgotten = forgotten
        self._lock = Lock()
        self._kept: dict[str, StoredImage] = {}
        self._opened: OrderedDict[str, Photo] = OrderedDict()
        self._bytes = 0

    def add_files(self, paths: Iterable[Path]) -> list[str]:
        """Take in images of this machine, which are decoded whenever they are needed; their ids.

        One that is no image by its header is left out with a warning.
        """
        ids = []
        for path in paths:
            try:
                ids.append(self._add(_read(path), path.name, path).id)
            except (ImageError, MissingExtra) as error:
                warn(f"left out: {error}")
        return ids

    def upload(self, content: bytes, name: str) -> StoredImage:
        """Take in the bytes of a file. The same bytes are the same image.

        Raises:
            ImageError: as `decoded` does.
        """
        return self._add(content, safe_name(name), None)

    def _add(self, content: bytes, name: str, path: Path | None) -> StoredImage:
        content_id = hashlib.sha256(content).hexdigest()
        with self._lock:
            known = self._kept.get(content_id)
        if known is not None:
            return known
        photo = decoded(content, name, self.limits) if path is None else None
        size = size_of(content, name, self.limits) if photo is None else photo.picture.size
        kept = StoredImage(content_id, name, size, path)
        with self._lock:
            self._kept[content_id] = kept
            if photo is not None:
                self._remember(content_id, photo)
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

    def photo(self, content_id: str) -> Photo:
        """One, decoded.

        Raises:
            UnknownImage: if the server does not have it.
            ImageError: if its file is not there any more.
        """
        kept = self.info(content_id)
        with self._lock:
            found = self._opened.get(content_id)
            if found is not None:
                self._opened.move_to_end(content_id)
                return found
        assert kept.path is not None  # an upload that is not decoded any more is not kept either
        photo = decoded(_read(kept.path), kept.name, self.limits)
        with self._lock:
            self._remember(content_id, photo)
        return photo

    def thumbnail(self, content_id: str, side: int) -> Image.Image:
        """One, its longer side about `side` pixels or more. It takes no room among the decoded ones.

        Raises:
            UnknownImage: if the server does not have it.
            ImageError: if its file is not there any more.
        """
        kept = self.info(content_id)
        with self._lock:
            found = self._opened.get(content_id)
        if found is not None or kept.path is None:
            return self.photo(content_id).picture if found is None else found.picture
        return decoded(_read(kept.path), kept.name, self.limits, side).picture

    def _remember(self, content_id: str, photo: Photo) -> None:
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


def _bytes(photo: Photo) -> int:
    return photo.picture.width * photo.picture.height * 3


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror or error}") from None
