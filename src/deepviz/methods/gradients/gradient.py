"""The gradient of the class score: Simonyan et al. 2013."""

from dataclasses import dataclass
from typing import ClassVar

from deepviz.inputs import Leaves
from deepviz.methods.method import Method
from deepviz.methods.needs import Needs
from deepviz.probe.session import Session


@dataclass(frozen=True)
class Gradient(Method):
    """The gradient of the class score with respect to the image, also called saliency or vanilla gradient.

        R = dS_c(x) / dx

    S_c is the logit of class c. Where R is large, a small change of the pixel changes the score most.

    Shapes: x (N, C, H, W) -> (N, C, H, W); score per unit of the normalised input. Drawn as the maximum of |R| over
    channels, as in the paper.

    Errors: see `Method.__call__`.

    Pitfall: it says what the score is sensitive to, not what it is made of: a saturated feature can matter and have
    no gradient. On ReLU networks the map is noisy; `SmoothGrad` averages that noise.

    Reference: Simonyan, Vedaldi and Zisserman, "Deep Inside Convolutional Networks" (2013), arXiv:1312.6034.

    Example:
        >>> import torch
        >>> from deepviz.methods import Gradient
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 5))
        >>> R = Gradient()(model, torch.rand(2, 3, 8, 8), target=3)
        >>> torch.equal(R[0].flatten(), model[1].weight[3])
        True
    """

    title: ClassVar[str] = "Gradient"
    paper: ClassVar[str] = "Simonyan et al. 2013, arXiv:1312.6034"
    cost: ClassVar[str] = "1 forward, 1 backward"
    needs: ClassVar[Needs] = Needs(gradient=True)
    plain_gradient: ClassVar[bool] = True

    def maps(self, session: Session) -> Leaves:
        """dS/dx."""
        return session.gradient()
