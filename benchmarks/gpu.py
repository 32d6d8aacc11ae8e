"""What a map costs on a GPU, as a ratio to the raw model in the same run, and to Captum.

    python benchmarks/gpu.py [--models resnet50 vit_b16 convnext_t] [--batches 1 32 128] [--rounds 7] [--minutes 8]
        [--device cuda] [--markdown RESULTS.md]

For float32, float32 with TF32, and bfloat16 by autocast: the raw model's forward pass and its gradient to the image
(also in channels_last layout, compiled, and replayed as a CUDA graph), DeepViz and Captum, interleaved round by round,
by medians. Then: how far the maps in lower precision are from those in float64, the peak memory, the size of a chunk
that is fastest, and what happens where memory runs out. Parts that the minutes do not suffice for are left out and
named. On a CPU the script runs too, to try it: without memory, graphs and TF32.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path

import torch
from results import replace_section, table
from speed import CLASS, Contestants, measure, raw_forward, raw_gradient
from torch import Tensor, nn

from deepviz.methods import RISE, GradCAM, Gradient, GuidedGradCAM, IntegratedGradients, Method, SmoothGrad
from deepviz.models.torchvision_shim import import_timm
from deepviz.probe.chunks import chunk_rows

MODELS = {
    "resnet50": ("resnet50", "layer4"),
    "vit_b16": ("vit_base_patch16_224", "blocks.11.norm1"),
    "convnext_t": ("convnext_tiny", "stages.3"),
}
PRECISIONS = ("float32", "TF32", "bfloat16")
SAMPLES = 50
MASKS = 256
MB = 2**20


@contextmanager
def precision(name: str, device: str) -> Iterator[None]:
    """Products in float32, in TF32, or in bfloat16 by autocast."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = name == "TF32"
    cast: AbstractContextManager[object] = nullcontext()
    if name == "bfloat16":
        cast = torch.autocast(device, torch.bfloat16)
    try:
        with cast:
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def build(name: str, device: str) -> nn.Module:
    torch.manual_seed(0)
    return import_timm().create_model(MODELS[name][0], pretrained=False).eval().to(device)


def images(count: int, device: str) -> Tensor:
    return torch.randn(count, 3, 224, 224, generator=torch.Generator().manual_seed(0)).to(device)


def replayed(model: nn.Module, x: Tensor) -> Callable[[], object]:
    """The raw gradient as a CUDA graph."""
    leaf = x.clone().requires_grad_()

    def work() -> Tensor:
        return torch.autograd.grad(model(leaf)[:, CLASS].sum(), leaf)[0]

    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):  # kernels are chosen, and memory is taken, before the capture
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def captum(kind: str, model: nn.Module, name: str, x: Tensor) -> Callable[[], object]:
    from captum.attr import GuidedGradCam, LayerGradCam, NoiseTunnel, Saliency
    from captum.attr import IntegratedGradients as CaptumIG

    layer = model.get_submodule(MODELS[name][1])
    if kind == "Gradient":
        return lambda: Saliency(model).attribute(x.clone().requires_grad_(), CLASS, abs=False)
    if kind == "GradCAM":
        return lambda: LayerGradCam(model, layer).attribute(x, CLASS, relu_attributions=True)
    if kind == "GuidedGradCAM":
        guided = GuidedGradCam(model, layer)
        return lambda: guided.attribute(x.clone().requires_grad_(), CLASS, interpolate_mode="bilinear")
    if kind == "IntegratedGradients":
        return lambda: CaptumIG(model).attribute(x, target=CLASS, n_steps=SAMPLES)
    tunnel = NoiseTunnel(Saliency(model))
    return lambda: tunnel.attribute(x, nt_type="smoothgrad", nt_samples=SAMPLES, target=CLASS)


