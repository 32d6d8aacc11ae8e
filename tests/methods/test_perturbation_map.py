"""What all methods of forward passes alone share: parts, baselines, rounds, tolerance, interruption, objectives."""

import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn

import deepviz
from deepviz.diagnostics import ERROR
from deepviz.errors import DeepVizWarning, ImageError, LayerError, MethodError, MissingExtra, ModelError
from deepviz.inputs import Inputs
from deepviz.methods import (
    HSIC,
    LIME,
    RISE,
    FeatureAblation,
    KernelSHAP,
    MeaningfulPerturbation,
    Occlusion,
    ShapleySampling,
    SmoothGrad,
    Sobol,
)
from deepviz.methods.perturbation import cells
from deepviz.methods.perturbation.cells import partition
from deepviz.methods.perturbation.perturbation_map import INTERRUPTED, Estimate
from deepviz.methods.perturbation.surrogate import fitted
from deepviz.metrics import Deletion, MaxSensitivity
from deepviz.objectives import Logit, Probability
from deepviz.probe.progress import watched
from deepviz.probe.reference import blurred, drawn
from deepviz.probe.seeds import generator_of
from networks import READABLE, Case, assert_same
from perturbation_by_hand import CURVED, curved

# of few passes on random weights
pytestmark = pytest.mark.filterwarnings("ignore:the standard error of")

PLAIN = (Occlusion(window=2), FeatureAblation(cells=4))
SAMPLED = (
    RISE(cells=3, max_passes=192),
    ShapleySampling(cells=4, max_passes=192),
    KernelSHAP(cells=8, max_passes=192),
    LIME(cells=4, max_passes=192),
    Sobol(cells=4, max_passes=192),
    HSIC(cells=4, max_passes=192),
)
every = pytest.mark.parametrize("method", [*PLAIN, *SAMPLED], ids=lambda method: type(method).__name__)
sampled = pytest.mark.parametrize("method", SAMPLED, ids=lambda method: type(method).__name__)


# parts


def test_cells_are_as_even_as_can_be():
    parts = partition(torch.zeros(1, 3, 5, 7), 3)
    rows, columns = torch.tensor([0, 0, 1, 1, 2]), torch.tensor([0, 0, 0, 1, 1, 2, 2])
    assert torch.equal(parts.labels, 3 * rows[:, None] + columns)
    assert (parts.count, parts.grid) == (9, (3, 3))


def test_an_axis_has_no_more_cells_than_pixels():
    parts = partition(torch.zeros(1, 3, 2, 9), 4)
    assert parts.grid == (2, 4)
    assert parts.labels.unique().tolist() == list(range(8))
    assert partition(torch.zeros(1, 1, 2, 3, 4), 2).grid == (2, 2, 2)


def test_given_parts_are_numbered_from_zero():
    labels = torch.tensor([[7, 7, -1], [4, -1, 4]])
    parts = partition(torch.zeros(1, 3, 2, 3), labels)
    assert parts.labels.tolist() == [[2, 2, 0], [1, 0, 1]]
    assert (parts.count, parts.grid) == (3, None)
    masks = parts.masks(torch.tensor([[0.0, 1.0, 0.5]]))
    assert masks.tolist() == [[[[0.5, 0.5, 0.0], [1.0, 0.0, 1.0]]]]
    assert torch.equal(partition(torch.zeros(1, 3, 2, 3), labels[None]).labels, parts.labels)


@pytest.mark.parametrize("labels", [torch.zeros(2, 3), torch.zeros(3, 2, dtype=torch.long), torch.zeros(2, dtype=int)])
def test_parts_that_do_not_fit_the_image_are_refused(labels):
    with pytest.raises(ImageError, match=r"whole numbers of the image's size \(2, 3\), got"):
        partition(torch.zeros(1, 3, 2, 3), labels)


def test_superpixels_follow_the_edges_of_the_image():
    pytest.importorskip("skimage")
    x = torch.zeros(1, 3, 40, 40)
    x[..., 20:] = 1
    labels = partition(x, "superpixels").labels
    assert not set(labels[:, :20].unique().tolist()) & set(labels[:, 20:].unique().tolist())
    assert 20 <= partition(x, "superpixels").count <= 80
    assert partition(x[:, :1], "superpixels").grid is None  # of one channel too
    assert partition(0 * x, "superpixels").count >= 1  # and of a constant image


def test_superpixels_without_scikit_image(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "skimage.segmentation", None)
    with pytest.raises(MissingExtra, match=r"pip install 'deepviz\[regions\]'"):
        partition(torch.zeros(1, 3, 8, 8), "superpixels")


