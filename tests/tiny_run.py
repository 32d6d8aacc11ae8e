"""A run that takes a second, and the processes in which it is ended at any moment."""

import hashlib
import random
import resource
import shutil
from collections import OrderedDict
from multiprocessing import get_context
from pathlib import Path

import torch
from PIL import Image
from torch import nn

import deepviz
from deepviz.results.shards import Shard, read_manifest, write_manifest

METHODS = ["gradient", "grad-cam"]
SHARD = 10
IMAGES = 120


def network(seed=0):
    generator = torch.Generator().manual_seed(seed)
    layers = OrderedDict(
        conv=nn.Conv2d(3, 6, 3, padding=1),
        relu=nn.ReLU(),
        pool=nn.AdaptiveAvgPool2d(4),
        flat=nn.Flatten(),
        head=nn.Linear(96, 3),
    )
    model = nn.Sequential(layers)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def loaded(seed=0):
    """With what it takes to explain files, for `--model tiny_run:loaded` too."""
    preprocess = deepviz.Preprocess(12, crop=1.0)
    return deepviz.LoadedModel(network(seed), "tiny", preprocess, labels=("ant", "bee", "cow"))


def pixels(count=IMAGES):
    generator = torch.Generator().manual_seed(1)
    return [(torch.rand(3, 12, 12, generator=generator), number % 3) for number in range(count)]


def folder_of_images(root, count=6, size=14):
    """A folder for each class, with images in it."""
    generator = torch.Generator().manual_seed(2)
    for number in range(count):
        path = Path(root, ("ant", "bee", "cow")[number % 3], f"{number}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        values = torch.randint(0, 256, (size, size, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(values.numpy()).save(path)
    return Path(root)


def repeated(run, out, count):
    """A run of so many images, whose rows are those of a run of one shard over and over, with other numbers."""
    folder = shutil.copytree(run.folder, out)
    manifest = read_manifest(folder)
    manifest["question"]["source"]["count"] = count
    write_manifest(folder, manifest)
    template = Shard.read(folder, 0)
    size = manifest["question"]["shard_size"]
    assert len(run) == size
    moved = random.Random(0)
    for number in range(-(-count // size)):
        chances = {index: moved.random() for index in range(size)}
        rows = [
            row | {"index": row["index"] + number * size, "probability": chances[row["index"]]}
            for row in template.rows
            if row["index"] + number * size < count
        ]
        Shard(number, rows, template.methods, template.metrics, template.files).write(folder)
    return folder


def started(out, **options):
    """The run in a process of its own, which is forked from one that has everything imported."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["tiny_run", "deepviz.runs.dataset_run", "zarr", "pyarrow.parquet"])
    process = context.Process(target=go, args=(str(out),), kwargs=options)
    process.start()
    return process


def ended(process, seconds=60):
    """The exit code, once there is one."""
    process.join(seconds)
    assert process.exitcode is not None
    return process.exitcode


def go(out, count=IMAGES, file_size=None, told=None, **options):
    torch.set_num_threads(1)
    if file_size is not None:  # a file that grows larger is the same error as a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
    options = {"shard_size": SHARD, "metrics": ["sparseness"]} | options
    try:
        deepviz.run(network(), pixels(count), METHODS, out=out, **options)
    except (deepviz.DeepVizError, KeyboardInterrupt) as error:
        if told is None:
            raise
        Path(told).write_text(f"{type(error).__name__}: {error}")


def contents(folder):
    """The SHA-256 of each file."""
    folder = Path(folder)
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
