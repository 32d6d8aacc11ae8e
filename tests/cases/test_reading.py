"""Defects found by reading: targets that mean one thing everywhere, options that are checked, work done once."""

from dataclasses import dataclass, fields
from typing import Annotated, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import deepviz
from cases.oracles import Counted, found_or_refused, gradient, images, seeded
from deepviz.errors import DeepVizError
from deepviz.methods import GradCAM, Gradient, GuidedGradCAM, IntegratedGradients, Method, SmoothGrad
from deepviz.metrics import Deletion
from deepviz.probe.reference import Baseline, reference
from networks import assert_same

pytestmark = pytest.mark.filterwarnings("ignore::deepviz.errors.DeepVizWarning")
REFUSED = (DeepVizError, ValueError, TypeError)
X = images(2, 3, 32, 32).float()
QUICK = Deletion(steps=2)


def network():
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 14 * 14, 5)
    )  # fmt: skip


@pytest.fixture(scope="module")
def net():
    return seeded(network).float()


def classes_of(results):
    return [one.target.index for one in results]


BOOLS = {
    "True": True,
    "False": False,
    "numpy": np.bool_(True),
    "tensor": torch.tensor(True),
    "tensor for each image": torch.tensor([True, False]),
    "array for each image": np.array([True, False]),
    "in a list": [True],
    "among classes": [0, True],
}


@pytest.mark.parametrize("target", BOOLS.values(), ids=BOOLS.keys())
@pytest.mark.parametrize("ask", ["explain", "evaluate", "sanity_check", "method"])
def test_a_truth_value_is_no_class(net, ask, target):
    calls = {
        "explain": lambda: deepviz.explain(net, X, "gradient", target=target),
        "evaluate": lambda: deepviz.evaluate(net, X, "gradient", QUICK, target=target, controls=False),
        "sanity_check": lambda: deepviz.sanity_check(net, X, "gradient", stages=1, target=target),
        "method": lambda: Gradient()(net, X, target),
    }
    with pytest.raises(REFUSED, match=r"(?i)bool|True|False"):
        calls[ask]()


ONE_EACH = {
    "tensor": torch.tensor([0, 1]),
    "array": np.array([0, 1]),
    "array of 8 bits": np.array([0, 1], np.uint8),
    "tensor of 32 bits": torch.tensor([0, 1], dtype=torch.int32),
}


@pytest.mark.parametrize("target", ONE_EACH.values(), ids=ONE_EACH.keys())
def test_arrays_and_tensors_are_one_class_for_each_image(net, target):
    assert classes_of(deepviz.explain(net, X, "gradient", target=target)) == [0, 1]
    judged = deepviz.evaluate(net, X, "gradient", QUICK, target=target, controls=False)
    assert judged.values.shape == (2, 1, 1)
    for row in range(2):
        alone = deepviz.evaluate(net, X[row : row + 1], "gradient", QUICK, target=row, controls=False)
        np.testing.assert_allclose(judged.values[row], alone.values[0], rtol=1e-5)
    kept = deepviz.sanity_check(net, X, "gradient", stages=1, target=target)
    assert [one.maps[0][0].target.index for one in kept.examined] == [0, 1]
    assert Gradient().attribute(net, X, target).classes.tolist() == [0, 1]


LISTS = {"list": [0, 1], "tuple": (0, 1), "numpy integers": [np.int64(0), np.int64(1)]}


@pytest.mark.parametrize("target", LISTS.values(), ids=LISTS.keys())
def test_a_list_is_all_of_its_classes_for_every_image(net, target):
    assert classes_of(deepviz.explain(net, X, "gradient", target=target)) == [0, 1, 0, 1]
    judged = deepviz.evaluate(net, X, "gradient", QUICK, target=target, controls=False)
    assert len(judged.judged) == 4
    numbers = judged.values.reshape(4)
    for place, (row, k) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        alone = deepviz.evaluate(net, X[row : row + 1], "gradient", QUICK, target=k, controls=False)
        assert numbers[place] == pytest.approx(float(alone.values.item()), rel=1e-5)
    kept = deepviz.sanity_check(net, X, "gradient", stages=1, target=target)
    assert [one.maps[0][0].target.index for one in kept.examined] == [0, 1, 0, 1]


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_list_as_long_as_the_images_is_no_exception(net, n):
    x = images(n, 3, 32, 32).float()
    for length in (1, 2, 3):
        target = [2, 4, 0][:length]
        assert classes_of(deepviz.explain(net, x, "gradient", target=target)) == target * n
        assert len(deepviz.evaluate(net, x, "gradient", QUICK, target=target, controls=False).judged) == n * length
        assert len(deepviz.sanity_check(net, x, "gradient", stages=1, target=target).examined) == n * length


