"""The grammar of spellings such as `smooth-grad(samples=20, of=gradient)`: names and values in a text, not yet resolved
to classes."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

from deepviz.errors import MethodError

T = TypeVar("T")
LONGEST = 10_000
"""Characters of a text that is read."""
DEEPEST = 20


class Word(NamedTuple):
    """A name or number as it was written; in quotes, it can only be a name."""

    text: str
    quoted: bool = False

    def __str__(self) -> str:
        number = not self.quoted and re.fullmatch(r"[-+]?[\d.]+([eE][-+]?\d+)?", self.text)
        return self.text if number else repr(self.text)


class Several(NamedTuple):
    """Values in parentheses or brackets."""

    items: tuple[Written, ...]

    def __str__(self) -> str:
        return f"({', '.join(map(str, self.items))})"


class Call(NamedTuple):
    """A name with options in parentheses."""

    name: str
    options: dict[str, Written]

    def __str__(self) -> str:
        return f"{self.name}(...)"


Written = Word | Several | Call
"""A value as it was written."""
_TOKEN = re.compile(
    r"""\s*(?:
        (?P<mark>[()\[\],=])
        | (?P<quoted>"(?:[^"\\]|\\.)*" | '(?:[^'\\]|\\.)*')
        | (?P<angle><)
        | (?P<word>[^\s()\[\],=<>"'](?:[^()\[\],=<>"']*[^\s()\[\],=<>"'])?)
    )""",
    re.VERBOSE | re.DOTALL,
)


def written(text: str) -> Written:
    """What is written in a text: names, values in parentheses or brackets, and names with options.

    Raises:
        MethodError: if it cannot be read, with the place.

    Example:
        >>> written("grad-cam(layer='layer 4')")
        Call(name='grad-cam', options={'layer': Word(text='layer 4', quoted=True)})
    """
    if len(text) > LONGEST:
        raise MethodError(f"{text[:40]!r}... is too long to read: {len(text)} characters, the most is {LONGEST}")
    reader = _Reader(text)
    found = reader.value(0)
    if reader.next is not None:
        raise reader.refusal("nothing more")
    return found


class _Reader:
    """Reads a text token by token."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.place = 0
        self.next: tuple[str, str] | None = None
        self.advance()

    def advance(self) -> tuple[str, str] | None:
        """The token that was next, its kind and its text; the one after it is next."""
        before = self.next
        if not self.text[self.place :].strip():
            self.next = None
            return before
        found = _TOKEN.match(self.text, self.place)
        if found is None:
            self.next = ("", self.text[self.place :].strip()[:1])
            raise self.refusal("a closed quote" if self.next[1] in "\"'" else "a name or a value")
        assert found.lastgroup is not None
        self.next = (found.lastgroup, found[found.lastgroup])
        self.place = found.end()
        return before

    def refusal(self, wanted: str) -> MethodError:
        """The error about the next token."""
        got = "the end" if self.next is None else repr(self.next[1])
        if self.next is not None and self.next[0] == "angle":
            return MethodError(f"{self.text!r} holds a value that cannot be written: make it in Python")
        return MethodError(
            f"{self.text!r} cannot be read: expected {wanted}, got {got}; write name(option=value, option=value)"
        )

    def value(self, depth: int) -> Written:
        """One value."""
        if depth > DEEPEST:
            raise MethodError(f"{self.text[:40]!r}... is nested more than {DEEPEST} deep")
        token = self.next
        if token is None or token[0] == "angle" or token in (("mark", mark) for mark in ")],="):
            raise self.refusal("a value")
        self.advance()
        kind, text = token
        if kind == "quoted":
            return Word(_unquoted(text), quoted=True)
        if kind == "mark":
            closing = {"(": ")", "[": "]"}[text]
            return Several(tuple(self.items(closing, lambda: self.value(depth + 1))))
        if self.next == ("mark", "("):
            self.advance()
            return Call(text, self.options(depth))
        return Word(text)

    def items(self, closing: str, read: Callable[[], T]) -> Iterator[T]:
        """What stands between commas, up to a closing mark."""
        while self.next != ("mark", closing):
            yield read()
            if self.next == ("mark", ","):
                self.advance()
            elif self.next != ("mark", closing):
                raise self.refusal(f"a comma or {closing!r}")
        self.advance()

    def options(self, depth: int) -> dict[str, Written]:
        """Names with values, up to the closing parenthesis."""
        found: dict[str, Written] = {}
        for name, value in self.items(")", lambda: self.option(depth)):
            if name in found:
                raise MethodError(f"{self.text!r} gives {name} twice")
            found[name] = value
        return found

    def option(self, depth: int) -> tuple[str, Written]:
        """One name with its value."""
        if self.next is None or self.next[0] != "word":
            raise self.refusal("an option's name")
        _, name = self.advance() or ("", "")
        if self.next != ("mark", "="):
            raise self.refusal(f"= after {name!r}")
        self.advance()
        return name.replace("-", "_"), self.value(depth + 1)


def _unquoted(text: str) -> str:
    try:
        return str(ast.literal_eval(text))
    except (ValueError, SyntaxError):
        return text[1:-1]
