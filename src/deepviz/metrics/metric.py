"""What every metric is: a small frozen value, called with (model, x, attribution, target)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from deepviz.errors import ImageError, ModelError
from deepviz.methods.enlarge import enlarged
from deepviz.methods.method import SPACES, Method, asked, in_short
from deepviz.options import Frozen
from deepviz.probe.outputs import Kind
from deepviz.probe.reference import Colours, resolve_baselines
from deepviz.probe.session import Session, opened

Better = Literal["higher", "lower"]
Channels = Literal["sum", "magnitude"]
"""How a map with several channels becomes one value per pixel: the signed sum, or the maximum of |.|."""
ChannelsOption = Annotated[
    Channels | None,
    "How a map with several channels becomes one value per pixel: sum or magnitude; None: as the method's picture "
    "shows it where the method is known, else sum.",
]


@dataclass(frozen=True)
class Metric(Frozen, ABC):
    """A measure of one explanation: a pure function of (model, x, attribution, target).

    Fields are plain values or methods, all with defaults, described once in their annotation. A subclass writes
    `measure`, the formula; everything around it (borrowing the model, choosing the class, checking the map) is done
    here. Metrics of a method as a whole (robustness, randomisation) take the method in place of the map.
    """

    title: ClassVar[str] = ""
    """The name in tables; by default the class's."""
    paper: ClassVar[str] = ""
    """Authors, year and where to find it."""
    cost: ClassVar[str] = ""
    """What one image costs, in forward and backward passes."""
    better: ClassVar[Better] = "higher"
    """Which direction is good."""
    range: ClassVar[tuple[float, float]] = (float("-inf"), float("inf"))
    """The least and the largest value that it can take."""
    judges: ClassVar[Literal["map", "method"]] = "map"
    """Whether it is given a map, or the method that makes maps."""
    spatial: ClassVar[tuple[int, ...]] = (2,)
    """How many spatial axes an input may have: 2 of images (N, C, H, W), 3 of volumes and clips (N, C, D, H, W)."""

    def __call__(
        self,
        model: nn.Module,
        x: Any,
        attribution: Tensor | Method,
        target: Any = None,
        *,
        extra: Any = None,
        output: Kind = "auto",
    ) -> Tensor:
        """One value for each row.

        Args:
            model: any `nn.Module` that returns class scores (N, K), left exactly as it was; or a callable that does,
                for metrics that need forward passes alone.
            x: (N, C, H, W), as the model takes it (normalised); not written to. Of volumes and clips (N, C, D, H, W),
                where `spatial` says so; what is said of pixels then holds for voxels.
            attribution: the maps that are judged, (N, C, H, W), or (N, 1, h, w) of a layer, which are enlarged
                bilinearly, of volumes trilinearly; for a metric that judges methods, the `Method`.
            target: the class that was explained: an index, a tensor (N,), a callable from the model's raw output to
                one score per row; None: the predicted class.
            extra: what the model takes beside `x`, as for a method.
            output: what the model returns, as for a method.

        Returns:
            (N,), float32 or wider, on the CPU.

        Raises:
            TypeError: if the arguments are swapped, or a map is given for a method or the other way round.
            ValueError: for maps that do not fit `x` or are not finite.
            ImageError: for volumes, if the metric is of images alone.
            TargetError, ModelError: as methods raise them.
        """
        return self.judge(self.measure, model, x, attribution, target, extra, output)

    def judge(
        self,
        measure: Callable[[Session, Any], Tensor],
        model: nn.Module,
        x: Any,
        attribution: Tensor | Method,
        target: Any = None,
        extra: Any = None,
        output: Kind = "auto",
    ) -> Tensor:
        """What `measure` finds, with the model borrowed and the arguments checked."""
        with judging(model, x, target, extra, output) as session:
            self.check(attribution, session.image())
            return self.measured(measure, session, attribution)

    def measured(self, measure: Callable[[Session, Any], Tensor], session: Session, attribution: Any) -> Tensor:
        """What `measure` finds, if it is finite, on the CPU."""
        found = measure(session, attribution)
        if not bool(torch.isfinite(found).all()):
            raise ModelError(f"{self.name} came out as NaN or infinity; in half precision try float32")
        return found.cpu()

    @abstractmethod
    def measure(self, session: Session, attribution: Any) -> Tensor:
        """The formula, for a model that is already borrowed and a map or method that was checked: (N,)."""

    def passes(self, method: Method) -> float:
        """Forward and backward passes of one image for one map, or for a method that is judged itself, without those
        that all maps of an image share: `cost` as a number."""
        return method.passes() if self.judges == "method" else 0.0

    def check(self, attribution: Any, x: Tensor) -> None:
        """Raise a TypeError, ValueError or ImageError for what cannot be judged."""
        self.check_space(x)
        if self.judges == "method":
            if not isinstance(attribution, Method):
                raise TypeError(
                    f"{self.name} judges a method, not a map: give Gradient() or another, "
                    f"got {type(attribution).__name__}"
                )
            return
        if isinstance(attribution, Method):
            raise TypeError(f"{self.name} judges a map: give {attribution.name}'s, not the method itself")
        check_map(attribution, x)

    def check_space(self, x: Tensor) -> None:
        """Raise an ImageError for an input with other spatial axes than the metric is defined for."""
        if x.ndim - 2 not in self.spatial:
            kinds = " or ".join(SPACES[axes] for axes in self.spatial)
            raise ImageError(f"{self.name} judges maps of {kinds}, not of an input {tuple(x.shape)}: leave it out")

    def resolve_baseline(self, colours: Colours) -> Metric:
        """The same metric with a baseline by name ("black") as `colours` says it is in the input's space."""
        found = resolve_baselines(self, colours)
        changed = {name: value for name, value in found.items() if value is not getattr(self, name)}
        return replace(self, **changed) if changed else self

    def of_rows(self, rows: slice, axes: int = 2) -> Metric:
        """The same metric for some of the rows that it was made for, of inputs with so many spatial axes; itself,
        unless it holds something per row."""
        return self

    @property
    def name(self) -> str:
        """The title, or the class's name where there is none."""
        return self.title or type(self).__name__

    def __str__(self) -> str:
        """For tables: the name, with the options that are not the defaults."""
        changed = [
            f"{field.name} {in_short(value)}"
            for field in fields(self)
            if field.name != "inside"
            and (isinstance(value := getattr(self, field.name), Tensor) or value != field.default)
        ]
        return ", ".join([self.name, *changed])


