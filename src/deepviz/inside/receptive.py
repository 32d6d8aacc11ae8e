"""Which pixels a position of a layer can see: receptive fields, followed from operator to operator."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from deepviz.inputs import Inputs, is_image_like
from deepviz.probe.call import Call
from deepviz.probe.capture import spatial_tensor
from deepviz.probe.layer_names import numbered
from deepviz.probe.operators import POINTWISE, operator_name, tensors_in


@dataclass(frozen=True)
class ReceptiveField:
    """The rectangle of input pixels that a position of a layer depends on; of a volume, the box.

    Position (i, j) sees rows start[0] + i step[0] up to, not including, that plus size[0]; columns likewise. Rows and
    columns outside the input are padding.

    Args:
        size: along each axis of the input, (height, width) in pixels.
        step: input pixels from one position to the next, (down, across).
        start: the first (row, column) that position (0, 0) sees, negative where the layers pad.

    Example:
        Two convolutions of 3 x 3, the first with a stride of 2, both padded by 1:

        >>> field = ReceptiveField(size=(7, 7), step=(2, 2), start=(-3, -3))
        >>> field.box(5, 6)
        (9, 7, 16, 14)
        >>> str(field)
        '7 x 7, step 2'
    """

    size: tuple[int, ...]
    step: tuple[int, ...]
    start: tuple[int, ...]

    def box(self, row: int, column: int) -> tuple[int, int, int, int]:
        """(left, top, right, bottom) of what position (row, column) of an image sees, in input pixels, with padding."""
        top, left = self.start[0] + row * self.step[0], self.start[1] + column * self.step[1]
        return left, top, left + self.size[1], top + self.size[0]

    def __str__(self) -> str:
        step = self.step[:1] if len(set(self.step)) == 1 else self.step
        return f"{' x '.join(map(str, self.size))}, step {' x '.join(map(str, step))}"


@dataclass(frozen=True)
class ModuleCall:
    """One call of one module in a forward pass.

    Args:
        name: its path; of a module that is called several times with the number of the call, "relu#2".
        path: its path in `named_modules()`.
        shape: of the tensor that it answered with; None if there is none.
        field: what a position of that answer sees; None where that is the whole image, or cannot be said.
        on_image: whether its input is the image itself, pixel by pixel; None where that cannot be said.
    """

    name: str
    path: str
    shape: tuple[int, ...] | None
    field: ReceptiveField | None
    on_image: bool | None


def module_calls(call: Call, x: Tensor | Inputs) -> list[ModuleCall]:
    """What every module answers in one forward pass without a graph, in the order of answering.

    Args:
        call: the borrowed model.
        x: (1, C, *space), with one to three spatial axes, or inputs among which one is so.
    """
    owner = threading.get_ident()
    found: list[ModuleCall] = []

    def forward(laid: Inputs) -> None:
        found.clear()
        trace = _Trace(call.model, next(leaf for leaf in laid.leaves if is_image_like(leaf)))

        def hear(path: str) -> Callable[[nn.Module, Any, Any], None]:
            def hook(module: nn.Module, inputs: Any, output: Any) -> None:
                if threading.get_ident() == owner:
                    answer = spatial_tensor(output)
                    on_image = trace.is_image(inputs[0]) if inputs and isinstance(inputs[0], Tensor) else False
                    shape = None if answer is None else tuple(answer.shape)
                    field = None if answer is None else trace.field(answer)
                    found.append(ModuleCall(path, path, shape, field, on_image))

            return hook

        with ExitStack() as stack:
            for path, module in call.model.named_modules():
                if path and not isinstance(module, torch.jit.ScriptModule):
                    stack.callback(module.register_forward_hook(hear(path)).remove)
            stack.enter_context(torch.no_grad())
            stack.enter_context(trace)
            call.run(laid)

    call.in_layout(x if isinstance(x, Inputs) else Inputs(x), forward)
    names = numbered([one.path for one in found])
    return [replace(one, name=name) for one, name in zip(found, names, strict=True)]


@dataclass(frozen=True)
class _Reach:
    """What index 0 of one axis of a tensor sees of one axis of the image, and how far the next index is."""

    axis: int
    start: int = 0
    size: int = 1
    step: int = 1

    def window(self, kernel: int, stride: int, before: int, dilation: int) -> _Reach:
        """After a window slides along this axis, `before` positions of padding ahead of it."""
        return replace(
            self,
            start=self.start - before * self.step,
            size=self.size + (kernel - 1) * dilation * self.step,
            step=self.step * stride,
        )

    def joined(self, other: _Reach) -> _Reach:
        """What two positions that meet see together."""
        start = min(self.start, other.start)
        return replace(self, start=start, size=max(self.start + self.size, other.start + other.size) - start)


Reaches = tuple[_Reach | None, ...]
Spread = Reaches | Literal["constant", "whole"]
"""Of a tensor: a reach for each of its axes that lies along one of the image's, "constant" if it does not depend on
the image, "whole" if it may depend on all of it."""

_CONSTANT = ("zero", "fill", "zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like")
_POINTWISE = POINTWISE | {"sign", "floor", "round", *_CONSTANT}
"""Operators whose result at a position depends on that position alone (and on channels)."""

_READS_OUT = ("item", "tolist", "numpy", "array", "float", "int", "index", "bool")
"""What turns tensors into plain values, which cannot be followed."""


class _Trace(TorchFunctionMode):
    """Follows what each tensor sees of the image; an operator that is not known here sees all of it."""

    def __init__(self, model: nn.Module, x: Tensor) -> None:
        super().__init__()
        self.seen: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self.constants = {id(value) for value in (*model.parameters(), *model.buffers())}
        self.lost = False
        self.axes = x.ndim - 2
        self.seen[x] = (None, None, *map(_Reach, range(self.axes)))

    def of(self, tensor: Tensor) -> Spread:
        """What `tensor` sees; one that came from nowhere (an operator in another language) may see all."""
        if self.lost:
            return "whole"
        known: Spread | None = self.seen.get(tensor)
        if known is not None:
            return known
        return "constant" if id(tensor) in self.constants else "whole"

    def field(self, tensor: Tensor) -> ReceptiveField | None:
        spread = self.of(tensor)
        along = {reach.axis: reach for reach in spread if isinstance(reach, _Reach)}
        if len(along) < self.axes:
            return None
        reaches = [along[axis] for axis in range(self.axes)]
        return ReceptiveField(
            tuple(reach.size for reach in reaches),
            tuple(reach.step for reach in reaches),
            tuple(reach.start for reach in reaches),
        )

    def is_image(self, tensor: Tensor) -> bool | None:
        """Whether positions are single pixels of the image; None where what they see cannot be said."""
        if self.of(tensor) == "whole":
            return None
        field = self.field(tensor)
        return field is not None and field.size == field.step == (1,) * self.axes

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        operands = list(tensors_in((args, given)))
        before = [self.of(operand) for operand in operands]
        result = func(*args, **given)
        name = operator_name(func)
        depends = self.lost or any(spread != "constant" for spread in before)
        results = list(tensors_in(result))
        if name == "setitem" or "out" in given:
            results = list(tensors_in([given.get("out", args[:1])]))
            self._answer(results, "whole" if depends else "constant")
        elif results:
            after = _after(name, args, given, operands, before, results[0]) if depends else "constant"
            self._answer(results, after)
        elif depends and name in _READS_OUT:
            self.lost = True
        return result

    def _answer(self, results: list[Tensor], spread: Spread) -> None:
        for result in results:
            fits = isinstance(spread, str) or len(spread) == result.ndim
            new, known = spread if fits else "whole", self.seen.get(result)
            if known is not None and known != new:
                self._written_to(result)
            self.seen[result] = new

    def _written_to(self, tensor: Tensor) -> None:
        """Whatever shares memory with a tensor that was changed in place is no longer what it was."""
        memory = tensor.untyped_storage().data_ptr()
        for other in list(self.seen.keys()):
            if other.untyped_storage().data_ptr() == memory:
                self.seen[other] = "whole"


def _after(
    name: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    operands: list[Tensor],
    before: list[Spread],
    result: Tensor,
) -> Spread:
    """What the result of an operator sees, of which at least one operand depends on the image."""
    depending = [(operand, spread) for operand, spread in zip(operands, before, strict=True) if spread != "constant"]
    if any(spread == "whole" for _, spread in depending):
        return "whole"
    followed = [(operand, spread) for operand, spread in depending if isinstance(spread, tuple)]
    if name in _POINTWISE:
        return _joined(followed, result)
    if name in ("cat", "concat", "concatenate"):
        return _concatenated(followed, _bound("tensors dim", args, kwargs).get("dim", 0), result)
    if len(followed) > 1 or name not in _RULES or followed[0][0] is not operands[0]:
        return "whole"
    parameters, rule = _RULES[name]
    reaches = followed[0][1]
    try:
        return rule(reaches, operands[0], _bound(parameters, args, kwargs), result) or "whole"
    except (IndexError, KeyError, TypeError, ValueError):
        return "whole"  # called in a way that is not known here


def _bound(parameters: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    return dict(zip(parameters.split(), args, strict=False)) | kwargs


def _joined(followed: list[tuple[Tensor, Reaches]], result: Tensor) -> Spread:
    """Operands that meet position by position, aligned at their last axes."""
    together: list[_Reach | None] | None = None
    for operand, reaches in followed:
        if operand.ndim > result.ndim:
            return "whole"
        aligned = [None] * (result.ndim - len(reaches)) + list(reaches)
        sizes = (1,) * (result.ndim - operand.ndim) + tuple(operand.shape)
        if any(reach and size != full for reach, size, full in zip(aligned, sizes, result.shape, strict=True)):
            return "whole"
        if together is None:
            together = aligned
            continue
        for axis, (mine, other) in enumerate(zip(together, aligned, strict=True)):
            if mine is None and other is None:
                continue
            if mine is None or other is None or (mine.axis, mine.step) != (other.axis, other.step):
                return "whole"
            together[axis] = mine.joined(other)
    assert together is not None
    return tuple(together)


def _concatenated(followed: list[tuple[Tensor, Reaches]], dim: int, result: Tensor) -> Spread:
    if any(reaches[dim] is not None for _, reaches in followed):
        return "whole"
    # beside each other along a channel axis: as if they met, whatever their number of channels
    views = [(operand.narrow(dim, 0, 1), reaches) for operand, reaches in followed if operand.shape[dim]]
    return _joined(views, result.narrow(dim, 0, 1))


Rule = Callable[[Reaches, Tensor, dict[str, Any], Tensor], Reaches | None]


def _each(value: Any, axes: int) -> list[int]:
    """One number for all axes, or one for each."""
    several = list(value) if isinstance(value, (tuple, list)) else [value]
    return several * axes if len(several) == 1 else several


def _slid(reaches: Reaches, *windows: Any) -> Reaches | None:
    """Windows (kernel, stride, padding, dilation) slide along all axes after the first two."""
    axes = len(reaches) - 2
    slid = [reach for reach in reaches[2:] if reach is not None]
    if any(reaches[:2]) or len(slid) < axes:
        return None
    each = zip(*(_each(value, axes) for value in windows), strict=True)
    moved = [reach.window(*of_axis) for reach, of_axis in zip(slid, each, strict=True)]
    return (*reaches[:2], *moved)


def _convolution(reaches: Reaches, x: Tensor, given: dict[str, Any], result: Tensor) -> Reaches | None:
    kernel = given["weight"].shape[2:]
    dilation = _each(given.get("dilation", 1), len(kernel))
    padding = given.get("padding", 0)
    if padding == "valid":
        padding = 0
    elif padding == "same":
        padding = [d * (k - 1) // 2 for d, k in zip(dilation, kernel, strict=True)]
    return _slid(reaches, tuple(kernel), given.get("stride", 1), padding, dilation)


def _pooling(reaches: Reaches, x: Tensor, given: dict[str, Any], result: Tensor) -> Reaches | None:
    kernel = given["kernel_size"]
    return _slid(reaches, kernel, given.get("stride") or kernel, given.get("padding", 0), given.get("dilation", 1))


def _adaptive(reaches: Reaches, x: Tensor, given: dict[str, Any], result: Tensor) -> Reaches | None:
    return reaches if result.shape == x.shape else None


def _batch_norm(reaches: Reaches, x: Tensor, given: dict[str, Any], result: Tensor) -> Reaches | None:
    return None if given.get("training") else reaches


def _over_last(reaches: Reaches, x: Tensor, given: dict[str, Any], result: Tensor) -> Reaches | None:
    axes = len(given.get("normalized_shape", (0,)))
    return None if any(reaches[-axes:]) else reaches


def _along(reaches: Reaches, x: Tensor, given: dict[str, Any], result: Tensor) -> Reaches | None:
    """Operators along one axis that keep the others as they are, such as a softmax or a split."""
    dim = given.get("dim")
    return reaches if isinstance(dim, int) and reaches[dim] is None else None


def _reduction(reaches: Reaches, x: Tensor, given: dict[str, Any], result: Tensor) -> Reaches | None:
    dims = given.get("dim")
    listed = [dims] if isinstance(dims, int) else dims
    if not isinstance(listed, (tuple, list)) or not listed:
        return None
    gone = {dim % x.ndim for dim in listed}
    if any(reaches[dim] for dim in gone):
        return None
    return reaches if result.ndim == x.ndim else tuple(r for dim, r in enumerate(reaches) if dim not in gone)


def _padded(reaches: Reaches, x: Tensor, given: dict[str, Any], result: Tensor) -> Reaches | None:
    if given.get("mode", "constant") != "constant":
        return None
    padded = list(reaches)
    for position, before in enumerate(given["pad"][::2]):
        reach = padded[-1 - position]
        padded[-1 - position] = reach and reach.window(1, 1, before, 1)
    return tuple(padded)


def _reshaped(reaches: Reaches, x: Tensor, given: dict[str, Any], result: Tensor) -> Reaches | None:
    """The image's axes must be among the first or last axes that stay as they are."""
    head = _equal(x.shape, result.shape)
    tail = min(_equal(x.shape[::-1], result.shape[::-1]), x.ndim - head, result.ndim - head)
    if any(reaches[head : x.ndim - tail]):
        return None
    return (*reaches[:head], *(None,) * (result.ndim - head - tail), *reaches[x.ndim - tail :])


