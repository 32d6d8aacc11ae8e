"""How many gradients integrated gradients need for 1 % completeness: adaptive against uniform.

    python benchmarks/completeness.py PHOTOS [--uniform 12] [--markdown FILE]

On every image `IntegratedGradients(tolerance=0.01, baseline=black)` of the bundled model's prediction: its gap,
its gradients. On an even sample of them the uniform Gauss-Legendre rule at 50, 100, ..., 3200 points: the smallest n
whose gap, and that of every larger one, is at most 1 %; and the error of the maps against the densest one,
|R - R_3200| / |R_3200|.
"""

from __future__ import annotations

import argparse
import statistics
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from results import replace_section, table
from torch import Tensor

from deepviz.methods import IntegratedGradients
from deepviz.models import LoadedModel, find_photos, load_model
from deepviz.probe.memory import keep_memory

TOLERANCE = 0.01
UNIFORM = [50 * 2**k for k in range(7)]


@dataclass
class Run:
    gap: float
    points: int
    map: Tensor


def integrate(loaded: LoadedModel, x: Tensor, **options: object) -> Run:
    black = loaded.preprocess.pixel_value("black")
    found = IntegratedGradients(baseline=black, **options).attribute(loaded.module, x)
    points = found.notes.rows.get("points", torch.tensor([options.get("steps", 0)]))
    return Run(float(found.notes.rows["completeness gap"]), int(points), found.maps)


def needed(gaps: dict[int, float]) -> int | None:
    """The smallest n from which on every gap is within the tolerance."""
    enough = None
    for n in sorted(gaps, reverse=True):
        if gaps[n] > TOLERANCE:
            break
        enough = n
    return enough


def error(found: Tensor, reference: Tensor) -> float:
    return float((found - reference).norm() / reference.norm())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("photos", nargs="+")
    parser.add_argument("--uniform", type=int, default=12, help="images for the uniform rule, 0 for none")
    parser.add_argument("--markdown", type=Path)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    keep_memory()
    loaded = load_model()
    paths = find_photos(given.photos)
    adaptive = {}
    for path in paths:
        x = loaded.prepare(path).x[None]
        adaptive[path] = integrate(loaded, x, tolerance=TOLERANCE)
        print(path.name, adaptive[path].points, f"{adaptive[path].gap:.2%}", flush=True)
    sample = paths[:: max(1, len(paths) // given.uniform)][: given.uniform] if given.uniform else []
    rows, better = [], 0
    for path in sample:
        x = loaded.prepare(path).x[None]
        uniform = {n: integrate(loaded, x, steps=n) for n in UNIFORM}
        dense, ours = uniform[UNIFORM[-1]].map, adaptive[path]
        enough = needed({n: run.gap for n, run in uniform.items()})
        equal = integrate(loaded, x, steps=ours.points)
        better += error(ours.map, dense) < error(equal.map, dense)
        rows.append(
            [
                path.stem.split("_", 1)[-1],
                str(ours.points),
                f"{ours.gap:.2%}",
                str(enough or f"> {UNIFORM[-1]}"),
                f"{uniform[50].gap:.2%}",
                f"{error(ours.map, dense):.3f}",
                f"{error(equal.map, dense):.3f}",
                f"{error(uniform[enough].map, dense):.3f}" if enough and enough < UNIFORM[-1] else "",
            ]
        )
        print("  ".join(rows[-1]), flush=True)
    points = [run.points for run in adaptive.values()]
    reached = sum(run.gap <= TOLERANCE for run in adaptive.values())
    text = (
        f"{reached} of {len(paths)} images within {TOLERANCE:.0%} (worst gap "
        f"{max(run.gap for run in adaptive.values()):.2%}); gradients: median {statistics.median(points):.0f}, "
        f"from {min(points)} to {max(points)}."
    )
    if rows:
        head = ["image", "adaptive: gradients", "gap", "uniform: gradients for 1 %", "gap of uniform 50"]
        head += ["map error, adaptive", "map error, uniform of the same cost", "map error, uniform at 1 %"]
        text += (
            " The map is closer to the dense one than that of as many uniform points on "
            f"{better} of {len(rows)} images."
            f"\n\n{table(head, rows)}"
        )
    print(text)
    if given.markdown:
        replace_section(given.markdown, "completeness", text)


if __name__ == "__main__":
    main()
