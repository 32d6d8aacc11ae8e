"""Runs over data sets: throughput, memory, and what is left of a run that is killed.

    python benchmarks/runs.py [--images 64] [--large 100000] [--kills 50] [--workers 2] [--markdown FILE]

Throughput: `deepviz.run` of one method of the bundled model on files, decoding and writing included, against the raw
model's own forward and backward passes on tensors in memory, in its best batch, in the same process and round by round.
Memory: the peak of a process that explains 100, and so many, small images with a tiny network. Kills: so many times a
process is ended by SIGKILL at a random moment, and the run gone on with; in the end each file is compared with one of a
run that was not ended. Needs the extra `data`.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import resource
import signal
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch
from results import replace_section, table
from torch import nn
from torch.utils.data import Dataset

import deepviz
from deepviz.models import load_model
from deepviz.probe.memory import keep_memory

BATCHES = (1, 2, 4, 8, 16, 32)
ROUNDS = 3


class Noise(Dataset[tuple[torch.Tensor, int]]):
    """Small images, each drawn when it is asked for."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(index)), index % 3


def tiny() -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(96, 3)
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def raw(model: nn.Module, x: torch.Tensor, batch: int) -> None:
    """The gradient of the predicted class, and nothing else."""
    for part in x.split(batch):
        leaf = part.contiguous(memory_format=torch.channels_last).requires_grad_()
        torch.autograd.grad(model(leaf).amax(1).sum(), leaf)


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def explained_files(loaded: deepviz.LoadedModel, source: Path, method: str, workers: int, out: Path) -> None:
    deepviz.run(loaded, source, method, out=out, workers=workers, shard_size=16 if workers > 1 else 256)


def throughput(images: int, workers: int) -> list[list[str]]:
    keep_memory()
    loaded = load_model()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "images")
        source.mkdir()
        for number in range(images):
            picture = deepviz.models.open_photo(deepviz.example_photo(("chelsea", "coffee")[number % 2])).picture
            picture.rotate(number).save(source / f"{number:05d}.jpg", quality=92)
        x = torch.stack([loaded.prepare(path).x for path in sorted(source.iterdir())])
        model = loaded.module.eval()
        best = min(BATCHES, key=lambda batch: seconds(lambda: raw(model, x[:32], batch)))
        found: dict[str, list[float]] = {}
        contestants: dict[str, Callable[[Path], object]] = {
            f"raw model, batches of {best}": lambda _: raw(model, x, best)
        }
        for method in ("gradient", "grad-cam"):
            contestants[f"deepviz.run, {method}"] = partial(explained_files, loaded, source, method, 1)
        if workers > 1:
            contestants[f"deepviz.run, gradient, {workers} workers"] = partial(
                explained_files, loaded, source, "gradient", workers
            )
        for turn in range(ROUNDS):
            for number, (name, work) in enumerate(contestants.items()):
                out = Path(folder, f"{turn}-{number}")
                found.setdefault(name, []).append(seconds(partial(work, out)))
    base = statistics.median(next(iter(found.values())))
    return [
        [name, f"{images / statistics.median(took):.1f}", f"{base / statistics.median(took):.2f}"]
        for name, took in found.items()
    ]


def explained(out: str, count: int, shard_size: int, told: str = "") -> None:
    torch.set_num_threads(1)
    deepviz.run(tiny(), Noise(count), ["gradient", "grad-cam"], out=out, shard_size=shard_size)
    if told:
        Path(told).write_text(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))


def in_a_process(*arguments: object) -> object:
    context = get_context("forkserver")
    context.set_forkserver_preload(["deepviz.runs.dataset_run", "zarr", "pyarrow.parquet"])
    process = context.Process(target=explained, args=arguments)
    process.start()
    return process


def memory(counts: tuple[int, ...]) -> list[list[str]]:
    rows = []
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            told = Path(folder, "told")
            started = time.perf_counter()
            process = in_a_process(str(Path(folder, "run")), count, 256, str(told))
            process.join()  # type: ignore[attr-defined]
            took = time.perf_counter() - started
            rows.append([f"{count:,}", f"{int(told.read_text()) / 1024:.0f} MiB", f"{count / took:.0f}"])
    return rows


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def killed(kills: int) -> str:
    """Kills, and whether the files are those of a run that was not ended; more images are taken if it ends before."""
    count, moments = 40 * kills, random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        whole, other = Path(folder, "whole"), Path(folder, "killed")
        in_a_process(str(whole), count, 10).join()  # type: ignore[attr-defined]
        done = 0
        while done < kills:
            process = in_a_process(str(other), count, 10)
            process.join(moments.uniform(0.05, 1.5))  # type: ignore[attr-defined]
            if process.exitcode is not None:  # type: ignore[attr-defined]
                break
            os.kill(process.pid, signal.SIGKILL)  # type: ignore[attr-defined]
            process.join()  # type: ignore[attr-defined]
            done += 1
        in_a_process(str(other), count, 10).join()  # type: ignore[attr-defined]
        same = contents(other) == contents(whole)
    return f"{done} kills at random moments: {'all files are equal byte by byte' if same else 'FILES DIFFER'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--large", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--markdown", type=Path)
    given = parser.parse_args()
    text = "\n\n".join(
        [
            f"{torch.get_num_threads()} threads, {given.images} images of 600 x 400 and 451 x 300 pixels or so:",
            table(["", "images per second", "of the raw model"], throughput(given.images, given.workers)),
            "Small images, two methods, a tiny network:",
            table(["images", "peak memory", "images per second"], memory((100, given.large))),
            killed(given.kills) + ".",
        ]
    )
    print(text)
    if given.markdown:
        replace_section(given.markdown, "runs", text)


if __name__ == "__main__":
    main()
