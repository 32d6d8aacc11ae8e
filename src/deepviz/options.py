"""Options: the fields of frozen values, described, bounded and checked in one place.

An option is a dataclass field whose annotation says all there is to know about it:

    steps: Annotated[int, Ge(1), "Points on the path."] = 50

Bounds are `Ge`, `Gt`, `Le` and `Lt`; a role (`Layer`, `GridOption`, `Seed`, `Baseline`, `Budget`) says what the option
is for, whatever the field is called. `Frozen` checks all of them in the constructor, and compares by content.
"""

from __future__ import annotations

import collections.abc
import math
import operator
import re
import types
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cache
from hashlib import sha256
from itertools import count
from numbers import Integral, Real
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

__all__ = [
    "Baseline",
    "Baselines",
    "Bound",
    "Budget",
    "Colour",
    "Frozen",
    "Ge",
    "GridOption",
    "Gt",
    "Infinite",
    "Layer",
    "Layers",
    "Le",
    "Lt",
    "Noise",
    "Role",
    "Seed",
    "SkipOption",
    "validate_fields",
]


@dataclass(frozen=True)
class Bound:
    """A bound of a number: `Ge`, `Gt`, `Le` or `Lt`."""

    value: float

    words: ClassVar[str]
    compare: ClassVar[Callable[[float, float], bool]]

    def holds(self, number: float) -> bool:
        """Whether a number is within it."""
        return type(self).compare(number, self.value)

    def __str__(self) -> str:
        return f"{self.words} {_figure(self.value)}"


class Ge(Bound):
    """The number is at least this."""

    words, compare = "at least", operator.ge


class Gt(Bound):
    """The number is above this."""

    words, compare = "above", operator.gt


class Le(Bound):
    """The number is at most this."""

    words, compare = "at most", operator.le


class Lt(Bound):
    """The number is below this."""

    words, compare = "below", operator.lt


def _figure(number: float) -> str:
    """The number, written so that it can be read: 2**32 - 1."""
    bits = int(number).bit_length() if number == int(number) else 0
    return f"2**{bits} - 1" if bits > 16 and number == 2**bits - 1 else str(number)


def in_words(bounds: tuple[Bound, ...]) -> str:
    """Bounds as the end of a sentence: "from 0 to 1", "above 0"."""
    match bounds:
        case (Ge(low), Le(high)):
            return f"from {_figure(low)} to {_figure(high)}"
        case _:
            return " and ".join(map(str, bounds))


@dataclass(frozen=True)
class Infinite:
    """The number may be infinite, which options may not be otherwise; NaN never."""


@dataclass(frozen=True)
class Role:
    """What an option is for, as a mark in its annotation."""

    name: Literal["layer", "layers", "grid", "seed", "baseline", "baselines", "budget"]


Layer = Annotated[
    str | nn.Module | None,
    Role("layer"),
    "Layer to explain, a name from `deepviz layers`; by default the last with a spatial map.",
]
"""The layer that a method looks at: its name, the module itself, or None for the one that is found."""
Layers = Annotated[
    tuple[str | nn.Module, ...] | None,
    Role("layers"),
    "Several layers instead of one, such as those of a feature pyramid; their maps are joined.",
]
"""The layers whose maps a method joins: names, or the modules themselves."""
GridOption = Annotated[
    tuple[Annotated[int, Ge(1)], ...] | Callable[[Tensor], Tensor] | None,
    Role("grid"),
    "How the layer's output lies on the image: its sizes, such as (14, 14), or in Python a function (N, ...) -> "
    "(N, D, *grid); by default it is found and checked.",
]
"""How a layer's output lies on the image."""
SkipOption = Annotated[
    tuple[int, ...] | None,
    "Positions of the layer's tokens that are not the image's, such as (0,); negative ones count from the end; by "
    "default they are found and checked.",
]
"""What to leave out of a sequence of tokens."""
Seed = Annotated[int, Ge(0), Le(2**32 - 1), Role("seed")]
"""The seed of a value's random numbers; torch keeps 32 bits of it."""
Budget = Annotated[int, Ge(1), Role("budget"), "Forward passes of one image; with a tolerance, at most so many."]
"""How many forward passes a method may spend on one image."""
Colour = Literal["black", "grey", "white", "mean"]
"""A colour in pixel space."""
Baseline = Annotated[float | Tensor | Literal["blur"] | Colour, Role("baseline")]
"""A number in the input's normalised space (0.0 usually is the mean colour), a tensor that broadcasts against one
image, the image blurred, or a colour in pixel space, where the preprocessing is known."""
Noise = Literal["uniform-noise", "gaussian-noise"]
"""Noise in place of a baseline: independent values, uniform over the range of each channel of the image, or normal with
its mean and standard deviation."""
Baselines = Annotated[tuple[Baseline | Noise, ...], Role("baselines")]
"""Several baselines, each as in `Baseline` or a noise."""


