"""Contract tests for methods and metrics, those of other packages included.

    from deepviz.testing import check_method

    def test_my_method():
        check_method(MyMethod())

runs every check and raises one `ContractError` with all that is broken. Each check is a function of the method, so that
a test may run them one by one:

    @pytest.mark.parametrize("check", METHOD_CHECKS)
    def test_my_method(check):
        check(MyMethod())
"""

from __future__ import annotations

import copy
import doctest
import importlib
import inspect
import math
import random
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import FrozenInstanceError, fields, is_dataclass, replace
from typing import Any, TypeVar, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepviz import catalog
from deepviz.catalog import Option
from deepviz.codec import Codec
from deepviz.diagnostics import ERROR
from deepviz.errors import DeepVizWarning, ImageError, MethodError, ModelFailed, TargetError
from deepviz.methods import Gradient, Method
from deepviz.methods.method import Attribution, View
from deepviz.metrics import Metric
from deepviz.objectives import Logit
from deepviz.options import Ge, Gt, Kind, Le, Lt, having
from deepviz.probe import chunks

__all__ = [
    "METHOD_CHECKS",
    "METRIC_CHECKS",
    "ContractError",
    "check_method",
    "check_metric",
    "small",
]

EXACT = {torch.float64: 1e-9, torch.float32: 1e-4}
"""How far a row alone may be from the same row in a batch, relative to the largest value."""
REFERENCE = re.compile(r"arXiv:(\d{4}\.\d{4,5}|[a-z.-]+/\d{7})|doi(\.org/|:)\s*10\.\d{4,9}/\S+", re.IGNORECASE)
"""An arXiv number or a DOI."""
PARTS = ("Shapes:", "Errors:", "Pitfall:", "Example:")
V = TypeVar("V", bound=Method | Metric)
ROWS = 3
CLASSES = 5
LAYERS: dict[int, tuple[Any, Any, Any]] = {
    1: (nn.Conv1d, nn.BatchNorm1d, nn.AdaptiveAvgPool1d),
    2: (nn.Conv2d, nn.BatchNorm2d, nn.AdaptiveAvgPool2d),
    3: (nn.Conv3d, nn.BatchNorm3d, nn.AdaptiveAvgPool3d),
}
SIDES = {1: (24,), 2: (12, 12), 3: (6, 6, 6)}
"""Both by the number of spatial axes."""


class ContractError(AssertionError):
    """A method or metric breaks the contract."""


# what everything is tried on


class SelfAttention(nn.Module):
    """Tokens (N, T, width) attend to each other in two heads, and are added to what arrives."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.to_qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Any:
        """The tokens, changed."""
        q, k, v = self.to_qkv(tokens).unflatten(2, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        return tokens + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Attended(nn.Module):
    """Layers of attention between the positions of a feature map (N, width, *space)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(SelfAttention(width), SelfAttention(width))

    def forward(self, maps: Tensor) -> Any:
        """The feature map, changed."""
        return self.layers(maps.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, maps.shape[2:])


def network(dtype: torch.dtype = torch.float64, axes: int = 2, attention: bool = False) -> nn.Module:
    """A small network with everything that methods ask for: convolutions, rectifiers, a layer with a map below
    average pooling and one linear layer; its class scores are of `images` with so many spatial axes. Dropout and
    batch normalisation are as training leaves them.

    `attention`: whether the positions of its last map attend to each other.
    """
    convolution, norm, pool = LAYERS[axes]
    model = nn.Sequential(
        convolution(3, 6, 1) if attention else convolution(3, 6, 3, padding=1),
        norm(6),
        nn.ReLU(),
        convolution(6, 8, 2, stride=2) if attention else convolution(6, 8, 3, stride=2, padding=1),
        nn.Sequential(nn.ReLU(), Attended(8)) if attention else nn.ReLU(),
        pool(1),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(8, CLASSES),
    )
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0.1, 0.3, generator=generator)
    model.get_buffer("1.running_var").fill_(0.7)
    model.train()
    model[2].eval()
    return model.to(dtype)


class WithTable(nn.Module):
    """The same network with side information: a table (N, 8) that weights its features."""

    def __init__(self, dtype: torch.dtype = torch.float64, attention: bool = False) -> None:
        super().__init__()
        whole = network(dtype, attention=attention)
        self.body, self.head = whole[:7], whole[7:]  # type: ignore[index]
        self.eval()

    def forward(self, x: Tensor, table: Tensor) -> Any:
        """The class scores of each image, its features weighted by its row of the table."""
        return self.head(self.body(x) * table)


