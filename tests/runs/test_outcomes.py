"""What came to nothing is told, aligned with what was asked, and costs the others nothing."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

import deepviz
from deepviz import catalog
from deepviz.errors import DeepVizWarning, ModelError, NothingApplies, NothingOverridden, TargetError, TargetFailed
from deepviz.methods import GradCAM, Gradient, GuidedBackprop, Method
from deepviz.objectives import Logit
from deepviz.results.explanation import Explanation
from deepviz.results.outcomes import Failed, Skipped
from deepviz.runs.asked import Item
from deepviz.runs.checks import checked, verdict_key
from deepviz.runs.explain import explain_items
from deepviz.runs.verdicts import recall, remember
from networks import assert_same
from small_models import good, network, no_rectifier

X = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
FLAT = nn.Sequential(nn.Flatten(), nn.Linear(3072, 5))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@dataclass(frozen=True)
class Picky(Method):
    """A stranger's method that raises for images whose first value is above 2."""

    title: ClassVar[str] = "Picky"

    def maps(self, session):
        x = session.image()
        session.values()
        if bool((x[:, 0, 0, 0] > 2).any()):
            raise KeyError("too bright")
        return x


def bright(*rows):
    x = X.clone()
    x[list(rows), 0, 0, 0] = 3.0
    return x


@dataclass(frozen=True)
class Stranger(Method):
    """A stranger's method that raises, at once or for any image but the first that it sees."""

    title: ClassVar[str] = "Stranger"
    error: type[Exception] = TargetError
    bright_alone: bool = False

    def maps(self, session):
        session.values()
        x = session.image()
        if not self.bright_alone or bool((x[:, 0, 0, 0] != 2.5).any()):
            raise self.error("a stranger's own")
        return x


ERRORS = [TargetError, TargetFailed, ValueError, TypeError, ModelError, KeyError, AssertionError]


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.filterwarnings("ignore::deepviz.DeepVizWarning")
def test_whatever_a_stranger_raises_the_others_go_on(monkeypatch, error):
    monkeypatch.setattr(catalog, "default_set", lambda: (Stranger(error), Gradient()))
    found = deepviz.explain(good(), X, target=[0, 1])
    assert [one.method for one in found] == [Gradient()] * 6
    assert [one.error for one in found.failed] == [error.__name__] * 6
    assert "a stranger's own" in found.failed[0].reason
    evaluation = deepviz.evaluate(good(), X[0], "all", "sparseness")
    assert np.isnan(evaluation.values[0, :, 0]).tolist() == [True, False, False, False, False]
    sanity = deepviz.sanity_check(good(), X[0], "all", stages=1)
    assert list(sanity.verdicts) == ["Gradient"]


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.filterwarnings("ignore::deepviz.DeepVizWarning")
def test_a_stranger_that_raises_inside_a_metric_costs_that_metric_alone(error):
    """It has a map of the image, and none of the image with noise."""
    x = X[:1].clone()
    x[:, 0, 0, 0] = 2.5
    metrics = ["sparseness", "max-sensitivity(samples=2)"]
    found = deepviz.evaluate(good(), x, [Stranger(error, True), Gradient()], metrics, controls=False)
    assert np.isnan(found.values[0]).tolist() == [[False, True], [False, False]]


def test_a_wrong_target_is_an_error_before_any_method_is_run():
    calls = []

    @dataclass(frozen=True)
    class Counting(Method):
        def maps(self, session):
            calls.append(1)
            return session.image()

    def wrong(output):
        raise KeyError("boxes")

    for target, message in (
        (99, "out of range"),
        (wrong, "KeyError: 'boxes'"),
        (lambda output: output.sum(), "one float score per row"),
    ):
        for ask in (deepviz.explain, deepviz.evaluate, deepviz.sanity_check):
            with pytest.raises(TargetError, match=message):
                ask(good(), X, [Counting(), Gradient()], target=target)
            with pytest.raises(TargetError, match=message):
                ask(good(), X, target=target)
    assert not calls


