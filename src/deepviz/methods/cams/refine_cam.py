"""RefineCAM: Domeniconi et al. 2026."""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from deepviz import options
from deepviz.methods.cams.grad_cam_plus_plus import GradCAMPlusPlus
from deepviz.methods.cams.guided import check_layer_method
from deepviz.methods.cams.layer_map import LayerMap, note_layers, scaled
from deepviz.methods.enlarge import enlarged
from deepviz.methods.method import Method, View
from deepviz.methods.needs import Needs
from deepviz.probe.layers import choose_layer, choose_stages
from deepviz.probe.session import Session


@dataclass(frozen=True)
class RefineCAM(Method):
    """The product of a method's maps at several layers: as fine as the earliest, where the latest has evidence.

        R = prod_l up(relu(M_l) / max M_l)

    M_l is the map of `of` at layer l; up enlarges it linearly to the size of the image. Without `layers`, the last
    layer with each size of map is taken, from a quarter of the image's size down: the four stages of a ResNet.

    Shapes: x (N, C, H, W) -> (N, 1, H, W), between 0 and 1; signals (N, C, L) and volumes (N, C, D, H, W) likewise.
    Drawn from zero up.

    Errors: those of the method inside; ValueError if that is no layer method, or names a layer itself.

    Pitfall: where one layer's map is zero, so is the product; one that is zero everywhere leaves nothing.

    Reference: Domeniconi, Stramiglio, Lombardi and Salti, "How to Evaluate and Refine your CAM" (2026),
    arXiv:2605.14641.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from deepviz.methods import LayerCAM, RefineCAM
        >>> _ = torch.manual_seed(0)
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 5))
        >>> RefineCAM(of=LayerCAM(), layers=("1", "2"))(model, torch.rand(2, 3, 8, 8)).shape
        torch.Size([2, 1, 8, 8])
    """

    of: Annotated[Method, "Layer method whose maps are multiplied."] = field(default_factory=GradCAMPlusPlus)
    layers: options.Layers = None

    title: ClassVar[str] = "RefineCAM"
    paper: ClassVar[str] = "Domeniconi et al. 2026, arXiv:2605.14641"
    cost: ClassVar[str] = "a map of the method inside for each layer"
    needs: ClassVar[Needs] = Needs(layer=True)
    in_default_set: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_layer_method("of", self.of)
        if getattr(self.of, "layer", None) is not None or getattr(self.of, "layers", None) is not None:
            raise ValueError("of must name no layer: give layers= of RefineCAM itself")

    def maps(self, session: Session) -> Tensor:
        """prod_l up(relu(M_l) / max M_l)."""
        session.decide()  # one class for all layers
        assert isinstance(self.of, LayerMap)
        chosen = self.layers
        layers = choose_stages(session) if chosen is None else [choose_layer(session, one) for one in chosen]
        rows, space = 2 if session.several else 1, session.image().shape[2:]
        maps = [enlarged(scaled(self.of.map_at(session, layer).relu(), rows), space) for layer in layers]
        note_layers(session, layers)
        session.notes.facts["joined"] = "product of the maps, each divided by its maximum"
        return torch.stack(maps).prod(0)

    def passes(self) -> float:
        """Those of the method inside, for each layer; for four if they are not named."""
        return self.of.passes() * (4 if self.layers is None else len(self.layers))

    @property
    def view(self) -> View:
        """From zero up."""
        return "positive"

    @property
    def name(self) -> str:
        """With the method inside, unless it is the paper's."""
        return self.title if self.of == GradCAMPlusPlus() else f"{self.title} of {self.of}"
