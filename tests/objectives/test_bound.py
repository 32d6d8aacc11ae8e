"""What is explained for the rows of a batch: chosen once, shared by slices, one or several."""

import numpy as np
import pytest
import torch

from deepviz.errors import ModelError, TargetError
from deepviz.objectives import Channel, Function, Logit, Output, Predicted, Probability, Seen, Similarity, bind

SCORES = torch.tensor([[1.0, 3.0, -2.0], [0.5, 0.0, 4.0], [7.0, 1.0, 6.0]])
ONE = torch.tensor([[2.0], [-3.0], [0.5]])
IMAGES = torch.zeros(3, 3, 4, 4)
LABELS = ("ant", "bee, honey bee", "cat")


def seen(scores=SCORES, kind="auto", maps=None):
    return Seen(scores, (IMAGES[: len(scores)],), maps or {}, kind)


def first(output):
    return output[:, 0]


TARGETS = {
    "index": (2, [-2, 4, 6]),
    "numpy's index": (np.int64(2), [-2, 4, 6]),
    "predicted": (None, [3, 4, 7]),
    "label": ("cat", [-2, 4, 6]),
    "synonym": ("honey bee", [3, 0, 1]),
    "expression": ("cat - ant", [-3, 3.5, -1]),
    "a class a row": (torch.tensor([0, 1, 2]), [1, 0, 6]),
    "an array": (np.array([0, 1, 2]), [1, 0, 6]),
    "an array of labels": (np.array(["ant", "honey bee", "cat"]), [1, 0, 6]),
    "a tensor of one number": (torch.tensor(2), [-2, 4, 6]),
    "callable": (first, [1, 0.5, 7]),
    "objective": (Logit("cat") - 0.5 * Logit(0), [-2.5, 3.75, 2.5]),
    "second": (Predicted(1), [1, 0.5, 6]),
    "from the best to the second": (Predicted() - Predicted(1), [2, 3.5, 1]),
    "list": ([2, "ant"], [[-2, 1], [4, 0.5], [6, 7]]),
    "list of one": ([2], [[-2], [4], [6]]),
    "range": (range(2), [[1, 3], [0.5, 0], [7, 1]]),
    "tuple of everything": (
        (None, 0, torch.tensor([0, 1, 2]), first, Output(1)),
        [[3, 1, 1, 1, 3], [4, 0.5, 0, 0.5, 0], [7, 7, 6, 7, 1]],
    ),
    "classes a row": (torch.tensor([[0, 1], [1, 2], [2, 0]]), [[1, 3], [0, 4], [6, 7]]),
    "classes a row in a list": ([1, torch.tensor([[0, 1], [1, 2], [2, 0]])], [[3, 1, 3], [0, 0, 4], [1, 6, 7]]),
}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (1, None, True),
        ("cat - ant", "bee - 0.5 * cat", True),
        ("cat - ant", 2, True),
        ([0, 1], Probability(2), True),
        (Channel("a", 1), Channel("a", 2), True),
        (Channel("a", 1), Channel("b", 1), False),
        (Channel("a", 1), 1, False),
        (Similarity(torch.ones(3)), Similarity(torch.zeros(3) + 2), True),
        (Output("head", 1), Output("other", 1), False),
        (first, first, True),
        (first, lambda output: output[:, 0], False),
    ],
)
def test_what_is_found_of_a_model_is_found_once_for_one_kind_of_question(one, other, same):
    assert (bind(one, 3, LABELS).question == bind(other, 3, LABELS).question) == same


@pytest.mark.parametrize("name", TARGETS)
def test_values(name):
    target, expected = TARGETS[name]
    bound = bind(target, 3, LABELS)
    expected = torch.tensor(expected, dtype=torch.float32)
    assert torch.allclose(bound(seen()), expected)
    assert bound.shape == tuple(expected.shape[1:])
    assert bound.decided


@pytest.mark.parametrize("name", TARGETS)
def test_each_and_rows_are_parts_of_the_whole(name):
    target, expected = TARGETS[name]
    bound = bind(target, 3, LABELS)
    whole = bound(seen())
    for rows in (slice(1, 3), torch.tensor([2, 0]), torch.tensor([False, True, False]), torch.tensor([1, 1, 1, 2])):
        part = bound.take(rows)
        look = Seen(SCORES[rows], (IMAGES[0].expand(part.rows, -1, -1, -1),))
        # what was decided for the whole stays: the scores of other images do not change the class
        assert torch.allclose(part(look), whole[rows])
        worse = Seen(-SCORES[rows] * torch.tensor([1.0, 9.0, 1.0]), look.x)
        if bound.indices is not None:
            assert torch.equal(part.indices, bound.indices[rows])
            columns = part.indices.reshape(part.rows, -1)
            assert torch.equal(part(worse).reshape(part.rows, -1), worse.output.gather(1, columns))
    each = bound.each()
    assert len(each) == (len(expected[0]) if bound.shape else 1)
    for k, one in enumerate(each):
        assert one.shape == ()
        assert torch.allclose(one(seen()), whole[:, k] if bound.shape else whole)


