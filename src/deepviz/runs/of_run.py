"""The images of a run, to measure more of its maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from deepviz.errors import StoredError
from deepviz.metrics import Metric
from deepviz.models import LoadedModel
from deepviz.objectives.record import from_plain
from deepviz.remote import is_url
from deepviz.results.run import Run
from deepviz.results.shards import read_rows, row_file, shards_of
from deepviz.runs.dataset_run import Asked
from deepviz.runs.places import Boxes, places_of
from deepviz.runs.sources import Files


@dataclass(frozen=True)
class FilesOfRun(Files):
    """The files of images that a run was made of.

    Args:
        held: what the run has stored of them.
    """

    held: dict[str, Any] = field(default_factory=dict)

    @property
    def record(self) -> dict[str, Any]:
        """What the run has stored, with the sizes that the files have now; behind a URL, with those of then."""
        return self.held if is_url(self.root) else self.held | {"sizes": super().record["sizes"]}


def more_metrics(
    run: Run, loaded: LoadedModel, metrics: Sequence[Metric], *, boxes: Boxes | None = None, masks: Any = None
) -> Asked:
    """What is asked to add metrics to a run: its methods and targets on its images.

    Args:
        run: to which they are added.
        loaded: its model.
        metrics: those that are added.
        boxes, masks: as for `deepviz.run`.

    Raises:
        StoredError: for a run that is not complete, or whose images are in no files.
    """
    question = run.manifest["question"]
    held = question["source"]
    if held["kind"] != FilesOfRun.kind:
        raise StoredError(f"{run.folder}: its images are in no files of their own: deepviz.run adds metrics to it")
    done = [set(read_rows(row_file(run.folder, shard))[1]["methods"]) for shard in shards_of(run.folder)]
    if not run.is_complete or any(not methods.issuperset(run.methods) for methods in done):
        raise StoredError(f"{run.folder} is not complete: the command that it was begun with goes on")
    names = dict(zip(run.rows["index"].to_pylist(), run.rows["image"].to_pylist(), strict=True))
    source = FilesOfRun(held["root"], tuple(names[index] for index in sorted(names)), ((),) * len(names), held=held)
    targets = None if question["target"] is None else [from_plain(one) for one in question["target"]]
    return Asked.of(
        loaded, source, [], metrics, targets, question["top_k"], question["shard_size"],
        lenient=False, places=places_of(boxes, masks, source),
    )  # fmt: skip
