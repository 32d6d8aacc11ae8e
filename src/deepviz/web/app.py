"""The application and its routes."""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from threading import BoundedSemaphore
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi import Path as InPath
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from deepviz import catalog
from deepviz.files import encoded, versions
from deepviz.inside.loading import checked_channels
from deepviz.models import LoadedModel
from deepviz.results.explanation import ExplainedTarget, Explanation
from deepviz.results.storage import packed
from deepviz.runs.checks import METRICS
from deepviz.runs.look import written
from deepviz.viewer import photograph as lossless
from deepviz.viewer import record, report_page
from deepviz.web.advice import advised
from deepviz.web.drawings import Drawing
from deepviz.web.files import data_url, jpeg, page_files, sheets
from deepviz.web.forms import (
    Checked,
    Comparison,
    Comparisons,
    ContentId,
    Judged,
    LayerName,
    ModelId,
    Peaks,
    Results,
    Wanted,
    described,
)
from deepviz.web.image_store import StoredImage, pictured
from deepviz.web.jobs import Check, Job
from deepviz.web.limits import Limits
from deepviz.web.model_service import Busy, NotFound, Result
from deepviz.web.safety import LOOPBACK
from deepviz.web.shell import add_pages, new_app, too_many
from deepviz.web.snippets import as_commands, as_python
from deepviz.web.state import FIRST, FIRST_IMAGES, AppState
from deepviz.web.trust import PARTS, Part

PATIENCE = 15.0
"""Seconds that a request for a status waits for a change."""
THUMBNAIL, CHANNELS = 192, 16

After = Annotated[int | None, Query(ge=0, le=10**9)]
JobId = Annotated[str, InPath(pattern=r"^[0-9a-f]{32}$")]
ImageId = Annotated[ContentId, InPath()]
ResultId = Annotated[ContentId, InPath()]
ModelName = Annotated[ModelId, InPath()]


def create_app(
    models: LoadedModel | Sequence[LoadedModel],
    photographs: Iterable[Path] | None = None,
    *,
    token: str | None = None,
    hosts: Collection[str] = LOOPBACK,
    limits: Limits | None = None,
) -> FastAPI:
    """The web app, for any ASGI server.

    Args:
        models: those that pages can choose among; the first is the default.
        photographs: files that pages start with; the two of the package by default. Of models that read volumes, clips
            or images of bands: files of theirs, by default none.
        token: what requests must show; random by default, and then found as `app.state.token`.
        hosts: names that the server answers for, without ports.
        limits: its bounds.

    An image that cannot be read is left out with a warning.

    Raises:
        ModelError: if the models' preprocessing reads files, and not all do so alike.

    Example:
        >>> import deepviz, torch
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(),
        ...                           torch.nn.Linear(4 * 30 * 30, 5))
        >>> app = create_app(deepviz.load_model(net, preprocess=deepviz.Preprocess(32)), hosts=["localhost"])
        >>> len(app.state.token) >= 32
        True
    """
    token = secrets.token_urlsafe(32) if token is None else token
    limits = limits or Limits()
    state = AppState.of([models] if isinstance(models, LoadedModel) else list(models), photographs, limits)
    if state.photographs.reader is not None:
        limits = replace(limits, upload_bytes=limits.volume_bytes)
    app = new_app(token, hosts, limits, lambda _: state.open())
    app.state.deepviz = state
    _add_listings(app, state)
    _add_images(app, state, limits)
    _add_jobs(app, state)
    _add_drawings(app, state)
    _add_checks(app, state)
    _add_downloads(app, state)
    add_pages(app, page_files())
    return app


