"""Where the object is in each image of a run: boxes or masks, for the metrics that ask for it."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from deepviz.errors import TargetError, in_one_line
from deepviz.models import Prepared
from deepviz.models.images import shown
from deepviz.runs.evaluate import Box, check_view, region
from deepviz.runs.sources import Source
from deepviz.runs.truth import check_names, line_of, lines_of

BOXES = "the --boxes file"
Boxes = str | os.PathLike[str] | Mapping[Any, Any] | Sequence[Sequence[Box]]
"""A .csv, boxes by the image's name or position, or a list of boxes for each image."""


class Places(ABC):
    """Where the object is, for the images of a run by their positions."""

    @property
    @abstractmethod
    def record(self) -> dict[str, Any]:
        """What is stored of it: an equal one has the same places."""

    @abstractmethod
    def inside(self, index: int, image: Prepared) -> Tensor:
        """The object of an image, as a bool mask (H, W) of the model's input.

        Raises:
            TargetError: if it is not known, or the model saw nothing of it.
        """


@dataclass(frozen=True, eq=False)
class InBoxes(Places):
    """Boxes in pixels of the image, left, top, right and bottom; their union is the object."""

    boxes: dict[int, tuple[tuple[float, ...], ...]]

    @property
    def record(self) -> dict[str, Any]:
        """The hash of all boxes."""
        held = sorted((index, boxes) for index, boxes in self.boxes.items())
        return {"kind": "boxes", "sha256": sha256(json.dumps(held).encode()).hexdigest()}

    def inside(self, index: int, image: Prepared) -> Tensor:
        """The union of the boxes."""
        if not self.boxes.get(index):
            raise TargetError(f"{shown(image.name)} has no box")
        return region(image, self.boxes[index])


@dataclass(frozen=True, eq=False)
class InMasks(Places):
    """A folder of masks, pictures of the images' sizes: what is not black is the object.

    Args:
        files: of each image's mask, if it has one.
    """

    files: dict[int, Path]

    @property
    def record(self) -> dict[str, Any]:
        """The hash of the sizes of all masks."""
        held = sorted((index, path.stat().st_size) for index, path in self.files.items())
        return {"kind": "masks", "sha256": sha256(json.dumps(held).encode()).hexdigest()}

    def inside(self, index: int, image: Prepared) -> Tensor:
        """The mask at the places of the input's pixels."""
        check_view(image, "masks")
        if index not in self.files:
            raise TargetError(f"{shown(image.name)} has no mask")
        path = self.files[index]
        try:
            with Image.open(path) as opened:
                mask = opened.convert("L").point(lambda level: 255 * (level > 0))
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            raise TargetError(f"{shown(path)} is no mask: {in_one_line(error)}") from None
        if mask.size != image.geometry.size:
            across, down = image.geometry.size
            raise TargetError(f"{shown(path)} is {mask.width} x {mask.height}, and the image {across} x {down}")
        height, width = image.x.shape[1:]
        seen = mask.transform((width, height), Image.Transform.EXTENT, image.geometry.box, Image.Resampling.NEAREST)
        inside = torch.from_numpy(np.asarray(seen) > 0)
        if not bool(inside.any()):
            raise TargetError(f"{shown(image.name)}: its mask holds no pixel that the model sees")
        return inside


def places_of(boxes: Boxes | None, masks: str | os.PathLike[str] | None, source: Source) -> Places | None:
    """Where the object is in the images of a source; None if that is not given.

    Args:
        boxes: a .csv with the columns file, left, top, right and bottom; boxes by the name or the position of an image;
            or a list of boxes for each image.
        masks: a folder with a picture for each image, of its name and with any ending.
        source: the images.

    Raises:
        TargetError: for a file that cannot be read as such, or if nothing is known of any image.
        ValueError: for both.
    """
    if boxes is not None and masks is not None:
        raise ValueError("give boxes or masks, not both")
    if masks is not None:
        return _masks(Path(masks), source)
    if boxes is None:
        return None
    if isinstance(boxes, (str, os.PathLike)):
        return InBoxes(_by_line(read_boxes(Path(boxes)), source))
    if isinstance(boxes, Mapping):
        if all(isinstance(key, int) for key in boxes):
            return InBoxes({index: _plain(of) for index, of in boxes.items()})
        return InBoxes(_by_line({str(name): list(of) for name, of in boxes.items()}, source))
    if len(boxes) != len(source):
        raise TargetError(f"{len(boxes)} lists of boxes for {len(source)} images: give one for each")
    return InBoxes({index: _plain(of) for index, of in enumerate(boxes)})


def read_boxes(path: Path) -> dict[str, list[Box]]:
    """The boxes of each file in a .csv of five columns, the file's path or name and left, top, right, bottom.

    Raises:
        TargetError: if it cannot be read as such.
    """
    found: dict[str, list[Box]] = {}
    for where, line in lines_of(path):
        try:
            left, top, right, bottom = map(float, line[1:5])
        except ValueError:
            raise TargetError(f"{where}: expected file,left,top,right,bottom such as cat.jpg,20,35,180,200") from None
        found.setdefault(Path(line[0].strip()).as_posix(), []).append((left, top, right, bottom))
    return found


def _plain(boxes: Sequence[Box]) -> tuple[tuple[float, ...], ...]:
    """Boxes, checked.

    Raises:
        TargetError: for what is no list of boxes.
    """
    try:
        found = tuple(tuple(float(side) for side in box) for box in boxes)
    except TypeError:
        found = ((),)
    if any(len(box) != 4 for box in found):
        raise TargetError(f"the boxes of an image are a list of (left, top, right, bottom), got {boxes!r}")
    return found


def _by_line(lines: Mapping[str, Sequence[Box]], source: Source) -> dict[int, tuple[tuple[float, ...], ...]]:
    """The boxes of each image that has some.

    Raises:
        TargetError: if none has, or a line may be about two images.
    """
    of_name: dict[str, dict[str, Sequence[Box]]] = {}
    for line, boxes in lines.items():
        of_name.setdefault(PurePosixPath(line).name, {})[line] = boxes
    paths = [Path(name) for name in source.names]
    known = {index: of_name[path.name] for index, path in enumerate(paths) if path.name in of_name}
    if not known:
        raise TargetError(f"{BOXES} has no line of any image, such as {shown(source.names[0])}")
    images: dict[str, list[Path]] = {}
    for index in known:
        images.setdefault(paths[index].name, []).append(paths[index])
    for name, alike in images.items():
        check_names(alike, of_name[name], BOXES)
    return {index: _plain(of[line_of(paths[index], of, BOXES)]) for index, of in known.items()}


def _masks(folder: Path, source: Source) -> InMasks:
    if not folder.is_dir():
        raise TargetError(f"{folder} is no folder of masks")
    files = {
        path.relative_to(folder).with_suffix("").as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }
    found: dict[int, Path] = {}
    about: dict[Path, str] = {}
    for index, name in enumerate(source.names):
        parts = PurePosixPath(name).with_suffix("").parts
        ends = ("/".join(parts[start:]) for start in range(len(parts)))
        mask = next((files[end] for end in ends if end in files), None)
        if mask is None:
            continue
        if mask in about:
            raise TargetError(
                f"{shown(mask)} may be the mask of {shown(about[mask])} or {shown(name)}: use sub-folders"
            )
        found[index], about[mask] = mask, name
    if not found:
        raise TargetError(f"{folder} has no mask of any image, such as one named {shown(Path(source.names[0]).name)}")
    return InMasks(found)
