"""Every method of the catalog on every architecture of the zoo, each against a truth that holds for the method.

    python benchmarks/zoo.py --methods [--only PATTERN] [--part 1/4] [--keep FILE] [--write]

Of each cell it is asked that two images in one call are explained as each of them alone, and, where the method's own
formula can be evaluated on this architecture by plain autograd, hooks and loops, that the map equals it. What the
formula needs to know of the architecture (which layers hold feature maps, and how these lie on the image) stands in
`architectures.py`.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import hashlib
import importlib.util
import itertools
import json
import math
import re
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import zoo
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from zoo import Architecture, Cell, Layout, NotOffered, Wrong, in_short

from deepviz.catalog import METHODS
from deepviz.errors import DeepVizError, ImageError, LayerError, NoAttention, NothingOverridden
from deepviz.methods import GradCAM, GuidedIG, Method

GAUSS_LEGENDRE = ((0.5 - 3**-0.5 / 2, 0.5), (0.5 + 3**-0.5 / 2, 0.5))
"""Points and weights on [0, 1] that integrate cubic polynomials exactly."""
BUDGET: dict[str, dict[str, Any]] = {
    "ablation-cam": {"channels": 3},
    "blur-ig": {"steps": 2},
    "feature-ablation": {"cells": 2},
    "expected-gradients": {"samples": 2},
    "guided-ig": {"steps": 2},
    "hsic": {"cells": 2, "max_passes": 6},
    "integrated-gradients": {"steps": 2},
    "is-cam": {"channels": 2, "steps": 2},
    "kernel-shap": {"cells": 2, "max_passes": 16},
    "lime": {"cells": 2, "max_passes": 6},
    "meaningful-perturbation": {"steps": 2, "cells": 4},
    "occlusion": {"window": 64},
    "rise": {"max_passes": 6},
    "score-cam": {"channels": 2},
    "shapley-sampling": {"cells": 2, "max_passes": 16},
    "smooth-grad": {"samples": 2},
    "sobol": {"cells": 2, "max_passes": 12},
    "ss-cam": {"channels": 2, "samples": 2},
    "xrai": {"steps": 1},
}
"""Options that keep a cell cheap."""
MOST_CELLS = 400
"""Recipro-CAM asks the layers above once for each cell."""
AXES = {1: "linear", 2: "bilinear", 3: "trilinear"}
BY_ROWS, BY_ZERO = "rows", "zero"
"""The detail of a cell that no formula was compared with, and of one where formula and map are zero."""


def small(key: str) -> Method:
    """The method with few steps, samples or channels, and with its sign."""
    kind = METHODS[key]
    given = dict(BUDGET.get(key, {}))
    if any(one.name == "relu" for one in fields(kind)):
        given["relu"] = False
    return kind(**given)


class NoTruth(Exception):
    """No formula can be evaluated here."""


def _unknown(*_: Any) -> Tensor:
    raise NoTruth  # by its own tests alone


# ------------------------------------------------------------------------------------------------------- the oracles


@dataclass
class Truths:
    """What the formulas are made of, by plain autograd on the model in eval mode; each found once."""

    architecture: Architecture
    model: nn.Module
    images: Tensor
    layer: str = ""
    layout: Layout | None = None

    def gradient_at(self, images: Tensor) -> Tensor:
        return zoo.plain_gradient(self.architecture, self.model, images)

    def scores_of(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            return self.architecture.scores(self.architecture.call(self.model, images))

    def values_of(self, images: Tensor) -> Tensor:
        """The probability of the class; the score where what is explained is no class."""
        with torch.no_grad():
            output = self.architecture.call(self.model, images)
        if not isinstance(self.architecture.target, int):
            return self.architecture.scores(output)
        logits = getattr(output, "logits", output)
        logits = logits if isinstance(logits, Tensor) else logits[0]
        sums = logits.sum(1)
        chances = bool((logits >= 0).all()) and bool(torch.allclose(sums, torch.ones_like(sums)))
        return (logits if chances else logits.softmax(1))[:, self.architecture.target]

    @cached_property
    def gradient(self) -> Tensor:
        return self.gradient_at(self.images)

    @cached_property
    def guided(self) -> tuple[Tensor, int]:
        return zoo.guided_gradient(self.architecture, self.model, self.images)

    @cached_property
    def deconvolution(self) -> Tensor:
        """R = [R' > 0] R' at every rectifier node."""
        with zoo.out_of_place(self.model):
            leaf, scores = zoo.forward(self.architecture, self.model, self.images)
        for node in zoo.rectifiers(scores, leaf):
            node.register_hook(lambda below, above: (above[0].clamp(min=0), *below[1:]))
        return torch.autograd.grad(scores.sum(), leaf)[0]

    def laid(self, values: Tensor) -> Tensor:
        if self.layout is None:
            raise NoTruth
        return self.layout(values)

    @cached_property
    def at_layer(self) -> tuple[Tensor, Tensor]:
        """A and dS/dA, (N, D, *grid)."""
        A, _, scores, edge = zoo.activation(self.architecture, self.model, self.images, self.layer)
        (dA,) = torch.autograd.grad(scores.sum(), edge)
        return self.laid(A.detach()), self.laid(dA)

    @cached_property
    def curvature(self) -> Tensor:
        """H A, with H = d^2 S / dA^2."""
        with sdpa_kernel(SDPBackend.MATH):
            A, _, scores, edge = zoo.activation(self.architecture, self.model, self.images, self.layer)
            (dA,) = torch.autograd.grad(scores.sum(), edge, create_graph=True)
            if not dA.requires_grad:
                return torch.zeros_like(self.laid(A))
            (HA,) = torch.autograd.grad((dA * A.detach()).sum(), edge, allow_unused=True)
        return self.laid(torch.zeros_like(A) if HA is None else HA)

    def up(self, maps: Tensor) -> Tensor:
        """(..., *grid) at the image's size."""
        space = tuple(self.images.shape[2:])
        if maps.ndim - 2 != len(space):
            raise NoTruth
        return F.interpolate(maps, space, mode=AXES[len(space)], align_corners=False)

    def one_row(self) -> tuple[Tensor, Tensor, Tensor]:
        """The first image, A of the layer for it, (D, *grid), and where A's numbers are in what the layer returns."""
        image = self.images[:1]
        A, *_ = zoo.activation(self.architecture, self.model, image, self.layer)
        A = A.detach()
        return image, self.laid(A)[0], self.laid(torch.arange(A.numel()).view(A.shape))[0]

    def with_layer_changed(
        self, image: Tensor, change: Callable[[Tensor], None], read: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """What is read where the flat numbers that the layer returns are changed.

        Where a module inside the layer returns the same numbers, it is changed there: the layer may have made something
        else of them that goes on too.
        """
        path = self.layer.partition("#")[0]
        A, *_ = zoo.activation(self.architecture, self.model, image, self.layer)
        A = A.detach()
        new = A.clone(memory_format=torch.contiguous_format)
        change(new.view(-1))

        def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
            tensors = [output] if isinstance(output, Tensor) else list(values_of(output))
            old = next((one for one in tensors if isinstance(one, Tensor) and alike(one, A)), None)
            if old is None:
                return None
            if any(old is one for one in inputs):
                old.copy_(new)  # in place: whoever holds its input holds its output
                return None
            return replaced(output, old, new)

        within = [module for name, module in self.model.named_modules() if f"{name}.".startswith(f"{path}.")]
        handles = [module.register_forward_hook(hook) for module in within]
        try:
            return read(image)
        finally:
            for handle in handles:
                handle.remove()


def alike(one: Tensor, A: Tensor) -> bool:
    """But for rounding, which depends on whether there is a graph."""
    return one.shape == A.shape and float((one - A).abs().max()) <= 1e-9 * float(A.abs().max())


def values_of(output: Any) -> list[Any]:
    return list(output.values()) if isinstance(output, Mapping) else list(output) if isinstance(output, tuple) else []


def replaced(output: Any, old: Tensor, new: Tensor) -> Any:
    if output is old:
        return new
    if isinstance(output, Mapping):
        changed = copy.copy(output)
        for key, value in output.items():
            if value is old:
                changed[key] = new
        return changed
    if isinstance(output, (tuple, list)):
        return type(output)([new if one is old else one for one in output])
    raise NoTruth


def mean(values: Tensor) -> Tensor:
    return values.mean(tuple(range(2, values.ndim)), keepdim=True)


def total(values: Tensor) -> Tensor:
    return values.sum(tuple(range(2, values.ndim)), keepdim=True)


def weighted(w: Tensor, A: Tensor) -> Tensor:
    return (w * A).sum(1, keepdim=True)


Oracle = Callable[[Truths, Tensor, Any], Tensor]
"""(what is known, DeepViz's maps, its notes) -> the map as it must be, of the first image alone where that is dear."""
ORACLES: dict[str, Oracle] = {}


def oracle(*keys: str) -> Callable[[Oracle], Oracle]:
    def register(function: Oracle) -> Oracle:
        ORACLES.update(dict.fromkeys(keys, function))
        return function

    return register


@oracle("gradient")
def gradient(truths: Truths, found: Tensor, notes: Any) -> Tensor:
    return truths.gradient


@oracle("guided-backprop")
def guided_backprop(truths: Truths, found: Tensor, notes: Any) -> Tensor:
    return truths.guided[0]


@oracle("deconvolution")
def deconvolution(truths: Truths, found: Tensor, notes: Any) -> Tensor:
    return truths.deconvolution


@oracle("grad-times-image")
def grad_times_image(truths: Truths, found: Tensor, notes: Any) -> Tensor:
    return truths.images * truths.gradient


def path_integral(truths: Truths, start: Tensor, points: Sequence[tuple[float, float]]) -> Tensor:
    """(x - x') sum_k w_k dS/dx at x' + a_k (x - x')."""
    x = truths.images
    return (x - start) * sum(w * truths.gradient_at(start + a * (x - start)) for a, w in points)


@oracle("integrated-gradients")
def integrated_gradients(truths: Truths, found: Tensor, notes: Any) -> Tensor:
    return path_integral(truths, torch.zeros_like(truths.images), GAUSS_LEGENDRE)


def drawn(number: int) -> torch.Generator:
    """The numbers of a draw, seed 0."""
    return torch.Generator().manual_seed(number)


@oracle("expected-gradients")
def expected_gradients(truths: Truths, found: Tensor, notes: Any) -> Tensor:
    x, R = truths.images, torch.zeros_like(truths.images)
    low, high = (edge.view(*x.shape[:2], *[1] * (x.ndim - 2)) for edge in x.flatten(2).aminmax(dim=2))
    for sample in range(2):
        generator = drawn(sample)
        a = float(torch.rand((), generator=generator, dtype=torch.float64))
        torch.randint(1, (), generator=generator)  # which of one kind of baseline
        start = low + (high - low) * torch.rand(x.shape[1:], generator=generator, dtype=x.dtype)
        R += path_integral(truths, start, [(a, 0.5)])
    return R


@oracle("smooth-grad")
def smooth_grad(truths: Truths, found: Tensor, notes: Any) -> Tensor:
    x, R = truths.images, torch.zeros_like(truths.images)
    s = 0.15 * (x.flatten(1).amax(1) - x.flatten(1).amin(1)).view(-1, *[1] * (x.ndim - 1))
    for sample in range(2):
        R += truths.gradient_at(x + s * torch.randn(x.shape[1:], generator=drawn(sample), dtype=x.dtype)) / 2
    return R


def blurred(x: Tensor, sigma: float) -> Tensor:
    """Convolved along each axis with a Gaussian up to 4 sigma, border pixels repeated outwards."""
    radius = round(4 * sigma)
    if radius == 0:
        return x
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1).double() / sigma) ** 2)
    kernel = (kernel / kernel.sum()).to(x)
    for axis in range(2, x.ndim):
        lines = x.movedim(axis, -1)
        padded = F.pad(lines.reshape(-1, 1, lines.shape[-1]), (radius, radius), mode="replicate")
        x = F.conv1d(padded, kernel.view(1, 1, -1)).view(lines.shape).movedim(-1, axis)
    return x


