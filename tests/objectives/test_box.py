import pytest
import torch
from PIL import Image

import deepviz
from deepviz.errors import ModelError, TargetError
from deepviz.methods import GradCAM, Gradient, GradTimesImage, GuidedBackprop, IntegratedGradients, SmoothGrad
from deepviz.objectives import Box, Boxes, Candidates, Detection, Logit, NothingDetected, from_plain, parse, to_plain
from deepviz.objectives.candidates import overlap
from deepviz.probe.seen import Seen
from networks import assert_same
from objectives.planted import BLUE, CELL, RED, PlantedDetector, squares

NET = PlantedDetector().double()
X = torch.stack([squares((1, 2, 0, 1.0), (3, 0, 2, 0.9)), squares((0, 0, 2, 1.0), (3, 3, 0, 0.8))])
LABELS = ("red square", "blue square")


def cell(row, column, label):
    """The gradient of the logit of a cell: a / 64 of its own colour, -a / 64 of the other, 0 elsewhere."""
    expected = torch.zeros(3, 32, 32, dtype=torch.float64)
    place = (slice(row * CELL, (row + 1) * CELL), slice(column * CELL, (column + 1) * CELL))
    sign = 1 if label == RED else -1
    expected[0][place], expected[2][place] = sign * NET.slope / CELL**2, -sign * NET.slope / CELL**2
    return expected


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (Box(), [cell(1, 2, RED), cell(0, 0, BLUE)]),
        (Box(index=1), [cell(3, 0, BLUE), cell(3, 3, RED)]),
        (Box(RED), [cell(1, 2, RED), cell(3, 3, RED)]),
        (Box(BLUE), [cell(3, 0, BLUE), cell(0, 0, BLUE)]),
        (Box(box=torch.tensor([[1.0, 20, 12, 31], [20, 20, 31, 31]])), [cell(3, 0, BLUE), cell(3, 3, RED)]),
    ],
    ids=str,
)
def test_the_gradient_is_that_of_the_cell_that_was_detected_and_of_no_other(target, expected):
    assert_same(Gradient()(NET, X, target), torch.stack(expected), 1e-12)
    assert_same(Gradient()(NET, X, [target, Box()])[:, 0], torch.stack(expected), 1e-12)


def test_integrated_gradients_of_a_detection_sum_to_the_change_of_its_logit():
    # along the whole path it is the same box, though on the black image none is better than another
    for method in (IntegratedGradients(steps=3), GradTimesImage()):
        assert_same(method(NET, X, Box()).sum((1, 2, 3)), torch.full((2,), NET.slope).double(), 1e-9)
    rows = SmoothGrad(samples=4, noise=0.3)(NET, X, Box())
    assert_same(rows, torch.stack([cell(1, 2, RED), cell(0, 0, BLUE)]), 1e-12)


def test_the_same_box_is_followed_when_another_becomes_better():
    found = deepviz.objectives.bind(Box(), 2)
    found(Seen(NET(X), (X,)))
    changed = X.clone()
    changed[0, :, 8:16, 16:24] *= 0.3  # the explained square fades, so that the other one is the best
    values = found.take(slice(0, 2))(Seen(NET(changed), (changed,)))
    assert values[0].item() == pytest.approx(NET.slope * 0.3 + NET.bias)
    assert NET(changed).detections()[0][0].label == BLUE


def test_a_moved_box_is_followed_by_overlap_and_class():
    boxes = torch.tensor([[[0.0, 0, 10, 10], [40, 0, 50, 10], [1, 0, 11, 10]]])
    logits = torch.tensor([[[1.0, 0.0], [9.0, 0.0], [2.0, 5.0]]])
    seen = Seen(Candidates(boxes, logits, logits.sigmoid()), (torch.zeros(1, 3, 8, 8),))
    assert Detection(0, (1, 0, 11, 10))(seen).tolist() == [2.0]  # not the best of the class, which is elsewhere
    assert Detection(0, (0.5, 0, 10.5, 10))(seen).tolist() == [2.0]  # of two that are as near, the more likely one
    weighted = Detection(0, (0, 0, 10, 10), "iou-weighted")(seen)
    assert_same(weighted, torch.maximum(logits[:, 0, 0].sigmoid(), 9 / 11 * logits[:, 2, 0].sigmoid()), 1e-6)


