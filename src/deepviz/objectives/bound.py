"""`bind`: what is explained, for the rows of one batch: one objective or several, the predicted class chosen once."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import torch
from torch import Tensor

from deepviz.errors import TargetError
from deepviz.objectives.box import Strongest
from deepviz.objectives.classes import (
    Chosen,
    Logit,
    OfClass,
    Predicted,
    Probability,
    checked_class,
    checked_indices,
    outputs_of,
    pick,
)
from deepviz.objectives.expression import parse
from deepviz.objectives.function import Function, weakly
from deepviz.objectives.layers import OfLayer
from deepviz.objectives.objective import Choosing, Objective, Rows
from deepviz.objectives.output import Output
from deepviz.objectives.pixels import Pixels
from deepviz.objectives.similarity import Similarity
from deepviz.probe.outputs import Kind, Reading, chosen_field, describe, read_outputs
from deepviz.probe.seen import Seen

OneTarget = int | str | Tensor | Objective | Callable[[Any], Tensor]
Target = OneTarget | Sequence[OneTarget] | None
"""What to explain: a class by its index or label; (N,) indices in a tensor or array, one for each row; (N, K) indices,
K for each; an `Objective`; a callable that takes the model's raw output for any number of rows and returns one score
per row; a list or tuple of these, all of them for every row; or None, the predicted class."""


@dataclass
class _Found:
    """What the first passes showed; shared by all parts of a `Bound`."""

    reading: Reading | None = None
    with_graph: bool = False
    remarks: set[str] = field(default_factory=set)


class Bound:
    """A target for each row of one batch: chosen once, then the same at every pass.

    `bind(target, n)` checks the target against the number of rows. `bound(seen)` is the explained scores, (n,) or
    (n, K); where the predicted class is explained, the first pass that it sees decides, for good.

    Attributes:
        rows: how many there are.
        shape: of the scores without the rows: () for one each, (K,) for K each.
        objectives: the one, or the K.
        remarks: what the reader of the result should be warned of.
    """

    def __init__(self, objectives: Sequence[Objective], rows: int, several: bool) -> None:
        self.rows = rows
        self.objectives = tuple(objectives)
        self.shape: tuple[int, ...] = (len(self.objectives),) if several else ()
        self._found = _Found()
        # classes alone are gathered at once, however many; what else there is, is evaluated one by one
        self._classes_alone = all(type(one) in (Logit, Predicted) for one in self.objectives)
        columns: list[Any]
        if self._classes_alone:
            columns = [one.rank if isinstance(one, Predicted) else None for one in self.objectives]
        else:
            columns = sorted({part.rank for part in self._parts() if isinstance(part, Predicted)})
        self._columns: tuple[int | None, ...] = tuple(columns)
        self._choice = torch.full((rows, len(columns)), -1)
        # of other choices: those of each part, by its objective's place in the whole and its own in that
        self._made: dict[tuple[int, int], Tensor] = {}
        self._origin = tuple(range(len(self.objectives)))
        self._whole, self._place = rows, torch.arange(rows)
        if self._classes_alone:
            for column, one in enumerate(self.objectives):
                if isinstance(one, Logit):
                    self._choice[:, column] = one.target  # type: ignore[assignment]
        self._reads = self._classes_alone or any(isinstance(part, (OfClass, Predicted)) for part in self._parts())

    @property
    def remarks(self) -> set[str]:
        """What the reader of the result should be warned of, one sentence each."""
        return self._found.remarks

    @property
    def reading(self) -> Reading | None:
        """How the model's outputs are read, once a pass was seen; None if the objectives do not ask."""
        return self._found.reading

    @property
    def layers(self) -> frozenset[str]:
        """The layers whose maps the objectives read."""
        return frozenset().union(*(one.layers for one in self.objectives))

    @property
    def decided(self) -> bool:
        """Whether every row has its class, and it is known how the outputs are read where that matters."""
        if not bool((self._choice >= 0).all()) or not all(self._has_chosen(key) for key, _ in self._choosing()):
            return False
        return self._classes_alone or not self._reads or self._found.reading is not None

    @property
    def indices(self) -> Tensor | None:
        """The explained classes, (n,) or (n, K) on the CPU, -1 where not yet decided; None if it is about anything
        else."""
        if not self._classes_alone:
            return None
        return self._choice if self.shape else self._choice[:, 0]

    @property
    def classes(self) -> tuple[Tensor | None, ...]:
        """The explained classes of each objective, (n,) on the CPU, as in `indices`; None for one about anything
        else."""
        if self._classes_alone:
            return self._choice.unbind(1)
        return tuple(map(self._classes_of, self.objectives))

    def _classes_of(self, one: Objective) -> Tensor | None:
        if type(one) is Predicted:
            return self._choice[:, self._columns.index(one.rank)]
        if type(one) is Logit:
            return torch.as_tensor(one.target).expand(self.rows)
        return None

    @property
    def without_probability(self) -> tuple[str, ...]:
        """The objectives that are neither a class nor its probability, in words."""
        return tuple(str(one) for one in self.objectives if type(one) not in (Logit, Predicted, Probability))

    @property
    def question(self) -> Hashable:
        """What findings about the model are remembered by: which class or channel it is does not matter there, and
        callables, which may hold the model, are not kept alive."""
        kinds = tuple(dict.fromkeys(map(_question, self._parts())))
        return "class" if kinds == ("class",) else kinds

    @property
    def calls_functions(self) -> bool:
        """Whether a callable, or an objective of another package, has a part: it may read what a model keeps of its
        last pass."""
        parts = self._parts()
        return any(isinstance(part, Function) or not type(part).__module__.startswith("deepviz.") for part in parts)

    def take(self, rows: Rows) -> Bound:
        """What is explained of some of the rows; with a slice, a class decided there is decided here too."""
        part = self._like()
        if isinstance(rows, Tensor):
            rows = rows.cpu()
            rows = rows.nonzero()[:, 0] if rows.dtype == torch.bool else rows
            part._made = {key: made[self._place[rows]] for key, made in self._made.items()}
            part._whole, part._place = len(rows), torch.arange(len(rows))
        else:
            part._place = self._place[rows]
        part._choice = self._choice[rows]
        part.rows = len(part._choice)
        if any(one.rows is not None for one in self.objectives):
            part.objectives = tuple(one.take(rows) for one in self.objectives)
        return part

    def each(self) -> list[Bound]:
        """K of one objective each, of one with K; what is decided by one is decided by all."""
        if not self.shape:
            return [self]
        parts = []
        for k, one in enumerate(self.objectives):
            part = self._like()
            part.shape, part.objectives, part._origin = (), (one,), self._origin[k : k + 1]
            if self._classes_alone:
                part._columns, part._choice = self._columns[k : k + 1], self._choice[:, k : k + 1]
            parts.append(part)
        return parts

    def __call__(self, seen: Seen) -> Tensor:
        """The explained scores, (n,) or (n, K), float; differentiable where the output is.

        Raises:
            TargetError: if the model has no such class, number or field.
            ModelError: if it returned no scores, or for another number of rows.
            LayerError: if a layer has no such channel or position.
        """
        if seen.n != self.rows:
            raise TargetError(f"the target is for {self.rows} rows, {seen.n} went through the model: take the rows")
        if self._reads:
            outputs, reading = outputs_of(replace(seen, reading=self._read(seen)))
            self._decide(outputs, reading)
            if self._classes_alone:
                return pick(reading.scores(outputs), self._checked(reading))
            seen = replace(seen, reading=reading)
        values = [self._value(k, one, seen) for k, one in enumerate(self.objectives)]
        return torch.stack(values, 1) if self.shape else values[0]

    def _read(self, seen: Seen) -> Reading:
        """How the outputs are read: as the first pass with a graph shows it, since a graph tells how they end."""
        found = self._found
        outputs = seen.scores()
        if found.reading is None or (outputs.grad_fn is not None and not found.with_graph):
            found.reading = seen.reading or read_outputs(outputs, seen.kind)
            found.with_graph = outputs.grad_fn is not None
            found.remarks.update(filter(None, [*found.reading.warnings, chosen_field(seen.output, seen.kind)]))
        return found.reading

    def _decide(self, outputs: Tensor, reading: Reading) -> None:
        if not self._columns or bool((self._choice >= 0).all()):
            return
        for column, rank in enumerate(self._columns):
            if rank is not None and bool((self._choice[:, column] < 0).any()):
                self._choice[:, column] = reading.predicted(outputs.detach(), rank).cpu()

    def _checked(self, reading: Reading) -> Tensor:
        given = self._choice[:, [rank is None for rank in self._columns]]
        if given.numel() > 0:
            for extreme in given.aminmax():
                reading.check_asked(int(extreme))
        return self._choice if self.shape else self._choice[:, 0]

    def _value(self, k: int, objective: Objective, seen: Seen) -> Tensor:
        values = self._settled(k, objective, lambda key, part: self._choose(key, part, seen))(seen)
        if not isinstance(values, Tensor) or values.shape != (self.rows,) or not values.is_floating_point():
            got = describe(values) if isinstance(values, Tensor) else type(values).__name__
            raise TargetError(f"{objective} must give one float value per row, ({self.rows},), got {got}")
        return values

    def _settled(
        self,
        k: int,
        objective: Objective,
        choice: Callable[[tuple[int, int], Choosing], Tensor],
        predicted: bool = True,
    ) -> Objective:
        """The objective with what is chosen for its parts."""
        number = count()

        def settled(part: Objective) -> Objective:
            key = (self._origin[k], next(number))
            if predicted and isinstance(part, Predicted):
                return Chosen(self._choice[:, self._columns.index(part.rank)])
            return part.chosen(choice(key, part)) if isinstance(part, Choosing) else part

        return objective.replaced(settled)

    def _choosing(self) -> Iterator[tuple[tuple[int, int], Choosing]]:
        for k, one in zip(self._origin, self.objectives, strict=True):
            for number, part in enumerate(one.parts()):
                if isinstance(part, Choosing):
                    yield (k, number), part

    def _has_chosen(self, key: tuple[int, int]) -> bool:
        return key in self._made and not bool(self._made[key][self._place].isnan().any())

    def _choose(self, key: tuple[int, int], part: Choosing, seen: Seen) -> Tensor:
        if not self._has_chosen(key):
            with torch.no_grad():
                choice = part.choose(seen)
            self._made.setdefault(key, torch.full((self._whole, choice.shape[1]), torch.nan, dtype=torch.float64))
            self._made[key][self._place] = choice
        return self._made[key][self._place]

    def settled(self) -> tuple[Objective, ...]:
        """The objectives with what was chosen of them; a predicted class is not told so."""
        return tuple(
            self._settled(k, one, lambda key, _: self._made[key][self._place], predicted=False)
            for k, one in enumerate(self.objectives)
        )

    def _parts(self) -> list[Objective]:
        return [part for one in self.objectives for part in one.parts()]

    def _like(self) -> Bound:
        part = object.__new__(Bound)
        part.__dict__.update(self.__dict__)
        return part

    def __str__(self) -> str:
        return ", ".join(map(str, self.objectives))


