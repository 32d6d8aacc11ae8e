"""`Output`: one number of what the model returns, by its place, or the mean of a map of numbers over a part of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from deepviz.errors import ModelError, NotInImage, TargetError
from deepviz.geometry import Geometry
from deepviz.objectives.objective import Objective, Rows, literal
from deepviz.options import validate_fields
from deepviz.probe.outputs import any_numbers, class_scores, describe, output_fields
from deepviz.probe.seen import Seen


@dataclass(frozen=True, eq=False, init=False)
class Output(Objective):
    """One number of the model's output for each row, as it is: +dy/dx.

    `Output(2)` is the number at place 2 of (N, K) outputs; `Output("age")` a head by name, of one number a row;
    `Output("pose", 2)` the number at place 2 of a head; `Output("head", "logits", 2)` goes deeper. Of a list or tuple
    of outputs, a number chooses an item: `Output(1, 0)`. Further numbers go along further axes.

    Of a map of numbers, such as depth or the heatmap of a keypoint, `at` is where: `Output("predicted_depth",
    at=(120, 80))`, `Output("heatmaps", 3, at=(0, 0, 64, 64))`; without a path it is the first map of the output. The
    value is the mean over what the place covers of the map, on which the input is scaled.

    Example:
        >>> import torch
        >>> from deepviz.probe.seen import Seen
        >>> Output("age")(Seen({"age": torch.tensor([[31.0], [62.0]])}, (torch.zeros(2, 3, 8, 8),)))
        tensor([31., 62.])
    """

    path: Annotated[tuple[int | str, ...], "Names, and numbers from 0 up, from the outside in."]
    at: Annotated[
        tuple[float, ...] | Tensor | None,
        "Where on a map: a point (x, y), or a box (left, top, right, bottom); in pixels of the image, on tensors of "
        "the model's input. Of volumes (x, y, z), or the lowest and the highest of each. (N, 4): a box for each row.",
    ] = None
    name: Annotated[str | None, "What the number is called."] = None
    units: Annotated[str | None, 'What it is counted in, such as "m".'] = None

    def __init__(
        self,
        *path: int | str,
        at: Sequence[float] | Tensor | None = None,
        name: str | None = None,
        units: str | None = None,
    ) -> None:
        for field, value in (("path", path), ("at", at), ("name", name), ("units", units)):
            object.__setattr__(self, field, value)
        self.__post_init__()

    def __post_init__(self) -> None:
        if isinstance(self.at, Sequence) and not isinstance(self.at, str):
            object.__setattr__(self, "at", tuple(float(one) for one in self.at))
        if not self.path and self.at is None:
            raise TargetError("Output needs a place: a number such as Output(0), or a name such as Output('age')")
        kept: list[int | str] = []
        for one in self.path:
            number = hasattr(one, "__index__") and type(one).__name__ not in ("bool", "bool_")
            if not (isinstance(one, str) or (number and int(one) >= 0)):
                raise TargetError(f"a place in the output is a name or a number from 0 up, got {one!r}")
            kept.append(one if isinstance(one, str) else int(one))
        object.__setattr__(self, "path", tuple(kept))
        validate_fields(self)
        self._check_place()

    def _check_place(self) -> None:
        if self.at is None:
            return
        axes = len(self.at) if isinstance(self.at, tuple) else self.at.shape[-1] if self.at.ndim in (1, 2) else 0
        if axes not in (2, 3, 4, 6):
            raise TargetError(f"at is a point (x, y) or a box (left, top, right, bottom), got {literal(self.at)}")
        low, high = _box(self.at)
        if not bool((low < high).all()) or not bool(torch.cat([low, high]).isfinite().all()):
            raise TargetError(f"at is a box with left < right and top < bottom, got {literal(self.at)}")

    @property
    def rows(self) -> int | None:
        """Where there is a box for each row, how many."""
        return len(self.at) if isinstance(self.at, Tensor) and self.at.ndim == 2 else None

    def take(self, rows: Rows) -> Objective:
        """With the boxes of those rows."""
        if not isinstance(self.at, Tensor) or self.rows is None:
            return self
        return self._with(self.at[rows.cpu() if isinstance(rows, Tensor) else rows])

    def alone(self) -> Objective:
        """With the box of the one row."""
        return self if not isinstance(self.at, Tensor) else self._with(self.at.reshape(-1))

    def on_input(self, places: Sequence[tuple[Geometry, tuple[int, int]]]) -> Objective:
        """The same with its place, given on the image, as a box on each row's input, (N, 4).

        Raises:
            TargetError: if the place is outside of the image, or the model saw nothing of it.
        """
        if self.at is None or (self.at.shape[-1] if isinstance(self.at, Tensor) else len(self.at)) in (3, 6):
            return self
        boxes = torch.cat(_box(self.at), 1).double().cpu().expand(len(places), 4).tolist()
        moved = []
        for (left, top, right, bottom), (geometry, size) in zip(boxes, places, strict=True):
            if left >= geometry.size[0] or top >= geometry.size[1] or right <= 0 or bottom <= 0:
                across, down = geometry.size
                raise NotInImage(f"{literal(self.at)} is outside of the image, {across} x {down} pixels")
            box = geometry.on_input((left, top, right, bottom), size)
            if not (box[0] < box[2] and box[1] < box[3]):
                raise NotInImage(f"the model saw nothing at {literal(self.at)}: it saw {geometry.seen} of the image")
            moved.append(box)
        return self._with(torch.tensor(moved, dtype=torch.float64))

    def _with(self, at: Tensor) -> Output:
        made = copy(self)
        object.__setattr__(made, "at", at)
        return made

    def __call__(self, seen: Seen) -> Tensor:
        """y at that place.

        Raises:
            TargetError: if there is no such place, or it holds more than one number a row.
        """
        found, left = seen.output, list(self.path)
        if not left and not isinstance(found, Tensor):
            found = any_numbers(found, seen.n)
        if left and self.at is None and isinstance(left[0], int) and not isinstance(found, (Tensor, Sequence)):
            found = self._numbers(seen)
        while left and not isinstance(found, Tensor):
            found = self._inside(found, left.pop(0))
        if not isinstance(found, Tensor):
            raise TargetError(f"{self} is {describe(found)}, not a number a row: name what is inside it as well")
        size = tuple(seen.image().shape[2:]) if self.at is not None else ()
        return self._number(found, left, seen.n, size)

    def _numbers(self, seen: Seen) -> Tensor:
        try:
            return class_scores(seen.output, seen.kind)
        except ModelError as error:
            raise TargetError(
                f"{self}: the model returned {describe(seen.output)}: name a field first, such as Output('name', 0)"
            ) from error

    def _inside(self, output: Any, key: int | str) -> Any:
        if isinstance(key, int) and isinstance(output, Sequence):
            if key < len(output):
                return output[key]
            raise TargetError(f"{self}: the model returned {len(output)} items, 0 to {len(output) - 1}, not {key}")
        if isinstance(output, Mapping) and key in output:
            return output[key]
        if isinstance(key, str) and not isinstance(output, Mapping) and hasattr(output, key):
            return getattr(output, key)
        names = ", ".join(output_fields(output)) or "nothing by name"
        raise TargetError(f"{self}: the output has no {key!r}, but {names}")

    def _number(self, values: Tensor, left: list[int | str], n: int, input_size: tuple[int, ...]) -> Tensor:
        if values.ndim == 0 or len(values) != n:
            raise TargetError(
                f"{self} is a tensor {tuple(values.shape)}, which does not have one row for each of {n} inputs"
            )
        if values.ndim == 1:
            values = values[:, None]
        for key in left:
            size = values.shape[1] if values.ndim > 1 else 0
            if isinstance(key, str) or size == 0:
                raise TargetError(f"{self}: {key!r} is looked for in a tensor {tuple(values.shape)} of numbers")
            if key >= size:
                raise TargetError(
                    f"{self}: the model has {size} number{'s' if size > 1 else ''} there, "
                    f"{f'0 to {size - 1}' if size > 1 else '0'}, not {key}"
                )
            values = values[:, key]
        if not values.is_floating_point():
            raise TargetError(f"{self} is of {values.dtype}, which has no gradient: choose a floating output")
        if self.at is not None:
            return self._mean(values, input_size)
        if values.numel() != n:
            raise TargetError(
                f"{self} holds {tuple(values.shape[1:])} numbers a row: add the place of one, such as "
                f"{Output(*self.path, 0)}{', or at=(x, y) on a map' if values.ndim > 2 else ''}"
            )
        return values.reshape(n)

    def _mean(self, values: Tensor, size: tuple[int, ...]) -> Tensor:
        """The mean of maps (n, *grid) over the place, where the input, of this size, is scaled to the grid."""
        low, high = _box(self.at)
        axes = low.shape[1]
        if values.ndim == axes + 2 and values.shape[1] == 1:
            values = values[:, 0]
        if values.ndim != axes + 1 or len(size) != axes:
            raise TargetError(
                f"{self} is {tuple(values.shape[1:])} numbers a row, and at has {axes} axes: name a map (N, h, w)"
            )
        if bool((low >= torch.tensor(size[::-1])).any()) or bool((high <= 0).any()):
            sides = " x ".join(map(str, size[::-1]))
            raise TargetError(f"{literal(self.at)} is outside of the model's input, {sides} pixels")
        weighted = values
        total = torch.ones(len(low), dtype=torch.float64)
        for axis, (pixels, cells) in enumerate(zip(size, values.shape[1:], strict=True)):
            side = axes - 1 - axis  # x is the last axis
            scale = cells / pixels
            parts = torch.stack(
                [
                    _covered(cells, float(start) * scale, float(end) * scale)
                    for start, end in zip(low[:, side], high[:, side], strict=True)
                ]
            )
            total = total * parts.sum(1)
            shape = [len(parts), *(cells if one == axis else 1 for one in range(axes))]
            weighted = weighted * parts.reshape(shape).to(values)
        return weighted.flatten(1).sum(1) / total.to(values)

    def caption(self, label: Callable[[int], str] | None = None) -> str:
        """Its name, or the label of a number, where it has one; else the path."""
        if self.name is not None:
            what = self.name
        elif label is not None and len(self.path) == 1 and isinstance(self.path[0], int) and self.at is None:
            what = label(self.path[0])
        else:
            what = ("output " + ", ".join(map(str, self.path))).strip()
        return f"{what} at {literal(self.at)}" if isinstance(self.at, tuple) else what

    def __repr__(self) -> str:
        return f"Output({self._written(repr)})"

    def __str__(self) -> str:
        return f"output({self._written(literal)})"

    def _written(self, write: Callable[[Any], str]) -> str:
        named = {key: getattr(self, key) for key in ("at", "name", "units") if getattr(self, key) is not None}
        given = [f"{key}={literal(one) if key == 'at' else write(one)}" for key, one in named.items()]
        return ", ".join([*map(write, self.path), *given])


def _box(at: tuple[float, ...] | Tensor | None) -> tuple[Tensor, Tensor]:
    """The lowest and the highest of each axis, (N, axes), of points and boxes; a point is one pixel."""
    given = torch.as_tensor(at, dtype=torch.float64)
    given = given.reshape(-1, given.shape[-1])
    if given.shape[1] < 4:
        low = given.floor()
        return low, low + 1
    axes = given.shape[1] // 2
    return given[:, :axes], given[:, axes:]


def _covered(cells: int, start: float, end: float) -> Tensor:
    """How much of each cell of an axis lies between start and end, in cells."""
    at = torch.arange(cells, dtype=torch.float64)
    return ((at + 1).clamp_max(end) - at.clamp_min(start)).clamp_min(0)
