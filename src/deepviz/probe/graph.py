"""What a model's output is made of, as its graph tells."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from deepviz.probe.rules import leading_to, nodes_behind

_MOVES_NAMES = (
    "View UnsafeView Reshape ReshapeAlias Permute Transpose T Unsqueeze Squeeze Select Slice Split "
    "SplitWithSizes Chunk Unbind Expand Clone Copy ToCopy Alias AsStrided Cat Stack Upsample Sigmoid "
    "Softmax LogSoftmax LogSigmoid Contiguous Index IndexSelect Gather MaskedSelect Topk Sort"
)
_MOVES = frozenset(_MOVES_NAMES.split())
_SCALES = frozenset(("Neg", "Exp", "Log", "Sqrt", "Pow", "Clamp", "ClampMin"))
"""Operators that show a map in other units."""
_JOINS = frozenset(("Add", "Sub", "Mul", "Div"))
"""The same where the image has no part in their other operand; else the output is of two maps."""


def edges_of_output(values: Tensor, output: Any, image: Tensor) -> set[Any]:
    """Edges of the tensors that scores `values` read from the model's output, and of what they only show again.

    A view, a crop, an enlarged copy, the softmax, some entries or a multiple of a map is the map itself: its gradient
    there says nothing. So are the two maps of which the output is the sum or the product.
    """
    outputs = {_edge(tensor) for tensor in tensors_of(output) if tensor.grad_fn is not None}
    read: list[tuple[Any, int]] = []
    start = values.grad_fn
    pending, done = ([start] if start is not None else []), set()
    if start is not None and (start, 0) in outputs:
        read, pending = [(start, 0)], []
    while pending:
        node = pending.pop()
        if node in done:
            continue
        done.add(node)
        for edge in node.next_functions:
            if edge in outputs:
                read.append(edge)
            elif edge[0] is not None:
                pending.append(edge[0])
    from_image = leading_to(nodes_behind(start), [image])
    found: dict[Any, bool] = {}
    shown = [(edge, False) for edge in read]
    while shown:
        edge, joined = shown.pop()
        if edge in found and (joined or not found[edge]):
            continue
        found[edge] = joined
        assert edge[0] is not None
        below = [other for other in edge[0].next_functions if other[0] in from_image]
        name = edge[0].name().removeprefix("torch::autograd::").rstrip("0123456789").removesuffix("Backward")
        if name in _MOVES or name.startswith("Upsample") or (name in _SCALES | _JOINS and len(below) == 1):
            shown.extend((other, joined) for other in below)
        elif name in _JOINS and not joined:
            shown.extend((other, True) for other in below)
    return {torch.autograd.graph.GradientEdge(node, number) for node, number in found}


def _edge(tensor: Tensor) -> tuple[Any, int]:
    return tensor.grad_fn, tensor.output_nr


def tensors_of(value: Any, depth: int = 0) -> Iterator[Tensor]:
    """All tensors in whatever a model returns."""
    if isinstance(value, Tensor):
        yield value
    elif depth > 6:
        return
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from tensors_of(inner, depth + 1)
    elif isinstance(value, (tuple, list)):
        for inner in value:
            yield from tensors_of(inner, depth + 1)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for one in dataclasses.fields(value):
            yield from tensors_of(getattr(value, one.name), depth + 1)
    elif hasattr(value, "__dict__") and not isinstance(value, (type, nn.Module)):
        yield from tensors_of(vars(value), depth + 1)
