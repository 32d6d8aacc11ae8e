"""A comparison as Python code and as commands: what to run to get the same maps without the page."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from deepviz import catalog
from deepviz.errors import TargetError
from deepviz.methods import Method
from deepviz.models import LoadedModel, Preprocess
from deepviz.models.loaded import RANDOM
from deepviz.objectives import Logit, parse
from deepviz.web.forms import Target

PAGE = "explanations.html"
FLAGS = {
    "weights": "--weights",
    "num_classes": "--num-classes",
    "labels": "--labels",
    "output": "--output-kind",
    "name": "--name",
    "preprocess": "--preprocess",
}
"""The options of the command line by the arguments of `load_model`."""


@dataclass(frozen=True)
class Shown:
    """A row of the page.

    Args:
        photograph: its path, or what the page calls it.
        targets: the classes, or expressions of them; None for the predicted one.
        example: which example image of the package it is, if it is one.
        uploaded: whether its path is not known.
    """

    photograph: str
    targets: tuple[Target, ...] | None
    example: str | None = None
    uploaded: bool = False


@dataclass(frozen=True)
class Block:
    """What one model's columns show."""

    loaded: LoadedModel
    rows: tuple[Shown, ...]
    methods: tuple[Method, ...]


def as_python(blocks: Sequence[Block]) -> str:
    """The comparison as a script that calls `deepviz.explain`, once for each choice of model and classes, and writes a
    page to look at."""
    blocks = _joined(blocks)
    lines = ["import deepviz", *_imports(method for block in blocks for method in block.methods), ""]
    if any(row.uploaded for block in blocks for row in block.rows):
        lines += ["# uploaded images have no path on the server: fill in your own", ""]
    lines.append("explanations = []")
    assigned: dict[str, str] = {}
    for block in blocks:
        made = ", ".join(_call(method) for method in block.methods)
        for name, value in (("model", _model(block.loaded)), ("methods", f"[{made}]")):
            if assigned.get(name) != value:
                lines.append(f"{name} = {value}")
                assigned[name] = value
        for targets, rows in _by_targets(block.rows):
            listed = ", ".join(_photograph(row) for row in rows)
            target = "" if targets is None else f", target={_named(targets, block.loaded)}"
            lines.append(f"explanations += deepviz.explain(model, [{listed}], methods{target})")
    lines += ["", f'print("open", deepviz.report(explanations, "{PAGE}"))']
    return "\n".join([*lines, ""])


def as_commands(blocks: Sequence[Block]) -> str:
    """The comparison as `deepviz explain`, one line to run: once for each choice of model and classes."""
    commands = [words for block in _joined(blocks) for words in _commands(block)]
    if len(commands) > 1:  # each into a folder of its own: they may be of the same images
        commands = [[*words, "-o", f"deepviz-out/{number}"] for number, words in enumerate(commands, 1)]
    return " && ".join(" ".join(map(shlex.quote, words)) for words in commands) + "\n"


def _commands(block: Block) -> Iterator[list[str]]:
    model = _model_flags(block.loaded)
    flags = [flag for method in block.methods for flag in ("-m", catalog.spell(method))]
    for targets, rows in _by_targets(block.rows):
        written = isinstance(block.loaded.arguments.get("labels", ""), str)
        named = _named(targets or (), block.loaded) if written else targets or ()
        chosen = [word for target in named for word in ("--target", str(target))]
        files = [f"./{row.photograph}" if row.photograph.startswith("-") else row.photograph for row in rows]
        yield ["deepviz", "explain", *files, *model, *flags, *chosen]


def _model_flags(loaded: LoadedModel) -> list[str]:
    """The options that load the model again; what no option says, such as labels without a file, is left out."""
    source = {"bundled": [], "module": ["--model", "package.module:factory"]}
    words = source.get(loaded.source, ["--model", loaded.source])
    said = _said(loaded)
    for name, flag in FLAGS.items():
        if isinstance(said.get(name), (str, int)):
            words += [flag, str(said[name])]
    made = said.get("preprocess")
    return words + (_preprocess_flags(made) if isinstance(made, Preprocess) else [])


def _preprocess_flags(made: Preprocess) -> list[str]:
    height, width = made.input_size
    size = str(made.size) if isinstance(made.size, int) else f"{height}x{width}"
    crop = (made.fit or "squash") if made.crop is None else str(made.crop)
    words = ["--size", size, "--crop", crop, "--interpolation", made.interpolation]
    if len(made.mean) == 3:
        words += ["--mean", *map(str, made.mean), "--std", *map(str, made.std)]
    return words


def _said(loaded: LoadedModel) -> dict[str, Any]:
    """What the model was loaded with."""
    random = {"weights": RANDOM} if loaded.is_random else {}
    return random | dict(loaded.arguments)


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


def _by_targets(rows: Sequence[Shown]) -> list[tuple[tuple[Target, ...] | None, list[Shown]]]:
    """The images of each choice of classes: they are explained together."""
    found: dict[tuple[Target, ...] | None, list[Shown]] = {}
    for row in rows:
        found.setdefault(row.targets, []).append(row)
    return list(found.items())


def _named(targets: Sequence[Target], loaded: LoadedModel) -> list[Target]:
    """Classes by their names instead of their indices, where a name says which."""
    return [_name(target, loaded) for target in targets]


def _name(target: Target, loaded: LoadedModel) -> Target:
    labels = loaded.labels
    if labels is None:
        return target
    meant = Logit(target) if isinstance(target, int) else parse(target)
    named = re.sub(r"logit\((\d+)\)", lambda found: loaded.label(int(found[1])), str(meant))
    try:
        return named if parse(named, labels) == meant else target
    except TargetError:  # a name of several classes, or one that reads as something else
        return target


def _model(loaded: LoadedModel) -> str:
    if loaded.source == "module":
        return f"...  # your {loaded.name}"
    spec = "None" if loaded.source == "bundled" else repr(loaded.source)
    said = _said(loaded)
    arguments = "".join(f", {name}={_literal(value)}" for name, value in said.items())
    unknown = [name for name, value in said.items() if _literal(value) == "..."]
    comment = f"  # fill in your own {' and '.join(unknown)}" if unknown else ""
    return f"deepviz.load_model({spec}{arguments}){comment}"


def _literal(value: Any) -> str:
    """A value as code; "..." for one that has none."""
    if isinstance(value, Preprocess):
        return f"deepviz.{value!r}"
    if isinstance(value, tuple):
        return repr(list(value))
    return repr(value) if isinstance(value, (str, int)) else "..."


def _photograph(row: Shown) -> str:
    return repr(row.photograph) if row.example is None else f'deepviz.example_photo("{row.example}")'


def _classes(method: Method) -> set[type[Method]]:
    inner = [value for value in catalog.changed(method).values() if isinstance(value, Method)]
    return {type(method)}.union(*(map(_classes, inner)))


def _imports(methods: Iterable[Method]) -> list[str]:
    """The lines that import the classes of the methods."""
    found: dict[str, set[str]] = {}
    for cls in set().union(*map(_classes, methods)):
        own = catalog.METHODS.get(catalog.stem(cls)) is cls
        found.setdefault("deepviz.methods" if own else cls.__module__, set()).add(cls.__name__)
    return [f"from {module} import {', '.join(sorted(names))}" for module, names in sorted(found.items())]


def _call(method: Method) -> str:
    given = ", ".join(
        f"{name}={_call(value) if isinstance(value, Method) else repr(value)}"
        for name, value in catalog.changed(method).items()
    )
    return f"{type(method).__name__}({given})"
