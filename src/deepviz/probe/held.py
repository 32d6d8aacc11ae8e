"""A forward pass that serves twice: that which tells what a model predicts, and the first gradient of the same rows."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from deepviz.inputs import Inputs
from deepviz.probe.outputs import Kind
from deepviz.probe.seen import Seen
from deepviz.probe.state import State


@dataclass(eq=False)
class Held:
    """At most one forward pass of all rows, with its graph.

    The graph takes as much memory as that of a chunk, so whoever makes one of these drops the pass once it is of no
    more use.
    """

    _pass: tuple[nn.Module, State, Inputs, Kind, Seen] | None = None

    def put(self, model: nn.Module, state: State, inputs: Inputs, kind: Kind, seen: Seen) -> None:
        """Keep a pass of a model in a state, in place of any other."""
        self._pass = (model, state, inputs, kind, seen)

    def take(self, model: nn.Module, state: State, inputs: Inputs, kind: Kind) -> Seen | None:
        """The pass, which then is held no more; None if there is none of just these inputs."""
        held, self._pass = self._pass, None
        if held is None or held[0] is not model or held[2] is not inputs or held[1] != state or held[3] != kind:
            return None
        return held[4]

    def drop(self) -> None:
        """Hold nothing."""
        self._pass = None
