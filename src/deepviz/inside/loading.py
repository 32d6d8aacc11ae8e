"""What every question about the inner layers starts from: a model, an image, and what a layer answers to it."""

from __future__ import annotations

import base64
import operator
import os
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any, SupportsIndex

import torch
from PIL import Image
from torch import Tensor, nn
from torch.overrides import BaseTorchFunctionMode

from deepviz.diagnostics import Diagnostics
from deepviz.errors import ImageError, LayerError
from deepviz.files import encoded
from deepviz.inputs import Inputs
from deepviz.models import LoadedModel, Prepared, Preprocess, load_model
from deepviz.models.stored import FilePreprocess
from deepviz.objectives.bound import bind, usual
from deepviz.probe.borrow import original
from deepviz.probe.call import Call
from deepviz.probe.capture import answering, spatial_tensor
from deepviz.probe.grid import Grid
from deepviz.probe.layers import choose_layer, grid_of
from deepviz.probe.outputs import Kind, describe, stated_kind
from deepviz.probe.session import Session
from deepviz.render import Scale

Model = LoadedModel | nn.Module | str | None
ImageLike = str | os.PathLike[str] | Image.Image | Tensor | Any
COARSE = 20
"""Maps with more rows and columns would drown in the image's own detail."""
UNSEEN = (128, 128, 128)
"""The picture under a map whose input has neither one nor three channels."""


def take_model(model: Model, image: object = None, preprocess: Any = None) -> tuple[LoadedModel, Call]:
    """The model, loaded, and a call of its module.

    Raises:
        TypeError: if model and image are swapped.
    """
    if isinstance(image, (nn.Module, LoadedModel)):
        raise TypeError("model and image are swapped: the order is (model, image)")
    loaded = load_model(model, preprocess=preprocess)
    return loaded, Call(original(loaded.module), Diagnostics())


def on_its_device(x: Tensor, module: nn.Module) -> Tensor:
    """`x` where the model's parameters are, in their floating type."""
    first = next((p for p in module.parameters() if p.is_floating_point()), None)
    return x if first is None else x.to(first)


def neutral_input(loaded: LoadedModel) -> Tensor:
    """Noise (1, C, H, W), or (1, C, D, H, W), of the size that the model's images have.

    Raises:
        ImageError: if that size is not known.
    """
    known = loaded.preprocess
    if isinstance(known, FilePreprocess):
        example = known.example()
        if example is None:
            raise ImageError(
                f"the input size of {loaded.name} follows the file: give one, or size= of its {type(known).__name__}"
            )
        return on_its_device(example[None], loaded.module)
    if not isinstance(known, Preprocess):
        raise ImageError(
            f"the input size of {loaded.name} is not known: give an image, such as torch.zeros(3, 224, 224), "
            "or preprocess=deepviz.Preprocess(224)"
        )
    height, width = (known.size, known.size) if isinstance(known.size, int) else known.size
    noise = torch.randn(1, len(known.mean), height, width, generator=torch.Generator().manual_seed(0))
    return on_its_device(noise, loaded.module)


def picture_of(image: Prepared) -> Image.Image:
    """What maps are drawn on; plain grey where the input cannot be shown."""
    return image.photo or Image.new("RGB", image.geometry.size, UNSEEN)


