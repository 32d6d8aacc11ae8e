"""How long maps from forward passes alone take, as ratios to those passes and to Captum.

    python benchmarks/black_box.py [--models lite0 resnet50] [--passes 250] [--rounds 3] [--markdown FILE]

One image, all contestants interleaved in one process, round by round, and compared by the minima of their CPU time, so
that a busy machine disturbs them least. The raw passes are as many as the method spends, with the image as it is, in
its best layout and chunk: what is above them is masks, targets and estimates. Captum runs with its defaults and as many
samples.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from results import replace_section, table
from speed import CLASS, Contestants, build, minima, raw_forward
from torch import Tensor, nn

from deepviz.methods import (
    HSIC,
    LIME,
    RISE,
    FeatureAblation,
    KernelSHAP,
    Occlusion,
    PerturbationMap,
    ShapleySampling,
    Sobol,
)
from deepviz.models.torchvision_shim import import_torchvision
from deepviz.probe.chunks import chunk_rows

CELLS = 7
WINDOW, STRIDE = 32, 32


def labels() -> Tensor:
    """The cells that both divide the image into, (1, 1, H, W)."""
    along = torch.arange(224) * CELLS // 224
    return (along[:, None] * CELLS + along)[None, None]


def of_captum(model: nn.Module, x: Tensor, passes: int) -> dict[str, Callable[[], object]]:
    from captum.attr import FeatureAblation as Ablation
    from captum.attr import KernelShap, Lime, ShapleyValueSampling
    from captum.attr import Occlusion as Covering

    cells = labels()
    window, stride = (3, WINDOW, WINDOW), (3, STRIDE, STRIDE)
    orders = max(1, passes // CELLS**2)
    return {
        "occlusion": lambda: Covering(model).attribute(x, window, strides=stride, target=CLASS),
        "feature-ablation": lambda: Ablation(model).attribute(x, feature_mask=cells, target=CLASS),
        "shapley-sampling": lambda: ShapleyValueSampling(model).attribute(
            x, feature_mask=cells, target=CLASS, n_samples=orders
        ),
        "kernel-shap": lambda: KernelShap(model).attribute(x, feature_mask=cells, target=CLASS, n_samples=passes),
        "lime": lambda: Lime(model).attribute(x, feature_mask=cells, target=CLASS, n_samples=passes),
    }


def methods(passes: int) -> dict[str, PerturbationMap]:
    return {
        "occlusion": Occlusion(window=WINDOW, stride=STRIDE),
        "feature-ablation": FeatureAblation(cells=CELLS),
        "rise": RISE(max_passes=passes),
        "shapley-sampling": ShapleySampling(cells=CELLS, max_passes=passes),
        "kernel-shap": KernelSHAP(cells=CELLS, max_passes=passes),
        "lime": LIME(cells=CELLS, max_passes=passes),
        "sobol": Sobol(cells=CELLS, max_passes=passes),
        "hsic": HSIC(cells=CELLS, max_passes=passes),
    }


def contestants(
    model: nn.Module, x: Tensor, stem: str, method: PerturbationMap, spent: int, passes: int
) -> Contestants:
    copies, chunk = x.expand(spent, -1, -1, -1), chunk_rows(model, x, graph=False)
    peers = of_captum(model, x, passes)
    return {
        "raw": lambda: raw_forward(model, copies, chunk),
        "DeepViz": lambda: method(model, x, CLASS),
        **({"Captum": peers[stem]} if stem in peers else {}),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", default=["lite0", "resnet50"])
    parser.add_argument("--passes", type=int, default=250)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--markdown", type=Path, help="file whose section is replaced, such as RESULTS.md")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    import_torchvision()
    torch.set_num_threads(given.threads)
    x = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    rows = []
    for name in given.models:
        model = build(name, "cpu")
        for stem, method in methods(given.passes).items():
            spent = int(method.attribute(model, x, CLASS).notes.rows["forward passes"].max())
            best = minima(contestants(model, x, stem, method, spent, given.passes), given.rounds, time.process_time)
            each = f"{1000 * best['raw'] / spent:.1f} ms"
            captum = f"{best['Captum'] / best['DeepViz']:.2f}" if "Captum" in best else ""
            rows.append([name, method.title, str(spent), each, f"{best['DeepViz'] / best['raw']:.2f}", captum])
            print(*rows[-1], flush=True)
    head = ["model", "method", "forward passes", "one raw pass", "DeepViz / raw", "Captum / DeepViz"]
    text = (
        f"cpu, torch {torch.__version__}, {torch.get_num_threads()} thread; minima of CPU time.\n\n{table(head, rows)}"
    )
    print(text)
    if given.markdown:
        replace_section(given.markdown, "black-box", text)


if __name__ == "__main__":
    main()
