"""What a model returns is explained as what it is: logits, probabilities, labels, a number, an embedding."""

import math
import re
import warnings
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import deepviz
from cases.oracles import (
    ALL,
    found_or_refused,
    gradient,
    images,
    path_gradient,
    right_or_refused,
    rows_alone,
    said,
    seeded,
    value,
)
from deepviz.errors import DeepVizError, DeepVizWarning
from deepviz.methods import GradCAM, Gradient, IntegratedGradients
from networks import assert_same

pytestmark = pytest.mark.filterwarnings("ignore::deepviz.errors.DeepVizWarning")
every_method = pytest.mark.parametrize("method", ALL.values(), ids=ALL.keys())


class Head(nn.Module):
    """A small network with so many outputs, moved by a constant; `after` is what stands behind its last layer."""

    def __init__(self, outputs=1, shift=0.0, after=None, flat=False):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, outputs)
        self.shift, self.after, self.flat = shift, after, flat

    def forward(self, x):
        y = self.head(self.conv(x).relu().mean((2, 3))) + self.shift
        y = y if self.after is None else self.after(y)
        return y[:, 0] if self.flat else y


X = images(3, 3, 8, 8)


def head(*args, **options):
    return seeded(lambda: Head(*args, **options))


def first(net):
    return gradient(lambda z: net(z).reshape(len(z), -1)[:, 0], X)


SHIFTS = [34.0, -34.0]


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("output", ["auto", "regression"])
def test_a_number_is_explained_as_that_number_whatever_its_sign(shift, flat, output):
    net = head(1, shift, flat=flat)
    assert_same(Gradient()(net, X, output=output), first(net))
    assert_same(
        IntegratedGradients(steps=5)(net, X[:1], output=output), path_gradient(lambda z: net(z).view(-1), X[:1], 5)
    )


@every_method
@pytest.mark.parametrize("shift", SHIFTS)
def test_every_method_explains_a_number_as_that_number(method, shift):
    net = head(1, shift)
    assert_same(method(net, X), method(net, X, lambda y: y[:, 0]))


@pytest.mark.parametrize("shift", SHIFTS)
def test_an_explained_number_has_no_probability_and_no_class(shift):
    net = head(1, shift)
    (found,) = deepviz.explain(net, X[0], "gradient")
    assert_same(found.attribution, first(net)[0].float(), 1e-5)
    assert found.target.probability is None
    assert found.target.score == pytest.approx(value(net(X[:1])), rel=1e-5)
    assert "class" not in found.target.label
    assert "class 0" not in found.caption
    assert "probab" not in found.caption


def test_what_was_assumed_of_one_output_stands_in_the_result():
    net = head(1, 34.0)
    assert re.search("assumed.*(number|regression)", said(Gradient().attribute(net, X).notes))
    (found,) = deepviz.explain(net, X[0], "gradient")
    assert re.search("assumed.*(number|regression)", said(found.notes))
    (told,) = deepviz.explain(deepviz.load_model(net, output="regression"), X[0], "gradient")
    assert "assumed" not in said(told.notes)


@pytest.mark.parametrize("target", [0, 1, torch.tensor([0, 1, 1]), torch.tensor([[0, 1]]).expand(3, 2)], ids=str)
def test_an_explicit_class_of_one_output_asks_what_it_is(target):
    with pytest.raises(DeepVizError, match="output="):
        Gradient()(head(1, 34.0), X, target)


@pytest.mark.parametrize("target", [0, 1])
def test_an_explicit_class_of_one_output_asks_in_one_line_too(target):
    for call in (
        lambda: deepviz.explain(head(1), X, "gradient", target=target),
        lambda: deepviz.evaluate(head(1), X, "gradient", "deletion", target=target, controls=False),
        lambda: deepviz.sanity_check(head(1), X[:1], "gradient", stages=1, target=target),
    ):
        with pytest.raises(DeepVizError, match="output="):
            call()


def test_binary_said_is_binary():
    net = head(1)
    assert_same(Gradient()(net, X, 1, output="binary"), first(net))
    assert_same(Gradient()(net, X, 0, output="binary"), -first(net))
    both = Gradient()(net, X, torch.tensor([[0, 1]]).expand(3, 2), output="binary")
    assert_same(both, torch.stack([-first(net), first(net)], 1))
    sign = (net(X) > 0).to(X) * 2 - 1
    assert_same(Gradient()(net, X, output="binary"), sign.view(-1, 1, 1, 1).detach() * first(net))


