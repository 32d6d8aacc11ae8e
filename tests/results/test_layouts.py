"""Explanations of what is no image: their views, and that they are stored."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import deepviz
from deepviz.errors import OutputError
from deepviz.geometry import Geometry
from deepviz.methods import GradCAM, Gradient, GradTimesImage
from deepviz.objectives import Logit
from deepviz.render.slices import MAIN_BOX, WIDE_BOX, side_by_side
from deepviz.results.explanation import ExplainedTarget, Explanation
from deepviz.results.sanity import seen
from deepviz.results.storage import packed, unpacked
from deepviz.viewer import record, report_page
from deepviz.viewer.reports import embedded

SHAPES = {"signal": (2, 50), "slices": (3, 16, 10, 12), "table": (7,), "image": (3, 10, 12)}


def explanation(layout, method=None, shape=None, **given):
    size = {"signal": (480, 120), "slices": (16 * 12, 10), "table": (440, 100), "image": (12, 10)}[layout]
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
    drawn = [12, 10] if layout == "slices" else list(one.values.shape[::-1])
    assert record(one)["map"]["size"] == drawn
    one.save(tmp_path / "a.png")
    one.save(tmp_path / "a.npz")
    assert "<figure" in one._repr_html_()
    assert b"item" in report_page([one])
    deepviz.sheet([one])


def test_values_are_the_evidence_in_its_place():
    volume = explanation("slices")
    total = volume.attribution.sum(0).numpy()
    np.testing.assert_array_equal(volume.volume, total)
    np.testing.assert_array_equal(volume.values, side_by_side(total))
    np.testing.assert_array_equal(volume.placed(), side_by_side(total))
    signal = explanation("signal")
    np.testing.assert_array_equal(signal.values, signal.attribution.sum(0)[None].numpy())
    table = explanation("table", Gradient())
    assert table.signed, "there are no channels to take the largest magnitude of"
    np.testing.assert_array_equal(table.values, table.attribution[None].numpy())


def test_a_layers_cells_are_linear_between_slices():
    """A map that rises along the depth has most evidence in the last slice, and the same all over each."""
    one = explanation("slices", GradCAM(), (1, 4, 2, 2), space=(16, 10, 12))
    maps = torch.arange(4.0)[None, :, None, None].expand(1, 4, 2, 2).contiguous()
    one = replace(one, attribution=maps)
    expected = np.clip((np.arange(16) + 0.5) / 4 - 0.5, 0, 3)  # centres of cells at 0.5, 1.5, 2.5 and 3.5 of 4
    np.testing.assert_allclose(one.volume, np.broadcast_to(expected[:, None, None], (16, 2, 2)), atol=1e-6)
    assert one.best_slice == 14, "the first of those beyond the centre of the last cell"
    np.testing.assert_allclose(one.slice_at(3, axis=1).values, np.tile(expected[:, None], (1, 12)), atol=1e-6)


CUBE = slice(9, 12), slice(2, 5), slice(6, 10)
"""Where a planted volume is bright: slices, rows and columns."""


def planted(channels=1, method=None, spacing=None):
    """Evidence in a cube alone, most in its slice 10, on a picture that is bright there."""
    maps = torch.zeros(channels, 16, 10, 12)
    maps[:, *CUBE] = 1.0
    maps[:, 10, 2:5, 6:10] = 2.0
    maps[:, 11, 3, 7] = 3.0
    levels = np.full((16, 10, 12, 3), 40, np.uint8)
    levels[CUBE] = (250, 250, 250) if channels == 1 else (250, 60, 60)
    picture = Image.fromarray(side_by_side(levels))
    if spacing is not None:
        picture.info["spacing"] = spacing
    return replace(
        explanation("slices", method or GradTimesImage(), space=(16, 10, 12)), attribution=maps, image=picture
    )


def test_the_large_slice_is_the_one_with_the_most_evidence():
    one = planted()
    assert one.best_slice == 10
    assert one.name_of(one.best_slice) == "slice 11 of 16"
    whole = np.asarray(one.overlay())
    size = (MAIN_BOX[0], round(MAIN_BOX[1] * 10 / 12))
    flat = one.slice_at(10)
    np.testing.assert_array_equal(whole[: size[1], : size[0]], np.asarray(flat._at(size).overlay(scale=one.scale)))
    centre = whole[round(3.5 / 10 * size[1]), round(8 / 12 * size[0])].astype(int)
    corner = whole[size[1] - 5, 5].astype(int)
    assert centre[0] > centre[2] + 60, "red is evidence for the class"
    assert np.ptp(corner) <= 4, "none there"


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_slice_is_a_flat_explanation_of_its_values_and_pixels(axis):
    one = planted()
    for index in range((16, 10, 12)[axis]):
        flat = one.slice_at(index, axis)
        assert flat.layout == "image"
        np.testing.assert_array_equal(flat.values, one.volume.take(index, axis))
        pixels = np.asarray(flat.image)[..., 0]
        np.testing.assert_array_equal(pixels > 100, flat.values > 0)
    with pytest.raises(IndexError, match=f"no slice 16 along axis {axis} of 16 x 10 x 12"):
        one.slice_at(16, axis)


def test_pixels_of_a_slice_have_the_proportions_of_the_voxels():
    one = planted(spacing=(4.0, 1.0, 0.5))
    assert [one.slice_at(0, axis).image.size for axis in range(3)] == [(12, 20), (12, 128), (10, 64)]
    (back,) = unpacked(packed([one]), "a.deepviz")
    assert back.image.info["spacing"] == (4.0, 1.0, 0.5)
    assert "spacing" not in unpacked(packed([planted()]), "a.deepviz")[0].image.info


def test_a_picture_in_colour_is_a_clip_and_has_no_cuts_across_time():
    volume, clip = planted(), planted(3)
    assert (volume.is_clip, clip.is_clip) == (False, True)
    assert clip.name_of(0) == "frame 1 of 16"
    drawn = np.asarray(clip.overlay()).astype(int)
    size = (round(WIDE_BOX[1] * 12 / 10), WIDE_BOX[1])
    np.testing.assert_array_equal(
        drawn[: size[1], : size[0]], np.asarray(clip.slice_at(10)._at(size).overlay(scale=clip.scale))
    )


def test_a_gradient_image_of_a_volume_shows_its_slices(tmp_path):
    one = planted(method=Gradient())
    for gray in (False, True):
        drawn = Image.open(deepviz.save_gradient_images(one, tmp_path / "a.png", gray=gray))
        assert drawn.tobytes() == one.grey(gray=gray).convert(drawn.mode).tobytes()


def test_a_strip_of_randomised_maps_shows_one_slice():
    one = planted()
    np.testing.assert_array_equal(seen(one), one.slice_at(10).overlay(scale=one.scale))
    np.testing.assert_array_equal(seen(one, 3), one.slice_at(3).overlay(scale=one.scale))
    table = explanation("table")
    assert seen(table).size == table.overlay().size


def test_a_map_of_zeros_has_no_slice_with_the_most_evidence():
    one = replace(planted(), attribution=torch.zeros(1, 16, 10, 12))
    assert one.best_slice == 8
    one.overlay()


def test_a_gif_plays_all_slices_and_only_slices(tmp_path):
    one = planted()
    with Image.open(one.save(tmp_path / "map.gif")) as played:
        assert (played.n_frames, played.info["loop"]) == (16, 0)
        for index in (0, 10, 15):
            played.seek(index)
            drawn = np.asarray(played.convert("RGB")).astype(int)
            expected = np.asarray(one.slice_at(index)._at((320, 267)).overlay(scale=one.scale)).astype(int)
            assert np.abs(drawn[:267] - expected).max() <= 24, "256 colours"
    for layout in ("image", "signal", "table"):
        with pytest.raises(OutputError, match=r"map\.gif: a \.gif plays the slices of a volume .* give \.png"):
            explanation(layout).save(tmp_path / "map.gif")
        with pytest.raises(OutputError, match="is of no volume or clip"):
            explanation(layout).slice_at(0)


@pytest.mark.parametrize("layout", SHAPES)
def test_they_are_stored_with_their_shape_and_objective(layout):
    space = {"slices": (16, 10, 12), "signal": (50,)}.get(layout)
    one = explanation(layout, space=space, input="x[1]", columns=tuple("abcdefg") if layout == "table" else ())
    content = packed([one])
    (back,) = unpacked(content, "a.deepviz")
    assert back.attribution.shape == one.attribution.shape
    assert (back.layout, back.space, back.input) == (layout, space, "x[1]")
    assert back.columns == one.columns
    assert back.target == one.target
    assert back.target.objective == Logit(3)
    assert torch.allclose(back.attribution, one.attribution, atol=1e-3)


def test_tables_of_two_rows_are_two_rows_of_a_sheet_and_a_report():
    one, other = explanation("table"), replace(explanation("table"), source="another")
    assert deepviz.sheet([one, other]).height > deepviz.sheet([one, one]).height
    assert len(embedded([one, other])["rows"]) == 2
    assert len(embedded([one, replace(one, method=Gradient())])["rows"]) == 1
    assert b"2 tables" in report_page([one, other])


def test_a_sheet_of_several_inputs_of_one_item():
    together = [explanation("image", input="x[0]"), explanation("table", input="x[1]")]
    apart = [explanation("image"), explanation("table")]
    assert deepviz.sheet(apart).height > deepviz.sheet(together).height