@dataclass(frozen=True)
class Kind:
    """One of the kinds of values that an annotation allows.

    Args:
        type: a class, `Any`, or a generic such as `Literal["a", "b"]` or `tuple[int, ...]`.
        bounds: what its numbers keep to.
        infinite: whether they may be infinite.
    """

    type: Any
    bounds: tuple[Bound, ...] = ()
    infinite: bool = False

    @property
    def words(self) -> list[str]:
        """In words; one for each choice."""
        if get_origin(self.type) is Literal:
            return [str(one) for one in get_args(self.type)]
        if get_origin(self.type) is tuple:
            sized = get_args(self.type)[-1] is not ...
            return [f"a tuple of {f'{len(self.items)} ' if sized else ''}{_plural(self.items[0])}"]
        if get_origin(self.type) is Callable:
            return ["a callable"]
        named = get_origin(self.type) or self.type
        name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", getattr(named, "__name__", str(named))).lower()
        return [WORDS.get(named) or f"{'an' if name[0] in 'aeiou' else 'a'} {name}"]

    @property
    def items(self) -> list[list[Kind]]:
        """Of a tuple, what each item may be; of one of any length, once."""
        return [_kinds(item, self.bounds, self.infinite) for item in get_args(self.type) if item is not ...]

    def read(self, given: Any) -> Any:
        """The value as this kind holds it: numpy's numbers as Python's, lists as tuples.

        Raises:
            TypeError: if it is of another kind.
            ValueError: if it is of this kind, but out of bounds; the message is the end of a sentence.
        """
        kind, origin = self.type, get_origin(self.type)
        if kind is Any:
            return given
        if origin is Literal:
            for one in get_args(kind):
                if given is one or (type(given) is type(one) and given == one) or _same_number(given, one):
                    return one
            raise TypeError
        if kind is bool:
            return bool(_instance(given, (bool, np.bool_)))
        if kind is int or kind is float:
            return self._number(given)
        if origin is tuple:
            return self._tuple(_instance(given, (tuple, list)))
        if origin is Callable:
            if not callable(given) or isinstance(given, type):
                raise TypeError
            return given
        if not isinstance(origin or kind, type):
            return given
        _instance(given, origin or kind)
        if isinstance(given, Tensor) and not self.infinite:
            _check_finite(given)
        return given

    def _number(self, given: Any) -> float:
        if isinstance(given, bool) or not isinstance(given, Integral if self.type is int else Real):
            raise TypeError
        number: float = self.type(given)
        if math.isnan(number) or (math.isinf(number) and not self.infinite):
            closed = any(isinstance(bound, (Le, Lt)) for bound in self.bounds)
            raise ValueError(", and ".join(filter(None, [in_words(self.bounds), "" if closed else "finite"])))
        if not all(bound.holds(number) for bound in self.bounds):
            raise ValueError(in_words(self.bounds))
        return number

    def _tuple(self, given: Any) -> tuple[Any, ...]:
        items = self.items
        if get_args(self.type)[-1] is ...:
            items = items * len(given)
        if len(items) != len(given):
            raise TypeError
        return tuple(_read(kinds, one) for kinds, one in zip(items, given, strict=True))


WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a name",
    nn.Module: "a module",
    type(None): "None",
}


@dataclass(frozen=True)
class Annotation:
    """All that the annotation of a field says.

    Args:
        kinds: what it allows.
        role: what it is for, if it says so.
        help: its sentence.
    """

    kinds: tuple[Kind, ...]
    role: str | None
    help: str

    @property
    def words(self) -> str:
        """What it allows, in words."""
        words = list(dict.fromkeys(word for kind in self.kinds for word in kind.words))
        return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


