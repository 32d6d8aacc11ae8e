"""Eigen-Grad-CAM: the principal component of gradient × activation."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from deepviz.methods.cams.layer_map import GradientMap
from deepviz.methods.cams.principal import first_component


@dataclass(frozen=True)
class EigenGradCAM(GradientMap):
    """Gradient × activation at a layer, projected on its first principal component: Eigen-CAM with a class.

        M = A * dS_c/dA = U S V^T        (positions x channels), not centred
        R = relu(M v_1)

    A singular vector has no sign of its own: the one is taken with which the map goes along with HiResCAM's,
    sum_k dS_c/dA_kij A_kij, so that what is positive is evidence for the class.

    Shapes: x (N, C, H, W) -> (N, 1, h, w), at the layer's own resolution; signals (N, C, L) and volumes
    (N, C, D, H, W) likewise. With `layers=`, (N, 1, H, W). Drawn by linear upsampling, divided by its maximum.

    Errors: those of `GradCAM`.

    Pitfall: one component of many: what the score owes to the others does not show. The method has no paper of its
    own; the package that named it subtracts the mean first, which Eigen-CAM's paper does not.

    Reference: Muhammad and Yeasin, "Eigen-CAM" (2020), arXiv:2008.00299, of gradient × activation as Gildenblat and
    contributors, "PyTorch library for CAM methods" (2021).

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from deepviz.methods import EigenGradCAM
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
        >>> EigenGradCAM()(model, torch.rand(2, 3, 8, 8), target=3).shape
        torch.Size([2, 1, 6, 6])
    """

    title: ClassVar[str] = "Eigen-Grad-CAM"
    paper: ClassVar[str] = "Muhammad and Yeasin 2020, arXiv:2008.00299"
    cost: ClassVar[str] = "1 forward, the backward above the layer"
    in_default_set: ClassVar[bool] = False

    def combine(self, A: Tensor, dA: Tensor) -> Tensor:
        """M v_1."""
        M = A * dA
        return first_component(M, M.sum(1, keepdim=True))
