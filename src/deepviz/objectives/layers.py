"""Objectives about a layer: a channel, a neuron, a direction, all of it, and what is compared with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from deepviz.errors import LayerError, TargetError
from deepviz.objectives.objective import Objective, check_length
from deepviz.options import Ge, validate_fields
from deepviz.probe.seen import Seen


@dataclass(frozen=True, eq=False)
class OfLayer(Objective):
    """An objective that reads one layer, as maps (n, D, *grid)."""

    layer: Annotated[str, "A layer's name, as `deepviz layers` lists them."]

    @property
    def layers(self) -> frozenset[str]:
        """The layer."""
        return frozenset({self.layer})

    def of_channel(self, seen: Seen, channel: int) -> Tensor:
        """The map of one channel, (n, *grid).

        Raises:
            LayerError: if the layer has no such channel.
        """
        maps = seen.layer(self.layer)
        if channel not in range(maps.shape[1]):
            raise LayerError(
                f"layer {self.layer!r} has {maps.shape[1]} channels, 0 to {maps.shape[1] - 1}, not {channel}"
            )
        return maps[:, channel]


@dataclass(frozen=True, eq=False)
class Channel(OfLayer):
    """The mean of one channel over all positions (Olah et al. 2017)."""

    channel: Annotated[int, Ge(0), "Which channel."]

    def __call__(self, seen: Seen) -> Tensor:
        """1/|p| sum_p A_kp, p all positions."""
        return _mean(self.of_channel(seen, self.channel))

    def caption(self, label: Callable[[int], str] | None = None) -> str:
        """In words."""
        return f"{self.layer}, channel {self.channel}"


@dataclass(frozen=True, eq=False)
class Neuron(OfLayer):
    """One channel at one position."""

    channel: Annotated[int, Ge(0), "Which channel."]
    at: Annotated[
        tuple[Annotated[int, Ge(0)], ...] | None, "Position on the layer's grid, row and column; None: the centre."
    ] = None

    def __call__(self, seen: Seen) -> Tensor:
        """A_kp."""
        map_ = self.of_channel(seen, self.channel)
        grid = tuple(map_.shape[1:])
        at = tuple(side // 2 for side in grid) if self.at is None else self.at
        # a layer without positions has a grid of one cell
        if not grid and set(at) <= {0}:
            return map_
        if len(at) != len(grid) or not all(0 <= one < side for one, side in zip(at, grid, strict=True)):
            shown = " x ".join(map(str, grid)) or "one cell"
            raise LayerError(f"layer {self.layer!r} has a grid of {shown}, without a position {at}")
        for one in at:
            map_ = map_[:, one]
        return map_

    def caption(self, label: Callable[[int], str] | None = None) -> str:
        """In words."""
        return f"{self.layer}, channel {self.channel} at {self.at or 'the centre'}"


@dataclass(frozen=True, eq=False)
class Direction(OfLayer):
    """The activations along a direction of the layer's space, mean over positions."""

    vector: Annotated[Tensor, "One number per channel; taken at length 1."]

    def __post_init__(self) -> None:
        object.__setattr__(self, "vector", check_length(self.vector, "a direction's vector"))
        validate_fields(self)

    def __call__(self, seen: Seen) -> Tensor:
        """1/|p| sum_p <v / |v|, A_p>."""
        maps = seen.layer(self.layer)
        if self.vector.shape != maps.shape[1:2]:
            raise LayerError(
                f"layer {self.layer!r} has {maps.shape[1]} channels; the direction must be ({maps.shape[1]},), "
                f"got {tuple(self.vector.shape)}"
            )
        v = self.vector.to(maps)
        return _mean(torch.einsum("nk...,k->n...", maps, v / v.norm()))

    def caption(self, label: Callable[[int], str] | None = None) -> str:
        """In words."""
        return f"{self.layer}, a direction"


@dataclass(frozen=True, eq=False)
class Energy(OfLayer):
    """The mean squared activation of a layer: the objective of DeepDream (Mordvintsev et al. 2015)."""

    def __call__(self, seen: Seen) -> Tensor:
        """The mean of A^2 over channels and positions."""
        return _mean(seen.layer(self.layer).square())

    def caption(self, label: Callable[[int], str] | None = None) -> str:
        """In words."""
        return f"{self.layer}, energy"


@dataclass(frozen=True, eq=False)
class Match(OfLayer):
    """Minus the relative squared distance to given activations (Mahendran and Vedaldi 2015)."""

    activations: Annotated[Tensor, "(D, *grid), of the layer."]

    def __post_init__(self) -> None:
        kept = check_length(self.activations, f"what layer {self.layer!r} is to match")
        object.__setattr__(self, "activations", kept)
        validate_fields(self)

    def __call__(self, seen: Seen) -> Tensor:
        """-|A - A_0|^2 / |A_0|^2."""
        A = seen.layer(self.layer)
        A_0 = self.activations.to(A)
        if A.shape[1:] != A_0.shape:
            raise LayerError(f"the output of layer {self.layer!r} is {tuple(A.shape[1:])}, not {tuple(A_0.shape)}")
        return -(A - A_0).square().flatten(1).sum(1) / A_0.square().sum()

    def caption(self, label: Callable[[int], str] | None = None) -> str:
        """In words."""
        return f"{self.layer}, match"


@dataclass(frozen=True, eq=False)
class Diversity(OfLayer):
    """How different the copies for one target are, by the Gram matrices of a layer (Olah et al. 2017)."""

    joint = True

    def __call__(self, seen: Seen) -> Tensor:
        """-mean over the other copies j of <G_i, G_j> / (|G_i| |G_j|), G = A A^T the channels' Gram matrix."""
        maps = seen.layer(self.layer)
        A = maps.flatten(2) if maps.ndim > 2 else maps[:, :, None]
        n = len(A)
        if n < 2:
            raise TargetError("diversity compares copies: draw at least 2 (copies=)")
        G = F.normalize((A @ A.transpose(1, 2)).flatten(1), dim=1)
        alike = G @ G.T
        return -(alike.sum(1) - alike.diagonal()) / (n - 1)

    def caption(self, label: Callable[[int], str] | None = None) -> str:
        """In words."""
        return f"{self.layer}, diversity"


def _mean(maps: Tensor) -> Tensor:
    """Over everything but the rows."""
    return maps.flatten(1).mean(1) if maps.ndim > 1 else maps