def test_candidates_that_fill_up_a_row_are_never_followed():
    boxes = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 0, 0]]])
    logits = torch.tensor([[[-3.0], [50.0]]])
    seen = Seen(Candidates(boxes, logits, torch.tensor([[[0.9], [0.0]]])), (torch.zeros(1, 3, 8, 8),))
    assert Detection(0, (30, 30, 40, 40))(seen).tolist() == [-3.0]


def test_boxes_of_one_class_that_overlap_are_one_detection():
    boxes = torch.tensor([[[0.0, 0, 10, 10], [2, 0, 12, 10], [9, 0, 19, 10]]])
    scores = torch.tensor([[[0.6, 0.0], [0.9, 0.7], [0.5, 0.0]]])
    found = Candidates(boxes, scores, scores).detections()[0]
    assert [(one.candidate, one.label) for one in found] == [(1, 0), (1, 1), (2, 0)]
    kept = Candidates(boxes, scores, scores, threshold=0.55, overlap=None).detections()[0]
    assert [(one.candidate, one.label) for one in kept] == [(1, 0), (1, 1), (0, 0)]


def test_boxes_of_their_own_for_each_class():
    boxes = torch.tensor([[[[0.0, 0, 10, 10], [40, 0, 50, 10]], [[20, 0, 30, 10], [1, 0, 11, 10]]]])
    logits = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    found = Candidates(boxes, logits, logits.sigmoid())
    assert [(one.label, one.box) for one in found.detections()[0][:2]] == [(1, (1, 0, 11, 10)), (0, (20, 0, 30, 10))]
    seen = Seen(found, (torch.zeros(1, 3, 8, 8),))
    assert Detection(0, (0, 0, 10, 10))(seen).tolist() == [1.0]
    assert Detection(1, (0, 0, 10, 10))(seen).tolist() == [4.0]
    both = Candidates(boxes.expand(2, 2, 2, 4), logits.expand(2, 2, 2), logits.expand(2, 2, 2).sigmoid())
    labels = Detection(torch.tensor([0, 1]), torch.tensor([[0.0, 0, 10, 10], [40, 0, 50, 10]]))
    assert labels(Seen(both, (torch.zeros(2, 3, 8, 8),))).tolist() == [1.0, 2.0]


def test_parts_of_an_adapted_model_keep_their_names():
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = torch.nn.Sequential(PlantedDetector())

        def forward(self, x):
            return self.model(x)

    net = Net()
    adapted = deepviz.detector(net, lambda output: output)
    assert [name for name, _ in adapted.named_modules()] == [name for name, _ in net.named_modules()]
    assert adapted.get_submodule("model.0.head") is net.model[0].head
    assert adapted.state_dict().keys() == net.state_dict().keys()
    assert adapted(X.float()).boxes.shape == (2, 16, 4)


def test_overlap_by_hand():
    assert float(overlap(torch.tensor([0.0, 0, 4, 4]), torch.tensor([2.0, 2, 6, 6]))) == pytest.approx(4 / 28)
    assert float(overlap(torch.zeros(4), torch.zeros(4))) == 0


@pytest.fixture
def model():
    preprocess = deepviz.Preprocess(32, crop=None, mean=(0, 0, 0), std=(1, 1, 1), interpolation="nearest")
    return deepviz.load_model(PlantedDetector(), preprocess=preprocess, labels=LABELS, output="detections")


@pytest.fixture
def picture():
    made = Image.new("RGB", (320, 240))
    made.paste((255, 0, 0), (160, 60, 240, 120))
    made.paste((0, 0, 230), (0, 0, 80, 60))
    return made


def test_explain_takes_the_best_detection_and_tells_its_box_on_the_image(model, picture):
    one, two = deepviz.explain(model, picture, "grad-times-image", top_k=2)
    assert (one.target.label, one.target.box) == ("red square", (160, 60, 240, 120))
    assert (two.target.label, two.target.box) == ("blue square", (0, 0, 80, 60))
    assert [each.label for each in one.detections] == ["red square", "blue square"]
    assert one.predictions[0] == ("red square", pytest.approx(1 / (1 + 2.718281828 ** -(10 - 5)), abs=1e-6))
    assert one.placed()[90, 200] > 0 == one.placed()[30, 40]


