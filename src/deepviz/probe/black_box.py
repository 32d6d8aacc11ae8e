"""A callable as a model: from a batch to scores, without gradients, layers or weights."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from textwrap import shorten
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from deepviz.errors import DeepVizError, ModelError, ModelFailed, in_one_line
from deepviz.inputs import plain_tensor
from deepviz.names import callable_name
from deepviz.probe.borrow import original

Takes = Literal["auto", "tensor", "array"]
"""What a function is called with: torch tensors or NumPy arrays; "auto" finds out at the first call."""
SAID = 200
"""Characters of each of two reasons that are told."""
AGREED = 1e-3
"""How far the scores of a tensor and of the array with the same values may differ, of their scale."""


class BlackBox(nn.Module):
    """Any callable from a batch to scores, as a model for methods that need forward passes alone.

    `explain` and `load_model` make one of a callable by themselves; made by hand, it says what the function takes.

    It gets copies of the inputs, (N, C, H, W), without a graph. It returns (N, K) or (N,) finite floats, in a tensor on
    any device, an array or what NumPy makes one of; or a mapping or tuple of these, of which a target takes its part.

    A batch on which it fails is tried once more in halves, and larger ones are halved from then on if that helps.

    Args:
        function: the callable.
        takes: "tensor" or "array"; "auto": both are tried at the first call, and where both work they must agree.
        name: what to call it; by default its own name.
        kind: what it is, in messages.

    Attributes:
        size: of the images that it takes, where that is known, as `Preprocess` has it.

    `BlackBox(f).to("cuda")` moves what is given to it there; else inputs stay where they are.

    Example:
        >>> import deepviz, numpy
        >>> f = deepviz.BlackBox(lambda x: numpy.stack([x.mean((1, 2, 3)), x.std((1, 2, 3))], 1), takes="array")
        >>> f(torch.ones(2, 3, 8, 8))
        tensor([[1., 0.],
                [1., 0.]])
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        takes: Takes = "auto",
        name: str | None = None,
        kind: str = "a plain function",
    ) -> None:
        super().__init__()
        if not callable(function) or isinstance(function, type):
            raise TypeError(f"function must be a callable from a batch to scores, got {function!r:.60}")
        if takes not in get_args(Takes):
            raise ValueError(f"takes must be one of {', '.join(map(repr, get_args(Takes)))}, got {takes!r}")
        self.function = function
        self.name = name or callable_name(function)
        self.kind = kind
        self.size: Any = None
        self.home: tuple[torch.device, torch.dtype] | None = None
        # in a dictionary, since attributes are part of what a model is, and this is found out on the way
        self._found: dict[str, Any] = {"takes": "tensor" if isinstance(function, nn.Module) else takes, "most": None}

    def extra_repr(self) -> str:
        """Its name."""
        return self.name

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> BlackBox:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        device, dtype = (torch.device("cpu"), torch.float32) if self.home is None else self.home
        moved = fn(torch.empty(0, device=device, dtype=dtype))
        self.home = moved.device, moved.dtype
        return self

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the function returns, as tensors beside the inputs.

        Raises:
            ModelFailed: if it fails on some rows by themselves too, with their numbers.
            ModelError: for anything but finite floats, a row of them for each of the batch.
        """
        n = len(next(one for one in (*args, *kwargs.values()) if isinstance(one, Tensor)))
        most = self._found["most"]
        if most is not None and n > most:
            return _joined([self._answer(*_rows(args, kwargs, of)) for of in _cuts(n, most)])
        try:
            return self._answer(args, kwargs)
        except (DeepVizError, torch.OutOfMemoryError):
            raise
        except Exception:
            # only a batch of images alone is known to be rows
            if n == 1 or len(args) + len(kwargs) > 1:
                raise
        # outside the handler, so that the failed attempt's tensors are no longer held by its traceback
        half = (n + 1) // 2
        found = _joined([self._half(args, kwargs, of, n) for of in _cuts(n, half)])
        self._found["most"] = half
        return found

    def _half(self, args: tuple[Any, ...], kwargs: dict[str, Any], rows: slice, n: int) -> Any:
        try:
            return self._answer(*_rows(args, kwargs, rows))
        except (DeepVizError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            which = f"row {rows.start}" if rows.stop == rows.start + 1 else f"rows {rows.start} to {rows.stop - 1}"
            raise ModelFailed(
                f"{self.name} failed on a batch of {n}, and again on {which} of it: {in_one_line(error)}"
            ) from error

    def _answer(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The checked result of one call; of the first, as both kinds of input show it."""
        takes = self._found["takes"]
        if takes != "auto":
            return self._called(takes, args, kwargs)
        found, failed = {}, {}
        for takes in ("tensor", "array"):
            try:
                found[takes] = self._called(takes, args, kwargs)
            except (ModelError, torch.OutOfMemoryError):
                raise
            except Exception as error:
                failed[takes] = error
        if not found:
            reasons = dict.fromkeys(shorten(in_one_line(error), SAID) for error in failed.values())
            if len(reasons) == 1:
                raise failed["tensor"]
            tensor, array = reasons
            raise RuntimeError(f"{self.name} fails on a tensor ({tensor}) and on an array ({array})")
        unlike = len(found) == 2 and not _agree(found["tensor"], found["array"])
        # a random function does not agree with itself either
        if unlike and _agree(found["tensor"], self._called("tensor", args, kwargs)):
            raise ModelError(
                f"{self.name} returns other scores for an array than for a tensor of the same values: say what it "
                f"takes, deepviz.BlackBox({self.name}, takes='array') or takes='tensor'"
            )
        takes = next(iter(found))
        self._found["takes"] = takes
        return found[takes]

    def _called(self, takes: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = _array if takes == "array" else _copy
        result = self.function(*map(given, args), **{name: given(one) for name, one in kwargs.items()})
        like = next(one for one in (*args, *kwargs.values()) if isinstance(one, Tensor))
        return self._read(result, like)

    def _read(self, result: Any, like: Tensor) -> Any:
        """What was returned as tensors beside `like`; untouched, if it holds no numbers.

        Raises:
            ModelError: for anything but finite floats, a row of them for each of the batch.
        """
        if isinstance(result, Mapping):
            return {name: _tensor(one, like) for name, one in result.items()}
        if isinstance(result, tuple) and any(hasattr(one, "__array__") for one in result):
            values = [_tensor(one, like) for one in result]
            return type(result)(*values) if hasattr(result, "_fields") else tuple(values)
        scores = _tensor(result, like)
        if not isinstance(scores, Tensor):
            return scores
        if not scores.is_floating_point():
            kind = str(scores.dtype).removeprefix("torch.")
            raise ModelError(f"{self.name} returned {kind}, and scores are floats: give probabilities or logits")
        if scores.ndim == 0 or len(scores) != len(like):
            raise ModelError(
                f"{self.name} returned {tuple(scores.shape)} for {len(like)} rows: it must return (N, K) or (N,), one "
                "row of scores for each"
            )
        odd = (~scores.isfinite()).reshape(len(scores), -1).any(1)
        if bool(odd.any()):
            row = int(odd.nonzero()[0])
            raise ModelError(f"{self.name} returned NaN or infinity for row {row} of {len(scores)}: check the input")
        return scores


def black_box_of(model: nn.Module) -> BlackBox | None:
    """The function that a model is, also where its output is read as that of a detector; None if it is a network."""
    module = original(model)
    module = getattr(module, "deepviz_model", module)
    return module if isinstance(module, BlackBox) else None


def as_module(model: Any) -> Any:
    """A callable as a `BlackBox`, an exported program as its module; anything else as it is."""
    if isinstance(model, (nn.Module, type)):
        return model
    # without torch.export, which takes time to import, nothing can have been exported
    export = sys.modules.get("torch.export")
    if export is not None and isinstance(model, export.ExportedProgram):
        return model.module()
    return BlackBox(model) if callable(model) else model


def _tensor(value: Any, like: Tensor) -> Any:
    if isinstance(value, Tensor):
        return plain_tensor(value).detach().to(like.device)
    try:
        array = np.asarray(value)
    except Exception:  # what is none says so in its own way
        return value
    if array.dtype.kind not in "fiub":
        return value
    # a copy: the function may keep and change what it returned; in an order, and of a type, that torch has
    kind = np.float64 if array.dtype.kind == "f" and array.dtype.itemsize > 8 else array.dtype.newbyteorder("=")
    return torch.from_numpy(np.array(array, kind, order="C")).to(like.device)


def _copy(value: Any) -> Any:
    return value.detach().clone(memory_format=torch.contiguous_format) if isinstance(value, Tensor) else value


def _array(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    # NumPy has no bfloat16
    value = value.float() if value.dtype == torch.bfloat16 else value
    return _copy(value).cpu().numpy()


def _rows(args: tuple[Any, ...], kwargs: dict[str, Any], rows: slice) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return tuple(one[rows] for one in args), {name: one[rows] for name, one in kwargs.items()}


def _cuts(n: int, most: int) -> list[slice]:
    return [slice(start, min(start + most, n)) for start in range(0, n, most)]


def _joined(parts: list[Any]) -> Any:
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat(parts)
    if isinstance(first, dict):
        return {name: _joined([part[name] for part in parts]) for name in first}
    if isinstance(first, tuple):
        values = [_joined(list(each)) for each in zip(*parts, strict=True)]
        return type(first)(*values) if hasattr(first, "_fields") else tuple(values)
    raise ModelFailed(f"what the function returns, {type(first).__name__}, cannot be joined from halves of a batch")


def _agree(one: Any, other: Any) -> bool:
    """Whether two results are the same but for rounding; what holds no scores is not compared."""
    if not (isinstance(one, Tensor) and isinstance(other, Tensor)):
        return type(one) is type(other)
    if one.shape != other.shape:
        return False
    one, other = one.double().cpu(), other.double().cpu()
    scale = float(torch.maximum(one.abs(), other.abs()).max()) if one.numel() else 0.0
    return float((one - other).abs().max()) <= AGREED * scale if scale > 0 else True
