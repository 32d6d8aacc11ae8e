"""`Function`: whatever a callable makes of the model's raw output."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from torch import Tensor

from deepviz.errors import TargetError
from deepviz.objectives.objective import Objective
from deepviz.probe.outputs import describe
from deepviz.probe.seen import Seen


@dataclass(frozen=True, eq=False)
class Function(Objective):
    """What a callable makes of the model's raw output: one float score for each row, for any number of rows.

    It is the way out where no other objective fits; it cannot be stored, only its name.

    Args:
        function: takes the raw output for n rows, returns (n,); None if it was read from a file.
        name: for captions; by default the function's own.
    """

    function: Annotated[Callable[[Any], Tensor] | None, "From the raw output of n rows to (n,)."]
    name: Annotated[str, "For captions."] = ""

    def __post_init__(self) -> None:
        if self.function is not None and not callable(self.function):
            raise TargetError(f"a function must be callable, got {self.function!r}")
        if isinstance(self.function, type):
            raise TargetError(f"a function must not be a class; did you mean {self.function.__name__}()?")
        if not self.name:
            object.__setattr__(self, "name", _name(self.function))

    def __call__(self, seen: Seen) -> Tensor:
        """f(output).

        Raises:
            TargetError: if it returns something else than one float score for each row.
        """
        if self.function is None:
            raise TargetError(f"{self.name} held a callable, which is not stored: give it again as target")
        values = self.function(seen.output)
        if not isinstance(values, Tensor) or values.shape != (seen.n,) or not values.is_floating_point():
            got = describe(values) if isinstance(values, Tensor) else type(values).__name__
            raise TargetError(
                f"a callable target must return one float score per row, ({seen.n},), got {got}; what holds a value "
                "for each row, such as a reference embedding, is given as deepviz.objectives.Similarity(to=...)"
            )
        return values

    def __str__(self) -> str:
        return self.name


def _name(function: Any) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, "__name__", type(function).__name__))
