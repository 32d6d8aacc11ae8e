"""The report: one file, offline, safe from what names hold, and small."""

import base64
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from deepviz import Explanation
from deepviz.errors import OutputError
from deepviz.geometry import Geometry
from deepviz.methods import RISE, GradCAM, Gradient, GradTimesImage, IntegratedGradients, SmoothGrad
from deepviz.render import Scale
from deepviz.render import colour as colours
from deepviz.results.explanation import ExplainedTarget
from deepviz.viewer import report, report_page, reports

HOSTILE = "</script><script>globalThis.broken=1</script><img src=x onerror='globalThis.broken=1'>&\"'<!--"


def noise(*shape, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=draw) * torch.rand(shape, generator=draw) ** 3


def explained(method=None, *, seed=0, size=(64, 48), source="cat.png", label="cat", side=24, **notes):
    method = method or Gradient()
    shape = (1, 7, 7) if method.coarse else (3, side, side)
    smooth = Image.fromarray((np.random.default_rng(seed).random((6, 8, 3)) * 255).astype(np.uint8))
    return Explanation(
        attribution=noise(*shape, seed=seed),
        image=smooth.resize(size, Image.Resampling.BICUBIC),
        geometry=Geometry(size, (size[0] / 8, 0.0, size[0] * 7 / 8, float(size[1]))),
        method=method,
        target=ExplainedTarget(seed, label, 0.5, 1.25),
        model="net (made up)",
        source=source,
        notes=notes,
        versions={"deepviz": "1.2.3", "torch": "2.0"},
    )


def many():
    """Two rows of three, of two photographs."""
    made = []
    for seed, source in enumerate(("cat.png", "dog.png")):
        group = [explained(method, seed=seed, source=source) for method in (Gradient(), GradTimesImage(), GradCAM())]
        made += [replace(one, image=group[0].image, target=group[0].target) for one in group]
    return made


@pytest.fixture
def opened(visit, tmp_path):
    return visit.open(report(many(), tmp_path / "report"))


def test_the_path_and_the_ending(tmp_path):
    assert report(many(), tmp_path / "deep" / "report") == tmp_path / "deep" / "report.html"
    assert (tmp_path / "deep" / "report.html").read_bytes() == report_page(many())
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        report(many(), tmp_path / "file" / "report.html")
    with pytest.raises(ValueError, match="no explanations"):
        report([], tmp_path / "empty.html")


def test_photographs_are_in_it_once():
    data = embedded(report_page(many()).decode())
    assert len(data["photographs"]) == 2
    assert [row["photograph"] for row in data["rows"]] == [0, 1]
    assert [len(row["tiles"]) for row in data["rows"]] == [4, 4], "the image itself, and three maps"


def test_results_of_one_photograph_and_class_share_a_row_whoever_made_them():
    first, second = explained(), explained(GradCAM())
    assert first.image is not second.image
    data = embedded(report_page([first, second]).decode())
    assert [(row["detail"], len(row["tiles"])) for row in data["rows"]] == [("cat 50.0 %", 3)]
    assert len(data["photographs"]) == 1
    surer = replace(second, model="another", target=replace(second.target, probability=0.75))
    (row,) = embedded(report_page([first, surer]).decode())["rows"]
    assert row["detail"] == "cat"
    assert [tile["detail"] for tile in row["tiles"][1:]] == ["cat 50.0 % · net (made up)", "cat 75.0 % · another"]


