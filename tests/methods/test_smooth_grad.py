from dataclasses import dataclass

import pytest
import torch

from deepviz.errors import DeepVizWarning
from deepviz.methods import GradCAM, Gradient, GuidedBackprop, IntegratedGradients, Method, SmoothGrad
from networks import CASES, METHODS, assert_same

quiet = pytest.mark.filterwarnings("ignore::deepviz.errors.DeepVizWarning")


@dataclass(frozen=True)
class Echo(Method):
    """A method whose map is the image that it was given: so SmoothGrad's noise can be seen."""

    title = "Echo"

    def maps(self, session):
        (x,) = session.x
        SEEN.append(x.clone())
        return session.beside(x).expand(-1, *session.score.shape, -1, -1, -1) if session.several else x


SEEN: list[torch.Tensor] = []
model, x = CASES["plain"].model(), CASES["plain"].images(2)


def noisy_copies(x, **options):
    """The noisy copies of every row, (N, samples, C, H, W)."""
    SEEN.clear()
    SmoothGrad(of=Echo(), **options)(model, x, 1)
    rows = [torch.cat(SEEN[row :: len(x)]) for row in range(len(x))]
    return torch.stack(rows)


@quiet
@pytest.mark.parametrize(
    "of",
    [
        *METHODS.values(),
        IntegratedGradients(tolerance=0.1, max_steps=20),
        GradCAM(relu=False),
    ],
    ids=repr,
)
@pytest.mark.parametrize("statistic", ["mean", "mean_square", "variance"])
def test_it_is_a_statistic_of_the_maps_of_the_noisy_copies(of, statistic):
    copies = noisy_copies(x, samples=11, noise=0.2, seed=3)
    result = SmoothGrad(of=of, samples=11, noise=0.2, seed=3, statistic=statistic).attribute(model, x, 1)
    for row in range(2):
        maps = torch.cat([of(model, copy.unsqueeze(0), 1) for copy in copies[row]])
        expected = {"mean": maps.mean(0), "mean_square": (maps**2).mean(0), "variance": maps.var(0)}[statistic]
        assert_same(result.maps[row], expected, 1e-10)
        error = (maps.var(0) / 11).sum().sqrt() / maps.mean(0).square().sum().sqrt()
        assert_same(result.notes.rows["standard error"][row], error, 1e-10)


def test_the_noise_is_normal_with_the_stated_share_of_each_images_own_range():
    wide = torch.stack([x[0], 10 * x[1] + 4])
    copies = noisy_copies(wide, samples=200, noise=0.3)
    for row in range(2):
        s = 0.3 * float(wide[row].max() - wide[row].min())
        e = (copies[row] - wide[row]) / s
        n = e.numel()
        assert abs(float(e.mean())) < 5 / n**0.5
        assert abs(float(e.var()) - 1) < 5 * (2 / n) ** 0.5
        assert abs(float((e**4).mean()) - 3) < 5 * (96 / n) ** 0.5
        assert abs(float((e[1:] * e[:-1]).mean())) < 5 / n**0.5  # samples are independent
        assert abs(float((e[:, 1:] * e[:, :-1]).mean())) < 5 / n**0.5  # channels too


def test_every_row_gets_the_same_noise_and_more_samples_begin_with_the_same_ones():
    copies = noisy_copies(x, samples=20)
    assert copies.shape == (2, 20, 3, 12, 12)
    scale = (x.amax((1, 2, 3)) - x.amin((1, 2, 3))).view(2, 1, 1, 1, 1)
    e = (copies - x.unsqueeze(1)) / scale
    assert_same(e[0], e[1], 1e-10)
    assert torch.equal(noisy_copies(x, samples=33)[:, :20], copies)


def test_seeds_differ_and_repeat():
    maps = [SmoothGrad(samples=5, seed=seed)(model, x, 1) for seed in (0, 1, 2, 2**32 - 1, 12345, 0)]
    assert torch.equal(maps[0], maps[-1])
    for i in range(5):
        for j in range(i):
            assert not torch.allclose(maps[i], maps[j])


@pytest.mark.parametrize("global_seed", [0, 1])
def test_the_noise_does_not_come_from_the_global_random_state(global_seed):
    expected = SmoothGrad(samples=4)(model, x, 1)
    torch.manual_seed(global_seed)
    assert torch.equal(SmoothGrad(samples=4)(model, x, 1), expected)


