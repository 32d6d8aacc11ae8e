"""One command-line flag for every option of every method, drawn from the catalog."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field, make_dataclass
from typing import Annotated, Any

from cyclopts import Group, Parameter

from deepviz import catalog
from deepviz.catalog import Option
from deepviz.cli import UsageError
from deepviz.methods import Method
from deepviz.metrics import Metric
from deepviz.metrics.region import RegionMetric

_NOT_GIVEN = object()


def _flag(method: str, option: Option) -> tuple[str, Any, Any]:
    kind = bool | None if option.kinds == (bool,) else str | None
    default = "" if option.default is None else f" [default: {_shown(option.default)}]"
    parameter = Parameter(
        name=f"--{method}-{option.flag}",
        help=f"{option.help}{default}",
        group=Group(f"Options of {method}", sort_key=10),
        show_default=False,
    )
    return _field_name(method, option), Annotated[kind, parameter], field(default=None)


def _field_name(method: str, option: Option) -> str:
    return f"{method}-{option.name}".replace("-", "_")


def _shown(default: Any) -> str:
    return catalog.stem(type(default)) if isinstance(default, Method) else str(default)


MethodOptions: type[Any] = make_dataclass(
    "MethodOptions",
    [_flag(name, option) for name, cls in catalog.METHODS.items() for option in catalog.options(cls)],
    frozen=True,
)
"""The flags, as one parameter of a command: None where not given."""
MethodOptions.__module__ = __name__  # what make_dataclass leaves there keeps cyclopts from looking inside


def built(names: list[str], given: Any, layer: str | None) -> list[Method]:
    """The methods by name, with the options that were given on the command line.

    Raises:
        UsageError: for an unknown method, a value that an option does not take, or an option that none of the methods
            has.
    """
    flags = {name: value for name, value in vars(given).items() if value is not None}
    builder = _Builder(flags, layer)
    methods = [builder.method(name) for name in dict.fromkeys(names)]
    for name in flags.keys() - builder.used:
        flag = name.replace("_", "-")
        raise UsageError(f"--{flag} is for a method that is not run: the methods are {', '.join(names)}")
    if layer is not None and "layer" not in builder.used:
        raise UsageError(f"--layer is for methods that take one, not for {', '.join(names)}")
    return methods


METRICS = list(catalog.METRICS)
LOCALISING = [name for name, cls in catalog.METRICS.items() if issubclass(cls, RegionMetric)]
"""The metrics that need to know where the object is."""


def built_metric(text: str) -> Metric:
    """A metric by name, with options in parentheses if there are any: `deletion(steps=20)`.

    Raises:
        UsageError: for an unknown metric, option or value.
    """
    name, own = _split(text)
    try:
        return catalog.find_metric(name)(**own)
    except (LookupError, TypeError, ValueError) as error:
        raise UsageError(f"--metric {text}: {error.args[0]}") from None


def _split(text: str) -> tuple[str, dict[str, Any]]:
    """A name and its options, `package.module:Class(depth=3)`: plain values, nothing that is run."""
    name, parenthesis, inside = text.partition("(")
    if not parenthesis:
        return text, {}
    try:
        call = ast.parse(f"_({inside}", mode="eval").body
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and not call.args:
            return name, {_named(given): ast.literal_eval(given.value) for given in call.keywords}
    except (SyntaxError, ValueError):
        pass
    raise UsageError(f"{text!r}: options in parentheses are name=value, with plain values such as 3 or 'word'")


def _named(given: ast.keyword) -> str:
    if given.arg is None:
        raise ValueError("** has no name")
    return given.arg


@dataclass(frozen=True)
class _Builder:
    """Makes methods from flags, and keeps account of those that it used."""

    flags: dict[str, str | bool]
    layer: str | None
    used: set[str] = field(default_factory=set)

    def method(self, name: str) -> Method:
        name, own = _split(name) if ":" in name else (name, {})
        try:
            cls = catalog.find(name)
        except LookupError as error:
            raise UsageError(str(error.args[0])) from None
        stem = catalog.stem(cls)
        found = {option.name: self._value(stem, option) for option in catalog.options(cls)}
        try:
            return cls(**{option: value for option, value in found.items() if value is not _NOT_GIVEN} | own)
        except (TypeError, ValueError) as error:
            raise UsageError(f"{name if own else stem}: {error}") from None

    def _value(self, stem: str, option: Option) -> Any:
        field_name = _field_name(stem, option)
        self.used.add(field_name)
        value: str | bool | None = self.flags.get(field_name)
        if option.role == "layer":
            self.used.add("layer")
            value = self.layer if value is None else value
        if value is None:
            return _NOT_GIVEN
        if isinstance(value, bool):
            return value
        if Method in option.kinds and value != stem:
            return self.method(value)  # with its own flags
        try:
            return option.parse(value)
        except (ValueError, LookupError) as error:
            raise UsageError(f"--{stem}-{option.flag}: {error.args[0]}") from None
