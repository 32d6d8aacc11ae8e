"""How a layer's output lies on the image: channels first, channels last, or a row of tokens."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from deepviz.errors import LayerError
from deepviz.probe.outputs import describe

MOST_PREFIX = 16


@dataclass(frozen=True)
class Grid:
    """A layer's spatial layout.

    Args:
        kind: "channels first" (N, D, h, w), "channels last" (N, h, w, D) or "tokens" (N, prefix + h w, D).
        h: rows of the grid.
        w: columns of the grid.
        prefix: class and register tokens before the grid's.
    """

    kind: str
    h: int
    w: int
    prefix: int = 0

    def maps(self, values: Tensor) -> Tensor:
        """(N, ...) in this layout -> (N, D, h, w)."""
        if self.kind == "tokens":
            values = values[:, self.prefix :].unflatten(1, (self.h, self.w))
        return values if self.kind == "channels first" else values.movedim(-1, 1)

    def __str__(self) -> str:
        extra = f" + {self.prefix} other tokens" if self.prefix else ""
        return f"{self.h} x {self.w}{extra}, {self.kind}"


def in_proportion(h: int, w: int, height: int, width: int) -> bool:
    """Whether an h x w grid has the proportions of a height x width input, to rounding."""
    return abs(h - w * height / width) <= 1 >= abs(w - h * width / height)


def follows(h: int, w: int, height: int, width: int) -> bool:
    """Whether an h x w grid has the proportions of a height x width input, and is no finer."""
    return 0 < h <= height and 0 < w <= width and in_proportion(h, w, height, width)


def read_grid(shape: tuple[int, ...], size: tuple[int, int], known: tuple[int, int] | None = None) -> Grid | None:
    """The grid of a layer's output of `shape` on an input of `size` = (H, W), or None if it has none.

    Tokens are matched to the grid of square patches that divide the input and leave the fewest tokens over (at most
    16 class and register tokens), or to patches that do not divide it if there is none; `known`, a grid seen earlier
    in the model (its patch embedding), goes first.
    """
    if len(shape) == 4:
        first, last = shape[2:], shape[1:3]
        if not follows(*first, *size) and follows(*last, *size) and last != (1, 1):
            return Grid("channels last", *last)
        return Grid("channels first", *first)
    if len(shape) == 3:
        return _token_grid(shape[1], size, known)
    return None


def _token_grid(length: int, size: tuple[int, int], known: tuple[int, int] | None) -> Grid | None:
    if known is not None and 0 <= length - known[0] * known[1] <= MOST_PREFIX:
        return Grid("tokens", *known, length - known[0] * known[1])
    height, width = size
    fits: list[tuple[bool, int, Grid]] = []
    for patch in range(1, min(size) + 1):
        for h, w in {(height // patch, width // patch), (-(-height // patch), -(-width // patch))}:
            left = length - h * w
            if 0 <= left <= MOST_PREFIX and h * w > 1:
                uneven = height % patch != 0 or width % patch != 0
                fits.append((uneven, left, Grid("tokens", h, w, left)))
    return min(fits, key=lambda fit: fit[:2])[2] if fits else None


def as_maps(layer: str, answer: Tensor | None, size: tuple[int, int]) -> Tensor:
    """A layer's answer to inputs of `size` as maps (n, C, h, w); without positions, (n, C), as h = w = 1.

    Raises:
        LayerError: if it has no channels.
    """
    if answer is not None and answer.ndim == 2:
        return answer[:, :, None, None]
    grid = None if answer is None else read_grid(tuple(answer.shape), size)
    if answer is None or grid is None:
        shown = "no tensor" if answer is None else describe(answer)
        raise LayerError(
            f"layer {layer!r} has no channels on a grid: it answers {shown}; choose another (see: deepviz layers)"
        )
    return grid.maps(answer)
