"""What metrics ask a model: the same answers whatever the layout, the chunk or the caller's modes."""

import pytest
import torch
from torch import nn

from deepviz.errors import ModelFailed
from deepviz.methods import GradTimesImage
from deepviz.metrics import ROAD, Completeness, Deletion, FaithfulnessCorrelation, Infidelity
from deepviz.metrics.metric import judging
from networks import CASES, Small, assert_same

CASE = CASES["plain"]
X = CASE.images(3)
CHECKED = 1 + 2 + 8
"""The rows that go through a model once, to see whether it treats them one by one."""
METRICS = pytest.mark.parametrize(
    "metric",
    [Deletion(steps=9), ROAD(steps=4), Infidelity(samples=5), FaithfulnessCorrelation(subsets=9), Completeness()],
    ids=str,
)


def by_hand(model, x, target):
    return model(x).softmax(1)[torch.arange(len(x)), target].detach()


@pytest.mark.parametrize("name", CASES)
def test_every_way_of_writing_networks_is_asked(name):
    case = CASES[name]
    model, x = case.model(), case.images(2)
    with judging(model, x, None) as session:
        rows = torch.tensor([1, 0, 1])
        found = session.ask(rows, lambda chunk: x[rows[chunk]], "score")
        assert_same(found, session.clean("score")[rows], 1e-9)
        assert float(session.clean().min()) > 0
        assert float(session.clean().max()) <= 1


@METRICS
def test_a_model_that_takes_views_of_its_feature_maps(metric):
    class Viewing(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = CASE.model()

        def forward(self, x):
            features = self.body[:4](x)
            # refuses channels_last
            return self.body[4:](features.view(len(x), -1).view(features.shape))

    plain, viewing = CASE.model(), Viewing()
    viewing.body.load_state_dict(plain.state_dict())
    maps = GradTimesImage()(plain, X, 1)
    assert_same(metric(viewing, X, maps, 1), metric(plain, X, maps, 1), 1e-6)


@METRICS
def test_a_device_that_runs_out_of_memory_changes_nothing(metric):
    small = Small(CASE.model(), room=2)
    maps = GradTimesImage()(small.body, X, 1)
    found = metric(small, X, maps, 1)
    assert small.failures
    assert_same(found, metric(small.body, X, maps, 1), 1e-6)


@METRICS
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_callers_modes_do_not_matter(metric, mode):
    model = CASE.model()
    maps = GradTimesImage()(model, X, 1)
    expected = metric(model, X, maps, 1)
    with mode():
        found = metric(model, X.clone(), maps.clone(), 1)
    assert_same(found, expected, 1e-9)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    assert_same(metric(model, X.requires_grad_(False), maps, 1), expected, 1e-9)


@METRICS
def test_a_model_that_fails_midway_is_given_back(metric):
    class Failing(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.calls = CASE.model(), 0

        def forward(self, x):
            self.calls += 1
            if self.calls > 1:
                raise RuntimeError("no more")
            return self.body(x)

    model = Failing().train()
    model.body[1].eval()
    with pytest.raises(ModelFailed, match="no more"):
        metric(model, X, torch.rand(X.shape), 1)
    assert model.training
    assert not model.body[1].training
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


def test_the_class_is_that_of_the_image_not_of_what_is_asked():
    model = CASE.model()
    predicted = model(X).argmax(1)
    changed = -2 * X
    with judging(model, X, None) as session:
        found = session.ask(torch.arange(3), lambda chunk: changed[chunk], "probability")
    assert_same(found, by_hand(model, changed, predicted), 1e-9)


def test_values_are_found_once_and_baselines_by_tensor_are_not_confused():
    class Counting(nn.Module):
        rows = 0

        def forward(self, x):
            self.rows += len(x)
            return x.mean((2, 3))

    model = Counting()
    with judging(model, X, 0) as session:
        for _ in range(3):
            session.clean()
            session.clean("score")
            session.without(0.0, "score")
        assert model.rows == CHECKED + 3 + 3
        one, two = (session.without(torch.full_like(X, value), "score") for value in (0.1, 0.2))
        assert_same(two, 2 * one, 1e-9)


def test_only_one_chunk_of_changed_images_is_held_at_a_time():
    asked = []
    rows = torch.zeros(40, dtype=torch.long)
    with judging(CASE.model(), X[:1], 1) as session:

        def make(chunk):
            asked.append(chunk.stop - chunk.start)
            return X[:1].expand(asked[-1], -1, -1, -1)

        assert_same(session.ask(rows, make, "probability"), session.clean().expand(40), 1e-9)
    assert sum(asked) == 40
    assert max(asked) <= 8


def test_a_model_that_writes_to_its_input_reaches_nobody_elses():
    case = CASES["in-place"]
    model, x = case.model(), case.images(20)  # more rows than a chunk has
    before = x.clone()
    maps = torch.rand(20, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    with judging(model, x, 1) as session:
        for metric in (Deletion(steps=3, value="score"), ROAD(steps=2, value="score"), Infidelity(samples=2)):
            metric.measure(session, maps)
        clean = session.clean("score", "bfloat16")  # asked for by itself, not with the class
    assert torch.equal(x, before)
    assert float((clean - model(before.clone())[:, 1].detach()).abs().max()) < 0.1
    found = Deletion(steps=3, value="score").curve(model, x, maps, 1)
    alone = torch.cat(
        [Deletion(steps=3, value="score").curve(model, x[k : k + 1], maps[k : k + 1], 1) for k in range(20)]
    )
    assert_same(found, alone, 1e-9)
