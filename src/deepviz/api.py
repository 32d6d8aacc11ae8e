"""One line for a right picture: `explain`, the `viz_*` functions, and what writes their results."""

from __future__ import annotations

import inspect
import operator
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from PIL import Image
from torch import Tensor, nn

from deepviz import catalog
from deepviz.errors import DeepVizWarning, LayerError, ModelError, NothingOverridden, TargetError
from deepviz.explanation import ExplainedTarget, Explanation, versions, write_picture
from deepviz.methods import (
    Deconvolution,
    GradCAM,
    Gradient,
    GradTimesImage,
    GuidedBackprop,
    GuidedGradCAM,
    IntegratedGradients,
    Method,
    SmoothGrad,
)
from deepviz.methods.integrated_gradients import Baseline
from deepviz.methods.quadrature import QuadratureRule
from deepviz.methods.smooth_grad import Statistic
from deepviz.models import LoadedModel, Prepared, Preprocess, load_model
from deepviz.notes import Notes
from deepviz.probe.borrow import borrowed, original
from deepviz.probe.gradient import Call, fresh_leaf
from deepviz.target import are_probabilities, class_scores, ends_in_sigmoid

Model = LoadedModel | nn.Module | str | None
ImageLike = str | os.PathLike[str] | Image.Image | Tensor | Any
Images = ImageLike | Sequence[ImageLike]
OneTarget = int | str | Callable[[Any], Tensor]
Targets = OneTarget | Tensor | Sequence[OneTarget] | None
Methods = Literal["all"] | str | Method | Sequence[Method | str]
Step = Callable[[Method, int], None]
"""Takes the method that is next, and the images times methods that are done of the images under way."""

ROWS = 8
UNSEEN = (128, 128, 128)
"""The picture under a map whose input has neither one nor three channels."""


def explain(
    model: Model,
    images: Images,
    methods: Methods = "all",
    *,
    target: Targets = None,
    top_k: int = 1,
    layer: str | None = None,
    preprocess: Any = None,
) -> list[Explanation]:
    """What the methods say about the model's predictions for the images.

    Args:
        model: an `nn.Module`, a `LoadedModel`, a name ("timm:resnet50"), or None for the bundled model.
        images: a path, PIL image, array (H, W, 3) or tensor (C, H, W), or a list of them; a tensor (N, C, H, W) is
            N images. Tensors are taken as already preprocessed.
        methods: "all", a method, its name ("grad-cam"), or a list of these. Of "all", methods that do not apply to
            the model are left out with a warning.
        target: a class index, a label ("tiger cat"), a tensor (N,) of indices, one per image, a callable from the
            model's raw output to one score per row, or a list: all of them for every image. None: the predicted.
        top_k: with target None, the number of best classes to explain; they share their forward passes.
        layer: for methods that take one and do not name it themselves.
        preprocess: `deepviz.Preprocess(...)`, a torchvision or timm transform, or any callable from a PIL image to
            a tensor, if the model has none of its own.

    Returns:
        A flat list, by image, then class (best first), then method.

    Raises:
        ImageError, ModelError, TargetError, LayerError, NothingOverridden: naming what is wrong and what to do.

    Example:
        >>> import deepviz, torch
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 5))
        >>> [e.title for e in deepviz.explain(net, torch.rand(3, 8, 8), ["gradient", "grad-times-image"])]
        ['Gradient', 'Gradient × image']
    """
    if isinstance(images, (nn.Module, LoadedModel)):
        raise TypeError("model and image are swapped: the order is (model, image)")
    loaded = load_model(model, preprocess=preprocess)
    chosen = choose_methods(methods, layer)
    queue = [loaded.prepare(image) for image in as_list(images)]
    return [
        explanation
        for answer in explain_prepared(loaded, queue, chosen, target=target, top_k=top_k, lenient=methods == "all")
        for explanation in answer.explanations
    ]


@dataclass(frozen=True)
class Answer:
    """What the model said about one image, and its explanations.

    Args:
        image: the prepared image.
        predictions: (label, probability), the five best first; empty if the model returns no class scores.
        explanations: by class, then method.
        left_out: methods that do not apply to this model, with the reason.
    """

    image: Prepared
    predictions: tuple[tuple[str, float], ...]
    explanations: list[Explanation]
    left_out: dict[str, str]


