"""Transforms: small linear maps of the picture, the same for all images of a step."""

import math

import pytest
import torch

from deepviz.synthesis import Blur, Crop, Jitter, Noise, Pad, Rotate, Scale
from deepviz.synthesis.transforms import gaussian, sampled, transformed

ALL = [Jitter(3), Scale(0.8, 1.3), Rotate(30), Crop(), Pad(2), Noise(), Blur(2.0, 0.5)]
SPATIAL = ALL[:5]
STILL = {
    "jitter": Jitter(0),
    "scale": Scale(1, 1),
    "rotate": Rotate(0),
    "crop": Crop(1, 1),
    "pad": Pad(0),
    "noise": Noise(0, 0),
    "blur": Blur(0, 0),
}
SIZES = [(8, 8), (7, 10)]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def picture(n=2, size=(7, 10), channels=3):
    return torch.rand(n, channels, *size, generator=generator(5), dtype=torch.float64)


def smooth(size, shift=(0.0, 0.0)):
    """A picture of slow waves, (1, 1, H, W)."""
    down = torch.arange(size[0], dtype=torch.float64)[:, None] / size[0]
    along = torch.arange(size[1], dtype=torch.float64)[None, :] / size[1]
    return (torch.sin(3 * down + shift[0]) * torch.cos(4 * along + shift[1]) + 0.5 * along)[None, None]


