"""Text in pictures: every script that a font at hand has, and what stands for the others."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

import deepviz
from deepviz.render import text
from deepviz.render.text import cut, drawable, length, spelled, wrapped, write
from deepviz.results.explanation import ExplainedTarget

PAGE = Path(deepviz.__file__).parent / "web" / "static"


@pytest.fixture
def _own_font_alone(monkeypatch):
    """As on a machine without any other font."""
    for function in (text.font_files, text._spelling, text._font_of, text._sized):
        function.cache_clear()
    monkeypatch.setattr(text, "FONTS", ())
    yield
    for function in (text.font_files, text._spelling, text._font_of, text._sized):
        function.cache_clear()


def drawn(words, size=20, align="left"):
    page = Image.new("L", (300, 60), 255)
    write(ImageDraw.Draw(page), (150 if align != "left" else 20, 10), words, "black", size, align)
    return np.asarray(page) < 128


def has(font, character):
    return bytes(font.getmask(character)) != bytes(font.getmask("\uffff"))


@pytest.mark.usefixtures("_own_font_alone")
def test_without_other_fonts_letters_are_spelled_with_plain_ones():
    assert spelled("Ä ß ø Łódź œuf ×\n") == "A ss o Lodz oeuf x "
    assert not drawable("狐")
    assert "?" not in spelled("狐 лиса")


@pytest.mark.usefixtures("_own_font_alone")
def test_a_label_that_cannot_be_drawn_is_the_number_of_its_class():
    target = ExplainedTarget(3, "狐", 0.25, 1.0)
    assert str(target.drawn) == "class 3 25.0 %"
    assert str(target) == "狐 25.0 %"
    assert ExplainedTarget(3, "fox", 0.25, 1.0).drawn.label == "fox"


def test_a_font_of_the_system_draws_what_pillows_own_lacks():
    fonts = [ImageFont.truetype(path, 20) for path in text.font_files()]
    lacking = [c for c in "狐лשثक\u0e01" if not has(text.font(20), c)]
    covered = [c for c in lacking if any(has(font, c) for font in fonts)]
    for character in lacking:
        assert drawable(character) == (character in covered)
    for character in covered:
        first = next(font for font in fonts if has(font, character))
        assert length(character, 20) == first.getlength(character)
        assert (drawn(character) != drawn("_")).any()


@pytest.mark.parametrize(("align", "left", "right"), [("left", 20, None), ("right", None, 150), ("middle", 100, 200)])
def test_text_ends_where_it_is_told_to(align, left, right):
    columns = np.flatnonzero(drawn("fox terrier", align=align).any(0))
    if align == "left":
        assert 20 <= columns[0] <= 23
    elif align == "right":
        assert 146 <= columns[-1] <= 150
    else:
        assert abs((columns[0] + columns[-1]) / 2 - 150) <= 2
    assert columns[-1] - columns[0] <= length("fox terrier", 20)


@pytest.mark.parametrize("words", ["fox", "Волк и лиса", "a fox and a wolf, and a third animal"])
def test_what_is_cut_fits(words):
    for width in (30, 100, 1000):
        short = cut(words, 20, width)
        assert length(short, 20) <= width
        assert (short == spelled(words)) == (length(words, 20) <= width)
    lines = wrapped(words, 20, 120, 3)
    assert all(length(line, 20) <= 120 for line in lines)


def test_the_page_shows_probabilities_as_python_does():
    """`percent` in the page's elements.js is `percent` here."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node on this machine")
    chances = [0, 1e-9, 0.0009, 0.001, 0.0149, 0.0994, 0.2222, 0.5, 0.9989, 0.9995, 0.9999999, 1]
    script = (PAGE / "elements.js").read_text() + f"\nconsole.log(JSON.stringify({chances}.map(percent)));"
    run = subprocess.run(
        [node, "--input-type=module", "-"], input=script, capture_output=True, check=True, encoding="utf-8"
    )
    assert json.loads(run.stdout) == [text.percent(one) for one in chances]
