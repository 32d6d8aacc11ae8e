"""What is compared, remembered or left out is known by the method with its options and layer, never by a caption."""

import itertools
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

import deepviz
from cases.oracles import found_or_refused, images, said
from deepviz.errors import DeepVizError, DeepVizWarning, LayerError
from deepviz.methods import (
    GradCAM,
    Gradient,
    GuidedBackprop,
    GuidedGradCAM,
    IntegratedGradients,
    Method,
    SmoothGrad,
)
from deepviz.runs.checks import checked
from deepviz.runs.verdicts import recall, remember
from networks import assert_same

pytestmark = pytest.mark.filterwarnings("ignore::deepviz.errors.DeepVizWarning")
X = images(2, 3, 32, 32).float()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def net():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(1568, 5)
        ).eval()  # fmt: skip


@pytest.fixture(scope="module")
def without_rectifier():
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 5)).eval()


GOOD, BAD, OTHER = GradCAM("1"), GradCAM("5"), GradCAM("3")


@pytest.mark.parametrize(
    "order", list(itertools.permutations([GOOD, BAD, OTHER])), ids=lambda o: "-".join(m.layer for m in o)
)
def test_of_two_methods_of_one_name_only_the_one_at_a_bad_layer_is_left_out(net, order):
    found = deepviz.evaluate(net, X, order, "deletion")
    assert found.values.shape == (2, len(order) + 3, 1)
    for row, method in enumerate(order):
        assert np.isnan(found.values[:, row]).all() == (method is BAD)
        if method is not BAD:
            alone = deepviz.evaluate(net, X, method, "deletion", controls=False)
            np.testing.assert_allclose(found.values[:, row], alone.values[:, 0], rtol=1e-6)


@pytest.mark.parametrize("order", [(GOOD, BAD), (BAD, GOOD)], ids=["good first", "bad first"])
def test_of_two_methods_of_one_name_the_verdict_is_of_the_one_that_applies(net, order):
    found = deepviz.sanity_check(net, X, order, stages=1)
    alone = deepviz.sanity_check(net, X, GOOD, stages=1)
    row = order.index(GOOD)
    np.testing.assert_allclose(found.similarities["ssim"][:, row], alone.similarities["ssim"][:, 0], atol=1e-6)
    assert np.isnan(found.similarities["ssim"][:, 1 - row]).all()
    assert len(found.verdicts) == 1


def test_rows_of_one_name_are_told_apart(net):
    methods = [GradCAM("1"), GradCAM("3"), GuidedGradCAM("1"), GuidedGradCAM("3")]
    methods += [SmoothGrad(of=GradCAM("1"), samples=2), SmoothGrad(of=GradCAM("3"), samples=2)]
    found = deepviz.evaluate(net, X, methods, deepviz.metrics.Deletion(steps=2), controls=False)
    assert len(set(found.rows)) == 6
    for row, method in zip(found.rows, methods, strict=True):
        assert ("1" if "'1'" in repr(method) else "3") in row


def test_each_layer_has_a_verdict_of_its_own(net):
    methods = [GradCAM("1", relu=False), GradCAM("3", relu=False)]
    both = deepviz.sanity_check(net, X, methods, stages=2)
    assert len(both.verdicts) == len(both.summary) == len(both.methods) == 2
    for row, method in enumerate(methods):
        (alone,) = deepviz.sanity_check(net, X, method, stages=2).summary.values()
        assert list(both.summary.values())[row] == pytest.approx(alone)


def test_a_remembered_verdict_is_shown_beside_its_own_layer_alone(net):
    loaded = deepviz.load_model(net)
    first, third = (deepviz.sanity_check(net, X, GradCAM(n, relu=False), stages=2) for n in ("1", "3"))
    (of_first,), (of_third,) = first.summary.values(), third.summary.values()
    assert of_first["half"] != pytest.approx(of_third["half"], abs=1e-3)
    remember(first)

    def kept(method):
        (explanation,) = deepviz.explain(loaded, X[0], method)
        (one,) = checked(loaded, loaded.prepare(X[0]), [explanation])
        return one.notes["checks"]["kept"]

    assert kept(GradCAM("1", relu=False))["half"]["mean"] == pytest.approx(of_first["half"], abs=1e-4)
    assert kept(GradCAM("1", relu=False))["images"] == 2
    assert kept(GradCAM("3", relu=False))["images"] == 1  # found here, on this image
    assert kept(GradCAM("3", relu=False))["half"]["mean"] != pytest.approx(of_first["half"], abs=1e-3)
    remember(third)
    assert kept(GradCAM("3", relu=False))["half"]["mean"] == pytest.approx(of_third["half"], abs=1e-4)
    assert kept(GradCAM("1", relu=False))["half"]["mean"] == pytest.approx(of_first["half"], abs=1e-4)


