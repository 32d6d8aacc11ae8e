"""Clusters of maps: spectral relevance analysis (Lapuschkin et al. 2019)."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from deepviz.errors import MissingExtra
from deepviz.files import write_picture
from deepviz.methods.method import Method, View
from deepviz.models.images import shown
from deepviz.options import Frozen, Ge, Seed
from deepviz.render.contact import Thumbnail, contact_sheet
from deepviz.render.figure import figure
from deepviz.render.sheet import PAPER
from deepviz.results.drawn_maps import DrawnMaps, LeftOut, Shape, resampled
from deepviz.results.mean_maps import Mean, MeanMap
from deepviz.results.numbers import Values

if TYPE_CHECKING:
    from deepviz.results.run import Run

CANCELLED = "the map is zero on the grid that maps are compared on"
FEWEST = 4
"""Maps that can have clusters."""
NEIGHBOURS = 10
MOST = 10
"""Clusters that the eigengap looks for at most."""
Rows = NDArray[np.intp]


@dataclass(frozen=True)
class Clustering(Frozen):
    """How maps are clustered.

    The maps are averaged over the cells of a grid and divided by their Euclidean norm, x_i. Each is joined with its
    k nearest neighbours, w_ij = 1 if i is one of j or j one of i, and with D_ii = sum_j w_ij the normalised Laplacian

        L = I - D^(-1/2) W D^(-1/2)

    has eigenvalues 0 = l_1 <= l_2 <= ...: as many are near 0 as there are parts of the graph that have few edges
    between them. The number of clusters is the one after which the gap is largest, and k-means of the rows of its
    eigenvectors, each divided by its norm, finds them (Ng, Jordan and Weiss 2001).

    Args:
        n: the number of clusters; None: by the eigengap, 10 at most.
        size: cells of the grid along each axis; where maps have fewer values, these are kept.
        neighbours: k; None: 10, of fewer than 100 maps that are embedded the square root of their number, 3 at least.
        sample: the number of maps that are embedded at most, drawn at random; others join the cluster of most of their
            nearest neighbours among them.
        seed: of the sample and of k-means.
    """

    n: Annotated[int | None, Ge(1), "Number of clusters; by default that of the largest eigengap."] = None
    size: Annotated[int, Ge(1), "Cells along each side of the grid on which maps are compared."] = 12
    neighbours: Annotated[
        int | None, Ge(1), "Nearest neighbours that a map is joined with; by default 10, fewer of few maps."
    ] = None
    sample: Annotated[int, Ge(FEWEST), "Maps that are embedded at most; the others join the nearest cluster."] = 2000
    seed: Seed = 0
    paper: ClassVar[str] = "Lapuschkin et al. 2019, arXiv:1902.10178"


@dataclass(frozen=True, eq=False)
class Clusters:
    """Clusters of the maps of a run, the one that is most separate first, as 0.

    Args:
        run: whose maps these are.
        method: its name in the run.
        view: how channels became one value for each pixel.
        options: how they were clustered.
        indices: the positions of the images in the source, (n,).
        images: their names.
        numbers: the cluster of each, (n,).
        oddness: how far each is from its nearest neighbours, (n,): the mean distance of maps of norm 1, 0 if they are
            alike, 1.4 if they have nothing in common, 2 if they are opposite.
        embedded: whether each was embedded, (n,); the others have joined a cluster.
        points: the first two principal components of each map on the grid, (n, 2), for a plot.
        eigenvalues: the smallest ones of the graph's Laplacian, ascending.
        separation: of each cluster, the mean silhouette of its embedded maps, -1 to 1; 0 if there is one cluster.
        means: the mean map of each cluster, each map divided by the mean of its magnitudes.
        left_out: the images without a map that can be compared, and why.
    """

    run: Run = field(repr=False)
    method: str
    view: View
    options: Clustering
    indices: NDArray[np.int64]
    images: tuple[str, ...]
    numbers: Rows
    oddness: Values
    embedded: NDArray[np.bool_]
    points: Values
    eigenvalues: Values
    separation: Values
    means: tuple[MeanMap, ...]
    left_out: tuple[LeftOut, ...]

    def __len__(self) -> int:
        """How many clusters there are."""
        return len(self.means)

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many maps each cluster has."""
        return tuple(np.bincount(self.numbers, minlength=len(self)).tolist())

    def members(self, cluster: int) -> list[int]:
        """The positions in the source of a cluster's images, the most typical first: those that are least odd.

        Raises:
            LookupError: for a cluster that is none.
        """
        if not 0 <= cluster < len(self):
            raise LookupError(f"there is no cluster {cluster}: there are {len(self)}, from 0")
        rows = np.flatnonzero(self.numbers == cluster)
        found: list[int] = self.indices[rows[np.argsort(self.oddness[rows], kind="stable")]].tolist()
        return found

    def rows_of(self, cluster: int) -> Run:
        """The run of a cluster's images alone.

        Raises:
            LookupError: for a cluster that is none.
        """
        return self.run.select(self.members(cluster))

    def odd_ones(self, n: int = 10) -> list[int]:
        """The positions in the source of the images whose maps are least like any other, the oddest first."""
        found: list[int] = self.indices[np.argsort(-self.oddness, kind="stable")[:n]].tolist()
        return found

    @property
    def of_image(self) -> dict[int, int]:
        """The cluster of each image, by its position in the source."""
        return dict(zip(self.indices.tolist(), self.numbers.tolist(), strict=True))

    def as_json(self) -> dict[str, Any]:
        """Everything but the mean maps, as plain values for JSON."""
        return {
            "method": self.method,
            "view": self.view,
            "options": {name: getattr(self.options, name) for name in ("n", "size", "neighbours", "sample", "seed")},
            "eigenvalues": self.eigenvalues.tolist(),
            "clusters": [
                {"cluster": number, "images": size, "separation": float(self.separation[number])}
                for number, size in enumerate(self.sizes)
            ],
            "images": [
                {
                    "index": int(self.indices[row]),
                    "image": self.images[row],
                    "cluster": int(self.numbers[row]),
                    "oddness": float(self.oddness[row]),
                    "embedded": bool(self.embedded[row]),
                    "point": self.points[row].tolist(),
                }
                for row in range(len(self.images))
            ],
            "left out": [asdict(one) for one in self.left_out],
        }

    def sheet(self, examples: int = 4) -> Image.Image:
        """A row for each cluster, with its mean map and the maps of its most typical images; last the odd ones."""
        columns = 1 + max(1, examples)
        thumbnails = []
        for number, (mean, size) in enumerate(zip(self.means, self.sizes, strict=True)):
            typical = [self._thumbnail(index) for index in self.members(number)[: columns - 1]]
            picture = mean.picture()  # in its own proportions: it may be of images of several
            of = f"{_count(size)}, separation {self.separation[number]:.2f}"
            empty = [Thumbnail(Image.new("RGB", picture.size, PAPER))] * (columns - 1 - len(typical))
            thumbnails += [Thumbnail(picture, f"Cluster {number}: mean", of), *typical, *empty]
        thumbnails += [self._thumbnail(index) for index in self.odd_ones(columns)]
        title = f"Clusters of the maps of {self.method}, and the odd ones"
        return contact_sheet(thumbnails, title=title, footer=self.footnote, columns=columns)

    def _thumbnail(self, index: int) -> Thumbnail:
        rank, input = self._asked
        explanation = self.run.explanation(index, self.method, rank=rank, input=input)
        row = int(np.flatnonzero(self.indices == index)[0])
        detail = f"cluster {self.numbers[row]}, oddness {self.oddness[row]:.2f}"
        return Thumbnail(explanation.tile().picture, Path(shown(self.images[row])).name, detail)

    _asked: tuple[int, str | None] = field(default=(0, None), repr=False)

    @property
    def footnote(self) -> str:
        """How they were found, in words."""
        embedded = int(self.embedded.sum())
        others = len(self.images) - embedded
        parts = [
            f"spectral relevance analysis ({Clustering.paper}) of {_count(embedded)} on a grid of at most "
            f"{self.options.size} cells along each side; drawn values: {self.view}"
        ]
        if others:
            parts.append(f"{others} more joined the cluster of their nearest neighbours")
        if self.left_out:
            parts.append(f"{_count(len(self.left_out))} left out")
        return "; ".join(parts)

    def save(self, path: str | os.PathLike[str], *, examples: int = 4) -> Path:
        """Write the sheet, .png or .jpg.

        Raises:
            OutputError: if the ending is another, or the file cannot be written.
        """
        return write_picture(Path(path), self.sheet(examples))

    def plot(self) -> Any:
        """Draw the maps as points, and the eigenvalues; return the matplotlib figure.

        Raises:
            MissingExtra: without matplotlib.
        """
        chart = figure(9.6, 4.6)
        left, right = chart.subplots(1, 2, width_ratios=(3, 2))
        for number, size in enumerate(self.sizes):
            mine = self.points[self.numbers == number]
            left.scatter(*mine.T, s=12, color=f"C{number % 10}", label=f"cluster {number}: {_count(size)}")
        left.set_xlabel("first principal component")
        left.set_ylabel("second principal component")
        left.legend(fontsize=8, frameon=False)
        right.plot(np.arange(1, len(self.eigenvalues) + 1), self.eigenvalues, "o-", color="0.25")
        right.axvline(len(self) + 0.5, color="0.6", linestyle="--", linewidth=1)
        right.set_xlabel("number")
        right.set_ylabel("eigenvalue")
        for axes in (left, right):
            axes.spines[["top", "right"]].set_visible(False)
        return chart

    def __str__(self) -> str:
        lines = [f"{len(self)} clusters of {_count(len(self.images))} of {self.method}"]
        lines += [
            f"  {number}: {_count(size)}, separation {self.separation[number]:.2f}"
            for number, size in enumerate(self.sizes)
        ]
        return "\n".join([*lines, self.footnote])

    def __repr__(self) -> str:
        return f"Clusters({self.method}, {', '.join(map(str, self.sizes))} maps)"


