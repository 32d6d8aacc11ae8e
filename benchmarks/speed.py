"""How long a map takes, as a ratio to the raw model in the same run, and to the peers.

    python benchmarks/speed.py [--models lite0 resnet50 vit_b16] [--device cpu] [--rounds 7] [--compile]
        [--markdown FILE]

The yardstick is the model itself, untouched: one forward pass under inference mode, or one forward pass and
`autograd.grad` of the class scores to the input, fed a channels_last input on a CPU, in chunks of the size that
DeepViz uses, in the same process and so with the same allocator settings. All contestants are interleaved, round by
round, and compared by their medians, so that a busy machine disturbs all of them alike. `--compile` adds the same raw
passes through `torch.compile`, which DeepViz does not use: its rules and hooks do not reach inside compiled code.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
from results import replace_section, table
from torch import Tensor, nn

from deepviz import catalog
from deepviz.methods import (
    GenericAttention,
    GradCAM,
    Gradient,
    GuidedGradCAM,
    IntegratedGradients,
    LeGrad,
    Method,
    SmoothGrad,
)
from deepviz.models import load_model
from deepviz.models.torchvision_shim import import_timm, import_torchvision
from deepviz.probe.chunks import chunk_rows
from deepviz.probe.memory import keep_memory

Contestants = dict[str, Callable[[], object]]
LAYERS = {"lite0": "_bn1", "resnet50": "layer4", "vit_b16": "blocks.11.norm1"}
CLASS = 281
PEERS = ("Captum", "TorchCAM", "grad-cam")
COMPILED = "raw, compiled"
MOST_PASSES = 3
"""Of the methods whose overhead is measured: with more, the passes hide it."""


def minima(contestants: Contestants, rounds: int, clock: Callable[[], float] = time.perf_counter) -> dict[str, float]:
    """The least seconds of each, interleaved, after one round to warm up; by CPU time with `time.process_time`."""
    best = dict.fromkeys(contestants, float("inf"))
    for turn in range(rounds + 1):
        for name, run in contestants.items():
            start = clock()
            run()
            if turn:
                best[name] = min(best[name], clock() - start)
    return best


def build(name: str, device: str) -> nn.Module:
    if name == "lite0":
        module = load_model().module
    else:
        timm_name = {"resnet50": "resnet50", "vit_b16": "vit_base_patch16_224"}[name]
        module = import_timm().create_model(timm_name, pretrained=False).eval()
    return module.to(device)


def laid(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last) if x.device.type == "cpu" else x


def raw_gradient(model: nn.Module, x: Tensor, chunk: int) -> None:
    for part in x.split(chunk):
        leaf = laid(part).detach().requires_grad_()
        torch.autograd.grad(model(leaf)[:, CLASS].sum(), leaf)


def raw_forward(model: nn.Module, x: Tensor, chunk: int) -> None:
    with torch.inference_mode():
        for part in x.split(chunk):
            model(laid(part))


def captum_class_activation(model: nn.Module, name: str, x: Tensor) -> Callable[[], object] | None:
    from captum.attr import LayerGradCam

    if name == "vit_b16":  # tokens need a reshape that Captum does not offer
        return None
    return lambda: LayerGradCam(model, model.get_submodule(LAYERS[name])).attribute(x, CLASS, relu_attributions=True)


def peers_cam(model: nn.Module, name: str, x: Tensor) -> Contestants:
    import_torchvision()
    found: Contestants = {}
    captum = captum_class_activation(model, name, x)
    if captum is not None:
        found["Captum"] = captum
    if name != "vit_b16":
        from torchcam.methods import GradCAM as TorchCAM

        def torchcam() -> None:
            with TorchCAM(model, LAYERS[name]) as extractor:
                extractor([CLASS] * len(x), model(x.clone().requires_grad_()))

        found["TorchCAM"] = torchcam
    from pytorch_grad_cam import GradCAM as Package
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    def tokens(values: Tensor) -> Tensor:
        return values[:, 1:].unflatten(1, (14, 14)).permute(0, 3, 1, 2)

    def grad_cam() -> None:
        reshape = tokens if name == "vit_b16" else None
        with Package(model, [model.get_submodule(LAYERS[name])], reshape_transform=reshape) as cam:
            cam(x, [ClassifierOutputTarget(CLASS)] * len(x))

    found["grad-cam"] = grad_cam
    return found


def measure(contestants: Contestants, rounds: int, device: str) -> dict[str, float]:
    """Median seconds of each, interleaved, after one round to warm up."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    times: dict[str, list[float]] = {name: [] for name in contestants}
    names = list(contestants)
    for turn in range(rounds + 1):
        first = turn % len(names)  # whoever follows a greedy one pays for it, so each takes its turn there
        for name in names[first:] + names[:first]:
            run = contestants[name]
            wait()
            start = time.perf_counter()
            run()
            wait()
            if turn:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def contests(name: str, model: nn.Module, x: Tensor) -> dict[str, tuple[str, Contestants, int]]:
    """For each method: the name of its yardstick, the contestants, and what to divide the rounds by."""
    from captum.attr import GuidedGradCam, NoiseTunnel, Saliency
    from captum.attr import IntegratedGradients as CaptumIG

    chunk, forward_chunk = chunk_rows(model, x), chunk_rows(model, x, graph=False)
    layer = LAYERS[name]
    found: dict[str, tuple[str, Contestants, int]] = {}
    found["Gradient"] = (
        "forward + backward",
        {
            "raw": lambda: raw_gradient(model, x, chunk),
            "DeepViz": lambda: Gradient()(model, x, CLASS),
            "Captum": lambda: Saliency(model).attribute(x.clone().requires_grad_(), CLASS, abs=False),
        },
        1,
    )
    found["GradCAM, layer given"] = (
        "forward",
        {
            "raw": lambda: raw_forward(model, x, forward_chunk),
            "DeepViz": lambda: GradCAM(layer=layer)(model, x, CLASS),
            **peers_cam(model, name, x),
        },
        1,
    )
    if name == "vit_b16":
        for method in (LeGrad(), GenericAttention()):
            attention: Contestants = {
                "raw": lambda: raw_gradient(model, x, chunk),
                "DeepViz": lambda method=method: method(model, x, CLASS),
            }
            found[type(method).__name__] = ("forward + backward", attention, 1)
    if name != "vit_b16":
        guided: Contestants = {
            "raw": lambda: raw_gradient(model, x, chunk),
            "DeepViz": lambda: GuidedGradCAM(layer=layer)(model, x, CLASS),
            "Captum": lambda: GuidedGradCam(model, model.get_submodule(layer)).attribute(
                x.clone().requires_grad_(), CLASS, interpolate_mode="bilinear"
            ),
        }
        found["GuidedGradCAM"] = ("forward + backward", guided, 1)
    if len(x) == 1 and name != "vit_b16":
        points = x.expand(50, -1, -1, -1)
        found["IntegratedGradients, 50 steps"] = (
            "50 forward + backward",
            {
                "raw": lambda: raw_gradient(model, points, chunk),
                "DeepViz": lambda: IntegratedGradients(steps=50)(model, x, CLASS),
                "Captum": lambda: CaptumIG(model).attribute(x, target=CLASS),
            },
            3,
        )
        found["SmoothGrad, 50 samples"] = (
            "50 forward + backward",
            {
                "raw": lambda: raw_gradient(model, points, chunk),
                "DeepViz": lambda: SmoothGrad()(model, x, CLASS),
                "Captum": lambda: NoiseTunnel(Saliency(model)).attribute(
                    x, nt_type="smoothgrad", nt_samples=50, target=CLASS
                ),
            },
            3,
        )
    return found