def test_verdicts_are_by_all_options_and_not_by_their_caption(net):
    methods = [SmoothGrad(samples=2), SmoothGrad(samples=2, seed=1), SmoothGrad(samples=2, noise=0.5)]
    methods += [IntegratedGradients(steps=2, baseline=torch.full((3, 1, 1), value)) for value in (0.0, 1.0)]
    found = deepviz.sanity_check(net, X[:1], methods, stages=2)
    assert len(found.verdicts) == 5
    remember(found)
    assert len(recall(found.key)) == 5


def test_a_layer_given_as_a_module_is_that_layer_by_name(net):
    (by_module,) = deepviz.explain(net, X[0], GradCAM(net[3]), target=1)
    (by_name,) = deepviz.explain(net, X[0], GradCAM("3"), target=1)
    assert by_module.layer == by_name.layer == "3"
    assert torch.equal(by_module.attribution, by_name.attribution)
    assert "ReLU()" not in str(by_module.metadata()["method"])
    assert by_module.metadata()["method"] == by_name.metadata()["method"]
    (said_once,) = deepviz.explain(net, X[0], "grad-cam", layer=net[3], target=1)
    assert said_once.layer == "3"
    assert torch.equal(said_once.attribution, by_name.attribution)


def test_a_layer_given_as_a_module_is_kept_in_files(net, tmp_path):
    found = deepviz.explain(net, X[0], [GradCAM(net[3]), SmoothGrad(of=GradCAM(net[1]), samples=2)], target=1)
    for number, one in enumerate(found):
        one.save(tmp_path / f"{number}.npz")
        one.save(tmp_path / f"{number}.safetensors")
    deepviz.save_explanations(found, tmp_path / "all.deepviz")
    back = deepviz.load_explanations(tmp_path / "all.deepviz")
    assert [one.layer for one in back] == ["3", "1"]
    assert back[0].method == GradCAM("3")
    assert back[1].method == SmoothGrad(of=GradCAM("1"), samples=2)
    assert_same(back[0].method(net, X[:1], 1)[0], found[0].attribution, 1e-6)


def test_a_layer_given_as_a_module_is_judged_and_randomised_by_name(net):
    by_module = deepviz.evaluate(net, X, GradCAM(net[3]), deepviz.metrics.Deletion(steps=2), controls=False)
    by_name = deepviz.evaluate(net, X, GradCAM("3"), deepviz.metrics.Deletion(steps=2), controls=False)
    assert by_module.rows == by_name.rows
    np.testing.assert_array_equal(by_module.values, by_name.values)
    found = deepviz.sanity_check(net, X, GradCAM(net[3], relu=False), stages=2)
    expected = deepviz.sanity_check(net, X, GradCAM("3", relu=False), stages=2)
    assert found.summary == expected.summary


def test_a_module_of_another_network_is_refused(net):
    with pytest.raises(LayerError, match="not part"):
        deepviz.explain(net, X[0], GradCAM(nn.ReLU()))


def test_tiles_of_two_layers_say_which_they_are(net):
    found = deepviz.explain(net, X[0], [GradCAM("1"), GradCAM("3")], target=1)
    tiles = [f"{tile.caption} {tile.detail}" for tile in (one.tile() for one in found)]
    assert len(set(tiles)) == 2
    assert "1" in tiles[0]
    assert "3" in tiles[1]


def test_values_with_tensors_compare_and_hash_by_content():
    for shape in ((3, 1, 1), (3, 2, 2), ()):
        one, same, other = (
            IntegratedGradients(baseline=torch.full(shape, float(value)) if shape else float(value))
            for value in (0, 0, 1)
        )
        assert one == same
        assert hash(one) == hash(same)
        assert one != other
        assert len({one, same, other}) == 2
    assert SmoothGrad(of=one) == SmoothGrad(of=same)
    assert hash(SmoothGrad(of=one)) == hash(SmoothGrad(of=same))
    inside = SmoothGrad(of=IntegratedGradients(baseline=torch.zeros(3, 1, 1)), samples=2)
    assert "tensor" in str(inside).lower() or "baseline" in str(inside)
    assert str(inside) != str(SmoothGrad(of=IntegratedGradients(baseline=torch.ones(3, 1, 1)), samples=2))
    assert IntegratedGradients(baseline=torch.zeros(3, 1, 1)) != IntegratedGradients(baseline=torch.zeros(3, 2, 2))