def explain_prepared(
    loaded: LoadedModel,
    images: Iterable[Prepared],
    methods: Sequence[Method],
    *,
    target: Targets = None,
    top_k: int = 1,
    lenient: bool = False,
    step: Step | None = None,
) -> Iterator[Answer]:
    """`explain` for images that are already prepared, one answer at a time.

    Images of equal size go through the model together. `step` is called before each method, for progress; `lenient`
    leaves out methods that do not apply.
    """
    start = 0
    for batch in _batches(images):
        x = torch.stack([image.x for image in batch]).to(*_home(loaded.module))
        yield from _explain_batch(loaded, batch, x, methods, _rows_of(target, start, len(x)), top_k, lenient, step)
        start += len(batch)
    for one in target if isinstance(target, (list, tuple)) else [target]:
        if isinstance(one, Tensor) and one.ndim > 0 and len(one) != start:
            raise TargetError(f"a tensor target holds one class per image: {len(one)} classes for {start} images")


def _batches(images: Iterable[Prepared]) -> Iterator[list[Prepared]]:
    batch: list[Prepared] = []
    for image in images:
        if batch and (image.x.shape != batch[0].x.shape or len(batch) == ROWS):
            yield batch
            batch = []
        batch.append(image)
    if batch:
        yield batch


def _rows_of(target: Targets, start: int, n: int) -> Targets:
    """The part of the targets that is of the `n` images from `start` on."""
    if isinstance(target, (list, tuple)):
        return [_rows_of(one, start, n) for one in target]  # type: ignore[misc]
    return target[start : start + n] if isinstance(target, Tensor) and target.ndim > 0 else target


