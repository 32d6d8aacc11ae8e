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

    def missing_from(self, kind: str) -> str:
        """What it asks for that "a plain function" has not, in words; "" for a black-box method.

        Example:
            >>> Needs(gradient=True, layer=True).missing_from("a plain function")
            'a plain function, which has no gradient and no layers'
        """
        words = {"gradient": "gradient", "layer": "layers", "rectifier": "rectifiers", "attention": "attention"}
        asked = [f"no {word}" for name, word in words.items() if getattr(self, name)]
        *most, last = asked or [""]
        return f"{kind}, which has {' and '.join(filter(None, [', '.join(most), last]))}" if asked else ""

    def __str__(self) -> str:
        """In words: "forward, gradient"."""
        words = ("forward", "gradient", "layer", "rectifier", "pooling", "attention")
        return ", ".join(word for word in words if getattr(self, word))
