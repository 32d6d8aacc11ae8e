"""Access control in front of every route.

A page of another site that the same browser has open must not reach this server, even though it listens on loopback.
Its requests carry a foreign `Origin`, or a foreign `Host` where the site's name was made to point here (DNS
rebinding), and never the token: that is a header of its own, which another origin may only send after a CORS preflight,
and no CORS header is ever sent.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deepviz.web.limits import Limits

TOKEN_HEADER = "X-DeepViz-Token"
API = "/api/"
UPLOAD = "/api/photographs"
LOOPBACK = ("127.0.0.1", "localhost", "::1")

POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "connect-src 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "form-action 'none'",
    ]
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}
_HEADERS = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]


class Guard:
    """ASGI middleware: allowed hosts, same origin, the token, small bodies; and the headers of every answer."""

    def __init__(self, app: ASGIApp, token: str, hosts: Collection[str], limits: Limits) -> None:
        self.app = app
        self.token = token.encode()
        self.hosts = frozenset(host.lower() for host in hosts)
        self.limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer what is refused, hand on the rest."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # there are no web sockets here
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = Headers(scope=scope)
        refused = self.refusal(scope["path"], headers)
        body = b""
        if refused is None:
            most = self.limits.upload_bytes if scope["path"] == UPLOAD else self.limits.request_bytes
            taken = await _body(receive, headers, most)
            if taken is None:
                refused = 413, f"the request is larger than {most} bytes"
            else:
                body = taken
        if refused is not None:
            await _refuse(with_headers(send), *refused)
            return
        await self.app(scope, _replay(body, receive), with_headers(send))

    def refusal(self, path: str, headers: Headers) -> tuple[int, str] | None:
        """Why a request is not answered: status and reason; None if it is."""
        host = host_name(headers.get("host", ""))
        if host not in self.hosts:
            return 421, f"host {host[:100]!r} is not allowed; see --allow-host"
        origin = headers.get("origin")
        if origin is not None and host_name(urlsplit_host(origin)) not in self.hosts:
            return 403, "requests from other sites are refused"
        if not path.startswith(API):
            return None
        if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return 403, "requests from other sites are refused"
        given = headers.get(TOKEN_HEADER, "").encode()
        if not secrets.compare_digest(given, self.token):
            return 401, f"the header {TOKEN_HEADER} must hold the token of the link that the server printed"
        return None


def host_name(host: str) -> str:
    """A `Host` header without its port: "localhost:8000" is "localhost", "[::1]:8000" is "::1"."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.rpartition(":")[0].lower() if host.count(":") == 1 else host.lower()


def urlsplit_host(origin: str) -> str:
    """The host of an `Origin` header, with its port; "" for "null" and what is no origin."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


def with_headers(send: Send) -> Send:
    """`send`, with the headers that every answer has."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            own = {name.lower() for name, _ in message["headers"]}
            added = [(name, value) for name, value in _HEADERS if name not in own]
            message = {**message, "headers": [*message["headers"], *added]}
        await send(message)

    return sending


async def _body(receive: Receive, headers: Headers, most: int) -> bytes | None:
    """The whole body; None if it is too long, by what it says or by what comes."""
    declared = headers.get("content-length", "0")
    if not declared.isdecimal() or len(declared) > 15 or int(declared) > most:
        return None
    parts: list[bytes] = []
    length = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return b"".join(parts)
        part = message.get("body", b"")
        length += len(part)
        if length > most:
            return None
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body that was already read, then whatever comes."""
    given = False

    async def receiving() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receiving


async def _refuse(send: Send, status: int, reason: str) -> None:
    content = json.dumps({"detail": reason}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    if status == 413:  # the rest of the body stays unread
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
