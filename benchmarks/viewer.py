"""How quickly the viewer redraws: dragging a control, in a real browser without a window.

    python benchmarks/viewer.py [--markdown benchmarks/RESULTS.md]

The two packaged images and every method of few passes, for the bundled model, in the HTML report. Each control goes
through sixty values, one for each frame; reported are the time spent drawing in a frame, and the time between frames.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import warnings
from pathlib import Path

from playwright.sync_api import sync_playwright
from results import replace_section, table

import deepviz
from deepviz import catalog

METHODS = [name for name, cls in catalog.METHODS.items() if cls().passes() <= 3]
"""Those of few passes."""
CONTROLS = {
    "opacity": "(k) => ({ opacity: 0.2 + 0.8 * k / 60 })",
    "threshold": "(k) => ({ threshold: Math.round(90 * k / 60) })",
    "colours": "(k) => ({ colours: ['inferno', 'viridis', 'magma'][k % 3] })",
}
DRAG = """
async (values) => {
  const drawn = [], between = [];
  await comparison.idle();
  let before = null;
  for (let k = 0; k < 60; k++) {
    comparison.frames.reset();
    comparison.set(values(k));
    const now = await new Promise(requestAnimationFrame);
    if (before !== null) between.push(now - before);
    before = now;
    await new Promise((done) => setTimeout(done));
    drawn.push(comparison.frames.worst);
  }
  return { drawn, between };
}
"""


def measure(page: Path) -> list[list[str]]:
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        sys.exit("no browser on this machine: apt-get install chromium")
    rows = []
    with sync_playwright() as driver:
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = driver.chromium.launch(executable_path=chromium, args=sandbox)
        tab = browser.new_page(viewport={"width": 1440, "height": 1000})
        requests: list[str] = []
        tab.goto(page.as_uri())
        tab.wait_for_function("() => globalThis.comparison")
        tab.on("request", lambda request: requests.append(request.url))
        for name, values in CONTROLS.items():
            found = tab.evaluate(f"() => ({DRAG})({values})")
            cells = [name]
            for times in (found["drawn"], found["between"]):
                ordered = sorted(times)
                cells.append(
                    f"{statistics.median(times):.0f}, {ordered[int(0.95 * len(ordered))]:.0f}, {ordered[-1]:.0f} ms"
                )
            rows.append(cells)
        browser.close()
    fetched = [url for url in requests if not url.startswith(("data:", "blob:"))]
    assert not fetched, fetched
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--markdown", type=Path)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    photos = [deepviz.example_photo("chelsea"), deepviz.example_photo("coffee")]
    explanations = deepviz.explain(None, photos, METHODS)
    with tempfile.TemporaryDirectory() as folder:
        page = deepviz.report(explanations, Path(folder) / "page.html")
        size = page.stat().st_size / 2**20
        rows = measure(page)
    text = table(["control", "drawing in a frame: median, 95 %, worst", "between frames: median, 95 %, worst"], rows)
    text += f"\n\n{len(explanations)} tiles, software rendering; the page has {size:.2f} MiB. No request in all of it."
    print(text)
    if given.markdown:
        replace_section(given.markdown, "viewer", text)


if __name__ == "__main__":
    main()
