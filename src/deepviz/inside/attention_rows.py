"""The attention of a transformer's layers for one image: its rows, as maps of the image and as pictures."""

from __future__ import annotations

import operator
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import SupportsIndex

import torch
from PIL import Image
from torch import Tensor

from deepviz.errors import LayerError
from deepviz.files import encoded, write_picture
from deepviz.geometry import Geometry
from deepviz.inside.loading import checked_number, figure, is_fine, scale_of
from deepviz.probe.grid import Grid
from deepviz.render import Tile
from deepviz.render import overlay as draw_overlay
from deepviz.render import sheet as draw_sheet
from deepviz.render.boxes import DrawnBox, boxed
from deepviz.render.text import percent

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
        return listed(list(self.matrices))

    @property
    def special(self) -> tuple[int, ...]:
        """Positions of the tokens that are not the image's: class token, registers."""
        return self.grid.skip

    @property
    def class_token(self) -> int | None:
        """The position of the one special token that the score reads; None if it reads others."""
        found = [position for position in self.read if position in self.special]
        return found[0] if len(found) == 1 else None

    @property
    def told(self) -> str:
        """What the picture shows, in words: "what the class token attends to"."""
        return f"what {self._called} attends to"

    @property
    def _called(self) -> str:
        # of layers some of which pool, that of the others
        return self.called(None, next((layer for layer in self.matrices if not self.pools(layer)), None))

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
            >>> from deepviz import viz_attention
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
            self.image, values.numpy(), self.geometry, scale_of(values, False), fine=is_fine(values.shape)
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
            title = f"{layer}: {self.told}"
        else:
            tiles = [self._tile(self._apart(layer), head, layer) for layer in self.matrices]
            title = f"{len(tiles)} layers, {_head_named(head)}: {self.told}"
        return draw_sheet(
            self.source,
            self.image,
            [(title, tiles)],
            geometry=self.geometry,
            footer=f"{self.model} · {self._tokens} · every map has its own scale",
        )

    def save(self, path: str | os.PathLike[str], head: int | None = None) -> Path:
        """Write the sheet, .png or .jpg.

        Raises:
            OutputError: if the ending is another, or the file cannot be written.
        """
        return write_picture(Path(path), self.sheet(head))

    @property
    def _tokens(self) -> str:
        h, w = self.grid.size
        others = len(self.special)
        return f"{h} x {w} patches" + (f" + {others} other token{'s' * (others > 1)}" if others else "")

    def _apart(self, layer: str) -> str:
        """A layer's name, with whose rows are drawn where these are not those that the title names."""
        called = self.called(None, layer)
        return layer if called == self._called else f"{layer}: {called}"

    def _tile(self, caption: str, head: int | None, layer: str) -> Tile:
        values = self.row_of(None, head, layer)
        detail = f"{percent(float(values.sum()))} on patches" if self.special else ""
        return Tile(self.overlay(None, head, layer), caption, detail, scale=scale_of(values, False))

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
        A = A.mean(0) if head is None else A[checked_number(head, heads, "head")]
        if not isinstance(at, tuple):
            return A[checked_number(at, queries, "query" if self.pools(layer) else "token")]
        if self.pools(layer):
            raise LayerError(
                f"in layer {layer or list(self.matrices)[-1]!r} {queries} learned queries pool the tokens, so its rows "
                "are no patches'; use row_of(0)"
            )
        return A[self.positions[checked_patch(at, self.grid.size)]]

    def __repr__(self) -> str:
        heads = ", ".join(dict.fromkeys(str(len(A)) for A in self.matrices.values()))
        return f"Attention({self.named}: {heads} heads, {self._tokens}, {self.source}, {self.model})"

    def _repr_png_(self) -> bytes:
        return encoded(self.sheet())

    def _repr_html_(self) -> str:
        lines = [f"{self.source} · {self.model} · {self._tokens}"]
        return figure(self.sheet(), f"{self.named}: {self.told}", lines)


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


def _head_named(head: int | None) -> str:
    return "mean over heads" if head is None else f"head {head}"


def listed(names: Sequence[str]) -> str:
    """Names in a row, those in the middle left out where there are many."""
    if len(names) > 4:
        names = [*names[:2], "...", names[-1]]
    return ", ".join(names)
