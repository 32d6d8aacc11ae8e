"""What an output is: class scores, probabilities, labels, numbers, an embedding."""

import math
from dataclasses import dataclass
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from torch import nn

from deepviz.errors import ImageError, LayerError, ModelError, TargetError
from deepviz.methods import Gradient
from deepviz.probe.outputs import (
    KINDS,
    check_kind,
    chosen_field,
    class_scores,
    describe,
    read_outputs,
    stated_kind,
)
from deepviz.probe.seen import Seen
from networks import ModelOutput

SCORES = torch.tensor([[1.0, 3.0, -2.0], [0.5, 0.0, 4.0]])
ONE = torch.tensor([[2.0], [-3.0]])


class Named(NamedTuple):
    features: torch.Tensor
    logits: torch.Tensor


@dataclass
class Heads:
    hidden: torch.Tensor
    head: object


MAPS = torch.zeros(2, 4, 3, 3)
SHAPES = {
    "tensor": SCORES,
    "mapping": {"features": MAPS, "logits": SCORES},
    "segmenter's name": {"aux": torch.zeros(2, 9), "out": SCORES},
    "object": SimpleNamespace(logits=SCORES, hidden=MAPS),
    "named tuple": Named(MAPS, SCORES),
    "tuple": (MAPS, SCORES),
    "list": [MAPS, SCORES],
    "model output": ModelOutput(hidden=MAPS, logits=SCORES),
    "dataclass": Heads(MAPS, {"logits": SCORES}),
    "nested": {"loss": torch.tensor(0.0), "head": {"logits": SCORES}},
    "nested twice": {"heads": ({"z": MAPS}, {"inner": Heads(MAPS, Named(MAPS, SCORES))})},
    "nested without a name": Heads(MAPS, {"classes": SCORES}),
}


@pytest.mark.parametrize("name", SHAPES)
def test_scores_are_found(name):
    assert class_scores(SHAPES[name]) is SCORES


def test_a_number_a_row_is_a_column():
    assert torch.equal(class_scores(ONE[:, 0]), ONE)
    assert torch.equal(class_scores({"logits": ONE[:, 0]}), ONE)
    assert torch.equal(class_scores({"age": ONE[:, 0]}), ONE)


@pytest.mark.parametrize(
    "output",
    [
        MAPS,
        {"boxes": MAPS},
        None,
        torch.zeros(2, 3, dtype=torch.long),
        {"logits": torch.zeros(2, 100, 92), "boxes": torch.zeros(2, 4)},
        # a detector: what a list holds is of one image each, its boxes are no rows
        [{"boxes": torch.zeros(2, 4), "scores": torch.zeros(2)}],
        {"detections": [torch.zeros(2, 4), torch.zeros(2, 4)]},
    ],
    ids=describe,
)
def test_what_holds_no_scores(output):
    with pytest.raises(ModelError, match=r"no class scores \(N, K\) but .*objectives.Output"):
        class_scores(output)


def test_embeddings_go_by_name():
    output = {"logits": SCORES, "image_embeds": torch.ones(2, 8)}
    assert class_scores(output) is SCORES
    assert class_scores(output, "embedding").shape == (2, 8)


def test_a_choice_among_several_is_said():
    assert "several (N, K) outputs, a, head.b: this explains a" in chosen_field({"a": SCORES, "head": {"b": SCORES}})
    assert chosen_field({"a": SCORES, "logits": SCORES}) == ""
    assert chosen_field((MAPS, SCORES)) == ""


def test_descriptions_go_inside():
    assert describe({"head": {"logits": SCORES}, "n": 3}) == "dict with head: {logits: (2, 3)}, n: int"
    assert describe(SCORES) == "a tensor (2, 3) of float32"


CASES = [
    ("logits", SCORES, SCORES.softmax(1), [1, 2]),
    ("auto", SCORES, SCORES.softmax(1), [1, 2]),
    ("multi-label", SCORES, SCORES.sigmoid(), [1, 2]),
    ("probabilities", SCORES.softmax(1), SCORES.softmax(1), [1, 2]),
    ("auto", SCORES.softmax(1), SCORES.softmax(1), [1, 2]),
    ("auto", SCORES.requires_grad_(False).clone().requires_grad_().sigmoid(), SCORES.sigmoid(), [1, 2]),
    ("multi-label", SCORES.clone().requires_grad_().sigmoid(), SCORES.sigmoid(), [1, 2]),
    ("logits", SCORES.softmax(1), SCORES.softmax(1), [1, 2]),
    ("binary", SCORES[:, :2], SCORES[:, :2].softmax(1), [1, 0]),
    ("binary", ONE, torch.cat([(-ONE).sigmoid(), ONE.sigmoid()], 1), [1, 0]),
    ("logits", ONE, torch.cat([(-ONE).sigmoid(), ONE.sigmoid()], 1), [1, 0]),
    ("binary", ONE.clone().requires_grad_().sigmoid(), torch.cat([(-ONE).sigmoid(), ONE.sigmoid()], 1), [1, 0]),
    ("probabilities", ONE.sigmoid(), torch.cat([(-ONE).sigmoid(), ONE.sigmoid()], 1), [1, 0]),
    ("multi-label", ONE, ONE.sigmoid(), [0, 0]),
    ("regression", ONE, None, [0, 0]),
    ("auto", ONE, None, [0, 0]),
]


