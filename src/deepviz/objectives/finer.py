"""`Finer`: the logit of a class beyond those of the classes most similar to it (Zhang et al. 2025)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from deepviz.errors import TargetError
from deepviz.objectives.classes import Logit, OfClass, outputs_of, pick
from deepviz.objectives.objective import Choosing, Objective, Sum
from deepviz.options import Ge, validate_fields
from deepviz.probe.seen import Seen


@dataclass(frozen=True, eq=False)
class Finer(OfClass, Choosing):
    """S_c - gamma mean_d S_d, over the classes d whose scores are closest to that of c: what sets it apart from these.

    The classes are chosen once, on the image as it is, and named in the result. With a layer method this is Finer-CAM:
    `GradCAM()(model, x, Finer(281))`.

    Reference: Zhang, Gu, Chowdhury, Mai, Carlyn, Berger-Wolf, Su and Chao, "Finer-CAM" (2025), arXiv:2501.11309.

    Example:
        >>> import torch
        >>> scores = torch.tensor([[5.0, 4.0, 2.0, -9.0]])
        >>> Finer(0, similar=2, gamma=0.5)(Seen(scores, (torch.zeros(1, 3, 8, 8),)))     # 5 - 0.5 (4 + 2) / 2
        tensor([3.5000])
    """

    similar: Annotated[int, Ge(1), "How many similar classes are compared with; at most all others."] = 3
    gamma: Annotated[float, Ge(0), "How much of their mean score is subtracted."] = 0.6

    def __post_init__(self) -> None:
        super().__post_init__()
        validate_fields(self)

    def choose(self, seen: Seen) -> Tensor:
        """The similar classes of each row, (n, similar).

        Raises:
            TargetError: if the model has no other class.
        """
        outputs, reading = outputs_of(seen)
        scores = reading.scores(outputs).detach()
        if scores.shape[1] < 2:
            raise TargetError(f"{self} compares with other classes, of which the model has none: explain its one score")
        c = self.indices(reading, seen.n).to(scores.device).unsqueeze(1)
        distance = (scores - pick(scores, c)).abs().double().scatter(1, c, float("inf"))
        similar = distance.topk(min(self.similar, scores.shape[1] - 1), largest=False).indices
        return similar.cpu().double()

    def chosen(self, choice: Tensor) -> Objective:
        """S_c - gamma mean_d S_d of these classes."""
        similar = tuple((-round(self.gamma / choice.shape[1], 12), Logit(d)) for d in choice.long().unbind(1))
        return Sum(((1.0, Logit(self.target)), *similar))

    def caption(self, label: Callable[[int], str] | None = None) -> str:
        """The class, and with how many others it is compared."""
        return f"{self.class_caption(label)} against {self.similar} similar classes"
