import pytest
import torch
from PIL import Image
from torch import nn

import deepviz
from deepviz.errors import ModelError, TargetError
from deepviz.methods import Gradient, GradTimesImage, IntegratedGradients, SmoothGrad
from deepviz.objectives import NoRegion, Pixels, Predicted, bind, from_plain, parse, to_plain
from deepviz.probe.seen import Seen
from deepviz.runs.look import predicted
from networks import assert_same
from objectives.planted import CELL, PlantedSegmenter, squares

LABELS = ("__background__", "red", "blue")


NET = PlantedSegmenter().double()
X = torch.stack([squares((0, 1, 0, 1.0), (0, 2, 0, 1.0), (3, 3, 2, 1.0)), squares((2, 2, 0, 1.0), (2, 1, 2, 0.9))])


def region(label, *cells):
    expected = torch.zeros(3, 32, 32, dtype=torch.float64)
    weight = NET.head.weight[label, :, 0, 0].detach()
    for row, column in cells:
        place = (slice(row * CELL, (row + 1) * CELL), slice(column * CELL, (column + 1) * CELL))
        expected[:, place[0], place[1]] = weight[:, None, None] / CELL**2 / len(cells)
    return expected


EVERYWHERE = [(row, column) for row in range(4) for column in range(4)]
HALF = torch.zeros(32, 32)
HALF[:, 16:] = 1


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (Pixels(1), [region(1, (0, 1), (0, 2)), region(1, (2, 2))]),
        (Pixels(2), [region(2, (3, 3)), region(2, (2, 1))]),
        (Pixels(without=(0,)), [region(1, (0, 1), (0, 2)), region(1, (2, 2))]),
        (Pixels(without=(0,), index=1), [region(2, (3, 3)), region(2, (2, 1))]),
        (Pixels(1, None), [region(1, *EVERYWHERE)] * 2),
        (Pixels(2, (25, 30)), [region(2, (3, 3))] * 2),
        (Pixels(1, HALF), [region(1, *[place for place in EVERYWHERE if place[1] >= 2])] * 2),
        (Pixels(1, torch.stack([HALF, 1 - HALF])), [
            region(1, *[place for place in EVERYWHERE if place[1] >= 2]),
            region(1, *[place for place in EVERYWHERE if place[1] < 2]),
        ]),
    ],
    ids=lambda one: str(one)[:40],
)  # fmt: skip
def test_the_gradient_is_that_of_the_region_and_nothing_else(target, expected):
    for net in (NET, PlantedSegmenter("out").double(), PlantedSegmenter("logits").double()):
        assert_same(Gradient()(net, X, target), torch.stack(expected), 1e-12)
    assert_same(Gradient()(NET, X, [Pixels(0, None), target])[:, 1], torch.stack(expected), 1e-12)
    assert_same(SmoothGrad(samples=3, noise=0.5)(NET, X, target), torch.stack(expected), 1e-12)


def test_the_region_is_chosen_once_and_stays_on_changed_copies():
    # on the black image nothing is red: the region of the original one is meant all along the path
    mean = (NET(X)[0, 1, 0, 1:3].mean() - NET(0 * X)[0, 1, 0, 0]).detach()
    for method in (IntegratedGradients(steps=3), GradTimesImage()):
        assert_same(method(NET, X, Pixels(1))[0].sum(), mean, 1e-9)
    bound = bind(Pixels(1), 2)
    bound(Seen(NET(X), (X,)))
    with torch.no_grad():
        assert_same(
            bound(Seen(NET(0.2 * X), (X,))), torch.stack([NET(0.2 * X)[0, 1, 0, 1], NET(0.2 * X)[1, 1, 2, 2]]), 1e-12
        )


@pytest.fixture
def model():
    preprocess = deepviz.Preprocess(32, crop=0.8, mean=(0, 0, 0), std=(1, 1, 1), interpolation="nearest")
    return deepviz.load_model(PlantedSegmenter(), preprocess=preprocess, labels=LABELS, output="maps")


@pytest.fixture
def picture():
    """200 x 200, of which the model sees (20, 20) to (180, 180): cells of 40 pixels."""
    made = Image.new("RGB", (200, 200))
    made.paste((255, 0, 0), (20, 60, 100, 100))  # cells (1, 0) and (1, 1)
    made.paste((0, 0, 255), (140, 140, 180, 180))  # cell (3, 3)
    return made