def test_on_a_linear_model_smoothing_changes_nothing():
    flat = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(432, 5)).double()
    assert_same(SmoothGrad(samples=7)(flat, x, 1), Gradient()(flat, x, 1), 1e-12)
    with pytest.warns(UserWarning, match="all zero"):
        assert not SmoothGrad(samples=7, statistic="variance")(flat, x, 1).any()


def test_the_standard_error_shrinks_with_the_root_of_the_samples():
    few = SmoothGrad(samples=25).attribute(model, x, 1).notes.rows["standard error"]
    many = SmoothGrad(samples=400).attribute(model, x, 1).notes.rows["standard error"]
    assert bool((few / many > 2.5).all())
    assert bool((few / many < 6).all())


def test_the_standard_error_is_the_distance_to_the_limit():
    limit = SmoothGrad(samples=1500, seed=9)(model, x, 1)
    result = SmoothGrad(samples=30).attribute(model, x, 1)
    for row in range(2):
        distance = float((result.maps[row] - limit[row]).norm() / limit[row].norm())
        assert 0.5 < distance / float(result.notes.rows["standard error"][row]) < 2


def test_the_class_is_the_clean_images():
    case = CASES["plain"]
    undecided, image = case.model(), case.images(6)
    labels = undecided(image).argmax(1)
    noisy = SmoothGrad(noise=2.0, samples=6)
    assert torch.equal(noisy.attribute(undecided, image).classes, labels)
    assert_same(noisy(undecided, image), noisy(undecided, image, labels), 1e-12)


@quiet
@pytest.mark.parametrize("of", METHODS.values(), ids=METHODS.keys())
def test_smooth_grad_of_everything_has_its_shape_its_view_and_its_facts(of):
    result = SmoothGrad(of=of, samples=2).attribute(model, x, 1)
    inner = of.attribute(model, x, 1)
    assert result.maps.shape == inner.maps.shape
    assert SmoothGrad(of=of).view == of.view
    assert SmoothGrad(of=of, statistic="variance").view == "positive"
    assert inner.notes.facts.items() <= result.notes.facts.items()
    assert SmoothGrad(of=of, samples=2)(model, x, torch.tensor([[0, 1, 2]] * 2)).shape[:2] == (2, 3)


def test_a_constant_image_has_no_range_and_so_no_noise():
    constant = torch.full_like(x, 0.3)
    assert_same(SmoothGrad(samples=3)(model, constant, 1), Gradient()(model, constant, 1), 1e-12)


@pytest.mark.parametrize(
    "options",
    [
        {"samples": 1},
        {"samples": 0},
        {"noise": 0.0},
        {"noise": -0.1},
        {"noise": float("nan")},
        {"statistic": "median"},
    ],
    ids=str,
)
def test_a_bad_option_is_an_error_when_the_method_is_made(options):
    with pytest.raises(ValueError, match="must be"):
        SmoothGrad(**options)


def test_something_else_than_a_method_inside_is_an_error():
    with pytest.raises(TypeError, match=r"of must be a method, got 'gradient'"):
        SmoothGrad(of="gradient")
    with pytest.raises(TypeError, match=r"did you mean GuidedBackprop\(\)\?"):
        SmoothGrad(of=GuidedBackprop)


def test_memory_does_not_grow_with_the_samples():
    watched = CASES["plain"].model()
    Gradient()(watched, x, 1)  # its rows are found to be independent, once
    rows = []
    watched[0].register_forward_hook(lambda module, inputs, output: rows.append(len(output)))
    SmoothGrad(samples=100)(watched, x, 1)
    assert max(rows) <= 8
    assert sum(rows) == 200


def test_the_colours_of_the_method_inside_become_known():
    smooth = SmoothGrad(of=IntegratedGradients(baseline="black")).resolve_baseline(lambda name: 0.5)
    assert smooth == SmoothGrad(of=IntegratedGradients(baseline=0.5))


def test_what_the_method_inside_finds_out_about_the_model_is_warned_of():
    """A rectifier inside an autograd function is out of reach of a rule, whoever asks."""

    class Rectify(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clamp(min=0)

        @staticmethod
        def backward(ctx, gradient):
            return gradient

    class Partly(torch.nn.Module):
        def forward(self, x):
            return Rectify.apply(x.relu()).mean((2, 3))

    model, x = Partly(), torch.rand(1, 3, 8, 8)
    for method in (GuidedBackprop(), SmoothGrad(of=GuidedBackprop(), samples=2)):
        with pytest.warns(DeepVizWarning, match="but not what is inside") as warned:
            told = method.attribute(model, x, 1).notes.of(0)
        assert len(warned) == 1
        assert told["warnings"] == (str(warned[0].message),)
