"""What every attribution method is: a small frozen value, called with (model, x, target)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from inspect import isabstract
from operator import le
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from deepviz.diagnostics import Diagnostics
from deepviz.errors import ImageError, MethodError, ModelError, NoGradient
from deepviz.inputs import Inputs, Leaves, is_image_like, plain_tensor
from deepviz.methods.needs import Needs
from deepviz.names import callable_name, stem
from deepviz.objectives.bound import Bound, bind
from deepviz.options import Frozen, digest, having
from deepviz.probe.black_box import as_module, black_box_of
from deepviz.probe.held import Held
from deepviz.probe.outputs import Kind
from deepviz.probe.progress import to_the_end
from deepviz.probe.reference import Colours, resolve_baselines
from deepviz.probe.session import Session, opened

View = Literal["magnitude", "sum", "positive", "range"]
"""How a map becomes a picture: the maximum of |.| over channels, the signed sum over channels, or as it is, from
zero up, or from its lowest value up."""
HALF = (torch.float16, torch.bfloat16)
SPACES = {1: "signals (N, C, L)", 2: "images (N, C, H, W)", 3: "volumes (N, C, D, H, W)"}
"""Inputs by their number of spatial axes, in words."""


@dataclass(frozen=True)
class Attribution:
    """The maps of a method for a batch.

    Args:
        maps: in the structure of `x`: for each explained tensor its shape, or (N, 1, *grid) for layer methods; with K
            objectives (N, K, ...). None for a tensor that is not explained.
        classes: the explained classes, (N,) or (N, K) on the CPU; None if what is explained is no class.
        notes: what was found out on the way.
    """

    maps: Any
    classes: Tensor | None
    notes: Diagnostics


@dataclass(frozen=True)
class Method(Frozen, ABC):
    """A method of attribution: a pure function of (model, x, target).

    Fields are plain values or other methods, all with defaults, described and bounded once in their annotation. A
    subclass writes `maps`, the formula, and declares what it needs and costs; everything around it (checking the
    options, borrowing the model, choosing the class, checking the result) is done here.
    """

    title: ClassVar[str] = ""
    """The name in captions; by default the class's."""
    paper: ClassVar[str] = ""
    """Authors, year and where to find it."""
    cost: ClassVar[str] = ""
    """What one map costs, in forward and backward passes."""
    needs: ClassVar[Needs] = Needs(gradient=True)
    """What it asks of a model, apart from the methods inside it."""
    in_default_set: ClassVar[bool] = True
    """Whether "all" includes it, where it is in the catalog."""
    of_parts: ClassVar[bool] = False
    """Whether its map is of parts of the image that are changed together, not of pixels."""
    plain_gradient: ClassVar[bool] = False
    """Whether it takes the gradient of the inputs as they are, so that the pass that shows what the model predicts
    serves it too."""
    spatial: ClassVar[tuple[int, ...]] = (1, 2, 3)
    """How many spatial axes its inputs may have: 1 of signals (N, C, L), 2 of images, 3 of volumes (N, C, D, H, W)."""

    def __call__(
        self, model: nn.Module, x: Any, target: Any = None, *, extra: Any = None, output: Kind = "auto"
    ) -> Any:
        """The attribution of what `target` says to `x`.

        Args:
            model: any `nn.Module`; it is left exactly as it was. For methods that need forward passes alone also any
                callable from a batch to scores (see `BlackBox`).
            x: (N, C, H, W), as the model takes it (normalised); not written to. In general a tensor, a tuple
                (positional) or a mapping (keywords) of tensors, each with N rows, image-like ones (N, C, *space) with
                one to three spatial axes; floating ones are explained. Or an `Inputs`.
            target: a class index; a tensor (N,), one class per row; (N, K), K per row, the result then is
                (N, K, ...); an `Objective`; a callable from the model's raw output to one score per row; a list of
                these; None: the predicted class.
            extra: what the model takes beside `x`: a tuple follows it by position, a mapping goes by keyword. Its
                tensors have one row per image; what is the same for all is `deepviz.shared(value)`.
            output: what the model returns, where that cannot be read from it: "logits", "probabilities", "binary",
                "multi-label", "regression" or "embedding".

        Returns:
            Raw signed values in the input's space, of the dtype and on the device of `x`: (N, C, H, W), or
            (N, 1, h, w) for layer methods, at the layer's resolution. In the structure of `x`.

        Raises:
            TypeError: if model and image are swapped.
            NoGradient: for a callable, if it needs more than forward passes.
            ImageError: for a signal or volume, if it does not take these.
            TargetError: for a class that the model does not have.
            MethodError: if the method itself returns maps of a wrong shape.
            ModelError: if the model returns nothing that can be explained, or nothing finite or differentiable, or
                holds side information that does not follow the rows.
        """
        found = self._attributed(model, x, target, extra, output)
        leaves = (
            maps if maps is None else maps.to(leaf.dtype) for maps, leaf in zip(found.leaves, found.x, strict=True)
        )
        return found.inputs.restore(tuple(leaves))

    def attribute(
        self,
        model: nn.Module,
        x: Any,
        target: Any = None,
        *,
        extra: Any = None,
        output: Kind = "auto",
        held: Held | None = None,
    ) -> Attribution:
        """As a call, with the explained classes and the notes (layer, coverage, completeness gap, warnings); maps that
        were computed with more digits than those of an input in half precision keep them, in float32. `held`: a
        forward pass of `x`, an `Inputs`, that was made before."""
        found = self._attributed(model, x, target, extra, output, held)
        return Attribution(found.inputs.restore(found.leaves), found.classes, found.notes)

    def _attributed(
        self, model: nn.Module, x: Any, target: Any, extra: Any, output: Kind, held: Held | None = None
    ) -> _Attributed:
        model, inputs, score = asked(model, x, target, extra)
        _check_black_box(model, self.requires)
        with opened(model, inputs, score, output, check=self.requires != Needs(), held=held) as session:
            self._check_spatial(session.x)
            found = self.maps(session)
            leaves = _by_leaf(self, session, found)
            for remark in sorted(score.remarks):
                session.notes.warn(remark)
            if score.reading is not None and score.reading.assumed:
                session.notes.facts["output"] = score.reading.assumed
            for maps, leaf in zip(leaves, session.x, strict=True):
                if maps is not None:
                    _check_shape(self, maps, leaf, session)
                    _check_maps(self, maps, session)
        return _Attributed(inputs, session.x, leaves, score.indices, session.notes)

    @abstractmethod
    def maps(self, session: Session) -> Tensor | Leaves:
        """The formula, for a model that is already borrowed: the maps of all rows of `session.x`.

        A tensor if there is one explained input, or for a layer's map; else one for each.
        """

    @property
    def view(self) -> View:
        """How the map is drawn unless asked otherwise."""
        return "magnitude"

    def starts(self, x: Leaves) -> list[Leaves]:
        """The baselines of `x`, where the values of a map sum to S(x) less the mean score of these; else none."""
        return []

    def passes(self) -> float:
        """Forward and backward passes of one image for one map: `cost` as a number."""
        if self._inside:
            return sum(method.passes() for method in self._inside)
        return 1.0 if self.needs.black_box else 2.0

    @property
    def requires(self) -> Needs:
        """What it needs, with what the methods inside it do."""
        needs = self.needs
        for method in self._inside:
            needs = needs | method.requires
        return needs

    @property
    def spatial_axes(self) -> tuple[int, ...]:
        """How many spatial axes its inputs may have, with what the methods inside it say of theirs."""
        return tuple(axes for axes in self.spatial if all(axes in method.spatial_axes for method in self._inside))

    def _check_spatial(self, x: Leaves) -> None:
        for leaf in filter(is_image_like, x):
            if leaf.ndim - 2 not in self.spatial_axes:
                kinds = " or ".join(SPACES[axes] for axes in self.spatial_axes)
                raise ImageError(f"{self.name} takes {kinds}, got an input {tuple(leaf.shape)}")

    @property
    def coarse(self) -> bool:
        """Whether the map has few cells, of a layer or of parts of the image, not a value per pixel."""
        return self.requires.coarse or any(method.of_parts for method in (self, *self._inside))

    @property
    def _inside(self) -> tuple[Method, ...]:
        values = (getattr(self, field.name) for field in fields(self))
        return tuple(value for value in values if isinstance(value, Method))

    def resolve_baseline(self, colours: Colours) -> Method:
        """The same method with baselines by name ("black") as `colours` says they are in the input's space."""
        changed = resolve_baselines(self, colours)
        return self._with(changed, lambda method: method.resolve_baseline(colours))

    def with_layer(self, layer: str | nn.Module) -> Method:
        """The same method with `layer` wherever it, or a method inside it, takes one and names none.

        A method that takes several layers only, such as `RefineCAM`, stays as it is, with what is inside it.
        """
        one, several = having(type(self), "layer"), having(type(self), "layers")
        if several and not one:
            return self
        named = any(getattr(self, name) is not None for name in several)
        changed: dict[str, Any] = {name: layer for name in one if getattr(self, name) is None and not named}
        return self._with(changed, lambda method: method.with_layer(layer))

    def with_budget(self, passes: int) -> Method:
        """The same method with so many forward passes wherever it, or a method inside it, takes a budget."""
        changed = dict.fromkeys(having(type(self), "budget"), passes)
        return self._with(changed, lambda method: method.with_budget(passes))

    def layers_by_name(self, model: nn.Module) -> Method:
        """The same method with layers given as modules by their names, as results hold them.

        A module that is not part of `model` stays: whoever looks for its map says so.
        """
        names = {module: name for name, module in model.named_modules() if name}

        def named(layer: Any) -> Any:
            return names.get(layer, layer) if isinstance(layer, nn.Module) else layer

        changed: dict[str, Any] = {name: named(getattr(self, name)) for name in having(type(self), "layer")}
        for name in having(type(self), "layers"):
            layers = getattr(self, name)
            if any(isinstance(layer, nn.Module) for layer in layers or ()):
                changed[name] = tuple(map(named, layers))
        return self._with(changed, lambda method: method.layers_by_name(model))

    def _with(self, changed: dict[str, Any], inside: Callable[[Method], Method]) -> Method:
        """The same method with other values, and the methods inside it changed; itself if nothing is another."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        inner = {name: inside(value) for name, value in own.items() if isinstance(value, Method)}
        new = {name: value for name, value in (changed | inner).items() if value is not own[name]}
        return replace(self, **new) if new else self

    @property
    def name(self) -> str:
        """The title, or the class's name where there is none."""
        return self.title or type(self).__name__

    def __str__(self) -> str:
        """For captions: the name, with the options that are not the defaults (a layer is told by the result)."""
        changed = [
            f"{field.name} {in_short(getattr(self, field.name))}"
            for field in fields(self)
            if field.name not in ("of", "cam", *having(type(self), "layer"), *having(type(self), "layers"))
            and _differs(getattr(self, field.name), field.default)
        ]
        return ", ".join([self.name, *changed])