def feature_maps(call: Call, x: Tensor, layer: str | nn.Module) -> tuple[str, Grid, Tensor]:
    """The layer's name, how its answer lies on the image, and its maps (N, C, h, w) for x (N, C, H, W).

    Without a graph; tokens are laid out on their grid, class and register tokens left out.

    Raises:
        LayerError: if the layer is not called exactly once, has no spatial map, or returns NaN or infinity.
    """
    chosen = choose_layer(asked(call, x, stated_kind(call.model)), layer, still=True)
    found: list[Tensor] = []

    def remember(inputs: Any, output: Any) -> None:
        answer = spatial_tensor(output)
        if answer is None:
            raise LayerError(f"layer {chosen.name!r} returned no tensor to show: {describe(output)}")
        # a clone: the next layer may be an in-place ReLU
        found.append(answer.detach().clone())

    def forward(laid: Tensor) -> None:
        found.clear()
        # a mode that does nothing: without a graph, PyTorch's transformer layers skip their parts unless one watches
        with torch.no_grad(), BaseTorchFunctionMode(), answering(call.model, chosen.name, remember):
            call.run(laid)

    call.in_layout(x, forward)
    (answer,) = found
    grid = grid_of(chosen, answer, len(x))
    assert isinstance(grid, Grid)
    maps = grid.maps(answer).float().cpu().contiguous()
    if not bool(maps.isfinite().all()):
        raise LayerError(f"layer {chosen.name!r} returns NaN or infinity; choose an earlier one")
    return chosen.name, grid, maps


def asked(call: Call, x: Tensor | Inputs, kind: Kind) -> Session:
    """What the methods would ask of the model about the class that it predicts, or in the place of one."""
    inputs = x if isinstance(x, Inputs) else Inputs(x)
    return Session(call, inputs, bind(usual(kind), inputs.n), kind)


def one_input(loaded: LoadedModel, image: ImageLike | Inputs, module: nn.Module) -> Inputs:
    """One row that the model can be run on: of a picture, of a tensor (C, *space), or the first of some inputs.

    Raises:
        ImageError: if the picture cannot be opened, or a tensor has no spatial axes.
    """
    if isinstance(image, Inputs):
        return image.rows(slice(0, 1)).map(lambda leaf: on_its_device(leaf, module))
    if isinstance(image, Tensor) and (image.ndim in (2, 4) or (image.ndim == 5 and len(image) == 1)):
        # signals (C, L) and volumes (C, D, H, W); a single image comes as (1, C, H, W) too
        volume = image.ndim == 4 and isinstance(loaded.preprocess, FilePreprocess) and loaded.preprocess.axes == 3
        row = image if len(image) == 1 and image.ndim != 2 and not volume else image[None]
        return Inputs(on_its_device(row, module))
    return Inputs(on_its_device(loaded.prepare(image).x[None], module))


def checked_channels(channels: Iterable[SupportsIndex], count: int, layer: str) -> list[int]:
    """The channels as plain numbers.

    Raises:
        LayerError: for one that is no whole number, or that the layer does not have.
    """
    return [checked_number(channel, count, "channel", f"layer {layer!r} has") for channel in channels]


def checked_number(number: SupportsIndex, count: int, what: str, there_are: str = "there are") -> int:
    """The number of a channel, head or token, from 0 up, as a plain one.

    Raises:
        LayerError: if it is no whole number, or `count` or more.
    """
    if isinstance(number, bool) or not hasattr(number, "__index__"):
        raise LayerError(f"a {what} is a whole number, got {number!r}")
    if not 0 <= operator.index(number) < count:
        raise LayerError(f"{what} {number} is out of range: {there_are} {count}, 0 to {count - 1}")
    return operator.index(number)


def is_fine(size: Sequence[int]) -> bool:
    """Whether a map (h, w) has so many values that single ones do not count."""
    return min(size) > COARSE


def scale_of(values: Tensor, signed: bool) -> Scale:
    """From zero, or symmetric about it, to the largest magnitude of a map (h, w).

    A fine map's ends at the 99.5th percentile, so that a few extreme values do not darken all others.
    """
    return Scale.of(values.numpy(), signed, percentile=99.5 if is_fine(values.shape) else 100.0)


def figure(picture: Image.Image, title: str, lines: list[str]) -> str:
    """A picture with its caption as HTML, for notebooks."""
    data = base64.b64encode(encoded(picture)).decode()
    told = "".join(f"<br><small>{escape(line)}</small>" for line in lines)
    return (
        '<figure style="margin:0;display:inline-block;font:13px sans-serif">'
        f'<img style="max-width:100%" alt="{escape(title)}" src="data:image/png;base64,{data}">'
        f"<figcaption><b>{escape(title)}</b>{told}</figcaption></figure>"
    )
