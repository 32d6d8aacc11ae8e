"""Which batch normalisations of a model may be folded into the layers before them, as a watched forward pass shows.

The pass is watched at the level of torch's kernels: the result of a convolution is read by one evaluated batch
normalisation and by nothing else, at each of its calls, and is no part of the model's output.
"""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
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

if TYPE_CHECKING:
    from deepviz.probe.session import Session

SAME = {torch.float32: 1e-4, torch.float64: 1e-10}
"""How far the outputs of a copy may be from the model's, of their scale."""


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
class Fold:
    """A convolution or linear layer, the batch normalisation that alone reads its results, and epsilon."""

    layer: nn.Module
    norm: _BatchNorm
    eps: float
    calls: int


@dataclass(frozen=True, eq=False)
class Run:
    """One watched pass: its kernels, what the model returned, and by module the addresses of the weights whose results
    it returned."""

    watch: _Watch
    outputs: list[Tensor]
    returned: dict[str, set[int]]


def watched_run(session: Session) -> Run:
    """One pass of the first row."""
    one = session.take(slice(0, 1)).with_notes(Diagnostics())
    owner = threading.get_ident()

    def compute(laid: Session) -> Run:
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
        return Run(watch, list(tensors_of(output)), returned)

    return one.in_layout(compute)


def folds(model: nn.Module, run: Run) -> list[Fold]:
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
            found.append(Fold(layer, norm, calls[layer][0].uses[0].eps, len(layers)))
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
    return type(norm).forward is _BatchNorm.forward or goes_on(norm)


def goes_on(norm: nn.Module) -> bool:
    """Whether a normalisation is timm's that goes on with dropout and an activation of its own."""
    kind = type(norm)
    return (
        kind.__module__ == "timm.layers.norm_act"
        and kind.__name__ == "BatchNormAct2d"
        and {"drop", "act"} == set(norm._modules)
    )
