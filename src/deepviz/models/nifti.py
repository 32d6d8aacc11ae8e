"""Volumes in NIfTI files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from deepviz.errors import ImageError, MissingExtra
from deepviz.models.images import shown
from deepviz.models.orientation import directions_of
from deepviz.models.stored import Stored, reading


def read_nifti(path: Path) -> Stored:
    """A volume (C, X, Y, Z) in the order of the file, scaled as the file says.

    Raises:
        ImageError: if it cannot be read.
        MissingExtra: without nibabel.
    """
    try:
        import nibabel
    except ImportError:
        raise MissingExtra(f"{shown(path)} is NIfTI, which needs nibabel: pip install 'deepviz[medical]'") from None
    with reading(path):
        image: Any = nibabel.load(path)
        values = np.asarray(image.get_fdata(dtype=np.float32, caching="unchanged"))
        zooms = tuple(float(zoom) for zoom in image.header.get_zooms()[:3])
        stated = bool(image.header["sform_code"] or image.header["qform_code"])
        affine = np.asarray(image.affine, np.float64)
    if values.ndim == 5 and values.shape[3] == 1:  # a vector at each voxel
        values = values[:, :, :, 0]
    if values.ndim not in (3, 4):
        raise ImageError(f"{shown(path)} has {values.ndim} axes, {values.shape}: a volume has three, or channels last")
    channels = values[None] if values.ndim == 3 else np.moveaxis(values, -1, 0)
    notes = () if stated else ("the file does not state its orientation: axes are as stored",)
    directions = directions_of(affine[:3, :3].T) if stated else ""
    spacing = zooms if len(zooms) == 3 and min(zooms) > 0 else None
    return Stored(channels, shown(path.name), spacing, directions, notes)
