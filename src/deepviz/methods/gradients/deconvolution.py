"""Deconvolution: Zeiler and Fergus 2013."""

from dataclasses import dataclass
from typing import ClassVar

from deepviz.inputs import Leaves
from deepviz.methods.method import Method
from deepviz.methods.needs import Needs
from deepviz.probe.rules import Rule
from deepviz.probe.session import Session


@dataclass(frozen=True)
class Deconvolution(Method):
    """Projection of the class score back to the image through a "deconvnet".

        R = [R' > 0] R'        at every ReLU, whatever its input was

    R' is the signal that arrives at the ReLU's output, R what goes on below it; convolutions are transposed and
    max-pooling uses its switches, as in the gradient. The same operators are overridden as in `GuidedBackprop`; for
    smooth relatives of ReLU the signal likewise passes without their derivative.

    Shapes: x (N, C, H, W) -> (N, C, H, W). Drawn as the maximum of |R| over channels.

    Errors: `NothingOverridden` if no rectifier is reached, or the model is scripted; a warning if only some are.
    See also `Method.__call__`.

    Pitfall: without max-pooling the forward pass leaves no trace in the rule, so the map may barely depend on the
    picture; like guided backpropagation it says little about the class.

    Reference: Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks" (2013), arXiv:1311.2901.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from deepviz.methods import Deconvolution
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 5))
        >>> Deconvolution()(model, torch.rand(2, 3, 8, 8), target=3).shape
        torch.Size([2, 3, 8, 8])
    """

    title: ClassVar[str] = "Deconvolution"
    paper: ClassVar[str] = "Zeiler and Fergus 2013, arXiv:1311.2901"
    cost: ClassVar[str] = "1 forward, 1 backward"
    needs: ClassVar[Needs] = Needs(gradient=True, rectifier=True)

    def maps(self, session: Session) -> Leaves:
        """The signal at the input, with R = [R' > 0] R' at rectifiers."""
        return session.gradient(Rule(mask=False))
