"""Rules that change how rectifiers propagate gradients, by operator, in whatever way a model calls them.

    Guided backpropagation   R = [x > 0] [R' > 0] R'     (Springenberg et al. 2014)
    Deconvnet                R = [R' > 0] R'             (Zeiler and Fergus 2013)

R' is the signal that arrives at the rectifier's output, R what leaves its input. The forward pass is untouched.

`Override` sees every torch operator that is called inside it, so `nn.ReLU`, in-place and reused modules,
`F.relu`, `torch.relu_`, `x.relu()` and exported graphs are all alike. After a forward pass `covered` walks the
graph of the score and says which rectifiers carry the rule, and which operators may hide one that does not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from deepviz.errors import NothingOverridden


@dataclass(frozen=True)
class Rectified:
    """One call of a rectifier: its kind, its input, and the same forward in a form with the textbook derivative."""

    kind: str
    x: Tensor
    inplace: bool
    forward: Callable[[Tensor], Tensor]


Reader = Callable[..., Rectified | None]


def _bounded(kind: str, x: Tensor, low: Any, high: Any, inplace: bool) -> Rectified | None:
    """min(max(x, 0), high), if that is what it is; its derivative is taken as [0 < x < high], zero at the kinks."""
    if isinstance(low, Tensor) or isinstance(high, Tensor) or low is None or low != 0:
        return None
    if high is None or high == float("inf"):
        if kind != "ReLU" and not inplace:
            # unlike ReLU's, their derivative needs the input, not the result, which the model may go on to change
            return Rectified(kind, x, inplace, lambda t: F.hardtanh(t, 0.0, float("inf")))
        return Rectified(kind, x, inplace, torch.relu_ if inplace else torch.relu)
    if high <= 0:
        return None
    return Rectified(kind, x, inplace, lambda t: F.hardtanh(t, 0.0, high, inplace))


def _relu(x: Tensor, inplace: bool = False) -> Rectified | None:
    return _bounded("ReLU", x, 0, None, inplace)


def _relu6(x: Tensor, inplace: bool = False) -> Rectified | None:
    return _bounded("ReLU6", x, 0, 6, inplace)


def _hardtanh(x: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Rectified | None:
    return _bounded("ReLU6" if max_val == 6 else "hardtanh", x, min_val, max_val, inplace)


def _clamp(x: Tensor, min: Any = None, max: Any = None, inplace: bool = False) -> Rectified | None:
    return _bounded("clamp", x, min, max, inplace)


def _clamp_min(x: Tensor, min: Any = None, inplace: bool = False) -> Rectified | None:
    return _bounded("clamp", x, min, None, inplace)


def _threshold(x: Tensor, threshold: float, value: float, inplace: bool = False) -> Rectified | None:
    return _bounded("threshold", x, threshold, None, inplace) if value == 0 else None


def _in_place(reader: Callable[..., Rectified | None]) -> Reader:
    return lambda *args, **kwargs: reader(*args, **kwargs, inplace=True)


def _readers() -> dict[Any, Reader]:
    aten = torch.ops.aten
    table: dict[Any, Reader] = {
        F.relu: _relu,
        F.relu6: _relu6,
        F.hardtanh: _hardtanh,
        F.threshold: _threshold,
        torch.threshold: _threshold,
        torch._C._nn.hardtanh: _hardtanh,
        torch._C._nn.hardtanh_: _in_place(_hardtanh),
        torch._C._nn.relu6: _relu6,
        torch._C._nn.relu6_: _in_place(_relu6),
        torch.threshold_: _in_place(_threshold),
    }
    spelled: dict[str, Reader] = {
        "relu": _relu,
        "relu6": _relu6,
        "clamp": _clamp,
        "clip": _clamp,
        "clamp_min": _clamp_min,
        "hardtanh": _hardtanh,
        "threshold": _threshold,
    }
    for name, reader in spelled.items():
        for spelling, read in ((name, reader), (name + "_", _in_place(reader))):
            for namespace in (torch, Tensor):
                if hasattr(namespace, spelling):
                    table[getattr(namespace, spelling)] = read
            packet = getattr(aten, spelling)
            table[packet] = read
            table.update({getattr(packet, overload): read for overload in packet.overloads()})
    return table


EXACT = _readers()
"""Rectifiers with the paper's own derivative: ReLU and its bounded forms, however they are called."""


