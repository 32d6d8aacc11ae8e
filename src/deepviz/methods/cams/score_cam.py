"""Score-CAM: Wang et al. 2019."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from deepviz.methods.cams.masked import MaskedImageMap


@dataclass(frozen=True)
class ScoreCAM(MaskedImageMap):
    """The feature maps of a layer, weighted by what the model says to the image masked by each: no gradient.

        H_k = scaled(up(A_k))                 to the image's size, then its minimum to 0 and its maximum to 1
        w   = softmax_k f_c(H_k * x)
        R   = relu(sum_k w_k A_k)

    f_c is the probability of the class, for which the paper's softmax over channels leaves many of them: with logits,
    whose differences are large, one channel has nearly all the weight. "weights" in the notes says what was read, and
    "effective channels" how many there are in effect, 1 / sum_k w_k^2. The paper's f_c(H_k * x) - f_c(0) has the same
    softmax. Where what is explained is no class, f is its value.

    Shapes: x (N, C, H, W) -> (N, 1, h, w), at the layer's own resolution; signals (N, C, L) and volumes
    (N, C, D, H, W) likewise. With `layers=`, (N, 1, H, W). Drawn by linear upsampling, divided by its maximum.

    Errors: those of `GradCAM`.

    Pitfall: a forward pass for each channel, of which a layer has hundreds; `channels=` takes the strongest. Where
    hardly any masked image has the class, all weights are alike, and the map is the mean of the channels, whatever the
    class: compare "effective channels" with the number of channels.

    Reference: Wang, Wang, Du, Yang, Zhang, Ding, Mardziel and Hu, "Score-CAM" (2019), arXiv:1910.01279, algorithm 1.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from deepviz.methods import ScoreCAM
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
        >>> ScoreCAM()(model, torch.rand(2, 3, 8, 8), target=3).shape
        torch.Size([2, 1, 6, 6])
    """

    title: ClassVar[str] = "Score-CAM"
    paper: ClassVar[str] = "Wang et al. 2019, arXiv:1910.01279"
    cost: ClassVar[str] = "1 forward, and 1 for each channel"
    in_default_set: ClassVar[bool] = False

    def mask(self, H: Tensor, copy: Tensor) -> Tensor:
        """H_k."""
        return H
