"""HiResCAM: Draelos and Carin 2020."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from deepviz.methods.cams.layer_map import GradientMap


@dataclass(frozen=True)
class HiResCAM(GradientMap):
    """Gradient × activation at a layer: what each of its positions adds to the score.

        R = relu(sum_k dS_c/dA_kij A_kij)

    Where only one linear layer follows, pooled or not, the map without the ReLU sums to the score but for the bias;
    Grad-CAM's does so only below average pooling.

    Shapes: x (N, C, H, W) -> (N, 1, h, w), at the layer's own resolution; signals (N, C, L) and volumes
    (N, C, D, H, W) likewise. With `layers=`, (N, 1, H, W). Drawn by linear upsampling, divided by its maximum.

    Errors: those of `GradCAM`.

    Pitfall: gradients are not averaged, so maps of layers far below the output are noisier than Grad-CAM's.

    Reference: Draelos and Carin, "Use HiResCAM instead of Grad-CAM for faithful explanations of convolutional neural
    networks" (2020), arXiv:2011.08891, equation 3.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from deepviz.methods import HiResCAM
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 5))
        >>> HiResCAM(layer="1", relu=False)(model, torch.rand(2, 3, 8, 8), target=3).shape
        torch.Size([2, 1, 6, 6])
    """

    title: ClassVar[str] = "HiResCAM"
    paper: ClassVar[str] = "Draelos and Carin 2020, arXiv:2011.08891"
    cost: ClassVar[str] = "1 forward, the backward above the layer"
    in_default_set: ClassVar[bool] = False

    def combine(self, A: Tensor, dA: Tensor) -> Tensor:
        """sum_k dS/dA_kij A_kij."""
        return (dA * A).sum(1, keepdim=True)
