"""Objectives as the command line writes them: `fox - wolf`, `logit(281) - 0.5 * logit(282)`, `channel("layer4", 3)`.

    expression = term { (" + " | " - ") term }
    term       = { number " * " } operand { " * " number }
    operand    = index | call | label | "label in quotes"

Operators stand between spaces. A label may hold operators itself, or be a number that is another class's index; where
that leaves more than one reading, the user has to state which is meant: `"a - b"`, `label("7")` or `logit(7)`.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from deepviz.errors import DeepVizError, TargetError
from deepviz.names import classes_called, find_label, nearest
from deepviz.objectives.box import Box, Boxes, Detection
from deepviz.objectives.classes import Logit, Predicted, Probability
from deepviz.objectives.finer import Finer
from deepviz.objectives.image import L2, TotalVariation
from deepviz.objectives.layers import Channel, Diversity, Energy, Neuron
from deepviz.objectives.objective import Objective, Sum, literal
from deepviz.objectives.output import Output
from deepviz.objectives.pixels import Pixels, Regions
from deepviz.objectives.rest import ReST
from deepviz.objectives.similarity import Similarity
from deepviz.objectives.text import Text

CALLS: dict[str, Callable[..., Objective]] = {
    "logit": Logit,
    "label": Logit,
    "probability": Probability,
    "predicted": Predicted,
    "rest": ReST,
    "finer": Finer,
    "output": Output,
    "box": Box,
    "boxes": Boxes,
    "detection": Detection,
    "pixels": Pixels,
    "regions": Regions,
    "similarity": Similarity,
    "text": Text,
    "channel": Channel,
    "neuron": Neuron,
    "energy": Energy,
    "diversity": Diversity,
    "l2": L2,
    "total-variation": TotalVariation,
}
"""What can be called in an expression."""
IN_PYTHON = ("direction", "match")
"""What holds tensors, which an expression cannot."""
ALL_BOXES = "all-boxes"
LONGEST = 2000
MOST_READINGS = 64
OF_CLASSES = ("logit", "label", "probability", "rest", "finer", "box", "boxes", "pixels")
"""Calls whose first argument is a class, which needs no quotes: `box(traffic light)`."""
_BARE = re.compile(r"^\s*([^\W\d][\w .'-]*?)\s*(?=,|$)")
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_CALL = re.compile(r"([a-z][a-z0-9_-]*)\s*\((.*)\)", re.DOTALL)

Reading = tuple[float, Objective]


def parse(text: str, labels: Sequence[str] | None = None, *, integers: bool = True) -> Objective:
    """The objective that a text stands for: an index; else a label, or a synonym, of just that name; else an
    expression.

    Args:
        text: what was written.
        labels: the classes' names, if they are known; without them, what is no call is taken as a label.
        integers: whether a whole number alone is an index; else it is a label before it is one.

    Raises:
        TargetError: if it has no reading, or more than one; the message lists these.

    Example:
        >>> print(parse("fox - wolf", ["fox", "wolf"]))
        logit(0) - logit(1)
        >>> print(parse('channel("layer4", 3)'))
        channel("layer4", 3)
    """
    text = text.strip()
    if not text:
        raise TargetError("a target must not be empty: give an index, a label or an expression")
    if len(text) > LONGEST:
        raise TargetError(f"a target of {len(text)} characters is too long: the most is {LONGEST}")
    if text == ALL_BOXES and not (labels and classes_called(text, labels)):
        return Boxes()
    if integers and re.fullmatch(r"[-+]?\d+", text):
        return Logit(int(text))
    if labels is not None and classes_called(text, labels):
        return Logit(find_label(text, labels))
    found: dict[Objective, None] = {}
    for reading in _readings(text, labels):
        found[_summed(reading)] = None
        if len(found) > MOST_READINGS:
            break
    if len(found) > 1:
        ways = "; ".join(_unambiguous(one, labels, text) for one in found)
        raise TargetError(f"{text!r} can be read in {len(found)} ways, of which one must be given: {ways}")
    if not found:
        raise _unread(text, labels)
    return next(iter(found))


def _summed(terms: list[Reading]) -> Objective:
    (weight, objective), *more = terms
    return objective if not more and weight == 1 else Sum(tuple(terms))


def _readings(text: str, labels: Sequence[str] | None) -> Iterator[list[Reading]]:
    """All ways to read a sum of terms."""
    for term in _terms(text, labels):
        yield [term]
    # the last operator first: what stands left of it is read in all ways
    for start, operator in _operators(text, "+-"):
        left, right = text[:start].strip(), text[start + 3 :].strip()
        if not left or not right:
            continue
        rights = list(_terms(right, labels))
        if not rights:
            continue
        for before in _readings(left, labels):
            for weight, objective in rights:
                yield [*before, (-weight if operator == "-" else weight, objective)]


def _terms(text: str, labels: Sequence[str] | None) -> Iterator[Reading]:
    """All ways to read an operand with its factors."""
    for operand in _operands(text, labels):
        yield 1.0, operand
    for start, _ in _operators(text, "*"):
        left, right = text[:start].strip(), text[start + 3 :].strip()
        if _NUMBER.fullmatch(left):
            for weight, objective in _terms(right, labels):
                yield float(left) * weight, objective
        if _NUMBER.fullmatch(right):
            for weight, objective in _terms(left, labels):
                yield float(right) * weight, objective


def _operators(text: str, which: str) -> list[tuple[int, str]]:
    """Where an operator between spaces stands outside of quotes and calls, the start of " + " and the sign."""
    places = []
    quote = ""
    depth = 0
    for place, letter in enumerate(text):
        if quote:
            closed = letter == quote and not _escaped(text, place)
            quote = "" if closed else quote
        elif letter in "\"'" and (place == 0 or text[place - 1] in " (,=") and letter in text[place + 1 :]:
            quote = letter
        elif letter == "(" and (depth or re.search(r"(^| )[a-z][a-z0-9_-]*$", text[:place])):
            depth += 1
        elif letter == ")" and depth:
            depth -= 1
        elif not depth and letter in which and text[place - 1 : place] == " " == text[place + 1 : place + 2]:
            places.append((place - 1, letter))
    return places


def _escaped(text: str, place: int) -> bool:
    return (len(text[:place]) - len(text[:place].rstrip("\\"))) % 2 == 1


def _operands(text: str, labels: Sequence[str] | None) -> list[Objective]:
    """What one operand may mean; nothing if it is none."""
    if re.fullmatch(r"\d+", text):
        # an index, and the label of other classes
        return [Logit(one) for one in dict.fromkeys([int(text), *classes_called(text, labels or ())])]
    quoted = _quoted(text)
    if quoted is not None:
        return [_label(quoted, labels)]
    call = _call(text, labels)
    if call is not None:
        return [call]
    if labels is not None:
        return [_label(text, labels)] if classes_called(text, labels) else []
    # without labels any words may be one, if they hold no operator
    plain = not _operators(text, "+-*") and not _NUMBER.fullmatch(text) and text[-1] not in "\"'"
    return [Logit(text)] if plain and not _CALL.fullmatch(text) else []


def _label(text: str, labels: Sequence[str] | None) -> Objective:
    return Logit(text if labels is None else find_label(text, labels))


def _quoted(text: str) -> str | None:
    if len(text) < 3 or text[0] not in "\"'" or text[-1] != text[0]:
        return None
    try:
        found = ast.literal_eval(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return found if isinstance(found, str) else None


def _call(text: str, labels: Sequence[str] | None) -> Objective | None:
    """A call like `channel("layer4", 3)`; its arguments are literals.

    Raises:
        TargetError: if there is such a name, but not with such arguments.
    """
    match = _CALL.fullmatch(text)
    if match is None:
        return None
    name = match[1].replace("_", "-")
    if name in IN_PYTHON:
        raise TargetError(f"{name}(...) holds a tensor, which cannot be written: use deepviz.objectives in Python")
    if name not in CALLS:
        return None
    try:
        inner = _BARE.sub(_in_quotes, match[2]) if name in OF_CLASSES else match[2]
        tree = ast.parse(f"f({inner})", mode="eval").body
        if not isinstance(tree, ast.Call) or any(one.arg is None for one in tree.keywords):
            return None
        args = [_literal(one) for one in tree.args]
        given: dict[str, Any] = {str(one.arg): _literal(one.value) for one in tree.keywords}
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise TargetError(f"{text}: arguments are numbers, names in quotes or tuples of numbers") from None
    try:
        made = CALLS[name](*args, **given)
    except DeepVizError as error:
        raise TargetError(f"{text}: {error}") from None
    except (TypeError, ValueError) as error:
        raise TargetError(f"{text}: {_reason(error)}") from None
    return made if labels is None else made.resolved(labels)


def _in_quotes(bare: re.Match[str]) -> str:
    """A class that is named without quotes."""
    return bare[0] if bare[1] in ("None", "True", "False") else json.dumps(bare[1])


def _literal(node: ast.expr) -> Any:
    """A literal, or `file("other.jpg")`, which is the name of the file."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "file":
        (path,) = node.args
        return str(ast.literal_eval(path))
    return ast.literal_eval(node)


