"""What `deepviz explain` writes of each image: a sheet, the single maps and a record."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from deepviz import catalog
from deepviz.cli import UsageError
from deepviz.cli.photographs import Photographs, own_name
from deepviz.cli.records import Records
from deepviz.files import write_picture
from deepviz.render.figure import FIGURES
from deepviz.render.text import percent
from deepviz.results.explanation import Explanation, sheet
from deepviz.results.figures import save_figure
from deepviz.results.identity import captions, titles_of
from deepviz.results.outcomes import ImageOutcomes, Missing
from deepviz.results.storage import save_explanations


@dataclass
class Report:
    """What was written, and what failed.

    Args:
        photographs: those that are explained.
        output: the folder of the results, with a folder for each image.
        format: of the single maps.
        scale: of the colours on a sheet.
        error: whether to draw standard errors, where there are any.
        keep: whether to keep the explanations, for a page of all.
    """

    photographs: Photographs
    output: Path
    format: str
    scale: Literal["own", "shared"] = "own"
    error: bool = False
    keep: bool = False
    kept: list[Explanation] = field(default_factory=list)
    done: list[dict[str, Any]] = field(default_factory=list)
    records: Records = field(init=False)

    def __post_init__(self) -> None:
        self.records = Records(self.output, self.photographs, {})

    @property
    def finished(self) -> int:
        """Images done or failed."""
        return len(self.done) + len(self.photographs.failed)

    def write(self, found: ImageOutcomes) -> str:
        """Write one image's sheet and maps; what to print about it.

        Raises:
            UsageError: if its maps cannot be written in the format.
        """
        if self.format == "gif" and any(one.layout != "slices" for one in found.explanations):
            raise UsageError(
                f"{found.image.name} has no slices or frames for --format gif to play: give another format"
            )
        photograph = self.photographs.close(found.image)
        folder = self.records.claim(photograph)
        page = write_picture(
            folder / "sheet.png", sheet(found.explanations, predictions=found.predictions, scale=self.scale)
        )
        if f".{self.format}" in FIGURES:
            save_figure(found.explanations, folder / f"sheet.{self.format}", scale=self.scale)
        several = len({explanation.target for explanation in found.explanations}) > 1
        taken: set[str] = set()
        if self.keep:
            self.kept += found.explanations
        names = [own_name(_file_stem(explanation, several), taken) for explanation in found.explanations]
        if self.format == "deepviz":
            files = [save_explanations(found.explanations, folder / "explanations.deepviz")] * len(found.explanations)
        else:
            files = [
                explanation.save(folder / f"{name}.{self.format}")
                for name, explanation in zip(names, found.explanations, strict=True)
            ]
        errors = {
            number: explanation.save(folder / f"{names[number]}_error.png", view="error")
            for number, explanation in enumerate(found.explanations)
            if self.error and explanation.standard_error is not None
        }
        self.done.append({"photograph": str(photograph), **_entry(found, page, files, errors)})
        self.records.finish(folder, photograph, self.done[-1])
        message = _message(found, page, len(files))
        if folder in self.records.occupied:
            message += f"\n  note: {self.records.occupied[folder]} holds results of another image or question"
        return message

    def resume(self) -> None:
        """Leave out the images whose results are there already."""
        known = {path: self.records.finished(path) for path in self.photographs.paths}
        self.photographs.paths = [path for path in self.photographs.paths if known[path] is None]
        self.done += [results for results in known.values() if results is not None]
        print(f"deepviz: {len(self.done)} of {len(known)} images are done already", file=sys.stderr)
        if self.keep and self.done:
            print("deepviz: the HTML report holds the others alone", file=sys.stderr)

    def as_json(self) -> dict[str, Any]:
        """The whole run, for machines."""
        return {"photographs": self.done, **self.photographs.not_done()}


def _file_stem(explanation: Explanation, several: bool) -> str:
    of_input = f"_{explanation.layout}" if explanation.layout in ("words", "table") else ""
    method = catalog.stem(type(explanation.method)) + of_input
    if not several:
        return method
    label = re.sub(r"[^a-z0-9]+", "-", explanation.target.label.lower()).strip("-")
    index = "" if explanation.target.index is None else f"{explanation.target.index}-"
    return f"{index}{label}_{method}"


def _entry(found: ImageOutcomes, page: Path, files: list[Path], errors: dict[int, Path]) -> dict[str, Any]:
    return {
        "predictions": [{"label": label, "probability": probability} for label, probability in found.predictions],
        "sheet": str(page),
        "explanations": [
            {
                **explanation.metadata(),
                "file": str(file),
                **({"error": str(errors[number])} if number in errors else {}),
            }
            for number, (explanation, file) in enumerate(zip(found.explanations, files, strict=True))
        ],
        "left_out": _left_out(found),
    }


def _left_out(found: ImageOutcomes) -> dict[str, str]:
    """Why methods gave no map, by captions that tell them apart."""
    names = captions(found.methods, [None] * len(found.methods))
    return {
        name: outcome.reason
        for of_target in reversed(found.by_target)
        for name, outcome in zip(names, of_target, strict=True)
        if isinstance(outcome, Missing)
    }


def _message(found: ImageOutcomes, page: Path, maps: int) -> str:
    predicted = ", ".join(f"{label} {percent(probability)}" for label, probability in found.predictions[:3])
    if not found.predictions:  # a number, or what was asked for
        predicted = ", ".join(dict.fromkeys(str(explanation.target) for explanation in found.explanations))
    if any("weights" in explanation.notes for explanation in found.explanations):
        predicted += " (random weights)"
    lines = [f"{found.image.name}: {predicted}", f"  {page} and {maps} {'map' if maps == 1 else 'maps'} beside it"]
    warned: dict[str, list[str]] = {}
    for explanation in found.explanations:
        for text in explanation.notes.get("warnings", ()):
            warned.setdefault(text, []).append(explanation.title)
    for outcomes in found.by_target:
        maps_of = [one for one in outcomes if isinstance(one, Explanation)]
        names = captions([one.method for one in maps_of], [one.layer for one in maps_of], titles_of(maps_of))
        lines += [
            f"  {name} of {one.target.label}: {one.notes['checks']['in words']}"
            for name, one in zip(names, maps_of, strict=True)
            if "checks" in one.notes
        ]
    lines += [f"  note: {text}" for text in warned]
    lines += [f"  note: {text}" for text in found.image.notes]
    lines += [f"  left out: {title}: {reason}" for title, reason in _left_out(found).items()]
    return "\n".join(lines)
