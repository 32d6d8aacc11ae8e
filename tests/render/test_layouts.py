"""What is no image, as a picture: slices, lines and bars."""

import numpy as np
import pytest
from PIL import Image

from deepviz.render import Scale
from deepviz.render.bars import bar_chart
from deepviz.render.lines import line_plot
from deepviz.render.slices import STRIP, apart, crossed, evenly_spaced, side_by_side, slice_with_most, strongest_voxel


@pytest.mark.parametrize("depth", range(1, 40))
def test_the_strip_holds_the_ends_at_even_distances(depth):
    shown = evenly_spaced(depth)
    assert shown == sorted(set(shown))
    assert len(shown) == min(depth, STRIP)
    assert np.ptp(np.diff(shown)) <= 1 if depth > 2 else True
    assert (shown[0], shown[-1]) == (0, depth - 1)


def test_slices_lie_side_by_side_and_are_taken_apart_again():
    volume = np.random.default_rng(0).random((8, 2, 3, 4))
    laid = side_by_side(volume)
    assert laid.shape == (2, 24, 4)
    np.testing.assert_array_equal(laid[:, 5 * 3 : 6 * 3], volume[5])
    np.testing.assert_array_equal(apart(laid, 8), volume)


def test_the_slice_with_the_most_evidence_has_the_largest_sum_of_magnitudes():
    volume = np.zeros((6, 4, 4))
    volume[1, 0, 0] = 5.0  # the strongest voxel
    volume[4] = -0.5  # a sum of 8
    assert slice_with_most(volume) == 4
    assert strongest_voxel(volume) == (1, 0, 0)
    assert slice_with_most(np.zeros((6, 4, 4))) == 3


@pytest.mark.parametrize(("x", "y"), [(0.5, 0.5), (0.05, 0.9)])
def test_lines_cross_at_the_point_and_leave_it_free(x, y):
    drawn = np.asarray(crossed(Image.new("RGB", (100, 60), (128, 128, 128)), x, y)).astype(int)
    white = (drawn == 255).all(-1)
    assert set(np.nonzero(white)[0][white.nonzero()[1] != int(100 * x)]) == {int(60 * y)}
    assert set(np.nonzero(white)[1][white.nonzero()[0] != int(60 * y)]) == {int(100 * x)}
    assert (drawn[int(60 * y) - 2 : int(60 * y) + 3, int(100 * x) - 2 : int(100 * x) + 3] == 128).all()


def test_a_line_for_each_channel_at_the_height_of_its_values():
    t = np.linspace(0, 1, 600)
    picture = line_plot(np.stack([t, 1 - t]))
    assert picture.width == 600
    ink = np.asarray(picture.convert("L")) < 100
    half = picture.height // 2
    above, below = ink[:half].argmax(0)[5:-5], ink[half:].argmax(0)[5:-5]
    assert (np.diff(above) <= 0).all()
    assert (np.diff(below) >= 0).all()


def test_a_flat_signal_and_one_value():
    assert line_plot(np.zeros((1, 30))).size == (480, 240)
    line_plot(np.ones((2, 1)))
    with pytest.raises(ValueError, match=r"\(C, L\)"):
        line_plot(np.ones(3))


def reach(picture, row, scale):
    """How far the bar of a row goes to the left and right of zero, in pixels."""
    line = np.asarray(picture)[6 + row * 28 + 11]
    coloured = np.abs(line.astype(int) - 255).max(-1) > 30
    zero = (110 + 434) // 2 if scale.signed else 110
    return coloured[115:zero].sum(), coloured[zero + 1 : 440].sum()


def test_bars_are_as_long_as_their_values():
    scale = Scale(-2.0, 2.0, True)
    picture = bar_chart(np.array([2.0, -1.0, 0.0]), scale)
    left, right = reach(picture, 0, scale)
    assert (left, right) == (0, pytest.approx(162, abs=3))
    left, right = reach(picture, 1, scale)
    assert (left, right) == (pytest.approx(81, abs=3), 0)
    assert sum(reach(picture, 2, scale)) <= 1
    assert picture.size == (440, 3 * 28 + 6)


def test_long_names_have_more_room():
    values, scale = np.array([1.0, 0.5]), Scale(0.0, 1.0, False)
    short, long = bar_chart(values, scale, names=["a", "b"]), bar_chart(values, scale, names=["a", "systolic pressure"])
    assert np.array_equal(np.asarray(short)[:, 200:], np.asarray(bar_chart(values, scale))[:, 200:])
    starts = [(np.asarray(one)[17, 100:].astype(int) < 200).any(-1).argmax() for one in (short, long)]
    assert starts[0] == 110 - 100 < starts[1]


def test_of_many_entries_the_largest_are_drawn():
    values = np.zeros(300)
    values[[5, 250]] = [1, -3]
    picture = bar_chart(values, Scale.of(values, True))
    assert picture.height == 21 * 28 + 6
    assert isinstance(picture, Image.Image)
    with pytest.raises(ValueError, match=r"\(F,\)"):
        bar_chart(np.ones((2, 2)), Scale(0, 1, False))
