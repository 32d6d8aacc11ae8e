import itertools
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import deepviz
from by_hand import array, bilinear, forward
from deepviz.diagnostics import ERROR
from deepviz.errors import DeepVizWarning
from deepviz.methods import RISE
from deepviz.probe.seeds import generator_of
from networks import READABLE, assert_same
from perturbation_by_hand import CURVED, coverage, curved, repeats
from small_models import detector

# of few passes on random weights
pytestmark = pytest.mark.filterwarnings("ignore:the standard error of")


def mask_by_hand(seed, number, cells, keep, H, W):
    """The authors' code (github.com/eclique/RISE, generate_masks): a grid of s x s, enlarged to s + 1 cells of
    ceil(side / s) pixels, cropped at a random place of the first cell."""
    generator = generator_of(seed, number)
    grid = (torch.rand(cells, cells, generator=generator) < keep).double().numpy()
    ch, cw = math.ceil(H / cells), math.ceil(W / cells)
    top, left = int(torch.randint(ch, (), generator=generator)), int(torch.randint(cw, (), generator=generator))
    return bilinear(grid, (cells + 1) * ch, (cells + 1) * cw)[top : top + H, left : left + W]


@pytest.mark.parametrize("value", ["probability", "score"])
@pytest.mark.parametrize("centred", [True, False])
def test_it_is_the_sum_of_the_paper_or_the_mean_and_the_covariance(value, centred):
    net, x = READABLE.model(), READABLE.images(2)
    found = RISE(cells=3, keep=0.4, max_passes=70, value=value, seed=5, centred=centred)(net, x, 1)
    masks = np.array([mask_by_hand(5, number, 3, 0.4, 10, 12) for number in range(70)])
    for row in range(2):
        z = np.array([forward(net, array(x[row]) * M)[-1] for M in masks])
        f = np.exp(z[:, 1]) / np.exp(z).sum(1) if value == "probability" else z[:, 1]
        S = sum(one * M for one, M in zip(f, masks, strict=True)) / 70 / 0.4  # equation 6
        if centred:
            S = np.array([[np.cov(f, masks[:, v, u])[0, 1] for u in range(12)] for v in range(10)]) / 0.4 + f.mean()
        assert_same(found[row, 0], torch.from_numpy(S), 1e-6)  # masks are held in float32


def all_masks():
    """Of a signal of 8 places in 2 cells: 4 grids, 4 shifts, alike in probability."""
    found = []
    for grid in itertools.product((0.0, 1.0), repeat=2):
        wide = bilinear(np.array([grid]), 1, 12)[0]
        found += [wide[shift : shift + 8] for shift in range(4)]
    return torch.from_numpy(np.array(found))


def test_masks_keep_as_much_as_is_asked_for():
    M = RISE(cells=2, keep=0.3).masks(range(20000), (8,))
    assert M.shape == (20000, 1, 8)
    assert float(M.min()) == 0
    assert float(M.max()) == 1
    assert torch.allclose(M.mean(0), torch.tensor(0.3).double(), atol=4 * 0.46 / 20000**0.5)


def expectation():
    model, x = curved()
    M = all_masks()
    f = torch.stack([model(x * m)[0, 1].detach() for m in M])
    return (f[:, None] * M / 0.5).mean(0)


@pytest.mark.parametrize("centred", [True, False])
def test_standard_errors_hold_the_expectation(centred):
    method = RISE(cells=2, max_passes=200, value="score", centred=centred)
    assert 0.92 <= coverage(method, expectation()) <= 0.99


def test_where_f_has_a_level_the_mean_and_the_covariance_need_far_fewer_masks():
    def said(scores):
        return 10 + scores[:, 1]

    model, x = curved()
    errors = {
        centred: RISE(cells=2, max_passes=500, value="score", centred=centred)
        .attribute(model, x, said)
        .notes.maps[ERROR]
        .mean()
        for centred in (True, False)
    }
    assert float(errors[False] / errors[True]) > 5  # as 25 times as many masks


def test_many_masks_come_to_the_expectation():
    model, x = curved()
    found = RISE(cells=2, max_passes=20000, value="score").attribute(model, x, 1)
    errors = found.notes.maps[ERROR].flatten()
    assert (found.maps.flatten() - expectation()).abs().max() < 4.5 * errors.max()
    fewer = RISE(cells=2, max_passes=5000, value="score").attribute(model, x, 1)
    assert float((fewer.notes.maps[ERROR].flatten() / errors).mean()) == pytest.approx(2, rel=0.05)


@pytest.mark.filterwarnings("ignore:RISE says nothing")
def test_a_model_that_looks_nowhere_gives_an_even_map():
    class Constant(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :2] * 0 + x.new_tensor([0, math.log(3)])

    found = RISE(cells=2, max_passes=500)(Constant(), CURVED.images(1), 1)
    assert torch.allclose(found, torch.tensor(0.75, dtype=torch.float64), atol=1e-12)
    summed = RISE(cells=2, max_passes=8000, centred=False).attribute(Constant(), CURVED.images(1), 1)
    assert torch.allclose(summed.maps, torch.tensor(0.75, dtype=torch.float64), atol=0.05)  # p E[M] / keep
    assert float(summed.notes.rows["standard error"]) > 0.3  # nothing but noise beside the level


def test_what_is_masked_gives_way_to_the_baseline():
    model, x = curved()
    M = RISE(cells=2, max_passes=40, value="score").masks(range(40), (8,))
    f = model(x * M + 0.7 * (1 - M))[:, 1].detach()
    found = RISE(cells=2, max_passes=40, value="score", baseline=0.7, centred=False)(model, x, 1)
    assert_same(found[0], (f[:, None, None] * M / 0.5).mean(0), 1e-9)


def test_it_repeats():
    repeats(RISE(cells=3, max_passes=100))


def test_more_cells_than_pixels_and_a_volume():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 5, 2)).double()
    x = torch.rand(1, 1, 3, 4, 5, dtype=torch.float64)
    assert RISE(cells=9, max_passes=20)(model, x, 1).shape == (1, 1, 3, 4, 5)


def test_of_a_detection_it_is_highest_in_its_box():
    """D-RISE: the same, of what a detector says of one box."""
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[8:16, 16:24], pixels[20:28, 4:12] = (255, 0, 0), (0, 0, 255)
    # though its probability stands in the caption
    with pytest.warns(DeepVizWarning, match="its score is measured, not a probability"):
        (found,) = deepviz.explain(detector(), Image.fromarray(pixels), RISE(cells=4, max_passes=600))
    assert found.target.label == "red square"
    v, u = divmod(int(found.attribution.argmax()), 32)
    left, top, right, bottom = found.target.box
    assert left <= u < right
    assert top <= v < bottom