def test_parts_are_counted_for_the_cost():
    assert cells.counted(7) == 49
    assert cells.counted(torch.tensor([[1, 1], [5, 9]])) == 3
    assert FeatureAblation(cells=torch.tensor([[1, 1], [5, 9]])).passes() == 4


# what is read and asked


@every
def test_what_is_taken_away_gives_way_to_the_baseline(method):
    """A blur and noise are images of their own: the same map as with that image as the baseline."""
    model, x = READABLE.model(), READABLE.images(2)
    if isinstance(method, KernelSHAP):
        method = replace(method, cells=3)
    noise = drawn(x, "uniform-noise", generator_of(0))
    for name, image in (("blur", blurred(x, 1.0)), ("uniform-noise", noise)):
        assert_same(replace(method, baseline=name)(model, x, 1), replace(method, baseline=image)(model, x, 1), 1e-9)
    assert float((replace(method, baseline=0.3)(model, x, 1) - method(model, x, 1)).abs().max()) > 1e-6


@every
def test_a_row_alone_and_one_objective_alone(method):
    model, x = READABLE.model(), READABLE.images(3)
    if isinstance(method, KernelSHAP):
        method = replace(method, cells=3)
    both = method.attribute(model, x, torch.tensor([[0, 2], [1, 2], [2, 0]]))
    alone = method.attribute(model, x[1:2], 2)
    assert_same(both.maps[1, 1], alone.maps[0], 1e-9)
    assert both.notes.rows["forward passes"].shape == (3, 2)
    if ERROR in alone.notes.maps:
        assert_same(both.notes.maps[ERROR][1, 1], alone.notes.maps[ERROR][0], 1e-9)
        assert both.notes.maps[ERROR].shape == both.maps.shape


@every
def test_without_a_target_the_predicted_class_of_the_whole_image(method):
    model, x = curved()
    assert torch.equal(method(model, x), method(model, x, int(model(x).argmax())))


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(method, dtype):
    model, x = CURVED.model(torch.float32), CURVED.images(1, torch.float32)
    exact = method(model, x, 1)
    maps = method(model.to(dtype), x.to(dtype), 1)
    assert maps.dtype == dtype
    assert float((maps.float() - exact).norm()) < 0.1 * float(exact.norm())


class WithTable(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.table = nn.Linear(8, 4), nn.Linear(3, 4)

    def forward(self, x, table):
        return torch.tanh(self.inner(x.flatten(1)) + self.table(table))


@every
def test_an_input_beside_the_image_goes_along_row_by_row(method):
    model = Case(WithTable).model()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 1, 8, generator=generator, dtype=torch.float64)
    table = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    maps = method(model, x, 1, extra=(table,))
    assert_same(maps[1:], method(model, x[1:], 1, extra=(table[1:],)), 1e-9)
    assert float((maps[1:] - method(model, x[1:], 1, extra=(table[:1],))).abs().max()) > 1e-6
    found, none = method(model, Inputs((x, table)), 1)
    assert none is None
    assert_same(found, maps, 1e-9)


@sampled
@pytest.mark.parametrize("shape", [(2, 9), (2, 4, 5, 6)])
def test_signals_and_volumes(method, shape):
    case = Case(lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(2), nn.Tanh()), shape)
    x = case.images(2)
    model = case.build().double()
    model(x)
    method = method if isinstance(method, RISE) else replace(method, cells=2)
    maps = method(model, x, 1)
    expected = (1, *shape[1:]) if isinstance(method, RISE) else (1, *[2] * (len(shape) - 1))
    assert maps.shape == (2, *expected)
    assert_same(maps[1:], method(model, x[1:], 1), 1e-9)


# standard errors, tolerance, interruption


@sampled
def test_the_error_of_the_map_is_that_of_its_values(method):
    model, x = curved()
    found = method.attribute(model, x, 1)
    errors = found.notes.maps[ERROR]
    maps = found.maps
    assert errors.shape == maps.shape
    assert (errors > 0).all()
    level = maps.mean() if isinstance(method, RISE) else 0
    expected = float(errors.norm() / (maps - level).norm())
    assert float(found.notes.rows["standard error"]) == pytest.approx(expected, rel=1e-9)