@pytest.mark.parametrize("shift", [2.0, -2.0])
def test_one_logit_with_two_labels_is_binary(shift):
    net = head(1, shift)
    loaded = deepviz.load_model(net, labels=["no", "yes"])
    (found,) = deepviz.explain(loaded, X[0], "gradient")
    p = value(net(X[:1]).sigmoid())
    assert found.target.label == ("yes" if shift > 0 else "no")
    assert found.target.probability == pytest.approx(max(p, 1 - p), rel=1e-5)
    assert_same(found.attribution, math.copysign(1, shift) * first(net)[0].float(), 1e-5)
    (no,) = deepviz.explain(loaded, X[0], "gradient", target="no")
    assert_same(no.attribution, -first(net)[0].float(), 1e-5)
    assert found.notes["output"] == "assumed: one output for two labels"


def test_one_probability_with_two_labels_is_binary():
    net = head(1, 2.0, after=torch.sigmoid)
    (found,) = deepviz.explain(deepviz.load_model(net, labels=["no", "yes"], output="probabilities"), X[0], "gradient")
    assert found.target.label == "yes"
    assert found.target.probability == pytest.approx(value(net(X[:1])), rel=1e-5)


def test_said_on_the_loaded_model_on_explain_and_on_the_call_is_one():
    net = head(1, -34.0)
    expected = first(net)
    assert_same(Gradient()(net, X, output="regression"), expected)
    for found in (
        deepviz.explain(net, X, "gradient", output="regression"),
        deepviz.explain(deepviz.load_model(net, output="regression"), X, "gradient"),
    ):
        assert_same(torch.stack([one.attribution for one in found]), expected.float(), 1e-5)
        assert all(one.target.probability is None for one in found)


@pytest.mark.parametrize("kind", ["regresion", "softmax", "", 1])
def test_a_kind_of_output_that_does_not_exist_is_refused_with_those_that_do(kind):
    with pytest.raises((DeepVizError, ValueError, TypeError), match="regression"):
        deepviz.load_model(head(1), output=kind)


def test_several_numbers_have_no_probabilities():
    net = head(3)
    for target in range(3):
        (found,) = deepviz.explain(net, X[0], "gradient", target=target, output="regression")
        assert found.target.probability is None
        assert found.target.score == pytest.approx(value(net(X[:1])[0, target]), rel=1e-5)
        assert_same(found.attribution, gradient(lambda z, t=target: net(z)[:, t], X)[0].float(), 1e-5)
        assert "probab" not in said(found.notes)


def test_several_numbers_have_no_predicted_class():
    """The largest of x, y and z is no answer to "where does it look?"."""
    with pytest.raises(DeepVizError, match=r"target|Output"):
        Gradient()(head(3), X, output="regression")
    with pytest.raises(DeepVizError, match=r"target|Output"):
        deepviz.explain(head(3), X, "gradient", output="regression")


def test_numbers_can_have_names():
    loaded = deepviz.load_model(head(3), output="regression", labels=["x", "y", "z"])
    (found,) = deepviz.explain(loaded, X[0], "gradient", target="y")
    assert found.target.label == "y"
    assert found.target.probability is None


def test_a_head_is_explained_by_its_name():
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.age, self.sex = nn.Conv2d(3, 4, 3), nn.Linear(4, 1), nn.Linear(4, 2)

        def forward(self, x):
            h = self.body(x).relu().mean((2, 3))
            return {"age": self.age(h) - 34, "sex": self.sex(h)}

    net = seeded(Heads)
    expected = gradient(lambda z: net(z)["age"][:, 0], X)
    assert_same(Gradient()(net, X, deepviz.objectives.Output("age")), expected)
    (found,) = deepviz.explain(net, X[0], "gradient", target=deepviz.objectives.Output("age"))
    assert "age" in found.target.label
    assert found.target.probability is None
    assert found.target.score == pytest.approx(value(net(X[:1])["age"]), rel=1e-5)


