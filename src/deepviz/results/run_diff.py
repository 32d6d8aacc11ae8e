"""Two runs over the same images: which predictions changed, and which were kept for another reason."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from deepviz.methods.method import Method, View, drawn_values
from deepviz.metrics.bootstrap import Values, interval
from deepviz.metrics.similarity import correlation
from deepviz.results.run import Run

LEVEL = 0.05
"""The share of false findings that is allowed among those that are called significant."""


@dataclass(frozen=True)
class Change:
    """What became of one image.

    Args:
        image: its name.
        indices: its positions in the two sources.
        label: its label; None if there is none.
        predictions: in the two runs.
        change: 1 - the correlation of the two maps, as they are drawn; None if the explained classes differ, or one has
            no map.
        noise: the same between the first run and the one that measures noise; None without one.
        significant: whether the change is above the noise, among all images; None without noise.
    """

    image: str
    indices: tuple[int, int]
    label: str | None
    predictions: tuple[str | None, str | None]
    change: float | None
    noise: float | None = None
    significant: bool | None = None

    @property
    def kept(self) -> bool:
        """Whether the prediction is the same."""
        return self.predictions[0] == self.predictions[1]


@dataclass(frozen=True, eq=False)
class Diff:
    """How two runs differ.

    Args:
        method: whose maps are compared.
        changes: one for each image of both runs.
        unmatched: images of one run alone.
        altered: images of both runs that the two models were not given alike: they are others, or were prepared in
            another way.
    """

    method: str
    changes: tuple[Change, ...]
    unmatched: int
    altered: int = 0

    @property
    def flipped(self) -> list[Change]:
        """The images with another prediction."""
        return [one for one in self.changes if not one.kept]

    @cached_property
    def reasons(self) -> list[Change]:
        """The images that kept their prediction, those first whose map changed most."""
        kept = [one for one in self.changes if one.kept and one.change is not None]
        return sorted(kept, key=lambda one: -(one.change or 0.0))

    @property
    def significant(self) -> list[Change]:
        """Those of `reasons` whose change is above the noise of the method.

        Each change is compared with those of all images between two runs that should not differ, and the share of false
        findings is held at 5 % (Benjamini and Hochberg 1995): at least 20 images have to stand out.

        Raises:
            ValueError: if no noise was measured.
        """
        if any(one.significant is None for one in self.reasons):
            raise ValueError("no noise was measured: give noise=, a run of the first model that should not differ")
        return [one for one in self.reasons if one.significant]

    @property
    def mean_change(self) -> float:
        """The mean change of the maps of images that kept their prediction, less that of the noise; NaN for none."""
        values = _above_noise(self.reasons)
        return float(values.mean()) if len(values) else float("nan")

    def by_class(self) -> list[dict[str, Any]]:
        """For each predicted class: its images, and the mean change of their maps, less the noise, with its interval;
        the largest first."""
        classes: dict[str | None, list[Change]] = {}
        for one in self.reasons:
            classes.setdefault(one.predictions[0], []).append(one)
        found = []
        for name, changes in classes.items():
            values = _above_noise(changes)
            if not len(values):
                continue
            low, high = interval(values)
            found.append(
                {"class": name, "images": len(values), "change": float(values.mean()), "low": low, "high": high}
            )
        return sorted(found, key=lambda one: -one["change"])

    def __str__(self) -> str:
        kept = len(self.changes) - len(self.flipped)
        lines = [
            f"{len(self.changes)} images: {kept} kept their prediction, {len(self.flipped)} did not",
            f"mean change of the maps of {self.method} where it was kept: {self.mean_change:.3f}",
        ]
        if self.reasons and self.reasons[0].significant is not None:
            lines.append(f"above the noise, at a false discovery rate of 5 %: {len(self.significant)} images")
        if self.unmatched:
            lines.append(f"{self.unmatched} images are in one run alone")
        if self.altered:
            lines.append(f"{self.altered} images are not the same in both runs, or were prepared in another way")
        return "\n".join(lines)


def diff(
    one: Run | str | os.PathLike[str],
    other: Run | str | os.PathLike[str],
    method: Method | str | None = None,
    *,
    noise: Run | str | os.PathLike[str] | None = None,
) -> Diff:
    """Compare the maps of two runs, image by image: of two checkpoints, say.

    Images are matched by their names. The change of a map is 1 - Pearson's correlation of the values that are drawn: 0
    for maps that are alike up to their scale, 1 for maps that have nothing to do with each other, 2 for opposite ones.
    Pixels count by their values: ranks would be decided by the many pixels that matter to neither model.

    Args:
        one: a run, or its folder.
        other: the run that is compared with it.
        method: whose maps; by default the only one that both have.
        noise: a run that should not differ from the first: with another seed of a random method, or of a network that
            was trained again in the same way. Changes are then judged by how much it differs.

    Returns:
        What changed, to be printed or asked.

    Raises:
        ValueError: if the runs have no image or no method in common, or several methods and none is named.
        LookupError: for a method that a run has no maps of.

    Example:
        >>> import deepviz, tempfile, torch
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 5))
        >>> images = torch.rand(4, 3, 8, 8)
        >>> runs = [deepviz.run(net, images, "gradient", out=tempfile.mkdtemp()) for _ in range(2)]
        >>> print(deepviz.diff(*runs))
        4 images: 4 kept their prediction, 0 did not
        mean change of the maps of gradient where it was kept: 0.000
    """
    runs = [_opened(one), _opened(other)]
    names = _method_of_both(runs, method)
    before, after = (_Rows.of(run, name) for run, name in zip(runs, names, strict=True))
    shared = [name for name in before.rows if name in after.rows]
    if not shared:
        raise ValueError(f"{runs[0].folder} and {runs[1].folder} have no image of the same name")
    again = None
    if noise is not None:
        third = _opened(noise)
        # of a random method with another seed, the name is another one
        again = _Rows.of(third, third.name_of(None if len(third.methods) == 1 else names[0]))
    changes = [_change(name, before, after, again) for name in shared]
    unmatched = len(before.rows) + len(after.rows) - 2 * len(shared)
    altered = sum(before.rows[name]["content"] != after.rows[name]["content"] for name in shared)
    return Diff(names[0], tuple(_judged(changes) if again is not None else changes), unmatched, altered)


@dataclass(frozen=True, eq=False)
class _Rows:
    """The rows of one method, of the best target and the first input, by the image's name."""

    run: Run
    rows: dict[str, dict[str, Any]]
    view: View

    @classmethod
    def of(cls, run: Run, method: str) -> _Rows:
        view = next(one["view"] for one in run.manifest["methods"] if one["name"] == method)
        wanted = ["index", "image", "label", "prediction", "target", "method", "rank", "map", "content"]
        rows: dict[str, dict[str, Any]] = {}
        for row in run.rows.select(wanted).to_pylist():
            if row["method"] == method and row["rank"] == 0:
                rows.setdefault(row["image"], row)
        return cls(run, rows, view)

    def drawn(self, name: str) -> Tensor | None:
        """The values that are drawn, (h, w); None without a map."""
        row = self.rows.get(name)
        if row is None or row["map"] is None:
            return None
        maps = self.run.map(row["index"], row["method"])
        values = drawn_values(maps, self.view)
        return values.reshape(-1, values.shape[-1]) if values.ndim else values.reshape(1, 1)


