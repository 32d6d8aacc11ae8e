"""A model with what is known about it: how an image becomes its input, and what its classes are called."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from deepviz.errors import DeepVizError, ImageError, TargetError, in_one_line
from deepviz.geometry import Geometry
from deepviz.inputs import Inputs, plain_tensor
from deepviz.models.images import ENDINGS, SUFFIXES, Photo, PhotoSource, Reads, ending, open_photo, shown
from deepviz.models.labels import find_label
from deepviz.models.predict import Prediction, detections_of, outputs_of, regions_of
from deepviz.models.preprocess import Preprocess
from deepviz.models.stored import FilePreprocess, Ready
from deepviz.models.texts import TextEmbedder
from deepviz.objectives.candidates import Found
from deepviz.objectives.embedder import TextEmbeddings
from deepviz.probe.black_box import BlackBox, black_box_of
from deepviz.probe.borrow import original
from deepviz.probe.outputs import Kind, Reading, check_kind, stated_kind

RANDOM = "random"
"""What `weights` says of a model whose weights were drawn, not learned."""
OWN_VIEW = "preprocessing could not be read: the overlay is drawn on the model's input"
_CHANNELS_LAST = "the channels of {} are its last axis: give {}.permute(2, 0, 1), which is (C, H, W)"
_UNDRAWN = (
    "an input of {} channels has no picture: preprocess=deepviz.BandPreprocess(picture=(3, 2, 1)) states the channels "
    "that are drawn as red, green and blue"
)
READERS: dict[Reads, str] = {
    "volumes": "VolumePreprocess(...)",
    "bands": "BandPreprocess(...)",
    "videos": "VideoPreprocess(...)",
}
"""What reads files that are no pictures."""
_STRETCHED = "colours of the shown input are stretched from its minimum to its maximum: its pixels are not known"


@dataclass(frozen=True, eq=False)
class Prepared:
    """One input, ready for the model, and the picture that explanations of it are drawn on.

    Args:
        x: (C, H, W), floating, on the CPU unless a tensor was given that lies elsewhere; one row of an explained tensor
            of any shape, if it is no image.
        photo: RGB; None if the input is a tensor that cannot be shown (neither 1 nor 3 channels).
        geometry: the part of `photo` that `x` shows.
        name: what to call it.
        notes: what the reader of a result should know, one sentence each.
        space: the spatial shape of `x` if it is no image: (L,), or (D, H, W).
        input: which of several explained tensors it is; "" if there is one alone.
    """

    x: Tensor
    photo: Image.Image | None
    geometry: Geometry
    name: str
    notes: tuple[str, ...] = ()
    texts: Callable[[Sequence[str]], TextEmbeddings] | None = field(default=None, repr=False)
    space: tuple[int, ...] | None = None
    input: str = ""


@dataclass(frozen=True, eq=False, repr=False)
class LoadedModel:
    """A model and what is known about it.

    Args:
        module: takes (N, C, H, W); a callable that is no module is a `BlackBox`.
        name: as captions show it.
        preprocess: image -> input; a `Preprocess`, or a callable from a PIL image to a tensor (C, H, W); of files of
            their own kind a `VolumePreprocess`, `BandPreprocess` or `VideoPreprocess`.
        labels: the classes' names, by index.
        weights: where the weights come from, as captions show it.
        source: what was asked for, such as "timm:resnet50".
        output: what the module returns: "logits" (one class of K), "probabilities", "binary" (two classes, also of one
            output), "multi-label" (independent labels), "regression" (numbers) or "embedding"; "auto" reads it from
            the module where that says so, and guesses else.
        notes: what was read or assumed when it was loaded, one sentence each.
        texts: of a model that embeds images and texts, how it embeds texts.
        arguments: what `load_model` was given beside the source, by name, for code that loads it again: files as text,
            labels as they were read, and a `Preprocess` where one was read.
    """

    module: nn.Module
    name: str
    preprocess: Preprocess | FilePreprocess | Callable[[Image.Image], Any] | None = None
    labels: tuple[str, ...] | None = None
    weights: str = "as given"
    source: str = "module"
    output: Kind = "auto"
    notes: tuple[str, ...] = ()
    texts: TextEmbedder | None = field(default=None, repr=False)
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_kind(self.output)

    @property
    def kind(self) -> Kind:
        """What its outputs are: as stated; else as the module says; else guessed, from its labels if there are two."""
        if self.output != "auto":
            return self.output
        stated = stated_kind(original(self.module))
        two = stated == "auto" and self.labels is not None and len(self.labels) == 2
        return "two labels" if two else stated

    def output_record(self, reading: Reading) -> dict[str, str]:
        """What the outputs were read as, for results: their kind, and how it was known.

        Example:
            >>> from deepviz.probe.outputs import read_outputs
            >>> scores = torch.tensor([[0.2, 3.0]])
            >>> LoadedModel(nn.Identity(), "small").output_record(read_outputs(scores))
            {'kind': 'logits', 'known': 'assumed: one class of 2'}
        """
        if self.output != "auto":
            known = "stated: by output=, or by where the model is from"
        elif stated_kind(original(self.module)) != "auto":
            known = "stated by the model's problem_type"
        else:
            known = reading.assumed
        return {"kind": reading.kind, "known": known}

    def predict(self, images: Any, top_k: int = 5) -> list[tuple[Prediction, ...]]:
        """What the model predicts for images.

        Args:
            images: one or several: paths, PIL images, arrays, tensors (C, H, W) or (N, C, H, W).
            top_k: of each image so many of the best classes, or detections; of a model of numbers all are given. Of a
                segmenter the classes with the largest regions, with their share of the pixels as `probability`.

        Returns:
            For each image its predictions, best first; numbers in their own order.

        Raises:
            ImageError, ModelError: if an image cannot be prepared, or the model fails on it.
            TargetError: for a model of embeddings, which predicts nothing.

        Example:
            >>> net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
            >>> model = LoadedModel(net, "small", labels=("red", "green", "blue"))
            >>> [print(best) for best, *_ in model.predict(2 * torch.eye(3)[:, :, None, None].expand(3, 3, 8, 8))]
            red 78.7 %
            green 78.7 %
            blue 78.7 %
            [None, None, None]
        """
        axes = self.preprocess.axes if isinstance(self.preprocess, FilePreprocess) else 2
        prepared = [self.prepare(image).x for image in _several(images, axes)]
        if self.kind == "detections":
            return [self._detections(found[:top_k]) for found in detections_of(self.module, self.kind, prepared)]
        if self.kind == "maps":
            return [self._regions(*found, top_k) for found in regions_of(self.module, self.kind, prepared)]
        read = outputs_of(self.module, self.kind, prepared)
        return [self._predictions(outputs, reading, top_k) for outputs, reading in read]

    def _detections(self, found: list[tuple[Found, float]]) -> tuple[Prediction, ...]:
        return tuple(Prediction(one.label, self.label(one.label), one.score, score) for one, score in found)

    def _regions(self, shares: Tensor, scores: Tensor, top_k: int) -> tuple[Prediction, ...]:
        best = [k for k in shares.argsort(descending=True, stable=True).tolist() if shares[k] > 0]
        return tuple(Prediction(k, self.label(k), float(shares[k]), float(scores[k])) for k in best[:top_k])

    def _predictions(self, outputs: Tensor, reading: Reading, top_k: int) -> tuple[Prediction, ...]:
        scores, chances = reading.scores(outputs)[0], reading.probabilities(outputs)
        if reading.kind == "regression":
            names = self.labels or [
                f"output {index}" if reading.outputs > 1 else "output" for index in range(len(scores))
            ]
            return tuple(
                Prediction(index, name, None, float(score))
                for index, (name, score) in enumerate(zip(names, scores, strict=False))
            )
        best = reading.order(outputs)[0, :top_k].tolist()
        return tuple(
            Prediction(k, self.label(k), None if chances is None else float(chances[0, k]), float(scores[k]))
            for k in best
        )

    def embed_texts(self, texts: Sequence[str]) -> TextEmbeddings:
        """Embeddings of texts, and how their cosine to an image's becomes a logit.

        Raises:
            TargetError: if the model embeds no texts, or one is too long for it.
        """
        if self.texts is None:
            raise TargetError(
                f"{self.name} embeds no texts: use a model of images and texts, such as 'open_clip:ARCH/TAG' or "
                "'hf:openai/clip-vit-base-patch32'"
            )
        return self.texts(tuple(texts))

    def embed_image(self, source: str) -> Tensor:
        """The model's output for an image file, (D,).

        Raises:
            ImageError: if it cannot be opened.
        """
        (output, _), *_ = outputs_of(self.module, "embedding", [self.prepare(source).x])
        return output[0]

    def __repr__(self) -> str:
        size = self.preprocess.input_size if isinstance(self.preprocess, Preprocess) else None
        known = [
            "" if self.labels is None else f"{len(self.labels)} labels",
            "" if size is None else f"input {size[0]} x {size[1]}",
            "" if self.output == "auto" else self.output,
        ]
        return f"LoadedModel({', '.join(filter(None, [f'{self.name} ({self.weights})', *known]))})"

    @property
    def is_black_box(self) -> bool:
        """Whether it is a plain function, of which forward passes alone can be asked."""
        return isinstance(original(self.module), BlackBox)

    @property
    def is_random(self) -> bool:
        """Whether its weights were drawn, not learned."""
        return self.weights == RANDOM

    @property
    def home(self) -> tuple[torch.device, torch.dtype]:
        """Where the model's parameters are, and their floating type; CPU and float32 if it has none. A function that
        was moved says so."""
        function = black_box_of(self.module)
        if function is not None and function.home is not None:
            return function.home
        first = next((p for p in self.module.parameters() if p.is_floating_point()), None)
        return (torch.device("cpu"), torch.float32) if first is None else (first.device, first.dtype)

    def at_home(self, inputs: Inputs) -> Inputs:
        """Inputs on the model's device and in its type; those of a function that was not moved stay where they are."""
        device, dtype = self.home
        function = black_box_of(self.module)
        if function is not None and function.home is None and next(function.parameters(), None) is None:
            device = inputs.leaves[0].device
        return inputs.to(device, dtype)

    @property
    def reads(self) -> Reads:
        """What is looked for in folders: images, or what its preprocessing reads."""
        return self.preprocess.reads if isinstance(self.preprocess, FilePreprocess) else "images"

    def prepare(self, source: PhotoSource | Photo | Ready | Tensor) -> Prepared:
        """The model's input for an image, or a tensor (C, H, W) or (1, C, H, W) taken as such an input; of a
        `VolumePreprocess` or `VideoPreprocess` for a file of theirs, also one that it has read, or a tensor
        (C, D, H, W).

        Pictures give float32, a tensor keeps its type and device.

        Raises:
            ImageError: if the image cannot be opened, no preprocessing is known for it or it fails on it, or a
                tensor has another shape or type.
        """
        if isinstance(self.preprocess, FilePreprocess):
            return self._prepare_file(self.preprocess, source)
        if isinstance(source, Tensor):
            return self._prepare_tensor(plain_tensor(source))
        if self._takes_arrays and isinstance(source, np.ndarray) and source.dtype.kind == "f":
            return self._prepare_tensor(torch.from_numpy(source.copy()))
        if isinstance(source, Ready):
            raise ImageError(f"{source.name} was read for another model: {self.name} takes pictures")
        self._check_is_picture(source)
        if self.preprocess is None:
            function = black_box_of(self.module)
            size = 224 if function is None or function.size is None else function.size
            arrays = " and arrays (C, H, W) of floats" if self._takes_arrays else ""
            raise ImageError(
                f"{self.name} has no preprocessing, so it takes only tensors{arrays}; for images pass "
                f"preprocess=deepviz.Preprocess({size}, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)), or on "
                "the command line --preprocess imagenet"
            )
        photo = source if isinstance(source, Photo) else open_photo(source)
        if isinstance(self.preprocess, Preprocess):
            x, geometry = self.preprocess(photo.picture)
            return Prepared(x, photo.picture, geometry, photo.name, photo.notes)
        x = _one_input(_preprocessed(self.preprocess, photo), "preprocess must return")
        if _is_channels_last(x, self.module):
            raise ImageError(_CHANNELS_LAST.format(tuple(x.shape), "the output of preprocess"))
        picture, _ = _stretched_picture(x.flip(0) if _is_bgr(x, photo.picture) else x)
        return Prepared(x, picture, _whole(x), photo.name, (*photo.notes, OWN_VIEW))

    def label(self, index: int) -> str:
        """The name of class `index`, or "class 7" where none is known."""
        if self.labels is None or not 0 <= index < len(self.labels):
            return f"class {index}"
        return self.labels[index]

    def index(self, label: str) -> int:
        """The class called `label` (see `find_label`).

        Raises:
            TargetError: if no class named so (the message holds the nearest names), or several are (it holds
                their indices), or the model has no labels.
        """
        if self.labels is None:
            raise TargetError(f"{self.name} has no labels: give a class index instead of {label!r}, or labels=")
        return find_label(label, self.labels)

    @property
    def _takes_arrays(self) -> bool:
        """Whether arrays of floats are inputs that are prepared already, as tensors are: of a function of arrays."""
        return self.preprocess is None and black_box_of(self.module) is not None

    def _prepare_file(self, preprocess: FilePreprocess, source: Any) -> Prepared:
        """The input for a file, or a tensor, of a model whose preprocessing reads files."""
        axes = preprocess.axes
        if isinstance(source, Tensor):
            x = _one_input(
                plain_tensor(source), "a tensor is taken as preprocessed input, so it must be", axes
            ).detach()
            picture, notes = preprocess.shows(x)
            ready = Ready(x, picture, "tensor", notes)
        else:
            ready = source if isinstance(source, Ready) else preprocess(source)
        if _is_channels_last(ready.x, self.module):
            turned = ".movedim(-1, 0)"
            raise ImageError(
                f"the channels of {ready.name}, {tuple(ready.x.shape)}, are its last axis: give them first, x{turned}"
            )
        space = None if axes == 2 else tuple(ready.x.shape[1:])
        return Prepared(
            ready.x, ready.picture, Geometry.whole(ready.picture.size), ready.name, ready.notes, space=space
        )

    def _check_is_picture(self, source: Any) -> None:
        """Refuse a file that only another preprocessing reads.

        Raises:
            ImageError: naming that.
        """
        if not isinstance(source, (str, os.PathLike)) or os.path.isdir(source):
            return
        found = [reads for reads, endings in ENDINGS.items() if ending(source) in endings - SUFFIXES]
        if found:
            ways = " or ".join(f"preprocess=deepviz.{READERS[reads]}" for reads in found)
            named = " or ".join(f"--preprocess {reads}" for reads in found)
            raise ImageError(
                f"{shown(source)} is no picture: {self.name} takes it with {ways}, on the command line {named}"
            )

    def _prepare_tensor(self, source: Tensor) -> Prepared:
        x = _one_input(source, "a tensor is taken as preprocessed input, so it must be").detach()
        if _is_channels_last(x, self.module):
            raise ImageError(_CHANNELS_LAST.format(tuple(source.shape), "x"))
        known = self.preprocess if isinstance(self.preprocess, Preprocess) else None
        if known is not None and len(known.mean) == len(x):
            return Prepared(x, _picture(known.unnormalise(x)), _whole(x), "tensor")
        picture, notes = _stretched_picture(x)
        return Prepared(x, picture, _whole(x), "tensor", notes)


