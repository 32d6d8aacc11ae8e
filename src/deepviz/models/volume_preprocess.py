"""From a volume in a file to a model's input."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from deepviz.errors import ImageError, ModelError
from deepviz.models.dicom import read_dicom
from deepviz.models.framing import floats
from deepviz.models.images import ARRAYS, NIFTI, Reads, ending, is_dicom
from deepviz.models.nifti import read_nifti
from deepviz.models.orientation import SIDES, is_orientation, oriented
from deepviz.models.stored import (
    MEAN_DRAWN,
    ArrayPreprocess,
    Ready,
    Source,
    Stored,
    from_array,
    other_kind,
    path_of,
    read_array,
    resized,
    slices_picture,
    stretched,
)


@dataclass(frozen=True)
class VolumePreprocess(ArrayPreprocess):
    """From a volume to a model's input (C, D, H, W): orientation, spacing or size, a window of values, normalisation.

    Volumes are .nii and .nii.gz (NIfTI); folders with the slices of one DICOM series, and single DICOM files; .npy and
    .npz arrays (D, H, W) or (C, D, H, W), and such arrays themselves. Slices of a series are ordered by
    ImagePositionPatient; values are in the units of the file (Hounsfield units, say): slope x stored + intercept. NaN
    becomes 0 in the model's input. NIfTI and DICOM need the extra `medical`.

    Args:
        size: the model's input (D, H, W), to which volumes are resized whatever their proportions; one number for a
            cube; None: as stored.
        window: (low, high): values are cut to these and scaled to 0..1, (-160, 240) for soft tissue in CT. None: they
            are taken as they are.
        mean: of each channel, or one for all, after the window.
        std: likewise.
        standardise: each channel is given mean 0 and standard deviation 1 by its own values, as is usual for MRI, in
            place of `mean` and `std`.
        interpolation: of the resizing: "linear", from the eight nearest voxels however much a volume shrinks; "area",
            the mean of those that become one; or "nearest".
        spacing: the distance of neighbouring voxels in the model's input in millimetres, along D, H and W or one for
            all, in place of `size`.
        orientation: the sides of the body to which D, H and W run, a letter each of right or left, anterior or
            posterior, superior or inferior. "SPL": axial slices from below, as displays have them, rows from the front
            to the back, columns from the patient's right to the left. "RAS" is MONAI's and nibabel's canonical order.
            None: as stored. Arrays have no known orientation and stay as they are.

    Raises:
        ModelError: for values that make no sense.

    Example:
        >>> ready = VolumePreprocess(size=(2, 4, 4), window=(-1000, 1000))(np.zeros((8, 8, 8)))
        >>> ready.x.shape, float(ready.x.mean())
        (torch.Size([1, 2, 4, 4]), 0.5)
    """

    spacing: float | tuple[float, float, float] | None = None
    orientation: str | None = "SPL"

    reads: ClassVar[Reads] = "volumes"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.spacing is not None:
            given = floats(self.spacing) if isinstance(self.spacing, Iterable) else floats(self.spacing) * 3
            if len(given) != 3 or not all(0 < one < float("inf") for one in given):
                raise ModelError(f"spacing must be millimetres, one number or three, got {self.spacing!r}")
            object.__setattr__(self, "spacing", given)
            if self.size is not None:
                raise ModelError("size and spacing both say how a volume is resized: give one of them")
        if self.orientation is not None and not is_orientation(self.orientation):
            raise ModelError(
                f"orientation must be one of R or L, A or P, S or I for each axis, such as 'SPL', or None, got "
                f"{self.orientation!r}"
            )

    def __call__(self, source: Source) -> Ready:
        """The model's input for a volume, with a picture of its slices."""
        stored = self._checked(_read(source))
        notes = [*stored.notes]
        if stored.directions:
            if self.orientation is not None:
                stored = oriented(stored, self.orientation)
            notes.append(
                f"axes run to {', '.join(SIDES[letter] for letter in stored.directions)} ({stored.directions})"
            )
        values, missing = self._filled(torch.from_numpy(np.ascontiguousarray(stored.values)))
        size = self._size_of(stored)
        spacing: tuple[float, ...] = ()
        if stored.spacing is not None:
            spacing = tuple(
                step * before / after
                for step, before, after in zip(stored.spacing, stored.values.shape[1:], size, strict=True)
            )
            notes.append(f"voxels of {' x '.join(f'{step:.3g}' for step in spacing)} mm")
        levels = self._windowed(resized(values, size, self.interpolation))
        picture, drawn = self._picture(levels)
        if spacing:
            picture.info["spacing"] = spacing
        return Ready(self._normalised(levels), picture, stored.name, (*notes, *missing, *drawn))

    def shows(self, x: Tensor) -> tuple[Image.Image, tuple[str, ...]]:
        """Slices of an input (C, D, H, W), and how they are drawn."""
        levels = self._levels(x)
        return self._picture(x, known=False) if levels is None else self._picture(levels)

    def example(self) -> Tensor | None:
        """An input of noise, of one channel or as many as `mean` has; None without a size."""
        return self._noise(max(map(len, self.statistics)))

    def _size_of(self, stored: Stored) -> tuple[int, ...]:
        shape = stored.values.shape[1:]
        if isinstance(self.size, tuple):
            return self.size
        if self.spacing is None:
            return shape
        if stored.spacing is None:
            raise ImageError(
                f"the spacing of {stored.name} is not known: give size=(D, H, W) instead of spacing, or a file that "
                "states it"
            )
        wanted = floats(self.spacing)
        return tuple(
            max(1, round(count * step / to)) for count, step, to in zip(shape, stored.spacing, wanted, strict=True)
        )

    def _picture(self, levels: Tensor, known: bool = True) -> tuple[Image.Image, tuple[str, ...]]:
        notes = [] if len(levels) in (1, 3) else [MEAN_DRAWN.format(len(levels))]
        if self.window is not None and known:
            low, high = self.window
            notes.append(f"drawn from {low:g} (black) to {high:g} (white)")
            return slices_picture(levels), tuple(notes)
        notes.append("drawn from its minimum to its maximum")
        return slices_picture(stretched(levels)), tuple(notes)


def _read(source: Source) -> Stored:
    if isinstance(source, np.ndarray):
        return from_array(source, 3, "array")
    path = path_of(source, "a volume")
    if ending(path) in NIFTI:
        return read_nifti(path)
    if ending(path) in ARRAYS:
        return read_array(path, 3)
    if path.is_dir() or is_dicom(path):
        return read_dicom(path)
    raise other_kind(path, "volumes", "a volume")
