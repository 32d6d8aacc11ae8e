"""What the server's applications have in common: access control, errors in one line, the files of a page."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from deepviz.errors import DeepVizError
from deepviz.files import versions
from deepviz.web.image_store import TooLarge, UnknownImage
from deepviz.web.limits import Limits
from deepviz.web.model_service import Busy, NotFound
from deepviz.web.safety import Guard

STATUS: dict[type[DeepVizError], int] = {UnknownImage: 404, NotFound: 404, Busy: 429, TooLarge: 413}
TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}


class Json(JSONResponse):
    """JSON in ASCII: whatever a name holds, it can be encoded."""

    def render(self, content: Any) -> bytes:
        """The bytes of the answer."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


def new_app(
    token: str,
    hosts: Collection[str],
    limits: Limits,
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]] | None = None,
) -> FastAPI:
    """An application without routes, that answers those who have the token.

    Args:
        token: what requests must show.
        hosts: names that the server answers for, without ports.
        limits: of requests.
        lifespan: what is open while the server runs.
    """
    app = FastAPI(
        title="DeepViz",
        version=versions()["deepviz"],
        openapi_url="/api/openapi.json",
        docs_url=None,  # their pages come from another site
        redoc_url=None,
        default_response_class=Json,
        lifespan=lifespan,
    )
    app.add_middleware(Guard, token=token, hosts=hosts, limits=limits)
    app.state.token = token
    app.add_exception_handler(DeepVizError, _on_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    return app


def add_pages(app: FastAPI, files: Mapping[str, bytes]) -> None:
    """Routes to the files of a page, by address."""

    def answering(content: bytes, kind: str) -> Callable[[], Awaitable[Response]]:
        async def page() -> Response:
            return Response(content, media_type=kind)

        return page

    for path, content in files.items():
        kind = TYPES.get(Path(path).suffix, TYPES[".html"])
        app.get(f"/{path}", include_in_schema=False)(answering(content, kind))


async def _on_error(_: Request, error: Exception) -> Response:
    status = next((code for kind, code in STATUS.items() if isinstance(error, kind)), 422)
    headers = {"Retry-After": "1"} if status == 429 else None
    return Json({"detail": " ".join(str(error).split())}, status, headers)


async def _on_http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return Json({"detail": str(error.detail)}, error.status_code, error.headers)


WHAT = {
    "cells": "maps",
    "results": "maps",
    "rows": "images",
    "photographs": "images",
    "targets": "classes of an image",
    "comparisons": "columns",
}
"""What the lists of requests hold."""


def too_many(name: str, given: int, most: int) -> str:
    """What is said of a list that is too long, and how to shorten it.

    Example:
        >>> too_many("results", 300, 256)
        '300 maps are too many at once, at most 256 are possible: compare fewer images, classes or methods'
    """
    what = WHAT.get(name, name)
    fewer = f"choose fewer {what}" if name in ("channels", "options") else "compare fewer images, classes or methods"
    return f"{given} {what} are too many at once, at most {most} are possible: {fewer}"


def _problem(error: dict[str, Any]) -> str:
    place = ".".join(map(str, error["loc"]))
    if error["type"] == "too_long" and "actual_length" in error.get("ctx", {}):
        return too_many(str(error["loc"][-1]), error["ctx"]["actual_length"], error["ctx"]["max_length"])
    return f"{place}: {error['msg']}"


async def _on_invalid(_: Request, error: Exception) -> Response:
    """What is invalid and where, without the request's own text, which may be anything."""
    assert isinstance(error, RequestValidationError)
    problems = [_problem(one) for one in error.errors()[:5]]
    return Json({"detail": "; ".join(problems)}, 422)
