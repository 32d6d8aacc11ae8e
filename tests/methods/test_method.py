import functools
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from deepviz import catalog
from deepviz.errors import DeepVizWarning, MethodError, ModelError, ModelFailed, TargetError
from deepviz.methods import GradCAM, Gradient, Method, Needs, SmoothGrad
from deepviz.models import LoadedModel
from deepviz.objectives import Function
from deepviz.runs.asked import Item
from deepviz.runs.explain import explain_items
from networks import CASES, assert_same

model, x = CASES["plain"].model(), CASES["plain"].images()


@dataclass(frozen=True)
class Stranger(Method):
    """A method written elsewhere: the gradient, scaled, with what it found out."""

    scale: float = 2.0
    title = "Stranger"

    def maps(self, session):
        gradient, scores = session.gradient_and_values()
        session.notes.facts["scale"] = self.scale
        session.notes.rows["score"] = scores.cpu()
        session.notes.warn("the first row is odd", torch.arange(session.n) == 0)
        return gradient.map(lambda G: self.scale * G)


def test_a_strangers_method_needs_only_its_formula():
    with pytest.warns(DeepVizWarning, match="the first row is odd"):
        result = Stranger(scale=3.0).attribute(model, x, 2)
    assert_same(result.maps, 3 * Gradient()(model, x, 2), 1e-12)
    assert result.notes.of(0) == {
        "scale": 3.0,
        "output": "assumed: one class of 5",
        "score": pytest.approx(float(model(x)[0, 2].detach())),
        "warnings": ("the first row is odd",),
    }
    assert "warnings" not in result.notes.of(1)


def test_a_warning_points_at_the_callers_line():
    with pytest.warns(DeepVizWarning) as warned:
        Stranger()(model, x, 2)
    assert warned[0].filename == __file__


@pytest.mark.parametrize(
    ("target", "says"),
    [
        (5, "class 5 is out of range: the model has 5 classes, 0 to 4"),
        (-1, "from 0 up, got -1"),
        (True, "not a bool"),
        (1.0, r"got 1\.0"),
        ("tabby", "no labels"),
        (torch.tensor([0, 1, 9]), "class 9 is out of range"),
        (torch.tensor([0, 1, -2]), "from 0 up, got -2"),
        (torch.tensor([0, 1]), r"\(N,\) or \(N, K\) with N = 3 rows, got \(2,\)"),
        (torch.zeros(3, 2, 2, dtype=torch.long), r"got \(3, 2, 2\)"),
        (torch.zeros(3, 0, dtype=torch.long), r"got \(3, 0\)"),
        (torch.tensor([0.0, 1.0, 2.0]), "float32"),
        (torch.tensor([True, False, True]), "bool"),
        (lambda output: output, r"\(3,\), got a tensor \(3, 5\)"),
        (lambda output: output[:, 0].argmax(), "one float score per row"),
        (lambda output: 3.0, "got float"),
        (lambda output: output.sum(0), "one float score per row"),
    ],
    ids=lambda value: "callable" if callable(value) else str(value),
)
def test_a_bad_target_is_an_error_that_says_why(target, says):
    with pytest.raises(TargetError, match=says):
        Gradient()(model, x, target)


def test_a_target_of_one_element_holds_for_all_rows():
    assert torch.equal(Gradient()(model, x, torch.tensor(2)), Gradient()(model, x, 2))


def test_a_target_is_not_written_to():
    target = torch.tensor([0, 1, 2])
    result = Gradient().attribute(model, x, target)
    result.classes.fill_(4)
    assert target.tolist() == [0, 1, 2]


def test_a_model_on_too_few_or_too_many_rows_is_an_error():
    class Doubles(torch.nn.Module):
        def forward(self, x):
            return torch.cat([x, x]).flatten(1)[:, :4]

    with pytest.raises(ModelError, match="6 rows, 3 went in"):
        Gradient()(Doubles(), x, 1)


def test_a_shape_that_the_model_refuses_is_told_beside_its_own_error():
    with pytest.raises(ModelFailed, match=r"\(1, 4, 12, 12\).*expected input") as caught:
        Gradient()(model, torch.zeros(1, 4, 12, 12, dtype=torch.float64))
    assert type(caught.value.__cause__) is RuntimeError
    with pytest.raises(ModelFailed, match=r"float32.*parameters are float64"):
        Gradient()(model, x.float())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_the_parameter_that_is_not_finite_is_named(value):
    broken = CASES["plain"].model()
    with torch.no_grad():
        broken[2].weight[0, 0, 0, 0] = value
    with pytest.raises(ModelError, match=r"2\.weight"):
        Gradient()(broken, x)


