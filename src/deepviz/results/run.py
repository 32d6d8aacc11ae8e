"""A run over a data set: its table of rows, and its maps, read as they are asked for."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from deepviz import catalog
from deepviz.errors import DeepVizError, StoredError
from deepviz.geometry import Geometry
from deepviz.methods.method import Method
from deepviz.metrics.bootstrap import interval
from deepviz.models.images import photo_of, shown
from deepviz.objectives.record import from_plain
from deepviz.remote import AnyPath, RemotePath, below, path_of
from deepviz.results.clusters import Clustering, Clusters, clusters
from deepviz.results.explanation import ExplainedTarget, Explanation
from deepviz.results.filters import chosen_rows
from deepviz.results.held_images import columns_of, image_in
from deepviz.results.mean_maps import By, MeanMap, mean_maps
from deepviz.results.shards import (
    MANIFEST,
    MapReader,
    Shard,
    library,
    read_manifest,
    read_rows,
    row_file,
    schema_of,
    shards_of,
)
from deepviz.results.storage import method_of

UNSEEN = (128, 128, 128)
"""The picture under a map whose image is not there any more."""
READERS = 8
"""Files of rows that are read at once."""
MOST_REPORTED = 500
"""Maps of a report, which holds all of them in one file."""


class Run:
    """The results of `run` in a folder, or those of some of its rows.

    Nothing but the manifest is read until it is asked for, and no model is needed.

    Args:
        folder: of the run; also a URL, such as "s3://bucket/run".

    Raises:
        StoredError: if it holds no run.

    Example:
        >>> import deepviz, tempfile, torch
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 5))
        >>> images = [(torch.rand(3, 8, 8), label) for label in (0, 1, 2)]
        >>> run = deepviz.run(net, images, "gradient", out=tempfile.mkdtemp())
        >>> run.images, run.methods, run.map(2, "gradient").shape
        ((0, 1, 2), ('gradient',), torch.Size([3, 8, 8]))
    """

    def __init__(self, folder: str | os.PathLike[str] | RemotePath, *, _rows: Any = None) -> None:
        self.folder = path_of(folder)
        held = read_manifest(self.folder)
        if held is None:
            raise StoredError(f"{self.folder} holds no run: it has no {MANIFEST}")
        self.manifest: dict[str, Any] = held
        """What was asked of which images, with which versions."""
        self._rows = _rows
        self._maps = MapReader(self.folder)
        self._shard: Shard | None = None
        self._tars: dict[AnyPath, dict[str, tuple[int, int]]] = {}

    @cached_property
    def rows(self) -> Any:
        """The table, one row for each image, target and method, as a `pyarrow.Table`.

        The row of an image that could not be read has no method. Columns of numbers are named after the metrics.

        Raises:
            StoredError: for a file that is damaged.
        """
        if self._rows is not None:
            return self._rows
        arrow = library("pyarrow")
        try:
            with ThreadPoolExecutor(READERS) as readers:  # a server takes its time for each
                paths = [row_file(self.folder, shard) for shard in shards_of(self.folder)]
                tables = [table for table, _ in readers.map(read_rows, paths)]
        except StoredError as error:
            raise StoredError(f"{error}; the run's command computes it again") from None
        if not tables:
            return schema_of(self.metrics).empty_table()
        return arrow.concat_tables(tables, promote_options="default")

    @property
    def methods(self) -> tuple[str, ...]:
        """The names of the methods, as they are written: "smooth-grad(samples=20)"."""
        return tuple(one["name"] for one in self.manifest["methods"])

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the metrics, which are columns."""
        return tuple(one["name"] for one in self.manifest["metrics"])

    @property
    def images(self) -> tuple[int, ...]:
        """The positions in the source of the images that there are rows of, in order."""
        return tuple(sorted(set(self.rows.column("index").to_pylist())))

    def __len__(self) -> int:
        """How many images there are rows of."""
        return len(self.images)

    @property
    def is_complete(self) -> bool:
        """Whether each shard has rows; a method or metric that is being added may be missing in some."""
        question = self.manifest["question"]
        return len(shards_of(self.folder)) == shard_count(question)

    def where(self, condition: str) -> Run:
        """The rows for which a condition holds.

        Names are those of the columns, with "_" where they have "-"; there are comparisons, `in`, `and`, `or`, `not`,
        numbers, texts and None. A value that is not known satisfies nothing but `== None`.

        Args:
            condition: such as "correct and deletion < 0.3" or "label in ('cat', 'dog') and not correct".

        Raises:
            ValueError: for what is no such condition, naming the columns.

        Example:
            >>> import deepviz, tempfile, torch
            >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 5))
            >>> run = deepviz.run(net, torch.rand(4, 3, 8, 8), "gradient", out=tempfile.mkdtemp())
            >>> len(run.where("index >= 1 and not failure")), len(run.where("image in ('0', '3')"))
            (3, 2)
        """
        return Run(self.folder, _rows=chosen_rows(self.rows, condition))

    def sample(self, n: int, seed: int = 0) -> Run:
        """The rows of `n` images, chosen at random, or of all if there are fewer."""
        images = self.images
        return self.select(Random(seed).sample(images, min(n, len(images))))

    def select(self, images: Iterable[int]) -> Run:
        """The rows of some images, in the order of the run.

        Args:
            images: their positions in the source.

        Raises:
            LookupError: for an image that there are no rows of.
        """
        compute, arrow = library("pyarrow.compute"), library("pyarrow")
        chosen = sorted(set(images))
        unknown = set(chosen).difference(self.images)
        if unknown:
            raise LookupError(f"there are no rows of image {min(unknown)}")
        rows = self.rows.filter(compute.is_in(self.rows["index"], arrow.array(chosen, arrow.int64())))
        return Run(self.folder, _rows=rows)

    def of_rows(self, rows: Any) -> Run:
        """The run of some rows alone.

        Args:
            rows: of the table, a `pyarrow.Table`; of columns that are not asked for it may have none.
        """
        return Run(self.folder, _rows=rows)

    def mean_map(
        self,
        method: Method | str | None = None,
        *,
        where: str | None = None,
        rank: int = 0,
        input: str | None = None,
        normalise: bool = True,
    ) -> MeanMap:
        """The mean of the maps of these images, as they are drawn; a shard of them is in memory at a time.

        Maps lie at the places of the model's input, whatever part of each image that is. Those of another resolution
        than most are brought to that one. Maps that are zero everywhere are left out, and images without a map, with
        the reason.

        Args:
            method: the method or its name; None if there is one alone.
            where: of which images, as `where` takes it.
            rank: of which target, from 0.
            input: of which of several explained inputs, by its name in the column; None for the first.
            normalise: divide each map by the mean of its magnitudes, so that all images count alike.

        Raises:
            LookupError: for a method that the run has no maps of.
            ValueError: for a condition that is none, or if there is no map.
            StoredError: if a file is damaged.

        Example:
            >>> import deepviz, tempfile, torch
            >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 5))
            >>> run = deepviz.run(net, torch.rand(4, 3, 8, 8), "gradient", out=tempfile.mkdtemp())
            >>> run.mean_map(where="index < 3")
            MeanMap(gradient, 3 images, 8x8)
        """
        given = {"where": where, "rank": rank, "input": input, "normalise": normalise}
        return mean_maps(self, method, None, **given)[""]  # type: ignore[arg-type]

    def mean_maps(
        self,
        method: Method | str | None = None,
        by: By = "label",
        *,
        where: str | None = None,
        rank: int = 0,
        input: str | None = None,
        normalise: bool = True,
    ) -> dict[str, MeanMap]:
        """`mean_map` of each label or each prediction, by its name; `deepviz.results.mean_maps` draws them on a sheet.

        Args:
            method: the method or its name; None if there is one alone.
            by: "label" or "prediction".
            where: of which images, as `where` takes it.
            rank: of which target, from 0.
            input: of which of several explained inputs, by its name in the column; None for the first.
            normalise: divide each map by the mean of its magnitudes, so that all images count alike.

        Raises:
            LookupError: for a method that the run has no maps of.
            ValueError: for a condition that is none, or if there is no map, or no image has a label.
            StoredError: if a file is damaged.

        Example:
            >>> import deepviz, tempfile, torch
            >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 5))
            >>> images = [(torch.rand(3, 8, 8), label) for label in (0, 1, 1)]
            >>> run = deepviz.run(net, images, "gradient", out=tempfile.mkdtemp())
            >>> list(run.mean_maps().values())
            [MeanMap('class 0', gradient, 1 image, 8x8), MeanMap('class 1', gradient, 2 images, 8x8)]
        """
        return mean_maps(self, method, by, where=where, rank=rank, input=input, normalise=normalise)

    def clusters(
        self,
        method: Method | str | None = None,
        *,
        where: str | None = None,
        rank: int = 0,
        input: str | None = None,
        n: int | None = None,
        size: int = 12,
        neighbours: int | None = None,
        sample: int = 2000,
        seed: int = 0,
    ) -> Clusters:
        """Clusters of maps that look alike: spectral relevance analysis (Lapuschkin et al. 2019, arXiv:1902.10178).

        Where a model uses something else than the object in some images of a class, such as a watermark, the maps of
        these are a cluster of their own. Look at one class at a time: with `where="label == 'horse'"`, say.

        Maps are averaged over the cells of a grid and divided by their norm, each is joined with its nearest
        neighbours, and the graph is split by spectral clustering. Needs the extra `data`. A shard of the run is in
        memory at a time.

        Args:
            method: the method or its name; None if there is one alone.
            where: of which images, as `where` takes it.
            rank: of which target, from 0.
            input: of which of several explained inputs, by its name in the column; None for the first.
            n: the number of clusters; None: by the largest gap between eigenvalues, 10 at most.
            size: cells along each side of the grid on which maps are compared.
            neighbours: with how many neighbours each map is joined; None: 10, or fewer of fewer than 100 maps.
            sample: how many maps are embedded at most, drawn at random; the others join the cluster of most of their
                nearest neighbours.
            seed: of the sample, and of k-means.

        Returns:
            The clusters, those that are most separate first, and how odd each map is.

        Raises:
            LookupError: for a method that the run has no maps of.
            ValueError: for a condition that is none, an option out of range, or fewer than four maps.
            StoredError: if a file is damaged.
            MissingExtra: without scikit-learn.

        Example:
            >>> import deepviz, tempfile, torch
            >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 5))
            >>> x = torch.zeros(20, 3, 8, 8)
            >>> x[:12, :, :2, :2] = x[12:, :, 6:, 6:] = 1  # the map of gradient x image is zero elsewhere
            >>> run = deepviz.run(net, x, "grad-times-image", out=tempfile.mkdtemp(), target=0)
            >>> found = run.clusters()
            >>> sorted(found.sizes), sorted(found.members(found.of_image[19]))
            ([8, 12], [12, 13, 14, 15, 16, 17, 18, 19])
        """
        options = Clustering(n, size, neighbours, sample, seed)
        return clusters(self, method, options, where=where, rank=rank, input=input)

    def map(self, image: int, method: Method | str | None = None, *, rank: int = 0, input: str | None = None) -> Tensor:
        """A map as the method returned it, to 11 bits of each value: float32, (C, H, W) or (1, h, w).

        Of all images of the run, whichever rows these are; the others are not read.

        Args:
            image: its position in the source.
            method: the method or its name; None if there is one alone.
            rank: of which target, from 0.
            input: of which of several explained inputs, by its name in the column; None for the first.

        Raises:
            LookupError: if there is none.
            StoredError: if it is damaged.
        """
        return torch.from_numpy(self._maps.read(self._row(image, method, rank, input)))

    def name_of(self, method: Method | str | None = None) -> str:
        """The name of a method in the rows, however its options are written.

        Args:
            method: the method or its name; None if there is one alone.

        Raises:
            LookupError: if there are several, or the run has no maps of it.
        """
        if method is None:
            if len(self.methods) > 1:
                raise LookupError(f"there are several methods, {', '.join(self.methods)}: name one")
            return self.methods[0]
        if isinstance(method, str) and method in self.methods:
            return method
        key = catalog.key(catalog.parse(method, Method) if isinstance(method, str) else method)
        for one in self.manifest["methods"]:
            if one["key"] == key:
                return str(one["name"])
        raise LookupError(f"{self.folder} has no maps of {method}: it has those of {', '.join(self.methods)}")

    def explanation(
        self, image: int, method: Method | str | None = None, *, rank: int = 0, input: str | None = None
    ) -> Explanation:
        """A map with its image, as `explain` returns it.

        The picture is what the file holds now; grey if there is none, or it has another size.

        Args:
            image: its position in the source.
            method: the method or its name; None if there is one alone.
            rank: of which target, from 0.
            input: of which of several explained inputs, by its name in the column; None for the first.

        Raises:
            LookupError: if there is none.
            StoredError: if it is damaged.
        """
        return self.explanation_of(self._row(image, method, rank, input))

    def explanations(self) -> Iterator[Explanation]:
        """All maps of these rows, one at a time."""
        return (self.explanation_of(row) for row in self.rows.to_pylist() if row["map"] is not None)

    def report(self, path: str | os.PathLike[str], *, title: str | None = None) -> Path:
        """Write the maps of these rows as one HTML file (see `deepviz.report`).

        Raises:
            ValueError: if there is no map, or more than 500.
        """
        found = self.rows.num_rows - self.rows["map"].null_count
        if found > MOST_REPORTED:
            raise ValueError(
                f"a report holds {MOST_REPORTED} maps at most, these are {found}: choose by where or sample"
            )
        written: Path = import_module("deepviz").report(list(self.explanations()), path, title=title)
        return written

    def scores(self) -> list[dict[str, Any]]:
        """The mean of each metric over these rows, by method: its interval of 95 % over images, and of how many maps.

        Example:
            >>> import deepviz, tempfile, torch
            >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 5))
            >>> run = deepviz.run(net, torch.rand(4, 3, 8, 8), "gradient", metrics="sparseness", out=tempfile.mkdtemp())
            >>> [(one["method"], one["metric"], one["maps"]) for one in run.scores()]
            [('gradient', 'sparseness', 4)]
        """
        compute = library("pyarrow.compute")
        found = []
        for method in self.methods:
            rows = self.rows.filter(compute.equal(self.rows["method"], method))
            for metric in self.metrics:
                values = rows[metric].drop_null().to_numpy()
                low, high = interval(values)
                mean = float(values.mean()) if len(values) else float("nan")
                found.append(
                    {"method": method, "metric": metric, "maps": len(values), "mean": mean, "low": low, "high": high}
                )
        return found

    def to_pandas(self) -> Any:
        """The table as a pandas `DataFrame`."""
        return self.rows.to_pandas()

    def to_fiftyone(self, name: str | None = None, *, media: str | os.PathLike[str] | None = None) -> Any:
        """These rows as a FiftyOne `Dataset`, one sample for each image.

        Fields are `ground_truth` and `prediction`, `correct`, `image` and `position`, `failures`, the boxes that were
        explained, and a heat map for each method, called after it ("grad_cam", "grad_cam_2" for the second target). It
        holds the values that are drawn, at the place of the image that the model saw and at up to 256 pixels a side,
        and beside them target, score and metrics. Needs the package fiftyone.

        Args:
            name: of the data set; None: one that FiftyOne makes up.
            media: the folder into which images are written that are in no file of this machine, such as those of a tar;
                grey where they cannot be opened again.

        Raises:
            ValueError: for images that are in no file, without `media`; for maps of volumes or signals.
            MissingExtra: without fiftyone.
        """
        from deepviz.results.to_fiftyone import to_fiftyone

        return to_fiftyone(self, name, media)

    def verify(self) -> list[str]:
        """What is damaged or missing, one line each; the run's command computes it again.

        Every file is read.
        """
        problems = []
        question = self.manifest["question"]
        for number in range(shard_count(question)):
            try:
                shard = Shard.read(self.folder, number)
                if shard is None:
                    problems.append(f"shard {number} is missing")
                else:
                    shard.check_files(self.folder)
            except StoredError as error:
                problems.append(str(error))
        return problems

    def _row(self, image: int, method: Method | str | None, rank: int, input: str | None) -> dict[str, Any]:
        """The row of a map, from the file of its shard alone."""
        name = self.name_of(method)
        number = image // int(self.manifest["question"]["shard_size"])
        if self._shard is None or self._shard.number != number:
            self._shard = Shard.read(self.folder, number)
        rows = [] if self._shard is None else [row for row in self._shard.rows if row["index"] == image]
        if not rows:
            count = self.manifest["question"]["source"]["count"]
            raise LookupError(f"there are no rows of image {image}: there are {count} images, or its shard is missing")
        wanted = (row for row in rows if row["method"] == name and row["rank"] == rank)
        found = next((row for row in wanted if input is None or row["input"] == input), None)
        if found is None and rows[0]["method"] is None:
            found = rows[0]
        if found is None:
            of_input = "" if input is None else f" and input {input}"
            raise LookupError(f"there is no map of {name} for target {rank}{of_input} of {shown(rows[0]['image'])}")
        if found["map"] is None:
            raise LookupError(f"{shown(found['image'])} has no map of {name}: {found['reason']}")
        return found

    @cached_property
    def _methods(self) -> dict[str, Method]:
        return {one["name"]: method_of(one) for one in self.manifest["methods"]}

    def explanation_of(self, row: dict[str, Any], image: Image.Image | None = None) -> Explanation:
        """The map of a row of the table, with its image.

        Args:
            row: the values of all columns, by their names; there must be a map.
            image: which the map lies on, at any size; by default what the file holds now.

        Raises:
            StoredError: if the map is damaged.
        """
        held = json.loads(row["geometry"])
        geometry = Geometry(tuple(held["size"]), tuple(held["box"]))
        notes = {name: tuple(one) if isinstance(one, list) else one for name, one in json.loads(row["notes"]).items()}
        if row["warnings"]:
            notes["warnings"] = tuple(row["warnings"])
        image = self._picture(row, geometry) if image is None else image
        return Explanation(
            attribution=torch.from_numpy(self._maps.read(row)),
            image=image,
            geometry=geometry.scaled(image.size),
            method=self._methods[row["method"]],
            target=target_of(row),
            model=self.manifest["question"]["model"],
            source=shown(row["image"]),
            notes=notes,
            versions=self.manifest["versions"],
            space=tuple(held["space"]) if "space" in held else None,
            input=row["input"] or "",
            predictions=() if row["prediction"] is None else ((row["prediction"], row["probability"]),),
        )

    def _picture(self, row: dict[str, Any], geometry: Geometry) -> Image.Image:
        """The image, if it can be opened as it was."""
        try:
            content = self.file_of(row["image"])
            picture = None if content is None else photo_of(content, row["image"]).picture
            if picture is not None and picture.size == geometry.size:
                return picture
        except DeepVizError:
            pass
        return Image.new("RGB", geometry.size, UNSEEN)

    def file_of(self, image: str) -> bytes | None:
        """The bytes of an image's file, as it is now; None if there is none.

        Args:
            image: its name in the rows.
        """
        source = self.manifest["question"]["source"]
        try:
            return self._content(source["root"], source["kind"], image)
        except (OSError, ValueError, tarfile.TarError, DeepVizError):  # ValueError: for a name with a null character
            return None

    def _content(self, root: str, kind: str, image: str) -> bytes | None:
        if kind == "files":
            return below(root, image).read_bytes()
        if kind == "rows":
            table, _, row = image.rpartition("/")
            columns = columns_of(below(root, table))
            held = None if columns is None else image_in(below(root, table), columns.image, int(row))
            return self._content(root, "files", held) if isinstance(held, str) else held
        tar, _, member = image.partition(".tar/")
        if kind != "tars" or not member:
            return None
        path = below(root, f"{tar}.tar")
        place = self._members(path).get(member)
        if place is None:
            return None
        with path.open("rb") as file:
            file.seek(place[0])
            return file.read(place[1])

    def _members(self, path: AnyPath) -> dict[str, tuple[int, int]]:
        """Where each file of a tar begins, and how long it is."""
        if path not in self._tars:
            with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
                self._tars[path] = {one.name: (one.offset_data, one.size) for one in tar if one.isfile()}
        return self._tars[path]

    def __repr__(self) -> str:
        count = self.manifest["question"]["source"]["count"]
        some = f"{len(self)} of {count} images" if self._rows is not None else f"{count} images"
        return f"Run({str(self.folder)!r}, {some}, methods: {', '.join(self.methods)})"


def shard_count(question: dict[str, Any]) -> int:
    """How many shards a run has once it is complete."""
    return -(-int(question["source"]["count"]) // int(question["shard_size"]))


def target_of(row: dict[str, Any]) -> ExplainedTarget:
    """What a row is about."""
    objective = None if row["objective"] is None else from_plain(json.loads(row["objective"]))
    box = None if row["box"] is None else tuple(row["box"])
    return ExplainedTarget(
        row["target_index"], row["target"], row["target_probability"], row["score"], None, objective, box
    )