def _reason(error: Exception) -> str:
    return re.sub(r"^\w+\.__init__\(\)", "it", str(error))


def _unambiguous(objective: Objective, labels: Sequence[str] | None, text: str) -> str:
    """A reading of `text` as it can be given instead: its labels in quotes, its indices as calls."""
    if labels is None:
        return str(objective)

    def label(index: int) -> str:
        by_index = index >= len(labels) or re.search(rf"(?<!\S){index}(?!\S)", text)
        if by_index or labels.count(labels[index]) > 1:
            return f"logit({index})"
        quoted = literal(labels[index])
        return f"label({quoted})" if labels[index].isdecimal() else quoted

    return objective.caption(label)


def _unread(text: str, labels: Sequence[str] | None) -> TargetError:
    known = [] if labels is None else labels
    match = _CALL.fullmatch(text)
    if match is not None and not known:
        return TargetError(
            f"there is no {match[1]}(...) in a target{nearest(match[1], CALLS)}; there are {', '.join(CALLS)}"
        )
    operators = _operators(text, "+-*")
    if not operators:
        if labels is None:
            return TargetError(f"{text!r} is no target: give an index, a label or an expression such as fox - wolf")
        return TargetError(f"no class named {text!r}{nearest(text.replace('_', ' '), known)}")
    # the first operand of the plainest reading that nothing is called
    start = 0
    for end in (*(place for place, _ in operators), len(text)):
        operand = text[start:end].strip()
        if not _NUMBER.fullmatch(operand) and (not operand or not _operands(operand, labels)):
            named = f"no class named {operand!r}{nearest(operand.replace('_', ' '), known)}"
            return TargetError(f"{text!r} cannot be read: {named if operand else 'an operand is missing'}")
        start = end + 3
    return TargetError(f"{text!r} cannot be read: give operands with + or - between spaces, and numbers before *")