BIASES = torch.tensor([3.0, 2.5, -1.0, -4.0], dtype=torch.float64)
FINDINGS = ["effusion", "edema", "mass", "hernia"]


def findings():
    net = head(4)
    with torch.no_grad():
        net.head.weight.mul_(0.1)
        net.head.bias.copy_(BIASES)
    return net


@pytest.mark.parametrize("where", ["model", "call"])
def test_independent_labels_have_independent_probabilities(where):
    net = findings()
    loaded = deepviz.load_model(net, labels=FINDINGS, **({"output": "multi-label"} if where == "model" else {}))
    options = {} if where == "model" else {"output": "multi-label"}
    found = deepviz.explain(loaded, X[0], "gradient", top_k=4, **options)
    p = net(X[:1])[0].sigmoid().detach()
    assert [one.target.label for one in found] == FINDINGS
    for one in found:
        assert one.target.probability == pytest.approx(float(p[one.target.index]), rel=1e-5)
        expected = gradient(lambda z, k=one.target.index: net(z)[:, k], X)[0]
        assert_same(one.attribution, expected.float(), 1e-5)
        assert "assumed" not in said(one.notes)


def test_the_maps_of_independent_labels_are_of_their_logits():
    net = findings()
    for k in range(4):
        expected = gradient(lambda z, k=k: net(z)[:, k], X)
        assert_same(Gradient()(net, X, k, output="multi-label"), expected)


def test_curves_of_independent_labels_begin_at_their_sigmoids():
    net = findings()
    loaded = deepviz.load_model(net, labels=FINDINGS, output="multi-label")
    for k in (0, 2):
        judged = deepviz.evaluate(
            loaded, X[:1], "gradient", deepviz.metrics.Deletion(steps=3), target=k, controls=False
        ).judged[0]
        assert judged.curves[0][0][0] == pytest.approx(value(net(X[:1])[0, k].sigmoid()), rel=1e-5)


def test_curves_of_a_number_are_of_the_number():
    net = head(1, 34.0)
    loaded = deepviz.load_model(net, output="regression")
    judged = deepviz.evaluate(loaded, X[:1], "gradient", deepviz.metrics.Deletion(steps=3), controls=False).judged[0]
    assert judged.curves[0][0][0] == pytest.approx(value(net(X[:1])), rel=1e-5)
    assert judged.curves[0][0][-1] == pytest.approx(value(net(0 * X[:1])), rel=1e-5)


def test_logits_of_one_class_and_of_several_labels_look_alike_so_the_assumption_is_said():
    net = findings()
    (found,) = deepviz.explain(net, X[0], "gradient")
    assert found.target.probability == pytest.approx(value(net(X[:1])[0].softmax(0).max()), rel=1e-5)
    assert re.search("assumed.*one class of 4", said(found.notes))
    assert re.search("assumed.*one class of 4", said(Gradient().attribute(net, X).notes))
    (told,) = deepviz.explain(net, X[0], "gradient", output="logits")
    assert "assumed" not in said(told.notes)


@pytest.mark.parametrize("output", ["multi-label", "probabilities"])
def test_a_sigmoid_in_the_model_is_not_taken_twice(output):
    net = head(4, after=torch.sigmoid)
    (found,) = deepviz.explain(net, X[0], "gradient", output=output)
    assert found.target.probability == pytest.approx(value(net(X[:1]).max()), rel=1e-5)


@pytest.fixture(scope="module", autouse=True)
def transformers():
    from deepviz.models.torchvision_shim import import_torchvision

    import_torchvision()
    module = pytest.importorskip("transformers")
    module.ViTForImageClassification  # noqa: B018
    return module


def vit(transformers, labels, problem):
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=16, patch_size=8,
        num_labels=labels, problem_type=problem,
    )  # fmt: skip
    return seeded(lambda: transformers.ViTForImageClassification(config))


