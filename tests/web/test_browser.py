"""The page in a real browser: Chromium, without a window."""

import json
import os
import re
import time
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import deepviz
import small_models
from browser import Visit, served
from deepviz.inside import viz_activations
from deepviz.models import load_model
from deepviz.web import create_app, jobs
from pictures import picture_file

DRAWN = "[...document.querySelectorAll('.dv-frame canvas')].map((canvas) => canvas.toDataURL()).join()"


@pytest.fixture
def serving():
    """Serves apps on free ports, also behind a path; gives their links."""
    with ExitStack() as running:
        yield lambda app, prefix="": running.enter_context(served(app, prefix))


@pytest.fixture
def visit(chromium, serving):
    def open_page(app=None, prefix="", **options):
        app = app or create_app(small_models.good())
        return Visit(chromium, serving(app, prefix), **options)

    return open_page


def test_the_bundled_model_is_compared_without_touching_anything(visit):
    pytest.importorskip("efficientnet_lite_pytorch", reason="the extra demo is not installed")
    app = create_app(load_model())
    page = visit(app)
    page.drawn(8, seconds=90)
    assert "tiger cat" in page.page.inner_text("#stage")
    assert "espresso" in page.page.inner_text("#stage")
    colours = page.page.evaluate(
        """[...document.querySelectorAll('.dv-frame canvas')].map((canvas) => {
             const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
             return new Set(data.filter((_, n) => n % 4 !== 3)).size;
           })"""
    )
    assert min(colours) > 100, "every tile shows a picture"
    page.close()


def test_maps_under_way_of_models_of_one_name_are_told_apart(visit, monkeypatch):
    """The second model's map stays while the first one's, in a column of the same title, is done."""

    class Slow(torch.nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net, self.waits = net, False

        def forward(self, x):
            time.sleep(0.3 * self.waits)
            return self.net(x)

    monkeypatch.setattr(jobs, "BETWEEN", 0.5)
    quick = small_models.good()
    slow = Slow(quick.module).eval()
    page = visit(create_app([quick, replace(quick, module=slow)]))
    page.drawn(8)
    page.until("document.getElementById('job').hidden")
    slow.waits = True
    ui = page.page
    ui.get_by_text("Black box").click()
    ui.locator("#about-rise").click()
    ui.locator("#option-rise-max_passes").fill("2000")
    ui.locator("#option-rise-max_passes").press("Enter")
    ui.locator("#method-rise").check()
    for method in ("grad-cam", "guided-backprop", "integrated-gradients", "smooth-grad"):
        ui.locator(f"#method-{method}").set_checked(False)
    ui.locator("#by label", has_text="Models").click()
    ui.locator(".dv-so-far:visible").first.wait_for()
    titles = ui.locator(".dv-tile:not(.dv-original) .dv-title").all_inner_texts()
    assert len(titles) == 4
    assert titles[0] == titles[1]
    shown = """[...document.querySelectorAll('.dv-tile:not(.dv-original)')].map((tile) => {
      const badge = tile.querySelector('.dv-so-far').textContent;
      return badge !== '' && !tile.classList.contains('dv-pending');
    })"""
    for _ in range(20):  # each version until the next
        assert ui.evaluate(shown)[1], "no version was dropped"
        ui.wait_for_timeout(100)
    ui.get_by_role("button", name="Cancel").click()
    page.until("!document.querySelector('.dv-so-far:not([hidden])')")


def test_a_map_of_many_passes_sharpens_while_one_watches(visit, monkeypatch):
    """With how far it is, until it is cancelled, or done, and then its standard error can be drawn."""
    monkeypatch.setattr(jobs, "BETWEEN", 0.5)
    page = visit()
    page.drawn(8)
    ui = page.page
    ui.get_by_text("Black box").click()
    ui.locator("#about-rise").click()
    budget = ui.locator("#option-rise-max_passes")
    budget.fill("20000")
    budget.press("Enter")
    ui.locator("#method-rise").check()
    badge = ui.locator(".dv-so-far:visible")
    badge.first.wait_for()
    assert re.fullmatch(r"[\d,]+ of 20,000 passes", badge.first.inner_text())
    first = badge.first.inner_text()
    assert "of 20,000 passes" in ui.inner_text("#job-text")
    page.until(
        f"[...document.querySelectorAll('.dv-so-far:not([hidden])')].some((one) => one.textContent !== {first!r})"
    )
    assert "RISE" in ui.locator(".dv-tile", has=badge).first.inner_text()
    colours = """[...document.querySelectorAll('.dv-so-far:not([hidden])')].map((badge) => {
      const canvas = badge.closest('.dv-frame').querySelector('canvas');
      return new Set(canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data).size;
    })"""
    assert min(ui.evaluate(colours)) > 20, "there is a picture"

    ui.get_by_role("button", name="Cancel").click()
    page.until("!document.querySelector('.dv-so-far:not([hidden])')")
    budget.fill("200")
    budget.press("Enter")
    page.until("!document.querySelector('.dv-failed')")  # it is asked for once nothing has changed for a moment
    page.drawn(10)
    assert badge.count() == 0
    assert sum("200 passes" in caption for caption in page.captions()) == 2
    before = ui.evaluate(DRAWN)
    ui.get_by_label("Standard error of each value").check(force=True)
    page.until(f"({DRAWN}) !== {json.dumps(before)}")
    assert ui.locator(".dv-wait", has_text="no standard error").count() == 8
    page.close()


def test_how_far_maps_can_be_believed(visit, monkeypatch, tmp_path):
    """The Trust tab: curves, their cursor by pointer and by keys, the photograph under it, the strip."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    page = visit()
    page.drawn(8)
    ui = page.page
    ui.click("#tab-trust")
    page.until("document.querySelectorAll('#believed .card').length === 8")
    page.checked(8)
    page.until("[...document.querySelectorAll('.plot .own')].every((line) => line.getAttribute('d'))")
    page.until(
        "[...document.querySelectorAll('.strip')].every((strip) => strip.children.length === 4)"
    )  # trained, and three layers
    assert ui.locator(".strip img").first.get_attribute("alt") == "The map, trained"
    first = ui.locator(".card").first
    shown = "document.querySelector('.perturbed').toDataURL()"

    asked = len(page.requests)
    plot = first.locator("svg").first
    box = plot.bounding_box()
    ui.mouse.move(box["x"] + 2, box["y"] + 10)
    assert first.locator(".reading").inner_text().startswith("0 % removed")
    whole = ui.evaluate(shown)
    ui.mouse.move(box["x"] + box["width"] - 2, box["y"] + 10)
    assert first.locator(".reading").inner_text().startswith("100 % removed")
    assert ui.evaluate(shown) != whole
    for reading in ui.locator(".reading").all_inner_texts():
        assert reading.startswith("100 % removed"), "the cursors of all curves move together"

    insertion = first.locator("svg").nth(1)
    insertion.focus()
    ui.keyboard.press("Home")
    ui.keyboard.press("ArrowRight")
    assert first.locator(".reading").inner_text().startswith("5 % inserted")
    assert insertion.get_attribute("aria-valuenow") == "5"
    ui.keyboard.press("End")
    assert ui.evaluate(shown) == whole, "all pixels put in, or none taken away"
    assert len(page.requests) == asked, "no request for a move of the cursor"

    link = ui.evaluate("location.href")
    ui.goto("about:blank")
    ui.goto(link)
    page.until("document.querySelectorAll('#believed .card').length === 8")
    assert ui.get_attribute("#tab-trust", "aria-selected") == "true"
    page.checked(8)
    page.close()


def test_a_verdict_takes_eight_images(visit, monkeypatch, tmp_path):
    """Of each method there is one verdict or none, whatever single images say; numbers below zero are similarities."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    photos = []
    for number in range(8):
        photos.append(tmp_path / f"{number}.png")
        photos[-1].write_bytes(picture_file((40 + 5 * number, 40 + 3 * number)))
    page = visit(create_app(small_models.good(), photos))
    page.drawn(8)
    ui = page.page
    ui.click("#tab-trust")
    page.checked(8)
    lines = ui.locator("#verdicts tbody tr")
    page.until("document.querySelectorAll('#verdicts tbody tr').length === 4")
    page.until("[...document.querySelectorAll('#verdicts td:nth-child(2)')].every((one) => one.innerText === '2')")
    for said in lines.all_inner_texts():
        assert "No verdict" in said
        assert "A verdict takes at least 8 images." in said
    cards = ui.locator(".card").all_inner_texts()
    assert not [one for one in cards if "epends" in one or "kept" in one or "verdict" in one]
    assert all(re.search(r"100 % random\n(−?\d\.\d\d|blank)", one) for one in cards)

    for number in range(2, 8):
        ui.locator(".photograph").nth(number).click()
    page.checked(32, 120)
    page.until("[...document.querySelectorAll('#verdicts td:nth-child(2)')].some((one) => one.innerText === '8')")
    page.until("document.querySelector('#verdicts td:nth-child(4)').innerText.includes(' to ')")
    assert lines.count() == 4, "one line for each method, and one verdict"
    page.close()


def test_channels_are_drawn_while_one_watches(visit, tmp_path):
    """The Inside tab: images emerge, wait at a pause, go on, are saved; another seed draws another one."""
    page = visit(accept_downloads=True)
    page.drawn(8)
    ui = page.page
    ui.click("#tab-inside")
    ui.locator("#tree [role=treeitem]:not([aria-disabled])", has_text="Conv2d").last.click()
    page.until("document.querySelectorAll('#channels .wanted').length === 8")
    ui.select_option("#drawing-steps", "400")
    first = ui.locator("#channels figure").first
    first.get_by_role("button", name=re.compile("Draw a feature visualisation of channel")).click()
    image = "document.querySelector('#channels .wanted img').src"
    page.until(f"{image}.startsWith('data:')")
    before = ui.evaluate(image)
    page.until(f"{image} !== {before!r}")  # it changes as it is drawn
    ui.get_by_role("button", name="Pause").click()
    page.until("document.querySelector('.under').innerText.includes('Paused')")
    ui.wait_for_timeout(400)  # the step under way ends
    held = first.locator(".told").inner_text()
    ui.wait_for_timeout(400)
    assert first.locator(".told").inner_text() == held
    ui.get_by_role("button", name="Resume").click()
    page.until("document.querySelector('.under').hidden", 60)
    assert first.locator(".told").inner_text().startswith("400 of 400")

    with ui.expect_download() as download:
        first.get_by_role("button", name=re.compile("Save")).click()
    download.value.save_as(tmp_path / "image.png")
    with Image.open(tmp_path / "image.png") as saved:
        assert saved.size == (32, 32)
    ui.fill("#drawing-seed", "7")
    ui.locator("#drawing-seed").blur()
    assert first.locator("img").nth(1).is_hidden(), "of this seed nothing is drawn yet"
    ui.select_option("#drawing-steps", "60")
    ui.get_by_role("button", name="Generate feature visualisations").click()
    page.until("document.querySelectorAll('.wanted img:not([hidden])').length === 8", 60)
    page.until("document.querySelector('.under').hidden", 60)
    page.close()


def test_a_channel_is_enlarged_with_the_images_that_activate_it(visit, tmp_path):
    """Any channel by its number; more than sixteen; the images in the order of their largest activations."""
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 40, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(36000, 4))
    loaded = load_model(small_models.seeded(net), preprocess=small_models.good().preprocess)
    photos = folder(tmp_path / "many", 20)
    page = visit(create_app(loaded, photos), viewport={"width": 1440, "height": 900})
    page.until("document.getElementById('job').hidden && document.querySelector('.dv-tile')")
    ui = page.page
    ui.click("#tab-inside")
    ui.locator("#tree [data-layer='0']").click()
    figures = "document.querySelectorAll('#channels figure').length"
    page.until(f"{figures} === 16")
    ui.get_by_role("button", name="More channels").click()
    page.until(f"{figures} === 32")
    hidden = ui.evaluate(
        '[...Array(40).keys()].find((n) => !document.querySelector(`#channels [data-channel="${n}"]`))'
    )
    ui.fill("#channel-number", str(hidden))
    ui.locator("#channel-number").press("Enter")
    page.until(f"{figures} === 33")
    assert ui.evaluate("document.activeElement.closest('figure').dataset.channel") == str(hidden)
    ui.get_by_role("button", name="More channels").click()
    page.until(f"{figures} === 40")
    assert ui.get_by_role("button", name="More channels").count() == 0
    ui.fill("#channel-number", "40")
    ui.locator("#channel-number").press("Enter")
    page.until("document.getElementById('toast').innerText.includes('from 0 to 39')")

    ui.locator(f"#channels [data-channel='{hidden}'] .enlarge").click()
    page.until("document.querySelectorAll('.most li').length === 8")
    page.until("document.querySelector('.channel').innerText.includes('20 images of this page')")
    names = ui.locator(".most span").all_inner_texts()
    peaks = {one.name: viz_activations(loaded, one, "0").maps[hidden].max().item() for one in photos}
    assert names == sorted(peaks, key=peaks.get, reverse=True)[:8]
    shown = [float(text.replace("−", "-")) for text in ui.locator(".most b").all_inner_texts()]
    assert shown == pytest.approx([peaks[name] for name in names], rel=0.01)
    ui.locator(".most button").first.click()
    page.until(f"document.getElementById('channels-hint').innerText.includes({names[0]!r})")
    assert ui.locator("dialog").count() == 0
    page.close()


