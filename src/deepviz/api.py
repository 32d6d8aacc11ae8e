"""The functional interface: `explain`, `evaluate`, `sanity_check`, the `viz_*` functions, and functions that write
their results."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from torch import Tensor, nn

from deepviz import catalog
from deepviz.errors import TargetError
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
from deepviz.methods.gradients.moments import Statistic
from deepviz.methods.gradients.quadrature import QuadratureRule
from deepviz.models import LoadedModel, load_model
from deepviz.models.images import PhotoSource
from deepviz.objectives import Text
from deepviz.objectives.similarity import Measure
from deepviz.options import Baseline, Noise
from deepviz.probe.fast import fast_copies
from deepviz.probe.outputs import Kind
from deepviz.render import grey
from deepviz.results.evaluation import Evaluation, with_controls
from deepviz.results.explanation import Explanation
from deepviz.results.outcomes import Explanations, ImageOutcomes
from deepviz.results.sanity import Sanity
from deepviz.runs.asked import (
    Images,
    Item,
    Methods,
    Metrics,
    Model,
    Targets,
    choose_methods,
    choose_metrics,
    each_item,
    is_all,
    items_of,
    of_function,
)
from deepviz.runs.evaluate import DEFAULT_METRICS, Box, evaluate_items, region
from deepviz.runs.explain import explain_items
from deepviz.runs.pairs import explain_both, merged
from deepviz.runs.sanity import STAGES, Randomization, randomize_items
from deepviz.runs.words import checked_text, explain_text_items


def explain(
    model: Model,
    images: Images,
    methods: Methods = "all",
    *,
    target: Targets = None,
    top_k: int = 1,
    layer: str | nn.Module | None = None,
    preprocess: Any = None,
    extra: Any = None,
    output: Kind = "auto",
    fast: bool | None = None,
) -> Explanations:
    """Explain a model's predictions for images with one or several methods.

    Args:
        model: an `nn.Module`, a `LoadedModel`, a name ("timm:resnet50"), or None for the bundled model. For methods
            that need forward passes alone, also any callable from a batch to scores (see `BlackBox`).
        images: a path, PIL image, array (H, W, 3) or tensor (C, H, W), or several of them; a tensor (N, C, H, W) is
            N images. With a `VolumePreprocess`, `BandPreprocess` or `VideoPreprocess` a path of what that reads; of
            volumes, a folder with a DICOM series is one. Tensors are taken as already preprocessed. Also a signal
            (C, L), volumes (N, C, D, H, W), or `deepviz.Inputs` of N rows, for models that take several tensors.
            Folders are searched with their sub-folders. Of a generator, a torch `Dataset` and a `DataLoader`, which
            may also give pairs (image, label), the images are explained; a `DataLoader` gives batches, the others one
            image at a time.
        methods: "all", a family ("cams"), a method, its name ("grad-cam"), or several of these. Of "all" and of a
            family, methods that do not apply to the model, or fail, are left out with a warning. "all" is a set of
            eight; of a model that is a plain function, those that need forward passes alone.
        target: a class index, a label ("tiger cat"), an array or tensor (N,) of indices, one per image, an objective
            such as `Logit(281) - Logit(282)`, a callable from the model's raw output to one score per row, or a list:
            all of them for every image. None: the predicted.
        top_k: with target None, the number of best classes to explain; they share their forward passes. With a target
            it must be 1.
        layer: for methods that take one and do not name it themselves, also inside others such as SmoothGrad.
        preprocess: `deepviz.Preprocess(...)`, a name ("imagenet"), a transform of torchvision or timm, an image
            processor of transformers, or any callable from a PIL image to a tensor, if the model has none of its own;
            see `load_model`.
        extra: what the model takes beside the images: a tuple follows them by position, a mapping goes by keyword. Its
            tensors have one row for each image; what is the same for all is `deepviz.shared(value)`.
        output: what the model returns, where it does not say so itself: "logits" (one class of K), "probabilities",
            "binary" (two classes, also of one output), "multi-label" (independent labels), "regression" (numbers) or
            "embedding".
        fast: whether to work on a private copy of the model with batch normalisation folded into the convolutions,
            where that is known to give the same; the notes say so ("fast copy"). None: if the environment has
            `DEEPVIZ_FAST=1`.

    Returns:
        A flat list, by image, then class (best first), then explained input, then method. Of "all", its `skipped` and
        `failed` hold the methods without a map, with the reason.

    Raises:
        NothingApplies: if an image has no map at all.
        ImageError, ModelError, TargetError, LayerError, NothingOverridden: naming what is wrong and what to do.

    Example:
        >>> import deepviz, torch
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 5))
        >>> [e.title for e in deepviz.explain(net, torch.rand(3, 8, 8), ["gradient", "grad-times-image"])]
        ['Gradient', 'Gradient × image']
    """
    chosen = choose_methods(methods, layer)
    loaded, items = _items(model, images, target, preprocess, extra, output)
    chosen = of_function(chosen, methods, loaded)
    with fast_copies(fast):
        found = list(explain_items(loaded, items, chosen, top_k=top_k, lenient=is_all(methods)))
    return Explanations(outcome for image in found for outcome in image.outcomes)


def explain_each(
    model: Model,
    images: Images,
    methods: Methods = "all",
    *,
    target: Targets = None,
    top_k: int = 1,
    layer: str | nn.Module | None = None,
    preprocess: Any = None,
    extra: Any = None,
    output: Kind = "auto",
    fast: bool | None = None,
) -> Iterator[Explanation]:
    """`explain`, one result at a time: images are read when needed, and results are not stored.

    At most eight images are in memory, unless `extra` or a target for each image is given. Arguments, order and errors
    are those of `explain`; of "all", methods without a map are left out with a warning.

    Example:
        >>> import deepviz, torch
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 5))
        >>> images = (torch.rand(3, 8, 8) for _ in range(1000))
        >>> next(deepviz.explain_each(net, images, "gradient")).title
        'Gradient'
    """
    chosen = choose_methods(methods, layer)
    loaded = _loaded(model, images, preprocess, output)
    chosen = of_function(chosen, methods, loaded)
    items = each_item(loaded, images, target, extra)
    found = explain_items(loaded, items, chosen, top_k=top_k, lenient=is_all(methods))
    return (one for image in _each(found, fast) for one in image.explanations)


def _each(found: Iterator[ImageOutcomes], fast: bool | None) -> Iterator[ImageOutcomes]:
    """The same, computed with fast copies or without; between them, the caller's setting holds."""
    while True:
        with fast_copies(fast):
            image = next(found, None)
        if image is None:
            return
        yield image


