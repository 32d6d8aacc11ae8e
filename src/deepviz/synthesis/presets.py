"""The presets of `ImageGenerator`, by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from deepviz.errors import MethodError
from deepviz.names import nearest
from deepviz.objectives import L2, Objective
from deepviz.options import Frozen, Ge, Gt
from deepviz.synthesis.canvas import Canvas, Fourier, Magnitude, Pixels
from deepviz.synthesis.transforms import Crop, Noise, Rotate, Transform

Optimizer = Literal["adam", "ascent"]


@dataclass(frozen=True)
class Preset(Frozen):
    """Settings of an `ImageGenerator` that are not given otherwise.

    Args:
        canvas: what is optimised.
        transforms: the augmentations of each step.
        steps: how many steps.
        lr: the learning rate at the first step.
        cooling: factor on the learning rate at the last step; it falls along half a cosine.
        optimizer: "adam", or "ascent", plain gradient ascent.
        penalty: subtracted from the class logit (not from an objective that is given, whose scale it does not know).
        paper: its reference.
    """

    canvas: Canvas
    transforms: tuple[Transform, ...]
    steps: Annotated[int, Ge(1)]
    lr: Annotated[float, Gt(0)]
    cooling: Annotated[float, Gt(0)] = 0.1
    optimizer: Optimizer = "adam"
    penalty: Objective | None = None
    paper: str = ""


PRESETS = {
    "lucid": Preset(
        canvas=Fourier(),
        transforms=(Crop(), Rotate(), Noise()),
        steps=400,
        lr=0.1,
        paper="Olah, Mordvintsev and Schubert 2017, doi:10.23915/distill.00007",
    ),
    "maco": Preset(
        canvas=Magnitude(),
        transforms=(Crop(), Noise()),
        steps=400,
        lr=0.3,
        paper="Fel et al. 2023, arXiv:2306.06805",
    ),
    "simonyan": Preset(
        canvas=Pixels(noise=0.0),
        transforms=(),
        steps=200,
        lr=1.0,
        cooling=1.0,
        optimizer="ascent",
        penalty=1e-4 * L2(),
        paper="Simonyan, Vedaldi and Zisserman 2013, arXiv:1312.6034",
    ),
}
"""The presets of `ImageGenerator`, by name."""


def find_preset(name: str) -> Preset:
    """A preset by its name.

    Raises:
        MethodError: if there is none; with the nearest names.
    """
    if name not in PRESETS:
        hint = nearest(name, PRESETS) or f"; there are {', '.join(PRESETS)}"
        raise MethodError(f"no preset {name!r}{hint}")
    return PRESETS[name]
