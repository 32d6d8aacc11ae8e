"""Which model, with which weights and preprocessing, and where it runs: the options that commands share."""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Literal

import torch
from cyclopts import Group, Parameter

from deepviz.cli import UsageError
from deepviz.errors import DeepVizWarning, ImageError, ModelError, ModelFailed, TargetError
from deepviz.models import LoadedModel, Preprocess, example_photo, load_model
from deepviz.models.preprocessing import NAMED, named
from deepviz.models.stored import FilePreprocess
from deepviz.probe.outputs import Kind, Stated

Model = Annotated[
    str | None,
    Parameter(
        help="bundled, timm:NAME, torchvision:NAME, hf:ID, open_clip:ARCH/TAG, onnx:FILE or package.module:factory."
    ),
]
Weights = Annotated[str | None, Parameter(help="A .safetensors, .pt or .pth file, or 'random'.")]
Labels = Annotated[str | None, Parameter(help="A .txt (one label a line) or .json file of class names.")]
OutputKind = Annotated[
    Stated,
    Parameter(help="What the model returns: one class of K (logits), two (binary), independent labels, numbers ..."),
]
Device = Annotated[
    Literal["cpu", "cuda", "mps"] | None, Parameter(help="Device to run the model on; by default where it was loaded.")
]
_MODEL = Group("Your own model", sort_key=5)


def _option(help: str) -> Any:
    return Parameter(help=help, group=_MODEL, show_default=False, negative="")


@dataclass(frozen=True, kw_only=True)
class CanvasLoading:
    """What is said of a model of one's own, for commands in which --size is that of something else."""

    num_classes: Annotated[int | None, _option("Number of classes; by default read from the file of weights.")] = None
    name: Annotated[str | None, _option("What to call the model in captions, reports and the page.")] = None
    preprocess: Annotated[
        str | None,
        _option(
            f"From an image to the model's input: {', '.join(NAMED)}, or a .json file with the fields of "
            "deepviz.Preprocess, or one that transformers wrote; or with "
            "'reads' (volumes, bands or videos), those of "
            "deepviz.VolumePreprocess (BandPreprocess, VideoPreprocess)."
        ),
    ] = None
    crop: Annotated[
        str | None,
        _option("Fraction of the resized image that is kept; or squash; or whole (aspect kept, nothing cut)."),
    ] = None
    mean: Annotated[tuple[float, float, float] | None, _option("Of red, green and blue, in pixels from 0 to 1.")] = None
    std: Annotated[tuple[float, float, float] | None, _option("Of red, green and blue.")] = None
    interpolation: Annotated[
        Literal["bilinear", "bicubic", "nearest", "lanczos", "box", "hamming"] | None, _option("Of the resizing.")
    ] = None

    def changes(self) -> dict[str, Any]:
        """The fields of a `Preprocess` that are stated.

        Raises:
            UsageError: for a crop or size that is none.
        """
        given = {"mean": self.mean, "std": self.std, "interpolation": self.interpolation}
        found: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        if self.crop in ("squash", "whole"):
            found |= {"crop": None, "fit": self.crop}
        elif self.crop is not None:
            try:
                found |= {"crop": float(self.crop), "fit": None}
            except ValueError:
                raise UsageError(f"--crop must be a fraction, squash or whole, got {self.crop!r}") from None
        return found


@dataclass(frozen=True, kw_only=True)
class Loading(CanvasLoading):
    """What is said of a model of one's own."""

    size: Annotated[
        str | None, _option("The model's input in pixels: 224, 288x224 for height and width, 32x64x64 for volumes.")
    ] = None
    window: Annotated[
        tuple[float, float] | None,
        _option("Of volumes and bands: values from low to high are scaled to 0..1, such as -160 240."),
    ] = None

    def changes(self) -> dict[str, Any]:
        """The fields of a `Preprocess` that are stated."""
        found = super().changes()
        if self.size is not None:
            try:
                sides = tuple(map(int, self.size.lower().split("x")))
            except ValueError:
                raise UsageError(
                    f"--size must be a number of pixels, HEIGHTxWIDTH or DEPTHxHEIGHTxWIDTH, got {self.size!r}"
                ) from None
            found["size"] = sides[0] if len(sides) == 1 else sides
        return found if self.window is None else found | {"window": self.window}


