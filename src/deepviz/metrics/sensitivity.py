"""What the two sensitivities of Yeh et al. 2019 share: how far maps move when the image moves a little."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from deepviz.diagnostics import Diagnostics
from deepviz.methods.method import Method, as_drawn, map_of_image
from deepviz.metrics.metric import Better, Metric
from deepviz.options import Ge, Gt, Seed
from deepviz.probe.seeds import generator_of
from deepviz.probe.session import Session


@dataclass(frozen=True)
class Sensitivity(Metric):
    """How far a method's map moves, relative to itself, for random images near the given one; of a map that is drawn
    from its lowest value up, less that value."""

    samples: Annotated[int, Ge(1), "Images near the given one; each costs one map."] = 10
    radius: Annotated[float, Gt(0), "Largest perturbation of a value, relative to the image's range."] = 0.02
    seed: Annotated[Seed, "Seed of the perturbations."] = 0

    paper: ClassVar[str] = "Yeh et al. 2019, arXiv:1901.09392"
    cost: ClassVar[str] = "`samples` + 1 maps of the method"
    better: ClassVar[Better] = "lower"
    range: ClassVar[tuple[float, float]] = (0.0, float("inf"))
    spatial: ClassVar[tuple[int, ...]] = (2, 3)
    judges: ClassVar[Literal["map", "method"]] = "method"

    def passes(self, method: Method) -> float:
        """`samples` + 1 maps."""
        return (self.samples + 1) * method.passes()

    def measure(self, session: Session, attribution: Method) -> Tensor:
        """Sum up ||M(x + d) - M(x)|| / ||M(x)|| over d."""
        session.decide()
        x, notes = session.image(), Diagnostics()
        inner = session.with_notes(notes)
        M = as_drawn(attribution, map_of_image(attribution, inner)).flatten(1)
        # all maps at the layer that was found for the image itself
        layer = notes.facts.get("layer")
        method = attribution if layer is None else attribution.with_layer(layer)
        length = M.norm(dim=1)
        if bool((length == 0).any()):
            session.notes.warn(f"{method.name} is all zero: its sensitivity is not relative", (length == 0).cpu())
        axes = tuple(range(1, x.ndim))
        r = self.radius * (x.amax(axes, keepdim=True) - x.amin(axes, keepdim=True))
        moved = []
        for k in range(self.samples):
            generator = generator_of(self.seed, k)
            d = r * (2 * torch.rand(x.shape[1:], generator=generator) - 1).to(x)
            near = as_drawn(method, map_of_image(method, inner.with_image(x + d))).flatten(1)
            moved.append((near - M).norm(dim=1))
        relative = torch.stack(moved) / torch.where(length > 0, length, 1)
        return self.over(relative.to(torch.promote_types(relative.dtype, torch.float32)))

    @abstractmethod
    def over(self, moved: Tensor) -> Tensor:
        """What (samples, N) relative distances sum up to: (N,)."""
