"""Gradient ascent on the parameters of a canvas, with random augmentations at each step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from deepviz.errors import GenerationError
from deepviz.inputs import Inputs
from deepviz.models import LoadedModel
from deepviz.models.weights import non_finite
from deepviz.objectives.objective import Objective
from deepviz.probe.black_box import black_box_of
from deepviz.probe.call import Call
from deepviz.probe.chunks import spans
from deepviz.probe.gradient import differentiate, fresh_leaf
from deepviz.probe.seeds import generator_of
from deepviz.synthesis.canvas import Canvas, Size
from deepviz.synthesis.scoring import Prediction, Scored, evaluate_objectives, runs
from deepviz.synthesis.transforms import Transform, transformed

ROWS = 4
ROWS_ON_GPU = 32
"""Images that go through the model together: fixed numbers, so that the same settings draw the same image."""


@dataclass(frozen=True)
class Step:
    """The result of one step.

    Args:
        number: from 1 up.
        steps: how many there will be.
        scores: the objective of each image (N,), of the augmented image that the network saw.
        probabilities: of each image's class (N,), of the same; NaN where the objective is about no class.
        pixels: draws the images as they are when it is called, (N, C, H, W) from 0 to 1: in a progress callback, those
            after this step.
    """

    number: int
    steps: int
    scores: Tensor
    probabilities: Tensor
    pixels: Callable[[], Tensor] = field(repr=False, compare=False)


@dataclass(frozen=True, eq=False)
class Judged:
    """What the network says of finished images.

    Args:
        scores: the objectives (N,).
        probabilities: of their classes (N,).
        predictions: what is predicted for those that are drawn for a class.
        without_slope: whether the class's score does not depend on the image.
    """

    scores: Tensor
    probabilities: Tensor
    predictions: tuple[Prediction, ...]
    without_slope: tuple[bool, ...]


@dataclass
class State:
    """The state of an ascent: the canvas's parameters (N, ...), Adam's two moments of their gradients, and the sum over
    the steps of each pixel's |gradient|, (N, 1, H, W)."""

    parameters: Tensor
    first: Tensor
    second: Tensor
    importance: Tensor


