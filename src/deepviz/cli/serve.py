"""`deepviz serve`: the viewer in a browser."""

from __future__ import annotations

import ipaddress
import re
import secrets
import socket
import sys
import warnings
import webbrowser
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from threading import Timer
from typing import TYPE_CHECKING, Annotated

import torch
from cyclopts import Parameter

from deepviz import catalog
from deepviz.cli import UsageError
from deepviz.cli.model_options import (
    NOTHING_SAID,
    Device,
    Labels,
    LoadingOptions,
    OutputKind,
    Weights,
    check_device,
    check_takes_images,
    loaded_model,
)
from deepviz.errors import DeepVizWarning, ImageError, StoredError
from deepviz.models import find_images
from deepviz.models.images import Reads, shown
from deepviz.probe.memory import keep_memory
from deepviz.remote import AnyPath, RemotePath, path_of
from deepviz.results.shards import MANIFEST, ROWS, read_manifest

if TYPE_CHECKING:
    from fastapi import FastAPI

MOST_PHOTOS = 10_000
SHORTEST_TOKEN = 16


def serve(
    *images: str,
    model: Annotated[
        list[str] | None,
        Parameter(
            negative="",
            help=(
                "bundled, timm:NAME, torchvision:NAME, hf:ID, open_clip:ARCH/TAG, onnx:FILE or package.module:factory; "
                "repeat for several."
            ),
        ),
    ] = None,
    weights: Weights = None,
    labels: Labels = None,
    device: Device = None,
    output_kind: OutputKind = "auto",
    method: Annotated[
        list[str] | None,
        Parameter(
            alias="-m",
            negative="",
            help="An additional method of your own, package.module:Class; repeat for several.",
        ),
    ] = None,
    photos: Annotated[Path | None, Parameter(help="A folder of images, in addition to IMAGES.")] = None,
    host: Annotated[str, Parameter(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, Parameter(help="Port to listen on; 0 picks a free one.")] = 8000,
    allow_host: Annotated[
        list[str] | None,
        Parameter(
            negative="", help="Host name by which a proxy or another machine reaches this server; repeat for several."
        ),
    ] = None,
    token: Annotated[
        str | None,
        Parameter(
            env_var="DEEPVIZ_TOKEN",
            show_default=False,
            help=f"A token of your own instead of a random one, at least {SHORTEST_TOKEN} letters, digits, - _ . or ~.",
        ),
    ] = None,
    browser: Annotated[bool, Parameter(negative="--no-browser", help="Open the page in a browser.")] = True,
    loading: LoadingOptions = NOTHING_SAID,
) -> None:
    """Compare methods, classes and layers in a browser, or ask a run over a data set.

    IMAGES are files or folders to begin with; without any, the bundled examples. The model is the bundled
    EfficientNet-Lite0 unless --model names others. The folder of a run, alone, opens the run: its maps are those that
    are stored, and no model is loaded. The link that is printed holds a token; whoever has it can use this server.
    """
    from deepviz.web import create_app, create_run_app, listening

    names: list[str | None] = list(model) if model else [None]
    if len(names) > 1 and (weights or labels or loading != NOTHING_SAID):
        raise UsageError("--weights, --labels and options of your own model are for one model: give one --model")
    if not 0 <= port <= 65535:
        raise UsageError(f"--port must be from 0 to 65535, got {port}")
    if token is not None:
        _check_token(token)
    folder = _run_in([*images, *([] if photos is None else [str(photos)])])
    if folder is not None:
        if len(images) > 1 or photos is not None:
            raise UsageError(f"{shown(folder)} is a run: give it alone")
        if model or weights or labels or device or method or output_kind != "auto" or loading != NOTHING_SAID:
            raise UsageError(
                f"{shown(folder)} is a run, whose maps are stored: --model, --method and their options have no effect"
            )
        bound = listening(host, port)
        with bound:
            _use_one_thread()
            token = token or secrets.token_urlsafe(32)
            app = create_run_app(folder, token=token, hosts=_hosts(host, allow_host or []))
            app.state.rows.prepare()  # before the link is there, so that the page is at once
            _serve(app, bound, host, browser, "see the images and maps")
        return
    check_device(device)
    for name in method or []:
        try:
            catalog.register(catalog.find(name))
        except LookupError as error:
            raise UsageError(str(error.args[0])) from None
    given = [Path(one) for one in images] + ([] if photos is None else [photos])
    for one in given:
        if not one.exists():
            raise ImageError(
                f"{shown(one)} does not exist; give images, or a folder of them, or none for the bundled ones"
            )
    bound = listening(host, port)
    with bound:
        keep_memory()
        models = [loaded_model(name, weights, labels, device, output_kind, loading) for name in names]
        files = _found(given, models[0].reads) if given else None
        for loaded in models:
            check_takes_images(loaded, bool(files))
        token = token or secrets.token_urlsafe(32)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", DeepVizWarning)
            app = create_app(models, files, token=token, hosts=_hosts(host, allow_host or []))
        for warning in caught:
            print("deepviz:", warning.message, file=sys.stderr)
        _serve(app, bound, host, browser, "run models here and see the images")


def _run_in(given: list[str]) -> AnyPath | None:
    """The folder of a run, if one is among what is given.

    Raises:
        StoredError: for a URL that is none, or a run that cannot be read.
    """
    for one in given:
        folder = path_of(one)
        try:
            if read_manifest(folder) is not None:
                return folder
        except StoredError:
            # of a newer version, or damaged; else images beside a manifest of their own
            if isinstance(folder, RemotePath) or (folder / ROWS).is_dir():
                raise
        if isinstance(folder, RemotePath):
            raise StoredError(f"{one} holds no run: it has no {MANIFEST}")
    return None


def _use_one_thread() -> None:
    """Several small pictures are drawn at a time, each by one thread: several for each wait for one another longer than
    they compute."""
    torch.set_num_threads(1)
    with suppress(ImportError):  # it comes with scikit-learn, of the extra "data"
        import_module("threadpoolctl").threadpool_limits(1)


def _serve(app: FastAPI, bound: socket.socket, host: str, browser: bool, can: str) -> None:
    """Say where the page is, and what who has the link can do, and serve it until interrupted."""
    from deepviz.web import address, serve

    link = address(_reachable(host), bound.getsockname()[1], app.state.token)
    if not _is_loopback(host):
        print(
            f"deepviz: listening on {host}, which other machines can reach: whoever has the link can {can}, "
            "and traffic is unencrypted; add names of this machine with --allow-host",
            file=sys.stderr,
        )
    print(f"DeepViz is at {link}\nPress Ctrl-C to stop", flush=True)
    if browser:
        timer = Timer(0.5, webbrowser.open, [link])
        timer.daemon = True
        timer.start()
    serve(app, bound)


def _check_token(token: str) -> None:
    """See that a token is long enough, and can stand in a link and in a header as it is."""
    if len(token) < SHORTEST_TOKEN:
        raise UsageError(
            f"--token has {len(token)} characters and needs at least {SHORTEST_TOKEN}, such as "
            f"{secrets.token_urlsafe(SHORTEST_TOKEN)}"
        )
    if not re.fullmatch(r"[A-Za-z0-9._~-]+", token):
        raise UsageError(
            "--token may hold letters, digits, '-', '_', '.' and '~' alone, so that it can stand in a link"
        )


def _found(given: list[Path], reads: Reads) -> list[Path]:
    found = find_images(given, reads)
    for text in filter(None, [*found.unreadable.values(), found.skipped_in_words]):
        print("deepviz:", text, file=sys.stderr)
    if len(found.paths) > MOST_PHOTOS:
        print(f"deepviz: {len(found.paths)} images found, using the first {MOST_PHOTOS}", file=sys.stderr)
    return found.paths[:MOST_PHOTOS]


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_any(host: str) -> bool:
    return host in ("0.0.0.0", "::")


def _reachable(host: str) -> str:
    """An address that a browser on this machine can open."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def _hosts(host: str, allowed: list[str]) -> list[str]:
    """The names that the server answers for."""
    return ["127.0.0.1", "localhost", "::1", *(_names_of_this_machine() if _is_any(host) else [host]), *allowed]


def _names_of_this_machine() -> list[str]:
    name = socket.gethostname()
    try:
        addresses = [str(found[4][0]) for found in socket.getaddrinfo(name, None)]
    except OSError:  # a name that no name server knows
        addresses = []
    return [name, socket.getfqdn(), *addresses]
