"""Names of layers: the path of a module, with the number of a call where it is called several times; and in words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from deepviz.errors import LayerError

MARK = "#"
_PASSED_OVER = re.compile(r"(Norm|Dropout|DropPath|Identity|Pad)(\dd)?$")
"""Ends of the names of classes after which a layer is not named: what they normalise or hand on says more."""


def split_call(layer: str) -> tuple[str, int | None]:
    """The module's path, and which of its calls is meant.

    Raises:
        LayerError: if no call's number follows the "#".

    Example:
        >>> split_call("relu#2"), split_call("relu")
        (('relu', 2), ('relu', None))
    """
    path, mark, number = layer.partition(MARK)
    if mark and not (number.isdecimal() and int(number) > 0):
        raise LayerError(f"layer {layer!r}: after the # comes the number of a call, from 1 up, such as {path + '#2'!r}")
    return path, int(number) if mark else None


def path_of(layer: str) -> str:
    """The path of the module, whichever call is meant."""
    return layer.partition(MARK)[0]


def numbered(paths: Sequence[str]) -> list[str]:
    """The name of each call, given the paths of the modules in the order of their calls.

    Example:
        >>> numbered(["conv", "relu", "fc", "relu"])
        ['conv', 'relu#1', 'fc', 'relu#2']
    """
    total, so_far = Counter(paths), Counter[str]()
    names = []
    for path in paths:
        so_far[path] += 1
        names.append(call_name(path, so_far[path]) if total[path] > 1 else path)
    return names


def call_name(path: str, number: int) -> str:
    """The name of one call of a module that is called several times."""
    return f"{path}{MARK}{number}"


def is_call(layer: str) -> bool:
    """Whether the name has a call's number."""
    return MARK in layer


def same_call(layer: str, name: str) -> bool:
    """Whether two names are of the same call: "relu" and "relu#1" are the first.

    Example:
        >>> same_call("relu", "relu#1"), same_call("relu#2", "relu#1")
        (True, False)
    """
    (path, call), (other, number) = split_call(layer), split_call(name)
    return path == other and (call or 1) == (number or 1)


def named(layer: str, title: str | None) -> str:
    """A layer as people read it who may type it: its name, and its title if that says more.

    Example:
        >>> named("act#2", "ReLU6 after b"), named("act#2", "ReLU6 after b (act#2)"), named("conv", None)
        ('act#2 (ReLU6 after b)', 'act#2 (ReLU6 after b)', 'conv')
    """
    title = (title or layer).removesuffix(f" ({layer})")
    return layer if title == layer else f"{layer} ({title})"


def titles(calls: Iterable[tuple[str, str]]) -> dict[str, str]:
    """What layers are called where people read it, by name: the numbered calls of a module by its class and by what
    was called before, all others by their names.

    Args:
        calls: the name of each, and the class of its module, in the order of answering.

    Example:
        >>> titles([("a", "Conv2d"), ("act#1", "ReLU6"), ("b", "Conv2d"), ("bn", "BatchNorm2d"), ("act#2", "ReLU6")])
        {'a': 'a', 'act#1': 'ReLU6 after a', 'b': 'b', 'bn': 'bn', 'act#2': 'ReLU6 after b'}
    """
    found: dict[str, str] = {}
    before = ""
    for name, kind in calls:
        if not is_call(name):
            found[name] = name
            if not _PASSED_OVER.search(kind):
                before = name
        else:
            found[name] = f"{kind} after {before}" if before else f"{kind} at the input"
    counts = Counter(found.values())
    return {name: title if counts[title] == 1 else f"{title} ({name})" for name, title in found.items()}