@cache
def annotated(cls: Any) -> dict[str, Annotation]:
    """What the annotations of a dataclass say, by field; one that cannot be resolved allows anything."""
    try:
        hints = get_type_hints(cls, include_extras=True)
    except NameError:  # a class inside a function, with its annotations as text
        hints = {}
    return {field.name: _annotation(hints.get(field.name, Any)) for field in fields(cls)}


def having(cls: Any, role: str) -> tuple[str, ...]:
    """The fields with a role: `having(GradCAM, "layer")` is `("layer",)`."""
    return tuple(name for name, annotation in annotated(cls).items() if annotation.role == role)


def kinds(hint: Any) -> list[Kind]:
    """What an annotation allows: the parts of a union, each with the bounds that hold for it."""
    return _kinds(hint, (), False)


def validate_fields(value: Any) -> None:
    """Check every field of a frozen dataclass against its annotation; numbers become Python's own.

    Bools are no numbers, numbers are finite unless marked `Infinite()`, words are one of the choices.

    Raises:
        ValueError: for a value out of bounds, or a word that is none of the choices.
        TypeError: for a value of another kind.

    Example:
        >>> from dataclasses import dataclass
        >>> from typing import Annotated
        >>> @dataclass(frozen=True)
        ... class Blur:
        ...     sigma: Annotated[float, Gt(0), "Standard deviation in pixels."] = 1.0
        ...     def __post_init__(self):
        ...         validate_fields(self)
        >>> Blur(sigma=0)
        Traceback (most recent call last):
        ValueError: sigma must be above 0, got 0
    """
    cls: Any = type(value)
    for name, annotation in annotated(cls).items():
        given = getattr(value, name)
        try:
            read = _read(annotation.kinds, given)
        except ValueError as error:
            raise ValueError(f"{name} must be {_with_none(str(error), annotation)}, got {_shown(given)}") from None
        except TypeError:
            raise _wrong(cls, name, annotation, given) from None
        if read is not given:
            object.__setattr__(value, name, read)


class Frozen:
    """Base of frozen dataclasses that are checked when they are made, and compare and hash by content.

    Tensors are equal if their type, shape and values are; modules and functions if they are the same one.
    """

    # in every subclass: a dataclass would compare fields by ==, which of two tensors is a tensor
    def __init_subclass__(cls, **given: Any) -> None:
        super().__init_subclass__(**given)
        if "__eq__" not in cls.__dict__:
            cls.__eq__ = Frozen.__eq__  # type: ignore[method-assign]
            cls.__hash__ = Frozen.__hash__  # type: ignore[method-assign]

    def __post_init__(self) -> None:
        validate_fields(self)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if type(other) is not type(self):
            return NotImplemented
        return bool(content(self) == content(other))

    def __hash__(self) -> int:
        return hash(content(self))


def content(value: Any) -> Any:
    """What a value is compared by, hashable: of tensors and arrays type, shape and values, of others themselves."""
    if isinstance(value, Tensor):
        return ("tensor", str(value.dtype), tuple(value.shape), digest(value))
    if isinstance(value, np.ndarray):
        return ("array", str(value.dtype), value.shape, sha256(np.ascontiguousarray(value).tobytes()).hexdigest())
    if isinstance(value, (tuple, list)):
        return (type(value).__name__, *map(content, value))
    if isinstance(value, (set, frozenset)):
        return ("set", frozenset(map(content, value)))
    if isinstance(value, collections.abc.Mapping):
        return ("mapping", frozenset((key, content(inner)) for key, inner in value.items()))
    if isinstance(value, Frozen):
        return (type(value), *(content(getattr(value, field.name)) for field in fields(value) if field.compare))  # type: ignore[arg-type]
    if isinstance(value, bool):
        return ("bool", value)  # True is not 1
    try:
        hash(value)
    except TypeError:
        return ("object", identity(value))
    return value


