"""Pairs of images: what in each makes them similar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from deepviz.methods.method import Method
from deepviz.models import LoadedModel, Prepared
from deepviz.models.predict import outputs_of
from deepviz.objectives import Similarity
from deepviz.objectives.similarity import Measure
from deepviz.results.explanation import PAIR
from deepviz.results.outcomes import ImageOutcomes
from deepviz.runs.asked import Item
from deepviz.runs.explain import explain_items


def explain_both(
    loaded: LoadedModel,
    first: Prepared,
    second: Prepared,
    methods: Sequence[Method],
    *,
    measure: Measure = "cosine",
    lenient: bool = False,
) -> tuple[ImageOutcomes, ImageOutcomes]:
    """The maps of S(a, b) on each of two images, with the other's embedding held fixed.

    Args:
        loaded: the model, whose output is an embedding.
        first: the one image.
        second: the other, of any size.
        methods: the methods.
        measure: how the embeddings are compared.
        lenient: as for `explain_items`.
    """
    pair = (first, second)
    (a,), (b,) = (next(outputs_of(loaded.module, "embedding", [one.x]))[0] for one in pair)
    to_each = (Similarity(b, None, measure, second.name), Similarity(a, None, measure, first.name))
    items = [Item(image, (to,)) for image, to in zip(pair, to_each, strict=True)]
    noted = {PAIR: f"{first.name}, {second.name}"}
    one, other = (
        found.with_explanations([each.noting(noted) for each in found.explanations])
        for item in items
        for found in explain_items(loaded, [item], methods, lenient=lenient)
    )
    return one, other


def merged(one: ImageOutcomes, other: ImageOutcomes) -> ImageOutcomes:
    """The outcomes of both images of a pair, as those of the first."""
    return replace(one, outcomes=(*one.outcomes, *other.outcomes))
