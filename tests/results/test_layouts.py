"""Explanations of what is no image: their views, and that they are stored."""

import numpy as np
import pytest
import torch
from PIL import Image

import deepviz
from deepviz.geometry import Geometry
from deepviz.methods import GradCAM, Gradient, GradTimesImage
from deepviz.objectives import Logit
from deepviz.render.slices import shown_slices
from deepviz.results.explanation import ExplainedTarget, Explanation
from deepviz.results.storage import packed, unpacked
from deepviz.viewer import record, report_page

SHAPES = {"signal": (2, 50), "slices": (3, 16, 10, 12), "table": (7,), "image": (3, 10, 12)}


def explanation(layout, method=None, shape=None, **given):
    size = {"signal": (480, 120), "slices": (36, 30), "table": (440, 100), "image": (12, 10)}[layout]
    generator = torch.Generator().manual_seed(0)
    return Explanation(
        torch.randn(*(shape or SHAPES[layout]), generator=generator),
        Image.new("RGB", size, (200, 200, 200)),
        Geometry.whole(size),
        method or GradTimesImage(),
        ExplainedTarget(3, "cat", 0.5, 2.0, objective=Logit(3)),
        "net (as given)",
        "item",
        **given,
    )


@pytest.mark.parametrize("layout", SHAPES)
@pytest.mark.parametrize("method", [Gradient(), GradTimesImage()], ids=str)
def test_every_view_of_every_layout(layout, method, tmp_path):
    one = explanation(layout, method)
    assert one.layout == layout
    assert one.values.ndim == 2
    for view in ("overlay", "heatmap", "grey"):
        assert one.picture(view).width > 0
    assert one.tile().picture.width > 0
    assert one.grey(gray=False).width > 0
    assert record(one)["map"]["size"] == list(one.values.shape[::-1])
    one.save(tmp_path / "a.png")
    one.save(tmp_path / "a.npz")
    assert "<figure" in one._repr_html_()
    assert b"item" in report_page([one])
    deepviz.sheet([one])


def test_values_are_the_evidence_in_its_place():
    volume = explanation("slices")
    assert volume.overlay().size == (36, 30)
    total = volume.attribution.sum(0).numpy()
    shown = shown_slices(16)
    np.testing.assert_array_equal(volume.values[:10, :12], total[shown[0]])
    np.testing.assert_array_equal(volume.values[20:, 24:], total[shown[8]])
    signal = explanation("signal")
    np.testing.assert_array_equal(signal.values, signal.attribution.sum(0)[None].numpy())
    table = explanation("table", Gradient())
    np.testing.assert_array_equal(table.values, table.attribution.abs()[None].numpy())


def test_a_layers_cells_are_laid_on_the_slices_that_are_shown():
    """A map that rises along the depth is brightest in the last slice, and the same all over it."""
    one = explanation("slices", GradCAM(), (1, 4, 2, 2), space=(16, 10, 12))
    object.__setattr__(one, "attribution", torch.arange(4.0)[None, :, None, None].expand(1, 4, 2, 2).contiguous())
    assert not one.coarse
    tiles = one.values.reshape(3, 10, 3, 12).transpose(0, 2, 1, 3).reshape(9, -1)
    assert (np.ptp(tiles, axis=1) == 0).all()
    assert (np.diff(tiles[:, 0]) >= 0).all()


@pytest.mark.parametrize("layout", SHAPES)
def test_they_are_stored_with_their_shape_and_objective(layout):
    space = {"slices": (16, 10, 12), "signal": (50,)}.get(layout)
    one = explanation(layout, space=space, input="x[1]")
    content = packed([one])
    (back,) = unpacked(content, "a.deepviz")
    assert back.attribution.shape == one.attribution.shape
    assert (back.layout, back.space, back.input) == (layout, space, "x[1]")
    assert back.target == one.target
    assert back.target.objective == Logit(3)
    assert torch.allclose(back.attribution, one.attribution, atol=1e-3)


def test_a_sheet_of_several_inputs_of_one_item():
    together = [explanation("image", input="x[0]"), explanation("table", input="x[1]")]
    apart = [explanation("image"), explanation("table")]
    assert deepviz.sheet(apart).height > deepviz.sheet(together).height
