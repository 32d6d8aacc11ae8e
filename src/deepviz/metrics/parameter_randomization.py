"""Parameter randomisation: Adebayo et al. 2018."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from deepviz.diagnostics import Diagnostics
from deepviz.errors import ModelError
from deepviz.methods.method import Method, as_drawn, map_of_image
from deepviz.metrics.metric import Better, Metric, judging
from deepviz.metrics.similarity import SIMILARITIES
from deepviz.options import Ge, Gt, Seed
from deepviz.probe.outputs import Kind
from deepviz.probe.randomise import Randomised, randomised
from deepviz.probe.seeds import generator_of
from deepviz.probe.session import Session

Mode = Literal["cascading", "independent"]
"""Layers get new weights from the output down, each step on top of those before, or one step's layers alone."""
MapSimilarity = Literal["absolute-spearman", "spearman", "ssim", "hog"]
"""How two maps are compared; see `deepviz.metrics.similarity`."""
LAYERS = 50
"""Of a network of which their number is not known, to estimate the cost."""


@dataclass(frozen=True)
class Smooth:
    """How often a map is taken with noise on the image, and with how much; once is without."""

    samples: int = 1
    noise: float = 0.0
    seed: int = 0


@dataclass(frozen=True, eq=False)
class RandomizationCurve:
    """How similar a method's maps stay while the network's layers get random weights.

    Args:
        stages: "trained", then the last layer that each stage has randomised, from the output down.
        shares: of the layers that are random at each stage, from 0 to 1.
        similarities: (N, S + 1), to the trained network's maps; 1 for these themselves.
        maps: as they are drawn, (N, h, w) for each stage; empty unless asked for.
    """

    stages: tuple[str, ...]
    shares: tuple[float, ...]
    similarities: Tensor
    maps: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class ParameterRandomization(Metric):
    """How similar a method's maps of the trained and of a random network are.

        s = similarity(M(f, x), M(f_r, x)),    f_r: f with new weights in every layer

    Lower is better: a map that stays the same shows the image and the architecture, not what was learned. From -1 to
    1; about 0 for unrelated maps. Cost: two maps of the method, and a copy of the model; `independent`: `stages` + 1
    maps. The map is compared as it is drawn (the maximum of |.| or the sum over channels), at the method's own
    resolution, for the class that the trained network predicted and at the layer that was found in it.

    `mode="cascading"`: layers get new weights from the output down, and all have them in the end; that end is the
    value, and `curve` has the way to it. "independent": one step's layers are random at a time, all others as they
    were, and the value is the mean over the steps (`stages=None`: layer by layer, as in the paper).

    New weights are those that PyTorch starts with: uniform within 1/sqrt(fan-in) for convolutions and linear layers;
    1 and 0 for normalising layers and their running statistics; for any other parameter a normal distribution
    with its own mean and standard deviation. They go into a copy; neither the model nor global random state changes.

    `samples` above 1 is the smooth variant of Hedstrom et al. 2024: M is the mean of the signed maps of that many
    copies of the image with noise of standard deviation `noise` (max x - min x), the same draws for both networks, so
    that the noise of a gradient alone does not make maps unlike. They take 50 at 0.1; theirs has the clean image as
    one of the samples, and draws other noise for each network. Their efficient variant is `EfficientRandomization`.

    Shapes: x (N, C, H, W), a method -> (N,); `curve` gives (N, S + 1).

    Errors: see `Metric.__call__`; ModelError where the random network has no finite scores, with the layers.

    Pitfall: a low value is not evidence of quality: a method that draws noise has one too. And the last stage does
    not show the ones before: guided backpropagation may keep nearly all of its map until the lowest layers go, so
    look at `curve`. Similarities see different things: the rank correlation of magnitudes (the default) where a map
    is strong, SSIM its texture, HOG the directions of its edges; "spearman" differs from the default only for
    methods that are drawn with a sign. A map that is the same everywhere, as of a dead random network, has
    similarity 0 (1 if both are), with a warning.

    Reference: Adebayo, Gilmer, Muelly, Goodfellow, Hardt and Kim, "Sanity Checks for Saliency Maps" (2018),
    arXiv:1810.03292; Hedstrom, Weber, Lapuschkin and Hoehne, "A Fresh Look at Sanity Checks for Saliency Maps"
    (2024), arXiv:2405.02383.

    Example:
        >>> import torch
        >>> from deepviz.methods import Gradient
        >>> from deepviz.metrics import EdgeDetector, ParameterRandomization
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 5))
        >>> x = torch.rand(2, 3, 32, 32)
        >>> bool((ParameterRandomization()(model, x, Gradient(), target=3).abs() < 0.2).all())
        True
        >>> ParameterRandomization()(model, x, EdgeDetector(), target=3).round(decimals=6).tolist()
        [1.0, 1.0]
    """

    mode: Annotated[Mode, "From the output down, each step on top of those before, or one step's layers alone."] = (
        "cascading"
    )
    similarity: Annotated[MapSimilarity, "How maps are compared: rank correlation, SSIM or HOG."] = "absolute-spearman"
    stages: Annotated[
        int | None, Ge(1), "Number of steps in which all layers are randomised; none: layer by layer."
    ] = 16
    samples: Annotated[int, Ge(1), "Noisy images whose maps are averaged first; 1: the image as it is."] = 1
    noise: Annotated[float, Gt(0), "Standard deviation of their noise, as a fraction of the image's range."] = 0.1
    seed: Annotated[Seed, "Seed of the random weights and of the noise."] = 0

    title: ClassVar[str] = "Parameter randomization"
    paper: ClassVar[str] = "Adebayo et al. 2018, arXiv:1810.03292"
    cost: ClassVar[str] = "2 maps of the method; independent: `stages` + 1"
    better: ClassVar[Better] = "lower"
    range: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    spatial: ClassVar[tuple[int, ...]] = (2, 3)
    judges: ClassVar[Literal["map", "method"]] = "method"

    def curve(
        self,
        model: nn.Module,
        x: Any,
        attribution: Method,
        target: Any = None,
        *,
        extra: Any = None,
        output: Kind = "auto",
        maps: bool = False,
    ) -> RandomizationCurve:
        """The similarity stage by stage. Arguments as for a call; `maps`: whether to keep what was compared."""
        with judging(model, x, target, extra, output) as session:
            self.check(attribution, session.image())
            found = list(self._compared(session, attribution, self.stages))
        return RandomizationCurve(
            stages=("trained", *(stage.layers[-1] for stage, _, _ in found if stage is not None)),
            shares=(0.0, *(stage.share for stage, _, _ in found if stage is not None)),
            similarities=torch.stack([similarity for _, _, similarity in found], 1),
            maps=tuple(drawn for _, drawn, _ in found) if maps else (),
        )

    def passes(self, method: Method) -> float:
        """2 maps; "independent": one for each stage and that of the trained network, of about 50 layers if `stages` is
        None."""
        stages = 1 if self.mode == "cascading" else self.stages or LAYERS
        return self.samples * (stages + 1) * method.passes()

    def measure(self, session: Session, attribution: Method) -> Tensor:
        """The similarity with all layers random, or the mean over steps that are random alone."""
        # a layer's new weights do not depend on the number of stages
        stages = 1 if self.mode == "cascading" else self.stages
        _, *random = [similarity for _, _, similarity in self._compared(session, attribution, stages)]
        return torch.stack(random).mean(0)

    def _compared(
        self, session: Session, method: Method, stages: int | None
    ) -> Iterator[tuple[Randomised | None, Tensor, Tensor]]:
        """For the trained network, then for each stage: the maps as they are drawn, and their similarity."""
        smooth = Smooth(self.samples, self.noise, self.seed)
        found = drawn_when_random(session, method, stages, self.mode == "cascading", self.seed, smooth)
        _, trained = next(found)
        yield None, trained, trained.new_ones(len(trained), dtype=torch.float64)
        for stage, maps in found:
            yield stage, maps, SIMILARITIES[self.similarity](trained, maps)