class Several(nn.Module):
    """The same network with a table (N, 8) before the image, both of which are explained, and weights (N, 8) of the
    features, which go along."""

    def __init__(self, dtype: torch.dtype = torch.float64, attention: bool = False) -> None:
        super().__init__()
        whole = network(dtype, attention=attention)
        self.body, self.head = whole[:7], whole[7:]  # type: ignore[index]
        self.eval()

    def forward(self, table: Tensor, image: Tensor, weights: Tensor) -> Any:
        """The class scores of each row."""
        return self.head(self.body(image) * weights * (1 + table.to(weights).tanh()))


def images(n: int = ROWS, dtype: torch.dtype = torch.float64, axes: int = 2) -> Tensor:
    """Images (n, 3, 12, 12), signals (n, 3, 24) or volumes (n, 3, 6, 6, 6), as the networks here take them."""
    return _drawn(n, 3, *SIDES[axes]).to(dtype)


def _drawn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network_for(method: Method, dtype: torch.dtype = torch.float64, axes: int = 2) -> nn.Module:
    """The small network, with what the method asks for."""
    return network(dtype, axes, method.requires.attention)


SMALL_BUDGET = 100
"""Forward passes of a small method that takes a budget: enough for the few parts that a small one has."""


def small(cls: type[V], **given: Any) -> V:
    """A method or metric with few steps and samples, for tests: whole numbers are two above the
    lowest that they may be, where that costs less.

    Example:
        >>> from deepviz.methods import SmoothGrad
        >>> small(SmoothGrad)
        SmoothGrad(of=Gradient(), samples=4, noise=0.15, statistic='mean', seed=0)
    """
    value = cls(**given)
    for option in catalog.options(cls):
        if option.role == "budget" and option.name not in given:
            value = replace(value, **{option.name: min(option.default, SMALL_BUDGET)})
        bounds = [bound for kind in option.annotation.kinds if kind.type is int for bound in kind.bounds]
        lowest = max((int(bound.value) for bound in bounds if isinstance(bound, Ge)), default=None)
        if lowest is None or option.role is not None or option.name in given:
            continue
        if not isinstance(option.default, int) and not (option.default is None and isinstance(value, Method)):
            continue
        most = lowest + 2 if option.default is None else option.default
        less = replace(value, **{option.name: min(most, lowest + 2)})
        if not (isinstance(value, Method) and isinstance(less, Method)) or less.passes() < value.passes():
            value = less
    return value


# running it


def check_method(method: Method) -> None:
    """Run every check of `METHOD_CHECKS` on a method.

    Args:
        method: with few steps and samples, since it is called a few hundred times on small images.

    Raises:
        ContractError: with all that is broken.

    Example:
        >>> from deepviz.methods import Gradient
        >>> check_method(Gradient())
    """
    if not isinstance(method, Method):
        raise TypeError(f"check_method takes a method, such as Gradient(), got {method!r}")
    _run(method, METHOD_CHECKS)


def check_metric(metric: Metric) -> None:
    """Run every check of `METRIC_CHECKS` on a metric; one that needs to know where the object is holds a region of
    an image of 12 x 12 pixels.

    Raises:
        ContractError: with all that is broken.

    Example:
        >>> from deepviz.metrics import Complexity
        >>> check_metric(Complexity())
    """
    if not isinstance(metric, Metric):
        raise TypeError(f"check_metric takes a metric, such as Deletion(), got {metric!r}")
    _run(metric, METRIC_CHECKS)


def _run(value: Any, checks: Sequence[Callable[[Any], None]]) -> None:
    broken = []
    for check in checks:
        try:
            check(value)
        except Exception as error:
            name = check.__name__.removeprefix("check_").replace("_", " ")
            text = str(error) if isinstance(error, ContractError) else f"{type(error).__name__}: {error}"
            broken.append(f"{name}: {text}")
    if broken:
        raise ContractError(f"{catalog.spell(value)} breaks its contract\n  " + "\n  ".join(broken))


def expect(holds: bool, text: str) -> None:
    """Raise a `ContractError` if something does not hold."""
    if not holds:
        raise ContractError(text)


