"""Where the images of a run come from: files, also behind URLs, tables, WebDataset's tars, or a data set."""

from __future__ import annotations

import csv
import json
import math
import os
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from hashlib import sha256
from io import BytesIO, StringIO
from itertools import chain
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, NamedTuple

import numpy as np
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, Subset

from deepviz.diagnostics import warn
from deepviz.errors import ImageError, TargetError, in_one_line
from deepviz.models import LoadedModel, Prepared
from deepviz.models.images import (
    HEIF,
    SUFFIXES,
    Reads,
    ending,
    find_images,
    looked_for,
    photo_of,
    shown,
)
from deepviz.models.labels import find_label, imagenet_label_of
from deepviz.remote import AnyPath, RemotePath, below, path_of
from deepviz.results.held_images import (
    IMAGES,
    LABELS,
    Columns,
    columns_in,
    columns_of,
    first_of,
    image_in,
    labels_in,
    without_missing,
)
from deepviz.results.shards import library
from deepviz.runs.asked import Item, items_of, without_label

Written = str | int
"""A label as it is written: the name of a class, or its index."""
PATHS = ("file", "path", "image", "filename", "filepath", "file_name", "url")
"""The names of the column of paths of a table."""
WITH_LABELS = ("cls", "txt.cls", "json")
"""The endings of files in tars that hold labels."""


class Label(NamedTuple):
    """The label of an image, and the index of the model's class that it names; None if it is none of them."""

    text: str
    class_index: int | None


@dataclass(frozen=True)
class Source(ABC):
    """The images of a run, in their order.

    Args:
        root: what the names are relative to; "" if the images are in no files.
        names: what each image is called, no two alike.
        labels: for each image what its class may be written as, the likeliest first; empty where nothing is known.
    """

    kind: ClassVar[str]
    root: str
    names: tuple[str, ...]
    labels: tuple[tuple[Written, ...], ...]

    def __len__(self) -> int:
        return len(self.names)

    @abstractmethod
    def read(self, loaded: LoadedModel, index: int) -> tuple[Item, Label | None]:
        """One image, as an input of the model, and its label; None if it has none.

        Raises:
            ImageError: if it cannot be read.
        """

    def label(self, loaded: LoadedModel, index: int) -> Label | None:
        """The label of an image that is not read; None if it has none, or that is not known."""
        return named_label(self.labels[index], loaded.labels)

    @abstractmethod
    def sizes(self) -> Iterator[int]:
        """The size of each image in bytes; -1 where there is none."""

    @property
    def record(self) -> dict[str, Any]:
        """What is stored of it: an equal one has the same images."""
        return {
            "kind": self.kind,
            "root": self.root,
            "count": len(self),
            "names": _digest(f"{name}\t{list(labels)}" for name, labels in zip(self.names, self.labels, strict=True)),
            "sizes": _digest(map(str, self.sizes())),
        }


