"""Agreement of methods: the disagreement problem, Krishna et al. 2022."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from deepviz.metrics.metric import check_map, per_pixel
from deepviz.metrics.similarity import spearman

SHARE = 0.05
"""Of the pixels, how many count as the top ones."""


@dataclass(frozen=True, eq=False)
class Agreement:
    """How similar several maps of one image are, pair by pair.

    Args:
        names: of the M maps.
        magnitude: (M, M), the rank correlation of the magnitudes.
        signed: (M, M), the rank correlation of the signed values.
        overlap: (M, M), of the top pixels, how many two maps share; by chance it is `share`.
        share: how many of the pixels count as the top ones.
    """

    names: tuple[str, ...]
    magnitude: Tensor
    signed: Tensor
    overlap: Tensor
    share: float

    def rows(self) -> list[tuple[str, str, float, float, float]]:
        """For each pair of maps its names, magnitude, signed and overlap."""
        return [
            (
                self.names[i],
                self.names[j],
                float(self.magnitude[i, j]),
                float(self.signed[i, j]),
                float(self.overlap[i, j]),
            )
            for i, j in combinations(range(len(self.names)), 2)
        ]

    def __str__(self) -> str:
        width = max(len(f"{one}, {other}") for one, other, *_ in self.rows())
        head = f"{'':{width}}  magnitude  signed  top {self.share:.0%}"
        lines = [
            f"{f'{one}, {other}':{width}}  {magnitude:9.2f}  {signed:6.2f}  {overlap:{len('top ') + 2}.2f}"
            for one, other, magnitude, signed, overlap in self.rows()
        ]
        return "\n".join([head, *lines])


def agreement(maps: Mapping[str, Tensor], *, share: float = SHARE) -> Agreement:
    """Compare the maps of several methods for one image, pair by pair.

        magnitude_ij = Spearman(|a_i|, |a_j|)      signed_ij = Spearman(a_i, a_j)
        overlap_ij   = |top_k(|a_i|) and top_k(|a_j|)| / k,    k = share H W

    |a| is the maximum of |.| over the channels, a the sum over them; coarser maps are enlarged bilinearly to the
    pixels of the finest. Correlations are from -1 to 1, the overlap from 0 to 1. No forward passes.

    Equal values at the edge of the top count in parts, as many as there is room for: a map that is the same
    everywhere then overlaps with any other as chance does, and with itself fully. Its correlation with one that is
    not is 0, with another such map 1.

    Args:
        maps: by name, each (C, H, W) or (1, C, H, W), or (1, h, w) of a layer; at least two.
        share: of the pixels, how many count as the top ones.

    Raises:
        ValueError: for fewer than two maps, maps of several images, sizes that differ other than by a layer's
            resolution, values that are not finite, and a share outside 0 to 1.

    Pitfall: agreement is not truth. Gradient and gradient x image, guided backpropagation and Guided Grad-CAM agree
    because they share a formula; two maps that both draw the image's edges agree about the image.

    Reference: Krishna, Han, Gu, Pombra, Jabbari, Wu and Lakkaraju, "The Disagreement Problem in Explainable Machine
    Learning: A Practitioner's Perspective" (2022), arXiv:2202.01602. Their feature agreement is the overlap; they
    correlate the ranks of chosen features, here all pixels are ranked.

    Example:
        >>> import torch
        >>> from deepviz.metrics import agreement
        >>> a = torch.rand(3, 8, 8)
        >>> found = agreement({"one": a, "the same, doubled": 2 * a, "turned about": -a})
        >>> [(name, round(signed), round(overlap)) for _, name, _, signed, overlap in found.rows()]
        [('the same, doubled', 1, 1), ('turned about', -1, 1), ('turned about', -1, 1)]
    """
    if len(maps) < 2:
        raise ValueError(f"agreement is between maps, so give at least two, got {len(maps)}")
    if not 0 < share <= 1:
        raise ValueError(f"share must be above 0 and at most 1, got {share}")
    batches = {name: _batch(name, map_) for name, map_ in maps.items()}
    finest = max(batches.values(), key=lambda map_: map_.shape[2] * map_.shape[3])
    for name, batch in batches.items():
        try:
            check_map(batch, finest)
        except ValueError as error:
            raise ValueError(f"the map {name!r}: {error}") from None
    signed = torch.cat([per_pixel(map_, finest, "sum") for map_ in batches.values()])
    magnitude = torch.cat([per_pixel(map_, finest, "magnitude") for map_ in batches.values()])
    top = _top(magnitude.flatten(1), max(1, round(share * magnitude[0].numel())))
    pairs = [(i, j) for i in range(len(maps)) for j in range(len(maps))]
    one, other = (torch.tensor(index) for index in zip(*pairs, strict=True))
    shape = (len(maps), len(maps))
    return Agreement(
        names=tuple(maps),
        magnitude=spearman(magnitude[one], magnitude[other]).view(shape),
        signed=spearman(signed[one], signed[other]).view(shape),
        overlap=torch.stack([torch.minimum(top[i], top[j]).sum() / top[i].sum() for i, j in pairs]).view(shape),
        share=share,
    )


def _batch(name: str, map_: Tensor) -> Tensor:
    if not isinstance(map_, Tensor):
        raise TypeError(f"the map {name!r} must be a tensor (C, H, W), got {type(map_).__name__}")
    batch = map_.detach().cpu()
    batch = batch.double() if batch.is_floating_point() else batch
    batch = batch.unsqueeze(0) if batch.ndim == 3 else batch
    if batch.ndim != 4 or len(batch) != 1:
        raise ValueError(f"the map {name!r} must be of one image, (C, H, W) or (1, C, H, W), got {tuple(map_.shape)}")
    return batch


def _top(values: Tensor, k: int) -> Tensor:
    """How far each value of rows (M, pixels) belongs to the k largest: 1 above the k-th, 0 below, between for ties."""
    edge = values.topk(k, dim=1).values[:, -1:]
    above, at = (values > edge).double(), (values == edge).double()
    return above + at * (k - above.sum(1, keepdim=True)) / at.sum(1, keepdim=True)
