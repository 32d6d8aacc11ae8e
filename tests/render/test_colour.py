import numpy as np
import pytest

from deepviz.render import Scale, colour
from deepviz.render.colour import LEVELS, SIGNED, UNSIGNED, _table


def test_a_signed_scale_is_symmetric_about_zero():
    scale = Scale.of(np.array([[-1.0, 0.0], [0.5, 3.0]]), signed=True, percentile=100)
    assert (scale.low, scale.high, scale.note) == (-3.0, 3.0, "")
    assert scale.unit(np.array([-3.0, 0.0, 1.5, 3.0])).tolist() == [0.0, 0.5, 0.75, 1.0]


def test_an_unsigned_scale_starts_at_zero_and_negative_values_count_for_nothing():
    scale = Scale.of(np.array([-9.0, 0.5, 2.0]), signed=False, percentile=100)
    assert (scale.low, scale.high) == (0.0, 2.0)
    assert scale.unit(np.array([-9.0, 1.0, 8.0])).tolist() == [0.0, 0.5, 1.0]
    assert scale.strength(np.array([-9.0, 1.0, 8.0])).tolist() == [0.0, 0.5, 1.0]


def test_strength_of_signed_values_is_their_magnitude():
    assert Scale(-2.0, 2.0, True).strength(np.array([-1.0, 0.0, 4.0])).tolist() == [0.5, 0.0, 1.0]


def test_the_percentile_is_of_the_magnitude():
    values = np.arange(-1000.0, 1.0)
    assert Scale.of(values, signed=True).high == pytest.approx(np.percentile(np.abs(values), 99.5))
    assert Scale.of(-values, signed=False, percentile=50).high == 500.0


def test_a_map_sparser_than_the_percentile_falls_back_to_its_maximum():
    values = np.zeros(10_000)
    values[7] = 4.0
    assert Scale.of(values, signed=False) == Scale(0.0, 4.0, False)
    assert Scale.of(-values, signed=True) == Scale(-4.0, 4.0, True)


@pytest.mark.parametrize(
    ("values", "signed", "note"),
    [
        (np.zeros((3, 3)), True, "all zero"),
        (np.zeros((3, 3)), False, "all zero"),
        (-np.arange(9.0), False, "nothing above zero"),
        (np.full((3, 3), 2.0), False, "constant"),
        (np.full((3, 3), -2.0), True, "constant"),
    ],
)
def test_a_map_with_nothing_to_tell_apart_says_so(values, signed, note):
    scale = Scale.of(values, signed)
    assert scale.note == note
    assert scale.high == (2.0 if note == "constant" else 1.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("signed", [True, False])
def test_no_colour_for_what_is_not_finite(bad, signed):
    with pytest.raises(ValueError, match="NaN or infinity"):
        Scale.of(np.array([0.0, bad]), signed)


def test_a_shared_scale_spans_all_maps():
    small, large = np.linspace(0, 1, 5), np.linspace(-4, 2, 7).reshape(1, 7)
    assert Scale.shared([small, large], signed=True, percentile=100) == Scale(-4.0, 4.0, True)


def test_zero_is_the_neutral_middle_of_the_diverging_map_and_black_of_the_other():
    signed = colour(np.zeros((1, 1)), Scale(-1.0, 1.0, True))[0, 0].astype(int)
    assert signed.tolist() == _table(SIGNED)[LEVELS // 2].tolist()
    assert signed.min() > 220
    assert np.ptp(signed) < 16
    assert colour(np.zeros((1, 1)), Scale(0.0, 1.0, False))[0, 0].max() < 5


def test_colours_are_those_of_the_table():
    values = np.linspace(-1, 1, LEVELS)[None]
    assert (colour(values, Scale(-1.0, 1.0, True))[0] == _table(SIGNED)).all()
    assert (colour(values / 2 + 0.5, Scale(0.0, 1.0, False))[0] == _table(UNSIGNED)).all()
    assert (colour(values, Scale(-1.0, 1.0, True), "viridis")[0] == _table("viridis")).all()


def test_the_unsigned_map_gets_lighter_all_along():
    luminance = _table(UNSIGNED) @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(luminance) > -0.8).all()
    assert luminance[-1] - luminance[0] > 200


def test_unknown_colour_map_names_near_ones():
    with pytest.raises(ValueError, match=r"no colour map 'viridsi'; did you mean 'viridis'") as error:
        colour(np.zeros((1, 1)), Scale(0.0, 1.0, False), "viridsi")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("dtype", [np.int8, np.float16, np.float32])
def test_the_whole_range_of_a_type_can_be_drawn(dtype):
    limits = np.iinfo(dtype) if np.issubdtype(dtype, np.integer) else np.finfo(dtype)
    values = np.array([[limits.min, 0, limits.max]], dtype)
    scale = Scale.of(values, signed=True, percentile=100)
    assert (scale.high, scale.note) == (-float(limits.min), "")
    expected = [0, 0.5, (1 + limits.max / -float(limits.min)) / 2]
    assert np.allclose(scale.unit(values.astype(np.result_type(dtype, np.float32))), expected)
    assert np.ptp(colour(values, scale)[0, 1].astype(int)) < 16


def test_opposite_values_take_mirrored_entries():
    values = np.linspace(-1, 1, 101)[None]
    there, back = colour(values, Scale(-1.0, 1.0, True)), colour(-values, Scale(-1.0, 1.0, True))
    assert np.array_equal(there, back[:, ::-1])
    indices = np.rint(Scale(-1.0, 1.0, True).unit(values) * (LEVELS - 1))
    assert np.array_equal(indices + indices[:, ::-1], np.full((1, 101), LEVELS - 1.0))


@pytest.mark.parametrize(("low", "high", "signed"), [(0, 0, False), (0, np.nan, False), (-1, 2, True), (1, 2, False)])
def test_a_scale_that_is_none(low, high, signed):
    with pytest.raises(ValueError, match="the scale must go from"):
        Scale(low, high, signed)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_not_drawn_on_a_scale_of_another_map(bad):
    with pytest.raises(ValueError, match="NaN or infinity"):
        colour(np.array([[0.0, bad]]), Scale(0.0, 1.0, False))


def test_a_map_has_two_axes_and_a_value():
    with pytest.raises(ValueError, match=r"must be \(H, W\), got \(2, 4, 4\)"):
        colour(np.zeros((2, 4, 4)), Scale(0.0, 1.0, False))
    with pytest.raises(ValueError, match="empty"):
        Scale.of(np.zeros((0, 3)), signed=True)
    with pytest.raises(ValueError, match="no maps"):
        Scale.shared([], signed=True)


def test_near_names_are_found_behind_a_collection():
    with pytest.raises(ValueError, match=r"no colour map 'crameri:vikk'; did you mean 'vik'"):
        colour(np.zeros((1, 1)), Scale(0.0, 1.0, False), "crameri:vikk")
