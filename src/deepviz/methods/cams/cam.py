"""CAM: Zhou et al. 2016."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from deepviz.errors import LayerError
from deepviz.methods.cams.layer_map import LayerMap, laid_out, mean, precise, total
from deepviz.methods.method import View
from deepviz.methods.needs import Needs
from deepviz.probe.above import Above
from deepviz.probe.capture import layer_gradient
from deepviz.probe.layers import Layer
from deepviz.probe.session import Session
from deepviz.probe.state import Memory

TOLERANCE = 1e-3
"""How far from a mean and a linear layer the rounding of float32 may seem."""
FAR = 1000
"""Times what the layer returns: so far off, units that are all on, or all off, no longer look linear."""
_bent: Memory[float] = Memory()


@dataclass(frozen=True)
class CAM(LayerMap):
    """The feature maps below average pooling, weighted as the linear layer after it weights their means.

        S_c = b_c + sum_k w_ck mean(A_k)
        M_c = sum_k w_ck A_k

    The mean of the map over all positions is the score but for the bias. Whatever modules compute it, a score of this
    form is what the method needs: it is checked, by the gradient, which must be w_ck / (h w) at every position, and by
    the score of changed feature maps.

    Shapes: x (N, C, H, W) -> (N, 1, h, w), at the layer's own resolution; signals (N, C, L) and volumes
    (N, C, D, H, W) likewise. With `layers=`, (N, 1, H, W). Drawn by linear upsampling, signed.

    Errors: those of `GradCAM`, and a `LayerError` if what follows the layer is not a mean and a linear layer, with how
    far it is from that.

    Pitfall: the same as Grad-CAM without its ReLU, times the number of positions; where it applies, HiResCAM is too.

    Reference: Zhou, Khosla, Lapedriza, Oliva and Torralba, "Learning Deep Features for Discriminative Localization"
    (2016), arXiv:1512.04150, equation 2.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from deepviz.methods import CAM
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
        >>> CAM()(model, torch.rand(2, 3, 8, 8), target=3).shape
        torch.Size([2, 1, 6, 6])
    """

    title: ClassVar[str] = "CAM"
    paper: ClassVar[str] = "Zhou et al. 2016, arXiv:1512.04150"
    cost: ClassVar[str] = "1 forward, the backward above the layer"
    needs: ClassVar[Needs] = Needs(layer=True, pooling=True)
    in_default_set: ClassVar[bool] = False

    def map_at(self, session: Session, layer: Layer) -> Tensor:
        """sum_k w_ck A_k, where that explains the score."""

        def chunk(part: Session) -> tuple[Tensor, Tensor]:
            A, dA = layer_gradient(part, layer.name)
            grid = laid_out(part, layer, A)
            A = precise(grid.maps(A))
            found = [_weighted(A, precise(grid.maps(one))) for one in (dA.unbind(1) if part.several else (dA,))]
            cam, uneven = (torch.stack(each, 1) for each in zip(*found, strict=True))
            return (cam, uneven) if part.several else (cam[:, 0], uneven[:, 0])

        cam, uneven = session.by_rows(chunk, graph=False)
        key = (session.state, session.inputs.signature(), session.score.question, layer.name)
        off = max(float(uneven.max()), _bent.once(session.model, key, lambda: _curvature(session, layer)))
        if off > max(TOLERANCE, session.rounding):
            raise LayerError(
                f"CAM explains a mean over positions and one linear layer, but what follows layer {layer.name!r} is "
                f"something else (off by {100 * off:.2g} %): choose the layer below the pooling, or use GradCAM or "
                "HiResCAM"
            )
        return cam

    @property
    def view(self) -> View:
        """Signed."""
        return "sum"


def _weighted(A: Tensor, dA: Tensor) -> tuple[Tensor, Tensor]:
    """sum_k w_k A_k, and how far the gradient is from the same at every position, of its size."""
    w = total(dA)  # dS/dA_kij = w_k / (h w)
    uneven = (dA - mean(dA)).abs().flatten(1).amax(1) / dA.abs().flatten(1).amax(1).clamp_min(torch.finfo(A.dtype).tiny)
    return (w * A).sum(1, keepdim=True), uneven


def _curvature(session: Session, layer: Layer) -> float:
    """How far the score is from linear in what the layer returns: S(B) - S(A) against dS/dA (B - A), for row 0."""
    A, dA = layer_gradient(session.take(torch.tensor([0])), layer.name)
    B = -FAR * A.flip(tuple(range(1, A.ndim)))
    at_A, at_B = Above(session, layer, 0).values(2, lambda chunk: torch.stack([A, B])[chunk]).unbind(0)
    dA = dA if session.several else dA.unsqueeze(1)
    # the only row may be in the second axis, objectives are beside the first
    expected = (dA * (B - A).unsqueeze(1)).movedim(1, 0).flatten(1).sum(1).to(at_A.dtype).view_as(at_A)
    size = torch.maximum(torch.maximum(at_A.abs(), at_B.abs()), expected.abs()).max()
    return float((at_B - at_A - expected).abs().max() / size.clamp_min(torch.finfo(size.dtype).tiny))
