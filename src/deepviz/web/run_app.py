"""The application of a run: its rows, their maps and images, and lists of files. No model is needed."""

from __future__ import annotations

import asyncio
import csv
import math
import secrets
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from io import StringIO
from threading import Lock, Thread
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, Query, Request, Response
from fastapi import Path as InPath
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from deepviz.errors import DeepVizError
from deepviz.files import versions
from deepviz.models.images import shown
from deepviz.remote import AnyPath, below, path_of
from deepviz.render.slices import slice_picture
from deepviz.results.shards import library
from deepviz.viewer import photograph as lossless
from deepviz.viewer import record
from deepviz.web.files import jpeg, page_files
from deepviz.web.limits import MIB, Limits
from deepviz.web.model_service import NotFound
from deepviz.web.run_groups import Kind, RunGroups, end_of
from deepviz.web.run_pictures import RunPictures
from deepviz.web.run_rows import SORTABLE, Positions, Question, Rows, RunRows, WrongQuestion, expected_shards
from deepviz.web.safety import LOOPBACK
from deepviz.web.shell import add_pages, new_app

SCREEN = 200
"""Rows of one request, at most."""
RANGE = 10_000
"""Images that can be selected by one range, at most."""
OFFERED = 1000
"""Labels, and predictions, that a page offers to choose from."""
AT_ONCE = 2
"""Small pictures that are drawn at a time: the others wait, and are not drawn once their request has ended."""
ENDED = 499
LARGEST_SELECTION = MIB

Condition = Annotated[str, StringConstraints(max_length=4000)]
Conditions = Annotated[list[Condition], Query(max_length=8)]
ColumnName = Annotated[str, Query(max_length=500)]
ImageIndex = Annotated[int, InPath(ge=0, le=2**53)]
MethodName = Annotated[str, Query(max_length=2000)]
Rank = Annotated[int, Query(ge=0, le=1_000_000)]
Offset = Annotated[int, Query(ge=0, le=2**53)]
CLUSTER = r"^([0-9a-f]{32}:[0-9]{1,6})?$"
"""A cluster: the id of the grouping, and its number there; or none."""
ClusterId = Annotated[str, Query(pattern=CLUSTER)]
GroupingId = Annotated[str, InPath(pattern=r"^[0-9a-f]{32}$")]


class Grouped(BaseModel):
    """Whose maps are grouped, and how."""

    model_config = ConfigDict(extra="forbid")
    kind: Kind
    where: list[Condition] = Field(default=[], max_length=8)
    method: Annotated[str, Field(max_length=2000)]
    rank: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    n: Annotated[int, Field(ge=1, le=50)] | None = None


class Export(BaseModel):
    """Which images a list is of: those selected, or those of all rows for which conditions hold."""

    model_config = ConfigDict(extra="forbid")
    where: list[Condition] = Field(default=[], max_length=8)
    sort: Annotated[str, Field(max_length=500)] | None = None
    descending: bool = False
    within: Annotated[str, Field(pattern=CLUSTER)] = ""
    images: list[Annotated[int, Field(ge=0, le=2**53)]] | None = None
    table: bool = False


def create_run_app(
    folder: AnyPath | str,
    *,
    token: str | None = None,
    hosts: Collection[str] = LOOPBACK,
    limits: Limits | None = None,
) -> FastAPI:
    """The web app of a run, for any ASGI server.

    The maps are those that are stored: the model is not loaded. A run that is still being written can be opened; what
    is new is there when the page is loaded again.

    Args:
        folder: of the run.
        token: what requests must show; random by default, and then found as `app.state.token`.
        hosts: names that the server answers for, without ports.
        limits: its bounds.

    Raises:
        StoredError: if the folder holds no run.

    Example:
        >>> import deepviz, tempfile, torch
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 5))
        >>> run = deepviz.run(net, torch.rand(4, 3, 8, 8), "gradient", out=tempfile.mkdtemp())
        >>> len(create_run_app(run.folder).state.token) >= 32
        True
    """
    token = secrets.token_urlsafe(32) if token is None else token
    limits = replace(limits or Limits(), request_bytes=LARGEST_SELECTION)
    rows, pictures, groups = RunRows(path_of(folder)), RunPictures(limits), RunGroups()
    app = new_app(token, hosts, limits, lambda _: _reading(rows))
    app.state.rows, app.state.pictures = rows, pictures
    _add_rows(app, rows, groups)
    _add_pictures(app, rows, pictures)
    _add_groups(app, rows, groups)
    _add_export(app, rows, groups)
    add_pages(app, page_files("run.html"))
    return app


@asynccontextmanager
async def _reading(rows: RunRows) -> AsyncIterator[None]:
    """While the server runs: the rows are read before anyone asks."""
    Thread(target=_read_early, args=(rows,), name="deepviz rows", daemon=True).start()
    yield


def _read_early(rows: RunRows) -> None:
    with suppress(DeepVizError):  # the page asks for the same, and gets the error
        rows.prepare()


