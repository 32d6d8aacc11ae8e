"""FullGrad: Srinivas and Fleuret 2019."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from deepviz.inputs import Leaves
from deepviz.methods.cams.layer_map import precise
from deepviz.methods.enlarge import enlarged
from deepviz.methods.method import Method, View
from deepviz.probe.biases import Bias, biases_added
from deepviz.probe.gradient import differentiate, fresh_leaf
from deepviz.probe.session import Session

LARGE_GAP = 0.05
"""A gap above this, of the score, is warned of."""


@dataclass(frozen=True)
class FullGrad(Method):
    """What the input and every bias add to the score, drawn at the place where they do.

        S_c = sum x * dS_c/dx + sum_l sum b_l * dS_c/db_l
        R   = psi(x * dS_c/dx) + sum_l psi(b_l * dS_c/db_l)        psi(v) = up(sum over channels of scaled(|v|))

    b_l is the bias of layer l at each position of its output, of convolutions, linear layers and normalisation (of
    batch normalisation that of its whole affine map). The first line is an equation for networks that are piecewise
    linear. scaled(|v|) has its minimum at 0 and its maximum at 1, over all of a layer's output as in the authors' code,
    or for each channel, as the paper's formula can be read. Biases of layers without positions on the image, such as
    those that see it in windows, are in the sum alone.

    Shapes: x (N, C, H, W) -> (N, 1, H, W), without sign; signals (N, C, L) and volumes (N, C, D, H, W) likewise.
    The notes hold "completeness gap", |S_c - the sum| / |S_c|. Drawn from zero up.

    Errors: a warning where the gap is above 5 %: activations that are no ReLU, a score that is no logit, constants that
    are added by other means. See also `Method.__call__`.

    Pitfall: each layer counts as much as any other, whatever it adds, since each is scaled for itself: the sum of the
    map says nothing of the score. It has no sign, so evidence for and against the class look alike.

    Reference: Srinivas and Fleuret, "Full-Gradient Representation for Neural Network Visualization" (2019),
    arXiv:1905.00780.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from deepviz.methods import FullGrad
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 5))
        >>> FullGrad()(model, torch.rand(2, 3, 8, 8), target=3).shape
        torch.Size([2, 1, 8, 8])
    """

    scale: Annotated[Literal["layer", "channel"], "What is scaled to 0 to 1 together."] = "layer"

    title: ClassVar[str] = "FullGrad"
    paper: ClassVar[str] = "Srinivas and Fleuret 2019, arXiv:1905.00780"
    cost: ClassVar[str] = "1 forward, 1 backward"
    in_default_set: ClassVar[bool] = False

    def maps(self, session: Session) -> Tensor:
        """psi(x dS/dx) + sum_l psi(b_l dS/db_l)."""
        image = session.image()
        place = next(place for place, leaf in enumerate(session.x) if leaf is image)

        def chunk(part: Session) -> tuple[Tensor, ...]:
            leaves = part.x.map(fresh_leaf)
            with part.right_layouts("biases"), biases_added(part.model) as biases:
                S = part.forward_with_rule(leaves, None)
                found = []
                for k, score in enumerate(S.unbind(1) if part.several else (S,)):
                    inputs, added = shares(part, score, leaves, biases, keep=part.several and k < S.shape[1] - 1)
                    if part.n > 1 and not all(_rows_first(share, part.n) for share in added):
                        rows = [chunk(part.take(torch.tensor([row]))) for row in range(part.n)]
                        return tuple(map(torch.cat, zip(*rows, strict=True)))
                    shown = [inputs[place]]
                    for share, bias in zip(added, biases, strict=True):
                        if bias.mapped and (len(share), share.ndim) == (part.n, image.ndim):
                            shown.append(share)
                    R = torch.stack([self._psi(share, image.shape[2:]) for share in shown]).sum(0)
                    sums = [share.reshape(part.n, -1).sum(1) for share in (*inputs, *added)]
                    found.append((R, torch.stack(sums).sum(0)))
            R, total = (torch.stack(each, 1) if part.several else each[0] for each in zip(*found, strict=True))
            return R, total, S.detach()

        R, total, S = session.by_rows(lambda part: part.depending(lambda: chunk(part)))
        gap = ((S - total).abs() / S.abs().clamp_min(torch.finfo(S.dtype).eps)).cpu()
        session.notes.rows["completeness gap"] = gap
        if bool((gap > LARGE_GAP).any()):
            session.notes.warn(
                f"{self.name}: input and biases sum to the score only with a gap above {LARGE_GAP:.0%}: the model is "
                "not piecewise linear, or adds constants by other means than biases of its modules",
                gap > LARGE_GAP,
            )
        return R

    def _psi(self, share: Tensor, space: torch.Size) -> Tensor:
        """up(sum over channels of scaled(|share|)), (n, 1, *space)."""
        size = precise(share.abs())
        low, high = (edge.view(*edge.shape, *[1] * (size.ndim - edge.ndim)) for edge in self._edges(size))
        scaled = torch.where(high > low, (size - low) / (high - low), 0)
        return enlarged(scaled.sum(1, keepdim=True), space)

    def _edges(self, size: Tensor) -> tuple[Tensor, Tensor]:
        low, high = size.flatten(1 if self.scale == "layer" else 2).aminmax(dim=-1)
        return low, high

    @property
    def view(self) -> View:
        """From zero up."""
        return "positive"


def _rows_first(share: Tensor, n: int) -> bool:
    """Whether the first axis is that of n > 1 images: not of windows or frames, nor, where it cannot be told, of
    tokens."""
    return len(share) == n and not (share.ndim == 3 and share.shape[1] == n)


def shares(
    session: Session, score: Tensor, leaves: Leaves, biases: list[Bias], keep: bool
) -> tuple[list[Tensor], list[Tensor]]:
    """What each input, x dS/dx, and each bias, b dS/db at each position, adds to the score; zero for what does not.

    Raises:
        ModelError: if the score does not depend on the input.
    """
    if not score.requires_grad:
        session.backward(score, leaves)  # says why
    found = differentiate(score.sum(), [*leaves, *(bias.edge for bias in biases)], keep)
    if all(g is None for g in found[: len(leaves)]):
        session.backward(score, leaves)
    inputs = [
        leaf.detach() * (torch.zeros_like(leaf) if g is None else g) for leaf, g in zip(leaves, found, strict=False)
    ]
    added = [
        bias.values.new_zeros(len(leaves[0]), *[1] * (leaves[0].ndim - 1)) if g is None else bias.values * g
        for bias, g in zip(biases, found[len(leaves) :], strict=True)
    ]
    return inputs, added
