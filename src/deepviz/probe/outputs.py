"""What a model's output is: class scores, probabilities, independent labels, numbers or an embedding.

It is read from the model where that says so (`problem_type` of a Hugging Face configuration), from the caller
(`output=`), and guessed last; what was guessed stands in the result.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from deepviz.errors import ModelError, TargetError

Stated = Literal[
    "auto", "logits", "probabilities", "binary", "multi-label", "regression", "embedding", "detections", "maps"
]
Kind = Literal[
    "auto", "logits", "probabilities", "binary", "multi-label", "regression", "embedding", "detections", "maps",
    "two labels",
]  # fmt: skip
"""What the outputs (N, K) of a model are.

"logits": one class of K, a softmax away from probabilities; "probabilities": these themselves; "binary": two classes,
of one output z their scores are S_1 = z and S_0 = -z; "multi-label": K independent labels, a sigmoid away from
probabilities; "regression": numbers; "embedding": a vector; "auto": read from the model, guessed last. A caller states
one of these. What detectors and segmenters return is no (N, K): "detections" and "maps". "two labels": as "auto", of a
model that has labels for two classes, so that one output stands for both.
"""
KINDS: tuple[Stated, ...] = get_args(Stated)
WITHOUT_SCORES: tuple[Kind, ...] = ("detections", "maps")
"""What has no class scores (N, K)."""

PROBLEM_TYPES: dict[str, Kind] = {
    "regression": "regression",
    "single_label_classification": "logits",
    "multi_label_classification": "multi-label",
}
"""What `config.problem_type` says in transformers, as a `Kind`."""
_SEGMENTERS: dict[str, tuple[str, ...]] = {
    "transformers": ("ForSemanticSegmentation",),
    "torchvision": ("_SimpleSegmentationModel", "LRASPP"),
    "segmentation_models_pytorch": ("SegmentationModel",),
}
"""How the classes of segmenters end, by their package."""
_SCORES = ("logits", "out")
_EMBEDDINGS = ("image_embeds", "embeds", "embedding", "embeddings", "pooler_output")
ENOUGH = 20
"""Logits that do not all lie between 0 and 1 by chance."""
_DEEPEST = 8
"""Of the fields inside fields that are looked into."""


def check_kind(kind: Any) -> Kind:
    """The kind itself, if it is one.

    Raises:
        ValueError: with the kinds there are.
    """
    if kind not in get_args(Kind):
        raise ValueError(f"output must be one of {', '.join(map(repr, KINDS))}, got {kind!r}")
    return kind  # type: ignore[no-any-return]


def stated_kind(module: nn.Module) -> Kind:
    """What a model says of its own outputs, as a segmenter of a library, or by `config.problem_type` as transformers
    write it; "auto" if nothing.

    Example:
        >>> from types import SimpleNamespace
        >>> net = torch.nn.Linear(2, 2)
        >>> net.config = SimpleNamespace(problem_type="multi_label_classification")
        >>> stated_kind(net)
        'multi-label'
    """
    adapted = getattr(module, "deepviz_output", None)
    if adapted in WITHOUT_SCORES:
        return adapted  # type: ignore[no-any-return]
    for cls in type(module).__mro__:
        ends = _SEGMENTERS.get(cls.__module__.partition(".")[0])
        if ends is not None and cls.__name__.endswith(ends):
            return "maps"
    config = getattr(module, "config", None)
    stated = config.get("problem_type") if isinstance(config, Mapping) else getattr(config, "problem_type", None)
    return PROBLEM_TYPES.get(stated, "auto") if isinstance(stated, str) else "auto"


def class_scores(output: Any, kind: Kind = "auto") -> Tensor:
    """The outputs (N, K) in whatever a model returns: class scores, numbers or an embedding.

    A tensor; else `.logits`, `["logits"]` or `["out"]`, at any depth of mappings, dataclasses, objects and tuples; else
    the first floating (N, K) tensor in them. A single number may come as (N,) or (N, 1). Of an "embedding" the fields
    of that name go first.

    Raises:
        ModelError: if nothing of that shape is there; the message lists what is.

    Example:
        >>> class_scores({"head": {"logits": torch.zeros(2, 5)}}).shape
        torch.Size([2, 5])
    """
    found = output if isinstance(output, Tensor) else _found(output, kind)
    if isinstance(found, Tensor) and found.ndim == 1 and found.is_floating_point():
        found = found.unsqueeze(1)
    if found is None or not _is_scores(found):
        place = _first_map(output) or "'name', index"
        raise ModelError(
            f"the model returned no class scores (N, K) but {describe(output)}; give a target that reads one score per "
            f"row from it: deepviz.objectives.Output({place}), or a callable"
        )
    return found


def _first_map(output: Any) -> str:
    """The arguments of `Output` for a point of the first map of numbers; "" if there is none."""
    found = [("", output), *_all_fields(output)]
    path = next((path for path, value in found if isinstance(value, Tensor) and value.ndim > 2), None)
    return "" if path is None else ", ".join([*(repr(name) for name in path.split(".") if name), "at=(x, y)"])


def class_maps(output: Any) -> Tensor:
    """The class scores (N, K, *grid), with two or three spatial axes, in whatever a segmenter returns: a tensor, or
    "out", "logits" or the first such tensor in it. Of one map z there are two classes, -z and z.

    Raises:
        ModelError: if nothing of that shape is there; the message lists what is.

    Example:
        >>> class_maps({"out": torch.zeros(2, 21, 8, 8), "aux": torch.zeros(2, 21, 8, 8)}).shape
        torch.Size([2, 21, 8, 8])
    """
    found = output if isinstance(output, Tensor) else _named(output, "maps")
    if not _are_maps(found):
        found = next((value for _, value in _all_fields(output) if _are_maps(value)), None)
    if found is None:
        raise ModelError(
            f"the model returned no class scores (N, K, h, w) but {describe(output)}: this target is about a segmenter"
        )
    return torch.cat([-found, found], 1) if found.shape[1] == 1 else found


def best_classes(z: Tensor) -> Tensor:
    """The class that is predicted at each place, (N, *grid), of the scores that `class_maps` finds.

    Example:
        >>> best_classes(class_maps(torch.tensor([[[[0.3, 0.9]]]])))  # one map, of probabilities
        tensor([[[0, 1]]])
    """
    if is_one_map(z) and bool(((z[:, 1] >= 0) & (z[:, 1] <= 1)).all()):
        return (z[:, 1] > 0.5).long()
    return z.argmax(1)


def is_one_map(z: Tensor) -> bool:
    """Whether scores of two classes are -z and z of one map."""
    return z.shape[1] == 2 and bool((z[:, 0] == -z[:, 1]).all())


def _are_maps(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim in (4, 5) and value.is_floating_point()


def any_numbers(output: Any, n: int) -> Tensor | None:
    """Floating numbers (n, ...) in whatever a model returns, several a row: "logits" or "out", else the first such
    tensor; None if there is none."""
    every = [_named(output, "auto"), *(value for _, value in _all_fields(output))]
    if isinstance(output, Tensor):
        every = [output]
    fit = (one for one in every if isinstance(one, Tensor) and one.is_floating_point() and one.ndim > 1)
    return next((one for one in fit if len(one) == n), None)


def chosen_field(output: Any, kind: Kind = "auto") -> str:
    """Which of several possible outputs was taken, being the first, as a sentence; "" if there is no doubt."""
    if isinstance(output, Tensor) or _named(output, kind) is not None:
        return ""
    names = [name for name, value in _all_fields(output) if _is_scores(value)]
    if len(names) < 2:
        return ""
    return (
        f"the model returned several (N, K) outputs, {', '.join(names)}: this explains {names[0]}; "
        "deepviz.objectives.Output('name', index) or a callable as target takes another"
    )


def describe(output: Any) -> str:
    """An output in words, with its fields and shapes, for error messages."""
    if isinstance(output, Tensor):
        return f"a tensor {tuple(output.shape)} of {str(output.dtype).removeprefix('torch.')}"
    inside = output_fields(output)
    if not inside:
        return type(output).__name__
    return f"{type(output).__name__} with {', '.join(f'{name}: {_in_short(value)}' for name, value in inside.items())}"


def _in_short(value: Any, depth: int = 0) -> str:
    if isinstance(value, Tensor):
        return str(tuple(value.shape))
    inside = output_fields(value) if depth < 3 else {}
    if not inside or len(inside) > 8:
        return type(value).__name__
    return "{" + ", ".join(f"{name}: {_in_short(inner, depth + 1)}" for name, inner in inside.items()) + "}"


def output_fields(output: Any) -> dict[str, Any]:
    """The parts of a mapping, dataclass, named tuple or plain object by name; those of a sequence by number."""
    if output is None or isinstance(output, (Tensor, str, bytes, int, float, nn.Module, type)):
        return {}
    if isinstance(output, Mapping):
        return {str(key): value for key, value in output.items()}
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return dict(zip(output._fields, output, strict=True))
    if isinstance(output, Sequence):
        return {str(position): value for position, value in enumerate(output)}
    if is_dataclass(output):
        return {one.name: getattr(output, one.name, None) for one in fields(output)}
    return {name: value for name, value in getattr(output, "__dict__", {}).items() if not name.startswith("_")}


def _found(output: Any, kind: Kind) -> Tensor | None:
    named = _named(output, kind)
    if named is not None:
        return named
    every = [value for _, value in _all_fields(output)]
    # a matrix first: what is (N,) may be a loss or a count of each row
    first: Tensor | None = next((value for value in every if _is_scores(value)), None)
    if first is not None:
        return first
    flat = [value for value in every if isinstance(value, Tensor) and value.ndim == 1 and value.is_floating_point()]
    only: Tensor | None = flat[0] if len(flat) == 1 == len(every) else None
    return only


def _named(output: Any, kind: Kind) -> Tensor | None:
    names = (*_EMBEDDINGS, *_SCORES) if kind == "embedding" else _SCORES
    for name in names:
        value = getattr(output, name, None) if not isinstance(output, Mapping) else None
        if isinstance(value, Tensor):
            return value
        for path, inner in _all_fields(output):
            if path.rpartition(".")[2] == name and isinstance(inner, Tensor):
                return inner
    return None


def _all_fields(output: Any, path: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """The tensors and other ends inside an output with their paths, "head.logits", those of a level first.

    A list holds something for each image (a detector's boxes), whose tensors have no rows: it is not looked into, but
    for tensors in a list that is the whole output.
    """
    inside = output_fields(output) if depth < _DEEPEST else {}
    if isinstance(output, list):
        inside = {name: value for name, value in inside.items() if depth == 0 and isinstance(value, Tensor)}
    deeper = []
    for name, value in inside.items():
        here = f"{path}.{name}" if path else name
        if output_fields(value):
            deeper.append((here, value))
        else:
            yield here, value
    for here, value in deeper:
        yield from _all_fields(value, here, depth + 1)


def _is_scores(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 2 and value.is_floating_point()


@dataclass(frozen=True)
class Reading:
    """How the outputs (N, K) of one model are read: a definite kind, and whether it was guessed.

    Args:
        kind: never "auto".
        outputs: K.
        given: whether the outputs are probabilities already.
        assumed: what was guessed, as a sentence; "" if it was stated.
        warnings: what contradicts the kind, and what else is odd, one sentence each.
    """

    kind: Kind
    outputs: int
    given: bool = False
    assumed: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def two(self) -> bool:
        """Whether one output stands for two classes."""
        return self.outputs == 1 and self.kind in ("binary", "logits", "probabilities")

    @property
    def classes(self) -> int:
        """How many classes, labels or numbers can be asked for."""
        return 2 if self.two else self.outputs

    @property
    def has_probabilities(self) -> bool:
        """Whether a class has a probability."""
        return self.kind not in ("regression", "embedding")

    def scores(self, outputs: Tensor) -> Tensor:
        """What is explained, one column for each class: the outputs; of one logit z for two classes -z and z."""
        return torch.cat([-outputs, outputs], 1) if self.two else outputs

    def probabilities(self, outputs: Tensor) -> Tensor | None:
        """The probability of each class (N, classes); None for numbers and embeddings."""
        if not self.has_probabilities:
            return None
        if self.two:
            yes = outputs if self.given else outputs.sigmoid()
            return torch.cat([1 - yes, yes], 1)
        if self.given:
            return outputs
        return outputs.sigmoid() if self.kind == "multi-label" else outputs.softmax(1)

    def order(self, outputs: Tensor) -> Tensor:
        """The classes of each row, best first, (N, classes).

        Raises:
            TargetError: if nothing is predicted, as of an embedding or of several numbers.
        """
        if self.kind == "embedding":
            raise TargetError(
                f"the output is an embedding of {self.outputs} numbers, which has no predicted class: give a target, "
                "such as deepviz.objectives.Text('a cat'), Similarity(to='other.jpg') or a callable"
            )
        if self.kind == "regression" and self.outputs > 1:
            raise TargetError(
                f"the output is {self.outputs} numbers, of which none is predicted more than another: give their "
                f"positions as target, 0 to {self.outputs - 1}"
            )
        if self.two:
            yes = (outputs[:, 0] > (0.5 if self.given else 0)).long()
            return torch.stack([yes, 1 - yes], 1)
        if self.outputs == 1:
            return torch.zeros_like(outputs, dtype=torch.long)
        order: Tensor = outputs.argsort(stable=True, dim=1, descending=True)
        return order

    def predicted(self, outputs: Tensor, rank: int = 0) -> Tensor:
        """The class of each row (N,), the best or one after it; of a single number always 0.

        Raises:
            TargetError: if nothing is predicted, or there are not so many classes.
        """
        if rank >= self.classes:
            raise TargetError(f"there is no prediction of rank {rank}: the model has {self.classes} classes")
        return self.order(outputs)[:, rank]

    def check_asked(self, index: int) -> None:
        """Refuse a class that this model does not have, or that cannot be meant.

        Raises:
            TargetError: with the classes there are, or what to state.
        """
        if self.kind == "regression" and self.outputs == 1 and self.assumed and index in (0, 1):
            raise TargetError(
                f"the model has one output, which may be a number or the logit of two classes, so target {index} is "
                "unclear: state output='binary' (two classes) or output='regression' (a number), or give "
                "deepviz.objectives.Output(0), the number itself"
            )
        if not 0 <= index < self.classes:
            what = {"regression": "number", "embedding": "component", "multi-label": "label"}.get(self.kind, "class")
            several = {"class": "classes"}.get(what, f"{what}s") if self.classes != 1 else what
            there = f"0 to {self.classes - 1}" if self.classes > 1 else "0"
            raise TargetError(f"{what} {index} is out of range: the model has {self.classes} {several}, {there}")


def read_outputs(outputs: Tensor, kind: Kind = "auto", labels: int | None = None) -> Reading:
    """How outputs (N, K) are read; a graph tells whether they end in a sigmoid or softmax, else their values do.

    Args:
        outputs: (N, K), as `class_scores` finds them.
        kind: what is stated.
        labels: how many labels are known, if any: two make one output "binary".

    Example:
        >>> read_outputs(torch.tensor([[0.2, 3.0]])).assumed
        'assumed: one class of 2'
        >>> read_outputs(torch.tensor([[34.5]])).kind
        'regression'
    """
    many = outputs.shape[1]
    with torch.no_grad():
        sigmoid, softmax = ends_in_sigmoid(outputs), many > 1 and are_probabilities(outputs)
    if kind in ("auto", "two labels"):
        return _guessed(many, 2 if kind == "two labels" else labels, sigmoid, softmax)
    # what a graph or the values show to be probabilities is not squashed again, whatever was stated
    given = kind == "probabilities" or ((sigmoid or softmax) and kind in ("logits", "binary", "multi-label"))
    assumed = f"assumed: one class of {many}" if kind == "binary" and many > 1 else ""
    return Reading(kind, many, given, assumed, tuple(_contradictions(outputs, kind, sigmoid, softmax)))


def _guessed(many: int, labels: int | None, sigmoid: bool, softmax: bool) -> Reading:
    if many == 1 and labels == 2:
        return Reading("binary", 1, sigmoid, "assumed: one output for two labels", _not_logits(1, sigmoid, softmax))
    if many == 1:
        assumed = "assumed: one output, a number; for two classes state output='binary'"
        return Reading("regression", 1, assumed=assumed)
    remark = _not_logits(many, sigmoid, softmax)
    if sigmoid:
        return Reading("multi-label", many, True, f"assumed: {many} independent labels", remark)
    if softmax:
        return Reading("probabilities", many, True, f"assumed: one class of {many}", remark)
    return Reading("logits", many, assumed=f"assumed: one class of {many}")


def _not_logits(many: int, sigmoid: bool, softmax: bool) -> tuple[str, ...]:
    if not (sigmoid or softmax):
        return ()
    said = "output is a probability, not a logit" if many == 1 else "outputs are probabilities, not logits"
    what = "it" if many == 1 else "probabilities"
    return (f"the model's {said} ({'sigmoid' if sigmoid else 'softmax'}); attributions are for {what}",)


def _contradictions(outputs: Tensor, kind: Kind, sigmoid: bool, softmax: bool) -> Iterator[str]:
    many = outputs.shape[1]
    stated = f"output={kind!r} is stated"
    end = "sigmoid" if sigmoid else "softmax"
    within = bool(((outputs >= 0) & (outputs <= 1)).all())
    if (kind == "logits" and (sigmoid or softmax)) or (kind == "multi-label" and softmax and not sigmoid):
        yield (
            f"{stated}, but the model ends in a {end}: its outputs are taken as probabilities, which "
            "output='probabilities' states"
        )
    elif kind == "binary" or (kind == "multi-label" and sigmoid):
        yield from _not_logits(many, sigmoid, softmax)
    elif kind == "multi-label" and many > 1 and _are_log_probabilities(outputs):
        yield (
            f"{stated}, so their sigmoid is taken, but the model ends in a log-softmax, one class of {many}: "
            "output='logits' reads it so"
        )
    elif kind == "multi-label" and within and outputs.numel() >= ENOUGH:
        yield (
            f"{stated}, so their sigmoid is taken, but all outputs lie between 0 and 1: if they are probabilities, "
            "state output='probabilities'"
        )
    if kind == "probabilities" and not within:
        yield f"{stated}, but outputs lie outside 0 to 1: if they are logits, state output='logits'"
    if kind == "binary" and many > 2:
        yield f"{stated}, but the model has {many} outputs, read as one class of {many}"
    if kind == "regression" and softmax:
        yield f"{stated}, but the model ends in a softmax: if it predicts a class, state output='probabilities'"
    if kind == "embedding" and many == 1:
        yield f"{stated}, but the model has one output: if it is a number, state output='regression'"


def are_probabilities(scores: Tensor) -> bool:
    """Whether scores (N, K) already are a softmax: none negative, each row's sum 1."""
    if len(scores) == 0:  # which is an error, but not of how they end
        return False
    return bool((scores >= 0).all()) and bool((scores.sum(1) - 1).abs().max() < 1e-3)


def _are_log_probabilities(scores: Tensor) -> bool:
    """Whether scores (N, K) already are a log-softmax: the exponentials of each row have the sum 1."""
    return len(scores) > 0 and bool(scores.detach().logsumexp(1).abs().max() < 1e-3)


_SAME_VALUES = frozenset(
    f"{name}Backward{number}"
    for name in ("Unsqueeze", "View", "Squeeze", "ToCopy", "Select", "Slice", "Clone", "Alias", "ReshapeAlias")
    for number in (0, 1)
)


def ends_in_sigmoid(scores: Tensor) -> bool:
    """Whether scores with a graph are the output of a sigmoid."""
    node = source_node(scores)
    return node is not None and node.name() == "SigmoidBackward0"


def source_node(scores: Tensor) -> Any:
    """The node of the graph that computed scores, past views and copies; None without a graph."""
    node = scores.grad_fn
    while node is not None and node.name() in _SAME_VALUES:
        node = node.next_functions[0][0]
    return node