def _add_rows(app: FastAPI, rows: RunRows, groups: RunGroups) -> None:
    summaries: dict[int, dict[str, Any]] = {}
    reading = Lock()

    @app.get("/api/run")
    def start() -> dict[str, Any]:
        """What a page needs to open, with the shards that there are now."""
        with reading:
            now = rows.read()
            if now.version not in summaries:
                summaries.clear()
                summaries[now.version] = _summary(now)
            return summaries[now.version]

    @app.get("/api/run/rows")
    def screen(
        where: Conditions = [],  # noqa: B006
        sort: ColumnName | None = None,
        descending: bool = False,
        within: ClusterId = "",
        first: Offset = 0,
        count: Annotated[int, Query(ge=0, le=SCREEN)] = SCREEN,
    ) -> dict[str, Any]:
        """Some of the rows for which conditions hold, in order; `total` is the number of all of them."""
        now = rows.now()
        positions = _positions(now, groups, Question(tuple(where), sort, descending, within))
        shown_rows = now.page(positions[first : first + count])
        return {"total": len(positions), "first": first, "rows": [_row(now, row) for row in shown_rows]}

    @app.get("/api/run/range")
    def between(
        where: Conditions = [],  # noqa: B006
        sort: ColumnName | None = None,
        descending: bool = False,
        within: ClusterId = "",
        first: Offset = 0,
        last: Offset = 0,
    ) -> list[int]:
        """The images of the rows from one to another, to be selected."""
        if not 0 <= last - first < RANGE:
            raise WrongQuestion(f"a range is of at most {RANGE:,} rows: filter, and export all that match")
        now = rows.now()
        positions = _positions(now, groups, Question(tuple(where), sort, descending, within))
        return [int(one) for one in now.images(positions[first : last + 1])]


def _add_pictures(app: FastAPI, rows: RunRows, pictures: RunPictures) -> None:
    drawing = asyncio.Semaphore(AT_ONCE)

    @app.get("/api/run/images/{image}/thumbnail", response_class=Response)
    async def thumbnail(
        request: Request,
        image: ImageIndex,
        method: MethodName | None = None,
        rank: Rank = 0,
        input: MethodName = "",
        size: Annotated[int, Query(ge=16, le=512)] = 192,
    ) -> Response:
        """A row's map on its image as JPEG; without content (204) if there is neither."""
        key = (image, method, rank, input, size, rows.now().version)
        content = pictures.known(key)
        if content is None:
            async with drawing:
                if await request.is_disconnected():  # scrolled past
                    return Response(status_code=ENDED)
                content = await run_in_threadpool(draw, key)
        return Response(content, media_type="image/jpeg") if content else Response(status_code=204)

    def draw(key: tuple[int, str | None, int, str, int, int]) -> bytes:
        image, method, rank, input, size, _ = key
        row = rows.row(image, method, rank, input)
        return pictures.thumbnail(key, rows.now().run, row, size)

    @app.get("/api/run/images/{image}")
    def whole(image: ImageIndex) -> dict[str, Any]:
        """All that is known of an image, but for its maps."""
        now = rows.now()
        found = rows.of_image(image)
        first = found[0]
        source = now.run.manifest["question"]["source"]
        return {
            **{name: _plain(first[name]) for name in ("index", "label", "prediction", "probability", "correct")},
            "image": shown(first["image"]),
            "file": shown(file_name(source, first["image"])),
            "content": first["content"],
            "rows": [
                {
                    **{name: _plain(row[name]) for name in TOLD},
                    "layer": row["layer"],
                    "has_map": row["map"] is not None,
                    "warnings": row["warnings"] or [],
                    "metrics": {name: _plain(row.get(name)) for name in now.metrics},
                }
                for row in found
            ],
        }

    @app.get("/api/run/images/{image}/map")
    def map_of(image: ImageIndex, method: MethodName, rank: Rank = 0, input: MethodName = "") -> dict[str, Any]:
        """One map with its values and notes."""
        row = rows.row(image, method, rank, input)
        if row["map"] is None:
            raise NotFound(f"{shown(row['image'])} has no map of {method}: {row['reason']}")
        explanation = pictures.explanation(rows.now().run, row)
        return record(explanation, bits=16 if explanation.layout == "slices" else 32)

    @app.get("/api/run/images/{image}/picture", response_class=Response)
    def picture(
        image: ImageIndex,
        size: Annotated[int, Query(ge=16, le=2048)] = 1024,
        index: Annotated[int | None, Query(alias="slice", ge=0, le=1_000_000)] = None,
        depth: Annotated[int, Query(ge=1, le=1_000_000)] = 1,
    ) -> Response:
        """The image, encoded again: as PNG if its longer side is at most `size`, else shrunk to that as JPEG. Without
        content (204) if its file is not there, or another one now."""
        row = rows.of_image(image)[0]
        found = pictures.image(rows.now().run, row)
        if found is not None and index is not None:
            found = slice_picture(found, index, depth) if index < depth and found.width % depth == 0 else None
        if found is None:
            return Response(status_code=204)
        if max(found.size) <= size:
            return Response(lossless(found), media_type="image/png")
        return Response(jpeg(found, size), media_type="image/jpeg")


