"""What `sanity_check` found on a network, remembered in the user's cache."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from math import isnan, nan
from pathlib import Path
from typing import Any

from deepviz.errors import OutputError
from deepviz.files import write_bytes
from deepviz.results.sanity import Sanity

DIGITS = 4
"""Of a similarity that is remembered."""
Values = dict[str, Any]
"""Of a method: for each image the similarity with about "half" and with "all" of the layers random, and the "share" of
the layers that is about half."""


def remember(found: Sanity) -> Path:
    """Keep in the user's cache how similar each method's maps stay, image by image, by the network; where. What more
    images have said stays."""
    known = recall(found.key)
    new = {
        key: of
        for key, of in found.by_key.items()
        if not isnan(of["share"]) and _images(of) >= _images(known.get(key, of))
    }
    return write_bytes(_cache(found.key), json.dumps({key: _plain(of) for key, of in (known | new).items()}).encode())


def recall(network: str) -> dict[str, Values]:
    """What is known of the methods on a network (`results.sanity.key_of`), by `catalog.key`, as `Sanity.by_key`."""
    try:
        known = json.loads(_cache(network).read_text())
        return {
            str(key): {"half": _numbers(of["half"]), "all": _numbers(of["all"]), "share": float(of["share"])}
            for key, of in known.items()
            if len(of["half"]) == len(of["all"]) > 0
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}  # not known, or a file that is not ours or of an earlier version: it is found again


def _images(of: Values) -> int:
    return sum(not isnan(one) for one in of["all"])


def _numbers(values: Sequence[float | None]) -> list[float]:
    return [nan if value is None else float(value) for value in values]


def _plain(of: Values) -> Values:
    shown = {part: [None if isnan(one) else round(one, DIGITS) for one in of[part]] for part in ("half", "all")}
    return {**shown, "share": of["share"]}


def _cache(network: str) -> Path:
    home = os.environ.get("XDG_CACHE_HOME")
    try:
        return Path(home or Path.home() / ".cache") / "deepviz" / "sanity" / f"{network}.json"
    except RuntimeError:  # neither HOME nor an entry among the users, as in some containers
        raise OutputError("there is no home folder to keep verdicts in: set XDG_CACHE_HOME") from None
