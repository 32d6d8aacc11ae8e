"""The first look at the images of a batch: what the model predicts for them, and the values of what is explained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, TypeVar

import torch
from torch import Tensor, nn

from deepviz.errors import ModelError, ModelFailed, TargetError
from deepviz.inputs import Inputs
from deepviz.models import LoadedModel, Prepared
from deepviz.objectives import (
    Bound,
    Box,
    Boxes,
    Detection,
    Function,
    Logit,
    NoRegion,
    NothingDetected,
    Objective,
    Output,
    Pixels,
    Predicted,
    Probability,
    Region,
    Regions,
    Several,
    bind,
)
from deepviz.objectives.box import candidates_of
from deepviz.objectives.candidates import BoxOf, Found
from deepviz.objectives.classes import class_alone
from deepviz.objectives.objective import Sum
from deepviz.objectives.pixels import regions
from deepviz.options import Frozen, Ge
from deepviz.probe.black_box import black_box_of
from deepviz.probe.gradient import fresh_leaf
from deepviz.probe.held import Held
from deepviz.probe.outputs import ENOUGH, WITHOUT_SCORES, Reading, best_classes, class_maps, read_outputs
from deepviz.probe.seen import Seen
from deepviz.probe.session import Session, opened
from deepviz.results.explanation import Detected, ExplainedTarget
from deepviz.runs.asked import Item

T = TypeVar("T")
BEST = 5
BACKGROUND = ("background", "unlabeled", "unlabelled", "void")
"""What data sets call the class of what is nothing; it is explained only if it is asked for."""


@dataclass(frozen=True, eq=False)
class Look:
    """What the model says about the rows of a batch.

    Args:
        loaded: the model.
        objectives: what is explained, for all rows; predicted classes have been chosen.
        values: (N, K), that of each objective.
        outputs: (N, classes), the scores of all classes, or the numbers; None if there are none.
        reading: how the outputs are read; None if there are none.
        chances: (N, classes), the probabilities; None if there are none.
        order: (N, classes), the classes, best first; None if none is predicted.
        found: of a detector, the detections of each row, best first, with boxes in pixels of the input.
        shares: of a segmenter, the classes of each row with their share of the pixels, largest first.
        guessed: that the outputs were taken as those of a segmenter, as a sentence; "" if they were not, or said to be.
    """

    loaded: LoadedModel
    objectives: tuple[Objective, ...]
    values: Tensor
    outputs: Tensor | None
    reading: Reading | None
    chances: Tensor | None
    order: Tensor | None
    found: tuple[tuple[Found, ...], ...] = ()
    shares: tuple[tuple[tuple[int, float], ...], ...] = ()
    guessed: str = ""

    @property
    def assumed(self) -> str:
        """What was guessed of the outputs to choose what is explained, as a sentence; "" if nothing was."""
        return self.guessed if self.reading is None else self.reading.assumed

    @property
    def output(self) -> dict[str, str] | None:
        """What the outputs were read as, and how it was known; None if there are none."""
        if self.reading is not None:
            return self.loaded.output_record(self.reading)
        if not (self.found or self.shares):
            return None
        known = self.guessed or "stated: by output=, or by where the model is from"
        return {"kind": "detections" if self.found else "maps", "known": known}

    @property
    def remarks(self) -> tuple[str, ...]:
        """What is odd about the model as a whole, one sentence each."""
        if self.reading is None:
            return ()
        return tuple(filter(None, [self._labels_remark(self.reading), self._black_box_remark(self.reading)]))

    def _labels_remark(self, reading: Reading) -> str:
        labels = self.loaded.labels
        if labels is None or len(labels) == reading.classes:
            return ""
        return f"{len(labels)} labels for the {reading.classes} classes of {self.loaded.name}: names may be wrong"

    def _black_box_remark(self, reading: Reading) -> str:
        """That outputs may be independent probabilities, which only the graph of a module tells."""
        function = black_box_of(self.loaded.module)
        if function is None or reading.kind != "logits" or not reading.assumed:
            return ""
        if self.outputs is None or self.outputs.numel() < ENOUGH:
            return ""
        if not bool(((self.outputs >= 0) & (self.outputs <= 1)).all()):
            return ""
        return (
            f"all outputs of {function.name} lie between 0 and 1 and are read as logits: if they are the probabilities "
            "of independent labels, state output='multi-label'; of one class, output='probabilities'"
        )

    def predictions(self, row: int) -> tuple[tuple[str, float], ...]:
        """(label, probability) of the best classes, and of those that are compared, best first."""
        return tuple((self.loaded.label(k), chance) for k, chance in self.classes(row))

    def classes(self, row: int) -> tuple[tuple[int, float], ...]:
        """`predictions`, with the index of each class."""
        if self.found:
            return tuple((one.label, one.score) for one in self.found[row][:BEST])
        if self.shares:
            return self.shares[row][:BEST]
        if self.chances is None or self.order is None:
            return ()
        chances = self.chances[row]
        best = self.order[row, :BEST].tolist()  # of equal probabilities the same class first as is explained
        sums = [one for objective in self.objectives if isinstance(one := of_row(objective, row), Sum)]
        parts = [class_alone(part) for one in sums for part in one.parts()]
        compared = [k for k in dict.fromkeys(parts) if k is not None and k not in best][: BEST - 1]
        kept = sorted([*best[: BEST - len(compared)], *compared], key=lambda k: -float(chances[k]))
        return tuple((k, float(chances[k])) for k in kept)

    def detections(self, row: int, image: Prepared) -> tuple[Detected, ...]:
        """What a detector found in one row, with boxes in pixels of the image."""
        if not self.found:
            return ()
        return tuple(
            Detected(self.loaded.label(one.label), one.score, _on_image(one.box, image)) for one in self.found[row]
        )

    def target(self, row: int, k: int) -> ExplainedTarget:
        """What is explained of one row, with its value."""
        objective, value = of_row(self.objectives[k], row), float(self.values[row, k])
        if isinstance(objective, Function):
            return ExplainedTarget(None, objective.name, None, value, objective.function, objective)
        index = class_alone(objective)
        if index is not None:
            chance = None if self.chances is None else float(self.chances[row, index])
            return ExplainedTarget(index, self._label(index), chance, value, None, objective)
        if isinstance(objective, Output) and objective.path == (0,) and self.reading and self.reading.outputs == 1:
            return ExplainedTarget(0, self._label(0), None, value, None, objective)
        if isinstance(objective, Detection):
            box = torch.as_tensor(objective.box).reshape(-1).tolist()
            same = [one.score for one in self.found[row] if (one.label, list(one.box)) == (objective.label, box)]
            return ExplainedTarget(None, objective.caption(self._label), next(iter(same), None), value, None, objective)
        chance = value if isinstance(objective, Probability) else None
        return ExplainedTarget(None, objective.caption(self._label), chance, value, None, objective)

    def _label(self, index: int) -> str:
        if self.reading is None or self.reading.has_probabilities or self.loaded.labels is not None:
            return self.loaded.label(index)
        return "output" if self.reading.outputs == 1 else f"output {index}"


def placed(target: ExplainedTarget, image: Prepared) -> ExplainedTarget:
    """The target with its box in pixels of the image, if it is a detection or a part of a map of numbers."""
    if isinstance(target.objective, Detection):
        return replace(target, box=_on_image(_corners(target.objective.box), image))
    if isinstance(target.objective, Output) and isinstance(target.objective.at, Tensor) and image.space is None:
        box = _on_image(_corners(target.objective.at), image)
        width, height = box[2] - box[0], box[3] - box[1]
        # of a point it is the one pixel
        at = box[:2] if abs(width - 1) < 1e-6 > abs(height - 1) else box
        return replace(target, box=box, label=f"{target.label} at ({', '.join(f'{round(one, 1):g}' for one in at)})")
    return target


def _corners(box: tuple[float, ...] | Tensor) -> BoxOf:
    left, top, right, bottom = torch.as_tensor(box).reshape(-1).tolist()
    return left, top, right, bottom


def _on_image(box: BoxOf, image: Prepared) -> BoxOf:
    """A box of the input in pixels of the image, cut to it: what was filled up is no part of it."""
    left, top, right, bottom = image.geometry.on_image(box, (image.x.shape[-1], image.x.shape[-2]))
    width, height = image.geometry.size
    return min(max(left, 0), width), min(max(top, 0), height), min(max(right, 0), width), min(max(bottom, 0), height)


def looked(
    loaded: LoadedModel,
    inputs: Inputs,
    targets: tuple[Objective, ...] | None,
    top_k: int = 1,
    held: Held | None = None,
) -> Look:
    """What the model says about rows: one forward pass of each.

    Args:
        loaded: the model.
        inputs: the rows.
        targets: what is explained; None: the predicted classes, so many of them as `top_k`.
        top_k: of the predicted classes.
        held: keeps the pass, if all rows go through the model together.

    Raises:
        ModelError: if the model fails, or returns no scores and they are needed.
        TargetError: for a target that the model does not have, where nothing is predicted, for a `top_k` below 1, or
            one beside a target.
        TypeError: for a `top_k` that is no whole number.
    """
    check_top_k(top_k, targets)
    try:
        return _looked(loaded, inputs, targets, top_k, held)
    except ModelFailed:
        raise
    except ModelError as error:
        if loaded.kind not in ("auto", "two labels"):
            raise
        try:
            found = _looked(replace(loaded, output="maps"), inputs, targets, top_k, held)
        except ModelError:
            raise error from None
    assumed = (
        "assumed: class scores at each place, of a segmenter; output='maps' states it, objectives.Output explains one"
    )
    return replace(found, loaded=loaded, guessed=assumed)


def _looked(
    loaded: LoadedModel, inputs: Inputs, targets: tuple[Objective, ...] | None, top_k: int, held: Held | None
) -> Look:
    if targets is None:
        targets = default_objectives(loaded, top_k) or None
    if targets is None:
        asked: tuple[Objective, ...] = (Predicted(),)
    else:
        meant = tuple(one.replaced(lambda part: _for_task(part, loaded)) for one in targets)
        asked = tuple(one.replaced(lambda part: part.embedded(loaded)) for one in _each(loaded, inputs, meant))
    bound = bind(list(asked), inputs.n)
    readings: list[Reading] = []
    without = loaded.kind in WITHOUT_SCORES
    needed = not (without or all(isinstance(one, (Function, Output)) for one in asked))
    found: list[tuple[Found, ...]] = []
    shares: list[tuple[tuple[int, float], ...]] = []
    try:
        with opened(loaded.module, inputs, bound, loaded.kind) as session:
            if loaded.kind == "detections":
                found = _alone(session, lambda seen: tuple(candidates_of(seen, Box()).detections()[0]))
            if loaded.kind == "maps":
                shares = _alone(session, _shares)
            values, *outputs = session.by_rows(
                lambda part: _both(
                    part, readings, needed, partial(_keep, held, session) if part.n == inputs.n else None
                )
            )
            session.notes.general.clear()  # what is odd is told with the maps
    except (NothingDetected, NoRegion) as error:
        raise error.named(loaded.label) from None
    except ModelFailed as error:
        hint = _hint(loaded.module) if any(leaf.ndim == 4 for leaf in inputs.leaves) else ""
        if hint:
            raise ModelFailed(f"{error}; {hint}") from error
        raise
    asked = bound.settled()
    if not outputs:
        return Look(loaded, asked, values.cpu(), None, None, None, None, tuple(found), tuple(shares))
    (scores,), reading = outputs, readings[0]
    scores = scores.cpu()
    order = _order(reading, scores)
    chances = reading.probabilities(scores)
    if targets is None:
        asked = _best(reading, order, top_k)
        assert order is not None
        values = reading.scores(scores).gather(1, order[:, : len(asked)])
    else:
        asked = tuple(_chosen(one, reading, order) for one in asked)
    return Look(loaded, asked, values.cpu(), scores, reading, chances, order)


def _background(loaded: LoadedModel) -> tuple[int, ...]:
    """The classes that are nothing in particular."""
    return tuple(k for k, label in enumerate(loaded.labels or ()) if label.strip("_ ").lower() in BACKGROUND)


def _for_task(objective: Objective, loaded: LoadedModel) -> Objective:
    """A class, where there are no scores of classes, as what is found of it in the image."""
    if loaded.kind not in WITHOUT_SCORES:
        return objective
    maps = loaded.kind == "maps"
    if isinstance(objective, Predicted):
        return Pixels(index=objective.rank, without=_background(loaded)) if maps else Box(index=objective.rank)
    if isinstance(objective, Logit) and isinstance(objective.target, int):
        return Pixels(objective.target) if maps else Box(objective.target)
    return objective


def _each(loaded: LoadedModel, inputs: Inputs, targets: tuple[Objective, ...]) -> tuple[Objective, ...]:
    """The targets, with those that stand for several of the one image replaced by these.

    Raises:
        TargetError: for several images, which have unlike numbers of them.
    """
    if not any(isinstance(one, Several) for one in targets):
        return targets
    if inputs.n > 1:
        raise TargetError(f"{targets[0]} is explained image by image: give one image, or use deepviz.explain")
    try:
        with opened(loaded.module, inputs, bind(Output(0), 1), loaded.kind, check=False) as session, torch.no_grad():
            seen = session.look()
            return tuple(one for each in targets for one in (each.each(seen) if isinstance(each, Several) else (each,)))
    except (NothingDetected, NoRegion) as error:
        raise error.named(loaded.label) from None


def default_objectives(loaded: LoadedModel, top_k: int) -> tuple[Objective, ...]:
    """What is explained of a model that predicts no class, if nothing else is asked: a detector's best detections, the
    largest regions of a segmenter."""
    if loaded.kind == "detections":
        return (Box() if top_k == 1 else Boxes(most=top_k),)
    if loaded.kind != "maps":
        return ()
    return (Pixels(without=_background(loaded)) if top_k == 1 else Regions(top_k, _background(loaded)),)


def _alone(session: Session, read: Callable[[Seen], T]) -> list[T]:
    """What is read of each row, from a pass of its own."""
    with torch.no_grad():
        return [read(session.take(slice(row, row + 1)).look()) for row in range(session.n)]


def _shares(seen: Seen) -> tuple[tuple[int, float], ...]:
    z = class_maps(seen.output)
    return tuple(regions(best_classes(z)[0], z.shape[1]))


@dataclass(frozen=True)
class _Best(Frozen):
    top_k: Annotated[int, Ge(1), "Number of predicted classes to explain."] = 1


def check_top_k(top_k: int, targets: tuple[Objective, ...] | None) -> None:
    """Refuse a number of predicted classes that is none, or that goes with a target.

    Raises:
        TargetError: for no number from 1 up, or beside a target.
        TypeError: for no whole number.
    """
    try:
        asked = _Best(top_k).top_k
    except ValueError as error:
        raise TargetError(str(error)) from None
    if asked != 1 and targets is not None:
        raise TargetError(f"top_k={top_k} is for the predicted classes, and a target is given: leave out one of them")


def _hint(module: nn.Module) -> str:
    """How to give what the model takes, if that is no image; "" for a model of images, or a function."""
    if black_box_of(module) is not None:
        return ""
    modules = list(module.modules())
    if any(isinstance(one, nn.Conv3d) for one in modules):
        return "it takes volumes: one volume (C, D, H, W) is given with a batch axis in front, x[None]"
    if any(isinstance(one, nn.Conv2d) for one in modules):
        return ""
    signals = "N signals (N, C, L) are given as deepviz.Inputs(x), one as (C, L)"
    if any(isinstance(one, nn.Conv1d) for one in modules):
        return f"it takes signals: {signals}"
    return f"a tensor with three axes is one image (C, H, W); {signals}"


def _keep(held: Held | None, session: Session, seen: Seen) -> None:
    """Keep a pass of all rows of a session."""
    if held is not None:
        held.put(session.model, session.state, session.inputs, session.kind, seen)


def _both(
    session: Session, readings: list[Reading], needed: bool, keep: Callable[[Seen], None] | None
) -> tuple[Tensor, ...]:
    """What is explained, (n, K), and the scores of all classes, (n, classes), of one chunk; `keep` takes its pass."""
    seen = replace(session, inputs=session.inputs.map(fresh_leaf)).look()
    if keep is not None:
        keep(seen)
    bound: Bound = session.score
    try:
        if seen.kind in WITHOUT_SCORES:
            return (session.read(seen).detach(),)
        outputs = session.call.check(seen.scores())
    except ModelFailed:
        raise
    except ModelError:
        if needed:
            raise
        return (session.read(seen).detach(),)
    if not readings:
        readings.append(read_outputs(outputs, seen.kind))
    values = session.read(seen)
    if bound.reading is not None:
        readings[0] = bound.reading
    return values.detach(), outputs.detach().float()


def _order(reading: Reading, outputs: Tensor) -> Tensor | None:
    try:
        return reading.order(outputs)
    except TargetError:
        return None


def _best(reading: Reading, order: Tensor | None, top_k: int) -> tuple[Objective, ...]:
    """The predicted classes, best first, or the one number."""
    assert order is not None  # else the look has failed
    if reading.kind == "regression":
        return (Output(0),)
    return tuple(Logit(order[:, rank]) for rank in range(min(top_k, reading.classes)))


def _chosen(objective: Objective, reading: Reading, order: Tensor | None) -> Objective:
    """The objective with the predicted classes that it is about."""

    def of_part(part: Objective) -> Objective:
        if not isinstance(part, Predicted) or order is None:
            return part
        return Output(0) if reading.kind == "regression" else Logit(order[:, part.rank])

    return objective.replaced(of_part)


def of_row(objective: Objective, row: int) -> Objective:
    """The objective of one row: a class for each row is that row's class."""

    def of_part(part: Objective) -> Objective:
        if part.rows is None:
            return part
        return part.take(torch.tensor([row])).alone()

    return objective.replaced(of_part)


