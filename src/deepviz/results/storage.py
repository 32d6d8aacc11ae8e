"""Results in a file and back: one zip with a JSON header, the images, and maps of 16 bits.

The format is described for readers without DeepViz in docs/results.md.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import warnings
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from deepviz import catalog
from deepviz.codec import Codec, NotStored
from deepviz.errors import MethodError, StoredError, in_one_line
from deepviz.files import encoded, versions, write_bytes
from deepviz.geometry import Geometry
from deepviz.methods.method import Method, View
from deepviz.objectives import from_plain, to_plain
from deepviz.probe.session import Session
from deepviz.render.slices import Spacing, spacing_of
from deepviz.results.explanation import Detected, ExplainedTarget, Explanation, Word

FORMAT = "deepviz results"
VERSION = 2
LEVELS = 65535
"""The highest of the whole numbers that stand for a map's values."""
MOST_BYTES = 2**31
"""Of what a file may unpack to."""
MOST_HEADER = 2**26
WEIGHTS = "weights sha256"
"""The note that names the network exactly, for those who know it: `models.weights.weights_hash`."""


def save_explanations(explanations: Sequence[Explanation], path: str | os.PathLike[str]) -> Path:
    """Write results, with their images, to one `.deepviz` file; `load_explanations` reads it.

    Values are kept to half of 1/65535 of their range, images exactly, each once however many results share it.

    Args:
        explanations: as `explain` returns them; any number, of any images, models and methods.
        path: of the file; without an ending it gets `.deepviz`.

    Returns:
        The path.

    Raises:
        ValueError: if there is nothing to save, or a map with NaN or infinity.
        OutputError: if the file cannot be written; nothing half-written is left.
    """
    path = Path(path)
    return write_bytes(path if path.suffix else path.with_suffix(".deepviz"), packed(explanations))


