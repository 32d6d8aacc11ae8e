"""One command-line flag for every option of every method, drawn from the catalog."""

from __future__ import annotations

from dataclasses import field, make_dataclass
from typing import Annotated, Any

from cyclopts import Group, Parameter

from deepviz import catalog
from deepviz.catalog import Option
from deepviz.cli import UsageError
from deepviz.methods import Method


def _flag(method: str, option: Option) -> tuple[str, Any, Any]:
    kind = bool | None if option.kinds == (bool,) else str | None
    default = "" if option.default is None else f" [default: {_shown(option.default)}]"
    parameter = Parameter(
        name=f"--{method}-{option.flag}",
        help=f"{option.help}{default}",
        group=Group(f"Options of {method}", sort_key=10),
        show_default=False,
    )
    return f"{method}-{option.name}".replace("-", "_"), Annotated[kind, parameter], field(default=None)


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
        UsageError: for an unknown method, or a value that an option does not take.
    """
    return [_method(name, given, layer) for name in names]


def _method(name: str, given: Any, layer: str | None) -> Method:
    try:
        cls = catalog.find(name)
    except LookupError as error:
        raise UsageError(str(error.args[0])) from None
    stem, values = catalog.stem(cls), {}
    for option in catalog.options(cls):
        text = getattr(given, f"{stem}-{option.name}".replace("-", "_"), None)
        if text is None and option.name == "layer":
            text = layer
        if text is not None:
            values[option.name] = _parsed(stem, option, text)
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{stem}: {error}") from None


def _parsed(stem: str, option: Option, text: str | bool) -> Any:
    if isinstance(text, bool):
        return text
    try:
        return option.parse(text)
    except (ValueError, LookupError) as error:
        raise UsageError(f"--{stem}-{option.flag}: {error.args[0]}") from None
