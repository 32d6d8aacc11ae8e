"""From an image of many bands in a file to a model's input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from deepviz.errors import DeepVizError, ImageError, ModelError, in_one_line
from deepviz.models.dicom import read_dicom
from deepviz.models.images import ARRAYS, Reads, ending, is_dicom
from deepviz.models.stored import (
    ArrayPreprocess,
    Ready,
    Source,
    Stored,
    from_array,
    other_kind,
    path_of,
    read_array,
    resized,
)
from deepviz.models.tiff import read_tiff

TAILS = (0.02, 0.98)
"""Of a band's values, what is drawn black and what is drawn bright, where no window says it."""


@dataclass(frozen=True)
class BandPreprocess(ArrayPreprocess):
    """From an image of any number of bands to a model's input (C, H, W), with a stated picture of it.

    Images are .tif and .tiff (GeoTIFF; the extra `geo`), .npy and .npz arrays (H, W) or (C, H, W), such arrays
    themselves, and single DICOM files, such as radiographs (the extra `medical`). Values stay as they are stored, of 16
    bits or floating: `window` or `mean` and `std` scale them. NaN, and what GDAL_NODATA marks, becomes 0 in the model's
    input.

    Args:
        size: the model's input (H, W), to which images are resized whatever their proportions; one number for a square;
            None: as stored.
        window: (low, high): values are cut to these and scaled to 0..1, (0, 10000) for reflectances of Sentinel-2.
            None: they are taken as they are.
        mean: of each band that the model takes, or one for all, after the window.
        std: likewise.
        standardise: each band is given mean 0 and standard deviation 1 by its own values, in place of `mean` and `std`.
        interpolation: of the resizing: "linear", smoothed where an image shrinks; "area"; or "nearest".
        bands: which bands of the file the model takes, in its order, counted from 0. None: all.
        picture: how an image is drawn: the bands of the file, counted from 0, that are red, green and blue, (3, 2, 1)
            in Sentinel-2; or a callable from the file's bands, an array (C, H, W), to an array (H, W, 3) of floats
            from 0 to 1. None: three bands are red, green and blue; of any other number the mean is drawn in grey, and
            the result's notes say so.

    Raises:
        ModelError: for values that make no sense.

    Example:
        >>> ready = BandPreprocess(window=(0, 10000), picture=(3, 2, 1))(np.full((6, 8, 8), 5000.0))
        >>> ready.x.shape, ready.picture.getpixel((0, 0)), ready.notes
        (torch.Size([6, 8, 8]), (128, 128, 128), ('drawn in bands 3, 2, 1 as red, green, blue, from 0 to 10000',))
    """

    bands: tuple[int, ...] | None = None
    picture: tuple[int, int, int] | Callable[[Any], Any] | None = None

    reads: ClassVar[Reads] = "bands"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bands is not None:
            object.__setattr__(self, "bands", _counted("bands", self.bands))
        if self.picture is not None and not callable(self.picture):
            object.__setattr__(self, "picture", _counted("picture", self.picture))
            if len(self.picture) != 3:
                raise ModelError(f"picture must be three bands, or a callable, got {self.picture!r}")

    def __call__(self, source: Source) -> Ready:
        """The model's input for an image, with its picture."""
        stored = _read(source)
        whole = torch.from_numpy(np.ascontiguousarray(stored.values))
        taken = self._taken(whole, stored.name)
        values, missing = self._filled(torch.from_numpy(self._checked(_replaced(stored, taken)).values))
        size = self.size if isinstance(self.size, tuple) else tuple(values.shape[1:])
        x = self._normalised(self._windowed(resized(values, size, self.interpolation)))
        picture, drawn = self._drawn(whole, range(len(whole)), stored.name)
        return Ready(x, picture, stored.name, (*stored.notes, *missing, *drawn))

    def shows(self, x: Tensor) -> tuple[Image.Image, tuple[str, ...]]:
        """The picture of an input (C, H, W), whose channels are the bands that the model takes."""
        levels = self._levels(x)
        known = levels is not None
        values = x if levels is None else levels
        if self.window is not None and known:
            low, high = self.window
            values = low + values * (high - low)
        numbers = range(len(x)) if self.bands is None else self.bands
        return self._drawn(values.detach().float().cpu(), numbers, "the input", known)

    def example(self) -> Tensor | None:
        """An input of noise, of as many channels as are stated; None without a size."""
        channels = max(map(len, self.statistics))
        return self._noise(channels if self.bands is None else len(self.bands))

    def _taken(self, whole: Tensor, name: str) -> Tensor:
        if self.bands is None:
            return whole
        if max(self.bands) >= len(whole):
            raise ImageError(f"{name} has the bands 0 to {len(whole) - 1}, not {max(self.bands)}")
        return whole[list(self.bands)]

    def _drawn(
        self, values: Tensor, numbers: range | tuple[int, ...], name: str, known: bool = True
    ) -> tuple[Image.Image, tuple[str, ...]]:
        """The picture of bands (C, H, W) with these numbers, and how it is drawn."""
        if callable(self.picture):
            return _of_callable(self.picture, values.numpy(), name), ("drawn by the given picture=",)
        wanted = (0, 1, 2) if self.picture is None and len(values) == 3 else self.picture
        if wanted is None or any(band not in numbers for band in wanted):
            levels, how = self._bright(values, known)
            grey = levels.mean(0, keepdim=True).expand(3, -1, -1)
            if len(values) == 1:
                return _rgb(grey), (f"drawn {how}",)
            missing = "" if wanted is None else f", as it has not the bands {', '.join(map(str, wanted))}"
            hint = (
                "" if wanted is not None else "; picture=(3, 2, 1) of BandPreprocess states bands for red, green, blue"
            )
            return _rgb(grey), (f"drawn as the mean of {len(values)} bands in grey{missing}{hint}",)
        chosen = values[[list(numbers).index(band) for band in wanted]]
        levels, how = self._bright(chosen, known)
        return _rgb(levels), (f"drawn in bands {', '.join(map(str, wanted))} as red, green, blue, {how}",)

    def _bright(self, values: Tensor, known: bool) -> tuple[Tensor, str]:
        """Bands from 0 to 1, black where there are no data, and how."""
        if self.window is not None and known:
            low, high = self.window
            return self._windowed(values).nan_to_num(), f"from {low:g} to {high:g}"
        levels = torch.stack([_stretched(band) for band in values])
        each = "its" if len(values) == 1 else "each its"
        return levels, f"from {each} {TAILS[0]:.0%} to its {TAILS[1]:.0%} quantile".replace("%", " %")


