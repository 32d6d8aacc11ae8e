"""What the page draws is what Python draws."""

import base64
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from deepviz import Explanation
from deepviz.geometry import Geometry
from deepviz.methods import GradCAM, Gradient, GradTimesImage
from deepviz.render import colour
from deepviz.render.colour import LEVELS, Scale
from deepviz.results.explanation import ExplainedTarget
from deepviz.viewer import bundle, photograph, record, records, static_files
from deepviz.viewer.assets import COLOURS, DIVERGING, MODULES

SIZE = (90, 61)
BOXES = {
    "whole": (0.0, 0.0, 90.0, 61.0),
    "cropped": (14.5, 3.2, 69.1, 57.8),
    "padded": (-6.0, -20.5, 96.0, 81.5),
}
MAPS = {
    "fine": (Gradient(), (3, 40, 40)),
    "fine signed": (GradTimesImage(), (3, 40, 40)),
    "finer than the photograph": (Gradient(), (3, 150, 131)),
    "coarse": (GradCAM(), (1, 7, 7)),
    "coarse signed": (GradCAM(relu=False), (1, 5, 7)),
    "one cell": (GradCAM(), (1, 1, 1)),
}


def explained(kind, box="cropped", seed=0):
    draw = torch.Generator().manual_seed(seed)
    method, shape = MAPS[kind]
    values = torch.randn(shape, generator=draw) * torch.rand(shape, generator=draw) ** 3
    pixels = torch.randint(0, 256, (SIZE[1], SIZE[0], 3), generator=draw, dtype=torch.uint8)
    return Explanation(
        attribution=values if method.view != "positive" else values.abs(),
        image=Image.fromarray(pixels.numpy()),
        geometry=Geometry(SIZE, BOXES[box]),
        method=method,
        target=ExplainedTarget(1, "cat", 0.5, 1.0),
        model="net",
        source="cat.png",
    )


PAGE = """<!doctype html><meta charset="utf-8"><canvas id="canvas"></canvas><script type="module">
{bundle}
globalThis.draw = async (record, photograph, settings, high, slice) => {{
  const picture = await pictureOf(record);
  const bitmap = await opened(await new Blob([fromBase64(photograph)], {{ type: "image/png" }}));
  const canvas = document.getElementById("canvas");
  [canvas.width, canvas.height] = [bitmap.width, bitmap.height];
  picture.lay(pixelsOf(bitmap, canvas.width, canvas.height), canvas.width, canvas.height, slice);
  const context = canvas.getContext("2d", {{ willReadFrequently: true }});
  picture.draw(context, settingsFrom(settings), high ?? record.scale.high);
  const drawn = context.getImageData(0, 0, canvas.width, canvas.height).data;
  const text = drawn.reduce((text, byte) => text + String.fromCharCode(byte), "");
  return [btoa(text), Array.from(picture.placed, (value) => (isNaN(value) ? null : value))];
}};
</script>"""


@pytest.fixture(scope="module")
def draw(chromium, tmp_path_factory):
    path = tmp_path_factory.mktemp("drawing") / "page.html"
    path.write_text(PAGE.format(bundle=bundle()), encoding="utf-8")
    page = chromium.new_page()
    page.goto(path.as_uri())
    page.wait_for_function("() => globalThis.draw")

    def drawn(explanation, *, bits=32, high=None, changed=(), slice=0, **settings):
        image = explanation.slice_at(slice).image if explanation.layout == "slices" else explanation.image
        png = base64.b64encode(photograph(image)).decode()
        given = record(explanation, bits=bits) | dict(changed)
        made, placed = page.evaluate("given => draw(...given)", [given, png, settings, high, slice])
        height, width = image.height, image.width
        pixels = np.frombuffer(base64.b64decode(made), np.uint8).reshape(height, width, 4)
        return pixels, np.array(placed, np.float32).reshape(height, width)

    yield drawn
    page.close()


def difference(pixels, picture):
    assert (pixels[..., 3] == 255).all()
    return np.abs(pixels[..., :3].astype(int) - np.asarray(picture).astype(int)).max(-1)