@pytest.mark.parametrize(
    "text", ["box('blue square')", "box(blue square)", "box(1)", "box(box=(10, 5, 90, 70))", "box(index=1)"]
)
def test_a_box_is_written_the_same_everywhere_and_given_in_pixels_of_the_image(model, picture, text):
    for target in (text, parse(text, LABELS), from_plain(to_plain(parse(text, LABELS)))):
        (one,) = deepviz.explain(model, picture, "gradient", target=target)
        assert (one.target.label, one.target.box) == ("blue square", (0, 0, 80, 60))


def test_what_is_not_detected_is_an_error_that_tells_what_is(model, picture):
    picture.paste((0, 0, 0), (0, 0, 80, 60))
    with pytest.raises(NothingDetected, match=r"no detection of blue square; there is red square 99 %"):
        deepviz.explain(model, picture, "gradient", target="box('blue square')")
    with pytest.raises(NothingDetected, match=r"no detection of red square with index 1"):
        deepviz.explain(model, picture, "gradient", target="box('red square', index=1)")
    picture.paste((0, 0, 0), (0, 0, 320, 240))
    with pytest.raises(NothingDetected, match=r"no detection; there is none at all"):
        deepviz.explain(model, picture, "gradient")
    with pytest.raises(TargetError, match=r"no class named 'green square'; did you mean"):
        deepviz.explain(model, picture, "gradient", target=Box("green square"))


@pytest.mark.parametrize("box", [(1, 2, 3), (5, 0, 1, 9), (0, 0, float("nan"), 1)])
def test_a_box_that_is_none(box):
    with pytest.raises((TargetError, ValueError), match="box"):
        Box(box=box)


def test_a_model_that_is_no_detector_says_so():
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
    with pytest.raises(TargetError, match="is about a detector"):
        Gradient()(net, torch.rand(1, 3, 2, 2), Box())


def test_candidates_of_unlike_shapes():
    with pytest.raises(ModelError, match=r"candidates must be boxes"):
        Candidates(torch.zeros(1, 3, 4), torch.zeros(1, 2, 5), torch.zeros(1, 2, 5))


def test_results_keep_their_boxes(model, picture, tmp_path):
    explained = deepviz.explain(model, picture, "gradient", target=[Box(RED), Box(BLUE)])
    deepviz.save_explanations(explained, tmp_path / "boxes.deepviz")
    for one, again in zip(explained, deepviz.load_explanations(tmp_path / "boxes.deepviz"), strict=True):
        assert (again.target, again.target.box, again.detections) == (one.target, one.target.box, one.detections)


def test_the_boxes_are_drawn_and_the_explained_one_in_a_colour_of_its_own(model, picture):
    drawn = deepviz.explain(model, picture, "grad-times-image")[0].overlay()
    assert drawn.getpixel((200, 60)) == (255, 221, 0)
    assert drawn.getpixel((40, 0)) != (255, 221, 0)
    assert drawn.size == picture.size


def test_guided_backprop_of_a_detector_says_that_it_has_no_rectifier(model, picture):
    with pytest.raises(deepviz.errors.NothingOverridden):
        deepviz.explain(model, picture, GuidedBackprop())


def test_a_difference_of_two_detections():
    expected = torch.stack([cell(1, 2, RED) - cell(3, 0, BLUE), cell(3, 3, RED) - cell(0, 0, BLUE)])
    assert_same(Gradient()(NET, X, Box(RED) - Box(BLUE)), expected, 1e-12)
    with pytest.raises(ModelError, match="no class scores"):
        Gradient()(NET, X, Box() - Logit(0))


@pytest.mark.parametrize("target", ["all-boxes", "boxes()", Boxes()])
def test_all_boxes_of_several_images_are_explained_each_by_itself(model, picture, target):
    alone = picture.copy()
    alone.paste((0, 0, 0), (0, 0, 80, 60))
    found = deepviz.explain(model, [picture, alone], ["gradient", "grad-times-image"], target=target)
    assert [(one.target.label, one.target.box) for one in found] == [
        *[("red square", (160, 60, 240, 120))] * 2,
        *[("blue square", (0, 0, 80, 60))] * 2,
        *[("red square", (160, 60, 240, 120))] * 2,
    ]
    (one,) = deepviz.explain(model, picture, "gradient", target=Boxes("blue square"))
    assert torch.equal(one.attribution, found[2].attribution)
    assert len(deepviz.explain(model, picture, "gradient", target=Boxes(most=1))) == 1
    with pytest.raises(NothingDetected, match=r"no detection of blue square; there is red square 99 %"):
        deepviz.explain(model, alone, "gradient", target=Boxes("blue square"))


