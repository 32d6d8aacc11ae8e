"""What results are told apart by: a method with all of its options and the layer that it explained, in one line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from torch import Tensor, nn

from deepviz import catalog
from deepviz.methods.method import Method
from deepviz.options import digest, having


def method_key(method: Method, layer: str | None = None) -> str:
    """The method with all of its options, written out: equal for equal methods alone.

    Args:
        method: the method.
        layer: the layer that it explained; it stands for one that was found, or given as a module.

    Example:
        >>> from deepviz.methods import GradCAM
        >>> method_key(GradCAM(), "layer4")
        "grad-cam(layer='layer4', relu=True)"
        >>> method_key(GradCAM("layer4")) == method_key(GradCAM(), "layer4")
        True
    """
    places = having(type(method), "layer")
    given = ", ".join(
        f"{field.name}={_spelled(getattr(method, field.name), layer if field.name in places else None, layer)}"
        for field in fields(method)
        if field.init
    )
    return f"{_name(type(method))}({given})"


def _name(cls: type[Any]) -> str:
    stem = catalog.stem(cls)
    return stem if catalog.METHODS.get(stem) is cls else f"{cls.__module__}:{cls.__qualname__}"


def _spelled(value: Any, explained: str | None, layer: str | None) -> str:
    if isinstance(value, Method):
        return method_key(value, layer)
    if (value is None or isinstance(value, nn.Module)) and explained is not None:
        return repr(explained)
    if isinstance(value, nn.Module):
        return f"{type(value).__name__} {id(value)}"
    if isinstance(value, Tensor):
        return f"tensor {tuple(value.shape)} {value.dtype} {digest(value)}"
    if isinstance(value, (list, tuple)):
        return f"({', '.join(_spelled(one, None, layer) for one in value)})"
    return repr(value)


def captions(methods: Sequence[Method], layers: Sequence[str | None]) -> tuple[str, ...]:
    """A caption for each method that tells it from the others: its name, and where several have the same, the layer,
    the options in which they differ, or a number.

    Args:
        methods: the methods.
        layers: the layer that each explained; None if there is none.

    Example:
        >>> from deepviz.methods import GradCAM, Gradient
        >>> captions([Gradient(), GradCAM("1"), GradCAM("3")], [None, "1", "3"])
        ('Gradient', 'Grad-CAM, layer 1', 'Grad-CAM, layer 3')
    """
    names = [str(method) for method in methods]
    placed = [layer or _asked_layer(method) for method, layer in zip(methods, layers, strict=True)]
    names = _told_apart(names, [f"layer {layer}" if layer else "" for layer in placed])
    names = _told_apart(names, [_options(method) for method in methods])
    count = [names[:row].count(name) for row, name in enumerate(names)]
    return tuple(f"{name} ({n + 1})" if n else name for name, n in zip(names, count, strict=True))


def _told_apart(names: Sequence[str], more: Sequence[str]) -> list[str]:
    """The names, with more of what several of the same name do not share."""
    alike = {name: {more[row] for row, other in enumerate(names) if other == name} for name in names}
    return [
        f"{name}, {addition}" if addition and len(alike[name]) > 1 else name
        for name, addition in zip(names, more, strict=True)
    ]


def _asked_layer(method: Method) -> str | None:
    for layer in (getattr(method, name) for name in having(type(method), "layer")):
        if layer is not None:
            return layer if isinstance(layer, str) else type(layer).__name__
    inner = (getattr(method, field.name) for field in fields(method))
    return next((found for one in inner if isinstance(one, Method) and (found := _asked_layer(one))), None)


def _options(method: Method) -> str:
    return ", ".join(
        f"{field.name} {_spelled(getattr(method, field.name), None, None)}"
        for field in fields(method)
        if field.init and field.name not in having(type(method), "layer")
    )
