"""IS-CAM: Naidu et al. 2020."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor

from deepviz.methods.cams.masked import MaskedImageMap
from deepviz.options import Ge


@dataclass(frozen=True)
class ISCAM(MaskedImageMap):
    """Score-CAM with each channel's mask integrated from black to its full strength.

        w = softmax_k 1/n sum_i f_c(i/n H_k * x),    i = 1 ... n
        R = relu(sum_k w_k A_k)

    H_k is `ScoreCAM`'s mask, between 0 and 1.

    Shapes: x (N, C, H, W) -> (N, 1, h, w), at the layer's own resolution; signals (N, C, L) and volumes
    (N, C, D, H, W) likewise. With `layers=`, (N, 1, H, W). Drawn by linear upsampling, divided by its maximum.

    Errors: those of `GradCAM`.

    Pitfall: `steps` forward passes for each channel. Weights are more alike than `ScoreCAM`'s, since a faint image
    rarely has the class.

    Reference: Naidu, Ghosh, Maurya, Shamanth and Kundu, "IS-CAM" (2020), arXiv:2010.03023.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from deepviz.methods import ISCAM
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
        >>> ISCAM(steps=4)(model, torch.rand(2, 3, 8, 8), target=3).shape
        torch.Size([2, 1, 6, 6])
    """

    steps: Annotated[int, Ge(1), "Strengths of each channel's mask."] = 10

    title: ClassVar[str] = "IS-CAM"
    paper: ClassVar[str] = "Naidu et al. 2020, arXiv:2010.03023"
    cost: ClassVar[str] = "1 forward, and `steps` for each channel"
    in_default_set: ClassVar[bool] = False
    masks: ClassVar[int | str] = "steps"

    def mask(self, H: Tensor, copy: Tensor) -> Tensor:
        """i/n H_k."""
        return H * ((copy + 1) / self.steps).view(-1, *[1] * (H.ndim - 1)).to(H)
