"""Presets: complete settings by name."""

from dataclasses import fields

import pytest

from deepviz.errors import MethodError
from deepviz.synthesis import PRESETS, ImageGenerator, Pixels
from deepviz.synthesis.presets import find_preset


@pytest.mark.parametrize("name", PRESETS)
def test_a_generator_can_take_every_setting(name):
    preset = find_preset(name)
    options = {field.name for field in fields(ImageGenerator)}
    assert {field.name for field in fields(preset)} - {"paper"} <= options
    assert preset.paper


def test_simonyan_is_plain_ascent_from_grey_with_an_l2_penalty():
    preset = find_preset("simonyan")
    assert (preset.canvas, preset.transforms, preset.optimizer) == (Pixels(noise=0.0), (), "ascent")
    assert "l2()" in str(preset.penalty)


@pytest.mark.parametrize(("name", "words"), [("lucit", "did you mean 'lucid'"), ("zzz", "there are lucid, maco")])
def test_an_unknown_preset(name, words):
    with pytest.raises(MethodError, match=words):
        find_preset(name)