def explain_pair(
    model: Model,
    first: PhotoSource | Tensor,
    second: PhotoSource | Tensor,
    methods: Methods = "all",
    *,
    measure: Measure = "cosine",
    layer: str | nn.Module | None = None,
    preprocess: Any = None,
    output: Kind = "auto",
) -> Explanations:
    """Explain what makes two images similar, in each of them: the maps of S(a, b) on a, and on b.

    With the embeddings a and b, S is their cosine, their product or minus their distance. For the maps on one image,
    the other's embedding is fixed. `sheet` draws both side by side, with one scale for each method.

    Args:
        model: as for `explain`; its output (N, D) is taken as an embedding.
        first: a path, PIL image, array (H, W, 3) or tensor (C, H, W).
        second: the other, of any size.
        methods: as for `explain`.
        measure: "cosine"; "dot", the product; or "distance", minus the Euclidean one.
        layer: as for `explain`.
        preprocess: as for `explain`.
        output: as for `explain`.

    Returns:
        The maps on the first image, by method, then those on the second.

    Raises:
        ImageError, ModelError, TargetError: as `explain` does.

    Example:
        >>> import deepviz, torch
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 5))
        >>> one, other = deepviz.explain_pair(net, torch.rand(3, 8, 8), torch.rand(3, 8, 8), "gradient")
        >>> one.target.score == other.target.score  # S(a, b) = S(b, a)
        True
    """
    chosen = choose_methods(methods, layer)
    loaded = _loaded(model, first, preprocess, output)
    one, other = (loaded.prepare(image) for image in (first, second))
    found = explain_both(loaded, one, other, chosen, measure=measure, lenient=is_all(methods))
    return Explanations(merged(*found).outcomes)


