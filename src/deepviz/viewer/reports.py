"""The report: one HTML file with the viewer and all that is needed to defend what it shows; nothing else is fetched."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import os
from collections.abc import Sequence
from dataclasses import fields
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from deepviz import catalog
from deepviz.files import write_bytes
from deepviz.methods.method import Method, View
from deepviz.render.text import percent
from deepviz.results.explanation import Explanation, remarks
from deepviz.results.storage import WEIGHTS, Photographs, StoredMethod, without_profile
from deepviz.viewer.assets import bundle, static_files
from deepviz.viewer.records import record, rows, told, words

SIDE = 640
"""Longer side of an image in the report, in pixels."""
MOST_PIXELS = 2**23
"""Of all slices or frames of a volume or clip in the report, together."""
QUALITY = 80
LONG = 40
"""Lines of a table that are shown at once; a longer one is opened by the reader."""


def report(explanations: Sequence[Explanation], path: str | os.PathLike[str], *, title: str | None = None) -> Path:
    """Write a report: one HTML file that shows the maps in the viewer, offline, with how they were made.

    Images are JPEG of at most 640 pixels, values have 8 bits: to look at, not to compute with;
    `save_explanations` keeps the data. Of a volume or clip all slices or frames are in it, made smaller where they have
    more than 8 million pixels together, and their maps averaged where these have more than 2 million values.

    Args:
        explanations: as `explain` returns them; a row for each image and class, a column for each method.
        path: of the file; without an ending it gets `.html`.
        title: of the page; by default the images' names.

    A contents list with a filter is part of it from 10 images on.

    Returns:
        The path.

    Raises:
        ValueError: if there is nothing to show.
        OutputError: if the file cannot be written.
    """
    path = Path(path)
    return write_bytes(path if path.suffix else path.with_suffix(".html"), report_page(explanations, title=title))


def report_page(explanations: Sequence[Explanation], *, title: str | None = None) -> bytes:
    """The content of the file that `report` writes."""
    if isinstance(explanations, Explanation):
        explanations = [explanations]
    if not explanations:
        raise ValueError("no explanations to report")
    sources = list(dict.fromkeys(explanation.source for explanation in explanations))
    title = title or _listed(sources, 3)
    style = (static_files()["viewer.css"] + static_files()["report.css"]).decode()
    script = f'(() => {{"use strict";\n{bundle("contents.js", "report.js")}}})()'
    data = embedded(explanations)
    packed = _packed(data)
    policy = (
        f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )
    page = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="DeepViz {escape(explanations[0].versions.get("deepviz", ""))}">
<title>{escape(title)} · DeepViz</title>
<style>{style}</style>
</head>
<body class="dv-report">
<header class="dv-top">
<h1>{escape(title)}</h1>
<p>{escape(_summary(explanations, data["rows"]))}</p>
</header>
<main>
<nav id="contents" class="dv-contents" aria-label="Contents" hidden></nav>
<div id="comparison"></div>
<noscript><p>The maps are drawn by JavaScript, all of it in this file.</p></noscript>
<script type="application/json" id="data">{_json(data)}</script>
<script>{script}</script>
{packed}
{_tables(explanations)}
</main>
</body>
</html>
"""
    return page.encode()


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _json(data: Any) -> str:
    """As JSON that nothing in it can end."""
    return json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _packed(data: dict[str, Any]) -> str:
    """Take the images and the maps out of the data, into an element for each image and row: the browser shows the
    first of them before it has read the last."""
    elements, told = [], set()
    for number, row in enumerate(data["rows"]):
        photograph = row["photograph"]
        if photograph not in told:
            told.add(photograph)
            elements.append(_element(f"image-{photograph}", data["photographs"][photograph].pop("source")))
        records = [tile["record"] or {} for tile in row["tiles"]]
        # the maps of all tiles, then their errors
        parts = ("map", "errors") if any("errors" in one for one in records) else ("map",)
        maps = [one[part].pop("data") if part in one else None for part in parts for one in records]
        elements.append(_element(f"maps-{number}", maps))
    return "\n".join(elements)


