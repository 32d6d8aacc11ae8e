"""Files: written whole or not at all, with errors that say what to do."""

from __future__ import annotations

import io
import os
from functools import cache
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from PIL import Image

from deepviz.errors import OutputError
from deepviz.remote import AnyPath, RemotePath

P = TypeVar("P", bound=AnyPath)
ELSEWHERE = "choose another place (on the command line, -o)"
PICTURES = (".png", ".jpg", ".jpeg")


def encoded(picture: Image.Image, kind: str = "PNG") -> bytes:
    """A picture as the bytes of a file."""
    buffer = io.BytesIO()
    options: dict[str, Any] = {"quality": 92} if kind == "JPEG" else {"compress_level": 4}
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def write_picture(path: Path, picture: Image.Image) -> Path:
    """Write a picture, PNG or JPEG by its ending.

    Raises:
        OutputError: for another ending, or if it cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix not in PICTURES:
        raise OutputError(f"{path}: the ending must be one of {', '.join(PICTURES)}")
    return write_bytes(path, encoded(picture, "PNG" if suffix == ".png" else "JPEG"))


def write_bytes(path: P, content: bytes, *, lasting: bool = False, advice: str = ELSEWHERE) -> P:
    """Write a file whole or not at all, making its folder; behind a URL by one request.

    Args:
        path: of the file.
        content: of the file.
        lasting: whether the content is on the disk once this returns, also if the machine then loses power.
        advice: what to do if it cannot be written.

    Raises:
        OutputError: if it cannot be written.
    """
    try:
        if isinstance(path, RemotePath):
            path.write_bytes(content)
        else:
            _write_here(path, content, lasting)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}; {advice}") from error
    return path


def _write_here(path: Path, content: bytes, lasting: bool) -> None:
    part = path.with_name(f".{uuid4().hex}.part")  # a name of its own: another run may write the same file
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with part.open("wb") as file:
            file.write(content)
            if lasting:
                file.flush()
                os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def probe_folder(path: AnyPath) -> None:
    """Make the folder and see that files can be written there, before hours of work go into it.

    Raises:
        OutputError: if not.
    """
    # an unused name: what is in the folder already is the user's
    probe = path / f".deepviz-{uuid4().hex}"
    write_bytes(probe, b"")
    probe.unlink()


def versions() -> dict[str, str]:
    """Of what the numbers depend on."""
    return dict(_versions())


@cache
def _versions() -> tuple[tuple[str, str], ...]:
    """Read once: it takes longer than a small map."""
    from importlib.metadata import version

    import torch

    return ("deepviz", version("deepviz")), ("torch", torch.__version__)
