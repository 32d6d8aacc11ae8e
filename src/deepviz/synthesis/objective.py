"""What the image is drawn for: numbers, one per image, that are made as large as possible."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from deepviz.errors import LayerError, TargetError
from deepviz.probe.grid import read_grid
from deepviz.target import Score, describe


@dataclass(frozen=True)
class Seen:
    """What the network made of one set of views, as objectives read it.

    Args:
        scores: answers the class scores (n, K); raises where the model returns none.
        maps: by layer, what it answered as maps (n, C, h, w); a layer without positions has h = w = 1.
        image: answers the images themselves, before they were shaken, as the model's normalised input (n, C, H, W).
    """

    scores: Callable[[], Tensor]
    maps: Mapping[str, Tensor]
    image: Callable[[], Tensor]

    def rows(self, rows: slice) -> Seen:
        """What was seen of some of the images."""
        maps = {name: values[rows] for name, values in self.maps.items()}
        return Seen(lambda: self.scores()[rows], maps, lambda: self.image()[rows])


@dataclass(frozen=True)
class Objective(ABC):
    """A value per image. Objectives add, subtract and scale: `Logit(207) - 1e-3 * L2()`.

    Called with what the network has `Seen`, it returns (n,), differentiable. A value for a row depends on that row
    alone, except where `joint` is true: there it depends on all copies that are drawn for one target.
    """

    joint = False

    @property
    def layers(self) -> frozenset[str]:
        """The layers whose answers it reads."""
        return frozenset()

    @abstractmethod
    def __call__(self, seen: Seen) -> Tensor:
        """(n,)."""

    def __add__(self, other: Objective) -> Objective:
        return Sum((*_terms(self), *_terms(other))) if isinstance(other, Objective) else NotImplemented

    def __radd__(self, other: int) -> Objective:
        # sum() begins with 0
        return self if isinstance(other, int) and other == 0 else NotImplemented

    def __sub__(self, other: Objective) -> Objective:
        return self + -other if isinstance(other, Objective) else NotImplemented

    def __mul__(self, factor: float) -> Objective:
        if not isinstance(factor, (int, float)):
            return NotImplemented
        return Sum(tuple((factor * weight, term) for weight, term in _terms(self)))

    __rmul__ = __mul__

    def __neg__(self) -> Objective:
        return self * -1.0


@dataclass(frozen=True)
class Sum(Objective):
    """Objectives with weights; what `+`, `-` and `*` make."""

    terms: tuple[tuple[float, Objective], ...]

    @property
    def joint(self) -> bool:  # type: ignore[override]
        """Whether any of the terms is."""
        return any(term.joint for _, term in self.terms)

    @property
    def layers(self) -> frozenset[str]:
        """Those of all terms."""
        return frozenset().union(*(term.layers for _, term in self.terms))

    def __call__(self, seen: Seen) -> Tensor:
        """sum_i weight_i term_i."""
        return torch.stack([weight * term(seen) for weight, term in self.terms]).sum(0)

    def __str__(self) -> str:
        return " + ".join(str(term) if weight == 1 else f"{weight:g} {term}" for weight, term in self.terms)


@dataclass(frozen=True)
class Logit(Objective):
    """S_c, the score of a class before the softmax (Simonyan et al. 2013); of a single logit z, z or -z."""

    target: Annotated[int, "The class, by its index."]

    def __call__(self, seen: Seen) -> Tensor:
        """S_c."""
        scores = seen.scores()
        return Score(self.target, len(scores))(scores)

    def __str__(self) -> str:
        return f"logit {self.target}"


@dataclass(frozen=True)
class OfLayer(Objective):
    """An objective that reads one layer."""

    layer: Annotated[str, "A layer's name, as `deepviz layers` lists them."]

    @property
    def layers(self) -> frozenset[str]:
        """The one."""
        return frozenset({self.layer})

    def _maps(self, seen: Seen) -> Tensor:
        return seen.maps[self.layer]

    def _channel(self, seen: Seen, channel: int) -> Tensor:
        maps = self._maps(seen)
        if channel not in range(maps.shape[1]):
            raise LayerError(
                f"layer {self.layer!r} has {maps.shape[1]} channels, 0 to {maps.shape[1] - 1}, not {channel}"
            )
        return maps[:, channel]


@dataclass(frozen=True)
class Channel(OfLayer):
    """The mean of one channel over all positions (Olah et al. 2017)."""

    channel: Annotated[int, "Which channel."]

    def __call__(self, seen: Seen) -> Tensor:
        """1/(h w) sum_ij A_kij."""
        return self._channel(seen, self.channel).mean((1, 2))

    def __str__(self) -> str:
        return f"{self.layer}, channel {self.channel}"


@dataclass(frozen=True)
class Neuron(OfLayer):
    """One channel at one position."""

    channel: Annotated[int, "Which channel."]
    at: Annotated[tuple[int, int] | None, "Row and column on the layer's grid; None: the centre."] = None

    def __call__(self, seen: Seen) -> Tensor:
        """A_kij."""
        map_ = self._channel(seen, self.channel)
        h, w = map_.shape[1:]
        i, j = self.at or (h // 2, w // 2)
        if not (0 <= i < h and 0 <= j < w):
            raise LayerError(f"layer {self.layer!r} has a grid of {h} x {w}, without a position {(i, j)}")
        return map_[:, i, j]

    def __str__(self) -> str:
        return f"{self.layer}, channel {self.channel} at {self.at or 'the centre'}"


@dataclass(frozen=True, eq=False)
class Direction(OfLayer):
    """The activations along a direction of the layer's space, mean over positions."""

    vector: Annotated[Tensor, "One number per channel; taken at length 1."]

    def __post_init__(self) -> None:
        _check_length(self.vector, "a direction's vector")

    def __call__(self, seen: Seen) -> Tensor:
        """1/(h w) sum_ij <v / |v|, A_ij>."""
        maps = self._maps(seen)
        if self.vector.shape != maps.shape[1:2]:
            raise LayerError(
                f"layer {self.layer!r} has {maps.shape[1]} channels; the direction must be ({maps.shape[1]},), "
                f"got {tuple(self.vector.shape)}"
            )
        v = self.vector.to(maps)
        return torch.einsum("nkij,k->nij", maps, v / v.norm()).mean((1, 2))

    def __str__(self) -> str:
        return f"{self.layer}, a direction"