@dataclass(frozen=True, eq=False)
class _Attributed:
    inputs: Inputs
    x: Leaves
    leaves: tuple[Tensor | None, ...]
    classes: Tensor | None
    notes: Diagnostics


def _differs(value: object, default: object) -> bool:
    return isinstance(value, Tensor) or value != default


def in_short(value: object) -> str:
    """An option's value in a caption; of a tensor its shape, and a few digits that tell it from others; of a callable
    its name."""
    if isinstance(value, Tensor):
        return f"tensor {tuple(value.shape)} {digest(value)[:6]}"
    return callable_name(value) if callable(value) and not isinstance(value, Frozen) else str(value)


def asked(model: object, x: Any, target: Any, extra: Any = None) -> tuple[nn.Module, Inputs, Bound]:
    """The model of a call as a module, its inputs, and what is explained of each row."""
    with torch.inference_mode(False):
        module = as_module(model)
        inputs = check_arguments(module, x, extra)
        return module, inputs, bind(target, inputs.n)


def _check_black_box(model: nn.Module, needs: Needs) -> None:
    """Refuse a model of which only the outputs are known, if more is needed.

    Raises:
        NoGradient: naming the methods of the catalog that need forward passes alone.
    """
    function = black_box_of(model)
    if function is None or needs.black_box:
        return
    names = [stem(cls) for cls in _concrete_methods() if cls().requires.black_box]
    known = f" ({', '.join(names)})" if names else ""
    raise NoGradient(
        f"{function.name} is {needs.missing_from(function.kind)}: use a method that needs forward passes only{known}"
    )


