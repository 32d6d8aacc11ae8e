"""What is explained or generated: `--target` and the targets of `deepviz generate`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from cyclopts import Parameter

from deepviz.models import LoadedModel
from deepviz.objectives import Objective, parse
from deepviz.objectives.objective import Sum

Target = Annotated[
    list[str] | None,
    Parameter(
        negative="",
        help="Class index, label, 'fox - wolf' or another of `deepviz objectives`; repeat for several.",
    ),
]


def parsed_targets(given: Iterable[str] | None, loaded: LoadedModel) -> tuple[Objective, ...] | None:
    """Whole numbers are class indices, everything else is a label or an expression; None for the predicted class.

    Raises:
        TargetError: for a text that is none of these.
    """
    return None if given is None else tuple(parse(text, loaded.labels) for text in given)


def is_contrast(objective: Objective) -> bool:
    """Whether an objective asks why one thing and not another: a difference.

    Example:
        >>> from deepviz.objectives import Logit
        >>> is_contrast(Logit(1) - Logit(2)), is_contrast(Logit(1) + Logit(2)), is_contrast(Logit(1))
        (True, False, False)
    """
    weights = [weight for weight, _ in objective.terms] if isinstance(objective, Sum) else []
    return bool(weights) and min(weights) < 0 < max(weights)
