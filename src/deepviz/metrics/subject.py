"""What a metric asks: the borrowed model's answers to changed inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from deepviz.notes import Notes
from deepviz.options import Baseline
from deepviz.probe.borrow import borrowed, original
from deepviz.probe.chunks import Joined, in_chunks
from deepviz.probe.gradient import Call, fresh_leaf
from deepviz.probe.reference import reference
from deepviz.target import Score, Target, are_probabilities, class_scores, ends_in_sigmoid, probabilities

Value = Literal["probability", "score"]
"""What of the model's answer is read: the probability of the explained class, or its score, the logit."""
VALUES: tuple[Value, Value] = ("score", "probability")
Precision = Literal["full", "bfloat16"]
"""The forward passes as the model is, or under bfloat16 autocast: faster, with three significant digits."""


@dataclass
class Subject:
    """A borrowed model, some images and what is explained of them.

    What several metrics ask of the same images (the value of the image itself, and of its baseline) is found once.
    """

    call: Call
    x: Tensor
    score: Score
    _known: dict[tuple[Any, ...], Tensor] = field(default_factory=dict)
    _given: bool | None = None

    def clean(self, value: Value = "probability", precision: Precision = "full") -> Tensor:
        """The values of the images as they are, (N,)."""
        if value == "probability" and self.score.callable is not None:
            self.call.notes.warn("a target that is a function has no probability: what it returns is measured")
        self._decide()
        return self._once(_key("clean", value, precision), lambda: self._of(self.x, value, precision))

    def without(self, baseline: Baseline, value: Value = "probability", precision: Precision = "full") -> Tensor:
        """The values of the baseline of each image, (N,)."""
        start = self.reference(baseline)
        return self._once(_key("without", baseline, value, precision), lambda: self._of(start, value, precision))

    def reference(self, baseline: Baseline) -> Tensor:
        """The baseline of each image, (N, C, H, W)."""
        return self._once(_key("reference", baseline), lambda: reference(self.x, baseline))

    def ask(
        self,
        rows: Tensor,
        make: Callable[[slice], Tensor],
        value: Value = "probability",
        precision: Precision = "full",
    ) -> Tensor:
        """The values of changed images, (M,), float32 or wider.

        Args:
            rows: (M,), the row of `x` that each changed image was made of: it says which class is read.
            make: from a slice of 0..M to those changed images, (m, C, H, W), in memory of their own, since a model may
                write to them; only one chunk is held at a time.
            value: what is read.
            precision: of the forward passes.
        """
        self._decide()
        joined = Joined(len(rows))
        like = self.x[:1].expand(len(rows), -1, -1, -1)

        def work(chunk: slice) -> None:
            images = make(chunk)
            part = self.score.take(rows[chunk])
            # the first chunk is kept, to be tried again in another layout
            keep = chunk.start == 0
            with _fast(images.device.type, precision):
                joined.put(chunk, self.call.in_layout(images, lambda laid: self._read(part, laid, value, keep)))

        in_chunks(self.call.model, like, work, graph=False)
        return joined.whole

    def _of(self, images: Tensor, value: Value, precision: Precision) -> Tensor:
        return self.ask(torch.arange(len(images)), lambda chunk: images[chunk].clone(), value, precision)

    def _read(self, score: Score, images: Tensor, value: Value, keep: bool) -> Tensor:
        """What one chunk of images is worth: (m,)."""
        output = self.call.run(images, keep)
        found = output if score.indices is None else class_scores(output)
        return self._value(score, found, value)

    def _value(self, score: Score, found: Any, value: Value) -> Tensor:
        """Of class scores (m, K), or of the raw output for a callable target: (m,), float32 or wider."""
        if value == "probability" and score.indices is not None:
            if not self._given:
                found = probabilities(found)
            elif found.shape[1] == 1:
                found = torch.cat([1 - found, found], 1)  # of a single probability p the classes have 1 - p and p
        values = self.call.check(score(found))
        return values.to(torch.promote_types(values.dtype, torch.float32))

    def _decide(self) -> None:
        """Choose the class of every row, see whether the outputs are probabilities already, and keep the values of
        the images as they are: one forward pass, with the graph that tells."""
        if self._given is not None:
            return
        both = self.call.by_rows(
            self.x, lambda rows: self.call.in_layout(self.x[rows], lambda laid: self._both(rows, laid))
        )
        for column, value in enumerate(VALUES):
            self._known["clean", value, "full"] = both[:, column]

    def _both(self, rows: slice, images: Tensor) -> Tensor:
        """Both values of some images, (m, 2)."""
        output = self.call.run(fresh_leaf(images))
        score = self.score.take(rows)
        found = output if score.indices is None else class_scores(output)
        if self._given is None:
            self._given = score.indices is not None and (
                ends_in_sigmoid(found) or (found.shape[1] > 1 and are_probabilities(found.detach()))
            )
        values = [self._value(score, found, "score")]  # first: it chooses the class
        values.append(self._value(score, found, "probability"))
        return torch.stack(values, 1).detach()

    def _once(self, key: tuple[Any, ...] | None, compute: Callable[[], Tensor]) -> Tensor:
        if key is None:
            return compute()
        if key not in self._known:
            self._known[key] = compute()
        return self._known[key]


@contextmanager
def asking(model: nn.Module, x: Tensor, target: Target) -> Iterator[Subject]:
    """The model borrowed, for questions about one target of each image; its warnings are issued at the end.

    Raises:
        ValueError: for several targets a row.
    """
    if isinstance(target, Tensor) and target.ndim > 1:
        raise ValueError(f"a metric judges one target per row, (N,), got a target {tuple(target.shape)}")
    module = original(model)
    notes = Notes()
    with borrowed(module):
        yield Subject(Call(module, notes), x.detach(), Score(target, len(x)))
    notes.issue()


def _key(*parts: Any) -> tuple[Any, ...] | None:
    """What a value is remembered by; None if a tensor is part of it, which nothing is known by."""
    return None if any(isinstance(part, Tensor) for part in parts) else parts


def _fast(device: str, precision: Precision) -> AbstractContextManager[Any]:
    stack = ExitStack()
    # not inference mode, which is no faster: a module that keeps a tensor for later would keep one without a gradient
    stack.enter_context(torch.no_grad())
    stack.enter_context(torch.autocast(device, torch.bfloat16) if precision == "bfloat16" else nullcontext())
    return stack
