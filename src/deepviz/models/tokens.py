"""The tokens of a text: their embeddings, which a text model can be given, and the words that they form."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn

from deepviz.errors import TargetError

START, END, PADDING = "[start]", "[end]", "[padding]"
"""What tokens are called that stand for no part of the text."""
MARKS: dict[str, Callable[[str], bool]] = {
    "</w>": lambda piece: piece.endswith("</w>"),
    "▁": lambda piece: piece.startswith("▁"),
    "Ġ": lambda piece: piece.startswith("Ġ"),
    "##": lambda piece: piece.startswith("##"),
}
"""How vocabularies mark words: their last piece (CLIP), their first one (SentencePiece, bytes), all but that (BERT)."""

Words = Callable[[Sequence[int]], Sequence[tuple[str, int]]]
"""From the numbers of a text's tokens to its words in order, each with its number of tokens, all tokens counted."""


@dataclass(frozen=True, eq=False)
class Pieces:
    """A tokenizer, as far as it tells the words that tokens form: `Words`.

    Args:
        piece: from a token to its text in the vocabulary.
        decode: from the tokens of a word to its text.
        special: tokens that stand for no text.
        ends: the tokens that end a text; all beyond the first of them is padding.
        mark: which of `MARKS` the vocabulary has; "" if each token is a word.

    Example:
        >>> vocabulary = ["<s>", "a</w>", "arma", "dillo</w>", "</s>"]
        >>> pieces = Pieces(lambda k: vocabulary[k], lambda w: "".join(vocabulary[k] for k in w).replace("</w>", " "),
        ...                 (0, 4), (4,), "</w>")
        >>> pieces([0, 1, 2, 3, 4, 4, 4])
        [('[start]', 1), ('a', 1), ('armadillo', 2), ('[end]', 1), ('[padding]', 2)]
    """

    piece: Callable[[int], str]
    decode: Callable[[list[int]], str]
    special: Collection[int]
    ends: Collection[int]
    mark: str

    def __call__(self, tokens: Sequence[int]) -> list[tuple[str, int]]:
        """The words of a text."""
        first = next((k for k, token in enumerate(tokens) if token not in self.special), len(tokens))
        end = next((k for k in range(len(tokens)) if k >= first and tokens[k] in self.ends), len(tokens))
        words: list[list[int]] = []
        for token in tokens[first:end]:
            if not words or self._begins(token, words[-1][-1]):
                words.append([])
            words[-1].append(token)
        found = [(self.decode(word).strip() or self.piece(word[0]), len(word)) for word in words]
        after = len(tokens) - end
        around = [(START, first)], [(END, min(1, after)), (PADDING, after - 1)]
        before, behind = ([(name, count) for name, count in some if count > 0] for some in around)
        return [*before, *found, *behind]

    def _begins(self, token: int, before: int) -> bool:
        if self.mark == "</w>":
            return MARKS["</w>"](self.piece(before))
        if self.mark == "##":
            return not MARKS["##"](self.piece(token))
        return not self.mark or MARKS[self.mark](self.piece(token))


def mark_of(vocabulary: Iterable[str]) -> str:
    """How a vocabulary marks words: by that of `MARKS` which most of its pieces have, "" if none has one.

    Example:
        >>> mark_of(["a</w>", "red</w>", "ca", "r</w>", "Ġ"]), mark_of(["▁a", "▁red", "##"]), mark_of(["a", "b"])
        ('</w>', '▁', '')
    """
    pieces = list(vocabulary)
    counts = {mark: sum(map(has, pieces)) for mark, has in MARKS.items()}
    best = max(counts, key=lambda mark: counts[mark])
    return best if counts[best] else ""


def hf_words(tokenizer: Any) -> Pieces:
    """Of a tokenizer of transformers."""
    ends = {tokenizer.eos_token_id, tokenizer.sep_token_id} - {None}
    return Pieces(
        tokenizer.convert_ids_to_tokens,
        tokenizer.decode,
        frozenset(tokenizer.all_special_ids),
        ends,
        mark_of(tokenizer.get_vocab()),
    )


class TextTower(nn.Module):
    """The text half of a model as a network of one text's token embeddings: (N, D, L) -> (N, E).

    Args:
        model: the whole model of images and texts.
        encode: from texts to their embeddings.
        embedding: the module that embeds tokens, (N, L) -> (N, L, D); it runs once for each text.
        text: the text, which gives all but the embeddings of the tokens: their number, order and mask.
    """

    def __init__(
        self, model: nn.Module, encode: Callable[[tuple[str, ...]], Tensor], embedding: nn.Module, text: str
    ) -> None:
        super().__init__()
        self.model = model
        self._encode = encode
        self._embedding = (embedding,)  # not as a part: it is one of the model's
        self._text = text

    def forward(self, x: Tensor) -> Tensor:
        """The embeddings of the text with these embeddings of its tokens."""
        embedded = x.transpose(1, 2)
        return self._run(len(x), lambda tokens, found: embedded.to(found))

    def tokens(self) -> tuple[list[int], Tensor]:
        """The text's tokens, and their embeddings (1, D, L)."""
        seen: list[tuple[Tensor, Tensor]] = []

        def keep(tokens: Tensor, found: Tensor) -> Tensor:
            seen.append((tokens, found))
            return found

        with torch.no_grad():
            self._run(1, keep)
        tokens, found = seen[0]
        if found.ndim != 3 or tokens.shape != found.shape[:2]:
            raise TargetError(
                f"the module that embeds tokens must turn (N, L) into (N, L, D), got {tuple(tokens.shape)} and "
                f"{tuple(found.shape)}"
            )
        return tokens[0].tolist(), found.detach().transpose(1, 2)

    def _run(self, rows: int, replaced: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        calls, thread = 0, get_ident()

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], found: Tensor) -> Tensor:
            nonlocal calls
            if get_ident() != thread:  # another text, embedded at the same time
                return found
            calls += 1
            return replaced(args[0] if args else next(iter(kwargs.values())), found)

        handle = self._embedding[0].register_forward_hook(hook, with_kwargs=True)
        try:
            embedding = self._encode((self._text,) * rows)
        finally:
            handle.remove()
        if calls != 1:
            raise TargetError(
                f"the module that embeds tokens ran {calls} times for a text: give TextEmbedder(embedding=...) the "
                "one that runs once"
            )
        return embedding
