import numpy as np
import pytest
from PIL import Image

from deepviz.geometry import Geometry
from deepviz.render import Scale, colour, colour_bar, grey, heatmap, overlay, place
from deepviz.render.overlay import DARKEST, DIMMED, GHOST, LIFTED, OPACITY

UNSIGNED, SIGNED = Scale(0.0, 1.0, False), Scale(-1.0, 1.0, True)


def photo(width, height):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def pixels(picture):
    return np.asarray(picture).astype(int)


def test_place_is_the_identity_at_equal_size():
    values = np.random.default_rng(0).standard_normal((5, 7)).astype(np.float32)
    assert np.array_equal(place(values, Geometry.whole((7, 5))), values)


@pytest.mark.parametrize("box", [(0, 0, 80, 40), (10, 5, 70, 30), (12.5, -20, 95.25, 60)])
def test_a_ramp_stays_a_ramp_in_its_place(box):
    left, top, right, bottom = box
    cells = (np.arange(8) + 0.5) / 8  # the ramp's height at the cells' centres, 0 to 1 over the box
    placed = place(np.tile(cells, (4, 1)), Geometry((80, 40), box))
    columns = (np.arange(80) + 0.5 - left) / (right - left)
    rows = (np.arange(40) + 0.5 - top) / (bottom - top)
    inside = (columns >= 0) & (columns <= 1)
    expected = np.clip(columns, cells[0], cells[-1])[inside]
    seen = placed[(rows >= 0) & (rows <= 1)]
    assert np.allclose(seen[:, inside], expected, atol=1e-6)
    assert np.isnan(seen[:, ~inside]).all()
    assert np.isnan(placed[(rows < 0) | (rows > 1)]).all()


@pytest.mark.parametrize("box", [(0, 0, 90, 60), (20, 10, 60, 50), (-30, 7, 31, 90)])
def test_a_delta_in_the_middle_lands_on_the_middle_of_the_box(box):
    values = np.zeros((7, 7))
    values[3, 3] = 1
    placed = np.nan_to_num(place(values, Geometry((90, 60), box)))
    row, column = np.unravel_index(placed.argmax(), placed.shape)
    assert abs(column + 0.5 - (box[0] + box[2]) / 2) <= 0.5 + 1e-6
    assert abs(row + 0.5 - (box[1] + box[3]) / 2) <= 0.5 + 1e-6


def test_a_box_beyond_the_photograph_shows_the_part_that_is_on_it():
    values = np.array([[0.0, 1.0, 2.0, 3.0]])
    assert np.allclose(place(values, Geometry((2, 1), (-1, 0, 3, 1))), [[1.0, 2.0]])
    assert np.isnan(place(values, Geometry((4, 4), (9, 9, 12, 12)))).all()


def test_a_photograph_smaller_than_the_map_gets_averages():
    rng = np.random.default_rng(0)
    fine = rng.random((256, 256))
    small = place(fine, Geometry.whole((8, 8)))
    assert abs(small.mean() - fine.mean()) < 0.01
    assert small.std() < 0.03  # of single samples it would be 0.29
    checkers = np.indices((64, 64)).sum(0) % 2
    assert np.allclose(place(checkers, Geometry.whole((16, 16))), 0.5, atol=0.02)
    assert np.allclose(place(np.full((64, 64), 3.0), Geometry.whole((5, 1))), 3.0)


def test_nothing_of_a_map_falls_between_the_pixels():
    for cell in range(60):
        values = np.zeros((1, 60))
        values[0, cell] = 1
        assert place(values, Geometry.whole((13, 1))).max() > 0.05


def test_one_pixel():
    assert place(np.array([[1.0, 3.0]]), Geometry.whole((1, 1))).tolist() == [[2.0]]
    assert overlay(photo(1, 1), np.ones((7, 7)), Geometry.whole((1, 1)), UNSIGNED).size == (1, 1)


@pytest.mark.parametrize("scale", [UNSIGNED, SIGNED], ids=["unsigned", "signed"])
def test_without_evidence_the_photograph_is_as_it_was(scale):
    picture = photo(40, 30)
    drawn = overlay(picture, np.zeros((7, 7)), Geometry.whole((40, 30)), scale)
    assert np.array_equal(pixels(drawn), pixels(picture))


def test_without_evidence_a_fine_map_leaves_the_ghost_of_the_photograph():
    picture, whole = photo(40, 30), Geometry.whole((40, 30))
    levels = pixels(picture.convert("L"))[..., None].repeat(3, axis=2)
    dark = pixels(overlay(picture, np.zeros((30, 40)), whole, UNSIGNED, fine=True))
    light = pixels(overlay(picture, np.zeros((30, 40)), whole, SIGNED, fine=True))
    assert np.abs(dark - GHOST * levels).max() <= 0.51
    assert np.abs(light - (255 - GHOST * (255 - levels))).max() <= 0.51


