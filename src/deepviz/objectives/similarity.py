"""`Similarity`: how similar the model's embedding is to a given one."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch.nn.functional as F
from torch import Tensor

from deepviz.errors import TargetError
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

    to: Annotated[Tensor, "(D,), from this model's own space, the same for all rows; or (N, D), one for each row."]
    layer: Annotated[str | None, "The layer; None: the model's output (N, D)."] = None
    measure: Annotated[
        Measure, "cosine; dot, the product, which grows with the length; or distance, minus the Euclidean one."
    ] = "cosine"

    def __init__(
        self, to: Any = None, layer: str | None = None, measure: Measure = "cosine", *, embedding: Any = None
    ) -> None:
        if embedding is not None:
            warnings.warn("Similarity(embedding=...) is now Similarity(to=...)", DeprecationWarning, stacklevel=2)
            if to is not None:
                raise TypeError("give either to or, its former name embedding")
            to = embedding
        for name, value in (("to", to), ("layer", layer), ("measure", measure)):
            object.__setattr__(self, name, value)
        self.__post_init__()

    def __post_init__(self) -> None:
        object.__setattr__(self, "to", check_length(self.to, "an embedding"))
        if self.to.ndim not in (1, 2):
            raise ValueError(f"to must be an embedding (D,), or one for each row (N, D), got {tuple(self.to.shape)}")
        validate_fields(self)

    @property
    def embedding(self) -> Tensor:
        """What `to` was called before."""
        warnings.warn("Similarity.embedding is now Similarity.to", DeprecationWarning, stacklevel=2)
        return self.to

    @property
    def layers(self) -> frozenset[str]:
        """The layer, if there is one."""
        return frozenset() if self.layer is None else frozenset({self.layer})

    @property
    def rows(self) -> int | None:
        """Where there is an embedding for each row, how many."""
        return len(self.to) if self.to.ndim == 2 else None

    def take(self, rows: Rows) -> Objective:
        """With the embeddings of those rows."""
        if self.to.ndim == 1:
            return self
        return Similarity(
            self.to[rows.to(self.to.device) if isinstance(rows, Tensor) else rows], self.layer, self.measure
        )

    def __call__(self, seen: Seen) -> Tensor:
        """<e, E> / (|e| |E|), <e, E> or -|e - E|."""
        E = self._found(seen)
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
        of = "the output" if self.layer is None else self.layer
        return f"similarity of {of}" if self.measure == "cosine" else f"similarity of {of} ({self.measure})"
