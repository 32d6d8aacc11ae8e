"""New random weights for the layers of a model, from the output down."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from deepviz.errors import ModelError, in_one_line
from deepviz.inputs import Inputs
from deepviz.probe.black_box import black_box_of
from deepviz.probe.borrow import borrowed, original
from deepviz.probe.seeds import check_seed, generator_of

_Weighted = (nn.modules.conv._ConvNd, nn.Linear, nn.Bilinear)
_Normalising = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
_OF_NORMALISING = {"weight": 1, "bias": 0, "running_mean": 0, "running_var": 1, "num_batches_tracked": 0}
"""What normalising layers start with."""


@dataclass(frozen=True)
class Randomised:
    """A copy of a model in which some layers have new weights.

    Args:
        model: the copy; the next stage changes it.
        layers: those that are new since the stage before, from the output down.
        share: of all layers with parameters, how many are new.
    """

    model: nn.Module
    layers: tuple[str, ...]
    share: float


def check_has_weights(model: nn.Module) -> None:
    """Refuse a model of which only the outputs are known.

    Raises:
        ModelError: for a function without parameters.
    """
    function = black_box_of(model)
    if function is not None and next(function.parameters(), None) is None:
        raise ModelError(
            f"{function.name} is {function.kind}, whose weights are out of reach, so they cannot be randomised: give "
            "the module that it was made from"
        )


def randomised(
    model: nn.Module, x: Tensor | Inputs, *, stages: int | None = None, cascading: bool = True, seed: int = 0
) -> Iterator[Randomised]:
    """Copies of `model` with new weights in more and more layers from the output down; the last has no old one.

    The weights are those that PyTorch itself would start with: uniform within 1/sqrt(fan-in) for convolutions and
    linear layers, ones and zeros for normalising layers and their running statistics (also where they are buffers,
    as of a frozen batch norm), and for any other parameter a normal distribution with its own mean and standard
    deviation, or as wide as its value where it has only one. `model` itself is never written to.

    Args:
        model: any module; it is copied once.
        x: an input, which tells in which order the layers are run.
        stages: in how many steps, of about as many layers each; None: layer by layer.
        cascading: whether a layer keeps its new weights when those below it get theirs. If not, each copy has one
            step's layers new, and all others as they were.
        seed: of the weights; a layer's are the same whatever the number of stages.

    Raises:
        ModelError: if the model has no parameters, is scripted, or cannot be copied.
    """
    check_seed(seed)
    check_has_weights(model)
    model = original(model)
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise ModelError(
            "a scripted model does not tell in which order its layers are run, so they cannot be randomised: "
            "give the module that it was made from"
        )
    names = from_the_output(model, x)
    if not names:
        raise ModelError("the model has no parameters: there is nothing to randomise")
    steps = len(names) if stages is None else max(1, min(stages, len(names)))
    edges = [round(step * len(names) / steps) for step in range(steps + 1)]
    changed = _copy(model)
    for start, stop in pairwise(edges):
        new = names[start:stop]
        for place, name in enumerate(new, start):
            _randomise(changed.get_submodule(name), generator_of(seed, place))
        yield Randomised(changed, tuple(new), stop / len(names))
        if not cascading:
            changed = _copy(model)


def from_the_output(model: nn.Module, x: Tensor | Inputs) -> list[str]:
    """The modules with parameters or running statistics of their own, the last to be run first.

    A module counts from the beginning of its last call, so that what a whole network owns (the class token and the
    positions of a transformer) is nearest to the input. One that is never called itself, as the output projection of
    attention, stands where the module around it does; one that is not run at all is at the end.
    """
    begun: dict[str, None] = {}

    def note(name: str) -> None:
        begun.pop(name, None)
        begun[name] = None

    handles = [
        module.register_forward_pre_hook(lambda *_, name=name: note(name)) for name, module in model.named_modules()
    ]
    try:
        with borrowed(model), torch.no_grad():
            inputs = x if isinstance(x, Inputs) else Inputs(x)
            args, kwargs = inputs.rows(slice(0, 1)).arguments(copy=True)
            model(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    place = {name: number for number, name in enumerate(begun)}

    def of(name: str) -> int:
        while name not in place and name:
            name = name.rpartition(".")[0]
        return place.get(name, 0)

    names = [name for name, module in model.named_modules() if _own(module)]
    return sorted(names, key=of)[::-1]


def _own(module: nn.Module) -> bool:
    return any(True for _ in module.parameters(recurse=False)) or isinstance(module, _Normalising) or _is_frozen(module)


def _is_frozen(module: nn.Module) -> bool:
    """Whether it is a normalising layer with buffers for weights."""
    return {"weight", "running_var"} <= {name for name, _ in module.named_buffers(recurse=False)}


def _copy(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except Exception as error:
        reason = in_one_line(error)
        raise ModelError(f"the model cannot be copied, and it is never changed itself: {reason}") from error


@torch.no_grad()
def _randomise(module: nn.Module, generator: torch.Generator) -> None:
    """New weights for one module of the copy, without those below it."""
    if isinstance(module, _Normalising) or _is_frozen(module):
        for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
            tensor.fill_(_OF_NORMALISING.get(name, 0))
        return
    weight = getattr(module, "weight", None)
    bound = None
    if isinstance(module, _Weighted) and isinstance(weight, Tensor):
        bound = 1 / math.sqrt(max(1, weight[0].numel()))
    for parameter in module.parameters(recurse=False):
        drawn = torch.empty(parameter.shape, dtype=torch.float64)
        if bound is not None:
            drawn.uniform_(-bound, bound, generator=generator)
        else:
            values = parameter.double().cpu()
            width = values.std(correction=0)
            drawn.normal_(generator=generator).mul_(width if width > 0 else values.mean().abs()).add_(values.mean())
        parameter.copy_(drawn.to(parameter))
