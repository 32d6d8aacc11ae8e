"""The values of objectives for a batch of views, from one forward pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepviz.errors import LayerError, TargetError
from deepviz.inputs import Inputs
from deepviz.models import LoadedModel, Preprocess
from deepviz.objectives.bound import bind, objectives_of
from deepviz.objectives.classes import Logit, OfClass, Predicted, class_alone
from deepviz.objectives.objective import Objective, Sum
from deepviz.probe.call import Call
from deepviz.probe.capture import layer_name
from deepviz.probe.endings import Endings
from deepviz.probe.gradient import differentiate
from deepviz.probe.seen import Seen
from deepviz.probe.session import Session
from deepviz.synthesis.natural_images import in_deviations

Prediction = tuple[int, float] | None
"""A predicted class with its probability; None where nothing is predicted, or the image is drawn for no class alone."""


@dataclass(frozen=True, eq=False)
class Scored:
    """What a network says about images.

    Args:
        values: the objectives (n,), differentiable.
        chances: the probabilities of their classes (n,), NaN without a class.
        objectives: one for each image.
        seen: what one forward pass showed, as objectives about classes read it.
    """

    values: Tensor
    chances: Tensor
    objectives: Sequence[Objective]
    seen: Seen

    @property
    def classes(self) -> list[int | None]:
        """The class of each image that is drawn for a class alone, penalties or not."""
        parts = [[part for part in one.parts() if isinstance(part, (OfClass, Predicted))] for one in self.objectives]
        return [class_of(one) if len(of) == 1 else None for one, of in zip(self.objectives, parts, strict=True)]

    def predictions(self) -> list[Prediction]:
        """What the model predicts for each image that is drawn for a class alone. Of independent labels, the drawn one
        if it is more likely than not."""
        reading = self.seen.read() if any(index is not None for index in self.classes) else None
        chances = None if reading is None else reading.probabilities(self.seen.scores().detach())
        if reading is None or chances is None:
            return [None] * len(self.objectives)
        best = reading.order(self.seen.scores().detach())[:, 0].tolist()
        found: list[Prediction] = []
        for row, index in enumerate(self.classes):
            if index is not None and reading.kind == "multi-label" and float(chances[row, index]) > 0.5:
                best[row] = index
            found.append(None if index is None else (best[row], float(chances[row, best[row]])))
        return found

    def without_slope(self, pixels: Tensor) -> list[bool]:
        """For each image that is drawn for a class alone whether the class's score does not depend on `pixels`."""
        rows = [row for row, index in enumerate(self.classes) if index is not None]
        if not rows:
            return [False] * len(self.objectives)
        scores = self.seen.read().scores(self.seen.scores())
        total = sum(scores[row, self.classes[row]] for row in rows)
        assert isinstance(total, Tensor)
        slope = differentiate(total, [pixels])[0] if total.requires_grad else None
        flat = [slope is None or not bool(slope[row].any()) for row in range(len(self.objectives))]
        return [row in rows and flat[row] for row in range(len(self.objectives))]


def evaluate_objectives(
    call: Call,
    loaded: LoadedModel,
    objectives: Sequence[Objective],
    view: Tensor,
    pixels: Tensor,
    along: Inputs | None = None,
) -> Scored:
    """The objectives of images, and the probabilities of their classes.

    Args:
        call: the borrowed model.
        loaded: what is known about it: how pixels become its input.
        objectives: one for each image.
        view: what the network sees, pixels (n, C, h, w), resampled to its size.
        pixels: the images themselves, (n, C, H, W), for objectives about those.
        along: what goes along with each image, if the model takes more than that; its own `x` is not used.
    """
    seen, of_classes = look_at(call, loaded, objectives, view, pixels, along)
    parts = list(runs(objectives))
    alone = len(parts) == 1
    values = []
    for objective, rows in parts:
        found = of_classes if is_about_classes(objective) else seen
        values.append(objective(found if alone else found.rows(rows)))
    return Scored(torch.cat(values), _chances(of_classes, objectives), objectives, of_classes)


def look_at(
    call: Call,
    loaded: LoadedModel,
    objectives: Sequence[Objective],
    view: Tensor,
    pixels: Tensor,
    along: Inputs | None = None,
) -> tuple[Seen, Seen]:
    """What one forward pass shows, and the same for objectives about classes: with the logits as class scores, where
    the model returns their probabilities. Arguments as for `evaluate_objectives`."""
    preprocess = loaded.preprocess
    assert isinstance(preprocess, Preprocess)
    if tuple(view.shape[2:]) != preprocess.input_size:
        view = F.interpolate(view, preprocess.input_size, mode="bilinear", antialias=True)
    x = preprocess.normalise(view).to(loaded.home[1])
    inputs = (Inputs(torch.zeros(len(x), 1)) if along is None else along).put((x,))
    classes = any(map(is_about_classes, objectives))
    with Endings() if classes else nullcontext() as endings:
        seen = look_with_layers(call, loaded, list(objectives), inputs)
    seen = replace(seen, x=(in_deviations(pixels),))
    if endings is None:
        return seen, seen
    reading = seen.read()  # once, from all rows
    seen = replace(seen, reading=reading)
    call.notes.facts.setdefault("output", loaded.output_record(reading))
    of_classes, reading, done = endings.logits(seen, reading)
    if done:
        call.notes.facts["score"] = done
    return seen, replace(of_classes, reading=reading)


