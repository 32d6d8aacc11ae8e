"""DeepViz's docstrings are plain text for `help()`; here they become reStructuredText."""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx


def formulas_as_literals(
    app: Sphinx, what: str, name: str, obj: object, options: dict[str, Any], lines: list[str]
) -> None:
    """Indented paragraphs are formulas, to be shown as they are; |x| is a magnitude, and *grid in a shape some axes."""
    written: list[str] = []
    literal = False
    for number, line in enumerate(lines):
        starts_block = line.startswith(" ") and number > 0 and not lines[number - 1].strip()
        if starts_block and not _indented_before(written) and not line.lstrip().startswith(">>>"):
            written += ["::", ""]
            literal = True
        literal = literal and (line.startswith(" ") or not line.strip())
        written.append(line if literal or line.lstrip().startswith((">>>", "...")) else _plain(line))
    lines[:] = written


def _plain(line: str) -> str:
    """With a backslash before what reStructuredText would take for a substitution or for emphasis, outside of code."""
    parts = line.split("`")
    parts[::2] = [re.sub(r"\||(?<=, )\*(?=\w+\))", r"\\\g<0>", part) for part in parts[::2]]
    return "`".join(parts)


def _indented_before(written: list[str]) -> bool:
    last = next((line for line in reversed(written) if line.strip()), "")
    return last.startswith(" ")


def setup(app: Sphinx) -> dict[str, bool]:
    # before napoleon, which reads the sections
    app.connect("autodoc-process-docstring", formulas_as_literals, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