@contextmanager
def refused(error: type[Exception] | tuple[type[Exception], ...], words: str, what: str) -> Iterator[None]:
    """The block is expected to raise, in words that match."""
    try:
        yield
    except error as raised:
        text = str(raised)
        expect(re.search(words, text) is not None, f"{what}: the error does not say {words!r}, but {text!r}")
    else:
        raise ContractError(f"{what} is not refused")


def same(found: Any, expected: Any, tolerance: float, what: str) -> None:
    """Expect two tensors to be equal up to `tolerance` times the largest value."""
    expect(found.shape == expected.shape, f"{what}: {tuple(found.shape)}, expected {tuple(expected.shape)}")
    error = float((found.double() - expected.double()).abs().max()) / max(float(expected.abs().max()), 1e-30)
    expect(error <= tolerance, f"{what}: they differ by {error:.2g} of the largest value, more than {tolerance:g}")


def _maps(method: Method, model: nn.Module, x: Any, target: Any = None, **given: Any) -> Any:
    return _attribution(method, model, x, target, **given).maps


def _attribution(method: Method, model: nn.Module, x: Any, target: Any = None, **given: Any) -> Attribution:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeepVizWarning)
        try:
            return method.attribute(model, x, target, **given)
        except MethodError as error:  # maps of another shape
            raise ContractError(str(error)) from None


# what it is


def check_documentation(value: Any) -> None:
    """The docstring says what is computed, for which shapes, what goes wrong and where it is from, and its example is
    true; `title` and `cost` are set, and `paper` holds an arXiv number or a DOI."""
    cls = type(value)
    text = inspect.getdoc(cls) or ""
    lines = text.split("\n")
    expect(bool(text) and lines[0].endswith(".") and len(lines[0]) <= 120, "the docstring starts with one sentence")
    expect(any(re.match(r" {4}\S.*=", line) for line in lines), "the docstring holds the formula, indented by four")
    missing = [part for part in PARTS if part not in text]
    expect(not missing, f"the docstring has no {', '.join(missing)}")
    expect(REFERENCE.search(cls.paper) is not None, f"paper holds no arXiv number and no DOI: {cls.paper!r}")
    expect(bool(cls.title), "title is empty")
    expect(bool(cls.cost), "cost is empty")
    expect(cls.title in str(value) or cls.title in value.name, f"str() does not hold the title: {value}")
    module = importlib.import_module(cls.__module__)
    found = doctest.DocTestFinder(recurse=False).find(cls, cls.__name__, module)
    examples = [example for example in found if example.examples]
    expect(bool(examples), "the docstring has no example that can be run")
    for example in examples:
        heard: list[str] = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeepVizWarning)
            failed = doctest.DocTestRunner(verbose=False).run(example, out=heard.append).failed
        expect(failed == 0, "the example is not true: " + " ".join("".join(heard).split()))


def check_options(value: Any) -> None:
    """Options are fields of a frozen dataclass, each with a sentence, a default, and bounds that are kept; a value of
    another kind is refused."""
    cls = type(value)
    expect(is_dataclass(cls) and cls.__dataclass_params__.frozen, "the class is no frozen dataclass")  # type: ignore[attr-defined]
    for option in catalog.options(cls):
        expect(option.help.endswith("."), f"{option.name} has no sentence that describes it")
        for kind in option.annotation.kinds:
            _check_bounds(value, option, kind)
        _check_other_kinds(value, option)
        try:
            setattr(value, option.name, None)
        except FrozenInstanceError:
            continue
        raise ContractError(f"{option.name} can be set")
    try:
        cls(no_such_option=1)
    except TypeError:
        return
    raise ContractError("an unknown option is accepted")


def _check_bounds(value: Any, option: Option, kind: Kind) -> None:
    if kind.type not in (int, float):
        return
    expect(
        bool(kind.bounds) or option.role is not None,
        f"{option.name} is a number without bounds: write Annotated[{kind.type.__name__}, Ge(...), ...]",
    )
    beyond: list[float] = [math.nan, math.inf] if kind.type is float and not kind.infinite else []
    for bound in kind.bounds:
        step = {Ge: -1.0, Gt: 0.0, Le: 1.0, Lt: 0.0}[type(bound)]
        beyond.append(kind.type(bound.value + step))
    for number in beyond:
        with refused(ValueError, option.name, f"{option.name}={number}"):
            replace(value, **{option.name: number})


