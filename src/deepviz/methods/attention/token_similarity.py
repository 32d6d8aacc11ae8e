"""Token similarity: the features of an image's tokens, compared with what the model reads."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor

from deepviz.errors import NoAttention
from deepviz.methods.attention.attention_map import ClasslessMap
from deepviz.probe.attention import Attentions, tokens_of
from deepviz.probe.session import Session


@dataclass(frozen=True)
class TokenSimilarity(ClasslessMap):
    """How much each image token is like what the model reads in the end: a baseline that knows no class.

        z   = mean of the tokens that the score reads, Z_L,i
        R_j = <z, Z_L,j> / (|z| |Z_L,j|)

    Z_L are the tokens that the last layer of attention returns; the score reads the class token, or the mean of all,
    which is found by its gradient. A map of a class that looks like this one says little about the class.

    Shapes: x (N, C, H, W) -> (N, 1, h, w), from -1 to 1 for each token of the image; signals and volumes likewise.

    Errors: those of `AttentionRollout`; and `NoAttention` if the last layer of attention is in no module of its own
    that returns its tokens.

    Pitfall: it explains nothing. Tokens of large areas are alike whatever the class is.

    Reference: cosine similarity of a transformer's tokens, as in Simeoni et al., "Localizing Objects with
    Self-Supervised Transformers and no Labels" (2021), arXiv:2109.14279, who compare patches with a patch.

    Example:
        >>> import torch
        >>> from deepviz.methods import TokenSimilarity
        >>> from deepviz.testing import images, network
        >>> TokenSimilarity()(network(attention=True), images(2)).shape
        torch.Size([2, 1, 6, 6])
    """

    title: ClassVar[str] = "Token similarity"
    paper: ClassVar[str] = "as in Simeoni et al. 2021, arXiv:2109.14279"
    cost: ClassVar[str] = "1 forward"

    def of_forward(self, session: Session, found: Attentions) -> Tensor:
        """cos(z, Z_L,j)."""
        Z = tokens_of(session, found)
        z = Z[:, list(found.read)] if found.read else Z
        return F.cosine_similarity(z.mean(1, keepdim=True), Z, -1)

    def prepare(self, session: Session, found: Attentions) -> None:
        """A pooling attention over features of another kind has no tokens to compare."""
        if not found.layers:
            raise NoAttention("TokenSimilarity compares the tokens that layers of attention return, and there are none")

    @property
    def view(self) -> Literal["positive", "sum"]:
        """Signed."""
        return "sum"
