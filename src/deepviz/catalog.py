"""Which methods and metrics exist, their options, and how values are written.

Commands, pages, docs and tests use it. A value has one spelling everywhere, `smooth-grad(samples=20)`: `spell`
writes it, `parse` reads it, and `key` writes all of it, which identifies a value.
"""

from __future__ import annotations

import builtins
import importlib
import inspect
import re
import types
import typing
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any, Literal, NamedTuple, TypeVar, get_args, get_origin

import torch
from torch import Tensor, nn

import deepviz.methods
import deepviz.metrics
from deepviz.errors import MethodError
from deepviz.methods.method import Method
from deepviz.metrics.metric import Metric
from deepviz.names import callable_name, nearest, stem
from deepviz.options import Annotation, Frozen, Ge, Kind, annotated, content, digest, having, identity
from deepviz.spelling import Call, Several, Word, Written, written

__all__ = [
    "FAMILY_TITLES",
    "METHODS",
    "METRICS",
    "Option",
    "default_set",
    "families",
    "family",
    "family_of",
    "find",
    "find_metric",
    "key",
    "members",
    "method",
    "options",
    "parse",
    "register",
    "spell",
    "stem",
    "summary",
]

T = TypeVar("T")
WRITTEN_OUT = 64
"""Values of a tensor that are written one by one."""
WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a name",
    tuple: "whole numbers in parentheses",
    Tensor: "numbers in brackets",
    Method: "a method",
}
"""What can be written of an option's kinds, in words."""


Making = Callable[[Call], Any]
"""From what was written to the value."""


@dataclass(frozen=True)
class Option:
    """One option of a method: a field, as its annotation describes it.

    Args:
        name: of the field.
        kinds: the types that can be written, out of bool, int, float, str, tuple, Tensor and `Method`.
        choices: the words that it takes.
        optional: whether it also takes None.
        default: its value when it is not given; `MISSING` if it has none.
        help: one sentence.
        role: what it is for, if it says so: layer, grid, seed or baseline.
        annotation: all that its annotation says.
    """

    name: str
    kinds: tuple[type, ...]
    choices: tuple[str, ...]
    optional: bool
    default: Any
    help: str
    role: str | None
    annotation: Annotation

    @property
    def flag(self) -> str:
        """As part of a command-line flag."""
        return self.name.replace("_", "-")

    @property
    def default_text(self) -> str:
        """The default as it is written."""
        return spell(self.default) if isinstance(self.default, Method) else str(self.default)

    def parse(self, text: str, inside: Making | None = None) -> Any:
        """The value that `text` stands for, a method made by `inside`, by default as it stands.

        Raises:
            ValueError: if it is none of this option's.
        """
        inside = inside or make
        if str in self.kinds:
            return self.read(Word(text), inside)  # a layer's name may hold anything
        items = tuple in self.kinds and text[:1] not in ("(", "[") and text.lower() != "none"
        try:
            given = written(f"({text})" if items else text)
        except MethodError:
            raise ValueError(self._refusal(Word(text))) from None
        return self.read(given, inside)

    def read(self, given: Written, make: Making) -> Any:
        """The value that was written, methods inside it made by `make`.

        Raises:
            ValueError: if it is none of this option's.
        """
        try:
            return _read_any(given, self.annotation.kinds, make)
        except _OtherKind:
            raise ValueError(self._refusal(given)) from None

    def _refusal(self, given: Written) -> str:
        hint = nearest(given.text, self.choices) if isinstance(given, Word) else ""
        return f"{self.name} must be {self.annotation.words}, got {given}{hint}"

    @property
    def takes(self) -> str:
        """In words, what the option takes."""
        named = [
            "names in parentheses" if (kind, self.role) == (tuple, "layers") else WORDS[kind] for kind in self.kinds
        ]
        takes = [*named, *self.choices, *(["none"] if self.optional else [])] or ["what Python alone can make"]
        return " or ".join(filter(None, [", ".join(takes[:-1]), takes[-1]]))


class _OtherKind(Exception):
    """What was written is no value of this kind."""


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


def register(cls: type[Method]) -> str:
    """Add a method of another package to those that this process offers; `deepviz serve --method` does it.

    Returns:
        Its name, `package.module:Class`.
    """
    name = name_of(cls)
    METHODS.setdefault(name, cls)
    return name


def default_set(black_box: bool = False) -> list[str]:
    """The methods that "all" stands for, by name; of a model that is a plain function, the family of those that need
    forward passes alone."""
    if black_box:
        return members("perturbation") or []
    return [name for name, cls in METHODS.items() if cls.in_default_set]


