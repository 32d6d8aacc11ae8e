"""Overlapping regions of an image, for methods that attribute to regions."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepviz.errors import MissingExtra

SCALES = (50, 100, 150, 250, 500, 1200)
"""Felzenszwalb's parameter, from small regions to large ones."""
SIGMA = 0.8
SIDE = 224
"""The regions are found in the image at this size, which the scales are for."""
MIN_SIZE = 150
"""Pixels of the smallest region, at that size."""


def segments(image: Tensor, dilation: int) -> NDArray[np.bool_]:
    """The regions of an image (C, H, W) at six scales, each enlarged by a disk: (regions, H, W).

    The image is scaled to -1 .. 1 by its own range. If it has neither one channel nor three, their mean is looked at.

    Raises:
        MissingExtra: without scikit-image.
    """
    values = image.detach().to("cpu", torch.float64)
    if len(values) not in (1, 3):
        values = values.mean(0, keepdim=True)
    low, high = float(values.min()), float(values.max())
    pixels = (2 * (values - low) / max(high - low, np.finfo(float).tiny) - 1).permute(1, 2, 0).numpy()
    found = _labels(np.ascontiguousarray(pixels).tobytes(), pixels.shape)
    return np.stack([_dilated(labels == label, dilation) for labels in found for label in np.unique(labels)])


# several methods and objectives look at the same image
@lru_cache(maxsize=16)
def _labels(pixels: bytes, shape: tuple[int, ...]) -> list[NDArray[np.int64]]:
    """The number of each pixel's region, (H, W), at each scale."""
    try:
        from skimage.segmentation import felzenszwalb
        from skimage.transform import resize
    except ImportError:
        raise MissingExtra("XRAI needs scikit-image: pip install 'deepviz[regions]'") from None
    image = np.frombuffer(pixels).reshape(shape)
    image = resize(image, (SIDE, SIDE), order=3, mode="edge", preserve_range=True, anti_aliasing=True)
    found = []
    for scale in SCALES:
        labels = felzenszwalb(image, scale=scale, sigma=SIGMA, min_size=MIN_SIZE, channel_axis=-1)
        labels = resize(labels, shape[:2], order=0, preserve_range=True, mode="edge", anti_aliasing=False)
        found.append(labels.astype(np.int64))
    return found


def _dilated(mask: NDArray[np.bool_], radius: int) -> NDArray[np.bool_]:
    """A region and all within `radius` pixels of it; only the part of the image around it is looked at."""
    from skimage.morphology import dilation, disk

    around = tuple(
        slice(max(0, int(places.min()) - radius), int(places.max()) + radius + 1) for places in np.nonzero(mask)
    )
    grown = mask.copy()
    grown[around] = dilation(mask[around], footprint=disk(radius))
    return grown


def ranked(attribution: NDArray[np.float64], regions: NDArray[np.bool_], smallest: int) -> NDArray[np.float64]:
    """The mean attribution of what each region adds, (H, W), regions taken in the order of that.

    Of all regions that would add at least `smallest` pixels, the one whose new pixels have the largest mean is taken,
    until there is none; what is left has its own mean. So the sum is that of the attribution.
    """
    A, masks = attribution.ravel(), regions.reshape(len(regions), -1)
    sums = np.array([A[mask].sum() for mask in masks])
    counts = masks.sum(1)
    left = np.ones(len(A), dtype=bool)
    R = np.zeros_like(A)
    while len(large := np.flatnonzero(counts >= smallest)):
        best = large[np.argmax(sums[large] / counts[large])]
        new = np.flatnonzero(masks[best] & left)
        R[new] = A[new].mean()
        left[new] = False
        held = masks[:, new]
        sums -= held @ A[new]
        counts = counts - held.sum(1)
    if left.any():
        R[left] = A[left].mean()
    return R.reshape(attribution.shape)
