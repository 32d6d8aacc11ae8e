"""Does a map show what the network has learned? The randomisation test of Adebayo et al. 2018, over images."""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from html import escape
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from deepviz.api import Images, Methods, Model, as_list, choose_methods
from deepviz.engine import OneTarget, colour_of, explain_prepared
from deepviz.errors import DeepVizWarning, ModelError
from deepviz.files import versions, write_bytes
from deepviz.methods import Method
from deepviz.metrics.similarity import SIMILARITIES
from deepviz.models import LoadedModel, Prepared, Preprocess, load_model
from deepviz.models.weights import weights_hash
from deepviz.probe.borrow import original
from deepviz.probe.randomise import randomised
from deepviz.render.contact import Print, contact_sheet
from deepviz.render.figure import figure
from deepviz.results.explanation import Explanation

Step = Callable[[str, int], None]
"""Takes what is next, in words, and how many (method, stage) pairs of the image under way are done."""
Failed = Callable[[Prepared, ModelError], None]
Values = NDArray[np.float64]

STAGES = 8
VERDICT = "absolute-spearman"
"""The similarity that the verdict is of: the rank correlation of magnitudes, which contrast does not move."""
NEAR = 0.1
"""A share of the layers that is no further from half of them is called that."""
KEPT, PARTLY_KEPT = 0.5, 0.35
"""Above the one, what is left of a map is most of it; below the other, it is little."""


def sanity_check(
    model: Model,
    images: Images,
    methods: Methods = "all",
    *,
    stages: int = STAGES,
    cascading: bool = True,
    seed: int = 0,
    target: OneTarget | None = None,
    preprocess: Any = None,
) -> Sanity:
    """How much of each method's map is left when the network's layers get new random weights, from the output down.

    A method whose map hardly changes does not show what this network has learned, however convincing it looks. The
    class that is explained stays the one that the trained network predicted. The work is done on a copy; the model
    is never changed.

    Args:
        model: as for `explain`.
        images: as for `explain`.
        methods: as for `explain`.
        stages: in how many steps all layers are randomised; each costs one map of every method.
        cascading: from the output down, each step keeping the new weights of those before; if not, each step's
            layers alone.
        seed: of the weights.
        target: a class for all images; None: each image's predicted class.
        preprocess: as for `explain`.

    Raises:
        As `explain` does.

    Example:
        >>> import deepviz, torch
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(),
        ...                           torch.nn.Linear(144, 5))
        >>> found = deepviz.sanity_check(net, torch.rand(1, 3, 8, 8), ["gradient", "guided-backprop"], stages=2)
        >>> found.stages
        ('trained', '3', '0')
        >>> found.similarities["ssim"].shape  # images, methods, stages
        (1, 2, 3)
    """
    loaded = load_model(model, preprocess=preprocess)
    chosen = choose_methods(methods)
    queue = [loaded.prepare(image) for image in as_list(images)]
    examined = list(
        examine_prepared(loaded, queue, chosen, stages=stages, cascading=cascading, seed=seed, target=target)
    )
    return Sanity.of(loaded, chosen, examined, cascading, seed)


@dataclass(frozen=True, eq=False)
class Examined:
    """One image's maps, from the trained network to the fully randomised one.

    Args:
        image: the prepared image.
        stages: "trained", then the last layer that each stage has randomised.
        shares: of the layers that are random up to there, from 0 to 1.
        maps: by method, then stage; None for a method that does not apply.
        similarities: by name, (methods, stages), 1 for the trained network; NaN for a method that does not apply, and
            where a map is blank, the same everywhere: there is nothing to compare.
        left_out: methods that do not apply to the model, with the reason.
    """

    image: Prepared
    stages: tuple[str, ...]
    shares: tuple[float, ...]
    maps: list[list[Explanation] | None]
    similarities: dict[str, Values]
    left_out: dict[str, str]


def examine_prepared(
    loaded: LoadedModel,
    images: Iterable[Prepared],
    methods: Sequence[Method],
    *,
    stages: int = STAGES,
    cascading: bool = True,
    seed: int = 0,
    target: OneTarget | None = None,
    step: Step | None = None,
    failed: Failed | None = None,
) -> Iterable[Examined]:
    """`sanity_check` for images that are already prepared, one result at a time.

    `step` is called before each method of each stage, for progress. With `failed`, an image that the model has no
    finite answer for is handed to it, and the others are examined all the same.
    """
    for image in images:
        try:
            yield _examined(loaded, image, methods, stages, cascading, seed, target, step)
        except ModelError as error:
            if failed is None:
                raise
            failed(image, error)


