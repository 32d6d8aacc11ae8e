"""Can you trust the maps of each method, on the bundled model and a folder of images?

    python benchmarks/trust.py PHOTOS [--sanity 16] [--faithfulness 48] [--markdown benchmarks/RESULTS.md]
                                      [--pictures benchmarks/pictures]

1. Sanity: full cascading randomisation, eight stages, on an even sample of the images: how similar each method's
   map stays, by four similarities.
2. Faithfulness: deletion, insertion and ROAD of each method and of three model-independent baselines, with bootstrap
   intervals.
3. Cost: deletion and insertion of one map against the raw forward passes they need, and against Quantus' pixel
   flipping at the same number of steps and batch size, if Quantus is installed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from results import replace_section, table

import deepviz
from deepviz.methods import Gradient
from deepviz.metrics import ROAD, Deletion, Insertion
from deepviz.metrics.metric import judging
from deepviz.metrics.similarity import SIMILARITIES
from deepviz.models import LoadedModel, find_photos, load_model
from deepviz.probe.memory import keep_memory
from deepviz.results.evaluation import Evaluation, with_controls
from deepviz.results.sanity import Sanity
from deepviz.runs.asked import Item
from deepviz.runs.evaluate import evaluate_items
from deepviz.runs.sanity import Randomization, randomize_items

STEPS = 49
"""224 x 224 pixels in equal parts, which Quantus insists on."""
METRICS = (Deletion(), Insertion(), ROAD("most"), ROAD("least"))


def sample(paths: list[Path], count: int) -> list[Path]:
    """An even sample."""
    return [paths[round(index * (len(paths) - 1) / max(1, count - 1))] for index in range(min(count, len(paths)))]


CHANNELS = 64
"""The budget of methods that ask once for each channel of a layer."""


def chosen() -> list[deepviz.methods.Method]:
    """Every method that applies to a network without attention; those of hundreds of passes with a budget."""
    found = []
    for cls in deepviz.catalog.METHODS.values():
        budget: dict[str, Any] = {}
        names = {option.name for option in deepviz.catalog.options(cls)}
        if "channels" in names:
            budget["channels"] = CHANNELS
        if "channels" in names and "samples" in names:
            budget["samples"] = 4
        method = cls(**budget)
        if not method.requires.attention:
            found.append(method)
    return found


def sanity(loaded: LoadedModel, paths: list[Path]) -> Sanity:
    examined = []
    items = (Item(loaded.prepare(path)) for path in paths)
    for one in randomize_items(loaded, items, chosen(), Randomization()):
        examined.append(one)
        print(f"sanity {len(examined)}/{len(paths)} {one.image.name}", flush=True)
    return Sanity.of(loaded, chosen(), examined)


def faithfulness(loaded: LoadedModel, paths: list[Path]) -> Evaluation:
    methods, judged = chosen(), []
    items = (Item(loaded.prepare(path)) for path in paths)
    for one in evaluate_items(loaded, items, with_controls(methods), METRICS):
        judged.append(one)
        print(f"faithfulness {len(judged)}/{len(paths)} {one.source}", flush=True)
    return Evaluation.of(loaded, methods, METRICS, judged)


def timed(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def cost(loaded: LoadedModel, path: Path, rounds: int = 7) -> tuple[float, float | None]:
    """(ours / raw forward passes, Quantus / ours): medians of the ratios in interleaved rounds."""
    x = loaded.prepare(path).x[None]
    module = loaded.module.eval()
    target = int(module(x).argmax())
    maps = Gradient()(module, x, target)
    batch = x.expand(8, -1, -1, -1).contiguous(memory_format=torch.channels_last)
    passes = 2 * (STEPS - 1) + 3  # the inner points, the whole image, and the two baselines

    def raw() -> None:
        with torch.inference_mode():
            for start in range(0, passes, 8):
                module(batch[: min(8, passes - start)])

    def ours() -> None:
        with judging(module, x, target) as subject:
            Deletion(STEPS).measure(subject, maps)
            Insertion(STEPS).measure(subject, maps)

    flipping = _quantus(module, x, maps, target)
    times: dict[str, list[float]] = {"raw": [], "ours": [], "quantus": []}
    for work in (raw, ours, flipping):
        if work is not None:
            work()
    for _ in range(rounds):
        times["raw"].append(timed(raw))
        times["ours"].append(timed(ours))
        if flipping is not None:
            times["quantus"].append(timed(flipping))
    print({name: statistics.median(values) for name, values in times.items() if values}, flush=True)
    ours_to_raw = statistics.median(ours / raw for ours, raw in zip(times["ours"], times["raw"], strict=True))
    if flipping is None:
        return ours_to_raw, None
    return ours_to_raw, statistics.median(
        theirs / ours for theirs, ours in zip(times["quantus"], times["ours"], strict=True)
    )


def _quantus(module, x, maps, target):
    """Quantus' pixel flipping, once for each direction, with as many steps; None if it is not installed."""
    try:
        import quantus
    except ImportError:
        print("quantus is not installed: pip install quantus for the comparison", file=sys.stderr)
        return None
    pixels = x.shape[2] * x.shape[3]
    arguments = {
        "features_in_step": pixels // STEPS,
        "perturb_baseline": "black",
        "return_auc_per_sample": False,  # its area needs a numpy before 2.4
        "disable_warnings": True,
    }
    deletion = quantus.PixelFlipping(**arguments)
    insertion = quantus.PixelFlipping(**arguments)  # it has no insertion: the same work once more, on the reversed map
    of_pixels = maps.abs().amax(1, keepdim=True).numpy()
    call = {"model": module, "x_batch": x.numpy(), "y_batch": np.array([target]), "device": "cpu", "batch_size": 8}

    def work() -> None:
        deletion(a_batch=of_pixels, **call)
        insertion(a_batch=of_pixels.max() - of_pixels, **call)

    return work


