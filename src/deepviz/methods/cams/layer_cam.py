"""LayerCAM: Jiang et al. 2021."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from deepviz.methods.cams.layer_map import GradientMap


@dataclass(frozen=True)
class LayerCAM(GradientMap):
    """The feature maps of a layer, each position weighted by its own positive gradient.

        R = relu(sum_k relu(dS_c/dA_kij) A_kij)

    Since each position has its own weight, it can be used at early layers, whose maps are fine; the paper joins the
    maps of several (`layers=`, `join="maximum"`).

    Shapes: x (N, C, H, W) -> (N, 1, h, w), at the layer's own resolution; signals (N, C, L) and volumes
    (N, C, D, H, W) likewise. With `layers=`, (N, 1, H, W). Drawn by linear upsampling, divided by its maximum.

    Errors: those of `GradCAM`.

    Pitfall: negative evidence never shows, with or without the last ReLU. At early layers the gradient is noisy.

    Reference: Jiang, Zhang, Hou, Cheng and Wei, "LayerCAM: Exploring Hierarchical Class Activation Maps for
    Localization" (2021), IEEE TIP 30, doi:10.1109/TIP.2021.3089943.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from deepviz.methods import LayerCAM
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 5))
        >>> LayerCAM(layer="1", relu=False)(model, torch.rand(2, 3, 8, 8), target=3).shape
        torch.Size([2, 1, 6, 6])
    """

    title: ClassVar[str] = "LayerCAM"
    paper: ClassVar[str] = "Jiang et al. 2021, doi:10.1109/TIP.2021.3089943"
    cost: ClassVar[str] = "1 forward, the backward above the layer"
    in_default_set: ClassVar[bool] = False

    def combine(self, A: Tensor, dA: Tensor) -> Tensor:
        """sum_k relu(dS/dA_kij) A_kij."""
        return (dA.relu() * A).sum(1, keepdim=True)