def families() -> dict[str, list[str]]:
    """The methods of each family, by name: those of `deepviz.methods.cams` are "cams"."""
    found: dict[str, list[str]] = {}
    for name, cls in METHODS.items():
        if ":" not in name:
            found.setdefault(cls.__module__.split(".")[-2], []).append(name)
    return found


MOST_PASSES = 1000
"""Passes of one map, at most, of a method that a family's name stands for."""
FAMILY_TITLES = {
    "gradients": "Gradients and paths",
    "cams": "Class activation maps",
    "attention": "Transformer attention",
    "perturbation": "Black box",
}
"""What people call the families."""


def family_of(name: str) -> str:
    """The family that a method belongs to, "others" for one of another package."""
    return next((family for family, names in families().items() if name in names), "others")


def members(name: str, budget: int | None = None) -> list[str] | None:
    """The methods that "all" (a chosen set) or the name of a family stands for; None for any other name.

    Of a family, methods that take more than `MOST_PASSES`, with `budget` if they take one, are left out: they are asked
    for by their own names.
    """
    if name == "all":
        return default_set()
    family = families().get(name)

    def passes(name: str) -> float:
        usual = METHODS[name]()
        return (usual if budget is None else usual.with_budget(budget)).passes()

    return family and [one for one in family if passes(one) <= MOST_PASSES]


FEW_PASSES = 16
"""Forward passes of the cheapest method that takes a budget."""


def cheapest(cls: type[Method]) -> Method:
    """A method with as little work as its bounds allow: enough to see whether it applies to a model."""
    found = cls()
    for option in options(cls):
        lowest = max(
            (bound.value for kind in option.annotation.kinds for bound in kind.bounds if isinstance(bound, Ge)),
            default=None,
        )
        if option.role == "budget":  # its lowest value does not suffice for more than one part
            found = replace(found, **{option.name: FEW_PASSES})
        elif int in option.kinds and lowest is not None:
            less = replace(found, **{option.name: int(lowest)})
            found = less if less.passes() < found.passes() else found
    return found


def options(cls: Any) -> tuple[Option, ...]:
    """The options of a method, or of another frozen value: its fields, with type, default and description."""
    found = annotated(cls)
    given = sorted((field for field in fields(cls) if field.init), key=lambda field: bool(field.kw_only))
    return tuple(_option(field.name, found[field.name], _default(field)) for field in given)


def summary(method_class: type[Method]) -> str:
    """The first line of the docstring."""
    return (method_class.__doc__ or "").strip().split("\n")[0]


def family(cls: type[Method]) -> Literal["input", "layer", "attention", "black-box", "composed"]:
    """What a method is, by what it is made of and what it needs."""
    if any(Method in option.kinds for option in options(cls)):
        return "composed"
    if cls.needs.attention:
        return "attention"
    return "layer" if cls.needs.layer else "black-box" if cls.needs.black_box else "input"


def find(name: str) -> type[Method]:
    """A method by its stem, or one of another package as `package.module:Class`.

    Raises:
        MethodError: if there is none; with the nearest names.
    """
    return _find(name, METHODS, Method)


def find_metric(name: str) -> type[Metric]:
    """A metric by its stem, or one of another package as `package.module:Class`.

    Raises:
        MethodError: if there is none; with the nearest names.
    """
    return _find(name, METRICS, Metric)


def _find(name: str, known: dict[str, type[T]], kind: type[Any]) -> type[T]:
    if name in known:
        return known[name]
    word = kind.__name__.lower()
    if ":" in name:
        return _from_package(name, kind, word)  # type: ignore[no-any-return]
    spelled = {**{key: key for key in known}, **{cls.__name__: key for key, cls in known.items()}}
    for spelling, key in spelled.items():
        if _bare(spelling) == _bare(name):
            return known[key]
    hint = nearest(name, known) or f"; there are {', '.join(known)}"
    raise MethodError(f"no {word} {name!r}{hint}")


def method(name: str, **given: Any) -> Method:
    """A method with options: `method("smooth-grad", samples=20)`."""
    return find(name)(**given)