def compiled_pass(compiled: nn.Module, x: Tensor, yardstick: str) -> Callable[[], object]:
    """What the yardstick does, through a compiled model."""
    if yardstick == "forward":
        return lambda: raw_forward(compiled, x, chunk_rows(compiled, x, graph=False))
    points = x.expand(50, -1, -1, -1) if yardstick.startswith("50") else x
    return lambda: raw_gradient(compiled, points, chunk_rows(compiled, x))


def speed_rows(
    names: list[str], device: str, rounds: int, context: object = None, compiling: bool = False
) -> list[list[str]]:
    rows = []
    shown = (*PEERS, COMPILED) if compiling else PEERS
    for name in names:
        model = build(name, device)
        compiled = torch.compile(model) if compiling else None
        for batch in (1, 8):
            generator = torch.Generator().manual_seed(0)
            x = torch.randn(batch, 3, 224, 224, generator=generator).to(device)
            for title, (yardstick, contestants, share) in contests(name, model, x).items():
                if compiled is not None:
                    contestants[COMPILED] = compiled_pass(compiled, x, yardstick)
                with context or nullcontext():
                    seconds = measure(contestants, max(5, rounds // share), device)
                rows.append(_row(name, batch, title, yardstick, seconds, shown))
                print("  ".join(rows[-1]), flush=True)
    return rows


def _row(
    name: str, batch: int, title: str, yardstick: str, seconds: dict[str, float], shown: tuple[str, ...]
) -> list[str]:
    raw, ours = seconds["raw"], seconds["DeepViz"]
    peers = [f"{seconds[peer] / ours:.2f}" if peer in seconds else "" for peer in shown]
    return [name, str(batch), title, yardstick, f"{1000 * raw:.0f} ms", f"{ours / raw:.2f}", *peers]


class Tiny(nn.Module):
    """Four layers for 32 x 32 images, where a call's overhead shows."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, 10)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def overhead_rows(device: str) -> list[list[str]]:
    model, x = Tiny().to(device).eval(), torch.randn(1, 3, 32, 32, device=device)
    yard: Contestants = {
        "forward + backward": lambda: _tiny_gradient(model, x),
        "forward": lambda: raw_forward(model, x, 1),
    }
    methods: dict[str, tuple[str, Method]] = {}
    for cls in catalog.METHODS.values():
        if cls().passes() > MOST_PASSES:
            continue
        yardstick = "forward + backward" if cls.needs.gradient else "forward"
        layers = [option.name for option in catalog.options(cls) if option.role == "layer"]
        if layers:
            methods[f"{cls.__name__}, layer given"] = (yardstick, cls(**dict.fromkeys(layers, "net.1")))
        methods[f"{cls.__name__}, layer found" if layers else cls.__name__] = (yardstick, cls())
    ours: Contestants = {name: (lambda method=method: method(model, x, 3)) for name, (_, method) in methods.items()}
    seconds = measure(yard | ours, 200, device)
    rows = []
    for name, (yardstick, _) in methods.items():
        raw = seconds[yardstick]
        rows.append([name, yardstick, f"{1000 * raw:.2f} ms", f"{1000 * (seconds[name] - raw):.2f} ms"])
    return rows


def _tiny_gradient(model: nn.Module, x: Tensor) -> None:
    leaf = x.detach().requires_grad_()
    torch.autograd.grad(model(leaf)[:, 3].sum(), leaf)


def memory_rows() -> list[list[str]]:
    """Peak resident memory of a fresh process for 50 and for 500 points or samples."""
    rows = []
    for method in ("IntegratedGradients(steps={})", "SmoothGrad(samples={})"):
        peaks = [_peak(method.format(count)) for count in (50, 500)]
        rows.append([method.format("n"), *(f"{peak:.0f} MB" for peak in peaks), f"{peaks[1] / peaks[0]:.2f}"])
        print("  ".join(rows[-1]), flush=True)
    return rows


def _peak(method: str) -> float:
    run = [sys.executable, __file__, "--peak", method]
    return float(subprocess.run(run, check=True, capture_output=True, text=True).stdout)


def _print_peak(method: str) -> None:
    import deepviz.methods

    chosen = eval(method, vars(deepviz.methods))
    chosen(load_model().module, torch.zeros(1, 3, 224, 224), CLASS)
    status = Path("/proc/self/status").read_text()  # getrusage would include the parent's peak
    print(float(status.split("VmHWM:")[1].split()[0]) / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", default=list(LAYERS), choices=list(LAYERS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--autocast", action="store_true", help="bfloat16 autocast around every contestant")
    parser.add_argument("--compile", action="store_true", help="also the raw model through torch.compile")
    parser.add_argument("--keep-memory", action="store_true", help="with malloc set as in DeepViz's own processes")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--markdown", type=Path, help="file whose sections are replaced, such as RESULTS.md")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    if given.peak:
        _print_peak(given.peak)
        return
    if given.keep_memory:
        keep_memory()
    context = torch.autocast(given.device, torch.bfloat16) if given.autocast else None
    label = f"{given.device}{', autocast' if given.autocast else ''}, torch {torch.__version__}"
    label += f", {torch.get_num_threads()} threads" if given.device == "cpu" else f", {torch.cuda.get_device_name()}"
    peers = [f"{peer} / DeepViz" for peer in ((*PEERS, COMPILED) if given.compile else PEERS)]
    speed = table(
        ["model", "batch", "method", "yardstick", "raw", "DeepViz / raw", *peers],
        speed_rows(given.models, given.device, given.rounds, context, given.compile),
    )
    overhead = table(["method", "yardstick", "raw", "overhead of a call"], overhead_rows(given.device))
    memory = table(["lite0, one image", "peak, n = 50", "peak, n = 500", "ratio"], memory_rows())
    text = f"{label}; medians of {given.rounds} interleaved rounds.\n\n{speed}\n\n{overhead}\n\n{memory}"
    print(text)
    if given.markdown:
        replace_section(given.markdown, f"speed {given.device}{' autocast' if given.autocast else ''}", text)


if __name__ == "__main__":
    main()