def test_a_model_of_one_image_runs_once_and_backwards_once_a_target():
    watched = CASES["plain"].model()
    Gradient()(watched, x, 0)  # the rows are found to be independent once
    passes = []
    watched[0].register_forward_hook(lambda module, inputs, output: passes.append("forward"))
    watched[0].register_full_backward_hook(lambda module, grad_in, grad_out: passes.append("backward"))
    Gradient()(watched, x, torch.tensor([[0, 1, 2]] * 3))
    assert passes == ["forward", "backward", "backward", "backward"]


class _Probability(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(12, 1)
        torch.nn.init.constant_(self.head.weight, -0.1)

    def forward(self, x):
        return self.head(x.flatten(1)).sigmoid().float().squeeze(1)


@pytest.mark.parametrize("name", ["gradient", "integrated-gradients", "smooth-grad"])
@pytest.mark.filterwarnings("ignore::deepviz.errors.DeepVizWarning")
def test_a_frozen_model_that_ends_in_a_sigmoid_predicts_by_its_half(name):
    model = _Probability().requires_grad_(False)
    assert catalog.method(name).attribute(model, torch.ones(2, 3, 2, 2)).classes.tolist() == [0, 0]


def test_a_tensor_target_of_another_length_is_refused_before_the_model_runs():
    def forbidden(*_):
        raise AssertionError("the model was run")

    unused = CASES["plain"].model()
    unused.forward = forbidden
    for length in (1, 2, 4):
        with pytest.raises(TargetError, match=rf"N = 3 rows, got \({length},\)"):
            GradCAM(layer="3")(unused, x, torch.zeros(length, dtype=torch.long))


@pytest.mark.parametrize("method", [Gradient(), GradCAM(layer="0", relu=False), SmoothGrad(samples=2)], ids=str)
@pytest.mark.parametrize(
    ("classes", "says"), [(1, "output is a probability, not a logit"), (4, "outputs are probabilities, not logits")]
)
def test_a_sigmoid_at_the_end_is_told_of_by_every_method(method, classes, says):
    labels = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(400, classes), torch.nn.Sigmoid()
    ).double()
    with pytest.warns(DeepVizWarning, match=rf"{says} \(sigmoid\)") as warned:
        told = method.attribute(labels, x, 0, output="binary" if classes == 1 else "auto").notes.of(2)
    assert len(warned) == 1
    assert told["warnings"] == (str(warned[0].message),)


def test_which_of_several_outputs_is_explained_is_told():
    class Towers(torch.nn.Module):
        def forward(self, x):
            return self.answer(x.mean((2, 3)), x.amax((2, 3)))

    towers = Towers()
    towers.answer = lambda mean, largest: {"image": mean, "text": largest, "loss": mean.sum()}
    with pytest.warns(DeepVizWarning, match=r"several \(N, K\) outputs, image, text: this explains image"):
        assert_same(Gradient()(towers, x, 1)[:, 1], torch.full((3, 12, 12), 1 / 144, dtype=x.dtype), 1e-12)
    for named in ("logits", "out"):
        towers.answer = lambda mean, largest, named=named: {"first": largest, named: mean}
        Gradient()(towers, x, 1)  # a name says it: no warning
    towers.answer = lambda mean, largest: (mean, largest.sum())
    Gradient()(towers, x, 1)


@dataclass(frozen=True)
class Returning(Method):
    """Whatever a function makes of the input."""

    function: Any = None
    title = "Returning"

    def maps(self, session):
        return self.function(session.x[0])


@dataclass(frozen=True)
class OfLayer(Returning):
    """The same, declared to be of a layer."""

    needs = Needs(layer=True)


WRONG = {
    "one row": (lambda x: x[:1], r"\(1, 3, 12, 12\)"),
    "more rows": (lambda x: torch.cat([x, x]), r"\(6, 3, 12, 12\)"),
    "no rows": (lambda x: x.sum(0), r"\(3, 12, 12\)"),
    "too large": (lambda x: x.repeat(1, 1, 2, 1), r"\(3, 3, 24, 12\)"),
    "other channels": (lambda x: x[:, :2], r"\(3, 2, 12, 12\)"),
    "no channels": (lambda x: x.sum(1), r"\(3, 12, 12\)"),
    "flat": (lambda x: x.flatten(1), r"\(3, 432\)"),
    "empty": (lambda x: x[:, :1, :0], r"\(3, 1, 0, 12\)"),
}


