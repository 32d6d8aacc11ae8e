"""What the fast copy of a model saves, and how far its results are from the model's.

    python benchmarks/fast_copy.py [--models lite0 resnet50] [--rounds 9] [--photos FOLDER]

Times are CPU seconds of this process with one thread, minima of interleaved rounds, since machines are shared. With
photographs, the errors of float32 scores and gradients against float64, of the bundled trained network: of the model
fed a contiguous input, of the model fed a channels_last input, and of the copy.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
import warnings
from collections.abc import Callable

import torch
from results import table
from speed import CLASS, PEERS, build, laid, minima, raw_forward
from torch import Tensor, nn

from deepviz.methods import GradCAM, Gradient, GuidedBackprop, IntegratedGradients
from deepviz.metrics.metric import judging
from deepviz.models import find_photos, load_model
from deepviz.probe.chunks import chunk_rows
from deepviz.probe.fast import fast_copies

PASSES = 200
FLIPPED = 1e-4
"""Relative error of a gradient above which a ReLU is on its other side."""


def gradient(model: nn.Module, x: Tensor) -> Tensor:
    leaf = x.detach().requires_grad_()
    return torch.autograd.grad(model(leaf)[:, CLASS].sum(), leaf)[0]


def in_chunks(model: nn.Module, x: Tensor, chunk: int) -> None:
    for part in x.split(chunk):
        gradient(model, part)


def with_copies(on: bool, run: Callable[[], object]) -> Callable[[], object]:
    def wrapped() -> None:
        with fast_copies(on):
            run()

    return wrapped


def asked(model: nn.Module, x: Tensor) -> None:
    """What a black-box method does: many changed copies of one image."""
    with judging(model, x[:1], CLASS) as session:
        session.ask(
            torch.zeros(PASSES, dtype=torch.long),
            lambda chunk: x[:1].expand(chunk.stop - chunk.start, -1, -1, -1).clone(),
        )


def contests(model: nn.Module, x: Tensor) -> dict[str, dict[str, Callable[[], object]]]:
    from captum.attr import Saliency

    chunk, forward_chunk = chunk_rows(model, x), chunk_rows(model, x, graph=False)
    last, many = laid(x), x[:1].expand(PASSES, -1, -1, -1)
    found: dict[str, dict[str, Callable[[], object]]] = {}
    for rows in (1, 8):
        found[f"Gradient, batch {rows}"] = {
            "raw, contiguous": lambda rows=rows: in_chunks(model, x[:rows], chunk),
            "raw, channels_last": lambda rows=rows: in_chunks(model, last[:rows], chunk),
            "Captum": lambda rows=rows: Saliency(model).attribute(x[:rows].clone().requires_grad_(), CLASS, abs=False),
            "as it is": with_copies(False, lambda rows=rows: Gradient()(model, x[:rows], CLASS)),
            "fast copy": with_copies(True, lambda rows=rows: Gradient()(model, x[:rows], CLASS)),
        }
    for method in (GuidedBackprop(), GradCAM(), IntegratedGradients(steps=50)):
        found[f"{method.name}, batch 1"] = {
            "as it is": with_copies(False, lambda method=method: method(model, x[:1], CLASS)),
            "fast copy": with_copies(True, lambda method=method: method(model, x[:1], CLASS)),
        }
    found[f"{PASSES} forward passes"] = {
        "raw, contiguous": lambda: [raw_contiguous(model, part) for part in many.split(forward_chunk)],
        "raw, channels_last": lambda: raw_forward(model, many, forward_chunk),
        "as it is": with_copies(False, lambda: asked(model, x)),
        "fast copy": with_copies(True, lambda: asked(model, x)),
    }
    found["Gradient, the first of a model, batch 1"] = {
        "as it is": with_copies(False, lambda: Gradient()(copy.deepcopy(model), x[:1], CLASS)),
        "fast copy": with_copies(True, lambda: Gradient()(copy.deepcopy(model), x[:1], CLASS)),
    }
    return found


def raw_contiguous(model: nn.Module, x: Tensor) -> None:
    with torch.inference_mode():
        model(x)


def speed_rows(names: list[str], rounds: int) -> list[list[str]]:
    rows = []
    others = ("raw, contiguous", "raw, channels_last", PEERS[0], "as it is")
    for name in names:
        model = build(name, "cpu")
        x = torch.randn(8, 3, 224, 224, generator=torch.Generator().manual_seed(0))
        for title, contestants in contests(model, x).items():
            many = len(contestants) == 4 or title.startswith("Integrated")
            best = minima(contestants, max(2, rounds // 4) if many else rounds, time.process_time)
            ratios = [f"{best[other] / best['fast copy']:.2f}" if other in best else "" for other in others]
            rows.append([name, title, f"{1000 * best['fast copy']:.0f} ms", *ratios])
            print("  ".join(rows[-1]), flush=True)
    return rows


def error_rows(folder: str) -> list[list[str]]:
    loaded = load_model()
    single = loaded.module.eval()
    double = copy.deepcopy(single).double()
    ways: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
        "raw, contiguous": lambda x: (single(x).detach(), gradient(single, x)),
        "raw, channels_last": lambda x: (single(laid(x)).detach(), gradient(single, laid(x))),
        "fast copy": lambda x: (fast_scores(single, x), Gradient()(single, x, CLASS)),
    }
    scores: dict[str, list[float]] = {way: [] for way in ways}
    gradients: dict[str, list[float]] = {way: [] for way in ways}
    for path in find_photos(folder):
        x = loaded.prepare(path).x[None]
        exact, true = double(x.double()).detach(), gradient(double, x.double())
        for way, run in ways.items():
            found, map_ = run(x)
            scores[way].append(float((found - exact).abs().max() / exact.abs().max()))
            gradients[way].append(float((map_ - true).abs().max() / true.abs().max()))
    rows = []
    for way in ways:
        near = [error for error in gradients[way] if error <= FLIPPED]
        rows.append(
            [
                way,
                str(len(scores[way])),
                f"{statistics.median(scores[way]):.2g}",
                f"{max(scores[way]):.2g}",
                f"{1 - len(near) / len(gradients[way]):.0%}",
                f"{statistics.median(near):.2g}",
            ]
        )
    return rows


def fast_scores(model: nn.Module, x: Tensor) -> Tensor:
    with judging(model, x, None) as session:
        return session.quickly(lambda fast: fast.in_layout(lambda laid: laid.look().scores())).detach()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="*", default=["lite0", "resnet50"])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--photos", help="a folder of photographs, for the errors")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    names = ["model", "what", "fast copy", *(f"{other} / fast copy" for other in ("contiguous", "channels_last"))]
    print(table([*names, "Captum / fast copy", "as it is / fast copy"], speed_rows(given.models, given.rounds)))
    if given.photos:
        heads = [
            "float32",
            "photographs",
            "scores: median error",
            "largest",
            "gradients above 1e-4",
            "median of others",
        ]
        print(table(heads, error_rows(given.photos)))


if __name__ == "__main__":
    main()
