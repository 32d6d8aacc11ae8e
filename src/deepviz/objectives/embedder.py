"""What an objective asks of the model that is explained, beside its output: embeddings of texts and of other images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from torch import Tensor


class TextEmbeddings(NamedTuple):
    """Texts as a model has them: embeddings (M, D), and how a cosine becomes a logit."""

    embeddings: Tensor
    scale: float = 1.0
    bias: float = 0.0


class Embedder(Protocol):
    """A model that embeds."""

    def embed_texts(self, texts: Sequence[str]) -> TextEmbeddings:
        """Embeddings of texts.

        Raises:
            TargetError: if it embeds none, or one is too long.
        """

    def embed_image(self, source: str) -> Tensor:
        """The output (D,) for an image file.

        Raises:
            TargetError: if that is no embedding.
        """
