"""Objectives about classes: a score, the score of the predicted class, a probability."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
from torch import Tensor

from deepviz.errors import ModelError, TargetError
from deepviz.names import find_label
from deepviz.objectives.objective import Objective, Rows, literal, written
from deepviz.probe.outputs import Reading, describe
from deepviz.probe.seen import Seen

Class = int | str | Tensor
"""A class: its index; its label, where labels are known; or (N,) indices, one for each row."""


@dataclass(frozen=True, eq=False)
class OfClass(Objective):
    """An objective about one class, given by the caller."""

    target: Annotated[Class, "The class: its index, its label, or (N,) indices, one for each row."]

    def __post_init__(self) -> None:
        object.__setattr__(self, "target", checked_class(self.target))

    @property
    def rows(self) -> int | None:
        """Where there is a class for each row, how many."""
        return len(self.target) if isinstance(self.target, Tensor) else None

    def take(self, rows: Rows) -> Objective:
        """With the classes of those rows."""
        return replace(self, target=self.target[_on_cpu(rows)]) if isinstance(self.target, Tensor) else self

    def alone(self) -> Objective:
        """With the class of the one row."""
        return replace(self, target=int(self.target)) if isinstance(self.target, Tensor) else self

    def resolved(self, labels: Sequence[str] | None) -> Objective:
        """With the index of the class instead of its label.

        Raises:
            TargetError: if no class, or more than one, has that label.
        """
        return replace(self, target=index_of(self.target, labels)) if isinstance(self.target, str) else self

    def indices(self, reading: Reading, n: int) -> Tensor:
        """The class of each row, (n,), checked against what the model has."""
        if isinstance(self.target, str):
            raise TargetError(f"{self} names a class by its label: give its index, or explain a model that has labels")
        if isinstance(self.target, Tensor):
            if len(self.target) != n:
                raise TargetError(f"{len(self.target)} classes for {n} rows: give one for each")
            for extreme in self.target.aminmax():
                reading.check_asked(int(extreme))
            return self.target
        reading.check_asked(self.target)
        return torch.full((n,), self.target)

    def class_caption(self, label: Callable[[int], str] | None) -> str:
        """The class in words."""
        if isinstance(self.target, str):
            return self.target
        if isinstance(self.target, Tensor) or label is None:
            return literal(self.target)
        return label(self.target)


@dataclass(frozen=True, eq=False)
class Labelled(Objective):
    """An objective with a field `label`, a class by index or label, or None for any."""

    label: int | str | None

    def resolved(self, labels: Sequence[str] | None) -> Objective:
        """With the index of the class instead of its label.

        Raises:
            TargetError: if no class, or more than one, has that label.
        """
        return replace(self, label=index_of(self.label, labels)) if isinstance(self.label, str) else self


@dataclass(frozen=True, eq=False)
class Logit(OfClass):
    """S_c, the score of a class before the softmax (Simonyan et al. 2013).

    Of one logit z for two classes, z and -z; of several numbers or an embedding, the number at that place; where the
    model returns probabilities, the probability.

    Example:
        >>> Logit(281) - Logit(282)     # why this class and not that
        Sum(terms=((1.0, Logit(target=281)), (-1.0, Logit(target=282))))
    """

    def __call__(self, seen: Seen) -> Tensor:
        """S_c."""
        outputs, reading = outputs_of(seen)
        return pick(reading.scores(outputs), self.indices(reading, seen.n))

    def caption(self, label: Callable[[int], str] | None = None) -> str:
        """The class's name alone: captions name the logit by its class."""
        return str(self) if label is None and not isinstance(self.target, str) else self.class_caption(label)

    def __str__(self) -> str:
        # a label is its own expression, in quotes
        return f"label({literal(self.target)})" if isinstance(self.target, str) else written(self)


@dataclass(frozen=True, eq=False)
class Probability(OfClass):
    """The probability of a class: softmax, or sigmoid where labels are independent or there are two classes.

    Pitfall: the softmax mixes all classes, so evidence against others looks like evidence for this one; and where the
    model is sure, its gradient vanishes. `Logit` has neither.
    """

    def __call__(self, seen: Seen) -> Tensor:
        """P_c.

        Raises:
            TargetError: if the output is a number or an embedding.
        """
        outputs, reading = outputs_of(seen)
        chances = reading.probabilities(outputs)
        if chances is None:
            raise TargetError(
                f"the output is read as {reading.kind}, which has no probability: explain deepviz.objectives.Output, "
                "or state output='binary', 'multi-label' or 'logits'"
            )
        return pick(chances, self.indices(reading, seen.n))

    def caption(self, label: Callable[[int], str] | None = None) -> str:
        """The class, with the word probability."""
        return f"probability of {self.class_caption(label)}"


