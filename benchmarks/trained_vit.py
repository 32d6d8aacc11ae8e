"""Does the place check accept the layers of a trained vision transformer, and only in their right order?

    python benchmarks/trained_vit.py [--epochs 25] [--patch 4] [--markdown benchmarks/RESULTS.md]

A small ViT of timm (class token, learned position embeddings) is trained on scikit-learn's 8 x 8 digits, enlarged to
32 x 32, in a few minutes on one thread. Then the place check is run on the output of each block, as it is and with its
tokens in other orders: for noise, which DeepViz uses, and for test images. r is the least correlation, over the axes,
of the cells' places with the centroids of their gradients.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from results import replace_section, table
from sklearn.datasets import load_digits
from torch import Tensor, nn

from deepviz.models.torchvision_shim import import_timm
from deepviz.probe.grid import Grid
from deepviz.probe.places import Place, place

SIDE = 32
TESTED = 360
IMAGES = 8


def digits() -> tuple[Tensor, Tensor]:
    """All 1797 images (N, 1, 32, 32) in a fixed random order, and their classes."""
    pixels, classes = load_digits(return_X_y=True)
    x = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8) / 8 - 1
    x = F.interpolate(x, (SIDE, SIDE), mode="bilinear")
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return x[order], torch.tensor(classes)[order]


def vit(patch: int) -> nn.Module:
    torch.manual_seed(0)
    options = {"img_size": SIDE, "patch_size": patch, "in_chans": 1, "num_classes": 10}
    make = import_timm().models.vision_transformer.VisionTransformer
    return make(**options, embed_dim=64, depth=4, num_heads=4, mlp_ratio=2)


def shifted(x: Tensor, most: int = 4) -> Tensor:
    """Each image moved by up to `most` pixels."""
    away = torch.randint(-most, most + 1, (len(x), 2))
    moved = [torch.roll(image, tuple(by), (1, 2)) for image, by in zip(x, away.tolist(), strict=True)]
    return torch.stack(moved)


def train(model: nn.Module, x: Tensor, y: Tensor, epochs: int) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    steps = epochs * -(-len(x) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(shifted(x[rows])), y[rows]).backward()
            optimizer.step()
            schedule.step()
    model.eval()


def block_outputs(model: nn.Module, x: Tensor) -> list[Tensor]:
    """Of each block, (1, 1 + cells, D), with the graph down to `x`."""
    found: list[Tensor] = []
    handles = [block.register_forward_hook(lambda *given: found.append(given[2])) for block in model.blocks]
    model(x)
    for handle in handles:
        handle.remove()
    return found


def orders(size: tuple[int, int]) -> dict[str, tuple[Tensor, Grid | None]]:
    """By name: the positions of a sequence in another order, and the layout that is right then, if it is a grid's."""
    cells = size[0] * size[1]
    first, image = torch.zeros(1, dtype=torch.long), torch.arange(1, cells + 1)
    rows, middle = image.view(size), cells // 2
    windows = rows.unflatten(1, (-1, 2)).unflatten(0, (-1, 2)).transpose(1, 2)
    shuffled = image[torch.randperm(cells, generator=torch.Generator().manual_seed(0))]
    return {
        "row by row, class token first": (torch.cat([first, image]), Grid("tokens", size, (0,))),
        "class token last": (torch.cat([image, first]), Grid("tokens", size, (cells,))),
        "class token in the middle": (
            torch.cat([image[:middle], first, image[middle:]]),
            Grid("tokens", size, (middle,)),
        ),
        "column by column": (torch.cat([first, rows.t().flatten()]), Grid("tokens", size, (0,), (1, 0))),
        "shuffled": (torch.cat([first, shuffled]), None),
        "in windows of 2 x 2": (torch.cat([first, windows.flatten()]), None),
    }


def check(model: nn.Module, images: Tensor, order: Tensor, grid: tuple[int, int]) -> list[Place]:
    """Of each block's output for each image, with its tokens in this order."""
    found = []
    for image in images.split(1):
        leaf = image.clone().requires_grad_()
        found += [place(output[:, order], leaf, [grid]) for output in block_outputs(model, leaf)]
    return found


def in_short(found: list[Place], right: Grid | None) -> str:
    """How many layouts are right, wrong or refused, and the range of r."""
    verdicts = ["refused" if one.grid is None else "right" if one.grid == right else "WRONG" for one in found]
    counts = ", ".join(f"{verdicts.count(said)} {said}" for said in ("right", "refused", "WRONG") if said in verdicts)
    r = [one.agreement.r for one in found if one.agreement is not None]
    return f"{counts}; {min(r):.2f} to {max(r):.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--patch", type=int, default=4)
    parser.add_argument("--markdown", type=Path, help="file whose section is replaced, such as RESULTS.md")
    given = parser.parse_args()
    torch.set_num_threads(1)
    x, y = digits()
    fresh, model = vit(given.patch).eval(), vit(given.patch)
    train(model, x[TESTED:], y[TESTED:], given.epochs)
    with torch.no_grad():
        accuracy = float((model(x[:TESTED]).argmax(1) == y[:TESTED]).float().mean())
    noise = torch.randn(IMAGES, *x.shape[1:], generator=torch.Generator().manual_seed(1))
    cases = ((fresh, noise), (model, noise), (model, x[:IMAGES]))
    size = (SIDE // given.patch, SIDE // given.patch)
    rows = []
    for name, (order, right) in orders(size).items():
        rows.append([name, *(in_short(check(net, images, order, size), right) for net, images in cases)])
        print("  ".join(rows[-1]), flush=True)
    text = table(["order of the tokens", "random weights, noise", "trained, noise", "trained, digits"], rows)
    text += (
        f"\n\nA ViT of {len(model.blocks)} blocks with {size[0]} x {size[1]} patches and a class token, {accuracy:.1%} "
        f"of {TESTED} test images right. The layouts found for all blocks and {IMAGES} images, and the range of r."
    )
    print(text)
    if given.markdown:
        replace_section(given.markdown, "trained-vit", text)


if __name__ == "__main__":
    main()