def explain_text(
    model: Model,
    images: Images,
    text: str | Text | Sequence[str | Text],
    methods: Methods = "integrated-gradients",
    *,
    preprocess: Any = None,
) -> Explanations:
    """Explain which words of a text raise its logit for an image, and which lower it: the text side of `Text`.

    The model's logit is differentiated with respect to the embeddings of the text's tokens, with the embedding of the
    image fixed. `Explanation.word_values` are the words with their values: the sum over a token's embedding, and over
    the tokens of a word. Those of integrated gradients sum to the logit minus that with all embeddings zero.

    Args:
        model: a model of images and texts, such as "open_clip:..." or "hf:openai/clip-vit-base-patch32", or a
            `LoadedModel` with `texts`.
        images: as for `explain`.
        text: one or several texts, all of them for every image; a `Text` with `against`, to state that as well: its
            own words are explained.
        methods: as for `explain`; those that explain a layer do not apply. "all" leaves them out.
        preprocess: as for `explain`.

    Returns:
        A flat list, by image, then text, then method.

    Raises:
        TargetError: for an empty text, one that is too long, or a model that does not say how it embeds tokens.
        And as `explain` does.

    Example:
        A text's embedding is the mean of those of its words, and an image's its mean colour:

        >>> import deepviz, torch
        >>> colours, table = ("red", "green", "blue"), torch.nn.Embedding.from_pretrained(torch.eye(3))
        >>> def encode(texts):
        ...     return table(torch.tensor([[colours.index(word) for word in text.split()] for text in texts])).mean(1)
        >>> words = lambda tokens: [(colours[token], 1) for token in tokens]
        >>> embedder = deepviz.models.TextEmbedder(table, encode, embedding=table, words=words)
        >>> net = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
        >>> model = deepviz.LoadedModel(net, "colours", output="embedding", texts=embedder)
        >>> red = torch.tensor([1.0, 0, 0])[:, None, None].expand(3, 8, 8)
        >>> explained, = deepviz.explain_text(model, red, "red blue", "grad-times-image")
        >>> [(word, round(value, 3)) for word, value in explained.word_values]
        [('red', 0.354), ('blue', -0.354)]
    """
    chosen = choose_methods(methods)
    texts = [text] if isinstance(text, (str, Text)) else list(text)
    target = [checked_text(Text(one) if isinstance(one, str) else one) for one in texts]
    loaded, items = _items(model, images, target, preprocess, None, "auto")
    found = explain_text_items(loaded, items, chosen, lenient=is_all(methods))
    return Explanations(outcome for image in found for outcome in image.outcomes)