LoadingOptions = Annotated[Loading, Parameter(name="*")]
CanvasLoadingOptions = Annotated[CanvasLoading, Parameter(name="*")]
NOTHING_SAID = Loading()
NOTHING_SAID_OF_CANVAS = CanvasLoading()


def check_device(device: str | None) -> None:
    """See that the device is there, before anything is loaded for it.

    Raises:
        UsageError: if it is not.
    """
    there = torch.backends.mps.is_available() if device == "mps" else torch.cuda.is_available()
    if device in ("cuda", "mps") and not there:
        raise UsageError(f"--device {device}: torch {torch.__version__} finds none on this machine; use --device cpu")


def loaded_model(
    model: str | None,
    weights: str | None = None,
    labels: str | None = None,
    device: str | None = None,
    output_kind: Kind = "auto",
    loading: CanvasLoading = NOTHING_SAID,
    images: bool = True,
) -> LoadedModel:
    """The model that the options ask for, on its device; what was read or assumed is printed.

    `images`: whether it is to be given any, so that what is assumed of its preprocessing matters.

    Raises:
        UsageError: for options that are no preprocessing.
        ModelError: as `load_model` does.
    """
    changes = loading.changes()
    base = None if loading.preprocess is None else named(loading.preprocess)
    if base is not None:
        base = _changed(base, changes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeepVizWarning)  # they are among the notes
        loaded = load_model(
            model,
            weights=weights,
            preprocess=base,
            labels=labels,
            output=None if output_kind == "auto" else output_kind,
            num_classes=loading.num_classes,
            name=loading.name,
        )
    if changes and base is None:
        if loaded.preprocess is not None and not isinstance(loaded.preprocess, (Preprocess, FilePreprocess)):
            raise UsageError(
                f"the preprocessing of {loaded.name} is a callable, of which --{next(iter(changes))} cannot change a "
                "part; give --preprocess as well"
            )
        base = _changed(loaded.preprocess or NAMED["imagenet"], changes)
        if loaded.preprocess is None and images:
            loaded = replace(loaded, notes=(*loaded.notes, f"what is not stated is assumed to be ImageNet's: {base}"))
        loaded = replace(loaded, preprocess=base, arguments={**loaded.arguments, "preprocess": base})
    if loading.preprocess is not None and not changes:
        loaded = replace(loaded, arguments={**loaded.arguments, "preprocess": loading.preprocess})
    for note in loaded.notes:
        print(f"deepviz: {loaded.name}: {note}", file=sys.stderr)
    return loaded if device is None else replace(loaded, module=loaded.module.to(device))


def check_takes_images(loaded: LoadedModel, files: bool = True) -> None:
    """See that the model takes an image, before images are asked of it.

    One that reads volumes, clips or images of bands is not run: there is no example of them.

    Args:
        loaded: the model.
        files: whether there are any to begin with.

    Raises:
        ModelError: if it has no preprocessing, or fails on an image; or reads files, and the size of its input follows
            the file.
    """
    if isinstance(loaded.preprocess, FilePreprocess):
        if not files and loaded.preprocess.example() is None:
            raise ModelError(
                f"the input size of {loaded.name} follows the file: give a file to begin with, or size= of its "
                f"{type(loaded.preprocess).__name__}"
            )
        return
    try:
        loaded.predict(example_photo(), top_k=1)
    except (ImageError, ModelFailed) as error:
        raise ModelError(f"{loaded.name} takes no images: {error}") from error
    except (ModelError, TargetError):
        return  # what predicts nothing can still be explained


def _changed(base: Preprocess | FilePreprocess, changes: dict[str, Any]) -> Preprocess | FilePreprocess:
    known = {field.name for field in fields(base)}
    wrong = next((name for name in changes if name not in known), None)
    if wrong is not None:
        ways = (
            f"--preprocess {base.reads}" if isinstance(base, FilePreprocess) else "images; --preprocess volumes has it"
        )
        raise UsageError(f"--{wrong} has no effect on {type(base).__name__}, of {ways}")
    try:
        return replace(base, **changes)
    except ModelError as error:
        raise UsageError(str(error)) from None
