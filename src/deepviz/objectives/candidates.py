"""`Candidates`: what a detector finds, before boxes that overlap are left out, in one form for all detectors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from deepviz.errors import ModelError
from deepviz.probe.seen import ByRows

MOST = 300
"""Detections of one image, at most."""
BoxOf = tuple[float, float, float, float]
"""(left, top, right, bottom) in pixels."""


class Found(NamedTuple):
    """One detection of an image."""

    label: int
    score: float
    box: BoxOf
    candidate: int


@dataclass(frozen=True, eq=False)
class Candidates(ByRows):
    """All boxes that a detector considers in n images, before those that overlap are left out.

    A detector of your own is explained if its output is this: give `load_model` a module that returns it, or
    `detector(module, read)` with a function that makes it of the output.

    Args:
        boxes: (n, A, 4), left, top, right, bottom in pixels of the model's input; or (n, A, K, 4) where each class has
            a box of its own.
        logits: (n, A, K), the numbers of which the scores of the K classes are made, with their graph; they are what is
            explained.
        scores: (n, A, K), from 0 to 1, by which detections are ranked and left out; 0 for what only fills up a row
            that has fewer candidates than others.
        threshold: detections with a lower score are left out.
        overlap: of two boxes of one class that overlap more (intersection over union), the one with the lower score is
            left out; None: none is.

    Raises:
        ModelError: for other shapes.

    Example:
        Two candidates on one object, and one on another:

        >>> boxes = torch.tensor([[[0, 0, 10, 10], [1, 0, 11, 10], [20, 0, 30, 10.0]]])
        >>> scores = torch.tensor([[[0.9], [0.8], [0.7]]])
        >>> found, = Candidates(boxes, scores.logit(), scores).detections()
        >>> [(one.label, round(one.score, 2), one.box) for one in found]
        [(0, 0.9, (0.0, 0.0, 10.0, 10.0)), (0, 0.7, (20.0, 0.0, 30.0, 10.0))]
    """

    boxes: Tensor
    logits: Tensor
    scores: Tensor
    threshold: float = 0.5
    overlap: float | None = 0.5

    def __post_init__(self) -> None:
        boxes, logits, scores = (tuple(one.shape) for one in (self.boxes, self.logits, self.scores))
        if len(logits) != 3 or scores != logits or boxes not in ((*logits[:2], 4), (*logits, 4)):
            raise ModelError(
                "candidates must be boxes (n, A, 4) or (n, A, K, 4) with logits (n, A, K) and scores (n, A, K), "
                f"got {boxes}, {logits} and {scores}"
            )

    @property
    def classes(self) -> int:
        """K."""
        return self.logits.shape[2]

    def boxes_of(self, labels: Tensor) -> Tensor:
        """The boxes (n, A, 4) of a class for each row, (n,)."""
        if self.boxes.ndim == 3:
            return self.boxes
        n, many = self.boxes.shape[:2]
        return self.boxes.gather(2, labels.view(n, 1, 1, 1).expand(n, many, 1, 4))[:, :, 0]

    def take(self, rows: slice | Tensor) -> Candidates:
        """Those of some of the rows."""
        return replace(self, boxes=self.boxes[rows], logits=self.logits[rows], scores=self.scores[rows])

    def apart(self) -> list[Tensor]:
        """Logits of the first and last candidates, and of the smallest and the largest box: of different levels of a
        pyramid, if there is one."""
        real = (self.scores[0].detach().amax(1) > 0).nonzero()[:, 0]  # the others only fill up the row
        if not len(real):
            return []
        areas = _area(self.boxes[0, real].detach())
        sizes = areas if areas.ndim == 1 else areas.mean(1)
        chosen = (real[0], real[-1], real[sizes.argmin()], real[sizes.argmax()])
        return [self.logits[0, one].sum() for one in dict.fromkeys(map(int, chosen))]

    def detections(self, threshold: float | None = None) -> list[list[Found]]:
        """What is detected in each image, best first: what exceeds the threshold and is not left out for overlap."""
        least = self.threshold if threshold is None else threshold
        rows = zip(self.boxes.detach(), self.scores.detach(), strict=True)
        return [self._detected(boxes, scores, least) for boxes, scores in rows]

    def _detected(self, boxes: Tensor, scores: Tensor, threshold: float) -> list[Found]:
        where, labels = (scores >= max(threshold, 1e-9)).nonzero().unbind(1)
        places = boxes[where] if boxes.ndim == 2 else boxes[where, labels]
        # what is left is little: the rest of it on the CPU
        values, places, where, labels = (
            scores[where, labels].double().cpu(),
            places.double().cpu(),
            where.cpu(),
            labels.cpu(),
        )
        order = values.argsort(descending=True, stable=True)
        kept: list[int] = []
        for one in order.tolist():
            if len(kept) == MOST:
                break
            others = [other for other in kept if labels[other] == labels[one]]
            if self.overlap is None or not others or float(overlap(places[one], places[others]).max()) <= self.overlap:
                kept.append(one)
        return [Found(int(labels[one]), float(values[one]), _plain(places[one]), int(where[one])) for one in kept]


def overlap(box: Tensor, boxes: Tensor) -> Tensor:
    """Intersection over union of a box (..., 4) with others (..., 4); 0 where both have no area.

    Example:
        >>> overlap(torch.tensor([0.0, 0, 10, 10]), torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10]]))
        tensor([1.0000, 0.3333])
    """
    sides = torch.minimum(box[..., 2:], boxes[..., 2:]) - torch.maximum(box[..., :2], boxes[..., :2])
    inside = sides.clamp_min(0).prod(-1)
    both = _area(box) + _area(boxes) - inside
    return inside / both.clamp_min(torch.finfo(both.dtype).tiny)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).clamp_min(0).prod(-1)


def _plain(box: Tensor) -> BoxOf:
    left, top, right, bottom = box.tolist()
    return left, top, right, bottom