def _add_listings(app: FastAPI, state: AppState) -> None:
    @app.get("/api/start")
    def start() -> dict[str, Any]:
        """What a page needs to open."""
        return {
            "versions": versions(),
            "models": [service.described() for service in state.models.values()],
            "photographs": state.first[:FIRST_IMAGES],
            "methods": list(FIRST),
            "metrics": {
                name: {"title": one.title or type(one).__name__, "better": one.better} for name, one in METRICS.items()
            },
            "reads": "images" if state.photographs.reader is None else state.photographs.reader.reads,
            "job": None if state.opening is None else state.opening.id,
        }

    @app.get("/api/models")
    def models() -> list[dict[str, Any]]:
        """The models that can be chosen."""
        return [service.described() for service in state.models.values()]

    @app.get("/api/models/{model}/methods")
    def methods(model: ModelName) -> list[dict[str, Any]]:
        """The methods with their options, and why some do not apply to the model."""
        service = state.model(model)
        with service.admitted():
            reasons = service.reasons()
        return [{**described(name), "reason": reasons.get(name, "")} for name in catalog.METHODS]

    @app.get("/api/models/{model}/layers")
    def layers(model: ModelName) -> dict[str, Any]:
        """The model's modules, and which of them the CAM methods can explain."""
        service = state.model(model)
        with service.admitted():
            return service.layers().to_dict()

    @app.get("/api/models/{model}/attention")
    def attention_layers(model: ModelName) -> dict[str, Any]:
        """The layers of attention, by name; the reason if there are none that can be shown."""
        service = state.model(model)
        with service.admitted():
            return service.attention_layers()

    @app.get("/api/models/{model}/labels")
    def labels(model: ModelName) -> list[str]:
        """The names of the classes, by index; empty if they have none."""
        return list(state.model(model).loaded.labels or ())


def _add_images(app: FastAPI, state: AppState, limits: Limits) -> None:
    uploads = BoundedSemaphore(8)

    @app.get("/api/photographs")
    def photographs() -> list[dict[str, Any]]:
        """The images that can be explained."""
        return [_photograph(kept) for kept in state.photographs.listed()]

    @app.post(
        "/api/photographs",
        status_code=201,
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
            }
        },
    )
    async def upload(request: Request, name: Annotated[str, Query(max_length=500)] = "photograph") -> dict[str, Any]:
        """Take in an image: the body is the file."""
        if not uploads.acquire(blocking=False):
            raise Busy("too many images are being read; try again in a moment")
        try:
            content = await request.body()
            return _photograph(await run_in_threadpool(state.photographs.upload, content, name))
        finally:
            uploads.release()

    @app.get("/api/photographs/{photograph}", response_class=Response)
    def picture(
        photograph: ImageId,
        size: Annotated[int, Query(ge=16, le=2048)] = THUMBNAIL,
        index: Annotated[int | None, Query(alias="slice", ge=0, le=1_000_000)] = None,
    ) -> Response:
        """The image, encoded again, never the uploaded bytes: as PNG if its longer side is at most `size`, so that
        overlays equal those of Python; else shrunk to that as JPEG. Of a volume or clip it is one `slice`, by default
        the middle one."""
        whole_size = state.photographs.info(photograph).size
        if size <= THUMBNAIL and index is None and (whole_size is None or max(whole_size) > THUMBNAIL):
            return Response(jpeg(state.photographs.thumbnail(photograph, size), size), media_type="image/jpeg")
        whole = pictured(state.photographs.photo(photograph), index)
        if max(whole.size) <= size:
            return Response(lossless(whole), media_type="image/png")
        return Response(jpeg(whole, size), media_type="image/jpeg")

    @app.get("/api/models/{model}/photographs/{photograph}/predictions")
    def predictions(model: ModelName, photograph: ImageId) -> list[dict[str, Any]]:
        """The best classes, best first."""
        service = state.model(model)
        with service.admitted():
            return [_class(target) for target in service.predictions(photograph)]

    @app.get("/api/models/{model}/photographs/{photograph}/probabilities")
    def probabilities(model: ModelName, photograph: ImageId) -> list[float]:
        """The probability of each class, by index; empty if the model has none."""
        service = state.model(model)
        with service.admitted():
            return service.probabilities(photograph)

    @app.get("/api/models/{model}/photographs/{photograph}/activations")
    def activations(
        model: ModelName,
        photograph: ImageId,
        layer: Annotated[LayerName, Query()],
        first: Annotated[int, Query(ge=0, le=1_000_000)] = 0,
        channel: Annotated[int | None, Query(ge=0, le=1_000_000)] = None,
        size: Annotated[int, Query(ge=16, le=1024)] = THUMBNAIL,
    ) -> dict[str, Any]:
        """Channels of a layer, drawn on the image: one, or the strongest from the `first` on."""
        service = state.model(model)
        with service.admitted():
            found = service.activations(photograph, layer)
        if channel is None:
            shown = list(found.order[first : first + CHANNELS])
        else:
            shown = checked_channels([channel], len(found.maps), found.layer)
        strengths, peaks = found.strengths, found.maps.amax((1, 2))
        return {
            "layer": found.layer,
            "channels": len(found.maps),
            "grid": list(found.maps.shape[1:]),
            "silent": len(found.silent),
            "first": first,
            "shown": [
                {
                    "channel": one,
                    "strength": float(strengths[one]),
                    "peak": float(peaks[one]),
                    "picture": data_url(jpeg(found.overlay(one), size)),
                }
                for one in shown
            ],
        }

    @app.get("/api/models/{model}/photographs/{photograph}/attention")
    def attention(model: ModelName, photograph: ImageId, layer: Annotated[LayerName, Query()]) -> dict[str, Any]:
        """What each patch attends to in a layer, by head: a byte for each pair of patches, in base64."""
        service = state.model(model)
        with service.admitted():
            return service.attention(photograph, layer)

    @app.post("/api/models/{model}/peaks")
    def peaks(model: ModelName, wanted: Peaks) -> list[dict[str, Any]]:
        """The largest activation of a channel in each image; None where the model fails."""
        service = state.model(model)
        with service.admitted():
            return [
                {"photograph": one, "peak": service.peak(one, wanted.layer, wanted.channel)}
                for one in dict.fromkeys(wanted.photographs)
            ]


