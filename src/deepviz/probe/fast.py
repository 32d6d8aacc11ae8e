"""A private copy of a borrowed model that computes the same in less time: evaluated batch normalisation is folded into
the convolutions before it, whose weights lie as the images do.

What may be folded is proved by a forward pass of one row, watched at the level of torch's kernels: the result of a
convolution is read by one evaluated batch normalisation and by nothing else, at each of its calls, and is no part of
the model's output. The copy is then run on the same row, watched in the same way, and compared with the model.
"""

from __future__ import annotations

import functools
import os
import threading
import types
import weakref
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from threading import RLock
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.utils._python_dispatch import TorchDispatchMode

from deepviz.diagnostics import Diagnostics
from deepviz.probe.graph import tensors_of
from deepviz.probe.operators import tensors_in
from deepviz.probe.state import State, Survey, survey

if TYPE_CHECKING:
    from deepviz.probe.session import Session

SWITCH = "DEEPVIZ_FAST"
"""The environment variable that turns fast copies on, if it is 1."""
FACT = "fast copy"
"""The fact about a copy that was used."""
SAME = {torch.float32: 1e-4, torch.float64: 1e-10}
"""How far the outputs of a copy may be from the model's, of their scale."""
LEAST = 0.25
"""The share of convolutions of which the normalisation must be folded."""
MOST_LOOKED_AT = 5000
"""Objects that attributes may lead to; of a model with more, no copy is made."""

_switch: ContextVar[bool | None] = ContextVar("fast", default=None)
_making = RLock()


@contextmanager
def fast_copies(on: bool | None) -> Iterator[None]:
    """Inside, models are explained on fast copies or, with `on` False, as they are; None: as outside."""
    before = _switch.set(_switch.get() if on is None else on)
    try:
        yield
    finally:
        _switch.reset(before)


def _is_on() -> bool:
    on = _switch.get()
    return os.environ.get(SWITCH) == "1" if on is None else on


Plain = list[tuple[weakref.ref[nn.Module], int, dict[str, Any]]]
"""Modules, each with the number of its attributes and the values of those that say how it computes."""


class Unlike(Exception):
    """A copy cannot be made, or does not do what its model does."""


@dataclass(eq=False)
class FastCopy:
    """A copy of a model, and how it is known to be still right.

    Attributes:
        model: the copy, always in eval mode; its modules have the names of the model's.
        survey: what it is like.
        changed: the names of the modules whose output it does not compute.
        folded: the names of the normalisations that are folded, and of the layers into which they are.
        state: of the model when the copy was made.
        plain: the attributes of its modules then; they are held, so that none is confused with a later one.
        right_for: the kinds of inputs for which the copy was compared with the model.
    """

    model: nn.Module
    survey: Survey
    changed: frozenset[str]
    folded: dict[str, str]
    state: State
    plain: Plain
    right_for: dict[Any, bool] = field(default_factory=dict)

    @property
    def remark(self) -> str:
        """What results say of it."""
        count = len(self.folded)
        return f"{count} normalisation{'s' if count > 1 else ''} folded"


@dataclass(eq=False)
class _Known:
    """What is known of a model's copy: the copy, or the state in which there is none."""

    copy: FastCopy | None = None
    refused: State | None = None


_known: weakref.WeakKeyDictionary[nn.Module, _Known] = weakref.WeakKeyDictionary()


def fast_copy(session: Session) -> FastCopy | None:
    """The copy of the session's model, made or found; None if there is none, or it is not to be used."""
    if not _is_on() or not _may_pay(session):
        return None
    if any(map(is_hooked, session.survey.modules)):
        return None
    with _making:
        known = _known.setdefault(session.model, _Known())
        state = session.state
        if known.refused == state:
            return None
        if known.copy is not None and (known.copy.state != state or not _is_as_before(known.copy.plain)):
            known.copy = None
        kind = (session.inputs.signature(), session.kind)
        if known.copy is not None and kind in known.copy.right_for:
            return known.copy if known.copy.right_for[kind] else None
        try:
            plain = list(map(_copyable, session.survey.modules))
            run = _run(session)
            if survey(session.model).state != state or not _is_as_before(plain):
                raise Unlike  # it changes with every pass
            if known.copy is None:
                known.copy = _made(session, run, plain)
            known.copy.right_for[kind] = _is_right(session, known.copy, run)
            return known.copy if known.copy.right_for[kind] else None
        except Exception:  # whatever a model does when it is copied: it is explained as it is
            known.copy, known.refused = None, state
            return None


