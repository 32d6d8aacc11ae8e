"""Small models with known habits, for `--model small_models:NAME` and the tests of the API."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import deepviz
from deepviz.errors import TargetError
from deepviz.methods import Method
from deepviz.models import LoadedModel, TextEmbedder
from deepviz.testing import Attended
from networks import TinyViT
from objectives.planted import PlantedDetector, PlantedSegmenter

PREPROCESS = deepviz.Preprocess(32, crop=0.8)
PLAIN = deepviz.Preprocess(32, crop=None, mean=(0, 0, 0), std=(1, 1, 1))
ATTENTION = ("attention-rollout", "generic-attention", "le-grad", "token-similarity")
"""Methods that most of these models have nothing for."""
LABELS = ("tabby, tabby cat", "red fox", "lynx", "coffee mug", "crane")


def seeded(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module in eval mode, its weights drawn from a generator of its own."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / max(1, parameter[0].numel()) ** 0.5)
    return module.eval()


def network(classes: int = 5, head: nn.Module | None = None) -> nn.Module:
    return seeded(
        nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(128, classes),
            *([] if head is None else [head]),
        )
    )


class Tinted(nn.Module):
    """A network of an image whose channels are multiplied by weights (N, 3) of each image's own."""

    def __init__(self, net: nn.Module | None = None) -> None:
        super().__init__()
        self.net = network() if net is None else net

    def forward(self, image: Tensor, weights: Tensor) -> Tensor:
        return self.net(image * weights[:, :, None, None])  # type: ignore[no-any-return]


class LayerBySize(nn.Module):
    """Its second layer has a map for images of 32 pixels alone: for those of 16 it has one cell."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.coarse = nn.Conv2d(4, 4, 3, stride=8, padding=1)
        self.head = nn.Linear(4, 3)
        seeded(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.coarse(self.fine(x).tanh()).tanh().mean((2, 3)))  # type: ignore[no-any-return]


def _loaded(module: nn.Module) -> LoadedModel:
    return LoadedModel(module, "small", PREPROCESS, LABELS)


def good() -> LoadedModel:
    return _loaded(network())


def plain_function() -> LoadedModel:
    """A function, of which nothing but its scores is known."""
    return _loaded(deepviz.BlackBox(network()))


def volumes() -> LoadedModel:
    """A network of volumes of 6 x 12 x 16, of which class 1 is the sum of bright voxels."""
    net = nn.Sequential(
        nn.Conv3d(1, 2, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(2, 3)
    )
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
        net[0].weight[0, 0, 1, 1, 1] = 1
        net[0].bias[0] = -0.5
        net[4].weight[1, 0] = 100
    return LoadedModel(net.eval(), "small", deepviz.VolumePreprocess((6, 12, 16), window=(0, 1)), LABELS[:3])


def volumes_as_stored() -> LoadedModel:
    return replace(volumes(), preprocess=deepviz.VolumePreprocess(window=(0, 1)))


class MeanColour(nn.Module):
    """The mean colour of an image, as its embedding."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def colours() -> LoadedModel:
    """A model of images and of texts of colours: a text's embedding is the mean of those of its words."""
    names, table = ("red", "green", "blue"), nn.Embedding.from_pretrained(torch.eye(3))

    def encode(texts: tuple[str, ...]) -> Tensor:
        if unknown := [word for text in texts for word in text.split() if word not in names]:
            raise TargetError(f"no colour is called {unknown[0]}")
        return torch.stack(
            [table(torch.tensor([names.index(word) for word in text.split()])[None])[0].mean(0) for text in texts]
        )

    embedder = TextEmbedder(table, encode, embedding=table, words=lambda tokens: [(names[one], 1) for one in tokens])
    return LoadedModel(MeanColour(), "colours", PLAIN, output="embedding", texts=embedder)


def without_preprocessing() -> nn.Module:
    return network()


def one_logit() -> LoadedModel:
    return LoadedModel(network(1), "small", PREPROCESS, ("no", "yes"))


def number() -> LoadedModel:
    return LoadedModel(network(1), "small", PREPROCESS, output="regression")