def _check_other_kinds(value: Any, option: Option) -> None:
    tried: list[Any] = ["no such word", True, 3, 0.25, {}]
    for other in tried:
        if not any(_fits(kind, other) for kind in option.annotation.kinds):
            with refused((TypeError, ValueError), option.name, f"{option.name}={other!r}"):
                replace(value, **{option.name: other})


def _fits(kind: Kind, other: Any) -> bool:
    try:
        kind.read(other)
    except (TypeError, ValueError):
        return False
    return True


def check_value(value: Any) -> None:
    """It is a value: equal to its copies and hashed as they are, and other options make another."""
    for again in (replace(value), copy.deepcopy(value)):
        expect(again == value and hash(again) == hash(value), "a copy is not equal to it, or hashed otherwise")
    for option, changed in others(value):
        expect(changed != value, f"another {option} makes an equal value")
        expect(catalog.key(changed) != catalog.key(value), f"another {option} does not change its key")
        expect(getattr(replace(changed), option) == getattr(changed, option), f"{option} is not kept")


def check_spelling(value: Any) -> None:
    """It is written and read everywhere as the same: on the command line, in stored results."""
    kind = Method if isinstance(value, Method) else Metric
    codec = Codec(lambda: {**catalog.METHODS, **catalog.METRICS}, kind)
    for one in (value, *(changed for _, changed in others(value))):
        for text in (catalog.spell(one), catalog.key(one)):
            expect(catalog.parse(text, kind) == one, f"{text} is not read as what it was written of")
        expect(codec.decode(codec.encode(one)) == one, f"{catalog.spell(one)} does not come back from a stored result")


def others(value: Any) -> Iterator[tuple[str, Any]]:
    """The same with one option at another value, for every option that plain values can change."""
    for option in catalog.options(type(value)):
        for other in _other_values(getattr(value, option.name), option):
            try:
                yield option.name, replace(value, **{option.name: other})
            except ValueError:  # does not go together with the other options
                continue


def _other_values(given: Any, option: Option) -> Iterator[Any]:
    for kind in option.annotation.kinds:
        if kind.type is bool:
            yield not given
        elif kind.type is str:
            yield "some name" if given != "some name" else "another"
        elif kind.type in (int, float):
            tried = [1, 2, 3, 7, 20, 0.125, 0.75]
            wanted = [kind.type(one) for one in tried if all(bound.holds(kind.type(one)) for bound in kind.bounds)]
            yield next(one for one in wanted if one != given)
        else:
            yield from (one for one in get_args(kind.type) if isinstance(one, str) and one != given)


# what a method returns


def check_shapes(method: Method) -> None:
    """(N, C, H, W) as the input, or (N, 1, *grid) of a layer, in the input's type, finite, outside of any graph."""
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        x = images(2, dtype)
        maps = _maps(method, network_for(method, dtype), x)
        expect(isinstance(maps, Tensor), f"it returns {type(maps).__name__} for a tensor")
        # of half precision, `attribute` keeps the digits that the map was computed with
        kept = (dtype, torch.float32) if dtype == torch.bfloat16 else (dtype,)
        expect(maps.dtype in kept, f"a map of a {dtype} image is {maps.dtype}")
        expect(not maps.requires_grad and not maps.is_inference(), "the map is part of a graph")
        expect(bool(maps.isfinite().all()), "the map holds NaN or infinity")
        expect(maps.ndim == 4 and len(maps) == 2, f"maps of (2, 3, 12, 12) are {tuple(maps.shape)}")
        if method.coarse:
            fits = maps.shape[1] == 1 and maps.shape[2] <= 12 and maps.shape[3] <= 12
            expect(fits, f"it needs a layer and no gradient, so maps are (N, 1, h, w); they are {tuple(maps.shape)}")
        else:
            cells = maps.shape[1] == 1 and maps.shape[2] <= 12 and maps.shape[3] <= 12
            expect(cells or maps.shape == x.shape, f"maps of (2, 3, 12, 12) are {tuple(maps.shape)}")


def check_view(method: Method) -> None:
    """It says how it is drawn."""
    expect(method.view in get_args(View), f"view is {method.view!r}")
    if method.view == "positive":
        found = _attribution(method, network_for(method), images())
        # an estimate without bias of what is zero may be below it
        errors = found.notes.maps.get(ERROR, torch.zeros(()))
        expect(bool((found.maps >= -4 * errors).all()), "view is positive, but maps have negative values")


