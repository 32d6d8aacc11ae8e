"""Does DeepViz explain the architectures that people use? Each of them, with random weights, against slow oracles.

    python benchmarks/zoo.py [--only PATTERN] [--part 1/4] [--keep FILE] [--write] [--check-layouts | --methods]

The architectures stand in `architectures.py`, each with what an oracle must know about it and DeepViz is not told:
which layers hold the last feature map, and how their output lies on the image. What is asked of each of them:

    gradient        equals plain autograd
    guided          covers as many rectifiers as the graph of a plain forward pass holds, and its map equals plain
                    autograd with every gradient that arrives at one of these nodes clamped from below at 0; or it
                    refuses, where there is none
    default layer   is one that holds the last feature map
    Grad-CAM        there, and at a layer asked for by name, equals sum_k w_k A_k, laid out by the oracle
    rows            three images in one call are explained as each of them alone
    left as found   weights, buffers, gradients, flags, hooks, modes and the state of the random generators

A cell is "right"; "refused" (DeepViz says that it cannot, and that is the right answer here, for the reason given);
"wrong", with the largest error relative to the largest value, or what happened, a refusal of what can be explained
included; or "not offered" (the table asks for what this version has no way to say). The exit code is 1 if anything
is wrong.

`--check-layouts` verifies the oracle's layouts themselves: for each cell of the grid, the gradient of its channels
with respect to the image is strongest at that cell. It is slow, and needs no method of DeepViz.

`--methods` asks every method of the catalog instead: see `zoo_methods.py`.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import gc
import hashlib
import importlib.metadata
import importlib.util
import io
import itertools
import json
import re
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import deepviz
from deepviz.errors import DeepVizError, LayerError, NothingOverridden
from deepviz.methods import GradCAM, Gradient, GuidedBackprop, Method

HERE = Path(__file__).parent
TOLERANCE = {torch.float64: 1e-8, torch.float32: 2e-3}
IMAGES = 2

Layout = Callable[[Tensor], Tensor]
"""(N, ...) as a layer puts it out -> (N, D, *grid) as it lies on the image."""


# --------------------------------------------------------------------------------------------------- what is known


def channels_first(values: Tensor) -> Tensor:
    return values


def channels_last(values: Tensor) -> Tensor:
    return values.movedim(-1, 1)


def tokens(*grid: int, before: int = 0, after: int = 0) -> Layout:
    """(N, before + cells + after, D), cells row by row."""

    def lay(values: Tensor) -> Tensor:
        cells = values[:, before : values.shape[1] - after]
        return cells.unflatten(1, grid).movedim(-1, 1)

    return lay


def sequence_first(*grid: int, before: int = 0, after: int = 0) -> Layout:
    """(before + cells + after, N, D)."""
    lay = tokens(*grid, before=before, after=after)
    return lambda values: lay(values.transpose(0, 1))


@dataclass(frozen=True)
class Architecture:
    """A network, and what the oracles know about it.

    Args:
        name: as its package calls it.
        package: what must be importable.
        build: the network with random weights; nothing is downloaded.
        image: the shape of one image.
        last: a regular expression: the layers that hold the last feature map.
        layout: how the output of any of these lies on the image.
        named: other layers to ask for by name, with their layouts.
        target: what is explained, as DeepViz is told.
        scores: the same, from the raw output to one score per row, as the oracle reads it.
        x: the images as the model takes them: a tensor, or a mapping of keywords.
        extra: what goes along, as DeepViz is told; `call` is how the oracle calls the model.
        precision: float64 where the model allows it.
        refused: question -> why a refusal is the right answer.
        shuffled: layers whose token order is not row by row: DeepViz may refuse them, or lay them out rightly.
        rounding: the tolerance, where a part of the model computes in a lower precision.
        options: of Grad-CAM at the layers that are asked for by name, for what cannot be found.
    """

    name: str
    package: str
    build: Callable[[], nn.Module]
    image: tuple[int, ...] = (3, 96, 128)
    last: str | Mapping[str, Layout] = ""
    layout: Layout = channels_first
    named: Mapping[str, Layout] = field(default_factory=dict)
    target: Any = 1
    scores: Callable[[Any], Tensor] = lambda output: output[:, 1]
    x: Callable[[Tensor], Any] = lambda images: images
    extra: Callable[[], Any] | None = None
    call: Callable[[nn.Module, Tensor], Any] = lambda model, images: model(images)
    precision: torch.dtype = torch.float64
    refused: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    shuffled: Mapping[str, Layout] = field(default_factory=dict)
    rounding: float = 0.0

    def model(self) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = self.build().to(self.precision).eval()
            settle(model, self)
        return model

    def layout_of(self, layer: str) -> Layout | None:
        """How the output of a layer that may be chosen lies on the image; None if it may not be chosen."""
        rules = {self.last: self.layout} if isinstance(self.last, str) else self.last
        path = layer.partition("#")[0]
        return next((layout for rule, layout in rules.items() if re.fullmatch(rule, path)), None)

    def images(self, n: int = IMAGES) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        return torch.rand((n, *self.image), generator=generator, dtype=torch.float64).to(self.precision)


def settle(model: nn.Module, architecture: Architecture) -> None:
    """Weights like a trained network's: nothing is constant, and normalised activations have unit size.

    Heads, residual branches and layer scales often begin at zero, where every map would be zero and every oracle
    agree.
    """
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.numel() > 1 and parameter.is_floating_point() and float(parameter.std()) < 1e-4:
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                fan = max(1, parameter[0].numel()) if parameter.ndim > 1 else 100
                parameter.add_(noise.to(parameter.dtype) / fan**0.5)
        norms = [part for part in model.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
        for norm in norms:
            if norm.track_running_stats:
                norm.train()
                norm.momentum, norm.old_momentum = 0.9, norm.momentum
        architecture.call(model, architecture.images(4))  # some make buffers when first called
        for norm in norms:
            if norm.track_running_stats:
                norm.momentum = norm.old_momentum
                del norm.old_momentum
        model.eval()


# ------------------------------------------------------------------------------------------------------- the oracles


def forward(architecture: Architecture, model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """The images as a leaf, and the scores with their graph."""
    leaf = images.clone().requires_grad_()
    return leaf, architecture.scores(architecture.call(model, leaf * 1))


def plain_gradient(architecture: Architecture, model: nn.Module, images: Tensor) -> Tensor:
    leaf, scores = forward(architecture, model, images)
    return torch.autograd.grad(scores.sum(), leaf)[0]


RECTIFIERS = {
    "ReluBackward": lambda node: True,
    "HardtanhBackward": lambda node: node._saved_min_val == 0,
    "ClampBackward": lambda node: node._saved_min == 0,
    "ClampMinBackward": lambda node: node._saved_min == 0,
    "ThresholdBackward": lambda node: node._saved_threshold == 0,
    "LeakyReluBackward": lambda node: True,
    "PreluKernelBackward": lambda node: True,
    "EluBackward": lambda node: True,
    "GeluBackward": lambda node: True,
    "SiluBackward": lambda node: True,
    "HardswishBackward": lambda node: True,
    "MishBackward": lambda node: True,
    "SoftplusBackward": lambda node: True,
}


def is_rectifier(node: Any) -> bool:
    return RECTIFIERS.get(node.name().rstrip("0123456789"), lambda _: False)(node)


def rectifiers(scores: Tensor, leaf: Tensor) -> list[Any]:
    """The nodes between scores and image that are rectifiers, found in the graph of a plain forward pass."""
    order: list[Any] = []
    seen = set()
    stack = [(scores.grad_fn, False)]
    while stack:
        node, done = stack.pop()
        if done:
            order.append(node)
        elif node is not None and node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack += [(below, False) for below, _ in node.next_functions]
    from_image = set()
    for node in order:  # children first
        holds = getattr(node, "variable", None)
        if holds is leaf or any(below in from_image for below, _ in node.next_functions):
            from_image.add(node)
    return [node for node in order if node in from_image and is_rectifier(node)]


@contextlib.contextmanager
def out_of_place(model: nn.Module) -> Iterator[None]:
    """Inside, activations are not in place: of one that is, on a view, autograd's graph does not show the node."""
    changed = [module for module in model.modules() if getattr(module, "inplace", False) is True]
    try:
        for module in changed:
            module.inplace = False
        yield
    finally:
        for module in changed:
            module.inplace = True