def test_a_metric_with_a_tensor_compares_and_hashes_by_content():
    one, same, other = (deepviz.metrics.Deletion(baseline=torch.full((3, 1, 1), value)) for value in (0.0, 0.0, 1.0))
    assert one == same
    assert hash(one) == hash(same)
    assert one != other


def test_a_metric_s_tensor_is_not_confused_with_another_of_the_same_shape(net):
    metrics = [deepviz.metrics.Deletion(steps=2, baseline=torch.full((3, 1, 1), value)) for value in (0.0, 2.0)]
    both = deepviz.evaluate(net, X, "gradient", metrics, controls=False, target=1)
    for column, metric in enumerate(metrics):
        alone = deepviz.evaluate(net, X, "gradient", metric, controls=False, target=1)
        np.testing.assert_allclose(both.values[..., column], alone.values[..., 0], rtol=1e-6)
    assert both.values[0, 0, 0] != both.values[0, 0, 1]


class Odd(nn.Module):
    """Two branches; the late one is silent on dark images."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        h = torch.relu(self.a(x))
        return self.head((h + torch.relu(self.b(h))).mean((2, 3)))


def silent_in_the_dark():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Odd().eval()
    with torch.no_grad():
        net.a.weight.abs_()
        net.a.bias.zero_()
        net.b.weight.abs_()
        net.b.bias.fill_(-0.5)
    return net


DARK, LIGHT = torch.full((1, 3, 8, 8), 1e-3), images(1, 3, 8, 8).float().abs() + 1
SIGNED = GradCAM(relu=False)


def layer_of(net, x, method=SIGNED):
    return method.attribute(net, x, 1).notes.facts["layer"]


def test_the_layer_does_not_depend_on_which_image_came_first():
    alone = layer_of(silent_in_the_dark(), LIGHT)
    net = silent_in_the_dark()
    assert layer_of(net, DARK) == alone
    assert layer_of(net, LIGHT) == alone
    for batch in (torch.cat([DARK, LIGHT]), torch.cat([LIGHT, DARK])):
        assert layer_of(silent_in_the_dark(), batch) == alone


def test_a_row_s_map_does_not_depend_on_the_others():
    alone = SIGNED(silent_in_the_dark(), LIGHT, 1)
    assert_same(SIGNED(silent_in_the_dark(), torch.cat([DARK, LIGHT]), 1)[1:], alone, 1e-5)
    assert_same(SIGNED(silent_in_the_dark(), torch.cat([LIGHT, DARK]), 1)[:1], alone, 1e-5)


def test_explain_chooses_one_layer_for_all_images():
    found = deepviz.explain(silent_in_the_dark(), torch.cat([DARK, LIGHT]), [SIGNED], target=1)
    alone = deepviz.explain(silent_in_the_dark(), LIGHT, [SIGNED], target=1)
    assert {one.layer for one in (*found, *alone)} == {alone[0].layer}


def test_the_layer_does_not_depend_on_an_earlier_state_of_the_weights():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
            self.head = nn.Linear(4, 3)

        def forward(self, x):
            h = self.a(x)
            return self.head(h.mean((2, 3)) + torch.relu(self.b(h)).mean((2, 3)))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net, fresh = Branches().eval(), Branches().eval()
    x = X[:, :, :12, :12]
    with torch.no_grad():
        net.b.weight.fill_(0)
        net.b.bias.fill_(-1.0)
    GradCAM().attribute(net, x)
    with torch.no_grad():
        net.b.weight.copy_(fresh.b.weight)
        net.b.bias.fill_(1.0)
    fresh.load_state_dict(net.state_dict())
    assert layer_of(net, x) == layer_of(fresh, x)


def test_new_weights_by_data_or_by_exchange_are_a_new_state():
    net, x = silent_in_the_dark(), LIGHT
    first = layer_of(net, x)
    net.b = nn.Conv2d(4, 4, 3, padding=1)
    fresh = silent_in_the_dark()
    fresh.load_state_dict(net.state_dict())
    assert layer_of(net, x) == layer_of(fresh, x)
    net.load_state_dict(silent_in_the_dark().state_dict())
    assert layer_of(net, x) == first


@dataclass(frozen=True)
class Sister(Method):
    """A stranger's method whose caption is that of another."""

    share: Annotated[float, "How much."] = 1.0
    title: ClassVar[str] = "Gradient"

    def maps(self, session, *more):
        found = Gradient().maps(session, *more)
        return found.map(lambda g: self.share * g.flip(-1)) if hasattr(found, "map") else self.share * found.flip(-1)


