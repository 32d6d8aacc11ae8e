"""What is left of maps when a network's layers are random: the numbers, verdicts and pictures."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from html import escape
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deepviz import catalog
from deepviz.files import versions
from deepviz.methods.method import Method
from deepviz.metrics.bootstrap import FEWEST, interval
from deepviz.metrics.similarity import SIMILARITIES
from deepviz.models import LoadedModel, Prepared, Preprocess
from deepviz.models.stored import FilePreprocess
from deepviz.models.weights import weights_hash
from deepviz.probe.borrow import original
from deepviz.probe.layer_names import named
from deepviz.render.contact import Thumbnail, contact_sheet
from deepviz.render.figure import figure
from deepviz.results.dependence import verdict_of
from deepviz.results.explanation import ExplainedTarget, Explanation
from deepviz.results.identity import (
    Layers,
    Titles,
    captions,
    joined_titles,
    layers_that_differ,
    of_other_layers,
    other_layer,
    row_layers,
    titles_of,
)
from deepviz.results.numbers import Values, array, listed, mean_of_known, plain
from deepviz.results.outcomes import Missing
from deepviz.results.tables import INTERVALS, Table, Tabular, check_part, with_interval

VERDICT = "absolute-spearman"
"""The similarity that the verdict is of: the rank correlation of magnitudes, which contrast does not move."""


@dataclass(frozen=True, eq=False)
class RandomizationResult:
    """One image's maps, from the trained network to the fully randomised one, for one target.

    Args:
        image: the prepared image.
        stages: "trained", then the last layer that each stage has randomised.
        shares: of the layers that are random up to there, from 0 to 1.
        maps: by method, then stage; None for a method that gave no map.
        similarities: by name, (methods, stages), 1 for the trained network; NaN for a method that gave no map, and
            where a map is blank, the same everywhere: there is nothing to compare.
        missing: for each method why it gave no map; None if it did.
        output: what the model's outputs were read as, and how it was known; None if they were not.
    """

    image: Prepared
    stages: tuple[str, ...]
    shares: tuple[float, ...]
    maps: list[list[Explanation] | None]
    similarities: dict[str, Values]
    missing: tuple[Missing | None, ...]
    output: dict[str, str] | None = None

    @property
    def name(self) -> str:
        """The image's name."""
        return self.image.name

    @property
    def target(self) -> ExplainedTarget:
        """What was explained."""
        return next(history[0].target for history in self.maps if history is not None)

    @property
    def layers(self) -> Layers:
        """For each method the layer that it explained, if any."""
        return tuple(None if history is None else history[0].layer for history in self.maps)

    @property
    def titles(self) -> Titles:
        """Of the layers."""
        return titles_of(history[0] for history in self.maps if history is not None)

    @property
    def reasons(self) -> tuple[str | None, ...]:
        """For each method why it gave no map; None if it did."""
        return tuple(None if one is None else one.reason for one in self.missing)


@dataclass(frozen=True)
class StoredTarget:
    """What was explained, in words.

    Args:
        shown: with its probability.
        label: without it.
    """

    shown: str
    label: str

    def __str__(self) -> str:
        return self.shown


@dataclass(frozen=True, eq=False)
class StoredRandomization:
    """The numbers of a `RandomizationResult` of an earlier run, without image and maps.

    Args:
        image: the same object for all targets of an image.
        reasons: for each method why it gave no map; None if it did.
    """

    image: object
    name: str
    target: StoredTarget
    stages: tuple[str, ...]
    shares: tuple[float, ...]
    similarities: dict[str, Values]
    layers: Layers
    reasons: tuple[str | None, ...]
    output: dict[str, str] | None = None
    titles: Titles = field(default_factory=dict)

    @classmethod
    def from_json(cls, held: dict[str, Any], image: object) -> StoredRandomization:
        """What `numbers_of` gave."""
        return cls(
            image=image,
            name=held["name"],
            target=StoredTarget(held["target"], held["label"]),
            stages=tuple(held["stages"]),
            shares=tuple(held["shares"]),
            similarities={name: array(values) for name, values in held["similarities"].items()},
            layers=tuple(held["layers"]),
            reasons=tuple(held["reasons"]),
            output=held["output"],
            titles=held.get("titles", {}),
        )


Examined = RandomizationResult | StoredRandomization


