"""Groups of a run's maps, computed behind the page: clusters of those that look alike, and mean maps of classes."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import OrderedDict
from dataclasses import dataclass, field
from random import Random
from threading import Condition, Thread
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from deepviz.errors import DeepVizError
from deepviz.results.clusters import Clusters
from deepviz.results.mean_maps import MeanMap
from deepviz.results.run import Run
from deepviz.results.shards import library
from deepviz.web.files import jpeg
from deepviz.web.model_service import NotFound
from deepviz.web.run_rows import Question, Rows

MOST = 2000
"""Images whose maps are grouped: of more, so many are drawn at random, which takes seconds whatever the run."""
KEPT = 8
"""Groupings that are remembered."""
TYPICAL = 6
"""Images that a cluster is shown with, and odd ones."""
PATIENCE = 15.0
"""Seconds that a request for a grouping waits for its end."""
Kind = Literal["clusters", "label", "prediction"]


@dataclass(eq=False)
class Grouping:
    """The maps of one method, in groups.

    Args:
        id: hash of what is grouped, and how.
        kind: clusters, or the column whose values have a mean map each.
        run: the rows of the images that are grouped.
        method: whose maps.
        rank: of which target.
        n: the number of clusters; None if that is found.
        of: how many images there were to draw from.
    """

    id: str
    kind: Kind
    run: Run
    method: str
    rank: int
    n: int | None
    of: int
    state: Literal["waiting", "running", "done", "failed", "dropped"] = "waiting"
    reason: str = ""
    means: tuple[MeanMap, ...] = ()
    clusters: Clusters | None = None

    @property
    def over(self) -> bool:
        """Whether nothing will change any more."""
        return self.state not in ("waiting", "running")

    def compute(self) -> None:
        """Group the maps; what fails is told as the reason."""
        self.state = "running"
        try:
            if self.kind == "clusters":
                self.clusters = self.run.clusters(self.method, rank=self.rank, n=self.n)
                self.means = self.clusters.means
            else:
                self.means = tuple(self.run.mean_maps(self.method, self.kind, rank=self.rank).values())
            self.state = "done"
        except (DeepVizError, ValueError, LookupError) as error:
            self.reason = " ".join(str(error).split())
            self.state = "failed"

    def status(self) -> dict[str, Any]:
        """What the page shows, but for pictures."""
        told = {"id": self.id, "kind": self.kind, "state": self.state, "reason": self.reason, "method": self.method}
        found = {**told, "rank": self.rank, "images": len(self.run), "of": self.of, "groups": []}
        if self.clusters is not None:
            return {**found, **_clusters(self.clusters)}
        named = [{"name": one.name, "images": one.images} for one in self.means]
        return {**found, "groups": named}

    def members(self, group: int) -> NDArray[np.int64]:
        """The images of a cluster.

        Raises:
            NotFound: if there is none of that number.
        """
        if self.clusters is None or not 0 <= group < len(self.clusters):
            raise NotFound(f"there is no cluster {group}")
        return np.array(self.clusters.members(group), np.int64)

    def picture(self, group: int, side: int) -> bytes:
        """The mean map of a group, as JPEG.

        Raises:
            NotFound: if there is none of that number.
        """
        if not 0 <= group < len(self.means):
            raise NotFound(f"there is no group {group}")
        return jpeg(self.means[group].picture(), side)


def _clusters(found: Clusters) -> dict[str, Any]:
    groups = [
        {
            "name": f"Cluster {number + 1}",
            "images": size,
            "separation": round(float(found.separation[number]), 3),
            "typical": found.members(number)[:TYPICAL],
        }
        for number, size in enumerate(found.sizes)
    ]
    return {
        "groups": groups,
        "odd": found.odd_ones(TYPICAL),
        "footnote": found.footnote,
        "points": [
            [int(index), int(number), round(float(x), 4), round(float(y), 4)]
            for index, number, (x, y) in zip(found.indices, found.numbers, found.points, strict=True)
        ],
    }


@dataclass(eq=False)
class RunGroups:
    """Computes groupings one after the other; of those that wait, the last that was asked for alone."""

    _known: OrderedDict[str, Grouping] = field(default_factory=OrderedDict)
    _next: Grouping | None = None
    _changed: Condition = field(default_factory=Condition)
    _worker: Thread | None = None

    def ask(self, rows: Rows, question: Question, kind: Kind, method: str, rank: int, n: int | None) -> Grouping:
        """The grouping of the maps of some rows, which is there once it is over.

        Raises:
            WrongQuestion: for a condition that is none.
        """
        asked = json.dumps([rows.version, question.where, question.within, kind, method, rank, n])
        key = hashlib.sha256(asked.encode()).hexdigest()[:32]
        with self._changed:
            known = self._known.get(key)
            if known is not None and known.state != "dropped":
                self._known.move_to_end(key)
                return known
        run, of = _drawn(rows, question)
        made = Grouping(key, kind, run, method, rank, n, of)
        with self._changed:
            if self._next is not None:
                self._next.state = "dropped"
            self._known[key] = self._next = made
            while len(self._known) > KEPT:
                self._known.popitem(last=False)
            if self._worker is None:
                self._worker = Thread(target=self._work, name="deepviz groups", daemon=True)
                self._worker.start()
            self._changed.notify()
        return made

    def find(self, key: str) -> Grouping:
        """A grouping by its id.

        Raises:
            NotFound: if it is not known any more.
        """
        with self._changed:
            found = self._known.get(key)
        if found is None:
            raise NotFound("these groups are not known any more: compute them again")
        return found

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._next is not None)
                made, self._next = self._next, None
            assert made is not None
            made.compute()


async def end_of(grouping: Grouping) -> None:
    """Wait until it is over, for a while."""
    end = asyncio.get_running_loop().time() + PATIENCE
    while not grouping.over and asyncio.get_running_loop().time() < end:
        await asyncio.sleep(0.05)


def _drawn(rows: Rows, question: Question) -> tuple[Run, int]:
    """The rows of some images, drawn at random if there are many, and how many there were."""
    positions = np.sort(rows.positions(question))
    images = np.unique(rows.indices[positions])
    if len(images) > MOST:
        chosen = np.sort(Random(0).sample(images.tolist(), MOST))
        positions = positions[np.isin(rows.indices[positions], chosen)]
    return rows.run.of_rows(rows.table.take(library("pyarrow").array(positions))), len(images)
