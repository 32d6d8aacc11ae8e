"""A comparison as Python code and as commands: what to run to get the same maps without the page."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from deepviz import catalog
from deepviz.methods import Method
from deepviz.models import LoadedModel


@dataclass(frozen=True)
class Shown:
    """A row of the page.

    Args:
        photograph: its path, or what the page calls it.
        targets: the classes; None for the predicted one.
        example: which example photograph of the package it is, if it is one.
        uploaded: whether its path is not known.
    """

    photograph: str
    targets: tuple[int, ...] | None
    example: str | None = None
    uploaded: bool = False


@dataclass(frozen=True)
class Block:
    """What one model's columns show."""

    loaded: LoadedModel
    rows: tuple[Shown, ...]
    methods: tuple[Method, ...]


def as_python(blocks: Sequence[Block]) -> str:
    """The comparison as a script that calls `deepviz.explain`, once for each choice of model and classes."""
    blocks = _joined(blocks)
    names = sorted({name for block in blocks for method in block.methods for name in _classes(method)})
    lines = ["import deepviz", f"from deepviz.methods import {', '.join(names)}", ""]
    if any(row.uploaded for block in blocks for row in block.rows):
        lines += ["# photographs that were uploaded have no path here: give theirs", ""]
    lines.append("explanations = []")
    said: dict[str, str] = {}
    for block in blocks:
        made = ", ".join(_call(method) for method in block.methods)
        for name, value in (("model", _model(block.loaded)), ("methods", f"[{made}]")):
            if said.get(name) != value:
                lines.append(f"{name} = {value}")
                said[name] = value
        for targets, rows in _by_targets(block.rows):
            listed = ", ".join(_photograph(row) for row in rows)
            target = "" if targets is None else f", target={list(targets)}"
            lines.append(f"explanations += deepviz.explain(model, [{listed}], methods{target})")
    return "\n".join([*lines, ""])


def as_commands(blocks: Sequence[Block]) -> str:
    """The comparison as `deepviz explain` commands, one for each choice of model, layer and classes."""
    commands = [words for block in blocks for words in _commands(block)]
    if len(commands) > 1:  # each into a folder of its own: they may be of the same photographs
        commands = [[*words, "-o", f"deepviz-out/{number}"] for number, words in enumerate(commands, 1)]
    return "\n".join([*(" ".join(map(shlex.quote, words)) for words in commands), ""])


def _commands(block: Block) -> Iterator[list[str]]:
    model = [] if block.loaded.source == "bundled" else ["--model", block.loaded.source]
    if block.loaded.is_random:
        model += ["--weights", "random"]
    flags = [flag for method in block.methods for flag in _flags(method)]
    for targets, rows in _by_targets(block.rows):
        chosen = [word for target in targets or () for word in ("--target", str(target))]
        files = [f"./{row.photograph}" if row.photograph.startswith("-") else row.photograph for row in rows]
        yield ["deepviz", "explain", *files, *model, *flags, *chosen]


def _joined(blocks: Sequence[Block]) -> list[Block]:
    """Blocks of the same model and rows as one, with all of their methods."""
    found: list[Block] = []
    for block in blocks:
        same = next((one for one in found if one.loaded is block.loaded and one.rows == block.rows), None)
        if same is None:
            found.append(block)
        else:
            found[found.index(same)] = replace(same, methods=same.methods + block.methods)
    return found


def _by_targets(rows: Sequence[Shown]) -> list[tuple[tuple[int, ...] | None, list[Shown]]]:
    """The photographs of each choice of classes: they are explained together."""
    found: dict[tuple[int, ...] | None, list[Shown]] = {}
    for row in rows:
        found.setdefault(row.targets, []).append(row)
    return list(found.items())


def _model(loaded: LoadedModel) -> str:
    if loaded.source == "module":
        return f"...  # your {loaded.name}"
    spec = "None" if loaded.source == "bundled" else repr(loaded.source)
    weights = ', weights="random"' if loaded.is_random else ""
    return f"deepviz.load_model({spec}{weights})"


def _photograph(row: Shown) -> str:
    return repr(row.photograph) if row.example is None else f'deepviz.example_photo("{row.example}")'


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
