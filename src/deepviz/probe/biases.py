"""What the biases of a model add to a score, position by position."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

AFFINE = (nn.Linear, _ConvNd, _BatchNorm, nn.GroupNorm, nn.LayerNorm)
"""Modules whose output is a linear or normalised one plus a bias."""


@dataclass(frozen=True)
class Bias:
    """A bias that a module added to its output in one call.

    Args:
        values: the bias, so that it broadcasts with the output.
        edge: where the gradient of the output arrives.
        mapped: whether the output has channels first and positions after them.
    """

    values: Tensor
    edge: Any
    mapped: bool


@contextmanager
def biases_added(model: nn.Module) -> Iterator[list[Bias]]:
    """Inside, the list is filled with the biases that modules add, in the order of their calls.

    Of batch normalisation with running statistics the bias is that of the whole affine map, beta - gamma mean / sigma;
    of other normalisation it is beta. Those that functions add (`F.linear` with a bias) are not seen.
    """
    owner = threading.get_ident()
    found: list[Bias] = []

    def hook(module: nn.Module, _: Any, output: Any) -> None:
        if threading.get_ident() != owner or not isinstance(output, Tensor) or not output.requires_grad:
            return
        bias = _of(module)
        if bias is None:
            return
        mapped = output.ndim > 2 and (
            isinstance(module, (_ConvNd, _BatchNorm, nn.GroupNorm)) or _normalises_channels(module, output)
        )
        after = output.ndim - 2 if mapped else 0
        edge = torch.autograd.graph.get_gradient_edge(output)
        found.append(Bias(bias.detach().reshape(*bias.shape, *[1] * after), edge, mapped))

    handles = [module.register_forward_hook(hook) for module in model.modules() if isinstance(module, AFFINE)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _normalises_channels(module: nn.Module, output: Tensor) -> bool:
    """Whether layer normalisation is of axis 1: a subclass may turn the axes around, as ConvNeXt's does.

    Where the last axis is as long, the values tell: less the bias, by the weight, they sum to zero over the axis.
    """
    if not isinstance(module, nn.LayerNorm) or type(module) is nn.LayerNorm or len(module.normalized_shape) != 1:
        return False
    (channels,) = module.normalized_shape
    if output.shape[1] != channels or output.shape[-1] != channels:
        return output.shape[1] == channels

    def sums(axis: int) -> float:
        shape = [-1 if axis == own else 1 for own in range(output.ndim)]
        scale = 1 if module.weight is None else module.weight.view(shape)
        return float(((output.detach() - module.bias.view(shape)) / scale).sum(axis).abs().nanmean())

    return sums(1) < sums(output.ndim - 1)


def _of(module: nn.Module) -> Tensor | None:
    if not isinstance(module, _BatchNorm) or module.running_mean is None or module.running_var is None:
        return module.bias  # type: ignore[return-value]
    shift = -module.running_mean / (module.running_var + module.eps).sqrt()
    return shift if module.weight is None else module.weight * shift + module.bias
