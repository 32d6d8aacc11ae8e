"""Canvases: what they draw is valid, and what they invert they draw again."""

import pytest
import torch

from deepviz.synthesis import Fourier, Magnitude, NaturalImages, Pixels, natural_images
from deepviz.synthesis.canvas import frequencies, in_colour, out_of_colour, waves

SIZES = [(8, 8), (9, 8), (8, 9), (7, 11), (16, 5)]
sizes = pytest.mark.parametrize("size", SIZES, ids=str)
channels = pytest.mark.parametrize("channels", [1, 3])
CANVASES = {
    "pixels": Pixels(),
    "fourier": Fourier(),
    "steep": Fourier(decay=2.0, limit=None),
    "magnitude": Magnitude(),
}
canvases = pytest.mark.parametrize("canvas", CANVASES.values(), ids=CANVASES.keys())


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def picture(channels, size, n=2, dtype=torch.float64):
    values = torch.rand(n, channels, *size, generator=generator(), dtype=torch.float64)
    return (0.02 + 0.96 * values).to(dtype)


def full(half, size):
    """All frequencies of a spectrum, from the half that `rfft2` keeps."""
    return torch.fft.fft2(torch.fft.irfft2(half, s=size))


@sizes
@channels
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)], ids=str)
@pytest.mark.parametrize("canvas", [Pixels(), Fourier(), Fourier(decay=0.5)], ids=str)
def test_what_is_inverted_is_drawn(canvas, channels, size, dtype, tolerance):
    pixels = picture(channels, size, dtype=dtype)
    drawn = canvas.draw(canvas.invert(pixels), size)
    assert drawn.dtype == dtype
    assert torch.allclose(drawn, pixels, rtol=0, atol=tolerance)


def test_black_and_white_come_close():
    pixels = torch.tensor([0.0, 1.0], dtype=torch.float64).view(2, 1, 1, 1).expand(2, 3, 6, 6)
    drawn = Fourier().draw(Fourier().invert(pixels), (6, 6))
    assert torch.allclose((drawn - pixels).abs(), torch.full_like(pixels, 0.01), atol=1e-9)


@canvases
@sizes
@channels
def test_every_parameter_draws_valid_colours(canvas, channels, size):
    begun = canvas.start(channels, size, generator())
    assert begun.dtype == torch.float64
    for factor in (1, 1e3):
        parameters = (begun * factor)[None].clone()
        canvas.project(parameters, size)
        drawn = canvas.draw(parameters, size)
        assert drawn.shape == (1, channels, *size)
        assert 0 <= drawn.min() <= drawn.max() <= 1


