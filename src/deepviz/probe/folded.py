"""A model's copy, in which batch normalisations are folded into the layers before them."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from deepviz.probe.attributes import holds_hooks
from deepviz.probe.folds import Fold, goes_on


class Folded(nn.Identity):
    """Where a batch normalisation was: what arrives is normalised already."""


class FoldedAct(nn.Module):
    """The same of a module that goes on with dropout and an activation."""

    def __init__(self, drop: nn.Module, act: nn.Module) -> None:
        super().__init__()
        self.drop, self.act = drop, act

    def forward(self, x: Tensor) -> Any:
        """The activation."""
        return self.act(self.drop(x))


def shadow(module: nn.Module, pairs: dict[nn.Module, nn.Module]) -> nn.Module:
    """A module with the same attributes, tensors in the same memory, and modules of its own below it."""
    if module in pairs:
        return pairs[module]
    new: nn.Module = object.__new__(type(module))
    pairs[module] = new
    new.__dict__.update(module.__dict__)
    new.__dict__.pop("forward", None)  # that of another thread's call
    hooks: dict[str, Any] = {key: OrderedDict() for key, value in module.__dict__.items() if holds_hooks(key, value)}
    new.__dict__.update(hooks)
    new.__dict__["training"] = False
    new.__dict__["_parameters"] = {
        name: None if one is None else fixed(one.detach()) for name, one in module._parameters.items()
    }
    new.__dict__["_buffers"] = dict(module._buffers)
    new.__dict__["_modules"] = {
        name: None if child is None else shadow(child, pairs) for name, child in module._modules.items()
    }
    return new


def fixed(tensor: Tensor) -> nn.Parameter:
    """A parameter that nothing learns, in the same memory."""
    return nn.Parameter(tensor, requires_grad=False)


@torch.no_grad()
def fold(fold: Fold, pairs: dict[nn.Module, nn.Module]) -> None:
    """Give the copy's layer the weights that make its normalisation superfluous."""
    layer, norm = fold.layer, fold.norm
    weight, bias = layer._parameters["weight"], layer._parameters["bias"]
    assert weight is not None
    assert norm.running_mean is not None
    assert norm.running_var is not None
    mean = norm.running_mean.double()
    b = torch.zeros_like(mean) if bias is None else bias.double()
    s = 1 / (norm.running_var.double() + fold.eps).sqrt()
    s = s if norm.weight is None else s * norm.weight.double()
    beta = torch.zeros_like(mean) if norm.bias is None else norm.bias.double()
    b = s * (b - mean) + beta  # s (W x + b - mean) + beta = (s W) x + (s (b - mean) + beta)
    if isinstance(layer, _ConvNd) and layer.transposed:  # (groups * inputs, outputs, ...)
        s = s.view(layer.groups, 1, -1).expand(-1, weight.shape[0] // layer.groups, -1).flatten(0, 1)
        W = weight * s.view(*s.shape, *[1] * (weight.ndim - 2))
    else:
        W = weight * s.view(-1, *[1] * (weight.ndim - 1))  # in double precision, as s is
    layout = torch.channels_last if isinstance(layer, nn.Conv2d) else torch.contiguous_format
    parameters = pairs[layer]._parameters
    parameters["weight"] = fixed(W.to(weight.dtype, memory_format=layout))
    parameters["bias"] = fixed(b.to(weight.dtype))


def rest(norm: nn.Module) -> nn.Module:
    """What is left of a copy's normalisation."""
    rest = FoldedAct(*(norm._modules[name] for name in ("drop", "act"))) if goes_on(norm) else Folded()  # type: ignore[arg-type]
    rest.training = False
    return rest
