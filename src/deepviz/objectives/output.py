"""`Output`: one number of what the model returns, by its place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from torch import Tensor

from deepviz.errors import ModelError, TargetError
from deepviz.objectives.objective import Objective, literal
from deepviz.probe.outputs import class_scores, describe, output_fields
from deepviz.probe.seen import Seen


@dataclass(frozen=True, eq=False, init=False)
class Output(Objective):
    """One number of the model's output for each row, as it is: +dy/dx.

    `Output(2)` is the number at place 2 of (N, K) outputs; `Output("age")` a head by name, of one number a row;
    `Output("pose", 2)` the number at place 2 of a head; `Output("head", "logits", 2)` goes deeper. Of a list or tuple
    of outputs, a number chooses an item: `Output(1, 0)`. Further numbers go along further axes.

    Example:
        >>> import torch
        >>> from deepviz.probe.seen import Seen
        >>> Output("age")(Seen({"age": torch.tensor([[31.0], [62.0]])}, (torch.zeros(2, 3, 8, 8),)))
        tensor([31., 62.])
    """

    path: Annotated[tuple[int | str, ...], "Names, and numbers from 0 up, from the outside in."]

    def __init__(self, *path: int | str) -> None:
        object.__setattr__(self, "path", path)
        self.__post_init__()

    def __post_init__(self) -> None:
        if not self.path:
            raise TargetError("Output needs a place: a number such as Output(0), or a name such as Output('age')")
        kept: list[int | str] = []
        for one in self.path:
            number = hasattr(one, "__index__") and type(one).__name__ not in ("bool", "bool_")
            if not (isinstance(one, str) or (number and int(one) >= 0)):
                raise TargetError(f"a place in the output is a name or a number from 0 up, got {one!r}")
            kept.append(one if isinstance(one, str) else int(one))
        object.__setattr__(self, "path", tuple(kept))

    def __call__(self, seen: Seen) -> Tensor:
        """y at that place.

        Raises:
            TargetError: if there is no such place, or it holds more than one number a row.
        """
        found, left = seen.output, list(self.path)
        if isinstance(left[0], int) and not isinstance(found, (Tensor, Sequence)):
            found = self._numbers(seen)
        while left and not isinstance(found, Tensor):
            found = self._inside(found, left.pop(0))
        if not isinstance(found, Tensor):
            raise TargetError(f"{self} is {describe(found)}, not a number a row: name what is inside it as well")
        return self._number(found, left, seen.n)

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

    def _number(self, values: Tensor, left: list[int | str], n: int) -> Tensor:
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
        if values.numel() != n:
            raise TargetError(
                f"{self} holds {tuple(values.shape[1:])} numbers a row: add the place of one, such as "
                f"{Output(*self.path, 0)}"
            )
        values = values.reshape(n)
        if not values.is_floating_point():
            raise TargetError(f"{self} is of {values.dtype}, which has no gradient: choose a floating output")
        return values

    def caption(self, label: Callable[[int], str] | None = None) -> str:
        """The label of a number, where it has one; else the path."""
        if label is not None and len(self.path) == 1 and isinstance(self.path[0], int):
            return label(self.path[0])
        return "output " + ", ".join(map(str, self.path))

    def __repr__(self) -> str:
        return f"Output({', '.join(map(repr, self.path))})"

    def __str__(self) -> str:
        return f"output({', '.join(map(literal, self.path))})"
