"""Make the pictures of `docs/_static` again: the sheet, and the tabs of the page in Chromium.

python docs/pictures.py [--steps 200]
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path

import uvicorn
from PIL import Image
from playwright.sync_api import Page, sync_playwright

import deepviz
from deepviz.cli import run
from deepviz.web import create_app, listening

STATIC = Path(__file__).parent / "_static"
SHEET_WIDTH = 1400
WINDOW = {"width": 1440, "height": 900}
SECONDS = 1800
EXPLAINED = "document.querySelector('.dv-tile') && !document.querySelector('.dv-frame[aria-busy=true]')"
JUDGED = "document.querySelector('.badge') && !document.querySelector('.badge.waiting')"
GENERATED = "document.querySelectorAll('.wanted img:not([hidden])').length >= 8"
ALL_DONE = "document.querySelector('.under').hidden"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", default="200", help="of the feature visualisations")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    model = deepviz.load_model()
    with tempfile.TemporaryDirectory() as folder:
        run(["explain", str(deepviz.example_photo()), "--output", folder])
        sheet = Image.open(Path(folder) / "chelsea" / "sheet.png")
        size = (SHEET_WIDTH, round(sheet.height * SHEET_WIDTH / sheet.width))
        small = sheet.convert("RGB").resize(size, Image.Resampling.LANCZOS)
        small.quantize(256).save(STATIC / "sheet.png", optimize=True)
    bound = listening("127.0.0.1", 0)
    app = create_app(model)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    try:
        tabs(f"http://127.0.0.1:{bound.getsockname()[1]}/#token={app.state.token}", given.steps)
    finally:
        server.should_exit = True
        thread.join()


def tabs(link: str, steps: str) -> None:
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        sys.exit("no browser on this machine: apt-get install chromium")
    with sync_playwright() as driver:
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = driver.chromium.launch(executable_path=chromium, args=sandbox)
        page = browser.new_page(viewport=WINDOW)
        page.goto(link)
        until(page, f"{EXPLAINED} && document.getElementById('job').hidden")
        take(page, "viewer")
        page.click("#tab-trust")
        until(page, JUDGED)
        take(page, "viewer_trust")
        page.click("#tab-inside")
        page.fill("#tree-filter", "blocks.9")
        page.locator("#tree button:enabled", has_text="MBConvBlock").first.click()
        page.select_option("#drawing-steps", steps)
        page.get_by_role("button", name="Generate feature visualisations").click()
        until(page, f"{GENERATED} && {ALL_DONE}")
        take(page, "viewer_inside")
        browser.close()


def until(page: Page, expression: str) -> None:
    """Wait until it is true; by evaluating, since the page's policy forbids `wait_for_function`."""
    end = time.monotonic() + SECONDS
    while not page.evaluate(expression):
        if time.monotonic() > end:
            sys.exit(f"after {SECONDS} s it is still not so that {expression}")
        page.wait_for_timeout(200)


def take(page: Page, name: str) -> None:
    page.wait_for_timeout(500)  # transitions
    shot = Image.open(io.BytesIO(page.screenshot()))
    shot.convert("RGB").save(STATIC / f"{name}.jpg", quality=85, optimize=True)


if __name__ == "__main__":
    main()
