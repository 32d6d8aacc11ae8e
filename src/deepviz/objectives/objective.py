"""`Objective`: what is explained, or what an image is generated for; and sums of objectives."""

from __future__ import annotations

import json
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any

import torch
from torch import Tensor

from deepviz.errors import TargetError
from deepviz.geometry import Geometry
from deepviz.objectives.embedder import Embedder
from deepviz.options import Frozen, content, digest
from deepviz.probe.seen import Seen

Rows = slice | Tensor


@dataclass(frozen=True, eq=False)
class Objective(Frozen, ABC):
    """A value for each row. Objectives add, subtract and scale: `Logit(281) - 0.5 * Logit(282)`.

    Called with what one forward pass has shown, it returns (n,), differentiable. A row's value depends on that row
    alone, except where `joint` is true: there it depends on all rows.

    Objectives are frozen values: they compare and hash by content, tensors too, print as the command line writes them,
    and go to JSON and back (`deepviz.objectives.to_plain`, `from_plain`). A class of your own is a frozen dataclass
    with a `__call__`; its fields are checked against their annotations.

    Example:
        >>> from deepviz.objectives import Logit
        >>> print(Logit(281) - 0.5 * Logit(282))
        logit(281) - 0.5 * logit(282)
        >>> Logit(281) - Logit(282) == Logit(281) - Logit(282)
        True
    """

    joint = False

    @property
    def layers(self) -> frozenset[str]:
        """The layers whose outputs it reads."""
        return frozenset()

    @property
    def rows(self) -> int | None:
        """For how many rows it holds a value each; None if it holds for any number."""
        return None

    @abstractmethod
    def __call__(self, seen: Seen) -> Tensor:
        """(n,)."""

    def take(self, rows: Rows) -> Objective:
        """The objective of some of the rows, for one that holds a value for each."""
        return self

    def parts(self) -> Iterator[Objective]:
        """The objectives that it is a sum of; itself if it is none."""
        yield self

    def replaced(self, function: Callable[[Objective], Objective]) -> Objective:
        """The same sum of `function` of its parts."""
        return function(self)

    def alone(self) -> Objective:
        """The same for one row, with plain values in the place of those for rows."""
        return self

    def resolved(self, labels: Sequence[str] | None) -> Objective:
        """With the index of a class that is given by its label.

        Raises:
            TargetError: if no class, or more than one, has that label.
        """
        return self

    def on_input(self, places: Sequence[tuple[Geometry, tuple[int, int]]]) -> Objective:
        """With what is given in pixels of the image (a box, a mask) in those of the model's input.

        Args:
            places: of each row where its input lies on its image, and the input's (width, height).

        Raises:
            TargetError: if the model saw nothing of it.
        """
        return self

    def embedded(self, model: Embedder) -> Objective:
        """With the embeddings of texts and other images that it names, by the model that is explained.

        Raises:
            TargetError: if the model embeds none.
        """
        return self

    def caption(self, label: Callable[[int], str] | None = None) -> str:
        """For people: with the names of classes, where `label` gives them."""
        return str(self)

    def __str__(self) -> str:
        """As the command line writes it."""
        return written(self)

    def __add__(self, other: Objective) -> Objective:
        return Sum((*_terms(self), *_terms(other))) if isinstance(other, Objective) else NotImplemented

    def __radd__(self, other: int) -> Objective:
        # sum() begins with 0
        return self if isinstance(other, int) and other == 0 else NotImplemented

    def __sub__(self, other: Objective) -> Objective:
        return self + -other if isinstance(other, Objective) else NotImplemented

    def __mul__(self, factor: float) -> Objective:
        if isinstance(factor, bool) or not isinstance(factor, (int, float)):
            return NotImplemented
        return Sum(((factor, self),))

    __rmul__ = __mul__

    def __truediv__(self, factor: float) -> Objective:
        if isinstance(factor, bool) or not isinstance(factor, (int, float)):
            return NotImplemented
        if factor == 0 or not math.isfinite(factor):
            raise TargetError(f"{self} must be divided by a finite number other than 0, got {factor}")
        return self * (1 / factor)

    def __neg__(self) -> Objective:
        return self * -1.0


@dataclass(frozen=True, eq=False)
class Several(Objective):
    """It stands for as many objectives as an image has things that are meant: detections, regions.

    Where images are explained, those are explained in its place; they share their forward passes.
    """

    @abstractmethod
    def each(self, seen: Seen) -> tuple[Objective, ...]:
        """The objectives of one image.

        Raises:
            NotInImage: if there is none.
        """

    def __call__(self, seen: Seen) -> Tensor:
        """It has no value of its own.

        Raises:
            TargetError: always.
        """
        raise TargetError(f"{self} stands for several targets: use deepviz.explain, or give a list of objectives")


@dataclass(frozen=True, eq=False)
class Choosing(Objective):
    """An objective that chooses once, on the inputs as they are, what it is about at every pass after that.

    The predicted region of a class or the best detection of an image would be others on its changed copies. What is
    chosen is numbers, a row of them for each row, so that it goes with the rows of a batch.
    """

    @abstractmethod
    def choose(self, seen: Seen) -> Tensor:
        """(n, M), finite, float64 on the CPU.

        Raises:
            TargetError: if there is nothing to choose in a row.
        """

    @abstractmethod
    def chosen(self, choice: Tensor) -> Objective:
        """What is explained of the rows with this choice, (n, M)."""

    def __call__(self, seen: Seen) -> Tensor:
        """That of the choice on these inputs."""
        return self.chosen(self.choose(seen))(seen)