def on_a_border(explanation, scale=None):
    """The pixels whose value lies between two colours of the table, where rounding decides."""
    levels = (scale or explanation.scale).unit(np.nan_to_num(explanation.placed())) * np.float32(LEVELS - 1)
    return np.abs(levels - np.floor(levels) - 0.5) < 1e-3


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("kind", MAPS)
def test_the_canvas_is_the_overlay(draw, kind, box):
    explanation = explained(kind, box)
    pixels, _ = draw(explanation)
    off = difference(pixels, explanation.overlay()) > 1
    assert not (off & ~on_a_border(explanation)).any()
    assert off.mean() < 1e-3


@pytest.mark.parametrize("kind", ["fine", "fine signed", "coarse"])
@pytest.mark.parametrize("share", [0.02, 0.3])
def test_on_a_dark_photograph(draw, kind, share):
    bright = explained(kind)
    explanation = replace(bright, image=bright.image.point(lambda level: round(share * level)))
    pixels, _ = draw(explanation)
    off = difference(pixels, explanation.overlay()) > 1
    assert not (off & ~on_a_border(explanation)).any()
    assert off.mean() < 1e-3


@pytest.mark.parametrize("kind", ["fine", "coarse signed"])
@pytest.mark.parametrize("opacity", [0.0, 0.31, 1.0])
def test_at_any_opacity(draw, kind, opacity):
    explanation = explained(kind)
    pixels, _ = draw(explanation, opacity=opacity)
    off = difference(pixels, explanation.overlay(opacity=opacity)) > 1
    assert not (off & ~on_a_border(explanation)).any()


@pytest.mark.parametrize("name", [*COLOURS, *DIVERGING])
def test_in_any_colours(draw, name):
    diverging = name in DIVERGING
    explanation = explained("coarse signed" if diverging else "coarse", "whole")
    pixels, _ = draw(explanation, **{"diverging" if diverging else "colours": name})
    off = difference(pixels, explanation.overlay(cmap=name)) > 1
    assert not (off & ~on_a_border(explanation)).any()


@pytest.mark.parametrize("kind", ["fine", "coarse signed"])
def test_on_another_scale(draw, kind):
    explanation = explained(kind)
    scale = Scale(-0.4 if explanation.signed else 0.0, 0.4, explanation.signed)
    pixels, _ = draw(explanation, high=0.4)
    off = difference(pixels, explanation.overlay(scale=scale)) > 1
    assert not (off & ~on_a_border(explanation, scale)).any()


@pytest.mark.parametrize("kind", MAPS)
def test_values_are_placed_as_in_python(draw, kind):
    explanation = explained(kind)
    _, placed = draw(explanation)
    np.testing.assert_allclose(placed, explanation.placed(), rtol=0, atol=1e-6 * explanation.scale.high)


def test_sixteen_bits_differ_by_one_colour_of_the_table_at_most(draw):
    explanation = explained("fine")
    _, placed = draw(explanation, bits=16)
    half_a_step = float(np.ptp(explanation.values)) / 65535 / 2
    np.testing.assert_allclose(placed, explanation.placed(), rtol=0, atol=1.01 * half_a_step)


@pytest.mark.parametrize("kind", ["fine", "fine signed", "finer than the photograph"])
def test_eight_bits_keep_the_square_root_of_the_share(draw, kind):
    explanation = explained(kind)
    box = Geometry.whole(explanation.attribution.shape[:0:-1])  # every pixel a cell: what is read is what was stored
    whole = Explanation(**vars_of(explanation) | {"geometry": box, "image": explanation.image.resize(box.size)})
    _, placed = draw(whole, bits=8)
    roots = [np.sign(v) * np.sqrt(np.abs(v) / explanation.scale.high) for v in (placed, explanation.values)]
    step = 1 / min(40, 254 / max(float(np.ptp(roots[1])), 1e-9))
    np.testing.assert_allclose(roots[0], roots[1], rtol=0, atol=0.5001 * step)
    assert (np.abs(roots[0][np.abs(roots[1]) < 0.499 * step]) < 1e-6).all()


def test_a_layers_few_values_stay_whole_in_eight_bits():
    made = record(explained("coarse"), bits=8)["map"]
    assert np.frombuffer(base64.b64decode(made["data"]), "<f4").tolist() == explained("coarse").values.ravel().tolist()


