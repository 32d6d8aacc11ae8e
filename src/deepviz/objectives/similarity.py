"""`Similarity`: how similar the model's embedding is to a given one."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch.nn.functional as F
from torch import Tensor

from deepviz.errors import TargetError
from deepviz.objectives.embedder import Embedder
from deepviz.objectives.objective import Objective, Rows, check_length
from deepviz.options import validate_fields
from deepviz.probe.outputs import class_scores
from deepviz.probe.seen import Seen

Measure = Literal["cosine", "dot", "distance"]


@dataclass(frozen=True, eq=False, init=False)
class Similarity(Objective):
    """How similar the model's embedding (or a layer's output, mean over positions) is to another.

    Example:
        >>> import torch
        >>> from deepviz.probe.seen import Seen
        >>> seen = Seen(torch.tensor([[3.0, 4.0], [0.0, 2.0]]), (torch.zeros(2, 3, 8, 8),))
        >>> Similarity(torch.tensor([0.0, 1.0]))(seen)
        tensor([0.8000, 1.0000])
    """

    to: Annotated[
        Tensor | str,
        "(D,), from this model's own space, the same for all rows; (N, D), one for each row; or an image file, which "
        "the model embeds (`deepviz.explain`).",
    ]
    layer: Annotated[str | None, "The layer; None: the model's output (N, D)."] = None
    measure: Annotated[
        Measure, "cosine; dot, the product, which grows with the length; or distance, minus the Euclidean one."
    ] = "cosine"
    name: Annotated[str, "What captions call it: by default the file."] = ""

    def __init__(
        self,
        to: Any = None,
        layer: str | None = None,
        measure: Measure = "cosine",
        name: str = "",
        *,
        embedding: Any = None,
    ) -> None:
        if embedding is not None:
            warnings.warn("Similarity(embedding=...) is now Similarity(to=...)", DeprecationWarning, stacklevel=2)
            if to is not None:
                raise TypeError("give either to or, its former name embedding")
            to = embedding
        for field, value in (("to", to), ("layer", layer), ("measure", measure), ("name", name)):
            object.__setattr__(self, field, value)
        self.__post_init__()

    def __post_init__(self) -> None:
        if isinstance(self.to, (str, os.PathLike)):
            object.__setattr__(self, "to", os.fspath(self.to))
            validate_fields(self)
            return
        object.__setattr__(self, "to", check_length(self.to, "an embedding"))
        if self.to.ndim not in (1, 2):
            raise ValueError(f"to must be an embedding (D,), or one for each row (N, D), got {tuple(self.to.shape)}")
        validate_fields(self)

    @property
    def embedding(self) -> Tensor:
        """What `to` was called before."""
        warnings.warn("Similarity.embedding is now Similarity.to", DeprecationWarning, stacklevel=2)
        return self.to  # type: ignore[return-value]

    @property
    def layers(self) -> frozenset[str]:
        """The layer, if there is one."""
        return frozenset() if self.layer is None else frozenset({self.layer})

    @property
    def rows(self) -> int | None:
        """Where there is an embedding for each row, how many."""
        return len(self.to) if isinstance(self.to, Tensor) and self.to.ndim == 2 else None

    def take(self, rows: Rows) -> Objective:
        """With the embeddings of those rows."""
        if isinstance(self.to, str) or self.to.ndim == 1:
            return self
        return Similarity(
            self.to[rows.to(self.to.device) if isinstance(rows, Tensor) else rows], self.layer, self.measure, self.name
        )

    def embedded(self, model: Embedder) -> Objective:
        """With the embedding of the image file.

        Raises:
            TargetError: if the similarity is that of a layer.
            ImageError: if the image cannot be opened.
        """
        if not isinstance(self.to, str):
            return self
        if self.layer is not None:
            raise TargetError(f"{self}: an image file is compared by the model's output; of a layer give a tensor")
        return Similarity(model.embed_image(self.to), None, self.measure, self.name or os.path.basename(self.to))

    def __call__(self, seen: Seen) -> Tensor:
        """<e, E> / (|e| |E|), <e, E> or -|e - E|."""
        E = self._found(seen)
        if isinstance(self.to, str):
            raise TargetError(f"{self}: the image has no embedding yet: use deepviz.explain, or give a tensor")
        e = self.to.to(E)
        if e.shape[-1:] != E.shape[1:] or (e.ndim == 2 and len(e) != len(E)):
            raise TargetError(
                f"the embedding must be ({E.shape[1]},) for all rows or ({len(E)}, {E.shape[1]}) with one for each, as "
                f"the model's are, got {tuple(e.shape)}"
            )
        e = e.expand_as(E)
        if self.measure == "dot":
            return (e * E).sum(1)
        if self.measure == "distance":
            # a root has no slope at 0
            return -(e - E).square().sum(1).clamp_min(1e-30).sqrt()
        cosine: Tensor = F.cosine_similarity(E, e, dim=1)
        return cosine

    def _found(self, seen: Seen) -> Tensor:
        if self.layer is None:
            return class_scores(seen.output, "embedding")
        maps = seen.layer(self.layer)
        return maps.flatten(2).mean(2) if maps.ndim > 2 else maps

    def caption(self, label: Callable[[int], str] | None = None) -> str:
        """In words."""
        if self.name or isinstance(self.to, str):
            measure = "" if self.measure == "cosine" else f" ({self.measure})"
            return f"similarity to {self.name or self.to}{measure}"
        of = "the output" if self.layer is None else self.layer
        return f"similarity of {of}" if self.measure == "cosine" else f"similarity of {of} ({self.measure})"
