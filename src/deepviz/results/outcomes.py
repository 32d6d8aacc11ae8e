"""What came of what was asked: for each image, target and method an explanation, or why there is none."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from deepviz import catalog
from deepviz.errors import NothingApplies
from deepviz.methods.method import Method
from deepviz.models import Prepared
from deepviz.results.explanation import ExplainedTarget, Explanation


@dataclass(frozen=True, eq=False)
class Missing(ABC):
    """A method that gave no map, with the reason.

    Args:
        source: name of the image.
        target: what was to be explained.
        method: the method, with its options.
        reason: in one line.
        error: the name of the error's class.
    """

    source: str
    target: ExplainedTarget
    method: Method
    reason: str
    error: str

    @property
    def key(self) -> str:
        """The identity of the method."""
        return catalog.key(self.method)

    @abstractmethod
    def __str__(self) -> str:
        """In one line."""


@dataclass(frozen=True, eq=False)
class Skipped(Missing):
    """A method that does not apply to the model."""

    def __str__(self) -> str:
        return f"{self.method} is left out: {self.reason}"


@dataclass(frozen=True, eq=False)
class Failed(Missing):
    """A method that raised an error, while others went on."""

    def __str__(self) -> str:
        return f"{self.method} failed: {self.reason}"


Outcome = Explanation | Missing
"""What came of one image, target and method: an `Explanation`, `Skipped` or `Failed`."""


class Explanations(list[Explanation]):
    """A list of explanations, with what was skipped and what failed.

    Attributes:
        skipped: methods that do not apply to the model.
        failed: methods that raised an error.
    """

    def __init__(self, outcomes: Iterable[Outcome] = ()) -> None:
        outcomes = list(outcomes)
        super().__init__(one for one in outcomes if isinstance(one, Explanation))
        self.skipped: tuple[Skipped, ...] = tuple(one for one in outcomes if isinstance(one, Skipped))
        self.failed: tuple[Failed, ...] = tuple(one for one in outcomes if isinstance(one, Failed))


@dataclass(frozen=True, eq=False)
class ImageOutcomes:
    """Everything about one image: what the model predicts, and what came of each target and method.

    Args:
        image: the prepared image.
        predictions: (label, probability), the five best first; empty if the model returns no class scores.
        outcomes: by target, then explained input, then method, one for each.
        methods: that were asked for, in the order of the outcomes.
        inputs: the names of the explained inputs; of a single one "".
        main: which of these is the image.
        output: what the model's outputs were read as, and how it was known; None if they were not.
        predicted: the index of the first prediction's class; None if there is none.
    """

    image: Prepared
    predictions: tuple[tuple[str, float], ...]
    outcomes: tuple[Outcome, ...]
    methods: tuple[Method, ...]
    inputs: tuple[str, ...] = ("",)
    main: int = 0
    output: dict[str, str] | None = None
    predicted: int | None = None

    @property
    def explanations(self) -> list[Explanation]:
        """Those outcomes that are explanations."""
        return [one for one in self.outcomes if isinstance(one, Explanation)]

    @property
    def missing(self) -> list[Missing]:
        """Those outcomes that are none."""
        return [one for one in self.outcomes if not isinstance(one, Explanation)]

    @property
    def by_target(self) -> list[tuple[Outcome, ...]]:
        """The outcomes of each target for the image, one for each method."""
        width = len(self.methods)
        first = self.main * width
        starts = range(first, len(self.outcomes), width * len(self.inputs))
        return [self.outcomes[start : start + width] for start in starts]

    def with_explanations(self, explanations: Sequence[Explanation]) -> ImageOutcomes:
        """The same with others in place of the explanations, as many and in the same order."""
        new = iter(explanations)
        outcomes = tuple(next(new) if isinstance(one, Explanation) else one for one in self.outcomes)
        return replace(self, outcomes=outcomes)

    def check(self) -> None:
        """Raise an error if there is no explanation at all.

        Raises:
            NothingApplies: with the reasons.
        """
        if not self.explanations:
            raise NothingApplies(f"{self.image.name}: no method gave a map: {'; '.join(reasons(self.missing))}")


def reasons(missing: Sequence[Missing]) -> list[str]:
    """Why there are no explanations, each reason once, with the methods that it holds for."""
    by_reason: dict[str, list[str]] = {}
    for one in missing:
        by_reason.setdefault(one.reason, []).append(str(one.method))
    return [f"{', '.join(dict.fromkeys(titles))}: {reason}" for reason, titles in by_reason.items()]
