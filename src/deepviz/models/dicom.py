"""Volumes in DICOM files: the slices of a series, or the frames of one file."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepviz.errors import ImageError, MissingExtra, in_one_line
from deepviz.models.images import is_dicom, shown
from deepviz.models.orientation import directions_of
from deepviz.models.stored import Stored, reading

UNEVEN = 0.1
"""Distances of slices that differ by more than this share are told."""
MISSING = 1.5
"""A distance of this many usual ones is a missing slice."""
TO_RAS = np.array([-1.0, -1.0, 1.0])
"""From DICOM's world, whose axes run left, posterior and superior."""


@dataclass(frozen=True, eq=False)
class _Slice:
    """One slice, or frame: where it is, as far as that is known.

    Args:
        path: of its file.
        groups: what holds its attributes, most special first.
        frame: which frame of the file.
    """

    path: Path
    groups: tuple[Any, ...]
    frame: int | None = None

    def get(self, keyword: str, within: str) -> Any:
        """An attribute of the slice; of a frame it lies in the sequence `within`."""
        with reading(self.path):  # values are converted when they are asked for
            for group in self.groups:
                for place in (group, *(getattr(group, within, None) or ())):
                    value = getattr(place, keyword, None)
                    if value is not None:
                        return value
        return None

    def numbers(self, keyword: str, within: str, count: int) -> NDArray[np.float64] | None:
        """Numbers of it; None if there are not so many."""
        value = self.get(keyword, within)
        with reading(self.path):
            found = None if value is None else np.atleast_1d(np.asarray(value, np.float64))
        return found if found is not None and found.shape == (count,) else None

    @property
    def position(self) -> NDArray[np.float64] | None:
        return self.numbers("ImagePositionPatient", "PlanePositionSequence", 3)

    @property
    def orientation(self) -> NDArray[np.float64] | None:
        return self.numbers("ImageOrientationPatient", "PlaneOrientationSequence", 6)

    @property
    def pixel_spacing(self) -> NDArray[np.float64] | None:
        return self.numbers("PixelSpacing", "PixelMeasuresSequence", 2)

    @property
    def thickness(self) -> float | None:
        for keyword in ("SpacingBetweenSlices", "SliceThickness"):
            found = self.numbers(keyword, "PixelMeasuresSequence", 1)
            if found is not None and found[0] > 0:
                return float(found[0])
        return None

    def rescaled(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        """The values in the units of the file, such as Hounsfield units: slope x pixel + intercept."""
        slope, intercept = (
            self.get(name, "PixelValueTransformationSequence") for name in ("RescaleSlope", "RescaleIntercept")
        )
        slope = 1.0 if slope is None else float(slope)
        return (pixels.astype(np.float64) * slope + float(intercept or 0)).astype(np.float32)


def read_dicom(path: Path) -> Stored:
    """A volume (C, D, H, W): one file, or the series in a folder, ordered by the positions of its slices.

    Raises:
        ImageError: for a file that cannot be read, a missing slice, or several series in a folder.
        MissingExtra: without pydicom.
    """
    try:
        import pydicom
    except ImportError:
        raise MissingExtra(f"{shown(path)} is DICOM, which needs pydicom: pip install 'deepviz[medical]'") from None
    if not path.is_dir():
        slices = _frames(path, _header(pydicom, path))
    else:
        files = sorted(one for one in path.iterdir() if one.is_file() and one.name[0] != "." and is_dicom(one))
        if not files:
            raise ImageError(f"{shown(path)} is a folder without DICOM files")
        headers = {file: _header(pydicom, file) for file in files}
        _check_one_series(path, headers)
        slices = [one for file, header in headers.items() for one in _frames(file, header)]
    slices, distance, notes = _ordered(path, slices)
    values = _values(pydicom, path, slices)
    first = slices[0]
    if first.get("PhotometricInterpretation", "") == "MONOCHROME1":
        notes = (*notes, "MONOCHROME1: low values are bright on a display; here they are dark")
    within = first.pixel_spacing
    depth = distance or first.thickness
    spacing = None if within is None or depth is None else (depth, float(within[0]), float(within[1]))
    # of one slice, the side that its number would run to is as good as its opposite
    directions = _directions(first) if len(slices) == 1 or distance is not None else ""
    return Stored(values, shown(path.name), spacing, directions, notes)


def _header(pydicom: Any, path: Path) -> Any:
    with reading(path):
        header = pydicom.dcmread(path, stop_before_pixels=True)
        if "Rows" not in header:
            raise ImageError(
                f"{shown(path)} holds no image, its modality is {header.get('Modality') or 'not stated'}: leave it out"
            )
        return header


def _frames(path: Path, header: Any) -> list[_Slice]:
    with reading(path):
        count = int(getattr(header, "NumberOfFrames", None) or 1)
    if count == 1:
        return [_Slice(path, _groups(header, 0))]
    return [_Slice(path, _groups(header, frame), frame) for frame in range(count)]


def _groups(header: Any, frame: int) -> tuple[Any, ...]:
    own = list(getattr(header, "PerFrameFunctionalGroupsSequence", None) or ())
    shared = list(getattr(header, "SharedFunctionalGroupsSequence", None) or ())
    return (*own[frame : frame + 1], *shared[:1], header)


def _check_one_series(folder: Path, headers: dict[Path, Any]) -> None:
    series = Counter(str(getattr(header, "SeriesInstanceUID", "")) for header in headers.values())
    if len(series) > 1:
        described = {
            str(getattr(header, "SeriesInstanceUID", "")): str(getattr(header, "SeriesDescription", "") or "unnamed")
            for header in headers.values()
        }
        held = ", ".join(f"{described[uid]} ({count} files)" for uid, count in series.items())
        raise ImageError(f"{shown(folder)} holds {len(series)} series: {held}; give each a folder of its own")


def _ordered(path: Path, slices: list[_Slice]) -> tuple[list[_Slice], float | None, tuple[str, ...]]:
    """The slices along their normal, and how far they are apart."""
    if len(slices) == 1:
        return slices, None, ()
    normal = _normal(slices[0])
    places = [one.position for one in slices]
    in_file = all(one.frame is not None for one in slices)
    if in_file and len({None if place is None else tuple(place) for place in places}) == 1:
        places = [None] * len(slices)  # that of the first frame, stated once
    if normal is None or any(place is None for place in places):
        if in_file:
            return slices, None, ("frames in the order of the file: it holds no positions",)
        lacking = next((one.path for one, place in zip(slices, places, strict=True) if place is None), slices[0].path)
        raise ImageError(
            f"{shown(lacking)} has no ImagePositionPatient and ImageOrientationPatient, by which the slices of "
            f"{shown(path.name)} are ordered: save them as one .npy (D, H, W)"
        )
    for one in slices[1:]:
        other = _normal(one)
        if other is None or abs(float(normal @ other)) < 1 - 1e-3:
            raise ImageError(f"{shown(one.path)} is not parallel to {shown(slices[0].path.name)}: is it a scout view?")
    at = np.array([float(normal @ place) for place in places if place is not None])
    order = np.argsort(at, kind="stable")
    sorted_slices = [slices[index] for index in order]
    steps = np.diff(at[order])
    usual = float(np.median(steps))
    same = int(np.argmin(steps))
    if steps[same] < 1e-3 or usual <= 0:
        raise ImageError(
            f"{shown(path)} has two slices at one place, {_called(sorted_slices[same])} and "
            f"{_called(sorted_slices[same + 1])}: give one volume, without other phases or copies"
        )
    widest = int(np.argmax(steps))
    if steps[widest] > MISSING * usual:
        raise ImageError(
            f"{shown(path)} lacks slices between {_called(sorted_slices[widest])} and "
            f"{_called(sorted_slices[widest + 1])}: they are {steps[widest]:.3g} mm apart, the others {usual:.3g} mm"
        )
    notes: tuple[str, ...] = ()
    if steps.max() - steps.min() > UNEVEN * usual:
        notes = (f"slices are {steps.min():.3g} to {steps.max():.3g} mm apart, and taken as evenly spaced",)
    return sorted_slices, float(steps.mean()), notes


def _called(one: _Slice) -> str:
    return shown(one.path.name) + ("" if one.frame is None else f" frame {one.frame + 1}")


def _normal(one: _Slice) -> NDArray[np.float64] | None:
    orientation = one.orientation
    if orientation is None:
        return None
    normal = np.cross(orientation[:3], orientation[3:])
    length = float(np.linalg.norm(normal))
    return normal / length if length > 1e-6 else None


def _directions(first: _Slice) -> str:
    orientation, normal = first.orientation, _normal(first)
    if orientation is None or normal is None:
        return ""
    # the rows follow each other along the direction of a column
    return directions_of(np.stack([normal, orientation[3:], orientation[:3]]) * TO_RAS)


def _values(pydicom: Any, path: Path, slices: list[_Slice]) -> NDArray[np.float32]:
    """(C, D, H, W) of slices in their order, each file read once."""
    found: dict[int, NDArray[np.float32]] = {}
    by_file: dict[Path, list[int]] = {}
    for number, one in enumerate(slices):
        by_file.setdefault(one.path, []).append(number)
    for file, numbers in by_file.items():
        try:
            data = pydicom.dcmread(file)
            pixels = np.asarray(data.pixel_array)
        except Exception as error:  # a broken file can make the decoders raise almost anything
            if "pylibjpeg" in str(error) or "gdcm" in str(error):
                raise MissingExtra(
                    f"{shown(file)} is compressed in a way that needs another package: pip install 'pylibjpeg[all]'"
                ) from None
            raise ImageError(f"{shown(file)} cannot be read, it may be damaged: {in_one_line(error)}") from error
        colours = int(getattr(data, "SamplesPerPixel", 1) or 1)
        pixels = pixels if colours > 1 else pixels[..., None]
        frames = pixels if pixels.ndim == 4 else pixels[None]
        for number in numbers:
            one = slices[number]
            found[number] = one.rescaled(np.moveaxis(frames[one.frame or 0], -1, 0))
    ((usual, _),) = Counter(pixels.shape for pixels in found.values()).most_common(1)
    for number, pixels in found.items():
        if pixels.shape != usual:
            raise ImageError(
                f"{shown(slices[number].path)} is {pixels.shape[1]} x {pixels.shape[2]} pixels, the other slices of "
                f"{shown(path.name)} are {usual[1]} x {usual[2]}"
            )
    return np.stack([found[number] for number in range(len(slices))], axis=1)