def test_explain_takes_the_largest_region_that_is_no_background(model, picture):
    one, two = deepviz.explain(model, picture, "grad-times-image", top_k=2)
    assert (one.target.label, two.target.label) == ("red", "blue")
    assert one.predictions == (("__background__", 13 / 16), ("red", 2 / 16), ("blue", 1 / 16))
    assert one.placed()[80, 60] > 0 == one.placed()[80, 140]
    assert two.placed()[160, 160] > 0 == two.placed()[80, 60]


@pytest.mark.parametrize(
    ("target", "drawn"),
    [
        ("pixels(blue, (90, 90))", [(1, 1)]),
        ("pixels(red)", [(1, 0), (1, 1)]),
        (Pixels("red", torch.ones(200, 200)), [(row, column) for row in range(4) for column in range(4)]),
    ],
    ids=["a point", "predicted", "a mask"],
)
def test_masks_and_points_are_given_on_the_image(model, picture, target, drawn):
    objective = parse(target, LABELS) if isinstance(target, str) else target
    for one in (objective, from_plain(to_plain(objective))):
        (found,) = deepviz.explain(model, picture, "gradient", target=one)
        middles = found.placed()[40:180:40, 40:180:40]  # of the cells of 40 pixels that the model saw
        assert {(row, column) for row in range(4) for column in range(4) if middles[row, column] > 0} == set(drawn)


def test_as_many_regions_are_predicted_as_there_are(model, picture):
    found = predicted(model, model.prepare(picture), 5)
    assert [one.label for one in found] == ["red", "blue"]
    ((background, red, blue),) = model.predict(picture)
    assert (red.index, red.label, red.probability, red.score) == (1, "red", 2 / 16, pytest.approx(found[0].score))
    assert (background.probability, blue.score) == (13 / 16, pytest.approx(found[1].score))
    assert str(blue) == "blue 6.2 %"


def test_what_cannot_be_meant(model, picture):
    picture.paste((0, 0, 0), (140, 140, 180, 180))
    with pytest.raises(NoRegion, match=r"no pixel is predicted as blue; there are __background__ 88 %, red 12 %"):
        deepviz.explain(model, picture, "gradient", target=Pixels("blue"))
    with pytest.raises(TargetError, match="the mask is 30 x 20 pixels, and the image 200 x 200"):
        deepviz.explain(model, picture, "gradient", target=Pixels(1, torch.ones(20, 30)))
    with pytest.raises(TargetError, match="the model saw nothing of the mask"):
        deepviz.explain(model, picture, "gradient", target=Pixels(1, (5, 100)))
    with pytest.raises(TargetError, match=r"the point \(500, 3\) is outside of the image"):
        deepviz.explain(model, picture, "gradient", target=Pixels(1, (500, 3)))
    with pytest.raises(TargetError, match="out of range"):
        deepviz.explain(model, picture, "gradient", target=Pixels(7))
    with pytest.raises(TargetError, match="must be as large as one of them"):
        Gradient()(NET, X, Pixels(1, torch.ones(5, 5)))
    for mask in (torch.zeros(4, 4), -torch.ones(4, 4), torch.ones(4)):
        with pytest.raises((TargetError, ValueError)):
            Pixels(1, mask)
    with pytest.raises(ModelError, match="this target is about a segmenter"):
        Gradient()(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), torch.rand(1, 3, 2, 2), Pixels(1))


def test_the_outline_of_the_region_is_drawn(model, picture):
    drawn = deepviz.explain(model, picture, "grad-times-image", target="pixels('red')")[0].overlay()
    assert drawn.getpixel((60, 60)) == drawn.getpixel((20, 80)) == (255, 221, 0)
    assert (255, 221, 0) not in {drawn.getpixel((60, 80)), drawn.getpixel((150, 150)), drawn.getpixel((60, 120))}


def test_results_keep_their_region(model, picture, tmp_path):
    (one,) = deepviz.explain(model, picture, "gradient", target="pixels('red')")
    deepviz.save_explanations([one], tmp_path / "region.deepviz")
    (again,) = deepviz.load_explanations(tmp_path / "region.deepviz")
    assert again.target == one.target
    assert torch.equal(again.target.objective.mask, one.target.objective.mask)
    assert again.overlay().tobytes() == one.overlay().tobytes()


