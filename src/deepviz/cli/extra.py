"""`--extra`: what a model takes beside each image, from a file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Annotated

import torch
from cyclopts import Parameter
from torch import Tensor

from deepviz.errors import TargetError
from deepviz.inputs import Inputs
from deepviz.models import LoadedModel, Prepared
from deepviz.models.leaves import prepared_leaves
from deepviz.objectives import Objective
from deepviz.runs.asked import Item
from deepviz.runs.truth import check_names, columns_of, line_of, lines_of

FILE = "the --extra file"
TABLE = "x[1]"
"""What the numbers are called where they are explained: the second input."""
Extra = Annotated[
    Path | None,
    Parameter(
        help="What the model takes beside each image: a .csv with the column file, and a column for each number; they "
        "are given as one tensor (1, F) after the image."
    ),
]


@dataclass(frozen=True)
class ExtraTable:
    """The numbers that go along with each image, by its path or the end of one, and what they are called."""

    rows: dict[str, tuple[float, ...]]
    columns: tuple[str, ...] = ()

    def of(self, path: Path) -> Inputs:
        """What goes along with an image.

        Raises:
            TargetError: if it has no line.
        """
        return Inputs(torch.zeros(1, 1), (self._row(path),))

    def explained(
        self, loaded: LoadedModel, image: Prepared, path: Path, targets: tuple[Objective, ...] | None
    ) -> Item:
        """An image and its numbers, both to be explained.

        Raises:
            TargetError: if it has no line.
        """
        row = self._row(path)
        ((numbers,),) = prepared_leaves(loaded, Inputs(row))
        part = replace(numbers, name=image.name, input=TABLE)
        inputs = Inputs((image.x[None], row), columns={1: self.columns} if self.columns else None)
        return Item(image, targets, inputs=inputs, leaves=(image, part))

    def _row(self, path: Path) -> Tensor:
        return torch.tensor([self.rows[line_of(path, self.rows, FILE)]])

    @property
    def digest(self) -> str:
        """What tells it from others."""
        return sha256(repr(sorted(self.rows.items())).encode()).hexdigest()[:16]


def read_extra(path: Path | None, images: list[Path]) -> ExtraTable | None:
    """The table of a file; None without one.

    Raises:
        TargetError: if it cannot be read as such, or a line may be about two of the images.
    """
    if path is None:
        return None
    rows: dict[str, tuple[float, ...]] = {}
    for where, line in lines_of(path):
        try:
            numbers = tuple(float(value) for value in line[1:])
        except ValueError:
            numbers = ()
        if not numbers or not all(abs(value) < float("inf") for value in numbers):
            raise TargetError(f"{where}: expected file,number,... such as cat.jpg,34.5,1")
        name = Path(line[0].strip()).as_posix()
        if rows.setdefault(name, numbers) != numbers:
            raise TargetError(f"{where}: {name} has other numbers already")
    if len({len(numbers) for numbers in rows.values()}) > 1:
        raise TargetError(f"{path}: its lines have unlike many numbers")
    check_names(images, rows, FILE)
    columns = columns_of(path)
    fits = all(len(numbers) == len(columns) for numbers in rows.values())
    return ExtraTable(rows, columns if fits else ())
