"""A run as a FiftyOne data set: predictions and labels as classifications, maps as heat maps."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from deepviz.errors import MissingExtra
from deepviz.files import write_picture
from deepviz.remote import below

if TYPE_CHECKING:
    from deepviz.results.run import Run

LONGEST = 256
"""Pixels of the longer side of a heat map: all of them are in the database."""


def to_fiftyone(run: Run, name: str | None, media: str | os.PathLike[str] | None) -> Any:
    """See `Run.to_fiftyone`."""
    try:
        import fiftyone
    except ImportError:
        raise MissingExtra("to_fiftyone needs fiftyone: pip install fiftyone") from None
    fields = _fields(run)
    if media is None:
        away = next((name for name in run.rows["image"].to_pylist() if _file_of(run, name) is None), None)
        if away is not None:
            raise ValueError(f"FiftyOne shows files, and {away} is none: give media=, a folder for the images")
    data_set = fiftyone.Dataset(name)
    samples = _Samples(fiftyone, run, fields, None if media is None else Path(media))
    data_set.add_samples(samples, dynamic=True, progress=False, num_samples=len(run))
    return data_set


def _fields(run: Run) -> dict[tuple[str, int, str], str]:
    """By method, rank and input of a map the name of its field."""
    columns = run.rows.select(["method", "rank", "input", "map"]).to_pylist()
    kinds = {_key(row) for row in columns if row["map"] is not None}
    found: dict[tuple[str, int, str], str] = {}
    for method, rank, part in sorted(kinds):
        parts = [method, part, str(rank + 1) if rank else ""]
        plain = _plain(" ".join(filter(None, parts)))
        taken = sum(re.fullmatch(rf"{plain}(_no\d+)?", other) is not None for other in found.values())
        found[method, rank, part] = f"{plain}_no{taken + 1}" if taken else plain
    return found


def _plain(name: str) -> str:
    """A name as that of a field: letters, digits and "_"."""
    return re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_")


def _key(row: dict[str, Any]) -> tuple[str, int, str]:
    return row["method"], row["rank"], row["input"] or ""


def _file_of(run: Run, name: str) -> Path | None:
    """The file of this machine that an image is; None if it is none."""
    source = run.manifest["question"]["source"]
    if source["kind"] == "files":
        path = below(source["root"], name)
        return path.absolute() if isinstance(path, Path) else None
    if source["kind"] == "data set" and Path(name).is_absolute() and Path(name).is_file():
        return Path(name)  # of a folder that torchvision reads
    return None


@dataclass(frozen=True, eq=False)
class _Samples:
    """The images of a run as samples of FiftyOne.

    Args:
        fiftyone: the package.
        run: of which.
        fields: the names of the fields of maps.
        media: where images are written that are in no file.
    """

    fiftyone: Any
    run: Run
    fields: dict[tuple[str, int, str], str]
    media: Path | None

    def __iter__(self) -> Iterator[Any]:
        order = self.run.rows.sort_by([("index", "ascending"), ("rank", "ascending")])
        rows = (row for batch in order.to_batches(max_chunksize=1024) for row in batch.to_pylist())
        for _, of_image in groupby(rows, lambda row: row["index"]):
            yield self._sample(list(of_image))

    def _sample(self, rows: list[dict[str, Any]]) -> Any:
        fiftyone, first = self.fiftyone, rows[0]
        sample = fiftyone.Sample(filepath=self._file(rows), image=first["image"], position=first["index"])
        if first["label"] is not None:
            sample["ground_truth"] = fiftyone.Classification(label=first["label"])
        if first["prediction"] is not None:
            sample["prediction"] = fiftyone.Classification(label=first["prediction"], confidence=first["probability"])
        sample["correct"] = first["correct"]
        sample["failures"] = [f"{row['method'] or 'image'}: {row['reason']}" for row in rows if row["failure"]]
        boxes = {row["rank"]: row for row in rows if row["box"] is not None and row["geometry"] is not None}
        if boxes:
            sample["explained"] = fiftyone.Detections(detections=[self._detection(row) for row in boxes.values()])
        for row in rows:
            if row["map"] is not None:
                sample[self.fields[_key(row)]] = self._heat_map(row)
        return sample

    def _file(self, rows: list[dict[str, Any]]) -> str:
        """The file that is shown."""
        found = _file_of(self.run, rows[0]["image"])
        if found is not None:
            return str(found)
        assert self.media is not None
        row = next((row for row in rows if row["map"] is not None), None)
        picture = Image.new("RGB", (1, 1)) if row is None else self.run.explanation_of(row).image
        return str(write_picture(self.media.absolute() / f"{rows[0]['index']:08d}.png", picture))

    def _detection(self, row: dict[str, Any]) -> Any:
        width, height = json.loads(row["geometry"])["size"]
        left, top, right, bottom = row["box"]
        place = [left / width, top / height, (right - left) / width, (bottom - top) / height]
        return self.fiftyone.Detection(label=row["target"], confidence=row["target_probability"], bounding_box=place)

    def _heat_map(self, row: dict[str, Any]) -> Any:
        """The drawn values on the whole image, 0 where the model did not look."""
        width, height = json.loads(row["geometry"])["size"]
        share = min(1.0, LONGEST / max(width, height))
        size = max(1, round(width * share)), max(1, round(height * share))
        explanation = self.run.explanation_of(row, Image.new("RGB", size))
        if explanation.layout != "image":
            raise ValueError(f"to_fiftyone takes maps of images, and {row['image']} is none")
        ends = explanation.scale.low, explanation.scale.high
        metrics = {_plain(name): row[name] for name in self.run.metrics}
        return self.fiftyone.Heatmap(
            map=np.clip(np.nan_to_num(explanation.placed()), *ends),
            range=list(ends),
            target=row["target"],
            score=row["score"],
            **metrics,
        )