def _home(module: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Where the model's parameters are, and their floating type."""
    first = next((p for p in module.parameters() if p.is_floating_point()), None)
    return (torch.device("cpu"), torch.float32) if first is None else (first.device, first.dtype)


def _explain_batch(
    loaded: LoadedModel,
    batch: list[Prepared],
    x: Tensor,
    methods: Sequence[Method],
    target: Targets,
    top_k: int,
    lenient: bool,
    step: Step | None,
) -> Iterator[Answer]:
    scores = _scores(loaded.module, x, needed=not _all_callable(target))
    columns = _columns(loaded, scores, target, top_k, len(x))
    found: list[list[list[Explanation]]] = [[[] for _ in columns] for _ in batch]
    left_out: dict[str, str] = {}
    for position, method in enumerate(methods):
        if step is not None:
            step(method, position * len(batch))
        try:
            for k, maps in _attribute(loaded, method, x, columns):
                for row, image in enumerate(batch):
                    found[row][k].append(_explanation(loaded, image, method, scores, columns[k], row, maps))
        except (NothingOverridden, LayerError) as error:
            if not lenient:
                raise
            left_out[str(method)] = str(error)
    for title, reason in left_out.items():
        warnings.warn(f"{title} is left out: {reason}", DeepVizWarning, stacklevel=4)
    for row, image in enumerate(batch):
        explanations = [explanation for of_class in found[row] for explanation in of_class]
        yield Answer(image, _best(loaded, scores, row), explanations, left_out)


@dataclass(frozen=True)
class _Maps:
    """One method's maps for one column of targets: (N, C, H, W), with the notes and where to find a row's in them."""

    maps: Tensor
    notes: Notes
    column: int | None

    def told(self, row: int) -> dict[str, Any]:
        return self.notes.of(row if self.column is None else (row, self.column))


def _attribute(
    loaded: LoadedModel, method: Method, x: Tensor, columns: list[Tensor | Callable[[Any], Tensor]]
) -> Iterator[tuple[int, _Maps]]:
    """The method's maps for each column of targets; all columns of classes share their forward passes."""
    ready = method.in_colours(lambda name: _colour(loaded, name))
    classes = [k for k, column in enumerate(columns) if isinstance(column, Tensor)]
    if classes:
        indices = torch.stack([column for column in columns if isinstance(column, Tensor)], 1)
        # one class a row needs no axis of its own
        result = ready.attribute(loaded.module, x, indices[:, 0] if len(classes) == 1 else indices)
        for position, k in enumerate(classes):
            alone = len(classes) == 1
            maps = result.maps if alone else result.maps[:, position]
            yield k, _Maps(maps, result.notes, None if alone else position)
    for k, column in enumerate(columns):
        if not isinstance(column, Tensor):
            result = ready.attribute(loaded.module, x, column)
            yield k, _Maps(result.maps, result.notes, None)


def _colour(loaded: LoadedModel, name: str) -> Tensor:
    """A colour by name in the model's normalised space, (C, 1, 1)."""
    if not isinstance(loaded.preprocess, Preprocess):
        raise ModelError(
            f"the baseline {name!r} is a colour, and the preprocessing of {loaded.name} is unknown: "
            "give preprocess=deepviz.Preprocess(...), or the baseline as a number in normalised space"
        )
    return loaded.preprocess.pixel_value(name)


@dataclass(frozen=True)
class _Scores:
    """The class scores and probabilities (N, K) of some images, and what ranks the classes; of a single logit z the
    scores are -z and z."""

    values: Tensor
    probabilities: Tensor
    order: Tensor

    @property
    def classes(self) -> int:
        return self.values.shape[1]


def _all_callable(target: Targets) -> bool:
    several = target if isinstance(target, (list, tuple)) and target else [target]
    return all(callable(one) for one in several)


def _scores(module: nn.Module, x: Tensor, needed: bool) -> _Scores | None:
    plain = original(module)
    call = Call(plain, Notes())
    with borrowed(plain):
        output = call.in_layout(x, lambda laid: call.run(fresh_leaf(laid)))
    try:
        found = call.check(class_scores(output))
    except ModelError:
        if needed:
            raise
        return None
    values = found.detach().float().cpu()
    if values.shape[1] == 1:
        both = torch.cat([-values, values], 1)
        chance = torch.cat([1 - values, values], 1) if ends_in_sigmoid(found) else both.sigmoid()
        return _Scores(both, chance, order=chance)
    chance = values if are_probabilities(values) else values.softmax(1)
    return _Scores(values, chance, order=values)


def _columns(
    loaded: LoadedModel, scores: _Scores | None, target: Targets, top_k: int, n: int
) -> list[Tensor | Callable[[Any], Tensor]]:
    """The targets of every row: for each a tensor (N,) of classes, or a callable."""
    if target is None:
        assert scores is not None
        if top_k < 1:
            raise TargetError(f"top_k must be at least 1, got {top_k}")
        return list(scores.order.topk(min(top_k, scores.classes), dim=1).indices.unbind(1))
    if isinstance(target, Tensor):
        if target.ndim > 1 or target.is_floating_point():
            kind = f"{tuple(target.shape)} of {str(target.dtype).removeprefix('torch.')}"
            raise TargetError(f"a tensor target holds one class index per image, (N,) whole numbers, got {kind}")
        return [target.expand(n).cpu() if target.ndim == 0 else target.cpu()]
    if isinstance(target, (list, tuple)):
        if not target:
            raise TargetError("target is an empty list; give at least one class, or None for the predicted one")
        return [column for one in target for column in _columns(loaded, scores, one, 1, n)]
    if isinstance(target, str):
        return [torch.full((n,), loaded.index(target))]
    if callable(target):
        return [target]
    assert scores is not None
    try:
        index = operator.index(target)  # type: ignore[arg-type]
    except TypeError:
        raise TargetError(
            f"a target is a class index, a label, a tensor (N,), a callable or a list of these, got {target!r}"
        ) from None
    if not 0 <= index < scores.classes:
        raise TargetError(
            f"class {index} is out of range: the model has {scores.classes} classes, 0 to {scores.classes - 1}"
        )
    return [torch.full((n,), index)]


def _explanation(
    loaded: LoadedModel,
    image: Prepared,
    method: Method,
    scores: _Scores | None,
    column: Tensor | Callable[[Any], Tensor],
    row: int,
    found: _Maps,
) -> Explanation:
    notes = found.told(row)
    if image.notes:
        notes["photograph"] = image.notes
    return Explanation(
        attribution=found.maps[row].detach().float().cpu(),
        image=image.photo or Image.new("RGB", image.geometry.size, UNSEEN),
        geometry=image.geometry,
        method=method,
        target=_explained(loaded, scores, column, row),
        model=f"{loaded.name} ({loaded.weights})",
        source=image.name,
        notes=notes,
        versions=versions(),
    )


def _explained(
    loaded: LoadedModel, scores: _Scores | None, column: Tensor | Callable[[Any], Tensor], row: int
) -> ExplainedTarget:
    if not isinstance(column, Tensor):
        return ExplainedTarget(None, getattr(column, "__name__", type(column).__name__), None, None)
    assert scores is not None
    index = int(column[row])
    return ExplainedTarget(
        index, loaded.label(index), float(scores.probabilities[row, index]), float(scores.values[row, index])
    )


def _best(loaded: LoadedModel, scores: _Scores | None, row: int, most: int = 5) -> tuple[tuple[str, float], ...]:
    if scores is None:
        return ()
    values, indices = scores.probabilities[row].topk(min(most, scores.classes))
    return tuple((loaded.label(int(index)), float(value)) for value, index in zip(values, indices, strict=True))


def as_list(images: Images) -> list[ImageLike]:
    """One or many images as a list; a tensor or array with four axes is its rows."""
    if getattr(images, "ndim", None) == 4:
        return list(images)  # type: ignore[arg-type]
    return list(images) if isinstance(images, (list, tuple)) else [images]


def choose_methods(methods: Methods, layer: str | None = None) -> list[Method]:
    """The methods asked for, as values; `layer` goes to those that take one.

    Raises:
        MethodError: for a name that does not exist, with the nearest ones.
        TypeError: for a class instead of a value.
    """
    asked = list(catalog.METHODS) if methods == "all" else methods
    several = asked if isinstance(asked, (list, tuple)) else [asked]
    return [_value(one, layer) for one in several]


def _value(method: Any, layer: str | None) -> Method:
    if isinstance(method, str):
        method = catalog.find(method)()
    if isinstance(method, Method):
        wants = layer is not None and getattr(method, "layer", layer) is None
        return replace(method, layer=layer) if wants else method  # type: ignore[call-arg]
    if isinstance(method, type) and issubclass(method, Method):
        raise TypeError(f"methods takes values, got the class {method.__name__}; did you mean {method.__name__}()?")
    raise TypeError(f"methods must be 'all', a Method, a name or a list of these, got {method!r}")


F = TypeVar("F", bound=Callable[..., Any])


def _with_options_of(method: type[Method], **renamed: str) -> Callable[[F], F]:
    """Describe a function's arguments that are the method's options, in the words of the catalog."""

    def document(function: F) -> F:
        described = [
            f"    {renamed.get(option.name, option.name)}: {option.help}" for option in catalog.options(method)
        ]
        function.__doc__ = "\n".join([inspect.cleandoc(function.__doc__ or ""), "", "Args:", *described])
        return function

    return document


def viz_backprop(
    model: Model, image: Images, *, target: Targets = None, top_k: int = 1, preprocess: Any = None
) -> list[Explanation]:
    """The gradient of the class score: `methods.Gradient`. Arguments and result as for `explain`."""
    return explain(model, image, Gradient(), target=target, top_k=top_k, preprocess=preprocess)


def viz_guidedbackprop(
    model: Model, image: Images, *, target: Targets = None, top_k: int = 1, preprocess: Any = None
) -> list[Explanation]:
    """Guided backpropagation: `methods.GuidedBackprop`. Arguments and result as for `explain`."""
    return explain(model, image, GuidedBackprop(), target=target, top_k=top_k, preprocess=preprocess)


def viz_deconvolution(
    model: Model, image: Images, *, target: Targets = None, top_k: int = 1, preprocess: Any = None
) -> list[Explanation]:
    """Deconvolution: `methods.Deconvolution`. Arguments and result as for `explain`."""
    return explain(model, image, Deconvolution(), target=target, top_k=top_k, preprocess=preprocess)


def grad_times_image(
    model: Model, image: Images, *, target: Targets = None, top_k: int = 1, preprocess: Any = None
) -> list[Explanation]:
    """Gradient times image: `methods.GradTimesImage`. Arguments and result as for `explain`."""
    return explain(model, image, GradTimesImage(), target=target, top_k=top_k, preprocess=preprocess)


@_with_options_of(IntegratedGradients)
def viz_integrated_gradients(
    model: Model,
    image: Images,
    *,
    steps: int = 50,
    rule: QuadratureRule = "gauss-legendre",
    baseline: Baseline = 0.0,
    tolerance: float | None = None,
    max_steps: int = 1000,
    multiply_by_input: bool = True,
    target: Targets = None,
    top_k: int = 1,
    preprocess: Any = None,
) -> list[Explanation]:
    """Integrated gradients: `methods.IntegratedGradients`. Other arguments and result as for `explain`."""
    method = IntegratedGradients(steps, rule, baseline, tolerance, max_steps, multiply_by_input)
    return explain(model, image, method, target=target, top_k=top_k, preprocess=preprocess)


@_with_options_of(GradCAM)
def viz_gradcam(
    model: Model,
    image: Images,
    *,
    layer: str | nn.Module | None = None,
    relu: bool = True,
    target: Targets = None,
    top_k: int = 1,
    preprocess: Any = None,
) -> list[Explanation]:
    """Grad-CAM: `methods.GradCAM`. Other arguments and result as for `explain`."""
    return explain(model, image, GradCAM(layer, relu), target=target, top_k=top_k, preprocess=preprocess)


@_with_options_of(GuidedGradCAM)
def viz_guidedgradcam(
    model: Model,
    image: Images,
    *,
    layer: str | nn.Module | None = None,
    target: Targets = None,
    top_k: int = 1,
    preprocess: Any = None,
) -> list[Explanation]:
    """Guided Grad-CAM: `methods.GuidedGradCAM`. Other arguments and result as for `explain`."""
    return explain(model, image, GuidedGradCAM(layer), target=target, top_k=top_k, preprocess=preprocess)


@_with_options_of(SmoothGrad, of="method")
def smooth_grad(
    model: Model,
    image: Images,
    *,
    method: Method | Callable[..., list[Explanation]] = viz_backprop,
    samples: int = 50,
    noise: float = 0.15,
    statistic: Statistic = "mean",
    seed: int = 0,
    target: Targets = None,
    top_k: int = 1,
    preprocess: Any = None,
) -> list[Explanation]:
    """SmoothGrad: `methods.SmoothGrad` of a `viz_*` function or a method.

    Other arguments and result as for `explain`.
    """
    smooth = SmoothGrad(_method_of(method), samples, noise, statistic, seed)
    return explain(model, image, smooth, target=target, top_k=top_k, preprocess=preprocess)


_METHODS_OF: dict[Any, type[Method]] = {
    viz_backprop: Gradient,
    viz_guidedbackprop: GuidedBackprop,
    viz_deconvolution: Deconvolution,
    grad_times_image: GradTimesImage,
    viz_integrated_gradients: IntegratedGradients,
    viz_gradcam: GradCAM,
    viz_guidedgradcam: GuidedGradCAM,
}


def _method_of(method: Any) -> Method:
    known = _METHODS_OF.get(method) if callable(method) and not isinstance(method, Method) else None
    return known() if known is not None else method


def save_gradient_images(explanation: Explanation, path: str | os.PathLike[str], *, gray: bool = False) -> Path:
    """Write the signed map as a colour image about mid grey, or its magnitude as a grey image from black up.

    Args:
        explanation: one result of `viz_backprop`, `viz_guidedbackprop` or another method with a map per channel.
        path: a .png or .jpg file.
        gray: the maximum over channels of the magnitude instead.

    Returns:
        The path.
    """
    one = _one(explanation)
    return write_picture(_picture_path(path), one.grey(gray=gray))


def save_gradcam(explanation: Explanation, path: str | os.PathLike[str]) -> tuple[Path, Path, Path]:
    """Write a Grad-CAM as three pictures beside each other: for "cat.png" these are `cat_grey.png`,
    `cat_heatmap.png` and `cat_overlay.png`.

    Returns:
        The three paths.
    """
    one, path = _one(explanation), _picture_path(path)
    grey, heatmap, overlay = (
        write_picture(path.with_stem(f"{path.stem}_{view}"), one.picture(view))
        for view in ("grey", "heatmap", "overlay")
    )
    return grey, heatmap, overlay


def _one(explanation: Any) -> Explanation:
    if isinstance(explanation, Explanation):
        return explanation
    if isinstance(explanation, list) and explanation and isinstance(explanation[0], Explanation):
        raise TypeError(f"one explanation is saved at a time, got a list of {len(explanation)}: give explanations[0]")
    raise TypeError(f"an Explanation is needed, got {type(explanation).__name__}")


def _picture_path(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    return path if path.suffix else path.with_suffix(".png")