def digest(tensor: Tensor) -> str:
    """The SHA-256 of a tensor's values, in hex, wherever it is and however it is laid out; -0.0 is 0.0."""
    values = tensor.detach().to("cpu").resolve_conj().clone(memory_format=torch.contiguous_format)
    if values.is_floating_point():
        values = values + 0.0
    return sha256(values.reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()


_COUNT = count(1)
_NUMBERS: WeakKeyDictionary[Any, int] = WeakKeyDictionary()


def identity(value: Any) -> str:
    """A name for one object of this process, never given to another, even after it is gone."""
    if isinstance(value, types.MethodType):
        return f"{value.__func__.__qualname__} of {identity(value.__self__)}"
    kind = getattr(value, "__qualname__", type(value).__qualname__)
    try:
        number = _NUMBERS.setdefault(value, next(_COUNT))
    except TypeError:  # neither hashable nor weakly referenced
        return f"{kind} {id(value):#x}"
    return f"{kind} {number}"


def _annotation(hint: Any) -> Annotation:
    help_text, role = "", None
    for mark in _marks(hint):
        help_text = mark if isinstance(mark, str) else help_text  # the last: of an alias in another annotation
        role = mark.name if isinstance(mark, Role) else role
    return Annotation(tuple(kinds(hint)), role, help_text)


def _marks(hint: Any) -> list[Any]:
    """The metadata of an annotation, and of the parts of its union."""
    if get_origin(hint) is Annotated:
        inner, *marks = get_args(hint)
        return [*_marks(inner), *(one for mark in marks for one in (_marks(mark) or [mark]))]
    if get_origin(hint) in (Union, types.UnionType):
        return [mark for part in get_args(hint) for mark in _marks(part)]
    return []


def _kinds(hint: Any, bounds: tuple[Bound, ...], infinite: bool) -> list[Kind]:
    if get_origin(hint) is Annotated:
        inner, *marks = get_args(hint)
        own = tuple(mark for mark in marks if isinstance(mark, Bound))
        return _kinds(inner, (*own, *bounds), infinite or any(isinstance(mark, Infinite) for mark in marks))
    if get_origin(hint) in (Union, types.UnionType):
        return [kind for part in get_args(hint) for kind in _kinds(part, bounds, infinite)]
    return [Kind(hint, bounds, infinite)]


def _read(kinds: collections.abc.Sequence[Kind], given: Any) -> Any:
    out_of_bounds: ValueError | None = None
    for kind in kinds:
        try:
            return kind.read(given)
        except TypeError:
            continue
        except ValueError as error:
            out_of_bounds = out_of_bounds or error
    raise out_of_bounds or TypeError


def _instance(given: Any, kind: Any) -> Any:
    if not isinstance(given, kind):
        raise TypeError
    return given


def _same_number(given: Any, one: Any) -> bool:
    numbers = all(isinstance(value, Real) and not isinstance(value, bool) for value in (given, one))
    return bool(numbers and float(given) == float(one))


def _check_finite(tensor: Tensor) -> None:
    if (tensor.is_floating_point() or tensor.is_complex()) and tensor.device.type != "meta":
        values = tensor.detach()
        if not bool(torch.isfinite(values).all()):
            raise ValueError("finite")


def _wrong(cls: Any, name: str, annotation: Annotation, given: Any) -> Exception:
    """The error for a value of another kind; a class in place of its instance, and a misspelt word, have their own."""
    for one in given if isinstance(given, (tuple, list)) else [given]:
        if isinstance(one, type) and any(_made_of(one, kind) for kind in annotation.kinds):
            return TypeError(
                f"{cls.__name__}({name}=...) takes an instance, got the class {one.__name__}; "
                f"did you mean {one.__name__}()?"
            )
    words = any(get_origin(kind.type) is Literal for kind in annotation.kinds)
    error = ValueError if words and isinstance(given, str) else TypeError
    return error(f"{name} must be {annotation.words}, got {_shown(given)}")


def _made_of(given: type, kind: Kind) -> bool:
    if issubclass(given, Frozen):
        return True
    if get_origin(kind.type) is tuple:
        return any(_made_of(given, inner) for item in kind.items for inner in item)
    return isinstance(kind.type, type) and get_origin(kind.type) is None and issubclass(given, kind.type)


def _with_none(bounds: str, annotation: Annotation) -> str:
    if not any(kind.type is type(None) for kind in annotation.kinds):
        return bounds
    return f"{bounds}, or None" if " and " in bounds else f"{bounds} or None"


def _shown(given: Any) -> str:
    if isinstance(given, Tensor):
        return f"a tensor {tuple(given.shape)}"
    text = repr(given)
    return text if len(text) <= 100 else f"{text[:97]}..."


def _plural(inner: list[Kind]) -> str:
    words = [word.removeprefix("a ").removeprefix("an ") for kind in inner for word in kind.words]
    return " or ".join(f"{word}s" for word in words)
