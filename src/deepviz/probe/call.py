"""One borrowed model and its forward passes: layout, errors, finite scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from weakref import WeakSet

import torch
from torch import Tensor, nn

from deepviz.diagnostics import Diagnostics
from deepviz.errors import DeepVizError, ModelError, ModelFailed, TargetFailed
from deepviz.inputs import Inputs
from deepviz.probe.black_box import black_box_of

T = TypeVar("T")
X = TypeVar("X", Tensor, Inputs)
_contiguous_only: WeakSet[nn.Module] = WeakSet()


@dataclass(frozen=True)
class Call:
    """The borrowed model of one call, and the notes that the result will carry."""

    model: nn.Module
    notes: Diagnostics

    def aside(self) -> Call:
        """The same call for a method inside another."""
        return replace(self, notes=self.notes.aside())

    @property
    def takes_channels_last(self) -> bool:
        """Whether the model is not known to need its input in the plain layout."""
        # a function that fails is not to be called again for another layout
        return self.model not in _contiguous_only and black_box_of(self.model) is None

    def to_layout(self, x: Tensor) -> Tensor:
        """`x` (N, C, H, W) in the memory layout that suits machine and model; other shapes contiguous.

        Convolutions on a CPU run faster on `channels_last` input; a model that takes views of its feature maps
        cannot have that (`in_layout`). A model that reads the strides of its input and computes something else by
        them is not noticed: it is explained as it answers to this layout.
        """
        last = x.ndim == 4 and x.device.type == "cpu" and self.takes_channels_last
        return x.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)

    def in_layout(self, x: X, compute: Callable[[X], T]) -> T:
        """`compute(x)` with `x` laid out; if that fails, in the plain layout, which is remembered if it helps."""
        laid = _each(x, self.to_layout)
        if all(tensor.is_contiguous() for tensor in ([laid] if isinstance(laid, Tensor) else laid.leaves)):
            return compute(laid)
        try:
            return compute(laid)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            # what the model, or a callable target, raises; the messages of those that mind the layout are many
            if isinstance(error, DeepVizError) and not isinstance(error, (ModelFailed, TargetFailed)):
                raise
        # outside the handler, so that the failed attempt's tensors are no longer held by its traceback
        found = compute(_each(x, Tensor.contiguous))
        _contiguous_only.add(self.model)
        return found

    def run(self, x: Tensor | Inputs, keep: bool = True) -> Any:
        """The model's raw output; `keep` says whether anybody needs the tensors of `x` as they are afterwards.

        Raises:
            ModelFailed: if the model raises, with how its parameters and the input differ.
        """
        # a model may leave gradients switched off, or on
        as_now = torch.enable_grad() if torch.is_grad_enabled() else torch.no_grad()
        try:
            with as_now:
                if isinstance(x, Inputs):
                    # copies, since a model may begin with an in-place operation
                    args, kwargs = x.arguments(copy=keep)
                    return self.model(*args, **kwargs)
                return self.model(x.clone() if keep else x)
        except (DeepVizError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            said = f"the model failed on {_named(x)}{self._parameters()}: {reason(error)}{self._hint(x, error)}"
            raise ModelFailed(said) from error

    def check(self, values: Tensor) -> Tensor:
        """The scores themselves, if they are finite.

        Raises:
            ModelError: naming the first parameter that is not finite, if that is why.
        """
        if bool(torch.isfinite(values.detach()).all()):
            return values
        for name, parameter in self.model.named_parameters():
            if not bool(torch.isfinite(parameter.detach()).all()):
                raise ModelError(f"the model's scores are not finite: parameter {name} holds NaN or infinity")
        raise ModelError(
            "the model's scores are not finite (NaN or infinity), though its parameters are: check the input"
        )

    def _hint(self, x: Tensor | Inputs, error: Exception) -> str:
        """The next step, where the model lacks or keeps what should go along with the rows."""
        if isinstance(error, TypeError) and "required positional argument" in str(error):
            return "; what the model takes beside x is given as extra="
        if isinstance(self.model, torch.fx.GraphModule) and "Guard failed" in str(error) and "size()[0]" in str(error):
            return "; it was exported for that number of rows: export it for one row, or any number (dynamic_shapes)"
        n = x.n if isinstance(x, Inputs) else len(x)
        for name, module in self.model.named_modules():
            for key, value in vars(module).items():
                if isinstance(value, Tensor) and value.ndim > 0 and 1 < len(value) != n:
                    kept = f"{name}.{key}" if name else key
                    return (
                        f"; the model keeps {kept}, with {len(value)} rows for {n}: what goes along with an image is "
                        "given as extra="
                    )
        return ""

    def _parameters(self) -> str:
        first = next(self.model.parameters(), None)
        return "" if first is None else f" (its parameters are {_place(first, shape=False)})"


def _each(x: X, function: Callable[[Tensor], Tensor]) -> X:
    return function(x) if isinstance(x, Tensor) else x.map(function)


def _named(x: Tensor | Inputs) -> str:
    if isinstance(x, Tensor):
        return f"x {_place(x)}"
    return ", ".join(f"{name} {_place(leaf)}" for name, leaf in zip(x.names, x.leaves, strict=True))


def _place(tensor: Tensor, shape: bool = True) -> str:
    kind = f"{str(tensor.dtype).removeprefix('torch.')} on {tensor.device}"
    return f"{tuple(tensor.shape)} {kind}" if shape else kind


def reason(error: Exception) -> str:
    """An error's message in one line, with its type where the message alone would say little."""
    text = " ".join(str(error).split())
    kind = type(error).__name__
    if not text:
        return kind
    return f"{kind}: {text}" if isinstance(error, LookupError) else text
