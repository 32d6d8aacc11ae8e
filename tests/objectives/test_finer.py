import pytest
import torch

import deepviz
from deepviz.errors import TargetError
from deepviz.methods import GradCAM
from deepviz.objectives import Finer, Logit, ReST, Seen, bind, parse
from networks import CASES, assert_same
from small_models import good

SCORES = torch.tensor([[5.0, 4.0, 2.0, -9.0], [1.0, 7.0, 6.5, 9.0]], dtype=torch.float64)
SEEN = Seen(SCORES, (torch.zeros(2, 3, 8, 8),))


def test_the_similar_classes_have_the_closest_scores_whatever_their_order():
    assert Finer(0, similar=2).choose(SEEN).tolist() == [[1, 2], [2, 1]]
    assert Finer(1, similar=3).choose(SEEN).tolist() == [[0, 2, 3], [2, 3, 0]]
    assert Finer(1, similar=9).choose(SEEN).shape == (2, 3)
    rows = Finer(torch.tensor([0, 3]), similar=1, gamma=1.0)
    assert rows(SEEN).tolist() == [5.0 - 4.0, 9.0 - 7.0]
    assert rows.take(torch.tensor([1]))(SEEN.rows(slice(1, 2))).tolist() == [2.0]


def test_they_are_chosen_once_on_the_image_as_it_is():
    bound = bind(Finer(0, similar=1, gamma=0.5), 2)
    assert bound(SEEN).tolist() == [3.0, -2.25]
    changed = Seen(SCORES.roll(1, 1), SEEN.x)
    assert bound(changed).tolist() == [-9.0 - 0.5 * 5.0, 9.0 - 0.5 * 7.0]
    assert bound.settled()[0] == Logit(0) - 0.5 * Logit(torch.tensor([1, 2]))


def test_without_subtracting_it_is_the_logit_and_a_map_is_linear_in_it():
    model, x = CASES["plain"].model().eval(), CASES["plain"].images(2)
    scores = model(x).detach()
    others = (scores - scores[:, 2:3]).abs().argsort(1)[:, 1:3]
    found = GradCAM(relu=False)(model, x, Finer(2, similar=2, gamma=0.8))
    c, d = GradCAM(relu=False)(model, x, 2), GradCAM(relu=False)(model, x, others)
    assert_same(found, c - 0.8 * d.mean(1), 1e-10)
    assert_same(GradCAM(relu=False)(model, x, Finer(2, gamma=0.0)), c, 1e-12)


def test_it_is_written_the_same_everywhere_and_a_result_names_the_classes():
    assert parse("finer(281)") == Finer(281)
    assert str(Finer(3, 2, 0.5)) == "finer(3, 2, 0.5)"
    assert str(Finer(3, gamma=1.0)) == "finer(3, gamma=1)"
    assert str(ReST(3)) == "rest(3)"
    assert parse("rest(red fox)", ["wolf", "red fox"]) == ReST(1)
    assert parse("finer(red fox, 1) - 2 * wolf", ["wolf", "red fox"]) == Finer(1, 1) - 2 * Logit(0)
    model = good()
    (one,) = deepviz.explain(model, torch.rand(3, 16, 16), "grad-cam(relu=False)", target="finer(0, 1, 0.5)")
    assert str(one.target.objective).startswith("logit(0) - 0.5 * logit(")


def test_a_model_with_one_number_has_nothing_to_compare_with():
    with pytest.raises(TargetError, match="of which the model has none"):
        Finer(0)(Seen(SCORES[:, :1], SEEN.x, kind="regression"))
    for wrong in ({"similar": 0}, {"gamma": -1.0}):
        with pytest.raises((ValueError, TypeError)):
            Finer(0, **wrong)


def test_rest_adds_the_log_probability_however_the_output_is_read():
    P = SCORES.softmax(1)
    assert_same(ReST(1)(SEEN), SCORES[:, 1] + P[:, 1].log(), 1e-12)
    labels = Seen(SCORES, SEEN.x, kind="multi-label")
    assert_same(ReST(2)(labels), SCORES[:, 2] + SCORES[:, 2].sigmoid().log(), 1e-12)
    z = SCORES[:, :1]
    two = Seen(z, SEEN.x, kind="binary")
    assert_same(ReST(0)(two), (-z + (1 - z.sigmoid()).log())[:, 0], 1e-9)
    for kind, output in (("regression", SCORES), ("probabilities", P)):
        with pytest.raises(TargetError, match=f"read as {kind}: explain"):
            ReST(1)(Seen(output, SEEN.x, kind=kind))
