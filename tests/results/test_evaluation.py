"""Tables of methods by metrics: what is judged, how it is summed up, what is said about it."""

import csv
import io
import json
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import deepviz
from deepviz.errors import DeepVizWarning, MethodError, ModelError, TargetError
from deepviz.methods import RISE, GradCAM, Gradient, GradTimesImage, IntegratedGradients, Method
from deepviz.metrics import (
    CentreGaussian,
    Completeness,
    Deletion,
    EnergyInside,
    Insertion,
    Metric,
    ParameterRandomization,
    PointingGame,
    RandomMap,
)
from deepviz.results.evaluation import CONTROLS, Evaluation, ImageScores
from deepviz.runs.asked import choose_metrics
from networks import assert_same
from small_models import LayerBySize, good, network, no_rectifier, scripted

QUICK = (Deletion(steps=8, value="score"), Insertion(steps=8, value="score", baseline=0.0))


class Quadrant(nn.Module):
    """Looks at the upper left quadrant of its input alone."""

    def forward(self, x):
        seen = x[:, :, : x.shape[2] // 2, : x.shape[3] // 2].sum((1, 2, 3))
        return torch.stack([seen, -seen], 1)


@dataclass(frozen=True)
class Channels(Metric):
    """What became of the channels: 1 for magnitudes, 0 for sums."""

    channels: str | None = None
    title: ClassVar[str] = "Channels"

    def measure(self, subject, attribution):
        return torch.full((len(attribution),), float(self.channels == "magnitude"))


@dataclass(frozen=True)
class OfAMethod(Metric):
    """The number of steps of a method."""

    judges: ClassVar[str] = "method"

    def measure(self, subject, attribution):
        return torch.tensor([float(getattr(attribution, "steps", 0))])


def evaluation(values, metrics=QUICK[:1], controls=0):
    """An evaluation with these values, (images, rows, metrics)."""
    judged = tuple(ImageScores(f"{k}", "cat", one, {}, {}) for k, one in enumerate(np.asarray(values, dtype=float)))
    rows = tuple(f"row {row}" for row in range(judged[0].values.shape[0] - controls))
    return Evaluation((*rows, *map(str, CONTROLS[:controls])), tuple(metrics), judged, controls, "a model")


def test_each_number_is_what_the_metric_says_of_the_map_that_the_method_draws():
    loaded, x = good(), torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = deepviz.evaluate(loaded, x, [Gradient(), GradTimesImage()], QUICK)
    assert found.values.shape == (3, 5, 2)
    classes = loaded.module(x).argmax(1)
    for row, (method, channels) in enumerate([(Gradient(), "magnitude"), (GradTimesImage(), "sum")]):
        maps = method(loaded.module, x, classes)
        for column, metric in enumerate(QUICK):
            expected = replace(metric, channels=channels)(loaded.module, x, maps, classes)
            assert_same(torch.tensor(found.values[:, row, column]), expected.double(), 1e-5)


def test_a_planted_feature_is_found_by_gradient_times_image_and_not_by_a_random_map():
    x = torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(1)) + 0.5
    found = deepviz.evaluate(Quadrant(), x, GradTimesImage(), QUICK, target=0)
    assert found.rows == ("Gradient × image", "Random map", "Centred Gaussian", "Edge detector")
    assert found.best == (0, 0)
    assert found.beats(0, 0) is True
    # the quadrant is a quarter of the pixels: two of eight steps, each of which takes the largest first
    curve = found.judged[0].curves[0][0]
    assert np.allclose(curve[2:], 0, atol=1e-4)
    assert (np.diff(curve[:3]) < 0).all()


def test_the_metric_judges_what_the_picture_shows():
    found = deepviz.evaluate(network(), torch.rand(1, 3, 32, 32), ["gradient", "grad-times-image"], Channels())
    assert found.values[0, :2, 0].tolist() == [1, 0]


@pytest.mark.parametrize(("channels", "value"), [("sum", 0), ("magnitude", 1)])
def test_what_a_metric_is_told_is_not_overridden(channels, value):
    metric = Channels(channels)
    found = deepviz.evaluate(network(), torch.rand(1, 3, 32, 32), ["gradient", "grad-times-image"], metric)
    assert found.values[0, :2, 0].tolist() == [value, value]


