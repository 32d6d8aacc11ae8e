"""What is asked for: images, methods, metrics and targets, in all the forms that callers may give them."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from deepviz import catalog
from deepviz.errors import LayerError, TargetError
from deepviz.methods import Method
from deepviz.metrics import Metric
from deepviz.models import LoadedModel, Prepared

Model = LoadedModel | nn.Module | str | None
ImageLike = str | os.PathLike[str] | Image.Image | Tensor | Any
Images = ImageLike | Iterable[ImageLike]
Methods = Literal["all"] | str | Method | Iterable[Method | str]
Metrics = Metric | str | Iterable[Metric | str]
OneTarget = int | str | Callable[[Any], Tensor]
Targets = OneTarget | Tensor | Sequence[OneTarget | Tensor | None] | None
"""One for all images; an array or tensor (N,), one for each; a list or tuple of these, all of them for every image."""


@dataclass(frozen=True, eq=False)
class Item:
    """One image to work on, with what is asked of it.

    Args:
        image: the prepared image.
        targets: what to explain, each a class, a label, a callable, or None for the predicted class; None for the
            predicted classes alone.
        inside: where the object is, a bool mask (H, W) of the model's input, for the metrics of localisation.
    """

    image: Prepared
    targets: tuple[OneTarget | None, ...] | None = None
    inside: Tensor | None = None


def as_list(images: Images) -> list[ImageLike]:
    """One or many images as a list; a tensor or array with four axes is its rows.

    Raises:
        TypeError: for a set or mapping, which have no order.
        ValueError: if there is none.
    """
    if isinstance(images, (Tensor, np.ndarray)) and images.ndim == 4:
        return list(images)
    if isinstance(images, (Tensor, np.ndarray, str, os.PathLike, Image.Image)) or not isinstance(images, Iterable):
        return [images]
    found = _ordered(images, "images")
    if not found:
        raise ValueError("images is empty; give at least one")
    return found


def choose_methods(methods: Methods, layer: str | None = None) -> list[Method]:
    """The methods asked for, as values; `layer` goes to those that take one, also inside others.

    Raises:
        MethodError: for a name that does not exist, with the nearest ones.
        LayerError: if no method takes the layer.
        TypeError: for a class instead of a value, or a set.
        ValueError: if there is none.
    """
    asked = catalog.default_set() if is_all(methods) else methods
    several = [_method(one) for one in (_ordered(asked, "methods") if _is_many(asked) else [asked])]
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


def _method(method: Any) -> Method:
    if isinstance(method, str):
        return catalog.parse(method, Method)  # type: ignore[no-any-return]
    if isinstance(method, Method):
        return method
    if isinstance(method, type) and issubclass(method, Method):
        raise TypeError(f"methods takes values, got the class {method.__name__}; did you mean {method.__name__}()?")
    raise TypeError(f"methods must be 'all', a Method, a name or a list of these, got {method!r}")


def choose_metrics(metrics: Metrics) -> list[Metric]:
    """The metrics asked for, as values.

    Raises:
        MethodError: for a name that does not exist, with the nearest ones.
        TypeError: for a class instead of a value, or a set.
        ValueError: if there is none.
    """
    several = [_metric(one) for one in (_ordered(metrics, "metrics") if _is_many(metrics) else [metrics])]
    if not several:
        raise ValueError("metrics is an empty list; give at least one, such as 'deletion'")
    return several


def _metric(metric: Any) -> Metric:
    if isinstance(metric, str):
        return catalog.parse(metric, Metric)  # type: ignore[no-any-return]
    if isinstance(metric, Metric):
        return metric
    if isinstance(metric, type) and issubclass(metric, Metric):
        raise TypeError(f"metrics takes values, got the class {metric.__name__}; did you mean {metric.__name__}()?")
    raise TypeError(f"metrics must be a Metric, a name or a list of these, got {metric!r}")


def _is_many(asked: Any) -> TypeGuard[Iterable[Any]]:
    return isinstance(asked, Iterable) and not isinstance(asked, (str, type))


def _ordered(several: Iterable[Any], what: str) -> list[Any]:
    if isinstance(several, (Set, Mapping)):
        raise TypeError(f"{what} must have an order: give a list, not a {type(several).__name__}")
    return list(several)


def each_target(target: Targets, n: int) -> list[tuple[OneTarget | None, ...] | None]:
    """The targets of each of `n` images.

    Raises:
        TargetError: for what is no target, or as many as there are images where it is one for each.
    """
    if target is None:
        return [None] * n
    several = _several(target)
    if not several:
        raise TargetError("target is an empty list; give at least one class, or None for the predicted one")
    columns = [_column(one, n) for one in several]
    return [tuple(column[row] for column in columns) for row in range(n)]


def _several(target: Any) -> list[Any]:
    """The targets of a list or tuple; any other is one."""
    if isinstance(target, (Set, Mapping)):
        raise TargetError(f"target must have an order: give a list, not a {type(target).__name__}")
    if isinstance(target, (list, tuple, range)):
        return list(target)
    return [target]


def _column(target: Any, n: int) -> Sequence[OneTarget | None]:
    """One target for each of `n` images."""
    if target is None or isinstance(target, str):
        return [target] * n
    if isinstance(target, (np.ndarray, np.generic)):
        target = torch.from_numpy(np.asarray(target))
    if isinstance(target, Tensor):
        return _indices(target, n)
    if callable(target):
        return [target] * n
    try:
        if isinstance(target, bool):
            raise TypeError
        return [operator.index(target)] * n
    except TypeError:
        raise TargetError(
            f"a target is a class index, a label, a tensor (N,), a callable or a list of these, got {target!r}"
        ) from None


def _indices(target: Tensor, n: int) -> list[OneTarget | None]:
    if target.ndim > 1 or target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
        kind = f"{tuple(target.shape)} of {str(target.dtype).removeprefix('torch.')}"
        raise TargetError(f"a tensor target holds one class index per image, (N,) whole numbers, got {kind}")
    if target.ndim == 0:
        return [int(target)] * n
    if len(target) != n:
        raise TargetError(f"a tensor target holds one class per image: {len(target)} classes for {n} images")
    return [int(one) for one in target]