def test_a_range_is_its_classes_or_refused(net):
    found, refusal = found_or_refused(lambda: deepviz.explain(net, X, "gradient", target=range(2)))
    assert classes_of(found) == [0, 1, 0, 1] if refusal is None else "target" in str(refusal)


def test_a_tuple_of_one_is_that_class_for_every_image(net):
    assert classes_of(deepviz.explain(net, X, "gradient", target=(0,))) == [0, 0]


@pytest.mark.parametrize("target", [[], (), np.array([], np.int64), torch.tensor([], dtype=torch.long)], ids=str)
@pytest.mark.parametrize("ask", ["explain", "evaluate", "sanity_check"])
def test_no_class_at_all_is_an_error(net, ask, target):
    with pytest.raises(REFUSED, match=r"(?i)target|class|empty"):
        getattr(deepviz, ask)(net, X, "gradient", target=target)


@pytest.mark.parametrize("target", [np.array([0, 1, 2]), torch.tensor([0]), np.array([0.0, 1.0]), 1.5, [1.5], -1, 99])
def test_targets_that_do_not_fit_are_refused_everywhere(net, target):
    for call in (
        lambda: deepviz.explain(net, X, "gradient", target=target),
        lambda: deepviz.evaluate(net, X, "gradient", QUICK, target=target, controls=False),
        lambda: deepviz.sanity_check(net, X, "gradient", stages=1, target=target),
    ):
        with pytest.raises(REFUSED, match=r"(?i)target|class"):
            call()


def test_lists_of_labels_and_objectives_are_all_of_them_too(net):
    loaded = deepviz.load_model(net, labels=["fox", "wolf", "lynx", "mug", "crane"])
    found = deepviz.explain(loaded, X, "gradient", target=["fox", "mug"])
    assert classes_of(found) == [0, 3, 0, 3]
    difference = deepviz.objectives.Logit(0) - deepviz.objectives.Logit(3)
    found = deepviz.explain(loaded, X, "gradient", target=["fox", difference])
    assert len(found) == 4
    assert_same(found[1].attribution, (Gradient()(net, X, 0) - Gradient()(net, X, 3))[0], 1e-4)


@pytest.mark.parametrize("ask", ["explain", "evaluate", "sanity_check"])
@pytest.mark.parametrize("methods", [[], (), iter(())], ids=["list", "tuple", "iterator"])
def test_no_method_is_an_error(net, ask, methods):
    more = {"evaluate": ("deletion",)}.get(ask, ())
    options = {"controls": False} if ask == "evaluate" else {}
    with pytest.raises(REFUSED, match="methods"):
        getattr(deepviz, ask)(net, X, methods, *more, **options)


def test_no_method_is_an_error_with_controls_too(net):
    with pytest.raises(REFUSED, match="methods"):
        deepviz.evaluate(net, X, [], "deletion")


def test_a_set_of_methods_has_no_order_and_is_refused_in_words_or_explained(net):
    found, refusal = found_or_refused(lambda: deepviz.explain(net, X[0], {"gradient", "grad-cam"}), TypeError)
    assert len(found) == 2 if refusal is None else "methods" in str(refusal)


def test_an_iterator_of_images_is_many_images(net):
    found = deepviz.explain(net, (image for image in X), "gradient", target=1)
    assert_same(torch.stack([one.attribution for one in found]), Gradient()(net, X, 1), 1e-5)
    assert len(deepviz.evaluate(net, iter(X), "gradient", QUICK, controls=False).judged) == 2


def test_an_array_of_pictures_is_many_images(net):
    pictures = np.zeros((2, 32, 32, 3), np.uint8)
    pictures[1, :16] = 200
    found = deepviz.explain(net, pictures, "gradient", preprocess=deepviz.Preprocess(32), target=1)
    assert len(found) == 2
    alone = deepviz.explain(net, pictures[1], "gradient", preprocess=deepviz.Preprocess(32), target=1)
    assert_same(found[1].attribution, alone[0].attribution, 1e-6)