def refuse(session: Session) -> None:
    """Use no copy of the session's model any more, as long as that is as it is."""
    with _making:
        known = _known.setdefault(session.model, _Known())
        known.copy, known.refused = None, session.state


def _may_pay(session: Session) -> bool:
    """Whether model and inputs are of a kind for which copies were measured to pay: convolutions in single or double
    precision on a CPU, whose batch normalisation uses running statistics."""
    whole = session.survey
    if whole.graphs or whole.inference or not whole.batch_norms or torch.is_autocast_enabled("cpu"):
        return False
    # a function may read what the model keeps of its passes; hooks for all modules may, too
    if session.score.calls_functions or nn.modules.module._has_any_global_hook():
        return False
    return all(leaf.device.type == "cpu" and leaf.dtype in SAME for leaf in session.x)


# what the model does


@dataclass(eq=False)
class _Use:
    """One reading of a tensor by a kernel; of batch normalisation, the address of its running mean, and epsilon."""

    norm: int | None = None
    eps: float = 0.0


@dataclass(eq=False)
class _Product:
    """What a convolution or linear layer computed: the addresses of its parameters, and who read the result.

    Held is what keeps the address of the result's memory from being given to another, though not the memory.
    """

    weight: int
    bias: int | None
    shape: torch.Size
    convolves: bool
    held: StorageWeakRef
    uses: list[_Use] = field(default_factory=list)


class _Watch(TorchDispatchMode):
    """Hears every kernel: who reads what the convolutions compute, and who reads parameters."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.products: dict[int, _Product] = {}
        self.reads: Counter[int] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        aten = torch.ops.aten
        operands = list(tensors_in((args, kwargs or {})))
        self.reads.update(set(map(memory_of, operands)))
        normalises = func is aten.native_batch_norm.default and args[3] is not None and not args[5]
        for operand in operands:
            product = self.products.get(memory_of(operand))
            if product is not None:
                whole = normalises and operand is args[0] and operand.shape == product.shape
                product.uses.append(_Use(args[3].data_ptr(), args[7]) if whole else _Use())
        if func is aten.convolution.default:
            self._note(result, args[1], args[2], convolves=True)
        elif func is aten.addmm.default:
            self._note(result, args[2], args[0])
        elif func is aten.mm.default:
            self._note(result, args[1], None)
        return result

    def _note(self, result: Tensor, weight: Tensor, bias: Tensor | None, convolves: bool = False) -> None:
        address = None if bias is None else bias.data_ptr()
        held = StorageWeakRef(result.untyped_storage())
        self.products[memory_of(result)] = _Product(weight.data_ptr(), address, result.shape, convolves, held)


def memory_of(tensor: Tensor) -> int:
    """What tells the memory of a tensor from others, while it is held."""
    return tensor.untyped_storage()._cdata  # type: ignore[no-any-return]


@dataclass(frozen=True, eq=False)
class _Fold:
    """A convolution or linear layer, the batch normalisation that alone reads its results, and epsilon."""

    layer: nn.Module
    norm: _BatchNorm
    eps: float
    calls: int


@dataclass(frozen=True, eq=False)
class _Run:
    """One watched pass: its kernels, what the model returned, and by module the addresses of the weights whose results
    it returned."""

    watch: _Watch
    outputs: list[Tensor]
    returned: dict[str, set[int]]


def _run(session: Session) -> _Run:
    """One pass of the first row."""
    one = session.take(slice(0, 1)).with_notes(Diagnostics())
    owner = threading.get_ident()

    def compute(laid: Session) -> _Run:
        watch = _Watch()
        returned: dict[str, set[int]] = {}

        def hearing(name: str) -> Any:
            def hook(module: nn.Module, inputs: Any, output: Any) -> None:
                if threading.get_ident() == owner:
                    # now, since later the address of what is gone by then may be another's
                    known = [product for one in tensors_of(output) if (product := watch.products.get(memory_of(one)))]
                    returned.setdefault(name, set()).update(product.weight for product in known)

            return hook

        handles = []
        try:
            for name, module in laid.model.named_modules(remove_duplicate=False):
                handles.append(module.register_forward_hook(hearing(name)))
            with torch.no_grad(), watch:
                output = laid.call.run(laid.inputs)
        finally:
            for handle in handles:
                handle.remove()
        return _Run(watch, list(tensors_of(output)), returned)

    return one.in_layout(compute)


def _folds(model: nn.Module, run: _Run) -> list[_Fold]:
    """What of the model may be folded, as one pass of it shows."""
    owners: dict[int, list[nn.Module]] = {}
    for module in model.modules():
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is not None and tensor.numel() > 0:
                owners.setdefault(tensor.data_ptr(), []).append(module)
    given = set(map(memory_of, run.outputs))
    calls: dict[nn.Module, list[_Product]] = {}
    into: dict[nn.Module, list[nn.Module | None]] = {}
    for memory, product in run.watch.products.items():
        layer = _owner(owners, product.weight)
        if layer is not None:
            calls.setdefault(layer, []).append(product)
        for use in product.uses:
            norm = None if use.norm is None else _owner(owners, use.norm)
            if norm is not None:
                right = layer is not None and len(product.uses) == 1 and memory not in given
                into.setdefault(norm, []).append(layer if right else None)
    found = []
    for norm, layers in into.items():
        layer = layers[0]
        if layer is None or set(layers) != {layer} or len(calls[layer]) != len(layers):
            continue
        if not isinstance(norm, _BatchNorm) or not _is_plain(norm) or not _may_change(layer):
            continue
        read = run.watch.reads
        own = [*layer._parameters.values(), *norm._parameters.values(), norm.running_mean, norm.running_var]
        # they are read by these calls alone, in whole or in part; linear layers transpose their weights first
        most = 2 * len(layers) if isinstance(layer, nn.Linear) else len(layers)
        if all(tensor is None or read[memory_of(tensor)] <= most for tensor in own):
            found.append(_Fold(layer, norm, calls[layer][0].uses[0].eps, len(layers)))
    return found


def _owner(owners: dict[int, list[nn.Module]], address: int) -> nn.Module | None:
    """The only module that holds a tensor; None for what none holds, or several do."""
    held = owners.get(address, [])
    return held[0] if len(held) == 1 else None


def _may_change(layer: nn.Module) -> bool:
    weight = layer._parameters.get("weight")
    return (
        isinstance(layer, (_ConvNd, nn.Linear))
        and set(layer._parameters) == {"weight", "bias"}
        and isinstance(weight, Tensor)
        and weight.dtype in SAME
    )


def _is_plain(norm: nn.Module) -> bool:
    """Whether a module does nothing but normalise, or is timm's, which goes on with an activation of its own."""
    return type(norm).forward is _BatchNorm.forward or _goes_on(norm)


