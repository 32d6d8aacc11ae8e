"""What is explained: the scores of a model, and the choice of one of them for every row.

The score S of a class is its logit, never the softmax. A model with a single logit z has two classes: S_1 = z and
S_0 = -z.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from deepviz.errors import ModelError, TargetError

Target = int | Tensor | Callable[[Any], Tensor] | None
"""One class; (N,) classes, one per row; (N, K) classes, K per row; None, the predicted class; or a callable that
takes the model's raw output for any number of rows and returns one score per row."""

Rows = slice | Tensor


def class_scores(output: Any) -> Tensor:
    """The class scores (N, K) in whatever a model returns.

    A tensor; else `.logits`, `["logits"]` or `["out"]`; else the first floating (N, K) tensor of a tuple or
    mapping. A single logit may come as (N,) or (N, 1).

    Raises:
        ModelError: if nothing of that shape is there; the message lists what is.
    """
    found = output if isinstance(output, Tensor) else _named_scores(output)
    if found is None:
        found = next((value for value in _fields(output).values() if _is_scores(value)), None)
    if isinstance(found, Tensor) and found.ndim == 1 and found.is_floating_point():
        found = found.unsqueeze(1)
    if found is None or not _is_scores(found):
        raise ModelError(
            f"the model returned no class scores (N, K) but {describe(output)}; "
            "pass a callable as target that turns this output into one score per row"
        )
    return found


def describe(output: Any) -> str:
    """An output in words, with its fields and shapes, for error messages."""
    if isinstance(output, Tensor):
        return f"a tensor {tuple(output.shape)} of {str(output.dtype).removeprefix('torch.')}"
    fields = _fields(output)
    if not fields:
        return type(output).__name__
    listed = ", ".join(
        f"{name}: {tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__}"
        for name, value in fields.items()
    )
    return f"{type(output).__name__} with {listed}"