WRONG_OPTIONS = {
    "a word for relu": lambda: GradCAM(relu="no"),
    "a number for relu": lambda: GradCAM(relu=1),
    "a number for a layer": lambda: GradCAM(layer=3),
    "a number for another layer": lambda: GuidedGradCAM(layer=3),
    "a list for a layer": lambda: GradCAM(layer=["1"]),
    "a word for multiply_by_input": lambda: IntegratedGradients(multiply_by_input="no"),
    "a word for steps": lambda: IntegratedGradients(steps="5"),
    "half a step": lambda: IntegratedGradients(steps=5.5),
    "no steps": lambda: IntegratedGradients(steps=0),
    "a truth value for steps": lambda: IntegratedGradients(steps=True),
    "fewer than no steps": lambda: IntegratedGradients(steps=-3),
    "a tolerance that is no number": lambda: IntegratedGradients(tolerance=float("nan")),
    "a tolerance of nothing": lambda: IntegratedGradients(tolerance=0),
    "too few most steps": lambda: IntegratedGradients(max_steps=0),
    "a baseline that is no number": lambda: IntegratedGradients(baseline=float("nan")),
    "a baseline without end": lambda: IntegratedGradients(baseline=float("inf")),
    "a tensor with a number that is none": lambda: IntegratedGradients(baseline=torch.full((3, 1, 1), float("nan"))),
    "a baseline that does not exist": lambda: IntegratedGradients(baseline="blakc"),
    "a rule that does not exist": lambda: IntegratedGradients(rule="simpson"),
    "half a sample": lambda: SmoothGrad(samples=2.5),
    "one sample": lambda: SmoothGrad(samples=1),
    "a word for samples": lambda: SmoothGrad(samples="many"),
    "a word for noise": lambda: SmoothGrad(noise="a"),
    "noise without end": lambda: SmoothGrad(noise=float("inf")),
    "noise that is no number": lambda: SmoothGrad(noise=float("nan")),
    "no noise": lambda: SmoothGrad(noise=0),
    "a statistic that does not exist": lambda: SmoothGrad(statistic="median"),
    "a seed that is none": lambda: SmoothGrad(seed=1.5),
    "a truth value for a seed": lambda: SmoothGrad(seed=True),
    "a name for a method": lambda: SmoothGrad(of="gradient"),
    "a class for a method": lambda: SmoothGrad(of=Gradient),
    "a metric's half step": lambda: Deletion(steps=2.5),
    "a metric's no steps": lambda: Deletion(steps=0),
    "a metric's baseline": lambda: Deletion(baseline=float("nan")),
    "a metric's word": lambda: Deletion(steps="3"),
}


@pytest.mark.parametrize("build", WRONG_OPTIONS.values(), ids=WRONG_OPTIONS.keys())
def test_an_option_of_another_kind_is_refused_where_it_is_given(build):
    with pytest.raises(
        (ValueError, TypeError),
        match=r"layer|relu|multiply_by_input|steps|tolerance|baseline|rule|samples|noise|statistic|seed|of\b",
    ):
        build()


def test_numbers_of_numpy_are_numbers():
    assert IntegratedGradients(steps=np.int64(5)).steps == 5
    assert SmoothGrad(noise=np.float32(0.5), samples=np.int32(3)).noise == 0.5
    assert SmoothGrad(noise=1).noise == 1


@dataclass(frozen=True)
class Difference(Method):
    """A stranger's method with a baseline, which may be named by colour."""

    baseline: Annotated[Baseline, "What it is compared with."] = 0.0
    title: ClassVar[str] = "Difference"

    def maps(self, session, *more):
        x = session.x[0] if not more else more[0]
        found = x - reference(x, self.baseline)
        return session.x.map(lambda _: found) if not more else found


PICTURE = Image.radial_gradient("L").convert("RGB")


def test_a_stranger_s_baseline_may_be_a_colour_too(net):
    preprocess = deepviz.Preprocess(32)
    (found,) = deepviz.explain(net, PICTURE, Difference("black"), preprocess=preprocess)
    x = deepviz.load_model(net, preprocess=preprocess).prepare(PICTURE).x
    assert_same(found.attribution, x - preprocess.pixel_value("black"), 1e-6)


def test_a_metric_s_baseline_may_be_a_colour(net):
    metric = Deletion(steps=3, baseline="black")
    found = deepviz.evaluate(net, PICTURE, "gradient", metric, preprocess=deepviz.Preprocess(32), controls=False)
    assert np.isfinite(found.values).all()


def test_a_colour_inside_another_method_is_resolved_too(net):
    inside = SmoothGrad(of=IntegratedGradients(steps=2, baseline="white"), samples=2)
    (found,) = deepviz.explain(net, PICTURE, inside, preprocess=deepviz.Preprocess(32), target=1)
    assert found.method == inside


