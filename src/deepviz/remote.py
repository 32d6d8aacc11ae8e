"""Files behind a URL, such as s3://bucket/folder, through fsspec."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from errno import ENOENT
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path, PurePosixPath
from pickle import PicklingError
from typing import Any, BinaryIO

from deepviz.errors import MissingExtra, in_one_line

_URL = re.compile(r"(?i)[a-z][a-z0-9+.-]+://")  # one letter is a drive
_LOCAL = re.compile(r"(?i)(file|local)://")


def is_url(given: object) -> bool:
    """Whether a path is a URL, which `RemotePath` opens.

    Example:
        >>> is_url("s3://bucket/a.png"), is_url("a.png"), is_url("C://a.png")
        (True, False, False)
    """
    return isinstance(given, RemotePath) or bool(_URL.match(str(given)))


def path_of(given: str | os.PathLike[str] | RemotePath) -> AnyPath:
    """A file or folder of this machine, or behind a URL.

    Example:
        >>> path_of("s3://bucket/run") / "rows", path_of("file:///run")
        (RemotePath('s3://bucket/run/rows'), PosixPath('/run'))

    Raises:
        ValueError: for a URL that has become a `pathlib.Path`.
    """
    if isinstance(given, RemotePath):
        return given
    text = str(given)
    if _LOCAL.match(text) and "::" not in text:
        return Path(text.partition("://")[2])
    if isinstance(given, Path) and re.match(r"(?i)(s3|gs|gcs|abfs|az|hf|https?|memory):/", text):
        raise ValueError(f"{text} was a URL, of which a Path keeps one slash: give it as text")
    return RemotePath.of(text) if is_url(text) else Path(given)


@dataclass(frozen=True, repr=False)
class RemotePath:
    """A file or folder behind a URL, with the part of `pathlib.Path` that is needed.

    What goes wrong is an `OSError`, whatever the file system raises.

    Args:
        scheme: of the URL, such as "s3".
        path: what follows it.
        within: the archive that holds the file, "::a.zip" for zip://b.png::a.zip.
    """

    scheme: str
    path: str
    within: str = ""

    @classmethod
    def of(cls, url: str) -> RemotePath:
        """The path of a URL."""
        inner, chain, outer = url.partition("::")
        scheme, _, path = inner.partition("://")
        return cls(scheme.lower(), path.rstrip("/"), chain + outer)

    def __str__(self) -> str:
        return f"{self.scheme}://{self.path}{self.within}"

    def __repr__(self) -> str:
        return f"RemotePath({str(self)!r})"

    def __truediv__(self, name: str | os.PathLike[str]) -> RemotePath:
        below = PurePosixPath(name).as_posix()
        return RemotePath(self.scheme, f"{self.path}/{below}" if self.path else below, self.within)

    @property
    def parent(self) -> RemotePath:
        """The folder."""
        return RemotePath(self.scheme, self.path.rpartition("/")[0], self.within)

    @property
    def name(self) -> str:
        """What follows the last "/"; of a web address without the query."""
        path = self.path.partition("?")[0] if self.scheme in ("http", "https") else self.path
        return path.rpartition("/")[2]

    @property
    def stem(self) -> str:
        """The name without its ending."""
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """The ending, such as ".png"."""
        return PurePosixPath(self.name).suffix

    def resolve(self) -> RemotePath:
        """The same: a URL is whole."""
        return self

    def as_posix(self) -> str:
        """The URL."""
        return str(self)

    def exists(self) -> bool:
        """Whether there is such a file or folder."""
        with self._opened() as (files, path):
            return bool(files.exists(path))

    def is_dir(self) -> bool:
        """Whether it is a folder."""
        with self._opened() as (files, path):
            return bool(files.isdir(path))

    def glob(self, pattern: str) -> Iterator[RemotePath]:
        """What is in the folder, and is called as a pattern without "/" says."""
        try:
            with self._opened() as (files, path):
                found = [str(one).rstrip("/").rpartition("/")[2] for one in files.ls(path, detail=False)]
        except FileNotFoundError:
            return
        yield from (self / name for name in sorted(found) if fnmatchcase(name, pattern))

    def below(self) -> dict[str, int]:
        """The sizes of all files in the folder and those in it, by their names relative to it, in order; -1 where it
        is not known."""
        with self._opened() as (files, path):
            found = files.find(path, detail=True)
            start = len(path.rstrip("/")) + 1 if path.strip("/") else 0
        sizes = {str(name)[start:]: about.get("size") for name, about in found.items()}
        return {name: -1 if sizes[name] is None else int(sizes[name]) for name in sorted(sizes)}

    def stamp(self) -> str:
        """What differs once the file is written again."""
        with self._opened() as (files, path):
            return _stamp_of(files.info(path))

    def stamps(self) -> dict[str, str]:
        """By name, `stamp` of what is in the folder, from one listing; nothing if there is no folder."""
        try:
            with self._opened() as (files, path):
                listed = files.ls(path, detail=True)
        except FileNotFoundError:
            return {}
        return {str(one["name"]).rstrip("/").rpartition("/")[2]: _stamp_of(one) for one in listed}

    def size(self) -> int:
        """In bytes; -1 if the server does not say."""
        with self._opened() as (files, path):
            size = files.info(path).get("size")
        return -1 if size is None else int(size)

    def modified(self) -> float:
        """When the file was written, in seconds of the server's clock."""
        with self._opened() as (files, path):
            return float(files.modified(path).timestamp())

    def open(self, mode: str = "rb") -> BinaryIO:
        """The file, to be read.

        Raises:
            ValueError: for a mode other than "rb".
        """
        if mode != "rb":
            raise ValueError(f"a remote file is opened by 'rb' alone, not by {mode!r}")
        with self._opened() as (files, path):
            stored: BinaryIO = files.open(path, "rb")
            return stored

    def read_bytes(self, start: int | None = None, end: int | None = None) -> bytes:
        """The content, or a part of it."""
        with self._opened() as (files, path):
            return bytes(files.cat_file(path, start=start, end=end))

    def read_text(self, encoding: str = "utf-8") -> str:
        """The content as text."""
        return self.read_bytes().decode(encoding)

    def write_bytes(self, content: bytes) -> None:
        """Write the file by one request, over what is there."""
        with self._opened() as (files, path):
            files.pipe_file(path, content)

    def create(self, content: bytes) -> None:
        """Write a file that does not exist: by one request that the server refuses if it does, where it can.

        Raises:
            FileExistsError: if it does.
        """
        if self.exists():  # not all file systems know of the mode
            raise FileExistsError(str(self))
        try:
            with self._opened() as (files, path):
                files.pipe_file(path, content, mode="create")
        except FileExistsError:
            raise
        except OSError:
            if self.exists():  # refused, in words that not all servers share
                raise FileExistsError(str(self)) from None
            raise

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the file."""
        try:
            with self._opened() as (files, path):
                files.rm_file(path)
        except FileNotFoundError:
            if not missing_ok:
                raise

    @contextmanager
    def _opened(self) -> Iterator[tuple[Any, str]]:
        """The file system, and what the file is called there.

        Raises:
            OSError: for whatever goes wrong there.
            MissingExtra: if a package is not installed.
        """
        root = f"{self.scheme}://{self.path.partition('/')[0]}{self.within}"
        try:
            files = _file_system(root)
            files.invalidate_cache()  # others write there too
            yield files, files._strip_protocol(f"{self.scheme}://{self.path}")
        except FileNotFoundError:
            raise FileNotFoundError(ENOENT, "does not exist", str(self)) from None
        except (OSError, MissingExtra):
            raise
        except Exception as error:  # each file system has errors of its own
            raise OSError(in_one_line(error)) from error

    def __reduce__(self) -> tuple[Any, ...]:
        if self.scheme == "memory":
            raise PicklingError(f"{self} exists in this process alone")
        return RemotePath, (self.scheme, self.path, self.within)


AnyPath = Path | RemotePath
_WRITTEN = ("ETag", "etag", "LastModified", "last_modified", "updated", "mtime", "created")


def _stamp_of(about: Mapping[str, Any]) -> str:
    """Of what a file system tells about a file."""
    return f"{about.get('size')} {next((about[name] for name in _WRITTEN if about.get(name) is not None), '')}"


def below(root: str, name: str) -> AnyPath:
    """A file of a folder; one whose name is a URL, or absolute, wherever the folder is."""
    return path_of(name) if is_url(name) else path_of(root) / name


@lru_cache(maxsize=64)
def _file_system(root: str) -> Any:
    """One for all threads: fsspec keeps one for each, and a thread would read an archive's index again.

    Raises:
        MissingExtra: if a package is not installed.
    """
    try:
        import fsspec
    except ImportError:
        raise MissingExtra(f"{root} needs fsspec: pip install 'deepviz[data]'") from None
    try:
        return fsspec.url_to_fs(root)[0]
    except ImportError as error:
        package = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs", "http": "aiohttp",
                   "https": "aiohttp", "hf": "huggingface_hub"}.get(root.partition("://")[0])  # fmt: skip
        advice = f"pip install {package}" if package else in_one_line(error)
        raise MissingExtra(f"{root} needs another package: {advice}") from None
