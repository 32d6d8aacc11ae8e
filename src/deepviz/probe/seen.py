"""What one forward pass showed, as objectives read it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from deepviz.errors import ImageError, LayerError, ModelError
from deepviz.probe.outputs import Kind, Reading, any_numbers, class_scores, output_fields, read_outputs
from deepviz.probe.seeds import generator_of


@dataclass(frozen=True, eq=False)
class Seen:
    """The output and the activations of one forward pass of n rows.

    Args:
        output: the model's raw output.
        x: the explained tensors that went in, each (n, ...); when an image is generated, the image itself, before
            augmentation, in standard deviations of natural images' pixels.
        maps: by layer, its output as maps (n, D, *grid); of a layer without positions (n, D).
        kind: what the output is.
        reading: how the output is read, if that is known already.
        logits: class scores (n, K) to be taken in place of those in the output, which are their probabilities.
    """

    output: Any
    x: tuple[Tensor, ...]
    maps: Mapping[str, Tensor] = field(default_factory=dict)
    kind: Kind = "auto"
    reading: Reading | None = None
    logits: Tensor | None = None

    @property
    def n(self) -> int:
        """How many rows."""
        return len(self.x[0])

    def scores(self) -> Tensor:
        """The class scores, numbers or embedding, (n, K).

        Raises:
            ModelError: if the model returned none.
        """
        found = class_scores(self.output, self.kind) if self.logits is None else self.logits
        if self.n == 1 < len(found) and found.shape[1] == 1:
            return found.T  # the K scores of one image, without an axis for the batch
        return found

    def mixture(self) -> Tensor:
        """All scores of each row at once, weighted at random but always alike: no class in particular, (n,). Of a
        model without class scores, such as a segmenter, all numbers of its first output.

        Raises:
            ModelError: if the model returned none.
        """
        try:
            scores = self.scores()
        except ModelError:
            found = any_numbers(self.output, self.n)
            if found is None:
                raise
            scores = found
        weights = torch.randn(scores.shape[1:], generator=generator_of(0, 1), dtype=torch.float64)
        mixed: Tensor = (scores * weights.to(scores)).flatten(1).sum(1)
        return mixed

    def read(self) -> Reading:
        """How the scores are read."""
        return self.reading or read_outputs(self.scores(), self.kind)

    def image(self) -> Tensor:
        """The first explained tensor that is image-like, (n, C, *space) with one to three spatial axes.

        Raises:
            ImageError: if there is none.
        """
        for leaf in self.x:
            if 3 <= leaf.ndim <= 5:
                return leaf
        raise ImageError("the objective is about an image (N, C, *space), which is not among the explained inputs")

    def layer(self, name: str) -> Tensor:
        """The maps of a layer.

        Raises:
            LayerError: if they were not asked for.
        """
        if name not in self.maps:
            raise LayerError(f"the output of layer {name!r} was not kept: list it in the objective's `layers`")
        return self.maps[name]

    def rows(self, rows: slice | Tensor) -> Seen:
        """What was seen of some of the rows."""
        n = self.n
        maps = {name: values[rows] for name, values in self.maps.items()}
        x = type(self.x)(leaf[rows] for leaf in self.x)  # a tuple, or one of its subclasses
        logits = None if self.logits is None else _rows_of(self.logits, rows, n)
        return replace(self, output=_rows_of(self.output, rows, n), x=x, maps=maps, logits=logits)


class ByRows(ABC):
    """An output of a class of ours, of which rows can be taken."""

    @abstractmethod
    def take(self, rows: slice | Tensor) -> Any:
        """The same of some of the rows."""

    def apart(self) -> Sequence[Tensor]:
        """Numbers of the first row that different parts of a model may compute, such as boxes of different sizes."""
        return ()


def _rows_of(output: Any, rows: slice | Tensor, n: int) -> Any:
    """An output for some of the rows: of tensors with n rows these, of a list of n the items, all else as it is."""
    if isinstance(output, ByRows):
        return output.take(rows)
    if isinstance(output, Tensor):
        return output[rows] if output.ndim > 0 and len(output) == n else output
    if isinstance(output, Mapping):
        return _Fields({key: _rows_of(value, rows, n) for key, value in output.items()})
    if isinstance(output, tuple):
        inner = [_rows_of(value, rows, n) for value in output]
        return type(output)(*inner) if hasattr(output, "_fields") else tuple(inner)
    if isinstance(output, list):
        if len(output) == n and not any(isinstance(value, Tensor) for value in output):
            return output[rows] if isinstance(rows, slice) else [output[int(row)] for row in rows]
        return [_rows_of(value, rows, n) for value in output]
    inside = output_fields(output)
    return _Fields({name: _rows_of(value, rows, n) for name, value in inside.items()}) if inside else output


class _Fields(dict[Any, Any]):
    """Some rows of a mapping, dataclass or object with fields: read by key, by attribute and by position."""

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        raise AttributeError(name)

    def __missing__(self, key: Any) -> Any:
        if isinstance(key, (int, slice)):
            return tuple(self.values())[key]
        raise KeyError(key)