def volume(method=None, shape=(1, 6, 20, 30), seed=0, spacing=None):
    """Six slices of 30 x 20 voxels."""
    draw = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (20, 6 * 30, 1), generator=draw, dtype=torch.uint8).expand(-1, -1, 3)
    one = explained("fine", "whole", seed)
    image = Image.fromarray(np.ascontiguousarray(pixels.numpy()))
    image.info.update({} if spacing is None else {"spacing": spacing})
    values = torch.randn(shape, generator=draw)
    return replace(
        one,
        attribution=values if method is None else values.abs(),
        image=image,
        geometry=Geometry.whole(image.size),
        method=method or GradTimesImage(),
        space=(6, 20, 30),
    )


VOLUMES = {
    "voxels": {},
    "a layer's cells": {"method": GradCAM(), "shape": (1, 3, 5, 7)},
    "in proportion": {"spacing": (3.0, 2.0, 1.0)},
}


@pytest.mark.parametrize("index", [0, 3, 5])
@pytest.mark.parametrize("kind", VOLUMES)
def test_a_slice_is_drawn_as_in_python(draw, kind, index):
    explanation = volume(**VOLUMES[kind])
    flat = explanation.slice_at(index)
    pixels, placed = draw(explanation, slice=index)
    np.testing.assert_allclose(placed, flat.placed(), rtol=0, atol=1e-6 * explanation.scale.high)
    off = difference(pixels, flat.overlay(scale=explanation.scale)) > 1
    assert not (off & ~on_a_border(flat, explanation.scale)).any()


def test_a_slice_in_eight_bits_is_within_a_step_of_its_root(draw):
    explanation = volume()
    _, placed = draw(explanation, bits=8, slice=4)
    roots = [np.sign(v) * np.sqrt(np.abs(v) / explanation.scale.high) for v in (placed, explanation.volume[4])]
    step = 1 / min(
        40, 254 / np.ptp(np.sign(explanation.volume) * np.sqrt(np.abs(explanation.volume / explanation.scale.high)))
    )
    np.testing.assert_allclose(roots[0], roots[1], rtol=0, atol=0.501 * step)


def test_a_large_volume_is_averaged_within_its_slices_in_eight_bits(monkeypatch):
    monkeypatch.setattr(records, "MOST", 6 * 10 * 15)
    made = record(volume(), bits=8)
    assert made["map"]["size"] == [15, 10]
    values = np.frombuffer(base64.b64decode(made["map"]["data"]), "<f4").reshape(6, 10, 15)
    expected = volume().volume.reshape(6, 10, 2, 15, 2).mean((2, 4))
    np.testing.assert_allclose(values, expected, atol=1e-6)
    assert made["slices"] == {"count": 6, "first": volume().best_slice, "kind": "slice"}


def vars_of(explanation):
    return {name: getattr(explanation, name) for name in Explanation.__dataclass_fields__}


def test_the_map_alone_is_the_heatmap(draw):
    explanation = explained("coarse", "whole")
    pixels, _ = draw(explanation, view="map")
    off = difference(pixels, explanation.heatmap()) > 1
    assert not (off & ~on_a_border(explanation)).any()


def test_the_photograph_alone_is_untouched(draw):
    explanation = explained("fine")
    pixels, _ = draw(explanation, view="image")
    assert difference(pixels, explanation.image).max() == 0


def estimated(kind):
    """A map with standard errors, one of them larger than the scale of the map."""
    explanation = explained(kind)
    errors = explanation.attribution.abs().sum(0, keepdim=True).flip(-1) / 3
    errors[0, 0, 0] = 2 * explanation.scale.high
    return replace(explanation, standard_error=errors)


@pytest.mark.parametrize("bits", [32, 16])
@pytest.mark.parametrize("kind", ["fine signed", "coarse", "coarse signed"])
def test_standard_errors_are_drawn_on_the_scale_of_the_map(draw, kind, bits):
    explanation = estimated(kind)
    pixels, _ = draw(explanation, bits=bits, view="error")
    off = difference(pixels, explanation.error()) > 1
    scale = Scale(0.0, explanation.scale.high, signed=False)
    assert off.mean() < 0.02 if bits == 16 else not (off & ~on_a_border(explanation.of_error, scale)).any()


