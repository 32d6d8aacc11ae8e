"""The attention of a layer as the page takes it: every row of every head, packed."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deepviz.errors import NoAttention
from deepviz.inside import Attention

SPECIAL = 16
"""Rows of special tokens that are sent at most, those that the score reads first."""


@dataclass(frozen=True)
class PackedAttention:
    """The rows of one layer, for one image.

    Args:
        described: plain values for JSON.
        size: what they take in memory, in bytes.
    """

    described: dict[str, Any]
    size: int


def packed(found: Attention, most: int) -> PackedAttention:
    """The rows of the one layer of `found`.

    A map is a byte for each patch: the square root of its share of the map's largest value, in steps of 1/255. In order
    come the mean over heads and each head; of each the rows of the patches as they lie on the image, then those of
    special tokens; of a layer that pools the tokens those of its queries.

    Args:
        found: the attention of one layer.
        most: bytes of maps. What does not fit is the mean over heads alone.

    Raises:
        NoAttention: if the mean does not fit either.
    """
    (layer,) = found.matrices
    A, pools = found.matrix(layer), found.pools(layer)
    special = sorted(found.special, key=lambda position: position not in found.read)[:SPECIAL]
    queries = list(range(A.shape[1])) if pools else special
    patches = found.positions.flatten()
    rows = torch.tensor(queries) if pools else torch.cat([patches, torch.tensor(special, dtype=torch.long)])
    of_map = len(rows) * len(patches)
    if of_map > most:
        raise NoAttention(
            f"the rows of {found.grid} are {of_map} values, more than a page holds ({most}); use "
            "deepviz.viz_attention in Python"
        )
    mean_only = of_map * (1 + len(A)) > most
    maps = A.mean(0, keepdim=True) if mean_only else torch.cat([A.mean(0, keepdim=True), A])
    maps = maps[:, rows][:, :, patches]  # (maps, rows, patches)
    peaks = maps.amax(-1)
    levels = (255 * (maps / peaks.clamp_min(torch.finfo(maps.dtype).tiny)[..., None]).sqrt()).round().to(torch.uint8)
    box = found.geometry
    described = {
        "reason": "",
        "layer": layer,
        "grid": list(found.grid.size),
        "geometry": {"size": list(box.size), "box": list(box.box)},
        "heads": len(A),
        "mean_only": mean_only,
        "pools": pools,
        "others": len(found.special),
        "special": [found.called(position, layer) for position in queries],
        "levels": base64.b64encode(levels.numpy().tobytes()).decode(),
        "peaks": _floats(peaks),
        "sums": _floats(maps.sum(-1)),
    }
    return PackedAttention(described, 2 * levels.numel())


def _floats(values: Tensor) -> str:
    return base64.b64encode(values.numpy().astype("<f4").tobytes()).decode()