def guided_gradient(architecture: Architecture, model: nn.Module, images: Tensor) -> tuple[Tensor, int]:
    """R = f'(x) [R' > 0] R' at every rectifier node, and how many there are."""
    with out_of_place(model):
        leaf, scores = forward(architecture, model, images)
    found = rectifiers(scores, leaf)
    for node in found:
        node.register_prehook(lambda gradients: tuple(one.clamp(min=0) for one in gradients))
    return torch.autograd.grad(scores.sum(), leaf)[0], len(found)


def activation(
    architecture: Architecture, model: nn.Module, images: Tensor, layer: str
) -> tuple[Tensor, Tensor, Tensor, Any]:
    """What a layer puts out, the images and the scores of that pass, and what gradients are taken for."""
    path, _, number = layer.partition("#")
    kept: list[tuple[Tensor, Any]] = []

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        tensor = first_tensor(output)
        # values and edge as they are now, since what follows may be in place
        kept.append((tensor * 1, torch.autograd.graph.get_gradient_edge(tensor)))

    handle = model.get_submodule(path).register_forward_hook(keep)
    try:
        leaf, scores = forward(architecture, model, images)
    finally:
        handle.remove()
    A, edge = kept[int(number or 1) - 1]
    return A, leaf, scores, edge


def first_tensor(output: Any) -> Tensor:
    if isinstance(output, Tensor):
        return output
    values = output.values() if isinstance(output, Mapping) else output
    return next(value for value in values if isinstance(value, Tensor) and value.is_floating_point())