@pytest.fixture
def with_picky(monkeypatch):
    monkeypatch.setitem(catalog.METHODS, "picky", Picky)


@pytest.mark.filterwarnings("ignore::deepviz.DeepVizWarning")
def test_under_all_a_strangers_error_costs_only_its_own_map(with_picky):
    found = deepviz.explain(good(), bright(1), target=[0, 1])
    assert len(found) == 3 * 2 * len(catalog.default_set()) - 2
    assert [(one.method, one.target.index, one.error) for one in found.failed] == [
        (Picky(), 0, "KeyError"),
        (Picky(), 1, "KeyError"),
    ]
    assert found.failed[0].reason == "KeyError: 'too bright'"
    assert found.skipped == ()
    alone = deepviz.explain(good(), X[0], Picky(), target=0)[0]
    assert_same(next(one for one in found if one.method == Picky()).attribution, alone.attribution, 0)


def test_asked_for_by_name_it_is_the_strangers_own_error():
    with pytest.raises(KeyError, match="too bright"):
        deepviz.explain(good(), bright(1), ["gradient", Picky()])


def test_what_fails_is_warned_of(with_picky):
    with pytest.warns(DeepVizWarning, match="Picky failed: KeyError: 'too bright'"):
        deepviz.explain(good(), bright(1))


@pytest.mark.filterwarnings("ignore::deepviz.DeepVizWarning")
def test_what_does_not_apply_is_skipped():
    with pytest.warns(DeepVizWarning, match="Guided backprop is left out"):
        found = deepviz.explain(no_rectifier(), X[0])
    assert [type(one.method).__name__ for one in found.skipped] == ["GuidedBackprop", "Deconvolution", "GuidedGradCAM"]
    assert {one.error for one in found.skipped} == {"NothingOverridden"}
    assert all(isinstance(one, Explanation) for one in found)
    assert isinstance(found, list)


@pytest.mark.filterwarnings("ignore::deepviz.DeepVizWarning")
def test_outcomes_are_aligned_with_what_was_asked():
    loaded = deepviz.load_model(no_rectifier())
    methods = [GuidedBackprop(), Gradient(), GradCAM("no such layer")]
    (one,) = explain_items(loaded, [Item(loaded.prepare(X[0]), (Logit(0), Logit(1)))], methods, lenient=True)
    assert [type(outcome) for outcome in one.outcomes] == [Skipped, Explanation, Skipped] * 2
    assert [outcome.target.index for outcome in one.outcomes] == [0, 0, 0, 1, 1, 1]
    assert [outcome.method for outcome in one.outcomes] == methods * 2


@pytest.mark.filterwarnings("ignore::deepviz.DeepVizWarning")
def test_a_method_that_fails_has_no_numbers_and_the_others_have_theirs():
    found = deepviz.evaluate(good(), bright(1), [Picky(), Gradient()], "sparseness")
    assert np.isnan(found.values[:, 0, 0]).tolist() == [False, True, False]
    assert np.isfinite(found.values[:, 1:]).all()
    assert isinstance(found.judged[1].missing[0], Failed)
    assert found.judged[1].left_out == {catalog.key(Picky()): "KeyError: 'too bright'"}
    sanity = deepviz.sanity_check(good(), bright(1), [Picky(), Gradient()], stages=1)
    assert np.isnan(sanity.similarities["ssim"][:, 0, -1]).tolist() == [False, True, False]
    assert np.isfinite(sanity.similarities["ssim"][:, 1]).all()
    assert sanity.summary["Picky"]["images"] == 2


