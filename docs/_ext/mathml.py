"""Formulas as MathML, which browsers draw themselves: no script, no network."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx

_PRIMED = re.compile(r"<msup>(<mi>\w</mi>)<mi>(&#x02032;)</mi></msup>")


def _mathml(formula: str, display: str) -> str:
    # the glyph of a prime is raised and small already: as a superscript it would all but vanish
    return _PRIMED.sub(r'\1<mo lspace="0" rspace="0">\2</mo>', convert(formula, display=display))


def _inline(translator: Any, node: nodes.Element) -> None:
    translator.body.append(_mathml(node.astext(), "inline"))
    raise nodes.SkipNode


def _block(translator: Any, node: nodes.Element) -> None:
    translator.body.append(_mathml(node.astext(), "block"))
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
