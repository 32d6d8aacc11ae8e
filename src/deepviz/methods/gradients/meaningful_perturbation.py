"""Meaningful perturbation: Fong and Vedaldi 2017."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from deepviz.inputs import Leaves
from deepviz.methods.enlarge import enlarged
from deepviz.methods.method import Method, View
from deepviz.methods.needs import Needs
from deepviz.options import Baseline, Ge, Gt, Seed
from deepviz.probe.progress import tell
from deepviz.probe.reference import blurred, reference
from deepviz.probe.seeds import generator_of
from deepviz.probe.session import Session, Value

SMOOTH, JITTER = 5 / 224, 4 / 224
"""Standard deviation of the mask's blur and the largest shift, in shorter sides of the image."""
RADII = 14
SUPPRESSED = 0.99
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


@dataclass(frozen=True)
class MeaningfulPerturbation(Method):
    """The smallest smooth part of the image whose removal takes away the class: an optimised mask.

        R = 1 - up(m),    m = argmin_{m in [0, 1]} sparsity sum_u (1 - m_u) + smoothness sum_u |grad m_u|^power
                                                   + f_c(x up(m) + b (1 - up(m)))

    m is a coarse mask of `cells` along each axis, enlarged linearly and blurred; b is the image blurred, so that
    nothing new appears where it is removed. f is the probability of the class. The minimum is sought by Adam from the
    smallest disk in the middle that takes away 99 % of what b does; each step shifts the image by up to 4 pixels of
    224, so that the mask does not hit upon artefacts of single pixels.

    Shapes: x (N, C, H, W) -> (N, 1, H, W), from 0 (kept) to 1 (removed); signals (N, C, L) and volumes (N, C, D, H, W)
    likewise. Drawn from zero up.

    Errors: see `Method.__call__`.

    Pitfall: it is one local minimum of several; `sparsity` decides how large the part is. Where removing nothing or
    everything changes little, the mask says little.

    Reference: Fong and Vedaldi, "Interpretable Explanations of Black Boxes by Meaningful Perturbation" (2017),
    arXiv:1704.03296, equation 5.

    Example:
        >>> import torch
        >>> from deepviz.methods import MeaningfulPerturbation
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 5))
        >>> MeaningfulPerturbation(cells=8, steps=5)(model, torch.rand(2, 3, 16, 16), target=3).shape
        torch.Size([2, 1, 16, 16])
    """

    steps: Annotated[int, Ge(1), "Steps of the optimisation, each a gradient."] = 300
    cells: Annotated[int, Ge(2), "Cells of the mask along each axis."] = 28
    sparsity: Annotated[float, Ge(0), "Penalty of each cell that is removed."] = 1e-4
    smoothness: Annotated[float, Ge(0), "Penalty of differences between neighbouring cells."] = 1e-2
    power: Annotated[float, Gt(0), "Power of these differences."] = 3.0
    rate: Annotated[float, Gt(0), "Step size of Adam."] = 0.1
    baseline: Annotated[
        Baseline, "What takes the place of what is removed: blur, a number in normalised space, or a colour."
    ] = "blur"
    value: Annotated[Value, "What is taken away: the probability of the class, or the explained score."] = "probability"
    seed: Annotated[Seed, "Seed of the shifts."] = 0

    title: ClassVar[str] = "Meaningful perturbation"
    paper: ClassVar[str] = "Fong and Vedaldi 2017, arXiv:1704.03296"
    cost: ClassVar[str] = "`steps` (300) times (1 forward, 1 backward), 14 forwards"
    needs: ClassVar[Needs] = Needs(gradient=True)
    in_default_set: ClassVar[bool] = False

    def maps(self, session: Session) -> Tensor:
        """1 - up(m) of each row and objective."""
        session.decide()
        if self.value == "probability":
            session.warn_of_values()
        found = [self._removed(one) for one in session.each()] if session.several else [self._removed(session)]
        R = torch.stack(found, 1) if session.several else found[0]
        session.notes.warn_of_zero(
            f"{self.name} removes nothing: no part of the image is worth its penalty; a lower sparsity may find one",
            (R.flatten(R.ndim - session.image().ndim + 1).amax(-1) <= 0).cpu(),
        )
        return R

    def _removed(self, session: Session) -> Tensor:
        """1 - up(m) of each row."""

        def chunk(part: Session) -> tuple[Tensor]:
            b = reference(part.image(), self.baseline)
            first = self._first(part, b)
            m = part.depending(lambda: self._optimised(part, b, first))
            return (1 - self._enlarged(m, part.image()),)

        return session.by_rows(chunk)[0]

    def _first(self, session: Session, b: Tensor) -> Tensor:
        """The smallest disk that takes away most of what can be: 0 inside, 1 outside, (n, 1, *cells)."""
        x = session.image()
        grid = [min(self.cells, side) for side in x.shape[2:]]
        axes = [2 * (torch.arange(cells) + 0.5) / cells - 1 for cells in grid]
        distance = torch.stack(torch.meshgrid(*axes, indexing="ij")).norm(dim=0)
        radii = torch.linspace(0, 1.01 * float(distance.max()), RADII)  # nothing removed, to all
        # of an image in half precision the mask is in float32: squares of small gradients, and epsilon, would be zero
        precise = torch.promote_types(x.dtype, torch.float32)
        disks = torch.stack([distance >= radius for radius in radii]).unsqueeze(1).to(x.device, precise)
        up = self._enlarged(disks, x)
        rows = torch.arange(session.n).repeat_interleave(RADII)

        def removed(chunk: slice) -> Tensor:
            row, disk = (places.to(x.device) for places in (rows[chunk], torch.arange(len(rows))[chunk] % RADII))
            return torch.lerp(b[row], x[row], up[disk].to(x.dtype))

        f = session.ask(rows, removed, self.value).view(session.n, RADII)
        left = (f - f[:, -1:]) / (f[:, :1] - f[:, -1:])
        return disks[(left <= 1 - SUPPRESSED).int().argmax(1).to(x.device)]

    def _optimised(self, session: Session, b: Tensor, m: Tensor) -> Tensor:
        """The mask after all steps of Adam (Kingma and Ba 2014), (n, 1, *cells); each row by itself."""
        x = session.image()
        mean, square = torch.zeros_like(m), torch.zeros_like(m)
        for step in range(1, self.steps + 1):
            m = m.detach().requires_grad_()
            masked = self._shifted(torch.lerp(b, x, self._enlarged(m, x).to(x.dtype)), step)
            f = self._value(session.with_image(masked))
            penalty = self.sparsity * (1 - m).sum() + self.smoothness * self._roughness(m)
            gradient = session.backward(f, Leaves((m,)))[0] + torch.autograd.grad(penalty, m)[0]
            mean = BETA1 * mean + (1 - BETA1) * gradient
            square = BETA2 * square + (1 - BETA2) * gradient.square()
            change = (mean / (1 - BETA1**step)) / ((square / (1 - BETA2**step)).sqrt() + EPSILON)
            m = (m.detach() - self.rate * change).clamp(0, 1)
            tell(2 * step, 2 * self.steps)
        return m

    def _value(self, session: Session) -> Tensor:
        return session.value(session.look(), self.value)

    def _roughness(self, m: Tensor) -> Tensor:
        """sum_u |grad m_u|^power, over neighbours along each axis."""
        return torch.stack([m.diff(dim=axis).abs().pow(self.power).sum() for axis in range(2, m.ndim)]).sum()

    @staticmethod
    def _enlarged(m: Tensor, x: Tensor) -> Tensor:
        """up(m): at the image's size, smooth."""
        large = enlarged(m, x.shape[2:])
        return blurred(large, SMOOTH * min(x.shape[2:]))

    def _shifted(self, x: Tensor, step: int) -> Tensor:
        """The images moved by a few pixels, the same for all; what leaves at one side comes in at the other."""
        generator = generator_of(self.seed, step)
        most = round(JITTER * min(x.shape[2:]))
        shifts = torch.randint(-most, most + 1, (x.ndim - 2,), generator=generator).tolist()
        return x.roll(shifts, tuple(range(2, x.ndim)))

    def passes(self) -> float:
        """Two for each step, and those that find the first mask."""
        return 2.0 * self.steps + RADII

    @property
    def view(self) -> View:
        """From zero up."""
        return "positive"
