"""Gradient times image: Shrikumar et al. 2016."""

from dataclasses import dataclass
from typing import ClassVar

from deepviz.inputs import Leaves
from deepviz.methods.method import Method, View
from deepviz.methods.needs import Needs
from deepviz.probe.session import Session


@dataclass(frozen=True)
class GradTimesImage(Method):
    """The gradient of the class score times the image.

        R = x * dS_c(x) / dx

    For a linear model S = w x + b the values sum to S - b exactly; for others it is the first-order Taylor estimate
    of what changes when the input goes to zero, which in normalised space usually is the mean colour, not black.

    Shapes: x (N, C, H, W) -> (N, C, H, W), in units of the score. Drawn as the signed sum over channels, which keeps
    the additive meaning.

    Errors: see `Method.__call__`.

    Pitfall: it inherits the picture's edges through the factor x, and is zero wherever the normalised input is zero,
    however much the score depends on that pixel.

    Reference: Shrikumar, Greenside, Shcherbina and Kundaje, "Not Just a Black Box" (2016), arXiv:1605.01713.

    Example:
        >>> import torch
        >>> from deepviz.methods import GradTimesImage
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 5, bias=False))
        >>> x = torch.rand(2, 3, 8, 8)
        >>> R = GradTimesImage()(model, x, target=3)
        >>> torch.allclose(R.sum((1, 2, 3)), model(x)[:, 3], atol=1e-5)
        True
    """

    title: ClassVar[str] = "Gradient × image"
    paper: ClassVar[str] = "Shrikumar et al. 2016, arXiv:1605.01713"
    cost: ClassVar[str] = "1 forward, 1 backward"
    needs: ClassVar[Needs] = Needs(gradient=True)
    plain_gradient: ClassVar[bool] = True

    def maps(self, session: Session) -> Leaves:
        """x dS/dx."""
        dS = session.gradient()
        return session.x.map(lambda x, dS: session.beside(x) * dS, dS)

    @property
    def view(self) -> View:
        """The signed sum over channels."""
        return "sum"