def _digest(lines: Iterator[str]) -> str:
    digest = sha256()
    for line in lines:
        digest.update(f"{line}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


@lru_cache(maxsize=4096)
def named_label(written: tuple[Written, ...], classes: tuple[str, ...] | None) -> Label | None:
    """The class that is meant: the first that the model has; else as it is written.

    Example:
        >>> classes = ("cat", "dog")
        >>> named_label(("2024", "Dog"), classes), named_label((0,), classes), named_label(("fox",), classes)
        (Label(text='dog', class_index=1), Label(text='cat', class_index=0), Label(text='fox', class_index=None))
        >>> named_label((3,), None)
        Label(text='class 3', class_index=3)
    """
    for one in written:
        if isinstance(one, int):
            known = one >= 0 and (classes is None or one < len(classes))
            return Label(classes[one] if classes is not None and known else f"class {one}", one if known else None)
        if classes is None:
            break
        try:
            index = find_label(imagenet_label_of(one, classes) or one, classes)
        except TargetError:
            continue
        return Label(classes[index], index)
    return Label(str(written[0]), None) if written else None


@dataclass(frozen=True)
class Files(Source):
    """Files of images.

    Args:
        listed: the size of each, where the folder behind a URL lists them.
    """

    kind = "files"
    listed: tuple[int, ...] = ()

    def read(self, loaded: LoadedModel, index: int) -> tuple[Item, Label | None]:
        """One image with its label."""
        path = below(self.root, self.names[index])
        if isinstance(path, RemotePath):
            return Item(_prepared(loaded, _content(path), self.names[index])), self.label(loaded, index)
        return Item(loaded.prepare(path)), self.label(loaded, index)

    def sizes(self) -> Iterator[int]:
        """The size of each file; -1 where only a request of its own would tell it."""
        yield from self.listed
        for name in self.names[len(self.listed) :]:
            path = below(self.root, name)
            try:
                yield -1 if isinstance(path, RemotePath) else path.stat().st_size
            except OSError:
                yield -1


def _content(path: AnyPath, start: int | None = None, end: int | None = None) -> bytes:
    """The bytes of a file, or of a part of it.

    Raises:
        ImageError: if it cannot be read.
    """
    name = shown(path)
    try:
        if isinstance(path, RemotePath):
            return path.read_bytes(start, end)
        with path.open("rb") as file:
            file.seek(start or 0)
            return file.read(-1 if end is None else end - (start or 0))
    except FileNotFoundError:
        raise ImageError(f"{name} does not exist") from None
    except OSError as error:
        raise ImageError(f"{name} cannot be read: {error.strerror or error}") from None


def _prepared(loaded: LoadedModel, content: bytes, name: str) -> Prepared:
    """The model's input for the content of a file that is called so."""
    if loaded.reads == "images":
        return loaded.prepare(photo_of(content, name))
    with TemporaryDirectory() as folder:  # volumes, bands and videos are read from files
        path = Path(folder, f"file{ending(path_of(name).name)}")
        path.write_bytes(content)
        return replace(loaded.prepare(path), name=shown(name))


@dataclass(frozen=True)
class Tars(Source):
    """Images in WebDataset's tar files.

    Args:
        places: for each image the tar, and where it begins there, and how long it is.
    """

    kind = "tars"
    places: tuple[tuple[str, int, int], ...] = ()

    def read(self, loaded: LoadedModel, index: int) -> tuple[Item, Label | None]:
        """One image with its label."""
        file, start, size = self.places[index]
        content = _content(below(self.root, file), start, start + size)
        return Item(_prepared(loaded, content, self.names[index])), self.label(loaded, index)

    def sizes(self) -> Iterator[int]:
        """The size of each image."""
        return (size for _, _, size in self.places)


@dataclass(frozen=True)
class Rows(Source):
    """Images that Parquet or Arrow files hold, such as those of Hugging Face's `datasets`.

    Args:
        columns: what is in which column.
        files: the sizes of the files, by name.
    """

    kind = "rows"
    columns: Columns = field(default_factory=lambda: Columns("image", None, ()))
    files: tuple[tuple[str, int], ...] = ()

    def read(self, loaded: LoadedModel, index: int) -> tuple[Item, Label | None]:
        """One image with its label."""
        name = self.names[index]
        file, _, row = name.rpartition("/")
        held = image_in(below(self.root, file), self.columns.image, int(row))
        if held is None:
            raise ImageError(f"{shown(name)} has no image: its column {self.columns.image} is empty")
        content = held if isinstance(held, bytes) else _content(below(self.root, held))
        return Item(_prepared(loaded, content, name)), self.label(loaded, index)

    def label(self, loaded: LoadedModel, index: int) -> Label | None:
        """The label of an image."""
        return _by_name(self.labels[index], self.columns.classes, loaded)

    def sizes(self) -> Iterator[int]:
        """The sizes of the files."""
        return (size for _, size in self.files)


def _by_name(written: tuple[Written, ...], classes: Sequence[str], loaded: LoadedModel) -> Label | None:
    """The class; an index of a data set's classes by their name: the model may number them differently."""
    known = () if loaded.labels is None else classes
    named = (known[one] if isinstance(one, int) and 0 <= one < len(known) else one for one in written)
    return named_label(tuple(named), loaded.labels)


@dataclass(frozen=True)
class Items(Source):
    """A torch data set, or a sequence, of images or pairs (image, label).

    Args:
        held: the data set.
        classes: the names of its classes, if it has them.
    """

    kind = "data set"
    held: Any = field(default=None, repr=False)
    classes: tuple[str, ...] = ()

    def read(self, loaded: LoadedModel, index: int) -> tuple[Item, Label | None]:
        """One image with its label, which the data set may have listed or not."""
        image, label = _image_and_label(self.held[index])
        found = items_of(loaded, [image])
        if len(found) != 1:
            raise ImageError(f"item {index} of the data set is {len(found)} images: give a data set of single images")
        written = self.labels[index] or _unless_none(label)
        image_part, leaves = found[0].image, found[0].leaves
        named = {part: replace(part, name=self.names[index]) for part in found[0].parts}
        item = replace(found[0], image=named[image_part], leaves=tuple(named[leaf] for leaf in leaves))
        return item, _by_name(written, self.classes, loaded)

    def label(self, loaded: LoadedModel, index: int) -> Label | None:
        """The label of an image, if the data set lists them."""
        return _by_name(self.labels[index], self.classes, loaded)

    def sizes(self) -> Iterator[int]:
        """Nothing is known of them."""
        return iter(())


def _image_and_label(given: Any) -> tuple[Any, Written | None]:
    """The image of an item, and its label; None where what goes along is no class, such as boxes or a mask."""
    if isinstance(given, Mapping):
        names = [name for name in given if isinstance(name, str)]
        image, label = first_of(names, IMAGES), first_of(names, LABELS)
        return (given if image is None else given[image]), (None if label is None else _one_class(given[label]))
    if isinstance(given, tuple) and len(given) > 1:
        return given[0], _one_class(given[1])
    image = without_label(given)
    return image, None if image is given else _one_class(given[1])


def _unless_none(label: Written | None) -> tuple[Written, ...]:
    return () if label is None else (label,)


def _one_class(label: Any) -> Written | None:
    if isinstance(label, (int, str)):
        return label
    whole = isinstance(label, (Tensor, np.ndarray, np.generic)) and math.prod(label.shape) == 1
    return int(label) if whole and int(label) == float(label) and "float" not in str(label.dtype) else None


def source_of(given: Any, reads: Reads = "images") -> Source:
    """The images of a run.

    Args:
        given: a folder, whose sub-folders are labels, or which holds a data set of Hugging Face's `datasets`, Parquet
            files with images, or tars; a .csv or .parquet with a column of paths, and one of labels; a .parquet with
            images; a WebDataset .tar; an image; each of these also behind a URL that fsspec opens; a list of images,
            of tars, or of Parquet files with images; or a torch `Dataset`, a `datasets.Dataset` or another sequence,
            of images or of pairs (image, label).
        reads: what is looked for in folders.

    Raises:
        ImageError: if there are no images.
        TypeError: for what is no source.
    """
    source = _source_of(given, reads)
    if not len(source):
        raise ImageError("there are no images: give a folder, files, a table of paths or a data set")
    return source


def _source_of(given: Any, reads: Reads) -> Source:
    if isinstance(given, Source):
        return given
    if isinstance(given, (str, os.PathLike, RemotePath)):
        return _of_path(path_of(given), reads)
    if isinstance(given, (list, tuple)) and given and all(isinstance(one, (str, os.PathLike)) for one in given):
        return _of_paths(list(map(path_of, given)), reads)
    if isinstance(given, Dataset) or (hasattr(given, "__getitem__") and not isinstance(given, Mapping)):
        return _of_items(given)
    if isinstance(given, Mapping) and given and all(hasattr(one, "__getitem__") for one in given.values()):
        first = next(iter(given))
        raise TypeError(
            f"a {type(given).__name__} has several parts, {', '.join(map(str, given))}: give one, [{first!r}]"
        )
    raise TypeError(
        f"the source of a run is a folder, a file, a list of files, or a data set with a length, not a "
        f"{type(given).__name__}"
    )


def _of_path(path: AnyPath, reads: Reads) -> Source:
    kind = path.suffix.lower()
    if kind == ".csv":
        return _of_table(path)
    if kind == ".tar":
        return _of_tars([path])
    try:
        is_folder = ending(path.name) not in SUFFIXES | HEIF and path.is_dir()
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror or error}") from None
    if kind == ".parquet":
        parts = sorted(part.name for part in path.glob("*.parquet")) if is_folder else []
        first = path / parts[0] if parts else path
        if columns_of(first) is None:
            return _of_table(path)
        return _of_held(path, parts) if parts else _of_held(path.parent, [path.name])
    return _of_folder(path, reads) if is_folder else _of_files([path], reads)


