"""Expected gradients, or GradientSHAP: Erion et al. 2021."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from deepviz.inputs import Leaves
from deepviz.methods.gradients.moments import Moments
from deepviz.methods.gradients.paths import between
from deepviz.methods.method import Method, View
from deepviz.methods.needs import Needs
from deepviz.options import Baselines, Ge, Seed
from deepviz.probe.chunks import spans
from deepviz.probe.reference import drawn, is_noise, reference
from deepviz.probe.seeds import generator_of
from deepviz.probe.session import Session


@dataclass(frozen=True)
class ExpectedGradients(Method):
    """Integrated gradients, averaged over a distribution of baselines; also called GradientSHAP.

        R = E [ (x - x') * dS_c(x' + a (x - x')) / dx ],    x' ~ D,    a ~ U(0, 1)

    The expectation is the mean over `samples`, each with a baseline x' and a point a of its own. D are the
    `baselines`, each as likely as the others: images of yours in the input's normalised space,
    `baselines=list(images)` for a tensor (M, C, H, W), numbers, "blur", colours where the preprocessing is known, or
    noise, "uniform-noise" over the range of each channel of the image (the default) or "gaussian-noise" with its mean
    and standard deviation, drawn anew for each sample. A baseline, like an image, is one for all rows. Draws depend on
    `seed` and the number of the sample, so that a row's result does not depend on the batch.

    Shapes: x (N, C, H, W) -> (N, C, H, W), in units of the score. Drawn as the signed sum over channels. The notes
    hold "standard error": that of the mean, relative to the map. The values sum to S(x) - E S(x'), up to that error.

    Errors: ValueError for a baseline that does not fit one image, or one named by colour on a bare module. See also
    `Method.__call__`.

    Pitfall: the map answers "compared with these baselines"; another set gives another map. For one baseline
    `IntegratedGradients` needs far fewer gradients, since its points are spread evenly.

    Reference: Erion, Janizek, Sturmfels, Lundberg and Lee, "Improving performance of deep learning models with
    axiomatic attribution priors and expected gradients" (2021), arXiv:1906.10670.

    Example:
        >>> import torch
        >>> from deepviz.methods import ExpectedGradients
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 5))
        >>> x, others = torch.rand(2, 3, 8, 8), torch.rand(4, 3, 8, 8)
        >>> ExpectedGradients(baselines=list(others), samples=20)(model, x, target=3).shape
        torch.Size([2, 3, 8, 8])
    """

    baselines: Annotated[
        Baselines, "Where the baseline of each sample is drawn from: noise, numbers, blur, colours, in Python images."
    ] = ("uniform-noise",)
    samples: Annotated[int, Ge(2), "Samples; the cost is this many gradients."] = 100
    seed: Annotated[Seed, "Seed of the samples."] = 0

    title: ClassVar[str] = "Expected gradients"
    paper: ClassVar[str] = "Erion et al. 2021, arXiv:1906.10670"
    cost: ClassVar[str] = "`samples` times (1 forward, 1 backward)"
    needs: ClassVar[Needs] = Needs(gradient=True)
    in_default_set: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.baselines:
            raise ValueError("baselines must be at least one, got ()")

    def passes(self) -> float:
        """`samples` gradients."""
        return 2.0 * self.samples

    def maps(self, session: Session) -> Leaves:
        """The mean of (x - x') dS(x' + a (x - x'))/dx over the samples."""
        session.decide()
        session = session.to_layout()
        moments = [self._moments(session, row) for row in range(session.n)]
        errors = [moment.relative_error(session.several) for moment in moments]
        session.notes.rows["standard error"] = torch.stack(errors).cpu()
        return Leaves(torch.stack(maps) for maps in zip(*(moment.mean for moment in moments), strict=True))

    def _moments(self, session: Session, row: int) -> Moments:
        x = session.x.rows(slice(row, row + 1))
        moments = Moments()
        for span in spans(self.samples, session.chunk()):
            samples = [self._sample(sample, x) for sample in range(span.start, span.stop)]
            a = torch.stack([point for _, point in samples])
            start = Leaves(torch.cat(leaves) for leaves in zip(*(start for start, _ in samples), strict=True))
            same = torch.full((len(samples),), row)
            point = between(x, start, same, a).map(session.call.to_layout)
            G = session.at(point, same).gradient()
            moments.add(x.map(lambda x, start, G: session.beside(x - start).to(G) * G, start, G))
        return moments

    def _sample(self, sample: int, x: Leaves) -> tuple[Leaves, Tensor]:
        """x' and a of one sample, for one row."""
        generator = generator_of(self.seed, sample)
        a = torch.rand((), generator=generator, dtype=torch.float64)
        chosen = int(torch.randint(len(self.baselines), (), generator=generator))
        baseline: Any = self.baselines[chosen]
        if is_noise(baseline):
            return x.map(lambda leaf: drawn(leaf, baseline, generator)), a
        return x.map(lambda leaf: reference(leaf, baseline)), a

    def starts(self, x: Leaves) -> list[Leaves]:
        """The baseline of each sample."""
        return [self._sample(sample, x)[0] for sample in range(self.samples)]

    @property
    def view(self) -> View:
        """The signed sum over channels."""
        return "sum"
