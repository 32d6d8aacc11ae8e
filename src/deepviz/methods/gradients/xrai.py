"""XRAI: Kapishnikov et al. 2019."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from torch import Tensor

from deepviz.diagnostics import ERROR
from deepviz.errors import MethodError
from deepviz.inputs import Leaves
from deepviz.methods.gradients.integrated_gradients import IntegratedGradients
from deepviz.methods.gradients.segments import ranked, segments
from deepviz.methods.method import Method, View, map_of_image
from deepviz.methods.needs import Needs
from deepviz.options import Ge, Lt
from deepviz.probe.session import Session


@dataclass(frozen=True)
class XRAI(Method):
    """Regions of the image, ranked by the attribution that they hold per pixel.

        R_i = mean of A over s_k without s_1 .. s_k-1, for i in it,    s_k = the region where that mean is largest

    A is the sum over channels of an attribution: by default the mean of integrated gradients from two baselines, the
    image's own lowest and highest value, so that neither dark nor bright objects are missed. The regions are those of
    Felzenszwalb and Huttenlocher (2004) at six scales, each enlarged by `dilation` pixels, so they overlap. A region
    that would add less than `smallest` of the image is left out, and what no region adds has its own mean. So the
    values sum to those of A.

    Shapes: x (N, C, H, W) -> (N, 1, H, W), in units of the score per pixel. Drawn as it is, signed.

    Errors: MissingExtra without scikit-image (`pip install 'deepviz[regions]'`); MethodError if the method inside has
    no value for each pixel. See also `Method.__call__`.

    Pitfall: it has the outlines of the image, not of what the model looked at: the regions do not depend on the model.

    Reference: Kapishnikov, Bolukbasi, Viegas and Terry, "XRAI: Better Attributions Through Regions" (2019),
    arXiv:1906.02825.

    Example:
        >>> import torch
        >>> from deepviz.methods import Gradient, XRAI
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 5))
        >>> XRAI(of=Gradient())(model, torch.rand(1, 3, 32, 32), target=3).shape
        torch.Size([1, 1, 32, 32])
    """

    of: Annotated[
        Method | None,
        "Method whose attribution is summed over regions; by default integrated gradients from the image's lowest and "
        "highest value.",
    ] = None
    steps: Annotated[int, Ge(1), "Points on each path of these integrated gradients."] = 50
    dilation: Annotated[int, Ge(0), "Pixels by which each region is enlarged, so that it holds its edges."] = 5
    smallest: Annotated[float, Ge(0), Lt(1), "Smallest share of the image that a region must add."] = 0.001

    title: ClassVar[str] = "XRAI"
    paper: ClassVar[str] = "Kapishnikov et al. 2019, arXiv:1906.02825"
    cost: ClassVar[str] = "2 `steps` times (1 forward, 1 backward), 3 forwards; or one map of the method inside"
    needs: ClassVar[Needs] = Needs()
    in_default_set: ClassVar[bool] = False
    spatial: ClassVar[tuple[int, ...]] = (2,)

    def passes(self) -> float:
        """Those of the attribution."""
        return 4.0 * self.steps + 3 if self.of is None else self.of.passes()

    @property
    def requires(self) -> Needs:
        """What the attribution needs."""
        return IntegratedGradients.needs if self.of is None else self.of.requires

    def maps(self, session: Session) -> Tensor:
        """The mean of A over what each region adds."""
        A = self._attribution(session)
        image = session.image()
        fewest = max(1, round(self.smallest * image[0, 0].numel()))
        several = A if session.several else A.unsqueeze(1)  # (N, K, H, W)
        rows = []
        for of_row, pixels in zip(several.to("cpu", torch.float64).numpy(), image, strict=True):
            regions = segments(pixels, self.dilation)
            rows.append(np.stack([ranked(one, regions, fewest) for one in of_row]))
        R = torch.from_numpy(np.stack(rows)).to(A.device).unsqueeze(2)
        return R if session.several else R.squeeze(1)

    def _attribution(self, session: Session) -> Tensor:
        """A, (N[, K], H, W)."""
        if self.of is not None:
            maps = map_of_image(self.of, session)
            # those of a value for each pixel, not of the regions' means
            session.notes.maps.pop(ERROR, None)
            session.notes.rows.pop(ERROR, None)
            if maps.shape[-2:] != session.image().shape[-2:]:
                raise MethodError(
                    f"XRAI needs a value for each pixel, and {self.of.name} has {tuple(maps.shape[-2:])}: use a method "
                    "at the image's size, such as IntegratedGradients()"
                )
            return maps.sum(-3)
        found = IntegratedGradients(steps=self.steps).along(session, self.starts(session.x))
        image = session.image()
        return next(maps for maps, leaf in zip(found, session.x, strict=True) if leaf is image).sum(-3)

    def starts(self, x: Leaves) -> list[Leaves]:
        """The lowest and the highest value of each row, everywhere; of a method inside, its own."""
        if self.of is not None:
            return self.of.starts(x)
        return [
            x.map(lambda leaf: take(leaf.flatten(1), 1).view(-1, *[1] * (leaf.ndim - 1)).expand_as(leaf).clone())  # noqa: B023
            for take in (torch.amin, torch.amax)
        ]

    @property
    def view(self) -> View:
        """The signed value."""
        return "sum"
