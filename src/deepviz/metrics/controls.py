"""Model-independent baselines: the control rows of every table.

A method whose maps do not beat them says nothing about the model (Adebayo et al. 2018 compare with an edge detector
for just that). They are not offered to explain pictures, so they live here and not among the methods.
"""

from abc import abstractmethod
from dataclasses import dataclass
from functools import reduce
from hashlib import sha256
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from deepviz.methods.method import Method, View
from deepviz.methods.needs import Needs
from deepviz.options import Gt, Seed
from deepviz.probe.seeds import generator_of
from deepviz.probe.session import Session


@dataclass(frozen=True)
class Control(Method):
    """A map of the image alone, whatever the model and the class; a subclass writes `of_images`."""

    cost: ClassVar[str] = "none; 1 forward if the class is still to be chosen"
    needs: ClassVar[Needs] = Needs()
    spatial: ClassVar[tuple[int, ...]] = (2,)

    @abstractmethod
    def of_images(self, x: Tensor) -> Tensor:
        """The map of each image, none of its values negative: (N, *space), float32 or float64."""

    def maps(self, session: Session) -> Tensor:
        """The same map for each class of a row."""
        session.decide()
        x = session.image()
        found = self.of_images(x.to(torch.promote_types(x.dtype, torch.float32)))
        maps = found.unsqueeze(1)
        for classes in session.score.shape:
            maps = maps.unsqueeze(1).expand(-1, classes, *maps.shape[1:])
        return maps

    @property
    def view(self) -> View:
        """As it is: nothing is negative."""
        return "positive"


@dataclass(frozen=True)
class RandomMap(Control):
    """Uniform noise between 0 and 1, one value per pixel.

        R_ij ~ U(0, 1), independent

    What a measure gives for it is chance. The noise is drawn by the seed and the values of the image, so an image
    gets the same map alone and in any batch, and different images get different ones.

    Shapes: x (N, C, H, W) -> (N, 1, H, W).

    Errors: see `Method.__call__`.

    Pitfall: it is as fine as pixels are, and no method's map is: `CentreGaussian` is the smooth control.

    Example:
        >>> import torch
        >>> from deepviz.metrics import RandomMap
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 5))
        >>> x = torch.rand(2, 3, 8, 8)
        >>> torch.equal(RandomMap()(model, x)[1:], RandomMap()(model, x[1:]))
        True
    """

    seed: Annotated[Seed, "Seed of the noise."] = 0
    title: ClassVar[str] = "Random map"
    spatial: ClassVar[tuple[int, ...]] = (2, 3)

    def of_images(self, x: Tensor) -> Tensor:
        """R ~ U(0, 1)."""
        return torch.stack([self._noise(image) for image in x.cpu()]).to(x)

    def _noise(self, image: Tensor) -> Tensor:
        content = image.numpy().tobytes()
        key = int.from_bytes(sha256(f"{self.seed} ".encode() + content).digest()[:7])
        return torch.rand(image.shape[1:], generator=torch.Generator().manual_seed(key), dtype=torch.float32)


@dataclass(frozen=True)
class InputTimesNoise(Control):
    """The image times noise, in place of a gradient.

        R_ij = sum_c |x_cij e_cij|,    e ~ N(0, 1), independent

    It has the edges of the image, as every product of the image and something has: what `GradTimesImage` and
    `IntegratedGradients` gain over it comes from the gradient. The noise
    is the same for every image.

    Shapes: x (N, C, H, W) -> (N, 1, H, W).

    Errors: see `Method.__call__`.

    Pitfall: it depends on where zero is: in the input's normalised space usually the mean colour.

    Reference: Adebayo, Gilmer, Muelly, Goodfellow, Hardt and Kim, "Sanity Checks for Saliency Maps" (2018),
    arXiv:1810.03292, on products of the image and a gradient.

    Example:
        >>> import torch
        >>> from deepviz.metrics import InputTimesNoise
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 5))
        >>> x = torch.rand(2, 3, 8, 8)
        >>> bool((InputTimesNoise()(model, 2 * x) - 2 * InputTimesNoise()(model, x)).abs().max() < 1e-5)
        True
    """

    seed: Annotated[Seed, "Seed of the noise."] = 0
    title: ClassVar[str] = "Image × noise"
    paper: ClassVar[str] = "Adebayo et al. 2018, arXiv:1810.03292"

    def of_images(self, x: Tensor) -> Tensor:
        """sum_c |x_c e_c|; the noise is the same for every image, as a weight of a linear model is."""
        e = torch.randn(x.shape[1:], generator=generator_of(self.seed), dtype=torch.float32)
        return (x * e.to(x)).abs().sum(1)


