"""The page of a run in a real browser: Chromium, without a window."""

import csv
import re
import shutil
from contextlib import ExitStack
from pathlib import Path

import pytest

import deepviz
import tiny_run
from browser import Visit, served
from deepviz.results.shards import row_file
from deepviz.web import create_run_app

pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'deepviz[data]'")
pytest.importorskip("zarr", reason="zarr is not installed: pip install 'deepviz[data]'")

MANY = 20_000
SHOWN = "document.querySelectorAll('.item:not(.waiting)').length"
SCREEN = """(() => {
  const box = document.getElementById('grid').getBoundingClientRect();
  const seen = [...document.querySelectorAll('.item')].filter((one) => {
    const { top, bottom } = one.getBoundingClientRect();
    return bottom > box.top && top < box.bottom;
  });
  return document.getElementById('grid').getAttribute('aria-busy') === 'false' && seen.length > 0
    && seen.every((one) => one.querySelector('img[src]')?.complete || one.querySelector('.item-lack'));
})()"""
DRAWN = (
    "document.querySelectorAll('#detail-maps .dv-tile').length && !document.querySelector('.dv-frame[aria-busy=true]')"
)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Sixteen images, one of which cannot be read, in one shard."""
    root = tmp_path_factory.mktemp("run")
    images = tiny_run.folder_of_images(root / "images", 15, size=40)
    (images / "ant" / "broken.png").write_bytes(b"nothing")
    return deepviz.run(
        tiny_run.loaded(), images, ["grad-cam", "gradient"], metrics=["sparseness"], out=root / "out", shard_size=16
    )


@pytest.fixture(scope="module")
def many(small):
    return deepviz.Run(tiny_run.repeated(small, small.folder.parent / "many", MANY))


@pytest.fixture
def visit(chromium):
    with ExitStack() as running:

        def open_page(folder, **options):
            link = running.enter_context(served(create_run_app(folder)))
            return Visit(chromium, link, **options)

        yield open_page


def middle(run):
    """A number between those of the metric."""
    values = run.where("method == 'grad-cam' and sparseness > -1").rows["sparseness"].to_pylist()
    return round(sorted(values)[len(values) // 2], 3)


def names(ui):
    """What is written below the tiles, from the first on."""
    items = ui.locator(".item")
    found = [(int(item.get_attribute("data-at")), item.get_attribute("aria-label")) for item in items.all()]
    return [label for _, label in sorted(found)]


def test_a_run_opens_with_its_first_maps_and_no_more_than_a_screen(visit, many):
    page = visit(many.folder)
    page.until(SCREEN)
    ui = page.page
    assert ui.inner_text("#counted") == f"{MANY:,} images"
    assert ui.locator("#method").input_value() == "grad-cam"
    thumbnails = [url for url in page.requests if "/thumbnail" in url]
    assert 0 < len(thumbnails) < 60
    assert ui.evaluate(SHOWN) < 80, "tiles out of sight are not there"
    assert sum("/run/rows" in url for url in page.requests) == 1
    assert ui.locator(".item[aria-setsize='20000']").count() > 0
    page.close()


def test_scrolling_far_asks_for_what_is_seen_alone(visit, many):
    page = visit(many.folder)
    page.until(SCREEN)
    ui = page.page
    before = len(page.requests)
    for _ in range(12):  # through everything, without a rest
        ui.evaluate(
            "(() => { const grid = document.getElementById('grid'); grid.scrollTop += grid.scrollHeight / 13; })()"
        )
        ui.wait_for_timeout(8)
    ui.evaluate("document.getElementById('grid').scrollTop = 1e9")
    page.until(f"document.querySelector('.item[data-at=\"{MANY - 1}\"]') && {SCREEN}")
    asked = page.requests[before:]
    assert sum("/run/rows" in url for url in asked) <= 8
    assert sum("/thumbnail" in url for url in asked) < 120
    last = re.findall(r"images/(\d+)/", " ".join(asked[-20:]))
    assert all(int(index) > MANY - 200 for index in last)
    page.close()


def test_filters_of_all_kinds_show_the_rows_of_where(visit, small):
    page = visit(small.folder)
    page.until(SCREEN)
    ui = page.page

    def counts(condition):
        number = small.where(condition).rows.num_rows
        page.until(f"document.getElementById('counted').textContent.startsWith('{number} ')")
        page.until(SCREEN) if number else ui.locator("#none").wait_for()

    of_method = "(method == 'grad-cam' or method == None)"
    counts(of_method)
    condition = f"sparseness < {middle(small)}"
    ui.locator("#where").fill(condition)
    counts(f"{of_method} and {condition}")
    ui.locator("#correct label", has_text="Wrong").click()
    counts(f"{of_method} and {condition} and not correct")
    ui.locator("#label").select_option("bee")
    counts(f"{of_method} and {condition} and not correct and label == 'bee'")
    ui.locator("#all").click()
    counts(of_method)
    assert ui.locator("#where").input_value() == ""
    ui.locator("#failures").check()
    counts(f"{of_method} and failure")
    assert "broken.png" in names(ui)[0]
    assert "ImageError" in ui.inner_text(".item")
    ui.locator("#failures").uncheck()
    ui.locator("#method").select_option("")
    counts("index >= 0")
    ui.locator("#where").fill("index > 99")
    counts("index > 99")
    page.close()


def test_a_bad_filter_says_why_and_what_is_shown_stays(visit, small):
    page = visit(small.folder)
    page.until(SCREEN)
    ui = page.page
    ui.locator("#where").fill("beauty > 3")
    ui.locator("#where-problem").wait_for()
    assert "'beauty > 3' in 'beauty > 3' is no condition on the columns: there are index" in ui.inner_text(
        "#where-problem"
    )
    assert ui.locator("#where").get_attribute("aria-invalid") == "true"
    assert ui.locator(".item").count() == 16
    ui.locator("#where").fill("index < 2")
    page.until("document.getElementById('counted').textContent === '2 images'")
    assert not ui.locator("#where-problem").is_visible()
    page.close(allowed=("422", "/run/rows"))


def test_sorting_by_a_metric_both_ways(visit, small):
    page = visit(small.folder)
    page.until(SCREEN)
    ui = page.page
    rows = small.where("method == 'grad-cam'").rows.to_pylist()
    expected = [row["image"] for row in sorted(rows, key=lambda row: row["sparseness"])]
    ui.locator("#sort").select_option("sparseness")
    page.until(f"document.querySelector('.item')?.getAttribute('aria-label').startsWith('{expected[0]}') && {SCREEN}")
    told = names(ui)
    assert [label.split(",")[0] for label in told[:15]] == expected
    assert "broken.png" in told[15], "what has no value comes last"
    assert f"{rows[0]['sparseness']:.3g}" in ui.inner_text("#grid"), "the value that is sorted by is written"
    ui.locator("#descending").click()
    page.until(
        f"document.querySelector('.item[data-at=\"0\"]')?.getAttribute('aria-label').startsWith('{expected[-1]}')"
    )
    assert ui.locator("#descending").get_attribute("aria-pressed") == "true"
    assert "broken.png" in names(ui)[15]
    page.close()


def test_a_row_opens_in_full_and_the_back_button_returns(visit, small):
    page = visit(small.folder)
    page.until(SCREEN)
    ui = page.page
    row = next(row for row in small.rows.to_pylist() if row["index"] == 4)
    ui.locator(".item[data-at='4']").click()
    page.until(DRAWN)
    assert ui.inner_text("#detail-title") == row["image"]
    assert ui.locator(".dv-title").all_inner_texts() == ["Image", "Grad-CAM", "Gradient"]
    assert row["prediction"] in ui.inner_text("#detail-facts")
    assert str(Path(small.manifest["question"]["source"]["root"]) / row["image"]) in ui.inner_text("#detail-facts")
    table = ui.inner_text("#detail-table")
    assert f"{row['sparseness']:.4g}" in table
    assert "grid of the layer" in table
    colours = ui.evaluate(
        """[...document.querySelectorAll('#detail-maps .dv-frame canvas')].map((canvas) =>
             new Set(canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data).size)"""
    )
    assert min(colours) > 50, "every tile shows a picture"
    ui.locator("#next").click()
    page.until("document.getElementById('detail-of').textContent === '6 of 16'")
    page.until(DRAWN)
    ui.go_back()
    page.until(SCREEN)
    assert not ui.locator("#detail").is_visible()
    ui.go_forward()
    page.until(DRAWN)
    page.close()


def test_what_could_not_be_read_opens_with_its_reason(visit, small):
    page = visit(small.folder)
    page.until(SCREEN)
    ui = page.page
    ui.locator(".item", has_text="ImageError").click()
    ui.locator("#detail-failed").wait_for()
    told = ui.inner_text("#detail-failed")
    assert told.startswith("ImageError: ")
    assert "broken.png is not an image in a format that Pillow can read" in told
    page.close()


def test_without_its_file_the_map_lies_on_grey(visit, small, tmp_path):
    folder = shutil.copytree(small.folder, tmp_path / "moved")
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text.replace(str(small.folder.parent / "images"), "/nowhere"))
    page = visit(folder)
    page.until(SCREEN)
    page.page.locator(".item[data-at='3']").click()
    page.until(DRAWN)
    assert "is not there any more" in page.page.inner_text("#detail-lacks")
    page.close()


def test_selected_images_are_saved_as_a_list_and_all_that_match_as_a_table(visit, small):
    page = visit(small.folder)
    page.until(SCREEN)
    ui = page.page
    for at in (3, 1):
        ui.locator(f".item[data-at='{at}']").click(modifiers=["Control"])
    ui.locator(".item[data-at='6']").hover()
    ui.locator(".item[data-at='6'] .item-pick").click()
    ui.locator(".item[data-at='8']").click(modifiers=["Shift"])
    page.until("document.getElementById('picked-count').textContent === '5 selected'")
    ui.locator("#take summary").click()
    with ui.expect_download() as saved:
        ui.get_by_role("button", name="List of files").click()
    images = dict(zip(small.rows["index"].to_pylist(), small.rows["image"].to_pylist(), strict=True))
    listed = Path(saved.value.path()).read_text().splitlines()
    root = Path(small.manifest["question"]["source"]["root"])
    assert listed == [str(root / images[index]) for index in (1, 3, 6, 7, 8)]
    ui.locator("#unpick").click()
    page.until("!document.querySelector('.item[aria-selected=true]')")

    ui.locator("#where").fill("label == 'cow'")
    page.until("document.getElementById('counted').textContent === '5 images'")
    ui.locator("#take summary").click()
    with ui.expect_download() as saved:
        ui.get_by_role("button", name="Table of files and labels").click()
    rows = list(csv.DictReader(Path(saved.value.path()).read_text().splitlines()))
    assert [row["label"] for row in rows] == ["cow"] * 5
    page.close()


def test_everything_by_keys(visit, many):
    page = visit(many.folder, viewport={"width": 1100, "height": 800})
    page.until(SCREEN)
    ui = page.page
    ui.locator("#grid").focus()
    active = (
        "document.getElementById(document.getElementById('grid').getAttribute('aria-activedescendant'))?.dataset.at"
    )

    def at(number):
        page.until(f"{active} === '{number}'")

    ui.keyboard.press("ArrowRight")
    at(1)
    ui.keyboard.press("Space")
    page.until("document.querySelector('.item[data-at=\"1\"]').getAttribute('aria-selected') === 'true'")
    columns = ui.evaluate(
        "new Set([...document.querySelectorAll('.item')].map((one) => one.style.transform.split(',')[0])).size"
    )
    ui.keyboard.press("ArrowDown")
    at(1 + columns)
    ui.keyboard.press("Shift+Space")
    page.until(f"document.getElementById('picked-count').textContent === '{columns + 1} selected'")
    ui.keyboard.press("End")
    at(MANY - 1)
    page.until(SCREEN)
    box = ui.locator("#grid").bounding_box()
    item = ui.locator(f".item[data-at='{MANY - 1}']").bounding_box()
    assert box["y"] <= item["y"]
    assert item["y"] + item["height"] <= box["y"] + box["height"] + 1
    ui.keyboard.press("PageUp")
    ui.keyboard.press("ArrowLeft")
    page.until(SCREEN)
    ui.wait_for_timeout(100)  # a frame
    here = int(ui.evaluate(active))
    ui.keyboard.press("Enter")
    page.until(DRAWN)
    assert ui.inner_text("#detail-of") == f"{here + 1:,} of {MANY:,}"
    assert ui.evaluate("document.activeElement.id") == "detail-title"
    ui.keyboard.press("Escape")
    page.until(SCREEN)
    assert ui.evaluate("document.activeElement.id") == "grid"
    at(here)
    ui.keyboard.press("Home")
    at(0)
    page.until(SCREEN)
    page.close()


def test_a_link_shows_the_same_rows_and_holds_no_token(visit, small):
    page = visit(small.folder)
    page.until(SCREEN)
    ui = page.page
    condition = f"sparseness > {middle(small)}"
    ui.locator("#where").fill(condition)
    ui.locator("#sort").select_option("probability")
    ui.locator("#descending").click()
    page.until(SCREEN)
    expected = names(ui)
    token = ui.evaluate("Object.values(sessionStorage)[0]")
    assert token not in ui.url
    ui.reload()
    page.until(SCREEN)
    assert ui.locator("#where").input_value() == condition
    assert names(ui) == expected
    page.close()


def test_the_filter_as_python_finds_the_same_images(visit, small):
    page = visit(small.folder)
    page.until(SCREEN)
    ui = page.page
    ui.locator("#where").fill(f"sparseness > {middle(small)} or index == 0")
    ui.locator("#correct label", has_text="Correct").click()
    page.until(SCREEN)
    number = int(ui.inner_text("#counted").split()[0])
    ui.locator("#take summary").click()
    ui.get_by_role("button", name="as Python").click()
    page.until("document.getElementById('toast').textContent.includes('copied')")
    names = {}
    exec(ui.evaluate("navigator.clipboard.readText()"), names)
    assert names["run"].rows.num_rows == number > 0
    page.close()


def test_shards_that_were_written_meanwhile_are_there_after_a_reload(visit, many, tmp_path):
    folder = shutil.copytree(many.folder, tmp_path / "growing", ignore=shutil.ignore_patterns("000001*", "0000[1-9]*"))
    page = visit(folder)
    page.until(SCREEN)
    ui = page.page
    before = int(ui.inner_text("#counted").split()[0].replace(",", ""))
    assert before < MANY
    assert "shards so far" in ui.inner_text("#run-about")
    shutil.copy(row_file(many.folder, 1000), row_file(folder, 1000))
    ui.locator("#reload").click()
    page.until(f"document.getElementById('counted').textContent === '{before + 16:,} images'")
    page.close()


def test_another_token_is_asked_for(visit, small):
    page = visit(small.folder)
    page.until(SCREEN)
    ui = page.page
    good = ui.evaluate("Object.values(sessionStorage)[0]")
    ui.evaluate("sessionStorage.clear()")
    ui.goto(ui.url.split("#")[0] + "#token=wrong-token-wrong-token")  # which loads the page again
    ui.locator("#gate").wait_for()
    ui.fill("#gate-token", good)
    ui.get_by_role("button", name="Open").click()
    page.until(SCREEN)
    page.close(allowed=("401", "/api/run"))


CARDS = "document.querySelectorAll('.group').length && document.getElementById('groups-bar').hidden"
PICTURED = "[...document.querySelectorAll('.group.seen img')].every((one) => one.complete && one.src)"


def test_a_cluster_shows_its_images_in_the_grid(visit, small):
    page = visit(small.folder)
    page.until(SCREEN)
    ui = page.page
    ui.locator("#tab-clusters").click()
    ui.locator("#n").select_option("2")
    page.until("document.getElementById('groups-status').textContent.startsWith('2 clusters of 16 images')")
    page.until(PICTURED)
    expected = small.clusters("grad-cam", n=2)
    assert ui.locator(".group:not(.odd) .of").all_inner_texts() == [
        f"{size} image{'s' if size > 1 else ''}, separation {separation:.2f}"
        for size, separation in zip(expected.sizes, expected.separation, strict=True)
    ]
    assert ui.locator(".odd .example").count() == 6
    ui.get_by_role("button", name="Cluster 2,").click()
    page.until(f"document.getElementById('counted').textContent.startsWith('{expected.sizes[1]} image')")
    page.until(SCREEN)
    images = dict(zip(small.rows["index"].to_pylist(), small.rows["image"].to_pylist(), strict=True))
    assert [label.split(",")[0] for label in names(ui)] == [images[one] for one in sorted(expected.members(1))]
    assert ui.inner_text("#within") == "Cluster 2 ×"
    with ui.expect_download() as saved:
        ui.locator("#take summary").click()
        ui.get_by_role("button", name="List of files").click()
    assert len(Path(saved.value.path()).read_text().splitlines()) == expected.sizes[1]
    ui.locator("#within").click()
    page.until("document.getElementById('counted').textContent === '16 images'")
    ui.go_back()
    page.close()


def test_a_point_and_an_example_open_their_image_and_the_way_back_leads_to_the_clusters(visit, small):
    page = visit(small.folder)
    page.until(SCREEN)
    ui = page.page
    ui.locator("#tab-clusters").click()
    page.until(CARDS)
    box = ui.locator("#plot").bounding_box()
    found = False
    for x in range(20, int(box["width"]), 8):
        for y in range(20, int(box["height"]), 16):
            if not found:
                ui.mouse.move(box["x"] + x, box["y"] + y)
                found = ui.inner_text("#plot-shown figcaption").startswith("Image ")
    assert found
    page.until(
        "document.querySelector('#plot-shown img').complete && !document.querySelector('#plot-shown img').hidden"
    )
    image = ui.locator(".group .example").first
    index = re.search(r"\d+", image.get_attribute("aria-label"))[0]
    image.click()
    page.until(DRAWN)
    assert f"Position\n{index}" in ui.inner_text("#detail-facts")
    assert "Clusters" in ui.inner_text("#back")
    ui.keyboard.press("Escape")
    page.until(CARDS)
    assert ui.locator("#groups").is_visible()
    page.close()


def test_a_class_shows_its_images_in_the_grid(visit, small):
    page = visit(small.folder)
    page.until(SCREEN)
    ui = page.page
    ui.locator("#tab-classes").click()
    page.until(CARDS)
    page.until(PICTURED)
    assert ui.locator(".group h3").all_inner_texts() == ["ant", "bee", "cow"]
    ui.locator("#by label", has_text="Prediction").click()
    predictions = sorted(set(filter(None, small.rows["prediction"].to_pylist())))
    shown = "[...document.querySelectorAll('.group h3')].map((one) => one.textContent).join()"
    page.until(f"{shown} === '{','.join(predictions)}'")
    ui.get_by_role("button", name=f"{predictions[-1]},").click()
    number = len(small.where(f"prediction == '{predictions[-1]}'"))
    page.until(f"document.getElementById('counted').textContent.startsWith('{number} image')")
    assert ui.locator("#prediction").input_value() == predictions[-1]
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_is_accessible(visit, small, scheme, width):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed").Axe()
    page = visit(small.folder, color_scheme=scheme, viewport={"width": width, "height": 800}, bypass_csp=True)
    page.until(SCREEN)

    def check(what):
        found = axe.run(page.page).response["violations"]
        assert found == [], (what, [(one["id"], [node["html"][:120] for node in one["nodes"]][:3]) for one in found])
        wide = page.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert wide, "nothing is wider than the window"

    page.page.evaluate("document.getElementById('panel').open = true")
    check("the grid")
    for tab in ("classes", "clusters"):
        page.page.locator(f"#tab-{tab}").click()
        page.until(CARDS)
        page.until(PICTURED)
        check(tab)
    page.page.locator("#tab-images").click()
    page.until(SCREEN)
    page.page.locator(".item[data-at='2']").click()
    page.until(DRAWN)
    check("a row in full")
    page.page.keyboard.press("Escape")
    page.until(SCREEN)