def _of_paths(paths: Sequence[AnyPath], reads: Reads) -> Source:
    kinds = {path.suffix.lower() for path in paths}
    if ".tar" in kinds:
        if len(kinds) > 1:
            raise ImageError("tars and other files do not go together: give a run for each")
        return _of_tars(paths)
    if kinds & {".parquet", ".arrow"}:
        return _of_held(path_of(os.curdir), [path.as_posix() for path in paths])
    return _of_files(paths, reads)


def _of_folder(root: AnyPath, reads: Reads) -> Source:
    """Of a folder, each image's label is the name of its sub-folder, the nearest that is a class."""
    held = _files_of_data_set(root)
    if held:
        return _of_held(root, held)
    try:
        return _of_images(root, reads)
    except ImageError:
        others = sorted(_names_below(root))
        tables = [name for name in others if name.lower().endswith(".parquet")]
        tars = [name for name in others if name.lower().endswith(".tar")]
        if tables and all(columns_of(root / name) is not None for name in tables):
            return _of_held(root, tables)
        if tars:
            return _of_tars([root / name for name in tars])
        raise


def _of_images(root: AnyPath, reads: Reads) -> Source:
    """The images in a folder.

    Raises:
        ImageError: if there are none.
    """
    if isinstance(root, RemotePath):
        endings = looked_for(reads)
        sizes = {name: size for name, size in _sizes_below(root).items() if ending(name) in endings}
        if not sizes:
            raise ImageError(f"{root} is a folder without an image (looked for {', '.join(sorted(endings))})")
        labels = (tuple(reversed(PurePosixPath(name).parent.parts)) for name in sizes)
        return Files(str(root), tuple(sizes), tuple(labels), tuple(sizes.values()))
    found = find_images(root, reads)
    for text in filter(None, [found.skipped_in_words, *found.unreadable.values()]):
        warn(text)
    names = [(folder / path.name).as_posix() for path, folder in zip(found.paths, found.folders, strict=True)]
    return Files(_whole(root), tuple(names), tuple(tuple(reversed(folder.parts)) for folder in found.folders))