def _preprocessed(preprocess: Callable[[Image.Image], Any], photo: Photo) -> Any:
    try:
        return preprocess(photo.picture)
    except DeepVizError:
        raise
    except Exception as error:
        reason = in_one_line(error)
        raise ImageError(f"{photo.name}: the given preprocess failed on it: {reason}") from error


def _one_input(given: Any, expected: str, axes: int = 2) -> Tensor:
    shape = "(C, H, W)" if axes == 2 else "(C, D, H, W)"
    if not isinstance(given, Tensor):
        raise ImageError(f"{expected} one tensor {shape}, got {type(given).__name__}")
    x = given[0] if given.ndim == axes + 2 and len(given) == 1 else given
    if x.ndim != axes + 1 or 0 in x.shape or not x.is_floating_point():
        kind = str(x.dtype).removeprefix("torch.")
        raise ImageError(f"{expected} {shape} of floats, got {tuple(x.shape)} of {kind}")
    if not bool(x.isfinite().all()):
        raise ImageError("the input holds NaN or infinite values")
    return x


def _is_channels_last(x: Tensor, module: nn.Module) -> bool:
    """Whether three axes are (H, W, C), or four (D, H, W, C): as the model's first convolution tells, or one of 3
    channels if it has none."""
    first = next((one for one in module.modules() if isinstance(one, nn.Conv2d if x.ndim == 3 else nn.Conv3d)), None)
    if first is not None:
        return x.shape[0] != first.in_channels == x.shape[-1]
    return x.shape[-1] == 3 < min(x.shape[:-1])


