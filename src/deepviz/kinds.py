"""That a value holds what its annotations say: a typo in an option must not measure something else in silence."""

from __future__ import annotations

import types
from dataclasses import fields
from functools import cache
from numbers import Integral, Real
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

WORDS: dict[Any, str] = {bool: "true or false", int: "a whole number", float: "a number", type(None): "None"}


def check_kinds(value: Any) -> None:
    """Refuse a dataclass of which a field holds what its annotation does not allow.

    Numbers, flags, names and tensors are checked; what an annotation says beyond them is left to the class.

    Raises:
        ValueError: for a name that is none of the choices.
        TypeError: for a value of another kind.
    """
    for name, alternatives in _annotated(value.__class__).items():
        given = getattr(value, name)
        if not any(_fits(given, one) for one in alternatives):
            kind = ValueError if isinstance(given, str) else TypeError
            said = [word for one in alternatives for word in _in_words(one)]
            raise kind(f"{name} must be {' or '.join(filter(None, [', '.join(said[:-1]), said[-1]]))}, got {given!r}")


@cache
def _annotated(cls: Any) -> dict[str, list[Any]]:
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: alternatives(hints[field.name]) for field in fields(cls)}


def alternatives(hint: Any) -> list[Any]:
    """What an annotation allows: the parts of a union, without the description."""
    if get_origin(hint) is Annotated:
        return alternatives(get_args(hint)[0])
    if get_origin(hint) in (Union, types.UnionType):
        return [inner for part in get_args(hint) for inner in alternatives(part)]
    return [hint]


def _fits(given: Any, kind: Any) -> bool:
    if kind is Any:
        return True
    if get_origin(kind) is Literal:
        return any(type(given) is type(one) and given == one for one in get_args(kind))
    if kind in (int, float):
        return isinstance(given, Integral if kind is int else Real) and not isinstance(given, bool)
    return isinstance(given, kind) if isinstance(kind, type) else True


def _in_words(kind: Any) -> list[str]:
    if get_origin(kind) is Literal:
        return [str(one) for one in get_args(kind)]
    return [WORDS.get(kind) or f"a {getattr(kind, '__name__', str(kind)).lower()}"]
