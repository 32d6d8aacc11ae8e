"""A result as the viewer's JavaScript takes it: plain values for JSON, the drawn map packed as text."""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from deepviz import catalog
from deepviz.diagnostics import ERROR
from deepviz.files import encoded
from deepviz.objectives import Logit, Output
from deepviz.render.bars import shown_entries
from deepviz.render.text import percent
from deepviz.results.explanation import ExplainedTarget, Explanation
from deepviz.results.storage import Photographs, plain_value, quantised, without_profile

NUMBER = ["lowers the number", "raises it"]
"""The ends of a signed scale, of a number that is no score."""
VERSION = 1
"""Of the form of a record, which the page checks."""
Bits = Literal[8, 16, 32]
SHOWN_ELSEWHERE = ("warnings", "layer", "layer title", "checks")
NOTES = {
    "grid": "grid of the layer",
    "attention": "layers of attention",
    "overridden": "rectifiers that took the method's rule",
    "not overridden": "activations that did not",
    "points": "gradients along the path",
    "standard error": "standard error, relative to the map",
}
"""Names of notes that say little to one who does not know the method."""


def record(explanation: Explanation, *, bits: Bits = 32) -> dict[str, Any]:
    """One result for a page: what captions need, and the values that are drawn, at their native resolution.

    Args:
        explanation: the result.
        bits: of each value. 32: as Python draws it. 16: to 1/65535 of the range. 8, deflated, with the square root
            of each magnitude to 1/80 of the scale's: small, for reports; a layer's few values stay whole, and slices of
            a volume or clip are averaged to at most `MOST` values in all.

    Returns:
        Plain values for JSON.

    Example:
        >>> import deepviz, torch
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 5))
        >>> made = record(deepviz.viz_backprop(net, torch.rand(3, 8, 8))[0])
        >>> made["method"], made["map"]["size"], made["map"]["packing"]
        ('Gradient', [8, 8], 'base64')
    """
    target = explanation.target.as_json()
    scale = explanation.scale
    return {
        "version": VERSION,
        "method": explanation.title,
        "key": catalog.key(explanation.method, explanation.layer),
        "caption": explanation.caption,
        "detail": explanation.detail,
        "target": plain_value(target),
        "layer": explanation.layer,
        "model": explanation.model,
        "source": explanation.source,
        "signed": explanation.signed,
        **({"legend": NUMBER} if isinstance(explanation.target.objective, Output) else {}),
        "coarse": explanation.coarse,
        "scale": {"low": scale.low, "high": scale.high, "note": scale.note},
        "seen": explanation.seen,
        **_slices(explanation),
        **_bars(explanation),
        "map": _map(explanation, bits, scale.high),
        **_errors(explanation, bits),
        "boxes": [{"box": list(one.box), "text": one.text, "explained": one.explained} for one in explanation.boxes],
        "region": _region(explanation),
        "warnings": list(map(str, explanation.notes.get("warnings", ()))),
        "checks": str(explanation.notes.get("checks", {}).get("in words", "")),
        "notes": [
            [NOTES.get(name, str(name)), told(name, value)]
            for name, value in explanation.notes.items()
            if name not in SHOWN_ELSEWHERE
        ],
        "versions": dict(explanation.versions),
    }


def _region(explanation: Explanation) -> dict[str, Any] | None:
    """The explained region of a segmenter, a byte for each cell, for its outline."""
    if explanation.region is None:
        return None
    levels = np.rint(255 * explanation.region).astype(np.uint8)
    return {"size": [levels.shape[1], levels.shape[0]], "data": base64.b64encode(levels.tobytes()).decode()}


def _slices(explanation: Explanation) -> dict[str, Any]:
    """Where the map lies on the picture: of a volume or clip on that of each slice, with what these are called and the
    one to begin with."""
    of = explanation.slice_at(0) if explanation.layout == "slices" else explanation
    place = {"geometry": {"size": list(of.geometry.size), "box": list(of.geometry.box)}}
    if of is explanation:
        return place
    slices = {"count": explanation.depth, "first": explanation.best_slice, "kind": explanation.slice_kind}
    return {**place, "slices": slices}


def _bars(explanation: Explanation) -> dict[str, Any]:
    """The entries of a table that have a bar, with their names, and how many there are."""
    if explanation.layout != "table":
        return {}
    values, names = explanation.values[0], explanation.columns
    shown = [[entry, names[entry] if names else str(entry)] for entry in shown_entries(values)]
    return {"bars": {"shown": shown, "count": len(values)}}


def _errors(explanation: Explanation, bits: Bits) -> dict[str, Any]:
    """The standard errors of a map that is estimated, packed like the map, for the same scale."""
    if explanation.standard_error is None or explanation.layout == "words":  # errors of tokens are not those of words
        return {}
    return {"errors": _map(explanation.of_error, bits, explanation.scale.high)}