def _add_groups(app: FastAPI, rows: RunRows, groups: RunGroups) -> None:
    @app.post("/api/run/groups", status_code=202)
    def group(asked: Grouped) -> dict[str, Any]:
        """Group the maps of a method: clusters of those that look alike, or a mean map for each class. Of many images,
        some are drawn at random."""
        question = Question(tuple(asked.where))
        return groups.ask(rows.now(), question, asked.kind, asked.method, asked.rank, asked.n).status()

    @app.get("/api/run/groups/{grouping}")
    async def watch(grouping: GroupingId) -> dict[str, Any]:
        """The groups, as soon as they are there."""
        found = groups.find(grouping)
        await end_of(found)
        return await run_in_threadpool(found.status)

    @app.get("/api/run/groups/{grouping}/{number}", response_class=Response)
    def mean(
        grouping: GroupingId,
        number: Annotated[int, InPath(ge=0, le=1_000_000)],
        size: Annotated[int, Query(ge=16, le=512)] = 192,
    ) -> Response:
        """The mean map of a group as JPEG."""
        return Response(groups.find(grouping).picture(number, size), media_type="image/jpeg")


def _positions(now: Rows, groups: RunGroups, question: Question) -> Positions:
    """The rows of a question, of a cluster alone if it names one."""
    if not question.within:
        return now.positions(question)
    key, _, number = question.within.partition(":")
    return now.positions(question, groups.find(key).members(int(number)))


def _add_export(app: FastAPI, rows: RunRows, groups: RunGroups) -> None:
    @app.post("/api/run/export", response_class=StreamingResponse)
    def export(asked: Export) -> StreamingResponse:
        """A list of files, one a line; or a table that `deepviz run` takes as a source."""
        now = rows.now()
        if asked.images is None:
            positions = _positions(
                now, groups, Question(tuple(asked.where), asked.sort, asked.descending, asked.within)
            )
        else:
            positions = np.flatnonzero(np.isin(now.indices, np.array(asked.images, np.int64)))
        _, first = np.unique(now.indices[positions], return_index=True)
        chosen = positions[np.sort(first)]
        kind, name = ("text/csv", "images.csv") if asked.table else ("text/plain", "images.txt")
        headers = {"Content-Disposition": f'attachment; filename="{name}"'}
        return StreamingResponse(_listed(now, chosen, asked.table), media_type=kind, headers=headers)


EXPORTED = ("label", "prediction", "probability", "correct", "index")


def _listed(now: Rows, positions: Any, as_table: bool) -> Iterator[str]:
    source = now.run.manifest["question"]["source"]
    line = StringIO()
    writer = csv.writer(line, lineterminator="\n")
    if as_table:
        writer.writerow(["file", *EXPORTED])
    for start in range(0, len(positions), SCREEN):
        for row in now.page(positions[start : start + SCREEN]):
            file = file_name(source, row["image"])
            if as_table:
                writer.writerow([file, *("" if row[name] is None else row[name] for name in EXPORTED)])
            else:
                line.write(f"{file}\n")
        yield line.getvalue()
        line.seek(0)
        line.truncate()
    yield line.getvalue()  # the header, if there are no rows


TOLD = ("method", "title", "rank", "input", "target", "target_probability", "score", "failure", "reason")
"""Columns of a row that are told as they are."""


def _summary(now: Rows) -> dict[str, Any]:
    run = now.run
    question = run.manifest["question"]
    table, compute = now.table, library("pyarrow.compute")
    ranks = compute.max(table["rank"]).as_py()
    return {
        "versions": versions(),
        "name": run.folder.resolve().name,
        "folder": str(run.folder),
        "model": question["model"],
        "methods": list(run.methods),
        "metrics": now.metrics,
        "columns": now.column_names,
        "sortable": [*SORTABLE, *now.metrics],
        "rows": len(table),
        "images": len(np.unique(now.indices)),
        "count": question["source"]["count"],
        "shards": {"read": len(now.shards), "expected": expected_shards(run)},
        "pictures": question["source"]["kind"] != "data set",
        "problems": list(now.problems),
        "labels": now.counted("label", OFFERED),
        "predictions": now.counted("prediction", OFFERED),
        "ranks": 1 + (ranks or 0),
        "judged": len(table) - table["correct"].null_count,
        "failures": len(table) - table["failure"].null_count,
        "warnings": compute.sum(compute.greater(compute.list_value_length(table["warnings"]), 0)).as_py() or 0,
    }


def _row(now: Rows, row: dict[str, Any]) -> dict[str, Any]:
    """A row as a tile of the grid shows it."""
    told = {name: _plain(row[name]) for name in ("index", "label", "prediction", "probability", "correct", *TOLD)}
    return {
        **told,
        "image": shown(row["image"]),
        "warnings": len(row["warnings"] or ()),
        "has_map": row["map"] is not None,
        "metrics": {name: _plain(row.get(name)) for name in now.metrics},
    }


def _plain(value: Any) -> Any:
    """A value that JSON has: numbers that are none are not known."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def file_name(source: dict[str, Any], image: str) -> str:
    """The file of an image, with its folder; of one that is in no file of its own its name."""
    return str(below(source["root"], image)) if source["kind"] == "files" else image
