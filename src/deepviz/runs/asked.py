"""What is asked for: images, methods, metrics and targets, in all the forms that callers may give them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeGuard, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from deepviz import catalog
from deepviz.diagnostics import warn
from deepviz.errors import LayerError
from deepviz.inputs import Inputs, is_image_like
from deepviz.methods import Method
from deepviz.metrics import Metric
from deepviz.models import LoadedModel, Prepared
from deepviz.models.images import Reads, find_images
from deepviz.models.leaves import prepared_leaves
from deepviz.objectives import Objective, Target, bind

V = TypeVar("V", Method, Metric)
Model = LoadedModel | nn.Module | Callable[..., Any] | str | None
ImageLike = str | os.PathLike[str] | Image.Image | Tensor | Inputs | Any
Images = ImageLike | Iterable[ImageLike]
Methods = Literal["all"] | str | Method | Iterable[Method | str]
Metrics = Metric | str | Iterable[Metric | str]
VOLUMES: tuple[Reads, ...] = ("volumes", "videos")
"""What has three spatial axes."""
EMPTY = "images is empty; give at least one"
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
    items = list(_prepared(loaded, images, extra))
    if not items:
        raise ValueError(EMPTY)
    n = len(items)
    if extra is not None:
        along = Inputs(torch.zeros(n, 1), extra)  # checks what goes along, and holds its rows
        items = [replace(item, inputs=along, input_row=row) for row, item in enumerate(items)]
    targets = targets_of(target, n, loaded.labels)
    return [replace(item, targets=targets, row=row) for row, item in enumerate(items)]


def each_item(loaded: LoadedModel, images: Images, target: Targets = None, extra: Any = None) -> Iterator[Item]:
    """`items_of`, one at a time: the next image is read once it is asked for.

    All are read first if there is `extra`, or a target for each image: how many there are is checked.
    """
    if extra is not None or _is_for_each(target):
        yield from items_of(loaded, images, target, extra)
        return
    targets = targets_of(target, 1, loaded.labels)
    row = -1
    for row, item in enumerate(_prepared(loaded, images)):
        yield replace(item, targets=targets, row=row)
    if row < 0:
        raise ValueError(EMPTY)


def _is_for_each(target: Any) -> bool:
    """Whether a target holds a value for each image."""
    if isinstance(target, (list, tuple)):
        return any(map(_is_for_each, target))
    if isinstance(target, Objective):
        return target.rows is not None
    return getattr(target, "ndim", 0) > 0


def _prepared(loaded: LoadedModel, images: Images, extra: Any = None) -> Iterator[Item]:
    """The images one by one, as inputs of the model."""
    for image in each_image(images, loaded.reads):
        if isinstance(image, Inputs):
            if extra is not None:
                raise TypeError("images are Inputs, which hold their own extra: give extra= there")
            leaves = prepared_leaves(loaded, image)
            yield from (Item(_main(of), inputs=image, input_row=row, leaves=of) for row, of in enumerate(leaves))
        elif isinstance(image, Tensor) and _is_no_image(image, loaded.reads):
            # a signal, volumes, one volume of a list
            inputs = Inputs(image if image.ndim == 5 else image[None])
            yield from (Item(leaf) for (leaf,) in prepared_leaves(loaded, inputs))
        else:
            yield Item(loaded.prepare(image))


def _is_no_image(x: Tensor, reads: Reads) -> bool:
    """Whether a tensor is a signal, or volumes without a preprocessing that takes them."""
    if reads in VOLUMES:
        return x.ndim == 2 or (x.ndim == 5 and len(x) > 1)
    return x.ndim in (2, 5) or (x.ndim == 4 and len(x) > 1)


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


def each_image(images: Images, reads: Reads = "images") -> Iterator[ImageLike]:
    """One or many images, one at a time.

    A tensor or array with four axes is its rows, or with five where volumes or clips are read; a folder is the images
    in it and in its sub-folders, a `DataLoader` the rows of its batches. Of pairs (image, label), as datasets have
    them, it is the image.

    Raises:
        TypeError: for a set or mapping, which have no order.
    """
    if isinstance(images, (Tensor, np.ndarray)) and images.ndim == (5 if reads in VOLUMES else 4):
        yield from images
    elif isinstance(images, (str, os.PathLike)):
        yield from _files(images, reads)
    elif isinstance(images, DataLoader) and not (images.batch_size is None and images.batch_sampler is None):
        for batch in images:
            yield from _rows(without_label(batch))
    elif isinstance(images, Dataset) and not isinstance(images, Iterable):
        for index in range(len(images)):  # type: ignore[arg-type]
            yield from _one(images[index], reads)
    elif isinstance(images, (Tensor, np.ndarray, Image.Image, Inputs)) or not isinstance(images, Iterable):
        yield images
    else:
        _check_ordered(images, "images")
        for image in images:
            yield from _one(image, reads)


def _one(given: Any, reads: Reads) -> Iterator[ImageLike]:
    """One of several images: itself, a folder's, or that of a pair with its label; or with the labels of a batch."""
    image = without_label(given)
    if image is not given and isinstance(given[1], (Tensor, np.ndarray, list, tuple)) and np.ndim(given[1]) == 1:
        yield from _rows(image)
    elif isinstance(image, (str, os.PathLike)):
        yield from _files(image, reads)
    else:
        yield image


