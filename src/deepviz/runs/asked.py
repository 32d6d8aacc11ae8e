"""What is asked for: images, methods, metrics and targets, in all the forms that callers may give them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeGuard, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from deepviz import catalog
from deepviz.errors import LayerError
from deepviz.inputs import Inputs, is_image_like
from deepviz.methods import Method
from deepviz.metrics import Metric
from deepviz.models import LoadedModel, Prepared
from deepviz.models.leaves import prepared_leaves
from deepviz.objectives import Objective, Target, bind

V = TypeVar("V", Method, Metric)
Model = LoadedModel | nn.Module | str | None
ImageLike = str | os.PathLike[str] | Image.Image | Tensor | Inputs | Any
Images = ImageLike | Iterable[ImageLike]
Methods = Literal["all"] | str | Method | Iterable[Method | str]
Metrics = Metric | str | Iterable[Metric | str]
Targets = Target
"""One for all images; an array or tensor (N,), one for each; a list or tuple of these, all of them for every image."""


@dataclass(frozen=True, eq=False)
class Item:
    """One image to work on, with what is asked of it.

    Args:
        image: the prepared image; of several explained inputs the image-like one, or the first.
        targets: what to explain, for all rows that it is for; None: the predicted classes.
        row: which of these rows this image is, for what holds a value for each.
        inside: where the object is, a bool mask (H, W) of the model's input, for the metrics of localisation.
        inputs: a batch with what the model takes of this image: all of it if there are `leaves`, else its `extra`.
        input_row: which row of `inputs` that is.
        leaves: the explained tensors of this row, if they are given by `inputs`.
    """

    image: Prepared
    targets: tuple[Objective, ...] | None = None
    row: int = 0
    inside: Tensor | None = None
    inputs: Inputs | None = None
    input_row: int = 0
    leaves: tuple[Prepared, ...] = ()

    @property
    def parts(self) -> tuple[Prepared, ...]:
        """The explained tensors."""
        return self.leaves or (self.image,)


def items_of(loaded: LoadedModel, images: Images, target: Targets = None, extra: Any = None) -> list[Item]:
    """The images with their targets and what goes along with them.

    Args:
        loaded: the model.
        images: as `explain` takes them.
        target: as `explain` takes it.
        extra: what the model takes beside the images; its tensors have one row for each.

    Raises:
        ImageError, TargetError: for what is none, or not one for each image.
        TypeError, ValueError: for `extra` that does not go with the images.
    """
    items: list[Item] = []
    for image in as_list(images):
        if isinstance(image, Inputs):
            if extra is not None:
                raise TypeError("images are Inputs, which hold their own extra: give extra= there")
            leaves = prepared_leaves(loaded, image)
            items += [Item(_main(of), inputs=image, input_row=row, leaves=of) for row, of in enumerate(leaves)]
        elif isinstance(image, Tensor) and (image.ndim in (2, 5) or (image.ndim == 4 and len(image) > 1)):
            # a signal, volumes, one volume of a list
            inputs = Inputs(image if image.ndim == 5 else image[None])
            items += [Item(leaf) for (leaf,) in prepared_leaves(loaded, inputs)]
        else:
            items.append(Item(loaded.prepare(image)))
    n = len(items)
    if extra is not None:
        along = Inputs(torch.zeros(n, 1), extra)  # checks what goes along, and holds its rows
        items = [replace(item, inputs=along, input_row=row) for row, item in enumerate(items)]
    targets = targets_of(target, n, loaded.labels)
    return [replace(item, targets=targets, row=row) for row, item in enumerate(items)]


def _main(leaves: Sequence[Prepared]) -> Prepared:
    """The explained tensor that stands for an item: the only one that is image-like, or the first."""
    images = [leaf for leaf in leaves if is_image_like(leaf.x[None])]
    return images[0] if len(images) == 1 else leaves[0]


def targets_of(target: Targets, n: int, labels: Sequence[str] | None = None) -> tuple[Objective, ...] | None:
    """What to explain of `n` images; None for the predicted classes.

    Raises:
        TargetError: for what is no target, or for another number of images.
    """
    return None if target is None else bind(target, n, labels).objectives


def as_list(images: Images) -> list[ImageLike]:
    """One or many images as a list; a tensor or array with four axes is its rows.

    Raises:
        TypeError: for a set or mapping, which have no order.
        ValueError: if there is none.
    """
    if isinstance(images, (Tensor, np.ndarray)) and images.ndim == 4:
        return list(images)
    if isinstance(images, (Tensor, np.ndarray, str, os.PathLike, Image.Image, Inputs)) or not isinstance(
        images, Iterable
    ):
        return [images]
    found = _ordered(images, "images")
    if not found:
        raise ValueError("images is empty; give at least one")
    return found


def choose_methods(methods: Methods, layer: str | nn.Module | None = None) -> list[Method]:
    """The methods asked for, as values; `layer` goes to those that take one, also inside others.

    Raises:
        MethodError: for a name that does not exist, with the nearest ones.
        LayerError: if no method takes the layer.
        TypeError: for a class instead of a value, or a set.
        ValueError: if there is none.
    """
    asked = catalog.default_set() if is_all(methods) else methods
    several = [
        _value(one, Method, "methods", also="'all', ")  # type: ignore[type-abstract]
        for one in (_ordered(asked, "methods") if _is_many(asked) else [asked])
    ]
    if not several:
        raise ValueError("methods is empty; give at least one, such as 'gradient', or 'all'")
    if layer is None:
        return several
    placed = [method.with_layer(layer) for method in several]
    if all(one is before for one, before in zip(placed, several, strict=True)):
        named = ", ".join(method.name for method in several)
        raise LayerError(f"layer={layer!r} is for methods that take one and do not name it themselves, not for {named}")
    return placed


def is_all(methods: Methods) -> bool:
    """Whether all methods are asked for: those that do not apply are then left out."""
    return isinstance(methods, str) and methods == "all"


def choose_metrics(metrics: Metrics) -> list[Metric]:
    """The metrics asked for, as values.

    Raises:
        MethodError: for a name that does not exist, with the nearest ones.
        TypeError: for a class instead of a value, or a set.
        ValueError: if there is none.
    """
    several = [
        _value(one, Metric, "metrics")  # type: ignore[type-abstract]
        for one in (_ordered(metrics, "metrics") if _is_many(metrics) else [metrics])
    ]
    if not several:
        raise ValueError("metrics is an empty list; give at least one, such as 'deletion'")
    return several


def _value(given: Any, kind: type[V], name: str, also: str = "") -> V:
    """A method or metric, from itself or its spelling; `name` is the argument that it was given as."""
    if isinstance(given, str):
        return catalog.parse(given, kind)  # type: ignore[no-any-return]
    if isinstance(given, kind):
        return given
    if isinstance(given, type) and issubclass(given, kind):
        raise TypeError(f"{name} takes instances, got the class {given.__name__}; did you mean {given.__name__}()?")
    raise TypeError(f"{name} must be {also}a {kind.__name__}, a name or a list of these, got {given!r}")


def _is_many(asked: Any) -> TypeGuard[Iterable[Any]]:
    return isinstance(asked, Iterable) and not isinstance(asked, (str, type))


def _ordered(several: Iterable[Any], what: str) -> list[Any]:
    if isinstance(several, (Set, Mapping)):
        raise TypeError(f"{what} must have an order: give a list, not a {type(several).__name__}")
    return list(several)