def evaluate(
    model: Model,
    images: Images,
    methods: Methods = "all",
    metrics: Metrics = DEFAULT_METRICS,
    *,
    target: Targets = None,
    boxes: Sequence[Sequence[Box]] | None = None,
    controls: bool = True,
    preprocess: Any = None,
    extra: Any = None,
    output: Kind = "auto",
    fast: bool | None = None,
) -> Evaluation:
    """Evaluate methods by metrics, over images.

    Every map is judged as it is drawn, unless a metric says otherwise: a method whose picture is the magnitude by its
    magnitudes, one whose picture has a sign by its signed sums; `Infidelity` and `Completeness` judge the values
    themselves. Three control rows are added: a random map, a centred Gaussian and an edge detector.

    Args:
        model: as for `explain`.
        images: as for `explain`; the interval of a mean needs at least three.
        methods: as for `explain`; one that does not apply, or fails, has no values.
        metrics: metrics, or their names ("deletion"), one or several.
        target: as for `explain`; of several targets of one image, the mean counts.
        boxes: for the metrics of localisation, where the object is: for each image a list of boxes, each (left, top,
            right, bottom) in pixels of the image as it was given; what the model saw of them counts.
        controls: whether to add the control rows.
        preprocess: as for `explain`.
        extra: as for `explain`.
        output: as for `explain`.
        fast: as for `explain`.

    Raises:
        MethodError: for a metric that does not exist.
        NothingApplies: if there is no map at all.
        TargetError: if there are not as many lists of boxes as images, or the model saw nothing of them.
        And as `explain` does.

    Example:
        >>> import deepviz, torch
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 5))
        >>> found = deepviz.evaluate(net, torch.rand(4, 3, 8, 8), ["gradient", "grad-times-image"], "deletion")
        >>> found.rows
        ('Gradient', 'Gradient × image', 'Random map', 'Centred Gaussian', 'Edge detector')
        >>> found.values.shape  # images, rows, metrics
        (4, 5, 1)
    """
    chosen, by = choose_methods(methods), choose_metrics(metrics)
    loaded, items = _items(model, images, target, preprocess, extra, output)
    chosen = of_function(chosen, methods, loaded)
    if boxes is not None and len(boxes) != len(items):
        raise TargetError(f"{len(boxes)} lists of boxes for {len(items)} images: give one for each")
    if boxes is not None:
        items = [replace(item, inside=region(item.image, of)) for item, of in zip(items, boxes, strict=True)]
    with fast_copies(fast):
        scores = list(evaluate_items(loaded, items, with_controls(chosen, controls), by))
    return Evaluation.of(loaded, chosen, by, scores, controls)


def sanity_check(
    model: Model,
    images: Images,
    methods: Methods = "all",
    *,
    stages: int = STAGES,
    cascading: bool = True,
    seed: int = 0,
    target: Targets = None,
    preprocess: Any = None,
    extra: Any = None,
    output: Kind = "auto",
    fast: bool | None = None,
) -> Sanity:
    """Compare each method's maps with those after the network's layers get random weights, from the output down
    (Adebayo et al. 2018).

    A method whose map hardly changes does not show what this network has learned, however convincing it looks. The
    class that is explained stays the one that the trained network predicted. The work is done on a copy; the model
    is never changed.

    Args:
        model: as for `explain`.
        images: as for `explain`.
        methods: as for `explain`; one that does not apply, or fails, has no verdict.
        stages: in how many steps all layers are randomised; each costs one map of every method.
        cascading: from the output down, each step keeping the new weights of those before; if not, each step's
            layers alone.
        seed: of the weights.
        target: as for `explain`.
        preprocess: as for `explain`.
        extra: as for `explain`.
        output: as for `explain`.
        fast: as for `explain`; copies with other weights are explained as they are.

    Raises:
        NothingApplies: if there is no map at all.
        And as `explain` does.

    Example:
        >>> import deepviz, torch
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(),
        ...                           torch.nn.Linear(144, 5))
        >>> found = deepviz.sanity_check(net, torch.rand(1, 3, 8, 8), ["gradient", "guided-backprop"], stages=2)
        >>> found.stages
        ('trained', '3', '0')
        >>> found.similarities["ssim"].shape  # images, methods, stages
        (1, 2, 3)
    """
    chosen, randomization = choose_methods(methods), Randomization(stages, cascading, seed)
    loaded, items = _items(model, images, target, preprocess, extra, output)
    with fast_copies(fast):
        results = list(randomize_items(loaded, items, chosen, randomization))
    return Sanity.of(loaded, chosen, results, cascading, seed)


