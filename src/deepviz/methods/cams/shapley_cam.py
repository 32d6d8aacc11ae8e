"""ShapleyCAM: Cai 2025."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from deepviz.methods.cams.grad_cam import GradCAM
from deepviz.methods.cams.layer_map import EvidenceMap, combined
from deepviz.probe.capture import layer_curvature
from deepviz.probe.layers import Layer
from deepviz.probe.session import Session


@dataclass(frozen=True)
class ShapleyCAM(EvidenceMap):
    """Grad-CAM with the gradient corrected by half the second derivative: Shapley values to second order.

        g   = dS_c/dA,    H = d^2 S_c/dA^2
        w_k = 1/(h w) sum_ij (g - 1/2 H A)_kij
        R   = relu(sum_k w_k A_k)

    The paper explains logit + log probability, the objective `ReST`. A plain logit below average pooling and one linear
    layer, or below layers that are linear but for ReLUs and maxima, has H = 0, and the map is Grad-CAM's.

    Shapes: x (N, C, H, W) -> (N, 1, h, w), at the layer's own resolution; signals (N, C, L) and volumes
    (N, C, D, H, W) likewise. With `layers=`, (N, 1, H, W). Drawn by linear upsampling, divided by its maximum.

    Errors: those of `GradCAM`.

    Pitfall: for a plain logit of most convolutional networks it is Grad-CAM, at twice the cost: give `ReST(c)`.

    Reference: Cai, "CAMs as Shapley Value-based Explainers" (2025), arXiv:2501.06261.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from deepviz.methods import ShapleyCAM
        >>> from deepviz.objectives import ReST
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
        >>> ShapleyCAM(relu=False)(model, torch.rand(2, 3, 8, 8), ReST(3)).shape
        torch.Size([2, 1, 6, 6])
    """

    title: ClassVar[str] = "ShapleyCAM"
    paper: ClassVar[str] = "Cai 2025, arXiv:2501.06261"
    cost: ClassVar[str] = "1 forward, the backward above the layer twice"
    in_default_set: ClassVar[bool] = False

    def evidence(self, session: Session, layer: Layer) -> Tensor:
        """sum_k w_k A_k."""

        def chunk(part: Session) -> tuple[Tensor]:
            A, g, HA = layer_curvature(part, layer.name)
            return (combined(GradCAM(), part, layer, A, g - HA / 2),)  # Grad-CAM of g - 1/2 H A

        return session.by_rows(chunk, graph=False)[0]

    def passes(self) -> float:
        """A forward pass, and a backward pass above the layer with one through itself, for each layer."""
        return 4.0 * len(self.layers or (None,))
