"""The images of a command: found, opened one by one, with the reasons of those that failed."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepviz.cli import INPUT, OK, PARTLY, UsageError
from deepviz.errors import DeepVizError, ImageError, MissingExtra
from deepviz.models import LoadedModel, Prepared, example_photo, find_images
from deepviz.models.images import NIFTI, FoundImages, Reads, ending, shown
from deepviz.remote import is_url
from deepviz.results.run import Run
from deepviz.results.shards import MANIFEST


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
        given: the files and folders that were named.
    """

    paths: list[Path] = field(default_factory=list)
    folders: dict[Path, Path] = field(default_factory=dict)
    skipped: str = ""
    endings: dict[str, int] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    opened: dict[Prepared, Path] = field(default_factory=dict)
    given: tuple[str, ...] = ()

    @classmethod
    def found(cls, given: Iterable[str]) -> Photographs:
        """What was named, as files or folders; a folder without any has failed.

        Of folders all that some model takes, until `narrow` says what this one takes.
        """
        photographs = cls(given=tuple(given))
        photographs._search(None)
        return photographs

    def narrow(self, reads: Reads) -> None:
        """Leave, of folders, what the model's preprocessing reads."""
        if any(Path(path).is_dir() for path in self.given):
            self._search(reads)

    def _search(self, reads: Reads | None) -> None:
        self.paths, self.folders, self.failed = [], {}, {}
        skipped = FoundImages()
        for path in self.given:
            try:
                found = find_images(path, reads)
            except ImageError as error:
                self.failed[path] = str(error)
                continue
            self.paths += found.paths
            self.folders |= zip(found.paths, found.folders, strict=True)
            self.failed |= found.unreadable
            skipped.skipped.update(found.skipped)
        self.skipped = skipped.skipped_in_words
        self.endings = dict(skipped.skipped)

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


def bundled_example() -> Path:
    """The image of a command without one, which is said on stderr."""
    print("deepviz: no image given; using the bundled example", file=sys.stderr)
    return example_photo()


def stem(path: Path) -> str:
    """A file's name without its ending, as the name of a file or folder: "...jpg" is no way out of a folder.

    Example:
        >>> stem(Path("cat.jpg")), stem(Path("scan.nii.gz")), stem(Path("...jpg"))
        ('cat', 'scan', 'image')
    """
    name = path.name[: -len(ending(path))] if ending(path) in NIFTI else path.stem
    return name.strip(". ") or "image"


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


def images_of_runs(given: Sequence[str]) -> tuple[list[str], list[str]]:
    """What was named, with the folder of each run (`deepviz run`) as the files of its images; and the runs' methods.

    Raises:
        UsageError: for a run whose images are in no files.
        StoredError: for a run that cannot be read.
    """
    found: list[str] = []
    methods: list[str] = []
    for one in given:
        if not (Path(one) / MANIFEST).is_file():
            found.append(one)
            continue
        run = Run(one)
        source = run.manifest["question"]["source"]
        if source["kind"] != "files" or is_url(source["root"]):
            raise UsageError(f"{one}: the images of this run are in no files of their own: give the images")
        found += [str(Path(source["root"], name)) for name in dict.fromkeys(run.rows["image"].to_pylist())]
        methods += run.methods
    return found, list(dict.fromkeys(methods))
