"""Grad-CAM++: Chattopadhay et al. 2018."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from deepviz.methods.cams.layer_map import GradientMap, total


@dataclass(frozen=True)
class GradCAMPlusPlus(GradientMap):
    """Grad-CAM with positive gradients alone, of which each position has a weight of its own.

        g        = dS_c / dA_kij
        alpha_kij = g^2 / (2 g^2 + g^3 sum_ab A_kab)        0 where g is 0
        w_k      = sum_ij alpha_kij relu(g)
        R        = relu(sum_k w_k A_k)

    The paper derives alpha for the score exp(S_c), whose derivatives are exp(S_c) times the powers of g: they cancel in
    alpha, and leave one positive factor exp(S_c) for the whole map, which would overflow and is left out here.

    Shapes: x (N, C, H, W) -> (N, 1, h, w), at the layer's own resolution; signals (N, C, L) and volumes
    (N, C, D, H, W) likewise. With `layers=`, (N, 1, H, W). Drawn by linear upsampling, divided by its maximum.

    Errors: those of `GradCAM`.

    Pitfall: where a layer's output has both signs, 2 g^2 + g^3 sum_ab A_kab can cross zero, and the weight near there
    is as large as one likes. Take a layer after a ReLU.

    Reference: Chattopadhay, Sarkar, Howlader and Balasubramanian, "Grad-CAM++" (2018), arXiv:1710.11063, equations
    10 to 19.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from deepviz.methods import GradCAMPlusPlus
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 5))
        >>> GradCAMPlusPlus(layer="1", relu=False)(model, torch.rand(2, 3, 8, 8), target=3).shape
        torch.Size([2, 1, 6, 6])
    """

    title: ClassVar[str] = "Grad-CAM++"
    paper: ClassVar[str] = "Chattopadhay et al. 2018, arXiv:1710.11063"
    cost: ClassVar[str] = "1 forward, the backward above the layer"
    in_default_set: ClassVar[bool] = False

    def combine(self, A: Tensor, dA: Tensor) -> Tensor:
        """sum_k w_k A_k."""
        below = 2 * dA.square() + dA.pow(3) * total(A)
        alpha = torch.where(dA > 0, dA.square() / below, 0)  # g^2 / (2 g^2 + g^3 sum_ab A_kab)
        w = total(alpha * dA.relu())  # w_k = sum_ij alpha_kij relu(g)
        return (w * A).sum(1, keepdim=True)