@dataclass(frozen=True)
class Energy(OfLayer):
    """Whatever the layer already sees, more of it: the objective of DeepDream (Mordvintsev et al. 2015)."""

    def __call__(self, seen: Seen) -> Tensor:
        """The mean of A^2 over channels and positions."""
        return self._maps(seen).square().mean((1, 2, 3))

    def __str__(self) -> str:
        return f"{self.layer}, energy"


@dataclass(frozen=True, eq=False)
class Similarity(Objective):
    """The cosine between an embedding and what the model (or a layer, mean over positions) answers."""

    embedding: Annotated[Tensor, "(D,), from this model's own space."]
    layer: Annotated[str | None, "The layer; None: the model's output (N, D)."] = None

    def __post_init__(self) -> None:
        _check_length(self.embedding, "an embedding")

    @property
    def layers(self) -> frozenset[str]:
        """The layer, if there is one."""
        return frozenset() if self.layer is None else frozenset({self.layer})

    def __call__(self, seen: Seen) -> Tensor:
        """<e, E> / (|e| |E|)."""
        answer = seen.scores() if self.layer is None else seen.maps[self.layer].mean((2, 3))
        if self.embedding.shape != answer.shape[1:]:
            raise TargetError(
                f"the embedding must be ({answer.shape[1]},), as the model answers, got {tuple(self.embedding.shape)}"
            )
        cosine: Tensor = F.cosine_similarity(answer, self.embedding.to(answer)[None], dim=1)
        return cosine

    def __str__(self) -> str:
        return f"{self.layer or 'output'}, similarity"