@canvases
def test_the_start_is_the_generators(canvas):
    one, again, other = (canvas.start(3, (6, 7), generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


@canvases
def test_drawing_is_differentiable(canvas):
    parameters = canvas.start(3, (4, 5), generator())[None].requires_grad_()
    assert torch.autograd.gradcheck(lambda p: canvas.draw(p, (4, 5)), (parameters,))


@canvases
def test_rows_are_drawn_alone(canvas):
    parameters = torch.stack([canvas.start(3, (6, 7), generator(seed)) for seed in range(3)])
    together = canvas.draw(parameters, (6, 7))
    assert torch.allclose(together[1:2], canvas.draw(parameters[1:2], (6, 7)), rtol=0, atol=1e-14)


def test_pixels_start_grey_and_stay_valid():
    begun = Pixels(level=0.9, noise=0.2).start(3, (64, 64), generator())
    assert 0 <= begun.min() <= begun.max() <= 1
    begun = Pixels(level=0.4, noise=0.02).start(3, (64, 64), generator())
    assert float(begun.mean()) == pytest.approx(0.4, abs=1e-3)
    assert float(begun.std()) == pytest.approx(0.02, rel=0.05)


@sizes
def test_frequencies_and_how_many_waves_they_stand_for(size):
    f, count = frequencies(size), waves(size)
    assert count.sum() == size[1]
    down, along = torch.fft.fftfreq(size[0]).double(), torch.fft.fftfreq(size[1]).double()
    every = (down[:, None] ** 2 + along[None, :] ** 2).sum()  # over the full transform
    assert float((f.square() * count).sum()) == pytest.approx(float(every), rel=1e-6)


@pytest.mark.parametrize("size", [(16, 16), (15, 22)], ids=str)
@pytest.mark.parametrize("decay", [0.0, 1.0, 2.0])
def test_the_variance_of_z_and_its_fall_with_frequency(size, decay):
    canvas = Fourier(decay=decay, noise=1.0)
    n = 600
    parameters = torch.stack([canvas.start(3, size, generator(seed)) for seed in range(n)])
    z = out_of_colour_unclamped(canvas.draw(parameters, size))
    assert 0.6 < float(z.var()) < 1.01  # the edges of the half transform have one real wave instead of two
    power = torch.fft.rfft2(z, norm="ortho").abs().square().mean((0, 1))
    f = frequencies(size)
    inner = (waves(size) == 2) & (f > 0)
    s = power[inner].sqrt() * f[inner] ** decay
    assert float(s.std() / s.mean()) < 0.05


def test_z_has_variance_near_one_at_the_usual_size():
    canvas = Fourier(noise=1.0)
    parameters = torch.stack([canvas.start(1, (224, 224), generator(seed)) for seed in range(60)])
    z = out_of_colour_unclamped(canvas.draw(parameters, (224, 224)))
    assert float(z.square().mean()) == pytest.approx(0.94, abs=0.04)


def out_of_colour_unclamped(pixels):
    """As `out_of_colour`, without its cut to 0.01..0.99."""
    statistics = natural_images()
    L, m = statistics.mixing.double(), statistics.mean.double()
    if pixels.shape[1] == 1:
        L, m = L[:, :1].mean().reshape(1, 1), m.mean().reshape(1)
    mixed = torch.logit(pixels) / 4 + 0.5 - m[:, None, None]
    return torch.einsum("ij,njhw->nihw", torch.linalg.inv(L), mixed)


@sizes
@channels
def test_colours_and_back(channels, size):
    z = 0.3 * torch.randn(2, channels, *size, generator=generator(), dtype=torch.float64)
    assert torch.allclose(out_of_colour(in_colour(z)), z, rtol=0, atol=1e-10)
    pixels = picture(channels, size)
    assert torch.allclose(in_colour(out_of_colour(pixels)), pixels, rtol=0, atol=1e-12)


def test_mixed_white_noise_has_the_covariance_of_photographs():
    statistics = natural_images()
    # small, so that the sigmoid is straight; its mean is not at 1/2, where its slope is 1
    z = 1e-4 * torch.randn(1, 3, 400, 400, generator=generator(), dtype=torch.float64)
    grey = in_colour(torch.zeros_like(z))
    slope = 4 * grey * (1 - grey)
    mixed = (in_colour(z) - grey) / slope / 1e-4
    found = torch.cov(mixed.flatten(2)[0])
    assert torch.allclose(found, statistics.covariance.double(), rtol=0.02, atol=0)


def test_a_moderate_z_gives_l_z_plus_the_mean():
    statistics = natural_images()
    z = 0.05 * torch.randn(1, 3, 5, 5, generator=generator(), dtype=torch.float64)
    plain = torch.einsum("ij,njhw->nihw", statistics.mixing.double(), z) + statistics.mean.double()[:, None, None]
    assert torch.allclose(in_colour(z), plain, rtol=0, atol=0.01)


def test_a_grey_canvas_takes_the_mean_of_the_first_column():
    statistics = natural_images()
    z = torch.tensor([[[[0.3]]]], dtype=torch.float64)
    mixed = statistics.mixing[:, 0].mean().double() * 0.3 + statistics.mean.mean().double()
    assert float(in_colour(z)) == pytest.approx(float(torch.sigmoid(4 * (mixed - 0.5))), abs=1e-6)


@sizes
@channels
def test_the_limit_shrinks_magnitudes_and_keeps_phases(channels, size):
    canvas = Fourier(limit=0.7)
    before = torch.randn(2, channels, size[0], size[1] // 2 + 1, 2, generator=generator(), dtype=torch.float64)
    before *= 10 ** (1 - 3 * torch.rand(before.shape[:-1], generator=generator(1), dtype=torch.float64))[..., None]
    after = before.clone()
    canvas.project(after, size)
    # what is drawn, in decorrelated colours
    one = torch.ones_like(before)
    scale = drawn_spectrum(canvas, one, size).abs() / 2**0.5
    most = 0.7 * natural_images().spectrum(size).double()[:channels].expand_as(scale)
    old, new = torch.view_as_complex(before), torch.view_as_complex(after)
    over = old.abs() * scale > most
    assert bool(over.any())
    assert bool((~over).any())
    assert torch.equal(new[~over], old[~over])
    assert torch.allclose((new.abs() * scale)[over], most[over], rtol=1e-6, atol=1e-12)
    inside = over & (most > 0)
    assert torch.allclose((new / old).imag[inside], torch.zeros(int(inside.sum()), dtype=torch.float64), atol=1e-12)
    assert float((new / old).real[inside].min()) > 0
    again = after.clone()
    canvas.project(again, size)
    assert torch.allclose(again, after, rtol=1e-12, atol=0)


def drawn_spectrum(canvas, parameters, size):
    """s(f) (a + i b), from the canvas's own amplitudes."""
    return torch.view_as_complex(parameters) * canvas._amplitudes(size)


@pytest.mark.parametrize("limit", [0.5, 1.0, 30.0])
def test_any_limit_holds_the_mean_colour(limit):
    parameters = 1e3 * torch.randn(1, 3, 6, 4, 2, generator=generator(), dtype=torch.float64)
    Fourier(limit=limit).project(parameters, (6, 6))
    assert torch.equal(parameters[:, :, 0, 0], torch.zeros(1, 3, 2, dtype=torch.float64))
    assert float(parameters.abs().amax((-1, 0, 1)).sort().values.flatten()[1]) > 0  # and that alone


def test_without_a_limit_nothing_is_projected():
    parameters = 1e6 * torch.randn(1, 3, 6, 4, 2, generator=generator(), dtype=torch.float64)
    before = parameters.clone()
    Fourier(limit=None).project(parameters, (6, 6))
    assert torch.equal(parameters, before)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (Pixels, {"level": 1.5}),
        (Pixels, {"level": float("nan")}),
        (Pixels, {"noise": -0.1}),
        (Fourier, {"noise": float("nan")}),
        (Fourier, {"noise": -1.0}),
        (Fourier, {"decay": float("nan")}),
        (Fourier, {"decay": 500.0}),
        (Magnitude, {"contrast": 0.0}),
        (Magnitude, {"contrast": float("inf")}),
    ],
)
def test_numbers_that_draw_nothing(kind, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        kind(**options)


@pytest.mark.parametrize("decay", [-4.0, 0.0, 4.0])
def test_any_decay_draws_a_picture(decay):
    canvas = Fourier(decay=decay)
    parameters = canvas.start(3, (96, 96), generator())[None].float()
    canvas.project(parameters, (96, 96))
    assert bool(canvas.draw(parameters, (96, 96)).isfinite().all())


@pytest.mark.parametrize("limit", [0, -1.0, float("nan"), float("inf")])
def test_a_limit_is_above_zero(limit):
    with pytest.raises(ValueError, match="limit must be above 0"):
        Fourier(limit=limit)


@sizes
@channels
@pytest.mark.parametrize("contrast", [0.2, 0.5])
def test_a_magnitude_canvas_has_the_tables_magnitudes(channels, size, contrast):
    # little contrast, so that no pixel is cut on the way back
    canvas = Magnitude(contrast=contrast)
    # phases of a real picture: anything else has no such spectrum
    phases = torch.fft.rfft2(torch.randn(2, channels, *size, generator=generator(), dtype=torch.float64)).angle()
    z = out_of_colour_unclamped(canvas.draw(phases, size))
    found = torch.fft.rfft2(z, norm="ortho").abs()
    table = contrast * natural_images().spectrum(size).double()[:channels].expand_as(found)
    assert torch.allclose(found, table, rtol=1e-6, atol=1e-8)


def test_a_magnitude_canvas_keeps_the_phases_of_a_picture():
    phases = Magnitude().invert(picture(3, (9, 12)))
    z = out_of_colour_unclamped(Magnitude(contrast=0.3).draw(phases, (9, 12)))
    found = torch.fft.rfft2(z)
    turned = (found * torch.exp(-1j * phases))[..., 1:-1]
    assert float(turned.imag.abs().max()) < 1e-8 * float(found.abs().max())
    assert float(turned.real.min()) > 0


def test_a_magnitude_canvas_of_other_photographs():
    covariance = torch.diag(torch.tensor([0.04, 0.02, 0.01]))
    other = NaturalImages(torch.tensor([0.2, 0.5, 0.6]), covariance, torch.full((3, 24, 7), 0.5), 3)
    drawn = Magnitude(spectrum=other).draw(Magnitude().start(3, (32, 32), generator())[None], (32, 32))
    # no frequency 0, so the mean colour is that of the photographs
    assert torch.allclose(drawn.mean((0, 2, 3)), torch.sigmoid(4 * (other.mean.double() - 0.5)), atol=0.01)
    z = out_of_colour(drawn, other)
    assert float(torch.fft.rfft2(z, norm="ortho").abs()[..., 1:, 1:-1].std()) < 1e-3