def _change(name: str, before: _Rows, after: _Rows, again: _Rows | None) -> Change:
    one, other = before.rows[name], after.rows[name]
    return Change(
        name,
        (one["index"], other["index"]),
        one["label"],
        (one["prediction"], other["prediction"]),
        _apart(name, before, after),
        None if again is None else _apart(name, before, again),
    )


def _apart(name: str, one: _Rows, other: _Rows) -> float | None:
    if name not in other.rows or one.rows[name]["target"] != other.rows[name]["target"]:
        return None
    a, b = one.drawn(name), other.drawn(name)
    if a is None or b is None:
        return None
    if a.shape != b.shape:
        b = F.interpolate(b[None, None], a.shape, mode="bilinear", align_corners=False)[0, 0]
    # equal maps have no change: --fail-above 0 is not for rounding errors of sums
    return round(max(0.0, 1.0 - float(correlation(a.reshape(1, -1), b.reshape(1, -1)))), 9)


def _judged(changes: Sequence[Change]) -> list[Change]:
    """The changes, each with whether it is above the noise (Benjamini and Hochberg 1995)."""
    noise = np.sort([one.noise for one in changes if one.noise is not None])
    places = [k for k, one in enumerate(changes) if one.kept and one.change is not None]
    values = np.array([changes[k].change for k in places], np.float64)
    chances = (1 + len(noise) - np.searchsorted(noise, values, "left")) / (1 + len(noise))
    order = np.argsort(chances, kind="stable")
    passed = np.flatnonzero(chances[order] <= LEVEL * np.arange(1, len(order) + 1) / max(1, len(order)))
    found = {places[k] for k in order[: passed[-1] + 1]} if len(passed) else set()
    return [replace(one, significant=k in found) for k, one in enumerate(changes)]


def _above_noise(changes: Sequence[Change]) -> Values:
    """The changes, less the noise where that was measured; of those alone that have one."""
    measured = any(one.significant is not None for one in changes)
    pairs = [(one.change, one.noise if measured else 0.0) for one in changes]
    values: Values = np.array([a - b for a, b in pairs if a is not None and b is not None], np.float64)
    return values


def _opened(given: Run | str | os.PathLike[str]) -> Run:
    return given if isinstance(given, Run) else Run(given)


def _method_of_both(runs: Sequence[Run], method: Method | str | None) -> list[str]:
    """The names that the method has in the runs."""
    if method is not None:
        return [run.name_of(method) for run in runs]
    shared = [name for name in runs[0].methods if name in runs[1].methods]
    if len(shared) != 1:
        if not shared and all(len(run.methods) == 1 for run in runs):
            return [run.methods[0] for run in runs]
        known = " and ".join(", ".join(run.methods) for run in runs)
        raise ValueError(f"name the method: the runs have those of {known}")
    return shared * 2