@pytest.mark.filterwarnings("ignore:integrated gradients")
def test_a_gap_is_measured_from_the_methods_own_baseline():
    method = IntegratedGradients(60, baseline="black")
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    loaded = good()
    found = deepviz.evaluate(loaded, x, method, Completeness(), target=1)
    own = deepviz.evaluate(loaded, x, method, Completeness(baseline="black"), target=1)
    other = deepviz.evaluate(loaded, x, method, Completeness(baseline=0.0), target=1)
    assert np.array_equal(found.values[:, 0], own.values[:, 0])
    assert (found.values[:, 0] < 0.01).all()
    assert (other.values[:, 0] > 0.01).all()


@pytest.mark.filterwarnings("ignore:integrated gradients")
@pytest.mark.parametrize(
    "options", [{"baseline": "uniform-noise", "draws": 3}, {"baselines": ("black", "white")}], ids=str
)
def test_a_gap_is_measured_from_all_baselines_that_a_method_averages(options):
    method = IntegratedGradients(200, **options)
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    found = deepviz.evaluate(good(), x, method, Completeness(), target=1)
    other = deepviz.evaluate(good(), x, method, Completeness(baselines=("mean", 0.0)), target=1)
    assert (found.values[:, 0] < 0.01).all()
    assert (other.values[:, 0] > 0.01).all()


def test_a_metric_without_a_value_does_not_cost_the_others():
    """A scripted model cannot be randomised; its curves are there all the same."""
    metrics = [QUICK[0], ParameterRandomization(stages=2)]
    with pytest.warns(DeepVizWarning, match="randomization, stages 2 of Gradient is left out: a scripted"):
        found = deepviz.evaluate(scripted(), torch.rand(2, 3, 32, 32), "gradient", metrics, controls=False)
    assert np.isfinite(found.values[:, :, 0]).all()
    assert np.isnan(found.values[:, :, 1]).all()


@pytest.mark.parametrize(("images", "significant"), [(9, False), (10, True)])
def test_few_images_make_nothing_significant(images, significant):
    """Two rows that are told apart by every image."""
    found = evaluation([[[0.1 + 0.001 * k], [0.9]] for k in range(images)])
    assert found.best == ((0,) if significant else (None,))
    assert ("no difference is called significant" in found.footnote) is not significant


@pytest.mark.filterwarnings("ignore:integrated gradients")
def test_metrics_of_methods_get_the_method_with_its_colours():
    found = deepviz.evaluate(good(), torch.rand(1, 3, 32, 32), IntegratedGradients(7, baseline="black"), OfAMethod())
    assert found.values[0, 0, 0] == 7


def test_a_baseline_by_colour_is_that_of_the_model():
    x = torch.rand(1, 3, 32, 32)
    loaded = good()
    found = deepviz.evaluate(loaded, x, "gradient", Deletion(steps=4, baseline="black", value="score"), target=2)
    with torch.no_grad():
        black = loaded.module(loaded.preprocess.pixel_value("black").expand(1, 3, 32, 32))[0, 2]
    assert found.judged[0].curves[0][0][-1] == pytest.approx(float(black), abs=1e-5)


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_an_array_is_one_target_for_each_image(kind):
    x = torch.rand(3, 3, 32, 32)
    found = deepviz.evaluate(good(), x, "gradient", QUICK[:1], target=kind([1, 2, 2]))
    assert [one.target.rsplit(" ", 2)[0] for one in found.judged] == ["red fox", "lynx", "lynx"]
    with pytest.raises(TargetError, match=r"with N = 3 rows, got \(2,\)"):
        deepviz.evaluate(good(), x, "gradient", QUICK[:1], target=kind([1, 2]))


def test_a_list_is_all_of_them_for_each_image():
    """As in `explain`; the mean is over images, since the values of one are not independent."""
    x = torch.rand(2, 3, 32, 32)
    found = deepviz.evaluate(good(), x, "gradient", QUICK[:1], target=["red fox", 2])
    assert [one.target.rsplit(" ", 2)[0] for one in found.judged] == ["red fox", "lynx"] * 2
    assert found.values.shape == (4, 4, 1)
    alone = [deepviz.evaluate(good(), x, "gradient", QUICK[:1], target=k).values for k in (1, 2)]
    np.testing.assert_allclose(found.values, np.stack(alone, 1).reshape(4, 4, 1), rtol=1e-5)
    assert found.means[0, 0] == pytest.approx(np.mean([one[:, 0, 0] for one in alone]))
    assert found.table()[0]["images"] == 2
    assert found.footnote.startswith("2 images")


