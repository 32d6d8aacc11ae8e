"""The explained tensors of an `Inputs`, row by row, each with the picture that its map is drawn on."""

from __future__ import annotations

from dataclasses import replace

from PIL import Image
from torch import Tensor

from deepviz.geometry import Geometry
from deepviz.inputs import Inputs
from deepviz.models.loaded import LoadedModel, Prepared
from deepviz.models.stored import MEAN_DRAWN, FilePreprocess, slices_picture, stretched
from deepviz.render.lines import line_plot

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
    known = loaded.preprocess if isinstance(loaded.preprocess, FilePreprocess) else None
    if x.ndim == (3 if known is None else known.axes + 1):
        return loaded.prepare(x)
    if x.ndim == 3:  # an image beside a volume
        return replace(loaded, preprocess=None).prepare(x)
    notes: tuple[str, ...] = ()
    space: tuple[int, ...] | None = tuple(x.shape[1:])
    if x.ndim == 4:
        picture = slices_picture(stretched(x.detach()))
        notes = () if len(x) in (1, 3) else (MEAN_DRAWN.format(len(x)),)
    elif x.ndim == 2:
        picture = line_plot(x.detach().float().cpu().numpy())
    else:
        picture, space = Image.new("RGB", TABLE, PLAIN), None
    return Prepared(x, picture, Geometry.whole(picture.size), "", notes, space=space)
