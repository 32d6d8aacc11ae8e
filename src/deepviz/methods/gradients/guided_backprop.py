"""Guided backpropagation: Springenberg et al. 2014."""

from dataclasses import dataclass
from typing import ClassVar

from deepviz.inputs import Leaves
from deepviz.methods.method import Method
from deepviz.methods.needs import Needs
from deepviz.probe.rules import Rule
from deepviz.probe.session import Session


@dataclass(frozen=True)
class GuidedBackprop(Method):
    """Backpropagation of the class score in which a ReLU passes only positive signals.

        R = [x > 0] [R' > 0] R'        at every ReLU with input x

    R' is the signal that arrives at the ReLU's output, R what goes on below it; everywhere else it is the gradient.
    Every way to write a ReLU counts: modules, functions, in-place and reused ones, `clamp(min=0)`, ReLU6 (with
    0 < x < 6). For LeakyReLU, PReLU, ELU, GELU, SiLU, Hardswish, Mish and Softplus, which the paper does not treat,
    the activation's own derivative takes the place of [x > 0]; the notes say what was overridden.

    Shapes: x (N, C, H, W) -> (N, C, H, W). Drawn as the maximum of |R| over channels.

    Errors: `NothingOverridden` if no rectifier is reached, or the model is scripted; a warning if only some are.
    See also `Method.__call__`.

    Pitfall: the map hardly depends on the class or on what the network has learned: it largely restores the edges of
    the picture (Adebayo et al. 2018, Nie et al. 2018). Use it to see fine structure, not as evidence. A ReLU spelled
    by arithmetic, `x * (x > 0)` or `torch.where`, looks like any arithmetic and keeps its plain gradient.

    Reference: Springenberg, Dosovitskiy, Brox and Riedmiller, "Striving for Simplicity" (2014), arXiv:1412.6806.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from deepviz.methods import GuidedBackprop
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 5))
        >>> GuidedBackprop()(model, torch.rand(2, 3, 8, 8), target=3).shape
        torch.Size([2, 3, 8, 8])
    """

    title: ClassVar[str] = "Guided backprop"
    paper: ClassVar[str] = "Springenberg et al. 2014, arXiv:1412.6806"
    cost: ClassVar[str] = "1 forward, 1 backward"
    needs: ClassVar[Needs] = Needs(gradient=True, rectifier=True)

    def maps(self, session: Session) -> Leaves:
        """dS/dx, with R = [x > 0] [R' > 0] R' at rectifiers."""
        return session.gradient(Rule(mask=True))
