"""The rows of a run in memory, column by column: filtered and sorted here, so that a page asks for one screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepviz.errors import DeepVizError, StoredError
from deepviz.remote import AnyPath, RemotePath
from deepviz.results.filters import holds
from deepviz.results.run import Run, shard_count
from deepviz.results.shards import COLUMNS, ROWS, library, read_rows, row_file, schema_of, shards_of
from deepviz.web.model_service import LRUCache, NotFound

NOT_HELD = ("objective", "box", "geometry", "notes", "content")
"""Columns that a screen shows nothing of, and that are most of a row: they are read as they are asked for."""
ORDERS, FILES = 16, 16
"""Questions whose rows are remembered, and files of rows that stay open."""
WARNINGS = "warnings"
SORTABLE = ("index", "image", "label", "prediction", "probability", "correct", "target", "target_probability", "score",
            "method", "failure", WARNINGS)  # fmt: skip

Positions = NDArray[np.int64]


class WrongQuestion(DeepVizError):
    """A condition or an order that the rows do not have."""


@dataclass(frozen=True)
class Question:
    """Which rows are wanted, and in which order.

    Args:
        where: conditions, as those of `Run.where`; all must hold.
        sort: a column; None for the order of the run.
        descending: from the largest value down. Values that are not known come last in any case.
        within: a name of the images that are wanted alone; "" for all.
    """

    where: tuple[str, ...] = ()
    sort: str | None = None
    descending: bool = False
    within: str = ""


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of a run as they were at a time.

    Args:
        run: of which they are.
        shards: the shards that could be read.
        table: all columns but those of `NOT_HELD`.
        version: another one for any other rows.
        problems: what could not be read, one line each.
    """

    run: Run
    shards: tuple[int, ...]
    table: Any
    version: int
    problems: tuple[str, ...] = ()
    _orders: LRUCache[Positions] = field(default_factory=lambda: LRUCache(ORDERS), repr=False)

    @property
    def column_names(self) -> list[str]:
        """All columns of the run, held or not."""
        return [name for name, _ in COLUMNS] + self.metrics

    @cached_property
    def metrics(self) -> list[str]:
        """The columns of metrics."""
        known = {name for name, _ in COLUMNS}
        return [name for name in self.table.column_names if name not in known]

    def __getitem__(self, name: str) -> Any:
        if name in self.table.column_names:
            return self.table[name]
        others = [one for one in self.column_names if one != name]
        arrow = library("pyarrow")
        read = [read_rows(row_file(self.run.folder, shard), others)[0][name] for shard in self.shards]
        column = arrow.chunked_array([chunk for one in read for chunk in one.chunks], schema_of([]).field(name).type)
        if len(column) != len(self.table):
            raise WrongQuestion("the run has grown: load the page again")
        return column

    def positions(self, question: Question, images: Positions | None = None) -> Positions:
        """The rows that are wanted, in order.

        Args:
            question: which.
            images: those that the question's `within` names.

        Raises:
            WrongQuestion: naming what is wrong with a condition, or the columns that can be sorted by.
        """
        found = self._orders.get(question)
        if found is None:
            chosen = self._chosen(question.where)
            if images is not None:
                chosen = chosen[np.isin(self.indices[chosen], images)]
            found = self._sorted(chosen, question)
            self._orders.put(question, found)
        return found

    def _chosen(self, where: Sequence[str]) -> Positions:
        compute = library("pyarrow.compute")
        kept: Any = None
        for condition in where:
            try:
                one = holds(self, condition)
            except ValueError as error:
                raise WrongQuestion(str(error)) from None
            kept = one if kept is None else compute.and_(kept, one)
        if kept is None:
            return np.arange(len(self.table))
        return np.flatnonzero(kept.to_numpy(zero_copy_only=False))

    def _sorted(self, positions: Positions, question: Question) -> Positions:
        if question.sort is None:
            return positions
        values = self._sortable(question.sort).take(library("pyarrow").array(positions))
        order = library("pyarrow.compute").array_sort_indices(
            values, order="descending" if question.descending else "ascending"
        )
        chosen: Positions = positions[order.to_numpy()]
        return chosen

    def _sortable(self, name: str) -> Any:
        compute, arrow = library("pyarrow.compute"), library("pyarrow")
        if name not in (*SORTABLE, *self.metrics):
            offered = ", ".join([*SORTABLE, *self.metrics])
            raise WrongQuestion(f"rows cannot be sorted by {name!r}: there are {offered}")
        values = self.table[name]
        if name == WARNINGS:
            return compute.list_value_length(values)
        if arrow.types.is_boolean(values.type):
            return values.cast(arrow.int8())
        if arrow.types.is_floating(values.type):  # NaN is a value that is not known
            return compute.if_else(compute.is_nan(values), arrow.scalar(None, values.type), values)
        return values

    def page(self, positions: Positions) -> list[dict[str, Any]]:
        """Some rows, with all columns that are held."""
        found: list[dict[str, Any]] = self.table.take(library("pyarrow").array(positions)).to_pylist()
        return found

    def images(self, positions: Positions) -> Positions:
        """The images of some rows, each once, in the order in which it first comes."""
        indices = self.indices[positions]
        _, first = np.unique(indices, return_index=True)
        return indices[np.sort(first)]

    @cached_property
    def indices(self) -> Positions:
        """The image of each row."""
        found: Positions = self.table["index"].to_numpy()
        return found

    def counted(self, name: str, most: int) -> list[tuple[str, int]]:
        """The values of a column of text, with the number of their rows; those of most rows if there are too many."""
        counts = library("pyarrow.compute").value_counts(self.table[name].combine_chunks()).to_pylist()
        found = [(one["values"], one["counts"]) for one in counts if one["values"] is not None]
        return sorted(sorted(found, key=lambda one: -one[1])[:most])


