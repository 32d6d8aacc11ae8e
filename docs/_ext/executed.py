"""When the stored outputs of the pages' cells are out of date."""

from __future__ import annotations

import hashlib
from importlib.metadata import version
from pathlib import Path

INSTALLED = ("torch", "numpy", "pillow", "matplotlib", "ipykernel")


def outputs_key(*folders: Path) -> str:
    """A hash of what the cells run: the files of the folders, and the packages that compute and draw."""
    found = hashlib.sha256(repr([(name, version(name)) for name in INSTALLED]).encode())
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.suffix != ".pyc":
                content = path.read_bytes()
                found.update(f"{path.relative_to(folder)} {len(content)}\n".encode() + content)
    return found.hexdigest()[:16]
