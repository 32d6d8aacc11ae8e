"""What results are called where several have the same name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from deepviz import catalog
from deepviz.methods.method import Method
from deepviz.options import having


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
        f"{name} {text}"
        for name, text in catalog.spelled_options(method).items()
        if name not in having(type(method), "layer")
    )
