"""Hear what every module returns in one forward pass, and which of them are attention or what pooling left."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from deepviz.probe.lineage import Lineage
from deepviz.probe.operators import POINTWISE, operator_name, tensors_in


@contextmanager
def hooked(model: nn.Module, watch: Watch, answered: Callable[[str, nn.Module, Any], None]) -> Iterator[None]:
    """Inside, `watch` knows which module is running, and `answered` hears every module's output."""
    owner = threading.get_ident()
    handles = []

    def entering(module: nn.Module, inputs: Any) -> None:
        if threading.get_ident() == owner:
            watch.running.append(module)

    def leaving(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if threading.get_ident() == owner:
                watch.running.pop()
                answered(name, module, output)

        return hook

    try:
        for name, module in model.named_modules():
            if name and not isinstance(module, torch.jit.ScriptModule):
                handles.append(module.register_forward_pre_hook(entering))
                handles.append(module.register_forward_hook(leaving(name)))
        yield
    finally:
        for handle in handles:
            handle.remove()


_POOLING = {
    F.adaptive_avg_pool1d,
    F.adaptive_avg_pool2d,
    F.adaptive_avg_pool3d,
    F.adaptive_max_pool1d,
    F.adaptive_max_pool2d,
    F.adaptive_max_pool3d,
    F.adaptive_max_pool1d_with_indices,
    F.adaptive_max_pool2d_with_indices,
    F.adaptive_max_pool3d_with_indices,
    torch.adaptive_avg_pool1d,
    torch._C._nn.adaptive_avg_pool2d,
    torch._C._nn.adaptive_avg_pool3d,
}
_ATTENTION = {F.scaled_dot_product_attention, F.multi_head_attention_forward}
_SOFTMAX = {F.softmax, torch.softmax, Tensor.softmax}


class Watch(Lineage):
    """Learns from the operators which modules are attention (their parts are not feature maps) or pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.running: list[nn.Module] = []
        self.attention: set[nn.Module] = set()
        self._pooled: WeakTensorKeyDictionary = WeakTensorKeyDictionary()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = super().__torch_function__(func, types, args, kwargs)
        if self.running and (func in _ATTENTION or (func in _SOFTMAX and result.ndim >= 3 and result.shape[-1] > 1)):
            self.attention.add(self.running[-1])
        if func in _POOLING or (self._pooled and self._only_pooled(func, args, kwargs or {})):
            for tensor in tensors_in(result):
                self._pooled[tensor] = True
        return result

    def _only_pooled(self, func: Any, args: tuple[Any, ...], given: dict[str, Any]) -> bool:
        """Whether an operator only changes the values of what was pooled, as dropout does."""
        if operator_name(func) not in POINTWISE:
            return False
        operands = [operand for operand in tensors_in((args, given)) if self.depends(operand)]
        return bool(operands) and all(operand in self._pooled for operand in operands)

    def is_pooled(self, tensor: Tensor) -> bool:
        """Whether the tensor is what global pooling left, whoever returns it."""
        return tensor in self._pooled

    def internal(self, module: nn.Module) -> str:
        """Why the output of `module` is not a feature map, or "" if it may be one."""
        if type(module).__module__ == "torch.nn.modules.padding":
            return "padding"
        if isinstance(module, nn.RNNBase):
            return "the steps of a recurrence"
        inside = any(module is not part and module in set(part.modules()) for part in self.attention)
        return "inside attention" if inside else ""