@oracle("blur-ig")
def blur_ig(truths: Truths, found: Tensor, notes: Any) -> Tensor:
    x = truths.images
    s = 0.2 * min(x.shape[2:])
    L = [blurred(x, s * share**2) for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    return sum(truths.gradient_at(L[k + 1]) * (L[k] - L[k + 2]) for k in (0, 2))


@oracle("xrai")
def xrai(truths: Truths, found: Tensor, notes: Any) -> Tensor:
    """Every value is the mean of A over all pixels that have it."""
    x, A = truths.images, torch.zeros_like(truths.images)
    for edge in (x.flatten(1).amin(1), x.flatten(1).amax(1)):
        start = edge.view(-1, *[1] * (x.ndim - 1)).expand_as(x)
        A += path_integral(truths, start, [(0.5, 1.0)]) / 2
    A = A.sum(1)
    expected = torch.zeros_like(A)
    for row, values in enumerate(found[:, 0]):
        levels = values.unique()
        if len(levels) < 2:
            raise Wrong("a single region")
        for level in levels:
            at = values == level
            expected[row][at] = A[row][at].mean()
    return expected[:, None]


@oracle("grad-cam")
def grad_cam(truths: Truths, found: Tensor, notes: Any) -> Tensor:
    A, dA = truths.at_layer
    return weighted(mean(dA), A)


@oracle("guided-grad-cam")
def guided_grad_cam(truths: Truths, found: Tensor, notes: Any) -> Tensor:
    return truths.guided[0] * truths.up(grad_cam(truths, found, notes).relu())


@oracle("cam")
def cam(truths: Truths, found: Tensor, notes: Any) -> Tensor:
    A, dA = truths.at_layer
    return weighted(total(dA), A)


@oracle("grad-cam-plus-plus")
def grad_cam_plus_plus(truths: Truths, found: Tensor, notes: Any) -> Tensor:
    A, g = truths.at_layer
    alpha = g.square() / (2 * g.square() + g**3 * total(A))
    return weighted(total(torch.where(g > 0, alpha * g.relu(), 0)), A)


@oracle("x-grad-cam")
def x_grad_cam(truths: Truths, found: Tensor, notes: Any) -> Tensor:
    A, dA = truths.at_layer
    return weighted(torch.where(total(A) != 0, total(A / total(A) * dA), 0), A)


@oracle("layer-cam")
def layer_cam(truths: Truths, found: Tensor, notes: Any) -> Tensor:
    A, dA = truths.at_layer
    return weighted(dA.relu(), A)


@oracle("guided")
def guided_layer_cam(truths: Truths, found: Tensor, notes: Any) -> Tensor:
    return truths.guided[0] * truths.up(layer_cam(truths, found, notes).relu())


@oracle("hi-res-cam")
def hi_res_cam(truths: Truths, found: Tensor, notes: Any) -> Tensor:
    A, dA = truths.at_layer
    return weighted(dA, A)


def principal(M: Tensor, along: Callable[[Tensor, int], Tensor]) -> Tensor:
    """M v_1 with the sign for which the sum of the map times `along` is not negative."""
    maps = []
    for row, one in enumerate(M):
        _, _, vectors = torch.linalg.svd(one.flatten(1).T.double(), full_matrices=False)
        cam = torch.einsum("d...,d->...", one.double(), vectors[0])
        maps.append(cam * (-1 if float((cam * along(cam, row)).sum()) < 0 else 1))
    return torch.stack(maps)[:, None].to(M.dtype)


@oracle("eigen-cam")
def eigen_cam(truths: Truths, found: Tensor, notes: Any) -> Tensor:
    return principal(truths.at_layer[0], lambda cam, row: cam**2)


@oracle("eigen-grad-cam")
def eigen_grad_cam(truths: Truths, found: Tensor, notes: Any) -> Tensor:
    A, dA = truths.at_layer
    return principal(A * dA, lambda cam, row: (A * dA)[row].sum(0))


@oracle("fem")
def fem(truths: Truths, found: Tensor, notes: Any) -> Tensor:
    A, _ = truths.at_layer
    sigma = A.flatten(2).std(2, correction=0).view(*A.shape[:2], *[1] * (A.ndim - 2))
    return weighted(mean(A), (mean(A) + sigma <= A).to(A.dtype))


@oracle("shapley-cam")
def shapley_cam(truths: Truths, found: Tensor, notes: Any) -> Tensor:
    A, dA = truths.at_layer
    return weighted(mean(dA - truths.curvature / 2), A)


def by_energy(A: Tensor, channels: int) -> list[int]:
    return A.flatten(1).square().sum(1).argsort(descending=True)[:channels].tolist()


@oracle("ablation-cam")
def ablation_cam(truths: Truths, found: Tensor, notes: Any) -> Tensor:
    image, A, places = truths.one_row()
    S = float(truths.scores_of(image))
    R = torch.zeros_like(A[0])
    for k in by_energy(A, 3):

        def without_it(flat: Tensor, k: int = k) -> None:
            flat[places[k]] = 0

        without = truths.with_layer_changed(image, without_it, truths.scores_of)
        R += (S - float(without)) / (S or 1.0) * A[k]
    return R[None, None]


@oracle("recipro-cam")
def recipro_cam(truths: Truths, found: Tensor, notes: Any) -> Tensor:
    """At three cells of the first image; elsewhere what was found, which is compared with itself."""
    image, A, places = truths.one_row()
    expected = found[:1].clone()
    grid = tuple(A.shape[1:])
    cells = list(itertools.product(*map(range, grid)))
    for cell in (cells[0], cells[len(cells) // 2], cells[-1]):
        g = torch.zeros(grid, dtype=A.dtype)
        for other in itertools.product(
            *(range(max(0, at - 1), min(size, at + 2)) for at, size in zip(cell, grid, strict=True))
        ):
            g[other] = math.prod(0.5 if a == b else 0.25 for a, b in zip(cell, other, strict=True))

        def around(flat: Tensor, g: Tensor = g) -> None:
            flat[places] = flat[places] * g

        expected[(0, 0, *cell)] = truths.with_layer_changed(image, around, truths.values_of)[0]
    return expected


def masked(truths: Truths, channels: int, masks: Callable[[Tensor], list[Tensor]]) -> Tensor:
    image, A, _ = truths.one_row()
    chosen = by_energy(A, channels)
    f = []
    for k in chosen:
        H = truths.up(A[k][None, None])
        low, high = float(H.min()), float(H.max())
        H = (H - low) / (high - low) if high > low else torch.zeros_like(H)
        f.append(sum(float(truths.values_of(image * mask)) for mask in masks(H)) / len(masks(H)))
    w = torch.tensor(f, dtype=A.dtype).softmax(0)
    return torch.einsum("k,k...->...", w, A[chosen])[None, None]


@oracle("score-cam")
def score_cam(truths: Truths, found: Tensor, notes: Any) -> Tensor:
    return masked(truths, 2, lambda H: [H])


@oracle("is-cam")
def is_cam(truths: Truths, found: Tensor, notes: Any) -> Tensor:
    return masked(truths, 2, lambda H: [H / 2, H])


@oracle("ss-cam")
def ss_cam(truths: Truths, found: Tensor, notes: Any) -> Tensor:
    space = truths.images.shape[2:]
    noise = [2.0 * torch.randn((1, *space), generator=drawn(i)) for i in range(2)]
    return masked(truths, 2, lambda H: [H + one.to(H) for one in noise])


@oracle("refine-cam")
def refine_cam(truths: Truths, found: Tensor, notes: Any) -> Tensor:
    """The layers are DeepViz's; they must be of different sizes."""
    R = torch.ones_like(found)
    layers = notes.facts["layer"].split(", ")
    for layer in layers:
        one = replace(truths, layer=layer, layout=truths.layout if layer == truths.layer else layout_of(truths, layer))
        M = grad_cam_plus_plus(one, found, notes).relu()
        most = M.flatten(1).amax(1).view(-1, *[1] * (M.ndim - 1))
        R = R * truths.up(torch.where(most > 0, M / most, M))
    return R


def layout_of(truths: Truths, layer: str) -> Layout:
    """As the table says; of a network of convolutions, as it is."""
    known = truths.architecture.layout_of(layer) or truths.architecture.named.get(layer)
    if known is None and truths.layout is zoo.channels_first:
        A, *_ = zoo.activation(truths.architecture, truths.model, truths.images, layer)
        known = zoo.channels_first if A.ndim == truths.images.ndim else None
    if known is None:
        raise NoTruth
    return known


@oracle("full-grad")
def full_grad(truths: Truths, found: Tensor, notes: Any) -> Tensor:
    """Input and biases, heard by hooks, and how far their sum is from the score."""
    R, gap = full_gradient(truths)
    zoo.same(notes.rows["completeness gap"][:1].to(gap) + 1, gap + 1)
    return R


CONVOLUTIONS = (nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm, nn.GroupNorm)


def channels_in_axis_1(output: Tensor, bias: Tensor) -> bool:
    """Of a layer normalisation; where the last axis is as long, it is not asked."""
    if output.ndim < 4 or output.shape[1] != len(bias):
        return False
    if output.shape[-1] == len(bias):
        raise NoTruth
    return True


def full_gradient(truths: Truths) -> tuple[Tensor, Tensor]:
    """The map of the first image, and the completeness gap: of its score, to which the others add nothing."""
    kept: list[tuple[Tensor, Any, bool]] = []

    def hook(module: nn.Module, _: Any, output: Any) -> None:
        bias = module.bias
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            gamma, beta = (1, 0) if module.weight is None else (module.weight, module.bias)
            bias = beta - gamma * module.running_mean / (module.running_var + module.eps).sqrt()
        if bias is None or not isinstance(output, Tensor) or not output.requires_grad:
            return
        mapped = isinstance(module, CONVOLUTIONS) or (
            type(module) is not nn.LayerNorm and channels_in_axis_1(output, bias)
        )
        bias = bias.detach().view(-1, *[1] * (output.ndim - 2)) if mapped and output.ndim > 2 else bias.detach()
        kept.append((bias, torch.autograd.graph.get_gradient_edge(output), mapped))

    handles = [
        module.register_forward_hook(hook)
        for module in truths.model.modules()
        if isinstance(module, (nn.Linear, nn.LayerNorm, *CONVOLUTIONS))
    ]
    try:
        leaf, scores = zoo.forward(truths.architecture, truths.model, truths.images)
    finally:
        for handle in handles:
            handle.remove()
    gradients = torch.autograd.grad(scores[0], [leaf, *(edge for _, edge, _ in kept)], allow_unused=True)
    drawn, total = [leaf.detach() * gradients[0]], (leaf.detach() * gradients[0]).sum()
    for (bias, _, mapped), dS in zip(kept, gradients[1:], strict=True):
        if dS is not None:
            total = total + (bias * dS).sum()
            if mapped and len(dS) == len(leaf) and dS.ndim == leaf.ndim:
                drawn.append(bias * dS)
    R = torch.zeros_like(leaf[:1, :1])
    for share in (one[:1] for one in drawn):
        low, high = share.abs().aminmax()
        R = R + truths.up(torch.where(high > low, (share.abs() - low) / (high - low), 0).sum(1, keepdim=True))
    return R.detach(), ((scores[:1] - total).abs() / scores[:1].abs()).detach()


# ------------------------------------------------------------------------------------------------------- attention


@dataclass
class Transformer:
    """The attentions on the image, heard where `scaled_dot_product_attention` is called."""

    A: list[Tensor]
    scores: Tensor
    blocks: list[nn.Module]


@contextlib.contextmanager
def heard() -> Iterator[list[Tensor]]:
    kept: list[Tensor] = []

    def explicit(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
        if enable_gqa:
            k, v = (one.repeat_interleave(q.shape[-3] // one.shape[-3], -3) for one in (k, v))
        scores = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
        if is_causal:
            attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
        if attn_mask is not None:
            scores = scores.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
        A = scores.softmax(-1)
        kept.append(A)
        return A @ v

    fused, F.scaled_dot_product_attention = F.scaled_dot_product_attention, explicit
    try:
        yield kept
    finally:
        F.scaled_dot_product_attention = fused


def transformer(truths: Truths, hooks: Callable[[], Sequence[Any]] = lambda: ()) -> tuple[list[Tensor], Tensor]:
    """A of each layer that sees the image, (n, heads, T, T), and the scores."""
    handles = hooks()
    try:
        with heard() as kept:
            leaf, scores = zoo.forward(truths.architecture, truths.model, truths.images)
    finally:
        for handle in handles:
            handle.remove()
    on_image = []
    for A in kept:
        if A.requires_grad:
            (seen,) = torch.autograd.grad(A.square().sum(), leaf, retain_graph=True, allow_unused=True)
            if seen is not None:
                on_image.append(A)
    n = len(leaf)
    if not on_image or any(A.ndim != 4 or len(A) != n or A.shape[-1] != A.shape[-2] for A in on_image):
        raise NoTruth
    return on_image, scores


def read_tokens(A: list[Tensor], scores: Tensor) -> tuple[list[Tensor], Tensor]:
    """dS/dA of each layer, and the tokens whose row has a gradient in the last."""
    found = torch.autograd.grad(scores.sum(), A, retain_graph=True, allow_unused=True)
    if any(one is None for one in found):
        raise NoTruth
    rows = found[-1].abs().amax((0, 1, 3))
    return list(found), torch.nonzero(rows > 8 * torch.finfo(rows.dtype).eps * rows.max()).flatten()


def on_image(truths: Truths, numbers: Tensor) -> Tensor:
    """A number for each token, (n, T), as (n, 1, *grid)."""
    layouts = [truths.layout, *truths.architecture.named.values()]
    for layout in filter(None, layouts):
        for values in (numbers[..., None], numbers.T[..., None]):
            with contextlib.suppress(RuntimeError, IndexError, ValueError):
                laid = layout(values)
                if len(laid) == len(numbers) and laid.shape[1] == 1 and laid.ndim == truths.images.ndim:
                    return laid
    raise NoTruth


def row_of(M: list[Tensor], read: Tensor) -> Tensor:
    """The mean row of the tokens read in the product of all M_l."""
    R = torch.eye(M[0].shape[-1], dtype=M[0].dtype).expand_as(M[0])
    for one in M:
        R = one @ R
    return R[:, read].mean(1)


@oracle("attention-rollout")
def attention_rollout(truths: Truths, found: Tensor, notes: Any) -> Tensor:
    A, scores = transformer(truths)
    _, read = read_tokens(A, scores)
    eye = torch.eye(A[0].shape[-1], dtype=A[0].dtype)
    return on_image(truths, row_of([0.5 * one.mean(1) + 0.5 * eye for one in A], read).detach())


@oracle("generic-attention")
def generic_attention(truths: Truths, found: Tensor, notes: Any) -> Tensor:
    A, scores = transformer(truths)
    dA, read = read_tokens(A, scores)
    eye = torch.eye(A[0].shape[-1], dtype=A[0].dtype)
    return on_image(
        truths, row_of([eye + (d * a).clamp(min=0).mean(1) for d, a in zip(dA, A, strict=True)], read).detach()
    )


def blocks_of(truths: Truths, A: list[Tensor]) -> list[nn.Module]:
    """The one list of as many modules as there are layers of attention that return these tokens."""
    lists = [
        list(module)
        for module in truths.model.modules()
        if isinstance(module, (nn.ModuleList, nn.Sequential)) and len(module) == len(A)
    ]
    shapes: dict[nn.Module, tuple[int, ...]] = {}

    def remember(module: nn.Module, inputs: Any, output: Any) -> None:
        shapes[module] = tuple(zoo.first_tensor(output).shape)

    transformer(truths, lambda: [block.register_forward_hook(remember) for one in lists for block in one])
    of_tokens = sorted((len(truths.images), A[0].shape[-1]))
    for one in lists:
        if all(len(shape) == 3 and sorted(shape[:2]) == of_tokens for shape in (shapes.get(each, ()) for each in one)):
            return one
    raise NoTruth


@oracle("le-grad")
def le_grad(truths: Truths, found: Tensor, notes: Any) -> Tensor:
    attended, _ = transformer(truths)
    blocks = blocks_of(truths, attended)
    E = []
    for number in range(len(attended)):
        Z: list[Tensor] = []

        def remember(module: nn.Module, inputs: Any, output: Any, Z: list[Tensor] = Z) -> None:
            Z.append(zoo.first_tensor(output))

        def given(module: nn.Module, inputs: Any, output: Any, Z: list[Tensor] = Z) -> Any:
            old = zoo.first_tensor(output)
            tokens = int(old.shape[0] == len(truths.images) and old.ndim == 3)  # else the sequence comes first
            return replaced(output, old, Z[0].mean(tokens, keepdim=True).expand_as(old))

        def hooks(number: int = number, remember: Any = remember, given: Any = given) -> list[Any]:
            return [blocks[number].register_forward_hook(remember), blocks[-1].register_forward_hook(given)]

        A, scores = transformer(truths, hooks)
        (dA,) = torch.autograd.grad(scores.sum(), [A[number]])
        E.append(dA.clamp(min=0).mean((1, 2)))
    return on_image(truths, torch.stack(E).mean(0))


@oracle("token-similarity")
def token_similarity(truths: Truths, found: Tensor, notes: Any) -> Tensor:
    Z: list[Tensor] = []
    A, scores = transformer(truths)
    _, read = read_tokens(A, scores)
    blocks = blocks_of(truths, A)

    def remember(module: nn.Module, inputs: Any, output: Any) -> None:
        Z.append(zoo.first_tensor(output).detach().clone())

    transformer(truths, lambda: [blocks[-1].register_forward_hook(remember)])
    tokens = Z[0] if len(Z[0]) == len(truths.images) else Z[0].transpose(0, 1)
    if tokens.ndim != 3:
        raise NoTruth
    z = tokens[:, read].mean(1, keepdim=True)
    return on_image(truths, (z * tokens).sum(-1) / z.norm(dim=-1) / tokens.norm(dim=-1))


# --------------------------------------------------------------------------------------------------------- judgement


def same(found: Tensor, expected: Tensor, rounding: float) -> None:
    """As in `zoo`; where all evidence is against the class, both are zero."""
    if bool(expected.any()) or bool(found.any()):
        zoo.same(found, expected, rounding)


def refused_rightly(truths: Truths, key: str, refusal: DeepVizError) -> bool:
    """Whether a refusal is the right answer, by what the oracles know."""
    one, text = truths.architecture, str(refusal)
    axes = truths.images.ndim - 2
    if isinstance(refusal, ImageError):
        return axes not in METHODS[key].spatial
    if isinstance(refusal, NothingOverridden):
        return truths.guided[1] == 0
    if isinstance(refusal, NoAttention):
        return any(re.search(reason, text) and holds(softmaxes(truths)) for reason, holds in NO_ATTENTION.items())
    if isinstance(refusal, LayerError):
        if "default layer" in one.refused and small(key).requires.layer:
            return True
        return key == "cam" and not linear_above(truths)
    return False


def linear_above(truths: Truths) -> bool:
    """Whether the score is a linear function of the means of A: the same gradient everywhere, and no curvature."""
    _, dA = truths.at_layer
    if float((dA - mean(dA)).abs().max()) > 1e-3 * float(dA.abs().max()):
        return False
    image, _, _ = truths.one_row()
    S = truths.scores_of(image)
    off = []
    for factor in (-1000.0, 300.0):
        changed = truths.with_layer_changed(image, lambda flat: flat.mul_(factor), truths.scores_of)  # noqa: B023
        raw, _, scores, edge = zoo.activation(truths.architecture, truths.model, image, truths.layer)
        (slope,) = torch.autograd.grad(scores.sum(), edge)
        expected = S + ((factor - 1) * raw.detach() * slope).sum()
        off.append(float((changed - expected).abs() / torch.maximum(changed.abs(), expected.abs())))
    return max(off) <= 1e-3


def softmaxes(truths: Truths) -> list[tuple[int, ...]]:
    """The shapes of all softmaxes over the last axis between image and score, for one image."""
    with heard():
        leaf, scores = zoo.forward(truths.architecture, truths.model, truths.images[:1])
    from_image, found = set(), []
    for node in nodes(scores):  # children first
        if getattr(node, "variable", None) is leaf or any(below in from_image for below, _ in node.next_functions):
            from_image.add(node)
            if node.name().startswith("SoftmaxBackward"):
                shape = tuple(node._saved_result.shape)
                if node._saved_dim in (2**64 - 1, -1, len(shape) - 1) and len(shape) >= 3:
                    found.append(shape)
    return found


def nodes(scores: Tensor) -> Iterator[Any]:
    """The graph of the scores, children first."""
    seen, stack = set(), [(scores.grad_fn, False)]
    while stack:
        node, done = stack.pop()
        if done:
            yield node
        elif node is not None and node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack += [(below, False) for below, _ in node.next_functions]


def is_square(shape: tuple[int, ...]) -> bool:
    return shape[-1] == shape[-2] > 1


def no_attention(shapes: list[tuple[int, ...]]) -> bool:
    return not any(map(is_square, shapes))


def in_windows(shapes: list[tuple[int, ...]]) -> bool:
    # the queries of a window may attend to keys around it, too
    return any(shape[-2] > 1 and (shape[0] > 1 or len(shape) > 4) for shape in shapes)


def of_lengths(shapes: list[tuple[int, ...]]) -> bool:
    return len({shape[-1] for shape in shapes if is_square(shape)}) > 1


def of_others(shapes: list[tuple[int, ...]]) -> bool:
    return any(not is_square(shape) for shape in shapes)


NO_ATTENTION: dict[str, Callable[[list[tuple[int, ...]]], bool]] = {
    r"computes no attention on the image": no_attention,
    r"within \d+ windows": in_windows,
    r"merges or adds tokens": of_lengths,
    r"queries attend to \d+ keys": of_others,
    r"is in no module that computes its attention alone": lambda shapes: any(map(is_square, shapes)),
    r"talking heads": lambda shapes: any(map(is_square, shapes)),
    r"the queries of \S+ come from": lambda shapes: len(shapes) > 2,  # as many queries as tokens
}
"""Refusals of methods of attention, and what must then hold of the softmaxes in the graph."""


@dataclass
class Asked:
    """All methods on one architecture."""

    questions: zoo.Asked
    truths: Truths
    seconds: Counter[str] = field(default_factory=Counter)

    def cell(self, key: str) -> Cell:
        start = time.perf_counter()
        try:
            return self.judged(key)
        except Wrong as wrong:
            return Cell("wrong", str(wrong))
        except NotOffered as missing:
            return Cell("wrong", f"{type(missing.__cause__).__name__}: {in_short(missing)}")
        except DeepVizError as refusal:
            said = f"{type(refusal).__name__}: {' '.join(str(refusal).split())}".replace("|", "/")
            return Cell("refused" if refused_rightly(self.truths, key, refusal) else "wrong", said)
        except Exception as raised:
            where = traceback.extract_tb(raised.__traceback__)[-1]
            return Cell(
                "wrong", f"{type(raised).__name__}: {in_short(raised)} ({Path(where.filename).name}:{where.lineno})"
            )
        finally:
            self.seconds[key] += time.perf_counter() - start

    def judged(self, key: str) -> Cell:
        method, images, rounding = small(key), self.questions.images, self.truths.architecture.rounding
        if key == "recipro-cam" and self.cells > MOST_CELLS:
            return Cell("not asked", f"{self.cells} cells")
        found, notes = self.questions.asked(method, images)
        if not bool(torch.isfinite(found).all()):
            raise Wrong("not finite")
        alone, _ = self.questions.asked(method, images[1:])
        try:
            same(found[1:], alone, rounding)
        except Wrong as wrong:
            raise Wrong(f"rows: {wrong}") from wrong
        if key == "guided-ig":
            straight, _ = self.questions.asked(GuidedIG(steps=2, max_distance=0.0), images)
            points = [(0.0, 0.5), (0.5, 0.5)]
            same(straight, path_integral(self.truths, torch.zeros_like(images), points), rounding)
            return Cell("right")
        try:
            expected = ORACLES.get(key, _unknown)(self.truths, found, notes)
        except NoTruth:
            return Cell("right", BY_ROWS)
        same(found[: len(expected)], expected.detach(), rounding)
        return Cell("right", "" if bool(expected.any()) else BY_ZERO)

    @cached_property
    def cells(self) -> int:
        if self.truths.layout is None:
            return 0
        return self.truths.at_layer[0][0, 0].numel()


def judge(architecture: Architecture, chosen: Sequence[str] = ()) -> tuple[dict[str, Cell], Counter[str]]:
    """Method -> cell, and the seconds that each took."""
    with zoo.quiet():
        model = architecture.model()
        oracle_model, images = copy.deepcopy(model), architecture.images()
        for number, module in enumerate(model.modules()):
            module.training = number % 5 == 3  # each in a mode of its own
        before = zoo.portrait(model)
        questions = zoo.Asked(architecture, model, oracle_model, images)
        truths = Truths(architecture, oracle_model, images)
        with contextlib.suppress(DeepVizError, NotOffered):
            _, notes = questions.asked(GradCAM(relu=False), images)
            truths.layer = notes.facts["layer"]
            truths.layout = architecture.layout_of(truths.layer)
        asked = Asked(questions, truths)
        cells = {key: asked.cell(key) for key in chosen or METHODS}
        after = zoo.portrait(model)
    changed = ", ".join(name for name in before if before[name] != after[name])
    if changed:
        cells["left as found"] = Cell("wrong", f"changed: {changed}")
    return cells, asked.seconds


# --------------------------------------------------------------------------------------------------------- the table

BEGINS = "## Every method"
VERDICTS = ("right", "refused", "wrong", "not asked")


@dataclass(frozen=True)
class Judged:
    """One architecture's cells."""

    name: str
    cells: dict[str, Cell]
    code: str = ""

    @property
    def verdict(self) -> str:
        return "wrong" if any(cell.verdict == "wrong" for cell in self.cells.values()) else "right"

    def line(self) -> str:
        cells = {key: [cell.verdict, cell.detail] for key, cell in self.cells.items()}
        return json.dumps({"name": self.name, "code": self.code, "cells": cells})

    @classmethod
    def read(cls, line: str) -> Judged:
        found = json.loads(line)
        return cls(found["name"], {one: Cell(*said) for one, said in found["cells"].items()}, found["code"])

    def __str__(self) -> str:
        counts = Counter(cell.verdict for cell in self.cells.values())
        wrong = [f"{key}: {cell}" for key, cell in self.cells.items() if cell.verdict == "wrong"]
        return "; ".join(
            [f"{self.name}: " + ", ".join(f"{counts[one]} {one}" for one in VERDICTS if counts[one]), *wrong]
        )


def ask(chosen: Sequence[Architecture], keep: Path | None, now: str) -> list[Judged]:
    """All that are installed; what `keep` has is not asked again."""
    known = {}
    if keep is not None and keep.exists():
        known = {one.name: one for one in map(Judged.read, keep.read_text().splitlines()) if one.code == now}
    judged = []
    for one in chosen:
        if importlib.util.find_spec(one.package) is None:
            continue
        if one.name not in known:
            start = time.perf_counter()
            known[one.name] = Judged(one.name, judge(one)[0], now)
            if keep is not None:
                with keep.open("a") as kept:
                    kept.write(known[one.name].line() + "\n")
            gc.collect()
            print(f"[{time.perf_counter() - start:.0f} s] {known[one.name]}", flush=True)
        judged.append(known[one.name])
    return judged


def general(reason: str) -> str:
    """What a refusal says first, without the names and numbers of one model."""
    first = re.split(r": |; |, which | \(off by", reason.partition(": ")[2])[0]
    first = re.sub(r"'[\w.#]+'|\b[a-z_0-9]+(\.\w+)+\b", "...", first)
    return re.sub(r"\b\d+\b", "n", first)


def section(judged: Sequence[Judged]) -> str:
    """The text of ZOO.md from `BEGINS` on."""
    cells = [(key, cell) for one in judged for key, cell in one.cells.items()]
    counts = Counter(cell.verdict for _, cell in cells)
    said = ", ".join(f"{counts[one]} {one}" for one in VERDICTS)
    others = [one for one in VERDICTS[1:] if counts[one]]
    rows = []
    for key, method in METHODS.items():
        own = [cell for one, cell in cells if one == key]
        bare = sum(cell.verdict == "right" and cell.detail == BY_ROWS for cell in own)
        right = sum(cell.verdict == "right" for cell in own)
        rest = (str(sum(cell.verdict == one for cell in own)) for one in others)
        rows.append([method.title or method.__name__, str(right - bare), str(bare), *rest])
    reasons: dict[str, Counter[str]] = {}
    for key, cell in cells:
        if cell.verdict == "refused":
            reasons.setdefault(general(cell.detail), Counter())[key] += 1
    why = [
        [reason, ", ".join(METHODS[key].title for key in keys), str(max(keys.values()))]
        for reason, keys in sorted(reasons.items(), key=lambda item: -max(item[1].values()))
    ]
    each = []
    for one in judged:
        refused = [METHODS[key].title for key, cell in one.cells.items() if cell.verdict == "refused"]
        each.append([one.name, str(sum(cell.verdict == "right" for cell in one.cells.values())), ", ".join(refused)])
    return (
        "\n\n".join(
            (
                BEGINS,
                f"**{len(METHODS)} methods on {len(judged)} architectures, {len(cells)} cells: {said}.** Asked at the "
                f"commit of {zoo.written_on()}.",
                INTRODUCTION,
                zoo.table(["", "formula", "rows alone", *others], rows),
                zoo.table(["refused since", "methods", "architectures"], why),
                zoo.table(["", "right", "refused"], each),
            )
        )
        + "\n"
    )


INTRODUCTION = f"""\
Written by `python benchmarks/zoo.py --methods --write`. Each method of the catalog is asked at the layer that it finds,
with few steps, samples or channels and without the last ReLU. In each cell two images in one call are explained as one
of them alone, the map is finite, and:

- **formula**: for the first image it equals the method's formula, by plain autograd, hooks and loops, to
  {zoo.TOLERANCE[torch.float64]:.0e} of the largest value in float64.
- **rows alone**: this formula cannot be evaluated here without knowing more of the architecture.
- **refused**: an error in one line that says why; the graph of a plain forward pass has what most of them name: no
  rectifier, no softmax over tokens, attention in windows, a score that is no linear function of the layer's mean.
- **not asked**: Recipro-CAM where the layer has more than {MOST_CELLS} cells.

Weights, buffers, gradients, flags, hooks, modes and the state of the random generators are as before all of them."""


def main(chosen: Sequence[Architecture], keep: Path | None, write: bool) -> int:
    digest = hashlib.sha256((zoo.code() + Path(__file__).read_text()).encode())
    judged = ask(chosen, keep, digest.hexdigest()[:12])
    print(section(judged).partition("| refused since")[0])
    if write:
        page = zoo.HERE / "ZOO.md"
        page.write_text(page.read_text().partition(BEGINS)[0] + section(judged))
    return 1 if any(one.verdict == "wrong" for one in judged) else 0