def is_about_classes(objective: Objective) -> bool:
    """Whether a class has a part in an objective."""
    return any(isinstance(part, (OfClass, Predicted)) for part in objective.parts())


def look_with_layers(call: Call, loaded: LoadedModel, objectives: Sequence[Objective], inputs: Inputs) -> Seen:
    """What one forward pass shows, with the layers that the objectives read, as maps on their grids."""
    session = Session(call, inputs, bind(objectives, inputs.n), loaded.kind)
    session.find_grids()
    return session.in_layout(lambda laid: laid.look())


def along_of(loaded: LoadedModel, extra: Any, n: int) -> Inputs | None:
    """What goes along with n images, on the model's device; its own `x` is not used.

    Raises:
        TypeError, ValueError: if it does not go with n images.
    """
    return None if extra is None else Inputs(torch.zeros(n, 1), extra).to(*loaded.home)


def runs(objectives: Sequence[Objective], apart: bool = True) -> Iterator[tuple[Objective, slice]]:
    """Neighbouring images with equal objectives; with `apart` False, all that are not joint are alike."""
    start = 0
    for _, run in groupby(objectives, key=lambda one: one if apart or one.joint else None):
        members = list(run)
        yield members[0], slice(start, start + len(members))
        start += len(members)


def objective_of(given: Any, labels: Sequence[str] | None) -> Objective:
    """The objective of one image, with the indices of classes instead of their labels.

    Args:
        given: an index, a label, an expression such as "fox - wolf", an objective, or a callable.
        labels: the classes' names, if they are known.

    Raises:
        TargetError: if it is none of these, or names a class that the model does not have.
    """
    found, several = objectives_of(given, 1, labels)
    if several:
        raise TargetError(f"one image has one objective, got {given!r}: write a sum, such as 'fox - wolf'")
    (objective,) = found
    if objective.rows is not None:
        raise TargetError(f"{objective} holds a value for each of several rows: give an objective for each image")
    for part in objective.parts():
        index = part.target if isinstance(part, OfClass) else None
        if labels is not None and isinstance(index, int) and index >= len(labels):
            raise TargetError(
                f"class {index} is out of range: the model has {len(labels)} classes, 0 to {len(labels) - 1}"
            )
    return objective


def objective_alone(given: Any, labels: Sequence[str] | None) -> Objective:
    """As `objective_of`, for what must be an objective, a text or a callable, and no index.

    Raises:
        TypeError: for anything else.
    """
    if not isinstance(given, str) and (isinstance(given, type) or not callable(given)):
        check_kind(given, Objective, "an objective")
    return objective_of(given, labels)


def target_of(given: Any, labels: Sequence[str] | None) -> int | Objective:
    """As `objective_of`; of a class alone, its index."""
    objective = objective_of(given, labels)
    index = class_alone(objective)
    return objective if index is None else index


def check_kind(value: Any, kind: type, expected: str) -> None:
    """Refuse what is no such value, a class above all.

    Raises:
        TypeError: with what may have been meant.
    """
    if not isinstance(value, kind):
        hint = f"; did you mean {value.__name__}()?" if isinstance(value, type) else ""
        raise TypeError(f"expected {expected}, got {value!r}{hint}")


def check_layers(module: nn.Module, objectives: Iterable[Objective]) -> None:
    """Refuse objectives of layers that the model does not have.

    Raises:
        LayerError: with the nearest names, or the name to give instead of a module.
    """
    for layer in {layer for objective in objectives for layer in objective.layers}:
        name = layer_name(module, layer)
        if name != layer:
            raise LayerError(f"an objective takes a layer's name: {name!r} instead of the module")


def class_of(objective: Objective) -> int | None:
    """The class that an objective is about: that of its only logit."""
    terms = objective.terms if isinstance(objective, Sum) else ((1.0, objective),)
    classes = {term.target for weight, term in terms if isinstance(term, Logit) and weight > 0}
    found = classes.pop() if len(classes) == 1 else None
    return found if isinstance(found, int) else None


def title_of(objective: Objective, label: Callable[[int], str]) -> str:
    """What an image was drawn for: a class by its name, penalties or not; else the objective in words."""
    index = class_of(objective)
    classes = [part for part in objective.parts() if isinstance(part, (OfClass, Predicted))]
    return objective.caption(label) if index is None or len(classes) > 1 else label(index)


def _chances(seen: Seen, objectives: Sequence[Objective]) -> Tensor:
    classes = [class_of(objective) for objective in objectives]
    chances = torch.full((len(objectives),), math.nan, dtype=torch.float64)
    known = [row for row, index in enumerate(classes) if index is not None]
    of_classes = seen.read().probabilities(seen.scores()) if known else None
    if of_classes is not None:
        of_classes = of_classes.detach().double().cpu()
        for row in known:
            chances[row] = of_classes[row, classes[row]]
    return chances