def test_a_callable_target_is_judged_by_its_own_value():
    found = deepviz.evaluate(
        network(), torch.rand(1, 3, 32, 32), "gradient", QUICK[:1], target=lambda output: output.sum(1)
    )
    assert np.isfinite(found.values).all()


def test_a_method_that_does_not_apply_has_no_number_and_the_others_have_theirs():
    with pytest.warns(DeepVizWarning, match="Guided backprop is left out"):
        found = deepviz.evaluate(no_rectifier(), torch.rand(2, 3, 32, 32), ["guided-backprop", "gradient"], QUICK)
    assert np.isnan(found.values[:, 0]).all()
    assert np.isfinite(found.values[:, 1:]).all()
    assert set(found.judged[0].left_out) == {"guided-backprop"}
    assert found.cells()[0] == ["–", "–"]
    assert found.beats(0, 0) is None


def test_the_same_method_twice_gives_two_equal_rows():
    found = deepviz.evaluate(network(), torch.rand(1, 3, 32, 32), [Gradient(), Gradient()], QUICK[:1], controls=False)
    assert found.values[0, 0] == found.values[0, 1]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_a_row_is_about_one_layer_and_images_of_another_are_left_out(order):
    """The layer that is found depends on the size of the image."""
    generator = torch.Generator().manual_seed(0)
    x = [torch.rand(3, size, size, generator=generator) for size in (32, 32, 16)]
    method = GradCAM(relu=False)
    found = deepviz.evaluate(LayerBySize(), [x[k] for k in order], [method, Gradient()], QUICK, target=0)
    alone = deepviz.evaluate(LayerBySize(), x[:2], GradCAM("coarse", relu=False), QUICK, target=0, controls=False)
    small = order.index(2)
    assert found.judged[small].layers[0] == "fine"
    assert found.layers == ("coarse", None, None, None, None)
    assert found.means[0] == pytest.approx(alone.means[0])
    assert [entry["images"] for entry in found.table()[::2]] == [2, 3, 3, 3, 3]
    assert "layer coarse: images in which it found another (fine) are left out" in found.footnote
    assert found.as_json()["images"][small]["layers"][0] == "fine"
    drawn = found.plot().axes[0].lines[0].get_ydata()
    assert drawn == pytest.approx(np.mean([one.curves[0][0] for one in alone.judged], axis=0))
    assert alone.remarks == ()


def test_the_best_is_named_only_where_the_difference_is_significant():
    random = np.random.default_rng(0)
    of_image = random.normal(size=40)
    near = np.stack([of_image, of_image + random.normal(0, 1, 40)], 1)[..., None]
    assert evaluation(near).best == (None,)
    clear = np.stack([of_image, of_image + 1], 1)[..., None]
    assert evaluation(clear).best == (0,)  # deletion: lower is better
    assert evaluation(clear, QUICK[1:]).best == (1,)


def test_a_row_that_does_not_beat_the_random_map_is_marked():
    random = np.random.default_rng(0)
    values = np.stack([random.normal(0, 1, 30), random.normal(-3, 1, 30), random.normal(0, 1, 30)], 1)[..., None]
    found = evaluation(values, controls=1)
    assert [found.beats(row, 0) for row in range(3)] == [False, True, None]
    assert [found.mark(row, 0) for row in range(3)] == ["°", "", ""]
    assert "°" in str(found).splitlines()[1]


@dataclass(frozen=True)
class Broken(Metric):
    """Has no value for any map."""

    steps: int = 1
    title: ClassVar[str] = "Broken"

    def measure(self, session, attribution):
        raise KeyError(f"no {self.steps}")


@pytest.mark.filterwarnings("ignore::deepviz.DeepVizWarning")
def test_two_metrics_of_one_name_are_left_out_each_for_its_own_reason():
    found = deepviz.evaluate(network(), torch.rand(1, 3, 32, 32), "gradient", [Broken(1), Broken(2)], controls=False)
    assert found.judged[0].left_out == {
        "Broken of gradient": "KeyError: 'no 1'",
        "Broken, steps 2 of gradient": "KeyError: 'no 2'",
    }


