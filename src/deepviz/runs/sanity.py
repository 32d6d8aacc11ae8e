"""Maps by randomised copies of the model, stage by stage: what `sanity_check` runs on."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated

import numpy as np
import torch
from torch import nn

from deepviz.diagnostics import warn
from deepviz.errors import DeepVizWarning, in_one_line
from deepviz.inputs import Inputs
from deepviz.methods import Method
from deepviz.metrics.similarity import SIMILARITIES
from deepviz.models import LoadedModel
from deepviz.options import Frozen, Ge, Seed
from deepviz.probe.progress import to_the_end
from deepviz.probe.randomise import check_has_weights, randomised
from deepviz.results.explanation import Explanation
from deepviz.results.outcomes import Failed, Missing, Outcome
from deepviz.results.sanity import RandomizationResult
from deepviz.runs.asked import Item
from deepviz.runs.explain import explain_items, maps_of
from deepviz.runs.look import asked_of, inputs_of
from deepviz.runs.runner import OnError, Progress, run

STAGES = 8


@dataclass(frozen=True)
class Randomization(Frozen):
    """How layers get random weights.

    Example:
        >>> Randomization(stages=0)
        Traceback (most recent call last):
        ValueError: stages must be at least 1, got 0
    """

    stages: Annotated[int, Ge(1), "Number of steps in which all layers are randomised."] = STAGES
    cascading: Annotated[
        bool, "From the output down, each step keeping the new weights of those before, or each step's layers alone."
    ] = True
    seed: Annotated[Seed, "Seed of the weights."] = 0


def randomize_items(
    loaded: LoadedModel,
    items: Iterable[Item],
    methods: Sequence[Method],
    randomization: Randomization,
    *,
    progress: Progress | None = None,
    on_error: OnError[Item] | None = None,
    sinks: Sequence[Callable[[RandomizationResult], None]] = (),
) -> Iterator[RandomizationResult]:
    """`sanity_check` for images that are already prepared: one result for each image and target.

    Args:
        loaded: the model.
        items: the images, with their targets.
        methods: the methods; one that does not apply has no maps.
        randomization: how layers get random weights.
        progress: is called before each method of each stage, with the pairs that are done of the image under way.
        on_error: takes an item that the model has no finite scores for, and the others go on.
        sinks: take each result.
    """

    def work(batch: Sequence[Item]) -> Iterator[RandomizationResult]:
        for item in batch:
            yield from _Randomizing(loaded, item, tuple(methods), progress).results(randomization)

    yield from run(([item] for item in items), work, on_error=on_error, sinks=sinks)


@dataclass(frozen=True, eq=False)
class _Randomizing:
    """One image under way."""

    loaded: LoadedModel
    item: Item
    methods: tuple[Method, ...]
    progress: Progress | None
    histories: list[list[list[Explanation] | None]] = field(default_factory=list)
    missing: list[list[Missing | None]] = field(default_factory=list)
    """Both by target, then method."""

    @to_the_end()
    def results(self, asked: Randomization) -> list[RandomizationResult]:
        """The maps of each target, from the trained network to the random one."""
        check_has_weights(self.loaded.module)
        (found,) = explain_items(self.loaded, [self.item], self.methods, lenient=True, progress=self.progress)
        for outcomes in found.by_target:
            self.histories.append([[one] if isinstance(one, Explanation) else None for one in outcomes])
            self.missing.append([one if isinstance(one, Missing) else None for one in outcomes])
        names, shares = ["trained"], [0.0]
        inputs = inputs_of(self.loaded, [self.item])
        copies = randomised(self.loaded.module, inputs, stages=asked.stages, cascading=asked.cascading, seed=asked.seed)
        for number, stage in enumerate(copies, 1):
            names.append(stage.layers[-1])
            shares.append(stage.share)
            for row, method in enumerate(self.methods):
                if self.progress is not None:
                    self.progress(f"{method}, randomised", number * len(self.methods) + row)
                self._again(row, stage.model, inputs, found.main, names[-1])
        replace(found, outcomes=self._outcomes()).check()
        for one in {str(one): one for missing in self.missing for one in missing if isinstance(one, Failed)}:
            warn(one)
        return [
            RandomizationResult(
                image=self.item.image,
                stages=tuple(names),
                shares=tuple(shares),
                maps=maps,
                similarities=_similarities(maps, len(names)),
                missing=tuple(missing),
                output=found.output,
            )
            for maps, missing in zip(self.histories, self.missing, strict=True)
            if any(maps)
        ]

    def _outcomes(self) -> tuple[Outcome, ...]:
        return tuple(
            outcome
            for of_target in zip(self.histories, self.missing, strict=True)
            for maps, missing in zip(*of_target, strict=True)
            if (outcome := maps[0] if maps else missing) is not None
        )

    def _again(self, row: int, model: nn.Module, inputs: Inputs, main: int, layer: str) -> None:
        """Add a method's maps of the same targets, at the same layer, by a randomised copy."""
        there = [k for k, maps in enumerate(self.histories) if maps[row]]
        if not there:
            return
        trained = [(self.histories[k][row] or [])[0] for k in there]
        # at the layer that it found in the trained network, so that all stages are of the same one
        first = trained[0]
        method = first.method if first.layer is None else first.method.with_layer(first.layer)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeepVizWarning)  # what a random network is like is no news
            try:
                maps = maps_of(self.loaded, model, method, inputs, [asked_of(one.target) for one in trained])
            except (
                Exception
            ) as error:  # a method of another package may raise anything, and random weights may give NaN
                reason = f"with random weights from the output to {layer!r} there is no map: {in_one_line(error)}"
                for k, one in zip(there, trained, strict=True):
                    self.histories[k][row] = None
                    self.missing[k][row] = Failed(one.source, one.target, one.method, reason, type(error).__name__)
                return
        for k, one, of_leaves in zip(there, trained, maps, strict=True):
            found = of_leaves[main]
            assert found is not None  # as it was of the trained network
            notes = {key: value for key, value in one.notes.items() if key in ("layer", "layer title", "photograph")}
            again = replace(
                one,
                attribution=found.maps[0].detach().float().cpu(),
                notes=notes | {"weights": f"random from the output to {layer}"},
            )
            (self.histories[k][row] or []).append(again)


def _similarities(maps: Sequence[list[Explanation] | None], stages: int) -> dict[str, np.ndarray]:
    """By name, (methods, stages)."""
    similarities = {name: np.full((len(maps), stages), np.nan) for name in SIMILARITIES}
    for row, history in enumerate(maps):
        if history is None or _is_blank(history[0]):
            continue
        trained = torch.from_numpy(history[0].values)
        for number, one in enumerate(history):
            if _is_blank(one):
                continue
            for name, similarity in SIMILARITIES.items():
                found = 1.0 if number == 0 else float(similarity(trained[None], torch.from_numpy(one.values)[None])[0])
                similarities[name][row, number] = found
    return similarities


def _is_blank(explanation: Explanation) -> bool:
    return float(np.ptp(explanation.values)) == 0
