"""Names of classes: reading them, and finding a class by its name."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from deepviz.errors import ModelError
from deepviz.names import find_label as find_label


@cache
def imagenet_labels() -> tuple[str, ...]:
    """The 1000 classes of ImageNet-1k (ILSVRC 2012), in the usual order; no name occurs twice.

    The names are torchvision's: WordNet's, with a word added where two classes share one ("crane bird", "crane").

    Example:
        >>> imagenet_labels()[282]
        'tiger cat'
    """
    return _lines(Path(__file__).with_name("imagenet_labels.txt"))


def hf_labels(config: Any) -> tuple[str, ...] | None:
    """The names of the classes in a configuration of transformers; None if it has none of its own."""
    named = {int(index): str(label) for index, label in config.id2label.items()}
    if all(label == f"LABEL_{index}" for index, label in named.items()):
        return None
    return tuple(named.get(index, f"class {index}") for index in range(max(named) + 1))


def imagenet_label_of(synset: str, labels: Iterable[str]) -> str | None:
    """The class that WordNet's name stands for, "n02123045" or "n02123045-tabby", if these are ImageNet's classes.

    Example:
        >>> imagenet_label_of("n02123045", imagenet_labels())
        'tabby'
    """
    found = _imagenet_synsets().get(synset[:9]) if synset[9:10] in ("", "-", "_", " ") else None
    return imagenet_labels()[found] if found is not None and tuple(labels) == imagenet_labels() else None


@cache
def _imagenet_synsets() -> dict[str, int]:
    """The index of each class by the name of its synset."""
    return {name: index for index, name in enumerate(_lines(Path(__file__).with_name("imagenet_synsets.txt")))}


def read_labels(labels: str | Path | Iterable[str]) -> tuple[str, ...]:
    """Labels as they are given: a sequence, a .txt file (one a line) or a .json file.

    The JSON is a list, or an object from index to label (or to [identifier, label]).

    Raises:
        ModelError: if the file does not exist or holds something else.
    """
    if not isinstance(labels, (str, Path)):
        return tuple(str(label) for label in labels)
    path = Path(labels)
    if not path.is_file():
        raise ModelError(f"labels file {path} does not exist")
    try:
        found = _from_json(path) if path.suffix.lower() == ".json" else _lines(path)
    except (ValueError, TypeError, LookupError) as error:
        raise ModelError(f"labels file {path} holds no labels: {str(error).splitlines()[0]}") from error
    if not found:
        raise ModelError(f"labels file {path} is empty")
    return found


def _lines(path: Path) -> tuple[str, ...]:
    return tuple(path.read_text(encoding="utf-8").strip().splitlines())


def _from_json(path: Path) -> tuple[str, ...]:
    held = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(held, dict):
        held = [held[str(index)] for index in range(len(held))]
    if not isinstance(held, list):
        raise TypeError(f"a list or an object was expected, not {type(held).__name__}")
    return tuple(str(entry[-1] if isinstance(entry, list) else entry) for entry in held)
