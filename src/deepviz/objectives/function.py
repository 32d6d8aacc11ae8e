"""`Function`: whatever a callable makes of the model's raw output."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from inspect import ismethod
from typing import Annotated, Any
from weakref import WeakMethod, ref

import torch
from torch import Tensor

from deepviz.errors import DeepVizError, TargetError, TargetFailed, in_one_line
from deepviz.names import callable_name
from deepviz.objectives.objective import Objective
from deepviz.probe.outputs import describe
from deepviz.probe.seen import Seen

PER_ROW = (
    "what holds a value for each row, such as a reference embedding, is given as deepviz.objectives.Similarity(to=...)"
)


@dataclass(frozen=True, eq=False)
class Function(Objective):
    """A callable from the model's raw output to one float score for each row, for any number of rows.

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
            object.__setattr__(self, "name", callable_name(self.function))

    def __call__(self, seen: Seen) -> Tensor:
        """f(output).

        Raises:
            TargetError: if it returns something else than one float score for each row.
            TargetFailed: if it raises.
        """
        if self.function is None:
            raise TargetError(f"{self.name} held a callable, which is not stored: give it again as target")
        try:
            values = self.function(seen.output)
        except (DeepVizError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # a caller's function may raise anything
            reason = in_one_line(error)
            raise TargetFailed(
                f"the callable target {self.name} failed on the output for {seen.n} rows ({reason}); it must take any "
                f"number of rows: {PER_ROW}"
            ) from error
        if not isinstance(values, Tensor) or values.shape != (seen.n,) or not values.is_floating_point():
            got = describe(values) if isinstance(values, Tensor) else type(values).__name__
            raise TargetError(
                f"a callable target must return one float score per row, ({seen.n},), got {got}; {PER_ROW}"
            )
        return values

    def __str__(self) -> str:
        return self.name


def weakly(function: Callable[..., Any] | None) -> Hashable | None:
    """What a callable is known by without being kept alive; None if it cannot be."""
    try:
        found = WeakMethod(function) if ismethod(function) else ref(function)
        hash(found)
    except TypeError:
        return None
    return found