def _named_scores(output: Any) -> Tensor | None:
    logits = getattr(output, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    if isinstance(output, Mapping):
        return next((output[key] for key in ("logits", "out") if isinstance(output.get(key), Tensor)), None)
    return None


def _fields(output: Any) -> dict[str, Any]:
    if isinstance(output, Mapping):
        return {str(key): value for key, value in output.items()}
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return dict(zip(output._fields, output, strict=True))
    if isinstance(output, Sequence) and not isinstance(output, str):
        return {str(position): value for position, value in enumerate(output)}
    return {}


def _is_scores(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 2 and value.is_floating_point()


class Score:
    """The score that is explained, for each row of one batch: chosen once, then the same at every pass.

    `Score(target, n)` checks the target against the number of rows. `score(output)` picks the explained scores,
    (n,) or (n, K), out of a model's output; with target None the first output that it sees decides, for good.

    Attributes:
        indices: the classes, (n,) or (n, K) on the CPU, -1 where not yet decided; None for a callable target.
    """

    def __init__(self, target: Target, n: int) -> None:
        self.rows = n
        self.callable: Callable[[Any], Tensor] | None = None
        self.indices: Tensor | None = None
        self.remarks: set[str] = set()
        if target is None:
            self.indices = torch.full((n,), -1)
        elif isinstance(target, Tensor):
            self.indices = _checked_indices(target, n)
        elif hasattr(target, "__index__") and not isinstance(target, bool):
            index = operator.index(target)  # numpy's integers too
            if index < 0:
                raise TargetError(f"target must be a class index from 0 up, got {index}")
            self.indices = torch.full((n,), index)
        elif callable(target):
            self.callable = target
        else:
            raise TargetError(
                f"target must be an int, a tensor (N,) or (N, K), a callable or None, got {type(target).__name__}"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the scores of n rows without the rows: () for one each, (K,) for K each."""
        return () if self.indices is None else tuple(self.indices.shape[1:])

    @property
    def decided(self) -> bool:
        """Whether every row has its class."""
        return self.indices is None or bool((self.indices >= 0).all())

    def take(self, rows: Rows) -> Score:
        """The score for some of the rows; with a slice, a class decided there is decided here too."""
        part = Score.__new__(Score)
        part.rows = len(range(self.rows)[rows]) if isinstance(rows, slice) else len(rows)
        part.callable, part.remarks = self.callable, self.remarks
        part.indices = None if self.indices is None else self.indices[rows]
        return part

    def each(self) -> list[Score]:
        """K scores of one class per row, of one score of K classes per row."""
        if self.indices is None or self.indices.ndim == 1:
            return [self]
        parts = []
        for k in range(self.indices.shape[1]):
            part = self.take(slice(None))
            part.indices = self.indices[:, k]
            parts.append(part)
        return parts

    def __call__(self, output: Any) -> Tensor:
        """The explained scores, (n,) or (n, K), float; differentiable where the output is."""
        if self.callable is not None:
            return self._called(self.callable(output))
        scores = class_scores(output)
        self._remark_choice(output)
        assert self.indices is not None
        n, classes = scores.shape
        if n != self.rows:
            raise ModelError(f"the model returned scores for {n} rows, {self.rows} went in: {describe(output)}")
        self._remark(scores)
        if not self.decided:
            self.indices.copy_(predicted(scores.detach(), ends_in_sigmoid(scores)))
        if classes == 1:
            scores = torch.cat([-scores, scores], dim=1)
        if int(self.indices.max()) >= scores.shape[1]:
            raise TargetError(
                f"class {int(self.indices.max())} is out of range: the model has {scores.shape[1]} classes, "
                f"0 to {scores.shape[1] - 1}"
            )
        columns = self.indices.to(scores.device).reshape(n, -1)
        return scores.gather(1, columns).reshape(self.indices.shape)

    def _called(self, values: Any) -> Tensor:
        if not isinstance(values, Tensor) or values.shape != (self.rows,) or not values.is_floating_point():
            got = describe(values) if isinstance(values, Tensor) else type(values).__name__
            raise TargetError(f"a callable target must return one float score per row, ({self.rows},), got {got}")
        return values

    def _remark_choice(self, output: Any) -> None:
        if isinstance(output, Tensor) or _named_scores(output) is not None:
            return
        names = [name for name, value in _fields(output).items() if _is_scores(value)]
        if len(names) > 1:
            self.remarks.add(
                f"the model returned several (N, K) outputs, {', '.join(names)}: this explains {names[0]}; "
                "a callable as target takes another"
            )

    def _remark(self, scores: Tensor) -> None:
        if ends_in_sigmoid(scores):
            one = scores.shape[1] == 1
            said = "output is a probability" if one else "outputs are probabilities"
            explained = "it, not a logit" if one else "them, not logits"
            self.remarks.add(f"the model's {said} (sigmoid): this explains {explained}")
        elif scores.shape[1] > 1 and are_probabilities(scores.detach()):
            self.remarks.add("the model's outputs are probabilities (softmax): this explains them, not logits")


def predicted(scores: Tensor, probability: bool = False) -> Tensor:
    """The class of each row: the largest score; of a single logit its sign, of a single probability its half."""
    if scores.shape[1] == 1:
        return (scores[:, 0] > (0.5 if probability else 0)).long()
    return scores.argmax(1)


def probabilities(scores: Tensor) -> Tensor:
    """The probability of each class, (N, K): the softmax, or the scores themselves where they are probabilities
    already; of a single logit or probability (N, 1) those of both its classes, (N, 2)."""
    if scores.shape[1] == 1:
        yes = scores if ends_in_sigmoid(scores) else scores.sigmoid()
        return torch.cat([1 - yes, yes], 1)
    return scores if ends_in_sigmoid(scores) or are_probabilities(scores.detach()) else scores.softmax(1)


def are_probabilities(scores: Tensor) -> bool:
    """Whether scores (N, K) already are a softmax: none negative, each row's sum 1."""
    return bool((scores >= 0).all()) and bool((scores.sum(1) - 1).abs().max() < 1e-3)


_SAME_VALUES = tuple(
    f"{name}Backward{number}"
    for name in ("Unsqueeze", "View", "Squeeze", "ToCopy", "Select", "Slice", "Clone", "Alias", "ReshapeAlias")
    for number in (0, 1)
)


def ends_in_sigmoid(scores: Tensor) -> bool:
    """Whether scores with a graph are the output of a sigmoid."""
    node = scores.grad_fn
    while node is not None and node.name() in _SAME_VALUES:
        node = node.next_functions[0][0]
    return node is not None and node.name() == "SigmoidBackward0"


def _checked_indices(target: Tensor, n: int) -> Tensor:
    if target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
        raise TargetError(f"a tensor target holds class indices, so integers, got {target.dtype}")
    if target.ndim == 0:
        target = target.expand(n)
    if target.ndim not in (1, 2) or target.shape[0] != n or 0 in target.shape:
        raise TargetError(f"target must be (N,) or (N, K) with N = {n} rows, got {tuple(target.shape)}")
    if int(target.min()) < 0:
        raise TargetError(f"target must be class indices from 0 up, got {int(target.min())}")
    return target.detach().to("cpu", torch.long).clone()
