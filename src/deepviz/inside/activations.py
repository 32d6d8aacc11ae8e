"""`viz_activations`: the feature maps of an image at a layer."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor, nn

from deepviz.errors import LayerError
from deepviz.files import encoded, write_picture
from deepviz.geometry import Geometry
from deepviz.inside.loading import (
    ImageLike,
    Model,
    asked,
    checked_channels,
    feature_maps,
    figure,
    is_fine,
    on_its_device,
    picture_of,
    scale_of,
    take_model,
)
from deepviz.probe.borrow import borrowed
from deepviz.probe.grid import Grid
from deepviz.probe.layer_names import named
from deepviz.probe.layers import layer_title
from deepviz.render import Scale, Tile
from deepviz.render import heatmap as draw_heatmap
from deepviz.render import overlay as draw_overlay
from deepviz.render import sheet as draw_sheet

Channels = Literal["top"] | int | Sequence[int] | None
SHOWN = 16
"""Maps in the picture if no number is asked for."""


@dataclass(frozen=True, eq=False)
class Activations:
    """The feature maps of one image at one layer.

    Args:
        maps: (C, h, w), float32 on the CPU: all channels of the layer, as it answers.
        order: the channels asked for, in the order of the picture.
        shown: how many of them the picture shows.
        layer: its name.
        grid: how the layer's answer lies on the image.
        image: the image, upright; or the model's own input, drawn.
        geometry: where the model's input lies on `image`.
        model: its name.
        source: name of the image.
        title: the layer as people read it: of a module that is called several times "ReLU after conv2", else its name.
    """

    maps: Tensor
    order: tuple[int, ...]
    shown: int
    layer: str
    grid: Grid
    image: Image.Image
    geometry: Geometry
    model: str
    source: str
    title: str | None = None

    @property
    def named(self) -> str:
        """The layer's name, with its title if that says more."""
        return named(self.layer, self.title)

    @property
    def strengths(self) -> Tensor:
        """The mean positive activation of every channel, (C,)."""
        return self.maps.clamp(min=0).mean((1, 2))

    @cached_property
    def signed(self) -> bool:
        """Whether the layer's output has negative values, so that the maps are drawn about zero."""
        return bool((self.maps < 0).any())

    @property
    def fine(self) -> bool:
        """Whether the maps have many values, so that single ones do not count."""
        return is_fine(self.maps.shape[1:])

    @cached_property
    def silent(self) -> tuple[int, ...]:
        """The channels that are zero everywhere on this image; of all images, these would be dead."""
        return tuple((self.maps == 0).flatten(1).all(1).nonzero()[:, 0].tolist())

    def scale(self, channel: int) -> Scale:
        """From zero, or symmetric about it, to this channel's largest magnitude: each channel has its own scale.

        A fine map's ends at the 99.5th percentile, so that a few extreme values do not darken all others.

        Raises:
            LayerError: if there is no such channel.
        """
        (index,) = checked_channels([channel], len(self.maps), self.layer)
        return scale_of(self.maps[index], self.signed)

    def heatmap(self, channel: int, *, cmap: str | None = None, scale: Scale | None = None) -> Image.Image:
        """One map alone, at the size of its place on the image, in colour."""
        left, top, right, bottom = self.geometry.box
        size = (max(1, round(right - left)), max(1, round(bottom - top)))
        return draw_heatmap(self.maps[channel].numpy(), scale or self.scale(channel), cmap, size=size)

    def overlay(self, channel: int, *, cmap: str | None = None, scale: Scale | None = None) -> Image.Image:
        """One map on the image, at the image's size; what the model did not see is dimmed.

        Fine maps, and those with a sign, are drawn on its grey ghost: they would drown in its details and colours.
        """
        scale = scale or self.scale(channel)
        return draw_overlay(
            self.image, self.maps[channel].numpy(), self.geometry, scale, cmap=cmap, fine=self.fine or self.signed
        )

    def sheet(self) -> Image.Image:
        """The image, and a tile per channel, each on its own scale, whose range the tile shows."""
        channels = self.order[: self.shown]
        _, h, w = self.maps.shape
        return draw_sheet(
            self.source,
            self.image,
            [(f"{self.named}: {self._chosen}, {h} x {w}", [self._tile(channel) for channel in channels])],
            geometry=self.geometry,
            footer=f"{self.model} · every channel has its own scale",
        )

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the sheet, .png or .jpg.

        Raises:
            OutputError: if the ending is another, or the file cannot be written.
        """
        return write_picture(Path(path), self.sheet())

    def _tile(self, channel: int) -> Tile:
        values = self.maps[channel]
        low, high = float(values.min()), float(values.max())
        return Tile(
            picture=self.overlay(channel),
            caption=f"channel {channel}",
            detail=f"mean {float(self.strengths[channel]):.3g}, {low:.2g} to {high:.2g}",
            scale=self.scale(channel),
            warning="zero everywhere on this image" if channel in self.silent else "",
        )

    @property
    def _chosen(self) -> str:
        count, shown = len(self.maps), min(self.shown, len(self.order))
        return f"{shown} of {count} channels" if shown < count else f"{count} channels"

    def __repr__(self) -> str:
        silent = f", {len(self.silent)} of them silent" if self.silent else ""
        return (
            f"Activations({self.named}: {len(self.maps)} channels{silent}, {self.grid}, "
            f"strongest {list(self.order[:3])}, {self.source}, {self.model})"
        )

    def _repr_png_(self) -> bytes:
        return encoded(self.sheet())

    def _repr_html_(self) -> str:
        silent = f"{len(self.silent)} of {len(self.maps)} channels are zero everywhere on this image"
        lines = [f"{self.source} · {self.model} · {self.grid}", *([silent] if self.silent else [])]
        return figure(self.sheet(), f"{self.named}: {self._chosen}", lines)


def viz_activations(
    model: Model, image: ImageLike, layer: str | nn.Module, channels: Channels = None, *, preprocess: Any = None
) -> Activations:
    """The feature maps of an image at a layer, drawn on the image.

    Channels are ordered by their mean positive activation, strongest first:

        m_k = (1 / hw) sum_ij max(A_kij, 0)

    Args:
        model: an `nn.Module`, a `LoadedModel`, a name ("timm:resnet50"), or None for the bundled model.
        image: a path, PIL image, array or tensor.
        layer: a name from `viz_layers`, or the module.
        channels: None: all, of which the picture shows the strongest 16; "top": the strongest 16; a number: that
            many, strongest first; a list: those, in its order.
        preprocess: as for `deepviz.explain`.

    Returns:
        `.maps` (C, h, w) of all channels, `.order`, `.overlay(channel)`, `.sheet()`, `.save(path)`.

    Raises:
        LayerError: if there is no such layer or channel, or the layer has no spatial map.
        ImageError, ModelError: as for `deepviz.explain`.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 2))
        >>> activations = viz_activations(net, torch.rand(3, 8, 8), "1", channels=2)
        >>> activations.maps.shape, len(activations.order)
        (torch.Size([4, 6, 6]), 2)
    """
    loaded, call = take_model(model, image, preprocess)
    prepared = loaded.prepare(image)
    with borrowed(call.model):
        x = on_its_device(prepared.x[None], call.model)
        name, grid, maps = feature_maps(call, x, layer)
        if maps.ndim != 4:
            raise LayerError(
                f"layer {name!r} has maps {tuple(maps.shape[1:])} of an input {tuple(prepared.x.shape)}: channels are "
                "drawn of images alone; for signals and volumes explain the layer, such as with 'layer-cam'"
            )
        title = layer_title(asked(call, x, loaded.kind), name)
    order = _order(maps[0], channels, name)
    return Activations(
        maps=maps[0],
        order=order,
        shown=SHOWN if channels is None else len(order),
        layer=name,
        grid=grid,
        image=picture_of(prepared),
        geometry=prepared.geometry,
        model=loaded.name,
        source=prepared.name,
        title=title,
    )


def _order(maps: Tensor, channels: Channels, layer: str) -> tuple[int, ...]:
    strongest = torch.argsort(maps.clamp(min=0).mean((1, 2)), descending=True, stable=True).tolist()
    if channels is None:
        return tuple(strongest)
    if isinstance(channels, str):
        if channels != "top":
            raise LayerError(f"channels is a list of channels, a number, 'top' or None, got {channels!r}")
        return tuple(strongest[:SHOWN])
    if isinstance(channels, int):
        if isinstance(channels, bool) or channels < 1:
            raise LayerError(f"channels must be at least 1, got {channels}; for channel {int(channels)} give a list")
        return tuple(strongest[:channels])
    asked = checked_channels(channels, len(maps), layer)
    if not asked:
        raise LayerError("channels is an empty list; give at least one, or None for all")
    return tuple(asked)
