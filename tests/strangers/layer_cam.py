"""Layer-CAM: Jiang et al. 2021. Written as somebody outside of this package would: one file, nothing else edited."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from deepviz import options
from deepviz.methods import Method, Needs
from deepviz.probe.capture import layer_gradient
from deepviz.probe.layers import choose_layer, grid_of
from deepviz.probe.session import Session


@dataclass(frozen=True)
class LayerCAM(Method):
    """The feature maps of a layer, each value weighted by its own positive gradient.

        R = relu(sum_k relu(dS_c / dA_kij) A_kij)

    Unlike in Grad-CAM, weights differ from place to place, so that maps of early layers are fine.

    Shapes: x (N, C, H, W) -> (N, 1, h, w), at the layer's own resolution.

    Errors: those of `GradCAM`.

    Pitfall: where the gradient is negative the layer is left out, whatever its value.

    Reference: Jiang, Zhang, Hou, Cheng and Wei, "LayerCAM" (2021), doi:10.1109/TIP.2021.3089943.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 5))
        >>> LayerCAM(layer="1")(model, torch.rand(2, 3, 8, 8), target=3).shape
        torch.Size([2, 1, 6, 6])
    """

    layer: options.Layer = None
    grid: options.GridOption = None
    skip: options.SkipOption = None

    title: ClassVar[str] = "Layer-CAM"
    paper: ClassVar[str] = "Jiang et al. 2021, doi:10.1109/TIP.2021.3089943"
    cost: ClassVar[str] = "1 forward, the backward above the layer"
    needs: ClassVar[Needs] = Needs(layer=True)

    def maps(self, session: Session) -> Tensor:
        """relu(sum_k relu(dA_k) A_k)."""
        layer = choose_layer(session, self.layer, self.grid, self.skip)

        def chunk(part: Session) -> tuple[Tensor]:
            A, dA = layer_gradient(part, layer.name)
            grid = grid_of(layer, A, part.n)
            A = grid.maps(A)
            cams = [
                (grid.maps(one).relu() * A).sum(1, keepdim=True).relu()
                for one in (dA.unbind(1) if part.several else [dA])
            ]
            return (torch.stack(cams, 1) if part.several else cams[0],)

        session.notes.facts["layer"] = layer.name
        (cam,) = session.by_rows(chunk, graph=False)
        return cam

    @property
    def view(self):
        """From zero up."""
        return "positive"
