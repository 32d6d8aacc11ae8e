"""Networks of which it is known by construction where they look."""

import torch
from torch import nn

from deepviz.objectives import Candidates

SIDE, CELL = 32, 8
RED, BLUE = 0, 1


class PlantedDetector(nn.Module):
    """Detects cells of 8 x 8 pixels that are red, or blue: the logit of a cell is a (mean red - mean blue) + b, so that
    its gradient is a / 64 in red and -a / 64 in blue inside the cell, and 0 everywhere else."""

    slope, bias = 10.0, -5.0

    def __init__(self):
        super().__init__()
        self.pool = nn.AvgPool2d(CELL)
        self.head = nn.Conv2d(3, 2, 1)
        with torch.no_grad():
            self.head.weight.copy_(self.slope * torch.tensor([[1.0, 0, -1], [-1, 0, 1]]).view(2, 3, 1, 1))
            self.head.bias.fill_(self.bias)

    def forward(self, x):
        logits = self.head(self.pool(x))
        n, _, h, w = logits.shape
        down, across = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        cells = CELL * torch.stack([across, down, across + 1, down + 1], -1).reshape(1, -1, 4)
        logits = logits.flatten(2).transpose(1, 2)
        return Candidates(cells.expand(n, -1, 4).to(x), logits, logits.sigmoid())


class PlantedSegmenter(nn.Module):
    """Of cells of 8 x 8 pixels: red where they are red, blue where they are blue, else background; linear, so that the
    mean logit of a class over a region has the gradient w_c / 64 / (cells of the region) in it, and 0 elsewhere."""

    def __init__(self, field=None):
        super().__init__()
        self.pool, self.head, self.field = nn.AvgPool2d(CELL), nn.Conv2d(3, 3, 1), field
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([[-1.0, -1, -1], [4, -2, -2], [-2, -2, 4]]).view(3, 3, 1, 1))
            self.head.bias.copy_(torch.tensor([0.5, 0.0, 0.0]))

    def forward(self, x):
        z = self.head(self.pool(x))
        return {self.field: z, "aux": z * 0} if self.field else z


def squares(*placed):
    """An image (3, 32, 32), black but for cells (row, column, channel, value)."""
    image = torch.zeros(3, SIDE, SIDE, dtype=torch.float64)
    for row, column, channel, value in placed:
        image[channel, row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL] = value
    return image