def test_the_predicted_class_is_chosen_once():
    for target in (None, Predicted() - 0.0 * Logit(0)):
        bound = bind(target, 3)
        assert not bound.decided
        bound(seen())
        assert bound.decided
        assert torch.equal(bound(seen(-SCORES)), torch.tensor([-3.0, -4.0, -7.0]))


def test_slices_share_the_choice_and_copies_do_not():
    bound = bind([Predicted(), Predicted(1)], 3)
    for rows in (slice(0, 2), slice(2, 3)):
        bound.take(rows)(Seen(SCORES[rows], (IMAGES[rows],)))
    assert bound.indices.tolist() == [[1, 0], [2, 0], [0, 2]]
    fresh = bind(None, 3)
    fresh.take(torch.tensor([0, 1, 2]))(seen())
    assert not fresh.decided
    for part in fresh.each():
        part(seen())
    assert fresh.decided
    mixed = bind([Predicted() - Logit(0), Channel("a", 0)], 3)
    assert not mixed.decided
    mixed.each()[0].take(slice(0, 3))(seen())
    assert mixed.decided


def test_indices_are_of_classes_alone():
    assert bind(2, 3).indices.tolist() == [2, 2, 2]
    assert bind([2, None], 3).indices.tolist() == [[2, -1]] * 3
    assert bind([2, Output(0)], 3).indices is None
    assert bind(Logit(2) - Logit(1), 3).indices is None
    assert bind(Function(first), 3).indices is None


def test_layers():
    maps = {"a": torch.arange(24.0).reshape(3, 2, 2, 2)}
    bound = bind([Channel("a", 1), Logit(0) - Channel("b", 0)], 3)
    assert bound.layers == {"a", "b"}
    assert bind(3, 3).layers == frozenset()
    assert torch.equal(bind(Channel("a", 1), 3)(seen(maps=maps)), maps["a"][:, 1].mean((1, 2)))


def test_an_embedding_for_each_row_follows_its_row():
    to = torch.eye(3)
    bound = bind([Similarity(to), 0], 3)
    whole = bound(seen())[:, 0]
    assert torch.allclose(whole, SCORES.diagonal() / SCORES.norm(dim=1))
    rows = torch.tensor([2, 2, 0])
    assert torch.allclose(bound.take(rows)(seen(SCORES[rows]))[:, 0], whole[rows])
    assert torch.allclose(bound.take(slice(1, 2))(seen(SCORES[1:2]))[:, 0], whole[1:2])


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (True, "not a bool"),
        (np.bool_(False), "not a bool"),
        ([0, True], "not a bool"),
        (torch.tensor([True, False, True]), "integers, got torch.bool"),
        (np.array([True, False, True]), "integers, got torch.bool"),
        (-1, "from 0 up, got -1"),
        (torch.tensor([0, -1, 0]), "from 0 up, got -1"),
        (1.5, "a class index, a label, a tensor"),
        (torch.tensor([0.0, 1.0, 2.0]), "integers, got torch.float32"),
        (np.array([0.5, 1, 2]), "integers, got torch.float64"),
        (torch.tensor([0, 1]), r"N = 3 rows, got \(2,\); for several classes of every image give a list"),
        (torch.zeros(3, 2, 2).long(), r"got \(3, 2, 2\)"),
        (torch.zeros(3, 0).long(), "at least one"),
        ([], "empty list"),
        ([[0, 1], [2]], "a list in a list"),
        ({0, 1}, r"a class index.*got \{0, 1\}"),
        (Logit, r"did you mean Logit\(...\)"),
        (Similarity(torch.eye(2, 3)), "a value for each of 2 rows, for 3 of them"),
        (Logit(torch.tensor([0, 1])), "a value for each of 2 rows"),
        ("dog", "no class named 'dog'"),
        (np.array(["ant", "dog", "cat"]), "no class named 'dog'"),
        (np.array([None, 1, 2], dtype=object), "whole number or a label, got None"),
    ],
)
def test_what_is_no_target(target, words):
    with pytest.raises(TargetError, match=words):
        bind(target, 3, LABELS)


def test_labels_have_to_be_known():
    for target in ("ant", Logit("ant"), Logit(1) - Probability("ant"), "ant - bee", [0, "ant"]):
        with pytest.raises(TargetError, match="no labels: give a class index instead of 'ant', or labels="):
            bind(target, 3)