@contextmanager
def judging(model: nn.Module, x: Any, target: Any, extra: Any = None, output: Kind = "auto") -> Iterator[Session]:
    """The model borrowed, for questions about one target of each image; its warnings are issued at the end.

    Raises:
        ValueError: for several targets a row, or an input that is neither an image nor a volume.
    """
    model, inputs, score = asked(model, x, target, extra)
    if score.shape:
        raise ValueError(f"a metric judges one target per row, (N,), got {score.shape[0]} per row")
    with opened(model, inputs, score, output, check=False) as session:
        image = session.image()
        if image.ndim not in (4, 5):
            raise ValueError(
                f"metrics judge maps of {SPACES[2]} and some of {SPACES[3]}, got an input {tuple(image.shape)}"
            )
        yield session


def check_map(attribution: Any, x: Tensor) -> None:
    """Raise for anything but finite maps (N, C, *space) or (N, 1, *grid) of the rows of `x`."""
    whole, coarse = ("(N, C, H, W)", "(N, 1, h, w)") if x.ndim == 4 else ("(N, C, D, H, W)", "(N, 1, d, h, w)")
    if not isinstance(attribution, Tensor):
        raise TypeError(f"attribution must be a tensor {whole}, got {type(attribution).__name__}")
    fits = attribution.ndim == x.ndim and len(attribution) == len(x) and 0 not in attribution.shape
    if not fits or (attribution.shape[1] != 1 and attribution.shape[2:] != x.shape[2:]):
        raise ValueError(
            f"attribution must be {whole} like x {tuple(x.shape)}, or {coarse} of a layer, "
            f"got {tuple(attribution.shape)}"
        )
    if not attribution.is_floating_point():
        raise ValueError(f"attribution must be floating point, got {str(attribution.dtype).removeprefix('torch.')}")
    if not bool(torch.isfinite(attribution.detach()).all()):
        raise ValueError("the attribution holds NaN or infinity")


def per_pixel(attribution: Tensor, x: Tensor, channels: Channels | None = "sum") -> Tensor:
    """One value for each pixel of `x`: (N, *space), in float32 at least; a layer's map enlarged linearly."""
    maps = attribution.detach().to(x.device, torch.promote_types(attribution.dtype, torch.float32))
    maps = maps.abs().amax(1) if channels == "magnitude" else maps.sum(1)
    if maps.shape[1:] != x.shape[2:]:
        maps = enlarged(maps.unsqueeze(1), x.shape[2:]).squeeze(1)
    return maps


def per_value(attribution: Tensor, x: Tensor) -> Tensor:
    """One value for each value of `x`: (N, C, *space), in float32 at least.

    A map without channels of its own (a layer's, or a drawn one) is enlarged linearly and shared out evenly among
    the channels, which keeps its sum per pixel.
    """
    if attribution.shape == x.shape:
        return attribution.detach().to(x.device, torch.promote_types(attribution.dtype, torch.float32))
    shared = per_pixel(attribution, x).unsqueeze(1) / x.shape[1]
    return shared.expand_as(x)
