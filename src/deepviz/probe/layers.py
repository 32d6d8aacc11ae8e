"""Which layer can be explained: feature maps on the image's grid, found by probing gradients, not by name."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from deepviz.errors import LayerError
from deepviz.probe.capture import layer_name, refuse_graphs, spatial_tensor
from deepviz.probe.gradient import differentiate, fresh_leaf
from deepviz.probe.grid import Grid, follows, read_grid
from deepviz.probe.outputs import describe

if TYPE_CHECKING:
    from deepviz.probe.session import Session


@dataclass(frozen=True)
class Layer:
    """A layer by name, and how its output lies on the image, if that is known already."""

    name: str
    grid: Grid | None


@dataclass
class LayerAnswer:
    """What one module answered in a probing forward pass."""

    name: str
    type: str
    shape: tuple[int, ...]
    grid: Grid | None
    edge: Any = None
    internal: str = ""
    strength: float = 0.0

    @property
    def usable(self) -> bool:
        """Whether a CAM method can explain this layer."""
        return not self.reason

    @property
    def reason(self) -> str:
        """Why a CAM method cannot explain this layer; "" if it can."""
        if self.grid is None:
            return "no spatial map"
        if self.internal:
            return self.internal
        return "" if self.strength > 0 else "no gradient arrives on its grid"


_found: WeakKeyDictionary[nn.Module, dict[tuple[object, ...], Layer]] = WeakKeyDictionary()


def choose_layer(session: Session, layer: str | nn.Module | None) -> Layer:
    """The layer asked for, or the last one that holds a spatial map and has a gradient.

    Of modules that answer with the same tensor, the outermost is named. The find is remembered for the model, as
    long as it has the same modules, and the input's shape.

    Raises:
        LayerError: if there is no such layer, or none with a spatial map.
    """
    if layer is None:
        refuse_graphs(session.model)
    else:
        refuse_graphs(session.model)
        refuse_graphs(session.model, layer_name(session.model, layer))
        return Layer(layer_name(session.model, layer), None)
    known = _found.setdefault(session.model, {})
    situation = (session.inputs.signature(), session.state)
    # a callable may explain another head of the model, which another layer feeds
    if situation not in known or session.score.indices is None:
        usable = [answer for answer in probe_layers(session.take(slice(0, 1))) if answer.usable]
        if not usable:
            raise LayerError(
                "no layer with a spatial map between the image and the score was found; "
                "name one with layer=... (see: deepviz layers)"
            )
        last = usable[-1]
        assert last.grid is not None
        found = Layer(_outermost(usable).name, last.grid)
        if session.score.indices is None:
            return found
        known[situation] = found
    return known[situation]


def _outermost(answers: list[LayerAnswer]) -> LayerAnswer:
    """Of the modules that answered with the last tensor, the one that contains the others."""
    same = [answer for answer in answers if answer.edge == answers[-1].edge]
    return min(same, key=lambda answer: answer.name.count("."))


def grid_of(layer: Layer, answer: Tensor, x: Tensor) -> Grid:
    """The grid of what `layer` answered for `x`, which is already known if the layer was found by probing.

    Raises:
        LayerError: if the answer has no spatial map.
    """
    if layer.grid is not None:
        return layer.grid
    size = (x.shape[-2], x.shape[-1])
    grid = read_grid(tuple(answer.shape), size) if len(answer) == len(x) else None
    if grid is None or grid.h * grid.w == 1 or _is_attention(answer):
        raise LayerError(
            f"layer {layer.name!r} has no spatial map: it answers {describe(answer)} for an input {tuple(x.shape)}; "
            "choose an earlier layer (see: deepviz layers)"
        )
    return grid


def _is_attention(answer: Tensor) -> bool:
    """Whether this is an attention matrix (..., T, T): each row shares out 1 among the tokens."""
    if answer.ndim < 3 or answer.shape[-2] != answer.shape[-1] or bool((answer < 0).any()):
        return False
    return bool((answer.float().sum(-1) - 1).abs().max() < 0.01)


def probe_layers(session: Session) -> list[LayerAnswer]:
    """Every module of the model that answers with a tensor, in the order of answering, for one image.

    Args:
        session: of that one image.

    Returns:
        For each call its shape, its grid if its answer lies on the image's, why it is an internal part (of
        attention, pooling), and the size of the gradient that arrives on its grid. A module that is called several
        times is numbered, "relu#1", "relu#2".
    """
    calls: Counter[nn.Module] = Counter()
    answers: list[tuple[nn.Module, int, LayerAnswer]] = []
    image = session.image()
    size = (image.shape[-2], image.shape[-1])
    watch = _Watch()
    patches: list[tuple[int, int]] = []

    def answered(name: str, module: nn.Module, output: Any) -> None:
        calls[module] += 1
        tensor = spatial_tensor(output)
        if tensor is None or not tensor.requires_grad:
            return
        grid = read_grid(tuple(tensor.shape), size, patches[-1] if patches else None)
        if grid is not None and not _on_image(tensor, grid, size):
            grid = None
        if grid is not None and tensor.ndim == 4:
            patches.append((grid.h, grid.w))
        edge = torch.autograd.graph.get_gradient_edge(tensor)
        answer = LayerAnswer(name, type(module).__name__, tuple(tensor.shape), grid, edge)
        answers.append((module, calls[module], answer))

    def forward(laid: Session) -> Tensor:
        calls.clear()
        answers.clear()
        watch.running.clear()
        laid = replace(laid, inputs=laid.inputs.map(fresh_leaf))
        with _hooked(session.model, watch, answered), watch:
            return laid.read(laid.look())

    values = session.in_layout(forward)
    for module, number, answer in answers:
        answer.internal = watch.internal(module)
        if calls[module] > 1:
            answer.name += f"#{number}"
    measured = [answer for _, _, answer in answers if answer.grid is not None and not answer.internal]
    if measured and values.requires_grad:
        edges = [answer.edge for answer in measured]
        # of one target: the sum of several may be a constant
        gradients = differentiate(values.flatten()[0], edges)
        _measure(measured, gradients)
    return [answer for _, _, answer in answers]


def _on_image(tensor: Tensor, grid: Grid, size: tuple[int, int]) -> bool:
    return len(tensor) == 1 and grid.h * grid.w > 1 and follows(grid.h, grid.w, *size)


def _measure(answers: list[LayerAnswer], gradients: tuple[Tensor | None, ...]) -> None:
    """The gradient's size on the grid (not on class tokens), zero where it is rounding."""
    for answer, gradient in zip(answers, gradients, strict=True):
        assert answer.grid is not None
        if gradient is not None:
            on_grid = float(answer.grid.maps(gradient).abs().max())
            everywhere = float(gradient.abs().max())
            rounding = 8 * torch.finfo(gradient.dtype).eps * everywhere
            answer.strength = on_grid if on_grid > rounding else 0.0