@pytest.mark.parametrize(("kind", "outputs", "chances", "best"), CASES)
def test_probabilities_and_predictions(kind, outputs, chances, best):
    found = read_outputs(outputs, kind).probabilities(outputs)
    assert (found is None) == (chances is None)
    if chances is not None:
        assert torch.allclose(found, chances, atol=1e-6)
    assert read_outputs(outputs, kind).predicted(outputs).tolist() == best


def test_ranks():
    assert read_outputs(SCORES, "logits").predicted(SCORES, 1).tolist() == [0, 0]
    assert read_outputs(SCORES, "multi-label").predicted(SCORES, 2).tolist() == [2, 1]
    assert read_outputs(ONE, "binary").predicted(ONE, 1).tolist() == [0, 1]
    with pytest.raises(TargetError, match="no prediction of rank 3: the model has 3 classes"):
        read_outputs(SCORES, "logits").predicted(SCORES, 3)


def test_what_predicts_nothing():
    with pytest.raises(TargetError, match=r"embedding of 3 numbers.*no predicted class.*Similarity"):
        read_outputs(SCORES, "embedding").predicted(SCORES)
    with pytest.raises(TargetError, match=r"3 numbers, of which none is predicted.*0 to 2"):
        read_outputs(SCORES, "regression").predicted(SCORES)
    assert read_outputs(SCORES, "regression").probabilities(SCORES) is None
    assert read_outputs(SCORES, "embedding").probabilities(SCORES) is None


def test_two_classes_of_one_logit():
    reading = read_outputs(ONE, "binary")
    assert reading.classes == 2
    assert torch.equal(reading.scores(ONE), torch.cat([-ONE, ONE], 1))
    assert read_outputs(ONE, labels=2).kind == "binary"
    number = read_outputs(ONE)
    assert (number.kind, number.classes) == ("regression", 1)
    assert torch.equal(number.scores(ONE), ONE)
    assert "a number; for two classes state output='binary'" in number.assumed


def test_what_is_assumed_is_said_and_what_is_stated_is_not():
    assert read_outputs(SCORES).assumed == "assumed: one class of 3"
    for kind in KINDS[1:]:
        assert read_outputs(SCORES, kind).assumed == ("assumed: one class of 3" if kind == "binary" else "")


SIGMOID = SCORES.clone().requires_grad_().sigmoid()


@pytest.mark.parametrize(
    ("kind", "outputs", "words"),
    [
        ("logits", SCORES.softmax(1), "'logits' is stated, but the model ends in a softmax"),
        ("logits", SIGMOID, "'logits' is stated, but the model ends in a sigmoid"),
        ("multi-label", SCORES.softmax(1), "'multi-label' is stated, but the model ends in a softmax"),
        ("multi-label", SIGMOID, "outputs are probabilities, not logits"),
        ("multi-label", SCORES.log_softmax(1), "ends in a log-softmax, one class of 3: output='logits'"),
        ("multi-label", torch.rand(8, 4), "all outputs lie between 0 and 1"),
        ("probabilities", SCORES, "outputs lie outside 0 to 1"),
        ("binary", SCORES, "has 3 outputs, read as one class of 3"),
        ("binary", ONE.clone().requires_grad_().sigmoid(), "output is a probability, not a logit"),
        ("regression", SCORES.softmax(1), "'regression' is stated, but the model ends in a softmax"),
        ("embedding", ONE, "has one output"),
        ("auto", SCORES.softmax(1), r"probabilities, not logits \(softmax\); attributions are for probabilities"),
        ("auto", SIGMOID, r"probabilities, not logits \(sigmoid\)"),
    ],
)
def test_contradictions(kind, outputs, words):
    (warning,) = read_outputs(outputs, kind).warnings
    assert pytest.importorskip("re").search(words, warning)


