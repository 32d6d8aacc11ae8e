"""Runs over data sets: throughput, memory, and what is left of a run that is killed.

    python benchmarks/runs.py [--images 256] [--large 100000] [--kills 50] [--ray-kills 10] [--markdown FILE]

Throughput: `deepviz.run` of one method of the bundled model on files, decoding and writing included, against the raw
model's own forward and backward passes on tensors in memory, in its best batch, in one thread of the same process and
round by round, by CPU time, which other programs on the machine disturb least, and by the clock; the least of the
rounds counts. Memory: the peak of a process that explains 100 to so many small images with a tiny network, and how long
one map of the last takes to open and read. Kills: so many times SIGKILL ends the process that leads, or one of its two
workers, at a random moment, and the run is gone on with; in the end each file is compared with one of a run that was
not disturbed; and the same with actors on a Ray cluster of two nodes. A number of 0 leaves a part out. Needs the extra
`data`, and for kills of Ray `ray`.
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
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
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


class Slow(Noise):
    """The same as if from a slow disk, so that there is time to kill."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        time.sleep(0.02)
        return super().__getitem__(index)


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


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """CPU time of this process and those it has started and that have ended, and time by the clock."""
    before, started = os.times(), time.perf_counter()
    work()
    after = os.times()
    return sum(after[:4]) - sum(before[:4]), time.perf_counter() - started


def explained_files(loaded: deepviz.LoadedModel, source: Path, method: str, out: Path) -> None:
    deepviz.run(loaded, source, method, out=out)


def throughput(images: int) -> list[list[str]]:
    keep_memory()
    torch.set_num_threads(1)  # several wait for each other on a busy machine, which counts as CPU time
    loaded = load_model()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "images")
        source.mkdir()
        for number in range(images):
            picture = deepviz.models.open_photo(deepviz.example_photo(("chelsea", "coffee")[number % 2])).picture
            picture.rotate(number).save(source / f"{number:05d}.jpg", quality=92)
        x = torch.stack([loaded.prepare(path).x for path in sorted(source.iterdir())])
        model = loaded.module.eval()
        best = min(BATCHES, key=lambda batch: min(seconds(lambda: raw(model, x[:32], batch)) for _ in range(2)))
        found: dict[str, list[tuple[float, float]]] = {}
        contestants: dict[str, Callable[[Path], object]] = {
            f"raw model, batches of {best}": lambda _: raw(model, x, best)
        }
        for method in ("gradient", "grad-cam"):
            contestants[f"deepviz.run, {method}"] = partial(explained_files, loaded, source, method)
        for turn in range(ROUNDS):
            for number, (name, work) in enumerate(contestants.items()):
                out = Path(folder, f"{turn}-{number}")
                found.setdefault(name, []).append(seconds(partial(work, out)))
    least = {name: [min(of) for of in zip(*took, strict=True)] for name, took in found.items()}
    base = next(iter(least.values()))
    return [
        [
            name,
            f"{1000 * cpu / images:.1f} ms",
            f"{base[0] / cpu:.2f}",
            f"{images / clock:.1f}",
            f"{base[1] / clock:.2f}",
        ]
        for name, (cpu, clock) in least.items()
    ]


def explained(out: str, source: Noise, shard_size: int, told: str = "", **options: object) -> None:
    torch.set_num_threads(1)
    deepviz.run(tiny(), source, ["gradient", "grad-cam"], out=out, shard_size=shard_size, **options)
    if told:
        Path(told).write_text(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))


def in_a_process(*arguments: object, **options: object) -> BaseProcess:
    context = get_context("forkserver")
    context.set_forkserver_preload(["deepviz.runs.dataset_run", "zarr", "pyarrow.parquet"])
    process = context.Process(target=explained, args=arguments, kwargs=options)
    process.start()
    return process


def memory(counts: Sequence[int]) -> tuple[list[list[str]], str]:
    """The peaks, and how long it takes to open the largest run's array and to read one map, by zarr and by `Run`."""
    rows, reading = [], ""
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            told, out = Path(folder, "told"), Path(folder, "run")
            started = time.perf_counter()
            process = in_a_process(str(out), Noise(count), 256, str(told))
            process.join()
            took = time.perf_counter() - started
            rows.append(
                [f"{count:,}", f"{int(told.read_text()) / 1024:.0f} MiB", f"{took:.1f} s", f"{count / took:.0f}"]
            )
            if count == max(counts):
                reading = read_one(out, count)
    return rows, reading


