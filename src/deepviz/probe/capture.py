"""What a layer returns during one forward pass, and the gradient that arrives there."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import BaseTorchFunctionMode

from deepviz.errors import LayerError, ModelFailed
from deepviz.inputs import Leaves
from deepviz.names import nearest
from deepviz.probe.gradient import Independent, backward, coverage_of, curvature, fresh_leaf, note_coverage
from deepviz.probe.layer_names import path_of, split_call
from deepviz.probe.outputs import describe
from deepviz.probe.rules import Rule

if TYPE_CHECKING:
    from deepviz.probe.session import Session


def layer_name(model: nn.Module, layer: str | nn.Module) -> str:
    """The name of a layer: its path in `named_modules()`, given as such or as the module itself.

    A module that is called several times in a forward pass has one map per call: "relu#2" is the second.

    Raises:
        LayerError: if the model has no such layer; with the nearest names.
    """
    if isinstance(layer, nn.Module):
        for name, module in model.named_modules():
            if module is layer:
                return str(name)
        raise LayerError(f"the layer {type(layer).__name__} given as a module is not part of this model")
    path, _ = split_call(layer)
    if path and _has(model, path):
        return layer
    known = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
    hint = nearest(layer, known) or "; deepviz layers, or deepviz.viz_layers(model), lists them"
    raise LayerError(f"no layer {layer!r} in this model{hint}")


def _has(model: nn.Module, path: str) -> bool:
    try:
        model.get_submodule(path)
    except AttributeError:
        return False
    return True


def layer_curvature(session: Session, layer: str) -> tuple[Tensor, Tensor, Tensor]:
    """The layer's output A, the gradient g = dS/dA, and the second derivative times A, H A with H = d^2 S/dA^2.

    Attention is run by its plain formula, since fused kernels have no second derivative.

    Returns:
        A (n, ...); g and H A, (n, ...) or (n, K, ...) each, detached.

    Raises:
        LayerError: as `layer_gradient`.
    """
    with sdpa_kernel(SDPBackend.MATH):
        A, dA, HA = session.quickly(lambda fast: _at(fast, layer, curved=True), layer)
    return A, dA, HA


def layer_gradient(session: Session, layer: str) -> tuple[Tensor, Tensor]:
    """The layer's output A and dS/dA for the rows of a chunk, with a graph only from the layer on.

    Below the layer the model runs without a graph; when the layer returns, the graph starts at a copy of its output.
    Where that fails (the layer hands on a view or returns several tensors, or the model runs it under `no_grad`), the
    graph is that of all layers.

    Returns:
        A (n, ...) and dS/dA, (n, ...) or (n, K, ...), both detached.

    Raises:
        LayerError: if the layer is not called exactly once, or the score does not depend on it.
    """
    A, dA = session.quickly(lambda fast: _at(fast, layer), layer)
    return A, dA


def _at(session: Session, layer: str, curved: bool = False) -> tuple[Tensor, ...]:
    """A and dS/dA; with `curved` H A too."""
    with session.right_layouts(layer):
        if not session.known.past_no_grad:
            try:
                return _above(session, layer, curved)
            except (_NoNewGraph, Independent, ModelFailed):
                pass  # the graph of all layers may do, and says better why not
        return session.depending(lambda: _along(session, layer, curved))


def layer_output(session: Session, layer: str) -> Tensor:
    """The layer's output A for the rows of a chunk, without a graph; what is explained must be decided.

    Raises:
        LayerError: if the layer is not called exactly once, or returns no tensor.
    """

    def compute(fast: Session) -> Tensor:
        found: list[Tensor] = []

        def remember(inputs: Any, output: Any) -> None:
            # a copy: the next layer may be an in-place ReLU
            found.append(explained(output, layer).detach().clone())

        with torch.no_grad(), every_part_called(fast.model, layer), answering(fast.model, layer, remember):
            seen = fast.look()
            fast.read(seen)  # refuses a class that the model does not have
        return found[0]

    return session.quickly(compute, layer)


class _NoNewGraph(LayerError):
    """A graph cannot start at the layer, only pass: it hands on its input, of which others hold views, or it returns
    several tensors."""


def _unrelated(layer: str) -> LayerError:
    return LayerError(f"the score does not depend on layer {layer!r}; choose another layer")


def _above(session: Session, layer: str, curved: bool = False) -> tuple[Tensor, ...]:
    found: list[Tensor] = []

    def start_graph(inputs: Any, output: Any) -> Any:
        answer = explained(output, layer)
        if sum(isinstance(one, Tensor) and one.is_floating_point() for one in _parts(output)) > 1:
            raise _NoNewGraph(f"layer {layer!r} returns several tensors, of which one may be made of another")
        torch.set_grad_enabled(True)
        # a copy: what the model goes on to do in place must not reach it
        leaf = fresh_leaf(answer.detach().clone())
        found.append(leaf)
        if any(answer is value for value in inputs):
            # an in-place layer: whoever holds its input holds its output, so the tensor itself joins the graph
            try:
                answer.copy_(leaf)
            except RuntimeError as error:
                raise _NoNewGraph(f"layer {layer!r} hands on a view: {error}") from error
            return None
        return with_tensor(output, leaf.clone())

    model = session.model
    with torch.no_grad(), every_part_called(model, layer), answering(model, layer, start_graph):
        seen = session.look()
        with torch.enable_grad():
            values = session.read(seen)
    (leaf,) = found
    edge = torch.autograd.graph.get_gradient_edge(leaf)
    answer = leaf.detach()
    if curved:
        return answer, *curvature(values, edge, answer)
    (gradient,) = backward(values, [edge])
    return answer, gradient


def explained(output: Any, layer: str) -> Tensor:
    """The feature map in what a layer returned.

    Raises:
        LayerError: if there is none, or it was made in inference mode.
    """
    if torch.is_inference_mode_enabled():
        raise LayerError(
            f"layer {layer!r} is run under torch.inference_mode() inside the model, where no gradient can arrive: use "
            "torch.no_grad() there, or choose a layer outside of it"
        )
    answer = spatial_tensor(output)
    if answer is None:
        raise LayerError(f"layer {layer!r} has no spatial map: its output is {describe(output)}; choose another layer")
    return answer


def every_part_called(model: nn.Module, layer: str) -> AbstractContextManager[object]:
    """Without a graph, PyTorch's own transformer layers skip their parts for a fused kernel, unless one watches."""
    parts = path_of(layer).split(".")
    above = (model.get_submodule(".".join(parts[:depth])) for depth in range(len(parts)))
    fused = any(isinstance(module, (nn.TransformerEncoder, nn.TransformerEncoderLayer)) for module in above)
    return BaseTorchFunctionMode() if fused else nullcontext()


