"""What results are called where several have the same name, and which belong to the same row of a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from deepviz import catalog
from deepviz.methods.method import Method
from deepviz.options import having
from deepviz.probe.layer_names import named
from deepviz.results.explanation import Explanation

Titles = Mapping[str, str]
"""By the names of layers their titles, where these say more."""
NO_TITLES: Titles = MappingProxyType({})


def captions(methods: Sequence[Method], layers: Sequence[str | None], titles: Titles = NO_TITLES) -> tuple[str, ...]:
    """A caption for each method that tells it from the others: its name, and where several have the same, the layer,
    the options in which they differ, or a number.

    Args:
        methods: the methods.
        layers: the layer that each explained; None if there is none.
        titles: of layers.

    Example:
        >>> from deepviz.methods import GradCAM, Gradient
        >>> captions([Gradient(), GradCAM("1"), GradCAM("3")], [None, "1", "3"])
        ('Gradient', 'Grad-CAM, layer 1', 'Grad-CAM, layer 3')
    """
    names = [str(method) for method in methods]
    placed = [layer or _asked_layer(method) for method, layer in zip(methods, layers, strict=True)]
    names = _told_apart(names, [f"layer {named(layer, titles.get(layer))}" if layer else "" for layer in placed])
    names = _told_apart(names, [_options(method) for method in methods])
    count = [names[:row].count(name) for row, name in enumerate(names)]
    return tuple(f"{name} ({n + 1})" if n else name for name, n in zip(names, count, strict=True))


Layers = tuple[str | None, ...]
"""For each method the layer that it explained; None where there is none. Empty for no layers at all."""


def titles_of(explanations: Iterable[Explanation]) -> dict[str, str]:
    """The titles of the layers that were explained."""
    return {
        one.layer: one.layer_title
        for one in explanations
        if one.layer is not None and one.layer_title is not None and one.layer_title != one.layer
    }


def joined_titles(titles: Iterable[Titles]) -> Titles:
    """Those of several images."""
    return {layer: title for one in titles for layer, title in one.items()}


def other_layer(explained: str | None, layer: str | None, titles: Titles) -> str:
    """Why a value is left out whose method explained another layer than its row is about."""
    these = [named(one, titles.get(one)) for one in (explained, layer) if one is not None]
    return f"it explained layer {', not '.join(these)}"


def row_layers(found: Sequence[Layers], rows: int) -> Layers:
    """The layer that each row is about: the one of the most images, the first of several; None if there is none.

    A layer that a method finds by itself depends on the size of the image.

    Args:
        found: for each image the layers.
        rows: how many rows there are.

    Example:
        >>> row_layers([("a", None), ("b", None), ("b", None)], 2)
        ('b', None)
    """
    counts = [Counter(layers[row] for layers in found if layers and layers[row]) for row in range(rows)]
    return tuple(max(count, key=lambda layer: count[layer], default=None) for count in counts)


def of_other_layers(found: Sequence[Layers], layers: Layers) -> NDArray[np.bool_]:
    """(images, rows): where a method explained another layer than its row is about."""
    return np.array(
        [
            [bool(of_image) and of_image[row] not in (None, layer) for row, layer in enumerate(layers)]
            for of_image in found
        ],
        dtype=bool,
    ).reshape(len(found), len(layers))


def layers_that_differ(
    names: Sequence[str], found: Sequence[Layers], layers: Layers, titles: Titles = NO_TITLES
) -> tuple[str, ...]:
    """A sentence for each row of which images are left out, since another layer was explained there."""
    sentences = []
    for row, (name, layer) in enumerate(zip(names, layers, strict=True)):
        others = dict.fromkeys(of[row] for of in found if of and of[row] not in (None, layer))
        if layer and others:
            listed = ", ".join(named(other, titles.get(other)) for other in others if other)
            sentences.append(
                f"{name} is about layer {named(layer, titles.get(layer))}: images in which it found another ({listed}) "
                "are left out; layer= names one for all."
            )
    return tuple(sentences)


def _told_apart(names: Sequence[str], more: Sequence[str]) -> list[str]:
    """The names, with more of what several of the same name do not share."""
    alike = {name: {more[row] for row, other in enumerate(names) if other == name} for name in names}
    return [
        f"{name}, {addition}" if addition and len(alike[name]) > 1 else name
        for name, addition in zip(names, more, strict=True)
    ]


def _asked_layer(method: Method) -> str | None:
    for layers in (getattr(method, name) for role in ("layers", "layer") for name in having(type(method), role)):
        if layers is not None:
            several = layers if isinstance(layers, tuple) else (layers,)
            return ", ".join(layer if isinstance(layer, str) else type(layer).__name__ for layer in several)
    inner = (getattr(method, field.name) for field in fields(method))
    return next((found for one in inner if isinstance(one, Method) and (found := _asked_layer(one))), None)


def _options(method: Method) -> str:
    return ", ".join(
        f"{name} {text}"
        for name, text in catalog.spelled_options(method).items()
        if name not in (*having(type(method), "layer"), *having(type(method), "layers"))
    )