def load_explanations(path: str | os.PathLike[str]) -> list[Explanation]:
    """Read the results in a `.deepviz` file, in the order in which they were saved; of a folder, those of all such
    files in it and in the folders below, by name.

    A file never makes Python import anything: a method from outside this package comes back as itself if its module
    is imported already, else as a `StoredMethod`, which can be drawn but not called. Callables that were explained
    come back by name.

    Raises:
        StoredError: if there is no such file or none in the folder, or one is foreign, damaged, too large, or of a
            newer format.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(path.rglob("*.deepviz"))
        if not files:
            raise StoredError(f"{path} holds no .deepviz file; deepviz explain --format deepviz writes them")
        return [one for file in files for one in load_explanations(file)]
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StoredError(f"cannot read {path}: {error.strerror or error}") from None
    return unpacked(content, str(path))


def packed(explanations: Sequence[Explanation]) -> bytes:
    """The content of the file that `save_explanations` writes; the same for the same results."""
    if isinstance(explanations, Explanation):
        explanations = [explanations]
    if not explanations:
        raise ValueError("no explanations to save")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        photographs = Photographs()
        results = []
        for number, explanation in enumerate(explanations):
            name = f"maps/{number}.u16"
            result = _described(explanation) | {"photograph": photographs.index(explanation.image)}
            result["map"] = _add_map(archive, name, explanation.attribution)
            if explanation.standard_error is not None:
                result["standard error"] = _add_map(archive, f"errors/{number}.u16", explanation.standard_error)
            results.append(result)
        for entry, picture in zip(photographs.entries, photographs.pictures, strict=True):
            _add(archive, entry["file"], encoded(picture), zipfile.ZIP_STORED)
        header = {
            "format": FORMAT,
            "version": VERSION,
            "written by": versions(),
            "photographs": photographs.entries,
            "results": results,
        }
        text = json.dumps(header, ensure_ascii=False, allow_nan=False, indent=1)
        _add(archive, "header.json", text.encode(), zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def _add_map(archive: zipfile.ZipFile, name: str, values: Tensor) -> dict[str, Any]:
    """Write a map; where it is, and what its whole numbers stand for."""
    low, high, levels = quantised(values.numpy(), LEVELS)
    _add(archive, name, levels.astype("<u2").tobytes(), zipfile.ZIP_DEFLATED)
    return {"file": name, "shape": list(values.shape), "low": low, "high": high}


def quantised(values: NDArray[Any], levels: int) -> tuple[float, float, NDArray[np.float64]]:
    """Lowest and highest value, and each value as the nearest whole number q from 0 to `levels`.

    The value is low + q (high - low) / levels, to within half a step.

    Raises:
        ValueError: for NaN or infinity.
    """
    low, high = float(values.min()), float(values.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("the map holds NaN or infinity, which cannot be stored")
    return low, high, np.rint((values.astype(np.float64) - low) * (levels / ((high - low) or 1.0)))


def _add(archive: zipfile.ZipFile, name: str, content: bytes, compression: int) -> None:
    # without the time of day, so that the same results give the same file
    entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    entry.compress_type = compression
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, content)


class Photographs:
    """Each image once, however many results share it: `pictures`, in RGB and without profiles."""

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []
        self.pictures: list[Image.Image] = []
        self._known: dict[str, int] = {}
        self._seen: dict[int, int] = {}

    def index(self, picture: Image.Image) -> int:
        """The position of the picture, by its pixels, among those seen so far."""
        if id(picture) not in self._seen:
            plain = without_profile(picture)
            digest = hashlib.sha256(f"{plain.size}".encode() + plain.tobytes()).hexdigest()
            spacing = spacing_of(picture)
            if spacing is not None:
                digest += str(spacing)
            if digest not in self._known:
                number = self._known[digest] = len(self.entries)
                stated = {} if spacing is None else {"spacing": list(spacing)}
                self.entries.append({"file": f"photographs/{number}.png", "size": list(plain.size), **stated})
                self.pictures.append(plain)
            self._seen[id(picture)] = self._known[digest]
        return self._seen[id(picture)]


def without_profile(picture: Image.Image) -> Image.Image:
    """The picture in RGB without the colour profile and remarks of the file it came from: its numbers alone."""
    plain = picture.convert("RGB")
    return Image.frombytes("RGB", plain.size, plain.tobytes())


def _described(explanation: Explanation) -> dict[str, Any]:
    """Everything about a result but its map and image, as plain values."""
    notes = dict(explanation.notes)
    target = explanation.target
    return {
        "method": METHODS.encode(explanation.method),
        "title": explanation.title,
        "target": plain_value(
            {"index": target.index, "label": target.label, "probability": target.probability, "score": target.score}
        )
        | {"callable": target.holds_callable or "target" in notes}
        | ({} if target.objective is None else {"objective": to_plain(target.objective)})
        | ({} if target.box is None else {"box": list(target.box)}),
        "layer": explanation.layer,
        "input": explanation.input,
        "columns": list(explanation.columns),
        "space": None if explanation.space is None else list(explanation.space),
        "predictions": [list(one) for one in explanation.predictions],
        "detections": [[one.label, one.score, list(one.box)] for one in explanation.detections],
        "words": [[word.text, word.tokens, list(word.field)] for word in explanation.words],
        "geometry": {"size": list(explanation.geometry.size), "box": list(explanation.geometry.box)},
        "view": explanation.method.view,
        "coarse": explanation.method.coarse,
        "model": explanation.model,
        "weights sha256": notes.pop(WEIGHTS, None),
        "source": explanation.source,
        "metrics": plain_value(notes.pop("checks", {})),
        "notes": plain_value({key: value for key, value in notes.items() if key != "target"}),
        "versions": plain_value(explanation.versions),
    }


def plain_value(value: Any) -> Any:
    """What JSON can hold of a value; numbers that are not finite become words."""
    if isinstance(value, Mapping):
        return {str(key): plain_value(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_value(inner) for inner in value]
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return value if isinstance(value, float) and math.isfinite(value) else str(value)


@dataclass(frozen=True)
class StoredMethod(Method):
    """Stands in for the method of a stored result that cannot be made here: it is drawn the same, but not called.

    Args:
        stored: the method's name in the file.
        options: its options there, as JSON.
        caption: what captions call it.
        drawn: how its map becomes a picture.
        cells: whether its map has a layer's few cells.
        reason: why it cannot be made.
    """

    stored: str = ""
    options: str = "{}"
    caption: str = ""
    drawn: View = "magnitude"
    cells: bool = False
    reason: str = ""

    def maps(self, session: Session) -> Tensor:
        """Nothing can be computed.

        Raises:
            MethodError: always.
        """
        raise MethodError(f"{self.caption} was read from a file and cannot be called here: {self.reason}")

    @property
    def view(self) -> View:
        """As it was when the result was saved."""
        return self.drawn

    @property
    def coarse(self) -> bool:
        """As it was when the result was saved."""
        return self.cells

    def __str__(self) -> str:
        return self.caption


def _first_version(held: Mapping[str, Any]) -> Mapping[str, Any]:
    """What 0.1 wrote for a method, as it is written now."""
    return {"is": held["name"], **held["options"]} if held.keys() == {"name", "options"} else held


def _again(value: Any) -> dict[str, Any] | None:
    """A method that was read from a file and could not be made: as it stood there."""
    return {"is": value.stored, **json.loads(value.options)} if isinstance(value, StoredMethod) else None


METHODS = Codec(lambda: catalog.METHODS, Method, _first_version, _again)
"""Methods with their options as plain values, and back."""


def unpacked(content: bytes, name: str) -> list[Explanation]:
    """The results in the content of a `.deepviz` file; `name` is what errors call it.

    Raises:
        StoredError: as `load_explanations` does.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return _Reader(archive, name).explanations()
    except zipfile.BadZipFile:
        raise StoredError(f"{name} is not a file of stored results, or it is truncated") from None
    except (zlib.error, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        raise StoredError(f"{name} is damaged: {in_one_line(error)}") from None
    except (KeyError, IndexError, TypeError, ValueError, OverflowError, RecursionError) as error:
        if isinstance(error, StoredError):
            raise
        raise StoredError(f"{name} is damaged: its header does not fit ({in_one_line(error)})") from None


class _Reader:
    """Reads one file, and no more of it than its header has said and its bounds allow."""

    def __init__(self, archive: zipfile.ZipFile, name: str) -> None:
        self.archive, self.name = archive, name
        self.left = MOST_BYTES
        unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > MOST_BYTES:
            raise StoredError(f"{name} would unpack to {unpacked / 2**30:.1f} GiB, more than {MOST_BYTES / 2**30:.0f}")

    def explanations(self) -> list[Explanation]:
        header = self.header()
        pictures = [self.photograph(entry) for entry in header["photographs"]]
        return [self.explanation(result, pictures) for result in header["results"]]

    def header(self) -> dict[str, Any]:
        if "header.json" not in self.archive.namelist():
            raise StoredError(f"{self.name} is a zip file, but not one of stored results: it has no header.json")
        header = json.loads(self.member("header.json"))
        if not isinstance(header, dict) or header.get("format") != FORMAT:
            raise StoredError(f"{self.name} is not a file of stored results: its header does not name {FORMAT!r}")
        if not isinstance(header["version"], int) or header["version"] > VERSION:
            raise StoredError(
                f"{self.name} has format {header['version']!r}, this version of DeepViz reads up to {VERSION}: "
                "pip install -U deepviz"
            )
        return header

    def spend(self, count: int) -> None:
        """Count the bytes that a picture or map takes, however often one member of the archive is named."""
        self.left -= count
        if self.left < 0:
            raise StoredError(
                f"{self.name} would take more than {MOST_BYTES / 2**30:.0f} GiB; save fewer results in one"
            )

    def member(self, name: str, size: int | None = None) -> bytes:
        """One file of the archive, of just that size if one is given."""
        try:
            entry = self.archive.getinfo(name)
        except KeyError:
            raise StoredError(f"{self.name} is damaged: {name} is missing") from None
        most = MOST_HEADER if size is None else size
        with self.archive.open(entry) as file:
            content = file.read(most + 1)  # whatever sizes the archive declares
        if len(content) > most or (size is not None and len(content) < size):
            raise StoredError(f"{self.name} is damaged: {name} is not of the size that its header says")
        return content

    def photograph(self, entry: dict[str, Any]) -> Image.Image:
        width, height = map(int, entry["size"])
        most = Image.MAX_IMAGE_PIXELS or MOST_BYTES
        if not (width > 0 and height > 0 and width * height <= most):
            raise StoredError(f"{self.name}: an image of {width} x {height} is refused; the limit is {most} pixels")
        self.spend(3 * width * height)
        stored = self.archive.getinfo(entry["file"]).file_size
        content = self.member(entry["file"], stored)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                picture = Image.open(io.BytesIO(content), formats=("PNG",))
                if picture.size == (width, height):
                    read = picture.convert("RGB")
                    if entry.get("spacing"):
                        read.info["spacing"] = _spacing(entry["spacing"])
                    return read
        except Exception as error:  # a broken file can make Pillow's decoders raise almost anything
            raise StoredError(f"{self.name} is damaged: {entry['file']}: {in_one_line(error)}") from None
        raise StoredError(f"{self.name} is damaged: {entry['file']} is {picture.size}, not {(width, height)}")

    def explanation(self, result: dict[str, Any], pictures: list[Image.Image]) -> Explanation:
        picture = pictures[_natural(result["photograph"])]
        geometry = Geometry(_pair(result["geometry"]["size"]), _box(result["geometry"]["box"]))
        if geometry.size != picture.size:
            raise ValueError(f"a geometry of {geometry.size} on an image of {picture.size}")
        notes = _frozen(result["notes"])
        if result["metrics"]:
            notes["checks"] = _frozen(result["metrics"])
        if result["weights sha256"]:
            notes[WEIGHTS] = str(result["weights sha256"])
        if result["target"].get("callable"):
            notes["target"] = "held a callable, which is not stored"
        return Explanation(
            attribution=self.map(result["map"]),
            image=picture,
            geometry=geometry,
            method=method_of(result),
            target=_target(result["target"]),
            model=str(result["model"]),
            source=str(result["source"]),
            notes=notes,
            versions={str(key): str(value) for key, value in result["versions"].items()},
            space=tuple(map(_natural, result["space"])) if result.get("space") else None,
            input=str(result.get("input", "")),
            columns=tuple(map(str, result.get("columns", ()))),
            predictions=tuple((str(label), _finite(chance)) for label, chance in result.get("predictions", ())),
            detections=tuple(
                Detected(str(label), _finite(score), _box(box)) for label, score, box in result.get("detections", ())
            ),
            words=_words(result),
            standard_error=self.error(result),
        )

    def error(self, result: dict[str, Any]) -> Tensor | None:
        """The standard errors of a result's map, if there are any."""
        entry = result.get("standard error")
        if entry is not None and entry["shape"] != result["map"]["shape"]:
            raise ValueError(f"standard errors {entry['shape']} of a map {result['map']['shape']}")
        return None if entry is None else self.map(entry)

    def map(self, entry: dict[str, Any]) -> Tensor:
        shape = tuple(map(_natural, entry["shape"]))
        low, high = _finite(entry["low"]), _finite(entry["high"])
        size = 2 * math.prod(shape)
        if not (0 < size <= MOST_BYTES and low <= high):
            raise ValueError(f"a map of {' x '.join(map(str, shape))} values from {low} to {high}")
        self.spend(2 * size)
        levels = np.frombuffer(self.member(entry["file"], size), "<u2")
        values = low + (high - low) * (levels / LEVELS)
        return torch.from_numpy(values.astype(np.float32).reshape(shape))


def method_of(result: Mapping[str, Any]) -> Method:
    """The method itself, if it can be made here and is drawn as it was; else what stands in for it.

    Args:
        result: with "method", as `METHODS` writes it, "title", "view" and "coarse".
    """
    held, view, coarse = dict(_first_version(result["method"])), result["view"], bool(result["coarse"])
    if view not in get_args(View):
        raise ValueError(f"view {view!r}")
    try:
        method: Method = METHODS.decode(held)
        if (method.view, method.coarse) == (view, coarse):
            return method
        reason = "it is drawn differently in this version"
    except NotStored as error:
        reason = str(error)
    name = str(held.pop("is"))
    return StoredMethod(name, json.dumps(held), str(result["title"]), view, coarse, reason)


def _words(result: dict[str, Any]) -> tuple[Word, ...]:
    """The words of a text, whose tokens are those of the map."""
    words = tuple(
        Word(str(text), _natural(tokens), (_natural(left), _natural(top), _natural(right), _natural(bottom)))
        for text, tokens, (left, top, right, bottom) in result.get("words", ())
    )
    if words and sum(word.tokens for word in words) != result["map"]["shape"][-1]:
        raise ValueError(f"words of {sum(word.tokens for word in words)} tokens for a map {result['map']['shape']}")
    return words


def _target(stored: dict[str, Any]) -> ExplainedTarget:
    index, probability, score = stored["index"], stored["probability"], stored["score"]
    return ExplainedTarget(
        index=None if index is None else _natural(index),
        label=str(stored["label"]),
        probability=None if probability is None else float(probability),
        score=None if score is None else float(score),
        objective=from_plain(stored["objective"]) if stored.get("objective") else None,
        box=_box(stored["box"]) if stored.get("box") else None,
    )


def _frozen(value: Any) -> Any:
    """Lists as tuples, as notes have them."""
    if isinstance(value, dict):
        return {key: _frozen(inner) for key, inner in value.items()}
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _natural(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r} is not a whole number from 0 up")
    return value


_LARGEST = float(np.finfo(np.float32).max)


def _finite(value: Any) -> float:
    number = float(value)
    if not abs(number) <= _LARGEST:
        raise ValueError(f"{value!r} is not a finite number")
    return number


def _pair(values: Sequence[Any]) -> tuple[int, int]:
    width, height = map(_natural, values)
    return width, height


def _spacing(values: Sequence[Any]) -> Spacing:
    d, h, w = map(_finite, values)
    if min(d, h, w) <= 0:
        raise ValueError(f"a spacing of {values}")
    return d, h, w


def _box(values: Sequence[Any]) -> tuple[float, float, float, float]:
    left, top, right, bottom = map(_finite, values)
    if not (left < right and top < bottom):
        raise ValueError(f"a box without area: {values}")
    return left, top, right, bottom
