"""LeGrad's own code (legrad-torch): the same map of a CLIP model, of the layers that its `layer_index` names.

The package asks for open-clip-torch 2.23, so it is not among the tests' dependencies; where it is not installed, this
is skipped.
"""

import contextlib
import copy
import io
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from deepviz.methods import LeGrad
from deepviz.models.torchvision_shim import import_torchvision
from networks import assert_same

import_torchvision()
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    legrad = pytest.importorskip("legrad")
    open_clip = pytest.importorskip("open_clip")

VISION = {"image_size": 32, "layers": 3, "width": 32, "patch_size": 8, "head_width": 16}
TEXT = {"context_length": 7, "vocab_size": 50, "width": 32, "heads": 2, "layers": 1}


class Similarities(nn.Module):
    """The cosine of each image and each text."""

    def __init__(self, visual, texts):
        super().__init__()
        self.visual = visual
        self.register_buffer("texts", texts)

    def forward(self, x):
        return F.normalize(self.visual(x), dim=-1) @ self.texts.T


@pytest.mark.filterwarnings("ignore")
def test_the_map_of_a_clip_model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        clip = open_clip.CLIP(16, VISION, TEXT).eval()
        x, texts = torch.randn(1, 3, 32, 32), F.normalize(torch.randn(3, 16), dim=-1)
        for parameter in clip.visual.parameters():  # its class token starts near zero, its biases at zero
            nn.init.normal_(parameter, std=0.3)
    ours = LeGrad()(Similarities(copy.deepcopy(clip.visual), texts), x, 1)
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = legrad.LeWrapper(clip, layer_index=0).compute_legrad(texts[1:2], x)
    # they enlarge the map, and divide it by its range
    ours = F.interpolate(ours, scale_factor=8, mode="bilinear")
    assert_same((ours - ours.min()) / (ours.max() - ours.min()), theirs, 1e-4)
