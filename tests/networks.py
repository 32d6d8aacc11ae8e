"""Networks small enough to read, in the ways in which people write networks, and the methods to run on them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepviz import catalog
from deepviz.diagnostics import Diagnostics
from deepviz.inputs import Inputs
from deepviz.methods import (
    GradCAM,
    Gradient,
    GuidedBackprop,
    GuidedGradCAM,
    IntegratedGradients,
    SmoothGrad,
)
from deepviz.methods.perturbation.perturbation_map import SampledMap
from deepviz.objectives.bound import bind
from deepviz.probe.borrow import borrowed
from deepviz.probe.call import Call
from deepviz.probe.outputs import class_scores
from deepviz.probe.session import Session
from deepviz.testing import small


@contextmanager
def asked(model: nn.Module, x: Any, target: Any = None, extra: Any = None) -> Iterator[Session]:
    """The model borrowed, and a session of what methods and metrics ask of it; nothing was found out about it yet."""
    inputs = Inputs(x, extra)
    with borrowed(model):
        yield Session(Call(model, Diagnostics()), inputs, bind(target, inputs.n))


def plain(channels: int = 3, classes: int = 5) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, 6, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, classes),
    )


def one_logit() -> nn.Module:
    """One output for two classes, which the model's configuration states."""
    model = plain(classes=1)
    model.config = SimpleNamespace(problem_type="single_label_classification")
    return model


class InPlaceAndReused(nn.Module):
    """Starts with an in-place operation on its input; one in-place activation serves twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.second = nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x.sub_(0.1).mul_(2)
        h = self.act(self.second(self.act(self.first(x))))
        return self.head(h.mean((2, 3)))


class ReluBesideSkip(nn.Module):
    """The input of a ReLU also feeds a skip, which is added in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.second = nn.Conv2d(6, 6, 3, padding=1)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        identity = self.first(x)
        out = self.second(F.relu(identity))
        out += identity
        return self.head(F.relu(out).mean((2, 3)))


class Answering(nn.Module):
    """A network whose class scores lie inside something."""

    def __init__(self, wrap: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.body, self.head = plain()[:4], plain()[4:]
        self.wrap = wrap

    def forward(self, x: Tensor) -> Any:
        features = self.body(x)
        return self.wrap(self.head(features), features)


class ModelOutput(OrderedDict[str, Tensor]):
    """As in transformers: fields by name, attribute and position; not to be changed by the methods of a dict."""

    def __getattr__(self, name: str) -> Tensor:
        if name in self:
            return super().__getitem__(name)
        raise AttributeError(name)

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(key) if isinstance(key, str) else tuple(self.values())[key]

    def update(self, *args: Any, **kwargs: Any) -> None:
        raise TypeError("a ModelOutput cannot be updated")


class Inside(nn.Module):
    """The body's features in a ModelOutput, as the encoders of transformers answer."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> ModelOutput:
        return ModelOutput(last_hidden_state=self.body(x))


class LikeTransformers(nn.Module):
    """Encoder and model both answer with a ModelOutput; the scores are not the first field."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = Inside(plain()[:4]), plain()[4:]

    def forward(self, x: Tensor) -> ModelOutput:
        features = self.encoder(x).last_hidden_state
        return ModelOutput(pooled=features.mean((2, 3)), logits=self.head(features), hidden=features)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int = 2) -> None:
        super().__init__()
        self.qkv, self.out, self.heads = nn.Linear(width, 3 * width), nn.Linear(width, width), heads

    def forward(self, tokens: Tensor) -> Tensor:
        n, length, width = tokens.shape
        q, k, v = self.qkv(tokens).view(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, length, width))


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width), Attention(width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attn(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class TinyViT(nn.Module):
    """Patches of 4 x 4, a class token, pooled by it."""

    def __init__(self, patches: int = 12, width: int = 8) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, width, 4, stride=4)
        self.cls = nn.Parameter(torch.randn(1, 1, width))
        self.position = nn.Parameter(torch.randn(1, patches + 1, width))
        self.blocks = nn.Sequential(Block(width), Block(width))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls.expand(len(x), -1, -1), tokens], 1) + self.position
        return self.head(self.norm(self.blocks(tokens))[:, 0])


class MeanViT(TinyViT):
    """Pooled by the mean of the image's tokens."""

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls.expand(len(x), -1, -1), tokens], 1) + self.position
        return self.head(self.norm(self.blocks(tokens))[:, 1:].mean(1))


def left_in_train_mode() -> nn.Module:
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Dropout2d(0.5),
        nn.Conv2d(6, 8, 3, stride=2),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.LazyLinear(5),
    ).train()
    with torch.no_grad():
        model(torch.randn(16, 3, 12, 12))  # running statistics that are not 0 and 1
    model[1].eval()
    model[8].eval()
    return model


