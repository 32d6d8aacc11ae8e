"""The public contract, of every method and metric of the catalog, of strangers', and of what breaks it."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import pytest
import torch

import deepviz
from deepviz import catalog
from deepviz.errors import DeepVizWarning, ImageError
from deepviz.methods import Gradient, GradTimesImage, Method, Needs, SmoothGrad
from deepviz.metrics import Complexity
from deepviz.metrics.region import RegionMetric
from deepviz.options import Ge
from deepviz.results.outcomes import Skipped
from deepviz.testing import (
    METHOD_CHECKS,
    METRIC_CHECKS,
    ContractError,
    check_borrowing,
    check_chunks,
    check_determinism,
    check_documentation,
    check_errors,
    check_method,
    check_metric,
    check_needs,
    check_options,
    check_rows,
    check_several_inputs,
    check_shapes,
    check_signals,
    check_targets,
    check_view,
    check_volumes,
    images,
    network,
    small,
)
from networks import ATTENTION, EVERY, VARIANTS
from strangers.layer_cam import LayerCAM
from strangers.rise import RISE

PERTURBATION = {stem: EVERY[stem] for stem in ("occlusion", "rise", "kernel-shap", "hsic")}
METHODS = (
    VARIANTS
    | ATTENTION
    | PERTURBATION
    | {"a stranger's of a layer": LayerCAM(), "a stranger's black box": RISE(masks=5, cells=3)}
)
REGION = {"inside": torch.tensor([1, 1, 5, 6])}
METRICS = {
    name: small(cls, **(REGION if issubclass(cls, RegionMetric) else {})) for name, cls in catalog.METRICS.items()
}


@pytest.mark.parametrize("check", METHOD_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
def test_every_method_keeps_the_contract(method, check):
    check(method)


@pytest.mark.parametrize("check", METRIC_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS.keys())
def test_every_metric_keeps_the_contract(metric, check):
    check(metric)


# what breaks it


@dataclass(frozen=True)
class Sound(Gradient):
    """The gradient.

        R = dS / dx

    Shapes: as they are. Errors: none. Pitfall: none.

    Example:
        >>> 1 + 1
        2
    """

    title: ClassVar[str] = "Gradient"


@dataclass(frozen=True)
class Bare(Sound):
    """no sentence"""

    paper: ClassVar[str] = "Somebody 2020"


@dataclass(frozen=True)
class Untrue(Sound):
    """The gradient.

        R = dS / dx

    Shapes: as they are. Errors: none. Pitfall: none.

    Example:
        >>> 1 + 1
        3
    """


@dataclass(frozen=True)
class Unbounded(Sound):
    steps: Annotated[int, "How many."] = 3


@dataclass(frozen=True)
class Unchecked(Sound):
    steps: Annotated[int, Ge(1), "How many."] = 3

    def __post_init__(self):
        pass


@dataclass(frozen=True)
class Wide(Sound):
    def maps(self, session):
        return torch.nn.functional.pad(session.gradient()[0], (1, 1))


@dataclass(frozen=True)
class Negative(Sound):
    @property
    def view(self):
        return "positive"


@dataclass(frozen=True)
class Modest(Sound):
    """Takes gradients, and says that it takes none."""

    needs: ClassVar[Needs] = Needs()


@dataclass(frozen=True)
class Dear(Sound):
    """Takes more passes than it says."""

    def maps(self, session):
        return sum(session.gradient()[0] for _ in range(5))


@dataclass(frozen=True)
class Mixing(Sound):
    """A row depends on the others."""

    def maps(self, session):
        G = session.gradient()[0]
        return G / G.abs().amax()


@dataclass(frozen=True)
class Drawing(Sound):
    """Draws from torch's global random numbers."""

    def maps(self, session):
        G = session.gradient()[0]
        return G + torch.randn_like(G)


@dataclass(frozen=True)
class Chunky(Sound):
    """A row depends on how many go through the model with it."""

    def maps(self, session):
        return session.by_rows(lambda part: (part.gradient()[0] * part.n,))[0]


@dataclass(frozen=True)
class Clinging(Sound):
    """Leaves a hook on the model."""

    def maps(self, session):
        session.model.register_forward_hook(lambda *_: None)
        return session.gradient()[0]


@dataclass(frozen=True)
class Single(Sound):
    """Explains the first of several targets."""

    def maps(self, session):
        G = session.gradient()[0]
        return G[:, :1].expand_as(G) if session.several else G


@dataclass(frozen=True)
class Meek(Sound):
    """Takes the arguments in any order."""

    def __call__(self, model, x, target=None, **given):
        return (
            super().__call__(x, model, target, **given)
            if isinstance(model, torch.Tensor)
            else super().__call__(model, x, target, **given)
        )