@pytest.mark.parametrize("scale", [UNSIGNED, SIGNED])
def test_the_ghost_of_a_dark_photograph_is_not_black(scale):
    """Its brightest parts are as bright as those of an image with grey levels up to `LIFTED`; noise stays dark."""
    picture, whole = photo(40, 30), Geometry.whole((40, 30))
    grey = picture.convert("L").point(lambda level: level * LIFTED // 255)
    zeros = np.zeros((30, 40))
    ordinary = pixels(overlay(grey, zeros, whole, scale, fine=True))
    dark = pixels(overlay(grey.point(lambda level: level // 8), zeros, whole, scale, fine=True))
    top = np.percentile(ordinary, 99)
    assert np.percentile(dark, 99) == pytest.approx(top, abs=2)
    assert np.abs(dark - ordinary).max() <= GHOST * 8 * LIFTED / (LIFTED // 8 - 1), "a step of the dark levels"
    black = pixels(overlay(grey.point(lambda level: level // 80), zeros, whole, UNSIGNED, fine=True))
    assert black.max() <= GHOST * 2 * LIFTED / DARKEST + 1


@pytest.mark.parametrize("fine", [False, True])
def test_full_evidence_is_drawn_at_the_stated_opacity(fine):
    picture, whole = Image.new("RGB", (4, 4), "black"), Geometry.whole((4, 4))
    full = colour(np.ones((4, 4)), UNSIGNED).astype(float)
    assert np.abs(pixels(overlay(picture, np.ones((4, 4)), whole, UNSIGNED, fine=fine)) - OPACITY * full).max() < 1
    drawn = overlay(picture, np.ones((4, 4)), whole, UNSIGNED, fine=fine, opacity=1.0)
    assert np.array_equal(pixels(drawn), full)


@pytest.mark.parametrize("fine", [False, True])
def test_what_the_model_did_not_see_is_dimmed(fine):
    picture, geometry = photo(60, 40), Geometry((60, 40), (20, 10, 40, 30))
    drawn = pixels(overlay(picture, np.zeros((4, 4)), geometry, UNSIGNED, fine=fine))
    plain = pixels(overlay(picture, np.zeros((4, 4)), Geometry.whole((60, 40)), UNSIGNED, fine=fine))
    outside = np.ones((40, 60), bool)
    outside[10:30, 20:40] = False
    assert np.array_equal(drawn[~outside], plain[~outside])
    assert np.abs(drawn[outside] - DIMMED * plain[outside]).max() <= 1


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_photographs_of_any_mode(mode):
    drawn = overlay(photo(9, 9).convert(mode), np.eye(9), Geometry.whole((9, 9)), UNSIGNED)
    assert (drawn.mode, drawn.size) == ("RGB", (9, 9))


def test_the_heat_map_is_the_map_in_colour():
    values = np.random.default_rng(0).random((5, 6))
    assert np.array_equal(np.asarray(heatmap(values, UNSIGNED, size=(6, 5))), colour(values, UNSIGNED))
    assert heatmap(values, UNSIGNED, size=(60, 50)).size == (60, 50)
    drawn = np.asarray(heatmap(values, UNSIGNED, "magma", size=(6, 5)))
    assert np.array_equal(drawn, colour(values, UNSIGNED, "magma"))


def test_grey_from_black_up():
    assert pixels(grey(np.array([[0.0, 1.0, 2.0]] * 200), signed=False))[0].tolist() == [0, 128, 255]
    assert pixels(grey(np.zeros((2, 2)), signed=False)).max() == 0


def test_signed_grey_lies_about_128_with_one_scale_for_all_channels():
    values = np.zeros((2, 2, 3))
    values[0, 0], values[1, 1] = [1.0, 0.0, 0.0], [0.0, -0.5, 0.0]
    drawn = pixels(grey(values, signed=True))
    assert drawn[0, 1].tolist() == [128, 128, 128]
    assert drawn[0, 0].tolist()[1:] == [128, 128]
    red, green = drawn[0, 0, 0] - 128, 128 - drawn[1, 1, 1]
    assert red > 120
    assert abs(green / red - 0.5) < 0.02


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_signed_grey_of_other_channels_is_their_mean(channels):
    drawn = grey(np.linspace(-1, 1, 16 * channels).reshape(4, 4, channels), signed=True)
    assert drawn.mode == "RGB"
    assert np.ptp(pixels(drawn), axis=2).max() == 0


def test_the_colour_bar_goes_from_low_to_high():
    bar = np.asarray(colour_bar(SIGNED, size=(101, 3)))
    assert bar.shape == (3, 101, 3)
    ends = colour(np.array([[-1.0, 0.0, 1.0]]), SIGNED)[0]
    assert np.array_equal(bar[1, [0, 50, 100]], ends)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_map_with_holes_is_not_drawn_as_what_the_model_did_not_see(bad):
    values, whole = np.array([[0.0, bad], [1.0, 0.5]]), Geometry.whole((8, 8))
    with pytest.raises(ValueError, match="NaN or infinity"):
        overlay(photo(8, 8), values, whole, UNSIGNED)
    with pytest.raises(ValueError, match="NaN or infinity"):
        place(values, whole)


def test_a_photograph_of_another_size_is_named():
    with pytest.raises(ValueError, match=r"\(30, 20\).*\(20, 30\)"):
        overlay(photo(30, 20), np.ones((4, 4)), Geometry.whole((20, 30)), UNSIGNED)


@pytest.mark.parametrize("opacity", [-0.1, 1.1, float("nan")])
def test_opacity_is_a_share(opacity):
    with pytest.raises(ValueError, match="opacity must be from 0 to 1"):
        overlay(photo(8, 8), np.ones((4, 4)), Geometry.whole((8, 8)), UNSIGNED, opacity=opacity)


@pytest.mark.parametrize("box", [(5.0, 5.0, 5.0, 9.0), (9.0, 0.0, 5.0, 9.0)])
def test_a_box_has_an_area(box):
    with pytest.raises(ValueError, match="no area"):
        place(np.ones((3, 3)), Geometry((20, 20), box))


def test_grey_of_what_is_no_map():
    with pytest.raises(ValueError, match=r"got \(4,\)"):
        grey(np.ones(4), signed=True)


def test_the_photograph_is_left_as_it_was():
    picture = photo(20, 10)
    before = picture.tobytes()
    overlay(picture, np.ones((4, 4)), Geometry((20, 10), (2.0, 2.0, 9.0, 9.0)), UNSIGNED)
    assert picture.tobytes() == before
