"""The forms of requests and the values they stand for: methods by name, options as text, nothing is imported."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from deepviz import catalog
from deepviz.catalog import Option
from deepviz.errors import MethodError, TargetError
from deepviz.methods import Method
from deepviz.methods.method import View
from deepviz.objectives import Similarity, parse
from deepviz.objectives.classes import class_alone

MOST = 2000
"""The largest whole number that an option takes here, which bounds the work of one request."""
MOST_PASSES = 20_000
"""The most passes of one map, which bound it too; also the largest budget."""
SHA256 = r"^[0-9a-f]{64}$"

Target = int | str
"""What is explained: a class by its index, or an expression, with classes by their indices."""
ContentId = Annotated[str, Field(pattern=SHA256, min_length=64, max_length=64, description="SHA-256, in hex.")]
ModelId = Annotated[str, Field(pattern=r"^[a-z0-9-]{1,64}$", description="As /api/models lists it.")]
LayerName = Annotated[str, Field(min_length=1, max_length=300, description="As /api/models/{model}/layers lists it.")]


class Form(BaseModel):
    """A part of a request: nothing beyond what is described."""

    model_config = ConfigDict(extra="forbid")


class MethodForm(Form):
    """A method with options, each as text; an option that is a method may be a form of its own."""

    name: Annotated[str, Field(max_length=200)]
    options: Annotated[dict[str, Annotated[str, Field(max_length=60)] | MethodForm], Field(max_length=20)] = {}


ClassIndex = Annotated[int, Field(ge=0, le=10_000_000)]
Expression = Annotated[str, Field(min_length=1, max_length=300, description="Such as logit(281) - logit(282).")]


class Row(Form):
    """Classes of one image, or expressions of classes; none: the predicted one."""

    photograph: ContentId
    targets: Annotated[list[ClassIndex | Expression] | None, Field(min_length=1, max_length=20)] = None


class Comparison(Form):
    """What a page compares: every method for every class of every image."""

    model: ModelId
    rows: Annotated[list[Row], Field(min_length=1, max_length=1024)]
    methods: Annotated[list[MethodForm], Field(min_length=1, max_length=16)]
    layer: LayerName | None = None


class Comparisons(Form):
    """All that a page shows: columns of several models or layers are comparisons of their own."""

    comparisons: Annotated[list[Comparison], Field(min_length=1, max_length=64)]


class Results(Form):
    """Results by id, for a report or a file of data."""

    results: Annotated[list[ContentId], Field(min_length=1, max_length=256)]


class Checked(Form):
    """Results by id, to be checked."""

    results: Annotated[list[ContentId], Field(min_length=1, max_length=64)]


class Judged(Form):
    """Results by id, of which some are checked."""

    results: Annotated[list[ContentId], Field(min_length=1, max_length=1800)]


class Wanted(Form):
    """Channels of a layer, to be drawn."""

    model: ModelId
    layer: LayerName
    channels: Annotated[list[Annotated[int, Field(ge=0, le=1_000_000)]], Field(min_length=1, max_length=64)]
    steps: Annotated[int, Field(ge=1, le=1000)] = 200
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0


class Peaks(Form):
    """A channel of a layer, to be looked for in images."""

    layer: LayerName
    channel: Annotated[int, Field(ge=0, le=1_000_000)]
    photographs: Annotated[list[ContentId], Field(min_length=1, max_length=16)]


def method_of(form: MethodForm, layer: str | None = None) -> Method:
    """The method that a form describes, at `layer` where it takes one and names none.

    Raises:
        MethodError: for a method, option or value that there is not.
    """
    cls = _class_of(form)
    known = {option.name: option for option in catalog.options(cls)}
    values: dict[str, Any] = {}
    for name, given in form.options.items():
        if name not in known:
            raise MethodError(f"{form.name} has no option {name!r}; there are {', '.join(known) or 'none'}")
        values[name] = _value(form.name, known[name], given)
    try:
        method = cls(**values)
    except (TypeError, ValueError) as error:
        raise MethodError(f"{form.name}: {error}") from None
    if method.passes() > MOST_PASSES:
        raise MethodError(
            f"{method} takes about {method.passes():,.0f} passes through the model, and at most {MOST_PASSES:,} are "
            "possible here: run it with deepviz explain"
        )
    return method if layer is None else method.with_layer(layer)


def _class_of(form: MethodForm) -> type[Method]:
    cls = catalog.METHODS.get(form.name)
    if cls is None:
        raise MethodError(f"no method {form.name!r}; there are {', '.join(catalog.METHODS)}")
    return cls


def _value(method: str, option: Option, given: str | MethodForm) -> Any:
    if Method in option.kinds:
        if option.optional and given == "none":
            return None
        inner = given if isinstance(given, MethodForm) else MethodForm(name=given)
        takes_methods = {one.name for one in catalog.options(_class_of(inner)) if Method in one.kinds}
        if takes_methods & inner.options.keys():
            raise MethodError(
                f"{method}: {inner.name} itself wraps a method; only one level of nesting is supported here"
            )
        return method_of(inner)
    if isinstance(given, MethodForm):
        raise MethodError(f"{method}: {option.name} takes {option.takes}, not a method")
    try:
        value = option.parse(given)
    except ValueError as error:
        raise MethodError(f"{method}: {error}") from None
    most = MOST_PASSES if option.role == "budget" else MOST
    for number in value if isinstance(value, tuple) else [value]:
        if isinstance(number, int) and abs(number) > most:
            raise MethodError(f"{method}: {option.name} must be at most {most} here, got {given}")
    return value


READING: dict[View, str] = {
    "magnitude": "Bright pixels are those where a small change moves the score most, up or down.",
    "sum": "Signed: one colour marks what raises the score, the other what lowers it; the legend is below each map.",
    "positive": "Bright areas raise the score; what lowers it is not drawn.",
    "range": "Bright areas raise the score the most; the darkest raise it least, or lower it.",
}
"""How a map is read, by how it is drawn."""
COARSE = " The map has few cells, enlarged: its edges are not those of things."


def address_of(paper: str) -> str:
    """Where a paper can be read, by the arXiv number or DOI in its reference; "" without one.

    Example:
        >>> address_of("Selvaraju et al. 2016, arXiv:1610.02391"), address_of("Me, unpublished")
        ('https://arxiv.org/abs/1610.02391', '')
    """
    arxiv = re.search(r"arXiv:(\d{4}\.\d{4,5})", paper)
    doi = re.search(r"10\.\d{4,9}/[^\s,;]+", paper)
    if arxiv:
        return f"https://arxiv.org/abs/{arxiv[1]}"
    return f"https://doi.org/{doi[0]}" if doi else ""


def described(name: str) -> dict[str, Any]:
    """A method of the catalog, with its options as a page's form needs them."""
    cls = catalog.METHODS[name]
    usual = cls()
    return {
        "name": name,
        "title": cls.title or cls.__name__,
        "family": catalog.FAMILY_TITLES.get(catalog.family_of(name), "Others"),
        "usual": cls.in_default_set or ":" in name,
        "summary": catalog.summary(cls),
        "cost": cls.cost,
        "paper": cls.paper,
        "address": address_of(cls.paper),
        "coarse": usual.coarse,
        "reading": READING[usual.view] + (COARSE if usual.coarse else ""),
        "options": [_described_option(option) for option in catalog.options(cls)],
    }


def _described_option(option: Option) -> dict[str, Any]:
    simple = option.default is None or isinstance(option.default, (bool, int, float, str))
    return {
        "name": option.name,
        "kinds": [kind.__name__.lower() for kind in option.kinds],
        "choices": list(option.choices),
        "optional": option.optional,
        "default": option.default if simple else option.default_text,
        "help": option.help,
        "takes": option.takes,
    }


def target_of(given: int | str, labels: Sequence[str] | None) -> Target:
    """A class by its index, an expression as it is written with indices.

    An image that others are compared with is one of the server's, by its id: no request names a file.

    Raises:
        TargetError: for what cannot be read.
    """
    if isinstance(given, int):
        return given
    objective = parse(given, labels)
    for part in objective.parts():
        if isinstance(part, Similarity) and isinstance(part.to, str) and not re.fullmatch(SHA256, part.to):
            raise TargetError(f"{given}: an image to compare with is given by its id, not as a file; upload it")
    index = class_alone(objective)
    return str(objective) if index is None else index


def result_key(model: str, photograph: str, method: Method, target: Target) -> str:
    """The id of a result: a hash of all that determines it."""
    return hashlib.sha256("\n".join([model, photograph, catalog.key(method), str(target)]).encode()).hexdigest()
