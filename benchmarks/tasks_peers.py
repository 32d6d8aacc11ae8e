"""Beyond the classifier of single images: what each library asks its user to write, and what comes out.

    python benchmarks/tasks_peers.py [--markdown benchmarks/RESULTS.md] [--only detector volume]

The peers are those of the group `test`, in the versions of constraints.txt.

`peers/TASK_LIBRARY.py` holds the code that a user writes, by each library's documented ways: forward functions and
`additional_forward_args` of Captum, targets and wrappers of grad-cam, `targets=` of TorchCAM. It is given a model and
tensors, and returns maps. Its lines are counted without blank lines, comments and the line `def explain(...)`.

The models are planted: their weights are written down, so that it is known which object a score comes from. A map is
in the right place if at least half of its positive part, at the size of the image, and its maximum lie in the object's
box. DETR has random weights; its map is right if it correlates with the one by `autograd` (r >= 0.99).
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import io
import runpy
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepviz.models.torchvision_shim import import_torchvision

HERE = Path(__file__).parent / "peers"
LIBRARIES = {"deepviz": "deepviz", "captum": "captum", "grad_cam": "grad-cam", "torchcam": "torchcam"}
"""By the ends of the files' names what they are called on PyPI."""
SHARE, CORRELATION = 0.5, 0.99
RED, GREEN, BLUE = range(3)
SIDE = 24
"""Of an object, in pixels."""

Region = tuple[int, ...]
"""Where an object lies: its corner in pixels, (row, column), of volumes (slice, row, column)."""


# ------------------------------------------------------------------------------------------------ planted models


def colours(convolution: type[nn.Conv2d | nn.Conv3d], channels: int) -> nn.Sequential:
    """Three maps, of a fourth of the image's size, that are above zero where one channel is above all others."""
    found = convolution(channels, 3, 4, stride=4)
    with torch.no_grad():
        own = 1.5 * torch.eye(3)[:, :channels] - 0.5
        found.weight.copy_(own.view(3, channels, *[1] * (found.weight.ndim - 2)).expand_as(found.weight))
        found.weight.div_(found.weight[0, 0].numel())
        found.bias.fill_(-0.1)
    return nn.Sequential(found, nn.ReLU())


