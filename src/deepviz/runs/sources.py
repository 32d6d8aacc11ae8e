"""Where the images of a run come from: a folder, a list of files, a table, WebDataset's tars or a torch data set."""

from __future__ import annotations

import csv
import json
import os
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from hashlib import sha256
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, NamedTuple

from torch.utils.data import Dataset

from deepviz.diagnostics import warn
from deepviz.errors import ImageError, TargetError
from deepviz.models import LoadedModel
from deepviz.models.images import HEIF, SUFFIXES, Reads, ending, find_images, read_photo, shown
from deepviz.models.labels import find_label, imagenet_label_of
from deepviz.results.shards import library
from deepviz.runs.asked import Item, items_of, without_label

Written = str | int
"""A label as it is written: the name of a class, or its index."""
PATHS, LABELS = ("file", "path", "image", "filename", "filepath"), ("label", "class")
"""The names of the columns of a table."""


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
    """Files of images."""

    kind = "files"

    def read(self, loaded: LoadedModel, index: int) -> tuple[Item, Label | None]:
        """One image with its label."""
        return Item(loaded.prepare(Path(self.root, self.names[index]))), self.label(loaded, index)

    def sizes(self) -> Iterator[int]:
        """The size of each file."""
        for name in self.names:
            try:
                yield os.stat(Path(self.root, name)).st_size
            except OSError:
                yield -1


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
        name = shown(self.names[index])
        try:
            with Path(self.root, file).open("rb") as tar:
                tar.seek(start)
                content = tar.read(size)
        except OSError as error:
            raise ImageError(f"{name} cannot be read: {error.strerror or error}") from None
        image = loaded.prepare(read_photo(BytesIO(content), name))
        return Item(replace(image, name=name)), self.label(loaded, index)

    def sizes(self) -> Iterator[int]:
        """The size of each image."""
        return (size for _, _, size in self.places)


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
        given = self.held[index]
        image = without_label(given)
        found = items_of(loaded, [image])
        if len(found) != 1:
            raise ImageError(f"item {index} of the data set is {len(found)} images: give a data set of single images")
        written = self.labels[index] or (() if image is given else (_plain_label(given[1]),))
        image_part, leaves = found[0].image, found[0].leaves
        named = {part: replace(part, name=self.names[index]) for part in found[0].parts}
        item = replace(found[0], image=named[image_part], leaves=tuple(named[leaf] for leaf in leaves))
        return item, self._named(written, loaded)

    def label(self, loaded: LoadedModel, index: int) -> Label | None:
        """The label of an image, if the data set lists them."""
        return self._named(self.labels[index], loaded)

    def _named(self, written: tuple[Written, ...], loaded: LoadedModel) -> Label | None:
        """The class; an index of the data set's classes by their name: the model may number them differently."""
        classes = () if loaded.labels is None else self.classes
        named = (classes[one] if isinstance(one, int) and 0 <= one < len(classes) else one for one in written)
        return named_label(tuple(named), loaded.labels)

    def sizes(self) -> Iterator[int]:
        """Nothing is known of them."""
        return iter(())


def _plain_label(label: Any) -> Written:
    return label if isinstance(label, str) else int(label)


def source_of(given: Any, reads: Reads = "images") -> Source:
    """The images of a run.

    Args:
        given: a folder, whose sub-folders are labels; a .csv or .parquet with a column of paths, and one of labels; a
            WebDataset .tar; an image; a list of these; or a torch `Dataset`, or another sequence, of images or of pairs
            (image, label).
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
    if isinstance(given, (str, os.PathLike)):
        path = Path(given)
        if path.suffix.lower() in (".csv", ".parquet"):
            return _of_table(path)
        if path.suffix.lower() == ".tar":
            return _of_tars([path])
        return _of_folder(path, reads) if path.is_dir() else _of_files([path], reads)
    if isinstance(given, (list, tuple)) and given and all(isinstance(one, (str, os.PathLike)) for one in given):
        paths = list(map(Path, given))
        tars = [path for path in paths if path.suffix.lower() == ".tar"]
        if tars and len(tars) < len(paths):
            raise ImageError("tars and other files do not go together: give a run for each")
        return _of_tars(paths) if tars else _of_files(paths, reads)
    if isinstance(given, Dataset) or (hasattr(given, "__getitem__") and not isinstance(given, Mapping)):
        return _of_items(given)
    raise TypeError(
        f"the source of a run is a folder, a file, a list of files, or a data set with a length, not a "
        f"{type(given).__name__}"
    )


def _of_folder(root: Path, reads: Reads) -> Source:
    """Of a folder, each image's label is the name of its sub-folder, the nearest that is a class."""
    found = find_images(root, reads)
    for text in filter(None, [found.skipped_in_words, *found.unreadable.values()]):
        warn(text)
    names = [(folder / path.name).as_posix() for path, folder in zip(found.paths, found.folders, strict=True)]
    labels = [tuple(reversed(folder.parts)) for folder in found.folders]
    return Files(str(root.absolute()), tuple(names), tuple(labels))


