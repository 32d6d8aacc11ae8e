"""What was asked when an image's folder of results was written, so that the results of two questions never mix."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from deepviz import catalog
from deepviz.cli.photographs import Photographs, stem
from deepviz.errors import OutputError
from deepviz.files import probe_folder, write_bytes
from deepviz.methods import Method
from deepviz.models import LoadedModel
from deepviz.models.images import RECORD, shown
from deepviz.objectives import Objective
from deepviz.results.sanity import key_of
from deepviz.runs.truth import FOLDERS, GroundTruth

OF_IMAGES = ("images", "truth", "boxes")
"""What a question holds of single images."""


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


def asked(
    loaded: LoadedModel,
    methods: Sequence[Method],
    photographs: Photographs,
    targets: Sequence[Objective] | None,
    truth: GroundTruth | None,
) -> dict[str, Any]:
    """What is asked of many images together, as plain values."""
    return {
        **asked_of_each(loaded, methods, targets),
        "images": [str(path.absolute()) for path in photographs.paths],
        "truth": None if truth is None else truth.classes or FOLDERS,
    }


def asked_of_each(
    loaded: LoadedModel, methods: Sequence[Method], targets: Sequence[Objective] | None
) -> dict[str, Any]:
    """What is asked of each image, as plain values."""
    return {
        "model": f"{loaded.name} ({loaded.weights})",
        "network": key_of(loaded),
        "labels": None if loaded.labels is None else sha256("\n".join(loaded.labels).encode()).hexdigest()[:16],
        "output": loaded.output,
        "methods": [catalog.key(method) for method in methods],
        "target": None if targets is None else [str(one) for one in targets],
    }


@dataclass
class ImageRecords:
    """What was found of single images, for a command whose results are of all of them together.

    `evaluation.images.jsonl` has a line for each image, written as soon as it is done.

    Args:
        path: of the file.
        resumed: whether an earlier run is gone on with.
        known: the lines of that run, by image.
    """

    path: Path
    resumed: bool = False
    known: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def opened(cls, folder: Path, name: str, resume: bool) -> ImageRecords:
        """The records in a folder; without `resume` a new file.

        Raises:
            OutputError: if nothing can be written there.
        """
        records = cls(folder / f"{name}.images.jsonl", resume)
        if not resume:
            write_bytes(records.path, b"")
            return records
        with suppress(FileNotFoundError):
            content = records.path.read_bytes()
            if content and not content.endswith(b"\n"):
                write_bytes(records.path, content + b"\n")
            for line in content.splitlines():
                with suppress(ValueError):  # a run that was killed may have left half a line
                    known = json.loads(line)
                    records.known[known["image"]] = known
        return records

    def find(self, photograph: Path, asked: Any) -> Any:
        """What an earlier run has found of an image when the same was asked of it; None if there is nothing."""
        known = self.known.get(str(photograph.absolute()))
        if known is None or known["asked"] != asked or known["content"] != _digest(photograph):
            return None
        return known["results"]

    def add(self, photograph: Path, asked: Any, results: Any) -> None:
        """Record what was found of an image, as plain values.

        Raises:
            OutputError: if it cannot be written.
        """
        line = {
            "image": str(photograph.absolute()),
            "content": _digest(photograph),
            "asked": asked,
            "results": results,
        }
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(f"{json.dumps(line)}\n")
        except OSError as error:
            raise OutputError(f"cannot write {self.path}: {error.strerror or error}; choose another -o") from error


def own_folder(output: Path, name: str, question: dict[str, Any], resume: bool = False) -> Path:
    """The folder for results of many images: the output folder, or one in it if that has those of another question.

    Args:
        output: the output folder.
        name: of the results, such as "evaluation"; `evaluation.question.json` beside them holds the question.
        question: what is asked, as plain values.
        resume: whether results of the same question to fewer images are gone on with.

    Raises:
        OutputError: if nothing can be written there.
    """
    text = json.dumps(question, indent=1)
    for count in itertools.count(1):
        folder = output if count == 1 else output / f"{name}-{count}"
        record = folder / f"{name}.question.json"
        if not record.exists() and (folder / f"{name}.json").exists():
            continue  # of a version that did not record what was asked
        probe_folder(folder)
        try:
            with record.open("x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            if record.read_bytes() != text.encode():
                if not (resume and _goes_on(record, question)):
                    continue
                write_bytes(record, text.encode())
        if folder != output:
            print(f"deepviz: {output} has results of another question; these are in {folder}", file=sys.stderr)
        return folder
    raise AssertionError("there is always another name")


def _goes_on(record: Path, question: dict[str, Any]) -> bool:
    """Whether the question of a record is this one to fewer images, or with fewer lines in its files."""
    try:
        known = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    if not isinstance(known, dict) or set(known) != set(question):
        return False
    question = json.loads(json.dumps(question))  # as it would be read
    return all(
        known[name] == asked or (name in OF_IMAGES and _is_more(asked, known[name])) for name, asked in question.items()
    )


def _is_more(asked: Any, known: Any) -> bool:
    """Whether images, or lines about them, hold all of those known."""
    if isinstance(asked, list) and isinstance(known, list):
        return set(known) <= set(asked)
    return isinstance(asked, dict) and isinstance(known, dict) and all(asked.get(name) == known[name] for name in known)


def _read(folder: Path) -> dict[str, Any]:
    try:
        known = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _digest(photograph: Path) -> str | None:
    try:
        if photograph.is_dir():  # a series, its files one after the other
            files = sorted(one for one in photograph.iterdir() if one.is_file())
            return sha256("".join(sha256(one.read_bytes()).hexdigest() for one in files).encode()).hexdigest()
        return sha256(photograph.read_bytes()).hexdigest()
    except OSError:  # it was removed meanwhile
        return None