@pytest.mark.parametrize("kind", [Returning, OfLayer])
@pytest.mark.parametrize(("function", "shape"), WRONG.values(), ids=WRONG)
def test_maps_of_another_shape_than_the_input_are_refused(kind, function, shape):
    """They would be drawn stretched, or beside an image that they are not of."""
    says = rf"Returning returned maps {shape} for an input \(3, 3, 12, 12\): they must be \(3, 3, 12, 12\), or \(3, 1,"
    with pytest.raises(MethodError, match=says):
        kind(function)(model, x, 1)


@pytest.mark.parametrize("kind", [Returning, OfLayer])
def test_one_map_may_be_coarser_than_the_input(kind):
    """A layer's cells, or the patches that a method covers."""

    def coarse(x):
        return x[:, :1, ::4, ::3]

    for found in (coarse, lambda x: x, lambda x: x[:, :1]):
        assert_same(kind(found)(model, x, 1), found(x))
    assert SmoothGrad(of=kind(coarse), samples=2)(model, x, 1).shape == (3, 1, 3, 4)


def test_only_a_layer_may_have_an_axis_more_than_the_input():
    """Frames that a model takes as channels."""
    with pytest.raises(MethodError, match=r"\(3, 1, 3, 12, 12\) for an input \(3, 3, 12, 12\)"):
        Returning(lambda x: x[:, None])(model, x, 1)
    assert OfLayer(lambda x: x[:, None])(model, x, 1).shape == (3, 1, 3, 12, 12)


def test_maps_of_several_targets_have_an_axis_for_them():
    classes = torch.tensor([[0, 1]] * 3)
    assert Returning(lambda x: torch.stack([x, x], 1))(model, x, classes).shape == (3, 2, 3, 12, 12)
    says = r"\(3, 3, 12, 12\) for an input \(3, 3, 12, 12\) and 2 targets: they must be \(3, 2, 3, 12, 12\), or"
    with pytest.raises(MethodError, match=says):
        Returning(lambda x: x)(model, x, classes)


@pytest.mark.parametrize(
    "found", [None, (), "maps", [None], lambda x: (x, x)], ids=["None", "empty", "text", "a list", "a pair"]
)
def test_what_is_no_map_at_all_is_refused(found):
    made = found if callable(found) else (lambda x: found)
    with pytest.raises(MethodError, match="Returning must return a tensor of maps, or one for each of 1 explained"):
        Returning(made)(model, x, 1)


def test_a_wrong_shape_is_a_failure_beside_methods_that_work():
    with pytest.warns(DeepVizWarning, match="Returning returned maps"):
        (found,) = explain_items(
            LoadedModel(model, "plain"),
            [Item(LoadedModel(model, "plain").prepare(x[0]))],
            [Gradient(), Returning(lambda x: x[:, :2])],
            lenient=True,
        )
    assert [type(one).__name__ for one in found.outcomes] == ["Explanation", "Failed"]


class Rearranging:
    def __call__(self, values):
        return values

    def columns(self, values):
        return values


def rows(values):
    return values


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (rows, "rows"),
        (lambda values: values, "lambda"),
        (functools.partial(rows), "rows"),
        (Rearranging().columns, "columns"),
        (Rearranging(), "Rearranging"),
        (torch.relu, "relu"),
    ],
)
def test_a_callable_option_has_its_name_in_captions(function, name):
    """And no address, which is another in each run."""
    assert str(GradCAM(grid=function)) == f"Grad-CAM, grid {name}"
    assert catalog.spell(GradCAM(grid=function)) == f"grad-cam(grid=<{name}>)"
    assert str(Function(function)) == name
    assert GradCAM(grid=function) != GradCAM(grid=lambda values: values)  # told apart by what they are


def test_a_method_inside_another_keeps_its_caption():
    @dataclass(frozen=True)
    class Doubled(Method):
        """Twice another method's map."""

        inner: Method = field(default_factory=Gradient)

        def maps(self, session):
            return 2 * self.inner.maps(session)

    assert str(Doubled(GradCAM(relu=False))) == "Doubled, inner Grad-CAM, relu False"
