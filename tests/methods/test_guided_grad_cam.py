import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from by_hand import array, backward, bilinear, forward
from deepviz.errors import DeepVizWarning, NothingOverridden
from deepviz.methods import GradCAM, GuidedBackprop, GuidedGradCAM
from networks import CASES, READABLE, assert_same

pytestmark = pytest.mark.filterwarnings("ignore:.*is all zero")


@given(seed=st.integers(0, 1000), k=st.integers(0, 2))
def test_it_is_guided_backprop_times_the_upsampled_grad_cam_by_hand(seed, k):
    net, x = READABLE.model(seed=seed), READABLE.images(2, seed=seed)
    found = GuidedGradCAM(layer="4")(net, x, k)
    for row in range(2):
        image = array(x[row])
        A, dA = forward(net, image)[5], backward(net, image, k)[5]
        cam = (dA.mean((1, 2), keepdims=True) * A).sum(0).clip(0)
        expected = backward(net, image, k, "guided")[0] * bilinear(cam, 10, 12)
        assert_same(found[row], torch.from_numpy(expected), 1e-12)


@pytest.mark.parametrize("name", CASES)
def test_one_forward_pass_gives_the_product_of_two_separate_maps(name):
    case = CASES[name]
    model, x = case.model(), case.images()
    cam = F.interpolate(GradCAM()(model, x, 1), x.shape[2:], mode="bilinear")
    assert_same(GuidedGradCAM()(model, x, 1), GuidedBackprop()(model, x, 1) * cam, 1e-12)


def test_it_runs_the_model_once():
    model, x = CASES["plain"].model(), CASES["plain"].images()
    GuidedGradCAM(layer="3")(model, x, 0)  # what is found out about the model is found once
    calls = []
    model[0].register_forward_hook(lambda module, inputs, output: calls.append(len(output)))
    GuidedGradCAM(layer="3")(model, x, torch.tensor([[0, 1]] * 3))
    assert calls == [3]


def test_its_notes_tell_of_both_factors():
    notes = GuidedGradCAM().attribute(CASES["plain"].model(), CASES["plain"].images()).notes
    assert notes.facts == {
        "layer": "3",
        "grid": "6 x 6, channels first",
        "overridden": {"ReLU": 2},
        "output": "assumed: one class of 5",
    }


def test_all_negative_evidence_warns():
    model, x = CASES["plain"].model(), CASES["plain"].images(2)
    with torch.no_grad():
        model[6].weight[0] = -1
    with pytest.warns(DeepVizWarning, match="relu=False"):
        assert not GuidedGradCAM(layer="3")(model, x, 0).any()


def test_without_a_rectifier_it_refuses():
    model = CASES["plain"].model()
    model[1] = model[3] = torch.nn.Tanh()
    with pytest.raises(NothingOverridden):
        GuidedGradCAM()(model, CASES["plain"].images())
