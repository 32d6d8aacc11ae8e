"""How time and memory grow with images, samples, pixels and targets.

    python benchmarks/growth.py [--quick] [--markdown FILE] [--picture FILE]

The bundled model on one thread, each measurement in a process of its own: the CPU time of the call, and the peak
memory of the process, model and libraries included. The exponent is the slope of the logarithms of time between the two
largest values: 1 is linear, 0 constant.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import time
import warnings
from pathlib import Path

import torch
from results import replace_section, table

CLASS = 281
AXES = {
    "images, explain_each with the gradient": (1, 10, 100, 1000),
    "samples, SmoothGrad": (50, 500, 5000),
    "masks, RISE": (50, 500, 5000),
    "side in pixels, gradient": (128, 256, 512, 1024),
    "targets, gradient": (1, 10, 100),
}
"""What grows, and how far."""
QUICK = 3
"""Values of each axis that `--quick` measures."""


def call(axis: str, value: int) -> None:
    import deepviz
    from deepviz.methods import RISE, Gradient, SmoothGrad

    model = deepviz.load_model()
    x = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    if axis.startswith("images"):
        photo = Path(deepviz.__file__).parent / "photos" / "chelsea.png"
        for _ in deepviz.explain_each(model, [photo] * value, "gradient"):
            pass
    elif axis.startswith("samples"):
        SmoothGrad(samples=value)(model.module, x, CLASS)
    elif axis.startswith("masks"):
        RISE(max_passes=value)(model.module, x, CLASS)
    elif axis.startswith("side"):
        Gradient()(model.module, torch.nn.functional.interpolate(x, (value, value)), CLASS)
    else:
        Gradient()(model.module, x, torch.arange(value)[None])


def measured(axis: str, value: int) -> tuple[float, float]:
    """Seconds of CPU time, and MB."""
    run = [sys.executable, __file__, "--one", axis, str(value)]
    seconds, peak = subprocess.run(run, check=True, capture_output=True, text=True).stdout.split()
    return float(seconds), float(peak)


def print_one(axis: str, value: int) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    first = AXES[axis][0]
    call(axis, first)  # what a model's first call finds out is not what grows
    start = time.process_time()
    call(axis, value)
    seconds = time.process_time() - start
    status = Path("/proc/self/status").read_text()  # getrusage would include the parent's peak
    print(seconds, float(status.split("VmHWM:")[1].split()[0]) / 1024)


def drawn(found: dict[str, dict[int, tuple[float, float]]], path: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9.6, 4.2), constrained_layout=True)
    for place, (label, panel) in enumerate(zip(("CPU time in s", "peak memory in MB"), axes, strict=True)):
        for axis, values in found.items():
            panel.loglog(list(values), [one[place] for one in values.values()], marker="o", label=axis)
        panel.set_ylabel(label)
        panel.grid(alpha=0.3)
    axes[1].set_ylim(100, 10_000)
    axes[0].legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help=f"the first {QUICK} values of each")
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print_one(given.one[0], int(given.one[1]))
        return
    rows, found = [], {}
    for axis, all_values in AXES.items():
        values = all_values[: QUICK if given.quick else None]
        found[axis] = {value: measured(axis, value) for value in values}
        (before, (less, _)), (last, (most, _)) = list(found[axis].items())[-2:]
        slope = math.log(most / less) / math.log(last / before)
        cells = [f"{value}: {seconds:.2f} s, {peak:.0f} MB" for value, (seconds, peak) in found[axis].items()]
        rows.append([axis, *cells, *[""] * (4 - len(cells)), f"{slope:.2f}"])
        print("  ".join(rows[-1]), flush=True)
    head = ["what grows", "first", "second", "third", "fourth", "exponent"]
    text = f"torch {torch.__version__}, EfficientNet-Lite0, one thread.\n\n{table(head, rows)}"
    if given.markdown:
        replace_section(given.markdown, "growth", text)
    if given.picture:
        drawn(found, given.picture)


if __name__ == "__main__":
    main()