def test_standard_errors_of_a_slice(draw):
    explanation = volume()
    explanation = replace(explanation, standard_error=explanation.attribution.abs().flip(1))
    scale = Scale(0.0, explanation.scale.high, signed=False)
    flat = explanation.of_error.slice_at(4)
    pixels, _ = draw(explanation, slice=4, view="error")
    off = difference(pixels, flat.overlay(scale=scale)) > 1
    assert not (off & ~on_a_border(flat, scale)).any()


def test_a_map_that_is_not_estimated_has_no_errors_to_draw(draw):
    explanation = explained("coarse signed")
    assert "errors" not in record(explanation)
    pixels, _ = draw(explanation, view="error")
    assert difference(pixels, explanation.image).max() == 0


@pytest.mark.parametrize("percentile", [30, 90])
def test_the_threshold_leaves_the_largest_magnitudes(draw, percentile):
    explanation = explained("coarse signed", "whole")
    pixels, placed = draw(explanation, view="map", threshold=percentile)
    cut = np.percentile(np.abs(explanation.values), percentile)
    clear = np.abs(np.abs(placed) - cut) > 1e-3 * explanation.scale.high
    assert ((pixels[..., 3] == 255) == (np.abs(placed) >= cut))[clear].all()


@pytest.mark.parametrize("sign", ["positive", "negative", "magnitude"])
def test_signs(draw, sign):
    explanation = explained("coarse signed", "whole")
    pixels, placed = draw(explanation, view="map", sign=sign)
    clear = np.abs(placed) > 1e-3 * explanation.scale.high
    shown = {"positive": placed > 0, "negative": placed < 0, "magnitude": placed == placed}[sign]
    assert ((pixels[..., 3] == 255) == shown)[clear].all()
    if sign == "magnitude":
        expected = colour(np.abs(placed), Scale(0.0, explanation.scale.high, False))
        assert np.abs(pixels[..., :3].astype(int) - expected)[clear].max() <= 10  # a level and a half of 513
        assert np.abs(pixels[..., :3].astype(int) - expected)[clear].mean() < 1


def test_unseen_values_have_no_value(draw):
    _, placed = draw(explained("coarse", "cropped"))
    np.testing.assert_array_equal(np.isnan(placed), np.isnan(explained("coarse", "cropped").placed()))


def test_a_newer_form_is_refused(draw):
    with pytest.raises(Exception, match="the result has form 2, this page reads up to 1"):
        draw(explained("coarse"), changed={"version": 2})


def test_a_map_of_another_size_is_refused(draw):
    short = record(explained("coarse"))["map"] | {"size": [7, 8]}
    with pytest.raises(Exception, match="the map is not 7 × 8"):
        draw(explained("coarse"), changed={"map": short})


def test_the_tables_are_pythons():
    text = static_files()["tables.js"].decode()
    listed = json.loads(text.split("TABLES = ")[1].split(".map(")[0])
    assert [one["name"] for one in listed] == [*COLOURS, *DIVERGING]
    for one in listed:
        scale = Scale(-1.0 if one["diverging"] else 0.0, 1.0, one["diverging"])
        expected = colour(np.linspace(scale.low, scale.high, LEVELS)[None], scale, one["name"])
        assert base64.b64decode(one["bytes"]) == expected.tobytes()


def test_modules_import_only_what_comes_before_them_in_the_bundle():
    for position, name in enumerate(MODULES):
        source = static_files()[name].decode()
        imported = {line.split('"./')[1].split('"')[0] for line in source.splitlines() if line.startswith("import ")}
        assert imported <= set(MODULES[:position])


def test_names_at_the_top_of_modules_are_used_once_in_the_bundle():
    text = bundle("report.js")
    names = re.findall(r"^(?:async )?(?:const|let|class|function) (\w+)", text, re.MULTILINE)
    assert len(names) > 40
    assert sorted(names) == sorted(set(names))
    assert not re.search(r"^(import|export) ", text, re.MULTILINE)
