"""Running the app in a process of its own."""

from __future__ import annotations

import socket

import uvicorn
from fastapi import FastAPI

from deepviz.errors import OutputError


def listening(host: str, port: int) -> socket.socket:
    """A bound socket, so that the port is known and taken; port 0 takes a free one.

    Raises:
        OutputError: if the port is taken, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # the protocol is explicit: without it asyncio leaves Nagle's algorithm on, which delays each response by 40 ms
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
        bound.listen(128)  # whoever follows the link at once waits instead of being refused
    except (OSError, OverflowError) as error:
        bound.close()
        raise OutputError(
            f"cannot listen on {host}, port {port}: {getattr(error, 'strerror', None) or error}; choose another --port"
        ) from None
    return bound


def address(host: str, port: int, token: str) -> str:
    """The link to the page. The token is in the fragment, which browsers do not send."""
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}/#token={token}"


def serve(app: FastAPI, bound: socket.socket) -> None:
    """Serve until interrupted."""
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=3,
    )
    uvicorn.Server(config).run(sockets=[bound])
