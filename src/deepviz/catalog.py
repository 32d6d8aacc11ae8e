"""What exists and with which options: the only introspection. Commands, pages, docs and tests read it here."""

from __future__ import annotations

import importlib
import inspect
import types
from dataclasses import MISSING, dataclass, fields
from typing import Any, Literal, TypeVar, get_args, get_origin

import deepviz.methods
import deepviz.metrics
from deepviz.errors import MethodError
from deepviz.methods.method import Method
from deepviz.metrics.metric import Metric
from deepviz.names import nearest
from deepviz.options import Annotation, annotated

T = TypeVar("T")


@dataclass(frozen=True)
class Option:
    """One option of a method: a field, as its annotation describes it.

    Args:
        name: of the field.
        kinds: the plain types that it takes, out of bool, int, float, str and `Method`.
        choices: the words that it takes, if only those.
        optional: whether it also takes None.
        default: its value when it is not given.
        help: one sentence.
        role: what it is for, if it says so: layer, grid, seed or baseline.
    """

    name: str
    kinds: tuple[type, ...]
    choices: tuple[str, ...]
    optional: bool
    default: Any
    help: str
    role: str | None = None

    @property
    def flag(self) -> str:
        """As part of a command-line flag."""
        return self.name.replace("_", "-")

    def parse(self, text: str) -> Any:
        """The value that `text` stands for.

        Raises:
            ValueError: if it is none of this option's.
        """
        if self.optional and text.lower() == "none":
            return None
        if text in self.choices:
            return text
        if bool in self.kinds and text.lower() in ("true", "false", "yes", "no", "1", "0"):
            return text.lower() in ("true", "yes", "1")
        if Method in self.kinds:
            return method(text)
        for kind in (int, float, str):
            if kind in self.kinds:
                try:
                    return kind(text)
                except ValueError:
                    continue
        raise ValueError(f"{self.name} takes {self.takes}, got {text!r}{nearest(text, self.choices)}")

    @property
    def takes(self) -> str:
        """In words, what the option takes."""
        words = {bool: "true or false", int: "a whole number", float: "a number", str: "a name", Method: "a method"}
        named = [words[kind] for kind in self.kinds]
        takes = [*named, *self.choices, *(["none"] if self.optional else [])]
        return " or ".join(filter(None, [", ".join(takes[:-1]), takes[-1]]))


def stem(cls: type[Any]) -> str:
    """The one name of a method or metric in commands, pages and files: that of its module, `grad-cam`."""
    return cls.__module__.rsplit(".", 1)[-1].replace("_", "-")


def _found(package: types.ModuleType, kind: type[Any]) -> dict[str, type[Any]]:
    """What a package offers of one kind, by its stem."""
    values = (getattr(package, name) for name in package.__all__)
    return {
        stem(value): value
        for value in values
        if isinstance(value, type) and issubclass(value, kind) and not inspect.isabstract(value)
    }


METHODS: dict[str, type[Method]] = _found(deepviz.methods, Method)
"""Every method, by its stem, in the order in which sheets and tables show them."""

METRICS: dict[str, type[Metric]] = _found(deepviz.metrics, Metric)
"""Every metric, by its stem, in the order in which tables show them."""


def options(cls: Any) -> tuple[Option, ...]:
    """The options of a method, or of another frozen value: its fields, with type, default and description."""
    found = annotated(cls)
    return tuple(_option(field.name, found[field.name], _default(field)) for field in fields(cls) if field.init)


def summary(method_class: type[Method]) -> str:
    """The first line of the docstring."""
    return (method_class.__doc__ or "").strip().split("\n")[0]


def find(name: str) -> type[Method]:
    """A method by its stem, or a stranger's as `package.module:Class`.

    Raises:
        MethodError: if there is none; with the nearest names.
    """
    return _find(name, METHODS, Method)


def find_metric(name: str) -> type[Metric]:
    """A metric by its stem, or a stranger's as `package.module:Class`.

    Raises:
        MethodError: if there is none; with the nearest names.
    """
    return _find(name, METRICS, Metric)


def _find(name: str, known: dict[str, type[T]], kind: type[Any]) -> type[T]:
    if name in known:
        return known[name]
    word = kind.__name__.lower()
    if ":" in name:
        return _strangers(name, kind, word)  # type: ignore[no-any-return]
    spelled = {**{key: key for key in known}, **{cls.__name__: key for key, cls in known.items()}}
    for spelling, key in spelled.items():
        if _bare(spelling) == _bare(name):
            return known[key]
    hint = nearest(name, known) or f"; there are {', '.join(known)}"
    raise MethodError(f"no {word} {name!r}{hint}")


def method(name: str, **given: Any) -> Method:
    """A method with options: `method("smooth-grad", samples=20)`."""
    return find(name)(**given)


def _bare(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "").replace(" ", "")


def _strangers(name: str, kind: type[Any], word: str) -> Any:
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise MethodError(f"no {word} {name!r}: {error}") from error
    if not (isinstance(found, type) and issubclass(found, kind)):
        raise MethodError(f"{name} is not a subclass of deepviz.{word}s.{kind.__name__}")
    return found


def _default(field: Any) -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default


def _option(name: str, annotation: Annotation, default: Any) -> Option:
    kinds: list[type] = []
    choices: list[str] = []
    optional = False
    for kind in annotation.kinds:
        if kind.type is type(None):
            optional = True
        elif get_origin(kind.type) is Literal:
            choices.extend(get_args(kind.type))
        elif kind.type in (bool, int, float, str) or kind.type is Method:
            kinds.append(kind.type)
    return Option(name, tuple(kinds), tuple(choices), optional, default, annotation.help, annotation.role)
