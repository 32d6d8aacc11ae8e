"""What models return beside the logits of one class: numbers, independent labels, two classes of a logit, embeddings.

Situations from public reports: pytorch-grad-cam#293, #360, #573 and tf-explain#145 (one output, a number), captum#887
and transformers#35848 (independent labels), pytorch-grad-cam#218, #277 and #544 (embeddings, pairs of images).
"""

import json
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import deepviz
from deepviz.errors import LayerError, TargetError
from deepviz.methods import (
    GradCAM,
    Gradient,
    GradTimesImage,
    GuidedBackprop,
    GuidedGradCAM,
    IntegratedGradients,
    SmoothGrad,
)
from deepviz.objectives import Channel, Function, Logit, Output, Predicted, Probability, Similarity
from deepviz.synthesis import ImageGenerator


class Net(nn.Module):
    """Two convolutions, their mean over space, and a head."""

    def __init__(self, outputs: int, bias: float | list[float] = 0.0) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.head = nn.Linear(6, outputs)
        with torch.no_grad():
            self.head.bias.copy_(torch.as_tensor(bias))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x).relu()).relu().mean((2, 3)))


def made(build, *arguments):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build(*arguments).double().eval()


X = torch.rand(4, 3, 12, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def gradient(net, x, score):
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(score(net(leaf)).sum(), leaf)[0]


def same(found, expected):
    return torch.allclose(found.to(expected), expected, rtol=1e-5, atol=1e-9)


# one number


@pytest.mark.parametrize("shift", [34.0, -34.0])
def test_a_number_is_explained_as_it_is_whatever_its_sign(shift):
    net = made(Net, 1, shift)
    slope = gradient(net, X, lambda y: y[:, 0])
    for target in (None, Output(0), Predicted(), lambda y: y[:, 0]):
        assert same(Gradient()(net, X, target), slope)
    assert same(Gradient()(net, X, 0, output="regression"), slope)
    assert same(Gradient()(net, X, 1, output="binary"), slope)
    assert same(Gradient()(net, X, 0, output="binary"), -slope)
    for target in (0, 1, torch.tensor([0, 1, 0, 1])):
        with pytest.raises(TargetError, match="state output='binary'"):
            Gradient()(net, X, target)
    notes = Gradient().attribute(net, X).notes
    assert "a number" in notes.facts["output"]


def test_a_number_has_no_class_and_no_probability():
    net = made(Net, 1, 34.0)
    (one,) = deepviz.explain(net, X[0], "gradient")
    assert one.target.probability is None
    assert "class" not in one.target.label
    assert one.target.score == pytest.approx(float(net(X[:1]).detach()))
    assert "a number" in one.notes["output"]
    assert same(one.attribution, gradient(net, X[:1], lambda y: y[:, 0])[0].float())
    (named,) = deepviz.explain(deepviz.load_model(net, labels=["age"]), X[0], "gradient")
    assert named.target.label == "age"
    (two,) = deepviz.explain(deepviz.load_model(net, labels=["no", "yes"]), X[0], "gradient")
    assert (two.target.label, two.target.index) == ("yes", 1)
    assert two.target.probability == pytest.approx(1.0)
    with pytest.raises(TargetError, match="state output='binary'"):
        deepviz.explain(net, X[0], "gradient", target=1)


def test_several_numbers():
    net = made(Net, 3)
    (one,) = deepviz.explain(net, X[0], "gradient")
    assert one.notes["output"] == "assumed: one class of 3"
    with pytest.raises(TargetError, match="3 numbers, of which none is predicted"):
        deepviz.explain(net, X[0], "gradient", output="regression")
    pose = deepviz.load_model(net, labels=["x", "y", "z"], output="regression")
    found = deepviz.explain(pose, X[0], "gradient", target=["y", 2, Output(0)])
    assert [one.target.label for one in found] == ["y", "z", "x"]
    assert [one.target.probability for one in found] == [None] * 3
    for one, k in zip(found, (1, 2, 0), strict=True):
        assert one.target.score == pytest.approx(float(net(X[:1]).detach()[0, k]))
        assert same(one.attribution, gradient(net, X[:1], lambda y, k=k: y[:, k])[0].float())
        assert "output" not in one.notes


def test_numbers_without_names_are_not_called_classes():
    net = made(Net, 3)
    found = deepviz.explain(net, X[0], "gradient", target=[1, Output(2), Output(2) - Output(0)], output="regression")
    assert [one.target.label for one in found] == ["output 1", "output 2", "output 2 - output 0"]


def test_a_layer_that_is_not_there():
    with pytest.raises(LayerError, match="no layer 'secnd' in this model; did you mean 'second'"):
        deepviz.explain(made(Net, 3), X[0], "gradient", target=Channel("secnd", 1))


def test_heads_by_name():
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = made(Net, 3)

        def forward(self, x):
            y = self.net(x)
            return {"age": y[:, :1], "pose": SimpleNamespace(angles=y[:, 1:])}

    net = Heads().eval()
    for path, column in ((("age",), 0), (("pose", "angles", 1), 2)):
        assert same(Gradient()(net, X, Output(*path)), gradient(net.net, X, lambda y, k=column: y[:, k]))
        assert same(GradCAM(relu=False)(net, X, Output(*path)), GradCAM(relu=False)(net.net, X, column))


def configured(net, problem_type):
    net.config = SimpleNamespace(problem_type=problem_type)
    return net


STATED = "stated: by output=, or by where the model is from"
READ = {
    "guessed": (lambda: made(Net, 3), "auto", {"kind": "logits", "known": "assumed: one class of 3"}),
    "stated": (lambda: made(Net, 3), "multi-label", {"kind": "multi-label", "known": STATED}),
    "of the model": (
        lambda: configured(made(Net, 3), "multi_label_classification"),
        "auto",
        {"kind": "multi-label", "known": "stated by the model's problem_type"},
    ),
    "by two labels": (
        lambda: deepviz.load_model(made(Net, 1), labels=["no", "yes"]),
        "auto",
        {"kind": "binary", "known": "assumed: one output for two labels"},
    ),
}


@pytest.mark.parametrize("case", READ)
def test_how_the_outputs_were_read_stands_in_every_result(case):
    build, output, expected = READ[case]
    evaluation = deepviz.evaluate(build(), X[0], "gradient", "sparseness", controls=False, output=output)
    sanity = deepviz.sanity_check(build(), X[0], "gradient", stages=1, output=output)
    for found in (evaluation, sanity):
        assert found.output == expected
        assert json.loads(json.dumps(found.as_json()))["output"] == expected


def test_outputs_that_are_not_needed_are_not_read():
    class Maps(nn.Module):
        def forward(self, x):
            return x * 2

    target = Function(lambda output: output[:, 0, 5, 5])
    found = deepviz.evaluate(Maps(), X[0], "gradient", "sparseness", target=target, controls=False)
    assert found.as_json()["output"] is None


@pytest.mark.filterwarnings("ignore:the finished image is not predicted")
@pytest.mark.parametrize("case", [case for case in READ if case != "by two labels"])
def test_how_the_outputs_were_read_stands_beside_generated_images(case, tmp_path):
    build, output, expected = READ[case]
    preprocess = deepviz.Preprocess(12, crop=None, mean=(0.5,) * 3, std=(0.5,) * 3)
    loaded = deepviz.load_model(build(), preprocess=preprocess, output=None if output == "auto" else output)
    found = ImageGenerator(loaded, target=1, steps=1)(save_dir=tmp_path)
    assert found.output == expected
    assert json.loads((tmp_path / "generated.json").read_text())["output"] == expected
    again = ImageGenerator.from_json(tmp_path / "generated.json", build())()
    assert torch.equal(again.tensor, found.tensor)
    assert again.output == expected
    channel = ImageGenerator(loaded, objective=Channel("second", 1), steps=1)()
    assert channel.output is None, "no class was asked for"


# independent labels

FINDINGS = ("effusion", "edema", "mass", "hernia")


def test_independent_labels_have_sigmoids():
    net = made(Net, 4, [3.0, 2.5, -1.0, -4.0])
    expected = net(X[:1])[0].sigmoid().detach()
    stated = deepviz.load_model(net, labels=FINDINGS, output="multi-label")
    says_so = made(Net, 4, [3.0, 2.5, -1.0, -4.0])
    says_so.config = SimpleNamespace(problem_type="multi_label_classification")
    for model, options in ((stated, {}), (net, {"output": "multi-label"}), (says_so, {})):
        found = deepviz.explain(model, X[0], "gradient", top_k=4, **options)
        assert [one.target.index for one in found] == expected.argsort(descending=True).tolist()
        for one in found:
            k = one.target.index
            assert one.target.probability == pytest.approx(float(expected[k]), abs=1e-6)
            assert one.target.score == pytest.approx(float(net(X[:1]).detach()[0, k]))
            assert same(one.attribution, gradient(net, X[:1], lambda y, k=k: y[:, k])[0].float())
            assert "output" not in one.notes
    (guessed,) = deepviz.explain(net, X[0], "gradient")
    assert guessed.notes["output"] == "assumed: one class of 4"
    assert guessed.target.probability == pytest.approx(float(net(X[:1]).detach()[0].softmax(0).max()), abs=1e-6)


def test_what_contradicts_is_a_warning():
    net = nn.Sequential(made(Net, 4), nn.Softmax(1))
    for kind in ("logits", "multi-label"):
        with pytest.warns(deepviz.DeepVizWarning, match=f"output='{kind}' is stated, but the model ends in a softmax"):
            (one,) = deepviz.explain(net, X[0], "gradient", output=kind)
        assert one.target.probability == pytest.approx(float(net(X[:1]).detach().max()), abs=1e-6)
    (quiet,) = deepviz.explain(net, X[0], "gradient", output="probabilities")
    assert quiet.target.probability == pytest.approx(float(net(X[:1]).detach().max()), abs=1e-6)


# embeddings

METHODS = {
    "gradient": Gradient(),
    "gradient x image": GradTimesImage(),
    "grad-cam": GradCAM("second", relu=False),
    "grad-cam found": GradCAM(relu=False),
    "guided": GuidedBackprop(),
    "guided grad-cam": GuidedGradCAM("second"),
    "IG": IntegratedGradients(steps=100),
    "IG to a tolerance": IntegratedGradients(tolerance=0.05),
    "smoothgrad": SmoothGrad(samples=4),
}


def test_an_embedding_has_no_predicted_class():
    net = made(Net, 8)
    for call in (
        lambda: deepviz.explain(net, X[0], "gradient", output="embedding"),
        lambda: Gradient()(net, X, output="embedding"),
    ):
        with pytest.raises(TargetError, match=r"embedding of 8 numbers, which has no predicted class.*Similarity"):
            call()


def test_one_reference_for_all_images():
    net = made(Net, 8)
    to = net(X[:1])[0].detach()
    expected = gradient(net, X, lambda e: F.cosine_similarity(e, to[None]))
    assert same(Gradient()(net, X, Similarity(to)), expected)
    (one,) = deepviz.explain(net, X[0], "gradient", target=Similarity(to), output="embedding")
    assert one.target.index is None
    assert one.target.probability is None
    assert one.target.score == pytest.approx(1.0)
    assert one.target.label == "similarity of the output"
    for measure, score in (
        ("dot", lambda e: e @ to),
        ("distance", lambda e: -(e - 2 * to).norm(dim=1)),
    ):
        objective = Similarity(2 * to if measure == "distance" else to, measure=measure)
        assert same(Gradient()(net, X, objective), gradient(net, X, score))


@pytest.mark.parametrize("name", METHODS)
def test_each_image_with_its_own_reference(name):
    net, method = made(Net, 8), METHODS[name]
    to = net(X.flip(0)).detach()
    found = method(net, X, Similarity(to))
    for row in range(len(X)):
        alone = method(net, X[row : row + 1], Similarity(to[row]))
        if name != "smoothgrad":  # whose noise is each row's own
            assert same(found[row : row + 1], alone)
    if name == "gradient":
        assert same(found, gradient(net, X, lambda e: F.cosine_similarity(e, to)))


def test_references_follow_their_images_through_explain():
    net = made(Net, 8)
    to = net(X.flip(0)).detach()
    found = deepviz.explain(net, list(X), "gradient", target=Similarity(to), output="embedding")
    expected = gradient(net, X, lambda e: F.cosine_similarity(e, to))
    for row, one in enumerate(found):
        assert same(one.attribution, expected[row].float())
    with pytest.raises(TargetError, match="a value for each of 3 rows"):
        deepviz.explain(net, list(X), "gradient", target=Similarity(to[:3]), output="embedding")


def test_a_callable_that_holds_a_value_for_each_row_is_refused():
    net = made(Net, 8)
    to = net(X.flip(0)).detach()
    for method in (Gradient(), IntegratedGradients(steps=6), SmoothGrad(samples=4), GradCAM("second")):
        with pytest.raises(deepviz.DeepVizError, match=r"extra=|Similarity\(to"):
            method(net, X, lambda e: F.cosine_similarity(e, to))


class Pair(nn.Module):
    """Two images as six channels."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.head = Net(8), nn.Linear(8, 1)

    def forward(self, z: Tensor) -> Tensor:
        return self.head((self.net(z[:, :3]) - self.net(z[:, 3:])).abs())


def test_a_siamese_network_of_one_number():
    net, z = made(Pair), torch.cat([X, X.flip(0)], 1)
    slope = gradient(net, z, lambda y: y[:, 0])
    assert same(Gradient()(net, z), slope)
    assert same(Gradient()(net, z, 1, output="binary"), slope)
    (one,) = deepviz.explain(net, z[0], "gradient")
    assert same(one.attribution, slope[0].float())
    assert one.target.probability is None


# the same values everywhere


def test_why_this_and_not_that():
    net = made(Net, 5)
    found = deepviz.explain(
        deepviz.load_model(net, labels=["ant", "bee", "cat", "dog", "elk"], output="logits"),
        X[0],
        ["gradient", "grad-times-image"],
        target=["bee - cat", Logit(1) - Logit(2), Logit("bee") - 0.5 * Probability("cat"), Channel("second", 3), 4],
    )
    assert len(found) == 10
    slopes = [
        gradient(net, X[:1], lambda y: y[:, 1] - y[:, 2]),
        gradient(net, X[:1], lambda y: y[:, 1] - y[:, 2]),
        gradient(net, X[:1], lambda y: y[:, 1] - 0.5 * y.softmax(1)[:, 2]),
        gradient(lambda x: net.second(net.first(x).relu()), X[:1], lambda A: A[:, 3].mean((1, 2))),
        gradient(net, X[:1], lambda y: y[:, 4]),
    ]
    for k, slope in enumerate(slopes):
        assert same(found[2 * k].attribution, slope[0].float())
        assert same(found[2 * k + 1].attribution, (slope * X[:1])[0].float())
    assert [one.target.label for one in found[::2]] == [
        "bee - cat",
        "bee - cat",
        "bee - 0.5 * probability of cat",
        "second, channel 3",
        "elk",
    ]
    assert found[0].target.score == pytest.approx(float(net(X[:1]).detach()[0, 1] - net(X[:1]).detach()[0, 2]))


def test_objectives_share_their_forward_passes():
    passes = []
    net = made(Net, 5)
    several = [Logit(k) - Logit(0) for k in range(1, 5)]
    one = Gradient()(net, X, several[0])
    handle = net.register_forward_hook(lambda *_: passes.append(1))
    Gradient()(net, X, several[0])
    alone = len(passes)
    Gradient()(net, X, several)  # the rows are checked once for each kind of question
    passes.clear()
    maps = Gradient()(net, X, several)
    handle.remove()
    assert len(passes) == alone
    assert maps.shape == (4, 4, 3, 12, 12)
    assert same(maps[:, 0], one)


def test_objectives_are_stored(tmp_path):
    net = made(Net, 5)
    targets = [Logit(1) - Logit(2), Similarity(torch.ones(5).double()), lambda y: y[:, 0]]
    found = deepviz.explain(net, X[0], "gradient", target=targets, output="logits")
    deepviz.save_explanations(found, tmp_path / "found.deepviz")
    back = deepviz.load_explanations(tmp_path / "found.deepviz")
    assert [one.target.objective for one in back[:2]] == targets[:2]
    assert [one.target.label for one in back] == [one.target.label for one in found]
    with pytest.raises(TargetError, match="held a callable"):
        deepviz.explain(net, X[0], "gradient", target=back[2].target.objective)


def test_metrics_and_sanity_take_them_too():
    net = made(Net, 5)
    objective = Logit(1) - Logit(2)
    by = deepviz.metrics.Deletion(steps=3, value="score")
    found = deepviz.evaluate(net, list(X), "gradient", by, target=objective, output="logits", controls=False)
    assert found.values.shape == (4, 1, 1)
    assert torch.isfinite(torch.as_tensor(found.values)).all()
    numbers = deepviz.evaluate(made(Net, 1, 3.0), list(X), "gradient", by, output="regression", controls=False)
    assert torch.isfinite(torch.as_tensor(numbers.values)).all()
    with pytest.warns(deepviz.DeepVizWarning, match="no class: its score is measured, not a probability"):
        deepviz.evaluate(net, list(X), "gradient", "deletion", target=objective, output="logits", controls=False)
    checked = deepviz.sanity_check(net, X[:1], "gradient", stages=1, target=objective, output="logits")
    assert len(checked.verdicts) == 1