def read_one(out: Path, count: int) -> str:
    import zarr

    folder = next(path.parent for path in sorted(out.glob("maps/gradient*/*/zarr.json")))
    moments, opened = random.Random(0), []
    for _ in range(20):
        place = moments.randrange(count)
        opened.append(seconds(lambda place=place: zarr.open_array(folder, mode="r")[place])[1])  # type: ignore[misc]
    deepviz.Run(out).map(0, "gradient")  # imports what reads
    started = time.perf_counter()
    run = deepviz.Run(out)
    first = run.map(count // 2, "gradient")
    took, again = (
        time.perf_counter() - started,
        min(seconds(lambda: run.map(count // 3, "gradient"))[1] for _ in range(9)),
    )
    assert first.shape == (3, 16, 16)
    return (
        f"One map of {count:,}: zarr opens the array and reads it in {1000 * statistics.median(opened):.1f} ms "
        f"(median of 20 at random); `deepviz.Run` opens the run and reads the first in {1000 * took:.0f} ms, further "
        f"ones in {1000 * again:.1f} ms each."
    )


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def workers_of(process: BaseProcess, engine: str) -> list[int]:
    """The processes that work for one that leads."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            command, parent = (path / "cmdline").read_bytes(), (path / "stat").read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue
        if b"ray::_Actor" in command if engine == "ray" else b"spawn_main" in command and int(parent) == process.pid:
            found.append(int(path.name))
    return found


def killed(kills: int, engine: str) -> str:
    """Kills, and whether the files are those of a run that was not disturbed."""
    count, moments = 150 * kills, random.Random(0)
    led, worked = 0, 0
    options: dict[str, object] = {"workers": 2, "engine": engine}
    with tempfile.TemporaryDirectory() as folder:
        whole, other = Path(folder, "whole"), Path(folder, "killed")
        in_a_process(str(whole), Noise(count), 10).join()
        process = in_a_process(str(other), Slow(count), 10, **options)
        while led + worked < kills:
            there = len(list(other.glob("rows/*.parquet")))
            early = moments.random() < 0.2  # before any work, or after some
            while not early and process.exitcode is None and len(list(other.glob("rows/*.parquet"))) == there:
                process.join(0.05)
            process.join(moments.uniform(0, 3 if early else 0.5))
            if process.exitcode is not None:
                if len(list(other.glob("rows/*.parquet"))) * 10 >= count:
                    break
            elif moments.random() < 0.4 and (there_are := workers_of(process, engine)):
                with suppress(ProcessLookupError):
                    os.kill(moments.choice(there_are), signal.SIGKILL)
                    worked += 1
                continue
            else:
                os.kill(process.pid or 0, signal.SIGKILL)
                process.join()
                led += 1
            process = in_a_process(str(other), Slow(count), 10, **options)
        process.join()
        in_a_process(str(other), Noise(count), 10).join()
        same = contents(other) == contents(whole)
        problems = deepviz.Run(other).verify()
    words = "all files are equal byte by byte" if same and not problems else f"FILES DIFFER {problems[:3]}"
    kind = "Ray actors on two nodes" if engine == "ray" else "worker processes"
    return (
        f"{led + worked} kills at random moments over two {kind}, {led} of the process that leads and {worked} of a "
        f"worker, {count:,} images: {words}."
    )


def killed_over_ray(kills: int) -> str:
    from ray.cluster_utils import Cluster

    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0"}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    os.environ["RAY_ADDRESS"] = cluster.address
    try:
        cluster.add_node(num_cpus=1)
        return killed(kills, "ray")
    finally:
        cluster.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--large", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--ray-kills", type=int, default=10)
    parser.add_argument("--markdown", type=Path)
    given = parser.parse_args()
    parts = []
    if given.images:
        head = ["", "CPU time of an image", "of the raw model", "images per second", "of the raw model"]
        parts.append(f"One thread, {given.images} images of 600 x 400 and 451 x 300 pixels:")
        parts.append(table(head, throughput(given.images)))
    if given.large:
        counts = [count for count in (100, 1_000, 10_000, 100_000) if count < given.large] + [given.large]
        rows, reading = memory(counts)
        parts.append("Small images, two methods, a tiny network, one thread:")
        parts += [table(["images", "peak memory", "time", "images per second"], rows), reading]
    if given.kills:
        parts.append(killed(given.kills, "local"))
    if given.ray_kills:
        parts.append(killed_over_ray(given.ray_kills))
    text = "\n\n".join(parts)
    print(text)
    if given.markdown:
        replace_section(given.markdown, "runs", text)


if __name__ == "__main__":
    import runs  # so that other processes find its classes by name

    runs.main()
