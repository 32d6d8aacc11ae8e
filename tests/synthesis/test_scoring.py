"""The values of objectives for a batch of views."""

import math

import pytest
import torch

from deepviz.diagnostics import Diagnostics
from deepviz.errors import LayerError
from deepviz.models import LoadedModel, Preprocess
from deepviz.objectives import Function, Output, Predicted
from deepviz.probe.borrow import borrowed
from deepviz.probe.call import Call
from deepviz.probe.grid import as_maps
from deepviz.synthesis import L2, Channel, Diversity, Energy, Logit
from deepviz.synthesis.natural_images import in_deviations
from deepviz.synthesis.scoring import class_of, evaluate_objectives, runs
from networks import CASES, all_scores

SOUND = sorted(set(CASES) - {"odd"})


def looked(case, objectives, size=None, pixels=None):
    net, image = CASES[case].model(), CASES[case].image
    loaded = LoadedModel(net, case, Preprocess(image[1:]), output="binary" if case == "one-logit" else "auto")
    view = torch.rand(len(objectives), 3, *(size or image[1:]), generator=torch.Generator().manual_seed(0)).double()
    with borrowed(net):
        told = evaluate_objectives(
            Call(net, Diagnostics()), loaded, objectives, view, view if pixels is None else pixels
        )
        with torch.no_grad():
            output = all_scores(net(loaded.preprocess.normalise(view))) if size is None else None
    return told.values, told.chances, output, loaded.preprocess.normalise(view)


@pytest.mark.parametrize("case", SOUND)
def test_scores_and_probabilities(case):
    objectives = [Logit(1), Logit(0), Logit(1)]
    values, chances, output, _ = looked(case, objectives)
    rows, classes = [0, 1, 2], [1, 0, 1]
    assert torch.allclose(values, output[rows, classes], rtol=1e-9)
    single = case == "one-logit"
    expected = output.sigmoid() if single else output.softmax(1)
    assert torch.allclose(chances, expected[rows, classes], rtol=1e-9)


def test_mixed_objectives_go_through_together():
    objectives = [Logit(1), Energy("0"), Energy("0"), Channel("2", 3) - Logit(2), -0.5 * L2()]
    values, chances, output, x = looked("plain", objectives)
    net = CASES["plain"].model()
    first, third = net[0](x).detach(), net[:3](x).detach()
    expected = [
        output[0, 1],
        first[1].square().mean(),
        first[2].square().mean(),
        third[3, 3].mean() - output[3, 2],
        -0.5 * in_deviations(Preprocess(12).unnormalise(x))[4].square().sum(),
    ]
    assert torch.allclose(values, torch.stack(expected), rtol=1e-9)
    assert [math.isnan(chance) for chance in chances] == [False, True, True, True, True]


def test_layers_are_read_before_the_model_changes_them_in_place():
    objectives = [Channel("first", 2)]
    values, *_, x = looked("in-place", objectives)
    net = CASES["in-place"].model()
    assert torch.allclose(values, net.first((x - 0.1) * 2)[:, 2].mean((1, 2)), rtol=1e-9)


def test_tokens_are_read_as_maps():
    values, *_, x = looked("vit", [Channel("blocks.0", 5), Channel("blocks.0", 5)])
    net = CASES["vit"].model()
    tokens = torch.cat([net.cls.expand(2, -1, -1), net.patch(x).flatten(2).transpose(1, 2)], 1) + net.position
    assert torch.allclose(values, net.blocks[0](tokens)[:, 1:, 5].mean(1), rtol=1e-9)


def test_the_view_is_resized_to_the_models_input():
    values, *_ = looked("vit", [Logit(1)], size=(30, 25))
    assert values.shape == (1,)
    assert bool(values.isfinite().all())


def test_penalties_are_of_the_image_not_of_the_view():
    pixels = torch.full((1, 3, 7, 7), 0.3, dtype=torch.float64)
    values, *_ = looked("plain", [L2()], pixels=pixels)
    assert torch.allclose(values, in_deviations(pixels).square().sum()[None])


@pytest.mark.parametrize("case", ["dict", "tuple", "object"])
def test_a_layer_that_is_not_called(case):
    net = CASES[case].model()
    net.idle = torch.nn.Conv2d(3, 3, 1)
    loaded, view = LoadedModel(net, case, Preprocess(12)), torch.rand(1, 3, 12, 12).double()
    with pytest.raises(LayerError, match="'idle' is never called"), borrowed(net):
        evaluate_objectives(Call(net, Diagnostics()), loaded, [Energy("idle")], view, view)
    assert not any(module._forward_hooks for module in net.modules())


def test_runs():
    a, b, c = Logit(1), Logit(2), Diversity("0")
    objectives = [a, a, b, c, c, a]
    assert list(runs(objectives)) == [(a, slice(0, 2)), (b, slice(2, 3)), (c, slice(3, 5)), (a, slice(5, 6))]
    assert list(runs(objectives, apart=False)) == [(a, slice(0, 3)), (c, slice(3, 5)), (a, slice(5, 6))]


@pytest.mark.parametrize(
    ("objective", "index"),
    [
        (Logit(3), 3),
        (Logit(3) - 1e-3 * L2(), 3),
        (Logit(3) - Logit(4), 3),
        (Logit(3) + Logit(4), None),
        (-Logit(3), None),
        (Channel("a", 1), None),
    ],
    ids=str,
)
def test_the_class_of_an_objective(objective, index):
    assert class_of(objective) == index


@pytest.mark.parametrize(
    ("kind", "chance"),
    [("multi-label", torch.sigmoid), ("regression", lambda scores: torch.full_like(scores, math.nan))],
)
def test_probabilities_follow_what_the_outputs_are(kind, chance):
    net, image = CASES["plain"].model(), CASES["plain"].image
    loaded = LoadedModel(net, "plain", Preprocess(image[1:]), output=kind)
    view = torch.rand(1, 3, *image[1:], generator=torch.Generator().manual_seed(0)).double()
    with borrowed(net):
        told = evaluate_objectives(Call(net, Diagnostics()), loaded, [Logit(1)], view, view)
    assert torch.allclose(told.chances, chance(told.values.detach()), equal_nan=True)


def test_functions_of_the_raw_output_and_objectives_side_by_side():
    last = Function(lambda output: output[:, -1])
    values, *_, output, _ = looked("plain", [Logit(1), last, last, Output(0), Predicted()])
    expected = torch.stack([output[0, 1], output[1, -1], output[2, -1], output[3, 0], output[4].max()])
    assert torch.allclose(values, expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("shape", "maps"),
    [
        ((2, 8, 3, 4), (2, 8, 3, 4)),
        ((2, 3, 4, 8), (2, 8, 3, 4)),  # channels last
        ((2, 12, 8), (2, 8, 3, 4)),  # tokens
        ((2, 13, 8), (2, 8, 3, 4)),  # with a class token
        ((2, 8), (2, 8, 1, 1)),
    ],
    ids=str,
)
def test_layouts(shape, maps):
    answer = torch.arange(math.prod(shape)).double().reshape(shape)
    found = as_maps("a", answer, (12, 16))
    assert found.shape == maps
    if len(shape) == 3:
        assert torch.equal(found[0, :, 1, 2], answer[0, shape[1] - 12 + 1 * 4 + 2])


@pytest.mark.parametrize("answer", [None, torch.zeros(3), torch.zeros(2, 500, 8)], ids=["none", "vector", "tokens"])
def test_answers_without_channels(answer):
    with pytest.raises(LayerError, match="no channels on a grid"):
        as_maps("a", answer, (12, 16))
