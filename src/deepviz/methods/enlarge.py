"""Coarse values at the size of an image, linear in each axis."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from deepviz.errors import LayerError

LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


def enlarged(values: Tensor, space: Sequence[int]) -> Tensor:
    """Values (..., 1, *grid) at the size `space`: (..., 1, *space)."""
    axes = len(space)
    if values.ndim - axes < 2 or values.shape[-axes - 1] != 1:
        # frames of a clip, which a callable took out of the channels
        raise LayerError(f"a map {tuple(values.shape)} cannot be enlarged to an image of {tuple(space)}: give layer=")
    flat = values.reshape(-1, 1, *values.shape[-axes:])
    up = F.interpolate(flat, tuple(space), mode=LINEAR[axes], align_corners=False)
    return up.view(*values.shape[:-axes], *space)