def sanity_table(found: Sanity) -> str:
    means = [f"{name}, mean of the cascade" for name in SIMILARITIES]
    head = ["method", "half random", "all random", *means, "images with a blank map"]
    cascades = {name: np.nanmean(values[:, :, 1:], (0, 2)) for name, values in found.similarities.items()}
    rows = [
        [
            name,
            f"{found.kept(0.5)[row]:.2f}",
            f"{found.kept(1.0)[row]:.2f}",
            *(f"{cascades[similarity][row]:.2f}" for similarity in SIMILARITIES),
            str(found.blank[row]),
        ]
        for row, name in enumerate(found.methods)
    ]
    return table(head, rows)


def faithfulness_table(found: Evaluation) -> str:
    rows = []
    for row, cells in enumerate(found.cells()):
        marked = [
            f"**{cell}**" if found.best[column] == row else cell + found.mark(row, column)
            for column, cell in enumerate(cells)
        ]
        rows.append([found.rows[row], *marked])
    return table(["", *found.heads()], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("photos", nargs="+")
    parser.add_argument("--sanity", type=int, default=16, help="images for the randomisation, 0 for none")
    parser.add_argument("--faithfulness", type=int, default=36, help="images for the metrics, 0 for none")
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--pictures", type=Path)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    keep_memory()
    loaded = load_model()
    paths = [path for name in given.photos for path in find_photos(name)]
    sections: dict[str, str] = {}
    if given.sanity:
        found = sanity(loaded, sample(paths, given.sanity))
        sections["sanity"] = f"{sanity_table(found)}\n\n{found.footnote}"
        if given.pictures:
            found.plot().savefig(given.pictures / "sanity_curves.png", dpi=110)
            strip = found.strip()
            small = strip.resize((strip.width * 6 // 10, strip.height * 6 // 10), Image.Resampling.LANCZOS)
            small.save(given.pictures / "sanity_strip.jpg", quality=80)
    if given.faithfulness:
        measured = faithfulness(loaded, sample(paths, given.faithfulness))
        sections["faithfulness"] = f"{faithfulness_table(measured)}\n\n{measured.footnote}"
        if given.pictures:
            measured.plot().savefig(given.pictures / "faithfulness_curves.png", dpi=110)
    ratio, quantus = cost(loaded, paths[0])
    said = f"Deletion and insertion of one map, {STEPS} steps each: {ratio:.2f} times the raw forward passes they need."
    if quantus is not None:
        said += f" Quantus' pixel flipping, twice, with as many steps: {quantus:.1f} times as long as ours."
    sections["trust-cost"] = said
    for name, text in sections.items():
        print(f"\n{text}")
        if given.markdown:
            replace_section(given.markdown, name, text)


if __name__ == "__main__":
    main()