def class_activation(
    architecture: Architecture, model: nn.Module, images: Tensor, layer: str, layout: Layout
) -> Tensor:
    """sum_k w_k A_k, (N, 1, *grid)."""
    A, _, scores, edge = activation(architecture, model, images, layer)
    (dA,) = torch.autograd.grad(scores.sum(), edge)
    A, dA = layout(A), layout(dA)
    w = dA.mean(tuple(range(2, dA.ndim)), keepdim=True)
    return (w * A).sum(1, keepdim=True).detach()


# ------------------------------------------------------------------------------------------------ the model as it was


def portrait(model: nn.Module) -> dict[str, object]:
    """Everything that a method could leave changed."""
    digest = hashlib.sha256()
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        digest.update(name.encode())
        digest.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {
        "weights and buffers": digest.hexdigest(),
        "requires_grad": [parameter.requires_grad for parameter in model.parameters()],
        "gradients": [parameter.grad is None for parameter in model.parameters()],
        "modes": [module.training for module in model.modules()],
        "hooks": [[len(getattr(module, name)) for name in hooks] for module in model.modules()],
        "random state": hashlib.sha256(torch.get_rng_state().numpy().tobytes()).hexdigest(),
        "grad mode": torch.is_grad_enabled(),
    }


# ---------------------------------------------------------------------------------------------------------- judgement

QUESTIONS = ("gradient", "guided", "default layer", "Grad-CAM", "rows", "left as found")


@dataclass(frozen=True)
class Cell:
    verdict: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.verdict}: {self.detail}" if self.detail else self.verdict


class Wrong(Exception):
    """An answer that is not the right one."""


class NotAsked(Exception):
    """What came before leaves nothing to ask."""


class NotOffered(Exception):
    """This version has no way to ask that."""