def test_what_could_not_be_fetched_inside_is_asked_for_again(visit):
    page = visit()
    page.drawn(8)
    ui = page.page
    failing = [True]
    ui.route("**/activations?*", lambda route: route.abort() if failing[0] else route.continue_())
    ui.click("#tab-inside")
    ui.locator("#tree [role=treeitem]:not([aria-disabled])", has_text="Conv2d").last.click()
    again = ui.get_by_role("button", name="Try again")
    again.wait_for()
    failing[0] = False
    again.click()
    page.until("document.querySelectorAll('#channels .wanted').length === 8")
    asked = len([url for url in page.requests if "/activations?" in url])
    ui.click("#tab-compare")
    ui.click("#tab-inside")
    page.until("document.querySelectorAll('#channels .wanted').length === 8")
    assert len([url for url in page.requests if "/activations?" in url]) == asked, (
        "what is there is not asked for again"
    )
    page.close(allowed=["ERR_FAILED"])


def test_no_channel_that_was_asked_for_is_lost(visit):
    """Two asked for at once are both drawn; a stopped or forgotten one can be drawn again; the focus stays near."""
    app = create_app(small_models.good())
    page = visit(app)
    page.drawn(8)
    ui = page.page
    ui.click("#tab-inside")
    ui.locator("#tree [role=treeitem]:not([aria-disabled])", has_text="Conv2d").last.click()
    page.until("document.querySelectorAll('#channels .wanted').length === 8")
    told = "[...document.querySelectorAll('#channels .told')].slice(0, 2).map((one) => one.innerText)"
    ui.select_option("#drawing-steps", "60")
    ui.evaluate("[0, 1].map((n) => document.querySelectorAll('#channels .wanted')[n].querySelector('button').click())")
    page.until(f"{told}.every((text) => text.startsWith('60 of 60'))")

    ui.select_option("#drawing-steps", "400")
    first = ui.locator("#channels figure").first
    draw = first.get_by_role("button", name=re.compile("Draw a feature visualisation of channel"))
    draw.click()
    page.until("document.querySelector('#channels .told').innerText.includes('of 400')")
    assert draw.get_attribute("aria-disabled") == "true"
    stop = ui.get_by_role("button", name="Stop")
    stop.focus()
    stop.press("Enter")
    page.until("document.querySelector('.under').hidden")
    assert ui.evaluate("document.activeElement.innerText") == "Generate feature visualisations"
    assert draw.get_attribute("aria-disabled") == "false"
    draw.focus()
    draw.press("Enter")
    page.until("document.querySelector('#channels .told').innerText.startsWith('400 of 400')")
    draw.wait_for(state="hidden")
    assert "Save the image of channel" in ui.evaluate("document.activeElement.ariaLabel")

    app.state.deepviz.drawings._drawings.clear()
    first.get_by_role("button", name=re.compile("Save")).click()
    page.until("document.getElementById('toast').innerText.includes('drawing not found')")
    assert draw.is_visible()
    page.close(allowed=("/api/drawings/", "404"))