def test_a_problem_type_that_the_model_states_is_read(transformers):
    x = images(1, 3, 16, 16)
    net = vit(transformers, 4, "multi_label_classification")
    with torch.no_grad():
        net.classifier.bias.copy_(BIASES)
    (found,) = deepviz.explain(net, x[0], "gradient")
    assert found.target.probability == pytest.approx(value(net(x).logits[0].sigmoid().max()), rel=1e-5)
    assert "assumed" not in said(found.notes)
    for shift in SHIFTS:
        net = vit(transformers, 1, "regression")
        with torch.no_grad():
            net.classifier.bias.fill_(shift)
        (found,) = deepviz.explain(net, x[0], "gradient")
        assert found.target.probability is None
        assert_same(found.attribution, gradient(lambda z, n=net: n(z).logits[:, 0], x)[0].float(), 1e-5)
        assert_same(Gradient()(net, x), gradient(lambda z, n=net: n(z).logits[:, 0], x))
    net = vit(transformers, 4, "single_label_classification")
    (found,) = deepviz.explain(net, x[0], "gradient")
    assert found.target.probability == pytest.approx(value(net(x).logits[0].softmax(0).max()), rel=1e-5)
    assert "assumed" not in said(found.notes)


def test_what_the_caller_says_goes_before_what_the_model_states(transformers):
    x = images(1, 3, 16, 16)
    net = vit(transformers, 4, "multi_label_classification")
    (found,) = deepviz.explain(net, x[0], "gradient", output="logits")
    assert found.target.probability == pytest.approx(value(net(x).logits[0].softmax(0).max()), rel=1e-5)


