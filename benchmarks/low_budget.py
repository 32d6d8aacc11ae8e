"""What does most with 250 forward passes?

    python benchmarks/low_budget.py PHOTOS [--count 24] [--reference 6] [--device cuda] [--markdown FILE]

For photographs on the bundled model: RISE by the paper's sum with 2000 masks and with 250, by mean and covariance
(`centred`) with 250, and the other methods of the family with about as many passes; of each map insertion less
deletion of its own class. The differences to the sum with 2000 are paired, with a bootstrap interval. For some
photographs also the correlation with RISE by 8000 other masks (`centred`).
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import torch
from results import replace_section, table
from torch import Tensor

from deepviz.methods import HSIC, LIME, RISE, KernelSHAP, Occlusion, ShapleySampling, Sobol
from deepviz.methods.enlarge import enlarged
from deepviz.metrics import Deletion, Insertion
from deepviz.metrics.bootstrap import interval
from deepviz.metrics.metric import judging
from deepviz.models import find_photos, load_model
from deepviz.probe.memory import keep_memory

STEPS = 28
METHODS = {
    "RISE, sum, 2000 masks": RISE(max_passes=2000, centred=False),
    "RISE, sum, 250 masks": RISE(max_passes=250, centred=False),
    "RISE, mean and covariance, 250 masks": RISE(max_passes=250),
    "RISE, mean and covariance, 2000 masks": RISE(max_passes=2000),
    "Occlusion, 15 x 15 windows": Occlusion(window=32, stride=14),
    "Sobol": Sobol(max_passes=250),
    "HSIC": HSIC(max_passes=250),
    "LIME": LIME(max_passes=250),
    "KernelSHAP": KernelSHAP(max_passes=250),
    "ShapleySampling": ShapleySampling(max_passes=250),
}
FIRST = next(iter(METHODS))


def correlation(one: Tensor, other: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("photos", nargs="+")
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--reference", type=int, default=6)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--markdown", type=Path)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    keep_memory()
    loaded = load_model()
    model = loaded.module.to(given.device)
    paths = [path for name in given.photos for path in find_photos(name)]
    paths = [paths[round(k * (len(paths) - 1) / max(1, given.count - 1))] for k in range(min(given.count, len(paths)))]
    values: dict[str, list[float]] = {name: [] for name in METHODS}
    alike: dict[str, list[float]] = {name: [] for name in METHODS}
    for number, path in enumerate(paths):
        x = loaded.prepare(path).x[None].to(given.device)
        target = int(model(x).argmax())
        reference = RISE(max_passes=8000, seed=1)(model, x, target) if number < given.reference else None
        for name, method in METHODS.items():
            maps = method(model, x, target)
            with judging(model, x, target) as session:
                both = [metric.measure(session, maps - maps.min()) for metric in (Insertion(STEPS), Deletion(STEPS))]
            values[name].append(float(both[0] - both[1]))
            if reference is not None:
                alike[name].append(correlation(enlarged(maps, x.shape[2:]), reference))
        print(number, {name: round(found[-1], 3) for name, found in values.items()}, flush=True)
    rows = []
    for name in METHODS:
        differences = torch.tensor(values[name], dtype=torch.float64) - torch.tensor(values[FIRST], dtype=torch.float64)
        low, high = interval(differences.numpy())
        paired = "" if name == FIRST else f"{float(differences.mean()):+.3f} [{low:+.3f}, {high:+.3f}]"
        near = f"{sum(alike[name]) / len(alike[name]):.3f}" if alike[name] else ""
        rows.append([name, f"{sum(values[name]) / len(values[name]):.3f}", paired, near])
    head = ["250 passes", "insertion - deletion", f"less that of {FIRST}", "correlation with RISE, 8000 masks"]
    text = f"{len(paths)} photographs, EfficientNet-Lite0; correlations of {min(given.reference, len(paths))}.\n\n"
    text += table(head, rows)
    print(text)
    if given.markdown:
        replace_section(given.markdown, "low-budget", text)


if __name__ == "__main__":
    main()