def _equal(one: Sequence[int], other: Sequence[int]) -> int:
    """How many sizes agree from the start."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))


def _transposed(reaches: Reaches, x: Tensor, given: dict[str, Any], result: Tensor) -> Reaches | None:
    order = list(reaches)
    first, second = given.get("dim0"), given.get("dim1")
    if not isinstance(first, int) or not isinstance(second, int):
        return None
    order[first], order[second] = order[second], order[first]
    return tuple(order)


def _permuted(reaches: Reaches, x: Tensor, given: dict[str, Any], result: Tensor) -> Reaches | None:
    dims = given["dims"]
    if isinstance(dims, int):  # x.permute(0, 2, 3, 1)
        dims = [given[name] for name in _PERMUTE.split()[1:] if name in given]
    return tuple(reaches[dim] for dim in dims)


def _sliced(reaches: Reaches, x: Tensor, given: dict[str, Any], result: Tensor) -> Reaches | None:
    key = given["key"] if isinstance(given["key"], tuple) else (given["key"],)
    at = next((place for place, part in enumerate(key) if part is Ellipsis), None)
    if at is not None:
        key = (*key[:at], *(slice(None),) * (x.ndim - len(key) + 1), *key[at + 1 :])
    key = (*key, *(slice(None),) * (x.ndim - len(key)))
    if len(key) != x.ndim or not all(type(part) in (slice, int) for part in key):
        return None
    if any(reach and part != slice(None) for reach, part in zip(reaches, key, strict=True)):
        return None
    return tuple(reach for reach, part in zip(reaches, key, strict=True) if isinstance(part, slice))


_AXES = (1, 2, 3)
_PERMUTE = "input dims second third fourth fifth sixth"
_POOL = "input kernel_size stride padding"
_RULES: dict[str, tuple[str, Rule]] = {
    **{f"conv{n}d": ("input weight bias stride padding dilation groups", _convolution) for n in _AXES},
    **{f"avg_pool{n}d": (_POOL, _pooling) for n in _AXES},
    **{f"max_pool{n}d{kind}": (_POOL + " dilation", _pooling) for n in _AXES for kind in ("", "_with_indices")},
    **{f"adaptive_{kind}_pool{n}d": ("input", _adaptive) for n in _AXES for kind in ("avg", "max")},
    **{f"adaptive_max_pool{n}d_with_indices": ("input", _adaptive) for n in _AXES},
    "batch_norm": ("input mean var weight bias training", _batch_norm),
    "linear": ("input", _over_last),
    **dict.fromkeys(("layer_norm", "rms_norm"), ("input normalized_shape", _over_last)),
    **dict.fromkeys(("softmax", "log_softmax", "glu"), ("input dim", _along)),
    **dict.fromkeys(("chunk", "split", "tensor_split", "split_with_sizes"), ("input sections dim", _along)),
    **dict.fromkeys(("narrow", "index_select"), ("input dim", _along)),
    "normalize": ("input p dim", _along),
    **dict.fromkeys(("mean", "sum", "amax", "amin", "max", "min", "var", "std"), ("input dim keepdim", _reduction)),
    "pad": ("input pad mode value", _padded),
    **dict.fromkeys(("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze"), ("input", _reshaped)),
    **dict.fromkeys(("transpose", "swapaxes", "swapdims"), ("input dim0 dim1", _transposed)),
    "permute": (_PERMUTE, _permuted),
    "getitem": ("input key", _sliced),
}
"""For an operator the names of its first parameters, and what its result sees."""