def _goes_on(norm: nn.Module) -> bool:
    kind = type(norm)
    return (
        kind.__module__ == "timm.layers.norm_act"
        and kind.__name__ == "BatchNormAct2d"
        and {"drop", "act"} == set(norm._modules)
    )


# the copy


class Folded(nn.Identity):
    """Where a batch normalisation was: what arrives is normalised already."""


class FoldedAct(nn.Module):
    """The same of a module that goes on with dropout and an activation."""

    def __init__(self, drop: nn.Module, act: nn.Module) -> None:
        super().__init__()
        self.drop, self.act = drop, act

    def forward(self, x: Tensor) -> Any:
        """The activation."""
        return self.act(self.drop(x))


def _made(session: Session, run: _Run, plain: Plain) -> FastCopy:
    """A copy of the session's model, as a watched pass shows what may be folded.

    Raises:
        Unlike: if there is too little to fold, or the model takes views of its feature maps, which then cannot lie as
            is fastest.
    """
    model = session.model
    folds = _folds(model, run)
    if not _pays(folds, run) or not session.call.takes_channels_last:
        raise Unlike
    pairs: dict[nn.Module, nn.Module] = {}
    copy = _shadow(model, pairs)
    for fold in folds:
        _fold(fold, pairs)
    rest = {pairs[fold.norm]: _rest(pairs[fold.norm]) for fold in folds}
    convolved = {product.weight for product in run.watch.products.values()}
    for module in pairs.values():
        weight = module._parameters.get("weight")
        if isinstance(module, nn.Conv2d) and weight is not None and weight.data_ptr() in convolved:
            module._parameters["weight"] = _fixed(weight.contiguous(memory_format=torch.channels_last))
        for name, child in module._modules.items():
            if child in rest:
                module._modules[name] = rest[child]
    weights = {fold.layer._parameters["weight"].data_ptr() for fold in folds}  # type: ignore[union-attr]
    changed = frozenset(name for name, returned in run.returned.items() if returned & weights)
    return FastCopy(copy, survey(copy), changed, _names(model, folds), session.state, plain)


