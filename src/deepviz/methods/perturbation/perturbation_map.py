"""What all methods share that need forward passes alone: rounds of passes, standard errors, and when to stop."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from deepviz.diagnostics import ERROR
from deepviz.errors import MethodError
from deepviz.methods.method import Method
from deepviz.methods.needs import Needs
from deepviz.methods.perturbation.masking import Masking, Read, Replacement, SoftReplacement, replacements
from deepviz.options import Budget, Gt, Seed
from deepviz.probe.progress import may_end_early, tell
from deepviz.probe.session import Session

INTERRUPTED = "interrupted"
"""The fact about a map that Ctrl-C ended, with how far it came."""
ROUND = 64
"""Forward passes between two looks at how sure the map is, about."""
FLAT = 1e-12
"""How much of its size a map may vary by rounding, in double precision."""
NOISE = 0.7
"""The standard error, relative to the map, above which half of the squares of what is drawn, or more, are noise."""


@dataclass(frozen=True, eq=False)
class Estimate:
    """The map of one image as it is known after some passes.

    Args:
        maps: (K, 1, *grid) for K objectives.
        passes: forward passes spent.
        errors: the standard error of each value, of the same shape; None where nothing is drawn at random.
        level: what every value has in common, which no picture shows, (K, 1, ...).
        most: forward passes that will be spent, at most; None: those of the method, whatever the image.
    """

    maps: Tensor
    passes: int
    errors: Tensor | None = None
    level: Tensor | float = 0.0
    most: int | None = None

    @property
    def relative_error(self) -> Tensor:
        """sqrt(sum of squared standard errors) / sqrt(sum of squared values), (K,); at most 1 of a map that is the same
        everywhere but for rounding: all that is drawn is noise."""
        assert self.errors is not None
        size = (self.maps - self.level).flatten(1).norm(dim=1)
        error = self.errors.flatten(1).norm(dim=1)
        flat = size <= FLAT * self.maps.flatten(1).norm(dim=1)
        size = torch.where(flat, torch.maximum(size, error), size)
        relative: Tensor = error / size.clamp_min(torch.finfo(size.dtype).tiny)
        return relative


@dataclass(frozen=True)
class PerturbationMap(Method):
    """A map from what the model says where parts of the image are changed.

    A subclass writes `estimates`, which gives better and better maps of one image.
    """

    baseline: Replacement = 0.0
    value: Read = "score"
    seed: Annotated[Seed, "Seed of all that is drawn at random."] = 0

    needs: ClassVar[Needs] = Needs(forward=True)
    in_default_set: ClassVar[bool] = False
    of_parts: ClassVar[bool] = True

    def maps(self, session: Session) -> Tensor:
        """The map of each image, after all passes, or as many as make it sure enough."""
        session.decide()
        session = session.to_layout()
        baselines = replacements(session, self.baseline, self.seed)
        images = [
            Masking(session, row, None if baselines is None else baselines[row : row + 1], self.value)
            for row in range(session.n)
        ]
        found, several = self._found(images, session), session.several
        notes = session.notes
        maps = self._joined(found, session)
        says_nothing = torch.stack([_of_row(image.says_nothing, several) for image in images])
        zero = (maps.flatten(1 + several) == 0).all(-1).cpu()
        if bool((says_nothing & ~zero).any()):  # of zeros there is a warning anyway
            notes.warn(
                f"{self.name} says nothing: whatever is taken away changes the {self.value} by no more than rounding",
                says_nothing & ~zero,
            )
        spent = torch.tensor([one.passes for one in found])
        notes.rows["forward passes"] = spent.view(-1, *[1] * several).expand(session.n, *session.score.shape)
        if found[0].errors is not None:
            relative = torch.stack([_of_row(one.relative_error, several) for one in found])
            self._warn_of_noise(torch.where(says_nothing, 0, relative), session)
            notes.rows["standard error"] = relative
            notes.maps[ERROR] = torch.stack([_of_row(one.errors, several) for one in found])  # type: ignore[arg-type]
        return maps

    def _found(self, images: list[Masking], session: Session) -> list[Estimate]:
        """The last estimate of each image; Ctrl-C ends the work with the one before it, where that may be."""
        under_way = dict(enumerate(map(self.estimates, images)))
        found: dict[int, Estimate] = {}
        usual = round(self.passes())
        try:
            # image after image, round by round, so that there is a map of each before any is done
            while under_way:
                for row, estimates in list(under_way.items()):
                    estimate = next(estimates, None)
                    if estimate is None:
                        del under_way[row]
                        continue
                    found[row] = estimate
                    done = sum(one.passes for one in found.values())
                    complete = len(found) == session.n
                    most = sum(one.most or usual for one in found.values()) + usual * (session.n - len(found))
                    tell(done, most, (lambda: self._joined(list(found.values()), session)) if complete else None)
        except KeyboardInterrupt:
            if len(found) < session.n or not under_way or not may_end_early():
                raise
            last = max((found[row] for row in under_way), key=lambda one: one.passes)
            session.notes.facts[INTERRUPTED] = f"after {last.passes} forward passes of at most {last.most or usual}"
            session.notes.warn(
                f"{self.name} was interrupted {session.notes.facts[INTERRUPTED]}: this is the map so far"
            )
        return [found[row] for row in range(session.n)]

    def _warn_of_noise(self, relative: Tensor, session: Session) -> None:
        """Warn of maps whose standard error, relative to the map, is above `NOISE`; `tolerance` has a warning of its
        own."""
        noisy = relative > NOISE
        if bool(noisy.any()) and getattr(self, "tolerance", None) is None:
            session.notes.warn(
                f"the standard error of {self.name} is more than {NOISE:.0%} of the map, half of which is noise then: "
                "allow more passes (max_passes), or cut the image into fewer parts (cells)",
                noisy,
            )

    def _joined(self, found: list[Estimate], session: Session) -> Tensor:
        return torch.stack([_of_row(one.maps, session.several) for one in found]).to(session.image().device)

    @abstractmethod
    def estimates(self, image: Masking) -> Iterator[Estimate]:
        """Better and better maps of one image, each after about `ROUND` more passes."""


@dataclass(frozen=True)
class SampledMap(PerturbationMap):
    """A map that is estimated from changes drawn at random, with its standard error.

    What is drawn is decided by `seed` and the number of the draw, the same for every image, so that results repeat and
    depend neither on the batch nor on the size of chunks. A subclass writes `draws`.
    """

    baseline: SoftReplacement = 0.0
    max_passes: Budget = 2000
    tolerance: Annotated[
        float | None,
        Gt(0),
        "Stop as soon as the standard error of the map, relative to the map, is at most this: 0.1 for 10 %.",
    ] = None

    def estimates(self, image: Masking) -> Iterator[Estimate]:
        """Those of `draws`, until one is sure enough."""
        estimate = None
        for estimate in self.draws(image):
            yield estimate
            if self.tolerance is not None and _is_sure(estimate, self.tolerance):
                return
        if estimate is None:
            raise MethodError(
                f"{self.name} cannot tell the parts of the image apart by {self.max_passes} forward passes: allow more "
                "(max_passes=), or cut the image into fewer parts (cells=)"
            )
        if self.tolerance is not None and float(estimate.relative_error.max()) > self.tolerance:
            image.session.notes.warn(
                f"{self.name} has a standard error of {float(estimate.relative_error.max()):.0%} after "
                f"max_passes={self.max_passes}, more than the tolerance of {self.tolerance:.0%}: allow more passes, or "
                "cut the image into fewer parts",
                torch.arange(image.session.n) == image.row if not image.session.several else None,
            )

    @abstractmethod
    def draws(self, image: Masking) -> Iterator[Estimate]:
        """Better and better maps of one image, until `max_passes` are spent."""

    def passes(self) -> float:
        """`max_passes`: with a tolerance, at most."""
        return float(self.max_passes)

    def too_few(self, least: int, parts: int) -> MethodError:
        """The error of a budget with which nothing can be estimated."""
        return MethodError(
            f"{self.name} needs at least {least} forward passes for {parts} parts of the image, and max_passes is "
            f"{self.max_passes}: allow more, or cut the image into fewer parts (cells=)"
        )


def _is_sure(estimate: Estimate, tolerance: float) -> bool:
    """Whether all maps are as sure as that; not before a round is done: an error from few passes is one itself."""
    return estimate.passes >= ROUND and float(estimate.relative_error.max()) <= tolerance


def _of_row(values: Tensor, several: bool) -> Tensor:
    """Of values (K, ...), all if several objectives were asked for, else the only one's."""
    return values if several else values[0]
