"""`viz_attention`: what the tokens of a transformer attend to, for an image."""

from __future__ import annotations

import operator
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, SupportsIndex

import torch
from PIL import Image
from torch import Tensor, nn

from deepviz.errors import LayerError, NoAttention
from deepviz.files import encoded, write_picture
from deepviz.geometry import Geometry
from deepviz.inside.activations import COARSE
from deepviz.inside.loading import ImageLike, Model, asked, figure, on_its_device, picture_of, take_model
from deepviz.models import LoadedModel, Prepared
from deepviz.names import nearest
from deepviz.probe.attention import AttentionLayer, Attentions, attended, attentions_of, by_head
from deepviz.probe.borrow import borrowed
from deepviz.probe.call import Call
from deepviz.probe.capture import layer_name
from deepviz.probe.grid import Grid
from deepviz.probe.layer_names import numbered
from deepviz.probe.session import Session
from deepviz.render import Scale, Tile
from deepviz.render import overlay as draw_overlay
from deepviz.render import sheet as draw_sheet
from deepviz.render.boxes import DrawnBox, boxed

At = tuple[int, int] | int | None
"""A patch by its row and column, a token by its position, or None for the default."""


@dataclass(frozen=True, eq=False)
class Attention:
    """The attention of a transformer's layers, for one image.

    Args:
        matrices: by layer, in their order: (heads, T, T), float32 on the CPU. Row i has what token i attends to, and
            sums to 1. Of a layer in which learned queries pool the tokens at the end: (heads, queries, T).
        layers: all layers of attention of the model, those without matrices here included.
        grid: where the tokens lie on the image; `grid.skip` are the positions of those that do not.
        read: positions of the tokens that the score reads after the last layer: a class token, or all that it
            averages.
        at: whose row is drawn if none is named: a patch (y, x) or the position of a token.
        image: the image, upright; or the model's own input, drawn.
        geometry: where the model's input lies on `image`.
        model: its name.
        source: name of the image.
    """

    matrices: Mapping[str, Tensor]
    layers: tuple[str, ...]
    grid: Grid
    read: tuple[int, ...]
    at: tuple[int, int] | int
    image: Image.Image
    geometry: Geometry
    model: str
    source: str

    @property
    def named(self) -> str:
        """The layers whose matrices are here, those in the middle left out where there are many."""
        return _listed(list(self.matrices))

    @property
    def special(self) -> tuple[int, ...]:
        """Positions of the tokens that are not the image's: class token, registers."""
        return self.grid.skip

    @property
    def class_token(self) -> int | None:
        """The position of the one special token that the score reads; None if it reads others."""
        found = [position for position in self.read if position in self.special]
        return found[0] if len(found) == 1 else None

    @cached_property
    def positions(self) -> Tensor:
        """(h, w): the position of each patch in the sequence."""
        sequence = torch.arange(self.grid.cells + len(self.special))
        return self.grid.maps(sequence[None, :, None])[0, 0]

    def matrix(self, layer: str | None = None) -> Tensor:
        """The matrices of a layer, by default of the last one: (heads, T, T), or (heads, queries, T)."""
        if layer is None:
            return list(self.matrices.values())[-1]
        if layer not in self.matrices:
            raise LayerError(f"layer {layer!r} has no attention here; there are {self.named}")
        return self.matrices[layer]

    def pools(self, layer: str | None = None) -> bool:
        """Whether learned queries pool the tokens in this layer, so that its rows are no tokens'."""
        _, queries, tokens = self.matrix(layer).shape
        return queries != tokens

    def row(self, y: int, x: int, head: int | None = None, layer: str | None = None) -> Tensor:
        """What a patch attends to, as a map of the image.

        Args:
            y, x: the patch, by its row and column on the grid.
            head: which one; None for the mean over heads.
            layer: which one; by default the last.

        Returns:
            (h, w), from 0 up. What it attends to special tokens is left out, so the sum is 1 or less.

        Raises:
            LayerError: if there is no such patch, head or layer, or the rows of this layer are no patches'.
        """
        return self.row_of((y, x), head, layer)

    def row_of(self, at: At = None, head: int | None = None, layer: str | None = None) -> Tensor:
        """What a patch or any token attends to, as a map of the image: a class token, for instance.

        Args:
            at: a patch (y, x); a token by its position in the sequence, of a pooling layer the number of a query; None
                for the one that the picture shows.
            head, layer: as for `row`.

        Raises:
            LayerError: as `row` does.
        """
        return self._on_image(self._row(self._query(at, layer), head, layer))

    def on_special(self, at: At = None, head: int | None = None, layer: str | None = None) -> dict[int, float]:
        """How much of a row is on each special token, by its position."""
        row = self._row(self._query(at, layer), head, layer)
        return {position: float(row[position]) for position in self.special}

    def called(self, at: At = None, layer: str | None = None) -> str:
        """A patch or token in words.

        Example:
            >>> import torch
            >>> from deepviz.testing import images, network
            >>> found = viz_attention(network(attention=True), images(1)[0])
            >>> found.called((0, 2)), found.called()
            ('patch 0, 2', 'patch 3, 3')
        """
        at = self._query(at, layer)
        if isinstance(at, tuple):
            return f"patch {at[0]}, {at[1]}"
        if self.pools(layer):
            return f"query {at}"
        if at == self.class_token:
            return "the class token"
        return f"token {at}"

    def overlay(self, at: At = None, head: int | None = None, layer: str | None = None) -> Image.Image:
        """A row on the image, at the image's size, with the patch outlined; what the model did not see is dimmed."""
        at = self._query(at, layer)
        values = self.row_of(at, head, layer)
        drawn = draw_overlay(
            self.image, values.numpy(), self.geometry, self._scale(values), fine=min(values.shape) > COARSE
        )
        if not isinstance(at, tuple):
            return drawn
        (y, x), (h, w) = at, self.grid.size
        cell = self.geometry.on_image((x, y, x + 1, y + 1), (w, h))
        return boxed(drawn, [DrawnBox(cell, "", explained=True)])

    def sheet(self, head: int | None = None) -> Image.Image:
        """The image, and a tile for each head of the layer after one for their mean; of several layers a tile each.

        Args:
            head: only this one; of several layers by default the mean over heads.
        """
        if len(self.matrices) == 1:
            (layer,) = self.matrices
            heads = [None, *range(len(self.matrix(layer)))] if head is None else [head]
            tiles = [self._tile(_head_named(one), one, layer) for one in heads]
            title = f"{layer}: {self._told}"
        else:
            tiles = [self._tile(f"{layer}: {self.called(None, layer)}", head, layer) for layer in self.matrices]
            title = f"{len(tiles)} layers, {_head_named(head)}: {self._told}"
        return draw_sheet(
            self.source,
            self.image,
            [(title, tiles)],
            geometry=self.geometry,
            footer=f"{self.model} · {self.grid} · every map has its own scale",
        )

    def save(self, path: str | os.PathLike[str], head: int | None = None) -> Path:
        """Write the sheet, .png or .jpg.

        Raises:
            OutputError: if the ending is another, or the file cannot be written.
        """
        return write_picture(Path(path), self.sheet(head))

    @property
    def _told(self) -> str:
        return f"what {self.called()} attends to"

    def _tile(self, caption: str, head: int | None, layer: str) -> Tile:
        values = self.row_of(None, head, layer)
        detail = f"{float(values.sum()):.2f} of 1 on the image" if self.special else ""
        return Tile(self.overlay(None, head, layer), caption, detail, scale=self._scale(values))

    def _scale(self, values: Tensor) -> Scale:
        return Scale.of(values.numpy(), False, percentile=99.5 if min(values.shape) > COARSE else 100.0)

    def _on_image(self, row: Tensor) -> Tensor:
        return self.grid.maps(row[None, :, None])[0, 0]

    def _query(self, at: At, layer: str | None) -> tuple[int, int] | int:
        if at is not None:
            return at
        # the rows of a pooling layer are its queries'
        return 0 if self.pools(layer) else self.at

    def _row(self, at: tuple[int, int] | int, head: int | None, layer: str | None) -> Tensor:
        A = self.matrix(layer)
        heads, queries, _ = A.shape
        A = A.mean(0) if head is None else A[_checked(head, heads, "head")]
        if not isinstance(at, tuple):
            return A[_checked(at, queries, "query" if self.pools(layer) else "token")]
        if self.pools(layer):
            raise LayerError(
                f"in layer {layer or list(self.matrices)[-1]!r} {queries} learned queries pool the tokens, so its rows "
                "are no patches'; use row_of(0)"
            )
        return A[self.positions[checked_patch(at, self.grid.size)]]

    def __repr__(self) -> str:
        heads = ", ".join(dict.fromkeys(str(len(A)) for A in self.matrices.values()))
        return f"Attention({self.named}: {heads} heads, {self.grid}, {self.source}, {self.model})"

    def _repr_png_(self) -> bytes:
        return encoded(self.sheet())

    def _repr_html_(self) -> str:
        lines = [f"{self.source} · {self.model} · {self.grid}"]
        return figure(self.sheet(), f"{self.named}: {self._told}", lines)


