"""The true class of each image, from the names of folders or from a file."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deepviz.errors import TargetError
from deepviz.models import LoadedModel
from deepviz.models.images import find_images, shown
from deepviz.models.labels import find_label, imagenet_label_of
from deepviz.objectives import Objective
from deepviz.runs.asked import targets_of

FOLDERS = "folders"
FILE = "the file of true classes"
Classes = dict[str, int | str]


def ground_truth(
    images: str | PathLike[str] | Iterable[str | PathLike[str]],
    labels: LoadedModel | Sequence[str],
    truth: str | PathLike[str] = FOLDERS,
) -> Tensor:
    """The true class of each image, (N,), as a `target` of `explain`, `evaluate` and `sanity_check`.

    Args:
        images: a folder, or files and folders, as `explain` takes them and in its order.
        labels: the names of the classes, or the model that has them.
        truth: "folders", where the image's folder, or the nearest one above it, is named after its class; or a .csv
            with the columns file and class, a class being an index or a label. For ImageNet's classes, a name may also
            be WordNet's, "n02123045" or "n02123045-tabby".

    Raises:
        TargetError: for an image whose class is not known, or a file that cannot be read as such.
        ImageError: for a folder without an image.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("dog", "cat"):
        ...     (folder / name).mkdir()
        ...     Image.new("RGB", (8, 8)).save(folder / name / "1.png")
        >>> ground_truth(folder, ["cat", "dog"])  # in order of their paths: cat/1.png, dog/1.png
        tensor([0, 1])
    """
    names = labels.labels if isinstance(labels, LoadedModel) else labels
    known = GroundTruth(None if truth == FOLDERS else read_classes(Path(truth)))
    found = find_images(images, labels.reads if isinstance(labels, LoadedModel) else "images")
    known.check_names(found.paths)
    return torch.tensor(
        [known.index(path, folder, names) for path, folder in zip(found.paths, found.folders, strict=True)]
    )


@dataclass(frozen=True)
class GroundTruth:
    """The true class of each image.

    Args:
        classes: by path, or the end of one; None: it is the name of the image's folder.
    """

    classes: Classes | None

    def check_names(self, paths: Iterable[Path]) -> None:
        """Refuse a line that is about two images.

        Raises:
            TargetError: naming both.
        """
        if self.classes is not None:
            check_names(paths, self.classes, FILE)

    def index(self, path: Path, folder: Path, labels: Sequence[str] | None) -> int | str:
        """The class of an image: its index, or, without names of classes, as it is written.

        Args:
            path: of the image.
            folder: its sub-folder of the folder that was given.
            labels: the classes' names.

        Raises:
            TargetError: if it is not known.
        """
        if self.classes is None:
            return _of_folders(path, folder, labels)
        written = self.classes[line_of(path, self.classes, FILE)]
        return written if isinstance(written, int) or labels is None else _called(written, labels)

    def targets(self, path: Path, folder: Path, labels: Sequence[str] | None) -> tuple[Objective, ...] | None:
        """`index`, as what to explain of the image."""
        return targets_of(self.index(path, folder, labels), 1, labels)


def _of_folders(path: Path, folder: Path, labels: Sequence[str] | None) -> int:
    """The class that the nearest folder is named after."""
    names = folder.parts or (path.absolute().parent.name,)
    if labels is None:
        raise TargetError("the names of folders are classes only if these have names: give --labels")
    reasons = []
    for name in reversed(names):
        try:
            return _called(name, labels)
        except TargetError as error:
            reasons.append(str(error))
    raise TargetError(f"{shown(path)}: its folder is not named after a class: {reasons[0]}")


def _called(name: str, labels: Sequence[str]) -> int:
    """The class of this name, which may be WordNet's."""
    return find_label(imagenet_label_of(name, labels) or name, labels)


def line_of(path: Path, lines: Mapping[str, Any], file: str) -> str:
    """Which line of a file is about an image: the one whose path is most of this one; else the one of the file's name.

    Args:
        path: of the image.
        lines: by path, or the end of one.
        file: what it is called in errors.

    Raises:
        TargetError: if there is none, or several are of this name.
    """
    parts = path.parts
    for start in range(len(parts)):
        if (end := "/".join(parts[start:])) in lines:
            return end
    named = [name for name in lines if Path(name).name == path.name]
    if not named:
        raise TargetError(f"{shown(path.name)}: it has no line in {file}")
    if any(lines[name] != lines[named[0]] for name in named):
        raise TargetError(f"{shown(path)}: {file} has {' and '.join(named)}: write its path as it is here")
    return named[0]


def check_names(paths: Iterable[Path], lines: Mapping[str, Any], file: str) -> None:
    """Refuse a line that is about two images, whose files have the same name in different folders.

    Raises:
        TargetError: naming both.
    """
    about: dict[str, Path] = {}
    for path in paths:
        try:
            line = line_of(path, lines, file)
        except TargetError:
            continue  # told of the image itself
        other = about.setdefault(line, path)
        if other.absolute() != path.absolute():
            raise TargetError(
                f"{file} has a line {shown(line)!r}, which may be {shown(other)} or {shown(path)}: write their paths"
            )


def read_classes(path: Path) -> Classes:
    """The class of each file in a .csv: two columns, the file's path or name and a class index or label.

    Raises:
        TargetError: if it cannot be read as such.
    """
    found: Classes = {}
    for where, line in lines_of(path):
        if len(line) < 2:
            raise TargetError(f"{where}: expected file,class such as cat.jpg,281")
        name, word = Path(line[0].strip()).as_posix(), line[1].strip()
        value = int(word) if word.isdecimal() else word
        if found.setdefault(name, value) != value:
            raise TargetError(f"{where}: {name} has the class {found[name]} already")
    return found


def columns_of(path: Path) -> tuple[str, ...]:
    """The names of the columns of a .csv but the first, as its heading has them; none without a heading."""
    first = next(iter(_read(path)), [])
    return tuple(name.strip() for name in first[1:]) if _is_heading(first) else ()


def lines_of(path: Path) -> Iterator[tuple[str, list[str]]]:
    """The lines of a .csv, each with where it is, in words; without a heading that begins with "file"."""
    for number, line in enumerate(_read(path), 1):
        if line and not (number == 1 and _is_heading(line)):
            yield f"{path}, line {number}", line


def _read(path: Path) -> list[list[str]]:
    try:
        return list(csv.reader(path.read_text(encoding="utf-8-sig").splitlines()))
    except (OSError, UnicodeDecodeError) as error:
        raise TargetError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error


def _is_heading(line: list[str]) -> bool:
    return bool(line) and line[0].strip().lower() == "file"