@sampled
def test_four_times_the_passes_halve_the_error(method):
    model, x = curved()
    few, many = (
        float(replace(method, max_passes=passes, cells=4).attribute(model, x, 1).notes.rows["standard error"])
        if not isinstance(method, KernelSHAP)
        else float(replace(method, max_passes=passes // 8).attribute(model, x, 1).notes.rows["standard error"])
        for passes in (400, 1600)
    )
    assert 1.5 < few / many < 2.7


@sampled
def test_a_tolerance_stops_as_soon_as_the_map_is_sure(method):
    model, x = curved()
    whole = method.attribute(model, x, 1)
    reached = float(whole.notes.rows["standard error"])
    sure = replace(method, tolerance=2 * reached, max_passes=192)
    found = sure.attribute(model, x, 1)
    spent = int(found.notes.rows["forward passes"])
    assert 64 <= spent < int(whole.notes.rows["forward passes"])
    assert float(found.notes.rows["standard error"]) <= 2 * reached
    same = replace(method, max_passes=spent)
    assert_same(found.maps, same(model, x, 1), 1e-12)  # a sample that grows


@sampled
def test_a_tolerance_that_is_not_reached_is_warned_of(method):
    model, x = curved()
    with pytest.warns(
        DeepVizWarning, match=r"standard error of \d+% after max_passes=192, more than the tolerance of 0%"
    ):
        found = replace(method, tolerance=1e-3).attribute(model, x, 1)
    assert_same(found.maps, method(model, x, 1), 1e-12)


def test_an_exact_map_and_one_that_is_sure_before_a_round_are_not_warned_of():
    model, x = curved()
    KernelSHAP(cells=4, tolerance=1e-3)(model, x, 1)
    ShapleySampling(cells=1, tolerance=1e-3)(model, x, 1)
    ShapleySampling(cells=4, max_passes=50, tolerance=10.0)(model, x, 1)


@every
def test_interrupted_in_a_late_round_it_gives_the_map_so_far(method):
    model, x = READABLE.model(), READABLE.images(2)
    if isinstance(method, (FeatureAblation, Occlusion)):
        method = FeatureAblation(cells=20) if isinstance(method, FeatureAblation) else Occlusion(window=2, stride=1)
    elif isinstance(method, KernelSHAP):
        method = replace(method, cells=3)
    told = []

    def watcher(done, total, maps):
        told.append((done, total, None if maps is None else maps()))
        if len(told) == 3:
            raise KeyboardInterrupt

    with watched(watcher), pytest.warns(DeepVizWarning, match=r"interrupted after \d+ forward passes.* map so far"):
        found = method.attribute(model, x, 1)
    assert INTERRUPTED in found.notes.facts
    spent = found.notes.rows["forward passes"]
    assert int(spent.max()) <= 2 * 64 + 80
    assert int(spent[0]) > int(spent[1])  # the first image was a round ahead
    if ERROR in found.notes.maps:
        assert found.notes.maps[ERROR].shape == found.maps.shape
        few = replace(method, max_passes=int(spent[1]))(model, x[1:], 1)
        assert_same(found.maps[1:], few, 1e-9)


def test_the_model_that_is_interrupted_is_left_as_it_was():
    model, x = curved()
    calls = 0

    def interrupt(module, inputs, output):
        nonlocal calls
        calls += 1
        if calls > 25:
            raise KeyboardInterrupt

    handle = model.inner.register_forward_hook(interrupt)
    model.train()
    with pytest.warns(DeepVizWarning, match="the map so far"):
        found = RISE(cells=4, max_passes=1000).attribute(model, x, 1)
    assert 64 <= int(found.notes.rows["forward passes"]) < 1000
    assert model.training
    handle.remove()
    calls = 0
    model.inner.register_forward_hook(interrupt)
    calls = 24
    with pytest.raises(KeyboardInterrupt):  # no map of every image yet
        RISE(cells=4, max_passes=1000)(model, x, 1)


class Interrupted(nn.Module):
    """Raises KeyboardInterrupt at one of its passes, and answers at all later ones."""

    def __init__(self, at, inner):
        super().__init__()
        self.inner, self.at, self.passes = inner, at, 0

    def forward(self, x):
        self.passes += 1
        if self.passes == self.at:
            raise KeyboardInterrupt
        return self.inner(x)


@pytest.mark.filterwarnings("ignore::deepviz.errors.DeepVizWarning")
@pytest.mark.parametrize(
    "work",
    [
        lambda model, x: SmoothGrad(of=RISE(cells=4, max_passes=400), samples=3)(model, x, 1),
        lambda model, x: MaxSensitivity(samples=2)(model, x, RISE(cells=4, max_passes=400), target=1),
        lambda model, x: deepviz.evaluate(model, x, RISE(cells=4, max_passes=400), Deletion(steps=4)),
        lambda model, x: deepviz.sanity_check(model, x, RISE(cells=4, max_passes=400), stages=2),
    ],
    ids=["another method", "metric", "evaluate", "sanity_check"],
)
def test_where_the_map_is_used_further_an_interrupt_ends_all_of_the_work(work):
    """A map of fewer passes would be taken for a whole one, and the work would go on."""
    inner = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.LazyLinear(3))
    x = torch.rand(1, 3, 8, 8, generator=generator_of(0))
    inner(x)
    with pytest.raises(KeyboardInterrupt):
        work(Interrupted(30, inner), x)


def test_progress_is_told_in_passes_with_the_maps_so_far():
    model, x = READABLE.model(), READABLE.images(2)
    told = []
    with watched(lambda done, total, maps: told.append((done, total, maps and maps()))):
        maps = LIME(cells=3, max_passes=200)(model, x, 1)
    assert [done for done, _, _ in told] == sorted(done for done, _, _ in told)
    assert told[0][2] is None  # the second image has none yet
    assert told[-1][:2] == (400, 400)
    assert_same(told[-1][2].to(maps), maps, 1e-12)


def test_the_error_is_relative_to_what_a_picture_shows():
    maps, errors = torch.tensor([[[3.0, 7.0]]]).double(), torch.tensor([[[1.0, 1.0]]]).double()
    assert float(Estimate(maps, 5, errors).relative_error) == pytest.approx((2 / 58) ** 0.5)
    assert float(Estimate(maps, 5, errors, level=5.0).relative_error) == pytest.approx((2 / 8) ** 0.5)
    assert float(Estimate(0 * maps, 5, errors).relative_error) == 1


# the linear model


def test_observations_that_do_not_determine_the_coefficients_have_no_fit():
    z = torch.tensor([[1.0, 0], [1, 0], [1, 0]], dtype=torch.float64)
    y, w, none = torch.ones(3, 1, dtype=torch.float64), torch.ones(3, dtype=torch.float64), torch.zeros(2, 2).double()
    assert fitted(z, y, w, none) is None
    assert fitted(z, y, w, none + torch.eye(2)) is not None


def test_an_observation_that_decides_a_coefficient_alone_is_as_far_off_as_the_others():
    generator = torch.Generator().manual_seed(0)
    z = torch.cat([torch.ones(50, 1), torch.zeros(50, 1)], 1).double()
    z[49] = torch.tensor([0.0, 1.0])
    y = torch.randn(50, 1, generator=generator, dtype=torch.float64)
    b, errors = fitted(z, y, torch.ones(50, dtype=torch.float64), torch.zeros(2, 2, dtype=torch.float64))
    assert b[0, 1] == pytest.approx(float(y[49]))
    assert float(errors[0, 1]) == pytest.approx(float(y[:49].std()), rel=0.05)
    assert float(errors[0, 0]) == pytest.approx(float(y[:49].std()) / 7, rel=0.05)


# how it is called


@every
def test_any_module_will_do(method):
    """No gradient is asked for: one that cuts it, or has none, is explained alike."""

    class Detached(nn.Module):
        def forward(self, x):
            return torch.from_numpy(model(x).detach().numpy())

    model, x = curved()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(method(Detached(), x, 1), method(model, x, 1))


def test_the_budget_of_a_method_is_its_passes():
    for method in SAMPLED:
        assert method.passes() == 192
        model, x = curved()
        spent = int(method.attribute(model, x, 1).notes.rows["forward passes"])
        assert 150 <= spent <= 192 or isinstance(method, KernelSHAP)
    with pytest.raises(MethodError):
        replace(SAMPLED[4], max_passes=2)(*curved(), 1)


def test_explain_holds_the_error_in_its_notes():
    model, x = curved()
    (explanation,) = deepviz.explain(model, x, LIME(cells=4, max_passes=100), target=1)
    assert 0 < explanation.notes["standard error"] < 1
    assert explanation.notes["forward passes"] == 100


# what says nothing


@every
@pytest.mark.parametrize("rounded", [False, True], ids=["constant", "rounded"])
def test_a_score_that_changes_by_rounding_alone_is_warned_of(method, rounded):
    """Shares and dependences have no scale: of rounding errors, those of HSIC and Sobol look like any other's."""
    model, x = READABLE.model(torch.float32), READABLE.images(2, torch.float32)
    method = replace(method, value="score")

    def one(output):
        return output.softmax(1).sum(1) if rounded else torch.ones_like(output[:, 0])

    with pytest.warns(
        DeepVizWarning, match=f"{method.name} (says nothing: whatever is taken away .* rounding|is all zero)"
    ):
        method(model, x, one)


def test_the_error_of_a_map_without_differences_is_all_of_it():
    """One cell, or one pixel, covers all of the image: relative to nothing, any error would be infinite."""
    model, x = curved()
    found = RISE(cells=1, max_passes=80).attribute(model, x, 1)
    assert float(found.notes.rows["standard error"]) == pytest.approx(1)
    with pytest.warns(DeepVizWarning, match="half of which is noise"):
        RISE(cells=4, max_passes=80)(nn.Sequential(nn.Flatten(), nn.Linear(1, 2)), torch.ones(1, 1, 1, 1), 1)


@every
def test_a_model_that_fails_where_parts_are_missing_is_told_of_the_baseline(method):
    """Scores that are divided by the size of the image, of which little is left under some masks."""
    inner, x = curved()

    def normalised(image):
        norm = image.flatten(1).norm(dim=1, keepdim=True)
        return inner(image) / torch.where(norm < 0.99 * x.norm(), 0 * norm, norm)

    with pytest.raises(ModelError, match=r"NaN or infinity.*parts are replaced: another baseline may help"):
        method(normalised, x, 1)


def test_what_is_told_is_what_an_image_of_this_size_takes():
    model, x = READABLE.model(), READABLE.images(1)
    told = []

    def watcher(done, total, maps):
        told.append((done, total))
        raise KeyboardInterrupt

    with watched(watcher), pytest.warns(DeepVizWarning, match="interrupted after 65 forward passes of at most 121:"):
        Occlusion(window=1)(model, x, 1)  # 10 x 12 pixels
    assert told == [(65, 121)]


# of what there is a probability


def test_a_class_has_its_probability_whatever_is_explained_beside_it():
    model, x = READABLE.model(), READABLE.images(2)
    method = RISE(cells=3, max_passes=64)
    difference = Logit(1) - Logit(2)
    with pytest.warns(DeepVizWarning, match=r"^logit\(1\) - logit\(2\) is no class: its score is measured, not a"):
        found = method(model, x, [1, difference, None, Probability(2)])
    for k, target in enumerate([1, None, 2]):
        assert_same(found[:, (0, 2, 3)[k]], method(model, x, target), 1e-9)
    assert_same(found[:, 1], replace(method, value="score")(model, x, difference), 1e-9)


def test_the_probability_of_a_class_is_one():
    model, x = READABLE.model(), READABLE.images(1)
    RISE(cells=3, max_passes=64)(model, x, Probability(1))  # no warning
    MeaningfulPerturbation(steps=2)(model, x, Probability(1))


def test_an_optimised_mask_says_too_what_has_no_probability():
    model, x = READABLE.model(), READABLE.images(1)
    with pytest.warns(DeepVizWarning, match="no class: its score is measured"):
        MeaningfulPerturbation(steps=2)(model, x, Logit(1) - Logit(2))
    MeaningfulPerturbation(steps=2, value="score")(model, x, Logit(1) - Logit(2))


def test_of_two_images_it_is_said_which_map_there_cannot_be():
    x = torch.rand(1, 1, 4, 4)
    with pytest.raises(LayerError, match=r"^this map lies on one image-like input .*, and 2 of these are.*extra="):
        RISE(max_passes=4)(Sum(), (x, x))


class Sum(nn.Module):
    def forward(self, x, y):
        return (x + y).flatten(1)


@pytest.mark.filterwarnings("ignore:the model's outputs are probabilities", "ignore:RISE says nothing")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_map_of_half_precision_keeps_its_differences(dtype):
    """All values of RISE are near the mean score; rounded to three digits, a few of them are left."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(12 * 12, 2), nn.Softmax(1))
    torch.nn.init.constant_(model[1].weight, 0)
    with torch.no_grad():
        model[1].weight[1].view(12, 12)[:6, :6] = 0.002
    x = torch.ones(1, 1, 12, 12)
    exact = RISE(cells=3, max_passes=128).attribute(model, x, 1).maps
    model, x = model.to(dtype), x.to(dtype)
    found = RISE(cells=3, max_passes=128).attribute(model, x, 1).maps
    assert found.dtype == torch.float32
    assert found.unique().numel() > 0.9 * exact.unique().numel()
    assert RISE(cells=3, max_passes=128)(model, x, 1).dtype == dtype
    (shown,) = deepviz.explain(model, x, RISE(cells=3, max_passes=128), target=1)
    assert_same(shown.attribution[None], found, 1e-6)
