"""Models in ONNX files, run by onnxruntime."""

from __future__ import annotations

import ast
import hashlib
import importlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepviz.errors import MissingExtra, ModelError, in_one_line
from deepviz.models.preprocess import Preprocess
from deepviz.probe.black_box import BlackBox

_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
}
"""What an image may be; that of other inputs is cast as given."""
_FLOATS = ("tensor(float)", "tensor(float16)", "tensor(double)")
_LABELS = ("names", "labels", "classes", "class_names", "id2label")
_SIZES = ("imgsz", "image_size", "input_size")
_MEANS, _STDS = ("mean", "image_mean"), ("std", "image_std")
"""Keys of the metadata, as exporters write them."""
_CHANNELS = (1, 3, 4)

Side = int | None
"""Of a shape; None where the graph takes any."""


class OnnxModel(BlackBox):
    """An ONNX graph as a model: (N, C, H, W) in, its first floating output out.

    It runs on the CPU; after `.to("cuda")` on a GPU, if this onnxruntime can.

    Args:
        path: the file.

    Raises:
        MissingExtra: if onnxruntime is not installed.
        ModelError: if there is no such file, onnxruntime does not read it, or its first input is no image.
    """

    def __init__(self, path: Path) -> None:
        graph = Graph(path)
        super().__init__(graph, takes="array", name=path.name, kind="an ONNX graph")
        self.graph = graph
        sides = graph.shape[2:]
        if len(sides) == 2 and None not in sides:
            self.size = sides[0] if sides[0] == sides[1] else sides
        # which network this is, for what knows networks by their weights
        digest = hashlib.sha256(path.read_bytes()).digest()
        self.register_buffer("file_sha256", torch.tensor(list(digest), dtype=torch.uint8))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> OnnxModel:
        super()._apply(fn, recurse)
        assert self.home is not None
        self.graph.open("cuda" if self.home[0].type == "cuda" else "cpu")
        return self


