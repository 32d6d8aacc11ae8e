"""What methods that follow a path from a baseline to the image share: points, and how far the sum of a map is from the
change in score."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from deepviz.inputs import Leaves
from deepviz.probe.session import Session

LARGE_GAP = 0.05
"""A completeness gap that is warned of."""


def flat(leaves: Iterable[Tensor]) -> Tensor:
    """All explained values of each row side by side, (n, values), in float32 at least."""
    return torch.cat([leaf.flatten(1).to(precise(leaf)) for leaf in leaves], 1)


def changes(session: Session, starts: list[Leaves]) -> Tensor:
    """S(x) - S(x') for every baseline, for the class that is predicted for x if none is given."""
    chosen = session.score.decided  # then x goes through the model with the baselines, else before them
    first = None if chosen else session.values()
    stacked = Leaves(torch.cat(leaves) for leaves in zip(*([session.x] if chosen else []), *starts, strict=True))
    rows = torch.arange(session.n).repeat(len(starts) + chosen)
    ends = session.at(stacked, rows).values()
    if first is None:
        first, ends = ends[: session.n], ends[session.n :]
    change: Tensor = first - ends.unflatten(0, (len(starts), session.n))
    return change


def times_change(session: Session, start: Leaves, mean: Leaves) -> Leaves:
    """(x - x') * mean."""
    return session.x.map(lambda x, start, mean: session.beside((x - start).to(mean)) * mean, start, mean)


def completeness_gap(session: Session, R: Leaves, change: Tensor) -> Tensor:
    """|S(x) - S(x') - sum R| / |S(x) - S(x')|, on the CPU."""
    total = torch.stack([part.flatten(2 if session.several else 1).sum(-1) for part in R]).sum(0)
    change = change.to(total)
    return ((change - total).abs() / change.abs().clamp_min(torch.finfo(change.dtype).eps)).cpu()


def note_gap(session: Session, gap: Tensor, name: str, advice: str) -> None:
    """The gap, with a warning where it is large and what to do about it."""
    session.notes.rows["completeness gap"] = gap
    large = gap > LARGE_GAP
    if bool(large.any()):
        session.notes.warn(
            f"{name}: the map's sum misses the change in score by more than {LARGE_GAP:.0%}; {advice}", large
        )


def between(x: Leaves, start: Leaves, rows: Tensor, a: Tensor) -> Leaves:
    """x' + a (x - x') for some rows, each with its own a, computed in float32 at least."""

    def point(x: Tensor, start: Tensor) -> Tensor:
        dtype = precise(x)
        if len(x) > 1:
            x, start = x[rows], start[rows]
        along = a.to(x.device, dtype).view(-1, *[1] * (x.ndim - 1))
        return torch.lerp(start.to(dtype), x.to(dtype), along).to(x.dtype)

    return x.map(point, start)


def precise(x: Tensor) -> torch.dtype:
    """The type to compute in: float32 at least."""
    return torch.promote_types(x.dtype, torch.float32)
