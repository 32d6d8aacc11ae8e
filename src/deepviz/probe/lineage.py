"""Which tensors lie on the image by construction: followed from operator to operator, whatever the weights are.

A convolution, a pooling window or an activation leaves every cell where it was, so what only such operators made of an
image lies on it, channels first. That proves a place without a gradient, even where a cell sees the whole image.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from deepviz.probe.operators import POINTWISE, operator_name, tensors_in

_WINDOWS_NAMES = (
    "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d avg_pool1d avg_pool2d "
    "avg_pool3d max_pool1d max_pool2d max_pool3d max_pool1d_with_indices max_pool2d_with_indices "
    "max_pool3d_with_indices lp_pool1d lp_pool2d adaptive_avg_pool1d adaptive_avg_pool2d "
    "adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d "
    "adaptive_max_pool2d_with_indices batch_norm group_norm instance_norm interpolate upsample "
    "pixel_shuffle pixel_unshuffle"
)
_WINDOWS = frozenset(_WINDOWS_NAMES.split())
"""Operators that keep the order of positions along each spatial axis of (N, C, *space)."""
_IN_PARTS = frozenset(("chunk", "split", "tensor_split"))
_ALONG_CHANNELS = _IN_PARTS | {"cat", "concat", "concatenate", "softmax", "log_softmax", "glu"}


PADDED = 8
"""Positions along an axis that padding may add, or an eighth of those there are."""


class Lineage(TorchFunctionMode):
    """Follows, in one forward pass, which tensors depend on an image, and which lie on it as (N, D, *grid)."""

    def __init__(self) -> None:
        super().__init__()
        self._laid: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self._axes = 0

    def start(self, image: Tensor) -> None:
        """Follow this image (N, C, *space), and forget all others."""
        self._laid = WeakTensorKeyDictionary()
        self._laid[image] = True
        self._axes = image.ndim

    def depends(self, tensor: Tensor) -> bool:
        """Whether the image has a part in the tensor."""
        return tensor in self._laid

    def is_laid(self, tensor: Tensor) -> bool:
        """Whether the tensor lies on the image, each spatial axis along one of the image's, in their order."""
        return bool(self._laid.get(tensor, False))

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        result = func(*args, **given)
        self.follow(func, args, given, result)
        return result

    def follow(self, func: Any, args: tuple[Any, ...], given: dict[str, Any], result: Any) -> None:
        """What an operator's result is, by its name and its operands."""
        operands = list(tensors_in((args, given)))
        depending = [operand for operand in operands if operand in self._laid]
        if not depending:
            return
        name = operator_name(func)
        changed = list(tensors_in(result))
        if name in ("setitem", "copy", "set") or "out" in given:
            self._written_to([*changed, *tensors_in([args[:1], given.get("out", ())])])
            return
        for tensor in changed:
            laid = self._keeps(name, depending, args, given, tensor)
            if not laid and any(tensor is operand for operand in operands):
                self._written_to([tensor])
            self._laid[tensor] = laid

    def _keeps(
        self, name: str, depending: list[Tensor], args: tuple[Any, ...], given: dict[str, Any], result: Tensor
    ) -> bool:
        if result.ndim != self._axes or not any(self._laid[operand] for operand in depending):
            return False
        if name in POINTWISE:
            # what does not lie on the image may be spread over it, from a single position
            return all(self._laid[one] or _single(one, self._axes) for one in depending)
        if name in _WINDOWS:
            return bool(self._laid[depending[0]]) and depending[0] is args[0] if args else False
        if name in _ALONG_CHANNELS:
            # cat(tensors, dim), softmax(x, dim) and glu(x, dim), but chunk(x, chunks, dim)
            place = 2 if name in _IN_PARTS else 1
            dim = given.get("dim", given.get("axis", args[place] if len(args) > place else 0))
            same = all(one.shape[2:] == result.shape[2:] for one in depending)
            return dim in (1, 1 - self._axes) and same and all(self._laid[one] for one in depending)
        if name == "pad":
            operand = depending[0]
            sides = zip(operand.shape[2:], result.shape[2:], strict=True)
            # a window takes a few positions off again; by more, cells no longer lie where the image is
            few = all(padded - side <= max(PADDED, side // 8) for side, padded in sides)
            return bool(self._laid[operand]) and few
        if name == "getitem":
            return self._laid[depending[0]] and _only_channels(args[1])
        return False

    def _written_to(self, tensors: list[Tensor]) -> None:
        """What shares memory with a tensor that was written to is no longer known to lie on the image."""
        memories = {tensor.untyped_storage().data_ptr() for tensor in tensors}
        for other in list(self._laid.keys()):
            if other.untyped_storage().data_ptr() in memories:
                self._laid[other] = False
        for tensor in tensors:
            self._laid[tensor] = False


def _single(tensor: Tensor, axes: int) -> bool:
    """Whether a tensor has one value per channel, for all positions."""
    return tensor.ndim < 1 or (tensor.ndim == axes and all(length == 1 for length in tensor.shape[2:]))


def _only_channels(key: Any) -> bool:
    """Whether an index leaves the spatial axes as they are: x[:, a:b], x[:, a:b, :, :]."""
    parts = key if isinstance(key, tuple) else (key,)
    if not all(isinstance(part, slice) for part in parts):
        return False
    return all(part == slice(None) for part in (*parts[:1], *parts[2:]))