class Failing(nn.Module):
    """Raises, and counts how often it was asked."""

    def __init__(self):
        super().__init__()
        self.layer, self.calls = nn.Linear(3072, 5), 0

    def forward(self, x):
        self.calls += 1
        raise ValueError("boom")


@pytest.mark.parametrize("ask", ["explain", "method", "evaluate", "sanity_check"])
def test_a_failing_model_is_not_asked_again_and_again(ask):
    model = Failing().eval()
    calls = {
        "explain": lambda: deepviz.explain(model, X, "gradient"),
        "method": lambda: Gradient()(model, X, 1),
        "evaluate": lambda: deepviz.evaluate(model, X, "gradient", QUICK),
        "sanity_check": lambda: deepviz.sanity_check(model, X, "gradient", stages=1),
    }
    with pytest.raises(DeepVizError, match="boom"):
        calls[ask]()
    assert model.calls <= 4  # as it came and one row alone, each in the plain layout too


def test_a_failing_target_is_not_asked_again_and_again(net):
    asked = []

    def target(output):
        asked.append(1)
        raise KeyError("mine")

    with pytest.raises(Exception, match="mine"):
        Gradient()(net, X, target)
    assert len(asked) <= 4


def test_a_result_asks_for_no_gradient(net):
    image = X[0].clone().requires_grad_()
    (found,) = deepviz.explain(net, image, "gradient")
    assert not found.attribution.requires_grad
    assert image.grad is None


def test_a_layer_by_position_is_an_error_that_says_how_to_give_it(net):
    with pytest.raises(TypeError):
        deepviz.viz_gradcam(net, X[0], "3")
    (found,) = deepviz.viz_gradcam(net, X[0], layer="3")
    assert found.layer == "3"


