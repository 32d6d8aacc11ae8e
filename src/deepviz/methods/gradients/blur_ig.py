"""Blur integrated gradients: Xu et al. 2020."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from deepviz.errors import ImageError
from deepviz.inputs import Leaves, is_image_like
from deepviz.methods.gradients.paths import changes, completeness_gap, note_gap, precise
from deepviz.methods.method import Method, View
from deepviz.methods.needs import Needs
from deepviz.options import Ge, Gt
from deepviz.probe.chunks import spans
from deepviz.probe.reference import blurred
from deepviz.probe.session import Session

TRUNCATE = 4.0
"""Standard deviations after which the kernel ends."""


@dataclass(frozen=True)
class BlurIG(Method):
    """Integrated gradients along the path on which the image is blurred, from the most blurred one to the image.

        R = - int_0^s dS_c(L(t)) / dL * dL(t)/dt dt,    L(t) = x blurred by a Gaussian of standard deviation t

    No colour stands for "nothing there": the baseline is the image without its details. The integral is the sum over
    `steps` pieces, t_k = s (k/steps)^2, of the gradient in the middle of the piece times L(t_k) - L(t_k+1), so that the
    values of a linear model sum to S(x) - S(L(s)) exactly; for others the notes hold the "completeness gap". Most
    details go at the beginning, where the pieces are short: pieces of equal length leave a far larger gap.
    Border pixels are repeated outwards; s is `sigma` times the shorter side.

    Shapes: x (N, C, H, W) -> (N, C, H, W), in units of the score; signals and volumes likewise. Drawn as the signed
    sum over channels. A table beside an image is not blurred and has no map.

    Errors: ImageError if no input is image-like. A warning where the gap is above 5 %. See also `Method.__call__`.

    Pitfall: even areas get nothing, at every scale: what the map shows are edges and texture.

    Reference: Xu, Venugopalan and Sundararajan, "Attribution in Scale and Space" (2020), arXiv:2004.03383.

    Example:
        >>> import torch
        >>> from deepviz.methods import BlurIG
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 5))
        >>> R = BlurIG(steps=5)(model, torch.rand(2, 3, 8, 8), target=3)
        >>> R.shape
        torch.Size([2, 3, 8, 8])
    """

    steps: Annotated[int, Ge(1), "Pieces of the path; the cost is this many gradients."] = 100
    sigma: Annotated[float, Gt(0), "Largest standard deviation of the blur, in shorter sides of the image."] = 0.2

    title: ClassVar[str] = "Blur IG"
    paper: ClassVar[str] = "Xu et al. 2020, arXiv:2004.03383"
    cost: ClassVar[str] = "`steps` times (1 forward, 1 backward), 2 forwards"
    needs: ClassVar[Needs] = Needs(gradient=True)
    in_default_set: ClassVar[bool] = False

    def passes(self) -> float:
        """`steps` gradients and 2 forwards."""
        return 2.0 * self.steps + 2

    def maps(self, session: Session) -> Leaves | Tensor:
        """The sum over the pieces of dS/dL (L(t_k) - L(t_k+1))."""
        if not any(map(is_image_like, session.x)):
            raise ImageError(
                f"{self.title} blurs image-like inputs (N, C, *space), got an input {tuple(session.x[0].shape)}"
            )
        (change,) = changes(session, self.starts(session.x))
        session = session.to_layout()
        rows = [self._row(session, row) for row in range(session.n)]
        R = Leaves(torch.stack(maps) for maps in zip(*rows, strict=True))
        note_gap(session, completeness_gap(session, R, change), "blur IG", "raise steps")
        images = [part for part, leaf in zip(R, session.x, strict=True) if is_image_like(leaf)]
        return images[0] if len(images) == 1 else R

    def _row(self, session: Session, row: int) -> Leaves:
        x = session.x.rows(slice(row, row + 1))
        R = None
        for span in spans(self.steps, session.chunk()):
            edges = [self._blurred(x, k / self.steps) for k in range(span.start, span.stop + 1)]
            middles = [self._blurred(x, (k + 0.5) / self.steps) for k in range(span.start, span.stop)]
            L = Leaves(torch.cat(leaves) for leaves in zip(*middles, strict=True))
            L = x.map(lambda leaf, L: session.call.to_layout(L.to(leaf.dtype)), L)
            G = session.at(L, torch.full((len(middles),), row)).gradient()
            dL = Leaves(torch.cat(leaves).diff(dim=0).neg() for leaves in zip(*edges, strict=True))
            part = dL.map(lambda dL, G: (session.beside(dL).to(precise(G)) * G).sum(0), G)
            R = part if R is None else R.map(torch.add, part)
        assert R is not None
        return R

    def _blurred(self, x: Leaves, share: float) -> Leaves:
        """L at a share of the path, where the blur grows with its square; in float32 at least."""
        return x.map(
            lambda leaf: (
                blurred(leaf.to(precise(leaf)), share**2 * self.sigma * min(leaf.shape[2:]), TRUNCATE)
                if is_image_like(leaf)
                else leaf.to(precise(leaf))
            )
        )

    def starts(self, x: Leaves) -> list[Leaves]:
        """The image blurred most."""
        return [self._blurred(x, 1.0).map(lambda L, leaf: L.to(leaf.dtype), x)]

    @property
    def view(self) -> View:
        """The signed sum over channels."""
        return "sum"
