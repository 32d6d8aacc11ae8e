"""Bands of TIFF and GeoTIFF files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from deepviz.errors import ImageError, MissingExtra, in_one_line
from deepviz.models.images import shown
from deepviz.models.stored import Stored, reading

NODATA = 42113
"""GDAL's tag of the value that stands for no data."""
EXTRA = "pip install 'deepviz[geo]'"


def read_tiff(path: Path) -> Stored:
    """The bands (C, H, W) of a file, at full resolution, NaN where its GDAL_NODATA says that there are no data.

    Raises:
        ImageError: if it cannot be read, or holds more than bands.
        MissingExtra: without tifffile, or what its compression needs.
    """
    name = shown(path)
    try:
        import tifffile
    except ImportError:
        raise MissingExtra(f"bands of {name} are read by tifffile: {EXTRA}") from None
    with reading(path), tifffile.TiffFile(path) as file:
        series = file.series[0]
        tag = series.keyframe.tags.get(NODATA)
        try:
            values, axes = series.asarray(), series.axes
        except ValueError as error:
            if "imagecodecs" not in str(error):
                raise
            raise MissingExtra(f"{name}: {in_one_line(error)}: {EXTRA}") from None
        others = [axis for axis, letter in enumerate(axes) if letter not in "YX" and values.shape[axis] > 1]
        if len(others) > 1 or "Y" not in axes or "X" not in axes:
            raise ImageError(f"{name} has the axes {axes}, {values.shape}: bands have one beside height and width")
        order = [*others, axes.index("Y"), axes.index("X")]
        alone = [axis for axis in range(values.ndim) if axis not in order]
        bands = values.transpose(*alone, *order).reshape(-1, *(values.shape[axis] for axis in order[-2:]))
        if bands.dtype.kind not in "biuf":
            raise ImageError(f"{name} holds {bands.dtype}, not real numbers")
        numbers = bands.astype(np.float32)
        if tag is not None:
            try:
                nodata = float(str(tag.value).strip("\0 "))
            except ValueError:
                raise ImageError(f"{name}: its tag GDAL_NODATA, {tag.value!r}, is no number") from None
            numbers[bands == bands.dtype.type(nodata)] = np.nan
    return Stored(numbers, shown(path.name))
