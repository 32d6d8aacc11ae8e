"""`viz_filters`: the kernels of the layer that looks at the pixels, as small pictures."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from deepviz.errors import ImageError, LayerError, ModelError
from deepviz.files import encoded, write_picture
from deepviz.inside.loading import Model, figure, neutral_input, take_model
from deepviz.inside.receptive import module_calls
from deepviz.models import LoadedModel
from deepviz.probe.borrow import borrowed
from deepviz.probe.call import Call
from deepviz.probe.capture import answering, layer_name
from deepviz.probe.layer_names import path_of
from deepviz.render import Scale

COLOURS = (1, 3)
SIDE = 64
"""About how many pixels a kernel is drawn with."""
GAP, MARGIN, HEAD = 4, 16, 56


@dataclass(frozen=True, eq=False)
class Filters:
    """The kernels of a layer that acts on the image's pixels.

    Args:
        kernels: (K, C, h, w), float32 on the CPU, C = 3 colours or 1.
        layer: its name.
        model: its name.
    """

    kernels: Tensor
    layer: str
    model: str

    @cached_property
    def scale(self) -> Scale:
        """One for all kernels, symmetric about zero, to the 99.5th percentile of the weights' magnitude."""
        return Scale.of(self.kernels.numpy(), signed=True)

    def picture(self, index: int) -> Image.Image:
        """One kernel, a pixel per weight: 0 is mid grey, positive weights are brighter in their colour.

        Raises:
            LayerError: if there is no such kernel.
        """
        if not 0 <= index < len(self.kernels):
            raise LayerError(f"no kernel {index}: layer {self.layer!r} has {len(self.kernels)}")
        return Image.fromarray(self._levels[index])

    def sheet(self) -> Image.Image:
        """All kernels, enlarged without smoothing, in the order of the layer's channels."""
        count, _, h, w = self.kernels.shape
        enlarged = max(1, round(SIDE / max(h, w)))
        across, down = w * enlarged + GAP, h * enlarged + GAP
        columns = min(count, max(8, math.ceil(math.sqrt(1.5 * count * down / across))))
        rows = math.ceil(count / columns)
        page = Image.new("RGB", (max(columns * across - GAP, 520) + 2 * MARGIN, HEAD + rows * down + MARGIN), "white")
        draw = ImageDraw.Draw(page)
        draw.text((MARGIN, 10), f"{self.layer}: {self._words}", "#16181d", ImageFont.load_default(18))
        draw.text((MARGIN, 34), self._scale_in_words, "#6b7280", ImageFont.load_default(13))
        for index in range(count):
            place = (MARGIN + index % columns * across, HEAD + index // columns * down)
            page.paste(self.picture(index).resize((w * enlarged, h * enlarged), Image.Resampling.NEAREST), place)
        return page

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the sheet, .png or .jpg.

        Raises:
            OutputError: if the ending is another, or the file cannot be written.
        """
        return write_picture(Path(path), self.sheet())

    @cached_property
    def _levels(self) -> NDArray[np.uint8]:
        """(K, h, w, 3): 128 + 127 w / high."""
        shares = (self.kernels / self.scale.high).clamp(-1, 1)
        colours = shares.expand(-1, 3, -1, -1).movedim(1, -1)
        return (128 + 127 * colours).round().to(torch.uint8).numpy()

    @property
    def _words(self) -> str:
        count, channels, h, w = self.kernels.shape
        return f"{count} kernels, {h} x {w}, {'RGB' if channels == 3 else 'grey'}"

    @property
    def _scale_in_words(self) -> str:
        if self.scale.note:
            return f"weights are {self.scale.note}"
        return f"mid grey is 0; darkest and brightest are weights of ±{self.scale.high:.2g}, for all kernels"

    def __repr__(self) -> str:
        return f"Filters({self.layer}: {self._words}, weights to ±{self.scale.high:.2g}, {self.model})"

    def _repr_png_(self) -> bytes:
        return encoded(self.sheet())

    def _repr_html_(self) -> str:
        return figure(self.sheet(), f"{self.layer}: {self._words}", [self.model])


def viz_filters(model: Model, layer: str | nn.Module | None = None, *, preprocess: Any = None) -> Filters:
    """The kernels of a first convolution or patch embedding, as RGB tiles.

    Args:
        model: an `nn.Module`, a `LoadedModel`, a name ("timm:resnet50"), or None for the bundled model.
        layer: a module with kernels for 3 colours or 1: a convolution, or a linear layer that takes patches of
            pixels (their layout is found by running the model). None: the first convolution that is called on the
            image itself.
        preprocess: as for `deepviz.explain`.

    Raises:
        LayerError: if there is no such layer, or its kernels do not look at the image's colours; with the name of
            the first one that does.
        ModelError: if the weights hold NaN or infinity.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 16, 5), nn.ReLU(), nn.Conv2d(16, 8, 3))
        >>> viz_filters(net).kernels.shape
        torch.Size([16, 3, 5, 5])
        >>> viz_filters(net, "2")
        Traceback (most recent call last):
        deepviz.errors.LayerError: layer '2' (Conv2d, weight 8 x 16 x 3 x 3) is not applied to the image's \
colour channels; layer '0' does
    """
    loaded, call = take_model(model, preprocess=preprocess)
    with borrowed(call.model), torch.no_grad():
        name = _first(call, loaded) if layer is None else path_of(layer_name(call.model, layer))
        kernels = _kernels(call, loaded, name)
    if not bool(torch.isfinite(kernels).all()):
        raise ModelError(f"the weights of layer {name!r} hold NaN or infinity")
    return Filters(kernels.detach().float().cpu().clone(), name, loaded.name)


def _kernels(call: Call, loaded: LoadedModel, name: str) -> Tensor:
    module = call.model.get_submodule(name)
    weight = _convolution_weight(module)
    if weight is None and isinstance(module, nn.Linear):
        weight = _patches(call, loaded, name, module)
    elif weight is not None and _on_image(call, loaded).get(name) is False:
        weight = None
    if weight is not None:
        return weight
    found = getattr(module, "weight", None)
    what = f", weight {' x '.join(map(str, found.shape))}" if isinstance(found, Tensor) else ""
    first = _first_or_none(call, loaded)
    raise LayerError(
        f"layer {name!r} ({type(module).__name__}{what}) is not applied to the image's colour channels; "
        + ("no convolution of this model does" if first is None else f"layer {first!r} does")
    )


def _convolution_weight(module: nn.Module) -> Tensor | None:
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 4 or weight.shape[1] not in COLOURS:
        return None
    # a depthwise kernel has one channel too, but that is a feature map, not the image
    return weight if getattr(module, "groups", 1) == 1 else None


def _first(call: Call, loaded: LoadedModel) -> str:
    first = _first_or_none(call, loaded)
    if first is None:
        raise LayerError(
            "no convolution of this model is applied to the image's pixels; name a layer with layer=... "
            "(a linear patch embedding, for instance)"
        )
    return first


def _first_or_none(call: Call, loaded: LoadedModel) -> str | None:
    """The first convolution that is called on the image, or on something that may be it."""
    known = {path for path, module in call.model.named_modules() if path and _convolution_weight(module) is not None}
    called = {path: on_image for path, on_image in _on_image(call, loaded).items() if path in known}
    surely = (path for path, on_image in called.items() if on_image)
    return next(surely, None) or next((path for path, on_image in called.items() if on_image is None), None)


def _on_image(call: Call, loaded: LoadedModel) -> dict[str, bool | None]:
    """In the order of their calls, whether modules are called on the image itself.

    Of a model whose input size is not known: all that are listed, of which that cannot be said.
    """
    try:
        x = neutral_input(loaded)
    except ImageError:
        return {path: None for path, _ in call.model.named_modules()}
    on_image: dict[str, bool | None] = {}
    for one in module_calls(call, x):
        on_image.setdefault(one.path, one.on_image)
    return on_image


def _patches(call: Call, loaded: LoadedModel, name: str, module: nn.Linear) -> Tensor | None:
    """The rows of a linear layer's weight as pictures, if its inputs are patches of pixels, in whatever order.

    The model is run on an image whose every value is another number, which the layer's inputs give back.
    """
    try:
        like = neutral_input(loaded)
    except ImageError:
        raise LayerError(
            f"which pixels layer {name!r} (Linear) takes is found by running the model, whose input size is not "
            "known: give preprocess=deepviz.Preprocess(224)"
        ) from None
    numbers = torch.arange(like.numel(), dtype=torch.float64, device=like.device).reshape(like.shape)
    # a power of two: what the model's type does not round is found again exactly
    scale = 2 * torch.finfo(like.dtype).eps
    given: list[Tensor] = []

    def remember(inputs: Any, output: Any) -> None:
        given.append(inputs[0].detach().clone())

    def forward(laid: Tensor) -> None:
        given.clear()
        with answering(call.model, name, remember):
            call.run(laid)

    call.in_layout((numbers * scale).to(like), forward)
    patch = given[0].reshape(-1, module.in_features)[0].double() / scale
    block = _block(patch, like.shape[1:])
    if block is None:
        return None
    place, shape = block
    kernels = torch.empty_like(module.weight)
    kernels[:, place] = module.weight
    return kernels.reshape(-1, *shape)


def _block(patch: Tensor, image: torch.Size) -> tuple[Tensor, tuple[int, int, int]] | None:
    """Where each input of a linear layer belongs in a picture (C, h, w), if they are a rectangle of the image."""
    index = patch.round().long()
    channels, height, width = image
    if not torch.equal(index.double(), patch) or int(index.min()) < 0 or int(index.max()) >= channels * height * width:
        return None
    channel, row, column = index // (height * width), index // width % height, index % width
    row, column = row - row.min(), column - column.min()
    h, w = int(row.max()) + 1, int(column.max()) + 1
    place = (channel * h + row) * w + column
    if channels not in COLOURS or channels * h * w != len(patch) or len(place.unique()) != len(place):
        return None
    return place, (channels, h, w)