def viz_attention(
    model: Model,
    image: ImageLike,
    layer: str | nn.Module | int | None = None,
    at: At = None,
    *,
    preprocess: Any = None,
) -> Attention:
    """What the tokens of a transformer attend to: the attention matrices of its layers, drawn on the image.

        A_h = softmax(q_h k_h^T / sqrt(d)),    row i of head h: what token i attends to

    Attention is found where it is computed, fused or not, and the tokens are checked to lie on the image, as for
    `AttentionRollout`. Masks, position biases and heads that share keys are part of it. The matrix is that with which
    the layer multiplies its values.

    Args:
        model: an `nn.Module`, a `LoadedModel`, or a name ("timm:vit_base_patch16_224").
        image: a path, PIL image, array or tensor.
        layer: a name from `viz_layers` ("blocks.11.attn", or "blocks.11"), a module, or a number (-1: the last); None
            for all layers, which take heads * T^2 * 4 bytes each.
        at: whose row the picture shows: a patch (y, x) by row and column, or a token by its position; by default the
            class token, or the patch in the middle where the score reads no class token.
        preprocess: as for `deepviz.explain`.

    Returns:
        `.matrices` by layer, `.row(y, x, head)`, `.row_of(position, head)`, `.overlay()`, `.sheet()`, `.save(path)`.

    Raises:
        NoAttention: if the model has no attention on the image, computes it in windows, merges tokens between layers,
            changes the matrices after the softmax, or its tokens do not lie on the image; of a signal or volume.
        LayerError: if there is no such layer or patch.
        ImageError, ModelError: as for `deepviz.explain`.

    Example:
        >>> import torch
        >>> from deepviz.testing import images, network
        >>> attention = viz_attention(network(attention=True), images(1)[0], layer=-1)
        >>> attention.matrix().shape, attention.row(0, 2).shape
        (torch.Size([2, 36, 36]), torch.Size([6, 6]))
    """
    loaded, call = take_model(model, image, preprocess)
    prepared = loaded.prepare(image)
    with borrowed(call.model):
        session, found = _looked_for(loaded, call, prepared)
        names, every = _named(found)
        wanted = list(range(len(every))) if layer is None else [_find(layer, names, call.model)]
        matrices = _matrices(session, found, [every[number] for number in wanted])
    named = {names[number]: A for number, A in zip(wanted, matrices, strict=True)}
    for name, A in named.items():
        if not bool(A.isfinite().all()):
            raise LayerError(f"the attention of layer {name!r} has NaN or infinity; choose an earlier one")
    made = Attention(
        matrices=named,
        layers=tuple(names),
        grid=found.grid,
        read=found.read,
        at=0,
        image=picture_of(prepared),
        geometry=prepared.geometry,
        model=loaded.name,
        source=prepared.name,
    )
    return replace(made, at=_checked_at(at, made))


