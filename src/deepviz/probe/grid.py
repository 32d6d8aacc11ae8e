"""How a layer's output lies on the image: channels first, channels last, or a sequence of tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Literal

from torch import Tensor

from deepviz.errors import LayerError
from deepviz.names import callable_name
from deepviz.probe.call import reason

Kind = Literal["channels first", "channels last", "tokens", "tokens, sequence first"]
Size = tuple[int, ...]

MOST_PREFIX = 16
"""Class and register tokens beside a grid that is only guessed from the number of tokens."""
MOST_BESIDE = 256
"""Other tokens (detection tokens, prompts) beside a grid that an earlier layer has."""


@dataclass(frozen=True)
class Grid:
    """A layer's spatial layout, on one to three axes.

    Args:
        kind: "channels first" (N, D, *size), "channels last" (N, *size, D), "tokens" (N, L, D) or
            "tokens, sequence first" (L, N, D).
        size: cells along each axis of the image, in the image's order.
        skip: positions of the sequence that are no image tokens, from 0 up.
        order: the image's axes in the order in which the layer lists its cells, slowest first; () for the image's
            own. Tokens that run down the columns of an image have the order (1, 0).

    Example:
        A class token, then 2 x 3 patches:

        >>> import torch
        >>> grid = Grid("tokens", (2, 3), skip=(0,))
        >>> grid.maps(torch.rand(5, 7, 16)).shape
        torch.Size([5, 16, 2, 3])
        >>> str(grid)
        '2 x 3 + 1 other token, tokens'
    """

    kind: Kind
    size: Size
    skip: tuple[int, ...] = ()
    order: tuple[int, ...] = ()

    @property
    def cells(self) -> int:
        """How many there are."""
        return math.prod(self.size)

    @property
    def listed(self) -> Size:
        """The size in the order in which the layer lists its cells."""
        return tuple(self.size[axis] for axis in self.order) if self.order else self.size

    def fits(self, shape: Sequence[int], rows: int) -> bool:
        """Whether a layer's output of this shape, for so many images, can have this layout."""
        shape = tuple(shape)
        if self.kind == "channels first":
            return shape[:1] == (rows,) and shape[2:] == self.listed
        if self.kind == "channels last":
            return shape[:1] == (rows,) and shape[1:-1] == self.listed
        length = self.cells + len(self.skip)
        return len(shape) == 3 and shape[:2] == ((rows, length) if self.kind == "tokens" else (length, rows))

    def maps(self, values: Tensor) -> Tensor:
        """Values in this layout -> (N, D, *size)."""
        if self.kind == "channels last":
            values = values.movedim(-1, 1)
        elif self.kind != "channels first":
            values = self._image_tokens(values if self.kind == "tokens" else values.transpose(0, 1))
            values = values.transpose(1, 2).unflatten(2, self.listed)
        if not self.order:
            return values
        return values.permute(0, 1, *(2 + self.order.index(axis) for axis in range(len(self.size))))

    def _image_tokens(self, values: Tensor) -> Tensor:
        """(N, L, D) without the positions to skip; a view where they are one stretch."""
        first = 0
        while first in self.skip:
            first += 1
        if all(not first <= position < first + self.cells for position in self.skip):
            return values[:, first : first + self.cells]
        kept = [position for position in range(values.shape[1]) if position not in self.skip]
        return values[:, kept]

    def __str__(self) -> str:
        extra = f" + {len(self.skip)} other token{'s' * (len(self.skip) > 1)}" if self.skip else ""
        order = ""
        if self.order:
            order = ", column by column" if len(self.size) == 2 else f", axes in the order {self.order}"
        return f"{' x '.join(map(str, self.size))}{extra}, {self.kind}{order}"