def _pays(folds: list[_Fold], run: _Run) -> bool:
    """Whether enough of the convolutions have a normalisation less to follow them."""
    convolutions = sum(product.convolves for product in run.watch.products.values())
    return bool(folds) and sum(fold.calls for fold in folds) >= LEAST * convolutions


def _names(model: nn.Module, folds: list[_Fold]) -> dict[str, str]:
    names = {module: name for name, module in model.named_modules()}
    return {names[fold.norm]: names[fold.layer] for fold in folds}


def _is_right(session: Session, copy: FastCopy, of_model: _Run) -> bool:
    """Whether the copy does on the first row what the model does, by the weights that it was given."""
    folds = _folds(session.model, of_model)
    if _names(session.model, folds) != copy.folded:
        return False  # in other sizes a model may take other ways
    of_copy = _run(replace(session, copy=copy, call=replace(session.call, model=copy.model)))
    used = Counter((product.weight, product.bias) for product in of_copy.watch.products.values())
    for fold, layer in zip(folds, copy.folded.values(), strict=True):
        own = copy.model.get_submodule(layer)._parameters
        if used[own["weight"].data_ptr(), own["bias"].data_ptr()] != fold.calls:  # type: ignore[union-attr]
            return False
    return len(of_model.outputs) == len(of_copy.outputs) > 0 and all(map(_agree, of_model.outputs, of_copy.outputs))


def _agree(one: Tensor, other: Tensor) -> bool:
    """Whether two outputs are the same but for rounding, their largest score in the same place."""
    if one.shape != other.shape or one.dtype != other.dtype or not bool(one.isfinite().all()):
        return False
    if one.dtype not in SAME:
        return torch.equal(one, other)
    if one.numel() == 0:
        return True
    near = float((one - other).abs().max()) <= SAME[one.dtype] * float(one.abs().max())
    return near and (one.ndim != 2 or torch.equal(one.argmax(1), other.argmax(1)))


def _shadow(module: nn.Module, pairs: dict[nn.Module, nn.Module]) -> nn.Module:
    """A module with the same attributes, tensors in the same memory, and modules of its own below it."""
    if module in pairs:
        return pairs[module]
    new: nn.Module = object.__new__(type(module))
    pairs[module] = new
    new.__dict__.update(module.__dict__)
    new.__dict__.pop("forward", None)  # that of another thread's call
    hooks: dict[str, Any] = {key: OrderedDict() for key, value in module.__dict__.items() if _holds_hooks(key, value)}
    new.__dict__.update(hooks)
    new.__dict__["training"] = False
    new.__dict__["_parameters"] = {
        name: None if one is None else _fixed(one.detach()) for name, one in module._parameters.items()
    }
    new.__dict__["_buffers"] = dict(module._buffers)
    new.__dict__["_modules"] = {
        name: None if child is None else _shadow(child, pairs) for name, child in module._modules.items()
    }
    return new


def _fixed(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)


def _holds_hooks(key: str, value: Any) -> bool:
    return "hooks" in key and isinstance(value, dict)


