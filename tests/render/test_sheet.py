import numpy as np
import pytest
from PIL import Image

from deepviz.geometry import Geometry
from deepviz.render import Scale, Tile, sheet
from deepviz.render.sheet import MARGIN, NARROWEST, TILE, even_columns, fitted
from deepviz.render.text import length, wrapped

PAPER = 255
LONG = "a label that does not end, or only after several more words than fit, with synonyms, and their synonyms"
FOREIGN = "狐 Füchse — лиса\nثعلب \U0001f98a"


UNIT = Scale(0.0, 1.0, False)


def tile(size=(40, 30), caption="Gradient", detail="tiger cat 38.9 %", warning="", scale=UNIT):
    return Tile(Image.new("RGB", size, "#884422"), caption, detail, scale, warning=warning)


def page(count=1, size=(40, 30), sections=None, **options):
    sections = sections or [("", [tile(size)] * count)]
    return sheet(options.pop("title", "cat.jpg"), Image.new("RGB", size, "#226688"), sections, **options)


def assert_margins_are_paper(drawn):
    levels = np.asarray(drawn)
    assert (levels[:, : MARGIN - 2] == PAPER).all(), "something left of the margin"
    assert (levels[:, -MARGIN + 2 :] == PAPER).all(), "something right of the margin"
    assert (levels[: MARGIN - 12] == PAPER).all(), "something above the margin"
    assert (levels[-16:] == PAPER).all(), "something below the footer"


def pictures(drawn, colour=(0x88, 0x44, 0x22)):
    """Where the page has the colour of the tiles' pictures."""
    return (np.asarray(drawn) == np.array(colour)).all(2)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 9, 16, 40])
def test_any_number_of_tiles_is_drawn_whole(count):
    drawn = page(count, predictions=[("cat", 0.5)], footer="model")
    assert pictures(drawn).sum() == count * TILE * round(TILE * 3 / 4)
    assert_margins_are_paper(drawn)


@pytest.mark.parametrize(
    "size", [(1, 1), (30, 40), (140, 320), (4000, 3000), (3000, 7), (7, 3000), (2, 1)], ids=lambda size: str(size)
)
@pytest.mark.parametrize("count", [1, 3, 8])
def test_photographs_of_any_shape(size, count):
    drawn = page(
        count, size, predictions=[(LONG, 0.9), ("b", 0.1)], geometry=Geometry(size, (0.0, 0.0, size[0], size[1] / 2))
    )
    assert_margins_are_paper(drawn)
    area = pictures(drawn).sum() / count
    ratio = max(size) / min(size)
    assert area == pytest.approx(TILE * TILE / ratio if ratio <= 3 else 960 * 48, rel=0.01)


@pytest.mark.parametrize("size", [(400, 300), (1200, 400), (1300, 400), (4000, 500), (500, 4000), (1900, 100)], ids=str)
def test_panoramas_keep_their_proportions(size):
    """Up to 20 : 1."""
    width, height = fitted(size)
    assert width / height == pytest.approx(size[0] / size[1], rel=0.01)
    assert min(width, height) >= 48
    assert max(width, height) <= 960


@pytest.mark.parametrize("text", [LONG, LONG.replace(" ", ""), FOREIGN, FOREIGN * 20, "", "\n\n"])
@pytest.mark.parametrize("size", [(40, 30), (10, 30)], ids=["landscape", "portrait"])
def test_long_and_foreign_texts_stay_on_the_page(text, size):
    scale = Scale(-1.2345e-5, 1.2345e-5, True)
    drawn = page(
        size=size,
        title=text,
        sections=[(text, [tile(size, text, text, text, scale)] * 3), ("plain", [tile(size)])],
        predictions=[(text, 0.333)] * 9,
        footer=text,
    )
    assert_margins_are_paper(drawn)


def test_texts_of_neighbours_do_not_meet():
    alone = page(sections=[("", [tile(), tile(caption=LONG, detail=LONG, warning=LONG), tile()])])
    levels = np.asarray(alone)
    first = MARGIN + TILE
    head = MARGIN + round(TILE * 3 / 4)
    for gap in (first, first + 32 + TILE):
        assert (levels[head:, gap + 1 : gap + 31] == PAPER).all()


def test_four_columns_for_eight_tiles_and_even_rows():
    assert [even_columns([count], 440, 330) for count in (1, 2, 3, 4, 5, 6, 8, 16)] == [1, 2, 3, 4, 3, 3, 4, 4]


@pytest.mark.parametrize("size", [(440, 330), (300, 440), (440, 147), (640, 147), (960, 48)], ids=str)
@pytest.mark.parametrize("count", range(1, 21))
def test_the_last_row_is_at_least_half_full(count, size):
    columns = even_columns([count], *size)
    assert 2 * ((count - 1) % columns + 1) >= min(columns, count)
    assert columns * (size[0] + 32) - 32 <= 2400
    assert columns <= 6


