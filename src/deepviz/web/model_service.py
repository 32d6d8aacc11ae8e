"""One model of the server, used by one request at a time, and its cached results."""

from __future__ import annotations

import re
import secrets
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from threading import Lock
from time import monotonic, sleep
from typing import Any, Generic, TypeVar

from torch import Tensor

from deepviz.errors import DeepVizError, ImageError, MissingExtra, ModelError, NoAttention, TargetError
from deepviz.inside import Activations, LayerTree, viz_activations, viz_attention, viz_layers
from deepviz.inside.attention import attention_layers
from deepviz.inside.loading import checked_channels, neutral_input
from deepviz.methods import Method
from deepviz.models import LoadedModel, Prepared, example_photo, open_photo
from deepviz.models.predict import outputs_of
from deepviz.models.weights import weights_hash
from deepviz.objectives import Logit, Objective, Similarity, Text, parse
from deepviz.objectives.bound import usual
from deepviz.probe.outputs import WITHOUT_SCORES
from deepviz.results.explanation import ExplainedTarget, Explanation
from deepviz.results.outcomes import Skipped
from deepviz.results.sanity import key_of
from deepviz.results.storage import WEIGHTS
from deepviz.runs.applicable import inapplicable
from deepviz.runs.asked import Item
from deepviz.runs.checks import verdict_key
from deepviz.runs.explain import SoFar as SoFarMaps
from deepviz.runs.explain import explain_items
from deepviz.runs.look import inputs_of, looked, predicted, written
from deepviz.runs.verdicts import recall
from deepviz.runs.words import explain_text_items
from deepviz.web import trust
from deepviz.web.attention import PackedAttention, packed
from deepviz.web.forms import Target, result_key
from deepviz.web.image_store import ImageStore
from deepviz.web.limits import Limits
from deepviz.web.trust import Part, Retained

T = TypeVar("T")
TOP = 10
PATIENCE = 2.0
"""Seconds that a job waits for other requests before each of its maps."""
REMEMBERED = 256
"""Small results that are cached, such as the predictions of so many images."""
FIGURES = 16384
"""Cached results that are a few numbers each."""


PEAKS = 4 * 2**20
"""Cached largest activations, one number for each channel of a layer and image."""


ATTENTION = 64 * 2**20
"""Bytes of cached rows of attention."""
SoFar = Callable[[Callable[[], "list[Result]"] | None], None]
"""Is told again and again while a long method is under way, with a function that gives the maps so far, under ids of
their own; None where there are none."""


class Busy(DeepVizError):
    """Too many are waiting already."""


class NotApplicable(DeepVizError):
    """A method that this model cannot be explained with; the message says why."""


class NotFound(DeepVizError):
    """A result that the server does not have, or not any more."""


