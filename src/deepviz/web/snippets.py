"""A comparison as Python code and as commands: what to run to get the same maps without the page."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from deepviz import catalog
from deepviz.methods import Method
from deepviz.models import LoadedModel


@dataclass(frozen=True)
class Shown:
    """A row of the page: a photograph by name, and the classes; None for the predicted one."""

    photograph: str
    targets: tuple[int, ...] | None


def as_python(loaded: LoadedModel, rows: Sequence[Shown], methods: Sequence[Method]) -> str:
    """The comparison as a script that calls `deepviz.explain`, once for each choice of classes."""
    names = sorted({name for method in methods for name in _classes(method)})
    made = ", ".join(_call(method) for method in methods)
    lines = ["import deepviz", f"from deepviz.methods import {', '.join(names)}", ""]
    lines += [f"model = {_model(loaded)}", f"methods = [{made}]", "explanations = []"]
    for targets, photographs in _by_targets(rows):
        listed = ", ".join(_photograph(name) for name in photographs)
        target = "" if targets is None else f", target={list(targets)}"
        lines.append(f"explanations += deepviz.explain(model, [{listed}], methods{target})")
    return "\n".join([*lines, ""])


def as_commands(loaded: LoadedModel, rows: Sequence[Shown], methods: Sequence[Method]) -> str:
    """The comparison as `deepviz explain` commands, one for each choice of classes."""
    model = [] if loaded.source == "bundled" else ["--model", loaded.source]
    if loaded.is_random:
        model += ["--weights", "random"]
    flags = [part for method in methods for part in _flags(method)]
    commands = []
    for targets, photographs in _by_targets(rows):
        chosen = [part for target in targets or () for part in ("--target", str(target))]
        files = [f"./{name}" if name.startswith("-") else name for name in photographs]
        words = ["deepviz", "explain", *files, *model, *flags, *chosen]
        commands.append(" ".join(shlex.quote(word) for word in words))
    return "\n".join([*commands, ""])


def _by_targets(rows: Sequence[Shown]) -> list[tuple[tuple[int, ...] | None, list[str]]]:
    """The photographs of each choice of classes: they are explained together."""
    found: dict[tuple[int, ...] | None, list[str]] = {}
    for row in rows:
        found.setdefault(row.targets, []).append(row.photograph)
    return list(found.items())


def _model(loaded: LoadedModel) -> str:
    if loaded.source == "module":
        return f"...  # your {loaded.name}"
    spec = "None" if loaded.source == "bundled" else repr(loaded.source)
    weights = ', weights="random"' if loaded.is_random else ""
    return f"deepviz.load_model({spec}{weights})"


def _photograph(name: str) -> str:
    packaged = {"chelsea.png": 'deepviz.example_photo("chelsea")', "coffee.png": 'deepviz.example_photo("coffee")'}
    return packaged.get(name, repr(name))


def _changed(method: Method) -> dict[str, Any]:
    """The options that are not the defaults."""
    plain = type(method)()
    given = {field.name: getattr(method, field.name) for field in fields(method)}
    return {name: value for name, value in given.items() if value != getattr(plain, name)}


def _classes(method: Method) -> list[str]:
    inner = [value for value in _changed(method).values() if isinstance(value, Method)]
    return [type(method).__name__, *(name for value in inner for name in _classes(value))]


def _call(method: Method) -> str:
    given = ", ".join(
        f"{name}={_call(value) if isinstance(value, Method) else repr(value)}"
        for name, value in _changed(method).items()
    )
    return f"{type(method).__name__}({given})"


def _flags(method: Method, named: bool = True) -> list[str]:
    """`-m smooth-grad --smooth-grad-samples 20`; a method inside another has its own flags, but no -m."""
    stem = catalog.stem(type(method))
    flags = ["-m", stem] if named else []
    for name, value in _changed(method).items():
        flag = f"--{stem}-{name.replace('_', '-')}"
        if isinstance(value, bool):
            flags.append(flag if value else flag.replace(f"--{stem}-", f"--no-{stem}-", 1))
        elif isinstance(value, Method):
            flags += [flag, catalog.stem(type(value)), *_flags(value, named=False)]
        else:
            flags += [flag, "none" if value is None else str(value)]
    return flags
