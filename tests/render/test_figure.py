"""Charts show themselves."""

import io
import sys

import pytest
from PIL import Image

from deepviz.errors import MissingExtra
from deepviz.render.figure import figure


def test_a_notebook_gets_a_picture_of_the_size_asked_for():
    chart = figure(4, 2)
    chart.add_subplot().plot([0, 1])
    with Image.open(io.BytesIO(chart._repr_png_())) as picture:
        assert picture.size == (440, 220)


def test_pyplot_does_not_know_of_it():
    from matplotlib import pyplot

    before = pyplot.get_fignums()
    figure(4, 2)
    assert pyplot.get_fignums() == before


def test_without_matplotlib_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtra, match=r"deepviz\[plot\]"):
        figure(4, 2)