def _generalised() -> dict[Any, str]:
    aten, table = torch.ops.aten, {}
    kinds = {
        "LeakyReLU": ("leaky_relu", "rrelu"),
        "PReLU": ("prelu",),
        "ELU": ("elu", "selu", "celu"),
        "GELU": ("gelu",),
        "SiLU": ("silu",),
        "Hardswish": ("hardswish",),
        "Mish": ("mish",),
        "Softplus": ("softplus",),
    }
    for kind, names in kinds.items():
        for name in names:
            for spelling in (name, name + "_"):
                for namespace in (F, torch, Tensor, torch._C._nn):
                    if hasattr(namespace, spelling):
                        table[getattr(namespace, spelling)] = kind
                packet = getattr(aten, spelling, None)
                if packet is not None:
                    table[packet] = kind
                    table.update({getattr(packet, overload): kind for overload in packet.overloads()})
    return table


GENERALISED = _generalised()
"""Smooth and leaky relatives of ReLU: guided takes their own derivative instead of [x > 0]."""


@dataclass(eq=False)
class Rule:
    """What happens to the signal at a rectifier, for one call; read while gradients flow, so it can be switched.

    Attributes:
        mask: whether the rectifier's own derivative still applies (guided: yes, deconvnet: no).
        active: while False, guided rectifiers pass the plain gradient.
        carriers: the graph nodes that carry the rule, with the kind of their rectifier, until `covered` is asked.
    """

    mask: bool
    active: bool = True
    carriers: dict[Any, str] = field(default_factory=dict)

    def apply(self, call: Rectified) -> Tensor:
        """Run the rectifier and let its result carry the rule."""
        result = self._guided(call) if self.mask else self._deconvnet(call)
        base = result._base if call.inplace and result._is_view() else None
        carrier = result if base is None else base
        if carrier.grad_fn is not None:
            self.carriers[carrier.grad_fn] = call.kind
        return result

    def _guided(self, call: Rectified) -> Tensor:
        if call.inplace and call.x._is_view() and call.x.requires_grad:
            result: Tensor = _GuidedView.apply(call.x, call.forward, self)  # type: ignore[no-untyped-call]
            return result
        result = call.forward(call.x)
        if result.requires_grad:
            result.register_hook(lambda signal: signal.clamp(min=0) if self.active else None)
        return result

    def _deconvnet(self, call: Rectified) -> Tensor:
        result: Tensor = _Deconvnet.apply(call.x, call.forward, call.inplace)  # type: ignore[no-untyped-call]
        return result


class _GuidedView(torch.autograd.Function):
    """In place on a view: the model may go on with the base, where a hook on the view would not be asked."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, forward: Callable[[Tensor], Tensor], rule: Rule) -> Tensor:
        with torch.enable_grad():
            ctx.leaf = x.detach().clone().requires_grad_()
            ctx.result = forward(ctx.leaf.clone())
        ctx.rule = rule
        ctx.mark_dirty(x)
        return x.copy_(ctx.result.detach())

    @staticmethod
    def backward(ctx: Any, *signals: Tensor) -> tuple[Tensor, None, None]:
        signal = signals[0].clamp(min=0) if ctx.rule.active else signals[0]
        (below,) = torch.autograd.grad(ctx.result, ctx.leaf, signal, retain_graph=True)
        return below, None, None


class _Deconvnet(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, forward: Callable[[Tensor], Tensor], inplace: bool) -> Tensor:
        if inplace:
            # the caller may throw the result away and go on with the tensor, which must then carry the rule
            ctx.mark_dirty(x)
        return forward(x)

    @staticmethod
    def backward(ctx: Any, *signals: Tensor) -> tuple[Tensor, None, None]:
        return signals[0].clamp(min=0), None, None


class Override(TorchFunctionMode):
    """Inside this scope, every rectifier that is called carries `rule`."""

    def __init__(self, rule: Rule) -> None:
        super().__init__()
        self.rule = rule

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        call = self._rectified(func, args, kwargs)
        if call is None or not call.x.is_floating_point():  # indices are clamped too
            return func(*args, **kwargs)
        return self.rule.apply(call)

    def _rectified(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Rectified | None:
        if "out" in kwargs:  # autograd does not support out=
            return None
        reader = EXACT.get(func)
        if reader is not None:
            return reader(*args, **_named(kwargs))
        kind = GENERALISED.get(func)
        if kind is None:
            return None
        named = _named(kwargs)
        x, rest = (args[0], args[1:]) if args else (named.pop("x"), ())
        inplace = bool(kwargs.get("inplace")) or getattr(func, "__name__", "").split(".")[0].endswith("_")
        return Rectified(kind, x, inplace, lambda t: func(t, *rest, **named))


def _named(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Keyword names as the readers call them: torch says `input`, its operators `self`."""
    return {"x" if key in ("input", "self") else key: value for key, value in kwargs.items()}