def attention_layers(loaded: LoadedModel, image: Prepared) -> tuple[str, ...]:
    """The names of the layers of attention, as `viz_attention` finds them, without their matrices.

    Raises:
        NoAttention, ModelError: as `viz_attention` does.
    """
    loaded, call = take_model(loaded)
    with borrowed(call.model):
        _, found = _looked_for(loaded, call, image)
    return tuple(_named(found)[0])


def _looked_for(loaded: LoadedModel, call: Call, image: Prepared) -> tuple[Session, Attentions]:
    """What is asked of the model about the image, and its layers of attention.

    Raises:
        NoAttention: if there are none, or their tokens do not lie on a plane.
    """
    session = asked(call, on_its_device(image.x[None], call.model), loaded.kind)
    found = session.depending(lambda: attentions_of(session))
    if len(found.grid.size) != 2:
        raise NoAttention(
            f"the tokens lie as {found.grid} in an input {tuple(image.x.shape)}: attention is drawn of images alone; "
            "for signals and volumes use 'attention-rollout'"
        )
    return session, found


def _named(found: Attentions) -> tuple[list[str], list[AttentionLayer]]:
    """The layers' names, with the number of the call where a module computes several, and the layers."""
    every = [*found.layers, *([found.pool] if found.pool else [])]
    return numbered([layer.name for layer in every]), every


