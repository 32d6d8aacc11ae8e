"""XGrad-CAM: Fu et al. 2020."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from deepviz.methods.cams.layer_map import GradientMap, total


@dataclass(frozen=True)
class XGradCAM(GradientMap):
    """Grad-CAM with each position's gradient weighted by its share of the channel's activation.

        w_k = sum_ij (A_kij / sum_ab A_kab) dS_c/dA_kij        0 for a channel whose activations sum to 0
        R   = relu(sum_k w_k A_k)

    Of all weights that are one number per channel, these come closest to two axioms: sensitivity (what the score loses
    without a channel) and conservation (the map sums to the score, for networks of ReLUs without biases).

    Shapes: x (N, C, H, W) -> (N, 1, h, w), at the layer's own resolution; signals (N, C, L) and volumes
    (N, C, D, H, W) likewise. With `layers=`, (N, 1, H, W). Drawn by linear upsampling, divided by its maximum.

    Errors: those of `GradCAM`.

    Pitfall: where a layer's output has both signs, a channel's sum can be near zero and its weight very large. Take a
    layer after a ReLU.

    Reference: Fu, Hu, Dong, Guo, Gao and Li, "Axiom-based Grad-CAM" (2020), arXiv:2008.02312, equation 8.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from deepviz.methods import XGradCAM
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 5))
        >>> XGradCAM(layer="1", relu=False)(model, torch.rand(2, 3, 8, 8), target=3).shape
        torch.Size([2, 1, 6, 6])
    """

    title: ClassVar[str] = "XGrad-CAM"
    paper: ClassVar[str] = "Fu et al. 2020, arXiv:2008.02312"
    cost: ClassVar[str] = "1 forward, the backward above the layer"
    in_default_set: ClassVar[bool] = False

    def combine(self, A: Tensor, dA: Tensor) -> Tensor:
        """sum_k w_k A_k."""
        sums = total(A)
        w = torch.where(sums != 0, total(A * dA) / sums, 0)  # w_k = sum_ij (A_kij / sum_ab A_kab) dS/dA_kij
        return (w * A).sum(1, keepdim=True)
