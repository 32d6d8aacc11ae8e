"""`Box`: one detection of a detector, followed when the image is changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from torch import Tensor

from deepviz.errors import ModelError, NotInImage, TargetError
from deepviz.geometry import Geometry
from deepviz.objectives.candidates import Candidates, Found, overlap
from deepviz.objectives.classes import Labelled, class_name
from deepviz.objectives.objective import Choosing, Objective, Rows, Several
from deepviz.options import Ge, Le, validate_fields
from deepviz.probe.outputs import describe
from deepviz.probe.seen import Seen

Score = Literal["class", "iou-weighted"]
NEAREST = 0.9
"""Candidates whose overlap with a box is at least this share of the largest are candidates for being it."""
LISTED = 5
FRACTION, SMALLEST = 1.5, 4
"""Boxes of which none ends beyond the one are fractions, if the sides of the input, in pixels, are above the other."""


@dataclass(frozen=True, eq=False)
class Box(Labelled, Choosing):
    """One detection: the best of all, of a label, by rank, or the one that fits a given box best.

    The score is the logit of its class, of the candidate that it is made of: before boxes that overlap are left out,
    and before the softmax or sigmoid. It is chosen once, on the image as it is. On changed copies of the image the same
    box is followed: of the candidates that overlap it most (by at least 0.9 of the largest intersection over union),
    the one with the highest logit of that class. `score="iou-weighted"` is the score that D-RISE uses, intersection
    over union times the probability, of the candidate where that is largest (Petsiuk et al. 2021, arXiv:2006.03204).

    Needs a detector: a model whose output is `Candidates`.

    Pitfall: a changed image may have another object at the place; what is followed is the place and the class.

    Example:
        >>> from deepviz.probe.seen import Seen
        >>> boxes = torch.tensor([[[0, 0, 10, 10], [20, 0, 30, 10.0]]])
        >>> logits = torch.tensor([[[2.0, -1.0], [-1.0, 3.0]]])
        >>> seen = Seen(Candidates(boxes, logits, logits.sigmoid()), (torch.zeros(1, 3, 32, 32),))
        >>> Box()(seen), Box(0)(seen)
        (tensor([3.]), tensor([2.]))
    """

    label: Annotated[int | str | None, "Class of the detection, by index or label; None: any."] = None
    index: Annotated[int, Ge(0), "0: the one with the highest score, 1: the one after it, and so on."] = 0
    box: Annotated[
        tuple[float, ...] | Tensor | None,
        "(left, top, right, bottom): the detection that overlaps it most; in pixels of the image, on tensors of the "
        "model's input. (N, 4) holds one for each row.",
    ] = None
    score: Annotated[Score, "The logit of the class, or intersection over union times its probability."] = "class"

    def __post_init__(self) -> None:
        if isinstance(self.box, Sequence):
            object.__setattr__(self, "box", tuple(float(one) for one in self.box))
        validate_fields(self)
        given = None if self.box is None else torch.as_tensor(self.box, dtype=torch.float64)
        if given is not None:
            if given.shape[-1:] != (4,) or given.ndim > 2:
                raise TargetError(f"a box is (left, top, right, bottom), got {tuple(given.shape)} numbers")
            if not bool((given[..., :2] < given[..., 2:]).all()) or not bool(given.isfinite().all()):
                raise TargetError(f"a box is left < right and top < bottom, got {given.tolist()}")
        if self.box is not None and self.index:
            raise TargetError("give the box, or the index of a detection by its score: not both")

    @property
    def rows(self) -> int | None:
        """Where there is a box for each row, how many."""
        return len(self.box) if isinstance(self.box, Tensor) and self.box.ndim == 2 else None

    def take(self, rows: Rows) -> Objective:
        """With the boxes of those rows."""
        if not isinstance(self.box, Tensor) or self.rows is None:
            return self
        return replace(self, box=self.box[rows.cpu() if isinstance(rows, Tensor) else rows])

    def alone(self) -> Objective:
        """With the box of the one row."""
        if not isinstance(self.box, Tensor):
            return self
        return replace(self, box=tuple(self.box.reshape(-1).tolist()))

    def on_input(self, places: Sequence[tuple[Geometry, tuple[int, int]]]) -> Objective:
        """The same with its box, given in pixels of the image, in those of each row's input, (N, 4).

        Raises:
            TargetError: if the model saw nothing of it.
        """
        if self.box is None:
            return self
        boxes = torch.as_tensor(self.box, dtype=torch.float64).cpu().view(-1, 4).expand(len(places), 4).tolist()
        moved = []
        for box, (geometry, size) in zip(boxes, places, strict=True):
            left, top, right, bottom = geometry.on_input((box[0], box[1], box[2], box[3]), size)
            if not (left < right and top < bottom):
                raise NotInImage(f"the model saw nothing of the box {tuple(box)}: it saw {geometry.box} of the image")
            moved.append((left, top, right, bottom))
        return replace(self, box=torch.tensor(moved, dtype=torch.float64))

    def choose(self, seen: Seen) -> Tensor:
        """The class and the box of the detection, in pixels of the input: (n, 5)."""
        candidates = candidates_of(seen, self)
        if isinstance(self.label, str):
            raise TargetError(f"{self} names a class by its label: give its index, or a model that has labels")
        if self.label is not None and not 0 <= self.label < candidates.classes:
            raise TargetError(f"class {self.label} is out of range: the detector has {candidates.classes} classes")
        chosen = [self._chosen_of(found, row) for row, found in enumerate(candidates.detections())]
        return torch.tensor([(one.label, *one.box) for one in chosen], dtype=torch.float64)

    def _chosen_of(self, found: list[Found], row: int) -> Found:
        of_label = [one for one in found if self.label in (None, one.label)]
        if self.box is None and self.index < len(of_label):
            return of_label[self.index]
        if self.box is not None and of_label:
            box = torch.as_tensor(self.box, dtype=torch.float64).reshape(-1, 4)
            box = box[row if len(box) > 1 else 0]
            fits = overlap(box, torch.tensor([one.box for one in of_label], dtype=torch.float64))
            if float(fits.max()) > 0:
                return of_label[int(fits.argmax())]
        raise NothingDetected(self, found)

    def chosen(self, choice: Tensor) -> Objective:
        """The detection, followed."""
        return Detection(choice[:, 0].long(), choice[:, 1:], self.score)

    def caption(self, label: Callable[[int], str] | None = None) -> str:
        """In words."""
        what = "detection" if self.label is None else class_name(self.label, label)
        return what if self.index == 0 else f"{what} {self.index + 1}"


@dataclass(frozen=True, eq=False)
class Boxes(Labelled, Several):
    """All detections of an image, each explained by itself; on the command line `all-boxes`.

    Where images are explained (`deepviz.explain`, `evaluate`), it stands for as many objectives as there are
    detections, which share their forward passes. On tensors give a list of `Box`.
    """

    label: Annotated[int | str | None, "Class of the detections, by index or label; None: any."] = None
    threshold: Annotated[float | None, Ge(0), Le(1), "Least score; None: the detector's own threshold."] = None
    most: Annotated[int, Ge(1), "So many of the best at most."] = 20

    def each(self, seen: Seen) -> tuple[Objective, ...]:
        """The detections of one image, best first.

        Raises:
            NothingDetected: if there is none.
        """
        found = candidates_of(seen, self).detections(self.threshold)[0]
        wanted = [one for one in found if self.label in (None, one.label)][: self.most]
        if not wanted:
            raise NothingDetected(Box(self.label), found)
        return tuple(Detection(one.label, one.box) for one in wanted)

    def caption(self, label: Callable[[int], str] | None = None) -> str:
        """In words."""
        return "all detections" if self.label is None else f"all detections of {class_name(self.label, label)}"


@dataclass(frozen=True, eq=False)
class Detection(Objective):
    """What `Box` becomes once its detection is chosen: a class and a place, followed on changed copies of the image."""

    label: Annotated[int | Tensor, "The class; (N,) holds one for each row."]
    box: Annotated[tuple[float, ...] | Tensor, "(left, top, right, bottom) in pixels of the input, or (N, 4)."]
    score: Annotated[Score, "As of `Box`."] = "class"

    @property
    def rows(self) -> int | None:
        """Where there is one for each row, how many."""
        return len(self.label) if isinstance(self.label, Tensor) else None

    def take(self, rows: Rows) -> Objective:
        """Those of the rows."""
        if not isinstance(self.label, Tensor) or not isinstance(self.box, Tensor):
            return self
        rows = rows.cpu() if isinstance(rows, Tensor) else rows
        return replace(self, label=self.label[rows], box=self.box[rows])

    def alone(self) -> Objective:
        """That of the one row."""
        box = torch.as_tensor(self.box).reshape(-1).tolist()
        return replace(self, label=int(self.label), box=tuple(box))

    def __call__(self, seen: Seen) -> Tensor:
        """z_ck of the candidate k that is this box; or max_k IoU(b, B_k) p_ck."""
        candidates = candidates_of(seen, self)
        logits = candidates.logits
        n, many, _ = logits.shape
        label = torch.as_tensor(self.label, device=logits.device).expand(n)
        boxes = candidates.boxes_of(label)
        c = label.view(n, 1, 1).expand(n, many, 1)
        b = torch.as_tensor(self.box, dtype=boxes.dtype, device=boxes.device).view(-1, 1, 4)
        z, p = logits.gather(2, c)[..., 0], candidates.scores.gather(2, c)[..., 0]
        fits = overlap(b, boxes)
        if self.score == "iou-weighted":
            return (fits * p).amax(1)
        real = candidates.scores.detach().amax(2) > 0  # the others only fill up the row
        fit = torch.where(real, fits.detach(), -1)
        near = fit >= NEAREST * fit.amax(1, keepdim=True)
        k = torch.where(near & real, z.detach(), -torch.inf).argmax(1, keepdim=True)
        return z.gather(1, k)[:, 0]

    def caption(self, label: Callable[[int], str] | None = None) -> str:
        """The name of the class."""
        return str(self) if isinstance(self.label, Tensor) else class_name(self.label, label)


@dataclass(frozen=True, eq=False)
class Strongest(Objective):
    """The highest logit of any candidate: where a detector is asked about itself, not about an image."""

    def __call__(self, seen: Seen) -> Tensor:
        """max_kc z_kc."""
        return candidates_of(seen, self).logits.flatten(1).amax(1)

    def caption(self, label: Callable[[int], str] | None = None) -> str:
        """In words."""
        return "the strongest candidate"


class NothingDetected(NotInImage):
    """There is no detection like the one that is asked for; what there was is in the message."""

    def __init__(self, box: Box, found: Sequence[Found] = (), label: Callable[[int], str] | None = None) -> None:
        self.box, self.found = box, found
        which = "detection" if box.label is None else f"detection of {class_name(box.label, label)}"
        if box.index:
            which = f"{which} with index {box.index}"
        if box.box is not None:
            which = f"{which} that overlaps the given box"
        there = ", ".join(f"{class_name(one.label, label)} {100 * one.score:.0f} %" for one in found[:LISTED])
        more = f" and {len(found) - LISTED} more" if len(found) > LISTED else ""
        super().__init__(f"no {which}; there {'are' if len(found) > 1 else 'is'} {there or 'none at all'}{more}")

    def named(self, label: Callable[[int], str]) -> NothingDetected:
        """The same with the names of the classes."""
        return NothingDetected(self.box, self.found, label)


def _check_candidates(found: Candidates, seen: Seen) -> None:
    """Refuse what would be read as something else.

    Raises:
        ModelError: for scores that are not finite, or boxes that can be no pixels.
    """
    if not bool(found.scores.detach().isfinite().all()):
        raise ModelError("the detector's scores are not finite (NaN or infinity)")
    largest = float(found.boxes.detach().amax()) if found.boxes.numel() else 0.0
    sides = [side for leaf in seen.x if leaf.ndim == 4 for side in leaf.shape[2:]]
    if sides and 0 < largest <= FRACTION and min(sides) > SMALLEST:
        raise ModelError(
            f"no box of the detector reaches beyond {largest:g} pixels of an input of {' x '.join(map(str, sides))}: "
            "boxes are in pixels of the model's input, not fractions of it: multiply them by its sides"
        )


def candidates_of(seen: Seen, asked: Objective) -> Candidates:
    """The output of a detector.

    Raises:
        TargetError: if it is that of something else.
    """
    if isinstance(seen.output, Candidates):
        _check_candidates(seen.output, seen)
        return seen.output
    raise TargetError(
        f"{asked} is about a detector, whose output is deepviz.objectives.Candidates, and the model returned "
        f"{describe(seen.output)}: load it by its source (such as 'torchvision:retinanet_resnet50_fpn'), or tell how "
        "its output is read by deepviz.detector(module, read)"
    )