def _along(session: Session, layer: str, curved: bool = False) -> tuple[Tensor, ...]:
    """As `_above`, with the graph of all layers."""
    found: list[tuple[Tensor, Any]] = []
    leaves = session.x.map(fresh_leaf)
    with answering(session.model, layer, _remembering(found, layer)):
        values = session.forward_with_rule(leaves, None)
    ((answer, edge),) = found
    gradient = _to_layer(session, values, edge, leaves, layer)
    return (answer, *curvature(values, edge, answer)) if curved else (answer, gradient)


def _to_layer(session: Session, values: Tensor, edge: Any, leaves: Leaves, layer: str) -> Tensor:
    """dS/dA, where the graph begins at the input.

    Raises:
        LayerError: if the score depends on the input, but not by way of this layer.
        Independent: if it does not depend on the input either, so that something cuts every way.
    """
    try:
        if edge is None:
            raise Independent(f"layer {layer!r} returns a result without a gradient")
        return backward(values, [edge], keep=True)[0]
    except Independent as error:
        session.backward(values, leaves)
        if edge is None:
            raise LayerError(
                f"layer {layer!r} returns a result without a gradient: the model calls it under torch.no_grad(); "
                "choose another layer"
            ) from error
        raise _unrelated(layer) from error


def layer_and_input_gradient(session: Session, layer: str, rule: Rule) -> tuple[Tensor, Tensor, Leaves]:
    """The layer's output A, the plain dS/dA, and the gradient through `rule` at the input, from one forward pass."""

    def both(fast: Session) -> tuple[Tensor, Tensor, Leaves]:
        found: list[tuple[Tensor, Any]] = []
        leaves = fast.x.map(fresh_leaf)
        with answering(fast.model, layer, _remembering(found, layer)):
            values = fast.forward_with_rule(leaves, rule)
        ((answer, edge),) = found
        coverage = coverage_of(values, rule, leaves)
        rule.active = False
        try:
            plain = _to_layer(fast, values, edge, leaves, layer)
        finally:
            rule.active = True
        guided = fast.backward(values, leaves)
        note_coverage(fast.call, coverage)
        return answer, plain, guided

    def compute(fast: Session) -> tuple[Tensor, Tensor, Leaves]:
        with fast.right_layouts((layer, "and input")):
            return fast.depending(lambda: both(fast))

    return session.quickly(compute, layer)


