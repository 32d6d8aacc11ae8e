"""Models that take more than one image: what is explained, what goes along with it, and that rows stay together."""

import pytest
import torch
from torch import nn

import deepviz
from deepviz import Inputs, catalog, shared
from deepviz.errors import ImageError, TargetError
from deepviz.methods import Gradient, GradTimesImage
from deepviz.objectives import Function, Logit, Output, Predicted, Similarity
from deepviz.results.outcomes import Skipped
from networks import assert_same
from small_models import good, network


def draw(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


class Paired(nn.Module):
    """An image and a table, with an age that goes along."""

    def __init__(self):
        super().__init__()
        self.image, self.table, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(5, 8), nn.Linear(8, 4)

    def forward(self, picture, table, *, age=None):
        features = torch.relu(self.image(picture)).mean((2, 3)) + self.table(table)
        return self.head(features if age is None else features * age[:, None])


@pytest.fixture
def paired():
    torch.manual_seed(0)
    return Paired().eval()


INPUTS = Inputs((draw(3, 3, 12, 12), draw(3, 5, seed=1)), extra={"age": torch.tensor([1.0, 2.0, 3.0])})


@pytest.mark.parametrize("target", [1, [0, 2], torch.tensor([0, 1, 2]), None], ids=repr)
def test_one_explanation_of_each_explained_input(paired, target):
    found = deepviz.explain(paired, INPUTS, [Gradient(), GradTimesImage()], target=target)
    classes = len(target) if isinstance(target, list) else 1
    names = ["x[0]", "x[0]", "x[1]", "x[1]"]
    assert [one.input for one in found] == names * classes * 3
    assert [one.layout for one in found[:4]] == ["image", "image", "table", "table"]
    for place, one in enumerate(found):
        row, leaf = place // (4 * classes), int(one.input[2])
        alone = one.method(paired, INPUTS.rows(slice(row, row + 1)), one.target.objective)
        assert_same(one.attribution, alone[leaf][0], 1e-6)


class Linear(nn.Module):
    """An image, and a table with a weight for each of its entries."""

    def forward(self, picture, table):
        mean = picture.mean((1, 2, 3))
        return torch.stack([mean, mean + table @ torch.tensor([1.0, -2.0, 0.0])], 1)


@pytest.mark.parametrize("as_mapping", [False, True])
def test_a_tables_map_has_the_names_of_its_columns(as_mapping):
    pictures, tables, names = draw(2, 3, 8, 8), torch.tensor([[3.0, 1.0, 5.0], [1.0, 1.0, 1.0]]), ["age", "dose", "id"]
    if as_mapping:
        inputs = Inputs({"picture": pictures, "table": tables}, columns={"table": names})
    else:
        inputs = Inputs((pictures, tables), columns={1: names})
    found = deepviz.explain(Linear(), inputs, "grad-times-image", target=1)
    assert [one.columns for one in found] == [(), tuple(names)] * 2
    assert found[1].values.tolist() == [[3.0, -2.0, 0.0]]
    assert found[3].values.tolist() == [[1.0, -2.0, 0.0]]


def test_columns_that_do_not_fit():
    pictures, table = draw(2, 3, 8, 8), draw(2, 3)
    assert Inputs(table, columns=("a", "b", "c")).columns_of("x") == ("a", "b", "c")
    for columns, error, words in (
        ({1: ["a", "b"]}, ValueError, r"x\[1\] has 2 columns' names, but is \(2, 3\)"),
        ({0: ["a", "b", "c"]}, ValueError, r"x\[0\] has 3 columns' names, but is \(2, 3, 8, 8\)"),
        ({2: ["a"]}, ValueError, r"columns names no tensor of x: give a mapping with 0, 1 as keys"),
        (["a", "b", "c"], ValueError, r"give a mapping with 0, 1 as keys"),
        ({1: "abc"}, TypeError, r"the columns of x\[1\] must be a sequence of names, got 'abc'"),
    ):
        with pytest.raises(error, match=words):
            Inputs((pictures, table), columns=columns)


def test_a_mapping_goes_by_keyword(paired):
    inputs = Inputs({"picture": INPUTS.x[0], "table": INPUTS.x[1]}, INPUTS.extra)
    found = deepviz.explain(paired, inputs, "gradient", target=0)
    assert [one.input for one in found[:2]] == ["x['picture']", "x['table']"]
    expected = deepviz.explain(paired, INPUTS, "gradient", target=0)
    for one, other in zip(found, expected, strict=True):
        assert_same(one.attribution, other.attribution, 1e-6)


def test_items_of_several_batches(paired):
    found = deepviz.explain(paired, [INPUTS.rows(slice(0, 1)), INPUTS.rows(slice(1, 3))], "gradient", target=0)
    expected = deepviz.explain(paired, INPUTS, "gradient", target=0)
    for one, other in zip(found, expected, strict=True):
        assert_same(one.attribution, other.attribution, 1e-6)


def test_a_layers_map_is_of_the_image_alone(paired):
    found = deepviz.explain(paired, INPUTS, ["grad-cam", "gradient"], target=0)
    assert [(one.title, one.input) for one in found[:3]] == [
        ("Grad-CAM", "x[0]"),
        ("Gradient", "x[0]"),
        ("Gradient", "x[1]"),
    ]
    assert {type(one) for one in found.skipped} == {Skipped}
    assert deepviz.sheet(found[:3]).width > 100
    assert len(deepviz.evaluate(paired, INPUTS, "gradient", "deletion", target=0).judged) == 3
    assert len(deepviz.sanity_check(paired, INPUTS, "gradient", stages=1, target=0).examined) == 3


class Weighted(nn.Module):
    """An image, weights of its features, and a matrix that is the same for all."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)

    def forward(self, x, weights, mix=None):
        features = self.layer(x).mean((2, 3)) * weights
        return features if mix is None else features @ mix


def test_extra_follows_its_image_whatever_the_sizes():
    torch.manual_seed(0)
    model, weights, mix = Weighted().eval(), draw(4, 4, seed=2), draw(4, 4, seed=3)
    images = [draw(3, side, side, seed=side) for side in (10, 10, 14, 10)]
    found = deepviz.explain(model, images, ["gradient", "smooth-grad"], target=[1, 2], extra=(weights, shared(mix)))
    for place, one in enumerate(found):
        row = place // 4
        expected = one.method(model, images[row][None], one.target.index, extra=(weights[row : row + 1], shared(mix)))
        assert_same(one.attribution, expected[0], 1e-5)
    table = deepviz.evaluate(model, images, "gradient", "deletion", target=1, extra=(weights, shared(mix)))
    alone = [
        deepviz.evaluate(model, images[row], "gradient", "deletion", target=1,
                         extra=(weights[row : row + 1], shared(mix))).values[0]
        for row in range(4)
    ]  # fmt: skip
    for row in range(4):
        assert table.values[row] == pytest.approx(alone[row], rel=1e-4)


def test_extra_that_does_not_fit():
    model = Weighted()
    with pytest.raises(ValueError, match=r"extra.* has 3 rows for 2 images"):
        deepviz.explain(model, draw(2, 3, 8, 8), "gradient", target=0, extra=(draw(3, 4),))
    with pytest.raises(TypeError, match="give extra= there"):
        deepviz.explain(model, INPUTS, "gradient", target=0, extra=(draw(3, 4),))


def test_volumes_and_signals():
    torch.manual_seed(0)
    volumes = nn.Sequential(
        nn.Conv3d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 3)
    ).eval()
    x = draw(2, 1, 10, 12, 14)
    found = deepviz.explain(volumes, x, "grad-times-image", target=1)
    assert [one.layout for one in found] == ["slices"] * 2
    assert_same(torch.stack([one.attribution for one in found]), GradTimesImage()(volumes, x, 1), 1e-6)
    with pytest.raises(deepviz.DeepVizError, match=r"it takes volumes: .* x\[None\]"):
        deepviz.explain(volumes, draw(2, 10, 12, 14), "gradient")
    assert found[0].image.size == (10 * 14, 12)
    signals = nn.Sequential(
        nn.Conv1d(2, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 3)
    ).eval()
    (one,) = deepviz.explain(signals, draw(2, 50), "gradient", target=1)
    assert (one.layout, one.space) == ("signal", (50,))
    assert len(deepviz.explain(signals, Inputs(draw(4, 2, 50)), "gradient")) == 4
    with pytest.raises(deepviz.DeepVizError, match=r"it takes signals: N signals \(N, C, L\) .* deepviz\.Inputs\(x\)"):
        deepviz.explain(signals, draw(4, 2, 50), "gradient")
    table = nn.Sequential(nn.Flatten(), nn.Linear(100, 3)).eval()
    with pytest.raises(deepviz.DeepVizError, match=r"three axes is one image \(C, H, W\); N signals"):
        deepviz.explain(table, draw(4, 2, 50), "gradient")
    with pytest.raises(deepviz.DeepVizError, match="expected input") as failed:
        deepviz.explain(network(), draw(4, 32, 32), "gradient")
    assert "signals" not in str(failed.value)


@pytest.mark.parametrize(
    "inputs",
    [draw(2, 50), Inputs((draw(1, 3, 8, 8), draw(1, 3, 8, 8))), Inputs(draw(2, 5))],
    ids=["signal", "two images", "table"],
)
def test_what_metrics_cannot_judge_is_refused_before_any_work(inputs):
    model = Counted().eval()
    with pytest.raises(ImageError, match=r"evaluate takes one image \(C, H, W\), or volume .* is \(") as refused:
        deepviz.evaluate(model, inputs, "gradient", "sparseness")
    assert "\n" not in str(refused.value)
    assert model.calls == 0


def test_a_number_is_explained_as_a_number():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1)).eval()
    x = draw(2, 3, 8, 8)
    found = deepviz.explain(model, x, "gradient")
    assert [one.target.score for one in found] == pytest.approx(model(x)[:, 0].tolist(), rel=1e-4)
    assert [(one.target.probability, one.target.objective) for one in found] == [(None, Output(0))] * 2
    assert str(found[0].target) == f"output: {model(x)[0].item():.3g}"
    assert_same(found[0].attribution, Gradient()(model, x, Predicted())[0], 1e-6)
    again = deepviz.explain(model, x, "gradient", target=found[0].target.objective)
    assert_same(again[0].attribution, found[0].attribution, 0)
    named = deepviz.load_model(model, labels=["age"], output="regression")
    assert str(deepviz.explain(named, x, "gradient")[0].target).startswith("age: ")


def test_multi_label_probabilities_are_independent():
    model = deepviz.load_model(network(), output="multi-label")
    x = draw(1, 3, 32, 32)
    found = deepviz.explain(model, x, "gradient", target=[0, 1])
    expected = network()(x).sigmoid()[0, :2].tolist()
    assert [one.target.probability for one in found] == pytest.approx(expected, rel=1e-4)


def test_objectives_have_captions_values_and_come_back():
    loaded = good()
    x = draw(2, 3, 32, 32)
    difference = Logit("red fox") - Logit(2)
    found = deepviz.explain(loaded, x, "gradient", target=[difference, "red fox - lynx"])
    scores = loaded.module(x).detach()
    for place, one in enumerate(found):
        assert one.target.score == pytest.approx(float(scores[place // 2, 1] - scores[place // 2, 2]), abs=1e-5)
        assert one.target.label == "red fox - lynx"
        assert one.target.objective == Logit(1) - Logit(2)
    assert len(deepviz.explain(loaded, x, "gradient", target=Similarity(to=draw(5, seed=4)))) == 2
    per_row = deepviz.explain(loaded, x, "gradient", target=Similarity(to=draw(2, 5, seed=4)))
    assert_same(per_row[1].attribution, Gradient()(loaded.module, x[1:], Similarity(to=draw(2, 5, seed=4)[1]))[0], 1e-6)


class Counted(nn.Module):
    """Counts the rows that went through it, and fails if it is told to."""

    def __init__(self, fails=False):
        super().__init__()
        self.body, self.calls, self.fails = network(), 0, fails

    def forward(self, x):
        self.calls += 1
        if self.fails:
            raise ValueError("boom")
        return self.body(x)


def test_several_callables_share_their_passes():
    model, x = Counted().eval(), draw(1, 3, 32, 32)
    three = [lambda output, k=k: output[:, k] for k in range(3)]
    deepviz.explain(model, x, "gradient", target=three)  # finds out how the model treats rows
    model.calls = 0
    found = deepviz.explain(model, x, "gradient", target=three)
    assert model.calls == 1, "one for their values and their gradients"
    for k, one in enumerate(found):
        assert isinstance(one.target.objective, Function)
        assert_same(one.attribution, Gradient()(model, x, k)[0], 1e-6)


@pytest.mark.parametrize("method", sorted(name for name, cls in catalog.METHODS.items() if cls.plain_gradient))
def test_a_method_that_takes_the_plain_gradient_shares_the_pass_of_the_predictions(method):
    cls = catalog.METHODS[method]
    model, images = Counted().eval(), list(draw(3, 3, 32, 32))
    deepviz.explain(model, images, method, top_k=2)  # finds out how the model treats rows
    model.calls = 0
    found = deepviz.explain(model, images, method, top_k=2)
    assert model.calls == 1
    for place, one in enumerate(found):
        x = images[place // 2][None]
        assert_same(one.attribution, cls()(model, x, one.target.index)[0], 1e-6)


def test_the_shared_pass_serves_one_method_and_others_take_their_own():
    model, images = Counted().eval(), list(draw(2, 3, 32, 32))
    methods = ["integrated-gradients(steps=3)", "grad-times-image", "gradient"]
    alone = [deepviz.explain(model, images, method) for method in methods]
    model.calls = 0
    found = deepviz.explain(model, images, methods)
    assert [one.title for one in found[:3]] == [of[0].title for of in alone]
    for place, one in enumerate(found):
        assert_same(one.attribution, alone[place % 3][place // 3].attribution, 1e-6)


class Dead(nn.Module):
    """One row has no gradient, the other has one past the model's own `no_grad` too."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 2)

    def forward(self, x):
        with torch.no_grad():
            frozen = x.mean((2, 3))
        return self.head(frozen) + x.relu().mean((1, 2, 3))[:, None]


def test_a_shared_pass_that_meets_the_models_no_grad_is_not_believed():
    model = Dead().eval()
    images = [draw(3, 8, 8), -draw(3, 8, 8) - 1]
    with pytest.warns(deepviz.DeepVizWarning, match="no_grad"):
        found = deepviz.explain(model, images, "gradient", target=0)
    with pytest.warns(deepviz.DeepVizWarning, match="no_grad"):
        expected = Gradient()(model, torch.stack(images), 0)
    for one, of_row in zip(found, expected, strict=True):
        assert_same(one.attribution, of_row, 1e-6)
    assert bool(found[1].attribution.any())


@pytest.mark.parametrize("methods", ["gradient", "all"])
def test_a_model_that_fails_is_not_run_again_and_again(methods):
    model = Counted(fails=True)
    with pytest.raises(deepviz.DeepVizError, match="boom"):
        deepviz.explain(model, draw(1, 3, 32, 32), methods)
    assert model.calls <= 2


@pytest.mark.parametrize("methods", ["gradient", "all"])
def test_a_callable_that_fails_is_not_called_again_and_again(methods):
    calls = []

    def target(output):
        calls.append(1)
        raise KeyError("mine")

    with pytest.raises(TargetError, match="mine"):
        deepviz.explain(network(), draw(1, 3, 32, 32), methods, target=target)
    assert len(calls) <= 2