def _sizes_below(root: RemotePath) -> dict[str, int]:
    """The sizes of the files in a folder and those in it, but for hidden ones.

    Raises:
        ImageError: if they cannot be listed.
    """
    try:
        sizes = root.below()
    except OSError as error:
        raise ImageError(f"{root} cannot be read: {error.strerror or error}") from None
    return {name: size for name, size in sizes.items() if not any(part.startswith(".") for part in name.split("/"))}


def _names_below(root: AnyPath) -> Iterable[str]:
    if isinstance(root, RemotePath):
        return _sizes_below(root)
    names = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
    return [name.as_posix() for name in names if not any(part.startswith(".") for part in name.parts)]


def _whole(root: AnyPath) -> str:
    return str(root) if isinstance(root, RemotePath) else str(root.absolute())


def _of_files(paths: Sequence[AnyPath], reads: Reads) -> Source:
    names: list[str] = []
    labels: list[tuple[Written, ...]] = []
    for path in paths:
        if isinstance(path, RemotePath):
            names.append(str(path))
            labels.append(())
            continue
        found = find_images(path, reads)
        names += [one.as_posix() for one in found.paths]
        labels += [tuple(reversed(folder.parts)) for folder in found.folders]
    return Files(str(Path.cwd()), _distinct(names), tuple(labels))


def _files_of_data_set(root: AnyPath) -> list[str]:
    """The files of a folder that `datasets` has written, in their order, of all of its splits; none of another."""
    splits = _json_in(root / "dataset_dict.json").get("splits", ())
    if splits:
        return [f"{split}/{name}" for split in splits for name in _files_of_data_set(root / split)]
    listed = _json_in(root / "state.json").get("_data_files", ())
    if listed or not (root / "dataset_info.json").exists():
        return [one["filename"] for one in listed]
    return [name for name in sorted(_names_below(root)) if name.lower().endswith((".arrow", ".parquet"))]


def _json_in(path: AnyPath) -> dict[str, Any]:
    """What a file holds; nothing if there is none.

    Raises:
        ImageError: if it cannot be read.
    """
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ImageError(f"{shown(path)} cannot be read: {in_one_line(error)}") from None
    return held if isinstance(held, dict) else {}


def _of_held(root: AnyPath, files: Sequence[str]) -> Source:
    """Of files that hold images, each is called after its file and its place there."""
    names: list[str] = []
    labels: list[tuple[Written, ...]] = []
    sizes: list[tuple[str, int]] = []
    found: Columns | None = None
    for file in files:
        path = below(_whole(root), file)
        columns = columns_of(path)
        if columns is None or (found is not None and columns != found):
            odd = "holds no images" if columns is None else f"has other columns or classes than {files[0]}"
            raise ImageError(f"{shown(path)} {odd}: give a run for each kind of file")
        found = columns
        written = [_as_written(label) for label in labels_in(path, columns)]
        names += [f"{file}/{row}" for row in range(len(written))]
        labels += written
        sizes.append((file, path.size() if isinstance(path, RemotePath) else path.stat().st_size))
    if found is None:
        raise ImageError(f"{shown(root)} holds no images")
    return Rows(_whole(root), _distinct(names), tuple(labels), found, tuple(sizes))


