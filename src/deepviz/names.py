"""Nearest names, for errors about unknown ones."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str], most: int = 3) -> str:
    """The end of a sentence about an unknown name: `; did you mean 'a' or 'b'?`, or nothing if none is near.

    Example:
        >>> nearest("gradcam", ["grad-cam", "gradient"])
        "; did you mean 'grad-cam' or 'gradient'?"
    """
    options = {option.lower(): option for option in known}
    close = difflib.get_close_matches(name.lower(), options, n=most, cutoff=0.5)
    if not close:
        return ""
    return "; did you mean " + " or ".join(repr(options[option]) for option in close) + "?"