@dataclass(frozen=True)
class OfImages(Sound):
    __doc__ = Sound.__doc__

    def maps(self, session):
        G = session.gradient()[0]
        # of images each row by itself; of signals, which have an axis less, all rows together
        return G / G.abs().amax((-3, -2, -1), keepdim=True)


@dataclass(frozen=True)
class OfTheFirst(Sound):
    __doc__ = Sound.__doc__

    def maps(self, session):
        return session.gradient()[0]


NEW = {OfImages(): (check_signals, check_several_inputs), OfTheFirst(): (check_several_inputs,)}
"""What works for one image alone, and the checks that find it."""


@pytest.mark.parametrize("method", NEW, ids=lambda method: type(method).__name__)
def test_what_works_for_one_image_alone_is_found_by_these_checks_and_no_other(method):
    for check in METHOD_CHECKS:
        if check in NEW[method]:
            with pytest.raises((ContractError, IndexError)):
                check(method)
        else:
            check(method)


@dataclass(frozen=True)
class ImagesAlone(OfImages):
    __doc__ = Sound.__doc__
    spatial: ClassVar[tuple[int, ...]] = (2,)


def test_a_method_may_declare_that_it_takes_images_alone():
    check_signals(ImagesAlone())
    check_volumes(ImagesAlone())
    smooth = SmoothGrad(of=ImagesAlone(), samples=2)
    assert smooth.spatial_axes == (2,)
    with pytest.raises(
        ImageError, match=r"SmoothGrad of Gradient takes images \(N, C, H, W\), got an input \(3, 3, 24\)"
    ):
        smooth(network(axes=1), images(axes=1))
    with pytest.warns(DeepVizWarning, match="Gradient is left out: Gradient takes images"):
        found = deepviz.sanity_check(
            network(axes=1), images(1, axes=1)[0].float(), [ImagesAlone(), GradTimesImage()], stages=1
        )
    assert isinstance(found.examined[0].missing[0], Skipped)
    assert found.examined[0].missing[1] is None


BROKEN = [
    (Bare(), check_documentation, "starts with one sentence"),
    (Untrue(), check_documentation, "the example is not true"),
    (Unbounded(), check_options, "steps is a number without bounds"),
    (Unchecked(), check_options, "steps=0 is not refused"),
    (Wide(), check_shapes, "returned maps \\(2, 3, 12, 14\\) for an input \\(2, 3, 12, 12\\)"),
    (Negative(), check_view, "negative values"),
    (Modest(), check_needs, "it takes gradients"),
    (Dear(), check_needs, "passes\\(\\) is 2"),
    (Mixing(), check_rows, "row 0 of a batch and that image alone"),
    (Chunky(), check_chunks, "chunks of 1 rows"),
    (Drawing(), check_determinism, "the same call gives another map"),
    (Clinging(), check_borrowing, "leaves other hooks"),
    (Single(), check_targets, "target 1 of two"),
    (Meek(), check_errors, "swapped is not refused"),
    (OfImages(), check_signals, r"row 0 of an input \(3, 3, 24\) and that row alone: they differ"),
    (OfTheFirst(), check_several_inputs, r"returned maps \(3, 8\) for an input \(3, 3, 12, 12\)"),
]


@pytest.mark.parametrize(("method", "check", "said"), BROKEN, ids=lambda value: getattr(value, "__name__", None))
@pytest.mark.filterwarnings("ignore::deepviz.errors.DeepVizWarning")
def test_what_is_broken_is_said(method, check, said):
    with pytest.raises(ContractError, match=said):
        check(method)


def test_all_that_is_broken_is_said_at_once():
    with pytest.raises(ContractError, match=r"Mixing breaks its contract\n  (?s:.*)row 0 of a batch"):
        check_method(Mixing())


@pytest.mark.parametrize(
    "reference", ["arXiv:2306.06805", "doi:10.23915/distill.00007", "https://doi.org/10.1109/5.771073"]
)
def test_a_reference_is_an_arxiv_number_or_a_doi(reference):
    @dataclass(frozen=True)
    class Cited(Sound):
        __doc__ = Sound.__doc__
        paper: ClassVar[str] = f"Somebody 2020, {reference}"

    check_documentation(Cited())


@pytest.mark.parametrize(
    ("check", "given"), [(check_method, Complexity()), (check_method, Gradient), (check_metric, Gradient())]
)
def test_something_else_is_refused(check, given):
    with pytest.raises(TypeError, match="takes a me"):
        check(given)


@pytest.mark.parametrize("cls", catalog.METHODS.values(), ids=catalog.METHODS.keys())
def test_a_small_one_costs_little(cls):
    assert isinstance(small(cls), Method)
    assert small(cls).passes() <= 200