def contests(name: str, model: nn.Module, x: Tensor) -> dict[str, tuple[str, Contestants]]:
    """For each method its yardstick and the contestants."""
    layer = MODELS[name][1]
    gradients = lambda: raw_gradient(model, x, chunk_rows(model, x))  # noqa: E731
    forwards = lambda: raw_forward(model, x, chunk_rows(model, x, graph=False))  # noqa: E731
    found: dict[str, tuple[str, Contestants]] = {
        "Gradient": ("gradient", {"raw": gradients, "DeepViz": lambda: Gradient()(model, x, CLASS)}),
        "GradCAM": ("forward", {"raw": forwards, "DeepViz": lambda: GradCAM(layer=layer)(model, x, CLASS)}),
    }
    if name == "resnet50":
        guided = GuidedGradCAM(layer=layer)
        found["GuidedGradCAM"] = ("gradient", {"raw": gradients, "DeepViz": lambda: guided(model, x, CLASS)})
    if len(x) == 1:
        points, masks = x.expand(SAMPLES, -1, -1, -1), x.expand(MASKS, -1, -1, -1)
        many = lambda: raw_gradient(model, points, chunk_rows(model, x))  # noqa: E731
        for method in (IntegratedGradients(steps=SAMPLES), SmoothGrad(samples=SAMPLES)):
            ours = lambda method=method: method(model, x, CLASS)  # noqa: E731
            found[type(method).__name__] = (f"{SAMPLES} gradients", {"raw": many, "DeepViz": ours})
        rise = RISE(max_passes=MASKS)
        found["RISE"] = (
            f"{MASKS} forward",
            {
                "raw": lambda: raw_forward(model, masks, chunk_rows(model, x, graph=False)),
                "DeepViz": lambda: rise(model, x, CLASS),
            },
        )
    for kind, (_, contestants) in found.items():
        if kind != "RISE" and not (kind == "GradCAM" and name != "resnet50"):  # tokens and channels last need a reshape
            contestants["Captum"] = captum(kind, model, name, x)
    return found


def raw_variants(model: nn.Module, x: Tensor, device: str, compiling: bool) -> Contestants:
    """The raw gradient as it is, laid out, compiled and replayed."""
    laid = copy.deepcopy(model).to(memory_format=torch.channels_last)
    chunk = chunk_rows(model, x)
    found: Contestants = {
        "eager": lambda: raw_gradient(model, x, chunk),
        "channels_last": lambda: raw_gradient(laid, x.contiguous(memory_format=torch.channels_last), chunk),
    }
    if compiling:
        compiled = torch.compile(model)
        found["compiled"] = lambda: raw_gradient(compiled, x, chunk)
    if device == "cuda" and len(x) <= chunk:
        found["CUDA graph"] = replayed(model, x)
    return found