def _distinct(names: Sequence[str]) -> tuple[str, ...]:
    """The names, if no two are alike.

    Raises:
        ImageError: naming one that is there twice.
    """
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ImageError(f"{shown(name)} is there twice: an image has one row for each target and method")
        seen.add(name)
    return tuple(names)


def _of_table(path: AnyPath) -> Source:
    rows = _of_parquet(path) if path.suffix.lower() == ".parquet" else _of_csv(path)
    names, labels = zip(*rows, strict=True) if rows else ((), ())
    return Files(_whole(path.parent), _distinct(names), tuple(map(_as_written, labels)))


def _as_written(label: Any) -> tuple[Written, ...]:
    """A label of a table: whole numbers are indices, also as text and as floats, which tables with gaps hold."""
    if label is None or label == "" or label != label:
        return ()
    if isinstance(label, str):
        return (int(label),) if label.isdecimal() else (label,)
    if isinstance(label, int) or (isinstance(label, float) and label.is_integer()):
        return (int(label),)
    return (", ".join(map(str, label)) if isinstance(label, (list, tuple)) else str(label),)


def _of_csv(path: AnyPath) -> list[tuple[str, Any]]:
    try:
        lines = [line for line in csv.reader(StringIO(_content(path).decode("utf-8-sig"), newline="")) if line]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ImageError(f"{shown(path)} cannot be read: {error}") from None
    heading = lines[0] if lines else []
    name = first_of(heading, PATHS)
    at, label = 0, 1
    if name is not None:
        at, named, lines = heading.index(name), first_of(heading, LABELS), lines[1:]
        label = len(heading) if named is None else heading.index(named)
    return [
        (
            line[at].strip(),
            line[label].strip() if label < len(line) and (name is None or label < len(heading)) else None,
        )
        for line in lines
        if len(line) > at
    ]


def _of_parquet(path: AnyPath) -> list[tuple[str, Any]]:
    try:
        stored = BytesIO(_content(path)) if isinstance(path, RemotePath) else path
        table = library("pyarrow.parquet").read_table(stored)
    except OSError as error:
        raise ImageError(f"{shown(path)} cannot be read: {error}") from None
    names = table.column_names
    at, label = first_of(names, PATHS), first_of(names, LABELS)
    if at is None:
        raise ImageError(f"{path} has no column of paths: it has {', '.join(names)}; call it {PATHS[0]}")
    paths = table.column(at).to_pylist()
    if not all(isinstance(one, str) for one in paths):
        raise ImageError(f"{path}: the column {at} does not hold paths, but {table.schema.field(at).type}")
    labels = [None] * len(table) if label is None else table.column(label).to_pylist()
    return list(zip(paths, labels, strict=True))


def _of_tars(paths: Sequence[AnyPath]) -> Source:
    """Of each tar, the files of one name before the first dot are one sample."""
    names: list[str] = []
    labels: list[tuple[Written, ...]] = []
    places: list[tuple[str, int, int]] = []
    for path in paths:
        for name, at, size, label in _samples(path):
            names.append(f"{path.as_posix()}/{name}")
            labels.append(label)
            places.append((path.as_posix(), at, size))
    return Tars(str(Path.cwd()), _distinct(names), tuple(labels), tuple(places))


