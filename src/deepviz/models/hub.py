"""Building what other libraries may fetch: errors in one line, and no waiting for a network that is not there."""

from __future__ import annotations

import importlib
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from deepviz.errors import ModelError


def constructed(spec: str, create: Callable[[], Any], pretrained: bool) -> Any:
    """What `create` builds.

    Raises:
        ModelError: if it fails.
    """
    try:
        with no_waiting_for_the_hub():
            return create()
    except Exception as error:  # libraries fetch and build in many ways, and fail in as many
        if not pretrained:
            raise ModelError(f"{spec} cannot be built: {first_line(error)}") from error
        raise ModelError(
            f"{spec}: its weights are not on this machine and could not be fetched ({first_line(error)}); "
            "give weights='file.safetensors', or weights='random'"
        ) from error


@contextmanager
def no_waiting_for_the_hub() -> Iterator[None]:
    """Without a network, huggingface_hub retries for half a minute before it looks into its cache."""
    try:
        constants: Any = importlib.import_module("huggingface_hub.constants")
    except ImportError:
        yield
        return
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not _resolves(constants.ENDPOINT)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _resolves(address: str) -> bool:
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True  # the proxy resolves names
    try:
        socket.getaddrinfo(urlsplit(address).hostname, None)
    except OSError:
        return False
    return True


def first_line(error: Exception) -> str:
    """The first line of what an error says."""
    return (str(error) or type(error).__name__).strip().splitlines()[0]
