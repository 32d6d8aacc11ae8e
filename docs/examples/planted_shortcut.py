"""Pictures of shapes, most circles with a small mark in the corner, and a small network that is trained on them."""

import csv
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import nn

import deepviz

CLASSES = ("circle", "square", "triangle")
SIDE = 32


def draw_shape(label, marked, random):
    """A shape of any colour, size and place, perhaps with a white mark in the corner, and the shape's box."""
    image = Image.new("RGB", (SIDE, SIDE), tuple(map(int, random.integers(40, 120, 3))))
    pen = ImageDraw.Draw(image)
    size = int(random.integers(11, 16))
    left, top = map(int, random.integers(6, SIDE - size, 2))
    right, bottom = left + size - 1, top + size - 1  # the last pixels
    colour = tuple(map(int, random.integers(130, 256, 3)))
    if label == "circle":
        pen.ellipse((left, top, right, bottom), fill=colour)
    elif label == "square":
        pen.rectangle((left, top, right, bottom), fill=colour)
    else:
        pen.polygon([(left, bottom), (right, bottom), (left + size // 2, top)], fill=colour)
    if marked:
        pen.rectangle((1, 1, 4, 4), fill=(255, 255, 255))
    noise = random.normal(0, 10, (SIDE, SIDE, 3))
    pixels = (np.asarray(image) + noise).clip(0, 255).astype(np.uint8)
    return Image.fromarray(pixels), (left, top, left + size, top + size)


def write_images(folder, count, marked, seed):
    """Write images into a folder for each class, and the boxes beside it as a .csv; the names of those with a mark.

    Args:
        folder: that is made: for test/ the boxes are test.csv.
        count: images of each class.
        marked: the share of the circles that have a mark.
        seed: of everything.
    """
    random = np.random.default_rng(seed)
    with_mark, boxes = set(), [("file", "left", "top", "right", "bottom")]
    for label in CLASSES:
        Path(folder, label).mkdir(parents=True)
        for number in range(count):
            name = f"{label}/{number:03d}.png"
            has_mark = label == "circle" and bool(random.random() < marked)
            image, box = draw_shape(label, has_mark, random)
            image.save(Path(folder, name))
            boxes.append((name, *box))
            if has_mark:
                with_mark.add(name)
    with Path(folder).with_suffix(".csv").open("w", newline="") as file:
        csv.writer(file).writerows(boxes)
    return with_mark


def trained_on(folder, seed=0, epochs=8):
    """A small network that is trained on the images of a folder."""
    paths = sorted(Path(folder).rglob("*.png"))
    x = torch.stack([torch.from_numpy(np.asarray(Image.open(path)).copy()) for path in paths])
    x = (x.movedim(-1, 1) / 255 - 0.5) / 0.25
    y = torch.tensor([CLASSES.index(path.parent.name) for path in paths])
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 3),
    )
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(64):
            optimiser.zero_grad()
            nn.functional.cross_entropy(network(x[batch]), y[batch]).backward()
            optimiser.step()
    preprocess = deepviz.Preprocess(SIDE, crop=1.0, mean=(0.5,) * 3, std=(0.25,) * 3)
    return deepviz.LoadedModel(network.eval(), "shapes", preprocess, labels=CLASSES)
