"""Models of images and texts (CLIP, SigLIP): how those of transformers and open_clip embed both."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from deepviz.errors import TargetError
from deepviz.models.hub import no_waiting_for_the_hub
from deepviz.models.texts import TextEmbedder
from deepviz.models.tokens import Pieces, Words, hf_words, mark_of

TWO_TOWERS = ("align", "altclip", "chinese_clip", "clip", "clipseg", "siglip", "siglip2")
"""What transformers calls models that embed images and texts."""
KNOWN_WORDS = 0.9
"""Share of a model's vocabulary that its tokenizer knows, at least: some vocabularies are filled up."""


def image_embedding(model: Any, x: Tensor) -> Tensor:
    """(N, D), by a model of transformers."""
    return _embedding(model.get_image_features(pixel_values=x))


def _embedding(found: Any) -> Tensor:
    # a tensor before version 5, an output with fields from there on
    embedding: Tensor = found if isinstance(found, Tensor) else found.pooler_output
    return embedding


def hf_texts(model: Any, load: Callable[[], Any]) -> TextEmbedder:
    """How a two-tower model of transformers embeds texts; its tokenizer is loaded on first use."""
    tokenizers: list[Any] = []

    def tokenizer() -> Any:
        if not tokenizers:
            with no_waiting_for_the_hub():
                tokenizers.append(load())
            # without its files, transformers makes up a tokenizer that knows no words
            words, known = int(model.config.text_config.vocab_size), len(tokenizers[0])
            if known < KNOWN_WORDS * words:
                tokenizers.clear()
                raise TargetError(
                    f"its tokenizer knows {known} words, and the model {words}: the tokenizer's files are missing"
                )
        return tokenizers[0]

    most = int(model.config.text_config.max_position_embeddings)

    def encode(texts: tuple[str, ...]) -> Tensor:
        # SigLIP was trained on texts filled up to the longest, and reads what they are filled up with
        filled = model.config.model_type.startswith("siglip")
        found = tokenizer()(
            list(texts), padding="max_length" if filled else True, max_length=most, truncation=True, return_tensors="pt"
        )
        if filled:
            found.pop("attention_mask", None)
        return _embedding(model.get_text_features(**found.to(next(model.parameters()).device)))

    def number(name: str) -> float:
        value = getattr(model, name, None)
        return 0.0 if value is None else float(value.detach())

    return TextEmbedder(
        model,
        encode,
        lambda text: len(tokenizer()(text)["input_ids"]),
        most,
        lambda: math.exp(number("logit_scale")),
        lambda: number("logit_bias"),
        token_embedding(model, int(model.config.text_config.vocab_size)),
        lambda tokens: hf_words(tokenizer())(tokens),
    )


def token_embedding(model: nn.Module, words: int) -> nn.Module | None:
    """The first module that embeds so many tokens; None if there is none."""
    return next((one for one in model.modules() if isinstance(one, nn.Embedding) and len(one.weight) == words), None)


def open_clip_texts(open_clip: Any, arch: str, model: Any) -> TextEmbedder:
    """How a model of open_clip embeds texts; its tokenizer is loaded on first use."""
    tokenizers: dict[str, Any] = {}

    def tokenizer() -> Any:
        if not tokenizers:
            with no_waiting_for_the_hub():
                tokenizers[arch] = open_clip.get_tokenizer(arch)
        return tokenizers[arch]

    def encode(texts: tuple[str, ...]) -> Tensor:
        tokens = tokenizer()(list(texts)).to(model.logit_scale.device)
        embeddings: Tensor = model.encode_text(tokens)
        return embeddings

    def count(text: str) -> int:
        own = tokenizer()
        # with a start and an end; tokenizers of Hugging Face count them themselves
        return len(own.encode(text)) + 2 if hasattr(own, "encode") else len(own.tokenizer(text)["input_ids"])

    return TextEmbedder(
        model,
        encode,
        count,
        int(model.context_length),
        lambda: float(model.logit_scale.detach().exp()),
        lambda: 0.0 if model.logit_bias is None else float(model.logit_bias.detach()),
        _open_clip_embedding(model),
        lambda tokens: _open_clip_words(tokenizer())(tokens),
    )


def _open_clip_embedding(model: Any) -> nn.Module | None:
    text = getattr(model, "text", model)
    found = getattr(text, "token_embedding", None)
    if found is None and hasattr(text, "transformer") and hasattr(text.transformer, "get_input_embeddings"):
        found = text.transformer.get_input_embeddings()  # a text model of transformers
    return found if isinstance(found, nn.Module) else None


def _open_clip_words(own: Any) -> Words:
    if hasattr(own, "tokenizer"):
        return hf_words(own.tokenizer)
    return Pieces(
        lambda token: own.decoder[token], own.decode, own.all_special_ids, (own.eot_token_id,), mark_of(own.encoder)
    )
