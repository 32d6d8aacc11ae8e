"""`Text`: how well an image fits a text, for models that embed both (CLIP, SigLIP)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import torch.nn.functional as F
from torch import Tensor

from deepviz.errors import TargetError
from deepviz.objectives.embedder import Embedder
from deepviz.objectives.objective import Objective, literal
from deepviz.options import validate_fields
from deepviz.probe.outputs import class_scores
from deepviz.probe.seen import Seen


@dataclass(frozen=True, eq=False)
class Text(Objective):
    """The logit of a text, as CLIP and SigLIP have it; minus the mean logit of other texts, if there are any.

        S = s cos(E, t) + b,    minus the mean of s cos(E, a_j) + b over the texts `against`

    with the embeddings E of the image, t and a_j of the texts, the model's scale s and, of SigLIP, its bias b. A logit
    says how well the text fits, whatever the alternatives; `against=("a car",)` asks why a *red* car.

    The texts are embedded once, by the model that is explained (`deepviz.explain`); on tensors give `embedding` and
    `others` yourself.

    Pitfall: what a text-image model has learned of a word is seldom all of it: compare several wordings.

    Reference: Radford et al. 2021, arXiv:2103.00020.

    Example:
        >>> import torch
        >>> seen = Seen(torch.tensor([[3.0, 4.0]]), (torch.zeros(1, 3, 8, 8),))
        >>> Text("up", embedding=torch.tensor([0.0, 1.0]), scale=100.0)(seen)
        tensor([80.])
        >>> against = Text("up", ("right",), torch.tensor([0.0, 1.0]), torch.tensor([[1.0, 0.0]]), scale=100.0)
        >>> against(seen)  # 80 - 60
        tensor([20.0000])
    """

    text: Annotated[str, "What the image is compared with."]
    against: Annotated[tuple[str, ...], "Texts whose mean logit is subtracted."] = ()
    embedding: Annotated[Tensor | None, "Of the text, (D,); None: the model's."] = None
    others: Annotated[Tensor | None, "Of the texts that are subtracted, (M, D); None: the model's."] = None
    scale: Annotated[float, "Factor of the cosine, with an embedding that is given."] = 1.0
    bias: Annotated[float, "What is added, with an embedding that is given."] = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.against, str):
            object.__setattr__(self, "against", (self.against,))
        elif isinstance(self.against, Sequence):
            object.__setattr__(self, "against", tuple(self.against))
        validate_fields(self)
        for text in (self.text, *self.against):
            if not isinstance(text, str) or not text.strip():
                raise TargetError(f"a text must not be empty, got {text!r}")
        if (self.embedding is None) != (self.others is None) and self.against:
            raise TargetError("give the embeddings of the text and of those against it, or none of them")

    def embedded(self, model: Embedder) -> Objective:
        """With the embeddings of its texts.

        Raises:
            TargetError: if the model embeds no texts, or one is too long for it.
        """
        if self.embedding is not None:
            return self
        found = model.embed_texts((self.text, *self.against))
        others = found.embeddings[1:] if self.against else None
        return replace(self, embedding=found.embeddings[0], others=others, scale=found.scale, bias=found.bias)

    def __call__(self, seen: Seen) -> Tensor:
        """s cos(E, t) + b - mean_j (s cos(E, a_j) + b)."""
        if self.embedding is None:
            raise TargetError(f"{self}: the text has no embedding yet: explain a model that embeds texts, or give one")
        E = class_scores(seen.output, "embedding")
        t = self.embedding.to(E)
        if t.shape != E.shape[1:]:
            raise TargetError(f"the text's embedding is {tuple(t.shape)}, and those of images are {tuple(E.shape[1:])}")
        S = self.scale * F.cosine_similarity(E, t[None], dim=1)
        if self.others is None:
            return S + self.bias
        others = F.cosine_similarity(E[:, None], self.others.to(E)[None], dim=2)
        return S - self.scale * others.mean(1)

    def caption(self, label: Callable[[int], str] | None = None) -> str:
        """In words."""
        return f"“{self.text}”" + (f" against {', '.join(f'“{one}”' for one in self.against)}" if self.against else "")

    def __str__(self) -> str:
        against = f", {literal(self.against)}" if self.against else ""
        return f"text({literal(self.text)}{against})"