def check_needs(method: Method) -> None:
    """It asks for what it declares, and costs what it says: `needs` and `passes`."""
    model, x = network_for(method).eval(), images(1)
    _maps(method, model, x, 1)  # what is found once per model is not counted
    forward, backward = _counted(model, lambda: _maps(method, model, x, 1))
    expect(forward + backward > 0 or not method.requires.forward, "it does not ask the model, but needs forward passes")
    if method.requires.black_box:
        expect(backward == 0, "it takes gradients: needs=Needs(gradient=True), or Needs(layer=True)")
    elif method.requires.gradient or method.requires.layer:
        expect(forward > 0, "it does not ask the model")
    expect(
        forward + backward <= 1.1 * method.passes() + 2,
        f"it takes {forward} forward and {backward} backward passes, and passes() is {method.passes():g}",
    )


def _counted(model: nn.Module, run: Callable[[], Any]) -> tuple[int, int]:
    """Rows that went through the model forwards, and backwards."""
    count = [0, 0]

    def hook(module: nn.Module, given: Any, output: Tensor) -> None:
        count[0] += len(output)
        if output.requires_grad:
            output.register_hook(back)

    def back(gradient: Tensor) -> None:
        count[1] += len(gradient)

    handle = model.register_forward_hook(hook)
    try:
        run()
    finally:
        handle.remove()
    return count[0], count[1]


# that only a row and its target decide


def check_rows(method: Method) -> None:
    """Each row of a batch is that image alone."""
    for dtype, tolerance in EXACT.items():
        model, x = network_for(method, dtype), images(ROWS, dtype)
        together = _maps(method, model, x)
        for row in range(ROWS):
            alone = _maps(method, model, x[row : row + 1])
            same(together[row : row + 1], alone, tolerance, f"row {row} of a batch and that image alone, {dtype}")


def check_chunks(method: Method) -> None:
    """The number of rows that go through the model together does not matter."""
    for dtype, tolerance in EXACT.items():
        model, x = network_for(method, dtype), images(ROWS, dtype)
        usual = _maps(method, model, x)
        for rows in (1, 2, 64):
            with chunks.fixed(rows):
                same(_maps(method, model, x), usual, tolerance, f"chunks of {rows} rows and the usual ones, {dtype}")


def check_determinism(method: Method) -> None:
    """The same call gives the same bits, whatever the global random state; random numbers come from a seed."""
    model, x = network_for(method), images()
    first = _maps(method, model, x)
    before = torch.get_rng_state()
    try:
        torch.rand(7)
        second = _maps(method, model, x)
    finally:
        torch.set_rng_state(before)
    expect(torch.equal(first, second), "the same call gives another map: draw from a generator of a seed option")


def of_score(method: Method) -> Method:
    """The same method reading the score where it would read a probability, which what a callable returns does not
    have: that is an option `value`, "probability" or "score"."""
    other: dict[str, Any] = {"value": "score"}
    return replace(method, **other) if getattr(method, "value", None) == "probability" else method


def check_targets(method: Method) -> None:
    """An index, a tensor (N,), one of (N, K), a callable, an objective and None agree."""
    model, x = network_for(method), images()
    with torch.no_grad():
        predicted = copy.deepcopy(model).eval()(x).argmax(1)
    by_default = _maps(method, model, x)
    same(_maps(method, model, x, predicted), by_default, 1e-9, "None and the predicted classes, (N,)")
    one = x[:1]
    label = int(predicted[0])
    first = by_default[:1]
    forms: dict[str, Any] = {
        "an index": label,
        "a tensor (1,)": torch.tensor([label], dtype=torch.int32),
        "an objective": Logit(label),
    }
    for form, target in forms.items():
        same(_maps(method, model, one, target), first, 1e-9, f"None and {form}")
    scored = of_score(method)
    by_call = _maps(scored, model, one, lambda output: output[:, label])
    same(by_call, _maps(scored, model, one), 1e-9, "None and a callable")
    several = torch.tensor([[0, 1], [1, 4], [2, 2]])
    together = _maps(method, model, x, several)
    expect(together.shape[:2] == (ROWS, 2), f"of (N, 2) targets the maps are {tuple(together.shape)}")
    for k in range(2):
        same(together[:, k], _maps(method, model, x, several[:, k]), 1e-9, f"target {k} of two and that target alone")


