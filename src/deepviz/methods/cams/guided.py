"""Guided maps of any layer method: Selvaraju et al. 2016."""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from torch import Tensor

from deepviz.methods.cams.layer_cam import LayerCAM
from deepviz.methods.cams.layer_map import LayerMap
from deepviz.methods.enlarge import enlarged
from deepviz.methods.method import Method
from deepviz.methods.needs import Needs
from deepviz.probe.rules import Rule
from deepviz.probe.session import Session


@dataclass(frozen=True)
class Guided(Method):
    """Guided backpropagation, weighted by the map of a layer method: Guided Grad-CAM with another one inside.

        R = G * up(M)

    G is the signed map of `GuidedBackprop`, M that of `cam`, enlarged linearly to the size of the image and not
    renormalised. With `GradCAM` it is `GuidedGradCAM`, which takes one forward pass for both.

    Shapes: x (N, C, H, W) -> (N, C, H, W). Drawn as the maximum of |R| over channels.

    Errors: those of the method inside and of `GuidedBackprop`; ValueError if the one inside is no layer method.

    Pitfall: the fine detail is guided backpropagation's, which hardly depends on the class; only the coarse region
    comes from the method inside (Adebayo et al. 2018).

    Reference: Selvaraju, Cogswell, Das, Vedantam, Parikh and Batra, "Grad-CAM" (2016), arXiv:1610.02391, section 3.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from deepviz.methods import Guided, LayerCAM
        >>> _ = torch.manual_seed(0)
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 5))
        >>> Guided(cam=LayerCAM(layer="1"))(model, torch.rand(2, 3, 8, 8)).shape
        torch.Size([2, 3, 8, 8])
    """

    cam: Annotated[Method, "Layer method whose map weights guided backpropagation."] = field(default_factory=LayerCAM)

    title: ClassVar[str] = "Guided"
    paper: ClassVar[str] = "Selvaraju et al. 2016, arXiv:1610.02391"
    cost: ClassVar[str] = "1 forward, 1 backward, and the map of the method inside"
    needs: ClassVar[Needs] = Needs(gradient=True, rectifier=True)
    in_default_set: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_layer_method("cam", self.cam)

    def maps(self, session: Session) -> Tensor:
        """G * up(M)."""
        session.decide()
        image = session.image()
        place = next(place for place, leaf in enumerate(session.x) if leaf is image)
        M = self.cam.maps(session)
        assert isinstance(M, Tensor)
        G = session.gradient(Rule(mask=True))[place]
        return G * enlarged(M, image.shape[2:]).to(G)

    def passes(self) -> float:
        """A forward and a backward pass, and those of the method inside."""
        return 2.0 + self.cam.passes()

    @property
    def name(self) -> str:
        """With the method inside."""
        return f"{self.title} {self.cam}"


def check_layer_method(option: str, method: Method) -> None:
    """Refuse a method inside another that has no map of a layer.

    Raises:
        ValueError: naming the option.
    """
    if not isinstance(method, LayerMap):
        raise ValueError(f"{option} must be a layer method, such as GradCAM() or LayerCAM(), got {method.name}")