@torch.no_grad()
def _fold(fold: _Fold, pairs: dict[nn.Module, nn.Module]) -> None:
    """Give the copy's layer the weights that make its normalisation superfluous."""
    layer, norm = fold.layer, fold.norm
    weight, bias = layer._parameters["weight"], layer._parameters["bias"]
    assert weight is not None
    assert norm.running_mean is not None
    assert norm.running_var is not None
    mean = norm.running_mean.double()
    b = torch.zeros_like(mean) if bias is None else bias.double()
    s = 1 / (norm.running_var.double() + fold.eps).sqrt()
    s = s if norm.weight is None else s * norm.weight.double()
    beta = torch.zeros_like(mean) if norm.bias is None else norm.bias.double()
    b = s * (b - mean) + beta  # s (W x + b - mean) + beta = (s W) x + (s (b - mean) + beta)
    if isinstance(layer, _ConvNd) and layer.transposed:  # (groups * inputs, outputs, ...)
        s = s.view(layer.groups, 1, -1).expand(-1, weight.shape[0] // layer.groups, -1).flatten(0, 1)
        W = weight * s.view(*s.shape, *[1] * (weight.ndim - 2))
    else:
        W = weight * s.view(-1, *[1] * (weight.ndim - 1))  # in double precision, as s is
    layout = torch.channels_last if isinstance(layer, nn.Conv2d) else torch.contiguous_format
    parameters = pairs[layer]._parameters
    parameters["weight"] = _fixed(W.to(weight.dtype, memory_format=layout))
    parameters["bias"] = _fixed(b.to(weight.dtype))


def _rest(norm: nn.Module) -> nn.Module:
    """What is left of a copy's normalisation."""
    rest = FoldedAct(*(norm._modules[name] for name in ("drop", "act"))) if _goes_on(norm) else Folded()  # type: ignore[arg-type]
    rest.training = False
    return rest


# attributes

_SCALARS = (bool, int, float, complex, str, bytes, type(None), type, types.ModuleType, Tensor)
_SCALARS_OF_TORCH = (torch.dtype, torch.device, torch.layout, torch.memory_format)


def _copyable(module: nn.Module) -> tuple[weakref.ref[nn.Module], int, dict[str, Any]]:
    """A module's attributes, if a copy of it may share them.

    Raises:
        Unlike: for parametrisations, other kinds of parameters, and attributes that lead to modules: these would be
            the model's own, not the copy's.
    """
    if "parametrizations" in module._modules or module._compiled_call_impl is not None:
        raise Unlike
    if any(one is not None and type(one) is not nn.Parameter for one in module._parameters.values()):
        raise Unlike
    if any(one is not None and type(one) is not Tensor for one in module._buffers.values()):
        raise Unlike
    attributes = _attributes(module)
    if _leads_to_modules(list(attributes.values())):
        raise Unlike
    return weakref.ref(module), len(module.__dict__) - ("forward" in module.__dict__), attributes


OURS = ("deepviz.probe.", "deepviz.inside.")
"""Where functions come from that are hooks for the length of a call."""
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def is_hooked(module: nn.Module) -> bool:
    """Whether a module has hooks, or a forward of its own, that are none of ours: those last as long as a call of
    another thread."""
    attributes = module.__dict__
    held = [hook for key in _HOOKS if attributes[key] for hook in list(attributes[key].values())]
    if "forward" in attributes:
        held.append(attributes["forward"])
    return any(not str(getattr(hook, "__module__", "")).startswith(OURS) for hook in held)


_OF_MODULES = frozenset(("training", "forward", "_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"))


def _attributes(module: nn.Module) -> dict[str, Any]:
    """What besides parameters, buffers and modules says how a module computes; of lists and mappings, a copy."""
    found = {}
    for key, value in module.__dict__.items():
        if key not in _OF_MODULES and not _holds_hooks(key, value):
            kind = value.__class__
            found[key] = list(value) if kind is list else dict(value) if kind is dict else value
    return found


def _is_as_before(plain: Plain) -> bool:
    """Whether modules have the attributes that they had."""
    for known, count, before in plain:
        module = known()
        if module is None:
            return False
        now = module.__dict__
        if len(now) - ("forward" in now) != count:
            return False
        for key, value in before.items():
            if now.get(key) is not value and not _same(now.get(key), value):
                return False
    return True


def _same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if one.__class__ is not other.__class__:
        return False
    if isinstance(one, (bool, int, float, str)):
        return bool(one == other)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict):
        return bool(one.keys() == other.keys()) and all(_same(value, other[key]) for key, value in one.items())
    return False


def _leads_to_modules(values: list[Any]) -> bool:
    """Whether any of the values holds a module, however deep, or more than can be looked through."""
    pending, seen = list(values), set()
    while pending:
        value = pending.pop()
        if isinstance(value, nn.Module):
            return True
        if isinstance(value, (*_SCALARS, *_SCALARS_OF_TORCH)) or id(value) in seen:
            continue
        seen.add(id(value))
        if len(seen) > MOST_LOOKED_AT:
            return True
        if isinstance(value, Mapping):
            pending.extend(value.values())
        elif isinstance(value, (list, tuple, set, frozenset)):
            pending.extend(value)
        elif isinstance(value, weakref.ref):
            pending.append(value())
        elif isinstance(value, types.MethodType):
            pending.append(value.__self__)
        elif isinstance(value, types.FunctionType):
            pending.extend(cell.cell_contents for cell in value.__closure__ or () if cell != types.CellType())
            pending.extend(value.__defaults__ or ())
        elif isinstance(value, functools.partial):
            pending.extend((value.func, *value.args, *value.keywords.values()))
        elif hasattr(value, "__dict__"):
            pending.extend(vars(value).values())
    return False