@dataclass(frozen=True)
class Rearranged:
    """A layout that the user's own function makes: (N, ...) -> (N, D, *grid).

    Args:
        function: what the user gave.
        axes: how many spatial axes the image has, and so the grid.
        rows: how many images the values are of, once that is known.
    """

    function: Callable[[Tensor], Tensor]
    axes: int
    rows: int | None = None

    def fits(self, shape: Sequence[int], rows: int) -> bool:
        """Unknown: only the function has it."""
        return True

    def maps(self, values: Tensor) -> Tensor:
        """What the function makes of them.

        Raises:
            LayerError: if it fails, or that is not (N, D, *grid), with the rows of the images and at least their
                spatial axes: frames that a model takes as channels may be an axis more.
        """
        try:
            made = self.function(values)
        except Exception as error:
            raise LayerError(f"the callable given as grid= failed on {tuple(values.shape)}: {reason(error)}") from error
        grid = "length" if self.axes == 1 else "height, width" if self.axes == 2 else "depth, height, width"
        if not isinstance(made, Tensor) or not self.axes <= made.ndim - 2 <= 3 or len(made) != (self.rows or len(made)):
            got = tuple(made.shape) if isinstance(made, Tensor) else type(made).__name__
            raise LayerError(
                f"a callable as grid= must return maps ({self.rows or 'N'}, D, {grid}), got {got} of "
                f"{tuple(values.shape)}"
            )
        return made

    def __str__(self) -> str:
        return f"by {callable_name(self.function)}"


@dataclass(frozen=True)
class Nowhere:
    """The layout of a layer that was not called in the probing pass; reading its output raises the error."""

    def __str__(self) -> str:
        return "no grid"


def given_grid(shape: Size, size: Size | None, skip: Sequence[int] | None) -> Grid | None:
    """The layout that is fully given, by the output's shape (1, ...) or (L, 1, D) for one image; None if it is not.

    A size alone is enough where the output has just as many cells.
    """
    if size is None:
        return None
    if skip is None and len(shape) == len(size) + 2 and shape[0] == 1:
        if shape[2:] == size:
            return Grid("channels first", size)
        if shape[1:-1] == size and len(size) > 1:
            return Grid("channels last", size)
    if len(shape) != 3 or 1 not in shape[:2]:
        return None
    kind: Kind = "tokens" if shape[0] == 1 else "tokens, sequence first"
    length = shape[1] if kind == "tokens" else shape[0]
    others = skipped(skip or (), length)
    return Grid(kind, size, others) if others is not None and length == math.prod(size) + len(others) else None


def skipped(skip: Sequence[int], length: int) -> tuple[int, ...] | None:
    """The positions to skip from 0 up, where negative ones count from the end; None if one is not there."""
    if any(not -length <= position < length for position in skip):
        return None
    return tuple(sorted({position % length for position in skip}))


def in_proportion(size: Size, space: Size) -> bool:
    """Whether a grid has the proportions of an input of `space` pixels, to rounding; time and depth have their own."""
    if len(size) < 2:
        return True
    (h, w), (height, width) = size[-2:], space[-2:]
    return abs(h - w * height / width) <= 1 >= abs(w - h * width / height)


def follows(size: Size, space: Size) -> bool:
    """Whether a grid has the proportions of an input of `space` pixels, and is no finer."""
    return all(0 < cells <= pixels for cells, pixels in zip(size, space, strict=True)) and in_proportion(size, space)


def halves(size: Size) -> Iterator[Size]:
    """The grids that a network makes of one by merging cells two by two, again and again."""
    while max(size) > 1:
        size = tuple(math.ceil(cells / 2) for cells in size)
        yield size


