"""How models of images and texts embed texts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn

from deepviz.errors import DeepVizError, TargetError, in_one_line
from deepviz.models.tokens import TextTower, Words
from deepviz.objectives.embedder import TextEmbeddings
from deepviz.probe.borrow import borrowed
from deepviz.probe.state import State, survey

Encode = Callable[[tuple[str, ...]], Tensor]


@dataclass(eq=False)
class TextEmbedder:
    """Embeds texts by a model, each once, and again when the model has changed.

    Args:
        model: the whole model of images and texts; it is left as it was.
        encode: from texts to their embeddings (M, D).
        count: from a text to its number of tokens, where that is limited.
        most: tokens that a text may have; the model would cut off what is beyond.
        scale: the factor of the cosine in a logit, as its logarithm where the model has it so.
        bias: what is added.
        embedding: the module that embeds tokens, (N, L) -> (N, L, D), once for each text, to explain words.
        words: from a text's tokens, as that module takes them, to its words, each with its number of tokens:
            [("an", 1), ("armadillo", 2)].
    """

    model: nn.Module
    encode: Encode
    count: Callable[[str], int] | None = None
    most: int = 0
    scale: Callable[[], float] = lambda: 1.0
    bias: Callable[[], float] = lambda: 0.0
    embedding: nn.Module | None = None
    words: Words | None = None
    _known: dict[str, Tensor] = field(default_factory=dict, repr=False)
    _state: State | None = field(default=None, repr=False)
    _lock: Any = field(default_factory=Lock, repr=False)

    def __call__(self, texts: tuple[str, ...]) -> TextEmbeddings:
        """Their embeddings, and how a cosine becomes a logit.

        Raises:
            TargetError: for a text that is too long, or if the model's tokenizer is not there.
        """
        with self._lock:
            state = survey(self.model).state
            if state != self._state:  # other weights embed otherwise
                self._known.clear()
                self._state = state
            new = tuple(dict.fromkeys(text for text in texts if text not in self._known))
            if new:
                self._known.update(zip(new, self._embedded(new), strict=True))
            return TextEmbeddings(torch.stack([self._known[text] for text in texts]), self.scale(), self.bias())

    def tower(self, text: str) -> tuple[TextTower, Tensor, list[tuple[str, int]]]:
        """The network from a text's token embeddings to its embedding, these (1, D, L), and the text's words.

        Raises:
            TargetError: if it is not known how tokens are embedded, or the words are not those of the tokens.
        """
        if self.embedding is None or self.words is None:
            raise TargetError(
                "it is not known how the model embeds tokens: give its TextEmbedder embedding=, the module, and words="
            )
        tower = TextTower(self.model, self.encode, self.embedding, text)
        with borrowed(self.model):
            tokens, embeddings = tower.tokens()
        words = list(self.words(tokens))
        if sum(count for _, count in words) != len(tokens):
            raise TargetError(f"words= must count all {len(tokens)} tokens of {text[:40]!r}, got {words}"[:200])
        return tower, embeddings, words

    def _embedded(self, texts: tuple[str, ...]) -> Tensor:
        try:
            for text in texts:
                tokens = 0 if self.count is None else self.count(text)
                if tokens > self.most:
                    raise TargetError(
                        f"{text[:40]!r}... has {tokens} tokens, of which the model reads {self.most} alone"
                    )
            with borrowed(self.model), torch.no_grad():
                return self.encode(texts).float().cpu()
        except DeepVizError:
            raise
        except Exception as error:  # tokenizers are fetched and fail in many ways
            raise TargetError(f"the texts cannot be embedded ({in_one_line(error)})") from error