def _add_jobs(app: FastAPI, state: AppState) -> None:
    @app.post("/api/jobs", status_code=202)
    def submit(asked: Comparison) -> dict[str, Any]:
        """Explain: every method for every class of every image."""
        cells = state.cells(asked)
        wanted = sum(len(cell.targets or (0,)) for cell in cells)
        if wanted > state.jobs.limits.cells:
            raise HTTPException(422, too_many("cells", wanted, state.jobs.limits.cells))
        return state.jobs.submit(state.model(asked.model), cells).status()

    @app.get("/api/jobs/{job}")
    async def watch(job: JobId, after: After = None) -> dict[str, Any]:
        """The status of a job; with `after`, as soon as it differs from that version."""
        found = _job(job)
        await _news(found, after)
        return found.status()

    @app.delete("/api/jobs/{job}")
    def cancel(job: JobId) -> dict[str, Any]:
        """Stop a job before its next map, or round of passes; finished maps are kept."""
        found = _job(job)
        found.cancel()
        return found.status()

    def _job(job: str) -> Job:
        found = state.jobs.find(job)
        if found is None:
            raise HTTPException(404, "job not found (expired or unknown)")
        return found


def _add_drawings(app: FastAPI, state: AppState) -> None:
    @app.post("/api/drawings", status_code=202)
    def draw(wanted: Wanted) -> dict[str, Any]:
        """Generate feature visualisations of channels of a layer."""
        channels = tuple(dict.fromkeys(wanted.channels))
        if len(channels) > state.drawings.limits.channels:
            raise HTTPException(422, too_many("channels", len(channels), state.drawings.limits.channels))
        service = state.model(wanted.model)
        return state.drawings.start(service, wanted.layer, channels, wanted.steps, wanted.seed).status()

    @app.get("/api/drawings/{drawing}")
    async def watch(drawing: JobId, after: After = None) -> dict[str, Any]:
        """The status of a drawing; with `after`, as soon as it differs from that version."""
        found = _drawing(drawing)
        await _news(found, after)
        return await run_in_threadpool(found.status)

    @app.post("/api/drawings/{drawing}/pause")
    def pause(drawing: JobId) -> dict[str, Any]:
        """Pause after the current step."""
        found = _drawing(drawing)
        found.pause()
        return found.status()

    @app.post("/api/drawings/{drawing}/resume")
    def resume(drawing: JobId) -> dict[str, Any]:
        """Resume a drawing that was paused."""
        found = _drawing(drawing)
        found.resume()
        return found.status()

    @app.delete("/api/drawings/{drawing}")
    def stop(drawing: JobId) -> dict[str, Any]:
        """Stop a drawing after the current step; its images are kept."""
        found = _drawing(drawing)
        found.stop()
        return found.status()

    @app.get("/api/drawings/{drawing}/channels/{channel}", response_class=Response)
    def image(drawing: JobId, channel: Annotated[int, InPath(ge=0, le=1_000_000)]) -> Response:
        """A channel's image as it is now, PNG."""
        found = _drawing(drawing).image(channel)
        if found is None:
            raise HTTPException(404, f"channel {channel} has no image here yet")
        return Response(encoded(found), media_type="image/png")

    def _drawing(drawing: str) -> Drawing:
        found = state.drawings.find(drawing)
        if found is None:
            raise HTTPException(404, "drawing not found (expired or unknown)")
        return found