def test_what_does_not_fit_the_model():
    with pytest.raises(TargetError, match="class 3 is out of range: the model has 3 classes, 0 to 2"):
        bind(3, 3)(seen())
    with pytest.raises(TargetError, match="class 5 is out of range"):
        bind(torch.tensor([0, 5, 1]), 3)(seen())
    with pytest.raises(ModelError, match="scores for 3 rows, 2 went in"):
        bind(0, 2)(Seen(SCORES, (IMAGES[:2],)))
    with pytest.raises(TargetError, match="for 3 rows, 2 went through"):
        bind(0, 3)(seen(SCORES[:2]))
    with pytest.raises(TargetError, match="one float score per row"):
        bind(lambda output: output, 3)(seen())


def test_a_strangers_objective_must_give_a_value_a_row():
    class Mine(Logit):
        def __call__(self, seen):
            return seen.scores()

    with pytest.raises(
        TargetError, match=r"mine\(0\) must give one float value per row, \(3,\), got a tensor \(3, 3\)"
    ):
        bind(Mine(0), 3)(seen())


# one output


def test_one_output_is_a_number_unless_stated():
    bound = bind(None, 3)
    assert torch.equal(bound(seen(ONE)), ONE[:, 0])
    assert "a number" in bound.reading.assumed
    assert bound.reading.probabilities(ONE) is None
    for index in (0, 1, torch.tensor([0, 1, 0]), Logit(0) - Output(0), Probability(1)):
        with pytest.raises(TargetError, match="state output='binary'"):
            bind(index, 3)(seen(ONE))
    assert torch.equal(bind(0, 3)(seen(ONE, "regression")), ONE[:, 0])
    with pytest.raises(TargetError, match="number 1 is out of range"):
        bind(1, 3)(seen(ONE, "regression"))


def test_one_output_of_two_classes():
    assert torch.equal(bind(1, 3)(seen(ONE, "binary")), ONE[:, 0])
    assert torch.equal(bind(0, 3)(seen(ONE, "binary")), -ONE[:, 0])
    bound = bind(None, 3)
    assert torch.equal(bound(seen(ONE, "binary")), ONE[:, 0].abs())
    assert bound.indices.tolist() == [1, 0, 1]
    # of a probability, which only a graph tells, its half decides
    bound = bind(None, 3)
    p = ONE.clone().requires_grad_().sigmoid()
    assert torch.allclose(bound(seen(p, "binary")), torch.where(p[:, 0] > 0.5, p[:, 0], -p[:, 0]))
    assert bound.indices.tolist() == [1, 0, 1]
    assert any("probability, not a logit" in remark for remark in bound.remarks)


def test_what_predicts_nothing():
    with pytest.raises(TargetError, match="Similarity"):
        bind(None, 3)(seen(kind="embedding"))
    with pytest.raises(TargetError, match="3 numbers, of which none is predicted"):
        bind(None, 3)(seen(kind="regression"))
    assert torch.equal(bind(2, 3)(seen(kind="regression")), SCORES[:, 2])
    assert torch.equal(bind(2, 3)(seen(kind="embedding")), SCORES[:, 2])


def test_readings_are_kept_for_passes_without_a_graph():
    p = ONE.clone().requires_grad_().sigmoid()
    bound = bind([Probability(1), Probability(0)], 3)
    assert not bound.decided
    expected = torch.cat([p, 1 - p], 1)
    assert torch.allclose(bound(seen(p, "binary")), expected)
    assert bound.decided
    assert torch.allclose(bound(seen(p.detach(), "binary")), expected)


def test_remarks():
    bound = bind(0, 3)
    bound(seen(SCORES.softmax(1)))
    assert bound.remarks == {
        "the model's outputs are probabilities, not logits (softmax); attributions are for probabilities"
    }
    assert bound.take(slice(0, 1)).remarks is bound.remarks
    several = bind(0, 3)
    several(Seen({"a": SCORES, "b": SCORES}, (IMAGES,)))
    assert "several (N, K) outputs, a, b" in "".join(several.remarks)
    plain = bind(0, 3)
    plain(seen())
    assert plain.remarks == set()
    assert plain.reading.assumed == "assumed: one class of 3"
    assert bind(first, 3).reading is None


def test_a_callable_needs_no_scores():
    boxes = [{"scores": torch.tensor([0.5, 0.2])}, {"scores": torch.tensor([0.9])}, {"scores": torch.tensor([0.7])}]
    top = bind(lambda output: torch.stack([one["scores"].max() for one in output]), 3)
    assert torch.allclose(top(Seen(boxes, (IMAGES,))), torch.tensor([0.5, 0.9, 0.7]))


def test_gradients_flow():
    scores = SCORES.clone().requires_grad_()
    bind([Logit(1) - Logit(0), Predicted()], 3)(seen(scores)).sum().backward()
    assert scores.grad.tolist() == [[-1, 2, 0], [-1, 1, 1], [0, 1, 0]]