def test_all_boxes_on_tensors_are_a_list():
    with pytest.raises(TargetError, match=r"boxes\(\) stands for several targets: use deepviz.explain"):
        Gradient()(NET, X, Boxes())


def test_an_image_without_detections_does_not_stop_the_others(model, picture, tmp_path, monkeypatch, capsys):
    from PIL import Image

    from deepviz.cli import run

    monkeypatch.chdir(tmp_path)
    for name in ("a", "c"):
        picture.save(f"{name}.png")
    Image.new("RGB", (320, 240)).save("b.png")
    asked = ["explain", "a.png", "b.png", "c.png", "--model", "small_models:detector", "-m", "gradient"]
    assert run([*asked, "--target", "box('red square')"]) == 4
    out, err = capsys.readouterr()
    assert out.count("sheet.png") == 2
    assert err.splitlines()[0] == "deepviz: b.png: no detection of red square; there is none at all"
    assert out.startswith("a.png: red square ")


@pytest.mark.parametrize("size", [(320, 160), (160, 320), (320, 240)])
def test_maps_and_boxes_of_a_padded_image_lie_on_its_squares(size):
    pads = {"fit": "letterbox", "pad": 0.0, "antialias": False}
    padded = deepviz.Preprocess(32, None, (0, 0, 0), (1, 1, 1), **pads)
    model = deepviz.load_model(PlantedDetector(), preprocess=padded, labels=LABELS, output="detections")
    scale = max(size) / 32
    left, top = ((32 - side / scale) // 2 for side in size)  # what is filled up, in pixels of the input
    for row, column in [(1, 1), (1, 2), (2, 1), (2, 2)]:
        box = tuple(scale * (8 * cell - start) for cell, start in zip((column, row), (left, top), strict=True))
        box = (*box, box[0] + 8 * scale, box[1] + 8 * scale)
        if box[0] < 0 or box[1] < 0 or box[2] > size[0] or box[3] > size[1]:
            continue
        shown = Image.new("RGB", size)
        shown.paste((255, 0, 0), tuple(round(side) for side in box))
        (explained,) = deepviz.explain(model, shown, "grad-times-image")
        assert explained.target.box == pytest.approx(box)
        heat = torch.as_tensor(explained.placed()).double().abs()
        assert heat.shape == (size[1], size[0])
        inside = heat[round(box[1]) : round(box[3]), round(box[0]) : round(box[2])].sum() / heat.sum()
        assert inside > 0.9  # the rest is from the resizing of its border


def test_a_box_that_reaches_into_the_padding_is_cut_to_the_image():
    pads = {"fit": "letterbox", "pad": 0.0, "antialias": False}
    padded = deepviz.Preprocess(32, None, (0, 0, 0), (1, 1, 1), **pads)
    model = deepviz.load_model(PlantedDetector(), preprocess=padded, labels=LABELS, output="detections")
    shown = Image.new("RGB", (320, 240))  # 32 x 24, with 4 rows above: the first row of cells is half outside
    shown.paste((255, 0, 0), (80, 0, 160, 40))
    (explained,) = deepviz.explain(model, shown, "gradient")  # its logit is a / 2 + b, which is 0
    assert explained.target.box == (80, 0, 160, 40)
    assert explained.detections[0].box == (80, 0, 160, 40)


class Levels(torch.nn.Module):
    """Boxes of 8 pixels from one map, and of 16 pixels from the next one."""

    def __init__(self):
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 4, 3, padding=1, stride=4)
        self.small = torch.nn.Conv2d(4, 4, 1)
        self.large = torch.nn.Conv2d(4, 4, 3, padding=1, stride=2)
        self.heads = torch.nn.ModuleList([torch.nn.Conv2d(4, 2, 1), torch.nn.Conv2d(4, 2, 1)])

    def forward(self, x):
        shared = self.stem(x).tanh()
        boxes, logits = [], []
        for side, level, head in zip((8, 16), (self.small, self.large), self.heads, strict=True):
            scores = head(level(shared))
            down, across = torch.meshgrid(*map(torch.arange, scores.shape[2:]), indexing="ij")
            centre = 4 * torch.stack([across, down], -1).reshape(1, -1, 2) * side / 8
            boxes.append(torch.cat([centre - side / 2, centre + side / 2], -1).expand(len(x), -1, 4).to(x))
            logits.append(scores.flatten(2).transpose(1, 2))
        together = torch.cat(logits, 1)
        return Candidates(torch.cat(boxes, 1), together, together.sigmoid(), threshold=0.1)