class Graph:
    """An open ONNX file: a callable from arrays to the scores, with what it says of itself.

    Args:
        path: the file.

    Attributes:
        channels_last: whether images go in as (N, H, W, C).
        shape: of its input, (N, C, H, W) whatever its layout; None for a side that may be any.
        pixels: whether it takes whole pixels, 0..255.
        metadata: what its exporter wrote, by key.
        notes: what was read or assumed, one sentence each.
        assumed: what was assumed of its preprocessing, one sentence each.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.open("cpu")
        self.inputs = self._session.get_inputs()
        self.metadata: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        self.notes: list[str] = []
        self.assumed: tuple[str, ...] = ()
        if not self.inputs or self.inputs[0].type not in _TYPES:
            taken = ", ".join(f"{one.name} {one.type}" for one in self.inputs) or "nothing"
            raise ModelError(f"{path.name} takes {taken}: the first input must be an image, of {', '.join(_TYPES)}")
        own = tuple(side if isinstance(side, int) and side > 0 else None for side in self.inputs[0].shape)
        self.channels_last = self._is_channels_last(own)
        self.shape: tuple[Side, ...] = (own[0], own[-1], *own[1:-1]) if self.channels_last else own
        self.pixels = self.inputs[0].type == "tensor(uint8)"
        self.output = self._chosen_output()

    def __reduce__(self) -> tuple[Any, ...]:
        return Graph, (self.path,)  # a session cannot be copied

    def open(self, device: str) -> None:
        """Read the file, to be run on a device.

        Raises:
            ModelError: if onnxruntime cannot.
        """
        runtime = _runtime()
        providers, there = ["CPUExecutionProvider"], runtime.get_available_providers()
        if device == "cuda":
            if "CUDAExecutionProvider" not in there:
                raise ModelError(
                    f"{self.path.name} cannot run on cuda: this onnxruntime has {', '.join(there)}; "
                    "pip install onnxruntime-gpu"
                )
            providers.insert(0, "CUDAExecutionProvider")
        if not self.path.is_file():
            raise ModelError(f"ONNX file {self.path} does not exist")
        options = runtime.SessionOptions()
        options.log_severity_level = 3  # what it says of a graph on stderr is of no use here
        try:
            self._session = runtime.InferenceSession(str(self.path), options, providers=providers)
        except Exception as error:
            raise ModelError(f"onnxruntime {runtime.__version__} does not read {self.path}: {_said(error)}") from error

    def __call__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        """The scores of a batch; what the graph takes beside the image follows it by position, or goes by name."""
        given = dict(zip((one.name for one in self.inputs), args, strict=False)) | kwargs
        names = [one.name for one in self.inputs]
        wrong = [name for name in given if name not in names]
        missing = [name for name in names if name not in given]
        if len(args) > len(names) or wrong or missing:
            raise ModelError(
                f"{self.path.name} takes {', '.join(names)}, got {', '.join(given)}: what it takes beside the image is "
                "given as extra="
            )
        first = next(iter(given.values()))
        n, most = len(first), self.shape[0]
        if most is None or n == most:
            return self._run(given)
        # a graph of a fixed number of rows gets that many, the last one repeated
        stated = {one.name: one.shape[0] if one.shape else None for one in self.inputs}
        # what is stated to have another number of rows is shared by all, however many images there are
        by_row = {
            name
            for name, one in given.items()
            if np.ndim(one) > 0 and len(one) == n and (stated[name] == most or not _is_number(stated[name]))
        }
        parts = []
        for start in range(0, n, most):
            rows = np.minimum(np.arange(start, start + most), n - 1)
            part = self._run({name: one[rows] if name in by_row else one for name, one in given.items()})
            parts.append(part[: n - start])
        return np.concatenate(parts)

    def _run(self, given: Mapping[str, Any]) -> np.ndarray:
        fed = {}
        for one in self.inputs:
            value = np.asarray(given[one.name])
            if one is self.inputs[0]:
                self._check(value)
                value = np.moveaxis(value, 1, -1) if self.channels_last else value
                value = np.rint(value).clip(0, 255) if self.pixels else value
            fed[one.name] = np.ascontiguousarray(value.astype(_TYPES.get(one.type, value.dtype)))
        (found,) = self._session.run([self.output], fed)
        return found.astype(np.float32) if found.dtype == np.float16 else found  # type: ignore[no-any-return]

    def _check(self, x: np.ndarray) -> None:
        """Refuse an image of another shape, which onnxruntime says in several lines."""
        rest = list(zip(x.shape[1:], self.shape[1:], strict=False))
        if x.ndim != len(self.shape) or any(side is not None and side != given for given, side in rest):
            wanted = ", ".join("any" if side is None else str(side) for side in self.shape[1:])
            raise ModelError(f"{self.path.name} takes images (N, {wanted}), got {x.shape}: give another size")

    def _is_channels_last(self, shape: tuple[Side, ...]) -> bool:
        if len(shape) != 4:
            return False
        first, last = shape[1] in _CHANNELS, shape[3] in _CHANNELS
        if first == last:
            self.notes.append(f"the input's layout is not clear from its shape: {self._stated()} is taken as NCHW")
        return last and not first

    def _stated(self) -> str:
        return f"{self.inputs[0].name} ({', '.join(map(str, self.inputs[0].shape))})"

    def _chosen_output(self) -> str:
        every = self._session.get_outputs()
        floats = [one.name for one in every if one.type in _FLOATS]
        if not floats:
            held = ", ".join(f"{one.name} {one.type}" for one in every)
            raise ModelError(f"{self.path.name} returns {held}, and scores are floats")
        if len(every) > 1:
            names = ", ".join(one.name for one in every)
            self.notes.append(f"of its outputs {names}, {floats[0]} is explained")
        return str(floats[0])

    def preprocess(self) -> Preprocess | None:
        """The preprocessing that its metadata state; None if they do not. What is assumed is in `assumed`."""
        self.assumed = ()
        channels, size = self._channels_and_size()
        mean, std = self._numbers(_MEANS), self._numbers(_STDS)
        said = mean is not None and std is not None and len(mean) == len(std)
        if not size or channels not in (1, 3) or not (said or self.pixels or self._is_ultralytics_classifier):
            return None
        square = size[0] if size[0] == size[1] else size
        assumed = [f"images are squashed into {size[0]} x {size[1]}, since it does not say what is cropped"]
        if self._is_ultralytics_classifier:
            zeros, ones = (0.0,) * channels, (1.0,) * channels
            return Preprocess(square, crop=1.0, mean=zeros, std=ones)
        if mean is None or std is None or len(mean) != len(std):
            mean, std = (0.0,) * channels, (1 / 255,) * channels
            assumed.append("pixels from 0 to 255 in the order red, green, blue are assumed, since it takes bytes")
        elif max(*mean, *std) > 2:  # of pixels from 0 to 255
            mean, std = tuple(one / 255 for one in mean), tuple(one / 255 for one in std)
        if len(mean) == 1 < channels:
            mean, std = mean * channels, std * channels
        self.assumed = tuple(assumed)
        return Preprocess(square, crop=None, mean=mean, std=std)

    @property
    def _is_ultralytics_classifier(self) -> bool:
        return self.metadata.get("author") == "Ultralytics" and self.metadata.get("task") == "classify"

    def _channels_and_size(self) -> tuple[Side, tuple[int, int] | None]:
        """Its channels, and its input's (height, width), where these are known."""
        if len(self.shape) != 4:
            return None, None
        _, channels, height, width = self.shape
        if height is not None and width is not None:
            return channels, (height, width)
        stated = self._numbers(_SIZES)
        sides = [] if stated is None else [int(side) for side in stated]
        return channels, (sides[0], sides[-1]) if sides else None

    def labels(self) -> tuple[str, ...] | None:
        """The names of its classes, if its metadata hold them."""
        for key in _LABELS:
            if key not in self.metadata:
                continue
            found = _labels(self.metadata[key])
            if found:
                return found
            self.notes.append(f"its metadata {key!r} cannot be read as labels: give labels=")
        return None

    def _numbers(self, keys: tuple[str, ...]) -> tuple[float, ...] | None:
        text = next((self.metadata[key] for key in keys if key in self.metadata), None)
        held = None if text is None else _literal(text if text.lstrip()[:1] in ("[", "(") else f"[{text}]")
        if not isinstance(held, (list, tuple)) or not all(isinstance(one, (int, float)) for one in held) or not held:
            return None
        return tuple(map(float, held))


