"""Finding something by its name: labels, the nearest known names for errors, former names; names of callables."""

from __future__ import annotations

import difflib
import functools
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar, cast

from deepviz.errors import TargetError

T = TypeVar("T", bound=Callable[..., Any])


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
        raise TargetError(f"no class named {label!r}{nearest(label.replace('_', ' '), labels)}")
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


def callable_name(function: Any) -> str:
    """What captions call a callable: by its own name, "lambda" for one without, or by its class.

    Example:
        >>> callable_name(len), callable_name(lambda x: x), callable_name(functools.partial(len))
        ('len', 'lambda', 'len')
    """
    while isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, "__name__", type(function).__name__)).strip("<>")


def stem(cls: type[Any]) -> str:
    """The one name of a method or metric in commands, pages and files: that of its module, `grad-cam`."""
    return cls.__module__.rsplit(".", 1)[-1].replace("_", "-")


def renamed_keywords(**names: str) -> Callable[[T], T]:
    """A decorator of a function or class that still accepts former names of keywords, with a DeprecationWarning.

    Args:
        names: the present name by the former one.

    Raises:
        TypeError: where the decorated function is called with both names of one keyword.

    Example:
        >>> @renamed_keywords(target_class="target")
        ... def draw(*, target): return target
        >>> draw(target=3)
        3
    """

    def decorate(decorated: T) -> T:
        function: Any = decorated.__init__ if isinstance(decorated, type) else decorated  # type: ignore[misc]

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            for old in names.keys() & kwargs.keys():
                new, value = names[old], kwargs.pop(old)
                if new in kwargs:
                    raise TypeError(f"give either {new} or, as it was called before, {old}")
                warnings.warn(f"{old}= is deprecated: use {new}=", DeprecationWarning, stacklevel=2)
                kwargs[new] = value
            return function(*args, **kwargs)

        if not isinstance(decorated, type):
            return cast(T, call)
        decorated.__init__ = call  # type: ignore[misc]
        return decorated

    return decorate