class RunRows:
    """The rows of a run that may still be written.

    Args:
        folder: of the run.

    Raises:
        StoredError: if it holds no run.
    """

    def __init__(self, folder: AnyPath) -> None:
        self.folder = folder
        self._lock = Lock()
        self._read: dict[int, tuple[str, Any]] = {}
        self._rows: Rows | None = None
        Run(folder)  # what holds no run is told at once
        self._files: LRUCache[tuple[str, Any]] = LRUCache(FILES)

    def prepare(self) -> None:
        """Read the rows, and load what reads maps, before anyone asks.

        Raises:
            MissingExtra: without pyarrow or zarr.
        """
        self.now()
        library("zarr")

    def now(self) -> Rows:
        """The rows as they were read last."""
        rows = self._rows
        return self.read() if rows is None else rows

    def read(self) -> Rows:
        """Read the shards that are new, or were written again.

        Raises:
            StoredError: if the run is not there any more.
        """
        with self._lock:
            run = Run(self.folder)
            same = self._rows is not None and run.manifest == self._rows.run.manifest
            found: dict[int, tuple[str, Any]] = {}
            problems = []
            for shard, stamp in _stamps(self.folder).items():
                try:
                    known = self._read.get(shard)
                    if known is None or known[0] != stamp:
                        known = stamp, read_rows(row_file(self.folder, shard), NOT_HELD)[0]
                        same = False
                    found[shard] = known
                except FileNotFoundError:
                    continue
                except StoredError as error:
                    problems.append(f"{error}; the run's command computes it again")
            if same and self._rows is not None and found.keys() == self._read.keys():
                return self._rows
            self._read = found
            version = 0 if self._rows is None else self._rows.version + 1
            self._rows = _joined(run, {shard: one for shard, (_, one) in found.items()}, version, tuple(problems))
            return self._rows

    def of_image(self, image: int) -> list[dict[str, Any]]:
        """All rows of an image with all columns, from the file of its shard.

        Raises:
            NotFound: if there are none.
            StoredError: if it is damaged.
        """
        compute = library("pyarrow.compute")
        rows = self.now()
        table = self._whole(image // int(rows.run.manifest["question"]["shard_size"]))
        found: list[dict[str, Any]] = []
        if table is not None:
            found = table.filter(compute.equal(table["index"], image)).to_pylist()
        if not found:
            raise NotFound(f"there are no rows of image {image}")
        return found

    def _whole(self, shard: int) -> Any:
        path = row_file(self.folder, shard)
        try:
            stamp = _stamp(path)
            known = self._files.get(shard)
            if known is None or known[0] != stamp:
                known = stamp, read_rows(path)[0]
                self._files.put(shard, known)
            return known[1]
        except FileNotFoundError:
            return None

    def row(self, image: int, method: str | None, rank: int, input: str | None) -> dict[str, Any]:
        """One row with all columns.

        Raises:
            NotFound: if there is none.
        """
        for row in self.of_image(image):
            if row["method"] == method and (row["rank"] or 0) == rank and (row["input"] or "") == (input or ""):
                return row
        raise NotFound(f"image {image} has no row of {method or 'no method'} for target {rank}")


def _stamp(path: AnyPath) -> str:
    """What differs once a file is written again."""
    if isinstance(path, RemotePath):
        return path.stamp()
    found = path.stat()
    return f"{found.st_mtime_ns} {found.st_size}"


def _stamps(folder: AnyPath) -> dict[int, str]:
    """`_stamp` of the rows of each shard; behind a URL of one listing."""
    if isinstance(folder, RemotePath):
        there = (folder / ROWS).stamps()
        paths = {shard: row_file(folder, shard).name for shard in shards_of(folder)}
        return {shard: there[name] for shard, name in paths.items() if name in there}
    found = {}
    for shard in shards_of(folder):
        with suppress(FileNotFoundError):
            found[shard] = _stamp(row_file(folder, shard))
    return found


def _joined(run: Run, tables: Mapping[int, Any], version: int, problems: tuple[str, ...]) -> Rows:
    """All rows, with a column for each metric that some shards have."""
    arrow = library("pyarrow")
    held = schema_of(run.metrics)
    for name in NOT_HELD:
        held = held.remove(held.get_field_index(name))
    table = arrow.concat_tables([held.empty_table(), *tables.values()], promote_options="default")
    return Rows(run, tuple(tables), table.combine_chunks(), version, problems)


def expected_shards(run: Run) -> int:
    """How many shards the run has once it is complete."""
    return shard_count(run.manifest["question"])