@dataclass(frozen=True, eq=False)
class Match(OfLayer):
    """The activations of something else: what the layer kept of it (Mahendran and Vedaldi 2015)."""

    activations: Annotated[Tensor, "(C, h, w), of the layer."]

    def __post_init__(self) -> None:
        _check_length(self.activations, f"what layer {self.layer!r} is to match")

    def __call__(self, seen: Seen) -> Tensor:
        """-|A - A_0|^2 / |A_0|^2."""
        A, A_0 = self._maps(seen), self.activations.to(self._maps(seen))
        if A.shape[1:] != A_0.shape:
            raise LayerError(f"layer {self.layer!r} answers {tuple(A.shape[1:])}, not {tuple(A_0.shape)}")
        return -(A - A_0).square().sum((1, 2, 3)) / A_0.square().sum()

    def __str__(self) -> str:
        return f"{self.layer}, match"


@dataclass(frozen=True)
class L2(Objective):
    """|I|^2 of the image as normalised input: the penalty of Simonyan et al. 2013, to be subtracted."""

    def __call__(self, seen: Seen) -> Tensor:
        """sum I^2."""
        return seen.image().square().sum((1, 2, 3))

    def __str__(self) -> str:
        return "L2"


@dataclass(frozen=True)
class TotalVariation(Objective):
    """How much neighbouring pixels differ (Mahendran and Vedaldi 2015), to be subtracted."""

    beta: Annotated[float, "Power of the slope: 1 keeps edges, 2 smooths them."] = 2.0

    def __call__(self, seen: Seen) -> Tensor:
        """sum_ij ((I_i+1,j - I_ij)^2 + (I_i,j+1 - I_ij)^2)^(beta / 2)."""
        x = seen.image()
        down = F.pad(x, (0, 0, 0, 1), mode="replicate").diff(dim=2)
        along = F.pad(x, (0, 1, 0, 0), mode="replicate").diff(dim=3)
        tiny = torch.finfo(x.dtype).tiny ** 0.5  # the root has no slope at 0
        slope: Tensor = (down.square() + along.square() + tiny).sqrt()
        return slope.pow(self.beta).sum((1, 2, 3))

    def __str__(self) -> str:
        return "total variation"


@dataclass(frozen=True)
class Diversity(OfLayer):
    """How different the copies drawn for one target are, in the styles that a layer sees (Olah et al. 2017)."""

    joint = True

    def __call__(self, seen: Seen) -> Tensor:
        """-mean over the other copies j of <G_i, G_j> / (|G_i| |G_j|), G = A A^T the channels' Gram matrix."""
        A = self._maps(seen).flatten(2)
        n = len(A)
        if n < 2:
            raise TargetError("diversity compares copies: draw at least 2 (copies=)")
        G = F.normalize((A @ A.transpose(1, 2)).flatten(1), dim=1)
        alike = G @ G.T
        return -(alike.sum(1) - alike.diagonal()) / (n - 1)

    def __str__(self) -> str:
        return f"{self.layer}, diversity"


def _check_length(values: Tensor, what: str) -> None:
    """Refuse what has no length to divide by."""
    if not isinstance(values, Tensor):
        raise TypeError(f"{what} must be a tensor, got {describe(values)}")
    if not 0 < float(values.detach().double().norm()) < math.inf:
        raise ValueError(f"{what} is zero everywhere, or holds NaN or infinite values: give another")


def _terms(objective: Objective) -> tuple[tuple[float, Objective], ...]:
    return objective.terms if isinstance(objective, Sum) else ((1.0, objective),)


def as_maps(layer: str, answer: Tensor | None, size: tuple[int, int]) -> Tensor:
    """A layer's answer to inputs of `size` as maps (n, C, h, w); without positions, (n, C), as h = w = 1.

    Raises:
        LayerError: if it has no channels.
    """
    if answer is not None and answer.ndim == 2:
        return answer[:, :, None, None]
    grid = None if answer is None else read_grid(tuple(answer.shape), size)
    if answer is None or grid is None:
        shown = "no tensor" if answer is None else describe(answer)
        raise LayerError(
            f"layer {layer!r} has no channels on a grid: it answers {shown}; choose another (see: deepviz layers)"
        )
    return grid.maps(answer)