@pytest.mark.parametrize(
    ("kind", "outputs"),
    [
        ("auto", SCORES),
        ("auto", ONE),
        ("logits", SCORES),
        ("multi-label", SCORES),
        ("probabilities", SCORES.softmax(1)),
        ("probabilities", SIGMOID),
        ("binary", ONE),
        ("binary", SCORES[:, :2]),
        ("regression", ONE),
        ("regression", SCORES),
        ("embedding", SCORES),
    ],
)
def test_what_agrees_is_not_warned_of(kind, outputs):
    assert read_outputs(outputs, kind).warnings == ()


@pytest.mark.parametrize(
    ("kind", "outputs", "index", "words"),
    [
        ("auto", ONE, 0, "state output='binary' .* or output='regression'"),
        ("auto", ONE, 1, "one output, which may be a number or the logit"),
        ("regression", ONE, 1, "number 1 is out of range: the model has 1 number, 0"),
        ("regression", SCORES, 3, "number 3 is out of range: the model has 3 numbers, 0 to 2"),
        ("multi-label", ONE, 1, "label 1 is out of range"),
        ("binary", ONE, 2, "class 2 is out of range: the model has 2 classes, 0 to 1"),
        ("auto", SCORES, 3, "class 3 is out of range: the model has 3 classes, 0 to 2"),
    ],
)
def test_what_cannot_be_asked_for(kind, outputs, index, words):
    with pytest.raises(TargetError, match=words):
        read_outputs(outputs, kind).check_asked(index)


def test_what_can_be():
    for kind, outputs, classes in (("regression", ONE, 1), ("binary", ONE, 2), ("logits", SCORES, 3)):
        for index in range(classes):
            read_outputs(outputs, kind).check_asked(index)


@pytest.mark.parametrize(
    ("stated", "kind"),
    [
        ("regression", "regression"),
        ("single_label_classification", "logits"),
        ("multi_label_classification", "multi-label"),
        (None, "auto"),
        ("something new", "auto"),
    ],
)
def test_problem_types_of_transformers(stated, kind):
    net = nn.Linear(2, 2)
    net.config = SimpleNamespace(problem_type=stated)
    assert stated_kind(net) == kind
    net.config = {"problem_type": stated}
    assert stated_kind(net) == kind
    assert stated_kind(nn.Linear(2, 2)) == "auto"


def test_kinds_are_checked():
    assert [check_kind(kind) for kind in KINDS] == list(KINDS)
    with pytest.raises(ValueError, match=r"must be one of 'auto', 'logits'.*got 'softmax'"):
        check_kind("softmax")


# what one pass showed


@pytest.mark.parametrize("name", SHAPES)
def test_rows_of_what_was_seen(name):
    x = torch.rand(2, 3, 4, 4)
    seen = Seen(SHAPES[name], (x,), {"a": MAPS})
    part = seen.rows(slice(1, 2))
    assert part.n == 1
    assert torch.equal(part.scores(), SCORES[1:])
    assert torch.equal(part.image(), x[1:])
    assert torch.equal(part.layer("a"), MAPS[1:])


def test_rows_of_detections():
    found = [{"scores": torch.tensor([0.1])}, {"scores": torch.tensor([0.7, 0.8])}]
    part = Seen(found, (torch.rand(2, 3, 4, 4),)).rows(slice(1, 2))
    assert part.output == [found[1]]


def test_rows_are_read_by_key_attribute_and_position():
    seen = Seen(ModelOutput(logits=SCORES, hidden=MAPS), (torch.rand(2, 3, 4, 4),)).rows(torch.tensor([1]))
    assert torch.equal(seen.output.logits, SCORES[1:])
    assert torch.equal(seen.output["logits"], SCORES[1:])
    assert torch.equal(seen.output[0], SCORES[1:])
    with pytest.raises(AttributeError):
        _ = seen.output.nothing


def test_the_image_is_the_first_leaf_that_is_one():
    table, clip = torch.rand(2, 5), torch.rand(2, 3, 2, 4, 4)
    assert Seen(None, (table, clip)).image() is clip
    with pytest.raises(ImageError, match="not among the explained inputs"):
        Seen(None, (table,)).image()
    with pytest.raises(LayerError, match="'b' was not kept"):
        Seen(None, (clip,)).layer("b")


def test_probabilities_of_a_sure_model_stay_finite():
    assert math.isclose(
        float(read_outputs(torch.tensor([[1000.0]]), "binary").probabilities(torch.tensor([[1000.0]]))[0, 1]), 1.0
    )


def test_an_output_without_rows_is_refused_with_what_it_is():
    """As wrappers that repeat a table for the rows that arrive give, where fewer arrive than it has."""
    nothing = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    nothing.register_forward_hook(lambda module, given, output: output[:0])
    with pytest.raises(ModelError, match="scores for 0 rows, 1 went in"):
        Gradient()(nothing, torch.rand(1, 3, 2, 2), 1)
