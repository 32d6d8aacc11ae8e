"""Random numbers by a seed: the same everywhere, and never those of torch's global state."""

from __future__ import annotations

import torch


def generator_of(seed: int, number: int = 0) -> torch.Generator:
    """The random numbers of one of several draws by the same seed."""
    return torch.Generator().manual_seed(seed * 1_000_003 + number)


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