_RECTIFIERS = (
    "ReluBackward",
    "HardtanhBackward",
    "ThresholdBackward",
    "LeakyReluBackward",
    "RreluWithNoiseBackward",
    "PreluKernelBackward",
    "EluBackward",
    "CeluBackward",
    "GeluBackward",
    "SiluBackward",
    "HardswishBackward",
    "MishBackward",
    "SoftplusBackward",
    "MaximumBackward",
    "DifferentiableGraph",
    "CompiledFunction",
)


def _may_rectify(node: Any, name: str) -> bool:
    if isinstance(node, torch.autograd.function.BackwardCFunction):
        return True
    if name.startswith("Clamp") and hasattr(node, "_saved_min"):
        low = node._saved_min
        return low is not None and bool((torch.as_tensor(low) == 0).all())  # another minimum guards a division
    return name.startswith(_RECTIFIERS)


def covered(scores: Tensor, rule: Rule, leaves: Sequence[Tensor] | None = None) -> tuple[Counter[str], Counter[str]]:
    """What of the graph behind `scores` carries `rule`: (kinds that do, operators that may be rectifiers and do not).

    Rectifiers inside compiled or scripted code, in a custom `autograd.Function` or spelled by other operators
    (`torch.maximum`) are found here, since their nodes do not carry the rule.

    Args:
        scores: what is explained, with its graph.
        rule: which its rectifiers may carry.
        leaves: the explained tensors. Rectifiers that only other things lead to (a table of positions, the words
            beside an image) change nothing and are not counted; None counts all.
    """
    done: Counter[str] = Counter()
    missed: Counter[str] = Counter()
    nodes = nodes_behind(scores.grad_fn)
    if leaves is not None:
        above = leading_to(nodes, leaves)
        nodes = [node for node in nodes if node in above]
    for node in nodes:
        name = node.name()
        if node in rule.carriers:
            done[rule.carriers[node]] += 1
        elif _may_rectify(node, name):
            missed[name.split("Backward")[0].removeprefix("torch::jit::")] += 1
    rule.carriers.clear()
    return done, missed


def nodes_behind(*tops: Any) -> list[Any]:
    """The nodes of a graph, each after all that it leads to."""
    order, seen = [], set()
    pending = [(top, False) for top in tops]
    while pending:
        node, entered = pending.pop()
        if entered:
            order.append(node)
        elif node is not None and node not in seen:
            seen.add(node)
            pending.append((node, True))
            pending.extend((below, False) for below, _ in node.next_functions)
    return order


def leading_to(nodes: list[Any], leaves: Sequence[Tensor]) -> set[Any]:
    """Those of `nodes`, in the order of `nodes_behind`, that lead to one of the leaves."""
    above: set[Any] = set()
    for node in nodes:
        leaf = getattr(node, "variable", None)
        if any(leaf is one for one in leaves) or any(below in above for below, _ in node.next_functions):
            above.add(node)
    return above


def refuse_scripted(model: nn.Module) -> None:
    """Scripted and traced modules run outside Python, where no operator can be seen.

    Raises:
        NothingOverridden: naming the first such module.
    """
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise NothingOverridden(
                f"{name or 'the model'} is a scripted or traced module, whose rectifiers cannot be reached; "
                "use the original nn.Module, or a method without a rule (Gradient, IntegratedGradients, GradCAM)"
            )
