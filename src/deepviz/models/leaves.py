"""The explained tensors of an `Inputs`, row by row, each with the picture that its map is drawn on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from deepviz.geometry import Geometry
from deepviz.inputs import Inputs
from deepviz.models.loaded import LoadedModel, Prepared
from deepviz.render.lines import line_plot
from deepviz.render.slices import side_by_side

PLAIN = (128, 128, 128)
TABLE = (480, 120)
"""The picture of what cannot be drawn, and its size."""


def prepared_leaves(loaded: LoadedModel, inputs: Inputs) -> list[tuple[Prepared, ...]]:
    """For each row its explained tensors: images as they are, volumes and clips slice by slice, signals as lines; of
    anything else there is no picture."""
    names = inputs.names if len(inputs.leaves) > 1 else ("",)
    title = "inputs" if len(inputs.leaves) > 1 else "tensor"
    return [
        tuple(
            replace(_prepared(loaded, leaf[row]), name=title if inputs.n == 1 else f"{title} {row}", input=name)
            for leaf, name in zip(inputs.leaves, names, strict=True)
        )
        for row in range(inputs.n)
    ]


def _prepared(loaded: LoadedModel, x: Tensor) -> Prepared:
    """One explained tensor of one row, (C, *space) or anything else."""
    if x.ndim == 3:
        return loaded.prepare(x)
    values = x.detach().float().cpu().numpy()
    space: tuple[int, ...] | None = tuple(x.shape[1:])
    if x.ndim == 4:
        picture = _slices(values)
    elif x.ndim == 2:
        picture = line_plot(values)
    else:
        picture, space = Image.new("RGB", TABLE, PLAIN), None
    return Prepared(x, picture, Geometry.whole(picture.size), "", space=space)


def _slices(volume: NDArray[np.float32]) -> Image.Image:
    """Slices of (C, D, H, W) in grey, or in colour if there are three channels, from its minimum to its maximum."""
    channels = volume if len(volume) == 3 else volume.mean(0, keepdims=True).repeat(3, 0)
    low, high = float(channels.min()), float(channels.max())
    levels = (channels - low) / (high - low if high > low else 1) * 255
    return Image.fromarray(side_by_side(np.rint(levels.transpose(1, 2, 3, 0)).astype(np.uint8)))
