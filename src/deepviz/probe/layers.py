"""Which layer can be explained: feature maps that lie on the image, found by probing gradients, not by name."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from deepviz.errors import DeepVizError, LayerError
from deepviz.inputs import Leaves
from deepviz.probe.border import PastNoGrad, contiguous_at_batch_norm
from deepviz.probe.capture import layer_name, refuse_graphs, spatial_tensor
from deepviz.probe.gradient import Independent, broken, differentiate, fresh_leaf
from deepviz.probe.graph import edges_of_output
from deepviz.probe.grid import Grid, Nowhere, Rearranged, Size, given_grid
from deepviz.probe.layer_names import call_name, is_call, path_of, same_call, titles
from deepviz.probe.places import INDEPENDENT, NO_GRADIENT, NO_MAP, Answer, Place, place, proposed
from deepviz.probe.seeds import generator_of
from deepviz.probe.seen import ByRows
from deepviz.probe.state import Memory
from deepviz.probe.watch import Watch, hooked

if TYPE_CHECKING:
    from deepviz.probe.session import Session

T = TypeVar("T")
GridLike = tuple[int, ...] | Callable[[Tensor], Tensor] | None
"""How a layer's output lies on the image, where the user says so: its cells along each axis, or a function that turns
the output (N, ...) into (N, D, *grid)."""

SCALES = ((1.0, 0.0), (0.01, 0.0), (73.0, 128.0))
"""Spread and mean of the noise that layers are looked for with: as normalised images are, dark, and from 0 to 255."""
TRIED = 5
"""Layers of one shape that may fail the place check before only some of the earlier ones are tried."""
MANY = 15
"""Layers of any shape likewise."""


@dataclass(frozen=True)
class Layer:
    """A layer by name, how its output lies on the image, and how that is known."""

    name: str
    grid: Grid | Rearranged | Nowhere
    known: str = ""


@dataclass
class LayerAnswer:
    """What one module answered in a probing forward pass of one image."""

    name: str
    type: str
    shape: tuple[int, ...]
    grid: Grid | None = None
    answer: Answer | None = None
    known: tuple[Size, ...] = ()
    laid: bool = False
    internal: str = ""
    strength: float = 0.0
    refused: str = ""
    place: str = ""
    gradient: Tensor | None = None

    @property
    def usable(self) -> bool:
        """Whether a CAM method can explain this layer."""
        return not self.reason

    @property
    def reason(self) -> str:
        """Why a CAM method cannot explain this layer; "" if it can."""
        if self.refused == NO_MAP:
            return NO_MAP
        if self.internal:
            return self.internal
        if self.strength <= 0:
            return "no gradient arrives on its grid"
        return self.refused or ("" if self.grid is not None else NO_MAP)


CONSTRUCTION = "by construction"
UNHEARD = "it was not called"
_found: Memory[Layer | str] = Memory()
_placed: Memory[Place] = Memory()
_stages: Memory[list[Layer]] = Memory()
_titles: Memory[dict[str, str]] = Memory()


def choose_layer(
    session: Session,
    layer: str | nn.Module | None,
    grid: GridLike = None,
    skip: Sequence[int] | None = None,
    still: bool = False,
) -> Layer:
    """The layer asked for, or the last one that holds a spatial map and has a gradient, and its place on the image.

    Of modules that answer with the same tensor, the outermost is named. Layers are looked for with noise of the
    input's shape, in three ranges, so that the result depends on the model and the shape alone. It is remembered for
    the model as long as its modules, parameters and buffers stay as they are.

    What is not known by construction (convolutions leave every cell where it is) costs a place check: one forward
    pass of one image and at most 12 backward passes for a named layer, or for each layer that is tried; once.

    Args:
        session: the model, its inputs, and what is explained.
        layer: its name, or the module; None to look for one.
        grid: how its output lies on the image, taken without a check.
        skip: positions of its sequence that are no image tokens, likewise; negative ones count from the end.
        still: whether a named layer may be independent of the image; its shape is then taken without a check.

    Raises:
        LayerError: if there is no such layer, or its output does not lie on the image as far as can be told.
    """
    if session.survey.graphs:
        refuse_graphs(session.model)
    if layer is None:
        if grid is not None or skip is not None:
            raise LayerError("grid= and skip= say how the output of one layer lies on the image: name it with layer=")
        return _default(session)
    name = layer_name(session.model, layer)
    if session.survey.graphs:
        refuse_graphs(session.model, name)
    if callable(grid):
        if skip is not None:
            raise LayerError("a callable as grid= leaves out other tokens itself: give no skip= beside it")
        return Layer(name, Rearranged(grid, session.image().ndim - 2), "given")
    return _named(session, name, _checked_size(session, grid), skip, still)


def _checked_size(session: Session, grid: tuple[int, ...] | None) -> Size | None:
    if grid is None:
        return None
    axes = session.image().ndim - 2
    if len(grid) != axes:
        raise LayerError(f"grid={tuple(grid)} needs {axes} number{'s' * (axes > 1)}, one for each axis of the image")
    return tuple(grid)


def layer_title(session: Session, name: str) -> str:
    """What a layer is called where people read it: "ReLU6 after conv_head" for "act#2". It costs a forward pass of one
    image, once, for the call of a module that is called several times."""
    if not is_call(name):
        return name

    def found() -> dict[str, str]:
        return on_noise(session, lambda part: _titles_of(_watch_forward(part, read=False)))

    return _titles.once(session.model, _titles_key(session), found).get(name, name)


def _titles_of(seen: _Pass) -> dict[str, str]:
    return titles((one.name, one.type) for one in seen.answers)


def _titles_key(session: Session) -> tuple[Any, ...]:
    return session.state, session.inputs.signature()


def grid_of(layer: Layer, answer: Tensor, rows: int) -> Grid | Rearranged:
    """The grid of what `layer` answered for so many images.

    Raises:
        LayerError: if it answered with another shape than in the place check.
    """
    if isinstance(layer.grid, Nowhere):
        raise LayerError(
            f"layer {layer.name!r} is called for this image, but not for the noise that its place is looked for with: "
            "choose a layer that is always called (see: deepviz layers)"
        )
    if not layer.grid.fits(tuple(answer.shape), rows):
        raise LayerError(
            f"layer {layer.name!r} returns {tuple(answer.shape)} for {rows} images, which is not "
            f"{layer.grid} as for one: choose another layer (see: deepviz layers)"
        )
    return replace(layer.grid, rows=rows) if isinstance(layer.grid, Rearranged) else layer.grid


def grids_of(session: Session, names: Iterable[str]) -> dict[str, Grid]:
    """How the layers that an objective reads lie on the image, of those of which it can be told; checked once."""
    found = {}
    for name in names:
        with torch.enable_grad(), suppress(DeepVizError):
            place_ = _named_place(session, layer_name(session.model, name), None, None)
            if place_.grid is not None:
                found[name] = place_.grid
    return found


# by name


def _named(session: Session, name: str, size: Size | None, skip: Sequence[int] | None, still: bool) -> Layer:
    place_ = _named_place(session, name, size, skip)
    if place_.grid is not None:
        return Layer(name, place_.grid, place_.known)
    if place_.reason == UNHEARD:
        return Layer(name, Nowhere())
    axes = session.image().ndim - 2
    if still and place_.reason in (INDEPENDENT, NO_GRADIENT) and len(place_.shape) == axes + 2:
        return Layer(name, Grid("channels first", place_.shape[2:]), "by its shape")
    if place_.reason == NO_MAP and size is None and skip is None:
        folded = place_.shape[:1] != (1,) and len(place_.shape) > 2
        shape = place_.shape if folded else (session.n, *place_.shape[1:])
        rows = 1 if folded else session.n
        why = " (are frames or windows folded into its rows?)" if folded else ""
        raise LayerError(
            f"layer {name!r} has no spatial map: its output is a tensor {shape} for an input "
            f"{(rows, *session.image().shape[1:])}{why}; choose an earlier layer (see: deepviz layers), "
            "or give a callable (N, ...) -> (N, D, *grid) as grid="
        )
    raise LayerError(_refusal(name, place_, session.image().ndim - 2, size, skip))


def _refusal(name: str, found: Place, axes: int, size: Size | None, skip: Sequence[int] | None) -> str:
    letters = ("(l,)", "(h, w)", "(t, h, w)")[axes - 1]
    if size is not None or skip is not None:
        said = ", ".join(
            f"{key}={tuple(value)}" for key, value in (("grid", size), ("skip", skip)) if value is not None
        )
        why = found.reason if found.reason != NO_MAP else "that does not fit"
        return (
            f"layer {name!r} returns {found.shape} for one image, and with {said}: {why}; say both grid={letters} and "
            "skip=(positions of tokens that are not the image's), or give a callable (N, ...) -> (N, D, *grid) as grid="
        )
    return (
        f"layer {name!r} returns {found.shape} for one image, but {found.reason}; choose another layer (see: deepviz "
        f"layers), or say how it lies on the image: grid={letters}, skip=(positions of tokens that are not the "
        "image's), or a callable (N, ...) -> (N, D, *grid) as grid="
    )


def _named_place(session: Session, name: str, size: Size | None, skip: Sequence[int] | None) -> Place:
    key = _place_key(session, name, size, skip)
    return _placed.once(session.model, key, lambda: _look_at(session, name, size, skip))


def _place_key(
    session: Session, name: str, size: Size | None = None, skip: Sequence[int] | None = None
) -> tuple[Any, ...]:
    return session.state, session.inputs.signature(), name, size, None if skip is None else tuple(skip)


def _look_at(session: Session, name: str, size: Size | None, skip: Sequence[int] | None) -> Place:
    """One forward pass of one image, and the place check of one layer."""
    found: list[Place] = []

    def look(part: Session) -> None:
        seen = _watch_forward(part, read=False, only=name)
        _titles.put(session.model, _titles_key(session), _titles_of(seen))
        one = next((answer for answer in seen.answers if same_call(answer.name, name)), None)
        if one is None or (one.name != name and not is_call(name)):
            found[:] = [Place(None, UNHEARD)]
            return
        found[:] = [_place_of(one, seen.image, size, skip)]
        if found[0].reason == NO_GRADIENT:
            raise Independent(NO_GRADIENT)

    with suppress(Independent):
        on_noise(session, look)
    return found[0]


def _place_of(one: LayerAnswer, image: Tensor, size: Size | None = None, skip: Sequence[int] | None = None) -> Place:
    """How one layer lies on the image: as given, by construction, or by the place check."""
    shape = one.shape
    if one.refused == NO_MAP:
        return Place(None, NO_MAP, shape=shape)
    given = given_grid(shape, size, skip)
    if given is not None:
        return Place(given, told="given", shape=shape)
    if one.laid and size is None and skip is None and math.prod(shape[2:]) > 1:
        return Place(Grid("channels first", shape[2:]), told=CONSTRUCTION, shape=shape)
    if one.answer is None:
        return Place(None, NO_GRADIENT, shape=shape)
    return replace(place(one.answer, image, one.known, size=size, skip=skip), shape=shape)


# the default


def _default(session: Session) -> Layer:
    # a callable may explain another head of the model, which another layer feeds
    key = (session.state, session.inputs.signature(), session.score.question)
    found = _found.once(session.model, key, lambda: _search(session))
    if isinstance(found, str):
        raise LayerError(found)
    return found


def _search(session: Session) -> Layer | str:
    """The last layer that can be used, or why there is none."""
    refused: list[LayerAnswer] = []

    def look(part: Session) -> Layer | None:
        refused.clear()
        seen = _measured(part)
        _leave_out_parts(seen)
        _titles.put(session.model, _titles_key(session), _titles_of(seen))
        waiting = [one for one in reversed(seen.answers) if one.usable or _unplaced(one)]
        failed: Counter[tuple[int, ...]] = Counter()
        while waiting:
            one = waiting.pop(0)
            outer = _outermost(one, seen.answers)
            if _unplaced(one):
                key = _place_key(session, outer.name)
                _take(one, _placed.once(session.model, key, partial(_place_of, one, seen.image)))
            if one.usable:
                assert one.grid is not None
                return Layer(outer.name, one.grid, one.place)
            if one.refused and one.refused != NO_MAP:
                refused.append(one)
                failed[one.shape] += 1
                if failed[one.shape] >= TRIED:
                    same = [other for other in waiting if other.shape == one.shape]
                    left_out = same[: len(same) // 2]
                    waiting = [other for other in waiting if other not in left_out]
                if len(refused) >= MANY and len(refused) % TRIED == 0:
                    waiting = waiting[::2]
        return None

    found = on_noise(session, look)
    if found is not None:
        return found
    if refused:
        last = refused[0]
        return (
            "no layer was found whose output lies on the image; the last with a gradient, "
            f"{last.name!r}, was refused: {last.refused}; name one with layer=..., and say how it lies with grid=... "
            "(see: deepviz layers)"
        )
    return (
        "no layer with a spatial map between the image and the score was found; "
        "name one with layer=... (see: deepviz layers)"
    )


def _leave_out_parts(seen: _Pass) -> None:
    """Of a detector, leave the layers to be used on which all boxes depend: others are of one level of its pyramid."""
    answers = [one for one in seen.answers if one.answer is not None and one.strength > 0]
    for number in seen.output.apart() if isinstance(seen.output, ByRows) else ():
        edges = [one.answer.edge for one in answers if one.answer is not None]
        if not edges:
            return
        for one, gradient in zip(answers, differentiate(number, edges, keep=True), strict=True):
            if gradient is None or not bool(gradient.any()):
                one.strength = 0.0
        answers = [one for one in answers if one.strength > 0]


def _unplaced(one: LayerAnswer) -> bool:
    """Whether only the place check is missing."""
    return one.grid is None and not one.refused and not one.internal and one.strength > 0


def _settle(one: LayerAnswer, image: Tensor, places: dict[Any, Place]) -> None:
    """The place check of one layer, once for modules that answer with the same tensor."""
    if one.grid is not None or one.refused:
        return
    key = None if one.answer is None else one.answer.edge
    if key not in places:
        places[key] = _place_of(one, image)
    _take(one, places[key])


def _take(one: LayerAnswer, found: Place) -> None:
    one.grid, one.refused, one.place = found.grid, found.reason, found.known
    if found.grid is not None and one.gradient is not None:
        one.strength = _size(found.grid.maps(one.gradient), one.gradient)


def _outermost(one: LayerAnswer, answers: list[LayerAnswer]) -> LayerAnswer:
    """Of the modules that answered with the same tensor, the one that contains the others."""
    assert one.answer is not None
    same = [other for other in answers if other.answer is not None and other.answer.edge == one.answer.edge]
    # a module that is called in several places (one activation for all) has the name of the first of them
    outer = (other for other in same if not other.internal)
    return min(outer, key=lambda other: (is_call(other.name), other.name.count(".")))


def choose_stages(session: Session) -> list[Layer]:
    """The last layer with each size of map, from a quarter of the image's size down, earliest first; where there are
    none of these, the layer that `choose_layer` finds. Found once, as that one is.

    Raises:
        LayerError: if there is none.
    """
    last = choose_layer(session, None)

    def found() -> list[Layer]:
        space = session.image().shape[2:]
        stages: dict[Size, Layer] = {}
        for one in probe_layers(session):
            size = None if one.grid is None or not one.usable else one.grid.size
            if one.grid is not None and size is not None and all(4 * n <= m for n, m in zip(size, space, strict=True)):
                stages.pop(size, None)  # a size that comes again later stands there
                stages[size] = Layer(one.name, one.grid, one.place)
        return [last if isinstance(last.grid, Grid) and last.grid.size == size else one for size, one in stages.items()]

    key = (session.state, session.inputs.signature(), session.score.question)
    return _stages.once(session.model, key, found) or [last]


def probe_layers(session: Session) -> list[LayerAnswer]:
    """Every module of the model that answers with a tensor, in the order of answering, for one image.

    Of consecutive layers of one shape the first and the last are checked for their place; if both lie on the image in
    the same way, those between are taken to do so too, and are checked when they are named.

    Returns:
        For each call its shape, its grid if its answer lies on the image, why it cannot be used (a part of attention,
        pooling, the model's output itself, no place), and the size of the gradient that arrives on its grid. A module
        that is called several times is numbered, "relu#1", "relu#2".
    """

    def look(part: Session) -> list[LayerAnswer]:
        seen = _measured(part)
        places: dict[Any, Place] = {}
        runs: list[list[LayerAnswer]] = []
        for one in seen.answers:
            if one.laid or not _unplaced(one):
                _settle_at_once(one, seen.image, places)
                continue
            if runs and runs[-1][-1].shape == one.shape:
                runs[-1].append(one)
            else:
                runs.append([one])
        for run in runs:
            _settle_run(run, seen.image, places)
        return seen.answers

    return on_noise(session, look)


def _settle_at_once(one: LayerAnswer, image: Tensor, places: dict[Any, Place]) -> None:
    if one.laid and not one.internal:
        _settle(one, image, places)


def _settle_run(run: list[LayerAnswer], image: Tensor, places: dict[Any, Place]) -> None:
    first, last = run[0], run[-1]
    for one in (last, first):
        _settle(one, image, places)
    if len(run) < 3:
        return
    if first.grid is not None and first.grid == last.grid:
        for one in run[1:-1]:
            _take(one, Place(first.grid, told=first.place))
        return
    if first.grid is None and last.grid is None:
        for one in run[1:-1]:
            _take(one, Place(None, last.refused))
        return
    middle = len(run) // 2
    _settle_run(run[: middle + 1], image, places)
    _settle_run(run[middle:], image, places)


# one probing pass


@dataclass
class _Pass:
    """One forward pass of one image of noise."""

    image: Tensor
    answers: list[LayerAnswer]
    output: Any = None
    values: Tensor | None = None


class _Everything:
    """All of the model's numbers at once, in a random mixture: no class in particular."""

    layers: frozenset[str] = frozenset()
    shape: tuple[int, ...] = ()

    def take(self, rows: Any) -> _Everything:
        return self

    def __call__(self, seen: Any) -> Tensor:
        mixed: Tensor = seen.mixture()
        return mixed


def on_noise(session: Session, look: Callable[[Session], T]) -> T:
    """`look` at one row whose image is noise; at the image itself where the model, or the target, fails on that."""
    one = session.take(torch.tensor([0]))
    if session.score.question == "class":
        one = replace(one, score=_Everything())
    image = one.image()
    failure: Exception | None = None
    tried = [(noise, past) for past in (False, True) for noise in (_noise(image, *SCALES[0]), image)]
    for noise, past in tried if not session.known.past_no_grad else tried[2:]:
        try:
            with ExitStack() as stack:
                stack.enter_context(contiguous_at_batch_norm(session.survey.batch_norms))
                if past:
                    stack.enter_context(PastNoGrad())
                return one.with_image(noise).in_layout(look)
        except Independent as error:
            failure = failure or error
        except LayerError:
            raise
        except (DeepVizError, ValueError, IndexError, KeyError, RuntimeError) as error:
            failure = error
            if noise is image:
                break
    assert failure is not None
    if isinstance(failure, Independent):
        raise Independent(broken(one.call, one.inputs)) from failure
    raise failure


def _noise(image: Tensor, spread: float, mean: float) -> Tensor:
    """(1, C, *space) of normal noise, always the same."""
    normal = torch.randn(image.shape, generator=generator_of(0), dtype=torch.float64)
    return (normal * spread + mean).to(image)


def _watch_forward(session: Session, read: bool = True, only: str | None = None) -> _Pass:
    """Run one image and hear what every module answers."""
    leaves = session.x.map(fresh_leaf)
    laid = replace(session, inputs=session.inputs.put(Leaves(leaves)))
    image = laid.image()
    watch = Watch()
    watch.start(image)
    heard: list[tuple[nn.Module, int, LayerAnswer]] = []
    calls: Counter[nn.Module] = Counter()
    known: list[Size] = []
    axes = image.ndim - 2

    def answered(name: str, module: nn.Module, output: Any) -> None:
        calls[module] += 1
        tensor = spatial_tensor(output)
        if tensor is None:
            return
        shape = tuple(tensor.shape)
        answer = Answer.of(tensor) if tensor.requires_grad else None
        one = LayerAnswer(name, type(module).__name__, shape, None, answer, tuple(known), watch.is_laid(tensor))
        one.internal = "pooling" if watch.is_pooled(tensor) else ""
        if only is None or name == path_of(only):
            attention = only is not None and _is_attention(tensor)
            if attention or not (
                (one.laid and math.prod(shape[2:]) > 1) or proposed(shape, tuple(image.shape[2:]), known)
            ):
                one.refused = NO_MAP
        heard.append((module, calls[module], one))
        if not watch.depends(tensor):
            return  # a table of positions has a size of its own
        if len(shape) == axes + 2 and shape[0] == 1 and math.prod(shape[2:]) > 1:
            known.append(shape[2:])
        elif axes == 3 and len(shape) == 4:  # frames folded into the rows
            known.append((shape[0], *shape[2:]))

    seen = _Pass(image, [])
    if read:
        laid.find_grids()  # a pass of its own, which must not be heard here
    with hooked(session.model, watch, answered), watch:
        if read:
            shown = laid.look()
            seen.output = shown.output
        else:
            laid.call.run(laid.inputs)
    if read:
        seen.values = laid.read(shown)
    for module, number, one in heard:
        one.internal = one.internal or watch.internal(module)
        if calls[module] > 1:
            one.name = call_name(one.name, number)
    seen.answers = [one for _, _, one in heard]
    return seen


def _measured(session: Session) -> _Pass:
    """One image, and the gradients that arrive at each layer: for noise of several ranges, where some stay away.

    Raises:
        Independent: if the score does not depend on the image.
    """
    seen = _watch_forward(session)
    assert seen.values is not None
    raw = edges_of_output(seen.values, seen.output, seen.image)
    for one in seen.answers:
        if one.answer is not None and not one.internal and one.answer.edge in raw:
            one.internal = "the model's output itself"
    measured = [one for one in seen.answers if one.answer is not None and not one.internal and not one.refused]
    _measure(seen, measured)
    silent = _silent(measured)
    for spread, mean in SCALES[1:]:
        if not silent:
            break
        try:
            other = _watch_forward(session.with_image(_noise(session.image(), spread, mean)))
            by_name = {one.name: one for one in other.answers}
            again = [by_name[one.name] for one in silent if one.name in by_name]
            again = [one for one in again if one.answer is not None and not one.refused]
            _measure(other, again)
        except (DeepVizError, RuntimeError, ValueError, IndexError, KeyError):
            continue
        for one in silent:
            same = by_name.get(one.name)
            if same is not None and same.strength > one.strength and same.shape == one.shape:
                one.strength, one.gradient = same.strength, same.gradient
        silent = _silent(measured)
    return seen


def _silent(measured: list[LayerAnswer]) -> list[LayerAnswer]:
    """Layers after the last with a gradient, which may have one for other images."""
    alive = [place_ for place_, one in enumerate(measured) if one.strength > 0]
    return measured[alive[-1] + 1 :] if alive else measured


def _measure(seen: _Pass, answers: list[LayerAnswer]) -> None:
    """The size of the gradient on each layer's grid, zero where it is rounding or only arrives at other tokens."""
    assert seen.values is not None
    if not seen.values.requires_grad:
        raise Independent("the score does not depend on the image in a differentiable way")
    edges = [one.answer.edge for one in answers if one.answer is not None]
    # of one target: the sum of several may be a constant
    at_image, *gradients = differentiate(seen.values.flatten()[0], [seen.image, *edges], keep=True)
    if at_image is None:
        raise Independent("the score does not depend on the image in a differentiable way")
    space = tuple(seen.image.shape[2:])
    for one, gradient in zip(answers, gradients, strict=True):
        if gradient is None:
            continue
        one.gradient = gradient
        one.strength = _size(gradient, gradient)
        if one.strength > 0 and gradient.ndim == 3 and not one.laid:
            beside = next((len(grid.skip) for grid in proposed(one.shape, space, one.known)), 0)
            positions = gradient.abs().amax(2).flatten()
            if int((positions > 8 * torch.finfo(gradient.dtype).eps * positions.max()).sum()) <= beside:
                one.strength = 0.0


def _size(on_grid: Tensor, everywhere: Tensor) -> float:
    found, most = float(on_grid.abs().max()), float(everywhere.abs().max())
    return found if found > 8 * torch.finfo(everywhere.dtype).eps * most else 0.0


def _is_attention(answer: Tensor) -> bool:
    """Whether this is an attention matrix (..., T, T): each row shares out 1 among the tokens."""
    if answer.ndim < 3 or answer.shape[-2] != answer.shape[-1] or bool((answer < 0).any()):
        return False
    return bool((answer.float().sum(-1) - 1).abs().max() < 0.01)
