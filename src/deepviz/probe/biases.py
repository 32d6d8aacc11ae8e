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
        mapped = isinstance(module, (_ConvNd, _BatchNorm, nn.GroupNorm)) and output.ndim > 2
        after = output.ndim - 2 if mapped else 0
        edge = torch.autograd.graph.get_gradient_edge(output)
        found.append(Bias(bias.detach().reshape(*bias.shape, *[1] * after), edge, mapped))

    handles = [module.register_forward_hook(hook) for module in model.modules() if isinstance(module, AFFINE)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _of(module: nn.Module) -> Tensor | None:
    if not isinstance(module, _BatchNorm) or module.running_mean is None or module.running_var is None:
        return module.bias  # type: ignore[return-value]
    shift = -module.running_mean / (module.running_var + module.eps).sqrt()
    return shift if module.weight is None else module.weight * shift + module.bias
