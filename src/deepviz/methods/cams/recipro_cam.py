"""Recipro-CAM: Byun and Lee 2022."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from deepviz.methods.cams.layer_map import LayerMap, laid_out
from deepviz.probe.above import Above
from deepviz.probe.layers import Layer
from deepviz.probe.session import Session, Value


@dataclass(frozen=True)
class ReciproCAM(LayerMap):
    """What the layers above say to the feature maps around one position at a time: no gradient.

        R_uv = f_c(A g_uv)        g_uv: 1/4 at (u, v), 1/8 beside it, 1/16 across, 0 elsewhere

    f_c is the probability of the class; with `smooth=False`, g_uv is 1 at (u, v) and 0 elsewhere. In general g_uv is a
    product of 1/4, 1/2, 1/4 along each axis. Class and register tokens stay as they are. The layers below run once for
    many positions, those above once for each.

    Shapes: x (N, C, H, W) -> (N, 1, h, w), at the layer's own resolution; signals (N, C, L) and volumes
    (N, C, D, H, W) likewise. With `layers=`, (N, 1, H, W). Drawn by linear upsampling, divided by its maximum.

    Errors: those of `GradCAM`.

    Pitfall: the layers above see feature maps that are nearly empty, which training never showed them; and where they
    average over positions, a position's share of the score is small, so that all values may be close to those of an
    empty map. `value="score"` shows differences where probabilities are too small to.

    Reference: Byun and Lee, "Recipro-CAM" (2022), arXiv:2209.14074; for tokens, "ViT-ReciproCAM" (2023),
    arXiv:2310.02588.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from deepviz.methods import ReciproCAM
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
        >>> ReciproCAM()(model, torch.rand(2, 3, 8, 8), target=3).shape
        torch.Size([2, 1, 6, 6])
    """

    smooth: Annotated[bool, "Whether the neighbours of a position stay, with less weight."] = True
    value: Annotated[Value, "What is read of the output."] = "probability"

    title: ClassVar[str] = "Recipro-CAM"
    paper: ClassVar[str] = "Byun and Lee 2022, arXiv:2209.14074"
    cost: ClassVar[str] = "1 forward, and the forward above the layer for each position"
    in_default_set: ClassVar[bool] = False

    def map_at(self, session: Session, layer: Layer) -> Tensor:
        """f_c(A g_uv)."""
        return torch.stack([self._of_row(session, layer, row) for row in range(session.n)])

    def _of_row(self, session: Session, layer: Layer, row: int) -> Tensor:
        above = Above(session, layer, row)
        grid = laid_out(session.take(torch.tensor([row])), layer, above.A)
        numbers = grid.maps(torch.arange(above.A.numel(), device=above.A.device).view(above.A.shape))
        space, places = numbers.shape[2:], numbers[0].flatten()  # of channel and position in what the layer returns
        g = self._weights(space).to(above.A)

        def around(positions: slice) -> Tensor:
            copies = above.copies(positions.stop - positions.start)
            flat = copies.flatten(1)
            flat[:, places] *= g[positions].repeat(1, numbers.shape[1])
            return copies

        R = above.values(len(g), around, self.value)  # (h w,), or (h w, K)
        return R.movedim(0, -1).reshape(*session.score.shape, 1, *space)

    def _weights(self, space: torch.Size) -> Tensor:
        """g_uv for each position, (h w, h w)."""
        g = torch.ones(1, 1, dtype=torch.float64)
        for size in space:
            apart = (torch.arange(size)[:, None] - torch.arange(size)).abs()
            near = (apart == 0) / 2 + (apart == 1) / 4 if self.smooth else (apart == 0) * 1.0
            g = torch.kron(g, near.double())
        return g

    def passes(self) -> float:
        """As for a layer of 7 x 7 positions, all of whose passes are whole ones: at most."""
        return (2.0 + 49) * len(self.layers or (None,))

    @property
    def view(self) -> Literal["positive", "sum"]:
        """From zero up; scores are signed."""
        return "positive" if self.value == "probability" else "sum"