def _of_files(paths: Sequence[Path], reads: Reads) -> Source:
    found = find_images(paths, reads)
    names = _distinct([path.as_posix() for path in found.paths])
    return Files(str(Path.cwd()), names, tuple(tuple(reversed(folder.parts)) for folder in found.folders))


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


def _of_table(path: Path) -> Source:
    rows = _of_parquet(path) if path.suffix.lower() == ".parquet" else _of_csv(path)
    names, labels = zip(*rows, strict=True) if rows else ((), ())
    return Files(str(path.absolute().parent), _distinct(names), tuple(map(_as_written, labels)))


def _as_written(label: Any) -> tuple[Written, ...]:
    """A label of a table: whole numbers are indices, also as text and as floats, which tables with gaps hold."""
    if label is None or label == "" or label != label:
        return ()
    if isinstance(label, str):
        return (int(label),) if label.isdecimal() else (label,)
    return (int(label),) if label == int(label) else (str(label),)


def _column(names: Sequence[str], known: Sequence[str]) -> int | None:
    plain = [name.strip().lower() for name in names]
    return next((plain.index(name) for name in known if name in plain), None)


def _of_csv(path: Path) -> list[tuple[str, Any]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = [line for line in csv.reader(file) if line]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ImageError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    heading = lines[0] if lines else []
    at = _column(heading, PATHS)
    label: int | None = 1
    if at is None:
        at = 0
    else:
        label, lines = _column(heading, LABELS), lines[1:]
    return [
        (line[at].strip(), None if label is None or label >= len(line) else line[label].strip())
        for line in lines
        if len(line) > at
    ]


def _of_parquet(path: Path) -> list[tuple[str, Any]]:
    try:
        table = library("pyarrow.parquet").read_table(path)
    except OSError as error:
        raise ImageError(f"cannot read {path}: {error}") from None
    names = table.column_names
    at, label = _column(names, PATHS), _column(names, LABELS)
    if at is None:
        raise ImageError(f"{path} has no column of paths: it has {', '.join(names)}; call it {PATHS[0]}")
    paths = table.column(at).to_pylist()
    if not all(isinstance(one, str) for one in paths):
        raise ImageError(f"{path}: the column {names[at]} does not hold paths, but {table.schema.field(at).type}")
    labels = [None] * len(table) if label is None else table.column(label).to_pylist()
    return list(zip(paths, labels, strict=True))


def _of_tars(paths: Sequence[Path]) -> Source:
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


def _samples(path: Path) -> Iterator[tuple[str, int, int, tuple[Written, ...]]]:
    """The images of a tar: their names, where they begin, their sizes, and their labels."""
    samples: dict[str, dict[str, tarfile.TarInfo]] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if member.isfile():
                    name = PurePosixPath(member.name)
                    stem, _, suffix = name.name.partition(".")
                    samples.setdefault(str(name.parent / stem), {})[suffix.lower()] = member
            for parts in samples.values():
                images = [suffix for suffix in parts if ending(f"x.{suffix}") in SUFFIXES | HEIF]
                if images:  # of x.jpg and x.mask.png, that of the shorter ending
                    member = parts[min(images, key=lambda suffix: suffix.count("."))]
                    yield member.name, member.offset_data, member.size, _label_in(tar, parts)
    except (OSError, tarfile.TarError) as error:
        raise ImageError(f"{shown(path)} cannot be read as an uncompressed tar: {error}") from None


def _label_in(tar: tarfile.TarFile, parts: Mapping[str, tarfile.TarInfo]) -> tuple[Written, ...]:
    """The label of a sample: of its `cls`, or that of its `json`."""
    for suffix in ("cls", "txt.cls", "json"):
        file = tar.extractfile(parts[suffix]) if suffix in parts else None
        if file is None:
            continue
        text = file.read().decode("utf-8", "replace").strip()
        if suffix != "json":
            return _as_written(text)
        try:
            held = json.loads(text)
        except ValueError:
            continue
        known = [held[name] for name in (*LABELS, "cls") if name in held] if isinstance(held, dict) else []
        if known and isinstance(known[0], (int, str)):
            return _as_written(known[0])
    return ()


def _of_items(given: Any) -> Source:
    try:
        count = len(given)
    except TypeError:
        raise TypeError(
            f"a {type(given).__name__} has no length, which a run has to know: give a data set that can be indexed"
        ) from None
    names = getattr(given, "classes", None) or ()
    classes = tuple(names) if all(isinstance(name, str) for name in names) else ()
    samples = getattr(given, "samples", None)  # of torchvision's folders of images
    if isinstance(samples, list) and len(samples) == count and all(_is_sample(one) for one in samples):
        return Items(
            "", tuple(str(path) for path, _ in samples), tuple((label,) for _, label in samples), given, classes
        )
    targets = getattr(given, "targets", None)
    listed: list[Any] = list(targets) if targets is not None and len(targets) == count else []
    known = [(int(label),) for label in listed] if all(getattr(label, "ndim", 0) == 0 for label in listed) else []
    return Items("", tuple(map(str, range(count))), tuple(known) or ((),) * count, given, classes)


def _is_sample(one: Any) -> bool:
    return isinstance(one, tuple) and len(one) == 2 and isinstance(one[0], str) and isinstance(one[1], int)