def test_a_control_is_told_by_what_it_is():
    """Not by its caption, which another row may have."""

    @dataclass(frozen=True)
    class Namesake(Gradient):
        title: ClassVar[str] = "Random map"

    x = torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(1)) + 0.5
    found = deepviz.evaluate(Quadrant(), x, [Namesake(), GradTimesImage()], QUICK[:1], target=0)
    for control in (RandomMap(), "Random map"):
        assert found.beats(1, 0, control) is found.beats(1, 0) is True
        assert found.beats(2, 0, control) is None, "the control itself"
    assert found.beats(1, 0, CentreGaussian()) == found.beats(1, 0, "Centred Gaussian")
    assert found.beats(1, 0, RandomMap(seed=1)) is None
    assert found.beats(1, 0, "Gradient") is None


def test_means_and_intervals_are_over_the_images_that_have_a_value():
    values = np.array([[[1.0]], [[np.nan]], [[3.0]], [[5.0]]])
    found = evaluation(values)
    assert found.means[0, 0] == 3
    assert found.table()[0]["images"] == 3
    low, high = found.intervals[0, 0]
    assert 1 <= low < 3 < high <= 5


def test_two_images_have_a_mean_and_no_interval():
    found = evaluation([[[1.0]], [[2.0]]])
    assert found.cells() == [["1.5"]]
    assert found.table()[0]["low"] is None
    assert found.footnote == "2 images, a model."


def test_the_table_is_the_same_in_every_form():
    pandas = pytest.importorskip("pandas")
    found = deepviz.evaluate(network(), torch.rand(3, 3, 32, 32), ["gradient"], QUICK)
    entries = found.table()
    frame = found.to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert frame["mean"].tolist() == [entry["mean"] for entry in entries]
    lines = list(csv.DictReader(io.StringIO(found.to_csv())))
    assert [float(line["mean"]) for line in lines] == [entry["mean"] for entry in entries]
    kept = json.loads(json.dumps(found.as_json()))
    assert kept["table"] == entries
    assert np.array([one["values"] for one in kept["images"]], dtype=float) == pytest.approx(found.values)


def test_what_comes_from_outside_is_escaped_in_a_notebook():
    found = evaluation(np.ones((3, 1, 1)))
    assert "&lt;b&gt;" in replace(found, rows=("<b>",))._repr_html_()


def test_the_figure_has_a_curve_for_every_row_of_every_metric_that_has_curves():
    found = deepviz.evaluate(network(), torch.rand(2, 3, 32, 32), ["gradient"], [*QUICK, Channels()])
    figure = found.plot()
    assert [len(axes.lines) for axes in figure.axes] == [4, 4]
    drawn = figure.axes[0].lines[0].get_ydata()
    assert drawn == pytest.approx(np.mean([one.curves[0][0] for one in found.judged], axis=0))
    with pytest.raises(ValueError, match="none of these metrics has a curve"):
        evaluation(np.ones((3, 1, 1)), [Channels()]).plot()


def test_metrics_are_values_or_names():
    assert choose_metrics("deletion") == [Deletion()]
    assert choose_metrics(["insertion", Deletion(steps=3)]) == [Insertion(), Deletion(steps=3)]
    with pytest.raises(MethodError, match=r"no metric 'deletoin'; did you mean 'deletion'"):
        choose_metrics("deletoin")
    with pytest.raises(TypeError, match=r"did you mean Deletion\(\)"):
        choose_metrics(Deletion)
    with pytest.raises(TypeError, match="must be a Metric"):
        choose_metrics([RandomMap()])
    with pytest.raises(ValueError, match="empty list"):
        choose_metrics([])


def test_a_model_without_finite_answers_is_an_error():
    broken = nn.Sequential(network(), nn.Linear(5, 5))
    with torch.no_grad():
        broken[1].weight.fill_(float("nan"))
    with pytest.raises(ModelError, match=r"parameter 1\.weight holds NaN"):
        deepviz.evaluate(broken, torch.rand(1, 3, 32, 32), "gradient", QUICK)