@contextmanager
def _hooked(model: nn.Module, watch: _Watch, answered: Callable[[str, nn.Module, Any], None]) -> Iterator[None]:
    """Inside, `watch` knows which module is running, and `answered` hears every module's output."""
    owner = threading.get_ident()
    handles = []

    def entering(module: nn.Module, inputs: Any) -> None:
        if threading.get_ident() == owner:
            watch.running.append(module)

    def leaving(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if threading.get_ident() == owner:
                watch.running.pop()
                answered(name, module, output)

        return hook

    try:
        for name, module in model.named_modules():
            if name and not isinstance(module, torch.jit.ScriptModule):
                handles.append(module.register_forward_pre_hook(entering))
                handles.append(module.register_forward_hook(leaving(name)))
        yield
    finally:
        for handle in handles:
            handle.remove()


_POOLING = {
    F.adaptive_avg_pool2d,
    F.adaptive_max_pool2d,
    F.adaptive_max_pool2d_with_indices,
    torch._C._nn.adaptive_avg_pool2d,
}
_ATTENTION = {F.scaled_dot_product_attention, F.multi_head_attention_forward}
_SOFTMAX = {F.softmax, torch.softmax, Tensor.softmax}


class _Watch(TorchFunctionMode):
    """Learns from the operators which modules are attention (their parts are not feature maps) or pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.running: list[nn.Module] = []
        self.attention: set[nn.Module] = set()
        self.pooling: set[nn.Module] = set()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if self.running:
            if func in _ATTENTION or (func in _SOFTMAX and result.ndim >= 3 and result.shape[-1] > 1):
                self.attention.add(self.running[-1])
            elif func in _POOLING:
                self.pooling.add(self.running[-1])
        return result

    def internal(self, module: nn.Module) -> str:
        """Why the output of `module` is not a feature map, or "" if it may be one."""
        if module in self.pooling:
            return "pooling"
        inside = any(module is not part and module in set(part.modules()) for part in self.attention)
        return "inside attention" if inside else ""
