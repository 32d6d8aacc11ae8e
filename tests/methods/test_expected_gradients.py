import numpy as np
import pytest
import torch
from torch import nn

from by_hand import array, backward
from deepviz.inputs import Leaves
from deepviz.methods import ExpectedGradients
from networks import READABLE, Case, assert_same


def draw_by_hand(sample, seed, shape, baselines):
    """a and the baseline of one sample, or the unit noise that it is made of, written out again."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + sample)
    a = float(torch.rand((), generator=generator, dtype=torch.float64))
    chosen = baselines[int(torch.randint(len(baselines), (), generator=generator))]
    if chosen == "uniform-noise":
        return a, chosen, torch.rand(shape, generator=generator, dtype=torch.float64).numpy()
    if chosen == "gaussian-noise":
        return a, chosen, torch.randn(shape, generator=generator, dtype=torch.float64).numpy()
    return a, chosen, None


@pytest.mark.parametrize(
    "baselines", [("uniform-noise",), ("gaussian-noise",), (0.0, -0.7), (0.3, "uniform-noise")], ids=str
)
def test_it_is_the_slow_mean_over_the_samples(baselines):
    net, x = READABLE.model(), READABLE.images(2)
    found = ExpectedGradients(baselines=baselines, samples=9, seed=4).attribute(net, x, 1)
    for row in range(2):
        image, each = array(x[row]), []
        for sample in range(9):
            a, chosen, unit = draw_by_hand(sample, 4, x.shape[1:], baselines)
            if chosen == "uniform-noise":
                low, high = image.min((1, 2), keepdims=True), image.max((1, 2), keepdims=True)
                start = low + (high - low) * unit
            elif chosen == "gaussian-noise":
                start = image.mean((1, 2), keepdims=True) + image.std((1, 2), keepdims=True) * unit
            else:
                start = np.full(x.shape[1:], chosen)
            each.append((image - start) * backward(net, start + a * (image - start), 1)[0])
        mean = np.mean(each, 0)
        assert_same(found.maps[row], torch.from_numpy(mean), 1e-11)
        error = np.sqrt(np.var(each, 0, ddof=1).sum() / 9) / np.sqrt((mean**2).sum())
        assert float(found.notes.rows["standard error"][row]) == pytest.approx(error, rel=1e-9)


def linear():
    case = Case(lambda: nn.Sequential(nn.Flatten(), nn.Linear(24, 4)), (2, 3, 4))
    return case.model(), case.images(2)


def test_on_a_linear_network_the_values_sum_to_the_score_less_the_mean_score_of_the_baselines_drawn():
    model, x = linear()
    others = Case(lambda: None, (2, 3, 4)).images(5, seed=9)
    method = ExpectedGradients(baselines=list(others), samples=12)
    mean = torch.stack([model(start) for (start,) in method.starts(Leaves((x,)))]).mean(0)
    assert_same(method(model, x, 2).sum((1, 2, 3)), (model(x) - mean)[:, 2].detach(), 1e-10)
    w = model[1].weight[2].view(2, 3, 4).detach()
    assert_same(ExpectedGradients(baselines=(0.25,), samples=2)(model, x, 2), (x - 0.25) * w, 1e-12)


def test_of_a_cubic_score_the_mean_comes_within_its_standard_error_of_the_integral():
    """S = sum x^3 / 3 has the gradient x^2, and from zero R = x int (a x)^2 da = x^3 / 3."""

    class Cubic(nn.Module):
        def forward(self, x):
            return (x.flatten(1) ** 3 / 3).sum(1, keepdim=True).expand(-1, 2)

    x = Case(lambda: None, (1, 4, 4)).images(3)
    found = ExpectedGradients(baselines=(0.0,), samples=400).attribute(Cubic(), x, 1)
    for row in range(3):
        error = float((found.maps[row] - x[row] ** 3 / 3).norm() / found.maps[row].norm())
        assert error < 4 * float(found.notes.rows["standard error"][row])


def test_no_baseline_is_an_error():
    with pytest.raises(ValueError, match="baselines must be at least one"):
        ExpectedGradients(baselines=())


def test_an_image_of_another_size_is_refused_with_both_shapes():
    model, x = linear()
    with pytest.raises(ValueError, match=r"baseline \(2, 3, 5\) does not broadcast to the input"):
        ExpectedGradients(baselines=(torch.zeros(2, 3, 5),))(model, x, 1)
