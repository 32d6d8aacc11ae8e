import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from by_hand import array, backward
from deepviz.errors import DeepVizWarning, ModelError
from deepviz.methods import Gradient
from networks import CASES, READABLE, Case, assert_same


@given(seed=st.integers(0, 1000), k=st.integers(0, 2))
def test_the_gradient_is_a_backward_pass_by_hand(seed, k):
    net, x = READABLE.model(seed=seed), READABLE.images(2, seed=seed)
    found = Gradient()(net, x, k)
    for row in range(2):
        assert_same(found[row], torch.from_numpy(backward(net, array(x[row]), k)[0]), 1e-12)


def test_the_gradient_is_the_slope_of_the_score():
    net, x = READABLE.model().requires_grad_(False), READABLE.images(1)
    found = Gradient()(net, x, 1)
    step = 1e-6
    for place in [(0, 0, 0, 0), (0, 1, 4, 7), (0, 0, 9, 11)]:
        e = torch.zeros_like(x)
        e[place] = step
        slope = float(net(x + e)[0, 1] - net(x - e)[0, 1]) / (2 * step)
        assert abs(slope - float(found[place])) < 1e-8


def test_of_a_linear_model_it_is_the_weights():
    model = Case(lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 5, 7))).model()
    found = Gradient()(model, torch.randn(2, 3, 4, 5, dtype=torch.float64), torch.tensor([6, 2]))
    assert torch.equal(found.flatten(1), model[1].weight[[6, 2]])


def test_of_a_single_logit_one_is_z_zero_is_minus_z_and_the_default_the_predicted_sign():
    case = CASES["one-logit"]
    model, x = case.model(), case.images(8)
    with torch.no_grad():
        model[-1].bias -= model(x).mean()  # so that both signs occur
        z = model(x).squeeze(1)
    assert (z > 0).any()
    assert (z < 0).any()
    up = Gradient()(model, x, 1)
    assert_same(Gradient()(model, x, lambda output: output[:, 0]), up)
    assert torch.equal(Gradient()(model, x, 0), -up)
    result = Gradient().attribute(model, x)
    assert torch.equal(result.maps, torch.where((z > 0).view(-1, 1, 1, 1), up, -up))
    assert torch.equal(result.classes, (z > 0).long())
    flat = nn.Sequential(model, nn.Flatten(0))  # (N,) instead of (N, 1)
    assert_same(Gradient()(flat, x, 1, output="binary"), up)


def test_probabilities_instead_of_logits_are_noticed():
    x = CASES["plain"].images()
    with pytest.warns(DeepVizWarning, match="softmax"):
        Gradient()(nn.Sequential(CASES["plain"].model(), nn.Softmax(1)), x)
    with pytest.warns(DeepVizWarning, match="sigmoid"):
        Gradient()(nn.Sequential(CASES["one-logit"].model(), nn.Sigmoid()), x, output="binary")


def test_a_score_without_a_gradient_warns():
    model, x = CASES["plain"].model(), CASES["plain"].images(2)
    with torch.no_grad():
        model[-1].weight[3] = 0
    with pytest.warns(DeepVizWarning, match="all zero"):
        found = Gradient().attribute(model, x, torch.tensor([3, 2]))
    assert not found.maps[0].any()
    assert found.maps[1].any()
    assert "warnings" in found.notes.of(0)
    assert "warnings" not in found.notes.of(1)


def test_a_broken_graph_is_an_error_that_names_the_module():
    class Rounds(nn.Module):
        def forward(self, x):
            return x.detach().round()

    first, *rest = CASES["plain"].model()
    model = nn.Sequential(first, Rounds(), *rest)
    with pytest.raises(ModelError, match="1 returns a result without a gradient"):
        Gradient()(model, CASES["plain"].images())


def test_an_infinite_gradient_of_a_finite_score_is_an_error():
    class Root(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :2].abs().sqrt()

    with pytest.raises(ModelError, match="NaN or infinity though the scores are finite"):
        Gradient()(Root(), torch.zeros(1, 3, 4, 4), 0)


def test_nan_scores_from_finite_parameters_are_an_error():
    class Divides(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :2] / 0

    with pytest.raises(ModelError):
        Gradient()(Divides(), torch.zeros(1, 3, 4, 4), 0)


def test_a_model_without_class_scores_is_an_error_that_lists_what_it_returns():
    class Boxes(nn.Module):
        def forward(self, x):
            return {"boxes": x.flatten(2), "count": 3}

    with pytest.raises(ModelError, match=r"boxes: \(3, 3, 144\), count: int"):
        Gradient()(Boxes(), CASES["plain"].images())
    found = Gradient()(Boxes(), CASES["plain"].images(), lambda output: output["boxes"].sum((1, 2)))
    assert torch.equal(found, torch.ones_like(found))
