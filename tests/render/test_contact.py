import numpy as np
import pytest
from PIL import Image

from deepviz.render.contact import BORDER, LONGEST, SPACE, Thumbnail, _columns, contact_sheet

COLOUR = (0x88, 0x44, 0x22)
LONG = "a caption that does not end, or only after several more words than fit below one picture " * 3


def thumbnails(count, size=(40, 30), caption="", detail="", mode="RGB"):
    return [Thumbnail(Image.new("RGB", size, COLOUR).convert(mode), caption, detail) for _ in range(count)]


def coloured(page):
    return (np.asarray(page) == np.array(COLOUR)).all(2)


def assert_border_is_paper(page):
    levels = np.asarray(page)
    assert (levels[:, : BORDER - 1] == 255).all()
    assert (levels[:, -BORDER + 1 :] == 255).all()
    assert (levels[-SPACE // 2 :] == 255).all()


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 17])
@pytest.mark.parametrize("texts", [{}, {"title": "t", "footer": "f"}], ids=["bare", "texts"])
def test_every_picture_is_drawn_whole(count, texts):
    page = contact_sheet(thumbnails(count, (40, 30)), **texts)
    assert coloured(page).sum() == count * (40 * 6) * (30 * 6)  # 256 // 40 whole pixels for one
    assert_border_is_paper(page)


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        ((40, 30), (240, 180)),
        ((128, 128), (256, 256)),
        ((129, 100), (129, 100)),
        ((256, 256), (256, 256)),
        ((1024, 512), (256, 128)),
        ((5000, 3), (256, 1)),
        ((1, 1), (256, 256)),
    ],
    ids=str,
)
def test_sizes(size, shown):
    seen = coloured(contact_sheet(thumbnails(1, size)))
    down, along = np.nonzero(seen)
    assert (np.ptp(along) + 1, np.ptp(down) + 1) == shown
    assert max(shown) <= LONGEST


def test_reading_order():
    levels = [10, 60, 110, 160, 210]
    page = contact_sheet([Thumbnail(Image.new("RGB", (64, 64), (v, v, v))) for v in levels], columns=2)
    found = np.asarray(page)[..., 0]
    centres = [
        (BORDER + 128 + row * (256 + SPACE), BORDER + 128 + col * (256 + SPACE)) for row in range(3) for col in (0, 1)
    ]
    assert [found[centre] for centre in centres] == [*levels, 255]


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK"])
def test_pictures_of_any_mode(mode):
    assert contact_sheet(thumbnails(2, mode=mode)).mode == "RGB"


def test_pixels_stay_sharp_when_enlarged():
    picture = Image.fromarray(np.array([[0, 255], [200, 100]], dtype=np.uint8))
    page = np.asarray(contact_sheet([Thumbnail(picture)]))
    inside = page[BORDER : BORDER + 256, BORDER : BORDER + 256, 0]
    assert set(np.unique(inside)) == {0, 100, 200, 255}


def test_texts_take_room_only_where_there_are_some():
    bare, one, two = (
        contact_sheet(thumbnails(1, **text)) for text in ({}, {"caption": "c"}, {"caption": "c", "detail": "d"})
    )
    assert bare.height < one.height < two.height
    assert bare.width == two.width
    assert contact_sheet(thumbnails(1), title="t").height > bare.height
    assert contact_sheet(thumbnails(1), footer="f").height > bare.height


@pytest.mark.parametrize(
    "text", [LONG, LONG.replace(" ", ""), "狐 \U0001f98a", "two\nlines"], ids=["long", "word", "foreign", "lines"]
)
def test_texts_stay_in_their_column(text):
    page = contact_sheet(thumbnails(3, caption=text, detail=text), title=text, footer=text, columns=3)
    assert_border_is_paper(page)
    levels = np.asarray(page)
    top = BORDER + 48
    for column in (1, 2):
        gap = BORDER + column * (240 + SPACE)
        assert (levels[top : page.height - 2 * BORDER, gap - SPACE + 1 : gap - 1] == 255).all()


@pytest.mark.parametrize("count", range(1, 60))
def test_columns(count):
    columns = _columns(count)
    rows = -(-count // columns)
    assert 1 <= columns <= count
    assert columns >= rows or count <= 3 or columns * rows == count
    assert columns * rows - count < columns


def test_columns_may_be_given():
    assert contact_sheet(thumbnails(4), columns=4).width > contact_sheet(thumbnails(4), columns=1).width


def test_no_pictures():
    with pytest.raises(ValueError, match="no pictures"):
        contact_sheet([])