@dataclass(frozen=True, eq=False)
class Predicted(Objective):
    """The score of the predicted class, chosen once for each row, on the image as it is; of a number, the number.

    An explanation keeps that class on all its changed copies of the image. Only a caller without a choice of its own
    (a single look) takes the class that is predicted there.
    """

    rank: Annotated[int, "0: the best prediction, 1: the one after it, and so on."] = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "rank", _index(self.rank, "a rank"))

    def __call__(self, seen: Seen) -> Tensor:
        """max_c S_c, or that of a later rank."""
        outputs, reading = outputs_of(seen)
        return pick(reading.scores(outputs), reading.predicted(outputs.detach(), self.rank))

    def caption(self, label: Callable[[int], str] | None = None) -> str:
        """In words."""
        return "the predicted class" if self.rank == 0 else f"the prediction of rank {self.rank}"


@dataclass(frozen=True, eq=False)
class Chosen(Objective):
    """What `Predicted` becomes once its classes are chosen: the score of one class for each row."""

    classes: Tensor

    @property
    def rows(self) -> int | None:
        """All."""
        return len(self.classes)

    def take(self, rows: Rows) -> Objective:
        """Those of the rows."""
        return Chosen(self.classes[_on_cpu(rows)])

    def __call__(self, seen: Seen) -> Tensor:
        """S_c."""
        outputs, reading = outputs_of(seen)
        return pick(reading.scores(outputs), self.classes)


def index_of(label: str, labels: Sequence[str] | None) -> int:
    """The index of the class with this label.

    Raises:
        TargetError: if no class, or more than one, has it, or there are no labels.
    """
    if labels is None:
        raise TargetError(f"the model has no labels: give a class index instead of {label!r}, or labels=")
    return find_label(label, labels)


def class_name(label: int | str, known: Callable[[int], str] | None) -> str:
    """What a class is called, by a function that knows the names, if there is one."""
    if isinstance(label, str):
        return label
    return f"class {label}" if known is None else known(label)


def class_alone(objective: Objective) -> int | None:
    """The index of the class whose score an objective is; None if it is anything else.

    Example:
        >>> class_alone(Logit(3)), class_alone(Logit(3) - Logit(4)), class_alone(Probability(3))
        (3, None, None)
    """
    found = objective.target if isinstance(objective, Logit) else None
    return found if isinstance(found, int) else None


def outputs_of(seen: Seen) -> tuple[Tensor, Reading]:
    """The outputs (n, K), one row for each that went in, and how they are read.

    Raises:
        ModelError: if there are more or fewer.
    """
    outputs = seen.scores()
    if len(outputs) != seen.n:
        raise ModelError(
            f"the model returned scores for {len(outputs)} rows, {seen.n} went in: {describe(seen.output)}"
        )
    return outputs, seen.read()


def pick(scores: Tensor, classes: Tensor) -> Tensor:
    """From (n, K), for each row its class's, (n,), or (n, J) for (n, J) classes."""
    columns = classes.to(scores.device).reshape(len(scores), -1)
    return scores.gather(1, columns).reshape(classes.shape)


def checked_class(target: Any) -> Class:
    """A class as it is kept: an int, a label, or a tensor of indices on the CPU.

    Raises:
        TargetError: for anything else.
    """
    if isinstance(target, str):
        if not target.strip():
            raise TargetError("a label must not be empty")
        return target
    if isinstance(target, Tensor) or (hasattr(target, "__array__") and getattr(target, "ndim", 0) > 0):
        indices = checked_indices(target)
        if indices.ndim == 1:
            return indices
        if indices.ndim == 0:
            return int(indices)
        raise TargetError(f"a class for each row is (N,), got {tuple(indices.shape)}")
    return _index(target, "a class")


def checked_indices(target: Any) -> Tensor:
    """Class indices in a tensor or array, as whole numbers on the CPU.

    Raises:
        TargetError: if they are none.
    """
    try:
        given = target if isinstance(target, Tensor) else torch.as_tensor(target)
    except (TypeError, ValueError, RuntimeError):
        raise TargetError(f"an array of targets holds class indices or labels, got {target.dtype}") from None
    if given.is_floating_point() or given.is_complex() or given.dtype == torch.bool:
        raise TargetError(f"a tensor target holds class indices, so integers, got {given.dtype}")
    if given.numel() == 0:
        raise TargetError(f"a tensor target holds at least one class index, got {tuple(given.shape)}")
    if int(given.min()) < 0:
        raise TargetError(f"target must be class indices from 0 up, got {int(given.min())}")
    # a copy: the value must not change when the caller's tensor does
    return given.detach().to("cpu", torch.long, copy=True)


def _index(value: Any, what: str) -> int:
    if isinstance(value, bool) or type(value).__name__ in ("bool_", "bool"):
        raise TargetError(f"{what} must be a whole number, not a bool ({value}): give 0 or 1 instead")
    try:
        index = operator.index(value)
    except TypeError:
        raise TargetError(f"{what} must be a whole number or a label, got {value!r}") from None
    if index < 0:
        raise TargetError(f"target must be a class index from 0 up, got {index}")
    return index


def _on_cpu(rows: Rows) -> Rows:
    return rows.cpu() if isinstance(rows, Tensor) else rows