CONTRADICTIONS = {
    "softmax said to be logits": (lambda: head(4, after=lambda y: y.softmax(1)), "logits"),
    "logits said to be probabilities": (lambda: head(4, 2.0), "probabilities"),
    "negative numbers said to be probabilities": (lambda: head(4, -2.0), "probabilities"),
    "three outputs said to be binary": (lambda: head(3), "binary"),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_what_contradicts_what_was_said_is_a_warning_or_an_error(case):
    build, output = CONTRADICTIONS[case]
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        found, refusal = found_or_refused(lambda: deepviz.explain(build(), X[0], "gradient", output=output))
    if refusal is not None:
        assert output in str(refusal)
        return
    assert any(output in str(one.message) for one in warned if issubclass(one.category, DeepVizWarning))
    assert output in said(found[0].notes)


def test_probabilities_said_are_themselves():
    net = head(4, after=lambda y: y.softmax(1))
    (found,) = deepviz.explain(net, X[0], "gradient", output="probabilities")
    assert found.target.probability == pytest.approx(value(net(X[:1]).max()), rel=1e-5)
    k = found.target.index
    assert_same(found.attribution, gradient(lambda z: net(z)[:, k], X)[0].float(), 1e-5)


REFERENCES = images(3, 8, seed=5)


def test_an_embedding_has_no_predicted_class():
    net = head(8)
    for call in (
        lambda: Gradient()(net, X, output="embedding"),
        lambda: GradCAM()(net, X, output="embedding"),
        lambda: deepviz.explain(net, X, "gradient", output="embedding"),
        lambda: deepviz.explain(deepviz.load_model(net, output="embedding"), X, "gradient", top_k=2),
        lambda: deepviz.evaluate(deepviz.load_model(net, output="embedding"), X, "gradient", "deletion"),
        lambda: deepviz.sanity_check(deepviz.load_model(net, output="embedding"), X[:1], "gradient", stages=1),
    ):
        with pytest.raises(DeepVizError, match="Similarity"):
            call()


def test_an_embedding_without_a_word_is_said_to_be_assumed_classes():
    (found,) = deepviz.explain(head(8), X[0], "gradient")
    assert re.search("assumed.*one class of 8", said(found.notes))


@pytest.mark.parametrize("output", ["embedding", "auto"])
@every_method
def test_similarity_to_one_embedding_is_the_cosine(method, output):
    net, to = head(8), REFERENCES[:1]
    expected = method(net, X, lambda out: F.cosine_similarity(out, to, dim=1))
    assert_same(method(net, X, deepviz.objectives.Similarity(to=to[0]), output=output), expected)
    right_or_refused(lambda: method(net, X, deepviz.objectives.Similarity(to=to), output=output), expected)


@every_method
def test_each_row_has_an_embedding_of_its_own_to_be_similar_to(method):
    net, x, to = head(8), images(9, 3, 8, 8), images(9, 8, seed=6)
    found = method(net, x, deepviz.objectives.Similarity(to=to), output="embedding")
    expected = rows_alone(
        lambda row: method(net, x[row : row + 1], lambda out: F.cosine_similarity(out, to[row : row + 1], dim=1)),
        range(9),
    )
    assert_same(found, expected, 1e-8)


def test_the_gradient_of_similarities_is_autograd_s():
    net, x, to = head(8), images(9, 3, 8, 8), images(9, 8, seed=6)
    expected = gradient(lambda z: F.cosine_similarity(net(z), to, dim=1), x)
    assert_same(Gradient()(net, x, deepviz.objectives.Similarity(to=to)), expected)


def test_explain_takes_a_similarity_for_each_image():
    net, x, to = head(8), images(9, 3, 8, 8), images(9, 8, seed=6)
    found = deepviz.explain(net, x, "gradient", target=deepviz.objectives.Similarity(to=to), output="embedding")
    expected = gradient(lambda z: F.cosine_similarity(net(z), to, dim=1), x).float()
    assert_same(torch.stack([one.attribution for one in found]), expected, 1e-5)
    scores = F.cosine_similarity(net(x), to, dim=1)
    assert [one.target.score for one in found] == pytest.approx(scores.tolist(), rel=1e-5)
    assert all(one.target.probability is None for one in found)


def test_references_for_another_number_of_rows_are_refused():
    with pytest.raises((DeepVizError, ValueError), match="4"):
        Gradient()(head(8), X, deepviz.objectives.Similarity(to=images(4, 8)))


def test_a_siamese_score_is_a_number():
    """p(z) of two images in six channels: target 1 would be taken for a class."""

    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.head = Head(8), nn.Linear(8, 1)

        def forward(self, z):
            return self.head((self.net(z[:, :3]) - self.net(z[:, 3:])).abs())

    net, z = seeded(Pair), images(2, 6, 8, 8)
    assert_same(Gradient()(net, z), gradient(lambda x: net(x)[:, 0], z))
    with pytest.raises(DeepVizError, match="output="):
        Gradient()(net, z, 1)


@dataclass
class Answered:
    scores: torch.Tensor
    features: tuple


NESTED = {
    "dataclass": lambda y: Answered(y, (y.mean(1),)),
    "dataclass of a mapping": lambda y: Answered({"logits": y}, (None, "text")),
    "mapping of a mapping": lambda y: {"predictions": {"logits": y}, "size": (8, 8)},
    "tuple of a tuple": lambda y: ((y,), "text"),
}
LISTED = {"list of a list": lambda y: [[y]], "mapping of a list": lambda y: {"heads": [y]}, "list": lambda y: [y]}


@pytest.mark.parametrize("wrap", NESTED.values(), ids=NESTED.keys())
def test_scores_are_found_in_dataclasses_and_nested_outputs(wrap):
    net, plain = head(4, after=wrap), head(4)
    assert_same(Gradient()(net, X, 2), gradient(lambda z: plain(z)[:, 2], X))
    (found,) = deepviz.explain(net, X[0], "gradient")
    assert found.target.index == int(plain(X[:1]).argmax())


@pytest.mark.parametrize("wrap", LISTED.values(), ids=LISTED.keys())
@pytest.mark.parametrize("n", [1, 3])
def test_scores_in_a_list_which_may_be_of_images_are_found_or_refused(wrap, n):
    net, plain = head(4, after=wrap), head(4)
    expected = gradient(lambda z: plain(z)[:, 2], X[:n])
    right_or_refused(lambda: Gradient()(net, X[:n], 2), expected, names=r"target|callable")


@pytest.mark.parametrize("output", ["logits", "multi-label", "regression", "embedding", "probabilities", "binary"])
def test_a_callable_is_explained_whatever_the_output_is(output):
    net = head(1 if output == "binary" else 4, after=(lambda y: y.softmax(1)) if output == "probabilities" else None)

    def last(y):
        return y[:, -1]

    assert_same(Gradient()(net, X, last, output=output), gradient(lambda z: last(net(z)), X))


def test_nan_is_refused_whatever_the_output_is():
    for output in ("regression", "multi-label", "embedding", "logits"):
        with pytest.raises(DeepVizError, match="finite"):
            Gradient()(head(3, np.nan), X, 1 if output != "embedding" else lambda y: y[:, 0], output=output)
