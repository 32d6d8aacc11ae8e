"""How long class activation maps take, as ratios to a raw forward pass and to the peers.

    python benchmarks/cams.py [--models lite0 resnet50] [--rounds 7] [--markdown FILE]

A batch of 8 on a CPU, all contestants interleaved in one process, round by round, and compared by their minima, so
that a busy machine disturbs them least. The raw forward pass is that of `speed.py`. Methods of many passes explain one
image at a layer with few channels, all of which every contestant asks about.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import torch
from results import replace_section, table
from speed import CLASS, Contestants, build, minima, raw_forward
from torch import Tensor, nn

from deepviz import catalog
from deepviz.methods import AblationCAM, ScoreCAM
from deepviz.models.torchvision_shim import import_torchvision
from deepviz.probe.chunks import chunk_rows

LAYERS = {"lite0": "_bn1", "resnet50": "layer4"}
FEW = {"lite0": ("_blocks.10._bn2", 112), "resnet50": ("layer1.0.bn1", 64)}
"""Layers for methods of many passes, and their channels."""
METHODS = {
    "grad-cam": ("GradCAM", "GradCAM"),
    "grad-cam-plus-plus": ("GradCAMpp", "GradCAMPlusPlus"),
    "x-grad-cam": ("XGradCAM", "XGradCAM"),
    "layer-cam": ("LayerCAM", "LayerCAM"),
    "hi-res-cam": (None, "HiResCAM"),
    "eigen-cam": (None, "EigenCAM"),
    "eigen-grad-cam": (None, "EigenGradCAM"),
    "fem": (None, "FEM"),
}
"""Methods of one pass, as TorchCAM and grad-cam call them."""


def of_torchcam(name: str, model: nn.Module, x: Tensor, layer: str) -> None:
    import torchcam.methods

    with getattr(torchcam.methods, name)(model, layer, input_shape=tuple(x.shape[1:])) as extractor:
        scores = model(x.detach().requires_grad_())
        extractor(class_idx=[CLASS] * len(x), scores=scores, normalized=False)


def of_grad_cam(name: str, model: nn.Module, x: Tensor, layer: str) -> None:
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    with getattr(pytorch_grad_cam, name)(model, [model.get_submodule(layer)]) as extractor:
        extractor(x, [ClassifierOutputTarget(CLASS)] * len(x))


def contests(name: str, model: nn.Module) -> dict[str, tuple[str, Contestants]]:
    """For each method: the layer, and the contestants."""
    x = torch.randn(8, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    chunk, layer = chunk_rows(model, x, graph=False), LAYERS[name]
    found: dict[str, tuple[str, Contestants]] = {}
    for stem, (torchcam, grad_cam) in METHODS.items():
        method = catalog.METHODS[stem](layer=layer)  # type: ignore[call-arg]
        found[method.title] = (
            layer,
            {
                "raw": lambda: raw_forward(model, x, chunk),
                "DeepViz": lambda method=method: method(model, x, CLASS),
                **({"TorchCAM": lambda peer=torchcam: of_torchcam(peer, model, x, layer)} if torchcam else {}),
                "grad-cam": lambda peer=grad_cam: of_grad_cam(peer, model, x, layer),
            },
        )
    few, channels = FEW[name]
    one = x[:1]
    copies = one.expand(channels, -1, -1, -1)
    found["Score-CAM"] = (
        few,
        {
            "raw": lambda: raw_forward(model, copies, chunk),
            "DeepViz": lambda: ScoreCAM(layer=few, value="score")(model, one, CLASS),
            "TorchCAM": lambda: of_torchcam("ScoreCAM", model, one, few),
            "grad-cam": lambda: of_grad_cam("ScoreCAM", model, one, few),
        },
    )
    found["Ablation-CAM"] = (
        few,
        {
            "raw": lambda: raw_forward(model, copies, chunk),
            "DeepViz": lambda: AblationCAM(layer=few)(model, one, CLASS),
            "grad-cam": lambda: of_grad_cam("AblationCAM", model, one, few),
        },
    )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", default=list(LAYERS), choices=list(LAYERS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1, help="one is disturbed least by other work")
    parser.add_argument("--markdown", type=Path, help="file whose section is replaced, such as RESULTS.md")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    import_torchvision()
    torch.set_num_threads(given.threads)
    rows = []
    for name in given.models:
        model = build(name, "cpu")
        for title, (layer, contestants) in contests(name, model).items():
            many = title in ("Score-CAM", "Ablation-CAM")
            best = minima(contestants, 2 if many else given.rounds)
            ratios = [
                f"{best[peer] / best['DeepViz']:.2f}" if peer in best else "" for peer in ("TorchCAM", "grad-cam")
            ]
            what = f"{FEW[name][1]} forwards" if many else "8 images"
            raw = f"{1000 * best['raw']:.0f} ms"
            rows.append([name, title, f"`{layer}`", what, raw, f"{best['DeepViz'] / best['raw']:.2f}", *ratios])
            print(*rows[-1], flush=True)
    head = ["model", "method", "layer", "raw is", "raw", "DeepViz / raw", "TorchCAM / DeepViz", "grad-cam / DeepViz"]
    text = f"cpu, torch {torch.__version__}, {torch.get_num_threads()} threads; minima of interleaved rounds.\n\n"
    text += table(head, rows)
    print(text)
    if given.markdown:
        replace_section(given.markdown, "cams", text)


if __name__ == "__main__":
    main()
