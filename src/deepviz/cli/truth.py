"""`--truth`: the true class of each image, from a file or from the names of folders."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from deepviz.cli import UsageError
from deepviz.errors import TargetError
from deepviz.models.images import shown
from deepviz.models.labels import find_label
from deepviz.objectives import Objective
from deepviz.runs.asked import targets_of

FOLDERS = "folders"
Classes = dict[str, int | str]
Truth = Annotated[
    str | None,
    Parameter(
        help="The class to explain in each image, instead of the predicted one: a .csv with the columns file and class "
        "(an index or a label), or 'folders': the name of the folder that the image is in."
    ),
]


@dataclass(frozen=True)
class GroundTruth:
    """The true class of each image.

    Args:
        classes: by path, or the end of one; None: it is the name of the image's folder.
    """

    classes: Classes | None

    def targets(self, path: Path, folder: Path, labels: Sequence[str] | None) -> tuple[Objective, ...] | None:
        """The class of an image, as what to explain of it.

        Args:
            path: of the image.
            folder: its sub-folder of the folder that was given.
            labels: the classes' names.

        Raises:
            TargetError: if it is not known.
        """
        if self.classes is None:
            return targets_of(_of_folders(path, folder, labels), 1, labels)
        return targets_of(_of_lines(path, self.classes), 1, labels)


def read_truth(
    truth: str | None, labels: str | None, target: Sequence[str] | None = None
) -> tuple[GroundTruth | None, str | None]:
    """The classes that `--truth` gives, and the names of classes; a .csv of classes given as `--labels` is taken too.

    Raises:
        UsageError: for two files of classes, or one beside `target`.
        TargetError: for a file that cannot be read as such.
    """
    if labels is not None and Path(labels).suffix.lower() == ".csv":
        if truth is not None:
            raise UsageError("--labels takes names of classes, a .txt or .json file: the .csv is for --truth")
        print(
            f"deepviz: --labels takes names of classes; a .csv of files and classes is --truth {labels}",
            file=sys.stderr,
        )
        truth, labels = labels, None
    if truth is None:
        return None, labels
    if target:
        raise UsageError("--target is for all images, --truth holds the class of each: give one of them")
    return GroundTruth(None if truth == FOLDERS else read_classes(Path(truth))), labels


def _of_folders(path: Path, folder: Path, labels: Sequence[str] | None) -> int:
    """The class that the nearest folder is named after."""
    names = folder.parts or (path.absolute().parent.name,)
    if labels is None:
        raise TargetError("--truth folders needs the names of the classes: give --labels")
    reasons = []
    for name in reversed(names):
        try:
            return find_label(name, labels)
        except TargetError as error:
            reasons.append(str(error))
    raise TargetError(f"{shown(path)}: its folder is not named after a class: {reasons[0]}")


def _of_lines(path: Path, classes: Classes) -> int | str:
    """The class of the line whose path is most of this one; else of the file of this name."""
    parts = path.parts
    for start in range(len(parts)):
        found = classes.get("/".join(parts[start:]))
        if found is not None:
            return found
    named = {file: value for file, value in classes.items() if Path(file).name == path.name}
    if not named:
        raise TargetError(f"{shown(path.name)}: it has no line in the --truth file")
    if len(set(named.values())) > 1:
        raise TargetError(f"{shown(path)}: the --truth file has {' and '.join(named)}: write its path as it is here")
    return next(iter(named.values()))


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


def lines_of(path: Path) -> Iterator[tuple[str, list[str]]]:
    """The lines of a .csv, each with where it is, in words; without a heading that begins with "file"."""
    try:
        lines = list(csv.reader(path.read_text(encoding="utf-8-sig").splitlines()))
    except (OSError, UnicodeDecodeError) as error:
        raise TargetError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    for number, line in enumerate(lines, 1):
        if line and not (number == 1 and line[0].strip().lower() == "file"):
            yield f"{path}, line {number}", line
