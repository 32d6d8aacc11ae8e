"""Mean, variance and standard error of maps that come one after the other."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Statistic = Literal["mean", "mean_square", "variance"]


class Moments:
    """Mean and sum of squared deviations of maps that come one after the other (Welford 1962), in float32 at least."""

    def __init__(self) -> None:
        self.n = 0
        self.mean: list[Tensor] = []
        self.squares: list[Tensor] = []

    def add(self, maps: tuple[Tensor, ...]) -> None:
        """Some more maps, (n, ...) of each explained input."""
        maps = tuple(M.to(torch.promote_types(M.dtype, torch.float32)) for M in maps)
        if self.n == 0:
            self.mean, self.squares = ([torch.zeros_like(M[0]) for M in maps] for _ in range(2))
        for each in zip(*maps, strict=True):
            self.n += 1
            for M, mean, squares in zip(each, self.mean, self.squares, strict=True):
                before = M - mean
                mean.add_(before, alpha=1 / self.n)
                squares.addcmul_(before, M - mean)

    def statistic(self, name: Statistic) -> list[Tensor]:
        """The mean, mean square or unbiased variance, for each explained input."""
        if name == "mean":
            return self.mean
        if name == "variance":
            return [squares / (self.n - 1) for squares in self.squares]
        return [squares / self.n + mean.square() for mean, squares in zip(self.mean, self.squares, strict=True)]

    def relative_error(self, several: bool) -> Tensor:
        """sqrt(sum of var/n over the map) / sqrt(sum of mean^2): one number, or one for each of K objectives."""

        def total(maps: list[Tensor]) -> Tensor:
            return torch.stack([M.flatten(int(several)).sum(-1) for M in maps]).sum(0).sqrt()

        error = total([squares / (self.n - 1) / self.n for squares in self.squares])
        return error / total([mean.square() for mean in self.mean]).clamp_min(torch.finfo(error.dtype).tiny)