def drawn_when_random(
    session: Session,
    method: Method,
    stages: int | None,
    cascading: bool = True,
    seed: int = 0,
    smooth: Smooth = Smooth(),
) -> Iterator[tuple[Randomised | None, Tensor]]:
    """A method's maps as they are drawn, (N, h, w) on the CPU: the trained network's, then each stage's.

    Raises:
        ModelError: if a stage's maps or scores are not finite.
    """
    session.decide()
    method = method.layers_by_name(session.model)  # a copy has other modules, of the same names
    notes = Diagnostics()
    trained = _drawn(method, session.with_notes(notes), smooth)
    for text in notes.general:
        session.notes.warn(text)
    _warn_of_flat(session, method, trained, "the trained")
    yield None, trained
    layer = notes.facts.get("layer")
    method = method if layer is None else method.with_layer(layer)
    for stage in randomised(session.model, session.inputs, stages=stages, cascading=cascading, seed=seed):
        try:
            # the copy was made of a borrowed model, so it is in eval mode too
            maps = _drawn(method, session.of_model(stage.model), smooth)
        except ModelError as error:
            raise ModelError(f"with random weights from the output to {stage.layers[-1]!r}: {error}") from error
        _warn_of_flat(session, method, maps, "a random")
        yield stage, maps


def _drawn(method: Method, session: Session, smooth: Smooth) -> Tensor:
    """The map's values as the picture shows them; of volumes slice beside slice."""
    maps = _averaged(method, session, smooth)
    maps = maps.detach().to("cpu", torch.promote_types(maps.dtype, torch.float32))
    if not bool(torch.isfinite(maps).all()):
        raise ModelError(
            f"{method.name} gave NaN or infinity; try another seed, or float32 for a model in half precision"
        )
    drawn = maps.abs().amax(1) if method.view == "magnitude" else as_drawn(method, maps).sum(1)
    return drawn if drawn.ndim == 3 else drawn.movedim(1, 2).flatten(2)


def _averaged(method: Method, session: Session, smooth: Smooth) -> Tensor:
    """1/n sum_i M(x + s e_i), or M(x) for n = 1; the same draws e_i for every row."""
    if smooth.samples == 1:
        return map_of_image(method, session)
    x = session.image()
    axes = tuple(range(1, x.ndim))
    s = smooth.noise * (x.amax(axes, keepdim=True) - x.amin(axes, keepdim=True))
    total: Any = 0
    for sample in range(smooth.samples):
        generator = generator_of(smooth.seed, sample)
        e = torch.randn(x.shape[1:], generator=generator).to(x)
        total = total + map_of_image(method, session.with_image(x + s * e))
    mean: Tensor = total / smooth.samples
    return mean


def _warn_of_flat(session: Session, method: Method, maps: Tensor, network: str) -> None:
    flat = maps.flatten(1)
    same = flat.amin(1) == flat.amax(1)
    if bool(same.any()):
        session.notes.warn(f"{method.name} of {network} network is constant, so no similarity can be computed", same)
