"""`ReST`: the logit of a class and the logarithm of its probability (Cai 2025)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from deepviz.errors import TargetError
from deepviz.objectives.classes import OfClass, outputs_of, pick
from deepviz.probe.seen import Seen


@dataclass(frozen=True, eq=False)
class ReST(OfClass):
    """S_c + log P_c, the score of a class and the logarithm of its probability ("residual softmax target class").

    The logit alone says nothing of the other classes; the probability of a class that the model is sure of has no
    gradient. Their sum has both, and a second derivative, which `ShapleyCAM` needs.

    Reference: Cai, "CAMs as Shapley Value-based Explainers" (2025), arXiv:2501.06261, section 4.

    Example:
        >>> import torch
        >>> ReST(0)(Seen(torch.tensor([[3.0, 3.0]]), (torch.zeros(1, 3, 8, 8),)))     # 3 + log(1/2)
        tensor([2.3069])
    """

    def __call__(self, seen: Seen) -> Tensor:
        """S_c + log P_c.

        Raises:
            TargetError: if the output is a number, an embedding, or probabilities already.
        """
        outputs, reading = outputs_of(seen)
        if not reading.has_probabilities or reading.given:
            what = "probabilities" if reading.given else f"{reading.kind}"
            raise TargetError(
                f"{self} is about logits, but the output is read as {what}: explain deepviz.objectives.Logit, or state "
                "output='logits' or 'multi-label' if it is logits"
            )
        scores = reading.scores(outputs)
        alone = reading.two or reading.kind == "multi-label"
        log_P = F.logsigmoid(scores) if alone else scores.log_softmax(1)
        return pick(scores + log_P, self.indices(reading, seen.n))

    def caption(self, label: Callable[[int], str] | None = None) -> str:
        """The class, with what is added to its logit."""
        return f"logit + log probability of {self.class_caption(label)}"
