"""What a method that draws at random says of how sure its map is."""

import pytest
import torch
from torch import nn

import deepviz
from deepviz.errors import DeepVizWarning
from deepviz.methods import RISE, XRAI, SmoothGrad


class Corner(nn.Module):
    """Two classes, of which the second is likely as far as the upper left corner is bright."""

    def forward(self, x):
        bright = 20 * x[:, :, :8, :8].mean((1, 2, 3)) - 5
        return torch.stack([torch.zeros_like(bright), bright], 1)


def test_a_map_that_is_mostly_noise_is_warned_of_and_others_are_not():
    # the model says nearly the same to every masked dark image: what varies in the sum is how often a pixel was kept
    x = torch.stack([torch.ones(1, 32, 32), torch.full((1, 32, 32), 1e-3)])
    with pytest.warns(
        DeepVizWarning, match=r"the standard error of RISE is more than 70% of the map.*max_passes.*cell"
    ):
        found = RISE(cells=4, max_passes=2048, centred=False).attribute(Corner(), x, 1)
    errors = found.notes.rows["standard error"]
    assert errors[0] < 0.3 < 0.8 < errors[1]
    assert "warnings" not in found.notes.of(0)
    assert len(found.notes.of(1)["warnings"]) == 1


def test_each_class_of_an_image_is_warned_of_by_itself():
    """A class is noise to a model that hardly looks; another is not."""
    x = torch.ones(1, 1, 32, 32)
    targets = [lambda said: said[:, 1].sigmoid(), lambda said: 1 + 1e-3 * said[:, 1]]
    with pytest.warns(DeepVizWarning, match="half of which is noise"):
        found = RISE(cells=4, max_passes=2048, value="score", centred=False).attribute(Corner(), x, targets)
    assert "warnings" not in found.notes.of((0, 0))
    assert "warnings" in found.notes.of((0, 1))


def test_who_gave_a_tolerance_is_told_of_that_alone():
    with pytest.warns(DeepVizWarning) as said:
        RISE(cells=4, max_passes=128, tolerance=0.01)(Corner(), torch.ones(1, 1, 32, 32), 1)
    assert len(said) == 1
    assert "more than the tolerance of 1%" in str(said[0].message)


@pytest.mark.filterwarnings("ignore:the standard error of")
def test_a_mean_of_maps_is_as_uncertain_as_the_masks_that_all_of_them_share():
    """Noise averages out over samples; the masks, which are the same for every sample, do not."""
    x = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0)) + 1
    of = RISE(cells=4, max_passes=64)
    alone = float(of.attribute(Corner(), x, 1).notes.rows["standard error"])
    found = SmoothGrad(of=of, samples=3, noise=1e-6).attribute(Corner(), x, 1)
    assert float(found.notes.rows["standard error"]) == pytest.approx(alone, rel=1e-2)


@pytest.mark.filterwarnings("ignore:the standard error of")
def test_means_over_regions_have_not_the_errors_of_pixels():
    x = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    (found,) = deepviz.explain(Corner(), x, XRAI(of=RISE(cells=4, max_passes=64)), target=1)
    assert found.standard_error is None
    assert (found.sureness, found.notes.get("standard error")) == ("", None)