def test_layers_and_models_as_columns(visit):
    other = replace(small_models.good(), module=small_models.seeded(small_models.network(), seed=1), name="other")
    page = visit(create_app([small_models.good(), other, small_models.one_logit()]))
    page.drawn(8)
    ui = page.page

    ui.locator("label[for=by-layers]").click()
    page.until("document.querySelectorAll('#layer-list input:checked').length >= 3")
    layers = ui.locator("#layer-list input:checked").count()
    titles = "[...document.querySelectorAll('.dv-tile:not(.dv-original) .dv-title')]"
    page.until(f"{titles}.every((one) => one.textContent.startsWith('Grad-CAM, '))")
    page.drawn(2 * layers)  # one method of the four takes a layer; two photographs
    shown = ui.locator(".dv-tile:not(.dv-original) .dv-title").all_inner_texts()
    assert len(set(shown)) == layers
    ui.locator("#layer-list input:checked").first.click()
    page.drawn(2 * (layers - 1))
    ui.locator("#by-layers").focus()
    assert ui.evaluate("document.activeElement.id") == "by-layers"

    ui.click("#take summary")
    ui.click("[data-take=python]")
    page.until("document.getElementById('toast').textContent.includes('copied')")
    said = ui.evaluate("navigator.clipboard.readText()")
    assert said.count("GradCAM(layer=") == layers - 1

    ui.locator("label[for=by-models]").click()
    page.drawn(4 * 3 * 2)
    captions = page.captions()
    said = [one.split("\n")[1] for one in captions[:2]]
    assert said[0] != said[1], "each model has its own probability"
    assert "out of range: the model has 2 classes" in ui.locator("#stage .dv-tile").nth(3).inner_text()
    link = ui.evaluate("location.href")
    ui.goto("about:blank")
    ui.goto(link)
    page.drawn(4 * 3 * 2)
    assert page.captions() == captions
    page.close()


def test_a_model_chosen_while_another_one_is_slow(visit):
    """What is known of a model that was left again does not come late and stay: classes, layers, names."""
    other = replace(small_models.good(), labels=("a", "b", "c", "d", "e"), name="other")
    page = visit(create_app([small_models.good(), other]))
    page.drawn(8)
    ui = page.page
    ui.route("**/api/models/other/layers", lambda route: (time.sleep(0.5), route.continue_())[1])
    before = page.captions()
    ui.select_option("#model", "other")
    ui.select_option("#model", "small")
    ui.wait_for_timeout(1200)
    page.drawn(8)
    assert ui.input_value("#model") == "small"
    ui.fill("#class-name", "fox")
    page.until("document.querySelector('#class-found li .label')?.innerText === 'red fox'")
    assert page.captions() == before
    page.close()


def test_a_preview_ends_when_what_it_lies_on_is_made_anew(visit):
    page = visit()
    page.drawn(8)
    ui = page.page
    before = page.captions()
    other = ui.locator("#classes .class[aria-selected=false]").first
    other.hover()
    page.until("document.querySelectorAll('#stage .dv-preview').length === 4")
    ui.evaluate("document.getElementById('method-gradient').click()")
    ui.mouse.move(900, 700)
    page.drawn(10)
    assert ui.locator("#stage .dv-preview").count() == 0
    assert [one for one in page.captions() if not one.startswith("Gradient\n")] == before
    page.close()


def test_one_bad_value_does_not_cost_the_others(visit):
    """An option and a class that cannot be: told where they are, the other tiles are drawn."""
    page = visit(create_app(replace(small_models.good(), labels=None)))
    page.drawn(8)
    ui = page.page
    ui.locator("details[data-method=smooth-grad] summary").click()
    ui.fill("#option-smooth-grad-samples", "-3")
    ui.locator("#option-smooth-grad-samples").blur()
    ui.check("#method-gradient")
    page.drawn(10)
    failed = ui.locator("#stage .dv-failed")
    assert failed.count() == 2
    assert all("samples must be at least 2" in one for one in failed.all_inner_texts())
    assert "samples must be at least 2" in ui.inner_text("#why-smooth-grad")
    ui.fill("#option-smooth-grad-samples", "3")
    ui.locator("#option-smooth-grad-samples").blur()
    page.until("!document.querySelector('#stage .dv-failed')")

    ui.fill("#class-name", "77")
    ui.press("#class-name", "Enter")
    page.drawn(15)
    page.until("document.querySelectorAll('#stage .dv-failed').length === 5")
    assert all("class 77 is out of range" in one for one in ui.locator("#stage .dv-failed").all_inner_texts())
    page.close(allowed=["/api/jobs", "422"])