def parse(text: str, kind: type[Any] | None = None, make: Making | None = None) -> Any:
    """Read a method or metric from text, as `spell` writes it; one of another package as `package.module:Class(...)`.

    Args:
        text: a name, with options in parentheses if they are not the defaults.
        kind: `Method` or `Metric`, if only these will do.
        make: makes the value of what was written, here and inside it; by default as it stands.

    Raises:
        MethodError: if there is no such method or metric, or no such option, or the text is none.
        TypeError, ValueError: for a value that an option does not take.

    Example:
        >>> parse("smooth-grad(samples=20, of=guided-backprop)")
        SmoothGrad(of=GuidedBackprop(), samples=20, noise=0.15, statistic='mean', seed=0)
    """
    given = written(text)
    if isinstance(given, Word):
        given = Call(given.text, {})
    if isinstance(given, Several):
        raise MethodError(f"{text!r} is no method: write its name, and options in parentheses")
    return (make or _maker(kind))(given)


def make(given: Call, find: Callable[[str], type[Any]] = find, inside: Making | None = None) -> Any:
    """The value that was written.

    Args:
        given: the name and options.
        find: the class of a name.
        inside: makes the methods inside it; by default as they stand.

    Raises:
        MethodError: if there is no such name or option.
        TypeError, ValueError: for a value that an option does not take.
    """
    cls = find(given.name)
    return cls(**given_options(cls, given, inside or make))


def given_options(cls: type[Any], given: Call, inside: Making) -> dict[str, Any]:
    """The options that were written, by name, methods inside them made by `inside`.

    Raises:
        MethodError: if there is no such option.
        ValueError: for a value that an option does not take.
    """
    known = {option.name: option for option in options(cls)}
    for name in given.options:
        if name not in known:
            hint = nearest(name, known) or (f"; there are {', '.join(known)}" if known else "; it has none")
            raise MethodError(f"{given.name} has no option {name!r}{hint}")
    return {name: known[name].read(value, inside) for name, value in given.options.items()}


def _maker(kind: type[Any] | None) -> Making:
    def find_either(name: str) -> type[Any]:
        try:
            return find_metric(name)
        except MethodError:
            return find(name)

    search = {Method: find, Metric: find_metric}.get(kind, find_either)  # type: ignore[arg-type]
    return lambda given: make(given, search)


def spell(value: Any) -> str:
    """A method or metric as text: its name, with the options that are not the defaults.

    Of what cannot be written (a module, a function, a large tensor) something is put in angle brackets, which `parse`
    does not read.

    Example:
        >>> from deepviz.methods import GuidedBackprop, SmoothGrad
        >>> spell(SmoothGrad(of=GuidedBackprop(), samples=20))
        'smooth-grad(of=guided-backprop, samples=20)'
    """
    return _spelled_value(value, _Spelling(whole=False))


def key(value: Any, layer: str | None = None) -> str:
    """The identity of a method or metric, as text with all of its options: equal for equal values only.

    Args:
        value: the value.
        layer: the layer that it explained; it stands for one that was found, or given as a module.

    Example:
        >>> from deepviz.methods import GradCAM
        >>> key(GradCAM(), "layer4")
        'grad-cam(layer=layer4, relu=True, layers=None, join=maximum, grid=None, skip=None)'
        >>> key(GradCAM("layer4")) == key(GradCAM(), "layer4")
        True
    """
    return _spelled_value(value, _Spelling(whole=True, layer=layer))


def spelled_options(value: Any) -> dict[str, str]:
    """All options of a method or metric, each as it is written."""
    return _spelled_options(value, _Spelling(whole=True))


class _Spelling(NamedTuple):
    """How a value is written: with all options and exactly, or for people."""

    whole: bool
    layer: str | None = None


def _spelled_value(value: Any, how: _Spelling) -> str:
    name = name_of(type(value))
    inside = ", ".join(f"{option}={text}" for option, text in _spelled_options(value, how).items())
    return f"{name}({inside})" if inside else name


def _spelled_options(value: Any, how: _Spelling) -> dict[str, str]:
    found: dict[str, str] = {}
    several = any(getattr(value, name) is not None for name in having(type(value), "layers"))
    for option in options(type(value)):
        given = getattr(value, option.name)
        if (
            how.layer is not None
            and not several
            and option.role == "layer"
            and (given is None or isinstance(given, nn.Module))
        ):
            given = how.layer
        if how.whole or not _is_default(given, option):
            found[option.name] = _spelled(given, option, how)
    return found


def changed(value: Any) -> dict[str, Any]:
    """The options that are not the defaults, by name."""
    given = [(option, getattr(value, option.name)) for option in options(type(value))]
    return {option.name: one for option, one in given if not _is_default(one, option)}