def asked_of(target: ExplainedTarget) -> Objective:
    """The objective of a target, to be explained again."""
    if target.objective is not None:
        return target.objective
    return Function(target.function, target.label) if target.index is None else Logit(target.index)


def inputs_of(loaded: LoadedModel, items: Sequence[Item]) -> Inputs:
    """What the model takes of items that go together, on the model's device and in its type."""
    first = items[0]
    rows = torch.tensor([item.input_row for item in items])
    if first.leaves:
        assert first.inputs is not None
        return loaded.at_home(first.inputs.rows(rows))
    x = torch.stack([item.image.x for item in items])
    return loaded.at_home(Inputs(x, None if first.inputs is None else first.inputs.rows(rows).extra))


def objectives_of(items: Sequence[Item]) -> tuple[Objective, ...] | None:
    """What is explained of items that go together."""
    if items[0].targets is None:
        return None
    rows = torch.tensor([item.row for item in items])
    places = [(item.image.geometry, (item.image.x.shape[-1], item.image.x.shape[-2])) for item in items]
    return tuple(
        (one if one.rows is None else one.take(rows)).replaced(lambda part: part.on_input(places))
        for one in items[0].targets
    )


def predicted(loaded: LoadedModel, image: Prepared, top_k: int) -> list[ExplainedTarget]:
    """The best classes of one image, best first: those that `explain` would take with this `top_k`; of a detector or a
    segmenter as many as there are detections or regions.

    Raises:
        ModelError: if the model returns no class scores, or fails.
        TargetError: if its outputs predict nothing.
    """
    look = looked(loaded, inputs_of(loaded, [Item(image)]), None, top_k)
    return [placed(look.target(0, k), image) for k in range(len(look.objectives))]


def written(target: ExplainedTarget) -> str:
    """What a target is, as an expression that can be read again; of the predicted region of a class that class."""
    if isinstance(target.objective, Region):
        return str(Pixels(int(target.objective.label)))
    return str(target.objective)