@pytest.mark.parametrize("transform", ALL, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_gradients(transform, size):
    x = picture(1, size, channels=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: transform(x, generator(), 0.3), (x,))


@pytest.mark.parametrize("transform", STILL.values(), ids=STILL.keys())
@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
def test_transforms_that_do_nothing(transform, progress):
    x = picture()
    assert torch.allclose(transform(x, generator(), progress), x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", [Jitter, Scale, Rotate, Crop, Pad, Noise, Blur])
@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_amounts_are_none_below_zero(kind, value):
    with pytest.raises(ValueError, match=r"must be (at least 0|above 0).*, got"):
        kind(value)


@pytest.mark.parametrize(("kind", "values"), [(Scale, (0, 1)), (Scale, (2, 1)), (Crop, (0, 0.5)), (Crop, (0.5, 2))])
def test_scales_and_crops_have_an_order(kind, values):
    with pytest.raises(ValueError, match="above 0"):
        kind(*values)


@pytest.mark.parametrize("transform", ALL, ids=str)
def test_the_generator_decides(transform):
    x = picture()
    one, again, other = (transform(x, generator(seed), 0.0) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    # padding and blurring leave nothing to chance
    assert torch.equal(one, other) == isinstance(transform, (Pad, Blur))
    assert one.shape == x.shape


@pytest.mark.parametrize("transform", ALL, ids=str)
def test_an_image_is_shaken_alike_whatever_is_beside_it(transform):
    x = picture(3)
    together = generator()
    seen = transform(x, together, 0.2)
    for row in range(3):
        alone = generator()
        assert torch.allclose(transform(x[row : row + 1], alone, 0.2), seen[row : row + 1], rtol=0, atol=1e-14)
        assert torch.equal(alone.get_state(), together.get_state())


def test_all_transforms_take_the_same_numbers_whatever_the_batch():
    one, many = generator(), generator()
    transformed(picture(1), ALL, one, 0.5)
    transformed(picture(4), ALL, many, 0.5)
    assert torch.equal(one.get_state(), many.get_state())


@pytest.mark.parametrize("transform", SPATIAL, ids=str)
def test_one_transform_is_its_matrix(transform):
    x = picture()
    matrix = transform.matrix((7, 10), generator(), 0.4)
    assert matrix.shape == (3, 3)
    assert torch.equal(transform(x, generator(), 0.4), sampled(x, matrix))


def test_sampling_against_a_slow_loop():
    x = picture(1, (5, 6), channels=1)
    turn = 0.4
    matrix = torch.tensor(
        [[math.cos(turn), -math.sin(turn), 0.3], [math.sin(turn), math.cos(turn), -0.2], [0, 0, 1]],
        dtype=torch.float64,
    )
    expected = torch.zeros(5, 6, dtype=torch.float64)
    for i in range(5):
        for j in range(6):
            p = matrix @ torch.tensor([j - 2.5, i - 2.0, 1.0], dtype=torch.float64)
            expected[i, j] = bilinear(x[0, 0], float(p[1]) + 2.0, float(p[0]) + 2.5)
    assert torch.allclose(sampled(x, matrix)[0, 0], expected, rtol=0, atol=1e-12)


def bilinear(values, i, j):
    """`values` at (i, j), mirrored beyond the outer edges of the border's pixels."""
    i0, j0 = math.floor(i), math.floor(j)
    total = 0.0
    for a, s in ((i0, 1 - (i - i0)), (i0 + 1, i - i0)):
        for b, t in ((j0, 1 - (j - j0)), (j0 + 1, j - j0)):
            total += s * t * float(values[mirrored(a, len(values)), mirrored(b, values.shape[1])])
    return total


def mirrored(index, length):
    while not 0 <= index < length:
        index = -1 - index if index < 0 else 2 * length - 1 - index
    return index


@pytest.mark.parametrize("steps", [(Rotate(15), Scale(1.0, 1.1)), (Crop(0.8, 0.9), Rotate(10), Jitter(2))], ids=str)
def test_neighbours_are_sampled_once_and_mean_the_same(steps):
    x = smooth((40, 50))
    at_once = transformed(x, steps, generator(), 0.5)
    numbers = generator()
    by_turns = x
    for transform in steps:
        by_turns = transform(by_turns, numbers, 0.5)
    inside = (..., slice(8, -8), slice(8, -8))  # away from the mirrored border
    assert float((at_once - by_turns)[inside].abs().max()) < 4e-3
    assert float((at_once - x)[inside].abs().max()) > 5e-2
    # and in the order given
    other = transformed(x, steps[::-1], generator(), 0.5)
    assert not torch.allclose(at_once, other, atol=1e-4)


def test_what_is_not_spatial_stays_in_its_place():
    x = picture()
    steps = (Rotate(20), Noise(0.5, 0.5), Scale(0.7, 0.8))
    numbers = generator()
    expected = x
    for transform in steps:
        expected = transform(expected, numbers, 0.0)
    assert torch.equal(transformed(x, steps, generator(), 0.0), expected)


def test_no_transforms():
    x = picture()
    assert transformed(x, (), generator(), 0.5) is x


def test_jitter_moves_whole_pixels_both_ways():
    moves = torch.stack([Jitter(3).matrix((9, 9), generator(seed), 0.0)[:2, 2] for seed in range(200)])
    assert torch.equal(moves, moves.round())
    assert moves.abs().max() == 3
    assert moves.min() == -3
    assert float(moves.mean().abs()) < 0.3
    x = picture()
    along, down = (int(part) for part in Jitter(3).matrix((7, 10), generator(4), 0.0)[:2, 2])
    seen = Jitter(3)(x, generator(4), 0.0)
    rows, columns = range(max(0, -down), min(7, 7 - down)), range(max(0, -along), min(10, 10 - along))
    for i in rows:
        for j in columns:
            assert torch.allclose(seen[..., i, j], x[..., i + down, j + along], rtol=0, atol=1e-12)


def test_a_magnified_view_shows_less():
    factors = torch.tensor([1 / Scale(0.5, 2).matrix((9, 9), generator(seed), 0.0)[0, 0] for seed in range(300)])
    assert 0.5 <= factors.min() < 0.6
    assert 1.9 < factors.max() <= 2


def test_a_turn_keeps_lengths_on_any_shape():
    turns = [Rotate(40).matrix((5, 12), generator(seed), 0.0) for seed in range(200)]
    angles = []
    for matrix in turns:
        assert torch.allclose(matrix @ matrix.T, torch.eye(3, dtype=torch.float64), atol=1e-12)
        angles.append(math.degrees(math.atan2(float(matrix[1, 0]), float(matrix[0, 0]))))
    assert -40 <= min(angles) < -35
    assert 35 < max(angles) <= 40


@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("size", [(20, 20), (13, 31)], ids=str)
def test_crops_stay_inside_and_grow(progress, size):
    crop = Crop(0.2, 0.6)
    least = 0.2 + 0.4 * progress
    sides = []
    for seed in range(200):
        matrix = crop.matrix(size, generator(seed), progress)
        sides.append(float(matrix[0, 0]))
        assert matrix[0, 0] == matrix[1, 1]
        half = torch.tensor([size[1] / 2, size[0] / 2], dtype=torch.float64)
        for corner in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
            edge = half * torch.tensor(corner, dtype=torch.float64)
            seen = matrix @ torch.cat([edge, torch.ones(1, dtype=torch.float64)])
            assert bool((seen[:2].abs() <= half + 1e-9).all())
    assert least <= min(sides) < least + 0.1
    assert 0.9 < max(sides) <= 1


def test_a_border_is_as_wide_as_said():
    size = (10, 20)
    matrix = Pad(2).matrix(size, generator(), 0.0)
    outer = matrix @ torch.tensor([10.0, 5.0, 1.0], dtype=torch.float64)
    assert torch.allclose(outer[:2], torch.tensor([12.0, 7.0], dtype=torch.float64), atol=1e-12)


def test_noise_fades():
    x = torch.zeros(2, 3, 60, 60)
    noise = Noise(0.2, 0.05)
    for progress, sd in ((0.0, 0.2), (0.5, 0.125), (1.0, 0.05)):
        seen = noise(x, generator(), progress)
        assert float(seen.std()) == pytest.approx(sd, rel=0.03)
        assert abs(float(seen.mean())) < 0.01
        assert torch.equal(seen[0], seen[1])


def test_a_blur_against_a_slow_convolution():
    x, sigma = picture(1, (6, 9), channels=2), 1.3
    radius = round(3 * sigma)
    weights = {d: math.exp(-0.5 * (d / sigma) ** 2) for d in range(-radius, radius + 1)}
    whole = sum(weights.values()) ** 2
    expected = torch.zeros_like(x)
    for i in range(6):
        for j in range(9):
            for a, u in weights.items():
                for b, v in weights.items():
                    near = x[..., min(max(i + a, 0), 5), min(max(j + b, 0), 8)]
                    expected[..., i, j] += u * v / whole * near
    assert torch.allclose(gaussian(x, sigma), expected, rtol=0, atol=1e-12)


def test_a_blur_fades_and_keeps_grey():
    x = picture(1, (40, 40), channels=1)
    blur = Blur(3.0, 0.05)
    spread = [float(blur(x, generator(), progress).std()) for progress in (0.0, 0.5, 0.9)]
    assert spread == sorted(spread)
    assert torch.equal(blur(x, generator(), 1.0), x)
    grey = torch.full((1, 1, 9, 9), 0.4, dtype=torch.float64)
    assert torch.allclose(blur(grey, generator(), 0.0), grey, rtol=0, atol=1e-12)


@pytest.mark.parametrize("threads", [1, 2, 5, 64])
@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (4, 3), (5, 3)], ids=str)
def test_sampling_is_the_same_however_many_threads_share_it(shape, threads, monkeypatch):
    x = picture(shape[0], (9, 12), shape[1]).float().requires_grad_()
    matrix = Crop().matrix((9, 12), generator(), 0.5) @ Rotate(20).matrix((9, 12), generator(), 0.5)
    weights = torch.rand(*shape, 9, 12, generator=generator(3))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    (expected,) = torch.autograd.grad((sampled(x, matrix) * weights).sum(), x)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    views = sampled(x, matrix)
    assert torch.equal(views, torch.cat([sampled(x[row : row + 1], matrix) for row in range(len(x))]))
    (gradient,) = torch.autograd.grad((views * weights).sum(), x)
    assert torch.equal(gradient, expected)