def check_extra(method: Method) -> None:
    """What the model takes beside the image goes along with its row."""
    model, x = WithTable(attention=method.requires.attention), images()
    table = torch.rand(ROWS, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64) + 0.1
    together = _maps(method, model, x, 1, extra=(table,))
    same(_maps(method, model, x, 1, extra={"table": table}), together, 1e-9, "extra by position and by keyword")
    for row in range(ROWS):
        alone = _maps(method, model, x[row : row + 1], 1, extra=(table[row : row + 1],))
        same(together[row : row + 1], alone, 1e-9, f"row {row} with its extra, in a batch and alone")


def check_signals(method: Method) -> None:
    """Signals (N, C, L) have maps as images have, or are refused where `spatial` does not name their one axis."""
    _check_space(method, 1)


def check_volumes(method: Method) -> None:
    """Volumes (N, C, D, H, W) have maps as images have, or are refused where `spatial` does not name three axes."""
    _check_space(method, 3)


def _check_space(method: Method, axes: int) -> None:
    model, x = network_for(method, axes=axes), images(axes=axes)
    what = f"an input {tuple(x.shape)}"
    if axes not in method.spatial_axes:
        with refused(ImageError, "takes", what):
            method(model, x)
        return
    with untouched(model, x, f"after {what}"):
        maps = _maps(method, model, x)
    _check_map(maps, x, what)
    for row in range(ROWS):
        alone = _maps(method, model, x[row : row + 1])
        same(maps[row : row + 1], alone, EXACT[torch.float64], f"row {row} of {what} and that row alone")


def _check_map(maps: Any, x: Tensor, what: str) -> None:
    """A finite map of each row, as fine as the input or of a layer's cells."""
    expect(isinstance(maps, Tensor), f"the map of {what} is {type(maps).__name__}")
    pairs = zip(maps.shape[2:], x.shape[2:], strict=False)
    cells = maps.ndim == x.ndim and maps.shape[:2] == (len(x), 1) and all(cell <= side for cell, side in pairs)
    expect(cells or maps.shape == x.shape, f"the map of {what} is {tuple(maps.shape)}")
    expect(bool(maps.isfinite().all()), f"the map of {what} holds NaN or infinity")
    expect(not maps.requires_grad, f"the map of {what} is part of a graph")


def check_several_inputs(method: Method) -> None:
    """Of several explained inputs the maps come in the structure of x, each of its own input or None; what goes along
    stays with its row."""
    model, table, image, weights = (
        Several(attention=method.requires.attention),
        _drawn(ROWS, 8, seed=2),
        images(),
        _drawn(ROWS, 8, seed=3),
    )
    if _has_baseline_of_images(method):
        table = (10 * table).long()  # carried along
    with untouched(model, image, "after a call with several inputs"):
        together = _maps(method, model, (table, image), 1, extra=(weights,))
    expect(isinstance(together, tuple) and len(together) == 2, "of a tuple of inputs the maps are no tuple of as many")
    of_table, of_image = together
    _check_map(of_image, image, "the image beside a table")
    expect(of_table is None or of_table.shape == table.shape, f"the map of a table {tuple(table.shape)} is no table")
    named = _maps(method, model, {"table": table, "image": image}, 1, extra={"weights": weights})
    expect(isinstance(named, dict) and list(named) == ["table", "image"], "of a mapping the maps are no such mapping")
    for row in range(ROWS):
        rows = slice(row, row + 1)
        alone = _maps(method, model, (table[rows], image[rows]), 1, extra=(weights[rows],))
        for found, by_name, expected in zip(together, named.values(), alone, strict=True):
            missing = {found is None, by_name is None, expected is None}
            expect(len(missing) == 1, "an input has a map in one call and none in another")
            if found is not None:
                same(by_name, found, 1e-9, "inputs by position and by keyword")
                same(found[rows], expected, 1e-9, f"row {row} of several inputs, in a batch and alone")


def _has_baseline_of_images(method: Method) -> bool:
    """Whether a baseline of the method, or of one inside it, is no number: a table has no blur."""
    baselines = (getattr(method, name) for name in having(type(method), "baseline"))
    inside = (getattr(method, field.name) for field in fields(method))
    return any(not isinstance(one, (int, float)) for one in baselines) or any(
        _has_baseline_of_images(one) for one in inside if isinstance(one, Method)
    )


