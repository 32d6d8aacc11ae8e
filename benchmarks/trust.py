"""Can you trust the maps of each method, on the bundled model and a folder of images?

    python benchmarks/trust.py PHOTOS [--sanity 8] [--faithfulness 24] [--signs 16] [--partial FOLDER]
                               [--markdown benchmarks/RESULTS.md] [--readme README.md] [--pictures benchmarks/pictures]
    python benchmarks/trust.py --transformer 64 [--markdown benchmarks/RESULTS.md]

1. Sanity: cascading randomisation, eight stages, on an even sample of the images: how similar each method's map stays,
   by four similarities.
2. Faithfulness: deletion, insertion and ROAD of each method and of three model-independent baselines, with bootstrap
   intervals, in the order of the mean rank. Methods that average many maps have about 50 forward and backward passes.
3. Signs: deletion and insertion of the same maps by their signed values and by their magnitudes.
4. Cost: deletion and insertion of one map against the raw forward passes they need, and against Quantus' pixel
   flipping at the same number of steps and batch size, if Quantus is installed.

`--transformer` trains the small ViT of `trained_vit.py` on scikit-learn's digits and does 2. with it and the methods of
attention. With `--partial`, the figures of each image are written there, and a later run goes on with the others.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from results import replace_section, table

import deepviz
from deepviz.methods import XRAI, Gradient, GradTimesImage, IntegratedGradients, Method, SmoothGrad
from deepviz.metrics import ROAD, Deletion, InputTimesNoise, Insertion, Metric
from deepviz.metrics.bootstrap import differs, interval
from deepviz.metrics.metric import judging
from deepviz.metrics.similarity import SIMILARITIES
from deepviz.models import LoadedModel, find_photos, load_model
from deepviz.probe.memory import keep_memory
from deepviz.results.evaluation import Evaluation, ImageScores, with_controls
from deepviz.results.explanation import Explanation
from deepviz.results.sanity import Sanity, StoredRandomization, numbers_of
from deepviz.results.tables import INTERVALS, with_interval
from deepviz.runs.asked import Item
from deepviz.runs.evaluate import evaluate_items
from deepviz.runs.explain import explain_items
from deepviz.runs.sanity import Randomization, randomize_items

STEPS = 49
"""224 x 224 pixels in equal parts, which Quantus insists on."""
METRICS: tuple[Metric, ...] = (Deletion(10), Insertion(10), ROAD("most", 2), ROAD("least", 2))
FINER: tuple[Metric, ...] = (Deletion(12), Insertion(12), ROAD("most", 3), ROAD("least", 3))
"""For digits, which cost less. Both have fewer points than by default: a mean needs many images, not fine curves."""
SIGNS: tuple[Metric, ...] = tuple(
    metric(10, channels=channels) for metric in (Deletion, Insertion) for channels in ("sum", "magnitude")
)
SIGNED = [GradTimesImage(), IntegratedGradients(steps=25), SmoothGrad(samples=25)]


def sample(paths: list[Path], count: int) -> list[Path]:
    """An even sample, every other one first, so that what an interrupted run has is even as well."""
    even = [paths[round(index * (len(paths) - 1) / max(1, count - 1))] for index in range(min(count, len(paths)))]
    return [*even[::2], *even[1::2]]


def budgeted(cls: type[Method], maps: int, channels: int) -> Method:
    """A method of few passes as it is, others with `maps` gradients or `channels` masks of a layer."""
    names = {option.name for option in deepviz.catalog.options(cls)}
    budget = {"steps": maps, "samples": maps}
    if "channels" in names:
        budget = {"channels": channels, "samples": 1, "steps": 2}
    elif cls is XRAI:
        budget = {"steps": maps // 2}  # from two baselines
    return cls(**{name: value for name, value in budget.items() if name in names})


def chosen(maps: int, channels: int, attention: bool = False) -> list[Method]:
    """Every method, those of attention only where there is some; and two that independent benchmarks compare."""
    found = [budgeted(cls, maps, channels) for cls in deepviz.catalog.METHODS.values()]
    noise = IntegratedGradients(steps=maps // 5, baseline="uniform-noise")  # of five draws
    smooth = SmoothGrad(of=GradTimesImage(), samples=maps)
    return [*(one for one in found if attention or not one.requires.attention), noise, smooth]


def kept(partial: Path | None, name: str, of: object) -> tuple[dict[str, Any], Callable[[str, Any], None]]:
    """What an interrupted run of the same methods and metrics has written, by image, and what writes more of it."""
    if partial is None:
        return {}, lambda source, held: None
    path = partial / f"{name}-{sha256(repr(of).encode()).hexdigest()[:12]}.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []

    def write(source: str, held: Any) -> None:
        with path.open("a") as file:
            file.write(json.dumps([source, held]) + "\n")

    return dict(map(json.loads, lines)), write


def sanity(loaded: LoadedModel, paths: list[Path], partial: Path | None = None) -> Sanity:
    methods, examined = chosen(maps=10, channels=16), []
    held, write = kept(partial, "sanity", methods)
    for number, path in enumerate(paths, 1):
        if path.name in held:
            examined.append(StoredRandomization.from_json(held[path.name], path))
        else:
            (one,) = randomize_items(loaded, [Item(loaded.prepare(path))], methods, Randomization())
            examined.append(one)
            write(path.name, numbers_of(one))
        print(f"sanity {number}/{len(paths)} {path.name}", flush=True)
    return Sanity.of(loaded, methods, examined)


def faithfulness(
    loaded: LoadedModel,
    images: dict[str, Any],
    methods: list[Method],
    metrics: Sequence[Metric],
    name: str = "faithfulness",
    partial: Path | None = None,
    controls: bool = True,
) -> Evaluation:
    judged = []
    held, write = kept(partial, name, (methods, metrics))
    rows = with_controls(methods, controls)
    for number, (source, image) in enumerate(images.items(), 1):
        if source in held:
            judged.append(ImageScores.from_json(held[source]))
        else:
            (one,) = evaluate_items(loaded, [Item(loaded.prepare(image))], rows, metrics)
            judged.append(replace(one, position=None))  # each is a run of its own
            write(source, one.as_json())
        print(f"{name} {number}/{len(images)} {source}", flush=True)
    return Evaluation.of(loaded, methods, metrics, judged, controls)


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


def signs_table(found: Evaluation) -> str:
    """The metrics by signed values beside those by magnitudes; = where the two do not differ significantly."""
    head, rows = (
        ["", *(f"{name}, {of}" for name in ("Deletion ↓", "Insertion ↑") for of in ("signed", "magnitude"))],
        [],
    )
    for row, cells in enumerate(found.cells()):
        same = [not differs(*found.values[:, row, [column, column + 1]].T) for column in (0, 2)]
        rows.append(
            [found.rows[row], *(cell + (" =" if same[column // 2] else "") for column, cell in enumerate(cells))]
        )
    said = f"{len(found.values)} images.{INTERVALS} =: signed values and magnitudes do not differ significantly."
    return f"{table(head, rows)}\n\n{said}"


def mean_ranks(found: Evaluation) -> np.ndarray:
    """(images, rows): the rank of each row among all, 1 being the best, as the mean over the metrics."""
    values = found.values * [1 if metric.better == "higher" else -1 for metric in found.metrics]
    mine, others = values[:, :, None], values[:, None]
    ranks = 0.5 + (others > mine).sum(2) + (others == mine).sum(2) / 2
    return np.where(np.isnan(values), np.nan, ranks).mean(2)


def ranked(found: Evaluation) -> list[int]:
    """The rows, those of the best mean rank first."""
    ranks = mean_ranks(found).mean(0)
    return sorted(range(len(found.rows)), key=lambda row: ranks[row])


def part(found: Evaluation, rows: list[int]) -> Evaluation:
    """Some rows, without the other methods, and the controls after them."""
    methods = len(found.rows) - found.controls
    kept = [row for row in rows if row < methods] + list(range(methods, len(found.rows)))
    judged = [
        replace(
            one,
            values=one.values[kept],
            curves={column: curves[kept] for column, curves in one.curves.items()},
            layers=tuple(one.layers[row] for row in kept),
        )
        for one in found.judged
    ]
    names, layers = tuple(found.rows[row] for row in kept), tuple(found.layers[row] for row in kept)
    return replace(found, rows=names, layers=layers, judged=tuple(judged))


def faithfulness_table(found: Evaluation, methods: Sequence[Method], most: int | None = None) -> str:
    """In the order of the mean rank; of the methods the first `most`."""
    ranks, order = mean_ranks(found), ranked(found)
    best = order[0]
    equal = [row for row in order[1:] if not differs(ranks[:, best], ranks[:, row])]
    shown = order if most is None else [row for row in order if row >= len(methods) or row in order[:most]]
    cells, rows = found.cells(), []
    for row in shown:
        marked = [
            f"**{cell}**" if found.best[column] == row else cell + found.mark(row, column)
            for column, cell in enumerate(cells[row])
        ]
        passes = f"{methods[row].passes():.0f}" if row < len(methods) else "0"
        name = f"*{found.rows[row]}*" if row >= len(methods) else found.rows[row]
        rank = with_interval(ranks[:, row].mean(), *interval(ranks[:, row]))
        rows.append([name, passes, rank + (" =" if row in equal else ""), *marked])
    said = (
        f"Rank: among the {len(order)} rows, the mean over metrics and images. =: not significantly worse than the "
        f"first ({len(equal)} rows). In italics: model-independent baselines."
    )
    return f"{table(['', 'passes', 'rank ↓', *found.heads()], rows)}\n\n{found.footnote} {said}"


def of_input(loaded: LoadedModel, images: dict[str, Any], metrics: Sequence[Metric], partial: Path | None) -> str:
    """What a map gets that multiplies by the image and does not depend on the network."""
    found = faithfulness(loaded, images, [InputTimesNoise()], metrics, "input", partial, controls=False)
    cells = ", ".join(f"{head} {cell}" for head, cell in zip(found.heads(), found.cells()[0], strict=True))
    return f"{found.rows[0]}, a baseline for methods that multiply by the image: {cells}."


def transformer(count: int, partial: Path | None) -> str:
    """Faithfulness of all methods that apply to a small ViT, on digits that it was not trained on."""
    from trained_vit import TESTED, digits, train, vit

    torch.set_num_threads(1)
    x, y = digits()
    x = x - x[TESTED:].mean()  # so that 0, the baseline of metrics and methods, is the mean
    net = vit(patch=4)
    train(net, x[TESTED:], y[TESTED:], epochs=25)
    with torch.no_grad():
        accuracy = float((net(x[:TESTED]).argmax(1) == y[:TESTED]).float().mean())
    loaded = load_model(net, labels=[str(digit) for digit in range(10)])
    methods = chosen(maps=50, channels=64, attention=True)
    (first,) = explain_items(loaded, [Item(loaded.prepare(x[0]))], methods, lenient=True)
    there = [isinstance(one, Explanation) for one in first.outcomes]
    left_out = ", ".join(str(method) for method, has in zip(methods, there, strict=True) if not has)
    methods = [method for method, has in zip(methods, there, strict=True) if has]
    images = {f"digit {number}": x[number] for number in range(count)}
    found = faithfulness(loaded, images, methods, FINER, "transformer", partial)
    below = of_input(loaded, images, FINER, partial)
    return (
        f"{faithfulness_table(found, methods)} {below}\n\n"
        f"A ViT of {len(net.blocks)} blocks with 8 x 8 patches, trained on "
        f"scikit-learn's digits of 8 x 8 pixels, enlarged to 32 x 32: {accuracy:.1%} of {TESTED} test images right. "
        f"Left out, since they do not apply: {left_out or 'none'}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("photos", nargs="*")
    parser.add_argument("--sanity", type=int, default=8, help="images for the randomisation, 0 for none")
    parser.add_argument("--faithfulness", type=int, default=32, help="images for the metrics, 0 for none")
    parser.add_argument("--signs", type=int, default=16, help="images for signed values and magnitudes, 0 for none")
    parser.add_argument("--transformer", type=int, default=0, help="digits for a small ViT, instead of all else")
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--readme", type=Path, help="file for a table of the best")
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--partial", type=Path, help="folder for the figures of each image: a later run goes on there")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    keep_memory()
    sections: dict[str, str] = {}
    if given.transformer:
        sections["transformer"] = transformer(given.transformer, given.partial)
    elif not given.photos:
        parser.error("give a folder of images, or --transformer")
    else:
        sections = of_photos(given)
    for name, text in sections.items():
        print(f"\n{text}")
        if given.markdown:
            replace_section(given.markdown, name, text)


def of_photos(given: argparse.Namespace) -> dict[str, str]:
    """The sections of a folder of images."""
    loaded, sections = load_model(), {}
    paths = [path for name in given.photos for path in find_photos(name)]
    if given.sanity:
        found = sanity(loaded, sample(paths, given.sanity), given.partial)
        sections["sanity"] = f"{sanity_table(found)}\n\n{found.footnote}"
        if given.pictures:
            found.plot().savefig(given.pictures / "sanity_curves.png", dpi=110)
            strip = deepviz.sanity_check(loaded, paths[0], "all").strip()
            small = strip.resize((strip.width * 6 // 10, strip.height * 6 // 10), Image.Resampling.LANCZOS)
            small.save(given.pictures / "sanity_strip.jpg", quality=80)
    if given.faithfulness:
        images, methods = {path.name: path for path in sample(paths, given.faithfulness)}, chosen(maps=25, channels=32)
        measured = faithfulness(loaded, images, methods, METRICS, partial=given.partial)
        below = of_input(loaded, images, METRICS, given.partial)
        sections["faithfulness"] = f"{faithfulness_table(measured, methods)} {below}"
        if given.readme:
            replace_section(given.readme, "faithfulness", faithfulness_table(measured, methods, most=10))
        if given.pictures:
            part(measured, ranked(measured)[:8]).plot().savefig(given.pictures / "faithfulness_curves.png", dpi=110)
    if given.signs:
        images = {path.name: path for path in sample(paths, given.signs)}
        signed = faithfulness(loaded, images, SIGNED, SIGNS, "signs", given.partial, controls=False)
        sections["signs"] = signs_table(signed)
    ratio, quantus = cost(loaded, paths[0])
    said = f"Deletion and insertion of one map, {STEPS} steps each: {ratio:.2f} times the raw forward passes they need."
    if quantus is not None:
        said += f" Quantus' pixel flipping, twice, with as many steps: {quantus:.1f} times as long as ours."
    sections["trust-cost"] = said
    return sections


if __name__ == "__main__":
    main()
