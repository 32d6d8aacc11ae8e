"""The checks beside a map are the metrics' own numbers, and what is remembered of the method on this model."""

import json

import pytest
import torch

import deepviz
import deepviz.runs.checks
from deepviz import catalog
from deepviz.errors import DeepVizWarning
from deepviz.methods import Gradient, GradTimesImage
from deepviz.metrics import RandomMap
from deepviz.results.dependence import verdict_of
from deepviz.results.sanity import key_of
from deepviz.runs.checks import METRICS, checked, in_words
from deepviz.runs.verdicts import recall, remember
from small_models import good, scripted


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


X = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))


def explained(methods, **options):
    loaded = good()
    image = loaded.prepare(X)
    return loaded, image, deepviz.explain(loaded, X, methods, **options)


def test_the_numbers_are_the_metrics_of_the_map_and_of_a_random_one():
    loaded, image, explanations = explained(GradTimesImage(), target=["lynx", "red fox"])
    for one in checked(loaded, image, explanations):
        checks, target = one.notes["checks"], one.target.index
        random = RandomMap()(loaded.module, X[None], target)
        for name, metric in METRICS.items():
            assert checks[name] == pytest.approx(
                float(metric(loaded.module, X[None], one.attribution[None], target)[0])
            )
            assert checks["of a random map"][name] == pytest.approx(
                float(metric(loaded.module, X[None], random, target)[0])
            )
    assert len({one.notes["checks"]["deletion"] for one in checked(loaded, image, explanations)}) == 2


def test_what_a_method_keeps_is_found_once_and_remembered(monkeypatch):
    loaded, image, explanations = explained([Gradient(), GradTimesImage()])
    (first, _) = checked(loaded, image, explanations)
    fingerprint = key_of(loaded)
    assert set(recall(fingerprint)) == {catalog.key(Gradient()), catalog.key(GradTimesImage())}
    kept = verdict_of(recall(fingerprint)[catalog.key(Gradient())]).as_json()
    assert first.notes["checks"]["kept"]["all"]["mean"] == pytest.approx(kept["all"]["mean"], abs=1e-4)
    found = deepviz.sanity_check(loaded, X, Gradient(), stages=2)
    assert first.notes["checks"]["kept"]["all"]["mean"] == pytest.approx(found.kept(1.0)[0])
    monkeypatch.setattr(deepviz.runs.checks, "randomize_items", None)  # from now on it is known
    assert checked(loaded, image, explanations)[0].notes["checks"]["kept"] == kept


def test_deepviz_sanity_on_many_images_is_believed_before_one():
    loaded, image, explanations = explained(Gradient())
    many = deepviz.sanity_check(loaded, torch.rand(4, 3, 32, 32), Gradient(), stages=2)
    remember(many)
    assert checked(loaded, image, explanations)[0].notes["checks"]["kept"]["images"] == 4


def test_a_cache_that_cannot_be_written_is_no_obstacle(tmp_path):
    (tmp_path / "deepviz").write_text("a file where a folder should be")
    loaded, image, explanations = explained(Gradient())
    assert checked(loaded, image, explanations)[0].notes["checks"]["kept"]["images"] == 1


def test_equal_digits_are_no_better():
    checks = {
        "deletion": 0.1201,
        "insertion": 0.2,
        "of a random map": {"deletion": 0.1199, "insertion": 0.1},
    }
    assert in_words(checks) == "deletion 0.12, no better than a random map (0.12); insertion 0.20, better (0.10)"


def test_the_sheet_has_room_for_them_and_they_are_plain_for_json():
    loaded, image, explanations = explained(Gradient())
    (one,) = checked(loaded, image, explanations)
    assert deepviz.sheet([one]).height > deepviz.sheet(explanations).height
    assert json.loads(json.dumps(one.metadata()))["notes"]["checks"] == one.notes["checks"]
    assert "deletion" in one._repr_html_()


def test_a_model_that_cannot_be_randomised_is_checked_all_the_same():
    loaded = scripted()
    image, explanations = loaded.prepare(X), deepviz.explain(loaded, X, Gradient())
    with pytest.warns(DeepVizWarning, match="no check by random weights: a scripted model"):
        (one,) = checked(loaded, image, explanations)
    assert one.notes["checks"]["kept"] is None
    assert "similarity" not in one.notes["checks"]["in words"]