def _samples(path: AnyPath) -> Iterator[tuple[str, int, int, tuple[Written, ...]]]:
    """The images of a tar: their names, where they begin, their sizes, and their labels."""
    images: dict[str, dict[str, tuple[str, int, int]]] = {}
    labels: dict[str, dict[str, tuple[Written, ...]]] = {}
    try:
        with path.open("rb") as stored, tarfile.open(fileobj=stored, mode="r:") as tar:
            for member in tar:
                if not member.isfile():
                    continue
                name = PurePosixPath(member.name)
                stem, _, suffix = name.name.partition(".")
                sample, suffix = str(name.parent / stem), suffix.lower()
                if ending(f"x.{suffix}") in SUFFIXES | HEIF:
                    images.setdefault(sample, {})[suffix] = member.name, member.offset_data, member.size
                elif suffix in WITH_LABELS:  # at once: a file behind a URL is read from its beginning to its end
                    file = tar.extractfile(member)
                    text = "" if file is None else file.read().decode("utf-8", "replace").strip()
                    labels.setdefault(sample, {})[suffix] = _label_in(text, suffix)
    except (OSError, tarfile.TarError) as error:
        raise ImageError(f"{shown(path)} cannot be read as an uncompressed tar: {error}") from None
    for sample, parts in images.items():  # of x.jpg and x.mask.png, that of the shorter ending
        found = labels.get(sample, {})
        written = next((found[suffix] for suffix in WITH_LABELS if found.get(suffix)), ())
        yield *parts[min(parts, key=lambda suffix: suffix.count("."))], written


def _label_in(text: str, suffix: str) -> tuple[Written, ...]:
    """The label that a file of a sample holds."""
    if suffix != "json":
        return _as_written(text)
    try:
        held = json.loads(text)
    except ValueError:
        return ()
    known = [held[name] for name in (*LABELS, "cls") if name in held] if isinstance(held, dict) else []
    return _as_written(known[0]) if known and isinstance(known[0], (int, str)) else ()


def _of_items(given: Any) -> Source:
    try:
        count = len(given)
    except TypeError:
        raise TypeError(
            f"a {type(given).__name__} has no length, which a run has to know: give a data set that can be indexed"
        ) from None
    if hasattr(given, "column_names") and hasattr(given, "features"):
        return _of_data_set(given)
    about = _about(given, count)
    names = about.names if len(set(about.names)) == count else tuple(map(str, range(count)))
    return Items("", names, tuple(map(_unless_none, about.labels)) or ((),) * count, given, about.classes)


class _About(NamedTuple):
    """What a data set says of its items without a look at them; empty where it does not."""

    names: tuple[str, ...] = ()
    labels: tuple[Written | None, ...] = ()
    classes: tuple[str, ...] = ()


def _about(given: Any, count: int) -> _About:
    if isinstance(given, Subset):
        of, chosen = _about(given.dataset, len(given.dataset)), list(map(int, given.indices))  # type: ignore[arg-type]
        names = tuple(of.names[one] for one in chosen) if of.names else ()
        return _About(names, tuple(of.labels[one] for one in chosen) if of.labels else (), of.classes)
    if isinstance(given, ConcatDataset):
        parts = [_about(one, len(one)) for one in given.datasets]  # type: ignore[arg-type]
        if len({part.classes for part in parts}) > 1:
            raise ImageError("the data sets that are joined name their classes differently: give a run for each")
        names = tuple(chain.from_iterable(part.names for part in parts)) if all(part.names for part in parts) else ()
        listed = all(part.labels for part in parts)
        labels = tuple(chain.from_iterable(part.labels for part in parts)) if listed else ()
        return _About(names, labels, parts[0].classes)
    named = getattr(given, "classes", None) or ()
    classes = tuple(named) if all(isinstance(name, str) for name in named) else ()
    samples = getattr(given, "samples", None)  # of torchvision's folders of images
    if isinstance(samples, list) and len(samples) == count and all(_is_sample(one) for one in samples):
        return _About(tuple(str(path) for path, _ in samples), tuple(label for _, label in samples), classes)
    targets = getattr(given, "targets", None)
    known = list(targets) if targets is not None and len(targets) == count else []
    return _About((), tuple(map(_one_class, known)), classes)


def _is_sample(one: Any) -> bool:
    return isinstance(one, tuple) and len(one) == 2 and isinstance(one[0], str) and isinstance(one[1], int)


def _of_data_set(given: Any) -> Source:
    """Of a `datasets.Dataset`."""
    columns = columns_in(given.features.arrow_schema)
    if columns is None:
        raise ImageError(f"the data set has no column of images: it has {', '.join(given.column_names)}")
    named = list(given.with_format(None)[columns.label]) if columns.label is not None else [None] * len(given)
    labels = tuple(map(_as_written, without_missing(named, columns)))
    return Items("", tuple(map(str, range(len(given)))), labels, _Column(given, columns.image), columns.classes)


@dataclass(frozen=True)
class _Column:
    """The images of a `datasets.Dataset`."""

    held: Any
    name: str

    def __getitem__(self, index: int) -> Any:
        return self.held[index][self.name]