def _examined(
    loaded: LoadedModel,
    image: Prepared,
    methods: Sequence[Method],
    stages: int,
    cascading: bool,
    seed: int,
    target: OneTarget | None,
    step: Step | None,
) -> Examined:
    told = _Progress(step, len(methods))
    (answer,) = explain_prepared(loaded, [image], methods, target=target, lenient=True, step=told.trained)
    applied = [row for row, method in enumerate(methods) if str(method) not in answer.left_out]
    maps: list[list[Explanation] | None] = [None] * len(methods)
    for row, explanation in zip(applied, answer.explanations, strict=True):
        maps[row] = [explanation]
    names, shares = ["trained"], [0.0]
    x = image.x[None].to(*loaded.home)
    of_class = answer.explanations[0].target
    explained = of_class.function if of_class.index is None else of_class.index
    for number, stage in enumerate(randomised(loaded.module, x, stages=stages, cascading=cascading, seed=seed), 1):
        names.append(stage.layers[-1])
        shares.append(stage.share)
        for row in applied:
            told.stage(number, row, methods[row])
            history = maps[row]
            assert history is not None
            history.append(_again(loaded, stage.model, x, history[0], explained, names[-1]))
    similarities = {name: np.full((len(methods), len(names)), np.nan) for name in SIMILARITIES}
    for row in applied:
        history = maps[row] or []
        trained = torch.from_numpy(history[0].values)
        for number, one in enumerate(history):
            if _is_blank(history[0]) or _is_blank(one):
                continue
            for name, similarity in SIMILARITIES.items():
                found = 1.0 if number == 0 else float(similarity(trained[None], torch.from_numpy(one.values)[None])[0])
                similarities[name][row, number] = found
    return Examined(image, tuple(names), tuple(shares), maps, similarities, answer.left_out)


def _is_blank(explanation: Explanation) -> bool:
    return float(np.ptp(explanation.values)) == 0


@dataclass(frozen=True)
class _Progress:
    tell: Step | None
    methods: int

    def trained(self, method: Method, done: int) -> None:
        if self.tell is not None:
            self.tell(str(method), done)

    def stage(self, number: int, row: int, method: Method) -> None:
        if self.tell is not None:
            self.tell(f"{method}, randomised", number * self.methods + row)


def _again(
    loaded: LoadedModel, model: torch.nn.Module, x: Tensor, trained: Explanation, target: Any, layer: str
) -> Explanation:
    """The same method's map of the same class, at the same layer, by the randomised copy."""
    # at the layer that it found in the trained network, so that all stages are of the same one
    method = trained.method if trained.layer is None else trained.method.with_layer(trained.layer)
    method = method.resolve_baseline(lambda name: colour_of(loaded, name))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeepVizWarning)  # what a random network is like is no news
        try:
            maps = method(model, x, target)
        except ModelError as error:
            raise ModelError(f"with random weights from the output to {layer!r} there is no map: {error}") from error
    notes = {key: value for key, value in trained.notes.items() if key in ("layer", "photograph")}
    return replace(
        trained,
        attribution=maps[0].detach().float().cpu(),
        notes=notes | {"weights": f"random from the output to {layer}"},
    )


