"""What class activation maps share: a layer's place on the image, and the maps of several layers as one."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from deepviz import options
from deepviz.diagnostics import NO_CLASS, OBJECTIVE
from deepviz.methods.enlarge import enlarged
from deepviz.methods.method import Method
from deepviz.methods.needs import Needs
from deepviz.probe.capture import layer_gradient, layer_output
from deepviz.probe.grid import Grid, Rearranged
from deepviz.probe.layers import CONSTRUCTION, Layer, choose_layer, grid_of, layer_title
from deepviz.probe.session import Session

Join = Literal["maximum", "sum"]
JOINED: dict[str, str] = {
    "maximum": "maximum of the maps, each divided by its own maximum",
    "sum": "sum of the maps",
}


@dataclass(frozen=True)
class LayerMap(Method):
    """A method whose map has the cells of a layer; of several layers, such as those of a feature pyramid, one map.

    A subclass writes `map_at`, the map of one layer, (N, 1, *grid), or (N, K, 1, *grid) for K objectives. With
    `layers=` the maps of all are enlarged to the image's size, linearly, and joined: (N, 1, *space).
    """

    layer: options.Layer = None
    layers: options.Layers = field(default=None, kw_only=True)
    join: Annotated[
        Join,
        "How the maps of several layers become one, at the image's size: the maximum of the maps, each divided by its "
        "own maximum, or the sum of the maps as they are.",
    ] = field(default="maximum", kw_only=True)
    grid: options.GridOption = field(default=None, kw_only=True)
    skip: options.SkipOption = field(default=None, kw_only=True)

    needs: ClassVar[Needs] = Needs(layer=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layers is None:
            return
        if self.layer is not None:
            raise ValueError("layer= is one layer, layers= are several: give one of them")
        if not self.layers:
            raise ValueError("layers must name at least one layer, got ()")
        if self.grid is not None or self.skip is not None:
            raise ValueError("grid= and skip= say how the output of one layer lies on the image: give layer=")

    @abstractmethod
    def map_at(self, session: Session, layer: Layer) -> Tensor:
        """The map of one layer, (N, 1, *grid), or (N, K, 1, *grid) for K objectives."""

    def maps(self, session: Session) -> Tensor:
        """The map of the layer, or those of `layers`, joined."""
        if self.layers is None:
            layer = choose_layer(session, self.layer, self.grid, self.skip)
            found = self.map_at(session, layer)
            note_layers(session, [layer])
            return found
        session.decide()  # one class for all layers
        layers = [choose_layer(session, one) for one in self.layers]
        space = session.image().shape[2:]
        maps = [enlarged(self.map_at(session, layer), space) for layer in layers]
        note_layers(session, layers)
        session.notes.facts["joined"] = JOINED[self.join]
        return joined(maps, self.join, 2 if session.several else 1)

    def passes(self) -> float:
        """A forward pass and the backward pass above the layer, for each layer."""
        return 2.0 * len(self.layers or (None,))


def joined(maps: list[Tensor], join: Join, rows: int) -> Tensor:
    """The maps of several layers, of one size, as one; the first `rows` axes are images and objectives."""
    if join == "sum":
        return torch.stack(maps).sum(0)
    own = torch.stack([scaled(cam, rows) for cam in maps])
    # where evidence has a sign, what is strongest
    strongest = own.abs().argmax(0, keepdim=True)
    return own.gather(0, strongest)[0]


def scaled(cam: Tensor, rows: int) -> Tensor:
    """Each map divided by its largest magnitude; the first `rows` axes are images and objectives."""
    most = cam.flatten(rows).abs().amax(-1)
    most = torch.where(most > 0, most, torch.ones_like(most))
    return cam / most.view(*most.shape, *[1] * (cam.ndim - rows))


@dataclass(frozen=True)
class ActivationMap(LayerMap):
    """A map of what a layer returns, whatever is asked: the same for every class.

    A subclass writes `combine`, the formula.
    """

    def map_at(self, session: Session, layer: Layer) -> Tensor:
        """The formula for the rows of a chunk."""

        def chunk(part: Session) -> tuple[Tensor]:
            A = layer_output(part, layer.name)
            return (self.combine(precise(laid_out(part, layer, A).maps(A))),)

        session.decide()
        (cam,) = session.by_rows(chunk, graph=False)
        session.notes.facts[OBJECTIVE] = NO_CLASS
        return cam.unsqueeze(1).expand(-1, *session.score.shape, *cam.shape[1:]) if session.several else cam

    @abstractmethod
    def combine(self, A: Tensor) -> Tensor:
        """The layer's output (n, D, *grid) -> (n, 1, *grid)."""

    def passes(self) -> float:
        """A forward pass for each layer."""
        return 1.0 * len(self.layers or (None,))


