import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from deepviz.methods import MeaningfulPerturbation
from deepviz.methods.gradients.meaningful_perturbation import RADII
from deepviz.probe.reference import blurred, reference
from deepviz.probe.seeds import generator_of
from networks import READABLE, Case, assert_same

STEPS = 4


def enlarged(mask, image):
    return blurred(F.interpolate(mask, image.shape[2:], mode="bilinear"), 5 / 224 * min(image.shape[2:]))


def by_hand(net, image, target, method):
    """One image (1, C, H, W): torch's own Adam on equation 5, from the first disk that takes 99 % away."""
    start = reference(image, method.baseline)

    def chance(mask, moved=(0, 0)):
        shown = (image * enlarged(mask, image) + start * (1 - enlarged(mask, image))).roll(moved, (2, 3))
        return net(shown).softmax(1)[0, target]

    centres = [(2 * (torch.arange(method.cells) + 0.5) / method.cells - 1).tolist()] * 2
    longest = max(math.hypot(v, u) for v in centres[0] for u in centres[1])
    for number in range(RADII):
        radius = 1.01 * longest * number / (RADII - 1)
        disk = torch.tensor([[float(math.hypot(v, u) >= radius) for u in centres[1]] for v in centres[0]]).to(image)
        mask = disk[None, None]
        everything = torch.zeros_like(mask)
        none = chance(everything)
        if (chance(mask) - none) / (chance(everything + 1) - none) <= 0.01:
            break
    mask = mask.clone().requires_grad_()
    adam = torch.optim.Adam([mask], lr=method.rate)
    for step in range(1, method.steps + 1):
        most = round(4 / 224 * min(image.shape[2:]))
        moved = torch.randint(-most, most + 1, (2,), generator=generator_of(method.seed, step)).tolist()
        rough = sum((mask.diff(dim=axis).abs() ** method.power).sum() for axis in (2, 3))
        loss = method.sparsity * (1 - mask).sum() + method.smoothness * rough + chance(mask, moved)
        adam.zero_grad()
        loss.backward()
        adam.step()
        with torch.no_grad():
            mask.clamp_(0, 1)
    return 1 - enlarged(mask.detach(), image)


def test_it_is_adam_on_equation_5():
    net, x = READABLE.model(), READABLE.images(2)
    method = MeaningfulPerturbation(steps=STEPS, cells=5, sparsity=0.01, smoothness=0.1, seed=3)
    found = method(net, x, 1)
    for row in range(2):
        assert_same(found[row : row + 1], by_hand(net, x[row : row + 1], 1, method), 1e-9)


class Corner(nn.Module):
    """Class 1 is the mean of the upper left quarter, and nothing else."""

    def forward(self, x):
        seen = x[:, :, : x.shape[2] // 2, : x.shape[3] // 2].mean((1, 2, 3))
        return torch.stack([torch.zeros_like(seen), 8 * seen], 1)


def test_what_is_removed_is_what_the_class_rests_on():
    x = torch.ones(1, 1, 32, 32, dtype=torch.float64)
    method = MeaningfulPerturbation(steps=150, cells=8, sparsity=3e-3, smoothness=0, baseline=0.0)
    (R,) = method(Corner(), x, 1)[0]
    assert float(R[2:12, 2:12].min()) > 0.9
    assert float(R[20:, 20:].max()) < 0.05


def test_a_high_penalty_removes_nothing_and_says_so():
    x = torch.ones(1, 1, 32, 32, dtype=torch.float64)
    method = MeaningfulPerturbation(steps=60, cells=8, sparsity=10.0, baseline=0.0)
    with pytest.warns(UserWarning, match="removes nothing"):
        assert not method(Corner(), x, 1).any()


def test_signals_and_volumes():
    signals = Case(lambda: nn.Sequential(nn.Conv1d(2, 3, 3), nn.Flatten(), nn.Linear(90, 4)), (2, 32))
    volumes = Case(lambda: nn.Sequential(nn.Conv3d(1, 2, 3), nn.Flatten(), nn.Linear(2 * 6 * 8 * 8, 4)), (1, 8, 10, 10))
    for case in (signals, volumes):
        R = MeaningfulPerturbation(steps=3, cells=4)(case.model(), case.images(2), 1)
        assert R.shape == (2, 1, *case.images(1).shape[2:])
        assert float(R.min()) >= 0
        assert float(R.max()) <= 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_mask_of_half_precision_is_optimised_in_full(dtype):
    """Adam's epsilon is zero in float16, and so are the squares of small gradients."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(16 * 16, 2))
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].weight[1].view(16, 16)[:8, :8] = 0.125
        model[1].bias.zero_()
    x = torch.ones(1, 1, 16, 16)
    method = MeaningfulPerturbation(cells=8, steps=40, sparsity=1e-3, baseline=0.0)
    exact = method(model, x, 1)
    found = method.attribute(model.to(dtype), x.to(dtype), 1).maps
    assert float(exact.max()) > 0.3
    assert float((found - exact).norm()) < 0.1 * float(exact.norm())