def numbers_of(one: Examined) -> dict[str, Any]:
    """All but image and maps, as plain values for JSON: what `StoredRandomization.from_json` reads."""
    return {
        "name": one.name,
        "target": str(one.target),
        "label": one.target.label,
        "stages": list(one.stages),
        "shares": list(one.shares),
        "similarities": {name: listed(values) for name, values in one.similarities.items()},
        "layers": list(one.layers),
        "titles": dict(one.titles),
        "reasons": list(one.reasons),
        "output": one.output,
    }


@dataclass(frozen=True, eq=False)
class Sanity(Tabular):
    """Results of `sanity_check`: how similar each method's maps stay at each stage, and what that means.

    Args:
        methods: the rows, by captions that tell them apart.
        keys: what each row's verdict is remembered by: the method with all of its options and the layer.
        stages: "trained", then the last layer that each stage has randomised, from the output down.
        examined: one for each image, or for each image and target.
        cascading: whether each stage keeps the new weights of those before.
        model: its name, with where its weights come from.
        fingerprint: of the weights, SHA-256.
        versions: of deepviz and torch.
        key: what verdicts on this network are remembered by.
        seed: of the random weights.
        layers: for each row the layer that it is about, if any; images in which the method found another are left out.
    """

    parts: ClassVar[Mapping[str, Sequence[str]]] = {
        "summary": ("method", "layers random", "mean", "low", "high", "images", "verdict"),
        "values": ("image", "target", "method", "similarity", "stage", "layers random", "value", "reason"),
    }

    methods: tuple[str, ...]
    keys: tuple[str, ...]
    stages: tuple[str, ...]
    examined: tuple[Examined, ...]
    cascading: bool
    model: str
    fingerprint: str
    versions: dict[str, str] = field(default_factory=dict)
    key: str = ""
    seed: int = 0
    layers: Layers = ()

    @classmethod
    def of(
        cls,
        loaded: LoadedModel,
        methods: Sequence[Method],
        examined: Sequence[Examined],
        cascading: bool = True,
        seed: int = 0,
    ) -> Sanity:
        """What was examined, as one result.

        Raises:
            ValueError: if nothing was.
        """
        if not examined:
            raise ValueError("no image was checked")
        key = key_of(loaded)
        layers = row_layers([one.layers for one in examined], len(methods))
        return cls(
            methods=captions(methods, layers, joined_titles(one.titles for one in examined)),
            keys=tuple(map(catalog.key, methods, layers)),
            stages=examined[0].stages,
            examined=tuple(examined),
            cascading=cascading,
            model=f"{loaded.name} ({loaded.weights})",
            fingerprint=key.partition("-")[0],
            versions=versions(),
            key=key,
            seed=seed,
            layers=layers,
        )

    @property
    def output(self) -> dict[str, str] | None:
        """What the model's outputs were read as ("kind"), and how it was "known"; None if no image needed them."""
        return next((one.output for one in self.examined if one.output), None)

    @cached_property
    def similarities(self) -> dict[str, Values]:
        """By name, (images, methods, stages); NaN for a method that does not apply, or that explained another layer
        than its row is about."""
        found = {name: np.stack([one.similarities[name] for one in self.examined]) for name in SIMILARITIES}
        for values in found.values():
            values[self._left_out] = np.nan
        return found

    @cached_property
    def _left_out(self) -> NDArray[np.bool_]:
        """(images, methods): where a method explained another layer than its row is about."""
        layers = self.layers or (None,) * len(self.methods)
        return of_other_layers([one.layers for one in self.examined], layers)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What the reader of the verdicts has to know of single rows, one sentence each."""
        found = [one.layers for one in self.examined]
        return layers_that_differ(self.methods, found, self.layers, self._titles) if self.layers else ()

    @cached_property
    def _titles(self) -> Titles:
        return joined_titles(one.titles for one in self.examined)

    @property
    def shares(self) -> tuple[float, ...]:
        """Of the layers that are random at each stage, from 0 to 1."""
        return self.examined[0].shares

    def kept(self, share: float = 1.0, similarity: str = VERDICT) -> Values:
        """(methods,): what is left of each method's map at the stage where `share` of the layers are random, the mean
        over images; the nearest stage counts, and below 1 not the last one. NaN for a method that does not apply, for
        blank maps, and if there is no such stage. Without cascading, the mean over all stages."""
        values = self.similarities[similarity]
        if not self.cascading:
            return mean_of_known(values[:, :, 1:].transpose(0, 2, 1).reshape(-1, len(self.methods)))
        stage = self._stage(share)
        return np.full(len(self.methods), np.nan) if stage is None else mean_of_known(values[:, :, stage])

    def _stage(self, share: float) -> int | None:
        there = [number for number, of in enumerate(self.shares) if number and (of < 1 or share == 1)]
        return min(there, key=lambda number: round(abs(self.shares[number] - share), 6), default=None)

    @property
    def blank(self) -> tuple[int, ...]:
        """For each method in how many images its map is blank with all layers random, or is blank to begin with."""
        maps = np.array([[reason is None for reason in image.reasons] for image in self.examined]) & ~self._left_out
        return tuple((np.isnan(self.similarities[VERDICT][:, :, -1]) & maps).sum(0).tolist())

    @property
    def summary(self) -> dict[str, dict[str, float]]:
        """For each method what it keeps with about "half" (NaN if that was not tried: `share` of them) and with "all"
        of the layers random, and of how many "images" that is the mean."""
        return {self.methods[row]: of for row, of in self._rows.items()}

    @property
    def by_key(self) -> dict[str, dict[str, Any]]:
        """By the rows' keys what is remembered: for each image the similarity with about "half" and with "all" of the
        layers random, NaN where it is not known, and the "share" of the layers that is about half."""
        stage = self._stage(0.5)
        share = float("nan") if stage is None else self.shares[stage]
        return {
            self.keys[row]: {"half": self._by_image(row, stage), "all": self._by_image(row, -1), "share": share}
            for row in self._rows
        }

    def _by_image(self, row: int, stage: int | None) -> list[float]:
        """A method's similarity at a stage for each image that it has maps of: the mean over the image's targets."""
        values = self.similarities[VERDICT][:, row]
        by_image: dict[int, list[float]] = {}
        for number, one in enumerate(self.examined):
            if one.reasons[row] is None and not self._left_out[number, row]:
                known = float("nan") if stage is None else float(values[number, stage])
                by_image.setdefault(id(one.image), []).append(known)
        return [float(mean_of_known(np.array(of)[:, None])[0]) for of in by_image.values()]

    @property
    def _rows(self) -> dict[int, dict[str, float]]:
        stage = self._stage(0.5)
        share = float("nan") if stage is None else self.shares[stage]
        return {
            row: {"half": float(half), "all": float(whole), "images": float(self._compared(row)), "share": share}
            for row, (half, whole) in enumerate(zip(self.kept(0.5), self.kept(1.0), strict=True))
            if not np.isnan(whole)
        }

    def _compared(self, row: int) -> int:
        """The number of images in which a method's maps are compared."""
        there = ~np.isnan(self.similarities[VERDICT][:, row, -1])
        return len({id(one.image) for one, compared in zip(self.examined, there, strict=True) if compared})

    @property
    def verdicts(self) -> dict[str, str]:
        """For each method that applies one sentence: a verdict takes at least 8 images."""
        rows, by_key = self._rows, self.by_key
        verdicts = {}
        for row, (name, blank) in enumerate(zip(self.methods, self.blank, strict=True)):
            if row in rows and self.cascading:
                verdicts[name] = str(verdict_of(by_key[self.keys[row]]))
            elif row in rows:
                left = f" ({blank} of {len(self.examined)} images left out: a map is blank there)" if blank else ""
                verdicts[name] = f"similarity {rows[row]['all']:.2f} to the original map when one part is random{left}"
            elif any(one.reasons[row] is None for one in self.examined):
                verdicts[name] = "its map is blank with all layers random, so it cannot be compared"
        return verdicts

    def table(self) -> list[dict[str, Any]]:
        """One entry for each method and share of the layers that is random (about half, and all): how similar its maps
        stay to those of the trained network, the mean over images with its 95 % bootstrap interval."""
        verdicts = self.verdicts
        return [
            {
                "method": self.methods[row],
                "layers random": share,
                "mean": plain(mean),
                "low": plain(low),
                "high": plain(high),
                "images": images,
                "verdict": verdicts.get(self.methods[row], ""),
            }
            for row in range(len(self.methods))
            for share, (mean, low, high, images) in self._spreads(row).items()
        ]

    def _spreads(self, row: int) -> dict[float, tuple[float, float, float, int]]:
        """By the share of random layers, the mean over images of what is left of a method's map, its interval and the
        number of images; of layers that are random one part at a time, the share is that of a part."""
        values = self.similarities[VERDICT][:, row]
        if self.cascading:
            stages = [stage for stage in (self._stage(0.5), self._stage(1.0)) if stage is not None]
            of_images = {self.shares[stage]: values[:, stage] for stage in stages}
        else:
            of_images = {1 / (len(self.stages) - 1): mean_of_known(values[:, 1:].T)}
        images = [id(one.image) for one in self.examined]
        found = {}
        for share, each in of_images.items():
            # several targets of an image are not independent
            means = np.array([mean_of_known(each[[one == image for one in images]]) for image in dict.fromkeys(images)])
            means = means[~np.isnan(means)]
            found[share] = (float(means.mean()) if len(means) else np.nan, *interval(means), len(means))
        return found

    def values_table(self) -> list[dict[str, Any]]:
        """One entry for each image, target, method, similarity and stage: the value, or why there is none."""
        return [
            {
                "image": one.name,
                "target": one.target.label,
                "method": self.methods[row],
                "similarity": name,
                "stage": self.stages[stage],
                "layers random": self.shares[stage],
                "value": plain(values[number, row, stage]),
                "reason": self._reason(number, row) if np.isnan(values[number, row, stage]) else "",
            }
            for number, one in enumerate(self.examined)
            for row in range(len(self.methods))
            for name, values in self.similarities.items()
            for stage in range(len(self.stages))
        ]

    def _reason(self, number: int, row: int) -> str:
        one = self.examined[number]
        if reason := one.reasons[row]:
            return reason
        if self._left_out[number, row]:
            return other_layer(one.layers[row], self.layers[row], self._titles)
        return "a map is blank: nothing to compare"

    def entries(self, part: str = "summary") -> list[dict[str, Any]]:
        """One of the tables as plain values: `table` or `values_table`."""
        check_part(part, self.parts)
        return self.table() if part == "summary" else self.values_table()

    @property
    def text_table(self) -> Table:
        """The methods with what is left of their maps, in words."""
        spreads = [self._spreads(row) for row in range(len(self.methods))]
        what = "of the layers random" if self.cascading else "of the layers random at a time"
        return Table(
            [f"{share:.0%} {what}" for share in spreads[0]],
            self.methods,
            [[with_interval(*spread[:3]) for spread in of.values()] for of in spreads],
            self.footnote + (INTERVALS if len({id(one.image) for one in self.examined}) >= FEWEST else ""),
        )

    def as_json(self) -> dict[str, Any]:
        """Everything but the maps, as plain values for JSON."""
        return {
            "model": self.model,
            "output": self.output,
            "weights": self.fingerprint,
            "versions": self.versions,
            "cascading": self.cascading,
            "seed": self.seed,
            "images": [one.name for one in self.examined],
            "targets": [str(one.target) for one in self.examined],
            "stages": list(self.stages),
            "shares": list(self.shares),
            "methods": list(self.methods),
            "similarities": {
                name: [[[plain(value) for value in row] for row in image] for image in values]
                for name, values in self.similarities.items()
            },
            "kept": {name: [plain(value) for value in self.kept(1.0, name)] for name in SIMILARITIES},
            "blank": dict(zip(self.methods, self.blank, strict=True)),
            "verdicts": self.verdicts,
            "layers": list(self.layers),
            "layers of images": [list(one.layers) for one in self.examined],
            "remarks": list(self.remarks),
        }

    def strip(self, image: int = 0, most: int = 6) -> Image.Image:
        """The maps of one image, a row for each method, from the trained network to the randomised one.

        Every map has its own scale, so that what is left of a pattern is seen, not how small its values became.

        Raises:
            ValueError: for an image of an earlier run, whose maps are not stored.
        """
        one = self.examined[image]
        if not isinstance(one, RandomizationResult):
            raise ValueError(f"the maps of {one.name} are not stored, only its numbers")
        shown = np.unique(np.linspace(0, len(self.stages) - 1, min(most, len(self.stages))).round().astype(int))
        trained = next((history[0] for history in one.maps if history is not None), None)
        index = None if trained is None or trained.layout != "slices" else trained.best_slice
        thumbnails = [
            Thumbnail(seen(history[stage], index), *self._lines(row, one, stage))
            for row, history in enumerate(one.maps)
            if history is not None
            for stage in shown
        ]
        title = f"{one.name}: maps with randomised layers, {one.target}"
        footer = f"{self.model}; similarity: rank correlation of magnitudes; each map on its own scale"
        if trained is not None and index is not None:
            footer = f"{trained.name_of(index)}; {footer}"
        return contact_sheet(thumbnails, title=title, footer=footer, columns=len(shown))

    def _lines(self, row: int, one: RandomizationResult, stage: int) -> tuple[str, str]:
        """The two lines below a map."""
        kept = one.similarities[VERDICT][row][stage]
        if stage == 0:
            other = one.layers[row] if self.layers and one.layers[row] != self.layers[row] else None
            return self.methods[row], f"trained, layer {named(other, self._titles.get(other))}" if other else "trained"
        where = f"{self.shares[stage]:.0%} of the layers random" if self.cascading else f"random: {self.stages[stage]}"
        return "blank: nothing to compare" if np.isnan(kept) else f"{kept:.2f} kept", where

    def plot(self) -> Any:
        """Draw the similarities, stage by stage, and return the matplotlib figure.

        Raises:
            MissingExtra: without matplotlib.
        """
        chart = figure(5.2 * len(self.similarities), 4.8)
        for place, (name, values) in enumerate(self.similarities.items(), 1):
            axes = chart.add_subplot(1, len(self.similarities), place)
            for row, method in enumerate(self.methods):
                mean = mean_of_known(values[:, row])
                if not np.isnan(mean).all():
                    axes.plot(self.shares, mean, label=method, linewidth=1.8, marker="o", markersize=3)
            axes.set_title(name)
            axes.set_xlabel(
                "share of the layers that are random, from the output down"
                if self.cascading
                else "place of the random layers, from the output (0) to the input (1)"
            )
            axes.set_ylim(-0.3, 1.05)
            axes.axhline(0, color="0.8", linewidth=0.8)
            axes.spines[["top", "right"]].set_visible(False)
        chart.axes[0].set_ylabel("similarity to the trained network's map")
        if chart.axes[-1].lines[1:]:  # besides the line at zero; matplotlib warns of a legend of nothing
            chart.axes[-1].legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
        return chart

    def __str__(self) -> str:
        width = max(map(len, self.methods))
        return "\n".join(
            [*(f"{name.ljust(width)}  {message}" for name, message in self.verdicts.items()), self.footnote]
        )

    @property
    def footnote(self) -> str:
        """What the numbers are, and what they were made of."""
        n = len({id(one.image) for one in self.examined})
        remarks = "".join(f" {remark}" for remark in self.remarks)
        return (
            f"{n} image{'s' if n > 1 else ''}, {self.model}.{remarks} The number is the rank correlation of magnitudes "
            "between the maps of the trained and of the random network. A map that is independent of the network, such "
            "as an edge detector's, has 1.00."
        )

    def __repr__(self) -> str:
        return (
            f"Sanity({len(self.methods)} methods, {len(self.stages)} stages, {len(self.examined)} images, {self.model})"
        )

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{escape(name)}</th><td>{escape(message)}</td></tr>"
            for name, message in self.verdicts.items()
        )
        return f"<table><tbody>{rows}</tbody></table><p><small>{escape(self.footnote)}</small></p>"


def seen(explanation: Explanation, index: int | None = None) -> Image.Image:
    """The overlay of a map, without what the model did not see; of a volume or clip a slice, by default the one with
    the most evidence."""
    if explanation.layout == "slices":
        flat = explanation.slice_at(explanation.best_slice if index is None else index)
        return flat.overlay(scale=explanation.scale)
    if explanation.layout == "table":
        return explanation.overlay()
    left, top, right, bottom = explanation.geometry.box
    width, height = explanation.geometry.size
    box = (max(0, round(left)), max(0, round(top)), min(width, round(right)), min(height, round(bottom)))
    return explanation.overlay().crop(box)


def key_of(loaded: LoadedModel) -> str:
    """What verdicts on a network are remembered by: its weights, its structure and its preprocessing."""
    module = original(loaded.module)
    structure = re.sub(r" at 0x[0-9a-f]+", "", repr(module))
    preprocess = loaded.preprocess if isinstance(loaded.preprocess, (Preprocess, FilePreprocess)) else ""
    described = f"{type(module).__module__}.{type(module).__qualname__} {structure} {preprocess}"
    return f"{weights_hash(module)}-{sha256(described.encode()).hexdigest()[:8]}"