def without_label(given: Any) -> Any:
    """The image of a pair (image, label), as data sets have them; anything else as it is."""
    if not isinstance(given, (tuple, list)) or len(given) != 2:
        return given
    label = given[1]
    whole = getattr(label, "dtype", None) is not None and not (
        label.is_floating_point() if isinstance(label, Tensor) else label.dtype.kind == "f"
    )
    several = isinstance(label, (list, tuple)) and all(isinstance(one, (int, str)) for one in label)
    return given[0] if isinstance(label, (int, str)) or whole or several else given


def _rows(batch: Any) -> Iterator[ImageLike]:
    """The images of a batch.

    Raises:
        TypeError: for what is not one tensor, or a list of images.
    """
    if not isinstance(batch, (Tensor, np.ndarray, list)) or (
        isinstance(batch, list) and any(isinstance(one, Tensor) and one.ndim > 3 for one in batch)
    ):
        held = f" with {', '.join(map(repr, batch))}" if isinstance(batch, Mapping) else ""
        raise TypeError(
            f"a batch must be a tensor (N, C, H, W), or that with its labels, got a {type(batch).__name__}{held}: "
            "give a generator of tensors, or of deepviz.Inputs"
        )
    yield from batch


def _files(path: str | os.PathLike[str], reads: Reads) -> Iterator[ImageLike]:
    if not os.path.isdir(path):
        yield path
        return
    found = find_images(path, reads)
    for text in filter(None, [found.skipped_in_words, *found.unreadable.values()]):
        warn(text)
    yield from found.paths


def choose_methods(methods: Methods, layer: str | nn.Module | None = None) -> list[Method]:
    """The methods asked for, as values; `layer` goes to those that take one, also inside others.

    Raises:
        MethodError: for a name that does not exist, with the nearest ones.
        LayerError: if no method takes the layer.
        TypeError: for a class instead of a value, or a set.
        ValueError: if there is none.
    """
    asked = (catalog.members(methods) if isinstance(methods, str) else None) or methods
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


def of_function(chosen: list[Method], methods: Methods, loaded: LoadedModel) -> list[Method]:
    """The chosen methods; of a model that is a plain function, "all" means those that need forward passes alone."""
    if isinstance(methods, str) and methods == "all" and loaded.is_black_box:
        return [catalog.method(name) for name in catalog.default_set(black_box=True)]
    return chosen


def is_all(methods: Methods) -> bool:
    """Whether all methods, or all of a family, are asked for: those that do not apply are then left out."""
    return isinstance(methods, str) and catalog.members(methods) is not None


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
    _check_ordered(several, what)
    return list(several)


def _check_ordered(several: Iterable[Any], what: str) -> None:
    if isinstance(several, (Set, Mapping)):
        raise TypeError(f"{what} must have an order: give a list, not a {type(several).__name__}")