def _add_checks(app: FastAPI, state: AppState) -> None:
    @app.post("/api/checks", status_code=202)
    def check(asked: Checked) -> dict[str, Any]:
        """Check maps of one model: all curves, then all randomisation strips."""
        results = [state.result(one) for one in dict.fromkeys(asked.results)]
        if len({one.model for one in results}) > 1:
            raise HTTPException(422, "these maps are from several models; request each model separately")
        tasks = [Check(one, part) for part in PARTS for one in results]
        return state.jobs.submit(state.model(results[0].model), tasks).status()

    @app.get("/api/results/{result}/checks/{part}")
    def part(result: ResultId, part: Part) -> dict[str, Any]:
        """One check of a map: its "curves" or randomisation "strip"."""
        one = state.result(result)
        known = state.model(one.model).known_check(one, part)
        if known is None:
            raise NotFound(f"the {part} of {result[:12]} not found (expired or not requested); check again")
        return known

    @app.post("/api/verdicts")
    def verdicts(asked: Judged) -> list[dict[str, Any]]:
        """What maps say together, by model and method, as far as they are checked."""
        by_model: dict[str, list[Result]] = {}
        for result_id in dict.fromkeys(asked.results):
            one = state.result(result_id)
            by_model.setdefault(one.model, []).append(one)
        return [found for model, results in by_model.items() for found in state.model(model).verdicts(results)]


def _add_downloads(app: FastAPI, state: AppState) -> None:
    @app.get("/api/results/{result}")
    def result(result: ResultId) -> dict[str, Any]:
        """One map with its values and metadata; also one under way, until there is more of it."""
        one = state.drawn(result)
        explanation = one.explanation
        drawn = record(explanation, bits=16 if explanation.layout == "slices" else 32)
        words = {} if one.words is None else {"words": words_of(one.words)}
        return drawn | words | advised(explanation)

    @app.post("/api/snippets")
    def snippets(asked: Comparisons) -> dict[str, str]:
        """A comparison as Python code and as commands."""
        blocks = [state.block(one) for one in asked.comparisons]
        return {"python": as_python(blocks), "command": as_commands(blocks)}

    def _download(path: str, name: str, kind: str, make: Callable[[list[Explanation]], bytes], what: str) -> None:
        def download(asked: Results) -> Response:
            explanations = [each for one in asked.results for each in state.result(one).explanations]
            headers = {"Content-Disposition": f'attachment; filename="{name}"'}
            return Response(make(explanations), media_type=kind, headers=headers)

        download.__doc__ = what
        app.post(path, name=name, response_class=Response)(download)

    _download("/api/report", "deepviz-report.html", "text/html", report_page, "A self-contained page of some results.")
    _download("/api/data", "results.deepviz", "application/zip", packed, "Some results in the stored form.")
    _download("/api/sheet", "deepviz-sheet.png", "image/png", sheets, "Some results as one picture.")


def words_of(explanation: Explanation) -> dict[str, Any]:
    """The words of a text with their values, and the end of their scale."""
    return {"values": [list(one) for one in explanation.word_values], "high": explanation.scale.high}


async def _news(of: Job | Drawing, after: int | None) -> None:
    """Wait until the status differs from a version, at most `PATIENCE` seconds."""
    end = asyncio.get_running_loop().time() + PATIENCE
    while after is not None and of.version <= after and not of.over and asyncio.get_running_loop().time() < end:
        await asyncio.sleep(0.03)


def _photograph(kept: StoredImage) -> dict[str, Any]:
    width, height = kept.size or (None, None)
    return {"id": kept.id, "name": kept.name, "width": width, "height": height}


def _class(target: ExplainedTarget) -> dict[str, Any]:
    probability = target.probability
    if target.index is not None and (probability is None or not math.isfinite(probability)):
        probability = 0.0
    return {
        "index": written(target) if target.index is None else target.index,
        "label": target.label,
        "probability": probability,
    }