def test_the_layer_of_a_pyramid_is_one_that_all_boxes_depend_on():
    torch.manual_seed(0)
    net = Levels().double()
    x = torch.rand(1, 3, 32, 32, dtype=torch.float64)
    boxes = net(x).detections()[0]
    assert {one.candidate < 64 for one in boxes} == {True, False}  # of both levels
    for index in range(0, len(boxes), 9):
        found = GradCAM(relu=False).attribute(net, x, Box(index=index))
        assert found.notes.facts["layer"] == "stem"
        assert found.maps.abs().max() > 0


class TwoMaps(torch.nn.Module):
    """A backbone that returns a map and another one that is made of it."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Conv2d(3, 4, 3, padding=1)
        self.second = torch.nn.Conv2d(4, 2, 3, padding=1)

    def forward(self, x):
        first = self.first(x)
        return {"first": first, "second": self.second(first.tanh())}


def test_the_gradient_of_a_map_includes_what_its_own_layer_makes_of_it():
    torch.manual_seed(0)
    body = TwoMaps()
    net = torch.nn.ModuleDict({"body": body})
    net.forward = lambda x: torch.stack([sum(one.mean((1, 2, 3)) for one in net["body"](x).values())] * 2, 1)
    net = net.double()
    x = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    A = body.first(x)
    first = A.detach().requires_grad_()
    score = first.mean((1, 2, 3)) + body.second(first.tanh()).mean((1, 2, 3))
    (dA,) = torch.autograd.grad(score.sum(), first)
    expected = (dA.mean((2, 3), keepdim=True) * A).sum(1, keepdim=True).detach()
    for layer in ("body", "body.first"):
        assert_same(GradCAM(layer=layer, relu=False)(net, x, 0), expected, 1e-12)


def test_two_detections_of_one_class_are_two_lines_of_a_sheet(model, picture):
    from deepviz.results.explanation import _predictions

    picture.paste((200, 0, 0), (240, 180, 320, 240))
    (one,) = deepviz.explain(model, picture, "gradient", target=Box("red square", index=1))
    lines = _predictions(one, [one.target])
    assert [label for label, _ in lines] == ["red square", "blue square", "red square"]
    assert [score for _, score in lines] == sorted((score for _, score in lines), reverse=True)


def test_boxes_of_each_image_are_in_pixels_of_the_image_too(model, picture):
    boxes = torch.tensor([[150.0, 50, 250, 130], [5, 5, 70, 50]])
    found = deepviz.explain(model, [picture, picture], "gradient", target=Box(box=boxes))
    assert [one.target.box for one in found] == [(160, 60, 240, 120), (0, 0, 80, 60)]
    (one,) = deepviz.explain(model, picture, "gradient", target=Box(box=boxes[1]))
    assert one.target.box == (0, 0, 80, 60)


def test_predict_lists_the_detections(model, picture):
    ((one, two),) = model.predict(picture)
    assert (one.label, two.label) == ("red square", "blue square")
    assert one.probability == pytest.approx(1 / (1 + 2.718281828**-one.score))
    assert one.score == pytest.approx(NET.slope + NET.bias, abs=1e-4)
    assert len(model.predict(picture, top_k=1)[0]) == 1


@pytest.mark.parametrize(
    ("box", "logit", "message"),
    [(0.5, 3.0, "not fractions of it: multiply them by its sides"), (5.0, float("nan"), "scores are not finite")],
)
def test_candidates_that_would_be_misread_are_refused(box, logit, message):
    class Bad(torch.nn.Module):
        def forward(self, x):
            logits = x.mean((1, 2, 3)).view(-1, 1, 1) + logit
            return Candidates(torch.tensor([[[0.0, 0, box, box]]]).expand(len(x), 1, 4), logits, logits.sigmoid())

    with pytest.raises(ModelError, match=message):
        Gradient()(Bad(), torch.rand(2, 3, 8, 8), Box())
