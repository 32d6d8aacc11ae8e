"""What is explained or generated: `--target` and the targets of `deepviz generate`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from cyclopts import Parameter

from deepviz.models import LoadedModel
from deepviz.objectives import Objective, parse

Target = Annotated[
    list[str] | None,
    Parameter(negative="", help="Class index, label or 'fox - wolf' to explain; repeat for several."),
]


def parsed_targets(given: Iterable[str] | None, loaded: LoadedModel) -> tuple[Objective, ...] | None:
    """Whole numbers are class indices, everything else is a label or an expression; None for the predicted class.

    Raises:
        TargetError: for a text that is none of these.
    """
    return None if given is None else tuple(parse(text, loaded.labels) for text in given)