class ViewingLeNet(nn.Module):
    """Takes views of its feature maps, which only contiguous ones allow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3)
        self.fc1, self.fc2 = nn.Linear(6 * 3 * 3, 10), nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.relu(self.conv2(x))
        return self.fc2(F.relu(self.fc1(x.view(len(x), -1))))


class Small(nn.Module):
    """A device that has memory for so many rows."""

    def __init__(self, body: nn.Module, room: int) -> None:
        super().__init__()
        self.body, self.room, self.failures = body, room, 0

    def forward(self, x: Tensor) -> Any:
        if len(x) > self.room:
            self.failures += 1
            raise torch.OutOfMemoryError("simulated")
        return self.body(x)


@dataclass(frozen=True)
class Case:
    """A network and the (C, H, W) of its images."""

    build: Callable[[], nn.Module]
    image: tuple[int, int, int] = (3, 12, 12)

    def model(self, dtype: torch.dtype = torch.float64, seed: int = 0) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return self.build().to(dtype)

    def images(self, n: int = 3, dtype: torch.dtype = torch.float64, seed: int = 1) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn((n, *self.image), generator=generator, dtype=torch.float64).to(dtype)


CASES = {
    "plain": Case(plain),
    "in-place": Case(InPlaceAndReused),
    "skip": Case(ReluBesideSkip),
    "dict": Case(lambda: Answering(lambda scores, features: {"features": features, "out": scores})),
    "tuple": Case(lambda: Answering(lambda scores, features: (features, scores))),
    "object": Case(lambda: Answering(lambda scores, features: SimpleNamespace(logits=scores, hidden=features))),
    "model-output": Case(LikeTransformers),
    "vit": Case(TinyViT, (3, 12, 16)),
    "train-mode": Case(left_in_train_mode),
    "one-logit": Case(one_logit),
    "viewing": Case(ViewingLeNet),
    "odd": Case(lambda: plain(channels=2), (2, 17, 23)),
}


FEW = {"cells": 2, "max_passes": 40}
"""Of methods that draw what they take away: a few passes are not enough for the default's many parts."""
EVERY = {stem: small(cls, **(FEW if issubclass(cls, SampledMap) else {})) for stem, cls in catalog.METHODS.items()}
KINDS = ("eigen-cam", "ablation-cam")
"""Beside the default set: one method of what a layer returns, and one of changed outputs of a layer."""
METHODS = {stem: method for stem, method in EVERY.items() if method.in_default_set or stem in KINDS}
"""Those that go through every test on every network; `check_method` and tests/contract/test_every.py try all others."""
ATTENTION = {stem: method for stem, method in EVERY.items() if method.requires.attention}
"""Methods for transformers alone."""
VARIANTS = {
    **METHODS,
    "integrated-gradients to a tolerance": IntegratedGradients(tolerance=0.1, max_steps=40),
    "integrated-gradients from a blur": IntegratedGradients(steps=4, baseline="blur", rule="trapezoid"),
    "grad-cam signed": GradCAM(relu=False),
    "smooth-grad of guided-grad-cam": SmoothGrad(of=GuidedGradCAM(), samples=3),
    "smooth-grad of integrated-gradients": SmoothGrad(of=IntegratedGradients(steps=3), samples=3),
    "variance of guided-backprop": SmoothGrad(of=GuidedBackprop(), samples=3, statistic="variance"),
    "squares of gradient": SmoothGrad(of=Gradient(), samples=3, statistic="mean_square"),
}


def all_scores(output: Any) -> Tensor:
    """The scores of the classes, (N, K), of any of these networks; of a single logit z, -z and z."""
    scores = class_scores(output)
    return torch.cat([-scores, scores], 1) if scores.shape[1] == 1 else scores


def assert_same(found: Tensor, expected: Tensor, tolerance: float = 1e-9) -> None:
    """Equal up to `tolerance` times the largest value."""
    assert found.shape == expected.shape
    error = float((found - expected).abs().max()) / max(float(expected.abs().max()), 1e-30)
    assert error <= tolerance, f"relative error {error:.2g}"


def readable() -> nn.Sequential:
    """A network that `by_hand` understands: layer "4" is the last feature map, 2 x 3 on an image of 10 x 12."""
    return nn.Sequential(
        nn.Conv2d(2, 3, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(3, 4, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4 * 2 * 3, 6),
        nn.ReLU(),
        nn.Linear(6, 3),
    )


READABLE = Case(readable, (2, 10, 12))
