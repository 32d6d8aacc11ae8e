"""Random numbers by a seed: the same everywhere, and never those of torch's global state."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

THREADS = 8
"""That draw for a GPU, at most: it waits for them."""


def generator_of(seed: int, number: int = 0) -> torch.Generator:
    """The random numbers of one of several draws by the same seed."""
    return torch.Generator().manual_seed(seed * 1_000_003 + number)


def fill_normal(noise: Tensor, seed: int, numbers: Sequence[int]) -> None:
    """Standard normal noise in place of (n, ...), for each of n draws by the same seed.

    It is drawn on the CPU, so that every device sees the same.
    """
    host = (
        noise if noise.device.type == "cpu" else torch.empty(noise.shape, dtype=noise.dtype, pin_memory=noise.is_cuda)
    )
    wide = torch.promote_types(noise.dtype, torch.float32)

    def draw(place: int) -> None:
        host[place] = torch.randn(noise.shape[1:], generator=generator_of(seed, numbers[place]), dtype=wide)

    places = range(len(noise))
    if host is noise:
        for place in places:
            draw(place)
        return
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        list(pool.map(draw, places))
    noise.copy_(host, non_blocking=True)


def check_seed(seed: int) -> None:
    """Refuse a seed that would not do as one: torch keeps 32 bits of it.

    Raises:
        TypeError: if it is no whole number.
        ValueError: if it does not fit into 32 bits.
    """
    if not isinstance(seed, int):
        raise TypeError(f"seed must be a whole number, got {seed!r}")
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must be from 0 to 2**32 - 1, got {seed}")