def _concrete_methods() -> Iterator[type[Method]]:
    import deepviz.methods as every  # this module is part of it

    for name in every.__all__:
        value = getattr(every, name)
        if isinstance(value, type) and issubclass(value, Method) and not isabstract(value):
            yield value


def check_arguments(model: object, x: Any, extra: Any = None) -> Inputs:
    """The inputs of a call.

    Raises:
        TypeError: for anything but a module and tensors, or if they are swapped.
        ValueError: for tensors that are not finite floats with one row per image.
    """
    if isinstance(model, Tensor) and callable(x):
        raise TypeError("model and image are swapped: the order is (model, x, target)")
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, or a callable from a batch to scores, got {type(model).__name__}")
    if isinstance(x, Inputs):
        if extra is not None:
            raise TypeError("x is an Inputs, which holds its own extra: give extra= there")
        return x
    return Inputs(x, extra)


def map_of_image(method: Method, session: Session) -> Tensor:
    """The method's map of the image-like input, (N[, K], C, *space) or a layer's (N[, K], 1, *grid)."""
    with to_the_end():
        found = method.maps(session)
    if isinstance(found, Tensor):
        return found
    image = session.image()
    return next(maps for maps, leaf in zip(found, session.x, strict=True) if leaf is image)


def as_drawn(method: Method, maps: Tensor) -> Tensor:
    """Maps (N, C, *space) less what their pictures leave out: with the view "range", the lowest value."""
    if method.view != "range":
        return maps
    lowest = maps.sum(1).flatten(1).amin(1) / maps.shape[1]
    return maps - lowest.view(-1, *[1] * (maps.ndim - 1))


