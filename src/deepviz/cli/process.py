"""The process around a command: its streams, signals and warnings."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from typing import Any


def prepare() -> None:
    """Make the streams take any text, SIGTERM act as Ctrl-C, and warnings be one line."""
    for name in ("stdout", "stderr"):
        stream: Any = getattr(sys, name)
        if stream is None:  # closed by `>&-`
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(
                errors="backslashreplace"
            )  # file names are bytes, and not all terminals have all letters
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    warnings.formatwarning = _in_one_line


def abandon_streams() -> None:
    """Send what cannot be written any more nowhere: at exit, the interpreter flushes once again."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


def _in_one_line(message: Warning | str, *_: Any, **__: Any) -> str:
    return f"deepviz: note: {' '.join(str(message).split())}\n"
