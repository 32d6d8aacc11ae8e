"""Eigen-CAM: Muhammad and Yeasin 2020."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from deepviz.methods.cams.layer_map import ActivationMap
from deepviz.methods.cams.principal import first_component
from deepviz.methods.method import View


@dataclass(frozen=True)
class EigenCAM(ActivationMap):
    """What a layer returns, projected on its first principal component: no class, no gradient.

        A = U S V^T        (positions x channels), not centred
        R = A v_1

    A singular vector has no sign of its own: the one is taken with which the map's third powers sum to no less
    than zero, so that what stands out is positive. After a ReLU the map is nowhere negative.

    Shapes: x (N, C, H, W) -> (N, 1, h, w), at the layer's own resolution; signals (N, C, L) and volumes
    (N, C, D, H, W) likewise. With `layers=`, (N, 1, H, W). Drawn by linear upsampling, divided by its maximum.

    Errors: `LayerError` if the layer does not exist, does not lie on the image, or is not called exactly once.

    Pitfall: it is the same for every class. It shows what the layer responds to most, which often is the object, and
    never why this class and not another.

    Reference: Muhammad and Yeasin, "Eigen-CAM: Class Activation Map using Principal Components" (2020),
    arXiv:2008.00299.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from deepviz.methods import EigenCAM
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
        >>> EigenCAM()(model, torch.rand(2, 3, 8, 8), target=3).shape
        torch.Size([2, 1, 6, 6])
    """

    title: ClassVar[str] = "Eigen-CAM"
    paper: ClassVar[str] = "Muhammad and Yeasin 2020, arXiv:2008.00299"
    cost: ClassVar[str] = "1 forward"
    in_default_set: ClassVar[bool] = False

    def combine(self, A: Tensor) -> Tensor:
        """A v_1."""
        return first_component(A)

    @property
    def view(self) -> View:
        """Signed, since a layer without a ReLU has values of both signs."""
        return "sum"