@dataclass(frozen=True)
class CentreGaussian(Control):
    """A round spot in the middle of the image.

        R_ij = exp(-r_ij^2 / (2 s^2)),    s = width min(H, W),    r_ij the distance to the centre in pixels

    Photographers put the object in the middle, and so this map finds it without having looked.

    Shapes: x (N, C, H, W) -> (N, 1, H, W).

    Errors: see `Method.__call__`.

    Pitfall: against images whose objects are not centred it is a weak control.

    Example:
        >>> import torch
        >>> from deepviz.metrics import CentreGaussian
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 9 * 9, 5))
        >>> R = CentreGaussian()(model, torch.rand(1, 3, 9, 9))
        >>> R[0, 0].argmax().item() == 9 * 9 // 2, R[0, 0, 4, 4].item()
        (True, 1.0)
    """

    width: Annotated[float, Gt(0), "The standard deviation of the spot, in shorter sides of the image."] = 0.25
    title: ClassVar[str] = "Centred Gaussian"
    spatial: ClassVar[tuple[int, ...]] = (2, 3)

    def of_images(self, x: Tensor) -> Tensor:
        """exp(-r^2 / (2 s^2))."""
        space = x.shape[2:]
        places = [torch.arange(length).to(x) - (length - 1) / 2 for length in space]
        square = sum(torch.meshgrid([along**2 for along in places], indexing="ij"), torch.zeros(()).to(x))
        s = self.width * min(space)
        return torch.exp(-square / (2 * s**2)).expand(len(x), *space)


@dataclass(frozen=True)
class EdgeDetector(Control):
    """The edges of the image, by Sobel's operator.

        R = sum_c sqrt(X_c^2 + Y_c^2),    X = S * x,  Y = S^T * x,    S = [[1, 0, -1], [2, 0, -2], [1, 0, -1]]

    It draws what the image looks like, as some methods do: a map that agrees with it may be one of the image alone.
    Border pixels are repeated outwards. Of volumes it is the difference along each axis, smoothed along both others.

    Shapes: x (N, C, H, W) -> (N, 1, H, W).

    Errors: see `Method.__call__`.

    Pitfall: it does not measure chance. Models do look at edges, so a faithful map may rightly be like it.

    Reference: Adebayo, Gilmer, Muelly, Goodfellow, Hardt and Kim, "Sanity Checks for Saliency Maps" (2018),
    arXiv:1810.03292.

    Example:
        >>> import torch
        >>> from deepviz.metrics import EdgeDetector
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(1 * 3 * 6, 5))
        >>> x = torch.zeros(1, 1, 3, 6)
        >>> x[..., 3:] = 1
        >>> EdgeDetector()(model, x)[0, 0, 0].tolist()
        [0.0, 0.0, 4.0, 4.0, 0.0, 0.0]
    """

    title: ClassVar[str] = "Edge detector"
    paper: ClassVar[str] = "Adebayo et al. 2018, arXiv:1810.03292"
    spatial: ClassVar[tuple[int, ...]] = (2, 3)

    def maps(self, session: Session) -> Tensor:
        """As for every control, with the reason where it is zero."""
        maps = super().maps(session)
        session.notes.warn_of_zero(
            f"{self.name} is all zero: the image is of one colour", (maps == 0).flatten(-3).all(-1).cpu()
        )
        return maps

    def of_images(self, x: Tensor) -> Tensor:
        """sum_c sqrt(X_c^2 + Y_c^2)."""
        axes = range(2, x.ndim)
        padded = F.pad(x, (1, 1) * len(axes), mode="replicate")
        edges = []
        for axis in axes:
            found = padded
            for each in axes:
                # by slices: a convolution may round to ten bits on a GPU, and edges are small differences
                before, here, after = (found.narrow(each, at, x.shape[each]) for at in range(3))
                found = before - after if each == axis else before + 2 * here + after
            edges.append(found)
        return reduce(torch.hypot, edges).sum(1)