@dataclass(frozen=True, eq=False)
class Sanity:
    """How much of each method's map is left, stage by stage, and what that means.

    Args:
        methods: the rows.
        stages: "trained", then the last layer that each stage has randomised, from the output down.
        examined: one for each image.
        cascading: whether each stage keeps the new weights of those before.
        model: its name, with where its weights come from.
        fingerprint: of the weights, SHA-256.
        versions: of deepviz and torch.
        key: what verdicts on this network are remembered by.
        seed: of the random weights.
    """

    methods: tuple[str, ...]
    stages: tuple[str, ...]
    examined: tuple[Examined, ...]
    cascading: bool
    model: str
    fingerprint: str
    versions: dict[str, str] = field(default_factory=dict)
    key: str = ""
    seed: int = 0

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
            raise ValueError("no image was examined")
        key = key_of(loaded)
        return cls(
            methods=tuple(map(str, methods)),
            stages=examined[0].stages,
            examined=tuple(examined),
            cascading=cascading,
            model=f"{loaded.name} ({loaded.weights})",
            fingerprint=key.partition("-")[0],
            versions=versions(),
            key=key,
            seed=seed,
        )

    @cached_property
    def similarities(self) -> dict[str, Values]:
        """By name, (images, methods, stages); NaN for a method that does not apply."""
        return {name: np.stack([one.similarities[name] for one in self.examined]) for name in SIMILARITIES}

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
            return _mean(values[:, :, 1:].transpose(0, 2, 1).reshape(-1, len(self.methods)))
        stage = self._stage(share)
        return np.full(len(self.methods), np.nan) if stage is None else _mean(values[:, :, stage])

    def _stage(self, share: float) -> int | None:
        there = [number for number, of in enumerate(self.shares) if number and (of < 1 or share == 1)]
        return min(there, key=lambda number: round(abs(self.shares[number] - share), 6), default=None)

    @property
    def blank(self) -> tuple[int, ...]:
        """For each method in how many images its map is blank with all layers random, or is blank to begin with."""
        maps = np.array([[one is not None for one in image.maps] for image in self.examined])
        return tuple((np.isnan(self.similarities[VERDICT][:, :, -1]) & maps).sum(0).tolist())

    @property
    def summary(self) -> dict[str, dict[str, float]]:
        """For each method what it keeps with about "half" (NaN if that was not tried: `share` of them) and with "all"
        of the layers random, and of how many "images" that is the mean."""
        stage = self._stage(0.5)
        share = float("nan") if stage is None else self.shares[stage]
        rows = zip(self.methods, self.kept(0.5), self.kept(1.0), self.blank, strict=True)
        return {
            name: {
                "half": float(half),
                "all": float(whole),
                "images": float(len(self.examined) - blank),
                "share": share,
            }
            for name, half, whole, blank in rows
            if not np.isnan(whole)
        }

    @property
    def verdicts(self) -> dict[str, str]:
        """For each method that applies one sentence."""
        summary = self.summary
        told = {}
        for row, (name, blank) in enumerate(zip(self.methods, self.blank, strict=True)):
            if name in summary:
                of = summary[name]
                said = (
                    verdict(of["half"], of["all"], of["share"])
                    if self.cascading
                    else f"keeps {of['all']:.2f} of its map when a part is random"
                )
                left = f" ({blank} of {len(self.examined)} images left out: a map is blank there)" if blank else ""
                told[name] = said + left
            elif any(one.maps[row] is not None for one in self.examined):
                told[name] = "its map is blank with all layers random: there is nothing to compare"
        return told

    def as_json(self) -> dict[str, Any]:
        """Everything but the maps, as plain values for JSON."""
        return {
            "model": self.model,
            "weights": self.fingerprint,
            "versions": self.versions,
            "cascading": self.cascading,
            "seed": self.seed,
            "images": [one.image.name for one in self.examined],
            "stages": list(self.stages),
            "shares": list(self.shares),
            "methods": list(self.methods),
            "similarities": {
                name: [[[_plain(value) for value in row] for row in image] for image in values]
                for name, values in self.similarities.items()
            },
            "kept": {name: [_plain(value) for value in self.kept(1.0, name)] for name in SIMILARITIES},
            "blank": dict(zip(self.methods, self.blank, strict=True)),
            "verdicts": self.verdicts,
        }

    def strip(self, image: int = 0, most: int = 6) -> Image.Image:
        """The maps of one image, a row for each method, from the trained network to the randomised one.

        Every map has its own scale, so that what is left of a pattern is seen, not how small its values became.
        """
        one = self.examined[image]
        shown = np.unique(np.linspace(0, len(self.stages) - 1, min(most, len(self.stages))).round().astype(int))
        prints = [
            Print(seen(history[stage]), *self._told(history[stage], one.similarities[VERDICT][row][stage], stage))
            for row, history in enumerate(one.maps)
            if history is not None
            for stage in shown
        ]
        explained = next(history[0].target for history in one.maps if history is not None)
        title = f"{one.image.name}: what is left when layers are random, {explained}"
        footer = f"{self.model}; kept: rank correlation of magnitudes; each map on its own scale"
        return contact_sheet(prints, title=title, footer=footer, columns=len(shown))

    def _told(self, explanation: Explanation, kept: float, stage: int) -> tuple[str, str]:
        """The two lines below a map."""
        if stage == 0:
            return explanation.title, "trained"
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
                mean = _mean(values[:, row])
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
        chart.axes[-1].legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
        return chart

    def __str__(self) -> str:
        width = max(map(len, self.methods))
        return "\n".join([*(f"{name.ljust(width)}  {said}" for name, said in self.verdicts.items()), self.footnote])

    @property
    def footnote(self) -> str:
        """What the numbers are, and what they were made of."""
        n = len(self.examined)
        return (
            f"{n} image{'s' if n > 1 else ''}, {self.model}. The number is the rank correlation of magnitudes between "
            "the maps of the trained and of the random network. A map that does not look at the network at all, such "
            "as an edge detector's, keeps 1.00."
        )

    def __repr__(self) -> str:
        return (
            f"Sanity({len(self.methods)} methods, {len(self.stages)} stages, {len(self.examined)} images, {self.model})"
        )

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{escape(name)}</th><td>{escape(said)}</td></tr>"
            for name, said in self.verdicts.items()
        )
        return f"<table><tbody>{rows}</tbody></table><p><small>{escape(self.footnote)}</small></p>"


