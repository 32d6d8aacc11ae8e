"""What Score-CAM and its relatives share: a channel's weight is the value of the image masked by it."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from deepviz.methods.cams.budget import Channels, counted, note_budget, strongest
from deepviz.methods.cams.layer_map import EvidenceMap, laid_out, precise
from deepviz.methods.enlarge import enlarged
from deepviz.probe.capture import layer_output
from deepviz.probe.layers import Layer
from deepviz.probe.session import Session, Value


@dataclass(frozen=True)
class MaskedImageMap(EvidenceMap):
    """The feature maps of a layer, weighted by a softmax over channels of the value of the image masked by each.

    A subclass writes `mask`, and how many masks a channel has.
    """

    value: Annotated[
        Value,
        "What is read of a masked image. With the score, the softmax over channels puts nearly all weight on one.",
    ] = "probability"
    channels: Channels = None

    masks: ClassVar[int | str] = 1
    """How many masks each channel has, or the field that says so."""

    def evidence(self, session: Session, layer: Layer) -> Tensor:
        """sum_k w_k A_k, with w = softmax_k mean_j f(mask_kj * x)."""

        def chunk(part: Session) -> tuple[Tensor]:
            A = layer_output(part, layer.name)
            return (precise(laid_out(part, layer, A).maps(A)),)

        session.decide()
        (A,) = session.by_rows(chunk, graph=False)
        chosen = strongest(A, self.channels)
        note_budget(session, A, chosen)
        A = A.gather(1, chosen.view(*chosen.shape, *[1] * (A.ndim - 2)).expand(-1, -1, *A.shape[2:]))
        x = session.image()
        n, D, copies = *A.shape[:2], self.copies
        each = torch.arange(n * D * copies)

        def masked(chunk: slice) -> Tensor:
            row, k, copy = (place.to(x.device) for place in torch.unravel_index(each[chunk], (n, D, copies)))
            H = _scaled(enlarged(A[row, k].unsqueeze(1), x.shape[2:]))
            return x[row] * self.mask(H, copy).to(x)

        f = session.ask(each // (D * copies), masked, self.value).unflatten(0, (n, D, copies)).mean(2)
        w = f.softmax(1)  # (n, D), or (n, D, K)
        session.notes.rows["effective channels"] = 1 / w.square().sum(1).cpu()
        read = self.value if session.score.indices is not None else "score"
        session.notes.facts["weights"] = f"softmax over {D} channels of the {read} of the image masked by each"
        cam = torch.einsum("nd...,ndp->n...p", w.to(A), A.flatten(2))
        return cam.view(n, *session.score.shape, 1, *A.shape[2:])

    @abstractmethod
    def mask(self, H: Tensor, copy: Tensor) -> Tensor:
        """Masks (m, 1, *space) from channels at the image's size and between 0 and 1, each the copy-th of its own."""

    @property
    def copies(self) -> int:
        """How many masks each channel has."""
        return getattr(self, self.masks) if isinstance(self.masks, str) else self.masks

    def passes(self) -> float:
        """As for a layer of 512 channels: a forward pass, and one for each mask."""
        return (1.0 + self.copies * counted(self.channels)) * len(self.layers or (None,))


def _scaled(H: Tensor) -> Tensor:
    """(H - min H) / (max H - min H) of each channel; 0 where it is the same everywhere."""
    low, high = (edge.view(-1, *[1] * (H.ndim - 1)) for edge in H.flatten(1).aminmax(dim=1))
    return torch.where(high > low, (H - low) / (high - low), 0)