def drawn_values(maps: Tensor, view: View) -> Tensor:
    """The values that are drawn of one map (C, *space): (*space). Those of a table (C,) have no channels to combine.

    Example:
        >>> import torch
        >>> maps = torch.tensor([[[1.0, -3.0]], [[1.0, 2.0]]])
        >>> drawn_values(maps, "magnitude").tolist(), drawn_values(maps, "sum").tolist()
        ([[1.0, 3.0]], [[2.0, -1.0]])
        >>> drawn_values(maps, "range").tolist()
        [[3.0, 0.0]]
    """
    if maps.ndim == 1:
        return maps
    if view == "range":
        return maps.sum(0) - maps.sum(0).min()
    return maps.abs().amax(0) if view == "magnitude" else maps.sum(0)


def _by_leaf(method: Method, session: Session, found: Tensor | Leaves) -> tuple[Tensor | None, ...]:
    """The maps of each explained tensor, in its dtype; a single map belongs to the image.

    Raises:
        MethodError: if the method returned anything but a tensor, or one for each.
    """
    if not isinstance(found, Tensor):
        parts = list(found) if isinstance(found, (tuple, list)) else [found]
        if len(parts) != len(session.x) or not all(isinstance(part, Tensor) for part in parts):
            got = ", ".join(type(part).__name__ for part in parts)
            raise MethodError(
                f"{method.name} must return a tensor of maps, or one for each of {len(session.x)} explained inputs, "
                f"got {got or 'nothing'}"
            )
    if isinstance(found, Tensor):
        if len(session.x) == 1:
            found = Leaves((found,))
        else:
            image = session.image()
            return tuple(_plain(found, leaf) if leaf is image else None for leaf in session.x)
    return tuple(map(_plain, found, session.x))


def _plain(maps: Tensor, leaf: Tensor) -> Tensor:
    # parameters of a subclass of Tensor make gradients of it
    maps = plain_tensor(maps)
    wider = torch.promote_types(maps.dtype, leaf.dtype) != leaf.dtype
    return maps.to(torch.float32 if wider and leaf.dtype in HALF else leaf.dtype).contiguous()


def _check_shape(method: Method, maps: Tensor, leaf: Tensor, session: Session) -> None:
    """Refuse maps of another shape than the input's, which would be drawn stretched, or beside the wrong image.

    Raises:
        MethodError: naming the method and both shapes.
    """
    rows = (session.n, *session.score.shape)
    expected = (*rows, *leaf.shape[1:])
    if tuple(maps.shape) == expected:
        return
    coarser = ""
    if is_image_like(leaf):
        grid, space = maps.shape[len(rows) + 1 :], leaf.shape[2:]
        one_map = maps.shape[: len(rows) + 1] == (*rows, 1) and maps.numel() > 0
        # the cells that a method perturbs
        if one_map and len(grid) == len(space) and all(map(le, grid, space)):
            return
        # a layer's own cells, which may be finer; a callable as grid= may take frames out of the channels
        if one_map and len(grid) >= len(space) and (method.requires.layer or method.requires.attention):
            return
        coarser = f", or ({', '.join(map(str, rows))}, 1, *grid) with one map of at most {tuple(space)} cells"
    raise MethodError(
        f"{method.name} returned maps {tuple(maps.shape)} for an input {tuple(leaf.shape)}"
        f"{f' and {rows[1]} targets' if session.several else ''}: they must be {expected}{coarser}"
    )


def _check_maps(method: Method, maps: Tensor, session: Session) -> None:
    """A map that is not finite is an error, one that is zero everywhere a warning.

    Raises:
        ModelError: for NaN or infinity.
    """
    lowest, highest = maps.flatten(2 if session.several else 1).aminmax(dim=-1)
    if not bool((torch.isfinite(lowest) & torch.isfinite(highest)).all()):
        raise ModelError(
            f"{method.name} gave NaN or infinity though the scores are finite; "
            "in half precision try float32, else look for a division or square root at zero in the model"
        )
    where = "input, or the layer returns zeros" if method.coarse else "input"
    because = f"no gradient reaches the {where} (saturated or dead units, or a constant score)"
    if method.requires.black_box:
        because = "no change of the input changes the score"
    session.notes.warn_of_zero(
        f"{method.name} is all zero: {because}",
        ((lowest == 0) & (highest == 0)).cpu(),
    )
