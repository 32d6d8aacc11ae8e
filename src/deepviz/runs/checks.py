"""The cheap checks beside each map: is it better than a random one, and does it depend on what was learned?"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from deepviz import catalog
from deepviz.diagnostics import warn
from deepviz.errors import DeepVizWarning, ModelError, OutputError
from deepviz.metrics import Deletion, Insertion, RandomMap
from deepviz.metrics.curves import ExchangeMetric
from deepviz.metrics.metric import judging
from deepviz.models import LoadedModel, Prepared
from deepviz.results.dependence import Verdict, verdict_of
from deepviz.results.explanation import ExplainedTarget, Explanation
from deepviz.results.sanity import Sanity, key_of
from deepviz.runs.asked import Item
from deepviz.runs.evaluate import measured
from deepviz.runs.explain import explain_items
from deepviz.runs.look import asked_of, inputs_of
from deepviz.runs.sanity import Randomization, randomize_items
from deepviz.runs.verdicts import recall, remember

STEPS = 20
"""Points on each curve: rougher than `evaluate`, since it is one image."""
STAGES = 2
METRICS: dict[str, ExchangeMetric] = {"deletion": Deletion(steps=STEPS), "insertion": Insertion(steps=STEPS)}


def checked(loaded: LoadedModel, image: Prepared, explanations: Sequence[Explanation]) -> list[Explanation]:
    """The explanations of one image, each with its checks in `notes["checks"]`.

    Deletion and insertion of the map and, for comparison, of a random one; and what the method keeps of its map with
    the upper half and with all of this model's layers random: from `deepviz sanity` if it was run on these weights,
    else found here, on this image, and remembered. The completeness gap of integrated gradients is in the notes
    already.

    The cost is about 40 forward passes for each map, and at first two more maps of each method.
    """
    known = _known(loaded, image, explanations)
    found: list[Explanation] = []
    by_target: dict[Any, dict[str, float]] = {}
    inputs = inputs_of(loaded, [Item(image)])
    for explanation in explanations:
        of = explanation.target
        with judging(loaded.module, inputs, asked_of(of), output=loaded.kind) as session:
            if of not in by_target:
                random = random_map(loaded, image, of)
                by_target[of] = {name: measured(loaded, session, random, one)[0] for name, one in METRICS.items()}
            values = {name: measured(loaded, session, explanation, one)[0] for name, one in METRICS.items()}
        checks: dict[str, Any] = {**values, "of a random map": by_target[of]}
        remembered = known.get(verdict_key(explanation))
        verdict = None if remembered is None else verdict_of(remembered)
        checks["kept"] = None if verdict is None else verdict.as_json()
        checks["in words"] = in_words(checks, verdict)
        found.append(explanation.noting({"checks": checks}))
    return found


def random_map(loaded: LoadedModel, image: Prepared, target: ExplainedTarget) -> Explanation:
    """A random map of the same target, for comparison."""
    (found,) = explain_items(loaded, [Item(image, (asked_of(target),))], [RandomMap()])
    return found.explanations[0]


def verdict_key(explanation: Explanation) -> str:
    """What the verdict on a map's method is remembered by: with the layer that was explained."""
    return catalog.key(explanation.method, explanation.layer)


def in_words(checks: dict[str, Any], verdict: Verdict | None = None) -> str:
    """The checks in a line or two.

    Args:
        checks: "deletion", "insertion", and those "of a random map".
        verdict: on the method, if there is one.

    Example:
        >>> in_words({"deletion": 0.1, "insertion": 0.1, "of a random map": {"deletion": 0.3, "insertion": 0.2}},
        ...          Verdict.of([0.8], [0.4]))
        'deletion 0.10, better than a random map (0.30); insertion 0.10, no better (0.20); similarity 0.80 to the \
original map with the upper half of the layers random, 0.40 with all: a verdict takes at least 8 images (1 image)'
    """
    random = checks["of a random map"]
    # to the digits that are shown: what looks equal is not called better
    by_deletion = "better" if round(checks["deletion"], 2) < round(random["deletion"], 2) else "no better"
    by_insertion = "better" if round(checks["insertion"], 2) > round(random["insertion"], 2) else "no better"
    message = (
        f"deletion {checks['deletion']:.2f}, {by_deletion} than a random map ({random['deletion']:.2f}); "
        f"insertion {checks['insertion']:.2f}, {by_insertion} ({random['insertion']:.2f})"
    )
    if verdict is not None:
        message += f"; {verdict} ({verdict.images} image{'' if verdict.images == 1 else 's'})"
    return message


def _known(loaded: LoadedModel, image: Prepared, explanations: Sequence[Explanation]) -> dict[str, dict[str, Any]]:
    """What each method keeps on this model, by its key; what is not remembered is found on this image."""
    methods = {
        verdict_key(one): one.method if one.layer is None else one.method.with_layer(one.layer) for one in explanations
    }
    known = recall(key_of(loaded))
    missing = [method for key, method in methods.items() if key not in known]
    if not missing:
        return known
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeepVizWarning)  # each is in the notes of its explanation already
            item = Item(image, (asked_of(explanations[0].target),))
            found = Sanity.of(loaded, missing, list(randomize_items(loaded, [item], missing, Randomization(STAGES))))
    except ModelError as error:
        warn(f"no check by random weights: {error}")
        return known
    with suppress(OutputError):  # a cache that cannot be written costs time, nothing else
        remember(found)
    return known | found.by_key
