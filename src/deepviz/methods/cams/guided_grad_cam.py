"""Guided Grad-CAM: Selvaraju et al. 2016."""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from deepviz import options
from deepviz.methods.cams.grad_cam import class_activation, warn_of_negative
from deepviz.methods.method import Method
from deepviz.methods.needs import Needs
from deepviz.probe.capture import layer_and_input_gradient
from deepviz.probe.chunks import Joined
from deepviz.probe.gradient import Call
from deepviz.probe.layers import choose_layer
from deepviz.probe.rules import Rule
from deepviz.target import Score


@dataclass(frozen=True)
class GuidedGradCAM(Method):
    """Guided backpropagation, weighted by Grad-CAM: fine detail where the layer sees the class.

        R = G * up(relu(sum_k w_k A_k))

    G is the signed map of `GuidedBackprop`, the second factor that of `GradCAM`, upsampled bilinearly to the size of
    the image and not renormalised. Both come from one forward pass.

    Shapes: x (N, C, H, W) -> (N, C, H, W). Drawn as the maximum of |R| over channels.

    Errors: those of `GradCAM` and `GuidedBackprop`.

    Pitfall: the fine detail is guided backpropagation's, which hardly depends on the class; only the coarse region
    comes from evidence for it (Adebayo et al. 2018).

    Reference: Selvaraju, Cogswell, Das, Vedantam, Parikh and Batra, "Grad-CAM" (2016), arXiv:1610.02391, section 3.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from deepviz.methods import GuidedGradCAM
        >>> _ = torch.manual_seed(0)
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 5))
        >>> GuidedGradCAM(layer="1")(model, torch.rand(2, 3, 8, 8)).shape
        torch.Size([2, 3, 8, 8])
    """

    layer: options.Layer = None

    title: ClassVar[str] = "Guided Grad-CAM"
    paper: ClassVar[str] = "Selvaraju et al. 2016, arXiv:1610.02391"
    cost: ClassVar[str] = "1 forward, 1 backward"
    needs: ClassVar[Needs] = Needs(gradient=True, layer=True, rectifier=True)

    def maps(self, call: Call, x: Tensor, score: Score) -> Tensor:
        """Guided backpropagation times the upsampled Grad-CAM."""
        layer = choose_layer(call, x, score, self.layer)

        cams = Joined(len(x))

        def chunk(rows: slice) -> Tensor:
            A, dA, G = layer_and_input_gradient(call, x[rows], score.take(rows), layer.name, Rule(mask=True))
            cam = class_activation(call, layer, x[rows], A, dA, len(score.shape) > 0)
            cams.put(rows, cam)
            up = F.interpolate(cam.relu().flatten(0, -4), x.shape[2:], mode="bilinear", align_corners=False)
            return G * up.view(*cam.shape[:-2], *x.shape[2:])  # R = G * up(relu(sum_k w_k A_k))

        maps = call.by_rows(x, chunk)
        warn_of_negative(call, cams.whole)
        return maps
