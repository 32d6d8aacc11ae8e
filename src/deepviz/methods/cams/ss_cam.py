"""SS-CAM: Wang et al. 2020."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from deepviz.methods.cams.masked import MaskedImageMap
from deepviz.options import Ge, Gt, Seed
from deepviz.probe.seeds import generator_of


@dataclass(frozen=True)
class SSCAM(MaskedImageMap):
    """Score-CAM with noise on each channel's mask: smoothed Score-CAM.

        w = softmax_k 1/n sum_i f_c((H_k + e_i) * x),    e_i ~ N(0, noise^2)
        R = relu(sum_k w_k A_k)

    H_k is `ScoreCAM`'s mask, between 0 and 1. The noise has a value for each pixel, the same for all channels, so that
    these differ by their masks alone, and the same for all rows.

    Shapes: x (N, C, H, W) -> (N, 1, h, w), at the layer's own resolution; signals (N, C, L) and volumes
    (N, C, D, H, W) likewise. With `layers=`, (N, 1, H, W). Drawn by linear upsampling, divided by its maximum.

    Errors: those of `GradCAM`.

    Pitfall: `samples` forward passes for each channel. With the paper's noise of 2 a mask is mostly noise, and all
    weights are nearly alike: see "effective channels" in the notes.

    Reference: Wang, Naidu, Michael and Kundu, "SS-CAM" (2020), arXiv:2006.14255, smoothing of the input mask.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from deepviz.methods import SSCAM
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
        >>> SSCAM(samples=4)(model, torch.rand(2, 3, 8, 8), target=3).shape
        torch.Size([2, 1, 6, 6])
    """

    samples: Annotated[int, Ge(1), "Noisy masks for each channel."] = 35
    noise: Annotated[float, Gt(0), "Standard deviation of the noise, where masks are from 0 to 1."] = 2.0
    seed: Annotated[Seed, "Seed of the noise."] = 0

    title: ClassVar[str] = "SS-CAM"
    paper: ClassVar[str] = "Wang et al. 2020, arXiv:2006.14255"
    cost: ClassVar[str] = "1 forward, and `samples` for each channel"
    in_default_set: ClassVar[bool] = False
    masks: ClassVar[int | str] = "samples"

    def mask(self, H: Tensor, copy: Tensor) -> Tensor:
        """H_k + e_i."""
        drawn = {i: torch.randn(H.shape[1:], generator=generator_of(self.seed, i)) for i in set(copy.tolist())}
        return H + self.noise * torch.stack([drawn[i] for i in copy.tolist()]).to(H)
