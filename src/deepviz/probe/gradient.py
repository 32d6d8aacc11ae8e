"""Gradients of scores, for exactly the tensors asked for, and what to say where there are none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from deepviz.errors import ModelError, ModelFailed, NothingOverridden
from deepviz.inputs import Inputs, Leaves
from deepviz.probe.border import PastNoGrad
from deepviz.probe.call import Call, reason
from deepviz.probe.rules import Rule, covered


class Independent(ModelError):
    """The scores do not depend on what a gradient was asked for, in a differentiable way."""


def fresh_leaf(x: Tensor) -> Tensor:
    """A tensor that gradients are taken for; it shares the values of `x`, unless `x` was made in inference mode."""
    return (x.clone() if x.is_inference() else x.detach()).requires_grad_()


Coverage = tuple[Counter[str], Counter[str]]


def coverage_of(values: Tensor, rule: Rule | None, leaves: Leaves) -> Coverage | None:
    """Which rectifiers between the leaves and the scores carry the rule; to be asked before their graph is used up."""
    if rule is None:
        return None
    if values.grad_fn is None:
        rule.carriers.clear()
        return None
    return covered(values, rule, leaves)


def note_coverage(call: Call, coverage: Coverage | None) -> None:
    """Note what the rule covers.

    Raises:
        NothingOverridden: if it covers nothing.
    """
    if coverage is None or "overridden" in call.notes.facts:
        return
    done, missed = coverage
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


def backward(values: Tensor, leaves: list[Any], keep: bool = False) -> list[Tensor]:
    """d(values)/d(leaf) for each leaf, (n, ...) or (n, K, ...); a leaf is a tensor, or a graph edge if it is alone.

    A tensor that the scores do not depend on, while they depend on another, has a gradient of zero.

    Raises:
        Independent: if a score depends on none of them.
    """
    columns = values.unbind(1) if values.ndim == 2 else (values,)
    found: list[list[Tensor]] = []
    for k, column in enumerate(columns):
        if not column.requires_grad:
            raise Independent("the score does not depend on the input in a differentiable way")
        gradients = differentiate(column.sum(), leaves, keep or k < len(columns) - 1)
        if all(gradient is None for gradient in gradients):
            raise Independent("the score does not depend on the input in a differentiable way")
        found.append(
            [
                torch.zeros_like(leaf) if gradient is None else gradient
                for leaf, gradient in zip(leaves, gradients, strict=True)
            ]
        )
    if values.ndim == 1:
        return found[0]
    return [torch.stack(each, 1) for each in zip(*found, strict=True)]


def curvature(values: Tensor, edge: Any, A: Tensor) -> tuple[Tensor, Tensor]:
    """g = d(values)/dA at a graph edge, and H A, the derivative of g along A: (n, ...) or (n, K, ...) each.

    Raises:
        Independent: if a score does not depend on it.
    """
    found = []
    for column in values.unbind(1) if values.ndim == 2 else (values,):
        if not column.requires_grad:
            raise Independent("the score does not depend on the input in a differentiable way")
        (g,) = differentiate(column.sum(), [edge], keep=True, graph=True)
        if g is None:
            raise Independent("the score does not depend on the input in a differentiable way")
        HA = differentiate((g * A).sum(), [edge], keep=True)[0] if g.requires_grad else None
        found.append((g.detach(), torch.zeros_like(g) if HA is None else HA))
    if values.ndim == 1:
        return found[0]
    first, second = zip(*found, strict=True)
    return torch.stack(first, 1), torch.stack(second, 1)


def differentiate(
    value: Tensor, leaves: list[Any], keep: bool = False, graph: bool = False
) -> tuple[Tensor | None, ...]:
    """The gradients of one number with respect to tensors or graph edges, None where it does not depend on them.
    `keep` the graph for another pass; with `graph` the gradients have one of their own.

    Raises:
        ModelFailed: if the model's own backward pass raises.
    """
    try:
        return torch.autograd.grad(value, leaves, retain_graph=keep, create_graph=graph, allow_unused=True)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        raise ModelFailed(f"the model's backward pass failed: {reason(error)}") from error


def broken(call: Call, inputs: Inputs) -> str:
    """Why the score does not depend on the input, with the module where the graph breaks off."""
    where = _breaking_module(call.model, inputs)
    named = f": {where} returns a result without a gradient (detach, inference_mode, numpy or rounding inside?)"
    return "the score does not depend on the input in a differentiable way" + (named if where else "")


def _breaking_module(model: nn.Module, inputs: Inputs) -> str | None:
    """The first module to return something that does not depend on the explained tensors, though its inputs do."""
    leaves = list(inputs.leaves.map(fresh_leaf))
    calls: list[tuple[str, Any, Any]] = []

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, arguments: Any, output: Any) -> None:
            calls.append((name or f"the model ({type(module).__name__})", _tensors(arguments), _tensors(output)))

        return hook

    handles = [
        module.register_forward_hook(watch(name))
        for name, module in model.named_modules()
        if not isinstance(module, torch.jit.ScriptModule)
    ]
    try:
        with PastNoGrad():
            args, kwargs = inputs.put(tuple(leaves)).arguments(copy=True)
            model(*args, **kwargs)
            for name, arrived, returned in calls:
                # the model itself comes last, and what arrives there are the leaves
                if (
                    returned
                    and not _depends(returned, leaves)
                    and (name.startswith("the model") or _depends(arrived, leaves))
                ):
                    return name
    except Exception:  # the message only says less
        return None
    finally:
        for handle in handles:
            handle.remove()
    return None


def _depends(tensors: list[Tensor], leaves: list[Tensor]) -> bool:
    return any(
        gradient is not None
        for tensor in tensors
        if tensor.requires_grad
        for gradient in torch.autograd.grad(tensor.sum(), leaves, retain_graph=True, allow_unused=True)
    )


def _tensors(values: Any) -> list[Tensor]:
    if isinstance(values, Tensor):
        return [values] if values.is_floating_point() else []
    if isinstance(values, dict):
        values = list(values.values())
    return [tensor for value in values for tensor in _tensors(value)] if isinstance(values, (tuple, list)) else []