def _items(
    model: Model, images: Images, target: Targets, preprocess: Any, extra: Any, output: Kind
) -> tuple[LoadedModel, list[Item]]:
    """The model, and the images with their targets."""
    loaded = _loaded(model, images, preprocess, output)
    return loaded, items_of(loaded, images, target, extra)


def _loaded(model: Model, images: Images, preprocess: Any, output: Kind) -> LoadedModel:
    if isinstance(images, (nn.Module, LoadedModel)) or (callable(images) and isinstance(model, (Tensor, np.ndarray))):
        raise TypeError("model and image are swapped: the order is (model, image)")
    return load_model(model, preprocess=preprocess, output=None if output == "auto" else output)


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
) -> Explanations:
    """The gradient of the class score: `methods.Gradient`. Arguments and result as for `explain`."""
    return explain(model, image, Gradient(), target=target, top_k=top_k, preprocess=preprocess)


def viz_guidedbackprop(
    model: Model, image: Images, *, target: Targets = None, top_k: int = 1, preprocess: Any = None
) -> Explanations:
    """Guided backpropagation: `methods.GuidedBackprop`. Arguments and result as for `explain`."""
    return explain(model, image, GuidedBackprop(), target=target, top_k=top_k, preprocess=preprocess)


def viz_deconvolution(
    model: Model, image: Images, *, target: Targets = None, top_k: int = 1, preprocess: Any = None
) -> Explanations:
    """Deconvolution: `methods.Deconvolution`. Arguments and result as for `explain`."""
    return explain(model, image, Deconvolution(), target=target, top_k=top_k, preprocess=preprocess)


def grad_times_image(
    model: Model, image: Images, *, target: Targets = None, top_k: int = 1, preprocess: Any = None
) -> Explanations:
    """Gradient times image: `methods.GradTimesImage`. Arguments and result as for `explain`."""
    return explain(model, image, GradTimesImage(), target=target, top_k=top_k, preprocess=preprocess)


@_with_options_of(IntegratedGradients)
def viz_integrated_gradients(
    model: Model,
    image: Images,
    *,
    steps: int | None = None,
    rule: QuadratureRule = "gauss-legendre",
    baseline: Baseline | Noise = 0.0,
    tolerance: float | None = None,
    max_steps: int = 1000,
    multiply_by_input: bool = True,
    baselines: Sequence[Baseline | Noise] | None = None,
    draws: int = 5,
    seed: int = 0,
    target: Targets = None,
    top_k: int = 1,
    preprocess: Any = None,
) -> Explanations:
    """Integrated gradients: `methods.IntegratedGradients`. Other arguments and result as for `explain`."""
    several = None if baselines is None else tuple(baselines)
    method = IntegratedGradients(steps, rule, baseline, tolerance, max_steps, multiply_by_input, several, draws, seed)
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
) -> Explanations:
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
) -> Explanations:
    """Guided Grad-CAM: `methods.GuidedGradCAM`. Other arguments and result as for `explain`."""
    return explain(model, image, GuidedGradCAM(layer), target=target, top_k=top_k, preprocess=preprocess)


@_with_options_of(SmoothGrad, of="method")
def smooth_grad(
    model: Model,
    image: Images,
    *,
    method: Method | Callable[..., Explanations] = viz_backprop,
    samples: int = 50,
    noise: float = 0.15,
    statistic: Statistic = "mean",
    seed: int = 0,
    target: Targets = None,
    top_k: int = 1,
    preprocess: Any = None,
) -> Explanations:
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
        gray: the maximum over channels of the magnitude instead (Simonyan et al. 2013), for every method. What is no
            image, such as a volume, is drawn as `Explanation.grey` draws it.

    Returns:
        The path.
    """
    one = _one(explanation)
    if one.layout != "image":
        return write_picture(_picture_path(path), one.grey(gray=gray))
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
