"""What a page says of a map that needs care, in its own words, and which option mends it."""

from __future__ import annotations

from typing import Any

from deepviz.methods import IntegratedGradients
from deepviz.results.explanation import Explanation
from deepviz.web.forms import MOST

LARGE_GAP = 0.05
"""A completeness gap above which a map needs care."""
GAP_SAID = "integrated gradients: the map's sum misses"
"""How the method's own warning of that begins, which names arguments of Python."""
TIMES, USUAL = 4, 50
"""So many times the steps are proposed; the steps where none are known."""


def advised(explanation: Explanation) -> dict[str, Any]:
    """The parts of a record that differ on the page: the "warnings", and the "remedy", if an option is one: its name,
    its value, and the words for a button."""
    gap = explanation.notes.get("completeness gap", 0.0)
    if not gap > LARGE_GAP:
        return {}
    others = [text for text in map(str, explanation.notes.get("warnings", ())) if not text.startswith(GAP_SAID)]
    message = f"The sum of this map's values misses the change of the score by {_percent(gap)}."
    found: dict[str, Any] = {"warnings": [message, *others]}
    method = explanation.method
    if isinstance(method, IntegratedGradients) and method.tolerance is None:
        now = explanation.notes.get("steps") or method.steps or USUAL
        steps = min(TIMES * int(now), MOST)
        if steps > now:
            found["warnings"][0] += " More steps along the path bring them together."
            found["remedy"] = {"option": "steps", "value": str(steps), "title": f"Use {steps} steps"}
    return found


def _percent(share: float) -> str:
    return f"{share:.0%}".replace("%", " %") if share < 10 else "more than 1000 %"
