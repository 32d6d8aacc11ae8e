"""One line for a right picture: `explain`, the `viz_*` functions, and what writes their results."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from PIL import Image
from torch import Tensor, nn

from deepviz import catalog
from deepviz.engine import Targets, explain_prepared
from deepviz.errors import LayerError
from deepviz.files import write_picture
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
from deepviz.methods.gradients.quadrature import QuadratureRule
from deepviz.methods.gradients.smooth_grad import Statistic
from deepviz.models import LoadedModel, load_model
from deepviz.options import Baseline
from deepviz.render import grey
from deepviz.results.explanation import Explanation

Model = LoadedModel | nn.Module | str | None
ImageLike = str | os.PathLike[str] | Image.Image | Tensor | Any
Images = ImageLike | Sequence[ImageLike]
Methods = Literal["all"] | str | Method | Sequence[Method | str]


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
        layer: for methods that take one and do not name it themselves, also inside others such as SmoothGrad.
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


def as_list(images: Images) -> list[ImageLike]:
    """One or many images as a list; a tensor or array with four axes is its rows."""
    if getattr(images, "ndim", None) == 4:
        return list(images)  # type: ignore[arg-type]
    return list(images) if isinstance(images, (list, tuple)) else [images]


def choose_methods(methods: Methods, layer: str | None = None) -> list[Method]:
    """The methods asked for, as values; `layer` goes to those that take one, also inside others.

    Raises:
        MethodError: for a name that does not exist, with the nearest ones.
        LayerError: if no method takes the layer.
        TypeError: for a class instead of a value.
    """
    asked = list(catalog.METHODS) if methods == "all" else methods
    several = [_value(one) for one in (asked if isinstance(asked, (list, tuple)) else [asked])]
    if layer is None:
        return several
    placed = [method.with_layer(layer) for method in several]
    if all(one is before for one, before in zip(placed, several, strict=True)):
        named = ", ".join(method.name for method in several)
        raise LayerError(f"layer={layer!r} is for methods that take one and do not name it themselves, not for {named}")
    return placed


def _value(method: Any) -> Method:
    if isinstance(method, str):
        return catalog.find(method)()
    if isinstance(method, Method):
        return method
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
        gray: the maximum over channels of the magnitude instead (Simonyan et al. 2013), for every method.

    Returns:
        The path.
    """
    one = _one(explanation)
    magnitude = one.attribution.abs().amax(0).numpy()
    return write_picture(_picture_path(path), grey(magnitude, signed=False) if gray else one.grey(gray=False))


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
