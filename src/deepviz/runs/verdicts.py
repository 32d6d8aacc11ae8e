"""What `sanity_check` found on a network, remembered in the user's cache."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np

from deepviz.errors import OutputError
from deepviz.files import write_bytes
from deepviz.results.sanity import Sanity

PARTS = ("half", "all", "images", "share")


def remember(found: Sanity) -> Path:
    """Keep what each method keeps in the user's cache, by the network; where. What more images have said stays."""
    known = recall(found.key)
    new = {
        key: of
        for key, of in found.by_key.items()
        if not np.isnan(of["half"]) and of["images"] >= known.get(key, of)["images"]
    }
    return write_bytes(_cache(found.key), json.dumps(known | new, indent=1).encode())


def recall(network: str) -> dict[str, dict[str, float]]:
    """What is known of the methods on a network (`results.sanity.key_of`), by `catalog.key`."""
    try:
        known = json.loads(_cache(network).read_text())
        return {str(key): {part: float(of[part]) for part in PARTS} for key, of in known.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}  # not known, or a file that is not ours: it is found again


def _cache(network: str) -> Path:
    home = os.environ.get("XDG_CACHE_HOME")
    try:
        return Path(home or Path.home() / ".cache") / "deepviz" / "sanity" / f"{network}.json"
    except RuntimeError:  # neither HOME nor an entry among the users, as in some containers
        raise OutputError("there is no home folder to keep verdicts in: set XDG_CACHE_HOME") from None