def _count(maps: int) -> str:
    return f"{maps} map{'' if maps == 1 else 's'}"


def clusters(
    run: Run,
    method: Method | str | None,
    options: Clustering,
    *,
    where: str | None = None,
    rank: int = 0,
    input: str | None = None,
) -> Clusters:
    """Clusters of the maps of a run; see `Run.clusters`.

    Raises:
        LookupError: for a method that the run has no maps of.
        ValueError: for a condition that is none, or fewer maps than clusters.
        MissingExtra: without scikit-learn.
    """
    _module("sklearn.cluster")
    maps = DrawnMaps.of(run, method, where, rank, input)
    grid = _grid(maps, options.size)
    drawn = np.arange(len(maps))
    if len(maps) > options.sample:
        drawn = np.sort(np.random.default_rng(options.seed).permutation(len(maps))[: options.sample])
    vectors = np.concatenate([_vectors(of_shard, grid) for _, of_shard in maps.shards(drawn)])
    there = vectors.any(1)
    sample, places = vectors[there], drawn[there]
    needed = max(FEWEST, options.n or 1)
    if len(sample) < needed:
        raise ValueError(f"{needed} maps are needed at least, and there are {len(sample)}")
    space = _Embedded.of(sample, options)
    means = [Mean(maps.shape) for _ in range(space.count)]
    numbers, oddness = np.full(len(maps), -1), np.zeros(len(maps))
    points = np.zeros((len(maps), 2))
    numbers[places], oddness[places], points[places] = space.numbers, space.oddness, space.points(sample)
    others = numbers < 0
    for rows, of_shard in maps.shards():
        new = [place for place, row in enumerate(rows) if others[row]]
        found = _vectors([of_shard[place] for place in new], grid)
        known = found.any(1)
        if known.any():
            mine = rows[new][known]
            numbers[mine], oddness[mine] = space.joined(found[known])
            points[mine] = space.points(found[known])
        for row, values in zip(rows, of_shard, strict=True):
            if numbers[row] >= 0:
                means[numbers[row]].add(values, normalise=True)
    kept = np.flatnonzero(numbers >= 0)
    images = maps.rows["image"]
    cancelled = [LeftOut(int(maps.indices[row]), images[row].as_py(), CANCELLED) for row in np.flatnonzero(numbers < 0)]
    embedded = np.zeros(len(maps), bool)
    embedded[places] = True
    return Clusters(
        run,
        maps.method,
        maps.view,
        options,
        maps.indices[kept],
        tuple(images.take(kept).to_pylist()),
        numbers[kept],
        oddness[kept],
        embedded[kept],
        points[kept],
        space.eigenvalues,
        space.separation,
        tuple(
            MeanMap(one.values, f"cluster {number}", maps.method, maps.view, one.count, one.resampled, ())
            for number, one in enumerate(means)
        ),
        tuple(sorted([*maps.left_out, *cancelled])),
        (rank, input),
    )