# that the model is borrowed


def surroundings(model: nn.Module, x: Tensor) -> dict[str, Any]:
    """All that a call could change, as plain values that can be compared."""
    modules = dict(model.named_modules())
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {
        "weights": {name: (id(value), value.detach().clone().tolist()) for name, value in tensors.items()},
        "versions of weights": {name: value._version for name, value in tensors.items() if not value.is_inference()},
        "gradients": {name: None if value.grad is None else value.grad.tolist() for name, value in tensors.items()},
        "requires_grad": {name: value.requires_grad for name, value in tensors.items()},
        "modes of modules": {name: module.training for name, module in modules.items()},
        "hooks": {
            (name, key): list(getattr(module, key))
            for name, module in modules.items()
            for key in vars(module)
            if "hooks" in key
        },
        "attributes": {name: sorted(vars(module)) for name, module in modules.items()},
        "tensor hooks": {name: len(value._backward_hooks or ()) for name, value in tensors.items()},
        "the image": (x.detach().clone().tolist(), x.requires_grad, x.grad, x._backward_hooks),
        "the image's version": None if x.is_inference() else x._version,
        "autograd's modes": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_dtype()),
        "autocast": torch.is_autocast_enabled("cpu"),
        "torch's random state": torch.get_rng_state().tolist(),
        "numpy's random state": repr(np.random.get_state()),
        "python's random state": random.getstate(),
    }


@contextmanager
def untouched(model: nn.Module, x: Tensor, when: str) -> Iterator[None]:
    """The block is expected to leave a model and an image as they were."""
    before = surroundings(model, x)
    yield
    after = surroundings(model, x)
    changed = [name for name, value in before.items() if after[name] != value]
    expect(not changed, f"{when} it leaves other {', '.join(changed)}")


def check_borrowing(method: Method) -> None:
    """The model, the image and the random state are as they were: afterwards, after a bad target, after a crash."""
    model, x = network_for(method), images()
    with untouched(model, x, "after a call"):
        _maps(method, model, x)
    with untouched(model, x, "after a call without gradients"), torch.no_grad():
        _maps(method, model, x)
    for target in (99, -1, "cat", torch.zeros(ROWS)):
        with (
            untouched(model, x, f"after the bad target {target!r}"),
            refused(TargetError, "", f"the target {target!r}"),
        ):
            _maps(method, model, x, target)
    for after in (0, 1, 3):
        _crash(method, network_for(method), x, after)


def _crash(method: Method, model: nn.Module, x: Tensor, after: int) -> None:
    calls = [0]

    def crash(module: nn.Module, given: Any, output: Any) -> None:
        calls[0] += 1
        if calls[0] > after:
            raise RuntimeError("half way")

    handle = model[4].register_forward_hook(crash)  # type: ignore[index]
    with untouched(model, x, f"after a model that raises in its call {after + 1}"):
        try:
            _maps(method, model, x, 1)
        except ModelFailed:
            pass
        else:
            expect(calls[0] <= after, "an error of the model is swallowed")
    handle.remove()


def check_errors(value: Any) -> None:
    """Swapped and unfit arguments are refused, in words that say so."""
    model, x = network(), images()
    maps = () if isinstance(value, Method) else (_subject(value, model, x),)
    with refused(TypeError, "swapped", "model and image swapped"):
        value(x, model, *maps)
    with refused(TypeError, r"nn\.Module", "a name in place of the model"):
        value("resnet50", x, *maps)
    with refused(TypeError, "tensor", "an array in place of a tensor"):
        value(model, x.numpy(), *maps)
    for unfit, words in ((x[:0], "0"), (x.to(torch.uint8), "uint8|floating"), (x / 0, "NaN or infinity")):
        with refused(ValueError, words, f"an image {tuple(unfit.shape)} {unfit.dtype}"):
            value(model, unfit, *maps)


METHOD_CHECKS: tuple[Callable[[Method], None], ...] = (
    check_documentation,
    check_options,
    check_value,
    check_spelling,
    check_shapes,
    check_view,
    check_needs,
    check_rows,
    check_chunks,
    check_determinism,
    check_targets,
    check_extra,
    check_signals,
    check_volumes,
    check_several_inputs,
    check_borrowing,
    check_errors,
)
"""The checks that every method passes."""


