"""Images that a Parquet or Arrow file holds itself, as Hugging Face's `datasets` writes them."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from threading import Lock
from typing import Any

from deepviz.errors import ImageError, MissingExtra, in_one_line
from deepviz.models.images import shown
from deepviz.remote import AnyPath, RemotePath
from deepviz.results.shards import library

IMAGES, LABELS = ("image", "img", "picture", "photo", "pixel_values"), ("label", "labels", "class", "fine_label")
"""Names of columns, the likeliest first."""
_reading = Lock()


@dataclass(frozen=True)
class Columns:
    """What is in which column.

    Args:
        image: the column of images.
        label: that of labels; None if there is none.
        classes: the names of the classes that labels are indices of; empty where labels are as they are written.
    """

    image: str
    label: str | None
    classes: tuple[str, ...]


def columns_of(path: AnyPath) -> Columns | None:
    """The columns of a file; None if it holds no images.

    Raises:
        ImageError: if it cannot be read.
    """
    return columns_in(_opened(path).schema)


def columns_in(schema: Any) -> Columns | None:
    """The columns of an Arrow schema: by what `datasets` says of them, else by their types."""
    features = _features(schema)
    types = {field.name: field.type for field in schema}
    images = [name for name, kind in types.items() if _is_image(kind, features.get(name, {}))]
    if not images:
        return None
    indices = [name for name in types if features.get(name, {}).get("_type") == "ClassLabel"]
    label = first_of([name for name in types if name not in images], LABELS) or next(iter(indices), None)
    names = features.get(label, {}).get("names") if label is not None else None
    return Columns(first_of(images, IMAGES) or images[0], label, tuple(names or ()))


def first_of(names: Sequence[str], known: Sequence[str]) -> str | None:
    """The first of some known names that there is, however it is capitalised."""
    plain = {name.strip().lower(): name for name in reversed(names)}
    return next((plain[name] for name in known if name in plain), None)


def _features(schema: Any) -> Mapping[str, Any]:
    """What `datasets` says about each column; empty if another wrote the file."""
    try:
        held = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (LookupError, TypeError, ValueError):
        return {}
    return {name: about for name, about in held.items() if isinstance(about, dict)} if isinstance(held, dict) else {}


def _is_image(kind: Any, feature: Mapping[str, Any]) -> bool:
    types = library("pyarrow").types
    if types.is_struct(kind):
        kind = kind.field("bytes").type if kind.get_field_index("bytes") >= 0 else None
    elif feature.get("_type") != "Image":
        return False
    return kind is not None and bool(types.is_binary(kind) or types.is_large_binary(kind))


def labels_in(path: AnyPath, columns: Columns) -> list[Any]:
    """The labels of a file's rows, None where there is none."""
    opened = _opened(path)
    with _told(path):
        if columns.label is None:
            return [None] * opened.count
        found: list[Any] = opened.column(columns.label).to_pylist()
    return without_missing(found, columns)


def without_missing(labels: Sequence[Any], columns: Columns) -> list[Any]:
    """Labels, None for a row that has none: -1 where they are indices of classes."""
    return [None if columns.classes and label == -1 else label for label in labels]


def image_in(path: AnyPath, column: str, row: int) -> bytes | str | None:
    """The content of an image, or the path of its file; None if the row has no image.

    Raises:
        ImageError: if it cannot be read.
    """
    with _reading, _told(path):  # a group of rows is read once for all of its images
        held = _opened(path).cell(column, row)
    if isinstance(held, dict):
        held = held.get("bytes") if held.get("bytes") is not None else held.get("path")
    return held if isinstance(held, (bytes, str)) else None


@contextmanager
def _told(path: AnyPath) -> Iterator[None]:
    """Whatever goes wrong while a file is read is an `ImageError` that names it."""
    try:
        yield
    except (ImageError, MissingExtra):
        raise
    except OSError as error:
        raise ImageError(f"{shown(path)} cannot be read: {error.strerror or in_one_line(error)}") from None
    except Exception as error:  # a damaged file can make Arrow's reader raise almost anything
        raise ImageError(f"{shown(path)} cannot be read: {in_one_line(error)}") from None


def _opened(path: AnyPath) -> _Arrow | _Parquet:
    with _told(path):
        return _kept_open(path, path.stat().st_mtime_ns if isinstance(path, Path) else 0)


@lru_cache(maxsize=64)
def _kept_open(path: AnyPath, changed: int) -> _Arrow | _Parquet:
    return _Parquet(path) if path.suffix.lower() == ".parquet" else _Arrow(path)


class _Arrow:
    """A file of Arrow's streaming format, which is read where it lies."""

    def __init__(self, path: AnyPath) -> None:
        if isinstance(path, RemotePath):
            raise ImageError(f"{path} is an Arrow file, which has to be on this machine: download it, or give Parquet")
        arrow = library("pyarrow")
        self._table = arrow.ipc.open_stream(arrow.memory_map(str(path))).read_all()
        self.schema = self._table.schema
        self.count = int(self._table.num_rows)

    def column(self, name: str) -> Any:
        return self._table.column(name)

    def cell(self, name: str, row: int) -> Any:
        return self._table.column(name)[row].as_py()


class _Parquet:
    """A Parquet file, of which a group of rows is read at a time."""

    def __init__(self, path: AnyPath) -> None:
        parquet = library("pyarrow.parquet")
        self._file = parquet.ParquetFile(path.open("rb") if isinstance(path, RemotePath) else str(path))
        self.schema = self._file.schema_arrow
        held = self._file.metadata
        self._ends = list(accumulate(held.row_group(group).num_rows for group in range(held.num_row_groups)))
        self.count = int(held.num_rows)

    def column(self, name: str) -> Any:
        return self._file.read(columns=[name]).column(name)

    def cell(self, name: str, row: int) -> Any:
        group = bisect_right(self._ends, row)
        return _group_of(self, group, name)[row - (self._ends[group - 1] if group else 0)].as_py()

    def group(self, number: int, name: str) -> Any:
        return self._file.read_row_group(number, columns=[name]).column(name)


@lru_cache(maxsize=2)
def _group_of(file: _Parquet, number: int, name: str) -> Any:
    """Of all files two groups are kept: those of images are large."""
    return file.group(number, name)
