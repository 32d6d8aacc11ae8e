"""One command-line flag for every option of every method, drawn from the catalog."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, make_dataclass
from typing import Annotated, Any

from cyclopts import Group, Parameter

from deepviz import catalog
from deepviz.catalog import Option
from deepviz.cli import UsageError
from deepviz.methods import Method
from deepviz.metrics import Metric
from deepviz.metrics.region import RegionMetric
from deepviz.spelling import Call


def _flag(method: str, option: Option) -> tuple[str, Any, Any]:
    kind = bool | None if option.kinds == (bool,) else str | None
    default = "" if option.default is None else f" [default: {option.default_text}]"
    parameter = Parameter(
        name=f"--{method}-{option.flag}",
        help=f"{option.help}{default}",
        group=Group(f"Options of {method}", sort_key=10),
        show_default=False,
    )
    return _field_name(method, option), Annotated[kind, parameter], field(default=None)


def _field_name(method: str, option: Option) -> str:
    return f"{method}-{option.name}".replace("-", "_")


MethodOptions: type[Any] = make_dataclass(
    "MethodOptions",
    [
        _flag(name, option)
        for name, cls in catalog.METHODS.items()
        if cls.in_default_set and ":" not in name  # others take their options in parentheses
        for option in catalog.options(cls)
    ],
    frozen=True,
)
"""The flags, as one parameter of a command: None where not given."""
MethodOptions.__module__ = __name__  # what make_dataclass leaves there keeps cyclopts from looking inside


Budget = Annotated[
    int | None,
    Parameter(help="Forward passes of one image, for all methods that take such a number, to compare at equal cost."),
]


def built(names: list[str], given: Any, layer: str | None, budget: int | None = None) -> list[Method]:
    """The methods by name, with the options that were given on the command line.

    Raises:
        UsageError: for an unknown method, a value that an option does not take, an option that none of the methods
            has, or a budget that does not suffice.
    """
    flags = {name: value for name, value in vars(given).items() if value is not None}
    builder = _Builder(flags, layer)
    if budget is not None and budget < 1:
        raise UsageError(f"--budget is a number of forward passes, at least 1, got {budget}")
    several = [member for name in names for member in catalog.members(name, budget) or [name]]
    methods = [_within_budget(builder.method(name), budget) for name in dict.fromkeys(several)]
    for name in flags.keys() - builder.used:
        flag = name.replace("_", "-")
        raise UsageError(f"--{flag} has no effect: its method isn't selected; the methods are {', '.join(names)}")
    if layer is not None and "layer" not in builder.used:
        raise UsageError(f"--layer is for methods that take one, not for {', '.join(names)}")
    return methods


def _within_budget(method: Method, budget: int | None) -> Method:
    """The method with so many passes; it is told if it takes more, having no such option.

    Raises:
        UsageError: if so few will not do.
    """
    if budget is None:
        return method
    try:
        method = method.with_budget(budget)
    except ValueError as error:
        raise UsageError(f"--budget {budget}: {method.name}: {error}") from None
    if method.passes() > budget:
        print(
            f"deepviz: {method} takes about {method.passes():.0f} passes, more than the budget of {budget}, which it "
            "has no option for",
            file=sys.stderr,
        )
    return method


METRICS = list(catalog.METRICS)
LOCALISING = [name for name, cls in catalog.METRICS.items() if issubclass(cls, RegionMetric)]
"""The metrics that need to know where the object is."""


def built_metric(text: str) -> Metric:
    """A metric as it is written everywhere: `deletion(steps=20)`.

    Raises:
        UsageError: for an unknown metric, option or value.
    """
    try:
        metric: Metric = catalog.parse(text, Metric)
    except (LookupError, TypeError, ValueError) as error:
        raise UsageError(f"--metric {text}: {error.args[0]}") from None
    return metric


@dataclass(frozen=True)
class _Builder:
    """Makes methods from what was written and from flags, and keeps account of those that it used.

    Flags are for all methods of their name that do not say otherwise in parentheses, also inside others.
    """

    flags: dict[str, str | bool]
    layer: str | None
    used: set[str] = field(default_factory=set)

    def method(self, text: str) -> Method:
        try:
            method: Method = catalog.parse(text, Method, self._make)
        except LookupError as error:
            raise UsageError(str(error.args[0])) from None
        return method

    def _make(self, given: Call, around: tuple[str, ...] = ()) -> Method:
        cls = catalog.find(given.name)
        name = catalog.name_of(cls)
        within = (*around, name)

        def inside(inner: Call) -> Method:
            return self._make(inner, within)

        by_flags = {} if name in around else self._by_flags(name, catalog.options(cls), given, inside)
        try:
            return cls(**by_flags, **catalog.given_options(cls, given, inside))
        except (TypeError, ValueError) as error:
            raise UsageError(f"{name}: {error}") from None

    def _by_flags(
        self, method: str, options: Sequence[Option], given: Call, inside: Callable[[Call], Method]
    ) -> dict[str, Any]:
        """The options that flags give, and parentheses do not."""
        found: dict[str, Any] = {}
        for option in options:
            field_name = _field_name(method, option)
            self.used.add(field_name)
            value: str | bool | None = self.flags.get(field_name)
            if option.role == "layer":
                self.used.add("layer")
                value = self.layer if value is None else value
            if value is None or option.name in given.options:
                continue
            try:
                found[option.name] = value if isinstance(value, bool) else option.parse(value, inside)
            except UsageError:
                raise
            except (ValueError, LookupError) as error:
                raise UsageError(f"--{method}-{option.flag}: {error.args[0]}") from None
        return found
