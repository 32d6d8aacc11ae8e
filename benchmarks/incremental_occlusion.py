"""What occlusion saves by computing only what a window changes: operations, and time.

    python benchmarks/incremental_occlusion.py [--models lite0 resnet18] [--windows 16] [--rounds 3] [--markdown FILE]

Windows of 16 pixels at places 8 apart on a picture of 224 x 224, in one batch, laid out channels_last: the model on
whole copies, and on what `deepviz.probe.incremental` makes of them. The bound is the ratio of their operations
(multiply-adds of convolutions and products, counted by torch), the times are minima of CPU time on one thread,
interleaved.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path

import torch
from results import replace_section, table
from speed import minima
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from deepviz.methods.perturbation.covering import LEAST_GAIN
from deepviz.models import load_model
from deepviz.models.torchvision_shim import import_timm
from deepviz.probe.incremental import Changed, Trace
from deepviz.probe.memory import keep_memory

MODELS = ("lite0", "mobilenetv2_100", "resnet18", "resnet50", "vgg16")
SIDE, WINDOW, STEP = 224, 16, 8


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    return load_model().module if name == "lite0" else import_timm().create_model(name, pretrained=False).eval()


def laid(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def row(name: str, windows: int, rounds: int) -> list[str]:
    model = build(name)
    generator = torch.Generator().manual_seed(0)
    x = laid(torch.randn(1, 3, SIDE, SIDE, generator=generator))
    top, left = STEP * torch.randint((SIDE - WINDOW) // STEP + 1, (2, windows), generator=generator)
    part = laid(torch.zeros(windows, 3, WINDOW, WINDOW))
    copies = laid(x.repeat(windows, 1, 1, 1))
    for copy, first, across in zip(copies, top.tolist(), left.tolist(), strict=True):
        copy[:, first : first + WINDOW, across : across + WINDOW] = 0
    trace = Trace()
    trace.copies = windows

    def changed() -> Tensor:
        found = model(Changed(x, part, top, left, trace))
        return found.whole() if isinstance(found, Changed) else found

    with torch.no_grad():
        found, expected = changed(), model(copies)
        off = float((found - expected).abs().max() / expected.abs().max())
        with FlopCounterMode(display=False) as whole:
            model(x)
        bound = trace.gain(whole.get_total_flops())
        seconds = minima({"whole": partial(model, copies), "changed": changed}, rounds, time.process_time)
    ratio = seconds["whole"] / seconds["changed"]
    used = "yes" if bound >= LEAST_GAIN else "no"
    return [name, f"{bound:.2f}", f"{ratio:.2f}", f"{1000 * seconds['whole'] / windows:.0f} ms", f"{off:.0e}", used]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--markdown", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()
    rows = []
    for name in given.models:
        rows.append(row(name, given.windows, given.rounds))
        print("  ".join(rows[-1]), flush=True)
    head = ["model", "bound", "measured", "a whole copy", "largest difference", "used"]
    text = f"torch {torch.__version__}, one thread, {given.windows} windows; minima of {given.rounds} rounds.\n\n"
    text += table(head, rows)
    if given.markdown:
        replace_section(given.markdown, "incremental-occlusion", text)


if __name__ == "__main__":
    main()
