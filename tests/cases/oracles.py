"""Right values, derived slowly: autograd, one path point and one noisy copy at a time, a layer read by a hook.

A score is a function of the model's input alone, for any number of rows: what else the model takes is in its closure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deepviz.errors import DeepVizError
from deepviz.methods import GradCAM, Gradient, GuidedBackprop, IntegratedGradients, SmoothGrad
from networks import METHODS, assert_same

Score = Callable[[Tensor], Tensor]
"""From an input (n, ...) to scores (n,)."""

ALL = {
    **METHODS,
    "integrated-gradients to a tolerance": IntegratedGradients(tolerance=0.1, max_steps=40),
    "smooth-grad of guided-backprop": SmoothGrad(of=GuidedBackprop(), samples=3),
    "smooth-grad of grad-cam": SmoothGrad(of=GradCAM(relu=False), samples=3),
    "smooth-grad of integrated-gradients": SmoothGrad(of=IntegratedGradients(steps=3), samples=3),
}
"""Every method, and some inside others."""
SOME = {"gradient": Gradient(), "grad-cam": GradCAM(relu=False), "integrated-gradients": IntegratedGradients(steps=6)}
LAYER_METHODS = {name: method for name, method in ALL.items() if "cam" in name}


def on_kinds(name: str, kinds: Iterable[str], thorough: int = 1) -> pytest.MarkDecorator:
    """Parameters `method` and `name`: every method on the first kinds, some methods on the others."""
    cases = [
        pytest.param(method, kind, id=f"{kind}-{label}")
        for place, kind in enumerate(kinds)
        for label, method in (ALL if place < thorough else SOME).items()
    ]
    return pytest.mark.parametrize(("method", name), cases)


def gradient(score: Score, x: Tensor) -> Tensor:
    """dS/dx, all rows at once."""
    leaf = x.detach().clone().requires_grad_()
    return torch.autograd.grad(score(leaf).sum(), leaf)[0]


def path_gradient(score: Score, x: Tensor, steps: int) -> Tensor:
    """Integrated gradients of one row from zero, by Gauss and Legendre, one point at a time."""
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    mean = sum(w / 2 * gradient(score, (t + 1) / 2 * x) for t, w in zip(nodes, weights, strict=True))
    return mean * x


def noisy_gradient(score: Score, x: Tensor, samples: int, noise: float = 0.15) -> Tensor:
    """SmoothGrad of one row, one copy at a time, with the noise of seed 0."""
    from deepviz.probe.seeds import generator_of

    width = noise * (x.max() - x.min())
    copies = (torch.randn(x.shape[1:], generator=generator_of(0, i), dtype=x.dtype) for i in range(samples))
    return sum(gradient(score, x + width * e) for e in copies) / samples


def layer_and_gradient(layer: nn.Module, score: Score, x: Tensor, call: int = 0) -> tuple[Tensor, Tensor]:
    """What a layer answers in one of its calls, and dS of it, by a hook."""
    answers: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        answers.append(output[0] if isinstance(output, tuple) else output)

    handle = layer.register_forward_hook(keep)
    try:
        total = score(x.detach().requires_grad_()).sum()
    finally:
        handle.remove()
    A = answers[call]
    return A.detach(), torch.autograd.grad(total, A)[0]


def weighted(A: Tensor, dA: Tensor) -> Tensor:
    """sum_k w_k A_k for maps (N, D, *space), w_k the mean over all of space."""
    space = tuple(range(2, A.ndim))
    return (dA.mean(space, keepdim=True) * A).sum(1, keepdim=True)


def cam(
    layer: nn.Module, score: Score, x: Tensor, laid: Callable[[Tensor], Tensor] = lambda A: A, call: int = 0
) -> Tensor:
    """Grad-CAM without the ReLU; `laid` brings the layer's answer to (N, D, *grid)."""
    A, dA = layer_and_gradient(layer, score, x, call)
    return weighted(laid(A), laid(dA))


def rows_alone(compute: Callable[[int], Tensor], rows: Iterable[int]) -> Tensor:
    """What is found for each row by itself."""
    return torch.cat([compute(row) for row in rows])


def found_or_refused(compute: Callable[[], Any], error: Any = DeepVizError) -> tuple[Any, Exception | None]:
    """What is computed, or None and the error of this kind that came instead."""
    try:
        return compute(), None
    except error as refusal:
        return None, refusal


def right_or_refused(
    compute: Callable[[], Any],
    expected: Any,
    tolerance: float = 1e-9,
    error: type[Exception] = DeepVizError,
    names: str = "",
) -> bool:
    """Whether the map is there: the expected one. Else an error of this kind names the way out; never another map."""
    found, refusal = found_or_refused(compute, error)
    if refusal is not None:
        assert re.search(names, str(refusal)), f"the refusal does not name {names!r}: {refusal}"
        return False
    assert_same(torch.as_tensor(getattr(found, "maps", found)), torch.as_tensor(expected), tolerance)
    return True


def said(notes: Any) -> str:
    """All that a result says about itself, as one text: of an explanation's notes, or of one row of a call's."""

    def parts(value: Any) -> list[str]:
        if isinstance(value, dict):
            return [text for pair in value.items() for one in pair for text in parts(one)]
        return [text for one in value for text in parts(one)] if isinstance(value, (tuple, list)) else [str(value)]

    return "; ".join(parts(notes if isinstance(notes, dict) else notes.of(0))).lower()


def value(tensor: Tensor) -> float:
    """The one number in a tensor."""
    return float(tensor.detach().item())


def images(n: int, *shape: int, seed: int = 1) -> Tensor:
    """Normal noise, float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((n, *(shape or (3, 12, 12))), generator=generator, dtype=torch.float64)


def seeded(build: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """A network by a seed, float64, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build().double().eval()


class Counted(nn.Module):
    """Counts its forward passes and the rows of each."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.passes: list[int] = []

    def forward(self, x: Tensor) -> Any:
        self.passes.append(len(x))
        return self.body(x)
