"""The input that stands for "nothing there": where a path starts, what a removed pixel becomes."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from deepviz.inputs import is_image_like
from deepviz.options import Baseline, Colour

Colours = Callable[[str], Tensor]
"""From the name of a colour to its value in the input's normalised space, (C, 1, 1)."""
BLUR = 0.1
"""The standard deviation of the blur, in shorter sides of the image."""
_COLOURS = get_args(Colour)


def resolve_baseline(baseline: Baseline, colours: Colours) -> Baseline:
    """The baseline "black" as what the preprocessing makes of black, and so on; any other as it is."""
    return colours(baseline) if isinstance(baseline, str) and baseline in _COLOURS else baseline


def reference(x: Tensor, baseline: Baseline) -> Tensor:
    """The baseline of each row of `x` (N, C, H, W), of the same shape and type.

    Raises:
        ValueError: for a colour by name, whose value is not known here, and a tensor that does not fit.
    """
    if isinstance(baseline, str):
        if baseline == "blur":
            if not is_image_like(x):
                raise ValueError(f"the baseline blur is for images (N, C, *space), not for an input {tuple(x.shape)}")
            return blurred(x, BLUR * min(x.shape[2:]))
        raise ValueError(
            f"the baseline {baseline!r} is a colour, and a bare module's preprocessing is unknown: use "
            "a loaded model, or give the number or tensor in the input's normalised space"
        )
    value = torch.as_tensor(baseline, dtype=x.dtype, device=x.device)
    try:
        return value.expand_as(x).clone()
    except RuntimeError:
        raise ValueError(
            f"the baseline {tuple(value.shape)} does not broadcast to the input {tuple(x.shape)}"
        ) from None


def blurred(x: Tensor, sigma: float) -> Tensor:
    """A Gaussian blur of standard deviation `sigma` pixels, the border pixels repeated outwards."""
    precise = x.to(torch.promote_types(x.dtype, torch.float32))
    radius = round(3 * sigma)
    offsets = torch.arange(-radius, radius + 1, dtype=precise.dtype, device=x.device)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum()).view(1, 1, -1)
    for axis in range(2, x.ndim):
        along = precise.movedim(axis, -1)
        rows = F.pad(along.reshape(-1, 1, along.shape[-1]), (radius, radius), mode="replicate")
        precise = F.conv1d(rows, kernel).view(along.shape).movedim(-1, axis)
    return precise.to(x.dtype)