def test_the_controls_know_nothing_of_the_model():
    x = torch.rand(1, 3, 16, 16)
    for control in CONTROLS:
        assert isinstance(control, Method)
        one, other = (control(network(), x, target) for target in (0, 3))
        assert_same(one, other, 0)
        assert_same(one, control(Quadrant(), x, 0), 0)


MIDDLE = deepviz.Preprocess(20, crop=0.5, mean=(0.0,) * 3, std=(1.0,) * 3)
"""The middle of a photograph of 40 x 40, as it is."""


def spotted(left, top):
    """A photograph of 40 x 40, black but for a white spot of 8 x 8."""
    pixels = np.zeros((40, 40, 3), np.uint8)
    pixels[top : top + 8, left : left + 8] = 255
    return Image.fromarray(pixels)


def test_boxes_are_those_of_each_photograph():
    """Gradient x image of a model that sums its input is the input: all of it lies in the box around the spot."""
    model = deepviz.load_model(Summing(), preprocess=MIDDLE)
    photos = [spotted(12, 14), spotted(21, 20)]
    boxes = [[(12, 14, 20, 22)], [(21, 20, 29, 28)]]
    metrics = [EnergyInside(), PointingGame()]
    found = deepviz.evaluate(model, photos, "grad-times-image", metrics, boxes=boxes, controls=False)
    assert found.values[:, 0].tolist() == [[1, 1], [1, 1]]
    found = deepviz.evaluate(model, photos, "grad-times-image", metrics, boxes=boxes[::-1], controls=False)
    assert found.values[:, 0].tolist() == [[0, 0], [0, 0]]
    both = [(12, 14, 20, 18), (12, 18, 20, 22)]
    found = deepviz.evaluate(model, photos[0], "grad-times-image", metrics, boxes=[both], controls=False)
    assert found.values[0, 0].tolist() == [1, 1], "several boxes are their union"


@pytest.mark.parametrize(
    ("boxes", "said"),
    [
        ([], "0 lists of boxes for 1 images"),
        ([[]], "outside the model"),
        ([[(0, 0, 9, 40)]], "outside the model"),
        ([[(4, 4, 4, 12)]], "a box is left, top, right, bottom"),
        ([[(4, 4, 12)]], "a box is left, top, right, bottom"),
        ([[(float("nan"), 4, 12, 12)]], "a box is left, top, right, bottom"),
    ],
)
def test_boxes_that_are_none(boxes, said):
    model = deepviz.load_model(Summing(), preprocess=MIDDLE)
    with pytest.raises(TargetError, match=said):
        deepviz.evaluate(model, spotted(12, 14), "gradient", "pointing-game", boxes=boxes)


def test_boxes_need_to_know_what_the_model_sees():
    model = deepviz.load_model(Summing(), preprocess=lambda picture: torch.ones(3, 20, 20))
    with pytest.raises(TargetError, match="which part of the image"):
        deepviz.evaluate(model, spotted(12, 14), "gradient", "pointing-game", boxes=[[(4, 4, 12, 12)]])


class Summing(nn.Module):
    """Class 0 is the sum of all values."""

    def forward(self, x):
        total = x.sum((1, 2, 3))
        return torch.stack([total, -total], 1)


class InTheCorner(nn.Module):
    """Scores one corner of 4 x 4 pixels, on top of a large constant."""

    def forward(self, x):
        inside = x[:, :, :4, :4].mean((1, 2, 3))
        return torch.stack([inside + 5, torch.zeros_like(inside)], 1)


@pytest.mark.filterwarnings("ignore:the standard error of")
def test_a_map_is_judged_as_it_is_drawn():
    """All values of RISE have the mean score in common, by which any map of it would look spread out evenly."""
    inside = torch.zeros(16, 16, dtype=torch.bool)
    inside[:6, :6] = True
    method = RISE(cells=4, max_passes=400, value="score")
    (explanation,) = deepviz.explain(InTheCorner(), torch.ones(1, 3, 16, 16), method, target=0)
    drawn = torch.from_numpy(explanation.values)
    expected = float(drawn[inside].sum() / drawn.sum())
    found = deepviz.evaluate(
        InTheCorner(), torch.ones(1, 3, 16, 16), method, EnergyInside(inside=inside), target=0, controls=False
    )
    assert float(found.values[0, 0, 0]) == pytest.approx(expected, rel=1e-6)
    assert expected > 2 * 36 / 256
