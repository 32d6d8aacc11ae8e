"""The picture of the standard errors of a map: on its scale, without a sign, for methods that draw at random alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import deepviz
from deepviz.errors import OutputError
from deepviz.geometry import Geometry
from deepviz.methods import RISE, Gradient, Occlusion, ShapleySampling
from deepviz.render import overlay
from deepviz.results.explanation import ExplainedTarget
from small_models import good


def explained(values, errors, method):
    return deepviz.Explanation(
        attribution=values,
        image=Image.new("RGB", (32, 32), (90, 120, 150)),
        geometry=Geometry.whole((32, 32)),
        method=method,
        target=ExplainedTarget(1, "cat", 0.5, 1.0),
        model="net",
        source="cat.png",
        standard_error=errors,
    )


def test_errors_have_the_scale_of_the_map(tmp_path):
    """One can be held against the other: a value and an error as large have the same colour."""
    values = torch.tensor([[[0.0, 1.0], [2.0, 3.0]]])
    one = explained(values.flip(-1, -2), values, RISE(cells=2))
    # on the grey image, on which single pixels are drawn: most errors are small, and would not be seen on colours
    expected = np.asarray(overlay(one.image, values[0].numpy(), one.geometry, one.scale, fine=True))
    assert np.array_equal(np.asarray(one.error()), expected)
    with Image.open(one.save(tmp_path / "error.png", view="error")) as saved:
        assert np.array_equal(np.asarray(saved.convert("RGB")), expected)


def test_errors_of_a_signed_map_are_drawn_from_zero_up():
    values = torch.tensor([[[-1.0, 0.0], [0.0, 2.0]]])
    one = explained(values, torch.zeros(1, 2, 2), ShapleySampling(cells=2))
    assert one.signed
    assert not one.of_error.signed
    nothing = replace(one, attribution=torch.zeros(1, 2, 2))
    unsigned = replace(nothing, method=Gradient(), standard_error=None)
    assert np.array_equal(
        np.asarray(one.error()), np.asarray(unsigned.overlay(scale=replace(one.scale, low=0.0, signed=False)))
    )


def test_a_method_that_draws_nothing_at_random_has_none():
    one = deepviz.explain(good(), Image.new("RGB", (40, 40), (200, 10, 10)), Occlusion(window=16, stride=16))[0]
    assert one.standard_error is None
    assert "standard error" not in one.caption
    with pytest.raises(OutputError, match=r"Occlusion.* draws nothing at random, so its map has no standard error"):
        one.error()


def test_the_caption_says_how_sure_a_map_is():
    sure = explained(torch.ones(1, 2, 2), torch.ones(1, 2, 2), RISE()).noting(
        {"standard error": 0.034, "forward passes": 4000}
    )
    assert sure.caption == "cat 50.0 % · standard error 3.4 %, 4,000 passes"
    assert sure.tile().detail == sure.caption
