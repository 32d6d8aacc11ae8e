"""One run at a time in a folder: a lock where files can be renamed, a lease that ends on its own behind URLs."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from time import monotonic, sleep, time
from typing import Any
from uuid import uuid4

from deepviz.errors import OutputError
from deepviz.files import write_bytes
from deepviz.remote import AnyPath, RemotePath

LOCK = "lock"
BEAT = 5.0
"""Seconds between two signs of life."""
STALE = 60.0
"""Seconds without one after which a run is taken to be gone, on whatever machine it was."""


SETTLED = 2.0
"""Seconds after which it is clear who has taken a lease over, if two have tried."""


@contextmanager
def locked(folder: AnyPath) -> Iterator[Callable[[], None]]:
    """The folder of a run for this process alone; a lock that a killed run has left is taken over.

    Yields:
        What raises OutputError once another run has the folder.

    Raises:
        OutputError: if another run is under way there.
    """
    with _leased(folder) if isinstance(folder, RemotePath) else _locked(folder) as check_held:
        yield check_held


@contextmanager
def _locked(folder: Path) -> Iterator[Callable[[], None]]:
    path = folder / LOCK
    content = _content()
    while not _made(path, content):
        held = _read(path)
        if held is not None and _is_alive(path, held):
            raise OutputError(_under_way(folder, held))
        _remove(path, held)
    over = Event()
    beating = Thread(target=_beat, args=(path, over), daemon=True)
    beating.start()
    try:
        yield lambda: None
    finally:
        over.set()
        beating.join()
        if _read(path) == json.loads(content):
            path.unlink(missing_ok=True)


def _content() -> str:
    return json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "token": uuid4().hex})


def _under_way(folder: AnyPath, held: dict[str, Any]) -> str:
    return (
        f"a run is under way in {folder} (process {held.get('pid')} on {held.get('host')}): wait for it, or give "
        "another folder"
    )


@contextmanager
def _leased(folder: RemotePath) -> Iterator[Callable[[], None]]:
    path = folder / LOCK
    content = _content()
    ours = json.loads(content)
    try:
        refused = _taken(path, content)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}; choose another folder") from error
    if refused:
        raise OutputError(refused)
    lease = _Lease(folder, content)
    renewing = Thread(target=lease.renew, daemon=True)
    renewing.start()
    try:
        yield lease.check
    finally:
        lease.over.set()
        renewing.join()
        with suppress(OSError):
            if _read(path) == ours:
                path.unlink(missing_ok=True)


def _taken(path: RemotePath, content: str) -> str:
    """Write a lease, in the place of one that has ended; "", or who has another."""
    folder, taken_over = path.parent, False
    while not _created(path, content):
        held, age = _read(path), _age(path)
        if held is None or age is None:
            continue  # it has gone meanwhile
        if age <= STALE:
            return f"{_under_way(folder, held)}; if it was killed, the same command goes on in {STALE - age:.0f} s"
        path.unlink(missing_ok=True)
        taken_over = True
    if taken_over:
        sleep(SETTLED)
        held = _read(path)
        if held != json.loads(content):
            return _under_way(folder, held or {})
    return ""


class _Lease:
    """A lease that is renewed until it is over."""

    def __init__(self, folder: RemotePath, content: str) -> None:
        self.folder, self.content = folder, content
        self.over = Event()
        self._renewed = monotonic()
        self._lost = False

    def check(self) -> None:
        if self._lost or monotonic() - self._renewed > STALE:
            raise OutputError(
                f"{self.folder}: this run could give no sign of life for {STALE:.0f} s, and another may have begun "
                "there: the same command goes on once that is done"
            )

    def renew(self) -> None:
        path = self.folder / LOCK
        while not self.over.wait(BEAT) and not self._lost:
            begun = monotonic()
            with suppress(OSError, OutputError):
                self._lost = _read(path) not in ({}, json.loads(self.content))
                if not self._lost:
                    path.write_bytes(self.content.encode())
                    self._renewed = begun


def _created(path: RemotePath, content: str) -> bool:
    try:
        path.create(content.encode())
    except FileExistsError:
        return bool(_read(path) == json.loads(content))  # a request that was repeated
    return True


def _age(path: RemotePath) -> float | None:
    """The seconds since a file was written, by the clock of its server; None if it is gone."""
    now = write_bytes(path.parent / f".deepviz-{uuid4().hex}", b"now")
    try:
        return now.modified() - path.modified()
    except FileNotFoundError:
        return None
    finally:
        now.unlink(missing_ok=True)


def _made(path: Path, content: str) -> bool:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(content)
    except FileExistsError:
        return False
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}; choose another folder") from error
    return True


def _read(path: AnyPath) -> dict[str, Any] | None:
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
