"""Max-sensitivity: Yeh et al. 2019."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from deepviz.metrics.sensitivity import Sensitivity


@dataclass(frozen=True)
class MaxSensitivity(Sensitivity):
    """How much, at most, a method's map changes when the image changes a little.

        SENS = max_d ||M(x + d) - M(x)|| / ||M(x)||,    d uniform within r = `radius` (max x - min x)

    The paper's formula has no division; the authors' code has it, and without it methods in other units do not compare.

    The largest over random images. Lower is better, from 0 up. It judges a method, which it is given in place of a
    map. The class and the layer stay those of the image itself. Cost: `samples` + 1 maps.

    Shapes: x (N, C, H, W), a method -> (N,).

    The radius is relative to the image's range, as SmoothGrad's noise is; the paper and Captum give it in units of
    the input. A map that is zero everywhere has no relative sensitivity: the distances themselves, with a warning.

    Errors: see `Metric.__call__`.

    Pitfall: stable and wrong is easy: a method that ignores the image has 0. Read it beside a measure of faithfulness.
    The maximum over few samples is too small: the true one is over the whole neighbourhood.

    Reference: Yeh, Hsieh, Suggala, Inouye and Ravikumar, "On the (In)fidelity and Sensitivity of Explanations"
    (2019), arXiv:1901.09392.

    Example:
        >>> import torch
        >>> from deepviz.methods import Gradient
        >>> from deepviz.metrics import MaxSensitivity
        >>> linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 5))
        >>> MaxSensitivity(samples=3)(linear, torch.rand(2, 3, 8, 8), Gradient(), target=3).tolist()
        [0.0, 0.0]
    """

    title: ClassVar[str] = "Max-sensitivity"

    def over(self, moved: Tensor) -> Tensor:
        """The largest."""
        return moved.amax(0)