def token_sizes(length: int, space: Size, known: Iterable[Size] = ()) -> list[tuple[Size, int]]:
    """Grids that `length` tokens may lie on, and how many would be left over, the likely ones first.

    The grids known of earlier layers (a patch embedding's), the last seen first, and no others if one of them fits.
    Else what merging their cells would make of them; then square patches that divide the image and leave the fewest
    tokens over; then such that do not divide it. At most 16 tokens are left over by a grid that is only guessed.
    """
    found: dict[Size, int] = {}
    seen = list(dict.fromkeys(reversed(list(known))))
    for size in seen:
        if 0 <= length - math.prod(size) <= MOST_BESIDE:
            found.setdefault(size, length - math.prod(size))
    if found:
        # of several, a small one leaves over what are cells of a larger one
        return [(size, left) for size, left in found.items() if left <= MOST_PREFIX] or list(found.items())
    for size in seen:
        for half in halves(size):
            if 0 <= length - math.prod(half) <= MOST_PREFIX:
                found.setdefault(half, length - math.prod(half))
    guesses: list[tuple[bool, int, Size]] = []
    for patch in range(1, min(space) + 1):
        uneven = any(pixels % patch for pixels in space)
        for size in {tuple(pixels // patch for pixels in space), tuple(-(-pixels // patch) for pixels in space)}:
            left = length - math.prod(size)
            if 0 <= left <= MOST_PREFIX:
                guesses.append((uneven, left, size))
    for _, left, size in sorted(guesses, key=lambda guess: guess[:2]):
        found.setdefault(size, left)
    if len(space) == 1:
        found.setdefault((length,), 0)
    return [(size, left) for size, left in found.items() if math.prod(size) > 1]


def orders(axes: int) -> list[tuple[int, ...]]:
    """All orders of so many axes, the image's own, (), first."""
    return [() if order == tuple(range(axes)) else order for order in permutations(range(axes))]


def ordered(grid: Grid) -> Iterator[Grid]:
    """Grids that list as many cells along each of their own axes, which may be any of the image's."""
    for order in orders(len(grid.size)):
        size = tuple(grid.size[order.index(axis)] for axis in range(len(grid.size))) if order else grid.size
        yield replace(grid, size=size, order=order)


def read_grid(shape: Size, space: Size, known: Size | None = None) -> Grid | None:
    """The likeliest grid of a layer's output of `shape`, for one image of `space` pixels, by its shape alone.

    Whether it is right only `deepviz.probe.places` can say.
    """
    axes = len(space)
    if len(shape) == axes + 2 and axes > 1:
        first, last = shape[2:], shape[1:-1]
        if not follows(first, space) and follows(last, space) and math.prod(last) > 1:
            return Grid("channels last", last)
        return Grid("channels first", first)
    if len(shape) == axes + 2:
        return Grid("channels first", shape[2:])
    if len(shape) == 3:
        for size, left in token_sizes(shape[1], space, [known] if known else []):
            return Grid("tokens", size, tuple(range(left)))
    return None


def flattened(grid: Grid, answer: Tensor) -> Tensor:
    """What a layer answered for one image as (positions, D), the positions to skip among them."""
    if grid.kind == "channels first":
        return answer[0].flatten(1).T
    if grid.kind == "channels last":
        return answer[0].flatten(0, -2)
    return answer[0] if grid.kind == "tokens" else answer[:, 0]


def spread_cells(size: Size, count: int) -> list[int]:
    """So many cells of a grid, in its reading order, spread evenly over all its axes at once; all if there are few.

    The points n -> frac(1/2 + n a) of a rank-1 lattice with a = (1/g, 1/g^2, ...), g^(d+1) = g + 1.
    """
    total = math.prod(size)
    if total <= count:
        return list(range(total))
    g = 2.0
    for _ in range(64):
        g = (1 + g) ** (1 / (len(size) + 1))
    cells: dict[int, None] = {}
    for n in range(64 * count):
        if len(cells) == count:
            break
        cell = 0
        for axis, cells_along in enumerate(size):
            cell = cell * cells_along + int((0.5 + n * g ** -(axis + 1)) % 1 * cells_along)
        cells[cell] = None
    return list(cells)


def as_maps(layer: str, answer: Tensor | None, space: Sequence[int], grid: Grid | None = None) -> Tensor:
    """A layer's output for images of `space` pixels as maps (n, D, *grid); (n, D) as one cell.

    A grid that is not known is read from the shape alone.

    Raises:
        LayerError: if it has no channels.
    """
    if answer is not None and answer.ndim == 2:
        return answer[(..., *[None] * len(space))]
    if grid is None and answer is not None:
        grid = read_grid(tuple(answer.shape), tuple(space))
    if answer is None or grid is None:
        shown = "no tensor" if answer is None else f"a tensor {tuple(answer.shape)}"
        raise LayerError(
            f"layer {layer!r} has no channels on a grid: it returns {shown}; choose another (see: deepviz layers)"
        )
    return grid.maps(answer)
