"""The cheap checks beside each map: is it better than a random one, and does it depend on what was learned?"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from deepviz.engine import explain_prepared
from deepviz.errors import DeepVizWarning, ModelError, OutputError
from deepviz.evaluation import measured
from deepviz.methods import Method
from deepviz.metrics import Deletion, Insertion, RandomMap
from deepviz.metrics.curves import ExchangeMetric
from deepviz.metrics.subject import asking
from deepviz.models import LoadedModel, Prepared
from deepviz.notes import warn
from deepviz.results.explanation import ExplainedTarget, Explanation
from deepviz.sanity import Sanity, examine_prepared, key_of, recall, remember

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
    x = image.x[None].to(*loaded.home)
    for explanation in explanations:
        of = explanation.target
        target = of.function if of.index is None else of.index
        with asking(loaded.module, x, target) as subject:
            if of not in by_target:
                (answer,) = explain_prepared(loaded, [image], [RandomMap()], target=target)
                (random,) = answer.explanations
                by_target[of] = {name: measured(loaded, subject, random, one)[0] for name, one in METRICS.items()}
            values = {name: measured(loaded, subject, explanation, one)[0] for name, one in METRICS.items()}
        checks: dict[str, Any] = {
            **values,
            "of a random map": by_target[of],
            "kept": known.get(str(explanation.method)),
        }
        checks["in words"] = in_words(checks)
        found.append(explanation.noting({"checks": checks}))
    return found


def in_words(checks: dict[str, Any]) -> str:
    """The checks in a line or two.

    Example:
        >>> in_words({"deletion": 0.1, "insertion": 0.1, "of a random map": {"deletion": 0.3, "insertion": 0.2},
        ...           "kept": {"half": 0.8, "all": 0.4, "images": 1, "share": 0.5}})
        'deletion 0.10, better than a random map (0.30); insertion 0.10, no better (0.20); on this model the method \
keeps 0.80 with 50% of the layers random, 0.40 with all (1 image)'
    """
    random, kept = checks["of a random map"], checks["kept"]
    # to the digits that are shown: what looks equal is not called better
    by_deletion = "better" if round(checks["deletion"], 2) < round(random["deletion"], 2) else "no better"
    by_insertion = "better" if round(checks["insertion"], 2) > round(random["insertion"], 2) else "no better"
    said = (
        f"deletion {checks['deletion']:.2f}, {by_deletion} than a random map ({random['deletion']:.2f}); "
        f"insertion {checks['insertion']:.2f}, {by_insertion} ({random['insertion']:.2f})"
    )
    if kept is not None:
        images = f"{kept['images']:.0f} image{'s' if kept['images'] > 1 else ''}"
        half = "" if math.isnan(kept["half"]) else f"{kept['half']:.2f} with {kept['share']:.0%} of the layers random, "
        said += f"; on this model the method keeps {half}{kept['all']:.2f} with all ({images})"
    return said


def _known(loaded: LoadedModel, image: Prepared, explanations: Sequence[Explanation]) -> dict[str, dict[str, float]]:
    """What each method keeps on this model; what is not remembered is found on this image."""
    methods = {str(explanation.method): explanation.method for explanation in explanations}
    known = recall(key_of(loaded))
    missing = [method for name, method in methods.items() if name not in known]
    if not missing:
        return known
    try:
        found = _examined(loaded, image, missing, explanations[0].target)
    except ModelError as error:
        warn(f"no check by random weights: {error}")
        return known
    with suppress(OutputError):  # a cache that cannot be written costs time, nothing else
        remember(found)
    return known | found.summary


def _examined(loaded: LoadedModel, image: Prepared, methods: Sequence[Method], target: ExplainedTarget) -> Sanity:
    """What is left of the methods' maps of this image when layers are random."""
    of = target.function if target.index is None else target.index
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeepVizWarning)  # each is in the notes of its explanation already
        return Sanity.of(loaded, methods, list(examine_prepared(loaded, [image], methods, stages=STAGES, target=of)))