def _is_number(side: Any) -> bool:
    return isinstance(side, int) and side > 0


def _runtime() -> Any:
    try:
        return importlib.import_module("onnxruntime")
    except ImportError:
        raise MissingExtra("onnxruntime is not installed: pip install 'deepviz[onnx]'") from None


def _said(error: Exception) -> str:
    """The reason in onnxruntime's message, without places in its source."""
    text = in_one_line(error).rpartition(" failed:")[2]
    for start in ("ONNX Runtime only ", "Unknown model file format version"):
        text = text[text.index(start) :] if start in text else text
    return text


def _literal(text: str) -> Any:
    """What JSON, or the text of a Python value, holds; None if it is neither."""
    with suppress(ValueError):
        return json.loads(text)
    with suppress(ValueError, SyntaxError, MemoryError, RecursionError):
        return ast.literal_eval(text)
    return None


def _labels(text: str) -> tuple[str, ...] | None:
    """Labels as exporters write them: a list, or an object from index to label, in JSON or Python; or lines.

    Example:
        >>> _labels("{0: 'cat', 1: 'dog'}"), _labels('["cat", "dog"]'), _labels("cat\\ndog")
        (('cat', 'dog'), ('cat', 'dog'), ('cat', 'dog'))
    """
    held = _literal(text)
    if isinstance(held, dict):
        return _by_index(held)
    if isinstance(held, (list, tuple)):
        return tuple(map(str, held)) or None
    return tuple(text.strip().splitlines()) if "\n" in text.strip() else None


def _by_index(held: dict[Any, Any]) -> tuple[str, ...] | None:
    try:
        named = {int(index): str(label) for index, label in held.items()}
    except (TypeError, ValueError):
        return None
    if not named or sorted(named) != list(range(len(named))):
        return None
    return tuple(named[index] for index in range(len(named)))