def test_checks_are_cancelled(visit, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    app = create_app(small_models.good())
    page = visit(app)
    page.drawn(8)
    ui = page.page
    service = app.state.deepviz.models["small"]
    with service._lock:  # nothing is computed meanwhile
        ui.click("#tab-trust")
        page.until("!document.getElementById('job').hidden")
        ui.click("#job-cancel")
        page.until("document.getElementById('job').hidden")
    ui.wait_for_timeout(300)
    assert ui.locator(".card .said").first.inner_text() == "Not checked: cancelled."
    assert ui.locator("#job").is_hidden()
    ui.click("#tab-compare")
    ui.click("#tab-trust")
    page.checked(8)
    page.close()


def test_a_forgotten_photograph_goes_alone(visit, tmp_path):
    """By its name; the others stay, and what was pinned and zoomed is in the link."""
    app = create_app(small_models.good())
    page = visit(app)
    page.drawn(8)
    ui = page.page
    for number, size in enumerate(((64, 48), (60, 48)), 3):
        photo = tmp_path / str(number) / "mine.png"
        photo.parent.mkdir()
        photo.write_bytes(picture_file(size))
        ui.set_input_files("#file", str(photo))
        page.drawn(4 * number)
    rows = ui.locator("#stage .dv-row-title").all_inner_texts()
    assert rows == ["chelsea.png", "coffee.png", "mine.png", "mine.png (2)"]
    photographs = app.state.deepviz.photographs
    mine = next(one.id for one in photographs.listed() if one.name == "mine.png")
    for kept in (photographs._kept, photographs._opened):
        del kept[mine]
    photographs._forgotten(mine)
    ui.check("#method-gradient")
    page.drawn(15)
    assert "mine.png is no longer on the server" in ui.inner_text("#toast")

    ui.locator("#stage button", has_text="+").first.click()
    page.until("document.getElementById('stage').style.getPropertyValue('--dv-zoom') > 1")
    ui.wait_for_timeout(300)
    zoom = ui.evaluate("document.getElementById('stage').style.getPropertyValue('--dv-zoom')")
    link = ui.evaluate("location.href")
    ui.goto("about:blank")
    ui.goto(link)
    page.drawn(15)
    assert ui.evaluate("document.getElementById('stage').style.getPropertyValue('--dv-zoom')") == zoom
    page.close(allowed=["404", "/api/jobs"])


def test_a_session(visit, tmp_path):
    """Upload, hover, pin, another layer, options, report, data, code, the link that shows the same again to those who
    have the token."""
    app = create_app(small_models.good())
    page = visit(app, accept_downloads=True)
    page.drawn(8)
    ui = page.page

    photo = tmp_path / "<b>my photo.png"
    photo.write_bytes(picture_file((64, 48)))
    ui.set_input_files("#file", str(photo))
    page.drawn(12)
    assert ui.locator("#classes-of").inner_text() == "of <b>my photo.png"
    assert "<b>my photo.png" in ui.inner_text("#stage")

    classes = ui.locator("#classes .class")
    assert classes.count() == 5
    pinned = ui.locator("#classes .class[aria-selected=true]")
    assert pinned.count() == 1
    other = ui.locator("#classes .class[aria-selected=false]").nth(1)
    name = other.locator(".label").inner_text()
    before = page.captions()
    other.hover()
    page.until("document.querySelectorAll('#stage .dv-preview').length === 4")
    ui.mouse.move(900, 700)
    page.until("!document.querySelector('#stage .dv-preview')")
    assert page.captions() == before
    other.click()
    page.drawn(16)
    assert name in ui.inner_text("#stage")

    slider = ui.locator("#layer")
    old = ui.locator("#layer-name").inner_text()
    slider.focus()
    ui.keyboard.press("Home")
    page.until(f"document.getElementById('layer-name').textContent !== {old!r}")
    page.drawn(16)
    layer = ui.locator("#layer-name").inner_text().split()[0]
    page.until(f"document.querySelector('.dv-tile:not(.dv-original) .dv-detail').innerText === {layer!r}")

    ui.locator("#methods details[data-method=smooth-grad] summary").click()
    ui.fill("#option-smooth-grad-samples", "3")
    ui.keyboard.press("Enter")
    page.until("document.querySelector('#stage').innerText.includes('samples 3')")
    page.drawn(16)

    ui.click("#take summary")
    with ui.expect_download() as report:
        ui.click("[data-take=report]")
    saved = tmp_path / "report.html"
    report.value.save_as(saved)
    assert "my photo.png" in saved.read_text()
    assert "<b>my photo" not in saved.read_text()
    ui.click("#take summary")
    with ui.expect_download() as data:
        ui.click("[data-take=data]")
    assert data.value.suggested_filename == "results.deepviz"
    ui.click("#take summary")
    ui.click("[data-take=python]")
    page.until("document.getElementById('toast').textContent === 'Python code copied'")
    code = ui.evaluate("navigator.clipboard.readText()")
    assert "SmoothGrad(samples=3)" in code
    assert f"'{name}'" in code, "the class that was pinned, by its name"
    assert "])\n" in code, "the predicted classes of the others, whatever they are"
    assert "deepviz.report(explanations" in code.splitlines()[-1]
    ui.click("#take summary")
    ui.click("[data-take=command]")
    page.until("document.getElementById('toast').textContent === 'Command copied'")
    assert len(ui.evaluate("navigator.clipboard.readText()").splitlines()) == 1

    ui.click("#take summary")
    ui.click("[data-take=link]")
    page.until("document.getElementById('toast').textContent === 'Link copied'")
    link = ui.evaluate("navigator.clipboard.readText()")
    token = app.state.token
    assert token not in link
    assert token not in ui.evaluate("location.href")
    shown = page.captions()
    ui.reload()
    page.drawn(16)
    again = page.context.new_page()
    again.goto(link)
    page.page = again
    page.until("!document.getElementById('gate').hidden")
    again.fill("#gate-token", token)
    again.click("#gate button")
    page.drawn(16)
    page.until(f"document.getElementById('layer-name').textContent.startsWith({layer!r})")
    assert page.captions() == shown
    page.close()


def test_a_class_is_compared_with_another(visit):
    """Each method has a second column: what speaks for the row's class and not for the other one."""
    page = visit()
    page.drawn(8)
    ui = page.page
    first, second = ui.locator("#classes .label").all_inner_texts()[:2]
    ui.select_option("#versus", "next")
    page.drawn(16)
    captions = ui.locator(".dv-row").first.locator(".dv-tile").all_inner_texts()
    assert captions[0].startswith("Image\nthe model saw the middle ")
    assert captions[1].startswith("Grad-CAM\n")
    assert captions[2].startswith(f"Grad-CAM, minus next best class\n{first} - {second}:")
    ends = [caption.split("\n")[-1] for caption in captions]
    assert ends[1] == ends[2], "one scale for both"
    page.until("location.hash.includes('view=')")
    shown = page.captions()
    link = ui.evaluate("location.href")
    ui.goto("about:blank")
    ui.goto(link)
    page.drawn(16)
    assert page.captions() == shown
    ui.select_option("#versus", label=first)
    page.until("document.querySelectorAll('.dv-tile')[2].innerText.includes('no other class to compare with')")
    page.drawn(16)
    ui.select_option("#versus", label="nothing")
    page.drawn(8)
    page.close()


def test_a_map_that_needs_more_steps_has_a_button_for_them(visit):
    page = visit(create_app(small_models.good(), [deepviz.example_photo("chelsea")]))
    page.drawn(4)
    ui = page.page
    ui.click("#about-integrated-gradients")
    ui.fill("#option-integrated-gradients-steps", "1")
    ui.locator("#option-integrated-gradients-steps").press("Enter")
    page.until("[...document.querySelectorAll('.dv-title')].some((one) => one.textContent.includes('steps 1'))")
    page.drawn(4)
    tile = ui.locator(".dv-tile", has_text="Integrated gradients")
    page.until("document.querySelector('.dv-action')")
    assert "The sum of this map's values misses the change of the score by" in tile.inner_text()
    assert "tolerance" not in tile.inner_text()
    tile.get_by_role("button", name="Use 4 steps").click()
    page.until("[...document.querySelectorAll('.dv-title')].some((one) => one.textContent.includes('steps 4'))")
    page.drawn(4)
    assert ui.input_value("#option-integrated-gradients-steps") == "4"
    page.close()


def test_more_maps_than_a_report_can_hold(visit, tmp_path):
    page = visit(create_app(small_models.good(), folder(tmp_path / "many", 3)))
    page.drawn(8)
    ui = page.page
    ui.route(
        "**/api/report",
        lambda route: route.continue_(
            post_data=route.request.post_data.replace('"results":[', '"results":[' + 300 * f'"{"0" * 64}",')
        ),
    )
    ui.click("#take summary")
    ui.click("[data-take=report]")
    page.until("document.getElementById('toast').innerText.includes('maps are too many at once, at most 256')")
    page.close(allowed=("422", "/api/report"))


def test_the_difference_of_two_methods_is_a_column(visit):
    """Each map divided by its own maximum, signed; the numbers are those of Python's maps."""
    photograph = deepviz.example_photo("chelsea")
    page = visit(create_app(small_models.good(), [photograph]))
    page.drawn(4)
    ui = page.page
    ui.select_option("#difference-of", label="SmoothGrad")
    page.drawn(5)
    ui.select_option("#difference-from", label="Guided backprop")
    page.until("document.querySelectorAll('.dv-tile')[5].innerText.includes('SmoothGrad − Guided backprop')")
    tile = ui.locator(".dv-tile").last
    page.until("!document.querySelector('.dv-frame[aria-busy=true]')")
    smooth, guided = deepviz.explain(small_models.good(), photograph, ["smooth-grad", "guided-backprop"])
    found = smooth.values / abs(smooth.values).max() - guided.values / abs(guided.values).max()
    page.until("document.querySelectorAll('.dv-tile')[5].querySelector('.dv-scale span:last-child').textContent !== ''")
    low, high = tile.locator(".dv-scale span").all_inner_texts()
    assert float(high) == pytest.approx(np.percentile(abs(found), 99.5), rel=0.05)  # shown in two digits
    assert low == f"−{high}"
    text = tile.inner_text()
    assert "each divided by its own maximum" in text
    assert tile.locator(".dv-signs span").all_inner_texts() == ["more in Guided backprop", "more in SmoothGrad"]

    page.until("location.hash.includes('view=')")
    link = ui.evaluate("location.href")
    ui.goto("about:blank")
    ui.goto(link)
    page.drawn(5)
    page.until("!document.querySelector('.dv-tile:last-child .dv-scale').hidden")
    assert ui.locator(".dv-tile").last.inner_text() == text

    ui.select_option("#difference-from", label="Grad-CAM")
    page.until("document.querySelectorAll('.dv-tile')[5].innerText.includes('No difference')")
    assert "one map is 32 × 32, the other 16 × 16" in ui.locator(".dv-tile").last.inner_text()
    ui.select_option("#difference-from", label="Integrated gradients")
    page.until("document.querySelectorAll('.dv-tile')[5].innerText.includes('one map is signed, the other is not')")
    ui.select_option("#difference-of", label="none")
    page.drawn(4)
    page.close()


def test_the_difference_of_two_models_is_a_column(visit):
    other = replace(small_models.good(), module=small_models.seeded(small_models.network(), seed=1), name="other")
    photograph = deepviz.example_photo("chelsea")
    page = visit(create_app([small_models.good(), other], [photograph]))
    page.drawn(4)
    ui = page.page
    ui.locator("label[for=by-models]").click()
    page.drawn(8)
    ui.select_option("#difference-of", label="Guided backprop, small")
    ui.select_option("#difference-from", label="Guided backprop, other")
    page.drawn(9)
    tile = ui.locator(".dv-tile").last
    page.until("!document.querySelector('.dv-tile:last-child .dv-scale').hidden")
    assert tile.inner_text().startswith(
        "Guided backprop, small − Guided backprop, other\neach divided by its own maximum"
    )
    page.close()


def folder(path, images):
    """A folder of small images that differ, by name."""
    path.mkdir()
    for number in range(images):
        name = path / f"image {number:04}.png"
        name.write_bytes(picture_file((40, 40), colour=(number % 256, number // 256, 90)))
    return sorted(path.iterdir())


def test_two_thousand_images_leave_everything_in_reach(visit, tmp_path):
    """The strip has a fixed height and few elements; classes, methods and maps stay where they are; the last image is
    found by name, comes first once it is compared, and its row is seen."""
    page = visit(
        create_app(small_models.good(), folder(tmp_path / "many", 2000)), viewport={"width": 1440, "height": 900}
    )
    page.drawn(8)
    ui = page.page
    assert ui.locator("#photographs-of").inner_text() == "2 of 2000"
    assert ui.locator(".photograph").count() < 60
    assert ui.locator(".photograph").first.get_attribute("aria-setsize") == "2000"

    def bottom(selector):
        return (lambda box: box["y"] + box["height"])(ui.locator(selector).bounding_box())

    assert bottom("#photographs") < 320
    assert bottom("#classes") < 560
    assert ui.locator("#methods").bounding_box()["y"] < 720  # how many methods there are is another matter
    ui.fill("#find-photograph", "1999")
    assert [one.get_attribute("title") for one in ui.locator(".photograph").all()] == ["image 1999.png"]
    ui.locator(".photograph").click()
    page.drawn(12)
    assert "image 1999.png is compared, 3 in all" in ui.inner_text("#spoken")
    ui.fill("#find-photograph", "")
    ui.mouse.move(900, 20)
    page.until("document.querySelectorAll('.photograph')[2].title === 'image 1999.png'")
    row = ui.locator(".dv-row").last.bounding_box()
    assert row["y"] < 900, "its row was brought into view"

    ui.locator(".photograph").first.focus()
    ui.keyboard.press("End")
    page.until("document.activeElement.title === 'image 1998.png'")
    assert "image 1998.png" in ui.locator(".photograph:focus").get_attribute("aria-label")
    ui.keyboard.press("Home")
    page.until("document.activeElement.title === 'image 0000.png'")
    page.close()


def test_images_are_taken_out_of_the_comparison(visit):
    """By key, one by one, all but one, and all; the last state says what to do."""
    page = visit()
    page.drawn(8)
    ui = page.page
    ui.get_by_role("option", name="chelsea.png").focus()
    ui.keyboard.press("Delete")
    page.drawn(4)
    assert ui.locator("#stage .dv-row-title").all_inner_texts() == ["coffee.png"]
    assert ui.inner_text("#spoken") == "chelsea.png is no longer compared"
    ui.get_by_role("option", name="chelsea.png").click()
    page.drawn(8)
    ui.get_by_role("button", name="Only this one").click()
    page.drawn(4)
    assert ui.locator("#stage .dv-row-title").all_inner_texts() == ["chelsea.png"]
    ui.get_by_role("button", name="Clear").click()
    page.until("!document.querySelector('.dv-tile')")
    assert ui.get_by_text("Choose an image to compare, or drop one here.").is_visible()
    ui.click("#tab-inside")
    assert ui.get_by_text("Choose an image to see what it does in a layer.").is_visible()
    assert not ui.locator("#channels img").count()
    ui.click("#tab-trust")
    assert ui.get_by_text("Choose an image to compare: its maps are checked here.").is_visible()
    ui.click("#tab-compare")
    ui.get_by_role("option", name="coffee.png").click()
    page.drawn(4)
    page.close()


def test_a_preview_is_never_half_of_another_class(visit):
    """While maps of another class are computed nothing changes; then all maps and the heading change at once."""
    app = create_app(small_models.good())
    page = visit(app)
    page.drawn(8)
    ui = page.page
    heading = ui.locator(".dv-row-detail").first
    before = heading.inner_text()
    name = ui.locator("#classes .class[aria-selected=false] .label").first.inner_text()
    states = "[document.querySelectorAll('.dv-preview').length, document.querySelector('.dv-row-detail').innerText]"
    ui.evaluate(f"window.states = []; window.watching = setInterval(() => states.push({states}), 5)")
    ui.locator("#classes .class[aria-selected=false]").first.hover()
    page.until("document.querySelectorAll('.dv-preview').length > 0")
    assert heading.inner_text().startswith(f"Preview: {name}")
    ui.mouse.move(900, 700)
    page.until("document.querySelectorAll('.dv-preview').length === 0")
    ui.evaluate("clearInterval(window.watching)")
    seen = {tuple(state) for state in ui.evaluate("window.states")}
    assert {count for count, _ in seen} <= {0, 4}
    assert {text for count, text in seen if count == 0} == {before}
    page.close()


def test_classes_are_found_by_near_names(visit):
    """With a slip of the pen, by a word, by keys; the probability stands beside the name."""
    page = visit()
    page.drawn(8)
    ui = page.page
    ui.fill("#class-name", "rde fox")
    line = ui.locator("#class-found [role=option]").first
    page.until("document.querySelector('#class-found .chance')?.innerText.includes('%')")
    assert line.locator(".label").inner_text() == "red fox"
    ui.keyboard.press("ArrowDown")
    assert ui.get_attribute("#class-name", "aria-activedescendant") == line.get_attribute("id")
    pinned = ui.locator("#classes .class[aria-selected=true] .label").all_inner_texts()
    ui.keyboard.press("Enter")
    page.until("!document.querySelector('#class-found li')")
    now = ui.locator("#classes .class[aria-selected=true] .label").all_inner_texts()
    assert "red fox" in now
    assert set(pinned) <= set(now)
    page.close()


def test_each_method_says_what_it_is(visit):
    page = visit()
    page.drawn(8)
    ui = page.page
    assert ui.locator("details[data-method=attention-rollout]").count() == 0  # this network has no attention
    for family in ui.locator("#methods .family > details > summary").all():
        family.click()
    assert "computes no attention" in ui.inner_text("#why-attention-rollout")
    assert "one linear layer" in ui.inner_text("#why-cam")
    for name in set(deepviz.catalog.METHODS) - set(small_models.ATTENTION) - {"cam"}:
        about = ui.locator(f"details[data-method={name}]")
        about.locator("summary").click()
        assert deepviz.catalog.summary(deepviz.catalog.METHODS[name]) in about.inner_text()
        assert about.locator("a[href^='https://arxiv.org/abs/'], a[href^='https://doi.org/']").count() == 1
    signed = ui.locator(".dv-tile", has_text="Integrated gradients").first
    assert "lowers the score" in signed.inner_text()
    assert "raises it" in signed.inner_text()
    page.close()


def test_the_tree_of_layers_folds(visit):
    """By pointer and by keys; modules that pad or hand on are not offered."""

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            block = torch.nn.Sequential(torch.nn.ZeroPad2d(1), torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
            self.stage = torch.nn.Sequential(block, torch.nn.Identity(), torch.nn.Conv2d(4, 6, 3))
            self.head = torch.nn.Linear(6, 3)

        def forward(self, x):
            return self.head(self.stage(x).mean((2, 3)))

    loaded = load_model(small_models.seeded(Net()), preprocess=small_models.good().preprocess)
    page = visit(create_app(loaded))
    page.until("document.getElementById('job').hidden && document.querySelector('.dv-tile')")
    ui = page.page
    ui.click("#tab-inside")
    items = ui.locator("#tree [role=treeitem]")
    page.until("document.querySelectorAll('#tree [role=treeitem]').length > 0")
    names = items.evaluate_all("(all) => all.map((one) => one.dataset.layer)")
    assert names == ["stage", "stage.0", "stage.2", "head"]
    ui.locator("[data-layer='stage.0']").focus()
    ui.keyboard.press("ArrowRight")
    names = items.evaluate_all("(all) => all.map((one) => one.dataset.layer)")
    assert names == ["stage", "stage.0", "stage.0.1", "stage.0.2", "stage.2", "head"]
    ui.keyboard.press("ArrowRight")
    assert ui.evaluate("document.activeElement.dataset.layer") == "stage.0.1"
    ui.keyboard.press("ArrowLeft")
    ui.keyboard.press("ArrowLeft")
    assert items.count() == 4
    ui.locator("[data-layer=stage] .fold").click()
    assert items.count() == 2
    ui.fill("#tree-filter", "conv")
    assert items.evaluate_all("(all) => all.map((one) => one.dataset.layer)") == ["stage.0.1", "stage.2"]
    page.close()


def test_a_reused_module_is_called_by_what_comes_before(visit):
    """In the panel, below the tiles, and in the tree; links keep its name."""
    page = visit(create_app(deepviz.load_model()))
    page.drawn(8, seconds=120)
    ui = page.page
    assert ui.inner_text("#layer-name").startswith("ReLU6 after _conv_head")
    assert ui.locator(".dv-detail", has_text="ReLU6 after _conv_head").count() == 2
    ui.click("#tab-inside")
    page.until("document.querySelector('#tree [data-layer=\"_swish#2\"]')")
    assert "ReLU6 after _conv_head" in ui.inner_text("#tree [data-layer='_swish#2']")
    ui.click("#tree [data-layer='_swish#2']")
    page.until("document.getElementById('channels-title').textContent === 'ReLU6 after _conv_head'")
    assert "_swish#" not in ui.inner_text("body")
    page.close()


def test_behind_a_path(visit):
    page = visit(prefix="/proxy/8000")
    page.drawn(8)
    page.page.click("#tab-inside")
    page.until("document.querySelectorAll('#channels img:not([hidden])').length === 8")
    assert all("/proxy/8000/" in url for url in page.requests if url.startswith("http"))
    page.close()


def test_the_controls_ask_the_server_nothing(visit):
    page = visit()
    page.drawn(8)
    asked = len(page.requests)
    for slider in page.page.locator("#stage input[type=range]").all():
        slider.focus()
        page.page.keyboard.press("Home")
        page.page.keyboard.press("PageUp")
    page.page.locator("#stage select").first.select_option(index=1)
    page.page.wait_for_timeout(300)
    assert len(page.requests) == asked
    page.close()


def test_the_keyboard_reaches_everything(visit):
    """Lists are one stop each; the first stop leads to the maps."""
    page = visit()
    page.drawn(8)
    page.page.evaluate("document.activeElement.blur()")
    reached = []
    while "dv-frame" not in reached:
        page.page.keyboard.press("Tab")
        reached.append(page.page.evaluate("document.activeElement.id || document.activeElement.className"))
        assert len(reached) < 70, reached
    wanted = [
        *4 * ["skip"],
        "tab-compare",
        "file",
        "photograph active",
        "only",
        "class",
        "class-name",
        "versus",
        "method-gradient",
    ]
    assert [one for one in reached if one in wanted] == wanted
    assert {"layer", "layer-all", "about-gradient"} <= set(reached)
    page.page.evaluate("document.activeElement.blur()")
    page.page.locator("#skip").focus()
    page.page.keyboard.press("Enter")
    assert page.page.evaluate("document.activeElement.className") == "dv-frame"
    for name, place in (("images", "photograph active"), ("classes", "class"), ("methods", "")):
        page.page.get_by_role("link", name=f"Skip to the {name}").focus()
        page.page.keyboard.press("Enter")
        assert page.page.evaluate("document.activeElement.className") == place
    page.page.wait_for_timeout(200)
    unnamed = page.page.evaluate(
        """[...document.querySelectorAll('button, input, select, summary, [role=img]')]
             .filter((one) => !(one.getAttribute('aria-label') || one.getAttribute('aria-labelledby')
                                || one.labels?.length || one.textContent.trim() || one.title))
             .map((one) => one.outerHTML)"""
    )
    assert unnamed == []
    page.close()


RULES = {"rules": {"label-content-name-mismatch": {"enabled": True}}, "resultTypes": ["violations"]}


@pytest.mark.parametrize("width", [1440, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_tab_violates_a_rule_of_axe(visit, monkeypatch, tmp_path, scheme, width):
    """Contrast, names, roles, landmarks, headings: in both themes, on wide and narrow pages, with everything open."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    app = create_app(small_models.no_rectifier(), folder(tmp_path / "many", 14))
    page = visit(app, viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.until("document.getElementById('job').hidden && document.querySelectorAll('.dv-tile').length === 8")
    ui = page.page

    def violations():
        ui.wait_for_timeout(300)  # what fades is there
        return [
            (one["id"], node["target"], node["any"][:1] and node["any"][0]["message"])
            for one in axe.Axe().run(ui, options=RULES).response["violations"]
            for node in one["nodes"]
        ]

    assert violations() == []
    ui.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    ui.evaluate("document.querySelector('.dv-tools').classList.add('dv-open')")
    ui.fill("#class-name", "fox")
    page.until("!document.getElementById('class-found').hidden")
    assert violations() == []
    ui.locator("#class-name").press("Escape")
    ui.evaluate("document.getElementById('take').open = false")
    ui.click("#tab-inside")
    page.until("document.querySelector('#channels .wanted')")
    assert violations() == []
    ui.locator("#channels .enlarge").first.click()
    page.until("document.querySelectorAll('.most li').length === 8")
    assert violations() == []
    ui.keyboard.press("Escape")
    ui.click("#tab-trust")
    page.checked(6)
    assert violations() == []
    page.close()


def test_attention_of_the_patch_under_the_pointer(visit):
    """The Inside tab: layers and heads of attention, rows by pointer, keys and token, without further requests."""
    loaded = small_models.class_token()
    page = visit(create_app([loaded, small_models.good()]), viewport={"width": 1440, "height": 900})
    page.until("document.getElementById('job').hidden && document.querySelector('.dv-tile')")
    ui = page.page
    ui.click("#tab-inside")
    page.until("!document.getElementById('inside-of').hidden")
    ui.locator("#inside-of label", has_text="Attention").click()
    page.until("document.querySelectorAll('.heads label').length === 3")
    assert ui.locator("#channels").is_hidden()
    assert ui.locator("#attention-layer option").all_inner_texts() == ["blocks.0.attn", "blocks.1.attn"]
    asked = len(page.requests)

    photo = deepviz.example_photo("chelsea")
    found = deepviz.viz_attention(loaded, photo, -1)
    frame = ui.locator(".attended")

    def told(at, head=None):
        """What the page is to say of a row."""
        row = found.row_of(at, head)
        where = "The class token" if isinstance(at, int) else f"Patch in row {at[0]}, column {at[1]}"
        of = "mean over heads" if head is None else f"head {head}"
        share = round(100 * float(row.sum()))
        return (
            f"{where}, {of}, {share} % on patches, {100 - share} % on the class token, largest {float(row.max()):.2g}"
        )

    def says(at, head=None):
        page.until(f"document.querySelector('.attended').ariaValueText === {told(at, head)!r}")

    def pixels():
        return ui.evaluate("document.querySelector('.attended canvas').toDataURL()")

    says((4, 4))
    shown = frame.bounding_box()
    across, down = (shown["width"] / found.image.width, shown["height"] / found.image.height)
    left, top, right, bottom = found.geometry.box

    def over(y, x):
        cell = ((right - left) / 8, (bottom - top) / 8)
        ui.mouse.move(
            shown["x"] + across * (left + cell[0] * (x + 0.5)), shown["y"] + down * (top + cell[1] * (y + 0.5))
        )

    before = pixels()
    over(0, 0)
    says((0, 0))
    assert pixels() != before
    over(7, 2)
    says((7, 2))
    ui.mouse.move(shown["x"] + 2, shown["y"] + 2)  # the model does not see this corner
    says((7, 2))
    frame.focus()
    for key, at in [("ArrowUp", (6, 2)), ("ArrowRight", (6, 3)), ("Home", (6, 0)), ("ArrowLeft", (6, 0))]:
        ui.keyboard.press(key)
        says(at)
    assert frame.get_attribute("aria-valuenow") == "48"

    ui.locator(".heads label", has_text="head 1").click()
    says((6, 0), head=1)
    ui.select_option("#attention-row", label="the class token")
    says(0, head=1)
    over(3, 3)
    says(0, head=1)  # stays while the pointer moves
    ui.mouse.down()
    says((3, 3), head=1)
    ui.mouse.up()
    assert len(page.requests) == asked, "a row asks the server nothing"

    ui.locator("#tree [data-layer='blocks.0']").click()
    found = deepviz.viz_attention(loaded, photo, 0)
    says((3, 3), head=1)
    assert ui.input_value("#attention-layer") == "blocks.0.attn"
    ui.select_option("#attention-layer", "blocks.1.attn")
    found = deepviz.viz_attention(loaded, photo, 1)
    says((3, 3), head=1)
    link = ui.evaluate("location.href")
    ui.goto("about:blank")
    ui.goto(link)
    page.until("document.querySelectorAll('.heads label').length === 3")
    assert ui.input_value("#attention-layer") == "blocks.1.attn"
    ui.select_option("#model", "small")
    page.until("document.getElementById('inside-of').hidden")
    page.until("document.querySelectorAll('#channels figure').length === 8")
    assert ui.locator("#no-attention").is_hidden(), "no layer of this model is called attention"
    page.close()


def test_why_a_model_with_windows_shows_no_attention(visit):
    class WindowAttention(torch.nn.Module):
        """Four rows of patches attend within each other."""

        def forward(self, tokens):
            windows = tokens.unflatten(1, (4, 16)).flatten(0, 1)[:, None]
            mixed = torch.nn.functional.scaled_dot_product_attention(windows, windows, windows)
            return tokens + mixed[:, 0].unflatten(0, (-1, 4)).flatten(1, 2)

    class Tokens(torch.nn.Module):
        def forward(self, maps):
            return maps.flatten(2).transpose(1, 2)

    class Mean(torch.nn.Module):
        def forward(self, tokens):
            return tokens.square().mean(1)

    layers = (torch.nn.Conv2d(3, 8, 4, stride=4), Tokens(), WindowAttention(), Mean(), torch.nn.Linear(8, 5))
    loaded = replace(small_models.good(), module=small_models.seeded(torch.nn.Sequential(*layers)))
    page = visit(create_app(loaded))
    page.until("document.getElementById('job').hidden && document.querySelector('.dv-tile')")
    page.page.click("#tab-inside")
    page.until("!document.getElementById('no-attention').hidden")
    text = page.page.inner_text("#no-attention")
    assert re.match(r"Attention is not shown: 2 computes attention within 4 windows of 16 tokens, .*\.$", text)
    assert page.page.locator("#inside-of").is_hidden()
    page.close()


def test_attention_that_could_not_be_fetched_is_asked_for_again(visit):
    page = visit(create_app(small_models.class_token()))
    page.until("document.getElementById('job').hidden && document.querySelector('.dv-tile')")
    ui = page.page
    failing = [True]
    ui.route("**/attention?*", lambda route: route.abort() if failing[0] else route.continue_())
    ui.click("#tab-inside")
    ui.locator("#inside-of label", has_text="Attention").click()
    again = ui.get_by_role("button", name="Try again")
    again.wait_for()
    failing[0] = False
    again.click()
    page.until("document.querySelectorAll('.heads label').length === 3")
    assert again.count() == 0
    page.close(allowed=["ERR_FAILED"])


@pytest.mark.parametrize("width", [1440, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_attention_violates_no_rule_of_axe(visit, scheme, width):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    app = create_app(small_models.class_token())
    page = visit(app, viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.until("document.getElementById('job').hidden && document.querySelector('.dv-tile')")
    page.page.click("#tab-inside")
    page.page.locator("#inside-of label", has_text="Attention").click()
    page.until("document.querySelectorAll('.heads label').length === 3")
    page.page.wait_for_timeout(300)
    assert axe.Axe().run(page.page, options=RULES).response["violations"] == []
    page.close()


def test_without_the_token_the_page_says_what_it_needs(visit, chromium, serving):
    app = create_app(small_models.good(), token="a token")
    link = serving(app)
    page = Visit(chromium, link.partition("#")[0])
    page.until("!document.getElementById('gate').hidden")
    page.page.fill("#gate-token", "a token")
    page.page.click("#gate button")
    page.drawn(8)
    page.close()


def test_what_is_refused_is_said(visit, tmp_path):
    page = visit()
    page.drawn(8)
    (tmp_path / "a.png").write_bytes(b"<svg></svg>")
    page.page.set_input_files("#file", str(tmp_path / "a.png"))
    page.until("document.getElementById('toast').textContent.includes('a.png is not in a supported image format')")
    page.page.fill("#class-name", "no such class")
    page.page.keyboard.press("Enter")
    page.until("document.getElementById('toast').textContent === 'No class with that name.'")
    page.drawn(8)
    page.close(allowed=["/api/photographs?name=a.png", "422"])


def test_methods_that_do_not_apply_are_greyed_with_the_reason(visit):
    page = visit(create_app(small_models.no_rectifier()))
    page.drawn(6)
    assert page.page.locator("#method-guided-backprop").is_disabled()
    assert "rectifier" in page.page.inner_text("#why-guided-backprop")
    page.close()


def test_the_servers_first_maps_are_of_the_methods_that_they_are_of(chromium, serving):
    """A method that does not apply is no column of the page, but is one of the comparison that the server opens with:
    the maps after it must not be taken for those of the next method."""
    app = create_app(small_models.no_rectifier())
    held = []
    link = serving(app)
    page = Visit(chromium, "about:blank")
    page.page.route(f"**/api/jobs/{app.state.deepviz.opening.id}*", lambda route: held.append(route))
    page.page.goto(link)
    page.drawn(6)
    assert [one.split("\n")[0] for one in page.captions()[:3]] == ["Grad-CAM", "Integrated gradients", "SmoothGrad"]
    before = page.captions()
    held.pop().continue_()
    page.page.wait_for_timeout(500)
    page.page.uncheck("#method-grad-cam")  # nothing is computed for that
    page.drawn(4)
    assert page.captions() == [one for one in before if not one.startswith("Grad-CAM")]
    for tile in page.page.locator(".dv-tile", has_text="Integrated gradients").all():
        assert tile.locator(".dv-frame").get_attribute("aria-label").startswith("Integrated gradients:")
    page.close()


def test_detections_stand_where_classes_do(visit, tmp_path):
    """The best detection is explained; another is added by a click; boxes are drawn, and a link keeps them."""
    picture = Image.new("RGB", (320, 320), (20, 20, 20))
    picture.paste((255, 0, 0), (160, 80, 240, 160))
    picture.paste((0, 0, 230), (0, 0, 80, 80))
    picture.save(tmp_path / "squares.png")
    page = visit(create_app(small_models.detector(), [tmp_path / "squares.png"]))
    ui = page.page
    page.until("document.querySelectorAll('.dv-tile:not(.dv-original)').length > 0")
    page.until("!document.querySelector('.dv-frame[aria-busy=true]')")
    names = ui.inner_text("#classes")
    assert "red square" in names
    assert "blue square" in names
    ui.locator("#classes .class", has_text="blue square").click()
    page.until("document.querySelectorAll('.dv-row').length === 2")
    page.until("!document.querySelector('.dv-frame[aria-busy=true]')")
    page.until("""[...document.querySelectorAll('.dv-tile:not(.dv-original) .dv-canvas')].every((canvas) => {
      const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
      let yellow = 0;
      for (let at = 0; at < data.length; at += 4) yellow += data[at] > 240 && data[at + 1] > 200 && data[at + 2] < 60;
      return yellow > 50;
    })""")
    if shot := os.environ.get("SHOT"):
        ui.screenshot(path=shot)
    link = ui.evaluate("location.href")
    ui.goto("about:blank")
    ui.goto(link)
    page.until("document.querySelectorAll('.dv-row').length === 2")
    page.close()


def test_a_volume_has_a_slider_that_turns_its_image_and_maps(visit, tmp_path):
    """The slice with the most evidence comes first; an upload that is no volume is said in one line."""
    volume = np.zeros((6, 12, 16), np.float32)
    volume[5, 2:5, 3:7] = 1  # class 1 is how bright it is
    np.save(tmp_path / "scan.npy", volume)
    page = visit(create_app(small_models.volumes(), [tmp_path / "scan.npy"]))
    page.drawn(4)
    ui = page.page
    original = ui.locator(".dv-tile.dv-original")
    slider = original.get_by_role("slider")
    assert slider.get_attribute("aria-valuetext") == "slice 6 of 6"
    told = "[...document.querySelectorAll('.dv-slices output')].map((one) => one.textContent)"
    assert ui.evaluate(told) == 5 * ["slice 6 of 6"]
    bright = """(() => {
      const canvas = document.querySelector('.dv-original canvas');
      const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext('2d', { willReadFrequently: true });
      copy.drawImage(canvas, 0, 0);
      const { data } = copy.getImageData(0, 0, canvas.width, canvas.height);
      return data.filter((value, at) => at % 4 === 0 && value > 250).length / (canvas.width * canvas.height);
    })()"""
    page.until(f"Math.abs({bright} - 12 / 192) < 0.01")
    drawn = "document.querySelectorAll('.dv-canvas')[1].toDataURL()"
    last = ui.evaluate(drawn)
    if shot := os.environ.get("SHOT"):
        ui.screenshot(path=shot)
    slider.press("Home")
    page.until(f"{bright} === 0")
    page.until(f"{drawn} !== {last!r}")
    assert ui.evaluate(told) == 5 * ["slice 1 of 6"]
    slider.press("End")
    page.until(f"{drawn} === {last!r}")

    assert ui.get_attribute("#file", "accept") is None, "a slice of a series may have any name"
    (tmp_path / "a.npy").write_bytes(b"nothing")
    ui.set_input_files("#file", str(tmp_path / "a.npy"))
    page.until("document.getElementById('toast').textContent.includes('a.npy cannot be read, it may be damaged')")
    np.save(tmp_path / "other.npy", volume[::-1])
    ui.set_input_files("#file", str(tmp_path / "other.npy"))
    page.drawn(8)
    assert ui.evaluate(told) == [*5 * ["slice 6 of 6"], *5 * ["slice 1 of 6"]], "each volume has its own"
    if shot:
        ui.screenshot(path=shot.replace(".png", "-two.png"))
    page.close(allowed=["/api/photographs?name=a.npy", "422"])


def test_a_pair_of_images_and_the_words_of_a_text(visit, tmp_path):
    """A model of embeddings predicts nothing: each image is compared with the other, and with a text that is typed."""
    for colour in ("red", "teal"):
        picture = Image.new("RGB", (32, 32), colour)
        picture.paste("white", (8, 8, 20, 20))
        picture.save(tmp_path / f"{colour}.png")
    page = visit(create_app(small_models.colours(), [tmp_path / "red.png", tmp_path / "teal.png"]))
    ui = page.page
    page.until("document.querySelectorAll('.dv-row').length === 2")
    headings = "[...document.querySelectorAll('.dv-head')].map((one) => one.innerText.replace('\\n', ' '))"
    page.until("!document.querySelector('.dv-frame[aria-busy=true]')")
    assert [one.split() for one in ui.evaluate(headings)] == [
        ["red.png", "similar", "to", "teal.png"],
        ["teal.png", "similar", "to", "red.png"],
    ]
    assert ui.get_attribute("#class-name", "placeholder") == "Type a text"
    ui.fill("#class-name", "red blue")
    ui.keyboard.press("Enter")
    page.until("document.querySelectorAll('.dv-row').length === 3")
    page.until("document.querySelectorAll('.dv-words:not([hidden]) span').length >= 2")
    page.until("!document.querySelector('.dv-frame[aria-busy=true]')")
    words = ui.locator(".dv-words:not([hidden])").first
    assert words.inner_text().split()[::2] == ["red", "blue"]
    first, second = (float(one.replace("−", "-")) for one in words.inner_text().split()[1::2])
    assert first != second
    colours = words.locator("span").evaluate_all("(all) => all.map((one) => getComputedStyle(one).borderBottomColor)")
    assert len(set(colours)) == 2
    if shot := os.environ.get("SHOT"):
        words.scroll_into_view_if_needed()
        ui.screenshot(path=shot)
    page.close()