def test_tiles_of_a_narrow_photograph_leave_room_for_names_and_bar():
    drawn = page(4, (10, 30))
    assert drawn.width == 2 * MARGIN + 4 * NARROWEST + 3 * 32


def test_every_section_starts_a_row_below_its_heading():
    plain = page(sections=[("", [tile()] * 2)])
    headed = page(sections=[("tiger cat 38.9 %", [tile()] * 2)])
    both = page(sections=[("tiger cat 38.9 %", [tile()] * 2), ("lynx 0.1", [tile()])])
    assert plain.height < headed.height < both.height
    assert pictures(both).any(1).sum() == 2 * round(TILE * 3 / 4)


def test_a_warning_makes_room_for_itself():
    assert page(sections=[("", [tile(warning=LONG), tile()])]).height > page(2).height


def test_the_part_that_the_model_saw_is_framed():
    photo, geometry = Image.new("RGB", (400, 300), "#226688"), Geometry((400, 300), (50.0, 0.0, 350.0, 300.0))
    whole = np.asarray(sheet("a", photo, [("", [tile()])], geometry=Geometry.whole((400, 300))))
    framed = np.asarray(sheet("a", photo, [("", [tile()])], geometry=geometry))
    changed = np.argwhere((whole != framed).any(2))
    left, right = MARGIN + round(50 * 1.1), MARGIN + round(350 * 1.1)
    assert changed.min(0).tolist() == [MARGIN, left]
    assert changed.max(0).tolist() == [MARGIN + 329, right - 1]


@pytest.mark.parametrize("white", [True, False])
def test_the_frame_is_seen_on_white_and_on_black(white):
    photo = Image.new("RGB", (400, 300), "white" if white else "black")
    drawn = np.asarray(sheet("a", photo, [("", [tile()])], geometry=Geometry((400, 300), (50.0, 0.0, 350.0, 300.0))))
    place = drawn[MARGIN + 100 : MARGIN + 200, MARGIN : MARGIN + TILE]
    assert (place == (0 if white else 255)).any()


def test_bars_are_as_long_as_probabilities():
    def filled(probability):
        drawn = np.asarray(page(predictions=[("cat", probability)]))
        return int((drawn == np.array([0x3B, 0x5B, 0xDB])).all(2).any(0).sum())

    full = filled(1.0)
    assert filled(0.0) == 0
    assert filled(0.5) == pytest.approx(full / 2, abs=2)
    assert 0 < filled(0.01) < 8
    assert filled(1.5) == full


def test_predictions_fit_beside_a_low_photograph():
    low = page(size=(300, 30), predictions=[(name, 0.2) for name in "abcde"])
    rows = (np.asarray(low) == np.array([0x3B, 0x5B, 0xDB])).all(2).any(1)
    assert int((np.diff(rows.astype(int)) == 1).sum()) == 5


def test_a_picture_of_another_shape_is_not_stretched():
    drawn = page(sections=[("", [Tile(Image.new("RGB", (50, 50), "#884422"), "square")])])
    shown = pictures(drawn)
    assert shown.any(0).sum() == shown.any(1).sum()


def test_the_same_sheet_twice():
    assert page(3).tobytes() == page(3).tobytes()


@pytest.mark.parametrize("sections", [[], [("", [])]])
def test_nothing_to_draw(sections):
    with pytest.raises(ValueError, match="no tiles"):
        sheet("a", Image.new("RGB", (40, 30)), sections)


@pytest.mark.parametrize("size", [(20, 30), (9, 16), (10, 30)], ids=str)
def test_the_bar_under_a_narrow_picture_is_as_wide_as_the_picture(size):
    drawn = np.asarray(page(size=size))
    below = drawn[MARGIN + 2 * TILE + 32 :]
    bar = np.argwhere((below == below[:, MARGIN : MARGIN + 1]).all(2) & (below != PAPER).any(2))
    top = bar[bar[:, 1] == MARGIN][0, 0]
    right = np.flatnonzero((below[top] != PAPER).any(1)).max() + 1
    assert right - MARGIN == max(pictures(drawn).any(0).sum(), 150)


def test_options_and_layers_are_not_cut():
    """A caption of two lines takes the page further down, and none of its letters is lost."""
    long = Tile(
        Image.new("RGB", (40, 30), "#884422"), "Integrated gradients, tolerance 0.001", "tiger cat 38.9 %", UNIT
    )
    assert page(sections=[("", [long])]).height > page(sections=[("", [tile()])]).height
    assert "".join(wrapped(long.caption, 25, 278, 2)).replace(" ", "") == long.caption.replace(" ", "")


def test_long_labels_have_the_room_that_the_bars_leave():
    label = "a label of several words that would not fit"
    drawn = np.asarray(page(4, predictions=[(label, 1.0)]))
    bar = np.argwhere((drawn == (0x3B, 0x5B, 0xDB)).all(2))[:, 1].min()
    assert bar > MARGIN + TILE + 40 + length(label, 24)
