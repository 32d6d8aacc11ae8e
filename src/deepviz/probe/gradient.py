"""Forward passes and gradients of one borrowed model, in chunks, leaving nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from weakref import WeakSet

import torch
from torch import Tensor, nn

from deepviz.errors import DeepVizError, ModelError, ModelFailed, NothingOverridden
from deepviz.notes import Notes
from deepviz.probe.chunks import Joined, in_chunks
from deepviz.probe.rules import Override, Rule, covered, refuse_scripted
from deepviz.target import Score

T = TypeVar("T")
_contiguous_only: WeakSet[nn.Module] = WeakSet()


@dataclass(frozen=True)
class Call:
    """One call of one method: the borrowed model and the notes that the result will carry."""

    model: nn.Module
    notes: Notes

    def aside(self) -> Call:
        """The same call for a method inside another."""
        return replace(self, notes=self.notes.aside())

    def by_rows(self, x: Tensor, compute: Callable[[slice], Tensor], graph: bool = True) -> Tensor:
        """`compute` for chunks of the rows of `x`, joined; `graph` says whether it keeps a graph of all layers."""
        joined = Joined(len(x))
        in_chunks(self.model, x, lambda rows: joined.put(rows, compute(rows)), graph)
        return joined.whole

    def laid(self, x: Tensor) -> Tensor:
        """`x` (N, C, H, W) in the memory layout that suits machine and model.

        Convolutions on a CPU run faster on `channels_last` input; a model that takes views of its feature maps
        cannot have that (`in_layout`). A model that reads the strides of its input and computes something else by
        them is not noticed: it is explained as it answers to this layout.
        """
        last = x.device.type == "cpu" and self.model not in _contiguous_only
        return x.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)

    def in_layout(self, x: Tensor, compute: Callable[[Tensor], T]) -> T:
        """`compute(x)` with `x` laid out; if that fails, in the plain layout, which is remembered if it helps."""
        laid = self.laid(x)
        if laid.is_contiguous():
            return compute(laid)
        try:
            return compute(laid)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            # what the model, or a callable target, raises; the messages of those that mind the layout are many
            if isinstance(error, DeepVizError) and not isinstance(error, ModelFailed):
                raise
        # outside the handler, so that the failed attempt's tensors are no longer held by its traceback
        found = compute(x.contiguous())
        _contiguous_only.add(self.model)
        return found

    def run(self, x: Tensor, keep: bool = True) -> Any:
        """The model's raw output; `keep` says whether anybody needs `x` as it is afterwards.

        Raises:
            ModelFailed: if the model raises, with how its parameters and the input differ.
        """
        try:
            # a clone, since a model may begin with an in-place operation
            return self.model(x.clone() if keep else x)
        except (DeepVizError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            raise ModelFailed(f"the model failed on x {_place(x)}{self._parameters()}: {_reason(error)}") from error

    def scores(self, x: Tensor, score: Score) -> Tensor:
        """The explained scores of all rows, detached: (N,) or (N, K)."""
        # which class is predicted may depend on the output's last operation, which only a graph tells
        graph = not score.decided

        def forward(rows: slice) -> Tensor:
            with nullcontext() if graph else torch.no_grad():
                return self.in_layout(
                    x[rows], lambda laid: self.check(score.take(rows)(self.run(fresh_leaf(laid))))
                ).detach()

        return self.by_rows(x, forward, graph)

    def check(self, values: Tensor) -> Tensor:
        """The scores themselves, if they are finite.

        Raises:
            ModelError: naming the first parameter that is not finite, if that is why.
        """
        if bool(torch.isfinite(values.detach()).all()):
            return values
        for name, parameter in self.model.named_parameters():
            if not bool(torch.isfinite(parameter.detach()).all()):
                raise ModelError(f"the model's scores are not finite: parameter {name} holds NaN or infinity")
        raise ModelError(
            "the model's scores are not finite (NaN or infinity), though its parameters are: check the input"
        )

    def _parameters(self) -> str:
        first = next(self.model.parameters(), None)
        return "" if first is None else f" (its parameters are {_place(first, shape=False)})"


def _place(tensor: Tensor, shape: bool = True) -> str:
    kind = f"{str(tensor.dtype).removeprefix('torch.')} on {tensor.device}"
    return f"{tuple(tensor.shape)} {kind}" if shape else kind


def _reason(error: Exception) -> str:
    """An error's message in one line, with its type where the message alone would say little."""
    text = " ".join(str(error).split())
    kind = type(error).__name__
    if not text:
        return kind
    return f"{kind}: {text}" if isinstance(error, LookupError) else text