def bind(target: Any, n: int, labels: Sequence[str] | None = None) -> Bound:
    """Choose what is explained, for n rows.

    Args:
        target: see `Target`.
        n: how many rows there are.
        labels: the classes' names, for targets that name one.

    Raises:
        TargetError: if it is no target, or not for so many rows.

    Example:
        >>> bind(torch.tensor([3, 5]), 2).indices
        tensor([3, 5])
        >>> bind([3, 5], 2).indices
        tensor([[3, 5],
                [3, 5]])
    """
    objectives, several = objectives_of(target, n, labels)
    for one in objectives:
        if one.rows not in (None, n):
            raise TargetError(
                f"{one} holds a value for each of {one.rows} rows, for {n} of them: give one for each, or one for all"
            )
    return Bound(objectives, n, several)


def usual(kind: Kind) -> Objective:
    """What a model of this kind is asked where it does not matter what: it has a value for every image."""
    objectives: dict[Kind, Objective] = {"detections": Strongest(), "maps": Pixels(0, None), "embedding": Output(0)}
    return objectives.get(kind, Predicted())


def objectives_of(target: Any, n: int, labels: Sequence[str] | None = None) -> tuple[list[Objective], bool]:
    """The objectives that a target stands for, and whether they are K for each row.

    Raises:
        TargetError: if it is no target.
    """
    if isinstance(target, (list, tuple, range)):
        if len(target) == 0:
            raise TargetError("target is an empty list; give at least one class, or None for the predicted one")
        if any(isinstance(one, (list, tuple, range)) for one in target):
            raise TargetError(f"target is a list in a list: give one list of targets, for every image, got {target!r}")
        return [one for inner in target for one in objectives_of(inner, n, labels)[0]], True
    if isinstance(target, Objective):
        return [_resolved(target, labels)], False
    if target is None:
        return [Predicted()], False
    if isinstance(target, str):
        return [_resolved(parse(target, labels, integers=False), labels)], False
    if isinstance(target, type):
        raise TargetError(
            f"a target is an instance, got the class {target.__name__}; did you mean {target.__name__}(...)?"
        )
    if isinstance(target, Tensor) or (hasattr(target, "__array__") and getattr(target, "ndim", 0) > 0):
        return _of_array(target, n, labels)
    if hasattr(target, "__index__") or isinstance(target, bool) or type(target).__name__ in ("bool", "bool_"):
        return [Logit(target)], False
    if callable(target):
        return [Function(target)], False
    raise TargetError(
        "a target is a class index, a label, a tensor (N,) or (N, K), an objective, a callable, a list of these, or "
        f"None for the predicted class, got {target!r}"
    )


