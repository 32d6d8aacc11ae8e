"""What methods of attention share: the layers of a transformer, and a number for each token as a map on the image."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from deepviz.diagnostics import NO_CLASS, OBJECTIVE
from deepviz.methods.method import Method
from deepviz.methods.needs import Needs
from deepviz.probe.attention import Attentions, attended, attentions_of, by_head, check_target
from deepviz.probe.session import Session


@dataclass(frozen=True)
class TokenMap(Method):
    """A method with a number for each token of a transformer, drawn where the token lies on the image.

    A subclass writes `by_token`, the formula for the rows of a chunk. Tokens that are not the image's (class token,
    registers) take part in the formula, and are left out of the map.
    """

    needs: ClassVar[Needs] = Needs(attention=True)
    in_default_set: ClassVar[bool] = False
    keeps_graph: ClassVar[bool] = True
    """Whether a chunk keeps the graph of all layers, which takes memory."""

    def maps(self, session: Session) -> Tensor:
        """The numbers of the image's tokens, (N, 1, *grid), or (N, K, 1, *grid) for K objectives."""
        found = attentions_of(session)
        self.prepare(session, found)

        def chunk(part: Session) -> tuple[Tensor]:
            numbers = self.by_token(part, found)
            maps = found.on_image(numbers.flatten(0, -2))
            return (maps.unflatten(0, numbers.shape[:-1]),)

        (maps,) = session.by_rows(chunk, graph=self.keeps_graph)
        facts = session.notes.facts
        facts["attention"] = str(found)
        facts["grid"] = str(found.grid)
        facts["place"] = found.known
        return maps

    def prepare(self, session: Session, found: Attentions) -> None:
        """What is to be done before the first chunk; a refusal, for instance."""

    @abstractmethod
    def by_token(self, session: Session, found: Attentions) -> Tensor:
        """A number for each token, those that are not the image's included: (n, T), or (n, K, T) for K objectives."""

    @property
    def view(self) -> Literal["positive", "sum"]:
        """From zero up."""
        return "positive"


@dataclass(frozen=True)
class ClasslessMap(TokenMap):
    """A map of what a forward pass computes, whatever is asked: the same for every class.

    A subclass writes `of_forward`, the formula.
    """

    keeps_graph: ClassVar[bool] = False

    def by_token(self, session: Session, found: Attentions) -> Tensor:
        """The formula, once for all objectives."""
        with torch.no_grad():
            numbers = self.of_forward(session, found)
        session.notes.facts[OBJECTIVE] = NO_CLASS
        return numbers[:, None].expand(-1, *session.score.shape, -1) if session.several else numbers

    @abstractmethod
    def of_forward(self, session: Session, found: Attentions) -> Tensor:
        """A number for each token, (n, T)."""

    def passes(self) -> float:
        """A forward pass."""
        return 1.0


def matrices(session: Session, found: Attentions) -> list[Tensor]:
    """A of each layer, (n, heads, queries, keys), the pooling one last."""
    seen, A = attended(session, found)
    check_target(session, seen)
    return [by_head(one, session.n) for one in A]


def through_layers(steps: list[Tensor], found: Attentions, of_input: float = 1.0) -> Tensor:
    """The row of the tokens that the score reads in the product of all layers, (I + M_L) ... (I + M_1).

    Args:
        steps: M_l of each layer, (n, T, T), the first layer first; that of the pooling one, (n, queries, T), last.
        found: the layers, and which tokens the score reads; of several rows, the mean.
        of_input: what the identity, the skip connection, is multiplied with.

    Returns:
        (n, T): how much of each token of the input arrives, as the matrices have it.
    """
    steps = list(steps)
    if found.pool is not None:
        r = steps.pop().mean(1, keepdim=True)  # its queries are no tokens: they have no skip connection to the input
    else:
        M = steps[-1]
        r = M.new_zeros(len(M), 1, M.shape[-1])
        r[..., list(found.read)] = 1 / len(found.read)
    # one row from the last layer down costs T^2 a layer, where the product of matrices would cost T^3
    for M in reversed(steps):
        r = of_input * r + r @ M
    return r[:, 0]
