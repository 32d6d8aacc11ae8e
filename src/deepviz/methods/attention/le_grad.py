"""LeGrad: Bousselham et al. 2025."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from deepviz.errors import NoAttention
from deepviz.methods.attention.attention_map import TokenMap
from deepviz.probe.attention import Attentions, by_head, layer_scores
from deepviz.probe.session import Session


@dataclass(frozen=True)
class LeGrad(TokenMap):
    """The positive gradient of each layer's own score at that layer's attention, averaged over heads and layers.

        z_l = 1/T sum_i Z_l,i
        S_l = S(z_l)
        E_l = 1/(H T) sum_h sum_i (dS_l/dA_lh,i)^+
        R   = 1/L sum_l E_l

    Z_l are the T tokens that layer l returns, S what the model makes of tokens after its last layer (final
    normalisation, classifier), A_lh,i the row of query i in the attention matrix of head h. S_l depends on A_l only
    through layer l itself. Where a learned query pools the tokens at the end, S_l is that of the pooled Z_l, and the
    gradient is taken at the pooling attention, as in the paper.

    Attention is found where it is computed, fused or not, and a layer's tokens are what the outermost module returns
    that computes this attention alone.

    Shapes: x (N, C, H, W) -> (N, 1, h, w), a number for each token of the image; signals and volumes likewise. The
    paper divides by the range of the map, which is left to the picture.

    All layers go through what follows the last one as rows of one batch, if that gives the same scores as one layer at
    a time; else it takes a forward and a backward pass for each layer.

    Errors: those of `AttentionRollout`; and `NoAttention` if a layer of attention is in no module of its own that
    returns its tokens, or the objective reads a layer inside the model.

    Pitfall: the score of an early layer is that of a classifier that was trained for the last one. Attention itself
    does not enter, only what the score would gain by more of it.

    Reference: Bousselham, Boggust, Chaybouti, Strobelt and Kuehne, "LeGrad: An Explainability Method for Vision
    Transformers via Feature Formation Sensitivity" (ICCV 2025), arXiv:2404.03214.

    Example:
        >>> import torch
        >>> from deepviz.methods import LeGrad
        >>> from deepviz.testing import images, network
        >>> LeGrad()(network(attention=True), images(2), target=3).shape
        torch.Size([2, 1, 6, 6])
    """

    title: ClassVar[str] = "LeGrad"
    paper: ClassVar[str] = "Bousselham et al. 2025, arXiv:2404.03214"
    cost: ClassVar[str] = "1 forward, 1 backward"

    def prepare(self, session: Session, found: Attentions) -> None:
        """The class is that of the model as it is, whatever its layers' own scores are."""
        if session.score.layers:
            raise NoAttention("LeGrad explains what the model returns, and the objective reads a layer inside it")
        session.decide()

    def by_token(self, session: Session, found: Attentions) -> Tensor:
        """1/L sum_l E_l."""
        rows = []
        for layers in layer_scores(session, found):
            E = [
                by_head(dA, session.n).clamp(min=0).mean((1, 2)) for dA in layers
            ]  # 1/(H T) sum_h sum_i (dS_l/dA_lh,i)^+
            rows.append(torch.stack(E).mean(0))  # 1/L sum_l E_l
        return torch.stack(rows, 1) if session.several else rows[0]