def error(found: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest expected value."""
    if tuple(found.shape) != tuple(expected.shape):
        raise Wrong(f"shape {tuple(found.shape)} for {tuple(expected.shape)}")
    scale = float(expected.abs().max())
    if scale == 0:
        raise Wrong("the oracle's map is zero, which proves nothing")
    return float((found.detach() - expected.detach()).abs().max()) / scale


def same(found: Tensor, expected: Tensor, rounding: float = 0.0) -> None:
    off = error(found, expected)
    if not off <= max(TOLERANCE[expected.dtype], rounding):
        raise Wrong(f"off by {off:.0%}" if off >= 0.01 else f"off by {off:.0e}")


@dataclass
class Asked:
    """DeepViz on one architecture, and the same model in eval mode for the oracles."""

    architecture: Architecture
    model: nn.Module
    oracle: nn.Module
    images: Tensor
    default: str = ""
    known: dict[Any, tuple[Tensor, Any]] = field(default_factory=dict)

    def ask(self, method: Method, images: Tensor) -> tuple[Tensor, Any]:
        """The map, as one tensor, and what was noted; of all images once."""
        if images is not self.images:
            return self.asked(method, images)
        if repr(method) not in self.known:
            self.known[repr(method)] = self.asked(method, images)
        return self.known[repr(method)]

    def asked(self, method: Method, images: Tensor) -> tuple[Tensor, Any]:
        one = self.architecture
        given = {} if one.extra is None else {"extra": one.extra()}
        try:
            found = method.attribute(self.model, one.x(images), one.target, **given)
        except (TypeError, ValueError) as raised:
            if any(said in str(raised) for said in ("'extra'", "x must be a tensor", "must be (N, C, H, W)")):
                raise NotOffered(str(raised)) from raised
            raise
        return first_tensor(found.maps), found.notes

    def gradient(self) -> str:
        found, _ = self.ask(Gradient(), self.images)
        same(found, plain_gradient(self.architecture, self.oracle, self.images), self.architecture.rounding)
        return ""

    def guided(self) -> str:
        images = self.images
        expected, count = guided_gradient(self.architecture, self.oracle, images)
        try:
            found, notes = self.ask(GuidedBackprop(), images)
        except NothingOverridden:
            if count:
                raise
            return "refused: no rectifier"
        covered = sum(notes.facts["overridden"].values())
        if covered != count:
            raise Wrong(f"{covered} rectifiers overridden of {count}")
        same(found, expected, self.architecture.rounding)
        return f"{count}"

    def default_layer(self) -> str:
        _, notes = self.ask(GradCAM(relu=False), self.images)
        self.default = notes.facts["layer"]
        if self.architecture.layout_of(self.default) is None:
            raise Wrong(f"chose `{self.default}`, {notes.facts['grid']}")
        rules = self.architecture.last
        first = rules if isinstance(rules, str) else next(iter(rules))
        later = re.fullmatch(first, self.default.partition("#")[0])
        return f"`{self.default}`" if later else f"`{self.default}`, an earlier map"

    def grad_cam(self) -> str:
        one, asked = self.architecture, []
        layout = one.layout_of(self.default) if self.default else None
        if layout is not None:
            asked.append((self.default, layout, GradCAM(relu=False)))
        for layer, layout in one.named.items():
            try:
                asked.append((layer, layout, GradCAM(layer=layer, relu=False, **one.options)))
            except TypeError as raised:
                raise NotOffered(str(raised)) from raised
        if not asked and not one.shuffled:
            if "default layer" in one.refused:
                return "refused: no layer"
            raise NotAsked("no layer")
        for layer, layout, method in asked:
            expected = class_activation(one, self.oracle, self.images, layer, layout)
            try:
                same(self.ask(method, self.images)[0], expected, one.rounding)
            except Wrong as wrong:
                raise Wrong(f"at `{layer}`: {wrong}") from wrong
        for layer, layout in one.shuffled.items():
            expected = class_activation(one, self.oracle, self.images, layer, layout)
            try:
                same(self.ask(GradCAM(layer=layer, relu=False), self.images)[0], expected, one.rounding)
            except LayerError:
                continue
            except Wrong as wrong:
                raise Wrong(f"at `{layer}`, shuffled: {wrong}") from wrong
        return ""

    def rows(self) -> str:
        for method in [Gradient(), *([GradCAM(relu=False)] if self.default else [])]:
            together, _ = self.ask(method, self.images)
            alone = torch.cat([self.ask(method, one)[0] for one in self.images.split(1)])
            same(together, alone, self.architecture.rounding)
        return ""

    def answer(self, question: str) -> Cell:
        try:
            said = getattr(self, question.replace(" ", "_").replace("-", "_").lower())()
        except NotAsked:
            return Cell("not asked")
        except NotOffered as missing:
            return Cell("not offered", in_short(missing))
        except Wrong as wrong:
            return Cell("wrong", str(wrong))
        except DeepVizError as refusal:
            if question in self.architecture.refused:
                return Cell("refused", self.architecture.refused[question])
            return Cell("wrong", f"refused, {type(refusal).__name__}: {in_short(refusal)}")
        except Exception as raised:
            where = traceback.extract_tb(raised.__traceback__)[-1]
            return Cell("wrong", f"{type(raised).__name__}: {in_short(raised)} ({Path(where.filename).name})")
        if said.startswith("refused: "):
            return Cell("refused", said.removeprefix("refused: "))
        return Cell("right", said)


def in_short(raised: BaseException) -> str:
    text = " ".join(str(raised).split()).replace("|", "/")
    return text if len(text) <= 160 else f"{text[:157]}..."


def judge(architecture: Architecture) -> dict[str, Cell]:
    """Question -> cell."""
    if importlib.util.find_spec(architecture.package) is None:
        return dict.fromkeys(QUESTIONS, Cell("not installed"))
    with quiet():
        try:
            model = architecture.model()
        except Exception as raised:
            return dict.fromkeys(QUESTIONS, Cell("wrong", f"cannot be built: {in_short(raised)}"))
        asked = Asked(architecture, model, copy.deepcopy(model), architecture.images())
        for number, module in enumerate(model.modules()):
            module.training = number % 5 == 3  # each in a mode of its own
        before = portrait(model)
        cells = {question: asked.answer(question) for question in QUESTIONS[:-1]}
        after = portrait(model)
    changed = ", ".join(name for name in before if before[name] != after[name])
    return {**cells, QUESTIONS[-1]: Cell("wrong", f"changed: {changed}") if changed else Cell("right")}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def misplaced(architecture: Architecture) -> dict[str, str]:
    """The layers whose layout is not the oracle's, with how many of their cells lie elsewhere on the image."""
    with quiet():
        model = architecture.model()
        found = {}
        layers = {**architecture.named, **architecture.shuffled}
        ruled = [name for name, _ in model.named_modules() if architecture.layout_of(name) is not None]
        for name in ruled[:: max(1, len(ruled) // 3)][-4:]:
            layers.setdefault(name, architecture.layout_of(name))
        for name, layout in layers.items():
            found[name] = cells_elsewhere(architecture, model, name, layout)
    return {name: said for name, said in found.items() if said}


def cells_elsewhere(architecture: Architecture, model: nn.Module, layer: str, layout: Layout) -> str:
    """ "" if what each cell sees of the image, more than others do, is strongest or has its middle about there."""
    images = architecture.images(2)  # of one, torch may take another gradient of batch normalisation
    try:
        A, leaf, *_ = activation(architecture, model, images, layer)
    except IndexError:
        return ""  # not called
    if A.ndim != leaf.ndim and layout is channels_first:
        return ""  # a part that works on something else
    A = layout(A)
    grid = tuple(A.shape[2:])
    generator = torch.Generator().manual_seed(3)
    probe = torch.randn(A.shape[1], generator=generator, dtype=torch.float64).to(A.dtype)
    cells = list(itertools.product(*map(range, grid)))
    cells = cells[:: max(1, len(cells) // 24)]
    pool = nn.functional.adaptive_avg_pool2d if len(grid) == 2 else nn.functional.adaptive_avg_pool3d
    shares = []
    for cell in cells:
        value = (A[(0, slice(None), *cell)] * probe).sum()
        (gradient,) = torch.autograd.grad(value, leaf, retain_graph=True)
        seen = pool(gradient[0].pow(2).sum(0)[None], grid)[0]
        shares.append(seen / seen.sum().clamp_min(1e-300))
    more = torch.stack(shares) - torch.stack(shares).mean(0)
    away, centres = 0, []
    for own, cell in zip(more.clamp_min(0), cells, strict=True):
        place = torch.unravel_index(own.argmax(), grid)
        away += max(abs(int(at) - wanted) for at, wanted in zip(place, cell, strict=True)) > 1
        centres.append([along(own, axis) for axis in range(len(grid))])
    places, centres = torch.tensor(cells, dtype=torch.float64), torch.tensor(centres, dtype=torch.float64)
    agree = [float(torch.corrcoef(torch.stack([places[:, n], centres[:, n]]))[0, 1]) for n in long_axes(grid)]
    if away <= len(cells) / 10 or min(agree) >= AGREEMENT:
        return ""
    shown = "x".join(map(str, grid))
    return f"{away} of {len(cells)} cells of {shown} lie elsewhere, correlation {min(agree):.2f}"


AGREEMENT = 0.8
"""Of the places of cells and the middles of what they see, where they all see everything."""


def along(weights: Tensor, axis: int) -> float:
    """The centroid on one axis."""
    sums = weights.sum(tuple(n for n in range(weights.ndim) if n != axis)).double()
    return float((sums * torch.arange(len(sums))).sum() / sums.sum().clamp_min(1e-300))


def long_axes(grid: Sequence[int]) -> list[int]:
    return [axis for axis, length in enumerate(grid) if length > 1]


# --------------------------------------------------------------------------------------------------------- the table


@dataclass(frozen=True)
class Judged:
    """One architecture's row."""

    name: str
    cells: dict[str, Cell]
    code: str = ""

    @property
    def verdict(self) -> str:
        """wrong if any answer is, right if all that can be asked are, refused else."""
        said = {cell.verdict for question, cell in self.cells.items() if question != "guided"}
        said.add(self.cells["guided"].verdict if self.cells["guided"].verdict == "wrong" else "right")
        return next((one for one in ("not installed", "wrong", "refused", "not asked") if one in said), "right")

    def line(self) -> str:
        cells = {question: [cell.verdict, cell.detail] for question, cell in self.cells.items()}
        return json.dumps({"name": self.name, "code": self.code, "cells": cells})

    @classmethod
    def read(cls, line: str) -> Judged:
        found = json.loads(line)
        return cls(found["name"], {one: Cell(*said) for one, said in found["cells"].items()}, found["code"])


def code() -> str:
    """What all answers depend on: the library's sources and the oracles."""
    digest = hashlib.sha256()
    home = Path(deepviz.__file__).parent
    for path in [*sorted(home.rglob("*.py")), HERE / "zoo.py"]:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def written_on() -> str:
    """The date of the last commit."""
    asked = ["git", "log", "-1", "--format=%cs"]
    return subprocess.run(asked, cwd=HERE, capture_output=True, text=True, check=True).stdout.strip()


PACKAGES = (
    "torch",
    "timm",
    "torchvision",
    "transformers",
    "open_clip_torch",
    "ultralytics",
    "segmentation_models_pytorch",
    "monai",
)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


VERDICTS = ("right", "refused", "wrong", "not asked", "not offered", "not installed")


def summary(judged: Sequence[Judged]) -> str:
    """How many of each verdict, by architecture and by question."""
    rows = []
    for verdict in VERDICTS:
        counts = [sum(one.verdict == verdict for one in judged)]
        counts += [sum(one.cells[question].verdict == verdict for one in judged) for question in QUESTIONS]
        if any(counts):
            rows.append([verdict, *map(str, counts)])
    return table(["", "architectures", *QUESTIONS], rows)


def page(judged: Sequence[Judged]) -> str:
    """The text of ZOO.md."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    rows = [[one.name, one.verdict, *(str(one.cells[question]) for question in QUESTIONS)] for one in judged]
    counts = {verdict: sum(one.verdict == verdict for one in judged) for verdict in ("right", "refused", "wrong")}
    said = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    return (
        "\n\n".join(
            (
                "# Architectures",
                f"**{len(judged)} architectures: {said}.** Asked at the commit of {written_on()}, with {versions}.",
                INTRODUCTION,
                summary(judged),
                table(["", "", *QUESTIONS], rows),
            )
        )
        + "\n"
    )


INTRODUCTION = """\
Written by `python benchmarks/zoo.py --write`. Each architecture has random weights, is small, and is asked in float64
on one CPU thread:

- **gradient**: equals plain autograd.
- **guided**: covers as many rectifiers as the graph of a plain forward pass has between image and score (their number
  is in the table), and its map equals plain autograd with every gradient that arrives at one of them clamped from
  below at 0.
- **default layer**: is one that holds the last feature map, or, where that is said, an earlier one.
- **Grad-CAM**: there, and at layers asked for by name, equals sum_k w_k A_k, laid out on the image by the oracle.
- **rows**: two images in one call are explained as each of them alone.
- **left as found**: weights, buffers, gradients, flags, hooks, modes and the state of the random generators.

Which layers these are, and how their output lies on the image, is in `benchmarks/architectures.py`, written from the
authors' code; `--check-layouts` verifies it by the gradients of single cells. *Refused* is an error that says why
and what to do, where that is the right answer. *Wrong* is anything else."""


def main() -> int:
    from architectures import ARCHITECTURES

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="", help="a regular expression for names")
    parser.add_argument("--part", default="1/1", help="2/4: the second of four parts")
    parser.add_argument("--check-layouts", action="store_true", help="verify the oracles' layouts instead")
    parser.add_argument("--methods", action="store_true", help="ask every method of the catalog instead")
    parser.add_argument("--keep", type=Path, help="a file of answers: what it has is not asked again")
    parser.add_argument("--write", action="store_true", help="write ZOO.md, which the documentation includes")
    given = parser.parse_args()
    torch.set_num_threads(1)
    part, parts = map(int, given.part.split("/"))
    chosen = [one for one in ARCHITECTURES if re.search(given.only, one.name)][part - 1 :: parts]
    if given.check_layouts:
        return check_layouts(chosen)
    if given.methods:
        import zoo_methods

        return zoo_methods.main(chosen, given.keep, given.write)
    now, known = code(), {}
    if given.keep is not None and given.keep.exists():
        known = {one.name: one for one in map(Judged.read, given.keep.read_text().splitlines()) if one.code == now}
    judged = []
    for one in chosen:
        if one.name not in known:
            start = time.perf_counter()
            known[one.name] = Judged(one.name, judge(one), now)
            print(f"[{time.perf_counter() - start:.0f} s]", end=" ")
            if given.keep is not None:
                with given.keep.open("a") as kept:
                    kept.write(known[one.name].line() + "\n")
            gc.collect()
        judged.append(known[one.name])
        said = "; ".join(f"{question}: {cell}" for question, cell in judged[-1].cells.items())
        print(f"{one.name}: {judged[-1].verdict}: {said}", flush=True)
    print(summary(judged))
    if given.write:
        written = HERE / "ZOO.md"
        _, begins, methods = written.read_text().partition("## Every method")
        written.write_text(page(judged) + ("\n" + begins + methods if begins else ""))
    return 1 if any(one.verdict in ("wrong", "not asked") for one in judged) else 0


def check_layouts(chosen: Iterable[Architecture]) -> int:
    wrong = 0
    for one in chosen:
        found = misplaced(one)
        wrong += bool(found)
        print(one.name, found or "right", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    import zoo  # the module that the architectures import

    sys.exit(zoo.main())
