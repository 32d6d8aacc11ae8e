"""What a method asks of a model, declared."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Needs:
    """What a method needs of a model; `|` joins the needs of two.

    Args:
        forward: what the model returns.
        gradient: the gradient of the score with respect to the input.
        layer: what a layer returns, and the gradient there.
        rectifier: rectifiers that a rule can change.
        pooling: a mean over the layer's positions and one linear layer after it.
        attention: attention between the tokens of an image, and the gradient there.
    """

    forward: bool = True
    gradient: bool = False
    layer: bool = False
    rectifier: bool = False
    pooling: bool = False
    attention: bool = False

    def __or__(self, other: Needs) -> Needs:
        return Needs(
            forward=self.forward or other.forward,
            gradient=self.gradient or other.gradient,
            layer=self.layer or other.layer,
            rectifier=self.rectifier or other.rectifier,
            pooling=self.pooling or other.pooling,
            attention=self.attention or other.attention,
        )

    @property
    def coarse(self) -> bool:
        """Whether the map has a layer's few cells: what comes from a layer or from tokens has no value per pixel."""
        return (self.layer or self.attention) and not self.gradient

    @property
    def black_box(self) -> bool:
        """Whether any callable will do as a model."""
        return not (self.gradient or self.layer or self.rectifier or self.attention)

    def __str__(self) -> str:
        """In words: "forward, gradient"."""
        words = ("forward", "gradient", "layer", "rectifier", "pooling", "attention")
        return ", ".join(word for word in words if getattr(self, word))