def _of_array(target: Any, n: int, labels: Sequence[str] | None) -> tuple[list[Objective], bool]:
    if not isinstance(target, Tensor) and getattr(target.dtype, "kind", "") in "UO":
        named = [checked_class(one) for one in target.reshape(-1).tolist()]
        found = [Logit(one).resolved(labels) for one in named]
        target = torch.tensor([one.target for one in found]).reshape(target.shape)  # type: ignore[attr-defined]
    indices = checked_indices(target)
    if indices.ndim == 0:
        return [Logit(int(indices))], False
    if indices.ndim > 2 or len(indices) != n:
        raise TargetError(
            f"target must be (N,) or (N, K) with N = {n} rows, got {tuple(indices.shape)}; for several classes of "
            "every image give a list"
        )
    if indices.ndim == 1:
        return [Logit(indices)], False
    return [Logit(column) for column in indices.unbind(1)], True


def _resolved(objective: Objective, labels: Sequence[str] | None) -> Objective:
    return objective.replaced(lambda part: part.resolved(labels))


def _question(objective: Objective) -> Hashable:
    """What of a part of a sum matters to how the model treats rows and layers."""
    if isinstance(objective, (OfClass, Predicted)):
        return "class"
    if isinstance(objective, (OfLayer, Similarity, Choosing)):
        return type(objective), objective.layers
    known = weakly(objective.function) if isinstance(objective, Function) else None
    return objective if known is None else known
