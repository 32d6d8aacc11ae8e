"""Occlusion: Zeiler and Fergus 2013."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch

from deepviz.methods.method import View
from deepviz.methods.perturbation.covering import Covering
from deepviz.methods.perturbation.masking import Masking
from deepviz.methods.perturbation.perturbation_map import ROUND, Estimate, PerturbationMap
from deepviz.options import Ge

TYPICAL = 224
"""The side of the image that costs are told for."""


@dataclass(frozen=True)
class Occlusion(PerturbationMap):
    """How much the score falls when a window of the image is covered, for a window that slides over the image.

        R_p = 1/|{w : p in w}| sum_{w : p in w} (S_c(x) - S_c(x with w covered))

    The window stands at every `stride` pixels, and at the far border. What covers it is `baseline`; "inpainted" fills
    it from around it, so that no new edges appear.

    Shapes: x (N, C, H, W) -> (N, 1, H, W); signals (N, C, L) and volumes (N, C, D, H, W) likewise. In units of the
    score. Drawn with its sign: covering a distraction raises the score.

    Errors: ImageError if "inpainted" is to fill a window that covers the whole image.

    Pitfall: evidence that occurs twice is not missed when one is covered, and a covered window may look like something
    else. Windows smaller than the object show edges, larger ones blur the place.

    Reference: Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks" (2013), arXiv:1311.2901,
    section 4.2, with the score in place of the probability.

    Example:
        >>> import torch
        >>> from deepviz.methods import Occlusion
        >>> linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 2))
        >>> Occlusion(window=4)(linear, torch.rand(1, 3, 8, 8), target=1).shape
        torch.Size([1, 1, 8, 8])
    """

    window: Annotated[int, Ge(1), "Side of the window, in pixels of the model's input."] = 32
    stride: Annotated[int | None, Ge(1), "Pixels between neighbouring windows; by default half a window."] = None

    title: ClassVar[str] = "Occlusion"
    paper: ClassVar[str] = "Zeiler and Fergus 2013, arXiv:1311.2901"
    cost: ClassVar[str] = "1 forward, and 1 for each window"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stride is not None and self.stride > self.window:
            raise ValueError(
                f"stride must be at most the window, or some pixels are never covered: got stride {self.stride} and "
                f"window {self.window}"
            )

    def estimates(self, image: Masking) -> Iterator[Estimate]:
        """The mean fall over the windows of each pixel, after some more windows; 0 where there was none yet."""
        windows = list(itertools.product(*(self._along(side) for side in image.space)))
        falls = torch.zeros(image.clean.shape[1], *image.space, dtype=torch.float64)
        times = torch.zeros(image.space)
        covering = Covering(image)
        for start in range(0, len(windows), ROUND):
            part = windows[start : start + ROUND]
            fall = image.clean - covering.values(part)
            for window, of_window in zip(part, fall, strict=True):
                falls[(slice(None), *window)] += of_window.view(-1, *[1] * len(image.space))
                times[window] += 1
            R = (falls / times.clamp_min(1)).unsqueeze(1)
            yield Estimate(R, 1 + start + len(part), most=1 + len(windows))

    def _along(self, side: int) -> list[slice]:
        """Where the window stands along one axis."""
        window = min(self.window, side)
        stride = self.stride or math.ceil(self.window / 2)
        starts = dict.fromkeys([*range(0, side - window, stride), side - window])
        return [slice(start, start + window) for start in starts]

    def passes(self) -> float:
        """Of an image of 224 x 224."""
        return 1 + len(self._along(TYPICAL)) ** 2

    @property
    def view(self) -> View:
        """With its sign."""
        return "sum"
