"""One run at a time in a folder."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from time import time
from typing import Any
from uuid import uuid4

from deepviz.errors import OutputError

LOCK = "lock"
BEAT = 5.0
"""Seconds between two signs of life."""
STALE = 60.0
"""Seconds without one after which a run is taken to be gone, on whatever machine it was."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """The folder of a run for this process alone; a lock that a killed run has left is taken over.

    Raises:
        OutputError: if another run is under way there.
    """
    path = folder / LOCK
    content = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "token": uuid4().hex})
    while not _made(path, content):
        held = _read(path)
        if held is not None and _is_alive(path, held):
            raise OutputError(
                f"a run is under way in {folder} (process {held.get('pid')} on {held.get('host')}): wait for it, or "
                "give another folder"
            )
        _remove(path, held)
    over = Event()
    beating = Thread(target=_beat, args=(path, over), daemon=True)
    beating.start()
    try:
        yield
    finally:
        over.set()
        beating.join()
        if _read(path) == json.loads(content):
            path.unlink(missing_ok=True)


def _made(path: Path, content: str) -> bool:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(content)
    except FileExistsError:
        return False
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}; choose another folder") from error
    return True


def _read(path: Path) -> dict[str, Any] | None:
    """What a lock says; None if it is gone, or half-written."""
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}
    return held if isinstance(held, dict) else {}


def _is_alive(path: Path, held: dict[str, Any]) -> bool:
    try:
        if time() - path.stat().st_mtime > STALE:
            return False
    except OSError:
        return False
    if held.get("host") != socket.gethostname() or not isinstance(held.get("pid"), int):
        return True
    try:
        os.kill(held["pid"], 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _remove(path: Path, held: dict[str, Any] | None) -> None:
    """Take a stale lock away, and no other's that has come meanwhile."""
    aside = path.with_name(f".{LOCK}.{uuid4().hex}.part")
    with suppress(FileNotFoundError):
        os.rename(path, aside)
        if _read(aside) != held:
            with suppress(FileExistsError):
                os.link(aside, path)
        aside.unlink(missing_ok=True)


def _beat(path: Path, over: Event) -> None:
    while not over.wait(BEAT):
        with suppress(OSError):
            os.utime(path)
