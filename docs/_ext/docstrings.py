"""DeepViz's docstrings are plain text for `help()`; here they become reStructuredText."""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx


def formulas_as_literals(
    app: Sphinx, what: str, name: str, obj: object, options: dict[str, Any], lines: list[str]
) -> None:
    """Indented paragraphs are formulas, to be shown as they are; bars are magnitudes, not substitutions."""
    written: list[str] = []
    for number, line in enumerate(lines):
        starts_block = line.startswith(" ") and number > 0 and not lines[number - 1].strip()
        if starts_block and not _indented_before(written) and not line.lstrip().startswith(">>>"):
            written += ["::", ""]
        written.append(line if line.startswith(" ") else re.sub(r"(?<!`)\|", r"\\|", line))
    lines[:] = written


def _indented_before(written: list[str]) -> bool:
    last = next((line for line in reversed(written) if line.strip()), "")
    return last.startswith(" ")


def setup(app: Sphinx) -> dict[str, bool]:
    # before napoleon, which reads the sections
    app.connect("autodoc-process-docstring", formulas_as_literals, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
