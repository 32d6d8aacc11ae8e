"""What a model predicts for images: the best classes with their probabilities, or numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepviz.inputs import Inputs
from deepviz.objectives import Output, Pixels, bind
from deepviz.objectives.box import Strongest, candidates_of
from deepviz.objectives.candidates import Found
from deepviz.probe.gradient import fresh_leaf
from deepviz.probe.outputs import Kind, Reading, best_classes, class_maps, read_outputs
from deepviz.probe.session import Session, opened
from deepviz.render.text import percent

_TOGETHER = 32
"""Images that are held at once."""


@dataclass(frozen=True)
class Prediction:
    """One prediction for one image.

    Args:
        index: the class, label or number.
        label: its name.
        probability: of the class; None for a number; of a segmenter, the share of the pixels.
        score: the logit, or the number; of a segmenter, the mean logit where the class is predicted.
    """

    index: int
    label: str
    probability: float | None
    score: float

    def __str__(self) -> str:
        return (
            f"{self.label} {self.score:.3g}"
            if self.probability is None
            else f"{self.label} {percent(self.probability)}"
        )


def outputs_of(module: nn.Module, kind: Kind, images: Sequence[Tensor]) -> Iterator[tuple[Tensor, Reading]]:
    """The outputs (1, K) of each image (C, H, W), and how they are read; images of one shape go together.

    Raises:
        ModelError: if the model fails, or returns no outputs (N, K).
    """
    for _, alike in groupby(images, key=lambda image: (image.shape, image.dtype)):
        batch = list(alike)
        for start in range(0, len(batch), _TOGETHER):
            yield from _of_batch(module, kind, torch.stack(batch[start : start + _TOGETHER]))


def regions_of(module: nn.Module, kind: Kind, images: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Of each image (C, H, W) the share of the pixels that each class is predicted for, (K,), and its mean score there.

    Raises:
        ModelError: if the model fails, or returns no maps.
    """

    def compute(part: Session) -> tuple[Tensor, ...]:
        z = class_maps(part.look().output).detach().double()
        there = F.one_hot(best_classes(z), z.shape[1]).movedim(-1, 1).to(z)
        count = there.flatten(2).sum(2)
        return count / there[0, 0].numel(), (z * there).flatten(2).sum(2) / count.clamp_min(1)

    for image in images:
        with opened(module, _at_home(module, image[None]), bind(Pixels(mask=None), 1), kind) as session:
            shares, scores = session.by_rows(compute)
            session.notes.general.clear()
        yield shares[0].cpu(), scores[0].cpu()


def detections_of(module: nn.Module, kind: Kind, images: Sequence[Tensor]) -> Iterator[list[tuple[Found, float]]]:
    """What is detected in each image (C, H, W), best first, with the logit of its class.

    Raises:
        ModelError: if the model fails.
        TargetError: if it returns no candidates.
    """
    for image in images:
        with opened(module, _at_home(module, image[None]), bind(Strongest(), 1), kind) as session, torch.no_grad():
            candidates = candidates_of(session.look(), Strongest())
            session.notes.general.clear()
        logits = candidates.logits[0].double().cpu()
        yield [(one, float(logits[one.candidate, one.label])) for one in candidates.detections()[0]]


def _at_home(module: nn.Module, x: Tensor) -> Inputs:
    """Images on the model's device and in its type."""
    first = next((p for p in module.parameters() if p.is_floating_point()), None)
    return Inputs(x) if first is None else Inputs(x).to(first.device, first.dtype)


def _of_batch(module: nn.Module, kind: Kind, x: Tensor) -> list[tuple[Tensor, Reading]]:
    readings: list[Reading] = []

    def compute(part: Session) -> tuple[Tensor]:
        # a graph tells whether the outputs end in a sigmoid
        seen = replace(part, inputs=part.inputs.map(fresh_leaf)).look()
        outputs = part.call.check(seen.scores())
        readings.append(read_outputs(outputs, seen.kind))
        return (outputs.detach().float(),)

    with opened(module, _at_home(module, x), bind(Output(0), len(x)), kind) as session:
        (outputs,) = session.by_rows(compute)
        session.notes.general.clear()  # what is odd about the model is told with its maps
    return [(one[None].cpu(), readings[0]) for one in outputs]
