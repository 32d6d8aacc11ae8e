"""The words of a text: how much each raises the logit of the text for an image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from torch import Tensor

from deepviz.errors import LayerError, TargetError
from deepviz.geometry import Geometry
from deepviz.inputs import Inputs
from deepviz.methods.method import Method
from deepviz.models import LoadedModel, Prepared
from deepviz.models.predict import outputs_of
from deepviz.objectives import Objective, Text
from deepviz.render.words import text_picture
from deepviz.results.explanation import ExplainedTarget, Explanation, Word
from deepviz.results.outcomes import ImageOutcomes, Outcome, Skipped
from deepviz.runs.asked import Item
from deepviz.runs.explain import explain_items
from deepviz.runs.look import inputs_of, looked

WORDS = "words"
"""What the explained input is called, beside the image."""
NO_LAYER = "it explains layers of the image encoder, and no words"


def explain_text_items(
    loaded: LoadedModel, items: Sequence[Item], methods: Sequence[Method], *, lenient: bool = False
) -> Iterator[ImageOutcomes]:
    """The maps on the words of texts, for images that are already prepared, one image at a time.

    Args:
        loaded: a model of images and texts.
        items: the images, with `Text` objectives.
        methods: the methods; those that explain a layer do not apply.
        lenient: as for `explain_items`.

    Raises:
        TargetError: for a target that is no text, or a model that does not say how it embeds tokens.
        LayerError: for a method that explains a layer, unless `lenient`.
    """
    for item in items:
        if not item.targets:
            raise TargetError(f"{item.image.name}: give the text whose words are explained")
        look = looked(loaded, inputs_of(loaded, [item]), item.targets)
        targets = [look.target(0, k) for k in range(len(look.objectives))]
        embedding = _embedding(loaded, item.image)
        outcomes = [
            outcome
            for target in targets
            for outcome in words_of(loaded, item.image, embedding, target, methods, lenient=lenient)
        ]
        yield ImageOutcomes(item.image, (), tuple(outcomes), tuple(methods), (WORDS,))


def with_words(loaded: LoadedModel, found: ImageOutcomes) -> ImageOutcomes:
    """The outcomes of an image and of texts, each with those of the text's words after it.

    Raises:
        TargetError: as `explain_text_items` does.
    """
    embedding = _embedding(loaded, found.image)
    outcomes: list[Outcome] = []
    width = len(found.methods) * len(found.inputs)
    for start in range(0, len(found.outcomes), width):
        of_image = found.outcomes[start : start + width]
        of_words = words_of(loaded, found.image, embedding, of_image[0].target, found.methods, lenient=True)
        outcomes += [*of_image, *of_words]
    return replace(found, outcomes=tuple(outcomes), inputs=(*found.inputs, WORDS))


def _embedding(loaded: LoadedModel, image: Prepared) -> Tensor:
    return next(outputs_of(loaded.module, "embedding", [image.x]))[0][0]


def words_of(
    loaded: LoadedModel,
    image: Prepared,
    embedding: Tensor,
    target: ExplainedTarget,
    methods: Sequence[Method],
    *,
    lenient: bool = False,
) -> list[Outcome]:
    """The maps on the words of one text, one of each method.

    S = s cos(E, t(w)) + b is differentiated with respect to the embeddings w of the text's tokens, with the embedding E
    of the image fixed. The logits of texts that it is compared with do not depend on w.
    """
    text = checked_text(target.objective)
    embedder = loaded.texts
    assert embedder is not None  # else the text has no embedding
    try:
        tower, w, words = embedder.tower(text.text)
    except TargetError as error:
        raise TargetError(f"{loaded.name}: {error}") from None
    picture, fields = text_picture([word for word, _ in words])
    part = Prepared(w[0], picture, Geometry.whole(picture.size), image.name, input=WORDS)
    side = Text(text.text, embedding=embedding, scale=text.scale, bias=text.bias)
    applicable = [method for method in methods if not method.requires.layer]
    if len(applicable) < len(methods) and not lenient:
        layered = next(str(method) for method in methods if method.requires.layer)
        raise LayerError(f"{layered} explains layers of the image encoder: for words use 'integrated-gradients'")
    item = Item(part, (side,), inputs=Inputs(w), leaves=(part,))
    texts = LoadedModel(tower, loaded.name, weights=loaded.weights, output="embedding", notes=loaded.notes)
    found: Iterator[Outcome] = iter(())
    if applicable:
        (made,) = explain_items(texts, [item], applicable, lenient=lenient, needed=False)
        found = iter(made.outcomes)
    drawn = tuple(Word(word, count, field) for (word, count), field in zip(words, fields, strict=True))
    outcomes: list[Outcome] = []
    for method in methods:
        if method.requires.layer:
            outcomes.append(Skipped(image.name, target, method, NO_LAYER, LayerError.__name__))
            continue
        one = next(found)
        if isinstance(one, Explanation):
            outcomes.append(replace(one, attribution=of_tokens(one), target=target, words=drawn))
        else:
            outcomes.append(replace(one, target=target))
    return outcomes


def of_tokens(explanation: Explanation) -> Tensor:
    """The value of each token, (1, L): the sum over its embedding, or the largest magnitude, as the method is drawn."""
    maps = explanation.attribution.double()
    drawn = maps.abs().amax(0) if explanation.method.view == "magnitude" else maps.sum(0)
    return drawn[None].float()


def checked_text(objective: Objective | None) -> Text:
    """The objective, if it is a text that a model embeds.

    Raises:
        TargetError: if it is none.
    """
    if not isinstance(objective, Text):
        raise TargetError(f'words are explained of a text, such as text("a red car"), not of {objective}')
    return objective
