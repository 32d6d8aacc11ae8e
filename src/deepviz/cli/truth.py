"""`--truth`: the true class of each image, from a file or from the names of folders."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from deepviz.cli import UsageError
from deepviz.runs.truth import FOLDERS, GroundTruth, read_classes

Truth = Annotated[
    str | None,
    Parameter(
        help="The class to explain in each image, instead of the predicted one: a .csv with the columns file and class "
        "(an index or a label), or 'folders': the name of the folder that the image is in."
    ),
]


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
