"""Checks of a map: its deletion and insertion curves, and its similarity to maps of a randomised network."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import isnan, nan
from typing import Any, Literal, get_args

import numpy as np
import torch

from deepviz.errors import OutputError
from deepviz.files import encoded
from deepviz.metrics.metric import judging
from deepviz.models import LoadedModel, Prepared
from deepviz.probe.session import Session
from deepviz.render.slices import slice_picture
from deepviz.results.dependence import Verdict, verdict_of
from deepviz.results.explanation import ExplainedTarget, Explanation
from deepviz.results.sanity import VERDICT, Sanity, seen
from deepviz.runs.asked import Item
from deepviz.runs.checks import METRICS, STEPS, in_words, random_map, verdict_key
from deepviz.runs.evaluate import measured, resolve_defaults
from deepviz.runs.look import asked_of, inputs_of
from deepviz.runs.sanity import Randomization, randomize_items
from deepviz.runs.verdicts import recall, remember
from deepviz.web.files import data_url, jpeg

Part = Literal["curves", "strip"]
PARTS: tuple[Part, ...] = get_args(Part)
STAGES = 4
"""Of the randomisation strip, after the trained network."""
STRIP = 192
"""Pixels of the longer side of a picture of the strip."""
Areas = dict[str, dict[str, Any]]
"""By metric: the "area" under a curve, and its "points"."""


def curves_of(loaded: LoadedModel, image: Prepared, explanation: Explanation, chance: Areas) -> dict[str, Any]:
    """The curves of a map with those of a random one, and what it takes to draw the image at each of their points.

    Returns:
        For JSON: "curves" by metric, each with its points and area, and those of the random map; "picture", the
        model's input, and "start", by metric, what its pixels are exchanged with, as PNG; "when", a byte for each
        pixel of them, row by row: the point at which it is exchanged. Of a volume or clip these are of the slice with
        the most evidence, whose name is "of".
    """
    index = explanation.best_slice if explanation.layout == "slices" else None
    inputs = inputs_of(loaded, [Item(image)])
    with judging(loaded.module, inputs, asked_of(explanation.target), output=loaded.kind) as session:
        areas = _areas(loaded, session, explanation)
        first = resolve_defaults(METRICS["deletion"], explanation.method)  # both take the pixels in the same order
        when = first.exchange(session, explanation.attribution[None])[0]
        when = when if index is None else when[index]
        pictures = _pictures(loaded, session, index)
    checks = {name: one["area"] for name, one in areas.items()}
    return {
        "steps": STEPS,
        "curves": {name: {**one, "chance": chance[name]} for name, one in areas.items()},
        "said": in_words({**checks, "of a random map": {name: one["area"] for name, one in chance.items()}}),
        "size": [when.shape[1], when.shape[0]],
        "of": "" if index is None else explanation.name_of(index),
        "when": base64.b64encode(when.to("cpu", torch.uint8).numpy().tobytes()).decode(),
        **pictures,
    }


def chance_of(loaded: LoadedModel, image: Prepared, target: ExplainedTarget) -> Areas:
    """The curves of a random map of the same target."""
    random = random_map(loaded, image, target)
    with judging(loaded.module, inputs_of(loaded, [Item(image)]), asked_of(target), output=loaded.kind) as session:
        return _areas(loaded, session, random)


def _areas(loaded: LoadedModel, session: Session, explanation: Explanation) -> Areas:
    found = {name: measured(loaded, session, explanation, metric) for name, metric in METRICS.items()}
    return {
        name: {"area": area, "points": [] if points is None else points.tolist()}
        for name, (area, points) in found.items()
    }


def _pictures(loaded: LoadedModel, session: Session, index: int | None) -> dict[str, Any]:
    """The input and what its pixels become, in the same colours: drawn as one, then cut; of a volume or clip one
    slice."""
    starts = {name: session.reference(metric.baseline) for name, metric in METRICS.items()}
    drawn = [session.image(), *starts.values()]
    length = drawn[0].shape[2]  # the height of an image, or the number of slices
    whole = loaded.prepare(torch.cat(drawn, 2)[0]).photo
    if whole is None:
        return {"picture": None, "start": {}}
    tops = range(0, len(drawn) * length, length)
    if index is None:
        cut = [whole.crop((0, top, whole.width, top + length)) for top in tops]
    else:
        cut = [slice_picture(whole, first + index, len(drawn) * length) for first in tops]
    picture, *others = (data_url(encoded(one), "png") for one in cut)
    return {"picture": picture, "start": dict(zip(starts, others, strict=True))}


@dataclass(frozen=True)
class Retained:
    """How similar one image's map stays on the randomised network.

    Args:
        half: with about half of the layers random; NaN if that was not tried.
        all: with all of them; NaN where a map is blank.
        share: of the layers that are random where about half of them are.
    """

    half: float
    all: float
    share: float = 0.5


def strip_of(loaded: LoadedModel, image: Prepared, explanation: Explanation) -> tuple[dict[str, Any], Retained]:
    """The map while layers get random weights from the output down, and how similar it stays: figures, since one image
    is no verdict.

    Returns:
        For JSON: "stages", each with the "share" of the layers that are random, the "similarity" and a "picture".
    """
    item = Item(image, (asked_of(explanation.target),))
    (examined,) = randomize_items(loaded, [item], [explanation.method], Randomization(STAGES))
    found = Sanity.of(loaded, [explanation.method], [examined])
    if recall(found.key).get(verdict_key(explanation)) is None:
        with suppress(OutputError):  # a cache that cannot be written costs time, nothing else
            remember(found)
    index = explanation.best_slice if explanation.layout == "slices" else None
    stages = [
        {
            "share": share,
            "similarity": None if isnan(value) else float(value),
            "picture": data_url(jpeg(seen(one, index), STRIP)),
        }
        for share, value, one in zip(
            examined.shares, examined.similarities[VERDICT][0], examined.maps[0] or (), strict=True
        )
    ]
    kept = next(iter(found.by_key.values()), None)
    if kept is None:
        return {"stages": stages}, Retained(nan, nan)
    return {"stages": stages}, Retained(kept["half"][0], kept["all"][0], kept["share"])


def verdict_on(
    kept: Sequence[Sequence[Retained]], share: float = 0.5, earlier: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What several images say of a method on a network.

    Args:
        kept: for each image its maps.
        share: of the layers that are random where about half of them are.
        earlier: what is remembered of the method on this network; it counts if that is a verdict of more images.

    Returns:
        For JSON: as `Verdict.as_json`, with the "badge" and what is "said".
    """
    alike = [[one for one in of if not isnan(one.all)] for of in kept]
    half, whole = (
        [_mean([getattr(one, part) for one in of]) if of else nan for of in alike] for part in ("half", "all")
    )
    verdict, said = Verdict.of(half, whole, share), ""
    if earlier is not None:
        before = verdict_of(earlier)
        if before.images > verdict.images and verdict.grade is None:
            verdict, said = before, f" (found by deepviz sanity on {before.images} images)"
    unrelated = f"{verdict.figures}: " if verdict.figures.startswith("unrelated") else ""
    return verdict.as_json() | {"badge": verdict.badge, "said": f"{unrelated}{verdict.meaning}{verdict.remark}{said}"}


def _mean(values: Sequence[float]) -> float:
    there = [value for value in values if not isnan(value)]
    return float(np.mean(there)) if there else nan