def embedded(page, name="data"):
    return json.loads(re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', page, re.DOTALL)[1])


PREDICTIONS = (("cat", 0.5), ("dog", 0.25), ("a bird", 0.0002))


def test_the_image_comes_first_with_what_the_model_predicts(visit, tmp_path):
    one = replace(explained(photograph=("16 bits scaled to 8",)), predictions=PREDICTIONS)
    visit.open(report([one, replace(one, method=GradTimesImage())], tmp_path / "report"))
    first = visit.page.locator(".dv-tile").first
    assert first.locator(".dv-title").inner_text() == "Image"
    said = "16 bits scaled to 8; the model saw the middle 75 % of the width"
    assert first.locator(".dv-detail").inner_text() == said
    lines = first.locator(".dv-predicted li").all_inner_texts()
    assert [line.split("\n") for line in lines] == [["cat", "50.0 %"], ["dog", "25.0 %"], ["a bird", "<0.1 %"]]
    drawn = "({ canvas, context }) => [...context.getImageData(canvas.width / 2, canvas.height / 2, 1, 1).data]"
    seen = visit.page.evaluate(f"() => ({drawn})(comparison.tiles[0])")
    assert np.abs(np.array(seen[:3]) - one.image.getpixel((32, 24))).max() < 24, "the image, but for JPEG"
    assert visit.page.locator(".dv-top p").inner_text() == "1 image · 2 methods · net (made up)"
    two = embedded(report_page([one, replace(one, model="another")]).decode())["rows"][0]["tiles"][0]
    assert two["predictions"] == [], "two models predict two things"


def album(count):
    """Photographs with two maps each, and with classes of their own."""
    made = []
    for seed in range(count):
        one = explained(seed=seed, source=f"{seed}.png", label=f"class {'even' if seed % 2 == 0 else 'odd'} {seed}")
        made += [one, replace(one, method=GradTimesImage())]
    return made


def test_ten_photographs_have_contents_and_a_filter(visit, tmp_path):
    visit.open(report(album(9), tmp_path / "nine"))
    assert not visit.page.locator("#contents").is_visible()
    visit.open(report(album(10), tmp_path / "ten"))
    page = visit.page
    links = page.locator("#contents li:visible")
    assert links.count() == 10
    page.get_by_role("link", name="7.png").click()
    page.wait_for_function("() => comparison.sections[7].element.getBoundingClientRect().top < innerHeight / 2")
    field = page.get_by_label("Filter")
    field.fill("EVEN class")
    assert links.count() == page.locator(".dv-row:visible").count() == 5
    assert page.locator(".dv-count").inner_text() == "5 of 10"
    field.fill("no such word")
    assert page.locator(".dv-row:visible").count() == 0
    assert page.locator(".dv-none").is_visible()
    field.fill("")
    assert page.locator(".dv-row:visible").count() == 10
    assert visit.complaints == []


def test_a_long_report_draws_what_is_near_and_decodes_the_rest_later(visit, tmp_path):
    visit.open(report(album(40), tmp_path / "long"))
    page = visit.page
    count = "(of) => comparison.tiles.filter(of).length"
    drawn = page.evaluate(f"() => ({count})((tile) => tile.canvas.width > 0 && tile.picture?.out)")
    assert 0 < drawn <= 40, "of 80 maps"
    page.evaluate("() => comparison.sections[35].element.scrollIntoView()")
    page.wait_for_function("() => comparison.sections[35].tiles.every((tile) => tile.bitmap && tile.canvas.width > 1)")
    page.evaluate("() => comparison.idle()")
    page.wait_for_function("() => !comparison.tiles[1].picture.out", timeout=10_000)
    page.wait_for_function("() => comparison.owed.size === 0 && comparison.tiles.every((tile) => tile.bitmap)")
    page.evaluate("() => window.dispatchEvent(new Event('beforeprint'))")
    filled = page.evaluate(
        """() => comparison.tiles.map(({ canvas, context }) =>
            new Set(context.getImageData(0, 0, canvas.width, canvas.height).data).size > 20)"""
    )
    assert filled == [True] * 120
    assert visit.complaints == []


def test_the_first_row_is_drawn_before_the_page_is_read_to_its_end():
    """Each image and each row's maps are elements of their own, in order, after the script."""
    page = report_page(many()).decode()
    at = [page.index(f'id="{name}"') for name in ("data", "image-0", "maps-0", "image-1", "maps-1")]
    assert at == sorted(at)
    assert page.index("use strict") < at[1]
    assert page.index("Inputs and targets") > at[-1]
    assert "jpeg;base64" not in json.dumps(embedded(page))
    assert len(embedded(page, "maps-1")) == 4


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_scrolls_down_alone_and_no_line_is_empty(chromium, tmp_path, scheme):
    one = replace(explained(warnings=("a long warning, which takes several lines " * 4,)), predictions=PREDICTIONS)
    path = report([one, *many()], tmp_path / "report")
    context = chromium.new_context(viewport={"width": 400, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    page.goto(path.as_uri())
    assert page.evaluate("() => document.documentElement.scrollWidth") == 400
    for line in page.locator(".dv-table tr:visible").all():
        cells = [cell for cell in line.locator("td").all() if cell.is_visible()]
        assert cells
        heights = [cell.bounding_box()["height"] for cell in cells]
        assert line.bounding_box()["height"] <= sum(heights) + 20
        assert max(heights) < 250
    for name in ("Gradient × image", "Image"):
        tile = page.locator(".dv-tile", has_text=name).first
        assert tile.bounding_box()["width"] <= 368
    context.close()


def test_a_long_table_is_opened_by_the_reader_and_for_print(visit, tmp_path):
    visit.open(report(album(21), tmp_path / "report"))
    table = visit.page.locator("details", has_text="Values and checks")
    assert "42 lines" in table.locator("summary").inner_text()
    assert not table.locator("table").is_visible()
    visit.page.evaluate("() => window.dispatchEvent(new Event('beforeprint'))")
    assert table.locator("table").is_visible()


def test_it_says_what_is_needed_to_defend_it():
    method = SmoothGrad(of=IntegratedGradients(steps=7), samples=3)
    checks = {"in words": "deletion 0.10, better than a random map (0.30)"}
    one = explained(
        method, warnings=("read with care",), checks=checks, **{"completeness gap": 0.0123, "weights sha256": "ab12"}
    )
    page = report_page([one]).decode()
    for said in ("samples 3", "of Integrated gradients", "read with care", "better than a random map (0.30)"):
        assert said in page
    for said in ("completeness gap: 0.0123", "ab12", "net (made up)", "deepviz 1.2.3, torch 2.0", "cat (0)", "1.25"):
        assert said in page
    assert "from 8, 0 to 56, 48" in page
    assert "arXiv" in page


def test_names_and_labels_cannot_become_markup(visit, tmp_path):
    one = explained(source=HOSTILE, label=HOSTILE, warnings=(HOSTILE,), photograph=(HOSTILE,), layer=HOSTILE)
    visit.open(report([replace(one, model=HOSTILE)], tmp_path / "hostile.html", title=HOSTILE))
    assert visit.page.evaluate("() => globalThis.broken") is None
    assert visit.page.locator(".dv-row-title").inner_text() == HOSTILE
    assert visit.page.locator("h1").inner_text() == HOSTILE
    assert visit.page.locator("img").count() == 0
    assert visit.complaints == []


@pytest.mark.parametrize(("size", "drawn"), [((8, 8), 224), ((64, 48), 256), ((112, 112), 224), ((150, 150), 150)])
def test_small_images_are_enlarged_by_whole_pixels(visit, tmp_path, size, drawn):
    """The map is drawn with its own detail, and the image's pixels stay squares."""
    visit.open(report([explained(size=size)], tmp_path / "small"))
    widths = visit.page.evaluate("() => comparison.tiles.map(({ canvas }) => canvas.width)")
    assert widths == [drawn] * 2
    times = drawn // size[0]
    flat = visit.page.evaluate(
        """(times) => {
            const { canvas, context } = comparison.tiles[0];
            const pixels = new Uint32Array(context.getImageData(0, 0, canvas.width, times).data.buffer);
            return pixels.every((one, n) => one === pixels[Math.floor((n % canvas.width) / times) * times]);
        }""",
        times,
    )
    assert flat


@pytest.mark.parametrize(("size", "ratio"), [((600, 75), 8), ((640, 1), 20), ((1, 640), 1 / 20)])
def test_strips_keep_their_proportions_and_can_be_seen(visit, tmp_path, size, ratio):
    visit.open(report([explained(GradCAM(), size=size)], tmp_path / "strip"))
    for frame in visit.page.locator(".dv-frame").all():
        box = frame.bounding_box()
        assert box["width"] / box["height"] == pytest.approx(ratio, rel=0.1)
        assert min(box["width"], box["height"]) >= 10


def test_without_the_escapes_the_policy_would_still_hold(visit, tmp_path):
    page = report_page(many()).replace(b"</h1>", b"</h1><script>globalThis.broken=1</script><p style='color:red'>")
    (tmp_path / "broken.html").write_bytes(page)
    visit.open(tmp_path / "broken.html")
    assert visit.page.evaluate("() => globalThis.broken") is None
    assert len(visit.complaints) == 2


def test_it_asks_for_nothing_and_complains_of_nothing(opened):
    assert opened.fetched == [opened.page.url]
    assert opened.complaints == []
    assert opened.page.locator(".dv-tile").count() == 2 + 6


def test_four_photographs_and_eight_methods_are_below_one_and_a_half_megabytes():
    # noise hardly packs, and so do the maps of single pixels of which there are seven of eight
    methods = [Gradient(), GradTimesImage(), *(SmoothGrad(samples=n) for n in range(2, 7)), GradCAM()]
    made = []
    for seed in range(4):
        group = [explained(method, seed=seed, size=(1200, 900), side=224, source=f"{seed}.jpg") for method in methods]
        made += [replace(one, image=group[0].image) for one in group]
    assert len(made) == 32
    assert len(report_page(made)) < 1.5e6


def drawn(page):
    return page.evaluate("() => comparison.tiles.map((tile) => tile.canvas.toDataURL())")


def settled(page):
    page.evaluate("() => comparison.idle()")
    return drawn(page)


def test_each_control_changes_what_is_drawn(opened):
    page = opened.page
    before = settled(page)
    for change in (
        lambda: page.get_by_label("Opacity").fill("30"),
        lambda: page.get_by_label("Threshold").fill("90"),
        lambda: page.get_by_label("Colours", exact=True).select_option(label="Viridis"),
        lambda: page.get_by_label("Signed colours").select_option(label="Coolwarm"),
        lambda: page.get_by_label("Magnitude").check(force=True),
        lambda: page.get_by_label("Scale").select_option(label="All"),
        lambda: page.get_by_label("Contours").check(),
        lambda: page.get_by_label("Map", exact=True).check(force=True),
        lambda: page.get_by_role("radio", name="Image").check(force=True),
    ):
        change()
        after = settled(page)
        assert after != before
        before = after
    assert opened.fetched == [page.url]
    assert opened.complaints == []


def test_shared_scales_are_pythons(opened):
    made = many()
    for scale, group in (("method", [made[0], made[3]]), ("all", made)):
        high = opened.page.evaluate(
            "scale => { comparison.set({ scale }); return comparison.highOf(comparison.tiles[1]); }", scale
        )
        pooled = Scale.shared([np.abs(one.values) for one in group], signed=False).high
        coarse = max((float(one.values.max()) for one in group if one.coarse), default=0)
        assert high == pytest.approx(max(pooled, coarse), rel=0.05)


def test_maps_of_a_method_in_a_row_share_a_scale(opened):
    """By default, where their values are comparable: of the same method at the same layer of the same model."""
    highs = opened.page.evaluate(
        """() => {
            const { id, tiles } = comparison.sections[0];
            const [first, other] = [tiles[1].tile.record, tiles[2].tile.record];
            const scale = { ...first.scale, high: 2 * first.scale.high };
            const stronger = { ...first, scale, map: { ...first.map, unit: 1.5 * first.map.unit } };
            const records = [first, stronger, { ...stronger, model: "another" }, other];
            const shown = records.map((record, n) => ({ id: `n${n}`, record }));
            const rows = [{ id, title: "t", photograph: tiles[0].photograph, tiles: shown }];
            comparison.show(rows);
            const highs = ({ tile }, n) => [comparison.highOf(comparison.tiles[n]), tile.record.scale.high];
            return comparison.idle().then(() => comparison.tiles.map(highs));
        }"""
    )
    assert highs[0][0] == highs[1][0]
    assert highs[0][0] > highs[0][1]
    assert [high for high, _ in highs[2:]] == [own for _, own in highs[2:]], "nothing else shares one"


def test_settings_are_plain_and_unknown_ones_are_left_out(opened):
    page = opened.page
    kept = page.evaluate(
        "() => { comparison.set({ opacity: 0.5, view: 'sideways', sign: 'toString', colours: 'none', "
        "more: 1, threshold: 500 });"
        " return JSON.stringify(comparison.settings); }"
    )
    defaults = json.loads(kept)
    assert defaults["opacity"] == 0.5
    assert (defaults["view"], defaults["sign"], defaults["colours"], defaults["threshold"]) == (
        "overlay",
        "both",
        "inferno",
        0,
    )
    assert "more" not in defaults


def test_pointing_at_one_tile_reads_all_tiles_of_its_photograph(opened):
    page = opened.page
    frame = page.locator(".dv-frame").nth(3)
    box = frame.bounding_box()
    page.mouse.move(box["x"] + 0.4 * box["width"], box["y"] + 0.6 * box["height"])
    page.wait_for_function("() => document.querySelectorAll('.dv-pointed').length === 4")
    told = float(page.locator(".dv-value").nth(3).inner_text().replace("−", "-"))
    drawn = replace(many()[2], geometry=many()[2].geometry.scaled((256, 192)))
    expected = drawn.placed()[int(0.6 * 192), int(0.4 * 256)]
    assert told == pytest.approx(float(expected), rel=0.02)
    page.mouse.move(1, 1)
    page.wait_for_function("() => document.querySelectorAll('.dv-pointed').length === 0")


def estimated(**notes):
    """A map of 7 x 7 cells that is drawn with its sign, of which the errors are a tenth."""
    one = explained(GradCAM(relu=False), **notes)
    return replace(one, attribution=one.attribution.abs(), standard_error=one.attribution.abs() / 10)


def test_standard_errors_are_a_view_where_a_map_has_them(visit, tmp_path):
    notes = {"standard error": 0.125, "forward passes": 4096}
    sampled = estimated(**notes)
    page = visit.open(report([sampled, replace(explained(GradTimesImage()), image=sampled.image)], tmp_path / "r")).page
    tiles = page.locator(".dv-tile:not(.dv-original)")
    assert "standard error 12.5 %, 4,096 passes" in tiles.nth(0).inner_text()
    assert "standard error" not in tiles.nth(1).inner_text()
    assert "standard error: 12.5 %" in page.locator("section.dv-table", has_text="Values and checks").inner_text()
    box = tiles.nth(0).locator(".dv-frame").bounding_box()
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.5 * box["height"])
    page.wait_for_function("() => document.querySelectorAll('.dv-pointed').length === 3")
    value, error = tiles.nth(0).locator(".dv-value").inner_text().split(" ± ")
    assert float(error) == pytest.approx(float(value) / 10, rel=0.05)
    assert "±" not in tiles.nth(1).locator(".dv-value").inner_text()

    before = settled(page)
    page.get_by_label("Standard error of each value").check(force=True)
    after = settled(page)
    assert after[1] != before[1]
    assert tiles.nth(0).locator(".dv-scale span").first.inner_text() == "0", "errors have no sign"
    assert tiles.nth(0).locator(".dv-wait").is_hidden()
    assert tiles.nth(1).locator(".dv-wait").inner_text() == "no standard error"
    page.get_by_role("radio", name="Overlay").check(force=True)
    assert settled(page) == before
    assert page.locator(".dv-wait:visible").count() == 0
    assert visit.complaints == []


def test_maps_without_errors_have_no_such_view(opened):
    assert opened.page.locator(".dv-view-error").is_hidden()


def test_a_map_from_its_lowest_value_up_says_so():
    assert "from the lowest up" in report_page([explained(RISE())]).decode()


def test_errors_of_few_cells_are_small_in_a_report():
    few, none = estimated(), replace(estimated(), standard_error=None)
    assert len(report_page([few])) - len(report_page([none])) < 600


def test_pointing_outside_of_what_the_model_saw(opened):
    box = opened.page.locator(".dv-frame").nth(1).bounding_box()
    opened.page.mouse.move(box["x"] + 3, box["y"] + 20)
    opened.page.wait_for_function("() => document.querySelectorAll('.dv-value')[1].textContent === 'not seen'")


def test_everything_can_be_done_with_the_keyboard(opened):
    page = opened.page
    page.locator(".dv-frame").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    spoken = page.locator(".dv-spoken")
    assert re.match(r"Gradient .*, Gradient × image .*, Grad-CAM .*", spoken.inner_text())
    page.keyboard.press("+")
    assert page.evaluate("() => comparison.view.zoom") == 1.5
    page.keyboard.press("Shift+ArrowLeft")
    assert page.evaluate("() => comparison.view.x") < 0.5
    page.keyboard.press("0")
    assert page.evaluate("() => comparison.view") == {"zoom": 1, "x": 0.5, "y": 0.5}
    page.keyboard.press("Escape")
    assert page.locator(".dv-pointed").count() == 0
    page.locator("body").focus()
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate("() => document.activeElement.getAttribute('aria-label') || document.activeElement.id")
        )
    assert {"Zoom in (+)", "Overlay", "Gradient: cat 50.0 %, on cat.png", "Inputs and targets"} <= reached


def test_everything_has_a_name(opened):
    unnamed = opened.page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, [role=img], [role=group]")]
        .filter((one) => !(one.getAttribute("aria-label") || one.textContent.trim() || one.labels?.length))
        .map((one) => one.outerHTML)"""
    )
    assert unnamed == []
    assert "arXiv" not in opened.page.locator(".dv-frame").first.get_attribute("aria-label")


def planted(method=None, seed=0):
    """A volume of 8 slices of one grey level each, with most evidence in the slice 5."""
    maps = torch.zeros(1, 8, 20, 30)
    maps[0, 5, 4:9, 10:16] = 1.0
    maps[0, 2, 0, 0] = 0.5
    levels = np.repeat(np.arange(8, dtype=np.uint8) * 30, 30)[None, :, None] + np.zeros((20, 1, 3), np.uint8)
    one = explained(method or GradTimesImage(), seed=seed, source="scan.nii.gz")
    image = Image.fromarray(levels)
    return replace(one, attribution=maps, image=image, geometry=Geometry.whole(image.size), space=(8, 20, 30))


def test_a_slider_shows_the_slices_of_all_tiles_of_an_image(visit, tmp_path):
    first, other = planted(), planted()
    group = [first, replace(planted(Gradient()), image=first.image, target=first.target)]
    another = replace(other, image=other.image.point(lambda level: level + 20), source="other.nii.gz")
    visit.open(report([*group, another], tmp_path / "report"))
    page = visit.page
    sliders = page.get_by_role("slider", name="Slice, ")
    told = "() => [...document.querySelectorAll('.dv-slices input')].map((one) => one.getAttribute('aria-valuetext'))"
    assert page.evaluate(told) == ["slice 6 of 8"] * 5, "that with the most evidence"
    grey = "() => comparison.tiles.map(({ context }) => context.getImageData(0, 0, 1, 1).data[0])"
    assert page.evaluate(grey)[0] == pytest.approx(5 * 30, abs=2)
    before = settled(page)
    sliders.nth(1).focus()
    page.keyboard.press("ArrowLeft")
    assert page.evaluate(told) == ["slice 5 of 8"] * 3 + ["slice 6 of 8"] * 2
    after = settled(page)
    assert [a != b for a, b in zip(before, after, strict=True)] == [True] * 3 + [False] * 2
    page.keyboard.press("Home")
    assert page.evaluate(told)[:3] == ["slice 1 of 8"] * 3
    page.locator(".dv-frame").nth(2).focus()
    page.keyboard.press("PageUp")
    settled(page)
    assert page.evaluate(told)[:3] == ["slice 2 of 8"] * 3
    assert page.evaluate(grey)[0] == pytest.approx(30, abs=2)
    sliders.first.fill("6")
    assert settled(page) == before
    assert not [one for one in visit.complaints if "readback" not in one], "of which the test makes many"


def test_slices_that_are_passed_quickly_leave_the_last_one(visit, tmp_path):
    visit.open(report(planted(), tmp_path / "report"))
    before = settled(visit.page)
    visit.page.evaluate(
        """async () => {
            const { photograph } = comparison.tiles[0];
            for (const index of [0, 7, 1, 6, 2, 3, 4, 5]) {
              comparison.slide(photograph, index);
              if (index % 2) await new Promise((done) => requestAnimationFrame(done));
            }
        }"""
    )
    assert settled(visit.page) == before


def test_a_report_of_a_volume_has_bounded_pictures(monkeypatch):
    whole = embedded(report_page(planted()).decode(), "image-0")
    assert len(whole) == 8
    assert opened_size(whole[0]) == (30, 20)
    monkeypatch.setattr(reports, "MOST_PIXELS", 8 * 15 * 10)
    assert {opened_size(one) for one in embedded(report_page(planted()).decode(), "image-0")} == {(15, 10)}


def opened_size(url):
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).size


def test_the_entries_of_a_table_are_bars_from_zero(visit, tmp_path):
    one = replace(
        explained(GradTimesImage()), attribution=torch.tensor([3.0, -1.5, 0.0]), columns=("age", "dose <b>", "id")
    )
    page = visit.open(report(one, tmp_path / "report")).page
    assert page.locator(".dv-frame:visible").count() == 0, "there is no image"
    lines = page.locator(".dv-bars li")
    assert [text.split("\n") for text in lines.all_inner_texts()] == [["age", "3"], ["dose <b>", "−1.5"], ["id", "0"]]
    drawn = lines.evaluate_all(
        """lines => lines.map((line) => {
            const { left, width, backgroundColor } = getComputedStyle(line, "::after");
            const whole = line.clientWidth;
            return [parseFloat(left) / whole, parseFloat(width) / whole, backgroundColor.match(/\\d+/g).map(Number)];
        })"""
    )
    high = one.scale.high
    expected = [(0.5, 0.5), (0.5 - 0.75 / high, 0.75 / high), (0.5, 0.0)]
    for (left, width, colour), (start, length), value in zip(drawn, expected, (3.0, -1.5, 0.0), strict=True):
        assert (left, width) == (pytest.approx(start, abs=0.01), pytest.approx(length, abs=0.01))
        assert colour == colours(np.array([[value]]), one.scale)[0, 0].tolist()


def test_a_flat_image_has_no_slider(opened):
    assert opened.page.locator(".dv-slices:visible").count() == 0


def test_zoom_and_pan_are_linked(opened):
    page = opened.page
    frames = page.locator(".dv-frame")
    frames.first.dblclick()
    scales = page.evaluate(
        "() => comparison.tiles.map((tile) => new DOMMatrix(getComputedStyle(tile.canvas).transform).a)"
    )
    assert scales == [3] * 8
    box = frames.first.bounding_box()
    before = page.evaluate("() => comparison.view.x")
    page.mouse.move(box["x"] + 50, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + 90, box["y"] + 50)
    page.wait_for_function(f"() => comparison.view.x < {before} - 0.01")
    page.mouse.up()
    moved = page.evaluate("() => comparison.view.x")
    assert before - moved == pytest.approx(40 / box["width"] / 3, rel=0.05)


def test_a_preview_comes_and_goes(opened):
    page = opened.page
    before = settled(page)
    page.evaluate(
        "() => comparison.preview({ row: '0', detail: 'seen', "
        "records: [null, { ...comparison.tiles[5].tile.record }] })"
    )
    assert page.locator(".dv-row-detail").first.inner_text() == "seen"
    during = settled(page)
    assert [a != b for a, b in zip(before, during, strict=True)] == [n == 1 for n in range(8)]
    page.evaluate("() => comparison.preview(null)")
    assert settled(page) == before


def test_showing_the_same_rows_again_keeps_the_tiles(opened):
    kept = opened.page.evaluate(
        """() => {
            const before = comparison.tiles.map((tile) => tile.picture);
            const rows = comparison.sections.map((section) => ({
              id: section.id, title: "t", detail: "", photograph: section.tiles[0].photograph,
              tiles: section.tiles.map((tile) => tile.tile) }));
            comparison.show(rows);
            return comparison.tiles.every((tile, i) => tile.picture === before[i]);
        }"""
    )
    assert kept


def test_a_tile_without_a_map_says_why(opened):
    page = opened.page
    page.evaluate(
        """() => comparison.show([{ id: "n", title: "new", photograph: comparison.sections[0].tiles[0].photograph,
            tiles: [{ id: "a", title: "A", record: null, pending: true },
                    { id: "b", title: "B", record: null, reason: "it has no layers" }] }])"""
    )
    settled(page)
    assert page.locator(".dv-pending").count() == 1
    assert page.locator(".dv-failed .dv-wait").inner_text() == "it has no layers"


def test_dragging_draws_twelve_tiles_from_what_is_kept(visit, tmp_path):
    """No map is placed or encoded again, and in the end every tile shows the last values. (How long it takes is a
    benchmark: benchmarks/viewer.py.)"""
    group = [explained(seed=seed, size=(450, 300), side=224) for seed in range(12)]
    visit.open(report([replace(one, image=group[0].image, target=group[0].target) for one in group], tmp_path / "r"))
    kept, drawn, alone = visit.page.evaluate(
        """async () => {
            const maps = comparison.tiles.filter(({ tile }) => tile.record);
            const pixels = () => maps.map(({ canvas, context }) =>
              context.getImageData(0, 0, canvas.width, canvas.height).data.join());
            comparison.drawAll();
            const codes = maps.map((tile) => tile.picture.codes);
            for (let i = 0; i < 40; i++) {
              comparison.set({ opacity: 0.3 + i / 100, threshold: i });
              await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
            }
            while (comparison.waiting.size) await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
            const drawn = pixels();
            comparison.drawAll();
            const kept = maps.every((tile, n) => tile.picture.codes === codes[n]);
            return [kept, new Set(drawn).size, JSON.stringify(drawn) === JSON.stringify(pixels())];
        }"""
    )
    assert kept
    assert drawn == 12
    assert alone


def test_it_prints_a_picture_for_every_tile(opened):
    page = opened.page
    page.emulate_media(media="print")
    page.evaluate("() => window.dispatchEvent(new Event('beforeprint'))")
    assert page.locator(".dv-tools").is_visible() is False
    filled = page.evaluate(
        """() => comparison.tiles.map(({ canvas, context }) =>
            new Set(context.getImageData(0, 0, canvas.width, canvas.height).data).size > 20)"""
    )
    assert filled == [True] * 8
    assert len(page.pdf()) > 10_000


@pytest.mark.parametrize("width", [1440, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_report_violates_a_rule_of_axe(chromium, tmp_path, scheme, width):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    made = [replace(one, predictions=PREDICTIONS) for one in (planted(), *album(21))]
    made[0] = made[0].noting({"warnings": ("read with care",), "checks": {"in words": "deletion 0.10"}})
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    page.goto(report(made, tmp_path / "report", title="Many").as_uri())
    page.wait_for_function("() => globalThis.comparison?.idle")
    page.evaluate("() => comparison.idle()")
    page.evaluate("() => document.querySelectorAll('details').forEach((one) => (one.open = true))")
    page.get_by_label("Filter").fill("odd")
    rules = {"rules": {"label-content-name-mismatch": {"enabled": True}}, "resultTypes": ["violations"]}
    found = axe.Axe().run(page, options=rules).response["violations"]
    assert [(one["id"], node["target"]) for one in found for node in one["nodes"]] == []
    context.close()