def _is_default(value: Any, option: Option) -> bool:
    return option.default is not MISSING and content(value) == content(option.default)


def _spelled(value: Any, option: Option, how: _Spelling) -> str:
    if isinstance(value, Frozen):
        return _spelled_value(value, how)
    if isinstance(value, str):
        return _spelled_name(value, option)
    if value is None or isinstance(value, (bool, int, float)):
        return repr(value)
    if isinstance(value, (tuple, list)):
        items = [_spelled(item, option, how) for item in value]
        return f"({', '.join(items)}{',' if len(items) == 1 else ''})"
    if isinstance(value, Tensor):
        return _spelled_tensor(value, how)
    return f"<{identity(value)}>" if how.whole else f"<{callable_name(value)}>"


def _spelled_name(text: str, option: Option) -> str:
    """A name without quotes, where that reads as itself."""
    if re.fullmatch(r"[\w.][\w.\-/:]*", text):
        try:
            if option.read(Word(text), make) == text:
                return text
        except (LookupError, ValueError, TypeError):
            pass
    return repr(text)


def _spelled_tensor(value: Tensor, how: _Spelling) -> str:
    kind = str(value.dtype).removeprefix("torch.")
    if 0 < value.numel() <= WRITTEN_OUT and value.ndim > 0 and kind in ("float32", "int64", "bool"):
        return str(value.tolist())
    shape = "x".join(map(str, value.shape)) or "scalar"
    return f"<tensor {shape} {kind} {digest(value)[: 64 if how.whole else 8]}>"


def name_of(cls: type[Any]) -> str:
    """The name of a class in spellings: its stem if it is in the catalog, else `package.module:Class`."""
    known = METHODS.get(stem(cls)) or METRICS.get(stem(cls))
    return stem(cls) if known is cls else f"{cls.__module__}:{cls.__qualname__}"


def _bare(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "").replace(" ", "")


def _from_package(name: str, kind: type[Any], word: str) -> Any:
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
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
        plain = get_origin(kind.type) or kind.type
        if kind.type is type(None):
            optional = True
        elif plain is Literal:
            choices.extend(map(str, get_args(kind.type)))
        elif plain in WORDS:
            kinds.append(plain)
    return Option(name, tuple(kinds), tuple(choices), optional, default, annotation.help, annotation.role, annotation)


def _read_any(given: Written, kinds: Sequence[Kind], make: Making) -> Any:
    """What was written, as a value of the first of some kinds that it can be of; any text is a name, which is last.

    Raises:
        _OtherKind: if it is of none.
    """
    for kind in sorted(kinds, key=lambda kind: _READ.index(_plain(kind)) if _plain(kind) in _READ else 0):
        try:
            return _read(given, kind, make)
        except _OtherKind:
            continue
    raise _OtherKind


_READ = (type(None), Literal, bool, Method, int, float, tuple, Tensor, str)
_FLAGS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def _plain(kind: Kind) -> Any:
    return get_origin(kind.type) or kind.type


def _read(given: Written, kind: Kind, make: Making) -> Any:
    match _plain(kind), given:
        case builtins.str, Word(text):
            return text
        case typing.Literal, Word(text):
            for one in get_args(kind.type):
                if str(one) == text:
                    return one
        case types.NoneType, Word(text, False) if text.lower() == "none":
            return None
        case builtins.bool, Word(text, False) if text.lower() in _FLAGS:
            return _FLAGS[text.lower()]
        case (builtins.int | builtins.float) as number, Word(text, False):
            with suppress(ValueError):
                return number(text)
        case builtins.tuple, Several(items):
            each = kind.items * (len(items) if get_args(kind.type)[-1] is ... else 1)
            if len(each) == len(items):
                return tuple(_read_any(one, kinds, make) for one, kinds in zip(items, each, strict=True))
        case torch.Tensor, Several():
            with suppress(ValueError, TypeError, RuntimeError):  # rows of unlike lengths
                return torch.tensor(_numbers(given))
        case one, Word(text, False) if one is Method:
            return make(Call(text, {}))
        case one, Call() if one is Method:
            return make(given)
    raise _OtherKind


def _numbers(given: Written) -> Any:
    match given:
        case Several(items):
            return [_numbers(item) for item in items]
        case Word(text, False) if text.lower() in ("true", "false"):
            return text.lower() == "true"
        case Word(text, False):
            return int(text) if re.fullmatch(r"[-+]?\d+", text) else float(text)
    raise _OtherKind