Dependence = Literal["none", "little", "partly", "full", "unknown"]
"""How far a map depends on what the network has learned, by what is left of it when layers are random."""
MEANING: dict[Dependence, str] = {
    "none": "it does not show what this network learned",
    "little": "it hardly shows what the upper layers, which tell the classes apart, have learned",
    "partly": "it shows in part what this network learned",
    "full": "it depends on what this network learned",
    "unknown": "whether it depends on the upper layers alone takes more stages to tell",
}


def dependence(half: float, whole: float) -> Dependence:
    """What it means that so much of a map is left when about half of the layers, from the output down, and when all are
    random; NaN for what was not tried.

    Example:
        >>> dependence(0.9, 0.8), dependence(0.9, 0.2), dependence(0.4, 0.2), dependence(0.1, 0.1)
        ('none', 'little', 'partly', 'full')
        >>> dependence(float("nan"), 0.1)
        'unknown'
    """
    if whole > KEPT:
        return "none"
    if np.isnan(half):
        return "unknown"
    if half > KEPT:
        return "little"
    return "partly" if max(half, whole) > PARTLY_KEPT else "full"


def verdict(half: float, whole: float, share: float = 0.5) -> str:
    """What is left of a map when a `share` of the layers, from the output down, and when all are random, in words."""
    upper = "half" if abs(share - 0.5) < NEAR else f"{share:.0%}"
    said = f"keeps {half:.2f} of its map with the upper {upper} of the layers random, {whole:.2f} with all"
    if np.isnan(half):
        said = f"keeps {whole:.2f} of its map with all layers random"
    return f"{said}: {MEANING[dependence(half, whole)]}"


def seen(explanation: Explanation) -> Image.Image:
    """The overlay of a map, without what the model did not see."""
    left, top, right, bottom = explanation.geometry.box
    width, height = explanation.geometry.size
    box = (max(0, round(left)), max(0, round(top)), min(width, round(right)), min(height, round(bottom)))
    return explanation.overlay().crop(box)


def key_of(loaded: LoadedModel) -> str:
    """What verdicts on a network are remembered by: its weights, its structure and its preprocessing."""
    module = original(loaded.module)
    structure = re.sub(r" at 0x[0-9a-f]+", "", repr(module))
    preprocess = loaded.preprocess if isinstance(loaded.preprocess, Preprocess) else ""
    told = f"{type(module).__module__}.{type(module).__qualname__} {structure} {preprocess}"
    return f"{weights_hash(module)}-{sha256(told.encode()).hexdigest()[:8]}"


PARTS = ("half", "all", "images", "share")


def remember(found: Sanity) -> Path:
    """Keep what each method keeps in the user's cache, by the network; where. What more images have said stays."""
    known = recall(found.key)
    new = {
        name: of
        for name, of in found.summary.items()
        if not np.isnan(of["half"]) and of["images"] >= known.get(name, of)["images"]
    }
    return write_bytes(_cache(found.key), json.dumps(known | new, indent=1).encode())


def recall(key: str) -> dict[str, dict[str, float]]:
    """What is known of the methods on a network, by `key_of`, as `Sanity.summary` has it."""
    try:
        known = json.loads(_cache(key).read_text())
        return {str(name): {part: float(of[part]) for part in PARTS} for name, of in known.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}  # not known, or a file that is not ours: it is found again


def _cache(key: str) -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "deepviz" / "sanity" / f"{key}.json"


def _mean(values: Values) -> Values:
    """Over the first axis, of what is there; NaN where nothing is."""
    there = ~np.isnan(values)
    total = np.where(there, values, 0).sum(0)
    count = there.sum(0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