def _grid(maps: DrawnMaps, size: int) -> Shape:
    """The cells along each axis; the entries of a table are not averaged, they have no neighbours."""
    smallest = tuple(map(min, zip(*maps.shapes, strict=True)))
    return smallest if maps.of_tables else tuple(min(size, side) for side in smallest)


def _vectors(maps: Sequence[Tensor], grid: Shape) -> NDArray[np.float32]:
    """Maps on the grid, each of norm 1, (n, cells); zeros where one is zero there."""
    found = np.zeros((len(maps), math.prod(grid)), np.float32)
    shapes = [tuple(one.shape) for one in maps]
    for shape in set(shapes):  # together: of small maps one at a time, a thread pool costs more than the sums
        mine = [place for place, other in enumerate(shapes) if other == shape]
        values = torch.stack([maps[place] for place in mine])
        flat = resampled(values, grid).flatten(1).double()
        norm = torch.linalg.vector_norm(flat, dim=1, keepdim=True)
        largest = values.flatten(1).abs().amax(1, keepdim=True)
        # what cancels leaves rounding errors
        found[mine] = torch.where(norm <= 1e-6 * largest, 0.0, flat / norm).float().numpy()
    return found


@dataclass(frozen=True, eq=False)
class _Embedded:
    """Maps on the grid, (n, cells), and their clusters."""

    sample: NDArray[np.float32]
    neighbours: int
    eigenvalues: Values
    numbers: Rows
    separation: Values
    oddness: Values

    @classmethod
    def of(cls, sample: NDArray[np.float32], options: Clustering) -> _Embedded:
        cluster, near, metrics = (_module(f"sklearn.{name}") for name in ("cluster", "neighbors", "metrics"))
        n = len(sample)
        k = min(n - 1, options.neighbours or max(3, min(NEIGHBOURS, round(n**0.5))))
        nearest = near.NearestNeighbors(n_neighbors=k).fit(sample)
        distances, others = nearest.kneighbors()  # without each itself
        values, vectors = _spectrum(others, max(MOST, options.n or 1) + 1)
        count = options.n or _eigengap(values, n)
        rows = vectors[:, :count]
        rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of fewer different rows than clusters: those are left that are not empty
            found = cluster.KMeans(count, n_init=10, random_state=options.seed).fit(rows).labels_
        _, found = np.unique(found, return_inverse=True)
        count = int(found.max()) + 1
        separation = np.zeros(count)
        if 1 < count < n:
            each = metrics.silhouette_samples(sample, found)
            separation = np.array([each[found == number].mean() for number in range(count)])
        order = np.argsort(-separation, kind="stable")
        return cls(sample, k, values, np.argsort(order)[found], separation[order], distances.mean(1).astype(np.float64))

    @property
    def count(self) -> int:
        """How many clusters there are."""
        return len(self.separation)

    def joined(self, others: NDArray[np.float32]) -> tuple[Rows, Values]:
        """The cluster and the oddness of maps that are not embedded."""
        distances, near = self._nearest.kneighbors(others)
        votes = np.stack([np.bincount(one, minlength=self.count) for one in self.numbers[near]])
        return votes.argmax(1), distances.mean(1).astype(np.float64)

    @cached_property
    def _nearest(self) -> Any:
        return _module("sklearn.neighbors").NearestNeighbors(n_neighbors=self.neighbours).fit(self.sample)

    def points(self, maps: NDArray[np.float32]) -> Values:
        """The first two principal components."""
        found: Values = np.zeros((len(maps), 2))
        scores = self._components.transform(maps)
        found[:, : scores.shape[1]] = scores
        return found

    @cached_property
    def _components(self) -> Any:
        return _module("sklearn.decomposition").PCA(min(2, *self.sample.shape), svd_solver="full").fit(self.sample)


def _spectrum(nearest: Rows, most: int) -> tuple[Values, Values]:
    """The smallest eigenvalues, ascending, and eigenvectors of the normalised Laplacian of nearest neighbours."""
    n = len(nearest)
    W = np.zeros((n, n))
    W[np.arange(n)[:, None], nearest] = 1
    W = np.maximum(W, W.T)
    scaled = 1 / np.sqrt(W.sum(1))  # D^(-1/2)
    L = np.eye(n) - scaled[:, None] * W * scaled
    values, vectors = _module("scipy.linalg").eigh(L, subset_by_index=[0, min(most, n) - 1])
    return np.maximum(values, 0), vectors


def _eigengap(values: Values, n: int) -> int:
    """How many eigenvalues there are before the largest gap; half as many as maps at most."""
    gaps = np.diff(values)[: max(1, n // 2)]
    return int(np.argmax(gaps)) + 1


def _module(name: str) -> Any:
    """A module of scikit-learn, or of SciPy, which that brings.

    Raises:
        MissingExtra: if it is not installed.
    """
    try:
        return import_module(name)
    except ImportError:
        raise MissingExtra("clusters need scikit-learn: pip install 'deepviz[data]'") from None
