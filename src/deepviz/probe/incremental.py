"""Forward passes of copies of one image that differ from it in a small window, computed only where they differ.

A convolution, pooling or pointwise operation changes its output only near where its input has changed. A `Changed` is
a tensor that knows the output of the image itself and the part that differs, and goes through the model as any tensor:
operations that are local are computed on that part, with what they need of the image's own values around it; at any
other, and where the part is nearly the whole map, it becomes an ordinary tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

aten = torch.ops.aten
WHOLE = 0.7
"""The share of a map from which on all of it is computed."""
MOST = 2048
"""Operations whose output for the image itself is kept."""
Rule = Callable[..., Any]
_RULES: dict[Any, Rule] = {}


@dataclass
class Trace:
    """What passes of copies of the same image have in common.

    Args:
        known: what operations gave for the image itself, by the operation and what it was given; with that, which is
            kept as long, since it is known by its identity.
        copies: how many there were.
        saved: multiply-adds of convolutions that were not computed, of all copies.
    """

    known: dict[Any, tuple[Any, Any]] = field(default_factory=dict)
    copies: int = 0
    saved: float = 0.0

    def gain(self, flops: float) -> float:
        """How many times as many operations a plain pass of a copy takes, which has so many: two for each
        multiply-add."""
        return flops / (flops - 2 * self.saved / self.copies)

    def clean(self, func: Any, args: Any, kwargs: Any) -> Any:
        """What an operation gives for the image itself."""
        given = tree_map(_clean, (args, kwargs))
        key = (func, *map(_identity, tree_leaves(given)))
        if key not in self.known:
            if len(self.known) == MOST:  # of a model that makes its weights anew in each pass
                self.known.clear()
            # a clone: what an operation in place changes is still needed as it was
            own = (given[0][0].clone(), *given[0][1:]) if func._schema.is_mutable else given[0]
            self.known[key] = func(*own, **given[1]), given
        return self.known[key][0]


@dataclass
class _Values:
    """What a batch holds, which several tensors may share."""

    clean: Tensor
    part: Tensor
    top: Tensor
    left: Tensor


class Changed(Tensor):
    """A batch (n, C, H, W) of which row i differs from `clean` (1, C, H, W) in a window alone.

    Args:
        clean: the values of the image itself, (1, C, H, W).
        part: the values inside the windows, (n, C, h, w).
        top: the first row of each window, (n,), on the CPU.
        left: its first column, (n,).
        common: what the copies of this image have in common.
    """

    held: _Values
    common: Trace

    @staticmethod
    def __new__(cls: type[Changed], clean: Tensor, part: Tensor, top: Tensor, left: Tensor, common: Trace) -> Changed:
        """A tensor without memory of its own."""
        return cls._of(_Values(clean, part, top, left), common)

    @classmethod
    def _of(cls, values: _Values, common: Trace) -> Changed:
        clean = values.clean
        shape = (len(values.part), *clean.shape[1:])
        strides = torch.empty(shape, device="meta", memory_format=_layout(clean)).stride()
        made: Changed = Tensor._make_wrapper_subclass(
            cls, shape, strides=strides, dtype=clean.dtype, device=clean.device
        )
        made.held, made.common = values, common
        return made

    def __init__(self, *_: Any) -> None:
        """Made by `__new__`."""

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"Changed({tuple(self.part.shape)} of {tuple(self.shape)})"

    @property
    def clean(self) -> Tensor:
        """The values of the image itself, (1, C, H, W)."""
        return self.held.clean

    @property
    def part(self) -> Tensor:
        """The values inside the windows, (n, C, h, w)."""
        return self.held.part

    @property
    def top(self) -> Tensor:
        """The first row of each window, (n,)."""
        return self.held.top

    @property
    def left(self) -> Tensor:
        """Its first column, (n,)."""
        return self.held.left

    def alias(self) -> Changed:
        """Another tensor of the same values: what is written to one is in both."""
        return Changed._of(self.held, self.common)

    def hold(self, clean: Tensor, part: Tensor, top: Tensor, left: Tensor) -> Changed:
        """The tensor itself with other values."""
        own = self.held
        own.clean, own.part, own.top, own.left = clean, part, top, left
        return self

    @property
    def window(self) -> tuple[int, int]:
        """Its height and width."""
        return self.part.shape[2], self.part.shape[3]

    def whole(self) -> Tensor:
        """As an ordinary tensor."""
        whole = self.clean.expand(len(self.part), *self.clean.shape[1:]).clone(memory_format=_layout(self.clean))
        (h, w), (H, W) = self.window, self.clean.shape[2:]
        if (h, w) == (H, W):
            return whole.copy_(self.part)
        for row, part, top, left in zip(whole, self.part, self.top.tolist(), self.left.tolist(), strict=True):
            row[:, top : top + h, left : left + w] = part
        return whole

    def with_part(self, clean: Tensor, part: Tensor) -> Tensor:
        """The same windows with other values."""
        return Changed(clean, part, self.top, self.left, self.common)

    def become(self, whole: Tensor) -> None:
        """Other values everywhere, (n, C, H, W)."""
        self.hold(torch.zeros_like(whole[:1]), whole, torch.zeros_like(self.top), torch.zeros_like(self.left))

    def around(self, top: Tensor, left: Tensor, size: tuple[int, int], pad: float = 0.0) -> Tensor:
        """The values in other windows, (n, C, *size), which may reach over the border, where they are `pad`."""
        h, w = size
        before_h, before_w = max(0, -int(top.min())), max(0, -int(left.min()))
        after_h = max(0, int(top.max()) + h - self.clean.shape[2])
        after_w = max(0, int(left.max()) + w - self.clean.shape[3])
        source = self.clean
        if before_h or before_w or after_h or after_w:
            source = F.pad(source, (before_w, after_w, before_h, after_h), value=pad)
        shape = (*self.part.shape[:2], h, w)
        found = torch.empty(shape, dtype=self.dtype, device=self.device, memory_format=_layout(self.part))
        windows = zip(found, self.part, *((one.tolist()) for one in (top, left, self.top, self.left)), strict=True)
        for row, part, t, l, own_t, own_l in windows:  # noqa: E741
            row.copy_(source[0, :, t + before_h : t + before_h + h, l + before_w : l + before_w + w])
            y, x = own_t - t, own_l - l
            ys, xs = slice(max(0, y), min(h, y + part.shape[1])), slice(max(0, x), min(w, x + part.shape[2]))
            row[:, ys, xs] = part[:, ys.start - y : ys.stop - y, xs.start - x : xs.stop - x]
        return found

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        """The rule of the operation, or the operation itself on ordinary tensors."""
        kwargs = kwargs or {}
        rule = _RULES.get(func)
        if rule is not None and isinstance(args[0] if func is not aten.cat.default else args[0][0], Changed):
            found = rule(func, *args, **kwargs)
            if found is not NotImplemented:
                return found
        first = args[0] if args else None
        if isinstance(first, Changed) and func._schema.returns and func._schema.returns[0].alias_info is not None:
            # what is written to a view, or in place, is written to the tensor that the model holds
            first.become(first.whole())
            found = func(first.part, *tree_map(_whole, args[1:]), **tree_map(_whole, kwargs))
            return first if func._schema.is_mutable else found
        return func(*tree_map(_whole, args), **tree_map(_whole, kwargs))


def _clean(leaf: Any) -> Any:
    return leaf.clean if isinstance(leaf, Changed) else leaf


def _identity(leaf: Any) -> Any:
    """What a tensor is known by, as long as it is not written to; a number or switch by type and value."""
    return ("tensor", id(leaf), leaf._version) if isinstance(leaf, Tensor) else (type(leaf), leaf)


def _whole(leaf: Any) -> Any:
    return leaf.whole() if isinstance(leaf, Changed) else leaf


def _layout(like: Tensor) -> torch.memory_format:
    last = like.ndim == 4 and like.is_contiguous(memory_format=torch.channels_last) and not like.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


def _rule(*functions: Any) -> Callable[[Rule], Rule]:
    def add(rule: Rule) -> Rule:
        _RULES.update(dict.fromkeys(functions, rule))
        return rule

    return add


# ------------------------------------------------------------------------------------------------------- pointwise


@_rule(
    aten.relu.default,
    aten.relu_.default,
    aten.hardtanh.default,
    aten.hardtanh_.default,
    aten.silu.default,
    aten.silu_.default,
    aten.hardswish.default,
    aten.hardswish_.default,
    aten.hardsigmoid.default,
    aten.sigmoid.default,
    aten.tanh.default,
    aten.gelu.default,
    aten.elu.default,
    aten.leaky_relu.default,
    aten.leaky_relu_.default,
    aten.clamp.default,
    aten.neg.default,
    aten.clone.default,
    aten._to_copy.default,
)
def _pointwise(func: Any, x: Changed, *rest: Any, **options: Any) -> Any:
    clean = x.common.clean(func, (x, *rest), options)
    part = func(x.part, *rest, **options)
    return x.hold(clean, part, x.top, x.left) if func._schema.is_mutable else x.with_part(clean, part)


@_rule(aten.detach.default, aten.alias.default)
def _alias(func: Any, x: Changed) -> Any:
    return x.alias()


@_rule(aten.native_batch_norm.default, aten._native_batch_norm_legit_no_training.default)
def _batch_norm(func: Any, x: Changed, *rest: Any) -> Any:
    if func is aten.native_batch_norm.default and rest[4]:
        return NotImplemented
    clean = x.common.clean(func, (x, *rest), {})
    part, *statistics = func(x.part, *rest)
    return x.with_part(clean[0], part), *statistics


@_rule(aten.add.Tensor, aten.add_.Tensor, aten.mul.Tensor, aten.mul_.Tensor, aten.sub.Tensor, aten.div.Tensor)
def _of_two(func: Any, x: Changed, y: Any, **options: Any) -> Any:
    if not isinstance(y, Changed):
        # a number, or the same for every copy and place
        if isinstance(y, Tensor) and y.numel() > 1 and (y.ndim != 4 or len(y) > 1 or y.shape[2:] != (1, 1)):
            return NotImplemented
        return _pointwise(func, x, y, **options)
    common = _together([x, y]) if x.shape == y.shape else None
    if common is None:
        return NotImplemented
    clean = x.common.clean(func, (x, y), options)
    top, left, size = common
    part = func(_at(x, top, left, size).clone(), _at(y, top, left, size), **options)
    if func._schema.is_mutable:
        return x.hold(clean, part, top, left)
    return Changed(clean, part, top, left, x.common)


@_rule(aten.cat.default)
def _cat(func: Any, tensors: Sequence[Tensor], dim: int = 0) -> Any:
    both = [one for one in tensors if isinstance(one, Changed)]
    common = _together(both) if len(both) == len(tensors) and dim in (1, -3) else None
    if common is None:
        return NotImplemented
    clean = both[0].common.clean(func, (tensors, dim), {})
    top, left, size = common
    return Changed(clean, func([_at(one, top, left, size) for one in both], 1), top, left, both[0].common)


def _at(x: Changed, top: Tensor, left: Tensor, size: tuple[int, int]) -> Tensor:
    same = x.window == size and torch.equal(x.top, top) and torch.equal(x.left, left)
    return x.part if same else x.around(top, left, size)


def _together(both: Sequence[Changed]) -> tuple[Tensor, Tensor, tuple[int, int]] | None:
    """Windows that hold those of several, all of one size; None if that is nearly all."""
    top = torch.stack([one.top for one in both]).amin(0)
    left = torch.stack([one.left for one in both]).amin(0)
    bottom = torch.stack([one.top + one.window[0] for one in both]).amax(0)
    right = torch.stack([one.left + one.window[1] for one in both]).amax(0)
    return _fitted(top, left, int((bottom - top).max()), int((right - left).max()), both[0].clean.shape[2:])


def _fitted(
    top: Tensor, left: Tensor, h: int, w: int, space: Sequence[int]
) -> tuple[Tensor, Tensor, tuple[int, int]] | None:
    """Windows of a size inside a map, moved from its border; None if they are nearly all of it."""
    H, W = space
    h, w = min(h, H), min(w, W)
    if h * w >= WHOLE * H * W:
        return None
    return top.clamp(0, H - h), left.clamp(0, W - w), (h, w)


# ------------------------------------------------------------------------------------------------- neighbourhoods


@dataclass(frozen=True)
class _Reach:
    """What an operation on neighbourhoods sees along one axis."""

    kernel: int
    stride: int
    padding: int
    dilation: int

    @property
    def span(self) -> int:
        return self.dilation * (self.kernel - 1) + 1

    def outputs(self, start: Tensor, size: int) -> tuple[Tensor, int]:
        """The outputs that a window of inputs can change: the first of each, and how many at most."""
        first = -((self.span - 1 - self.padding - start) // self.stride)  # rounded up
        return first, (size + self.span - 2) // self.stride + 1

    def inputs(self, first: Tensor, count: int) -> tuple[Tensor, int]:
        """The inputs that so many outputs see."""
        return first * self.stride - self.padding, (count - 1) * self.stride + self.span


def _local(
    x: Changed,
    clean: Tensor,
    reach: Sequence[_Reach],
    compute: Callable[[Tensor], Tensor],
    pad: float = 0.0,
) -> Any:
    """An operation on neighbourhoods, for the outputs that can change; NotImplemented if these are nearly all."""
    (top, h), (left, w) = reach[0].outputs(x.top, x.window[0]), reach[1].outputs(x.left, x.window[1])
    fitted = _fitted(top, left, h, w, clean.shape[2:])
    if fitted is None:
        return NotImplemented
    top, left, (h, w) = fitted
    (y, high), (z, wide) = reach[0].inputs(top, h), reach[1].inputs(left, w)
    pointwise = all(one == _Reach(1, 1, 0, 1) for one in reach)
    seen = x.part if pointwise else x.around(y, z, (high, wide), pad)
    return Changed(clean, compute(seen), top, left, x.common)


@_rule(aten.convolution.default)
def _convolution(
    func: Any,
    x: Changed,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
) -> Any:
    if x.ndim != 4 or transposed or isinstance(weight, Changed):
        return NotImplemented
    given = (x, weight, bias, stride, padding, dilation, transposed, output_padding, groups)
    clean = x.common.clean(func, given, {})
    reach = [_Reach(*one) for one in zip(weight.shape[2:], *map(_pair, (stride, padding, dilation)), strict=True)]
    found = _local(x, clean, reach, lambda seen: F.conv2d(seen, weight, bias, stride, 0, dilation, groups))
    if found is not NotImplemented:
        left_out = math.prod(clean.shape[2:]) - math.prod(found.window)
        x.common.saved += weight[0].numel() * clean.shape[1] * left_out * len(x)
    return found


@_rule(aten.max_pool2d_with_indices.default)
def _max_pool(
    func: Any, x: Changed, kernel: list[int], stride: Any = (), padding: Any = 0, dilation: Any = 1, ceil: bool = False
) -> Any:
    if x.ndim != 4:
        return NotImplemented
    clean, _ = x.common.clean(func, (x, kernel, stride, padding, dilation, ceil), {})
    kernel, stride, dilation = _pair(kernel), _pair(stride or kernel), _pair(dilation)
    reach = [_Reach(*one) for one in zip(kernel, stride, _pair(padding), dilation, strict=True)]
    low = float("-inf")
    found = _local(x, clean, reach, lambda seen: F.max_pool2d(seen, kernel, stride, 0, dilation), low)
    return found if found is NotImplemented else (found, None)


@_rule(aten.avg_pool2d.default)
def _avg_pool(
    func: Any,
    x: Changed,
    kernel: list[int],
    stride: Any = (),
    padding: Any = 0,
    ceil: bool = False,
    count_pad: bool = True,
    divisor: int | None = None,
) -> Any:
    if x.ndim != 4 or ceil or (any(_pair(padding)) and not count_pad):
        return NotImplemented
    clean = x.common.clean(func, (x, kernel, stride, padding, ceil, count_pad, divisor), {})
    kernel, stride = _pair(kernel), _pair(stride or kernel)
    reach = [_Reach(*one, 1) for one in zip(kernel, stride, _pair(padding), strict=True)]
    return _local(x, clean, reach, lambda seen: F.avg_pool2d(seen, kernel, stride, 0, divisor_override=divisor))


@_rule(aten.constant_pad_nd.default)
def _pad(func: Any, x: Changed, pad: list[int], value: float = 0) -> Any:
    if len(pad) > 4 or min(pad) < 0:
        return NotImplemented
    clean = x.common.clean(func, (x, pad, value), {})
    top = pad[2] if len(pad) > 2 else 0
    return Changed(clean, x.part, x.top + top, x.left + pad[0], x.common)


@_rule(aten.mean.dim)
def _mean(func: Any, x: Changed, dim: Sequence[int] | None, keepdim: bool = False, **options: Any) -> Any:
    """The mean over all places: that of the image, and what the windows change."""
    if dim is None or x.ndim != 4 or {d % 4 for d in dim} != {2, 3} or options:
        return NotImplemented
    clean = x.common.clean(func, (x, dim, keepdim), {})
    h, w = x.window
    places = zip(x.top.tolist(), x.left.tolist(), strict=True)
    own = torch.stack([x.clean[0, :, top : top + h, left : left + w].sum((1, 2)) for top, left in places])
    found = clean.flatten(1) + (x.part.sum((2, 3)) - own) / math.prod(x.clean.shape[2:])
    return found.view(*found.shape, 1, 1) if keepdim else found


def _pair(value: Any) -> list[int]:
    if isinstance(value, int):
        return [value, value]
    return [*value, *value][:2] if len(value) == 1 else list(value)
