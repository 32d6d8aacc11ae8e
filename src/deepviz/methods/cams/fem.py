"""FEM, the feature explanation method: Fuad et al. 2020."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from deepviz.methods.cams.layer_map import ActivationMap, mean
from deepviz.methods.method import View
from deepviz.options import Ge

TIE = 16
"""In units of the last place, how far values may be apart that are the same."""


@dataclass(frozen=True)
class FEM(ActivationMap):
    """Where the channels of a layer are unusually active: no class, no gradient.

        B_kij = 1 where A_kij >= mu_k + k sigma_k, else 0
        R     = sum_k mu_k B_kij

    mu_k and sigma_k are mean and standard deviation of channel k over all positions.

    Shapes: x (N, C, H, W) -> (N, 1, h, w), at the layer's own resolution; signals (N, C, L) and volumes
    (N, C, D, H, W) likewise. With `layers=`, (N, 1, H, W). Drawn by linear upsampling, divided by its maximum.

    Errors: `LayerError` if the layer does not exist, does not lie on the image, or is not called exactly once.

    Pitfall: it is the same for every class, and has few levels: a position is in a channel's set or not.

    Reference: Fuad, Martin, Giot, Bourqui, Benois-Pineau and Zemmari, "Features Understanding in 3D CNNs for Actions
    Recognition in Video" (2020), IPTA, doi:10.1109/IPTA50016.2020.9286629.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from deepviz.methods import FEM
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
        >>> FEM()(model, torch.rand(2, 3, 8, 8), target=3).shape
        torch.Size([2, 1, 6, 6])
    """

    k: Annotated[float, Ge(0), "Standard deviations above a channel's mean from which on a position counts."] = 1.0

    title: ClassVar[str] = "FEM"
    paper: ClassVar[str] = "Fuad et al. 2020, doi:10.1109/IPTA50016.2020.9286629"
    cost: ClassVar[str] = "1 forward"
    in_default_set: ClassVar[bool] = False

    def combine(self, A: Tensor) -> Tensor:
        """sum_k mu_k B_k."""
        mu = mean(A)
        sigma = mean((A - mu).square()).sqrt()
        # of two positions one is exactly at mu + sigma, so that rounding must not decide
        tie = TIE * torch.finfo(A.dtype).eps * A.abs().flatten(2).amax(2).view(mu.shape)
        B = (mu + self.k * sigma - tie <= A).to(A.dtype)
        return (mu * B).sum(1, keepdim=True)

    @property
    def view(self) -> View:
        """Signed, since the mean of a layer without a ReLU can be negative."""
        return "sum"