def _is_bgr(x: Tensor, photo: Image.Image) -> bool:
    """Whether an input (3, H, W) has the colours of its image in the order blue, green, red.

    Red minus blue, each standardised, changes its sign with the order; whatever was cut off, and whatever the mean and
    standard deviation of the preprocessing are.
    """
    if len(x) != 3:
        return False
    size = (x.shape[2], x.shape[1])
    views = (photo.resize(size), ImageOps.fit(photo, size))
    seen = [_red_minus_blue(torch.from_numpy(np.array(view)).permute(2, 0, 1)) for view in views]
    given = _red_minus_blue(x.cpu())
    alike = [float((given * one).sum() / (given.norm() * one.norm()).clamp(min=1e-9)) for one in seen]
    return max(alike, key=abs) < -0.5


def _red_minus_blue(pixels: Tensor) -> Tensor:
    ends = pixels[[0, 2]].double().flatten(1)
    red, blue = (ends - ends.mean(1, keepdim=True)) / ends.std(1, keepdim=True).clamp(min=1e-9)
    difference: Tensor = red - blue
    return difference


def _several(images: Any, axes: int = 2) -> list[Any]:
    """One or several images as a list."""
    if isinstance(images, (Tensor, np.ndarray)):
        return list(images) if images.ndim == axes + 2 else [images]
    single = isinstance(images, (str, os.PathLike, Image.Image, Photo)) or not isinstance(images, Iterable)
    return [images] if single else list(images)


def _whole(x: Tensor) -> Geometry:
    return Geometry.whole((x.shape[2], x.shape[1]))


def _stretched_picture(x: Tensor) -> tuple[Image.Image | None, tuple[str, ...]]:
    low, high = x.min(), x.max()
    picture = _picture((x - low) / (high - low if high > low else 1))
    return picture, (_UNDRAWN.format(len(x)) if picture is None else _STRETCHED,)


def _picture(pixels: Tensor) -> Image.Image | None:
    if len(pixels) not in (1, 3):
        return None
    levels = pixels.float().clamp(0, 1).mul(255).round().to("cpu", torch.uint8)
    return Image.fromarray(levels.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy())