def _matrices(session: Session, found: Attentions, layers: Sequence[AttentionLayer]) -> list[Tensor]:
    """A of some layers for the one image, (heads, queries, T), on the CPU."""
    numbers = {layer.number for layer in layers}
    pool = found.pool if found.pool and found.pool.number in numbers else None
    chosen = replace(found, layers=tuple(one for one in found.layers if one.number in numbers), pool=pool)

    def chunk(part: Session) -> list[Tensor]:
        with torch.no_grad():
            _, A = attended(part, chosen)
        return [by_head(one, part.n).float().cpu() for one in A]

    return [A[0].contiguous() for A in session.by_rows(chunk, graph=False)]


def _find(layer: str | nn.Module | int, names: Sequence[str], model: nn.Module) -> int:
    """Which of the layers is meant.

    Raises:
        LayerError: if none is, or several are.
    """
    if not isinstance(layer, (str, nn.Module)):
        if isinstance(layer, bool) or not hasattr(layer, "__index__") or not -len(names) <= layer < len(names):
            raise LayerError(
                f"layer {layer!r} is no layer of attention: a number is from {-len(names)} to {len(names) - 1}"
            )
        return operator.index(layer) % len(names)
    if layer in names:
        return names.index(layer)
    wanted = layer_name(model, layer)
    inside = [number for number, name in enumerate(names) if f"{name}.".startswith((f"{wanted}.", f"{wanted}#"))]
    if len(inside) == 1:
        return inside[0]
    if inside:
        raise LayerError(f"layer {wanted!r} has {len(inside)} layers of attention: choose one of {_listed(names)}")
    raise LayerError(
        f"layer {wanted!r} computes no attention on the image{nearest(wanted, names)}; layers that do: {_listed(names)}"
    )


def _checked_at(at: At, of: Attention) -> tuple[int, int] | int:
    """Whose row is drawn, checked; the default for None."""
    h, w = of.grid.size
    if at is None:
        return (h // 2, w // 2) if of.class_token is None else of.class_token
    if isinstance(at, (tuple, list)):
        return checked_patch(at, of.grid.size)
    return _checked(at, of.grid.cells + len(of.special), "token")


def checked_patch(at: Sequence[SupportsIndex], size: Sequence[int]) -> tuple[int, int]:
    """A patch by row and column, as plain numbers.

    Raises:
        LayerError: if it is none of the grid's.
    """
    h, w = size
    if len(at) != 2 or any(isinstance(one, bool) or not hasattr(one, "__index__") for one in at):
        raise LayerError(f"a patch is its row and column, such as (0, {w - 1}), got {at!r}")
    y, x = map(operator.index, at)
    if not (0 <= y < h and 0 <= x < w):
        raise LayerError(
            f"patch {y}, {x} is out of range: the grid is {h} x {w}, rows 0 to {h - 1}, columns 0 to {w - 1}"
        )
    return y, x


def _checked(number: SupportsIndex, count: int, what: str) -> int:
    if isinstance(number, bool) or not hasattr(number, "__index__"):
        raise LayerError(f"a {what} is a whole number, got {number!r}")
    if not 0 <= operator.index(number) < count:
        raise LayerError(f"{what} {number} is out of range: there are {count}, 0 to {count - 1}")
    return operator.index(number)


def _head_named(head: int | None) -> str:
    return "mean over heads" if head is None else f"head {head}"


def _listed(names: Sequence[str]) -> str:
    """Names in a row, those in the middle left out where there are many."""
    if len(names) > 4:
        names = [*names[:2], "...", names[-1]]
    return ", ".join(names)
