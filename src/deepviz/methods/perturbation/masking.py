"""One image of a session, of which parts are replaced by a baseline, and what the model says to that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from torch import Tensor

from deepviz.errors import ImageError, ModelError
from deepviz.inputs import Leaves
from deepviz.options import Baseline, Noise
from deepviz.probe.imputation import imputed
from deepviz.probe.reference import references
from deepviz.probe.session import Session, Value

SoftReplacement = Annotated[
    Baseline | Noise,
    "What stands in place of what is taken away: a number in normalised space, blur, by colour black, grey, white, "
    "mean, or noise.",
]
Inpainted = Literal["inpainted"]
Replacement = Annotated[
    Baseline | Noise | Inpainted,
    "What stands in place of what is taken away: a number in normalised space, blur, by colour black, grey, white, "
    "mean, noise, or inpainted: the weighted mean of what is around it.",
]
Read = Annotated[Value, "What is read of the model: the explained score, or the probability of the class."]
ROUNDING = 4
"""In units of the last place, how far apart scores may be that are the same."""
Masks = Callable[[slice], Tensor]
"""From a slice of the masked copies to their masks (n, 1, *space): 1 keeps the image, 0 takes it away."""


@dataclass(frozen=True, eq=False)
class Masking:
    """One image (row) of a session and its baseline.

    Args:
        session: the session of all rows.
        row: which of them.
        baseline: (1, C, *space); None where what is taken away is filled from around it, which masks of zeros and ones
            alone allow.
        value: what is read of the model.
        extremes: the lowest and the highest value that the model has said so far, (2, K), in a list of one.
    """

    session: Session
    row: int
    baseline: Tensor | None
    value: Value
    extremes: list[Tensor] = field(default_factory=list)

    @property
    def x(self) -> Tensor:
        """The image, (1, C, *space)."""
        return self.session.image()[self.row : self.row + 1]

    @property
    def space(self) -> tuple[int, ...]:
        """Its sizes."""
        return tuple(self.x.shape[2:])

    def values(self, count: int, masks: Masks) -> Tensor:
        """f(x m + b (1 - m)) for each mask m, (count, K) in float64 on the CPU; K is 1 for one objective."""
        x, b = self.x, self.baseline

        def make(chunk: slice) -> Tensor:
            m = masks(chunk).to(x)
            if b is not None:
                return torch.lerp(b, x, m)
            removed = m[:, 0] == 0
            if bool(removed.flatten(1).all(1).any()):
                raise ImageError("baseline='inpainted' fills what is taken away from what is left, and nothing is left")
            return imputed(x.expand(len(m), *x.shape[1:]), removed)

        return self.of_copies(count, make)

    def of_copies(self, count: int, make: Callable[[slice], Tensor]) -> Tensor:
        """f of so many changed copies of the image, (count, K) in float64 on the CPU."""
        rows = torch.full((count,), self.row)
        try:
            return self._table(self.session.ask(rows, make, self.value))
        except ModelError as error:
            raise type(error)(
                f"{error}; this was one of the images of which parts are replaced: another baseline may help, such as "
                "blur"
            ) from error

    @property
    def home(self) -> torch.device:
        """Where sums in double precision are taken: where the image is, if that has it."""
        return torch.device("cpu") if self.x.device.type == "mps" else self.x.device

    @property
    def clean(self) -> Tensor:
        """f(x), (1, K)."""
        return self._table(self.session.clean(self.value)[self.row : self.row + 1])

    @property
    def empty(self) -> Tensor:
        """f(b), (1, K)."""
        return self.values(1, lambda chunk: self.x.new_zeros(1, 1, *[1] * len(self.space)))

    def _table(self, values: Tensor) -> Tensor:
        table = values.reshape(len(values), -1).to("cpu", torch.float64)
        self.extremes[:] = [torch.stack(torch.cat([*self.extremes, table]).aminmax(dim=0))]
        return table

    @property
    def says_nothing(self) -> Tensor:
        """Whether all that the model has said so far is the same but for rounding, (K,)."""
        low, high = self.extremes[0]
        most = torch.maximum(low.abs(), high.abs())
        same: Tensor = high - low <= ROUNDING * torch.finfo(self.x.dtype).eps * most
        return same


def replacements(session: Session, baseline: Baseline | Noise | Inpainted, seed: int) -> Tensor | None:
    """The baseline of each image, (N, C, *space), laid out as the images are; of a noise a single draw; None for what
    is filled from around it.

    Raises:
        ImageError: if what is to be filled is no image.
    """
    if isinstance(baseline, str) and baseline == "inpainted":
        image = session.image()
        if image.ndim != 4:
            raise ImageError(f"baseline='inpainted' is for images (N, C, H, W), got an input {tuple(image.shape)}")
        return None
    ((found,),) = references(Leaves((session.image(),)), (baseline,), 1, seed)
    return session.call.to_layout(found)