class Regressor(nn.Module):
    """How much red there is, (N, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.features = colours(nn.Conv2d, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x).mean((2, 3))[:, RED, None]


class Segmenter(nn.Module):
    """As torchvision's: {"out": scores}, of which class 0 is the background."""

    def __init__(self) -> None:
        super().__init__()
        self.features = colours(nn.Conv2d, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        found = self.features(x)
        scores = torch.cat([torch.full_like(found[:, :1], 0.05), found], 1)
        return {"out": F.interpolate(scores, x.shape[2:], mode="bilinear")}


class Detector(nn.Module):
    """Boxes of one size at each cell, with the logits of three colours, (N, A, 4 + 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.features = colours(nn.Conv2d, 3)

    def forward(self, x: Tensor) -> Tensor:
        pooled = F.avg_pool2d(self.features(x), SIDE // 4, stride=1)
        down, across = torch.meshgrid(*map(torch.arange, pooled.shape[2:]), indexing="ij")
        corners = 4 * torch.stack([across, down], -1).reshape(1, -1, 2).to(x)
        boxes = torch.cat([corners, corners + SIDE], -1).expand(len(x), -1, 4)
        return torch.cat([boxes, 20 * pooled.flatten(2).transpose(1, 2) - 4], -1)


class Detections(nn.Module):
    """As torchvision's: for each image {"boxes", "labels", "scores"}, without those that overlap a better one."""

    def __init__(self) -> None:
        super().__init__()
        self.candidates = Detector()
        self.features = self.candidates.features

    def forward(self, x: Tensor) -> list[dict[str, Tensor]]:
        return [self.of_image(one) for one in self.candidates(x)]

    def of_image(self, candidates: Tensor) -> dict[str, Tensor]:
        boxes, scores = candidates[:, :4], candidates[:, 4:].sigmoid()
        box, label = (scores > 0.5).nonzero(as_tuple=True)
        boxes, scores = boxes[box], scores[box, label]
        kept: list[int] = []
        for k in scores.argsort(descending=True, stable=True).tolist():
            corners = [(boxes[k, :2] - boxes[other, :2]).abs().amax() for other in kept if label[other] == label[k]]
            if all(corner >= SIDE / 2 for corner in corners):
                kept.append(k)
        return {"boxes": boxes[kept], "labels": label[kept], "scores": scores[kept]}


class TwoTowers(nn.Module):
    """As open_clip's: an image and a text are embedded as the colours that they have."""

    def __init__(self) -> None:
        super().__init__()
        self.visual = Embedder()
        self.logit_scale = nn.Parameter(torch.tensor(3.0))

    def encode_image(self, x: Tensor) -> Tensor:
        embedding: Tensor = self.visual(x)
        return embedding

    def encode_text(self, texts: Any) -> Tensor:
        named = [[float(colour in text) for colour in ("red", "green", "blue")] for text in texts]
        return torch.tensor(named) * self.logit_scale.detach().new_ones(())


class Embedder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = colours(nn.Conv2d, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x).mean((2, 3)) + 0.01


class ImageAndTable(nn.Module):
    """Class 1: how much there is of the colour that the table (N, 3) marks; class 0: the opposite."""

    def __init__(self) -> None:
        super().__init__()
        self.features = colours(nn.Conv2d, 3)

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        z = (self.features(x).mean((2, 3)) * table).sum(1)
        return torch.stack([-z, z], 1)


class Volumes(nn.Module):
    """Scores of three channels' maxima over a volume (N, 3, D, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        self.features = colours(nn.Conv3d, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x).mean((2, 3, 4))


def pictures(*objects: tuple[int, Region], size: Region = (96, 112), seed: int = 0) -> Tensor:
    """One image of faint grey noise with objects, each of one colour."""
    noise = torch.rand(1, 1, *size, generator=torch.Generator().manual_seed(seed))
    x = (0.4 + 0.1 * noise).repeat(1, 3, *[1] * len(size))
    for colour, corner in objects:
        inside = (0, slice(None), *(slice(start, start + SIDE) for start in corner))
        x[inside] = 0.1
        x[(0, colour, *inside[2:])] = 0.9
    return x


def detr() -> nn.Module:
    """A small one with random weights, whose class logits and boxes are spread."""
    import_torchvision()  # transformers' detectors need it
    import transformers

    body = transformers.ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 1, 1], layer_type="basic",
        out_features=["stage4"],
    )  # fmt: skip
    options = {f"{part}_{what}": 2 for part in ("encoder", "decoder") for what in ("layers", "attention_heads")}
    options |= {"encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "d_model": 32, "num_queries": 10, "num_labels": 3}
    config = transformers.DetrConfig(
        **options, backbone_config=body, backbone=None, use_timm_backbone=False, use_pretrained_backbone=False
    )
    model = transformers.DetrForObjectDetection(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "norm" not in name:
                nn.init.xavier_normal_(parameter.flatten(1))
        x = of_each_colour()
        box = model.bbox_predictor.layers[-1]
        for layer, output, spread in (
            (model.class_labels_classifier, lambda: model(x).logits, 4),
            (box, lambda: model(x).pred_boxes.logit(), 1),
        ):
            layer.weight.mul_(spread / output().std(1).mean())
            layer.bias.sub_(output().mean((0, 1)))
    return model


# --------------------------------------------------------------------------------------------------------- tasks


@dataclass(frozen=True)
class Task:
    title: str
    model: Callable[[], nn.Module]
    given: Callable[[], tuple[Any, ...]]
    """What `explain` takes after the model, the images first."""
    regions: tuple[Region, ...] = ()
    """Where the map of each row must lie; none: it is compared with the one by `autograd`."""


def two_of_a_colour() -> Tensor:
    return pictures((RED, (10, 8)), (RED, (60, 70)), (BLUE, (12, 76)))


def of_each_colour() -> Tensor:
    return pictures((RED, (10, 8)), (GREEN, (60, 70)), (BLUE, (12, 76)))


def as_box(region: Region) -> tuple[float, ...]:
    top, left = region
    return float(left), float(top), float(left + SIDE), float(top + SIDE)


TASKS = {
    "regressor": Task("a number", Regressor, lambda: (of_each_colour(),), ((10, 8),)),
    "segmenter": Task("a segmenter's class", Segmenter, lambda: (of_each_colour(), 1 + GREEN), ((60, 70),)),
    "detector": Task(
        "one of two objects, of a detector that returns all boxes",
        Detector, lambda: (two_of_a_colour(), RED, as_box((60, 70))), ((60, 70),),
    ),
    "detections": Task(
        "the same, of a detector that returns detections",
        Detections, lambda: (two_of_a_colour(), RED, as_box((60, 70))), ((60, 70),),
    ),
    "detr": Task("DETR of transformers: the best box of a class", detr, lambda: (of_each_colour(), 1)),
    "two_towers": Task("an image and a text", TwoTowers, lambda: (of_each_colour(), "a red ball"), ((10, 8),)),
    "image_and_table": Task(
        "images beside rows of a table", ImageAndTable,
        lambda: (of_each_colour().repeat(2, 1, 1, 1), torch.eye(3)[[RED, BLUE]], 1), ((10, 8), (12, 76)),
    ),
    "volume": Task(
        "a volume", Volumes,
        lambda: (pictures((RED, (4, 10, 8)), (GREEN, (28, 50, 40)), size=(56, 80, 72)), RED), ((4, 10, 8),),
    ),
}  # fmt: skip


# ------------------------------------------------------------------------------------------------------ judgement


def lines_of(path: Path) -> int:
    lines = [line.strip() for line in path.read_text().splitlines()]
    return sum(bool(line) and not line.startswith(("#", "def explain(")) for line in lines)


def positive(name: str, found: Any, x: Tensor) -> Tensor:
    """The positive part of a map at the image's size, (N, *space)."""
    maps = torch.as_tensor(np.asarray(found.detach() if isinstance(found, Tensor) else found)).float()
    if maps.ndim == x.ndim:
        maps = maps.abs().amax(1) if name == "Gradient" else maps.sum(1)
    mode = "bilinear" if x.ndim == 4 else "trilinear"
    return F.interpolate(maps.clamp_min(0)[:, None], x.shape[2:], mode=mode)[:, 0]


def in_place(maps: Tensor, regions: tuple[Region, ...]) -> tuple[bool, str]:
    """Whether each row's map lies in its region, and the least share that does."""
    right, shares = True, []
    for row, corner in zip(maps, regions, strict=True):
        inside = torch.zeros_like(row, dtype=torch.bool)
        inside[tuple(slice(start, start + SIDE) for start in corner)] = True
        shares.append(float(row[inside].sum() / row.sum()) if float(row.sum()) else 0.0)
        right &= shares[-1] >= SHARE and float(row[inside].max()) >= float(row.max()) > 0
    return right, f"{100 * min(shares):.0f} %"


def by_autograd(name: str, model: Any, x: Tensor, label: int) -> Tensor:
    """Of DETR's best box of a class: the gradient, or Grad-CAM at what the encoder is given."""
    held: list[Tensor] = []
    handle = model.model.input_projection.register_forward_hook(lambda _, __, output: held.append(output))
    x = x.clone().requires_grad_()
    logits = model(x).logits[0]
    handle.remove()
    score = logits[logits.softmax(-1)[:, label].argmax(), label]
    dx, dA = torch.autograd.grad(score, [x, held[0]])
    if name == "Gradient":
        return positive(name, dx, x)
    return positive(name, (dA.mean((2, 3), keepdim=True) * held[0]).sum(1), x)


def correlated(maps: Tensor, expected: Tensor) -> tuple[bool, str]:
    r = float(torch.corrcoef(torch.stack([maps.flatten(), expected.flatten()]))[0, 1])
    return r >= CORRELATION, f"r = {r:.2f}"


def judged(task: str, library: str) -> tuple[str, str]:
    """The number of lines, and what came out."""
    path, asked = HERE / f"{task}_{library}.py", TASKS[task]
    torch.manual_seed(0)  # DETR's weights
    model, given = asked.model().eval(), asked.given()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            found = runpy.run_path(str(path))["explain"](model, *given)
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        return str(lines_of(path)), f"error: {reason[:80]}"
    outcomes = []
    for name, maps in found.items():
        drawn = positive(name, maps, given[0])
        if asked.regions:
            right, detail = in_place(drawn, asked.regions)
        else:
            right, detail = correlated(drawn, by_autograd(name, model, *given))
        outcomes.append(f"{name} {'right' if right else '**wrong**'} ({detail})")
    return str(lines_of(path)), ", ".join(outcomes)


def main() -> int:
    from results import replace_section, table  # here, as tests/results has the same name

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--markdown", type=Path, help="file to write the table to")
    parser.add_argument("--only", nargs="+", choices=list(TASKS), default=list(TASKS), help="these tasks")
    given = parser.parse_args()
    torch.set_num_threads(1)
    import_torchvision()  # and so do peers
    lines, outcomes = [], []
    for task in given.only:
        cells = [judged(task, library) for library in LIBRARIES]
        lines.append([TASKS[task].title, *(cell[0] for cell in cells)])
        outcomes.append([TASKS[task].title, *(cell[1] for cell in cells)])
        print(*outcomes[-1], sep="\n  ", flush=True)
    names = [f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES.values()]
    text = f"{table(['lines of code', *names], lines)}\n\n{table(['what comes out', *names], outcomes)}"
    print(text)
    if given.markdown:
        replace_section(given.markdown, "tasks", text)
    return int(any("right" not in row[1] for row in outcomes))


if __name__ == "__main__":
    sys.exit(main())