def _counted(name: str, bands: Any) -> tuple[int, ...]:
    found = tuple(bands) if isinstance(bands, (tuple, list, range)) else ()
    if not found or any(isinstance(one, bool) or not isinstance(one, int) or one < 0 for one in found):
        raise ModelError(f"{name} must be numbers of bands, counted from 0, got {bands!r}")
    return found


def _replaced(stored: Stored, values: Tensor) -> Stored:
    return Stored(values.numpy(), stored.name, stored.spacing, stored.directions, stored.notes)


def _stretched(band: Tensor) -> Tensor:
    known = band[band.isfinite()].double()
    if not len(known):
        return torch.zeros_like(band)
    low, high = (float(np.quantile(known.numpy(), tail)) for tail in TAILS)
    if not low < high:  # nearly all are alike
        low, high = float(known.min()), float(known.max())
    return ((band - low) / (high - low if high > low else 1)).clamp(0, 1).nan_to_num()


def _rgb(levels: Tensor) -> Image.Image:
    pixels = levels.float().clamp(0, 1).mul(255).round().to("cpu", torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())


def _of_callable(picture: Callable[[Any], Any], values: Any, name: str) -> Image.Image:
    try:
        drawn = np.asarray(picture(values), np.float64)
    except DeepVizError:
        raise
    except Exception as error:  # a callable of the user's may raise anything
        raise ImageError(f"{name}: the given picture= failed on it: {in_one_line(error)}") from error
    if drawn.shape != (*values.shape[1:], 3):
        raise ImageError(f"{name}: picture= must return (H, W, 3) = {(*values.shape[1:], 3)}, got {drawn.shape}")
    return _rgb(torch.from_numpy(drawn).permute(2, 0, 1).nan_to_num())


def _read(source: Source) -> Stored:
    if isinstance(source, np.ndarray):
        return from_array(source, 2, "array")
    path = path_of(source, "an image of bands")
    if ending(path) in (".tif", ".tiff"):
        return read_tiff(path)
    if ending(path) in ARRAYS:
        return read_array(path, 2)
    if not path.is_dir() and is_dicom(path):
        return _slice(path)
    raise other_kind(path, "bands", "an image of bands")


def _slice(path: Path) -> Stored:
    stored = read_dicom(path)
    if stored.values.shape[1] != 1:
        raise ImageError(f"{stored.name} has {stored.values.shape[1]} frames: it is a volume, for VolumePreprocess")
    return Stored(stored.values[:, 0], stored.name, None, "", stored.notes)
