"""Deletion, insertion and ROAD: known curves, and what they cost."""

import warnings
from itertools import pairwise

import pytest
import torch
from torch import nn

from deepviz.errors import DeepVizWarning
from deepviz.methods import Gradient, GradTimesImage
from deepviz.metrics import ROAD, Deletion, Insertion
from deepviz.metrics.curves import ranks
from deepviz.probe.imputation import imputed
from deepviz.probe.reference import reference
from networks import CASES, assert_same

N, C, H, W = 3, 3, 8, 6


def linear(dtype=torch.float64):
    model = nn.Sequential(nn.Flatten(), nn.Linear(C * H * W, 5)).to(dtype)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=dtype))
    return model


X = torch.rand(N, C, H, W, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
LINEAR = linear()
MAPS = GradTimesImage()(LINEAR, X, 2)
BY_PIXEL = MAPS.sum(1).flatten(1)


class Quadrant(nn.Module):
    """The sum of the upper left quadrant of the first channel, and its negative."""

    def forward(self, x):
        seen = x[:, 0, : x.shape[2] // 2, : x.shape[3] // 2].sum((1, 2))
        return torch.stack([seen, -seen], 1)


class Counting(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model, self.rows = model, 0

    def forward(self, x):
        self.rows += len(x)
        return self.model(x)


@pytest.mark.parametrize("steps", [1, 7, 48])
def test_deletion_of_a_linear_model_falls_by_the_sorted_values(steps):
    metric = Deletion(steps=steps, value="score")
    start = LINEAR(X)[:, 2].detach()
    gone = [round(step * H * W / steps) for step in range(steps + 1)]
    sorted_values = BY_PIXEL.sort(dim=1, descending=True).values
    expected = torch.stack([start - sorted_values[:, :k].sum(1) for k in gone], 1)
    assert_same(metric.curve(LINEAR, X, MAPS, 2), expected, 1e-9)
    area = ((expected[:, :-1] + expected[:, 1:]) / 2).mean(1)
    assert_same(metric(LINEAR, X, MAPS, 2), area, 1e-9)


def test_insertion_into_the_same_baseline_is_deletion_of_the_reversed_map_backwards():
    insertion = Insertion(steps=8, baseline=0.25, value="score").curve(LINEAR, X, MAPS, 2)
    deletion = Deletion(steps=8, baseline=0.25, value="score").curve(LINEAR, X, -MAPS, 2)
    assert_same(insertion.flip(1), deletion, 1e-9)


def test_the_true_order_beats_the_reversed_one_and_chance_lies_between():
    metric = Deletion(steps=12, value="score")
    x = torch.rand(1, C, 16, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    maps = GradTimesImage()(Quadrant(), x, 0)
    random = [torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(seed)) for seed in range(12)]
    true, false = (float(metric(Quadrant(), x, sign * maps, 0)) for sign in (1, -1))
    by_chance = torch.tensor([float(metric(Quadrant(), x, one, 0)) for one in random])
    assert true < float(by_chance.min())
    assert float(by_chance.max()) < false


def test_road_of_an_object_on_an_even_ground_knows_where_the_object_is():
    x = torch.full((1, C, 16, 16), 0.1)
    x[:, :, 2:6, 2:6] = 1
    object_, ground = (x[:, :1] > 0.5).float(), (x[:, :1] < 0.5).float()
    metric = ROAD(steps=5, noise=0.0, value="score")
    # imputed from the ground the object is gone; imputed from the object and the ground that is left, it is not
    assert float(metric(Quadrant(), x, object_, 0)) < 0.6 * float(metric(Quadrant(), x, ground, 0))
    assert float(metric.curve(Quadrant(), x, object_, 0)[0, 1]) == pytest.approx(64 * 0.1, abs=0.1)


def test_random_maps_delete_a_linear_model_along_the_straight_line_on_average():
    metric = Deletion(steps=6, value="score")
    curves = torch.stack(
        [
            metric.curve(LINEAR, X, torch.rand(N, 1, H, W, generator=torch.Generator().manual_seed(seed)), 2)
            for seed in range(400)
        ]
    )
    start, end = LINEAR(X)[:, 2].detach(), LINEAR(0 * X)[:, 2].detach()
    line = torch.stack([start + t * (end - start) for t in metric.fractions], 1)
    error = curves.std(0) / 20
    assert bool(((curves.mean(0) - line).abs() <= 4 * error + 1e-9).all())


def test_a_planted_feature_makes_the_curve_exact():
    x = torch.ones(1, C, 8, 8)
    maps = torch.zeros(1, 1, 8, 8)
    maps[..., :4, :4] = 1
    found = Deletion(steps=8, value="score").curve(Quadrant(), x, maps, 0)
    assert found.tolist() == [[16, 8, 0, 0, 0, 0, 0, 0, 0]]  # a quarter of the pixels is all that counts
    assert Insertion(steps=8, value="score", baseline=0.0).curve(Quadrant(), x, maps, 0).tolist() == [
        [0, 8, 16, 16, 16, 16, 16, 16, 16]
    ]


@pytest.mark.parametrize(
    ("cls", "baseline"), [(Deletion, 0.3), (Insertion, 0.3), (Insertion, "blur"), (Deletion, "blur")]
)
def test_the_paper_pixel_by_pixel(cls, baseline):
    case = CASES["plain"]
    model, x = case.model(), case.images(2)
    maps = GradTimesImage()(model, x, 1)
    metric = cls(steps=10, baseline=baseline)
    other = reference(x, baseline)
    for row in range(2):
        start, end = (x[row], other[row]) if cls is Deletion else (other[row], x[row])
        values = maps[row].sum(0).flatten().tolist()
        places = sorted(range(144), key=values.__getitem__, reverse=True)
        points = []
        for step in range(11):
            image = start.clone()
            for place in places[: round(step * 14.4)]:
                image[:, place // 12, place % 12] = end[:, place // 12, place % 12]
            points.append(model(image[None]).softmax(1)[0, 1].item())
        assert metric.curve(model, x, maps, 1)[row].tolist() == pytest.approx(points, abs=1e-9)
        area = sum((a + b) / 2 for a, b in pairwise(points)) / 10
        assert float(metric(model, x, maps, 1)[row]) == pytest.approx(area, abs=1e-9)


def test_the_area_under_a_step_is_where_it_steps():
    for cls in (Deletion, Insertion):
        steps = torch.tensor([[1, 1, 1, 0, 0.0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 1]])
        assert cls(steps=4).of_curve(steps).tolist() == [0.625, 1, 0.125]
    assert ROAD(steps=4).of_curve(torch.tensor([[9, 1, 1, 0, 0.0]])).tolist() == [0.5]


def test_probabilities_are_the_softmax_of_the_class():
    found = Deletion(steps=4).curve(LINEAR, X, MAPS, 2)
    assert_same(found[:, 0], LINEAR(X).softmax(1)[:, 2].detach().float(), 1e-6)
    assert_same(found[:, -1], LINEAR(0 * X).softmax(1)[:, 2].detach().float(), 1e-6)


def test_the_class_is_the_images_own_all_along():
    assert_same(
        Deletion(steps=4, value="score").curve(LINEAR, X, MAPS),
        Deletion(steps=4, value="score").curve(LINEAR, X, MAPS, LINEAR(X).argmax(1)),
        1e-12,
    )


def test_the_cost_is_what_it_says():
    counting = Counting(linear(torch.float32))
    x, maps = X.float(), MAPS.float()
    Gradient()(counting, x, 2)  # its rows are found to be independent, once
    counting.rows = 0
    Deletion(steps=10)(counting, x, maps, 2)
    assert counting.rows == N * (9 + 2)
    counting.rows = 0
    ROAD(steps=5)(counting, x, maps, 2)
    assert counting.rows == N * (5 + 1)


def test_ends_are_found_once_for_all_maps_of_an_image():
    from deepviz.metrics.metric import judging

    counting = Counting(linear(torch.float32))
    Gradient()(counting, X.float(), 2)
    counting.rows = 0
    with judging(counting, X.float(), 2) as session:
        for sign in (1, -1):
            for metric in (Deletion(steps=5), Insertion(steps=5, baseline=0.0)):
                metric.measure(session, sign * MAPS.float())
    assert counting.rows == N * (4 * 4 + 2)


def test_ties_lie_at_random_and_in_the_same_way_in_every_row():
    values = torch.zeros(2, 20, 20)
    order = ranks(values, 0)
    assert torch.equal(order[0], order[1])
    assert not torch.equal(order[0].flatten(), torch.arange(400))
    assert not torch.equal(ranks(values, 1), order)
    values[:, 3, 4] = 1
    assert ranks(values, 0)[:, 3, 4].tolist() == [0, 0]


def test_ranks_are_the_places_in_falling_order():
    values = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(3))
    order = ranks(values, 0).flatten(1)
    for row in range(3):
        expected = values[row].flatten().argsort(descending=True).argsort()
        assert torch.equal(order[row], expected)


def test_a_map_that_is_the_same_everywhere_is_said_to_be_so():
    with pytest.warns(DeepVizWarning, match="random order"):
        Deletion(steps=2)(LINEAR, X, torch.ones(N, 1, H, W), 2)


def test_magnitudes_are_another_order():
    metric = Deletion(steps=6, value="score", channels="magnitude")
    alone = MAPS.abs().amax(1, keepdim=True)
    assert_same(metric(LINEAR, X, MAPS, 2), Deletion(steps=6, value="score")(LINEAR, X, alone, 2), 1e-12)


def test_a_layers_map_is_enlarged():
    coarse = torch.rand(N, 1, 2, 3, generator=torch.Generator().manual_seed(4))
    fine = nn.functional.interpolate(coarse, (H, W), mode="bilinear")
    assert_same(Deletion(steps=6)(LINEAR, X, coarse, 2), Deletion(steps=6)(LINEAR, X, fine, 2), 1e-12)


@pytest.mark.parametrize("head", ["sigmoid", "softmax", "one logit", "one probability", "callable"])
def test_probabilities_of_other_heads(head):
    heads = {"sigmoid": nn.Sigmoid(), "softmax": nn.Softmax(1)}
    inner = linear()
    target, expected = 1, None
    if head in heads:
        model = nn.Sequential(inner, heads[head])
        expected = model(X)[:, 1]
    elif head == "callable":
        model, target = inner, lambda output: output.square().sum(1)
        expected = inner(X).square().sum(1)
    else:
        tail = nn.Linear(5, 1).double()
        model = nn.Sequential(inner, tail, *([nn.Sigmoid()] if head == "one probability" else []))
        expected = nn.Sequential(inner, tail)(X)[:, 0].sigmoid()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeepVizWarning)
        kind = "binary" if head.startswith("one") else "auto"
        found = Deletion(steps=3).curve(model, X, MAPS, target, output=kind)
    assert_same(found[:, 0].double(), expected.detach(), 1e-6)


def test_bfloat16_is_near_and_returns_float32():
    model, x, maps = linear(torch.float32), X.float(), MAPS.float()
    full, half = (Deletion(steps=6, precision=precision)(model, x, maps, 2) for precision in ("full", "bfloat16"))
    assert half.dtype == torch.float32
    assert float((full - half).abs().max()) < 0.05
    assert not torch.equal(full, half)


def test_road_by_hand():
    metric = ROAD(steps=3, noise=0.0, value="score")
    order = ranks(MAPS.sum(1), 0)
    images = [X, *(imputed(X, order < round(t * H * W)) for t in (0.25, 0.5, 0.75))]
    points = [LINEAR(image)[:, 2] for image in images]
    expected = torch.stack(points, 1).detach()
    assert_same(metric.curve(LINEAR, X, MAPS, 2), expected, 1e-9)
    assert_same(metric(LINEAR, X, MAPS, 2), expected[:, 1:].mean(1), 1e-9)
    assert metric.fractions == (0, 0.25, 0.5, 0.75)


def test_roads_noise_is_on_imputed_pixels_alone():
    seen = []

    class Seeing(nn.Module):
        def forward(self, x):
            seen.append(x.clone())
            return x.mean((2, 3))

    ROAD(steps=1, noise=0.5)(Seeing(), X, MAPS, 0)
    changed = seen[-1]
    removed = (ranks(MAPS.sum(1), 0) < H * W // 2).unsqueeze(1).expand_as(X)
    assert torch.equal(changed[~removed], X[~removed])
    added = changed - imputed(X, removed[:, 0])
    assert 0.3 < float(added[removed].std()) < 0.7


def test_least_relevant_first_is_the_reversed_order_and_higher_is_better():
    least = ROAD("least", steps=4, noise=0.0, value="score")
    assert_same(least(LINEAR, X, MAPS, 2), ROAD(steps=4, noise=0.0, value="score")(LINEAR, X, -MAPS, 2), 1e-9)
    assert (least.better, ROAD().better, ROAD.better) == ("higher", "lower", "lower")


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Deletion(steps=0),
        lambda: Insertion(baseline="gray"),
        lambda: ROAD(steps=0),
        lambda: ROAD(noise=-1.0),
        lambda: ROAD("both"),
    ],
)
def test_options_that_are_none(wrong):
    with pytest.raises(ValueError, match=r"must be|baseline"):
        wrong()