def _element(name: str, content: Any) -> str:
    return f'<script type="application/json" id="{name}">{_json(content)}</script>'


def embedded(explanations: Sequence[Explanation]) -> dict[str, Any]:
    """All that the viewer draws, small enough to lie in a page: images as data URLs, rows of records."""
    photographs = Photographs()
    found = [
        {
            "title": group[0].source,
            "detail": str(group[0].target) if _alike(group) else group[0].target.label,
            "photograph": number,
            "tiles": [
                _original(group),
                *(
                    {"title": one.title, "detail": _detail(one, _alike(group)), "record": record(one, bits=8)}
                    for one in group
                ),
            ],
        }
        for number, group in rows(explanations, photographs)
    ]
    shown = {photographs.index(one.image): one for one in reversed(explanations)}
    pictures = [{"id": str(number), **_pictures(shown[number])} for number in range(len(photographs.pictures))]
    return {"photographs": pictures, "rows": found}


def _pictures(one: Explanation) -> dict[str, Any]:
    """The image as data URL; of a volume or clip one for each slice or frame."""
    if one.layout != "slices":
        return {"size": one.image.size, "source": _jpeg(without_profile(one.image), SIDE)}
    slices = [one.slice_at(index).image for index in range(one.depth)]
    width, height = slices[0].size
    share = min(1.0, math.sqrt(MOST_PIXELS / (one.depth * width * height)))
    side = min(SIDE, max(1, int(share * max(width, height))))
    return {
        "size": (width, height),
        "slices": one.depth,
        "source": [_jpeg(without_profile(picture), side) for picture in slices],
    }


def _original(group: Sequence[Explanation]) -> dict[str, Any]:
    """The tile of the image itself, with what its only model predicts."""
    one = group[0]
    predictions = one.predictions if len({each.model for each in group}) == 1 else ()
    return {
        "title": {"table": "Table", "words": "Text"}.get(one.layout, "Image"),
        "detail": "; ".join(remarks(one)),
        **({"table": True} if one.layout == "table" else {}),
        "original": True,
        "record": None,
        "predictions": [
            {"label": label, "told": percent(chance), "share": round(chance, 4)} for label, chance in predictions
        ],
    }


def _alike(group: Sequence[Explanation]) -> bool:
    """Whether the class and the model are told once for the whole row."""
    return len({(str(one.target), one.model) for one in group}) == 1


def _detail(one: Explanation, alike: bool) -> str:
    return one.detail if alike else f"{one.caption} · {one.model}"


def _jpeg(picture: Image.Image, side: int) -> str:
    small = picture.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=QUALITY, optimize=True, progressive=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


VIEWS: dict[View, str] = {
    "magnitude": "the largest magnitude over the channels",
    "sum": "the signed sum over the channels",
    "positive": "the values as they are, from zero up",
    "range": "the values as they are, from the lowest up",
}


def _summary(explanations: Sequence[Explanation], found: Sequence[dict[str, Any]]) -> str:
    tables = {row["title"] for row in found if row["tiles"][0].get("table")}
    images = {row["photograph"] for row in found if not row["tiles"][0].get("table")}
    inputs = [_counted(len(of), word) for of, word in ((images, "image"), (tables, "table")) if of]
    methods = len({catalog.key(one.method) for one in explanations})
    models = list(dict.fromkeys(one.model for one in explanations))
    return " · ".join([*inputs, _counted(methods, "method"), _listed(models, 2)])


