"""Guided Grad-CAM: Selvaraju et al. 2016."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from deepviz import options
from deepviz.methods.cams.grad_cam import GradCAM
from deepviz.methods.cams.layer_map import combined, note_layers, positive
from deepviz.methods.enlarge import enlarged
from deepviz.methods.method import Method
from deepviz.methods.needs import Needs
from deepviz.probe.capture import layer_and_input_gradient
from deepviz.probe.layers import choose_layer
from deepviz.probe.rules import Rule
from deepviz.probe.session import Session


@dataclass(frozen=True)
class GuidedGradCAM(Method):
    """Guided backpropagation, weighted by Grad-CAM: fine detail in the regions that drive the class.

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
    grid: options.GridOption = None
    skip: options.SkipOption = None

    title: ClassVar[str] = "Guided Grad-CAM"
    paper: ClassVar[str] = "Selvaraju et al. 2016, arXiv:1610.02391"
    cost: ClassVar[str] = "1 forward, 1 backward, another above the layer"
    needs: ClassVar[Needs] = Needs(gradient=True, layer=True, rectifier=True)

    def passes(self) -> float:
        """A forward pass and two backward passes, of which one ends at the layer."""
        return 3.0

    def maps(self, session: Session) -> Tensor:
        """Guided backpropagation times the upsampled Grad-CAM."""
        layer = choose_layer(session, self.layer, self.grid, self.skip)
        place = next(place for place, leaf in enumerate(session.x) if leaf is session.image())

        def chunk(part: Session) -> tuple[Tensor, Tensor]:
            A, dA, guided = layer_and_input_gradient(part, layer.name, Rule(mask=True))
            cam = combined(GradCAM(), part, layer, A, dA)
            G = guided[place]
            return G * enlarged(cam.relu(), part.image().shape[2:]), cam  # R = G * up(relu(sum_k w_k A_k))

        maps, cam = session.by_rows(chunk)
        note_layers(session, [layer])
        positive(GradCAM(), session, cam)
        return maps