def softmax() -> LoadedModel:
    return _loaded(network(head=nn.Softmax(1)))


def dead() -> LoadedModel:
    model = network()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    return _loaded(model)


def nan_weights() -> LoadedModel:
    model = network()
    with torch.no_grad():
        model[0].weight[0, 0, 0, 0] = float("nan")
    return _loaded(model)


class NaNOutput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = network()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) / 0.0 * 0.0


def nan_output() -> LoadedModel:
    return _loaded(NaNOutput())


class Segmenting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = network()[:4]

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def segmenter() -> LoadedModel:
    return _loaded(Segmenting().eval())


class Depth(Segmenting):
    """A number for each pixel."""

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x).mean(1)


def no_class_scores() -> LoadedModel:
    return _loaded(Depth().eval())


def transformer() -> LoadedModel:
    """Two layers of attention between patches of 4 x 4."""
    layers = (nn.Conv2d(3, 8, 4, stride=4), Attended(8), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 5))
    return _loaded(seeded(nn.Sequential(*layers)))


def class_token() -> LoadedModel:
    """Two layers of attention between patches of 4 x 4 and a class token, in two heads."""
    return replace(_loaded(seeded(TinyViT(patches=64))), name="tokens")


def no_map() -> LoadedModel:
    """A network without a spatial layer, but with a rectifier."""
    flat = seeded(nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 8), nn.ReLU(), nn.Linear(8, 5)))
    return _loaded(flat)


def no_rectifier() -> LoadedModel:
    return _loaded(seeded(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 30 * 30, 5))))


def scripted() -> LoadedModel:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return _loaded(torch.jit.script(network()))


class Failing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("something\nwith two lines")


def failing() -> LoadedModel:
    return _loaded(Failing())


class Interrupting(nn.Module):
    """Answers a few times, then is interrupted."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.calls = network(), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls > 3:
            raise KeyboardInterrupt
        return self.body(x)


def interrupting() -> LoadedModel:
    return _loaded(Interrupting().eval())


class Counting(nn.Module):
    """Counts its forward passes by itself, since hooks would be in the way."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.forwards = network(), 0

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += 1
        return F.relu(self.body(x)) + self.body(x)


def a_number() -> int:
    return 7


@dataclass(frozen=True)
class Strange(Method):
    """A stranger's method."""

    depth: Annotated[int, "How deep."] = 3
    title: ClassVar[str] = "Strange"

    def maps(self, session):
        x = session.image()
        return x * self.depth


@dataclass(frozen=True)
class Stranger(Strange):
    """Another in the same module."""

    title: ClassVar[str] = "Stranger"


def detector() -> LoadedModel:
    """Detects red and blue cells; it fills up an image that is no square."""
    pads = {"fit": "letterbox", "pad": 0.0, "antialias": False}
    preprocess = deepviz.Preprocess(32, None, (0, 0, 0), (1, 1, 1), **pads)
    labels = ("red square", "blue square")
    return LoadedModel(PlantedDetector(), "planted detector", preprocess, labels, output="detections")


def planted_segmenter() -> LoadedModel:
    """Tells red and blue cells from the background."""
    labels = ("__background__", "red", "blue")
    return LoadedModel(PlantedSegmenter(), "planted segmenter", PLAIN, labels, output="maps")


class Weighted(nn.Module):
    """z_k = w_k mean of channel k, with weights (N, 3) that go along: the gradient is w_k / (H W) in channel k."""

    def forward(self, image: Tensor, weights: Tensor) -> Tensor:
        return weights * image.mean((2, 3))


def weighted() -> LoadedModel:
    return LoadedModel(Weighted(), "weighted", PLAIN, ("red", "green", "blue"), output="logits")


class WeightedLayer(nn.Module):
    """z_k = w_k mean of the square of channel k of a layer, with weights (N, 3) that go along."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 3)

    def forward(self, image: Tensor, weights: Tensor) -> Tensor:
        return weights * self.layer(image).square().mean((2, 3))


def weighted_layer() -> LoadedModel:
    return LoadedModel(seeded(WeightedLayer()), "weighted", PLAIN, ("red", "green", "blue"), output="logits")