@dataclass(frozen=True, eq=False)
class Sum(Objective):
    """A weighted sum of objectives; the result of `+`, `-` and `*`."""

    terms: tuple[tuple[float, Objective], ...]
    """Each objective with its weight, a finite number."""

    def __post_init__(self) -> None:
        flat = []
        for weight, term in self.terms:
            if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not isinstance(term, Objective):
                raise TypeError(f"a sum holds numbers and objectives, got {weight!r} and {term!r}")
            flat += [(_weight(weight, inner, part), part) for inner, part in _terms(term)]
        if not flat:
            raise ValueError("a sum needs at least one objective")
        object.__setattr__(self, "terms", tuple(flat))

    @property
    def joint(self) -> bool:  # type: ignore[override]
        """Whether any of the terms is."""
        return any(term.joint for _, term in self.terms)

    @property
    def layers(self) -> frozenset[str]:
        """Those of all terms."""
        return frozenset().union(*(term.layers for _, term in self.terms))

    @property
    def rows(self) -> int | None:
        """That of all terms that hold values for rows.

        Raises:
            TargetError: if they hold different numbers of them.
        """
        found = {rows for _, term in self.terms if (rows := term.rows) is not None}
        if len(found) > 1:
            raise TargetError(
                f"{self} holds values for different numbers of rows: {', '.join(map(str, sorted(found)))}"
            )
        return found.pop() if found else None

    def __call__(self, seen: Seen) -> Tensor:
        """sum_i weight_i term_i."""
        return torch.stack([weight * term(seen) for weight, term in self.terms]).sum(0)

    def take(self, rows: Rows) -> Objective:
        """The sum of that of the terms."""
        return Sum(tuple((weight, term.take(rows)) for weight, term in self.terms))

    def parts(self) -> Iterator[Objective]:
        """The terms without their weights."""
        for _, term in self.terms:
            yield from term.parts()

    def replaced(self, function: Callable[[Objective], Objective]) -> Objective:
        """The sum of what the terms are replaced by."""
        return Sum(tuple((weight, term.replaced(function)) for weight, term in self.terms))

    def caption(self, label: Callable[[int], str] | None = None) -> str:
        """The captions of the terms with their weights."""
        return _joined((weight, term.caption(label)) for weight, term in self.terms)

    def __str__(self) -> str:
        return _joined((weight, str(term)) for weight, term in self.terms)


def _terms(objective: Objective) -> tuple[tuple[float, Objective], ...]:
    return objective.terms if isinstance(objective, Sum) else ((1.0, objective),)


def _weight(factor: float, inner: float, term: Objective) -> float:
    try:
        weight = float(factor) * inner
    except OverflowError:  # a whole number that no float holds
        weight = math.inf
    if not math.isfinite(weight):
        raise TargetError(f"the weight of {term} must be a finite number, got {weight}")
    return weight


def _joined(terms: Any) -> str:
    text = ""
    for weight, term in terms:
        minus = bool(text) and weight < 0
        size = -weight if minus else weight
        text += (" - " if minus else " + ") if text else ""
        text += term if size == 1 else f"{number(size)} * {term}"
    return text


def number(value: float) -> str:
    """A number that is read back exactly, whole numbers without a point."""
    return str(int(value)) if math.isfinite(value) and value == int(value) and abs(value) < 1e15 else repr(float(value))


def written(objective: Objective) -> str:
    """An objective as a call: its name with the fields that are not the defaults; `channel("layer4", 3)`."""
    given = []
    keyword = False
    for one in fields(objective):
        value = getattr(objective, one.name)
        default = one.default if one.default_factory is MISSING else one.default_factory()
        if default is not MISSING and content(value) == content(default):
            keyword = True  # what follows a field that is left out goes by name
            continue
        given.append(f"{one.name}={literal(value)}" if keyword else literal(value))
    return f"{name_of(type(objective))}({', '.join(given)})"


def name_of(cls: type) -> str:
    """The name of a class of objectives in an expression: "total-variation" for TotalVariation, "rest" for ReST."""
    return re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", "-", cls.__name__).lower()


def literal(value: Any) -> str:
    """A field's value in an expression; of a tensor its shape and a few digits, which cannot be read back."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, (int, float)):
        return number(value)
    if isinstance(value, (tuple, list)):
        inner = ", ".join(map(literal, value))
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if isinstance(value, Tensor):
        return f"tensor {tuple(value.shape)} {digest(value)[:6]}"
    return str(value)


def check_length(values: Any, what: str) -> Tensor:
    """A tensor or array as a tensor, if it has a length to divide by.

    Raises:
        TypeError: for something else.
        ValueError: for zeros, NaN or infinity.
    """
    if not isinstance(values, Tensor) and hasattr(values, "__array__"):
        values = torch.as_tensor(values)
    if not isinstance(values, Tensor):
        raise TypeError(f"{what} must be a tensor, got {type(values).__name__}")
    lengths = values.detach().double().reshape(-1, values.shape[-1] if values.ndim else 1).norm(dim=1)
    if values.numel() == 0 or not bool(lengths.isfinite().all()) or not bool((lengths > 0).any()):
        raise ValueError(f"{what} is zero everywhere, or holds NaN or infinite values: give another")
    return values.detach()
