"""Mean, variance and standard error of maps that come one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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

    def relative_error(self, several: bool, errors: Sequence[Tensor] = (), level: bool = False) -> Tensor:
        """sqrt(sum of var/n over the map) / sqrt(sum of mean^2): one number, or one for each of K objectives.

        Args:
            several: whether there are K.
            errors: standard errors that all maps have in common.
            level: whether the maps are without what all of their values have in common.
        """

        def total(maps: Iterable[Tensor]) -> Tensor:
            return torch.stack([M.flatten(int(several)).square().sum(-1) for M in maps]).sum(0).sqrt().cpu()

        def varying(M: Tensor) -> Tensor:
            return M - M.flatten(int(several)).mean(-1).view(*M.shape[: int(several)], *[1] * (M.ndim - several))

        error = total([(squares / (self.n - 1) / self.n).sqrt() for squares in self.squares])
        error = torch.hypot(error, total(errors).to(error)) if errors else error
        size = total(map(varying, self.mean) if level else self.mean)
        return error / size.clamp_min(torch.finfo(error.dtype).tiny)
