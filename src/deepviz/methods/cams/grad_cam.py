"""Grad-CAM: Selvaraju et al. 2016."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from deepviz import options
from deepviz.methods.method import Method, View
from deepviz.methods.needs import Needs
from deepviz.probe.capture import layer_gradient
from deepviz.probe.grid import Grid, Rearranged
from deepviz.probe.layers import CONSTRUCTION, Layer, choose_layer, grid_of, layer_title
from deepviz.probe.session import Session


@dataclass(frozen=True)
class GradCAM(Method):
    """The feature maps of a layer, weighted by how much the class score depends on each.

        w_k = 1/(h w) sum_ij dS_c / dA_kij
        R   = relu(sum_k w_k A_k)

    A_k is channel k of the layer's output. On transformers, tokens are laid out on the image's grid and class and
    register tokens are left out.

    Shapes: x (N, C, H, W) -> (N, 1, h, w), at the layer's own resolution; signals (N, C, L) and volumes
    (N, C, D, H, W) likewise, the mean being over all positions. Drawn by linear upsampling, divided by its maximum.

    That the layer's output lies on the image, and how, is found and checked: see `deepviz.probe.places`. What cannot
    be found is said with `grid`, the cells along each axis, and `skip`, the positions of other tokens, or with a
    function as `grid`, which is not checked. It takes one forward and at most 12 backward passes of one image for
    each layer looked at, once per model, layer and input shape; layers that only convolutions and the like made take
    no backward pass. "place" in the result's notes says how else the grid is known.

    Errors: `LayerError` if the layer does not exist, does not lie on the image, is not called exactly once, or does
    not influence the score. A warning if all evidence is negative, so that the ReLU leaves nothing (`relu=False`
    shows it). See also `Method.__call__`.

    Pitfall: the map is coarse (7 x 7 on most networks), and its smooth look is the upsampling's. It depends on the
    layer: without `layer`, the last one with a spatial map and a gradient is taken, and named in the result.

    Reference: Selvaraju, Cogswell, Das, Vedantam, Parikh and Batra, "Grad-CAM" (2016), arXiv:1610.02391.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from deepviz.methods import GradCAM
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 5))
        >>> GradCAM(layer="1", relu=False)(model, torch.rand(2, 3, 8, 8), target=3).shape
        torch.Size([2, 1, 6, 6])
    """

    layer: options.Layer = None
    relu: Annotated[bool, "Keep only positive evidence, as in the paper; without it the map is signed."] = True
    grid: options.GridOption = None
    skip: options.SkipOption = None

    title: ClassVar[str] = "Grad-CAM"
    paper: ClassVar[str] = "Selvaraju et al. 2016, arXiv:1610.02391"
    cost: ClassVar[str] = "1 forward, the backward above the layer"
    needs: ClassVar[Needs] = Needs(layer=True)

    def maps(self, session: Session) -> Tensor:
        """relu(sum_k w_k A_k)."""
        layer = choose_layer(session, self.layer, self.grid, self.skip)

        def chunk(part: Session) -> tuple[Tensor]:
            A, dA = layer_gradient(part, layer.name)
            return (class_activation(part, layer, A, dA),)

        (cam,) = session.by_rows(chunk, graph=False)
        if not self.relu:
            return cam
        warn_of_negative(session, cam)
        return cam.relu()

    @property
    def view(self) -> View:
        """From zero up; signed without the ReLU."""
        return "positive" if self.relu else "sum"


def class_activation(session: Session, layer: Layer, A: Tensor, dA: Tensor) -> Tensor:
    """sum_k w_k A_k, (n, 1, *grid), or for K objectives (n, K, 1, *grid), in float32 at least."""
    grid = grid_of(layer, A, session.n)
    session.notes.facts.update({"layer": layer.name, "grid": str(grid)})
    title = layer_title(session, layer.name)
    if title != layer.name:
        session.notes.facts["layer title"] = title
    if layer.known != CONSTRUCTION:
        session.notes.facts["place"] = layer.known
    if session.several:
        return torch.stack([_weighted(grid, A, one) for one in dA.unbind(1)], 1)
    return _weighted(grid, A, dA)


def _weighted(grid: Grid | Rearranged, A: Tensor, dA: Tensor) -> Tensor:
    precise = torch.promote_types(A.dtype, torch.float32)
    A, dA = grid.maps(A).to(precise), grid.maps(dA).to(precise)
    w = dA.flatten(2).mean(2).view(*dA.shape[:2], *[1] * (dA.ndim - 2))  # w_k = 1/(h w) sum_ij dS/dA_kij
    return (w * A).sum(1, keepdim=True)  # sum_k w_k A_k


def warn_of_negative(session: Session, cam: Tensor) -> None:
    """Say for which rows the ReLU leaves nothing though there is evidence, all of it against the class."""
    lowest, highest = cam.flatten(2 if session.several else 1).aminmax(dim=-1)
    session.notes.warn_of_zero(
        "Grad-CAM is all zero: at this layer all evidence is against the class; use relu=False to see it",
        ((highest <= 0) & (lowest < 0)).cpu(),
    )