def test_a_user_s_own_file_in_a_folder_of_results_is_left_alone(tmp_path):
    from deepviz.files import probe_folder

    own = tmp_path / ".deepviz"
    own.write_text("mine")
    probe_folder(tmp_path)
    assert own.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [own]
    probe_folder(tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


class Detector(nn.Module):
    """A list of mappings out, one for each image."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, stride=4)
        self.classes, self.boxes = nn.Conv2d(8, 2, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        f = torch.relu(self.conv(x))
        c, b = self.classes(f).flatten(2), self.boxes(f).flatten(2)
        return [{"scores": c[i].amax(0).sigmoid(), "boxes": b[i].T} for i in range(len(x))]


def box(number):
    def score(output):
        return torch.stack([one["scores"][number] for one in output])

    score.__name__ = f"box_{number}"
    return score


def detector():
    return Counted(seeded(Detector)).eval()


def test_k_callables_share_their_forward_pass():
    net, x = detector(), images(1, 3, 32, 32)
    boxes = [box(5), box(6), box(7)]
    expected = torch.cat([gradient(lambda z, b=b: b(net(z)), x) for b in boxes])
    for target in (boxes, boxes[0]):  # what is checked once is checked
        deepviz.explain(net, x, "gradient", target=target)
    net.passes.clear()
    deepviz.explain(net, x, "gradient", target=boxes[0])
    one, _ = len(net.passes), net.passes.clear()
    found = deepviz.explain(net, x, "gradient", target=boxes)
    assert len(net.passes) == one
    assert one <= 2
    assert_same(torch.stack([e.attribution for e in found]), expected.float(), 1e-5)


def test_k_callables_share_their_passes_on_a_path_and_at_a_layer_too():
    net, x = detector(), images(1, 3, 32, 32)
    boxes = [box(5), box(6), box(7)]
    for method in (IntegratedGradients(steps=8), SmoothGrad(samples=8), GradCAM("body.conv", relu=False)):
        for target in (boxes, boxes[1]):
            deepviz.explain(net, x, method, target=target)
        net.passes.clear()
        single = deepviz.explain(net, x, method, target=boxes[1])
        one, _ = sum(net.passes), net.passes.clear()
        found = deepviz.explain(net, x, method, target=boxes)
        assert sum(net.passes) <= one + 2
        assert_same(found[1].attribution, single[0].attribution, 1e-5)


def test_a_method_takes_k_objectives_and_gives_k_maps():
    net, x = detector(), images(2, 3, 32, 32)
    boxes = [box(5), box(6), box(7)]
    found = Gradient()(net, x, boxes)
    assert found.shape == (2, 3, 3, 32, 32)
    for k, one in enumerate(boxes):
        assert_same(found[:, k], gradient(lambda z, b=one: b(net(z)), x))


def test_an_image_explained_again_pays_for_no_check_again():
    net, x = detector(), images(1, 3, 32, 32)
    target = box(5)
    deepviz.explain(net, x, ["gradient", "grad-cam"], target=target)
    net.passes.clear()
    deepviz.explain(net, x, ["gradient", "grad-cam"], target=target)
    assert len(net.passes) <= 4


def test_a_detector_s_output_without_a_target_asks_for_one():
    with pytest.raises(DeepVizError, match=r"callable|objective"):
        deepviz.explain(detector(), images(1, 3, 32, 32), "gradient")


def test_a_stored_callable_says_that_it_was_one(tmp_path):
    found = deepviz.explain(detector(), images(1, 3, 32, 32), ["gradient", "grad-cam"], target=box(5))
    assert found[0].target.label == "box_5"
    deepviz.save_explanations(found, tmp_path / "all.deepviz")
    (first, _) = deepviz.load_explanations(tmp_path / "all.deepviz")
    assert "box_5" in str(first.target)
    assert "callable" in str(first.target).lower() + str(first.notes).lower() + repr(first.target).lower()


def stored_objectives():
    from deepviz import objectives as o

    to = images(1, 5, seed=3)[0].float()
    return {
        "logit": o.Logit(2),
        "difference": o.Logit(2) - o.Logit(3),
        "weighted": 0.5 * o.Logit(2) - o.Logit(3) + o.Logit(4) * 2,
        "probability": o.Probability(1),
        "predicted": o.Predicted(),
        "runner-up": o.Predicted(rank=1),
        "output": o.Output(3),
        "similarity": o.Similarity(to=to),
        "channel": o.Channel("1", 2),
    }


OBJECTIVES = [
    "logit",
    "difference",
    "weighted",
    "probability",
    "predicted",
    "runner-up",
    "output",
    "similarity",
    "channel",
]


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_an_objective_is_itself_after_saving_and_loading(net, kind, tmp_path):
    objective = stored_objectives()[kind]
    found = deepviz.explain(net, X[0], "gradient", target=objective)
    deepviz.save_explanations(found, tmp_path / "all.deepviz")
    (back,) = deepviz.load_explanations(tmp_path / "all.deepviz")
    assert str(back.target) == str(found[0].target)
    stored = getattr(back.target, "objective", None)
    if kind in ("predicted", "runner-up"):  # the class that it was
        objective = deepviz.objectives.Logit(found[0].target.index)
    assert stored == objective
    assert hash(stored) == hash(objective)
    assert_same(Gradient()(net, X[:1], stored)[0], found[0].attribution, 1e-5)


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_objectives_print_compare_and_hash(kind):
    one, same = (stored_objectives()[kind] for _ in range(2))
    assert one == same
    assert hash(one) == hash(same)
    assert str(one)
    assert all(one != other for name, other in stored_objectives().items() if name != kind)


def test_objectives_are_what_they_say(net):
    from deepviz import objectives as o

    z = gradient(lambda x: net(x)[:, 2], X), gradient(lambda x: net(x)[:, 3], X)
    assert_same(Gradient()(net, X, o.Logit(2)), z[0], 1e-5)
    assert_same(Gradient()(net, X, o.Logit(2) - o.Logit(3)), z[0] - z[1], 1e-4)
    assert_same(Gradient()(net, X, 0.5 * o.Logit(2) + o.Logit(3) * 2), 0.5 * z[0] + 2 * z[1], 1e-4)
    p = gradient(lambda x: net(x).softmax(1)[:, 1], X)
    assert_same(Gradient()(net, X, o.Probability(1)), p, 1e-4)
    order = net(X).argsort(1, descending=True)
    for rank in (0, 1):
        expected = gradient(lambda x, r=rank: net(x).gather(1, order[:, r : r + 1])[:, 0], X)
        assert_same(Gradient()(net, X, o.Predicted(rank=rank)), expected, 1e-5)


def test_a_metric_judges_a_difference_by_the_difference(net):
    from deepviz import objectives as o

    objective = o.Logit(2) - o.Logit(3)
    judged = deepviz.evaluate(net, X[:1], "gradient", QUICK, target=objective, controls=False).judged[0]
    curve = judged.curves[0][0]
    expected = (net(X[:1])[0, 2] - net(X[:1])[0, 3]).item()
    assert curve[0] == pytest.approx(expected, rel=1e-4)


def test_every_method_of_the_catalog_refuses_an_unknown_option():
    for cls in deepviz.catalog.METHODS.values():
        assert all(field.name for field in fields(cls))
        with pytest.raises(TypeError, match="unheard_of"):
            cls(unheard_of=1)
