"""A budget of channels, for methods that ask the model about each: those with the most energy."""

from typing import Annotated

import torch
from torch import Tensor

from deepviz.options import Ge
from deepviz.probe.session import Session

TYPICAL = 512
"""How many channels a layer is taken to have where the cost is told."""
Channels = Annotated[
    int | None,
    Ge(1),
    "Only so many channels, those with the most energy (the sum of their squares), as if the others were not there. "
    "The notes hold the share of the energy that they have. None: all.",
]


def strongest(A: Tensor, channels: int | None) -> Tensor:
    """The channels with the most energy of A (n, D, ...), for each row, (n, channels); without a budget all."""
    if channels is None or channels >= A.shape[1]:
        return torch.arange(A.shape[1], device=A.device).expand(len(A), -1)
    return A.flatten(2).square().sum(2).topk(channels, dim=1).indices


def note_budget(session: Session, A: Tensor, chosen: Tensor) -> None:
    """Note which share of the energy of A (N, D, ...) the chosen channels (N, D') have, where these are not all."""
    if chosen.shape[1] == A.shape[1]:
        return
    energy = A.flatten(2).square().sum(2)
    share = energy.gather(1, chosen).sum(1) / energy.sum(1).clamp_min(torch.finfo(A.dtype).tiny)
    shape = (len(A), *session.score.shape)
    session.notes.rows["energy of the channels"] = share.view(-1, *[1] * (len(shape) - 1)).expand(shape).cpu()
    session.notes.facts["channels"] = f"{chosen.shape[1]} of {A.shape[1]}, those with the most energy"


def counted(channels: int | None) -> int:
    """How many channels a method asks about, where the layer is not known."""
    return min(channels or TYPICAL, TYPICAL)
