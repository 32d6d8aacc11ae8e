"""What was asked when an image's folder of results was written, so that the results of two questions never mix."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from deepviz.cli.photographs import Photographs, stem
from deepviz.errors import OutputError
from deepviz.files import write_bytes
from deepviz.models.images import RECORD, shown


@dataclass
class Records:
    """The folders of results in an output folder, one for each image and question.

    A folder's `explain.json` holds the image, the question and, once all is written, the results. A folder without it,
    or with another image or question in it, is left as it is: the results go to one beside it.

    Args:
        output: the output folder.
        photographs: the images.
        question: what is asked of each, as plain values.
        taken: the names that this run has used, by sub-folder, in small letters: file systems may not tell capitals.
        occupied: for each folder of this run, that of other results for which it has another name.
    """

    output: Path
    photographs: Photographs
    question: dict[str, Any]
    taken: dict[Path, set[str]] = field(default_factory=dict)
    occupied: dict[Path, Path] = field(default_factory=dict)

    def claim(self, photograph: Path) -> Path:
        """The folder for an image's results; that of an earlier run if it was asked the same of the same image."""
        other = None
        for folder in self._free(photograph):
            if self._is_ours(folder, photograph):
                if other is not None:
                    self.occupied[folder] = other
                return self._taking(folder)
            other = other or folder
        raise AssertionError("there is always another name")

    def finish(self, folder: Path, photograph: Path, results: dict[str, Any]) -> None:
        """Record the results of an image, all of which are written."""
        content = self._of(photograph) | {"content": _digest(photograph), "results": results}
        write_bytes(folder / RECORD, json.dumps(content, indent=1).encode())

    def finished(self, photograph: Path) -> dict[str, Any] | None:
        """The results that an earlier run has recorded of the same image and question; None if there are none."""
        for folder in self._free(photograph):
            if not folder.exists():
                return None
            known = _read(folder)
            if self._matches(known, photograph) and known.get("content") == _digest(photograph):
                self._taking(folder)
                results: dict[str, Any] = known["results"]
                return results
        return None

    def _free(self, photograph: Path) -> Iterator[Path]:
        """The folders that it may have, without those of other images of this run."""
        inside = self.photographs.folders[photograph]
        name, count = stem(photograph), 1
        taken = self.taken.setdefault(inside, set())
        while True:
            own = name if count == 1 else f"{name}-{count}"
            if own.casefold() not in taken:
                yield self.output / inside / own
            count += 1

    def _taking(self, folder: Path) -> Path:
        self.taken.setdefault(folder.parent.relative_to(self.output), set()).add(folder.name.casefold())
        return folder

    def _is_ours(self, folder: Path, photograph: Path) -> bool:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir()  # of two runs at once, one alone makes it
        except FileExistsError:
            return self._matches(_read(folder), photograph)
        except OSError as error:
            raise OutputError(f"cannot write {shown(folder)}: {error.strerror or error}; choose another -o") from error
        write_bytes(folder / RECORD, json.dumps(self._of(photograph), indent=1).encode())
        return True

    def _of(self, photograph: Path) -> dict[str, Any]:
        return {"image": str(photograph.absolute()), "question": self.question}

    def _matches(self, known: dict[str, Any], photograph: Path) -> bool:
        return {name: known.get(name) for name in ("image", "question")} == self._of(photograph)


def _read(folder: Path) -> dict[str, Any]:
    try:
        known = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _digest(photograph: Path) -> str | None:
    try:
        return sha256(photograph.read_bytes()).hexdigest()
    except OSError:  # it was removed meanwhile
        return None
