"""Statistics of photographs: those that were put in come out."""

import math

import pytest
import torch

from deepviz.errors import ImageError
from deepviz.synthesis import NaturalImages, measured, natural_images
from deepviz.synthesis.natural_images import FREQUENCIES, HIGHEST, LOWEST, ORIENTATIONS

COVARIANCE = torch.tensor([[0.010, 0.007, 0.005], [0.007, 0.009, 0.006], [0.005, 0.006, 0.008]])
MEAN = torch.tensor([0.55, 0.5, 0.45])


def mixing(covariance):
    return NaturalImages(MEAN, covariance, torch.ones(3, FREQUENCIES, ORIENTATIONS), 0).mixing


def photographs(spectrum, n=24, size=(64, 64)):
    """Noise with this amplitude at (f_down, f_along), coloured; within 0..1 but for rare pixels."""
    generator = torch.Generator().manual_seed(0)
    down, along = torch.meshgrid(torch.fft.fftfreq(size[0]), torch.fft.fftfreq(size[1]), indexing="ij")
    amplitude = spectrum(down, along)
    amplitude[0, 0] = 0
    amplitude = amplitude / amplitude.square().mean().sqrt()
    white = torch.fft.fft2(torch.randn(n, 3, *size, generator=generator), norm="ortho")
    z = torch.fft.ifft2(white * amplitude, norm="ortho").real
    pixels = torch.einsum("ij,njhw->nhwi", mixing(COVARIANCE), z) + MEAN
    return pixels.clamp(0, 1), amplitude


def slopes(table):
    """By orientation, the power of the frequency by which magnitudes fall, over the frequencies of 64 pixels."""
    f = torch.logspace(math.log10(LOWEST), math.log10(HIGHEST), FREQUENCIES)
    some = (f > 5 / 64) & (f < 0.45)
    x = f[some].log() - f[some].log().mean()
    y = table[:, some].log()
    return (x[:, None] * y).sum(1) / x.square().sum()


@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_known_colours_and_a_known_slope(decay):
    pixels, _ = photographs(lambda down, along: (down**2 + along**2).sqrt().clamp_min(1 / 64) ** -decay)
    found = measured(pixels)
    assert found.photographs == 24
    assert torch.allclose(found.mean, MEAN, atol=0.005)
    assert torch.allclose(found.covariance, COVARIANCE, rtol=0.1)
    assert torch.allclose(slopes(found.magnitude), torch.full((3, ORIENTATIONS), -decay), atol=0.2)


def test_white_noise_has_magnitude_one():
    pixels, _ = photographs(lambda down, along: torch.ones_like(down))
    magnitude = measured(pixels).magnitude
    assert torch.allclose(magnitude[:, -8:], torch.ones_like(magnitude[:, -8:]), atol=0.1)


def test_orientations_are_told_apart():
    # waves along a row only: their frequency is horizontal, orientation 0
    pixels, _ = photographs(lambda down, along: 0.05 + (down.abs() < along.abs() / 2).float())
    magnitude = measured(pixels).magnitude[:, -8:]
    assert bool((magnitude[..., 0] > 5 * magnitude[..., -1]).all())


def test_the_table_at_other_sizes():
    f = torch.logspace(math.log10(LOWEST), math.log10(HIGHEST), FREQUENCIES)
    table = (1 / f)[None, :, None].expand(3, -1, ORIENTATIONS).contiguous()
    found = NaturalImages(MEAN, COVARIANCE, table, 1)
    for size in [(64, 64), (31, 50)]:
        radius = (torch.fft.fftfreq(size[0])[:, None] ** 2 + torch.fft.rfftfreq(size[1])[None, :] ** 2).sqrt()
        spectrum = found.spectrum(size)
        assert spectrum.shape == (3, *radius.shape)
        assert bool((spectrum[:, 0, 0] == 0).all())
        # straight lines between the points of a power law are the law itself
        assert torch.allclose(spectrum[:, radius > 0], (1 / radius[radius > 0]).expand(3, -1), rtol=1e-3)


@pytest.mark.parametrize("covariance", [COVARIANCE, torch.diag(torch.tensor([0.01, 0.02, 0.03]))], ids=["", "axes"])
def test_the_mixing_has_the_covariance(covariance):
    L = mixing(covariance)
    assert torch.allclose(L @ L.T, covariance, rtol=1e-4, atol=1e-7)
    assert bool((L.norm(dim=0).diff() <= 0).all())
    assert bool((L.sum(0) > 0).all())
    D = L.T @ L  # principal axes
    assert torch.allclose(D, torch.diag(D.diagonal()), atol=1e-7)


def test_two_colours_that_cannot_be_told_apart():
    # an axis (1, -1, 0): neither sign of it is brighter
    covariance = torch.tensor([[0.02, 0.01, 0.0], [0.01, 0.02, 0.0], [0.0, 0.0, 0.001]])
    L = mixing(covariance)
    assert torch.allclose(L @ L.T, covariance, rtol=1e-4, atol=1e-7)


def test_the_packaged_table():
    table = natural_images()
    assert table.photographs == 64
    assert table.magnitude.shape == (3, FREQUENCIES, ORIENTATIONS)
    assert torch.allclose(table.mixing @ table.mixing.T, table.covariance, rtol=1e-4, atol=1e-7)
    assert bool((table.mixing[:, 0] > 0).all())  # brightness varies most
    assert bool((slopes(table.magnitude) < -0.7).all())
    assert bool((slopes(table.magnitude) > -1.6).all())
    again = NaturalImages.from_json(table.to_json())
    for name in ("mean", "covariance", "magnitude"):
        assert torch.equal(getattr(again, name), getattr(table, name))


def test_photographs_as_a_list():
    pixels, _ = photographs(lambda down, along: torch.ones_like(down), n=3, size=(16, 16))
    for given in (list(pixels), [p.numpy() for p in pixels], pixels.numpy()):
        assert torch.equal(measured(given).magnitude, measured(pixels).magnitude)


def test_grey_photographs():
    pixels, _ = photographs(lambda down, along: torch.ones_like(down), n=3, size=(16, 16))
    found = measured(pixels[..., :1].expand(-1, -1, -1, 3))
    assert bool(found.magnitude.isfinite().all())
    assert bool(torch.linalg.inv(found.mixing).isfinite().all())


@pytest.mark.parametrize(
    "given",
    [
        torch.full((2, 8, 8, 3), 0.5),  # plain
        torch.rand(2, 1, 1, 3),
        torch.ones(2, 8, 8, 3, dtype=torch.uint8),
        torch.full((2, 8, 8, 3), float("nan")),
        torch.rand(0, 8, 8, 3),
        [],
        [torch.rand(4, 4, 3), torch.rand(5, 4, 3)],
        ["photo.jpg"],
    ],
    ids=range(8),
)
def test_photographs_without_statistics(given):
    with pytest.raises(ImageError, match="images"):
        measured(given)


@pytest.mark.parametrize("shape", [(8, 8, 3), (2, 3, 8, 8), (2, 8, 8, 1)], ids=str)
def test_photographs_of_another_shape(shape):
    with pytest.raises(ImageError, match=r"\(P, H, W, 3\)"):
        measured(torch.rand(shape))


def test_photographs_of_bytes():
    with pytest.raises(ImageError, match="from 0 to 1"):
        measured(torch.randint(0, 256, (2, 8, 8, 3), dtype=torch.uint8))
