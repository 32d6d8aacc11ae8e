"""Grad-CAM: Selvaraju et al. 2016."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from deepviz.methods.cams.layer_map import GradientMap, mean


@dataclass(frozen=True)
class GradCAM(GradientMap):
    """The feature maps of a layer, weighted by how much the class score depends on each.

        w_k = 1/(h w) sum_ij dS_c / dA_kij
        R   = relu(sum_k w_k A_k)

    A_k is channel k of the layer's output. On transformers, tokens are laid out on the image's grid and class and
    register tokens are left out.

    Shapes: x (N, C, H, W) -> (N, 1, h, w), at the layer's own resolution; signals (N, C, L) and volumes
    (N, C, D, H, W) likewise, the mean being over all positions. Drawn by linear upsampling, divided by its maximum.

    That the layer's output lies on the image, and how, is found and checked: see `deepviz.probe.places`. What cannot
    be found is said with `grid`, the cells along each axis, and `skip`, the positions of other tokens, or with a
    function as `grid`, which is not checked. It takes one forward and at most 12 backward passes of one image for
    each layer looked at, once per model, layer and input shape; layers that only convolutions and the like made take
    no backward pass. "place" in the result's notes says how else the grid is known.

    Errors: `LayerError` if the layer does not exist, does not lie on the image, is not called exactly once, or does
    not influence the score. A warning if all evidence is negative, so that the ReLU leaves nothing (`relu=False`
    shows it). See also `Method.__call__`.

    Pitfall: the map is coarse (7 x 7 on most networks), and its smooth look is the upsampling's. It depends on the
    layer: without `layer`, the last one with a spatial map and a gradient is taken, and named in the result.

    Reference: Selvaraju, Cogswell, Das, Vedantam, Parikh and Batra, "Grad-CAM" (2016), arXiv:1610.02391.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from deepviz.methods import GradCAM
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 5))
        >>> GradCAM(layer="1", relu=False)(model, torch.rand(2, 3, 8, 8), target=3).shape
        torch.Size([2, 1, 6, 6])
    """

    title: ClassVar[str] = "Grad-CAM"
    paper: ClassVar[str] = "Selvaraju et al. 2016, arXiv:1610.02391"
    cost: ClassVar[str] = "1 forward, the backward above the layer"

    def combine(self, A: Tensor, dA: Tensor) -> Tensor:
        """sum_k w_k A_k."""
        w = mean(dA)  # w_k = 1/(h w) sum_ij dS/dA_kij
        return (w * A).sum(1, keepdim=True)  # sum_k w_k A_k