def _remembering(found: list[tuple[Tensor, Any]], layer: str) -> Callable[[Any, Any], None]:
    """What `answering` calls to keep a layer's output, and where its gradient will arrive, in `found`."""

    def remember(inputs: Any, output: Any) -> None:
        answer = explained(output, layer)
        edge = torch.autograd.graph.get_gradient_edge(answer) if answer.requires_grad else None
        # the edge and the copy stay what they are now, even if a later layer works in place
        found.append((answer.detach().clone(), edge))

    return remember


@contextmanager
def answering(model: nn.Module, layer: str, respond: Callable[[Any, Any], Any]) -> Iterator[None]:
    """Inside, `respond(inputs, output)` is called once, when the layer has answered, and may replace its output.

    Raises:
        LayerError: if the layer is called again though no call was named, or was not called by the end.
    """
    path, wanted = split_call(layer)
    owner = threading.get_ident()
    calls = 0

    def hook(_: nn.Module, inputs: Any, output: Any) -> Any:
        nonlocal calls
        if threading.get_ident() != owner:  # another thread uses the same model
            return None
        calls += 1
        if wanted is None and calls > 1:
            raise LayerError(
                f"layer {path!r} is called more than once in a forward pass, and each call has its own map: "
                f"name one, such as {path + '#2'!r} (see: deepviz layers)"
            )
        return respond(inputs, output) if calls == (wanted or 1) else None

    handle = model.get_submodule(path).register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
    if calls < (wanted or 1):
        times = "never" if calls == 0 else f"only {calls} times"
        raise LayerError(f"layer {layer!r} is {times} called in the forward pass; choose another (see: deepviz layers)")


def spatial_tensor(output: Any) -> Tensor | None:
    """The feature map in a layer's output: itself, or the first floating tensor of a tuple, mapping or dataclass."""
    if isinstance(output, Tensor):
        return output if output.is_floating_point() else None
    return next((value for value in _parts(output) if isinstance(value, Tensor) and value.is_floating_point()), None)


def _parts(output: Any) -> list[Any]:
    if isinstance(output, dict):
        return list(output.values())
    if is_dataclass(output) and not isinstance(output, type):
        return [getattr(output, field.name) for field in fields(output)]
    return list(output) if isinstance(output, (tuple, list)) else []


def with_tensor(output: Any, new: Tensor) -> Any:
    """What a layer returned, with another tensor in place of its feature map."""
    if isinstance(output, Tensor):
        return new
    old = spatial_tensor(output)
    changed: Any
    if isinstance(output, dict):
        changed = copy.copy(output)  # transformers' outputs refuse update()
        for key, value in output.items():
            if value is old:
                changed[key] = new
        return changed
    if is_dataclass(output) and not isinstance(output, type):
        changed = copy.copy(output)
        for field in fields(output):
            if getattr(output, field.name) is old:
                object.__setattr__(changed, field.name, new)  # frozen ones too
        return changed
    values = [new if value is old else value for value in output]
    return type(output)(*values) if hasattr(output, "_fields") else type(output)(values)


def refuse_graphs(model: nn.Module, layer: str | None = None) -> None:
    """Scripted, traced and exported modules run outside Python: their layers cannot be watched.

    Args:
        model: the whole model.
        layer: the layer that is asked for; None refuses only a model that has no other parts.

    Raises:
        LayerError: naming the module.
    """
    path = "" if layer is None else path_of(layer)
    modules = dict(model.named_modules(remove_duplicate=False))
    parts = path.split(".") if path else []
    for depth in range(len(parts) + 1):
        name = ".".join(parts[:depth])
        module = modules.get(name)
        if isinstance(module, torch.jit.ScriptModule):
            kind = "a scripted or traced module"
        elif isinstance(module, torch.fx.GraphModule) and _has_no_layers(module):
            kind = "an exported graph"
        else:
            continue
        raise LayerError(
            f"{name or 'the model'} is {kind}, whose layers cannot be reached: use the nn.Module it was made from, "
            "or a method that needs no layer (Gradient, IntegratedGradients)"
        )


def _has_no_layers(module: torch.fx.GraphModule) -> bool:
    called = {node.target for node in module.graph.nodes if node.op == "call_module"}
    return not called - {"_guards_fn"}  # what torch.export adds