@pytest.mark.filterwarnings("ignore::deepviz.DeepVizWarning")
def test_two_of_a_class_of_which_one_does_not_apply():
    found = deepviz.evaluate(network(), X, [GradCAM("1"), GradCAM("5")], "sparseness", controls=False)
    assert found.rows == ("Grad-CAM, layer 1", "Grad-CAM, layer 5")
    assert np.isfinite(found.values[:, 0]).all()
    assert np.isnan(found.values[:, 1]).all()
    assert set(found.judged[0].left_out) == {catalog.key(GradCAM("5"))}
    assert found.keys == (catalog.key(GradCAM("1")), catalog.key(GradCAM("5")))
    sanity = deepviz.sanity_check(network(), X, [GradCAM("5"), GradCAM("1")], stages=1)
    assert list(sanity.verdicts) == ["Grad-CAM, layer 1"]


@pytest.mark.parametrize(
    "ask",
    [
        lambda: deepviz.evaluate(FLAT, X, "guided-backprop", "deletion", controls=False),
        lambda: deepviz.sanity_check(FLAT, X, "guided-backprop"),
        lambda: deepviz.sanity_check(FLAT, X, ["guided-backprop", "grad-cam"]),
        lambda: deepviz.evaluate(good(), bright(0, 1, 2), Picky(), "deletion", controls=False),
    ],
)
@pytest.mark.filterwarnings("ignore::deepviz.DeepVizWarning")
def test_if_nothing_applies_it_is_said(ask):
    with pytest.raises(NothingApplies, match=r"no method gave a map: (Guided backprop: no rectifier|Picky: KeyError)"):
        ask()


def test_a_method_by_name_that_does_not_apply_is_an_error():
    with pytest.raises(NothingOverridden):
        deepviz.explain(FLAT, X, "guided-backprop")


def test_an_image_that_fails_is_handed_over_and_the_others_go_on():
    loaded = good()
    x = X.clone()
    x[1] = 1e38  # overflows
    items = [Item(loaded.prepare(one), (Logit(0),)) for one in x]
    failed = []
    found = list(explain_items(loaded, items, [Gradient()], on_error=lambda item, error: failed.append((item, error))))
    assert [one.image for one in found] == [items[0].image, items[2].image]
    ((item, error),) = failed
    assert item is items[1]
    assert isinstance(error, ModelError)


def test_a_class_that_there_is_not_ends_all():
    with pytest.raises(TargetError):
        deepviz.explain(good(), X, target=[0, 77])


def test_the_verdict_of_one_layer_is_not_anothers():
    loaded = deepviz.load_model(network())
    deep, shallow = GradCAM("3", relu=False), GradCAM("1", relu=False)
    remember(deepviz.sanity_check(loaded, X, shallow, stages=2))
    (one,) = deepviz.explain(loaded, X[0], deep)
    (with_checks,) = checked(loaded, loaded.prepare(X[0]), [one])
    own = deepviz.sanity_check(loaded, X[0], deep, stages=2)
    assert with_checks.notes["checks"]["kept"]["all"]["mean"] == pytest.approx(own.kept(1.0)[0], abs=1e-4)
    known = recall(own.key)
    assert len(known) == 2
    # a layer that is found is that layer
    (found,) = deepviz.explain(loaded, X[0], GradCAM(relu=False))
    assert verdict_key(found) == own.keys[0]


def test_verdicts_of_two_layers_do_not_collapse():
    both = deepviz.sanity_check(network(), X, [GradCAM("1", relu=False), GradCAM("3", relu=False)], stages=2)
    assert list(both.verdicts) == ["Grad-CAM, relu False, layer 1", "Grad-CAM, relu False, layer 3"]
    assert len(both.summary) == len(both.by_key) == len(set(both.keys)) == 2
    assert both.as_json()["methods"] == list(both.verdicts)


def test_a_layer_given_as_a_module_is_found_in_the_copies_by_its_name():
    net = network()
    found = deepviz.sanity_check(net, X[0], GradCAM(net[3]), stages=1)
    same = deepviz.sanity_check(net, X[0], GradCAM("3"), stages=1)
    assert found.keys == same.keys
    assert found.kept()[0] == pytest.approx(same.kept()[0])
