"""The images of a command: found, opened one by one, with the reasons of those that failed."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepviz.cli import INPUT, OK, PARTLY
from deepviz.errors import DeepVizError, ImageError, MissingExtra
from deepviz.models import LoadedModel, Prepared, find_images
from deepviz.models.images import FoundImages, shown


@dataclass
class Photographs:
    """The images of a command.

    Args:
        paths: those that were found.
        folders: for each, the sub-folder in which it was found.
        skipped: files in folders that are no images, in words.
        endings: how many of them there are, by their ending.
        failed: why an image, or a folder, gave nothing.
        opened: those that are being worked on.
    """

    paths: list[Path] = field(default_factory=list)
    folders: dict[Path, Path] = field(default_factory=dict)
    skipped: str = ""
    endings: dict[str, int] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    opened: dict[Prepared, Path] = field(default_factory=dict)

    @classmethod
    def found(cls, given: Iterable[str]) -> Photographs:
        """The images that were named, as files or folders; a folder without any has failed."""
        photographs, skipped = cls(), FoundImages()
        for path in given:
            try:
                found = find_images(path)
            except ImageError as error:
                photographs.failed[path] = str(error)
                continue
            photographs.paths += found.paths
            photographs.folders |= zip(found.paths, found.folders, strict=True)
            photographs.failed |= found.unreadable
            skipped.skipped.update(found.skipped)
        photographs.skipped = skipped.skipped_in_words
        photographs.endings = dict(skipped.skipped)
        return photographs

    @property
    def total(self) -> int:
        """Images found and not found."""
        return len(self.paths) + sum(path not in map(str, self.paths) for path in self.failed)

    @property
    def names(self) -> dict[Path, str]:
        """What each image is called: its path below the folder that was given, or all of it where two are alike."""
        below = {path: (folder / path.name).as_posix() for path, folder in self.folders.items()}
        alike = Counter(below.values())
        return {path: shown(name if alike[name] == 1 else path.as_posix()) for path, name in below.items()}

    def not_done(self) -> dict[str, Any]:
        """What came to nothing, as plain values for JSON: why images "failed", and how many files are "skipped" as no
        images, by their ending."""
        return {"failed": self.failed, "skipped": self.endings}

    def prepared(self, loaded: LoadedModel, paths: Iterable[Path] | None = None) -> Iterator[Prepared]:
        """Each image, or those of `paths`, as the model's input, opened one by one; one that cannot be opened has
        failed."""
        for path in self.paths if paths is None else paths:
            try:
                prepared = loaded.prepare(path)
            except (ImageError, MissingExtra) as error:
                self.failed[str(path)] = str(error)
                continue
            self.opened[prepared] = path
            yield prepared

    def close(self, image: Prepared) -> Path:
        """Where an image that is done came from."""
        return self.opened.pop(image)

    def fail(self, image: Prepared, error: DeepVizError) -> None:
        """Record why this image failed."""
        self.failed[str(self.close(image))] = str(error)

    def tell_failures(self) -> None:
        """Print on stderr what failed, one line each, and what was skipped."""
        for path, reason in self.failed.items():
            print("deepviz:", reason if shown(path) in reason else f"{shown(path)}: {reason}", file=sys.stderr)
        if self.skipped:
            print("deepviz:", self.skipped, file=sys.stderr)
        if self.failed and self.total > 1:
            print(f"deepviz: {len(self.failed)} of {self.total} images failed", file=sys.stderr)

    def exit_code(self, done: int) -> int:
        """By how many of them are done."""
        if not self.failed:
            return OK
        return PARTLY if done else INPUT


def stem(path: Path) -> str:
    """A file's name without its ending, as the name of a file or folder: "...jpg" is no way out of a folder.

    Example:
        >>> stem(Path("cat.jpg")), stem(Path("...jpg"))
        ('cat', 'image')
    """
    return path.stem.strip(". ") or "image"


def own_name(stem: str, taken: set[str]) -> str:
    """`stem`, or `stem-2` and so on where that is taken, in whatever capitals: file systems may not tell them apart."""
    name, count = stem, 1
    while name.casefold() in taken:
        count += 1
        name = f"{stem}-{count}"
    taken.add(name.casefold())
    return name


def listed(files: Sequence[Path]) -> str:
    """Files in words: "a, b and c"."""
    return " and ".join(filter(None, [", ".join(map(str, files[:-1])), str(files[-1])]))