def speed_rows(given: argparse.Namespace, left: Callable[[], float]) -> tuple[list[list[str]], list[list[str]]]:
    rows, raws = [], []
    for batch in given.batches:
        for name in given.models:
            model = build(name, given.device)
            x = images(batch, given.device)
            for kind in PRECISIONS if given.device == "cuda" else ("float32",):
                if left() < 0:
                    rows.append([name, str(batch), kind, "left out: no time", *[""] * 5])
                    continue
                with precision(kind, given.device):
                    compiling = name in given.compile and batch == given.batches[-1] and kind == "bfloat16"
                    variants = raw_variants(model, x, given.device, compiling)
                    seconds = measure(variants, given.rounds, given.device)
                    cells = [f"{seconds['eager'] / seconds[one]:.2f}" if one in seconds else "" for one in VARIANTS]
                    raws.append([name, str(batch), kind, f"{1000 * seconds['eager']:.1f} ms", *cells])
                    print("  ".join(raws[-1]), flush=True)
                    for title, (yardstick, contestants) in contests(name, model, x).items():
                        rounds = given.rounds if yardstick in ("gradient", "forward") else max(2, given.rounds // 3)
                        seconds = measure(contestants, rounds, given.device)
                        ours = seconds["DeepViz"]
                        peer = f"{seconds['Captum'] / ours:.2f}" if "Captum" in seconds else ""
                        raw = seconds["raw"]
                        cells = [f"{1000 * raw:.1f} ms", f"{ours / raw:.2f}", peer, f"{1000 * (ours - raw):.1f} ms"]
                        rows.append([name, str(batch), kind, title, yardstick, *cells])
                        print("  ".join(rows[-1]), flush=True)
    return rows, raws


VARIANTS = ("channels_last", "compiled", "CUDA graph")


def accuracy_rows(names: list[str], device: str) -> list[list[str]]:
    """How far maps are from those in float64: medians over eight images."""
    rows = []
    for name in names:
        model, x = build(name, device), images(8, device)
        layer = MODELS[name][1]
        methods: list[Method] = [Gradient(), GradCAM(layer=layer, relu=False)]
        exact = [method(copy.deepcopy(model).double(), x.double(), CLASS) for method in methods]
        for kind in PRECISIONS if device == "cuda" else ("float32", "bfloat16"):
            with precision(kind, device):
                maps = [method(model, x, CLASS) for method in methods]
            off = [
                statistics.median(
                    float((one.double() - other).norm() / other.norm()) for one, other in zip(found, truth, strict=True)
                )
                for found, truth in zip(maps, exact, strict=True)
            ]
            rows.append([name, kind, *(f"{value:.1e}" for value in off)])
            print("  ".join(rows[-1]), flush=True)
    return rows


def chunk_rows_table(names: list[str], device: str, rounds: int, sizes: tuple[int, ...]) -> list[list[str]]:
    """The raw gradient of the largest batch, in chunks of several sizes."""
    rows = []
    for name in names:
        model, x = build(name, device), images(sizes[-1], device)
        for kind in ("TF32", "bfloat16") if device == "cuda" else ("float32",):
            with precision(kind, device):
                contestants: Contestants = {str(size): partial(raw_gradient, model, x, size) for size in sizes}
                seconds = measure(contestants, rounds, device)
            best = min(seconds.values())
            rows.append(
                [name, kind, f"{1000 * best / len(x):.2f} ms", *(f"{seconds[str(s)] / best:.2f}" for s in sizes)]
            )
            print("  ".join(rows[-1]), flush=True)
    return rows


def memory_rows(names: list[str], device: str) -> list[list[str]]:
    """Peak memory above the model's own, by the number of samples and of images."""
    rows = []
    for name in names:
        model = build(name, device)
        asked = {
            "raw gradient, 32 images": lambda model=model: raw_gradient(model, images(32, device), 32),
            "Gradient, 32 images": lambda model=model: Gradient()(model, images(32, device), CLASS),
            "Gradient, 128 images": lambda model=model: Gradient()(model, images(128, device), CLASS),
            "IntegratedGradients, 50": lambda model=model: IntegratedGradients(steps=50)(
                model, images(1, device), CLASS
            ),
            "IntegratedGradients, 500": lambda model=model: IntegratedGradients(steps=500)(
                model, images(1, device), CLASS
            ),
        }
        peaks = []
        for run in asked.values():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            run()
            peaks.append(f"{(torch.cuda.max_memory_allocated() - before) / MB:.0f} MB")
        rows.append([name, *peaks])
        print("  ".join(rows[-1]), flush=True)
    return rows


def recovery(device: str) -> str:
    """A gradient of 64 images where a chunk of them does not fit."""
    model, x = build("resnet50", device), images(64, device)
    expected = Gradient()(model, x, CLASS)
    small = copy.deepcopy(model)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    Gradient()(model, x, CLASS)
    needed = torch.cuda.max_memory_allocated() - held
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_allocated() + 0.4 * needed) / total)
    try:
        before = chunk_rows(small, x)
        maps = Gradient()(small, x, CLASS)
        after = chunk_rows(small, x)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    off = float((maps - expected).norm() / expected.norm())
    return (
        f"ResNet-50, gradient of 64 images with 40 % of the {needed / MB:.0f} MB that it takes: the chunk went from "
        f"{before} to {after} rows, with which the next call begins, and the maps differ from those of undisturbed "
        f"chunks by {off:.0e} of their norm."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 32, 128])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--minutes", type=float, default=8, help="after which no further row of the first tables begins"
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument(
        "--compile", nargs="*", default=[], help="models whose raw pass is compiled too, of the last batch, in bfloat16"
    )
    parser.add_argument("--markdown", type=Path)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    start = time.perf_counter()
    cuda = given.device == "cuda"
    card = torch.cuda.get_device_name() if cuda else f"{torch.get_num_threads()} CPU threads"
    print(card, f"torch {torch.__version__}", flush=True)
    parts = [f"{card}, torch {torch.__version__}; medians of {given.rounds} interleaved rounds."]
    parts.append(
        "How far maps are from those in float64, relative norm, median of eight images:\n\n"
        + table(["model", "precision", "Gradient", "GradCAM"], accuracy_rows(given.models, given.device))
    )
    if cuda:
        head = ["model", "raw gradient, 32", "Gradient, 32", "Gradient, 128", "IG, 50 points", "IG, 500 points"]
        parts.append("Peak memory beside the model:\n\n" + table(head, memory_rows(given.models, given.device)))
    sizes = (16, 32, 64, 128, 256) if cuda else (1, 2, 4)
    head = ["model", "precision", "best, per image", *(f"{size} rows" for size in sizes)]
    chunks = table(head, chunk_rows_table(given.models, given.device, max(2, given.rounds // 2), sizes))
    parts.append("The raw gradient in chunks of several sizes, relative to the best:\n\n" + chunks)
    left = lambda: 60 * given.minutes - (time.perf_counter() - start)  # noqa: E731
    rows, raws = speed_rows(given, left)
    head = ["model", "batch", "precision", "raw gradient", *(f"faster, {one}" for one in VARIANTS)]
    parts.append(table(head, raws))
    head = [
        "model",
        "batch",
        "precision",
        "method",
        "yardstick",
        "raw",
        "DeepViz / raw",
        "Captum / DeepViz",
        "overhead",
    ]
    parts.append(table(head, rows))
    if cuda:
        parts.append(recovery(given.device))
    text = "\n\n".join(parts)
    print(text)
    if given.markdown:
        replace_section(given.markdown, f"gpu {card}", text)


if __name__ == "__main__":
    main()