def input_gradient(call: Call, x: Tensor, score: Score, rule: Rule | None = None) -> tuple[Tensor, Tensor]:
    """dS/dx for every row, through `rule` if there is one, and the scores S.

    Args:
        call: the borrowed model.
        x: (N, C, H, W), any floating dtype; not written to.
        score: what to explain; K targets a row share their forward pass.
        rule: what rectifiers do to the signal instead of their derivative.

    Returns:
        (N, C, H, W), or (N, K, C, H, W); and the scores, (N,) or (N, K), detached.
    """
    values = Joined(len(x))

    def chunk(rows: slice) -> Tensor:
        gradients, scores = call.in_layout(x[rows], lambda laid: _gradient(call, laid, score.take(rows), rule))
        values.put(rows, scores)
        return gradients

    gradients = call.by_rows(x, chunk)
    return gradients, values.whole


def _gradient(call: Call, x: Tensor, score: Score, rule: Rule | None) -> tuple[Tensor, Tensor]:
    leaf = fresh_leaf(x)
    values = forward_with_rule(call, leaf, score, rule)
    gradients = backward(call, values, leaf)
    return gradients, values.detach()


def fresh_leaf(x: Tensor) -> Tensor:
    """A tensor that gradients are taken for; it shares the values of `x`, unless `x` was made in inference mode."""
    return (x.clone() if x.is_inference() else x.detach()).requires_grad_()


def forward_with_rule(call: Call, leaf: Tensor, score: Score, rule: Rule | None) -> Tensor:
    """The scores with their graph; under a rule, what it covers goes into the notes.

    Raises:
        NothingOverridden: if no rectifier on the way to the score carries the rule.
    """
    if rule is None:
        scope: Any = nullcontext()
    else:
        refuse_scripted(call.model)
        scope = Override(rule)
    with scope:
        output = call.run(leaf)
    values = call.check(score(output))
    if rule is not None:
        _note_coverage(call, values, rule)
    return values


def _note_coverage(call: Call, values: Tensor, rule: Rule) -> None:
    if "overridden" in call.notes.facts or values.grad_fn is None:
        rule.carriers.clear()
        return
    done, missed = covered(values, rule)
    hidden = ", ".join(f"{count} {name}" for name, count in sorted(missed.items()))
    if not done:
        because = f"they may hide in {hidden}" if hidden else "the model uses none"
        raise NothingOverridden(
            f"no rectifier (ReLU or relative) was reached, so this would be a plain gradient: {because}; "
            "use Gradient, or spell the activation as nn.ReLU or F.relu"
        )
    call.notes.facts["overridden"] = dict(sorted(done.items()))
    if hidden:
        call.notes.facts["not overridden"] = dict(sorted(missed.items()))
        call.notes.warn(
            f"the rule reached {sum(done.values())} rectifiers but not what is inside {hidden}: "
            "there the gradient is the plain one"
        )


def backward(call: Call, values: Tensor, leaf: Any, keep: bool = False) -> Tensor:
    """d(values)/d(leaf), (n, ...) or (n, K, ...); `leaf` is a tensor or a graph edge.

    Raises:
        ModelError: if the scores do not depend on `leaf`, naming the module where the graph breaks off.
    """
    columns = values.unbind(1) if values.ndim == 2 else (values,)
    gradients = []
    for k, column in enumerate(columns):
        if not column.requires_grad:
            raise ModelError(_broken(call, leaf))
        (gradient,) = differentiate(column.sum(), [leaf], keep or k < len(columns) - 1)
        if gradient is None:
            raise ModelError(_broken(call, leaf))
        gradients.append(gradient)
    return torch.stack(gradients, 1) if values.ndim == 2 else gradients[0]


def differentiate(value: Tensor, leaves: list[Any], keep: bool = False) -> tuple[Tensor | None, ...]:
    """The gradients of one number with respect to tensors or graph edges, None where it does not depend on them.

    Raises:
        ModelFailed: if the model's own backward pass raises.
    """
    try:
        return torch.autograd.grad(value, leaves, retain_graph=keep, allow_unused=True)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        raise ModelFailed(f"the model's backward pass failed: {_reason(error)}") from error


def _broken(call: Call, leaf: Any) -> str:
    where = _breaking_module(call.model, leaf) if isinstance(leaf, Tensor) else None
    named = f": {where} returns a result without a gradient (no_grad, detach, numpy or rounding inside?)"
    return "the score does not depend on the input in a differentiable way" + (named if where else "")


def _breaking_module(model: nn.Module, x: Tensor) -> str | None:
    broken: list[str] = []

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            arrived = any(isinstance(value, Tensor) and value.requires_grad for value in inputs)
            if arrived and isinstance(output, Tensor) and not output.requires_grad:
                broken.append(name or type(module).__name__)

        return hook

    handles = [module.register_forward_hook(watch(name)) for name, module in model.named_modules()]
    try:
        model(x.detach().clone().requires_grad_())
    finally:
        for handle in handles:
            handle.remove()
    return broken[0] if broken else None