@dataclass(frozen=True)
class EvidenceMap(LayerMap):
    """A map of evidence for what is explained, of which only the positive part is kept unless asked otherwise.

    A subclass writes `evidence`, the map with its sign.
    """

    relu: Annotated[bool, "Keep only positive evidence, as in the paper; without it the map is signed."] = True

    def map_at(self, session: Session, layer: Layer) -> Tensor:
        """relu(evidence)."""
        cam = self.evidence(session, layer)
        return positive(self, session, cam) if self.relu else cam

    @abstractmethod
    def evidence(self, session: Session, layer: Layer) -> Tensor:
        """The signed map of one layer, (N, 1, *grid), or (N, K, 1, *grid) for K objectives."""

    @property
    def view(self) -> Literal["positive", "sum"]:
        """From zero up; signed without the ReLU."""
        return "positive" if self.relu else "sum"


@dataclass(frozen=True)
class GradientMap(EvidenceMap):
    """A map of what a layer returns and of the score's gradient there.

    A subclass writes `combine`, the formula.
    """

    def evidence(self, session: Session, layer: Layer) -> Tensor:
        """The formula for the rows of a chunk."""

        def chunk(part: Session) -> tuple[Tensor]:
            A, dA = layer_gradient(part, layer.name)
            return (combined(self, part, layer, A, dA),)

        return session.by_rows(chunk, graph=False)[0]

    @abstractmethod
    def combine(self, A: Tensor, dA: Tensor) -> Tensor:
        """The layer's output and dS/dA, (n, D, *grid) each -> (n, 1, *grid), before the ReLU."""


def combined(method: GradientMap, session: Session, layer: Layer, A: Tensor, dA: Tensor) -> Tensor:
    """The method's formula, (n, 1, *grid), or for K objectives (n, K, 1, *grid), in float32 at least."""
    grid = laid_out(session, layer, A)
    A = precise(grid.maps(A))
    if session.several:
        return torch.stack([method.combine(A, precise(grid.maps(one))) for one in dA.unbind(1)], 1)
    return method.combine(A, precise(grid.maps(dA)))


def positive(method: Method, session: Session, cam: Tensor) -> Tensor:
    """relu(cam); said for the rows of which it leaves nothing though there is evidence, all of it against the class."""
    lowest, highest = cam.flatten(2 if session.several else 1).aminmax(dim=-1)
    session.notes.warn_of_zero(
        f"{method.name} is all zero: at this layer all evidence is against the class; use relu=False to see it",
        ((highest <= 0) & (lowest < 0)).cpu(),
    )
    return cam.relu()


def mean(values: Tensor) -> Tensor:
    """The mean over all positions, (n, D, 1, ...)."""
    return values.mean(tuple(range(2, values.ndim)), keepdim=True)


def total(values: Tensor) -> Tensor:
    """The sum over all positions, (n, D, 1, ...)."""
    return values.sum(tuple(range(2, values.ndim)), keepdim=True)


def laid_out(session: Session, layer: Layer, A: Tensor) -> Grid | Rearranged:
    """How the layer's output lies on the image; noted."""
    grid = grid_of(layer, A, session.n)
    session.notes.facts["grid"] = str(grid)
    return grid


def precise(values: Tensor) -> Tensor:
    """In float32 at least."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def note_layers(session: Session, layers: list[Layer]) -> None:
    """Note the layers that were explained, as they are called and as people read them."""
    facts = session.notes.facts
    facts["layer"] = ", ".join(layer.name for layer in layers)
    if len(layers) > 1:
        facts.pop("grid", None)
    title = ", ".join(layer_title(session, layer.name) for layer in layers)
    if title != facts["layer"]:
        facts["layer title"] = title
    known = dict.fromkeys(layer.known for layer in layers if layer.known != CONSTRUCTION)
    if known:
        facts["place"] = ", ".join(known)