def _map(explanation: Explanation, bits: Bits, high: float) -> dict[str, Any]:
    """The values that are drawn, for a scale up to `high`."""
    if explanation.layout == "slices":  # one after the other
        values = np.ascontiguousarray(explanation.volume, np.float32)
        values = _averaged(values, MOST) if bits == 8 else values
    else:
        values = np.ascontiguousarray(explanation.values, np.float32)
    size: dict[str, Any] = {"size": [values.shape[-1], values.shape[-2]], "bits": bits}
    if bits == 8 and values.size > FEW:
        return size | _small(values, high)
    if bits == 16:
        low, high, levels = quantised(values, 65535)
        size |= {"low": low, "high": high, "levels": 65535}
        data = levels.astype("<u2").tobytes()
    else:
        size["bits"] = 32
        data = values.astype("<f4").tobytes()
    return size | {"packing": "base64", "data": base64.b64encode(data).decode()}


FEW = 1024
"""Values that are kept whole in any case: there is nothing to be saved."""
MOST = 2**21
"""Values of the map of a volume or clip in a report."""
STEPS = 40
"""Of the square root of a value's share of the scale, from zero to the scale's end."""


def _averaged(volume: NDArray[np.float32], most: int) -> NDArray[np.float32]:
    """The volume (D, H, W) with so many values at most: means of equal parts of each slice."""
    share = math.sqrt(most / volume.size)
    if share >= 1:
        return volume
    height, width = (max(1, int(share * side)) for side in volume.shape[1:])
    return F.adaptive_avg_pool2d(torch.from_numpy(volume)[None], (height, width))[0].numpy()


def _small(values: NDArray[np.float32], high: float) -> dict[str, Any]:
    """One byte a value: the square root of its magnitude, which is what maps of single pixels are seen by, in equal
    steps, of which one is zero itself."""
    roots = np.sign(values) * np.sqrt(np.abs(values) / high)
    steps = min(STEPS, 254 / max(float(np.ptp(roots)), 1e-9))
    levels = np.rint(roots * steps)
    first = float(levels.min())
    # without looking for repetitions: there are none in such maps
    packer = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zlib.Z_FILTERED)
    data = packer.compress((levels - first).astype(np.uint8).tobytes()) + packer.flush()
    return {"first": int(first), "unit": math.sqrt(high) / steps, "packing": "base85 deflate", "data": base85(data)}


def base85(data: bytes) -> str:
    """RFC 1924's digits, which Python's base64 module has, with a comma for the one that would open a tag in HTML."""
    return base64.b85encode(data).decode().replace("<", ",")


def photograph(image: Image.Image) -> bytes:
    """An image as PNG, with just the numbers that Python draws on: without a colour profile."""
    return encoded(without_profile(image))


def rows(explanations: Sequence[Explanation], photographs: Photographs) -> list[tuple[int, list[Explanation]]]:
    """The explanations in rows of one image and class each, in the order in which they come.

    Args:
        explanations: of any models, layers and methods: what they were made with does not matter.
        photographs: is told of the photographs; the first of each pair is the row's position in it.
    """
    found: dict[Any, list[Explanation]] = {}
    for one in explanations:
        # the same picture stands for all tables, and for the same text with any image
        apart = (one.source, one.input) if one.layout in ("table", "words") else None
        key = (photographs.index(one.image), _asked(one.target), apart)
        found.setdefault(key, []).append(one)
    return [(key[0], group) for key, group in found.items()]


def _asked(target: ExplainedTarget) -> Any:
    """What was explained, to tell it from others; results of version 0.1 have no objective."""
    if target.objective is not None:
        return target.objective
    return (target.label, target.function) if target.index is None else Logit(target.index)


def told(name: str, value: Any) -> str:
    """A note's value in words.

    Example:
        >>> told("standard error", 0.12345), told("points", 50)
        ('12.3 %', '50')
    """
    return percent(value) if name == ERROR and isinstance(value, float) else words(value)


def words(value: Any) -> str:
    """An option's or note's value in words: numbers in three digits, counts of things as "33 ReLU6".

    Example:
        >>> words(0.12345), words({"ReLU6": 33, "SiLU": 1}), words(("a", None)), words(True)
        ('0.123', '33 ReLU6, 1 SiLU', 'a, none', 'true')
    """
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, dict):
        return ", ".join(
            f"{inner} {name}" if isinstance(inner, int) else f"{name} {words(inner)}" for name, inner in value.items()
        )
    if isinstance(value, (list, tuple)):
        return ", ".join(map(words, value))
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