@dataclass(frozen=True)
class Ascent:
    """Gradient ascent of several images at once, each as if it were alone (but for joint objectives).

    Args:
        call: the borrowed model.
        loaded: what is known about it.
        objectives: one for each image; those that are joint stand together.
        canvas, size, transforms, steps, lr, cooling, optimizer, seed: as `ImageGenerator` says.
        along: what goes along with each image, if the model takes more than that.
    """

    call: Call
    loaded: LoadedModel
    objectives: tuple[Objective, ...]
    canvas: Canvas
    size: Size
    transforms: tuple[Transform, ...]
    steps: int
    lr: float
    cooling: float
    optimizer: str
    seed: int
    along: Inputs | None = None

    def begin(self, parameters: Tensor) -> State:
        """The state before the first step."""
        zeros = parameters.new_zeros(len(parameters), 1, *self.size)
        return State(parameters, torch.zeros_like(parameters), torch.zeros_like(parameters), zeros)

    def steps_from(self, state: State) -> Iterator[Step]:
        """Take the steps one by one, each when it is asked for, changing `state`.

        Raises:
            GenerationError: if an objective, its gradient or the step itself is NaN or infinite; the image stays that
                of the step before.
        """
        for number in range(1, self.steps + 1):
            gradient, importance, scores, chances = self._gradient(state.parameters, number)
            self._update(state, gradient, number)
            state.importance += importance
            yield Step(number, self.steps, scores, chances, lambda: self.pixels(state.parameters))

    def pixels(self, parameters: Tensor) -> Tensor:
        """The images of the parameters, (N, C, H, W), without a graph."""
        with torch.no_grad():
            return torch.cat([self.canvas.draw(parameters[rows], self.size) for rows in self._chunks()])

    def judge(self, pixels: Tensor) -> Judged:
        """What the network says of finished images, without augmentation."""
        # with a graph, which tells whether the model ends in a sigmoid
        leaf = fresh_leaf(pixels)
        parts = []
        for rows in self._chunks():
            part = fresh_leaf(leaf[rows])
            found = self._look(part, part, rows)
            without = found.without_slope(part)
            parts.append((found.values.detach(), found.chances, found.predictions(), without))
        scores, chances, predictions, without_slope = zip(*parts, strict=True)
        return Judged(
            torch.cat(scores),
            torch.cat(chances),
            tuple(one for part in predictions for one in part),
            tuple(one for part in without_slope for one in part),
        )

    def _gradient(self, parameters: Tensor, number: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """d(objective)/d(parameters), the size of that by the pixels, the objectives and the probabilities."""
        found = []
        for rows in self._chunks():
            leaf = fresh_leaf(parameters[rows])
            pixels = self.canvas.draw(leaf, self.size)
            # in two parts, since the pixels' gradient is wanted too
            seen = fresh_leaf(pixels)
            scored = self._augmented(seen, rows, number)
            values, chances = scored.values, scored.chances
            # without a graph there is nothing to differentiate at all
            (by_pixel,) = differentiate(values.sum(), [seen]) if values.requires_grad else (None,)
            if by_pixel is None:
                function = black_box_of(self.call.model)
                if function is not None:
                    raise GenerationError(
                        f"{function.name} is {function.kind}, which has no gradient, by which images are "
                        "generated: give the module that it was made from"
                    )
                raise GenerationError(
                    f"the objective ({self.objectives[rows.start]}) does not depend on the image in a differentiable "
                    "way (no_grad or detach inside the model?): choose another layer"
                )
            (by_parameter,) = torch.autograd.grad(pixels, leaf, by_pixel)
            self._check(values, by_parameter, rows, number)
            found.append((by_parameter, by_pixel.abs().mean(1, keepdim=True), values.detach(), chances))
        gradient, importance, scores, chances = (_joined(parts) for parts in zip(*found, strict=True))
        return gradient, importance, scores.cpu(), chances.cpu()

    def _augmented(self, pixels: Tensor, rows: slice, number: int) -> Scored:
        # one generator per step, made anew for every chunk: all images are augmented alike
        generator = generator_of(self.seed, number)
        progress = (number - 1) / max(1, self.steps - 1)
        return self._look(transformed(pixels, self.transforms, generator, progress), pixels, rows)

    def _look(self, view: Tensor, pixels: Tensor, rows: slice) -> Scored:
        along = None if self.along is None else self.along.rows(rows)
        return evaluate_objectives(self.call, self.loaded, self.objectives[rows], view, pixels, along)

    def _update(self, state: State, gradient: Tensor, number: int) -> None:
        share = (number - 1) / max(1, self.steps - 1)
        lr = self.lr * (self.cooling + (1 - self.cooling) * (1 + math.cos(math.pi * share)) / 2)
        if self.optimizer == "ascent":
            direction = gradient
        else:
            # Adam (Kingma and Ba 2015); torch.optim would load its compiler, for two seconds
            state.first.lerp_(gradient, 1 - 0.9)
            state.second.lerp_(gradient.square(), 1 - 0.999)
            m, v = state.first / (1 - 0.9**number), state.second / (1 - 0.999**number)
            direction = m.div_(v.sqrt_().add_(1e-8))
        # torch refuses a factor that the dtype cannot hold
        moved = torch.add(state.parameters, direction, alpha=min(lr, torch.finfo(direction.dtype).max))
        self.canvas.project(moved, self.size)
        # the norm: what a canvas sums up must stay finite too
        if not bool(torch.linalg.vector_norm(moved).isfinite()):
            raise GenerationError(
                f"the step itself became NaN or infinite at step {number} of {self.steps}, and the image of the step "
                f"before is kept: use an lr below {self.lr:g}"
            )
        state.parameters = moved

    def _check(self, values: Tensor, gradient: Tensor, rows: slice, number: int) -> None:
        # a norm is finite only if all its parts are, and their squares, which Adam averages
        fine = values.detach().isfinite() & torch.linalg.vector_norm(gradient.flatten(1), dim=1).isfinite()
        if not bool(fine.all()):
            which = self.objectives[rows.start + int(fine.int().argmin())]
            broken = non_finite(self.call.model)
            # before the first step there was none that could have been too long
            cause = "use a smaller lr" if number > 1 else "check the numbers in the objective, the canvas and the start"
            if broken is not None:
                cause = f"the weights {broken} hold NaN or infinite values"
            raise GenerationError(
                f"the objective ({which}) or its gradient became NaN, infinite or huge at step {number} of "
                f"{self.steps}, and the image of the step before is kept: {cause}"
            )

    def _chunks(self) -> Iterator[slice]:
        """Rows that go through the model together: few, and images with a joint objective never apart."""
        most = ROWS if self.loaded.home[0].type == "cpu" else ROWS_ON_GPU
        for objective, part in runs(self.objectives, apart=False):
            length = part.stop - part.start
            for rows in spans(length, length if objective.joint else most):
                yield slice(part.start + rows.start, part.start + rows.stop)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    # one chunk is the rule, and need not be copied
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))
