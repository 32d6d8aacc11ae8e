"""The viewer's own files: ES modules and a style sheet, with the colour tables of Python."""

from __future__ import annotations

import base64
import json
import re
from functools import cache
from importlib import resources

import numpy as np

from deepviz.render import Scale, colour
from deepviz.render.colour import LEVELS, SIGNED, UNSIGNED
from deepviz.render.overlay import DARKEST, DIMMED, GHOST, LIFTED, OPACITY

COLOURS = {UNSIGNED: "Inferno", "viridis": "Viridis", "cividis": "Cividis", "crameri:batlow": "Batlow", "gray": "Grey"}
DIVERGING = {
    SIGNED: "Vik",
    "colorbrewer:RdBu_r": "Red–blue",
    "matplotlib:coolwarm": "Coolwarm",
    "crameri:berlin": "Berlin, dark",
}
TABLES = "tables.js"
MODULES = (
    TABLES,
    "elements.js",
    "decode.js",
    "place.js",
    "scale.js",
    "contours.js",
    "paint.js",
    "picture.js",
    "settings.js",
    "tile.js",
    "comparison.js",
    "embedded.js",
)
"""In the order in which each needs only those before it."""
_IMPORT = re.compile(r"^import \{[^}]*\} from \"\./[a-z]+\.js\";\n", re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async )?(?:const|class|function)\b)", re.MULTILINE)


@cache
def static_files() -> dict[str, bytes]:
    """Name -> content of all that a page needs, to be served from one folder: `viewer.js` is what it imports."""
    folder = resources.files(__package__) / "static"
    found = {file.name: file.read_bytes() for file in folder.iterdir() if file.name.endswith((".js", ".css"))}
    return found | {TABLES: tables().encode()}


@cache
def tables() -> str:
    """The module of colour tables and constants, so that the page draws as Python does."""
    lines = [
        {"name": name, "title": title, "diverging": diverging, "bytes": _table(name, diverging)}
        for names, diverging in ((COLOURS, False), (DIVERGING, True))
        for name, title in names.items()
    ]
    constants = {
        "opacity": OPACITY,
        "ghost": GHOST,
        "lifted": LIFTED,
        "darkest": DARKEST,
        "dimmed": DIMMED,
        "colours": UNSIGNED,
        "diverging": SIGNED,
    }
    return (
        "// The colour tables and constants of deepviz/render.\n\n"
        f"export const LEVELS = {LEVELS};\n"
        f"export const PAINT = {json.dumps(constants)};\n"
        f"export const TABLES = {json.dumps(lines)}.map((table) => "
        "({ ...table, bytes: Uint8Array.from(atob(table.bytes), (digit) => digit.charCodeAt(0)) }));\n"
    )


def _table(name: str, diverging: bool) -> str:
    scale = Scale(-1.0 if diverging else 0.0, 1.0, diverging)
    values = np.linspace(scale.low, scale.high, LEVELS)[None]
    return base64.b64encode(colour(values, scale, name).tobytes()).decode()


def bundle(*more: str) -> str:
    """All modules in one, for places where modules cannot be fetched, such as a page from `file://`.

    Args:
        more: names of modules that come last.
    """
    sources = [static_files()[name].decode() for name in (*MODULES, *more)]
    return "\n".join(_EXPORT.sub("", _IMPORT.sub("", source)) for source in sources)
