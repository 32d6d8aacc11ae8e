"""Attention rollout: Abnar and Zuidema 2020."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from deepviz.methods.attention.attention_map import ClasslessMap, matrices, through_layers
from deepviz.probe.attention import Attentions
from deepviz.probe.session import Session


@dataclass(frozen=True)
class AttentionRollout(ClasslessMap):
    """How much of each image token arrives at the tokens that are read, if attention alone moved them.

        A_l = 1/2 mean_h A_lh + 1/2 I
        R   = A_L ... A_2 A_1,    the row of the class token

    A_lh is the attention matrix of head h in layer l, (T, T), whose rows sum to 1; I stands for the skip connection. Of
    a model that reads other tokens, such as the mean of all, it is the mean of their rows; the tokens are found by the
    gradient of the score. Where a learned query pools the tokens at the end, its attention takes the place of the row.

    Attention is found where it is computed, fused or not. The result is the same for every class: "objective" in the
    result's notes says so.

    Shapes: x (N, C, H, W) -> (N, 1, h, w), a number for each token of the image; signals and volumes likewise. The
    numbers of all tokens, those left out (class token, registers) included, sum to 1.

    Errors: `NoAttention` if the model has no attention between image and score, computes it in windows, merges tokens
    between layers, changes the matrices after the softmax, or the tokens do not lie on the image.

    Pitfall: it knows no class, and neither values nor feed-forward layers, nor whether a token counts for or against
    anything. It is a picture of where information could flow, not evidence.

    Reference: Abnar and Zuidema, "Quantifying Attention Flow in Transformers" (2020), arXiv:2005.00928.

    Example:
        >>> import torch
        >>> from deepviz.methods import AttentionRollout
        >>> from deepviz.testing import images, network
        >>> AttentionRollout()(network(attention=True), images(2)).shape
        torch.Size([2, 1, 6, 6])
    """

    title: ClassVar[str] = "Attention rollout"
    paper: ClassVar[str] = "Abnar and Zuidema 2020, arXiv:2005.00928"
    cost: ClassVar[str] = "1 forward"

    def of_forward(self, session: Session, found: Attentions) -> Tensor:
        """The row of the tokens that are read, in A_L ... A_1."""
        A = [one.mean(1) for one in matrices(session, found)]  # mean_h A_lh
        half = [0.5 * one for one in A[: len(found.layers)]]
        return through_layers(half + A[len(found.layers) :], found, of_input=0.5)  # A_l = 1/2 A + 1/2 I
