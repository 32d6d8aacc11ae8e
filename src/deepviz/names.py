"""Finding something by its name, and the nearest names for errors about unknown ones."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from deepviz.errors import TargetError


def nearest(name: str, known: Iterable[str], most: int = 3) -> str:
    """The end of a sentence about an unknown name: `; did you mean 'a' or 'b'?`, or nothing if none is near.

    Example:
        >>> nearest("gradcam", ["grad-cam", "gradient"])
        "; did you mean 'grad-cam' or 'gradient'?"
    """
    options = {option.lower(): option for option in known}
    close = difflib.get_close_matches(name.lower(), options, n=most, cutoff=0.5)
    if not close:
        return ""
    return "; did you mean " + " or ".join(repr(options[option]) for option in close) + "?"


def find_label(label: str, labels: Sequence[str]) -> int:
    """The index of the class called `label`: its label as spelt, or in other capitals, or a name between commas.

    The first of these that any class answers to decides ("cardigan" is the garment, "Cardigan" the dog). An
    underscore is a space.

    Raises:
        TargetError: if no class, or more than one, has that name.

    Example:
        >>> find_label("Tabby_cat", ["red fox", "tabby, tabby cat"])
        1
    """
    found = classes_called(label, labels)
    if len(found) > 1:
        listed = ", ".join(f"{index} ({labels[index]})" for index in found)
        raise TargetError(f"{len(found)} classes are called {label!r}: give one of the indices {listed}")
    if not found:
        raise TargetError(f"no class is called {label!r}{nearest(label.replace('_', ' '), labels)}")
    return found[0]


def classes_called(label: str, labels: Sequence[str]) -> list[int]:
    """The indices of all classes that `label` may mean, as in `find_label`."""
    wanted = _plain(label)
    return (
        [index for index, known in enumerate(labels) if known == label]
        or [index for index, known in enumerate(labels) if _plain(known) == wanted]
        or [index for index, known in enumerate(labels) if wanted in _synonyms(known)]
    )


def _plain(label: str) -> str:
    return " ".join(label.replace("_", " ").casefold().split())


def _synonyms(label: str) -> list[str]:
    return [_plain(name) for name in label.split(",")]