def _counted(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def _listed(names: Sequence[str], most: int) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def _tables(explanations: Sequence[Explanation]) -> str:
    return "\n".join(
        [
            _table("Inputs and targets", *_explained(explanations)),
            _table("How", *_methods(explanations)),
            _table("Values and checks", *_found(explanations)),
            _table("With", *_with(explanations)),
        ]
    )


def _table(title: str, head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    told = [number for number in range(len(head)) if any(line[number] for line in body)]
    head, body = [head[number] for number in told], [[line[number] for number in told] for line in body]
    columns = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    lines = [
        "<tr>" + "".join(_cell(name, cell) for name, cell in zip(head, line, strict=True)) + "</tr>"
        for line in dict.fromkeys(map(tuple, body))
    ]
    heading = f"<h2>{escape(title)}</h2>"
    table = (
        f'<div class="dv-wide" tabindex="0" role="region" aria-label="{escape(title)}">'
        f"<table><thead><tr>{columns}</tr></thead>\n<tbody>{chr(10).join(lines)}</tbody></table></div>"
    )
    if len(lines) > LONG:
        return f'<details class="dv-table"><summary>{heading}{len(lines)} lines</summary>{table}</details>'
    return f'<section class="dv-table">{heading}{table}</section>'


def _cell(name: str, text: str) -> str:
    """One cell; on a narrow page, where lines are blocks, it stands below its column's name."""
    return f'<td data-name="{escape(name)}">{escape(text)}</td>'


def _explained(explanations: Sequence[Explanation]) -> tuple[Sequence[str], list[Sequence[str]]]:
    head = ("Image", "Pixels", "Model input region", "Class", "Probability", "Score", "Prepared")
    return head, [
        (
            one.source,
            _pixels(one),
            "all of it"
            if one.geometry.covers_all
            else "from {:.0f}, {:.0f} to {:.0f}, {:.0f}".format(*one.geometry.box),
            one.target.label if one.target.index is None else f"{one.target.label} ({one.target.index})",
            "" if one.target.probability is None else percent(one.target.probability),
            _number(one.target.score),
            "; ".join(map(str, one.notes.get("photograph", ()))),
        )
        for one in explanations
    ]


def _pixels(one: Explanation) -> str:
    """How large the image is, or what else is explained."""
    if one.layout == "table":
        return _counted(one.attribution.numel(), "number")
    if one.layout == "words":
        return _counted(len(one.words), "word")
    if one.layout == "signal":
        return _counted(one.space[0] if one.space else one.attribution.shape[-1], "value")
    if one.layout == "image":
        return "{} × {}".format(*one.geometry.size)
    return "{} {}s of {} × {}".format(one.depth, one.slice_kind, *one.slice_at(0).image.size)


def _methods(explanations: Sequence[Explanation]) -> tuple[Sequence[str], list[Sequence[str]]]:
    head = ("Method", "Options", "Drawn", "Reference")
    return head, [
        (one.title, _options(one.method), VIEWS[one.method.view], type(one.method).paper) for one in explanations
    ]


def _options(method: Method) -> str:
    if isinstance(method, StoredMethod):
        given = json.loads(method.options)
    else:
        given = {field.name: getattr(method, field.name) for field in fields(method)}
    told = [
        f"{name.replace('_', ' ')} {value.name if isinstance(value, Method) else words(value)}"
        for name, value in given.items()
        if not (name == "layer" and value is None)
    ]
    return ", ".join(told) or "none"


def _found(explanations: Sequence[Explanation]) -> tuple[Sequence[str], list[Sequence[str]]]:
    head = ("Image", "Class", "Method", "Layer", "Scale", "Words", "Notes", "Checks", "Warnings")
    return head, [
        (
            one.source,
            one.target.label,
            one.title,
            one.layer or "",
            f"{one.scale.low:.3g} to {one.scale.high:.3g}" + (f", {one.scale.note}" if one.scale.note else ""),
            ", ".join(f"{word} {value:.3g}" for word, value in one.word_values),
            "; ".join(f"{name}: {told(name, value)}" for name, value in one.notes.items() if name not in _ELSEWHERE),
            one.notes.get("checks", {}).get("in words", ""),
            "; ".join(map(str, one.notes.get("warnings", ()))),
        )
        for one in explanations
    ]


_ELSEWHERE = ("layer", "warnings", "checks", "photograph", WEIGHTS)


def _with(explanations: Sequence[Explanation]) -> tuple[Sequence[str], list[Sequence[str]]]:
    return ("Model", "Weights, SHA-256", "Versions"), [
        (
            one.model,
            str(one.notes.get(WEIGHTS, "not recorded")),
            ", ".join(f"{name} {version}" for name, version in one.versions.items()),
        )
        for one in explanations
    ]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