def test_an_unknown_model_of_maps_is_taken_for_a_segmenter_and_that_is_said(picture):
    preprocess = deepviz.Preprocess(32, crop=0.8, mean=(0, 0, 0), std=(1, 1, 1), interpolation="nearest")
    guessed = deepviz.load_model(PlantedSegmenter("out"), preprocess=preprocess, labels=LABELS)
    stated = deepviz.load_model(guessed, output="maps")
    for target in (None, "blue", Pixels("blue"), Predicted()):
        (one,) = deepviz.explain(guessed, picture, "gradient", target=target)
        (other,) = deepviz.explain(stated, picture, "gradient", target=target)
        assert one.target == other.target
        assert torch.equal(one.attribution, other.attribution)
        assert one.notes["output"].startswith("assumed: class scores at each place, of a segmenter; output='maps'")
        assert "output" not in other.notes
    assert one.target.label == "red"


@pytest.mark.parametrize("squashed", [False, True])
def test_of_one_map_the_object_is_explained_and_not_the_background(squashed):
    class One(nn.Module):
        def forward(self, x):
            z = 4 * nn.functional.avg_pool2d(x, CELL)[:, :1] - 2
            return z.sigmoid() if squashed else z

    x = squares((0, 1, 0, 1.0), (2, 2, 0, 1.0))[None].float()
    (one,) = deepviz.explain(One(), x, "gradient")
    assert (one.target.label, one.predictions) == ("class 1", (("class 0", 14 / 16), ("class 1", 2 / 16)))
    marked = one.attribution[0] > 0
    assert marked[:8, 8:16].all()
    assert marked[16:24, 16:24].all()
    assert marked.sum() == 2 * CELL**2
    (same,) = deepviz.explain(One(), x, "gradient", top_k=2)
    assert same.target == one.target
    (other,) = deepviz.explain(One(), x, "gradient", target=0)
    assert (other.attribution[0] < 0).sum() == 14 * CELL**2


class PlantedCube(nn.Module):
    """Of volumes with cells of 4 x 4 x 4: class 1 where they are bright; linear."""

    def forward(self, x):
        z = nn.functional.avg_pool3d(x, 4)
        return torch.cat([0.5 - z, z], 1)


def test_regions_of_volumes():
    x = torch.zeros(1, 1, 8, 12, 16, dtype=torch.float64)
    x[..., 4:8, 0:4, 8:12] = 1
    expected = torch.zeros_like(x)
    expected[..., 4:8, 0:4, 8:12] = 1 / 64
    mask = torch.zeros(1, 8, 12, 16)
    mask[:, 4:8, 0:4, 8:12] = 1
    for target in (Pixels(1), Pixels(without=(0,)), Pixels(1, (9, 2, 5)), Pixels(1, mask)):
        assert_same(Gradient()(PlantedCube(), x, target), expected, 1e-12)
        assert_same(IntegratedGradients(steps=2)(PlantedCube(), x, target).sum(), torch.tensor(1.0).double(), 1e-9)
        (one,) = deepviz.explain(PlantedCube(), deepviz.Inputs(x), "gradient", target=target)
        assert_same(one.attribution.double(), expected[0], 1e-6)
        assert one.overlay().size[0] > 0
    assert_same(Gradient()(PlantedCube(), x.repeat(3, 1, 1, 1, 1), Pixels(1, mask))[2:], expected, 1e-12)
    (one,) = deepviz.explain(PlantedCube(), deepviz.Inputs(x), "gradient", top_k=2)[1:]
    assert_same(one.attribution.double(), expected[0], 1e-6)
    with pytest.raises(TargetError, match=r"the point \(9, 2\) has 2 axes, and the model's input 3: give \(x, y, z\)"):
        Gradient()(PlantedCube(), x, Pixels(1, (9, 2)))
    with pytest.raises(TargetError, match=r"\(9, 2, 8\) is outside of the model's input, 16 x 12 x 8 pixels"):
        Gradient()(PlantedCube(), x, Pixels(1, (9, 2, 8)))


def test_masks_of_each_image_are_given_on_the_image_too(model, picture):
    masks = torch.zeros(2, 200, 200)
    masks[0, 60:100, 20:60] = 1
    masks[1, 140:180, 140:180] = 1
    one, two = deepviz.explain(model, [picture, picture], "gradient", target=Pixels("red", masks))
    for found, (y, x) in ((one, (80, 40)), (two, (160, 160))):
        drawn = found.placed()[40:180:40, 40:180:40]
        assert (drawn > 0).sum() == 1
        assert found.placed()[y, x] > 0
    with pytest.raises(TargetError, match="the mask is 32 x 32 pixels, and the image 200 x 200"):
        deepviz.explain(model, [picture, picture], "gradient", target=Pixels("red", torch.ones(2, 32, 32)))
