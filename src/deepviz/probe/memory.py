"""How malloc treats the large tensors of a pass, which decides whether a third of the time goes into page faults.

glibc gives large freed blocks back to the system, and takes, and clears, new pages for the next ones. What counts as
large it learns from what is freed: at most 32 MiB a block, twice that in all.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from functools import cache

import torch

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_KEPT = 2**30
_LARGEST_LEARNT = 32 * 2**20
_kept = False


@cache
def settle() -> None:
    """Let malloc learn its largest threshold at once, from one block that is freed untouched; once per process.

    Any program teaches it the same sooner or later; until then, chunks that would stay in its memory do not.
    """
    torch.empty(_LARGEST_LEARNT - 2**17, dtype=torch.uint8)


def keep_memory() -> None:
    """In a process of DeepViz's own: let malloc keep what it has. Never called on import or by the Python API."""
    global _kept
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):  # another C library: slower, not wrong
        libc = ctypes.CDLL("libc.so.6")
        _kept = bool(libc.mallopt(_M_MMAP_MAX, 0)) and bool(libc.mallopt(_M_TRIM_THRESHOLD, _KEPT))


def is_kept() -> bool:
    """Whether `keep_memory` is in force."""
    return _kept
