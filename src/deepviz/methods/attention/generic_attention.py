"""Generic attention explainability: Chefer, Gur and Wolf 2021."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from deepviz.methods.attention.attention_map import TokenMap, through_layers
from deepviz.probe.attention import Attentions, attended, by_head, gradients
from deepviz.probe.gradient import fresh_leaf
from deepviz.probe.session import Session


@dataclass(frozen=True)
class GenericAttention(TokenMap):
    """Attention, weighted by the gradient of the score there, and followed through all layers; gradient rollout.

        A_l = mean_h (dS/dA_lh * A_lh)^+
        R   = (I + A_L) ... (I + A_1),    the row of the class token

    A_lh is the attention matrix of head h in layer l, (T, T), dS/dA_lh the score's gradient there through all that
    follows, (.)^+ keeps positive numbers. This is the paper's rule for self-attention, R <- R + A_l R from R = I. Of a
    model that reads other tokens than one class token, such as the mean of all, it is the mean of their rows; the
    tokens are found by the gradient of the score. Where a learned query pools the tokens at the end, its own weighted
    attention takes the place of the row.

    Attention is found where it is computed, fused or not.

    Shapes: x (N, C, H, W) -> (N, 1, h, w), a number for each token of the image; signals and volumes likewise.

    Errors: those of `AttentionRollout`.

    Pitfall: evidence against the class is cut off in every layer. Differences between tokens are small where the
    gradient is: of the sum of the row, most may lie on a few tokens, or on those left out (class token, registers).

    Reference: Chefer, Gur and Wolf, "Generic Attention-model Explainability for Interpreting Bi-Modal and
    Encoder-Decoder Transformers" (2021), arXiv:2103.15679, equations 5 and 6.

    Example:
        >>> import torch
        >>> from deepviz.methods import GenericAttention
        >>> from deepviz.testing import images, network
        >>> GenericAttention()(network(attention=True), images(2), target=3).shape
        torch.Size([2, 1, 6, 6])
    """

    title: ClassVar[str] = "Generic attention"
    paper: ClassVar[str] = "Chefer, Gur and Wolf 2021, arXiv:2103.15679"
    cost: ClassVar[str] = "1 forward, 1 backward"

    def by_token(self, session: Session, found: Attentions) -> Tensor:
        """The row of the tokens that are read, in (I + A_L) ... (I + A_1)."""

        def row() -> Tensor:
            part = replace(session, inputs=session.inputs.map(fresh_leaf))
            seen, A = attended(part, found)
            rows = []
            for dA in gradients(part.read(seen), A):
                pairs = [(by_head(a, session.n), by_head(da, session.n)) for a, da in zip(A, dA, strict=True)]
                rows.append(through_layers([(da * a).clamp(min=0).mean(1) for a, da in pairs], found))
            return torch.stack(rows, 1) if session.several else rows[0]

        return session.depending(row).detach()