# metrics

TARGET = torch.tensor([1, 4, 0])


def _subject(metric: Metric, model: nn.Module, x: Tensor, target: Any = None) -> Any:
    """What a metric is given to judge: the gradient, or its map."""
    return Gradient() if metric.judges == "method" else _maps(Gradient(), model, x, target)


def _judged(metric: Metric, model: nn.Module, x: Tensor, target: Any) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeepVizWarning)
        return metric(model, x, _subject(metric, model, x, target), target)


def check_range(metric: Metric) -> None:
    """One finite value for each row, within `range`, outside of any graph."""
    found = _judged(metric, network(), images(), TARGET)
    expect(found.shape == (ROWS,), f"it returns {tuple(found.shape)} for {ROWS} rows")
    expect(bool(found.isfinite().all()), "it returns NaN or infinity")
    expect(found.is_floating_point() and not found.requires_grad and not found.is_inference(), "it is part of a graph")
    low, high = metric.range
    expect(bool(((found >= low - 1e-6) & (found <= high + 1e-6)).all()), f"{found.tolist()} are not in {metric.range}")
    expect(metric.better in ("higher", "lower"), f"better is {metric.better!r}")


def check_rows_of_metric(metric: Metric) -> None:
    """A row does not depend on the others, nor on how many go through the model together."""
    model, x = network(), images()
    together = _judged(metric, model, x, TARGET)
    for row in range(ROWS):
        rows = slice(row, row + 1)
        alone = _judged(metric.of_rows(rows), model, x[rows], TARGET[rows])
        same(together[rows], alone, 1e-4, f"row {row} of a batch and that image alone")
    with chunks.fixed(2):
        same(_judged(metric, model, x, TARGET), together, 1e-4, "chunks of 2 rows and the usual ones")


def check_determinism_of_metric(metric: Metric) -> None:
    """The same call gives the same bits."""
    first, second = (_judged(metric, network(), images(), TARGET) for _ in range(2))
    expect(torch.equal(first, second), "the same call gives another value: draw from a generator of a seed option")


def check_borrowing_of_metric(metric: Metric) -> None:
    """The model, the image and the random state are as they were."""
    model, x = network(), images()
    subject = _subject(metric, model, x, TARGET)
    with untouched(model, x, "after a call"), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeepVizWarning)
        metric(model, x, subject, TARGET)


def check_arguments_of_metric(metric: Metric) -> None:
    """Maps and methods are not confused, several targets a row and maps that do not fit are refused; a map that is
    zero everywhere has a value."""
    model, x = network(), images()
    maps = _maps(Gradient(), model, x, TARGET)
    with refused(TypeError, "judges a", "a map in place of a method, or the other way round"):
        metric(model, x, maps if metric.judges == "method" else Gradient(), TARGET)
    with refused(ValueError, "one target per row", "several targets a row"):
        metric(model, x, _subject(metric, model, x, TARGET), TARGET[:, None].expand(ROWS, 2))
    forward, _ = _counted(model, lambda: _judged(metric, model, x, TARGET))
    if metric.judges == "method" or forward > ROWS:  # more than the gradient that is judged
        with refused(TargetError, "out of range", "a class that there is not"):
            metric(model, x, maps if metric.judges == "map" else Gradient(), 99)
    if metric.judges == "method":
        return
    unfit = {
        "attribution must be": torch.ones(2, 3, 12, 12),
        "floating": torch.ones(ROWS, 1, 12, 12, dtype=torch.long),
        "NaN": torch.full((ROWS, 1, 12, 12), math.nan),
    }
    for words, wrong in unfit.items():
        with refused(ValueError, words, f"maps {tuple(wrong.shape)} {wrong.dtype}"):
            metric(model, x, wrong, TARGET)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeepVizWarning)
        found = metric(model, x, torch.zeros(ROWS, 1, 12, 12), TARGET)
    expect(bool(found.isfinite().all()), "a map that is zero everywhere has no finite value")


METRIC_CHECKS: tuple[Callable[[Metric], None], ...] = (
    check_documentation,
    check_options,
    check_value,
    check_spelling,
    check_range,
    check_rows_of_metric,
    check_determinism_of_metric,
    check_borrowing_of_metric,
    check_arguments_of_metric,
    check_errors,
)
"""The checks that every metric passes."""