def test_a_stranger_s_method_of_the_same_caption_is_another_row(net):
    methods = [Gradient(), Sister(), Sister(2.0)]
    found = deepviz.evaluate(net, X, methods, deepviz.metrics.Deletion(steps=2), controls=False, target=1)
    assert found.values.shape[1] == 3
    for row, method in enumerate(methods):
        alone = deepviz.evaluate(net, X, method, deepviz.metrics.Deletion(steps=2), controls=False, target=1)
        np.testing.assert_allclose(found.values[:, row], alone.values[:, 0], rtol=1e-6)
    kept = deepviz.sanity_check(net, X[:1], methods, stages=1, target=1)
    assert kept.similarities["ssim"].shape[1] == 3
    assert len(kept.verdicts) == 3


def test_two_callables_of_one_name_are_two_targets(net):
    def score(output):
        return output[:, 0]

    first = score

    def score(output):
        return output[:, 1]

    found = deepviz.explain(net, X[0], "gradient", target=[first, score])
    assert_same(found[0].attribution, Gradient()(net, X[:1], 0)[0], 1e-6)
    assert_same(found[1].attribution, Gradient()(net, X[:1], 1)[0], 1e-6)
    assert found[0].target != found[1].target
    deepviz.sheet(found)


def test_all_goes_on_without_a_method_that_does_not_apply_and_says_why(without_rectifier):
    with pytest.warns(DeepVizWarning) as warned:
        found = deepviz.explain(without_rectifier, X[0], "all")
    kinds = {type(one.method) for one in found}
    assert Gradient in kinds
    assert not kinds & {GuidedBackprop, GradCAM, GuidedGradCAM}
    told = " ".join(str(one.message) for one in warned)
    assert "rectifier" in told
    assert "spatial map" in told


def test_a_stranger_s_method_that_fails_does_not_stop_the_others_of_all(net, monkeypatch):
    @dataclass(frozen=True)
    class Broken(Method):
        """Fails."""

        title: ClassVar[str] = "Broken"

        def maps(self, *_):
            raise ZeroDivisionError("a stranger's bug")

    monkeypatch.setitem(deepviz.catalog.METHODS, "broken", Broken)
    monkeypatch.setattr(Broken, "in_default_set", True, raising=False)
    with pytest.warns(DeepVizWarning, match="stranger's bug"):
        found = deepviz.explain(net, X[0], "all")
    assert Gradient in {type(one.method) for one in found}


def only_refused_in_words(call):
    """What `call` gives; a DeepVizError or ValueError will do as well, anything else is a bug."""
    found, refusal = found_or_refused(call, (DeepVizError, ValueError))
    assert refusal is None or "rectifier" in str(refusal) or "applies" in str(refusal)
    return found


def test_an_evaluation_of_methods_that_all_do_not_apply_says_so(without_rectifier):
    call = lambda: deepviz.evaluate(without_rectifier, X, "guided-backprop", "deletion", controls=False)  # noqa: E731
    found = only_refused_in_words(call)
    if found is not None:
        assert found.values.shape == (2, 1, 1)
        assert np.isnan(found.values).all()
        assert "rectifier" in str([one.left_out for one in found.judged])


def test_a_randomisation_test_of_methods_that_all_do_not_apply_says_so(without_rectifier):
    found = only_refused_in_words(lambda: deepviz.sanity_check(without_rectifier, X, "guided-backprop"))
    if found is not None:
        assert found.verdicts == {} or all("rectifier" in text for text in found.verdicts.values())
        str(found), found.as_json()


def test_the_method_asked_for_alone_that_does_not_apply_is_an_error(without_rectifier):
    with pytest.raises(DeepVizError, match="rectifier"):
        deepviz.explain(without_rectifier, X[0], "guided-backprop")


def test_notes_of_one_call_are_not_those_of_another(net):
    first = GradCAM("1").attribute(net, X, 1)
    second = GradCAM("3").attribute(net, X, 1)
    assert first.notes.facts["layer"] == "1"
    assert second.notes.facts["layer"] == "3"
    assert "1" in said(first.notes)