class LRUCache(Generic[T]):
    """Values by key within a bound on their cost, the least recently used forgotten first; safe among threads."""

    def __init__(self, most: int, cost: Callable[[T], int] = lambda _: 1) -> None:
        self._most, self._cost = most, cost
        self._total = 0
        self._values: OrderedDict[Hashable, T] = OrderedDict()
        self._lock = Lock()

    @property
    def total(self) -> int:
        """The cost of all values."""
        return self._total

    def get(self, key: Hashable) -> T | None:
        """The value, used again just now; None if it is not there."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def put(self, key: Hashable, value: T) -> None:
        """Keep a value, at the price of older ones."""
        with self._lock:
            if key in self._values:
                self._total -= self._cost(self._values.pop(key))
            self._values[key] = value
            self._total += self._cost(value)
            while self._total > self._most and len(self._values) > 1:
                self._total -= self._cost(self._values.popitem(last=False)[1])

    def drop(self, condition: Callable[[Any, T], bool]) -> None:
        """Forget the values of which `condition` holds."""
        with self._lock:
            for key in [key for key, value in self._values.items() if condition(key, value)]:
                self._total -= self._cost(self._values.pop(key))

    def __len__(self) -> int:
        return len(self._values)


@dataclass(frozen=True, eq=False)
class Result:
    """One map that was computed.

    Args:
        id: hash of what determines it: model with weights, image, method with options, class.
        photograph: its id.
        model: its id.
        explanation: the map.
        target: what was asked for: a class by its index, or an expression.
        words: of a text the map on its words, if the model and the method have one.
    """

    id: str
    photograph: str
    model: str
    explanation: Explanation
    target: Target
    words: Explanation | None = None

    @property
    def explanations(self) -> list[Explanation]:
        """The map, and that on the words of a text."""
        return [self.explanation] if self.words is None else [self.explanation, self.words]


def result_bytes(result: Result) -> int:
    """What a result takes in memory; its image is counted where images are kept."""
    errors = result.explanation.standard_error
    return (result.explanation.attribution.numel() + (0 if errors is None else errors.numel())) * 4 + 4096


@dataclass
class ModelService:
    """A model of the server.

    Args:
        id: as requests name it.
        loaded: the model.
        photographs: of the server.
        results: of the server, shared by its models.
        limits: of the server.
    """

    id: str
    loaded: LoadedModel
    photographs: ImageStore
    results: LRUCache[Result]
    limits: Limits
    _lock: Lock = field(default_factory=Lock)
    _counting: Lock = field(default_factory=Lock)
    _waiting: int = 0
    _tree: LayerTree | None = None
    _reasons: dict[str, str] | None = None
    _attended: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        self.weights = weights_hash(self.loaded.module)
        self._predictions: LRUCache[list[ExplainedTarget]] = LRUCache(REMEMBERED)
        self._chances: LRUCache[list[float]] = LRUCache(REMEMBERED)
        self._activations: LRUCache[Activations] = LRUCache(4)
        self._attention: LRUCache[PackedAttention] = LRUCache(ATTENTION, lambda one: one.size)
        self._peaks: LRUCache[Tensor] = LRUCache(PEAKS, Tensor.numel)
        self._chance: LRUCache[trust.Areas] = LRUCache(REMEMBERED)
        self._checks: LRUCache[dict[str, Any]] = LRUCache(REMEMBERED)
        self._kept: LRUCache[Retained] = LRUCache(FIGURES)
        self._so_far: list[Result] = []

    @property
    def _network(self) -> str:
        return f"{self.id} {self.loaded.name} {self.weights}"

    @cached_property
    def _network_key(self) -> str:
        return key_of(self.loaded)

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """A place among the requests that wait for the model.

        Raises:
            Busy: if there is none.
        """
        with self._counting:
            if self._waiting >= self.limits.waiting:
                raise Busy(f"{self.loaded.name} is busy; try again in a moment")
            self._waiting += 1
        try:
            yield
        finally:
            with self._counting:
                self._waiting -= 1

    def give_way(self) -> None:
        """Let short requests that are waiting go first, for at most `PATIENCE` seconds."""
        end = monotonic() + PATIENCE
        while self._waiting and monotonic() < end:
            sleep(0.002)

    @contextmanager
    def alone(self) -> Iterator[Callable[[], AbstractContextManager[None]]]:
        """Exclusive use of the model for long work in steps; yields a context that releases it between two steps."""

        @contextmanager
        def others() -> Iterator[None]:
            self._lock.release()
            try:
                yield
            finally:
                self._lock.acquire()

        with self._lock:
            yield others

    def predictions(self, photograph: str) -> list[ExplainedTarget]:
        """The best classes of an image, best first."""
        return self._once(self._predictions, (photograph,), lambda: self._predict(photograph))

    def _predict(self, photograph: str) -> list[ExplainedTarget]:
        if self.loaded.kind == "embedding":
            return []
        return predicted(self.loaded, self.loaded.prepare(self.photographs.photo(photograph)), TOP)

    def probabilities(self, photograph: str) -> list[float]:
        """The probability of each class of an image, by index; empty if the model has none."""
        return self._once(self._chances, (photograph,), lambda: self._look(photograph))

    def _look(self, photograph: str) -> list[float]:
        image = self.loaded.prepare(self.photographs.photo(photograph))
        chances = looked(self.loaded, inputs_of(self.loaded, [Item(image)]), None).chances
        return [] if chances is None else [round(float(one), 6) for one in chances[0].nan_to_num(0)]

    def activations(self, photograph: str, layer: str) -> Activations:
        """The feature maps of an image at a layer."""
        photo = self.photographs.photo(photograph)
        return self._once(self._activations, (photograph, layer), lambda: viz_activations(self.loaded, photo, layer))

    def peak(self, photograph: str, layer: str, channel: int) -> float | None:
        """The largest activation of a channel in an image; None if the model fails on it.

        Raises:
            LayerError: if there is no such layer or channel.
            UnknownImage: if the server does not have the image.
        """
        try:
            found = self._once(self._peaks, (photograph, layer), lambda: self._look_for_peaks(photograph, layer))
        except ModelError:
            return None
        (index,) = checked_channels([channel], len(found), layer)
        return float(found[index])

    def _look_for_peaks(self, photograph: str, layer: str) -> Tensor:
        known = self._activations.get((photograph, layer))
        if known is None:
            known = viz_activations(self.loaded, self.photographs.photo(photograph), layer)
        return known.maps.amax((1, 2))

    def attention_layers(self) -> dict[str, Any]:
        """The names of the layers of attention between the image's tokens, or the reason why there are none."""
        if self._attended is None:
            with self._lock:
                if self._attended is None:
                    try:
                        names = attention_layers(self.loaded, self._example())
                        self._attended = {"layers": list(names), "reason": ""}
                    except DeepVizError as error:
                        self._attended = {"layers": [], "reason": " ".join(str(error).split())}
        return self._attended

    def attention(self, photograph: str, layer: str) -> dict[str, Any]:
        """The rows of attention of a layer, for an image; a "reason" in words if there are none for this image.

        Raises:
            LayerError: if there is no such layer.
            UnknownImage: if the server does not have the image.
        """
        photo = self.photographs.photo(photograph)

        def compute() -> PackedAttention:
            try:
                return packed(viz_attention(self.loaded, photo, layer), self.limits.attention_bytes)
            except NoAttention as error:
                return PackedAttention({"reason": " ".join(str(error).split())}, 4096)

        return self._once(self._attention, (photograph, layer), compute).described

    def _once(self, answers: LRUCache[T], key: Hashable, compute: Callable[[], T]) -> T:
        found = answers.get(key)
        if found is None:
            with self._lock:
                found = answers.get(key)
                if found is None:
                    found = compute()
                    answers.put(key, found)
        return found

    def layers(self) -> LayerTree:
        """The model's modules, and which of them the CAM methods can explain."""
        if self._tree is None:
            with self._lock:
                if self._tree is None:
                    self._tree = self._seen_layers()
        return self._tree

    def _seen_layers(self) -> LayerTree:
        if self.photographs.reader is not None:
            return viz_layers(self.loaded, self._example().x)
        try:
            return viz_layers(self.loaded)
        except ImageError:  # its preprocessing does not say how large its input is
            return viz_layers(self.loaded, example_photo())

    def _example(self) -> Prepared:
        """An input to find out about the model with: an image of the package; of a model that reads files of its own
        the first of the server's that can be read, or noise.

        Raises:
            ImageError: if there is no such file, and the size of the input follows the file.
        """
        if self.photographs.reader is None:
            return self.loaded.prepare(open_photo(example_photo()))
        for kept in self.photographs.listed():
            with suppress(ImageError, MissingExtra):
                return self.loaded.prepare(self.photographs.photo(kept.id))
        return self.loaded.prepare(neutral_input(self.loaded)[0])

    def reasons(self) -> dict[str, str]:
        """Of each method of the catalog that does not apply to this model, by name: why."""
        if self._reasons is None:
            with self._lock:
                if self._reasons is None:
                    self._reasons = self._inapplicable()
        return self._reasons

    def _inapplicable(self) -> dict[str, str]:
        kind = self.loaded.kind
        target = (usual(kind),) if kind in (*WITHOUT_SCORES, "embedding") else None
        return inapplicable(self.loaded, Item(self._example(), target))

    def explained(
        self, photograph: str, method: Method, targets: Sequence[Target], so_far: SoFar | None = None
    ) -> list[Result]:
        """One method's maps for classes of one image: those that are there, the others computed together.

        Raises:
            NotApplicable: if the method does not apply to the model.
            DeepVizError: as `explain` does.
        """
        ids = [result_key(self._network, photograph, method, target) for target in targets]
        with self.alone() as others:
            found = {one: result for one in ids if (result := self.results.get(one)) is not None}
            missing = [target for one, target in zip(ids, targets, strict=True) if one not in found]

            def between(maps: Callable[[], list[Explanation]] | None) -> None:
                with others():
                    self.give_way()
                if so_far is not None:
                    so_far(None if maps is None else lambda: self._shown_so_far(photograph, missing, maps()))

            if missing:
                for result in self._compute(photograph, method, missing, between):
                    found[result.id] = result
                    self.results.put(result.id, result)
        return [found[one] for one in ids]

    def _shown_so_far(self, photograph: str, targets: list[Target], maps: list[Explanation]) -> list[Result]:
        """The maps so far. Those before are kept until the next ones come: a page may be about to ask for them."""
        made = [
            Result(secrets.token_hex(32), photograph, self.id, one.noting({WEIGHTS: self.weights}), target)
            for target, one in zip(targets, maps, strict=False)
        ]
        self._so_far = [*self._so_far[-len(made) :], *made]
        return made

    def so_far(self, result: str) -> Result | None:
        """A map under way, in its last version or the one before."""
        return next((one for one in self._so_far if one.id == result), None)

    def cached(self, photograph: str, method: Method, targets: Sequence[Target]) -> list[Result] | None:
        """As `explained`, if nothing has to be computed for it."""
        found = [self.results.get(result_key(self._network, photograph, method, target)) for target in targets]
        there = [result for result in found if result is not None]
        return there if len(there) == len(found) else None

    def _compute(self, photograph: str, method: Method, targets: list[Target], between: SoFarMaps) -> Iterator[Result]:
        image = self.loaded.prepare(self.photographs.photo(photograph))
        # of a model with one number that number, which has no class to ask for
        known = {one.index: one.objective for one in self._predictions.get((photograph,)) or ()}
        asked = tuple(self._objective(one) if isinstance(one, str) else known.get(one) or Logit(one) for one in targets)
        (found,) = explain_items(
            self.loaded, [Item(image, asked)], [method], lenient=True, needed=False, so_far=between
        )
        for target, objective, explanation in zip(targets, asked, found.outcomes, strict=True):
            if isinstance(explanation, Explanation):
                result_id = result_key(self._network, photograph, method, target)
                explanation, words = explanation.noting({WEIGHTS: self.weights}), None
                try:
                    words = self._words(image, objective, method)
                except TargetError as error:  # there is the map all the same
                    told = (*explanation.notes.get("warnings", ()), f"no words: {error}")
                    explanation = explanation.noting({"warnings": told})
                yield Result(result_id, photograph, self.id, explanation, target, words)
        # after the others, which are kept
        for one in found.missing:
            raise NotApplicable(one.reason) if isinstance(one, Skipped) else ModelError(one.reason)

    def _objective(self, expression: str) -> Objective:
        """An expression, in which images of the server are given by their ids."""

        def embedded(part: Objective) -> Objective:
            if not isinstance(part, Similarity) or not isinstance(part.to, str):
                return part
            other = self.loaded.prepare(self.photographs.photo(part.to))
            ((embedding, _),) = outputs_of(self.loaded.module, "embedding", [other.x])
            return replace(part, to=embedding[0], name=part.name or other.name)

        return parse(expression).replaced(embedded)

    def _words(self, image: Prepared, objective: Objective, method: Method) -> Explanation | None:
        """The map on the words of a text; None of anything else, and where there is none."""
        if not isinstance(objective, Text) or self.loaded.texts is None or self.loaded.texts.embedding is None:
            return None
        (found,) = explain_text_items(self.loaded, [Item(image, (objective,))], [method], lenient=True)
        one = next(iter(found.explanations), None)
        return None if one is None else one.noting({WEIGHTS: self.weights})

    def checked(self, result: Result, part: Part) -> dict[str, Any]:
        """A part of the checks of a map; an "error" in words if it fails."""
        return self._once(self._checks, _of_check(result, part), lambda: self._check(result, part))

    def known_check(self, result: Result, part: Part) -> dict[str, Any] | None:
        """As `checked`, if nothing has to be computed for it."""
        return self._checks.get(_of_check(result, part))

    def _check(self, result: Result, part: Part) -> dict[str, Any]:
        explanation = result.explanation
        image = self.loaded.prepare(self.photographs.photo(result.photograph))
        try:
            if part == "strip":
                strip, kept = trust.strip_of(self.loaded, image, explanation)
                self._kept.put(_of_check(result, part), kept)
                return strip
            key = (result.photograph, result.target)
            chance = self._chance.get(key) or trust.chance_of(self.loaded, image, explanation.target)
            self._chance.put(key, chance)
            return trust.curves_of(self.loaded, image, explanation, chance)
        except ModelError as error:  # of one map: the others are checked all the same
            return {"error": " ".join(str(error).split())}

    def verdicts(self, results: Sequence[Result]) -> list[dict[str, Any]]:
        """Of each method among maps of this model what those that are checked say together, in the maps' order."""
        groups: dict[str, list[Result]] = {}
        for result in results:
            groups.setdefault(verdict_key(result.explanation), []).append(result)
        earlier = recall(self._network_key)
        found = []
        for key, group in groups.items():
            kept: dict[str, list[Retained]] = {}
            for result in group:
                one = self._kept.get(_of_check(result, "strip"))
                if one is not None:
                    kept.setdefault(result.photograph, []).append(one)
            told = {"model": self.id, "title": group[0].explanation.title, "layer": group[0].explanation.layer_title}
            if kept:
                share = next(iter(kept.values()))[0].share
                found.append(told | trust.verdict_on(list(kept.values()), share, earlier.get(key)))
        return found

    def chosen(self, photograph: str, targets: Sequence[Target] | None) -> list[Target]:
        """The classes of a row: those asked for, once each; the predicted one if none are.

        Raises:
            TargetError: for a class that the model does not have, or if it predicts none.
        """
        if targets is not None:
            return list(dict.fromkeys(targets))
        best = next(iter(self.predictions(photograph)), None)
        if best is None:
            raise TargetError(f"{self.loaded.name} embeds images and predicts nothing: choose another image, or a text")
        return [written(best) if best.index is None else best.index]

    def forget(self, photograph: str) -> None:
        """Drop what was computed of an image that is no longer kept."""
        caches = (
            self._predictions,
            self._chances,
            self._activations,
            self._attention,
            self._peaks,
            self._chance,
            self._checks,
            self._kept,
        )
        for cache in caches:
            cache.drop(lambda key, _: key[0] == photograph)
        self._so_far = [one for one in self._so_far if one.photograph != photograph]

    def described(self) -> dict[str, Any]:
        """As pages see it."""
        return {
            "id": self.id,
            "name": self.loaded.name,
            "weights": self.loaded.weights,
            "source": self.loaded.source,
            "random": self.loaded.is_random,
            "labelled": self.loaded.labels is not None,
            "embeds": self.loaded.kind == "embedding",
            "texts": self.loaded.texts is not None,
        }


def _of_check(result: Result, part: Part) -> tuple[str, str, Part]:
    return result.photograph, result.id, part


def ids_of(models: Sequence[LoadedModel]) -> list[str]:
    """An id for each model, from its name: "resnet50", and "resnet50-2" for a second."""
    ids: list[str] = []
    for loaded in models:
        plain = re.sub(r"[^a-z0-9]+", "-", loaded.name.lower()).strip("-")[:48] or "model"
        name, count = plain, 1
        while name in ids:
            count += 1
            name = f"{plain}-{count}"
        ids.append(name)
    return ids
