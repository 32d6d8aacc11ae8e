"""Ablation-CAM: Desai and Ramaswamy 2020."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from deepviz.methods.cams.budget import Channels, counted, note_budget, strongest
from deepviz.methods.cams.layer_map import EvidenceMap, laid_out, precise
from deepviz.probe.above import Above
from deepviz.probe.layers import Layer
from deepviz.probe.session import Session


@dataclass(frozen=True)
class AblationCAM(EvidenceMap):
    """The feature maps of a layer, weighted by what the score loses without each: no gradient.

        w_k = (S_c - S_c^k) / S_c        S_c^k: the score with A_k = 0
        R   = relu(sum_k w_k A_k)

    The layers below run once for many channels, those above once for each.

    Shapes: x (N, C, H, W) -> (N, 1, h, w), at the layer's own resolution; signals (N, C, L) and volumes
    (N, C, D, H, W) likewise. With `layers=`, (N, 1, H, W). Drawn by linear upsampling, divided by its maximum.

    Errors: those of `GradCAM`. A warning where the score is not positive: dividing by it turns evidence around; where
    it is zero, nothing is divided.

    Pitfall: a pass through the layers above for each channel, of which a layer has hundreds; `channels=` takes the
    strongest, and leaves the others out of the map. Channels that stand in for
    each other lose little one at a time.

    Reference: Desai and Ramaswamy, "Ablation-CAM: Visual Explanations for Deep Convolutional Network via
    Gradient-free Localization" (2020), WACV, doi:10.1109/WACV45572.2020.9093360, equations 3 and 4.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from deepviz.methods import AblationCAM
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 5))
        >>> AblationCAM(relu=False)(model, torch.rand(2, 3, 8, 8), target=3).shape
        torch.Size([2, 1, 6, 6])
    """

    channels: Channels = None

    title: ClassVar[str] = "Ablation-CAM"
    paper: ClassVar[str] = "Desai and Ramaswamy 2020, doi:10.1109/WACV45572.2020.9093360"
    cost: ClassVar[str] = "1 forward, and the forward above the layer for each channel"
    in_default_set: ClassVar[bool] = False

    def evidence(self, session: Session, layer: Layer) -> Tensor:
        """sum_k w_k A_k."""
        cams, S, A = zip(*(self._of_row(session, layer, row) for row in range(session.n)), strict=True)
        note_budget(session, torch.cat(A), strongest(torch.cat(A), self.channels))
        negative = torch.stack(S).cpu() <= 0
        if bool(negative.any()):
            session.notes.warn(
                f"{self.name}: the score is not positive, and the paper's division by it turns the map around, so that "
                "it shows evidence against the class: use GradCAM, or explain a class with a positive score",
                negative,
            )
        return torch.stack(cams)

    def _of_row(self, session: Session, layer: Layer, row: int) -> tuple[Tensor, Tensor, Tensor]:
        above = Above(session, layer, row)
        grid = laid_out(session.take(torch.tensor([row])), layer, above.A)
        numbers = torch.arange(above.A.numel(), device=above.A.device).view(above.A.shape)
        A = precise(grid.maps(above.A))
        places = grid.maps(numbers).flatten(2)[0]  # of channel k in what the layer returns
        chosen = strongest(A, self.channels)[0]

        def without(channels: slice) -> Tensor:
            """What the layer returns with one channel of each copy zero; the copy before the first is as it is."""
            copies = above.copies(channels.stop - channels.start)
            for copy, k in zip(copies.flatten(1), range(channels.start - 1, channels.stop - 1), strict=True):
                if k >= 0:
                    copy[places[chosen[k]]] = 0
            return copies

        S = above.values(1 + len(chosen), without)
        w = torch.where(S[:1] != 0, (S[:1] - S[1:]) / S[:1], S[:1] - S[1:])  # w_k = (S - S^k) / S, (D,) or (D, K)
        kept = A[0, chosen]
        cam = torch.einsum("d...,dp->...p", w.to(A), kept.flatten(1)).view(*w.shape[1:], 1, *A.shape[2:])
        return cam, S[0], A

    def passes(self) -> float:
        """As for a layer of 512 channels, all of whose passes are whole ones: at most."""
        return (2.0 + counted(self.channels)) * len(self.layers or (None,))
